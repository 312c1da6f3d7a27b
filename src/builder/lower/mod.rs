//! From a Dockerfile to a [`Graph`] and an image config: every variable resolved, every stage that
//! the target does not need left out. Pure, but for looking up base images.

mod accidents;
mod bases;
mod checks;
mod config;
mod contexts;
mod files;
mod mounts;
mod outline;
#[cfg(test)]
mod refusals;
mod remote;
mod run;
mod scope;
mod stages;
mod state;
mod text;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use bases::{in_trigger, parse_triggers};
pub use contexts::{NamedContext, NamedContexts};
use outline::StageOutline;
pub use outline::{Outline, OutlineArg, OutlineMount};
pub use scope::BuildArgs;
use stages::Stages;
use state::State;

use super::BuildError;
use super::graph::{Graph, Op, Vertex, VertexId};
use crate::builder::ignore::Ignore;
use crate::http::without_users;
use crate::lint::Checks;
use crate::oci::{
    ContainerConfig, Descriptor, Digest, ImageConfig, MAX_LAYERS, Platform, Reference,
};
use crate::parser::{self, Diagnostic, Dockerfile, Instruction, Severity, Source, Span, Statement};
use crate::store::{Image, Store};

/// Finds the images that FROM and `--from` name.
pub trait Images: Sync {
    /// The image of this name for a platform, or one for another platform where there is no better;
    /// `None` where there is none at all.
    ///
    /// # Errors
    /// [`BuildError::Store`] for one that is there and cannot be read, [`BuildError::Image`] for one
    /// that cannot be had.
    fn image(&self, name: &Reference, platform: &Platform) -> Result<Option<Image>, BuildError>;
}

impl Images for Store {
    fn image(&self, name: &Reference, _: &Platform) -> Result<Option<Image>, BuildError> {
        Ok(self.resolve(name)?.map(|named| Self::image(self, &named.manifest)).transpose()?)
    }
}

/// What the caller decides about a build.
#[derive(Debug, Clone)]
pub struct Options {
    /// The stage to build; the last one if `None`.
    pub target: Option<String>,
    /// The values of `--build-arg`.
    pub build_args: BuildArgs,
    /// The values of `--label`.
    pub labels: Vec<(String, String)>,
    /// The values of `--build-context`, by name.
    pub named_contexts: NamedContexts,
    /// The platform of the image.
    pub platform: Platform,
    /// Whether every step is to be done anew.
    pub no_cache: bool,
    /// The stages whose steps are to be done anew, by name or number.
    pub no_cache_filter: Vec<String>,
    /// Whether RUN steps have a network where the Dockerfile does not say.
    pub network: bool,
    /// Whether the caller wants the host's network, which the Dockerfile may then name, too.
    pub host_network: bool,
    /// What the Dockerfile may ask for: `network.host`, `security.insecure`.
    pub allow: BTreeSet<String>,
    /// Host names for RUN steps.
    pub hosts: Vec<(String, IpAddr)>,
    /// Bytes of `/dev/shm` for RUN steps.
    pub shm_size: Option<u64>,
    /// Limits of RUN steps: name, soft and hard limit.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Whether the image's config gets the keys of its layers.
    pub inline_cache: bool,
    /// Whether one layer is made of all that the build puts on its base.
    pub squash: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target: None,
            build_args: BuildArgs::new(),
            labels: Vec::new(),
            named_contexts: NamedContexts::default(),
            platform: Platform::host(),
            no_cache: false,
            no_cache_filter: Vec::new(),
            network: true,
            host_network: false,
            allow: BTreeSet::new(),
            hosts: Vec::new(),
            shm_size: None,
            ulimits: Vec::new(),
            inline_cache: false,
            squash: false,
        }
    }
}

