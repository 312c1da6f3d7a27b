//! Images out of the store, into archives that other tools read.

mod archive;
mod layers;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

pub use archive::{Format, save};

use crate::layer::LayerError;
use crate::store::StoreError;

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
    /// A layer's directory does not hold any more what it was made of.
    #[error("a layer of the store has changed since it was made; run `mica system check`")]
    Changed,
}

/// Writes a file as a whole or not at all: what was at `path` before stays until `fill` has
/// succeeded and all is on disk.
///
/// # Errors
/// What `fill` returns; [`ExportError::Write`].
pub fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let failed = |source| ExportError::Write { path: path.to_owned(), source };
    // Devices and pipes are written to as they are.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let mut out = BufWriter::new(File::options().write(true).open(path).map_err(failed)?);
        fill(&mut out)?;
        return out.flush().map_err(failed);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let temporary = tempfile::Builder::new()
        .prefix(".mica-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(folder)
        // The temporary file's own name helps nobody.
        .map_err(|err| failed(err.kind().into()))?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary);
    fill(&mut out)?;
    let temporary = out.into_inner().map_err(|err| failed(err.into_error()))?;
    temporary.as_file().sync_data().map_err(failed)?;
    temporary.persist(path).map_err(|err| failed(err.error))?;
    Ok(())
}
