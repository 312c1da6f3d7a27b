//! Calls that make files: devices, which nobody can make here, and whatever is made by a process that
//! takes itself for somebody else than root.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, mkdirat, mknodat, openat, statat, symlinkat};
use rustix::io::Errno;

use super::identities::Identities;
use super::record::{self, Note};
use super::tracee::{Tracee, Unanswered, field};
use super::{Answer, Asked, Call};
use crate::runtime::isolation::Emulation;
use crate::runtime::sys;

/// `mknod`: an empty file takes the device's place.
pub(super) fn node(
    mut tracee: Tracee<'_>,
    asked: &Asked<'_>,
    identities: &mut Identities,
    emulation: Emulation,
) -> Result<Answer, Unanswered> {
    let (directory, at) = match asked.call {
        Call::Mknod => (nix::libc::AT_FDCWD, 0),
        _ => (asked.descriptor(0), 1),
    };
    let (mode, device) = (asked.number(at + 1), asked.number(at + 2));
    let kind = FileType::from_raw_mode(mode);
    if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        return match emulation {
            Emulation::Owners => anything(tracee, asked, identities),
            _ => Ok(Answer::Continue),
        };
    }
    let device = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    // That one is the mark of a deleted file.
    if kind == FileType::CharacterDevice && device == (0, 0) {
        return Ok(Answer::Continue);
    }
    let may = match emulation {
        Emulation::Owners => identities.of(tracee.tid).is_privileged(),
        _ => field(&tracee.status()?, "Uid:").and_then(|ids| ids.split('\t').nth(1)) == Some("0"),
    };
    if !may {
        return Ok(Answer::Fails(Errno::PERM));
    }
    let path = tracee.path_at(asked.arguments[at])?;
    let (dir, name) = tracee.resolve_parent(directory, &path)?;
    let mode = mode & !tracee.umask()?;
    let note = Note { mode, uid: 0, gid: 0, device };
    Ok(record::make_stand_in(&dir, name, note).map(|()| Answer::Value(0)).into())
}

/// Files, directories and links: made here and noted as their maker's, unless that is root.
pub(super) fn anything(
    mut tracee: Tracee<'_>,
    asked: &Asked<'_>,
    identities: &mut Identities,
) -> Result<Answer, Unanswered> {
    let identity = identities.of(tracee.tid);
    if identity.makes_roots() {
        return Ok(Answer::Continue);
    }
    let current = nix::libc::AT_FDCWD;
    let (directory, at) = match asked.call {
        Call::Openat | Call::Mkdirat | Call::Mknodat => (asked.descriptor(0), 1),
        Call::Symlinkat => (asked.descriptor(1), 2),
        Call::Symlink => (current, 1),
        _ => (current, 0),
    };
    let path = tracee.path_at(asked.arguments[at])?;
    let path = match asked.call {
        Call::Mkdir | Call::Mkdirat => without_slashes(&path),
        _ => &path,
    };
    let (dir, name) = tracee.resolve_parent(directory, path)?;
    if statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Ok(Answer::Continue);
    }
    let uid = identity.user.fs;
    let (gid, inherited) = match inherited_group(&dir)? {
        Some(gid) => (gid, true),
        None => (identity.group.fs, false),
    };
    let made = Made { dir: &dir, name, uid, gid };
    let result = match asked.call {
        Call::Mkdir | Call::Mkdirat => {
            let mode = asked.number(at + 1) & 0o1777 & !tracee.umask()?;
            made.directory(mode | if inherited { 0o2000 } else { 0 })
        }
        Call::Symlink | Call::Symlinkat => {
            let target = tracee.path_at(asked.arguments[0])?;
            symlinkat(&target, &dir, name).map(|()| {
                let _noted_where_possible = record::write_link(&dir, name, uid, gid);
                Answer::Value(0)
            })
        }
        Call::Mknod | Call::Mknodat => {
            let mode = asked.number(at + 1);
            made.special(FileType::from_raw_mode(mode), mode & 0o7777 & !tracee.umask()?)
        }
        _ => {
            let (flags, mode) = match asked.call {
                Call::Creat => (OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, asked.number(1)),
                _ => (OFlags::from_bits_retain(asked.number(at + 1)), asked.number(at + 2)),
            };
            let mode = mode & 0o7777 & !tracee.umask()?;
            return made.file(&tracee, flags, mode);
        }
    };
    Ok(result.into())
}

/// A directory may be made by a name with slashes behind it.
fn without_slashes(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    Path::new(OsStr::from_bytes(&bytes[..end]))
}

/// The group that a directory gives to what is made in it.
fn inherited_group(dir: &OwnedFd) -> Result<Option<u32>, Unanswered> {
    let stat = rustix::fs::fstat(dir)?;
    let inherits = stat.st_mode & 0o2000 != 0;
    Ok(inherits.then(|| record::read(dir).map_or(stat.st_gid, |note| note.gid)))
}

/// A name that is free, and whose what is made there will be.
struct Made<'a> {
    dir: &'a OwnedFd,
    name: &'a OsStr,
    uid: u32,
    gid: u32,
}

impl Made<'_> {
    fn note(&self, mode: u32) -> Note {
        Note { mode, uid: self.uid, gid: self.gid, device: (0, 0) }
    }

    fn directory(&self, mode: u32) -> Result<Answer, Errno> {
        mkdirat(self.dir, self.name, Mode::from_raw_mode(0o700))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(self.dir, self.name, flags, Mode::empty())?;
        record::write(&made, self.note(FileType::Directory.as_raw_mode() | mode))?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
        Ok(Answer::Value(0))
    }

    /// A pipe, a socket, or an empty file.
    fn special(&self, kind: FileType, mode: u32) -> Result<Answer, Errno> {
        mknodat(self.dir, self.name, kind, Mode::from_raw_mode(mode), 0)?;
        if matches!(kind, FileType::Fifo | FileType::Socket) {
            let _noted_where_possible = record::write_link(self.dir, self.name, self.uid, self.gid);
            return Ok(Answer::Value(0));
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(self.dir, self.name, flags, Mode::empty())?;
        record::write(&made, self.note(FileType::RegularFile.as_raw_mode() | mode))?;
        Ok(Answer::Value(0))
    }

    /// An exclusive file is opened here for the process; any other it opens itself, now that it is
    /// there.
    fn file(&self, tracee: &Tracee<'_>, flags: OFlags, mode: u32) -> Result<Answer, Unanswered> {
        let making = OFlags::CREATE | OFlags::EXCL;
        let access = flags & !(OFlags::TRUNC | OFlags::NOCTTY);
        let access = if flags.contains(OFlags::EXCL) { access } else { OFlags::RDWR };
        let all = access | making | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(self.dir, self.name, all, Mode::from_raw_mode(mode)) {
            Ok(file) => file,
            // Somebody was faster.
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => {
                return Ok(Answer::Continue);
            }
            Err(errno) => return Ok(Answer::Fails(errno)),
        };
        let note = self.note(FileType::RegularFile.as_raw_mode() | mode);
        // By path: the descriptor may be for reading only.
        record::write(&file, note)?;
        if !flags.contains(OFlags::EXCL) {
            return Ok(Answer::Continue);
        }
        let closes = flags.contains(OFlags::CLOEXEC);
        sys::answer_with_descriptor(tracee.listener, tracee.id, file.as_fd(), closes)
            .map_err(|_| Unanswered)?;
        Ok(Answer::Done)
    }
}
