//! Times clamped to an epoch, so that a rebuild gives the same bytes.

use std::path::Path;

use crate::layer::{LayerError, Result};
use crate::snapshot::{Handle, Timestamp, Walk, WalkEvent};

/// Sets every modification time in a layer directory that is later than `epoch_secs` to it.
///
/// Whiteouts have no time in a layer and are left alone. Files that share their inode with another
/// layer change there too: those must have been clamped to the same epoch already.
pub fn clamp_times(layer: &Handle, epoch_secs: i64) -> Result<()> {
    let epoch = Timestamp::from_secs(epoch_secs);
    let failed = |path: &Path, source| LayerError::Walk { path: path.to_owned(), source };
    let root = layer.try_clone().map_err(|error| failed(Path::new(""), error))?;
    if root.own_metadata().map_err(|error| failed(Path::new(""), error))?.mtime > epoch {
        root.set_own_mtime(epoch).map_err(|error| failed(Path::new(""), error))?;
    }
    let mut walk = Walk::new(root).map_err(|error| failed(Path::new(""), error))?;
    while let Some(event) = walk.advance().map_err(|error| failed(walk.path(), error))? {
        let result = match event {
            WalkEvent::Enter(metadata) if metadata.mtime > epoch => walk.dir().set_own_mtime(epoch),
            WalkEvent::Leaf(metadata) if metadata.mtime > epoch && !metadata.is_whiteout() => {
                walk.dir().set_mtime(walk.name(), epoch)
            }
            _ => Ok(()),
        };
        result.map_err(|error| failed(walk.path(), error))?;
    }
    Ok(())
}
