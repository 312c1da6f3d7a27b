//! What there is to know about a file besides its name and content.

use std::fmt;
use std::sync::OnceLock;

use rustix::fs::{FileType, Stat, makedev};

/// The kinds of file that a layer can hold. (It cannot hold a socket, but a context can.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A socket.
    Socket,
}

impl Kind {
    fn of(mode: u32) -> Self {
        match FileType::from_raw_mode(mode) {
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Socket => Self::Socket,
            FileType::RegularFile | FileType::Unknown => Self::File,
        }
    }

    /// The `S_IFMT` bits of a mode.
    pub(crate) fn file_type(self) -> FileType {
        match self {
            Self::File => FileType::RegularFile,
            Self::Directory => FileType::Directory,
            Self::Symlink => FileType::Symlink,
            Self::Fifo => FileType::Fifo,
            Self::CharDevice => FileType::CharacterDevice,
            Self::BlockDevice => FileType::BlockDevice,
            Self::Socket => FileType::Socket,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symbolic link",
            Self::Fifo => "named pipe",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Socket => "socket",
        })
    }
}

/// A point in time, since 1970 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// Nanoseconds to add, below 10⁹.
    pub nanos: u32,
}

impl Timestamp {
    /// A whole second.
    pub fn from_secs(secs: i64) -> Self {
        Self { secs, nanos: 0 }
    }
}

/// What `lstat` tells about a file, with [`Stub`]s already turned into what they stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// What kind of file it is.
    pub kind: Kind,
    /// Permissions with set-id and sticky bits (`07777`).
    pub mode: u32,
    /// The owner, as the image numbers it.
    pub uid: u32,
    /// The group, as the image numbers it.
    pub gid: u32,
    /// The size in bytes; of a symbolic link, the length of its target.
    pub size: u64,
    /// When its content last changed.
    pub mtime: Timestamp,
    /// When its content or anything else about it last changed, by the kernel's clock.
    pub ctime: Timestamp,
    /// Major and minor number, of a device.
    pub rdev: (u32, u32),
    /// The file system that it is on.
    pub dev: u64,
    /// Its number there.
    pub ino: u64,
    /// How many names it has.
    pub nlink: u64,
}

impl Metadata {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    /// Whether it is what OverlayFS calls a whiteout: a character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharDevice && self.rdev == (0, 0)
    }

    /// What it is, given the stub that was found on it.
    ///
    /// Permissions are those on disk: whoever changed them later changed them there.
    pub(crate) fn with_stub(mut self, stub: &Stub) -> Self {
        let meant = stub.mode & 0o7777;
        if stub.wider && self.mode == reachable(self.kind, meant) {
            self.mode = meant;
        }
        self.kind = Kind::of(stub.mode);
        (self.uid, self.gid, self.rdev) = (stub.uid, stub.gid, stub.rdev);
        self
    }

    /// What it is, given whose it is meant to be.
    pub(crate) fn with_owner(mut self, (uid, gid): (u32, u32)) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }
}

/// Whether permissions bind this process: in every mode of isolation mica is root, without one it is
/// whoever started it.
pub(crate) fn is_bound() -> bool {
    static BOUND: OnceLock<bool> = OnceLock::new();
    *BOUND.get_or_init(|| !rustix::process::geteuid().is_root())
}

/// The permissions that a file or directory has to have on disk, so that whom they bind can read it, and
/// fill the directory.
pub(crate) fn reachable(kind: Kind, mode: u32) -> u32 {
    match kind {
        Kind::Directory => mode | 0o700,
        Kind::File => mode | 0o400,
        _ => mode,
    }
}

