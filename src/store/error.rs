//! [`StoreError`]: everything that can go wrong with the bytes on disk.

use std::io;
use std::path::{Path, PathBuf};

use crate::layer::LayerError;
use crate::oci::{ChainId, Digest, DocumentError, Invalid};
use crate::snapshot::SnapshotError;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The kernel refused an operation on a file of the store.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as an imperative.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The store was made by a later mica.
    #[error("the store at {} has format {found}; this mica knows format {known}", path.display())]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: String,
        /// Ours.
        known: &'static str,
    },
    /// Others could put their files into the store.
    #[error("the store at {} belongs to user {owner} and has mode {mode:04o}", path.display())]
    Untrusted {
        /// The store.
        path: PathBuf,
        /// Its owner's user ID.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// No image has this name or ID here.
    #[error("no image `{0}` in the store")]
    NoImage(String),
    /// An image ID that several images begin with.
    #[error("`{0}` is the beginning of more than one image ID")]
    AmbiguousId(String),
    /// A blob that should be there is not.
    #[error("the store lacks the blob {0}")]
    NoBlob(Digest),
    /// A blob that is not here could not be had from where it is.
    #[error("{source}")]
    Fetch {
        /// Which blob.
        digest: Digest,
        /// What its source said, blob and all.
        source: io::Error,
    },
    /// It is not wanted any more, as something else failed or somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A layer that should be there is not.
    #[error("the store lacks the layer {0}")]
    NoLayer(ChainId),
    /// Bytes that are not what their name says.
    #[error("{what} does not have the digest {expected}, its bytes are {found}")]
    DigestMismatch {
        /// A blob or a layer.
        what: String,
        /// As it is named.
        expected: Digest,
        /// As it was hashed.
        found: Digest,
    },
    /// More or fewer bytes than the descriptor says.
    #[error("{what} has {found} bytes, its descriptor says {expected}")]
    SizeMismatch {
        /// Which blob.
        what: String,
        /// As the descriptor has it.
        expected: u64,
        /// As they were counted; one more than expected where reading stopped early.
        found: u64,
    },
    /// A document of more bytes than any registry takes.
    #[error("{what} has {size} bytes, more than the 4 MiB that a document may have")]
    TooLarge {
        /// Which document.
        what: String,
        /// Its bytes.
        size: u64,
    },
    /// A manifest, index or config that cannot be read.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// An image that contradicts itself.
    #[error("not a valid image: {}", list(.0))]
    Invalid(Vec<Invalid>),
    /// A layer that cannot be unpacked or packed.
    #[error("cannot unpack the layer {layer}")]
    Layer {
        /// The digest of its tar.
        layer: Digest,
        /// Why.
        source: LayerError,
    },
    /// A layer's directory cannot be packed.
    #[error("cannot pack a layer")]
    Pack(#[source] LayerError),
    /// A file tree of the store could not be read or written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A record of the store is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl StoreError {
    /// For `map_err`: an [`StoreError::Io`] of `action` on `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

fn list(found: &[Invalid]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
