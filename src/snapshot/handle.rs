//! A directory held open, and what can be done to the names in it without following any link.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    self as sys, AtFlags, FileType, Mode, OFlags, RawDir, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, XattrFlags,
};
use rustix::io::Errno;

use super::attributes::times;
use super::owners::Owners;
use super::{Metadata, Stub, Timestamp};

/// The xattr with which OverlayFS marks a directory that hides those below it.
pub(crate) const OPAQUE: &str = "user.overlay.opaque";

/// The xattr with which a directory gives an access list to what is made in it.
pub(crate) const DEFAULT_ACL: &str = "system.posix_acl_default";
/// The xattr that such a list is then kept in.
const ACL: &str = "system.posix_acl_access";

/// A directory held open.
///
/// All names that its methods take are single components; the last component is never followed.
/// Errors are the kernel's: callers know the path and add it.
#[derive(Debug)]
pub struct Handle(OwnedFd);

/// Opens the regular file at a path of the host that the user or the store has named, links followed. A
/// pipe that nobody writes to does not make anybody wait.
///
/// # Errors
/// What the kernel says; for anything else than a file, that it is none.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open_sized(path).map(|(file, _)| file)
}

fn open_sized(path: &Path) -> io::Result<(File, u64)> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let size = size_of_regular(&file)?;
    Ok((file, size))
}

/// How many bytes are in what was opened.
///
/// # Errors
/// What the kernel says; for anything else than a file, that it is none.
pub fn size_of_regular(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.is_file() {
        Ok(metadata.len())
    } else {
        Err(io::Error::other("it is no regular file"))
    }
}