/// What a Dockerfile comes down to.
#[derive(Debug)]
pub(super) struct Lowered {
    pub(super) graph: Graph,
    /// The vertex with the image's files; `None` for an image without any.
    pub(super) target: Option<VertexId>,
    /// The image's config, but for what only the build knows: diff IDs of new layers, times.
    pub(super) config: ImageConfig,
    /// The layers that the base image brings.
    pub(super) base_layers: Vec<Descriptor>,
    /// How many entries of the history the base image brings.
    pub(super) base_history: usize,
    /// What the target can be given.
    pub(super) outline: Outline,
}

/// What a Dockerfile is lowered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To build what the target needs.
    Build,
    /// To tell about it. Images that are not there are taken for unknown, and what a build would
    /// refuse for this machine's or mica's sake is let pass.
    Check {
        /// Whether all stages are told about, or what the target needs.
        all_stages: bool,
    },
}

/// What lowering is given.
pub(super) struct Inputs<'a> {
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) options: &'a Options,
    pub(super) images: &'a dyn Images,
    /// What of the main context is left out.
    pub(super) ignore: Option<&'a Ignore>,
    pub(super) purpose: Purpose,
}

/// Resolves a Dockerfile. What is odd about it goes to `checks`.
///
/// # Errors
/// [`BuildError::Dockerfile`] with the place, [`BuildError::Store`].
pub(super) fn lower(inputs: &Inputs<'_>, checks: &mut Checks) -> Result<Lowered, BuildError> {
    let options = inputs.options;
    let stages = Stages::of(inputs, checks)?;
    let target = stages.target;
    let outlines = stages.all.iter().map(|stage| stage.outline.clone()).collect();
    let mut lowering = Lowering {
        options,
        images: inputs.images,
        ignore: inputs.ignore,
        purpose: inputs.purpose,
        escape: inputs.dockerfile.escape,
        done: (0..stages.all.len()).map(|_| None).collect(),
        starts_left: stages.starts(),
        stages,
        graph: Graph::default(),
        outlines,
        image_vertices: HashMap::new(),
        checks,
    };
    lowering.check_bases()?;
    lowering.check_froms()?;
    if inputs.purpose == (Purpose::Check { all_stages: true }) {
        (0..lowering.stages.all.len()).try_for_each(|stage| lowering.require(stage))?;
    }
    lowering.require(target)?;
    let outline = lowering.outline();
    let Some(mut state) = lowering.done[target].take().and_then(|done| done.state) else {
        return Err(BuildError::Cancelled);
    };
    for (name, value) in &options.labels {
        state.config.config.labels.insert(name.clone(), value.clone());
    }
    // As BuildKit: an image is for the platform that was asked for, whatever its base is for.
    if options.platform != Platform::host() {
        state.config.set_platform(&options.platform);
    }
    Ok(Lowered {
        graph: lowering.graph,
        target: state.root,
        config: state.config,
        base_layers: state.base_layers,
        base_history: state.base_history,
        outline,
    })
}

/// The config that instructions like `CMD` and `ENV` make of an empty one, for `import --change`.
///
/// # Errors
/// What is wrong with them; instructions that make files are.
pub fn config_of_changes(lines: &[String]) -> Result<ContainerConfig, String> {
    let text = format!("FROM scratch\n{}", lines.join("\n"));
    let parsed = parser::parse(text.as_bytes());
    let error = parsed.diagnostics.into_iter().find(|found| found.severity == Severity::Error);
    if let Some(error) = error {
        return Err(error.message);
    }
    let inputs = Inputs {
        dockerfile: &parsed.dockerfile,
        options: &Options::default(),
        images: &NoImages,
        ignore: None,
        purpose: Purpose::Build,
    };
    let lowered = lower(&inputs, &mut Checks::default()).map_err(|err| err.to_string())?;
    match lowered.target {
        Some(_) => Err("only instructions that make no files can be applied".to_owned()),
        None => Ok(lowered.config.config),
    }
}

/// For Dockerfiles that name no image.
struct NoImages;

