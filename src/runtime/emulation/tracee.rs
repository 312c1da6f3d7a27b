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

use std::cell::Cell;
use std::io::IoSliceMut;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::{self, Gid, Uid};
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
    /// Whose memory was read last, where that takes being its owner.
    last_owner: Cell<Option<(u32, u32)>>,
}

impl Places {
    /// Makes the root of the calling process the one that paths begin at. From here on its working
    /// directory is `proc`, so that `self/fd/N` is a path to what a descriptor stands for.
    pub(super) fn new(proc: OwnedFd) -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own_root = rustix::fs::open("/", flags, Mode::empty())?;
        rustix::process::fchdir(&proc)?;
        let root = identity(&own_root)?;
        Ok(Self { proc, own_root, root, last_owner: Cell::new(None) })
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

impl From<nix::Error> for Unanswered {
    fn from(_: nix::Error) -> Self {
        Self
    }
}

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
    /// The outer `/proc`.
    pub(super) fn proc(&self) -> &OwnedFd {
        &self.places.proc
    }

    /// Whether the call waits still: what was found by the number of its process was its own.
    pub(super) fn waits(&self) -> bool {
        sys::is_waiting(self.listener, self.id)
    }

    /// Opens a file of the process below `/proc`.
    fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Unanswered> {
        let path = format!("{}/{name}", self.tid);
        let open = || openat(&self.places.proc, &path, flags | OFlags::CLOEXEC, Mode::empty());
        let fd = match open() {
            // Who lacks CAP_SYS_PTRACE has to be its user.
            Err(Errno::ACCESS | Errno::PERM) => self.as_owner_of_memory(open)?,
            opened => opened?,
        };
        if self.waits() { Ok(fd) } else { Err(Unanswered) }
    }

