//! One directory of the topmost layer, and the changes that can be made in it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self as sys, AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::attributes::{is_beyond_user, set_device_stub, set_on_fd, set_on_name, times};
use super::dirs::Dirs;
use super::handle::{DEFAULT_ACL, Handle, OPAQUE};
use super::metadata::is_bound;
use super::upper::Shared;
use super::{
    Attributes, Entry, Kind, Metadata, Result, SnapshotError, Stub, copy_file, remove_tree,
};

/// A directory of an [`Upper`](super::Upper) that exists in the topmost layer; cheap to clone.
///
/// It holds open the directory and those of lower layers that show through it. Names are single
/// components. A handle stays with its directory: once that is removed or hidden, what is made
/// through the handle is lost.
#[derive(Debug, Clone)]
pub struct UpperDir(Arc<Node>);

#[derive(Debug)]
struct Node {
    shared: Arc<Shared>,
    handle: Handle,
    lower: Dirs,
    /// Set when this handle made the directory opaque, so that the lower ones no longer show.
    opaque: AtomicBool,
    /// Whether new files take their group or mode from the directory rather than from their maker.
    bequeaths: bool,
    path: PathBuf,
}

impl UpperDir {
    pub(crate) fn new(
        shared: Arc<Shared>,
        handle: Handle,
        lower: Dirs,
        path: PathBuf,
    ) -> Result<Self> {
        let failed = |error: io::Error| SnapshotError::io("read", &path, error);
        let stat = sys::fstat(&handle).map_err(|errno| failed(errno.into()))?;
        let set_gid = Mode::from_raw_mode(stat.st_mode).contains(Mode::SGID);
        let bequeaths = set_gid || handle.xattr(None, DEFAULT_ACL).map_err(failed)?.is_some();
        Ok(Self::of(shared, handle, lower, path, bequeaths))
    }

    fn of(
        shared: Arc<Shared>,
        handle: Handle,
        lower: Dirs,
        path: PathBuf,
        bequeaths: bool,
    ) -> Self {
        let opaque = AtomicBool::new(false);
        Self(Arc::new(Node { shared, handle, lower, opaque, bequeaths, path }))
    }

    /// The directories that it consists of, topmost first.
    pub(crate) fn layers(&self) -> io::Result<Vec<Handle>> {
        let lower = self.lower().map_or(&[][..], |lower| &lower.handles);
        std::iter::once(&self.0.handle).chain(lower).map(Handle::try_clone).collect()
    }

    /// The path from the root, without a leading slash and free of links; empty for the root.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether the topmost layer itself has something of this name.
    pub fn has_own(&self, name: &OsStr) -> Result<bool> {
        check_name(name)?;
        let found = self.0.handle.metadata(name);
        found.map(|found| found.is_some()).map_err(|error| self.failed("look up", name, error))
    }

    /// What `name` is in the merged directory; `None` if there is no such thing.
    pub fn lookup(&self, name: &OsStr) -> Result<Option<Metadata>> {
        check_name(name)?;
        let failed = |error| self.failed("look up", name, error);
        match self.0.handle.metadata(name).map_err(failed)? {
            Some(metadata) if metadata.is_whiteout() => Ok(None),
            Some(metadata) => Ok(Some(metadata)),
            None => match self.lower() {
                Some(lower) => Ok(lower.lookup(name).map_err(failed)?.map(|found| found.metadata)),
                None => Ok(None),
            },
        }
    }

    /// The directory `name`. One that only lower layers have is copied up as it is; where there is
    /// none, it is made with `new`, and the answer is `true`.
    ///
    /// # Errors
    /// [`SnapshotError::NotADirectory`] if something else has the name.
    pub fn child(&self, name: &OsStr, new: &Attributes) -> Result<(Self, bool)> {
        self.child_or_new(name, new, true)
    }

    /// The directory `name` with these attributes, whether it is new or not; what lower layers have in
    /// it goes on showing through.
    ///
    /// # Errors
    /// [`SnapshotError::NotADirectory`] if something else has the name.
    pub fn child_with(&self, name: &OsStr, attributes: &Attributes) -> Result<Self> {
        if let Some(dir) = self.open_child(name)? {
            dir.set_attributes(attributes)?;
            return Ok(dir);
        }
        self.child_or_new(name, attributes, false).map(|(dir, _)| dir)
    }