impl Images for NoImages {
    fn image(&self, _: &Reference, _: &Platform) -> Result<Option<Image>, BuildError> {
        Ok(None)
    }
}

struct Lowering<'a> {
    options: &'a Options,
    images: &'a dyn Images,
    ignore: Option<&'a Ignore>,
    purpose: Purpose,
    escape: char,
    stages: Stages<'a>,
    /// The stages that are done.
    done: Vec<Option<Done>>,
    /// How many stages are still to start from each.
    starts_left: Vec<usize>,
    graph: Graph,
    /// The vertices of images, by image ID.
    image_vertices: HashMap<Digest, VertexId>,
    checks: &'a mut Checks,
    /// What each stage declares and uses.
    outlines: Vec<StageOutline>,
}

/// A stage that is done.
struct Done {
    /// The vertex with its files; `None` while there are none.
    root: Option<VertexId>,
    /// What it has come to, for as long as it is asked for.
    state: Option<State>,
}

/// Where an instruction stands: in which stage, and where errors about it point.
#[derive(Clone, Copy)]
struct Place {
    stage: usize,
    /// For a trigger of the base image: the FROM that brought it.
    trigger_of: Option<Span>,
}

/// One instruction and where it stands.
#[derive(Clone, Copy)]
struct Site<'a> {
    place: Place,
    statement: &'a Statement,
    /// Its number among the stage's steps that make files, from 2, and how many those are.
    step: (usize, usize),
}

impl Site<'_> {
    fn span(&self) -> Span {
        self.place.trigger_of.unwrap_or(self.statement.span)
    }
}