/// A plain user's own id on disk is root's in an image, as it is in a namespace that maps nothing else.
///
/// In every other mode of isolation mica is root itself, and ids are what they are.
pub(crate) fn owner(uid: u32, gid: u32) -> (u32, u32) {
    static OWN: OnceLock<(u32, u32)> = OnceLock::new();
    let own = OWN
        .get_or_init(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    if (uid, gid) == *own && own.0 != 0 { (0, 0) } else { (uid, gid) }
}

impl From<&Stat> for Metadata {
    // The types of `Stat`'s fields differ between architectures.
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        clippy::cast_lossless,
        clippy::allow_attributes,
        reason = "which of these casts is needless depends on the architecture"
    )]
    fn from(stat: &Stat) -> Self {
        let rdev = stat.st_rdev as u64;
        let (uid, gid) = owner(stat.st_uid, stat.st_gid);
        Self {
            kind: Kind::of(stat.st_mode as u32),
            mode: stat.st_mode as u32 & 0o7777,
            uid,
            gid,
            size: stat.st_size as u64,
            mtime: Timestamp { secs: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
            ctime: Timestamp { secs: stat.st_ctime as i64, nanos: stat.st_ctime_nsec as u32 },
            rdev: (rustix::fs::major(rdev), rustix::fs::minor(rdev)),
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            nlink: stat.st_nlink as u64,
        }
    }
}

/// What a file really is, where the user who unpacked it could not make it so.
///
/// In a user namespace nobody can make a device, nor give a file to an id outside of the map. Then
/// an empty file takes the device's place, or the file keeps its maker as owner, and the xattr
/// [`Stub::XATTR`] tells the truth: `MODE UID GID MAJOR:MINOR`, the mode octal and with the file
/// type's bits, the rest decimal; and ` wider` where permissions that are meant would have closed the file
/// to the user who made it. Readers of this module see the truth only. What can have no xattr
/// (links, pipes, sockets) is in the list of its directory, see `owners`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stub {
    /// File type and permissions, as `st_mode` has them.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Major and minor number, of a device.
    pub rdev: (u32, u32),
    /// Whether `mode` has what is meant, and the permissions on disk are wider.
    pub wider: bool,
}

impl Stub {
    /// The xattr that holds a stub.
    pub const XATTR: &str = "user.mica.stat";

    /// The xattr's value.
    pub fn encode(&self) -> String {
        let (major, minor) = self.rdev;
        let wider = if self.wider { " wider" } else { "" };
        format!("{:o} {} {} {major}:{minor}{wider}", self.mode, self.uid, self.gid)
    }

    /// Reads the xattr's value; `None` if it is not one that [`Stub::encode`] makes.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut words = text.split(' ');
        let mode = u32::from_str_radix(words.next()?, 8).ok()?;
        let uid = words.next()?.parse().ok()?;
        let gid = words.next()?.parse().ok()?;
        let (major, minor) = words.next()?.split_once(':')?;
        let rdev = (major.parse().ok()?, minor.parse().ok()?);
        let wider = match words.next() {
            None => false,
            Some("wider") => true,
            Some(_) => return None,
        };
        let stub = Self { mode, uid, gid, rdev, wider };
        words.next().is_none().then_some(stub)
    }

    /// The device number.
    pub(crate) fn device(rdev: (u32, u32)) -> u64 {
        makedev(rdev.0, rdev.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stub_round_trip() {
        let stub = Stub { mode: 0o020_666, uid: 0, gid: 5, rdev: (1, 3), wider: false };
        let wider = Stub { mode: 0o100_000, rdev: (0, 0), wider: true, ..stub };
        for (stub, text) in [(stub, "20666 0 5 1:3"), (wider, "100000 0 5 0:0 wider")] {
            assert_eq!(stub.encode(), text);
            assert_eq!(Stub::decode(text.as_bytes()), Some(stub));
        }
        for text in [
            "",
            "20666 0 5 1:3 more",
            "20666 0 5",
            "20666 0 5 1:3 ",
            "9 0 0 0:0",
            "20666 0 5 13",
            "-1 0 0 0:0",
        ] {
            assert_eq!(Stub::decode(text.as_bytes()), None, "{text}");
        }
    }
}