    fn child_or_new(
        &self,
        name: &OsStr,
        new: &Attributes,
        keep_attributes: bool,
    ) -> Result<(Self, bool)> {
        check_name(name)?;
        if self.lower().is_none() {
            // Nothing shows through: most often it is not there yet.
            let _making = self.0.shared.making();
            if let Some(dir) = self.try_make_child(name, new, Dirs::default())? {
                return Ok((dir, true));
            }
        }
        if let Some(dir) = self.open_child(name)? {
            return Ok((dir, false));
        }
        let _making = self.0.shared.making();
        if let Some(dir) = self.open_child(name)? {
            return Ok((dir, false));
        }
        let failed = |error: io::Error| self.failed("make", name, error);
        let mut over_whiteout = false;
        if let Some(metadata) = self.0.handle.metadata(name).map_err(failed)? {
            if !metadata.is_whiteout() {
                return Err(self.not_a_directory(name, metadata.kind));
            }
            sys::unlinkat(&self.0.handle, name, AtFlags::empty())
                .map_err(|errno| failed(errno.into()))?;
            over_whiteout = true;
        } else if let Some(lower) = self.lower()
            && let Some(found) = lower.lookup(name).map_err(failed)?
        {
            if !found.metadata.is_dir() {
                return Err(self.not_a_directory(name, found.metadata.kind));
            }
            let shown = lower.child(name, found.index).map_err(failed)?;
            if !keep_attributes {
                return Ok((self.make_child(name, new, shown)?, false));
            }
            let xattrs = shown.handles.first().map(|dir| dir.xattrs(None)).transpose();
            let xattrs = xattrs.map_err(failed)?.unwrap_or_default();
            let same = Attributes { xattrs, ..Attributes::of(&found.metadata) };
            return Ok((self.make_child(name, &same, shown)?, false));
        }
        let dir = self.make_child(name, new, Dirs::default())?;
        if over_whiteout {
            // The whiteout hid what is below; the directory in its place must go on doing so.
            dir.make_opaque()?;
            self.0.shared.changed();
        }
        Ok((dir, true))
    }

    /// The directory `name` if the topmost layer has it.
    fn open_child(&self, name: &OsStr) -> Result<Option<Self>> {
        let failed = |error| self.failed("open", name, error);
        let handle = match self.0.handle.directory(name) {
            Ok(handle) => handle,
            Err(error) => {
                return match Errno::from_io_error(&error) {
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                    _ => Err(failed(error)),
                };
            }
        };
        let lower = match self.lower() {
            Some(lower) if !handle.is_opaque().map_err(failed)? => {
                match lower.lookup(name).map_err(failed)? {
                    Some(found) if found.metadata.is_dir() => {
                        lower.child(name, found.index).map_err(failed)?
                    }
                    _ => Dirs::default(),
                }
            }
            _ => Dirs::default(),
        };
        Self::new(Arc::clone(&self.0.shared), handle, lower, self.0.path.join(name)).map(Some)
    }

    /// Makes the directory `name`, over which nothing of that name shows.
    fn make_child(&self, name: &OsStr, attributes: &Attributes, lower: Dirs) -> Result<Self> {
        let made = self.try_make_child(name, attributes, lower)?;
        made.ok_or_else(|| self.failed("make", name, Errno::EXIST.into()))
    }