impl Lowering<'_> {
    /// As BuildKit: numbers of stages have to be some, and stages may not need one another, even where
    /// nobody needs them.
    fn check_froms(&self) -> Result<(), Diagnostic> {
        let named_contexts = &self.options.named_contexts;
        self.stages.check_order(|name| named_contexts.get(name).is_some())
    }

    /// Does a stage and all stages that it needs. Those that can be seen in the Dockerfile come
    /// first and in its order, so that a long chain of stages needs no deep stack.
    fn require(&mut self, stage: usize) -> Result<(), BuildError> {
        let mut needed = BTreeSet::from([stage]);
        let mut asked = vec![stage];
        while let Some(stage) = asked.pop() {
            for other in self.visible_needs(stage) {
                if self.done[other].is_none() && needed.insert(other) {
                    asked.push(other);
                }
            }
        }
        for stage in needed {
            if self.done[stage].is_none() {
                let state = self.lower_stage(stage)?;
                let is_asked_for = self.starts_left[stage] > 0 || stage == self.stages.target;
                let root = state.root;
                self.done[stage] = Some(Done { root, state: Some(state).filter(|_| is_asked_for) });
            }
        }
        Ok(())
    }

    /// The earlier stages that a stage's own text names.
    fn visible_needs(&self, index: usize) -> Vec<usize> {
        if self.context_of_stage(index).is_some() {
            return Vec::new();
        }
        let stage = &self.stages.all[index];
        let mut needs: Vec<usize> = self.stages.find_base(&stage.base, index).into_iter().collect();
        for from in stage.froms() {
            let number = from.text.parse().ok().filter(|number: &usize| *number < index);
            needs.extend(self.stages.find(&from.text, index).or(number));
        }
        needs
    }

    fn lower_stage(&mut self, index: usize) -> Result<State, BuildError> {
        if let Some(context) = self.context_of_stage(index) {
            let stage = &self.stages.all[index];
            let (name, span) = (stage.name.clone().unwrap_or_default(), stage.from.image.span);
            return self.state_of_context(&name, &context, index, span);
        }
        let (mut state, triggers) = self.begin_stage(index)?;
        let stage = &self.stages.all[index];
        let (from_span, own) = (stage.span, stage.statements);
        let triggers = parse_triggers(&triggers, stage)?;
        let makes_files = |statement: &&Statement| makes_files(&statement.instruction);
        let total = 1 + triggers.iter().chain(own).filter(makes_files).count();
        let mut step = 1;
        for (number, statement) in triggers.iter().chain(own).enumerate() {
            step += usize::from(makes_files(&statement));
            let trigger_of = (number < triggers.len()).then_some(from_span);
            let place = Place { stage: index, trigger_of };
            let site = Site { place, statement, step: (step, total) };
            self.checked(&mut state, site).map_err(|err| match (err, trigger_of) {
                (BuildError::Dockerfile(diagnostics), Some(span)) => {
                    let moved = diagnostics.into_iter().map(|found| in_trigger(found, span));
                    BuildError::Dockerfile(moved.collect())
                }
                (err, _) => err,
            })?;
        }
        Ok(state)
    }

    /// What an instruction does to a stage, its oddities told in BuildKit's order.
    fn checked(&mut self, state: &mut State, site: Site<'_>) -> Result<(), BuildError> {
        let mut findings = self.findings(state, site);
        findings.extend(self.accidents(state, site));
        let outcome = self.apply(state, site);
        let is_arg = matches!(site.statement.instruction, Instruction::Arg(_));
        if !is_arg {
            self.tell_undefined(state, site);
        }
        if outcome.is_ok() {
            for finding in findings {
                self.checks.report(finding);
            }
        }
        if is_arg {
            self.tell_undefined(state, site);
        }
        match outcome {
            Err(BuildError::Dockerfile(found)) if self.is_let_pass(&found) => Ok(()),
            outcome => outcome,
        }
    }

    /// Whether errors are none to a check: of this machine, or of what mica cannot do.
    fn is_let_pass(&self, found: &[Diagnostic]) -> bool {
        let passes = |found: &Diagnostic| matches!(found.code, "unsupported" | "entitlement");
        self.purpose != Purpose::Build && found.iter().all(passes)
    }

    /// Adds the vertex of an instruction on top of the state's file system.
    fn add_step(&mut self, state: &mut State, site: Site<'_>, op: Op) -> Result<(), Diagnostic> {
        if state.layers() > MAX_LAYERS {
            let message = format!("an image can't have more than {MAX_LAYERS} layers");
            return Err(Diagnostic::error("layers", site.span(), message)
                .with_hint("join instructions, or copy what another stage makes"));
        }
        let id = self.graph.add(Vertex {
            op,
            root: state.root,
            name: self.step_name(site),
            span: Some(site.span()),
            no_cache: self.options.no_cache || self.is_filtered(site.place.stage),
        });
        state.root = Some(id);
        Ok(())
    }

    /// Whether `--no-cache-filter` names a stage.
    fn is_filtered(&self, stage: usize) -> bool {
        let filter = &self.options.no_cache_filter;
        let named = self.stages.all[stage].name.as_ref();
        filter.iter().any(|filter| {
            named.is_some_and(|name| name.eq_ignore_ascii_case(filter))
                || filter.parse() == Ok(stage)
        })
    }

    /// `[build 2/5] RUN make`, as BuildKit names steps.
    fn step_name(&self, site: Site<'_>) -> String {
        let (number, total) = site.step;
        let stage = match &self.stages.all[site.place.stage].name {
            Some(name) => format!("{name} "),
            None if self.stages.all.len() > 1 => format!("stage-{} ", site.place.stage),
            None => String::new(),
        };
        let text = without_users(&text::one_line(&site.statement.original));
        format!("[{stage}{number}/{total}] {text}")
    }
}

/// Whether BuildKit counts an instruction among a stage's steps.
fn makes_files(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
    )
}

/// The words of sources that are paths.
fn source_paths(sources: &[Source]) -> impl Iterator<Item = &parser::Word> {
    sources.iter().filter_map(|source| match source {
        Source::Path(word) => Some(word),
        Source::Heredoc(..) => None,
    })
}
