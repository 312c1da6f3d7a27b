//! What FROM and `--from` name: stages, contexts, images, and the triggers that images bring.

use super::stages::Stage;
use super::state::State;
use super::{Lowering, Place, Purpose};
use crate::builder::BuildError;
use crate::builder::graph::{Op, Tree, Vertex, VertexId};
use crate::oci::{Platform, Reference, ReferenceError};
use crate::parser::{self, Diagnostic, Severity, Span, Statement};
use crate::store::Image;

impl Lowering<'_> {
    /// As BuildKit: what a FROM names has to be a name even where nobody needs its stage.
    pub(super) fn check_bases(&self) -> Result<(), Diagnostic> {
        for (index, stage) in self.stages.all.iter().enumerate() {
            let is_known = stage.base == "scratch"
                || self.stages.find_base(&stage.base, index).is_some()
                || self.context_of_stage(index).is_some();
            if !is_known {
                parse_base(&stage.base, stage.from.image.span)?;
            }
        }
        Ok(())
    }

    /// The state that FROM leaves, and the triggers that it pulls.
    pub(super) fn begin_stage(&mut self, index: usize) -> Result<(State, Vec<String>), BuildError> {
        let stage = &self.stages.all[index];
        let base = stage.base.clone();
        let platform = stage.platform.clone().unwrap_or_else(|| self.options.platform.clone());
        let span = stage.from.image.span;
        let mut state = if let Some(other) = self.stages.find_base(&base, index) {
            self.require(other)?;
            self.state_of_stage(other, span)?.inherit()
        } else if base == "scratch" {
            // As BuildKit: `--platform` of FROM means nothing here.
            State::scratch(&self.options.platform)
        } else if let Some(context) = self.options.named_contexts.get(&base) {
            self.state_of_context(&base, context, index, span)?
        } else {
            let state = self.state_of_image(&base, index, &platform)?;
            if state.root.is_some() {
                self.tell_platform(index, &state.config.platform(), &platform);
            }
            state
        };
        let triggers = std::mem::take(&mut state.config.config.on_build);
        state.begin();
        state.scope.budget = self.stages.globals.budget.clone();
        Ok((state, triggers))
    }

    /// What a stage has come to. The last to start from it takes it: a long chain of stages would
    /// else hold its beginning as many times as it has links.
    fn state_of_stage(&mut self, stage: usize, span: Span) -> Result<State, BuildError> {
        let done = self.done[stage].as_mut();
        let state = done.map(|done| &mut done.state).ok_or(BuildError::Cancelled)?;
        self.starts_left[stage] = self.starts_left[stage].saturating_sub(1);
        if self.starts_left[stage] == 0 && stage != self.stages.target {
            return state.take().ok_or(BuildError::Cancelled);
        }
        let state = state.as_ref().ok_or(BuildError::Cancelled)?;
        self.stages.globals.budget.take(state.size_bytes(), span)?;
        Ok(state.clone())
    }

    pub(super) fn state_of_image(
        &mut self,
        name: &str,
        stage: usize,
        platform: &Platform,
    ) -> Result<State, BuildError> {
        let span = self.stages.all[stage].from.image.span;
        let Some(image) = self.find_image(name, stage, platform, span)? else {
            return Ok(State::unknown(platform));
        };
        let vertex = self.image_vertex(&image, name, span);
        Ok(State::image(image, vertex))
    }

    /// The image that the stage of this number names; `None` where a check gets by without.
    fn find_image(
        &self,
        name: &str,
        stage: usize,
        platform: &Platform,
        span: Span,
    ) -> Result<Option<Image>, BuildError> {
        let reference = parse_base(name, span)?;
        let found = self.images.image(&reference, platform).map_err(|err| BuildError::At {
            span,
            source: Box::new(self.with_near(err, name, stage)),
        })?;
        if found.is_some() || self.purpose != Purpose::Build {
            return Ok(found);
        }
        Err({
            let message = format!("image `{}` not found in the store", reference.familiar());
            let hint = match self.stages.nearest(name, stage) {
                Some(near) => format!("did you mean the stage `{near}`?"),
                None => "bring it in with `mica load` or `mica import`".to_owned(),
            };
            Diagnostic::error("base", span, message).with_hint(hint).into()
        })
    }

    /// Adds the stage that a name may have meant to the error about the image of that name.
    fn with_near(&self, err: BuildError, name: &str, stage: usize) -> BuildError {
        match err {
            BuildError::Image { source, .. } => {
                let near = self.stages.nearest(name, stage).map(str::to_owned);
                BuildError::Image { source, near }
            }
            err => err,
        }
    }

    /// The vertex with an image's files; `None` for an image without layers.
    pub(super) fn image_vertex(
        &mut self,
        image: &Image,
        name: &str,
        span: Span,
    ) -> Option<VertexId> {
        if image.config.rootfs.diff_ids.is_empty() {
            return None;
        }
        let known = self.image_vertices.get(&image.id()).copied();
        Some(known.unwrap_or_else(|| {
            let vertex = self.graph.add(Vertex {
                op: Op::Image(Box::new(image.clone())),
                root: None,
                name: format!("FROM {name}"),
                span: Some(span),
                no_cache: false,
            });
            self.image_vertices.insert(image.id(), vertex);
            vertex
        }))
    }

    /// The tree that a `--from` names, seen from a stage.
    pub(super) fn tree(
        &mut self,
        name: &str,
        place: Place,
        span: Span,
    ) -> Result<Tree, BuildError> {
        let current = place.stage;
        let stage = match name.parse::<usize>() {
            Ok(number) if number < current => Some(number),
            Ok(number) => {
                let message = format!(
                    "invalid stage index {number}: stage {current} can copy from those before it"
                );
                return Err(Diagnostic::error("from", span, message).into());
            }
            Err(_) => self.stages.find(name, current),
        };
        if let Some(stage) = stage {
            if let Some(context) = self.context_of_stage(stage) {
                return self.tree_of_context(name, &context, current, span);
            }
            self.require(stage)?;
            let root = self.done[stage].as_ref().and_then(|done| done.root);
            return Ok(root.map_or(Tree::Scratch, Tree::Vertex));
        }
        if let Some(context) = self.options.named_contexts.get(name) {
            return self.tree_of_context(name, context, current, span);
        }
        match self.stages.find(name, usize::MAX) {
            Some(own) if own == current => {
                let message = format!("circular dependency: stage `{name}` copies from itself");
                Err(Diagnostic::error("from", span, message).into())
            }
            Some(_) => {
                let message = format!(
                    "cannot copy from stage `{name}`: it needs to be defined before this stage"
                );
                Err(Diagnostic::error("from", span, message).into())
            }
            None if name == "scratch" => Ok(Tree::Scratch),
            None => self.image_tree(name, current, span),
        }
    }

    pub(super) fn image_tree(
        &mut self,
        name: &str,
        stage: usize,
        span: Span,
    ) -> Result<Tree, BuildError> {
        let image = self.find_image(name, stage, &self.options.platform, span)?;
        let vertex = image.and_then(|image| self.image_vertex(&image, name, span));
        Ok(vertex.map_or(Tree::Scratch, Tree::Vertex))
    }
}

fn parse_base(name: &str, span: Span) -> Result<Reference, Diagnostic> {
    name.parse().map_err(|err: ReferenceError| Diagnostic::error("base", span, err.to_string()))
}

/// Parses the triggers of a base image.
pub(super) fn parse_triggers(
    triggers: &[String],
    stage: &Stage<'_>,
) -> Result<Vec<Statement>, BuildError> {
    let mut statements = Vec::new();
    for trigger in triggers {
        let parsed = parser::parse_trigger(trigger).map_err(|found| {
            let errors = found.into_iter().filter(|found| found.severity == Severity::Error);
            let moved = errors.map(|found| in_trigger(found, stage.span));
            BuildError::Dockerfile(moved.collect())
        })?;
        statements.push(parsed);
    }
    Ok(statements)
}

/// Lets a diagnostic about a trigger, whose text is not in the Dockerfile, point to the FROM.
pub(super) fn in_trigger(mut found: Diagnostic, span: Span) -> Diagnostic {
    found.message = format!("ONBUILD trigger of the base image: {}", found.message);
    found.labels = vec![(span, String::new())];
    // Nothing can be set above what the base image brings.
    found.hint = found.hint.filter(|_| found.code != "expansion");
    found
}