    /// The same; `None` where there is something.
    fn try_make_child(
        &self,
        name: &OsStr,
        attributes: &Attributes,
        lower: Dirs,
    ) -> Result<Option<Self>> {
        let failed = |error: io::Error| self.failed("make", name, error);
        let mode = attributes.mode & 0o777 | 0o700;
        match sys::mkdirat(&self.0.handle, name, Mode::from_raw_mode(mode)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(None),
            Err(errno) => return Err(failed(errno.into())),
        }
        let handle = self.0.handle.directory(name).map_err(failed)?;
        let (has_owner, has_mode) = self.gives(attributes, mode);
        set_on_fd(&handle, Kind::Directory, attributes, has_owner, has_mode)
            .map_err(|errno| failed(errno.into()))?;
        let path = self.0.path.join(name);
        let shared = Arc::clone(&self.0.shared);
        shared.set_time(&path, attributes.mtime);
        // What comes from this directory or its attributes is all that it could hand down.
        let special = attributes.mode & 0o2000 != 0 || !attributes.xattrs.is_empty();
        if self.0.bequeaths || special {
            return Self::new(shared, handle, lower, path).map(Some);
        }
        Ok(Some(Self::of(shared, handle, lower, path, false)))
    }

    /// Whether something that is made here with `mode` has the owner and the mode of `attributes` already.
    fn gives(&self, attributes: &Attributes, mode: u32) -> (bool, bool) {
        let shared = &self.0.shared;
        let has_owner = (attributes.uid, attributes.gid) == shared.maker;
        let has_mode = attributes.mode == mode & !shared.umask;
        (has_owner && !self.0.bequeaths, has_mode && !self.0.bequeaths)
    }

