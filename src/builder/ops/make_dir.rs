//! WORKDIR: a folder and those that lead to it.

use std::path::Path;

use super::Work;
use crate::builder::BuildError;
use crate::builder::graph::MakeDirOp;
use crate::snapshot::{Attributes, Handle, SnapshotError, Upper, View};
use crate::store::StagedLayer;

pub(super) fn execute(
    work: &Work<'_>,
    op: &MakeDirOp,
    staged: &StagedLayer,
) -> Result<(), BuildError> {
    let view = work.view()?;
    // A folder that is there already makes an empty layer, and nobody is looked up for it.
    if let Some(found) = view.resolve(Path::new(&op.path))?.entry {
        return if found.is_dir() {
            Ok(())
        } else {
            let (path, kind) = (found.path().to_owned(), found.kind());
            Err(SnapshotError::NotADirectory { path, kind }.into())
        };
    }
    let (uid, gid) = work.owner(Some(&op.user))?.unwrap_or((0, 0));
    let attributes = Attributes { mode: 0o755, uid, gid, mtime: work.now(), xattrs: Vec::new() };
    let upper = open_upper(staged, &view)?;
    upper.directory(Path::new(&op.path), &attributes)?;
    Ok(upper.finish()?)
}

/// The layer that is being made, on top of what is there.
pub(in crate::builder) fn open_upper(
    staged: &StagedLayer,
    below: &View,
) -> Result<Upper, BuildError> {
    Ok(Upper::new(open(&staged.fs())?, below)?)
}

/// A folder of the store.
pub(in crate::builder) fn open(path: &Path) -> Result<Handle, BuildError> {
    Handle::open(path).map_err(|source| {
        SnapshotError::Io { action: "open", path: path.to_owned(), source }.into()
    })
}
