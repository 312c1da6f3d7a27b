//! Opens mount points below the root by descriptor, so that no link of the image leads outside.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timestamps, fstat, mkdirat, mknodat,
    openat2, readlinkat, utimensat,
};
use rustix::io::Errno;

use super::error::{SetupError, displayable};
use super::rootfs::attach;
use super::stub::Stub;

/// Links to follow before a path is called a loop, as many as the kernel's own limit.
const LINK_LIMIT: usize = 40;

/// The root while mounts are put into it.
pub(super) struct Targets<'a> {
    /// The root's mount, attached.
    pub(super) root: &'a OwnedFd,
    /// The upper directory, opened before the pivot hides it, if there is one.
    pub(super) upper: Option<&'a Path>,
    /// What had to be made in it.
    pub(super) stubs: Vec<Stub>,
}

impl Targets<'_> {
    /// Puts `mount` on the path `target`, which is made where it is missing.
    pub(super) fn mount(&mut self, mount: &OwnedFd, target: &Path) -> Result<(), SetupError> {
        let directory = is_directory(&fstat(mount).map_err(|error| refused(target, error))?);
        let point = match self.open(target, ResolveFlags::empty()) {
            Err(Errno::NOENT) => self.make(target, directory, 0),
            found => found,
        }
        .map_err(|error| refused(target, error))?;
        let found = is_directory(&fstat(&point).map_err(|error| refused(target, error))?);
        if directory != found {
            let kind = |directory| if directory { "a directory" } else { "no directory" };
            let reason = format!("it is {}, the source is {}", kind(found), kind(directory));
            return Err(SetupError::MountPoint { path: displayable(target), reason });
        }
        let root = fstat(self.root).and_then(|root| fstat(&point).map(|it| (root, it)));
        if root.is_ok_and(|(root, it)| (root.st_dev, root.st_ino) == (it.st_dev, it.st_ino)) {
            let reason = "it is the root itself".to_owned();
            return Err(SetupError::MountPoint { path: displayable(target), reason });
        }
        attach(mount, &point).map_err(|error| refused(target, error))
    }

    /// Puts `mount` on a directory that has to be one: a link there is an attack (CVE-2019-19921).
    pub(super) fn mount_system(&mut self, mount: &OwnedFd, target: &str) -> Result<(), SetupError> {
        let target = Path::new(target);
        let point = match self.open(target, ResolveFlags::NO_SYMLINKS) {
            Err(Errno::NOENT) => self.make(target, true, 0),
            found => found,
        };
        let point = match point {
            Ok(point) => point,
            Err(Errno::LOOP) => {
                let reason = "it is a symbolic link".to_owned();
                return Err(SetupError::MountPoint { path: target.to_owned(), reason });
            }
            Err(error) => return Err(refused(target, error)),
        };
        attach(mount, &point).map_err(|error| refused(target, error))
    }

    fn open(&self, path: &Path, more: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        openat2(self.root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Makes a mount point that a link or a whiteout hides, with its parents; remembers each.
    fn make(&mut self, path: &Path, directory: bool, links: usize) -> rustix::io::Result<OwnedFd> {
        let (Some(upper), Some(name)) = (self.upper, path.file_name()) else {
            return Err(Errno::NOENT);
        };
        let above = path.parent().unwrap_or(Path::new("/"));
        let parent = match self.open(above, ResolveFlags::empty()) {
            Err(Errno::NOENT) => self.make(above, true, links)?,
            found => found?,
        };
        let before = fstat(&parent)?;
        let made = if directory {
            mkdirat(&parent, name, Mode::from_raw_mode(0o755))
        } else {
            mknodat(&parent, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
        };
        let inside = self.name_inside(&parent)?;
        match made {
            Ok(()) => {}
            // There, but not to be opened: a link to what is missing. What it means is made.
            Err(Errno::EXIST) if links < LINK_LIMIT => {
                let link = readlinkat(&parent, name, Vec::new())?;
                let meant = Path::new("/").join(inside).join(OsStr::from_bytes(link.as_bytes()));
                return match self.open(&meant, ResolveFlags::empty()) {
                    Err(Errno::NOENT) => self.make(&meant, directory, links + 1),
                    found => found,
                };
            }
            Err(error) => return Err(error),
        }
        let inside = inside.join(name);
        // What is made in a mount of ours, such as `/dev`, goes with it.
        if fstat(self.root)?.st_dev == before.st_dev {
            self.stubs.push(Stub::remember(upper, inside.clone(), &before)?);
            put_back_times(&parent, &before)?;
        }
        self.open(&inside, ResolveFlags::NO_SYMLINKS)
    }

    /// Returns the path of an open directory relative to the root.
    fn name_inside(&self, directory: &OwnedFd) -> rustix::io::Result<PathBuf> {
        let path = |fd: &OwnedFd| {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            readlinkat(rustix::fs::CWD, link, Vec::new())
                .map(|it| PathBuf::from(OsStr::from_bytes(it.as_bytes())))
        };
        let root = path(self.root)?;
        path(directory)?.strip_prefix(root).map(Path::to_owned).map_err(|_| Errno::XDEV)
    }
}

fn put_back_times(directory: impl AsFd, before: &Stat) -> rustix::io::Result<()> {
    let time = |secs, nanos: u64| rustix::fs::Timespec {
        tv_sec: secs,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(before.st_atime, before.st_atime_nsec),
        last_modification: time(before.st_mtime, before.st_mtime_nsec),
    };
    utimensat(directory, "", &times, AtFlags::EMPTY_PATH)
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_dir()
}

fn refused(path: &Path, error: Errno) -> SetupError {
    let reason = std::io::Error::from(error);
    let reason = match error {
        Errno::NOENT => "it is missing and can't be made".to_owned(),
        Errno::NOTDIR => "its parent is no directory".to_owned(),
        Errno::LOOP => "it leads through a loop or a link of the kernel".to_owned(),
        _ => reason.to_string(),
    };
    SetupError::MountPoint { path: displayable(path), reason }
}