/// The bytes of a file, which is opened as by [`open_regular`].
///
/// # Errors
/// What the kernel says; for anything else than a file, that it is none.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    // So much that nothing is left to ask for, but not as much as a sparse file claims.
    const ROOM_BYTES: u64 = 32;
    const MOST_BYTES: u64 = 16 << 20;
    let (file, size) = open_sized(path)?;
    let size = usize::try_from(size.min(MOST_BYTES) + ROOM_BYTES).unwrap_or_default();
    let mut bytes = Vec::with_capacity(size);
    // A file by itself would ask the kernel for its size again, and for its place: each record counts.
    file.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Handle {
    /// Opens a directory of the host by its path, which must come from the user or from us.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(sys::open(path, flags, Mode::empty())?))
    }

    /// Opens the directory `name` for reading.
    pub fn directory(&self, name: &OsStr) -> io::Result<Self> {
        Ok(self.open_directory(name, OFlags::RDONLY)?)
    }

    /// Opens the directory `name` for passing through, which does not need the right to list it.
    pub(crate) fn passage(&self, name: &OsStr) -> io::Result<Self> {
        Ok(self.open_directory(name, OFlags::PATH)?)
    }

    fn open_directory(&self, name: &OsStr, access: OFlags) -> Result<Self, Errno> {
        let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        sys::openat(&self.0, name, flags, Mode::empty()).map(Self)
    }

    /// A second handle on the same directory.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Opens the regular file `name` for reading; anything else is refused without waiting for it.
    pub fn file(&self, name: &OsStr) -> io::Result<File> {
        Ok(self.file_and_metadata(name)?.0)
    }

    fn file_and_metadata(&self, name: &OsStr) -> io::Result<(File, Metadata)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = sys::openat(&self.0, name, flags | OFlags::NOCTTY, Mode::empty())?;
        let metadata = Metadata::from(&sys::fstat(&file)?);
        if metadata.is_file() { Ok((file.into(), metadata)) } else { Err(Errno::INVAL.into()) }
    }

    /// The directory's own metadata.
    pub fn own_metadata(&self) -> io::Result<Metadata> {
        self.see_through_own(Metadata::from(&sys::fstat(&self.0)?))
    }

    fn see_through_own(&self, metadata: Metadata) -> io::Result<Metadata> {
        Ok(match self.own_xattr(Stub::XATTR)?.as_deref().and_then(Stub::decode) {
            Some(stub) => metadata.with_stub(&stub),
            None => metadata,
        })
    }

    /// What `lstat` tells about `name`; `None` if there is no such file.
    pub fn stat(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        match sys::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Metadata::from(&stat))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Like [`Handle::stat`], with stubs turned into what they stand for.
    pub fn metadata(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        let Some(metadata) = self.stat(name)? else { return Ok(None) };
        self.see_through(name, metadata).map(Some)
    }

    /// What `name` is, given what it seems to be.
    fn see_through(&self, name: &OsStr, seems: Metadata) -> io::Result<Metadata> {
        if !(seems.is_file() || seems.is_dir()) {
            return Ok(match self.owners()?.of(name) {
                Some(owner) => seems.with_owner(owner),
                None => seems,
            });
        }
        Ok(match self.xattr(Some(name), Stub::XATTR)?.as_deref().and_then(Stub::decode) {
            Some(stub) => seems.with_stub(&stub),
            None => seems,
        })
    }

    /// The target of the symbolic link `name`.
    pub fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        let target = sys::readlinkat(&self.0, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// The names in the directory, without `.` and `..`, in the kernel's order.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        // A handle of its own: this one may be for passing through, or be listed by others as well.
        let mut listed = self.open_directory(OsStr::new("."), OFlags::RDONLY)?;
        Ok(listed.names_and_types()?.into_iter().map(|(name, _)| name).collect())
    }

    /// The same, with what the directory says that they are, which a file system need not know. Only for
    /// a handle that nobody has listed.
    fn names_and_types(&mut self) -> io::Result<Vec<(OsString, FileType)>> {
        const BUFFER_BYTES: usize = 16 << 10;
        let mut names = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut entries = RawDir::new(&self.0, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
            }
        }
        Ok(names)
    }

    /// The same, sorted.
    fn sorted_names(&mut self) -> io::Result<std::vec::IntoIter<(OsString, FileType)>> {
        let mut names = self.names_and_types()?;
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(names.into_iter())
    }

    /// Whether the directory hides those below it.
    pub fn is_opaque(&self) -> io::Result<bool> {
        Ok(self.own_xattr(OPAQUE)?.as_deref() == Some(b"y"))
    }

    fn own_xattr(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        absent(read_xattr(|buffer| sys::fgetxattr(&self.0, name, buffer)))
    }

    /// Whose the links, pipes and sockets in the directory are meant to be.
    fn owners(&self) -> io::Result<Owners> {
        Ok(Owners::decode(self.own_xattr(Owners::XATTR)?.unwrap_or_default()))
    }

    /// Notes down whose the link, pipe or socket `name` is meant to be; `None` for whose it is.
    pub(crate) fn set_owner_of(&self, name: &OsStr, owner: Option<(u32, u32)>) -> io::Result<()> {
        let mut owners = self.owners()?;
        if owners.set(name, owner) {
            sys::fsetxattr(&self.0, Owners::XATTR, owners.encode(), XattrFlags::empty())?;
        }
        Ok(())
    }

    /// The xattr `xattr` of `name`, or of the directory itself for `None`.
    pub fn xattr(&self, name: Option<&OsStr>, xattr: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(name) = name else { return self.own_xattr(xattr) };
        let path = self.magic_path(name);
        absent(read_xattr(|buffer| sys::lgetxattr(&path, xattr, buffer)))
    }

    /// Whether `name` has any xattr at all, which one cheap call tells, and most files have none.
    pub fn has_xattrs(&self, name: &OsStr) -> io::Result<bool> {
        has_any(sys::llistxattr_query(self.magic_path(name)))
    }

    /// All xattrs of `name`, or of the directory itself for `None`, sorted by name; without those
    /// that are OverlayFS's or ours.
    pub fn xattrs(&self, name: Option<&OsStr>) -> io::Result<Vec<(OsString, Vec<u8>)>> {
        let Some(name) = name else { return xattrs_of(&self.0) };
        let path = self.magic_path(name);
        collect_xattrs(read_xattr(|buffer| sys::llistxattr(&path, buffer)), |xattr, buffer| {
            sys::lgetxattr(&path, xattr, buffer)
        })
    }

    /// Sets the modification time of `name`, without following it.
    pub fn set_mtime(&self, name: &OsStr, mtime: Timestamp) -> io::Result<()> {
        Ok(sys::utimensat(&self.0, name, &mtime_only(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Sets the modification time of the directory itself.
    pub fn set_own_mtime(&self, mtime: Timestamp) -> io::Result<()> {
        Ok(sys::futimens(&self.0, &mtime_only(mtime))?)
    }

    /// Changes nothing but when the directory was last changed.
    pub(crate) fn touch(&self) -> io::Result<()> {
        let time = |nanos| Timespec { tv_sec: 0, tv_nsec: nanos };
        let times =
            Timestamps { last_access: time(UTIME_NOW), last_modification: time(UTIME_OMIT) };
        Ok(sys::futimens(&self.0, &times)?)
    }

    /// Takes access lists off the directory: they are the host's, and would be handed down to
    /// everything that is made below.
    pub(crate) fn remove_own_acls(&self) -> io::Result<()> {
        for xattr in [DEFAULT_ACL, ACL] {
            match sys::fremovexattr(&self.0, xattr) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// A path to `name` for the calls that take no directory handle. The kernel resolves its front
    /// to this very directory, and an `l…` call does not follow its last component.
    pub(crate) fn magic_path(&self, name: &OsStr) -> PathBuf {
        let mut path = OsString::from(format!("/proc/self/fd/{}/", self.0.as_raw_fd()));
        path.push(name);
        path.into()
    }
}

impl From<OwnedFd> for Handle {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn mtime_only(mtime: Timestamp) -> Timestamps {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Timestamps { last_access: omit, ..times(mtime) }
}

/// Whether an xattr is a mark of OverlayFS or of ours rather than a part of the image.
pub(crate) fn is_private_xattr(name: &[u8]) -> bool {
    [&b"user.overlay."[..], b"trusted.overlay.", b"user.mica."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Whether an open file has no xattr at all.
pub(crate) fn has_no_xattrs(file: &File) -> io::Result<bool> {
    has_any(sys::flistxattr_query(file)).map(|any| !any)
}

/// What the length of a list of xattrs says.
fn has_any(length: Result<usize, Errno>) -> io::Result<bool> {
    match length {
        Ok(bytes) => Ok(bytes > 0),
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// All xattrs of an open file or directory, as [`Handle::xattrs`] gives them.
pub(crate) fn xattrs_of(file: impl AsFd) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    collect_xattrs(read_xattr(|buffer| sys::flistxattr(&file, buffer)), |xattr, buffer| {
        sys::fgetxattr(&file, xattr, buffer)
    })
}

fn collect_xattrs(
    list: Result<Vec<u8>, Errno>,
    mut get: impl FnMut(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let mut xattrs = Vec::new();
    for xattr in absent(list)?.unwrap_or_default().split(|byte| *byte == 0) {
        if xattr.is_empty() || is_private_xattr(xattr) {
            continue;
        }
        if let Some(value) = absent(read_xattr(|buffer| get(xattr, buffer)))? {
            xattrs.push((OsStr::from_bytes(xattr).to_owned(), value));
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

/// Calls `read` with a buffer that is large enough in nearly all cases, then with one that always is.
fn read_xattr(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    /// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of Linux.
    const LARGEST: usize = 64 << 10;
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(length) => Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; LARGEST];
            let length = read(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(errno) => Err(errno),
    }
}

/// A missing xattr is no error, nor is one on a file system or kind of file that has none, nor what
/// this user may not read (`user.*` of an unreadable file): it is not there for that user.
fn absent(result: Result<Vec<u8>, Errno>) -> io::Result<Option<Vec<u8>>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT | Errno::ACCESS | Errno::PERM) => {
            Ok(None)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// One step of a [`Walk`].
#[derive(Debug)]
pub enum WalkEvent {
    /// A directory begins: [`Walk::dir`] is itself, [`Walk::path`] its path.
    Enter(Metadata),
    /// Anything else: [`Walk::dir`] is its directory, [`Walk::path`] its path.
    Leaf(Metadata),
    /// The directory of the path ends: [`Walk::dir`] is itself.
    Leave,
}

/// Walks one directory tree in the order of its names, depth first.
///
/// It holds two handles however deep the tree is, and uses no recursion: the way up goes through
/// `..`, and must end where the way down came from.
#[derive(Debug)]
pub struct Walk {
    root: Handle,
    dir: Handle,
    levels: Vec<Level>,
    path: Vec<u8>,
    leaving: bool,
    opens_files: bool,
    file: Option<File>,
    has_xattrs: bool,
}

#[derive(Debug)]
struct Level {
    names: std::vec::IntoIter<(OsString, FileType)>,
    /// Where the directory is, to be sure that `..` leads to it.
    id: (u64, u64),
    /// The length of its path.
    path_bytes: usize,
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev, metadata.ino)
}

impl Walk {
    /// Walks what is below `root`; the root itself is no event.
    pub fn new(root: Handle) -> io::Result<Self> {
        // A handle of its own, as others may list the root as well.
        let mut dir = root.directory(OsStr::new("."))?;
        let (path_bytes, id) = (0, identity(&Metadata::from(&sys::fstat(&dir)?)));
        let levels = vec![Level { names: dir.sorted_names()?, id, path_bytes }];
        let (path, leaving, opens_files, file, has_xattrs) =
            (Vec::new(), false, false, None, false);
        Ok(Self { root, dir, levels, path, leaving, opens_files, file, has_xattrs })
    }

    /// The same, for who reads the files: each is opened, which tells what it is, too.
    pub(crate) fn opening_files(root: Handle) -> io::Result<Self> {
        Ok(Self { opens_files: true, ..Self::new(root)? })
    }

    /// The regular file of the last event, if this walk opens them.
    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// The directory of the last event.
    pub fn dir(&self) -> &Handle {
        &self.dir
    }

    /// The path of the last event, relative to the root.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// The last component of [`Walk::path`].
    pub fn name(&self) -> &OsStr {
        let start = self.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        OsStr::from_bytes(&self.path[start..])
    }

    /// Whether the regular file or the directory of the last event has xattrs.
    pub fn has_xattrs(&self) -> bool {
        self.has_xattrs
    }

    /// Goes on; `None` at the end.
    pub fn advance(&mut self) -> io::Result<Option<WalkEvent>> {
        if self.leaving {
            self.ascend()?;
        }
        self.file = None;
        let Some(level) = self.levels.last_mut() else { return Ok(None) };
        self.path.truncate(level.path_bytes);
        let Some((name, kind)) = level.names.next() else {
            if self.levels.len() == 1 {
                self.levels.clear();
                return Ok(None);
            }
            self.leaving = true;
            return Ok(Some(WalkEvent::Leave));
        };
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.as_bytes());
        let metadata = match kind {
            FileType::Directory => return self.descend(&name).map(Some),
            FileType::RegularFile if self.opens_files => self.open_file(&name)?,
            // The directory need not know, and it may have changed since.
            _ => match self.dir.stat(&name)?.ok_or(Errno::NOENT)? {
                metadata if metadata.is_dir() => return self.descend(&name).map(Some),
                metadata if metadata.is_file() && self.opens_files => self.open_file(&name)?,
                metadata => metadata,
            },
        };
        self.has_xattrs = match &self.file {
            Some(file) => !has_no_xattrs(file)?,
            None => metadata.is_file() && self.dir.has_xattrs(&name)?,
        };
        let metadata = if self.has_xattrs || !metadata.is_file() {
            self.dir.see_through(&name, metadata)?
        } else {
            metadata
        };
        Ok(Some(WalkEvent::Leaf(metadata)))
    }

    fn open_file(&mut self, name: &OsStr) -> io::Result<Metadata> {
        let (file, metadata) = self.dir.file_and_metadata(name)?;
        self.file = Some(file);
        Ok(metadata)
    }

    fn descend(&mut self, name: &OsStr) -> io::Result<WalkEvent> {
        self.dir = self.dir.directory(name)?;
        let metadata = Metadata::from(&sys::fstat(&self.dir)?);
        let (names, id) = (self.dir.sorted_names()?, identity(&metadata));
        self.levels.push(Level { names, id, path_bytes: self.path.len() });
        self.has_xattrs = has_any(sys::flistxattr_query(&self.dir))?;
        let metadata = if self.has_xattrs { self.dir.see_through_own(metadata)? } else { metadata };
        Ok(WalkEvent::Enter(metadata))
    }

    fn ascend(&mut self) -> io::Result<()> {
        self.leaving = false;
        self.levels.pop();
        let Some(level) = self.levels.last() else { return Ok(()) };
        if self.levels.len() == 1 {
            self.dir = self.root.try_clone()?;
            return Ok(());
        }
        let parent = self.dir.directory(OsStr::new(".."))?;
        if identity(&Metadata::from(&sys::fstat(&parent)?)) != level.id {
            return Err(io::Error::other("a directory was moved while it was read"));
        }
        self.dir = parent;
        Ok(())
    }
}