    /// Does something as whoever memory was read as last, or else as the process's user.
    fn as_owner_of_memory<T>(
        &self,
        act: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, Unanswered> {
        if let Some((uid, gid)) = self.places.last_owner.get()
            && let Ok(Ok(done)) = with_ids(uid, gid, &act)
        {
            return Ok(done);
        }
        let (uid, gid) = self.ids()?;
        self.places.last_owner.set(Some((uid, gid)));
        Ok(with_ids(uid, gid, &act)??)
    }

    /// Who the process is for files.
    fn ids(&self) -> Result<(u32, u32), Unanswered> {
        let it = Who::of(&self.status()?).ok_or(Unanswered)?;
        Ok((it.uid, it.gid))
    }

    /// Whether a path that the call points to begins so: cheaper than to read it.
    pub(super) fn path_begins(&self, address: u64, with: &[&[u8]]) -> Result<bool, Unanswered> {
        let mut start = [0; 16];
        let read = self.read_some(address, &mut start)?;
        Ok(with.iter().any(|it| {
            let compared = it.len().min(read);
            start[..compared] == it[..compared]
        }))
    }

    /// Reads memory up to the end of a page: what lies behind it may not be there.
    fn read_some(&self, address: u64, into: &mut [u8]) -> Result<usize, Unanswered> {
        let to_page_end = 4096 - usize::try_from(address % 4096).unwrap_or(0);
        let length = into.len().min(to_page_end);
        let into = &mut into[..length];
        let base = usize::try_from(address).map_err(|_| Unanswered)?;
        let process = unistd::Pid::from_raw(self.tid.cast_signed());
        let remote = [RemoteIoVec { base, len: into.len() }];
        match process_vm_readv(process, &mut [IoSliceMut::new(into)], &remote) {
            Ok(read) => Ok(read),
            Err(_) => Ok(rustix::io::pread(self.open("mem", OFlags::RDONLY)?, into, address)?),
        }
    }

    /// Reads a path that the call points to.
    pub(super) fn path_at(&self, address: u64) -> Result<PathBuf, Unanswered> {
        let mut bytes = [0; PATH_BYTES];
        let mut filled = 0;
        while filled < bytes.len() {
            let at = address.checked_add(filled as u64).ok_or(Unanswered)?;
            let read = self.read_some(at, &mut bytes[filled..])?;
            let piece = &bytes[filled..filled + read];
            if let Some(length) = piece.iter().position(|byte| *byte == 0) {
                let path = PathBuf::from(OsStr::from_bytes(&bytes[..filled + length]));
                return if self.waits() { Ok(path) } else { Err(Unanswered) };
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
        self.enter_root()?;
        let start = match directory {
            _ if path.is_absolute() => None,
            CURRENT_DIRECTORY => Some(self.open("cwd", OFlags::PATH | OFlags::DIRECTORY)?),
            number => Some(self.descriptor(number)?),
        };
        let start = start.as_ref().map_or(rustix::fs::CWD, AsFd::as_fd);
        // Links of /proc would be read as ours, not as the process's.
        let resolve = ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        Ok(openat2(start, path, flags, Mode::empty(), resolve)?)
    }

    /// Lets absolute paths, and what links of `/proc` say, begin at the process's own root.
    pub(super) fn enter_root(&mut self) -> Result<(), Unanswered> {
        let root = self.open("root", OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(self.places.enter(&root)?)
    }

    /// Who it is that waits.
    pub(super) fn who(&self) -> Result<Who, Unanswered> {
        Who::of(&self.status()?).ok_or(Unanswered)
    }

    /// Whether a process is one of the step's: this one's child, or a child of such a one.
    pub(super) fn shares_step_with(&self, process: u32) -> bool {
        const DEPTH_LIMIT: usize = 1024;
        let guardian = std::process::id();
        let mut at = process;
        for _ in 0..DEPTH_LIMIT {
            let status = self.read_proc(&format!("{at}/status")).unwrap_or_default();
            match number(&status, "PPid:") {
                Some(parent) if parent == guardian => return true,
                Some(parent) if parent > 1 => at = parent,
                _ => return false,
            }
        }
        false
    }

    /// The processes of a group.
    pub(super) fn group(&self, group: u32) -> impl Iterator<Item = u32> {
        let all = rustix::fs::Dir::read_from(&self.places.proc).into_iter().flatten().flatten();
        let numbers = all.filter_map(|it| it.file_name().to_str().ok()?.parse().ok());
        numbers.filter(move |it: &u32| {
            let stat = self.read_proc(&format!("{it}/stat")).unwrap_or_default();
            // The name may hold anything.
            let field = stat.rsplit_once(')').and_then(|(_, it)| it.split_whitespace().nth(2));
            field.and_then(|it| it.parse().ok()) == Some(group)
        })
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

    fn read_proc(&self, path: &str) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.places.proc, path, flags, Mode::empty()).ok()?;
        std::io::read_to_string(std::fs::File::from(file)).ok()
    }

    /// The permissions that what it makes does not get.
    pub(super) fn umask(&self) -> Result<u32, Unanswered> {
        let status = self.status()?;
        let mask = field(&status, "Umask:").ok_or(Unanswered)?;
        u32::from_str_radix(mask, 8).map_err(|_| Unanswered)
    }
}

/// Does something with the rights that a user and a group have over files.
fn with_ids<T>(uid: u32, gid: u32, act: impl FnOnce() -> T) -> Result<T, Unanswered> {
    let (own_uid, own_gid) = (unistd::geteuid(), unistd::getegid());
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    unistd::setfsgid(gid);
    unistd::setfsuid(uid);
    // They tell what was before, and not whether it went well.
    let nobody = (Uid::from_raw(u32::MAX), Gid::from_raw(u32::MAX));
    let changed = unistd::setfsuid(nobody.0) == uid && unistd::setfsgid(nobody.1) == gid;
    let result = if changed { Ok(act()) } else { Err(Unanswered) };
    unistd::setfsuid(own_uid);
    unistd::setfsgid(own_gid);
    result
}

/// A process, and whose rights over files it has.
#[derive(Debug)]
pub(super) struct Who {
    pub(super) process: u32,
    uid: u32,
    gid: u32,
    groups: Vec<Gid>,
}

impl Who {
    fn of(status: &str) -> Option<Self> {
        let for_files = |name| field(status, name)?.split('\t').nth(3)?.parse().ok();
        let groups = field(status, "Groups:").unwrap_or_default().split_ascii_whitespace();
        Some(Self {
            process: number(status, "Tgid:")?,
            uid: for_files("Uid:")?,
            gid: for_files("Gid:")?,
            groups: groups.filter_map(|it| it.parse().ok().map(Gid::from_raw)).collect(),
        })
    }

    /// Does something with the rights that it has over files.
    pub(super) fn does<T>(&self, act: impl FnOnce() -> T) -> Result<T, Unanswered> {
        if (self.uid, self.gid) == (0, 0) {
            return Ok(act());
        }
        let own = unistd::getgroups()?;
        unistd::setgroups(&self.groups)?;
        let result = with_ids(self.uid, self.gid, act);
        unistd::setgroups(&own)?;
        result
    }
}

fn number(status: &str, name: &str) -> Option<u32> {
    field(status, name)?.parse().ok()
}

/// The value of a line of `/proc/PID/status`.
pub(super) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}
