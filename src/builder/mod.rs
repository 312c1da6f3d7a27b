//! From a Dockerfile to an image.
//!
//! ```text
//! Dockerfile ─lower→ Graph + config ─solve→ Snapshot ─assemble→ Image
//!            (pure)                  │ cache? reuse
//!                                    └ else an operation, its layer hashed beside the next
//! ```

mod assemble;
mod context;
mod error;
pub mod glob;
pub mod graph;
pub mod ignore;
mod lower;
mod ops;
pub mod progress;
mod redact;
mod remote;
mod scheduler;
mod secrets;
mod snapshot;
mod solver;
mod sources;
mod squash;

pub use context::BuildContext;
pub use error::BuildError;
pub use lower::{
    BuildArgs, Images, NamedContext, NamedContexts, Options, Outline, OutlineArg, OutlineMount,
    config_of_changes,
};
pub use remote::{Access, Fetched, Remote, read_url};
pub use secrets::{Secret, Secrets};
pub use sources::fetched;

use lower::{Inputs, Purpose};
use progress::{Event, Progress};
use solver::Solver;

use crate::cache::{SharedCache, StepCache};
use crate::lint::Checks;
use crate::parser::Dockerfile;
use crate::runtime::{CancelToken, Sandbox};
use crate::ssh::Agents;
use crate::store::{Image, Store};

/// What is to be built.
#[derive(Debug)]
pub struct BuildRequest {
    /// The Dockerfile, without errors.
    pub dockerfile: Dockerfile,
    /// The folders that COPY and ADD can read; the first is the main one.
    pub contexts: Vec<BuildContext>,
    /// What the caller decides.
    pub options: Options,
    /// No time in the image is later than this, in seconds since 1970.
    pub epoch: Option<i64>,
    /// Whether the caller reads the image's files next, which had better be there as files then.
    pub reads_files: bool,
    /// What the syntax tree has shown already, and what is to be told.
    pub checks: Checks,
}

/// What a build works with.
pub struct Services<'a> {
    /// Where images and layers are.
    pub store: &'a Store,
    /// What finds base images.
    pub images: &'a dyn Images,
    /// What was built before.
    pub cache: &'a StepCache,
    /// What was built elsewhere.
    pub shared: Option<&'a dyn SharedCache>,
    /// What runs commands.
    pub sandbox: &'a dyn Sandbox,
    /// Who is told.
    pub progress: &'a dyn Progress,
    /// What RUN steps may be given.
    pub secrets: &'a Secrets,
    /// Whom RUN steps may ask for signatures.
    pub ssh: &'a Agents,
    /// How the build is stopped.
    pub cancel: &'a CancelToken,
    /// What time it is.
    pub now: &'a (dyn Fn() -> jiff::Timestamp + Sync),
    /// How many steps run at once.
    pub jobs: usize,
    /// Steps that were made before this are done anew.
    pub since: Option<jiff::Timestamp>,
}

impl<'a> Services<'a> {
    fn access(&self) -> Access<'a> {
        Access { store: self.store, secrets: self.secrets, cancel: self.cancel }
    }
}

impl std::fmt::Debug for Services<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("store", self.store).field("jobs", &self.jobs).finish()
    }
}

/// What was built.
#[derive(Debug)]
pub struct BuildResult {
    /// The image. It is in the store without a name: until it has one, or is
    /// [kept](Store::keep_unnamed) without, it lasts as long as the store is open.
    pub image: Image,
}

/// What is to be checked.
#[derive(Debug)]
pub struct CheckRequest<'a> {
    /// The Dockerfile, without errors.
    pub dockerfile: &'a Dockerfile,
    /// What the caller decides.
    pub options: &'a Options,
    /// The folder that COPY and ADD would read, where there is one.
    pub context: Option<&'a BuildContext>,
    /// Whether all stages are checked, or what the target needs.
    pub all_stages: bool,
}

/// Checks a Dockerfile without building anything, and tells what the target can be given. Images that `images` does not know are taken for
/// such that hold what they have to.
///
/// # Errors
/// What a build would fail with before it began, but for what is this machine's or mica's matter.
pub fn check(
    request: &CheckRequest<'_>,
    images: &dyn Images,
    checks: &mut Checks,
) -> Result<Outline, BuildError> {
    let inputs = Inputs {
        dockerfile: request.dockerfile,
        options: request.options,
        images,
        ignore: request.context.and_then(BuildContext::ignore),
        purpose: Purpose::Check { all_stages: request.all_stages },
    };
    let lowered = lower::lower(&inputs, checks)?;
    match checks.violation() {
        Some(violation) => Err(BuildError::Checks(violation)),
        None => Ok(lowered.outline),
    }
}

/// Builds an image.
///
/// # Errors
/// [`BuildError`]. Nothing of the image is in the store then; the steps that went well are kept for
/// the next build.
pub fn build(request: &BuildRequest, services: &Services<'_>) -> Result<BuildResult, BuildError> {
    let inputs = Inputs {
        dockerfile: &request.dockerfile,
        options: &request.options,
        images: services.images,
        ignore: request.contexts.first().and_then(BuildContext::ignore),
        purpose: Purpose::Build,
    };
    let mut checks = request.checks.clone();
    let lowered = lower::lower(&inputs, &mut checks);
    services.progress.event(&Event::Checked { findings: checks.found() });
    let lowered = lowered?;
    if let Some(violation) = checks.violation() {
        return Err(BuildError::Checks(violation));
    }
    let mut solver = Solver::new(&lowered.graph, services, &request.contexts, request.epoch);
    // Nobody reads the files of a base that nothing is added to.
    let target = lowered.target.filter(|target| !lowered.graph.is_image(*target));
    let (snapshot, steps) = match target {
        Some(target) => {
            let options = &request.options;
            solver.solve(target, options.inline_cache, request.reads_files || options.squash)?
        }
        None => Default::default(),
    };
    let snapshot = if request.options.squash {
        squash::squash(&snapshot, lowered.base_layers.len(), services.store)?
    } else {
        snapshot
    };
    for (number, context) in request.contexts.iter().enumerate() {
        context.files.save(&services.store.scratch(&format!("files-{number}")));
    }
    if services.cancel.is_cancelled() {
        return Err(BuildError::Cancelled);
    }
    let image = assemble::assemble(lowered, &snapshot, &steps, request, services)?;
    Ok(BuildResult { image })
}
