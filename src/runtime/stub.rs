//! Mount points that had to be made in a layer, and their removal.
//!
//! Nearly none are: missing mount points come from a lowest layer of their own (see `rootfs`), which
//! the upper directory never hears of. Only where a link or a whiteout of the image hides that layer
//! is one made in the upper directory, by its file descriptor; afterwards it is removed by parent
//! descriptor and name, if the very same inode is still there and empty. A process that swaps the
//! parent for a link gains nothing: links are not followed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, open, openat2, statat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

/// A mount point made in the upper directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stub {
    /// Where, relative to the upper directory.
    pub(super) path: PathBuf,
    /// A directory, else an empty file.
    pub(super) directory: bool,
    /// The device of its inode.
    pub(super) device: u64,
    /// Its inode.
    pub(super) inode: u64,
    /// When its parent was read, before it was made.
    pub(super) accessed: (i64, u64),
    /// When its parent was changed, before it was made.
    pub(super) modified: (i64, u64),
}

impl Stub {
    /// Remembers what was just made at `path`; `parent` is as it was before.
    pub(super) fn remember(upper: &Path, path: PathBuf, parent: &Stat) -> rustix::io::Result<Self> {
        let made = stat_beneath(open_directory(upper)?, &path)?;
        Ok(Self {
            path,
            directory: made.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR,
            device: made.st_dev,
            inode: made.st_ino,
            accessed: (parent.st_atime, parent.st_atime_nsec),
            modified: (parent.st_mtime, parent.st_mtime_nsec),
        })
    }
}

/// Removes stubs from the upper directory, the last made first, as far as they are untouched.
///
/// What can't be removed was changed by the process, and then belongs to the layer.
pub(super) fn remove(upper: &Path, stubs: &[Stub]) {
    let Ok(upper) = open_directory(upper) else { return };
    for stub in stubs.iter().rev() {
        let _kept_if_touched = remove_one(&upper, stub);
    }
}

fn remove_one(upper: &OwnedFd, stub: &Stub) -> rustix::io::Result<()> {
    let name = stub.path.file_name().ok_or(Errno::INVAL)?;
    let parent = match stub.path.parent() {
        Some(parent) if parent != Path::new("") => open_beneath(upper, parent)?,
        _ => open_beneath(upper, Path::new("."))?,
    };
    let found = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let same = (found.st_dev, found.st_ino) == (stub.device, stub.inode);
    if !same || (!stub.directory && found.st_size != 0) {
        return Ok(());
    }
    unlinkat(&parent, name, if stub.directory { AtFlags::REMOVEDIR } else { AtFlags::empty() })?;
    let time = |(secs, nanos): (i64, u64)| Timespec {
        tv_sec: secs,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    let times =
        Timestamps { last_access: time(stub.accessed), last_modification: time(stub.modified) };
    utimensat(&parent, "", &times, AtFlags::EMPTY_PATH)
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn open_beneath(upper: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(upper, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn stat_beneath(upper: impl AsFd, path: &Path) -> rustix::io::Result<Stat> {
    rustix::fs::fstat(open_beneath(upper, path)?)
}