    /// Begins a regular file, in place of whatever `name` was, unless that is a directory.
    ///
    /// # Errors
    /// [`SnapshotError::IsADirectory`].
    pub fn create_file<'a>(&self, name: &OsStr, attributes: &'a Attributes) -> Result<NewFile<'a>> {
        let mode = attributes.mode & 0o777 | 0o600;
        let fd = self.place(name, || self.open_new(name, mode))?;
        let (has_owner, has_mode) = self.gives(attributes, mode);
        let path = self.0.path.join(name);
        Ok(NewFile { file: File::from(fd), attributes, has_owner, has_mode, path })
    }

    fn open_new(
        &self,
        name: &OsStr,
        mode: u32,
    ) -> std::result::Result<std::os::fd::OwnedFd, Errno> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        sys::openat(&self.0.handle, name, flags, Mode::from_raw_mode(mode))
    }

    /// Makes a symbolic link, in place of whatever `name` was, unless that is a directory.
    pub fn symlink(&self, name: &OsStr, target: &Path, attributes: &Attributes) -> Result<()> {
        self.place(name, || sys::symlinkat(target, &self.0.handle, name))?;
        self.set_on_name(name, Kind::Symlink, attributes)
    }

    /// Makes a pipe or a device, in place of whatever `name` was, unless that is a directory. Where
    /// this user can make no device, a [`Stub`] is made.
    ///
    /// # Errors
    /// A character device 0:0 is refused: it is the mark of a whiteout. So are sockets, and the kinds
    /// that have methods of their own.
    pub fn node(
        &self,
        name: &OsStr,
        kind: Kind,
        rdev: (u32, u32),
        attributes: &Attributes,
    ) -> Result<()> {
        let plain = matches!(kind, Kind::Fifo | Kind::CharDevice | Kind::BlockDevice);
        if !plain || (kind, rdev) == (Kind::CharDevice, (0, 0)) {
            return Err(self.failed("make", name, Errno::INVAL.into()));
        }
        let device = if kind == Kind::Fifo { 0 } else { Stub::device(rdev) };
        let mode = Mode::from_raw_mode(attributes.mode & 0o777);
        let made = self.place(name, || {
            match sys::mknodat(&self.0.handle, name, kind.file_type(), mode, device) {
                Ok(()) => Ok(true),
                Err(errno) if is_beyond_user(errno) => Ok(false),
                Err(errno) => Err(errno),
            }
        })?;
        if made {
            return self.set_on_name(name, kind, attributes);
        }
        self.stand_in(name, kind, rdev, attributes)
    }

    /// Makes a [`Stub`] of a device, in place of whatever `name` was, unless that is a directory.
    pub(crate) fn stand_in(
        &self,
        name: &OsStr,
        kind: Kind,
        rdev: (u32, u32),
        attributes: &Attributes,
    ) -> Result<()> {
        let file = self.place(name, || self.open_new(name, 0o600))?;
        set_device_stub(&file, kind, rdev, attributes)
            .map_err(|errno| self.failed("make", name, errno.into()))
    }

    /// Makes `name` a hard link to `from_name` in `from`, which is copied up if only a lower layer has
    /// it. A name that already is that file stays.
    ///
    /// # Errors
    /// [`SnapshotError::IsADirectory`] at either end; `ENOENT` if there is nothing to link to.
    pub fn hard_link(&self, name: &OsStr, from: &Self, from_name: &OsStr) -> Result<()> {
        from.copy_up(from_name)?;
        let failed = |error| self.failed("link", name, error);
        let source = from.0.handle.stat(from_name).map_err(failed)?;
        let target = self.0.handle.stat(name).map_err(failed)?;
        if let (Some(source), Some(target)) = (&source, &target)
            && (source.dev, source.ino) == (target.dev, target.ino)
        {
            return Ok(());
        }
        self.place(name, || {
            sys::linkat(&from.0.handle, from_name, &self.0.handle, name, AtFlags::empty())
        })
    }

    /// Makes `name` a hard link to a file of another snapshot on the same file system: a copy that
    /// costs nothing and has the same owner, mode, times and xattrs.
    ///
    /// Only for a layer directory that no process will write in place, which holds for all once they
    /// are finished. Two names that were one file in the source become one file here too.
    ///
    /// # Errors
    /// `EXDEV`, `EMLINK` and `EPERM` ([`SnapshotError::errno`]) say that a real copy is needed.
    pub fn link_entry(&self, name: &OsStr, entry: &Entry) -> Result<()> {
        let (dir, from) = entry.place();
        self.place(name, || sys::linkat(dir, from, &self.0.handle, name, AtFlags::empty()))
    }

    /// The same for the file of that name in `dir`, a directory of such a snapshot's topmost layer, about
    /// which the kernel need not be asked then.
    ///
    /// # Errors
    /// As [`UpperDir::link_entry`]; `ENOENT` and `ENOTDIR` where there is no such file or directory.
    pub fn link_from(&self, dir: &Entry, name: &OsStr) -> Result<()> {
        let dirs = dir.dirs()?;
        let from =
            dirs.handles.first().ok_or_else(|| self.failed("link", name, Errno::NOENT.into()))?;
        self.place(name, || sys::linkat(from, name, &self.0.handle, name, AtFlags::empty()))
    }

    /// Copies `name` up from the layers below, if it is not in the topmost one yet.
    fn copy_up(&self, name: &OsStr) -> Result<()> {
        check_name(name)?;
        let failed = |error: io::Error| self.failed("copy", name, error);
        let is_dir = || SnapshotError::IsADirectory { path: self.0.path.join(name) };
        match self.0.handle.metadata(name).map_err(failed)? {
            Some(metadata) if metadata.is_dir() => return Err(is_dir()),
            Some(metadata) if metadata.is_whiteout() => return Err(failed(Errno::NOENT.into())),
            Some(_) => return Ok(()),
            None => {}
        }
        let lower = self.lower().ok_or_else(|| failed(Errno::NOENT.into()))?;
        let found = lower.lookup(name).map_err(failed)?;
        let found = found.ok_or_else(|| failed(Errno::NOENT.into()))?;
        let source = &lower.handles[found.index];
        let xattrs = source.xattrs(Some(name)).map_err(failed)?;
        let attributes = Attributes { xattrs, ..Attributes::of(&found.metadata) };
        match found.metadata.kind {
            Kind::Directory => Err(is_dir()),
            Kind::File => {
                let content = source.file(name).map_err(failed)?;
                let new = self.create_file(name, &attributes)?;
                copy_file(&content, new.file(), found.metadata.size, None)
                    .map_err(|error| error.at(&self.0.path.join(name)))?;
                new.finish()
            }
            Kind::Symlink => {
                let target = source.read_link(name).map_err(failed)?;
                self.symlink(name, &target, &attributes)
            }
            kind => self.node(name, kind, found.metadata.rdev, &attributes),
        }
    }

    /// Removes `name`, whole trees too; a whiteout is left if a lower layer has it. What is not there
    /// is no error.
    pub fn remove(&self, name: &OsStr) -> Result<()> {
        let failed = |error| self.failed("remove", name, error);
        check_name(name)?;
        self.0.shared.changed();
        match self.0.handle.metadata(name).map_err(failed)? {
            Some(metadata) if metadata.is_whiteout() => return Ok(()),
            Some(_) => {
                remove_tree(&self.0.handle, name).map_err(failed)?;
                self.0.handle.set_owner_of(name, None).map_err(failed)?;
            }
            None => {}
        }
        match self.lower() {
            Some(lower) if lower.lookup(name).map_err(failed)?.is_some() => {
                self.make_whiteout(name)
            }
            _ => Ok(()),
        }
    }

    /// Hides what lower layers have as `name`, and nothing else: a directory of that name in the
    /// topmost layer becomes opaque, any other file stays as it is. Where there is nothing, a whiteout
    /// is made whether or not a lower layer has the name.
    pub fn whiteout(&self, name: &OsStr) -> Result<()> {
        check_name(name)?;
        self.0.shared.changed();
        if let Some(dir) = self.open_child(name)? {
            return dir.make_opaque();
        }
        match self.0.handle.stat(name).map_err(|error| self.failed("remove", name, error))? {
            Some(_) => Ok(()),
            None => self.make_whiteout(name),
        }
    }

    fn make_whiteout(&self, name: &OsStr) -> Result<()> {
        let failed = |errno: Errno| self.failed("make a whiteout for", name, errno.into());
        let kind = Kind::CharDevice;
        let device = Stub::device((0, 0));
        match sys::mknodat(&self.0.handle, name, kind.file_type(), Mode::empty(), device) {
            // An overlay keeps these for itself, and can't be a part of another overlay anyway.
            Err(Errno::PERM) => {
                let file = self.open_new(name, 0o600).map_err(failed)?;
                set_device_stub(&file, kind, (0, 0), &Attributes::default()).map_err(failed)
            }
            made => made.map_err(failed),
        }
    }

    /// Hides all that lower layers have in this directory; what the topmost layer has stays.
    pub fn make_opaque(&self) -> Result<()> {
        sys::fsetxattr(&self.0.handle, OPAQUE, b"y", XattrFlags::empty())
            .map_err(|errno| SnapshotError::io("empty", self.path(), errno))?;
        self.0.opaque.store(true, Ordering::Release);
        self.0.shared.changed();
        Ok(())
    }

    /// Removes all that is in this directory, of whatever layer.
    pub fn clear(&self) -> Result<()> {
        let failed = |error| SnapshotError::io("empty", self.path(), error);
        for name in self.0.handle.names().map_err(failed)? {
            remove_tree(&self.0.handle, &name).map_err(failed)?;
            self.0.handle.set_owner_of(&name, None).map_err(failed)?;
        }
        self.make_opaque()
    }

    /// Gives the directory itself other attributes; its time is set by [`Upper::finish`](super::Upper::finish).
    pub fn set_attributes(&self, attributes: &Attributes) -> Result<()> {
        let failed = |errno| SnapshotError::io("set the owner or mode of", self.path(), errno);
        match sys::fremovexattr(&self.0.handle, Stub::XATTR) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(failed(errno)),
        }
        set_on_fd(&self.0.handle, Kind::Directory, attributes, false, false).map_err(failed)?;
        self.0.shared.set_time(self.path(), attributes.mtime);
        Ok(())
    }

    /// Gives the file `name` of the topmost layer other attributes, and with it all its names.
    pub fn change_file(&self, name: &OsStr, attributes: &Attributes) -> Result<()> {
        let found = self.0.handle.stat(name).map_err(|error| self.failed("read", name, error))?;
        let Some(found) = found else { return Ok(()) };
        if found.kind != Kind::File {
            return self.set_on_name(name, found.kind, attributes);
        }
        let failed = |errno: Errno| self.failed("set the owner or mode of", name, errno.into());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = sys::openat(&self.0.handle, name, flags, Mode::empty()).map_err(failed)?;
        // A new owner would cost it its capabilities, so there is none without need.
        if (found.uid, found.gid, found.mode) != (attributes.uid, attributes.gid, attributes.mode) {
            if is_bound() {
                sys::fchmod(&file, Mode::RUSR | Mode::WUSR).map_err(failed)?;
            }
            match sys::fremovexattr(&file, Stub::XATTR) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(failed(errno)),
            }
            set_on_fd(&file, Kind::File, attributes, false, false).map_err(failed)?;
        }
        sys::futimens(&file, &times(attributes.mtime)).map_err(failed)
    }

    fn set_on_name(&self, name: &OsStr, kind: Kind, attributes: &Attributes) -> Result<()> {
        set_on_name(&self.0.handle, name, kind, attributes).map_err(|errno| match errno {
            Some(errno) => self.failed("set the owner or mode of", name, errno.into()),
            None => SnapshotError::Owner {
                path: self.0.path.join(name),
                uid: attributes.uid,
                gid: attributes.gid,
            },
        })
    }

    /// The lower directories that show through, if any.
    fn lower(&self) -> Option<&Dirs> {
        let shows = !self.0.lower.handles.is_empty() && !self.0.opaque.load(Ordering::Acquire);
        shows.then_some(&self.0.lower)
    }

    /// Makes sure that a file called `name` can be in this directory, to be put there later by whoever
    /// reads the layer.
    ///
    /// # Errors
    /// [`SnapshotError::IsADirectory`].
    pub fn make_way(&self, name: &OsStr) -> Result<()> {
        check_name(name)?;
        if self.lower().is_some()
            && let Some(metadata) = self.lookup(name)?
        {
            if metadata.is_dir() {
                return Err(SnapshotError::IsADirectory { path: self.0.path.join(name) });
            }
            self.0.shared.changed();
        }
        Ok(())
    }

    /// Makes something called `name`; a file, link or whiteout of that name goes first.
    fn place<T>(
        &self,
        name: &OsStr,
        mut make: impl FnMut() -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        self.make_way(name)?;
        loop {
            match make() {
                Ok(made) => return Ok(made),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.failed("make", name, errno.into())),
            }
            self.0.shared.changed();
            match sys::unlinkat(&self.0.handle, name, AtFlags::empty()) {
                Ok(()) => {
                    let forgotten = self.0.handle.set_owner_of(name, None);
                    forgotten.map_err(|error| self.failed("replace", name, error))?;
                }
                Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => {
                    return Err(SnapshotError::IsADirectory { path: self.0.path.join(name) });
                }
                Err(errno) => return Err(self.failed("replace", name, errno.into())),
            }
        }
    }

    fn not_a_directory(&self, name: &OsStr, kind: Kind) -> SnapshotError {
        SnapshotError::NotADirectory { path: self.0.path.join(name), kind }
    }

    fn failed(&self, action: &'static str, name: &OsStr, error: io::Error) -> SnapshotError {
        SnapshotError::io(action, &self.0.path.join(name), error)
    }
}

/// A regular file that is being written. Dropped before [`NewFile::finish`], it keeps the owner, the
/// mode and the times of a file just made.
#[derive(Debug)]
pub struct NewFile<'a> {
    file: File,
    attributes: &'a Attributes,
    has_owner: bool,
    has_mode: bool,
    path: PathBuf,
}

impl NewFile<'_> {
    /// The open file, empty at first, for writing and reading.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its owner, mode, xattrs and, last, times.
    pub fn finish(self) -> Result<()> {
        set_on_fd(&self.file, Kind::File, self.attributes, self.has_owner, self.has_mode)
            .and_then(|()| sys::futimens(&self.file, &times(self.attributes.mtime)))
            .map_err(|errno| SnapshotError::io("set the owner or mode of", &self.path, errno))
    }
}

fn check_name(name: &OsStr) -> Result<()> {
    let bytes = name.as_bytes();
    let valid =
        !matches!(bytes, b"" | b"." | b"..") && !bytes.iter().any(|b| matches!(b, 0 | b'/'));
    if valid { Ok(()) } else { Err(SnapshotError::InvalidName { name: name.into() }) }
}
