//! Writes down what a file is meant to be, where the kernel can't make it so.
//!
//! The form is that of `snapshot::Stub`, which readers of a layer see through: the xattr
//! `user.mica.stat` of a file, directory or stand-in, and `user.mica.links` of the directory for what
//! can have no such xattr itself. The words here and there have to be the same.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, XattrFlags, chmodat, fsetxattr, getxattr, openat, removexattr,
    setxattr,
};
use rustix::io::Errno;

const STAT: &str = "user.mica.stat";
const LINKS: &str = "user.mica.links";
const CAPABILITY: &str = "security.capability";

/// What is written down of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) device: (u32, u32),
}

impl Note {
    fn encode(self) -> String {
        let (major, minor) = self.device;
        format!("{:o} {} {} {major}:{minor}", self.mode, self.uid, self.gid)
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut words = text.split(' ');
        let mode = u32::from_str_radix(words.next()?, 8).ok()?;
        let (uid, gid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let (major, minor) = words.next()?.split_once(':')?;
        Some(Self { mode, uid, gid, device: (major.parse().ok()?, minor.parse().ok()?) })
    }

    /// Whether something else stands in for the file.
    pub(super) fn is_stand_in(&self) -> bool {
        let kind = FileType::from_raw_mode(self.mode);
        matches!(kind, FileType::CharacterDevice | FileType::BlockDevice)
    }
}

/// A path to what a descriptor stands for; the working directory is `/proc`.
pub(super) fn by_descriptor(fd: impl AsFd) -> String {
    format!("self/fd/{}", fd.as_fd().as_raw_fd())
}

/// What is written down of a file or directory.
pub(super) fn read(file: &OwnedFd) -> Option<Note> {
    let mut value = [0; 128];
    let length = getxattr(by_descriptor(file), STAT, &mut value).ok()?;
    Note::decode(&value[..length])
}

pub(super) fn write(file: &OwnedFd, note: Note) -> Result<(), Errno> {
    setxattr(by_descriptor(file), STAT, note.encode().as_bytes(), XattrFlags::empty())
}

pub(super) fn remove(file: &OwnedFd) -> Result<(), Errno> {
    match removexattr(by_descriptor(file), STAT) {
        Err(Errno::NODATA) => Ok(()),
        other => other,
    }
}

/// What a change of owner takes from a regular file: set-id bits and capabilities.
pub(super) fn take_privileges(file: &OwnedFd, mode: u32) {
    const SET_UID: u32 = 0o4000;
    const SET_GID_AND_EXECUTE: u32 = 0o2010;
    let mut kept = mode & 0o7777 & !SET_UID;
    if kept & SET_GID_AND_EXECUTE == SET_GID_AND_EXECUTE {
        kept &= !0o2000;
    }
    let path = by_descriptor(file);
    if kept != mode & 0o7777 {
        let _seen_by_the_owner =
            chmodat(rustix::fs::CWD, &path, Mode::from_raw_mode(kept), AtFlags::empty());
    }
    let _none = removexattr(&path, CAPABILITY);
}

/// Makes an empty file that stands in for a device.
pub(super) fn make_stand_in(dir: &OwnedFd, name: &OsStr, note: Note) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
    let noted = fsetxattr(&file, STAT, note.encode().as_bytes(), XattrFlags::empty())
        .and_then(|()| rustix::fs::fchmod(&file, Mode::from_raw_mode(note.mode & 0o7777)));
    if noted.is_err() {
        let _gone = rustix::fs::unlinkat(dir, name, AtFlags::empty());
    }
    noted
}

/// Writes down, or with root as the owner forgets, whose a link, pipe or socket is.
///
/// The list is as long as the file system's xattrs may be, some 4 KiB on ext4; what has no room in it
/// stays root's.
pub(super) fn write_link(dir: &OwnedFd, name: &OsStr, uid: u32, gid: u32) -> Result<(), Errno> {
    let before = read_links(dir);
    let mut list = Vec::with_capacity(before.len() + name.len() + 24);
    for entry in entries(&before).filter(|entry| entry.name != name.as_bytes()) {
        list.extend_from_slice(entry.whole);
        list.push(0);
    }
    if (uid, gid) != (0, 0) {
        list.extend_from_slice(format!("{uid} {gid} ").as_bytes());
        list.extend_from_slice(name.as_bytes());
        list.push(0);
    }
    if list == before {
        return Ok(());
    }
    setxattr(by_descriptor(dir), LINKS, &list, XattrFlags::empty())
}

/// Whose a link, pipe or socket is.
pub(super) fn read_link(dir: &OwnedFd, name: &OsStr) -> Option<(u32, u32)> {
    let list = read_links(dir);
    entries(&list).find(|entry| entry.name == name.as_bytes()).map(|it| (it.uid, it.gid))
}

fn read_links(dir: &OwnedFd) -> Vec<u8> {
    let mut value = vec![0; 64 << 10];
    let length = getxattr(by_descriptor(dir), LINKS, &mut value).unwrap_or(0);
    value.truncate(length);
    value
}

struct Entry<'a> {
    whole: &'a [u8],
    name: &'a [u8],
    uid: u32,
    gid: u32,
}

fn entries(list: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    list.split(|byte| *byte == 0).filter_map(|whole| {
        let mut words = whole.splitn(3, |byte| *byte == b' ');
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
        let (uid, gid) = (number()?, number()?);
        Some(Entry { whole, name: words.next()?, uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_those_that_layers_have() {
        let note = Note { mode: 0o020_666, uid: 0, gid: 5, device: (1, 3) };
        assert_eq!(note.encode(), "20666 0 5 1:3");
        assert_eq!(Note::decode(b"20666 0 5 1:3"), Some(note));
        assert!(note.is_stand_in());
        assert!(!Note { mode: 0o100_644, ..note }.is_stand_in());
        assert_eq!(Note::decode(b"nonsense"), None);
    }

    #[test]
    fn lists_of_links_are_read_entry_by_entry() {
        let list = b"1 2 a\x00garbage\x003 4 b c\x00";
        let found: Vec<_> = entries(list).map(|it| (it.name, it.uid, it.gid)).collect();
        assert_eq!(found, [(&b"a"[..], 1, 2), (&b"b c"[..], 3, 4)]);
    }
}
