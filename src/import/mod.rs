//! Images into the store, out of archives that other tools wrote.
//!
//! Nothing of an archive is ever written under a name that it gives: its members are looked up in a
//! table, and only those that an image needs, and that are what they are said to be, are published.

mod folder;
mod layers;
mod layout;
mod load;
mod members;
mod root_fs;

use std::io;

pub use folder::{Pick, documents, layout};
pub use load::{Loaded, load};
pub use root_fs::{RootFs, root_fs};

use crate::layer::LayerError;
use crate::oci::{DocumentError, ReferenceError};
use crate::store::StoreError;

/// Why an archive is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive cannot be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The archive is no sound tar.
    #[error("cannot read the archive")]
    Tar(#[from] LayerError),
    /// The archive has neither an `index.json` nor a `manifest.json`.
    #[error("the archive holds no image: it has neither `index.json` nor `manifest.json`")]
    NoIndex,
    /// The folder has no `index.json`.
    #[error("it has no `index.json`")]
    NoLayout,
    /// No image of the layout has the tag, and there is not just one.
    #[error("none of its images has the tag `{}`", .0.escape_debug())]
    NoTag(String),
    /// The tar of a root file system holds nothing.
    #[error("the archive is empty")]
    Empty,
    /// The archive has an index without images for this platform.
    #[error("the archive holds no image for {0}")]
    NoImage(String),
    /// The layout's version is one that mica does not know.
    #[error("the archive is an OCI layout of version `{0}`, not 1.0.0")]
    LayoutVersion(String),
    /// Something that the archive speaks of is not in it.
    #[error("the archive lacks `{0}`")]
    Missing(String),
    /// A document that cannot be read.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A file of the archive that is not JSON of the right shape.
    #[error("the archive's `{name}` is not valid: {source}")]
    Json {
        /// Which file.
        name: &'static str,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// Indexes that lead to indexes, deeper than any tool writes them.
    #[error("the archive's indexes are nested more than {0} deep")]
    TooDeep(usize),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// An instruction of `--change` that is none, or that makes files.
    #[error("`--change`: {0}")]
    Change(String),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}
