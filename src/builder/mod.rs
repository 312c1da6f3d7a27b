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

pub use context::BuildContext;
pub use error::BuildError;
pub use lower::{BuildArgs, Images, NamedContext, Options, config_of_changes};
pub use remote::{Access, Fetched, Remote, read_url};
pub use secrets::{Secret, Secrets};
pub use sources::fetched;

use progress::Progress;
use solver::Solver;

use crate::cache::StepCache;
use crate::parser::{Diagnostic, Dockerfile};
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
}

/// What a build works with.
pub struct Services<'a> {
    /// Where images and layers are.
    pub store: &'a Store,
    /// What finds base images.
    pub images: &'a dyn Images,
    /// What was built before.
    pub cache: &'a StepCache,
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
    /// What is odd about the Dockerfile.
    pub warnings: Vec<Diagnostic>,
}

/// Builds an image.
///
/// # Errors
/// [`BuildError`]. Nothing of the image is in the store then; the steps that went well are kept for
/// the next build.
pub fn build(request: &BuildRequest, services: &Services<'_>) -> Result<BuildResult, BuildError> {
    let lowered = lower::lower(&request.dockerfile, &request.options, services.images)?;
    let mut solver = Solver::new(&lowered.graph, services, &request.contexts, request.epoch);
    let snapshot = match lowered.target {
        // Nobody reads the files of a base that nothing is added to.
        Some(target) if !lowered.graph.is_image(target) => solver.solve(target)?,
        _ => snapshot::Snapshot::default(),
    };
    for (number, context) in request.contexts.iter().enumerate() {
        context.files.save(&services.store.scratch(&format!("files-{number}")));
    }
    if services.cancel.is_cancelled() {
        return Err(BuildError::Cancelled);
    }
    let warnings = lowered.warnings.clone();
    let image = assemble::assemble(lowered, &snapshot, request, services)?;
    Ok(BuildResult { image, warnings })
}
