//! Owner, mode, times and xattrs: setting them in the one order that works.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{self as sys, AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::handle::is_private_xattr;
use super::metadata::{is_bound, reachable};
use super::{Handle, Kind, Metadata, Stub, Timestamp};

/// What a new file, directory, link or device is to be given besides its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions with set-id and sticky bits (`07777`); a symbolic link has none.
    pub mode: u32,
    /// The owner, as the image numbers it.
    pub uid: u32,
    /// The group, as the image numbers it.
    pub gid: u32,
    /// When the content last changed.
    pub mtime: Timestamp,
    /// Extended attributes. Those of OverlayFS and ours are dropped.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Attributes {
    /// Those of an existing thing, without its xattrs.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: metadata.mtime,
            xattrs: Vec::new(),
        }
    }

    fn stub(&self, kind: Kind) -> Stub {
        let mode = kind.file_type().as_raw_mode() | self.mode;
        Stub { mode, uid: self.uid, gid: self.gid, rdev: (0, 0), wider: false }
    }
}

/// Whether the kernel said that this user cannot give a file to that owner, or make a device.
pub(crate) fn is_beyond_user(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::INVAL)
}

/// Gives an open file or directory its owner, mode and xattrs. Changing the owner clears set-id
/// bits and capabilities, so it comes first.
///
/// `has_owner` and `has_mode` tell what is right already, to save the calls.
pub(crate) fn set_on_fd(
    fd: impl AsFd,
    kind: Kind,
    attributes: &Attributes,
    has_owner: bool,
    has_mode: bool,
) -> std::result::Result<(), Errno> {
    let fd = fd.as_fd();
    let mode = on_disk(kind, attributes);
    let wider = mode != attributes.mode;
    let mut is_stub = wider;
    if !has_owner {
        match sys::fchown(fd, Some(uid(attributes.uid)), Some(gid(attributes.gid))) {
            Ok(()) => {}
            // Without a namespace, the maker counts as root.
            Err(errno) if is_beyond_user(errno) => {
                is_stub |= (attributes.uid, attributes.gid) != (0, 0);
            }
            Err(errno) => return Err(errno),
        }
    }
    if is_stub {
        let value = Stub { wider, ..attributes.stub(kind) }.encode();
        sys::fsetxattr(fd, Stub::XATTR, value.as_bytes(), XattrFlags::empty())?;
    }
    let set_xattrs = || {
        image_xattrs(attributes).try_for_each(|(name, value)| {
            sys::fsetxattr(fd, name, value, XattrFlags::empty()).or_else(tolerate)
        })
    };
    // Whom permissions bind has to come before they are read-only.
    if is_bound() {
        set_xattrs()?;
    }
    if !has_mode {
        sys::fchmod(fd, Mode::from_raw_mode(mode))?;
    }
    if is_bound() { Ok(()) } else { set_xattrs() }
}

/// The permissions that something gets on disk.
fn on_disk(kind: Kind, attributes: &Attributes) -> u32 {
    if is_bound() { reachable(kind, attributes.mode) } else { attributes.mode }
}

/// Gives the owner, mode, xattrs and time to the link, pipe or device `name`.
///
/// `Err(None)` says that the owner cannot be set and that there is no room to note it down.
pub(crate) fn set_on_name(
    dir: &Handle,
    name: &OsStr,
    kind: Kind,
    attributes: &Attributes,
) -> std::result::Result<(), Option<Errno>> {
    let (user, group) = (uid(attributes.uid), gid(attributes.gid));
    match sys::chownat(dir, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW) {
        Err(errno) if is_beyond_user(errno) => {
            let meant = (attributes.uid, attributes.gid);
            let meant = (meant != (0, 0)).then_some(meant);
            dir.set_owner_of(name, meant).map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::NOSPC | Errno::TOOBIG | Errno::OPNOTSUPP | Errno::RANGE) | None => None,
                errno => errno,
            })?;
        }
        result => result?,
    }
    if kind != Kind::Symlink {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = sys::openat(dir, name, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        sys::chmodat(sys::CWD, path, Mode::from_raw_mode(attributes.mode), AtFlags::empty())?;
    }
    for (xattr, value) in image_xattrs(attributes) {
        sys::lsetxattr(dir.magic_path(name), xattr, value, XattrFlags::empty())
            .or_else(tolerate)?;
    }
    let times = times(attributes.mtime);
    sys::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// Notes down what `file`, standing in for the device `name`, really is.
pub(crate) fn set_device_stub(
    file: impl AsFd,
    kind: Kind,
    rdev: (u32, u32),
    attributes: &Attributes,
) -> std::result::Result<(), Errno> {
    let mode = on_disk(Kind::File, attributes);
    let wider = mode != attributes.mode;
    let value = Stub { rdev, wider, ..attributes.stub(kind) }.encode();
    sys::fsetxattr(&file, Stub::XATTR, value.as_bytes(), XattrFlags::empty())?;
    sys::fchmod(&file, Mode::from_raw_mode(mode))?;
    sys::futimens(&file, &times(attributes.mtime))
}

/// Both times of a file. The access time says nothing in an image and is set to the same.
pub(crate) fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.min(999_999_999).into() };
    Timestamps { last_access: time, last_modification: time }
}

fn image_xattrs(attributes: &Attributes) -> impl Iterator<Item = (&OsStr, &[u8])> {
    use std::os::unix::ffi::OsStrExt;
    let kept = attributes.xattrs.iter().filter(|(name, _)| !is_private_xattr(name.as_bytes()));
    kept.map(|(name, value)| (name.as_os_str(), value.as_slice()))
}

/// An xattr that this file system or user cannot keep (`security.selinux`, `trusted.*`) is left out,
/// as containerd does; a full disk is an error.
fn tolerate(errno: Errno) -> std::result::Result<(), Errno> {
    match errno {
        Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL | Errno::ACCESS => Ok(()),
        errno => Err(errno),
    }
}

fn uid(id: u32) -> Uid {
    Uid::from_raw(id)
}

fn gid(id: u32) -> Gid {
    Gid::from_raw(id)
}
