//! [`BuildError`]: why a build ended without an image.

use super::graph::Vertex;
use super::snapshot::with_causes;
use crate::fetch::FetchError;
use crate::layer::LayerError;
use crate::oci::ChainId;
use crate::parser::{Diagnostic, Span};
use crate::runtime::{ExitStatus, SandboxError};
use crate::snapshot::SnapshotError;
use crate::store::StoreError;

/// Why a build ended without an image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile says something that cannot be built; at least one is an error.
    #[error("{}", .0.first().map_or("invalid Dockerfile", |first| first.message.as_str()))]
    Dockerfile(Vec<Diagnostic>),
    /// Checks found something, and the Dockerfile says that this is an error.
    #[error("{0}")]
    Checks(String),
    /// Something failed for an instruction.
    #[error("{source}")]
    At {
        /// The instruction, in the text of the Dockerfile.
        span: Span,
        /// What failed.
        source: Box<Self>,
    },
    /// A command of a RUN ended badly.
    #[error("`{step}` failed: {status}")]
    Run {
        /// The step as people know it.
        step: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A command could not be started.
    #[error("cannot run `{step}`")]
    Sandbox {
        /// The step as people know it.
        step: String,
        /// Why.
        source: SandboxError,
    },
    /// A source of COPY or ADD is not there.
    #[error("`{path}` is not found in {place}")]
    NotFound {
        /// As the Dockerfile has it.
        path: String,
        /// `the build context`, or a stage.
        place: String,
        /// Whether a `.dockerignore` hides it.
        ignored: bool,
    },
    /// COPY or ADD cannot do this.
    #[error("{0}")]
    Copy(String),
    /// A secret was not given on the command line.
    #[error("the secret `{0}` is required and was not given")]
    NoSecret(String),
    /// An ssh agent was not given on the command line.
    #[error("the ssh agent `{0}` is required and was not given")]
    NoSsh(String),
    /// The socket of a step's ssh agent cannot be made.
    #[error("cannot make the socket of the ssh agent `{id}`")]
    Ssh {
        /// Its name on the command line.
        id: String,
        /// Why.
        source: std::io::Error,
    },
    /// The build was interrupted.
    #[error("cancelled")]
    Cancelled,
    /// A layer could not be hashed.
    #[error("cannot read a new layer: {reason}")]
    Pack {
        /// What the thread that hashed it said.
        reason: String,
    },
    /// An archive could not be unpacked.
    #[error("cannot unpack `{path}`")]
    Unpack {
        /// The archive, in the build context.
        path: String,
        /// Why.
        source: LayerError,
    },
    /// The archive that is to be the build context could not be unpacked.
    #[error("cannot unpack the build context")]
    Archive(#[source] LayerError),
    /// The context's `.dockerignore` is not valid.
    #[error("{file}: {reason}")]
    Ignore {
        /// Which file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the context cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Something from elsewhere could not be fetched.
    #[error(transparent)]
    Fetch(FetchError),
    /// A base image cannot be had.
    #[error("{source}")]
    Image {
        /// What whoever was asked for it said.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// A stage with nearly the same name.
        near: Option<String>,
    },
    /// The store knows a layer whose files it cannot get.
    #[error("the files of a step that was found in the cache cannot be had")]
    Gone {
        /// The layer, with those below.
        chain: ChainId,
        /// Why.
        source: Box<StoreError>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BuildError {
    /// Says for which vertex's instruction this happened, unless that is known already.
    pub(super) fn at(self, vertex: &Vertex) -> Self {
        match (self, vertex.span) {
            (located @ (Self::At { .. } | Self::Dockerfile(_)), _) => located,
            (other, Some(span)) => Self::At { span, source: Box::new(other) },
            (other, None) => other,
        }
    }
}

impl BuildError {
    /// The layers whose files could not be had.
    pub(super) fn gone(&self) -> Option<ChainId> {
        match self {
            Self::At { source, .. } => source.gone(),
            Self::Gone { chain, .. } => Some(*chain),
            _ => None,
        }
    }
}

impl From<FetchError> for BuildError {
    fn from(err: FetchError) -> Self {
        if err.is_cancelled() { Self::Cancelled } else { Self::Fetch(err) }
    }
}

impl From<LayerError> for BuildError {
    /// For a layer that could not be packed.
    fn from(err: LayerError) -> Self {
        match err {
            LayerError::Write { source } => Self::Store(StoreError::Io {
                action: "write",
                path: "the new layer".into(),
                source,
            }),
            LayerError::Walk { path, source } => {
                Self::Snapshot(SnapshotError::Io { action: "copy", path, source })
            }
            err => Self::Pack { reason: with_causes(&err) },
        }
    }
}

impl From<Diagnostic> for BuildError {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Dockerfile(vec![diagnostic])
    }
}
