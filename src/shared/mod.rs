//! The cache that machines share: `--cache-from` and `--cache-to`.
//!
//! ```text
//! a build ──find(key)──► Importer ──read──► Place: a repository, or a folder
//!         ──done(step)─► Exporter ──put───►        layers, while the build goes on
//!                                 ──add───►        the index, once it is done
//! ```
//!
//! What is there is one small [index](crate::cache::SharedIndex) and the blobs of its layers. Reading the
//! index is enough to find steps: their layers are noted as being elsewhere, and come when something
//! reads their files. Nothing of it is needed for a build to go well: what fails here is a warning.

mod exporter;
mod folder;
mod importer;
mod repository;

use std::io;
use std::path::PathBuf;

pub use exporter::{Exporter, Mode};
pub use folder::Folder;
pub use importer::Importer;
pub use repository::Tag;

use crate::cache::{SharedIndex, SharedIndexError};
use crate::export::ExportError;
use crate::import::ImportError;
use crate::oci::{Descriptor, DocumentError, MediaType};
use crate::registry::RegistryError;
use crate::registry::push::PushError;
use crate::store::{LayerRecord, StoreError};

/// The media type of an index's config.
const CONFIG_TYPE: &str = "application/vnd.mica.cache.config.v1+json";

/// Why a shared cache could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// The registry could not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The registry could not take it.
    #[error(transparent)]
    Push(#[from] PushError),
    /// What is there is no cache.
    #[error("what is at {place} cannot be used")]
    Index {
        /// Where it is.
        place: String,
        /// What is wrong.
        source: SharedIndexError,
    },
    /// A manifest that cannot be read.
    #[error("what is at {place} cannot be used")]
    Document {
        /// Where it is.
        place: String,
        /// What is wrong.
        source: DocumentError,
    },
    /// A file of a folder.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as an imperative.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A folder could not be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A layer could not be made into a blob, or a folder not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a shared cache is.
pub trait Place: Sync {
    /// As people write it.
    fn name(&self) -> String;

    /// All that is known there; nothing where there is no cache yet.
    ///
    /// # Errors
    /// [`SharedError`].
    fn read(&self) -> Result<SharedIndex, SharedError>;

    /// Sees to it that the store can have the blobs of these layers when it wants them.
    ///
    /// # Errors
    /// [`SharedError`].
    fn offer(&self, layers: &[LayerRecord]) -> Result<(), SharedError>;

    /// Brings a layer there, and says as what.
    ///
    /// # Errors
    /// [`SharedError`].
    fn put(&self, layer: &LayerRecord) -> Result<Descriptor, SharedError>;

    /// Adds what an index knows, the layers of which are there; false if all of that was known.
    ///
    /// # Errors
    /// [`SharedError`].
    fn add(&self, index: &SharedIndex) -> Result<bool, SharedError>;
}

fn config_type() -> MediaType {
    MediaType::Other(CONFIG_TYPE.to_owned())
}

/// An error with its causes as one line.
pub(crate) fn with_causes(err: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(err.source(), |cause| cause.source());
    causes.fold(err.to_string(), |text, cause| format!("{text}: {cause}"))
}
