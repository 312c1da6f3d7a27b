//! Mounts as plain data: made by whoever keeps layer directories, consumed by the runtime.
//!
//! Nothing here touches the kernel, so a store needs no privilege to say what it wants mounted, and
//! the runtime needs no store to mount it.

use std::path::{Path, PathBuf};

/// A file system tree made of layer directories.
///
/// One lower directory without an upper one is that directory itself: as a root, it is written to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overlay {
    /// Immutable layer directories, the topmost first.
    pub lowers: Vec<PathBuf>,
    /// Where changes go; without it, several directories are read-only.
    pub upper: Option<PathBuf>,
    /// The kernel's scratch directory, on the file system of `upper` and needed exactly with it.
    pub work: Option<PathBuf>,
}

impl Overlay {
    /// Is one directory, as it lies on the host.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self { lowers: vec![path.into()], upper: None, work: None }
    }

    /// Stacks a writable directory over `lowers`.
    pub fn writable(
        lowers: Vec<PathBuf>,
        upper: impl Into<PathBuf>,
        work: impl Into<PathBuf>,
    ) -> Self {
        Self { lowers, upper: Some(upper.into()), work: Some(work.into()) }
    }

    /// Where what is written goes: the upper directory, or the one directory that it is.
    pub fn top(&self) -> Option<&Path> {
        match (&self.upper, &self.lowers[..]) {
            (Some(upper), _) => Some(upper),
            (None, [directory]) => Some(directory),
            _ => None,
        }
    }
}
