//! What a process that waits for an answer shows of itself: its memory, and where its paths begin.
//!
//! It may be hostile, and its other threads go on. So memory is read once and what was read is used;
//! a path is resolved once, by the process's own root and directory, to a descriptor, and all that
//! follows is done to that; and whatever is found under a process's number counts only if the call
//! waits still, since a number may have a new owner.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use super::super::sys;

/// `AT_FDCWD`, as a system call's argument.
const CURRENT_DIRECTORY: i32 = nix::libc::AT_FDCWD;
/// `PATH_MAX`.
const PATH_BYTES: usize = 4096;

/// The outer `/proc`, and the root directory that paths are resolved in.
#[derive(Debug)]
pub(super) struct Places {
    proc: OwnedFd,
    own_root: OwnedFd,
    /// Which directory is the root of this process now.
    root: (u64, u64),
}

impl Places {
    /// Makes the root of the calling process the one that paths begin at. From here on its working
    /// directory is `proc`, so that `self/fd/N` is a path to what a descriptor stands for.
    pub(super) fn new(proc: OwnedFd) -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own_root = rustix::fs::open("/", flags, Mode::empty())?;
        rustix::process::fchdir(&proc)?;
        let root = identity(&own_root)?;
        Ok(Self { proc, own_root, root })
    }

    /// Lets absolute paths begin at `root`.
    fn enter(&mut self, root: &OwnedFd) -> rustix::io::Result<()> {
        let wanted = identity(root)?;
        if wanted == self.root {
            return Ok(());
        }
        let place = if wanted == identity(&self.own_root)? { &self.own_root } else { root };
        rustix::process::fchdir(place)?;
        let entered = rustix::process::chroot(".");
        rustix::process::fchdir(&self.proc)?;
        entered?;
        self.root = wanted;
        Ok(())
    }
}

fn identity(directory: impl AsFd) -> rustix::io::Result<(u64, u64)> {
    fstat(directory).map(|it| (it.st_dev, it.st_ino))
}

/// Something on the way to an answer failed; the call is left to the kernel, which will say why.
#[derive(Debug)]
pub(super) struct Unanswered;

impl From<Errno> for Unanswered {
    fn from(_: Errno) -> Self {
        Self
    }
}

/// A process that waits.
pub(super) struct Tracee<'a> {
    pub(super) listener: BorrowedFd<'a>,
    pub(super) places: &'a mut Places,
    pub(super) tid: u32,
    pub(super) id: u64,
}

impl Tracee<'_> {
    /// Opens a file of the process below `/proc`.
    fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Unanswered> {
        let path = format!("{}/{name}", self.tid);
        let fd = openat(&self.places.proc, path, flags | OFlags::CLOEXEC, Mode::empty())?;
        if sys::is_waiting(self.listener, self.id) { Ok(fd) } else { Err(Unanswered) }
    }

    /// Reads a path that the call points to.
    pub(super) fn path_at(&self, address: u64) -> Result<PathBuf, Unanswered> {
        let memory = self.open("mem", OFlags::RDONLY)?;
        let mut bytes = [0; PATH_BYTES];
        let mut filled = 0;
        // Page by page: what lies behind the path may not be there.
        while filled < bytes.len() {
            let at = address.checked_add(filled as u64).ok_or(Unanswered)?;
            let to_page_end = 4096 - usize::try_from(at % 4096).unwrap_or(0);
            let end = bytes.len().min(filled + to_page_end);
            let read = rustix::io::pread(&memory, &mut bytes[filled..end], at)?;
            let piece = &bytes[filled..filled + read];
            if let Some(length) = piece.iter().position(|byte| *byte == 0) {
                return Ok(PathBuf::from(OsStr::from_bytes(&bytes[..filled + length])));
            }
            if read == 0 {
                return Err(Unanswered);
            }
            filled += read;
        }
        Err(Unanswered)
    }

    pub(super) fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unanswered> {
        let memory = self.open("mem", OFlags::RDONLY)?;
        let read = rustix::io::pread(&memory, &mut *into, address)?;
        if read == into.len() { Ok(()) } else { Err(Unanswered) }
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Unanswered> {
        let memory = self.open("mem", OFlags::WRONLY)?;
        let written = rustix::io::pwrite(&memory, bytes, address)?;
        if written == bytes.len() { Ok(()) } else { Err(Unanswered) }
    }

    /// Opens what one of the process's descriptors stands for.
    pub(super) fn descriptor(&self, number: i32) -> Result<OwnedFd, Unanswered> {
        self.open(&format!("fd/{number}"), OFlags::PATH)
    }

    /// Resolves a path as the process would: `flags` are `NOFOLLOW`, `DIRECTORY` or nothing.
    pub(super) fn resolve(
        &mut self,
        directory: i32,
        path: &Path,
        flags: OFlags,
    ) -> Result<OwnedFd, Unanswered> {
        let root = self.open("root", OFlags::PATH | OFlags::DIRECTORY)?;
        let start = match directory {
            _ if path.is_absolute() => None,
            CURRENT_DIRECTORY => Some(self.open("cwd", OFlags::PATH | OFlags::DIRECTORY)?),
            number => Some(self.descriptor(number)?),
        };
        self.places.enter(&root)?;
        let start = start.as_ref().map_or(rustix::fs::CWD, AsFd::as_fd);
        // Links of /proc would be read as ours, not as the process's.
        let resolve = ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        Ok(openat2(start, path, flags, Mode::empty(), resolve)?)
    }

    /// Resolves the directory that holds what a path names, and gives its name there.
    pub(super) fn resolve_parent<'p>(
        &mut self,
        directory: i32,
        path: &'p Path,
    ) -> Result<(OwnedFd, &'p OsStr), Unanswered> {
        let bytes = path.as_os_str().as_bytes();
        let (parent, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&bytes[..=slash], &bytes[slash + 1..]),
            None => (&b"."[..], bytes),
        };
        // A slash at the end: the kernel knows what that means.
        if matches!(name, b"" | b"." | b"..") {
            return Err(Unanswered);
        }
        let parent = Path::new(OsStr::from_bytes(parent));
        Ok((self.resolve(directory, parent, OFlags::DIRECTORY)?, OsStr::from_bytes(name)))
    }

    /// A field of the process's status.
    pub(super) fn status(&self) -> Result<String, Unanswered> {
        let file = std::fs::File::from(self.open("status", OFlags::RDONLY)?);
        std::io::read_to_string(file).map_err(|_| Unanswered)
    }

    /// The permissions that what it makes does not get.
    pub(super) fn umask(&self) -> Result<u32, Unanswered> {
        let status = self.status()?;
        let mask = field(&status, "Umask:").ok_or(Unanswered)?;
        u32::from_str_radix(mask, 8).map_err(|_| Unanswered)
    }
}

/// The value of a line of `/proc/PID/status`.
pub(super) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}
