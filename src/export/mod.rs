//! Images out of the store: into archives and layouts that other tools read, or only their files.

mod archive;
pub(crate) mod layers;
mod layout;
mod output;
pub mod rootfs;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

pub use archive::save;
pub(crate) use layout::LayoutFolder;
pub use layout::save_folder;
pub use output::{NewFile, Output, Stoppable, write_file};

use crate::layer::{Compression, LayerError};
use crate::oci::MediaTypes;
use crate::store::StoreError;

/// Asked now and then: whether to stop, which is an error then.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// How images are written.
#[expect(missing_debug_implementations, reason = "a closure has none")]
pub struct Options<'a> {
    /// Whether Docker's `manifest.json` and `repositories` are there beside the index.
    pub docker_files: bool,
    /// What becomes of layers that are plain tars.
    pub compression: Compression,
    /// How hard is compressed; `None` for the usual.
    pub level: Option<u32>,
    /// Whether layers that are compressed otherwise are compressed anew.
    pub force: bool,
    /// Whose words the media types are; `None` leaves them as they are.
    pub words: Option<MediaTypes>,
    /// What is added to the manifest.
    pub annotations: BTreeMap<String, String>,
    /// What is added to the index's descriptor of the manifest.
    pub descriptor_annotations: BTreeMap<String, String>,
    /// Whether to stop.
    pub stop: Stop<'a>,
}

impl Options<'_> {
    /// `docker load`, and everything that reads OCI layouts: what `docker save` writes since
    /// Docker 25. Layers are written as the store has them.
    pub fn docker() -> Self {
        Self {
            docker_files: true,
            compression: Compression::None,
            level: None,
            force: false,
            words: None,
            annotations: BTreeMap::new(),
            descriptor_annotations: BTreeMap::new(),
            stop: &|| false,
        }
    }

    /// An OCI layout alone. Layers that are plain tars are compressed.
    pub fn oci() -> Self {
        Self { docker_files: false, compression: Compression::Gzip, ..Self::docker() }
    }

    /// How layers are compressed, as the store notes it.
    pub(crate) fn method(&self) -> String {
        let name = match self.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        };
        self.level.map_or_else(|| name.to_owned(), |level| format!("{name}-{level}"))
    }
}

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The place it goes to refused.
    #[error("cannot write {}", path.display())]
    Write {
        /// The archive, or `standard output`.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The store could not give what the image is made of.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer's directory could not be packed.
    #[error("cannot pack a layer")]
    Pack(#[from] LayerError),
    /// A folder that was to be an OCI layout has an index that is none.
    #[error("{} is no OCI image layout: its `index.json` is not valid", path.display())]
    NoLayout {
        /// Which.
        path: PathBuf,
    },
    /// A device that a plain user cannot make.
    #[error("cannot make the device {} as a plain user", path.display())]
    Device {
        /// Where.
        path: PathBuf,
    },
    /// A layer's directory does not hold any more what it was made of.
    #[error("a layer of the store has changed since it was made; run `mica system check`")]
    Changed,
}
