//! [`NamedContexts`]: what `--build-context` puts in the place of stages and images.

use std::collections::HashMap;

use super::Lowering;
use super::state::State;
use crate::builder::BuildError;
use crate::builder::graph::{CopyItem, CopyOp, Op, Tree, Vertex};
use crate::oci::{Platform, Reference};
use crate::parser::Span;
use crate::store::Image;

/// What a name of `--build-context` stands for.
#[derive(Debug, Clone)]
pub enum NamedContext {
    /// A folder: its number among the request's contexts.
    Folder(usize),
    /// An image, by its name.
    Image(Reference),
    /// An image that has no name.
    Stored(Box<Image>),
    /// An image of which nothing is known, where nothing is built.
    Unread,
    /// Nothing at all, as `FROM scratch`.
    Scratch,
}

/// Contexts by name. As BuildKit: a name is that of an image, of which defaults may be left out.
#[derive(Debug, Clone, Default)]
pub struct NamedContexts(HashMap<String, NamedContext>);

impl NamedContexts {
    /// Adds one, in the place of one of the same name.
    pub fn insert(&mut self, name: &Reference, context: NamedContext) {
        self.0.insert(key(name), context);
    }

    pub(super) fn get(&self, name: &str) -> Option<&NamedContext> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&key(&name.parse().ok()?))
    }
}

fn key(name: &Reference) -> String {
    let name = name.familiar();
    name.strip_suffix(":latest").map(str::to_owned).unwrap_or(name)
}

impl Lowering<'_> {
    /// What stands in the place of a whole stage: its own instructions count for nothing then.
    pub(super) fn context_of_stage(&self, stage: usize) -> Option<NamedContext> {
        let name = self.stages.all[stage].name.as_deref()?;
        self.options.named_contexts.get(name).cloned()
    }

    /// The context of a name as a base.
    pub(super) fn state_of_context(
        &mut self,
        name: &str,
        context: &NamedContext,
        stage: usize,
        span: Span,
    ) -> Result<State, BuildError> {
        let platform = &self.stages.all[stage].platform;
        let platform = platform.clone().unwrap_or_else(|| self.options.platform.clone());
        match context {
            NamedContext::Image(reference) => {
                self.state_of_image(&reference.to_string(), stage, &platform)
            }
            NamedContext::Stored(image) => {
                let vertex = self.image_vertex(image, name, span);
                Ok(State::image(image.as_ref().clone(), vertex))
            }
            NamedContext::Unread => Ok(State::unknown(&platform)),
            NamedContext::Scratch => Ok(State::scratch(&platform)),
            NamedContext::Folder(number) => {
                Ok(self.state_of_folder(name, *number, &platform, span))
            }
        }
    }

    /// The context of a name as a tree of files.
    pub(super) fn tree_of_context(
        &mut self,
        name: &str,
        context: &NamedContext,
        stage: usize,
        span: Span,
    ) -> Result<Tree, BuildError> {
        match context {
            NamedContext::Folder(number) => Ok(Tree::Context(*number)),
            NamedContext::Image(reference) => self.image_tree(&reference.to_string(), stage, span),
            NamedContext::Stored(image) => {
                Ok(self.image_vertex(image, name, span).map_or(Tree::Scratch, Tree::Vertex))
            }
            NamedContext::Unread | NamedContext::Scratch => Ok(Tree::Scratch),
        }
    }

    /// An image of one layer, which holds a folder's files.
    fn state_of_folder(
        &mut self,
        name: &str,
        number: usize,
        platform: &Platform,
        span: Span,
    ) -> State {
        let mut state = State::scratch(platform);
        let all = CopyItem::Files {
            from: Tree::Context(number),
            pattern: "/".to_owned(),
            pivot: None,
            unpack: false,
        };
        let copy = CopyOp {
            items: vec![all],
            destination: "/".to_owned(),
            owner: None,
            mode: None,
            excludes: Vec::new(),
        };
        state.root = Some(self.graph.add(Vertex {
            op: Op::Copy(copy),
            root: None,
            name: format!("FROM {name}"),
            span: Some(span),
            no_cache: self.options.no_cache,
        }));
        state.note(format!("FROM {name}"), true);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_their_defaults() {
        let found = |given: &str, asked: &str| {
            let mut contexts = NamedContexts::default();
            contexts.insert(&given.parse().expect("a name"), NamedContext::Scratch);
            contexts.get(asked).is_some()
        };
        for (given, asked, expected) in [
            ("alpine", "alpine", true),
            ("alpine", "alpine:latest", true),
            ("alpine:latest", "alpine", true),
            ("alpine", "docker.io/library/alpine", true),
            ("docker.io/library/alpine", "alpine", true),
            ("alpine:3", "alpine:3", true),
            ("alpine:3", "alpine", false),
            ("alpine", "ALPINE", false),
            ("alpine", "other/alpine", false),
        ] {
            assert_eq!(found(given, asked), expected, "{given} {asked}");
        }
    }
}
