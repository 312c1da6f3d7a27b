//! The files of an image without the image: into a folder of the user's, or as a tar.
//!
//! A folder is written as BuildKit's client does it: what it holds already stays, unless the image has
//! something else of that name; everything belongs to whoever runs mica; modes and times are the
//! image's. Each file appears whole or not at all. The folder may hold anything: names are walked below
//! held handles, and no link in it is followed.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::{ExportError, Stop};
use crate::snapshot::{
    Entry, Handle, Kind, SnapshotError, View, ViewEvent, ViewWalk, copy_file, remove_tree,
};
use crate::store::{Image, Store, StoreError};

/// How a folder is written.
#[derive(Debug, Clone, Copy)]
pub struct Folder<'a> {
    /// Where: the folder is made if it is missing, for its owner alone.
    pub path: &'a Path,
    /// The folder inside of it that the root file system becomes, such as `linux_amd64`.
    pub sub: Option<&'a str>,
    /// The time that everything has, in seconds since 1970, instead of its own.
    pub epoch: Option<i64>,
}

/// The files of an image, unpacked where they were not.
///
/// # Errors
/// As [`Store::unpack`].
pub fn files_of(store: &Store, image: &Image) -> Result<View, ExportError> {
    let records = store.unpack(image, &|_, _| {})?;
    let dirs: Vec<_> =
        records.iter().map(|record| store.layer_dir(record)).collect::<Result<_, _>>()?;
    Ok(View::open(dirs).map_err(StoreError::from)?)
}

/// Writes the files of a root file system into a folder.
///
/// # Errors
/// [`ExportError`]; the files that were written by then stay.
pub fn folder(view: &View, folder: &Folder<'_>, stop: Stop<'_>) -> Result<(), ExportError> {
    let failed = |source| ExportError::Write { path: folder.path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(folder.path).map_err(failed)?;
    let top = Handle::open(folder.path).map_err(failed)?;
    let mut writer =
        Writer { view, folder, dirs: Vec::new(), links: HashMap::new(), next_temporary: 0 };
    let top = match folder.sub {
        None => top,
        Some(sub) => {
            let name = OsStr::new(sub);
            let dir = make_directory(&top, name).map_err(failed)?;
            sys::fchmod(&dir, Mode::from_raw_mode(0o755)).map_err(|errno| failed(errno.into()))?;
            dir
        }
    };
    writer.dirs.push(top);
    let mut entered: Vec<Entry> = Vec::new();
    let mut walk = ViewWalk::new(view).map_err(StoreError::from)?;
    while let Some(event) = walk.advance().map_err(StoreError::from)? {
        if stop() {
            return Err(failed(io::Error::other("interrupted")));
        }
        match event {
            ViewEvent::Enter(entry) => {
                let made = make_directory(writer.dir(), entry.name());
                let made = made.map_err(|error| writer.failed(&entry, error))?;
                writer.dirs.push(made);
                entered.push(entry);
            }
            ViewEvent::Leaf(entry) => {
                writer.leaf(&entry)?;
            }
            ViewEvent::Leave => {
                if let (Some(dir), Some(entry)) = (writer.dirs.pop(), entered.pop()) {
                    let set = writer.set(dir, &entry);
                    set.map_err(|errno| writer.failed(&entry, errno.into()))?;
                }
            }
        }
    }
    Ok(())
}

struct Writer<'a> {
    view: &'a View,
    folder: &'a Folder<'a>,
    /// The directories on the way, from the top down.
    dirs: Vec<Handle>,
    /// The first names of files that have several, by device, inode and layer.
    links: HashMap<(u64, u64, usize), PathBuf>,
    next_temporary: u64,
}

impl Writer<'_> {
    /// The directory that is being filled.
    fn dir(&self) -> &Handle {
        &self.dirs[self.dirs.len() - 1]
    }

    fn leaf(&mut self, entry: &Entry) -> Result<(), ExportError> {
        let metadata = entry.metadata();
        if metadata.kind == Kind::Socket {
            return Ok(());
        }
        if metadata.nlink > 1 {
            let id = (metadata.dev, metadata.ino, entry.layer());
            if let Some(first) = self.links.get(&id).cloned() {
                let linked = self.link(&first, entry);
                return linked.map_err(|error| self.failed(entry, error));
            }
            self.links.insert(id, entry.path().to_owned());
        }
        match metadata.kind {
            Kind::File => self.file(entry),
            Kind::Symlink => {
                let target = self.view.read_link(entry).map_err(StoreError::from)?;
                let times = self.times(entry);
                let made = self.place(entry.name(), |dir, name| {
                    sys::symlinkat(&target, dir, name)?;
                    sys::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                });
                made.map_err(|error| self.failed(entry, error))
            }
            _ => self.node(entry),
        }
    }

    /// A second name of a file that is there already.
    fn link(&mut self, first: &Path, entry: &Entry) -> io::Result<()> {
        let mut from = self.dirs[0].try_clone()?;
        for part in first.parent().into_iter().flatten() {
            from = from.directory(part)?;
        }
        let first = first.file_name().unwrap_or_default();
        self.place(entry.name(), |dir, name| sys::linkat(&from, first, dir, name, AtFlags::empty()))
    }

    /// A pipe or a device.
    fn node(&mut self, entry: &Entry) -> Result<(), ExportError> {
        let metadata = entry.metadata();
        let kind = match metadata.kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = match metadata.kind {
            Kind::Fifo => 0,
            _ => sys::makedev(metadata.rdev.0, metadata.rdev.1),
        };
        let mode = Mode::from_raw_mode(metadata.mode);
        let times = self.times(entry);
        let made = self.place(entry.name(), |dir, name| {
            sys::mknodat(dir, name, kind, Mode::RUSR, device)?;
            // Not by its name, which another could have made a link meanwhile.
            let held = sys::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
            let held_path = format!("/proc/self/fd/{}", held.as_raw_fd());
            sys::chmod(held_path, mode)?;
            sys::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        });
        made.map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::PERM) if kind != FileType::Fifo => {
                ExportError::Device { path: self.folder.path.join(entry.path()) }
            }
            _ => self.failed(entry, source),
        })
    }

    /// A file gets its name when it is whole. Until then it has none, or a temporary one where the
    /// file system knows no files without a name.
    fn file(&mut self, entry: &Entry) -> Result<(), ExportError> {
        let from = self.view.open_file(entry).map_err(StoreError::from)?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let unnamed =
            sys::openat(self.dir(), ".", flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR);
        let written = match unnamed {
            Ok(file) => {
                let file = self.fill(entry, &from, File::from(file))?;
                let held = format!("/proc/self/fd/{}", file.as_raw_fd());
                self.place(entry.name(), |dir, name| {
                    sys::linkat(sys::CWD, &held, dir, name, AtFlags::SYMLINK_FOLLOW)
                })
            }
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let temporary = self.temporary();
                let new = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = sys::openat(self.dir(), &temporary, new, Mode::RUSR | Mode::WUSR);
                let file = file.map_err(|errno| self.failed(entry, errno.into()))?;
                let filled = self.fill(entry, &from, File::from(file));
                if let Err(err) = filled {
                    remove(self.dir(), &temporary);
                    return Err(err);
                }
                self.rename(&temporary, entry.name())
            }
            Err(errno) => Err(errno.into()),
        };
        written.map_err(|error| self.failed(entry, error))
    }

    fn fill(&self, entry: &Entry, from: &File, to: File) -> Result<File, ExportError> {
        copy_file(from, &to, entry.metadata().size, None).map_err(|error| match error {
            SnapshotError::Io { source, .. } => self.failed(entry, source),
            other => StoreError::from(other).into(),
        })?;
        self.set(&to, entry).map_err(|errno| self.failed(entry, errno.into()))?;
        Ok(to)
    }

    /// Gives an open file or directory the image's mode and time.
    fn set(&self, file: impl std::os::fd::AsFd, entry: &Entry) -> Result<(), Errno> {
        let file = file.as_fd();
        sys::fchmod(file, Mode::from_raw_mode(entry.metadata().mode))?;
        sys::futimens(file, &self.times(entry))
    }

    /// Makes something called `name` with `make`; what has that name is replaced at once.
    fn place(
        &mut self,
        name: &OsStr,
        make: impl Fn(&Handle, &OsStr) -> Result<(), Errno>,
    ) -> io::Result<()> {
        match make(self.dir(), name) {
            Err(Errno::EXIST) => {}
            result => return Ok(result?),
        }
        let temporary = self.temporary();
        if let Err(errno) = make(self.dir(), &temporary) {
            remove(self.dir(), &temporary);
            return Err(errno.into());
        }
        self.rename(&temporary, name)
    }

    fn rename(&self, temporary: &OsStr, name: &OsStr) -> io::Result<()> {
        let dir = self.dir();
        if dir.stat(name)?.is_some_and(|metadata| metadata.is_dir()) {
            remove_tree(dir, name)?;
        }
        let renamed = sys::renameat(dir, temporary, dir, name);
        // Two names of one file are both left by a rename, and one was not renamed at all if it failed.
        remove(dir, temporary);
        Ok(renamed?)
    }

    fn temporary(&mut self) -> OsString {
        self.next_temporary += 1;
        format!(".mica-{}-{}", std::process::id(), self.next_temporary).into()
    }

    fn times(&self, entry: &Entry) -> Timestamps {
        let mtime = entry.metadata().mtime;
        let time = match self.folder.epoch {
            Some(epoch) => Timespec { tv_sec: epoch, tv_nsec: 0 },
            None => Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
        };
        Timestamps { last_access: time, last_modification: time }
    }

    fn failed(&self, entry: &Entry, source: io::Error) -> ExportError {
        ExportError::Write { path: self.folder.path.join(entry.path()), source }
    }
}

/// Removes a temporary name; there may be none.
fn remove(dir: &Handle, temporary: &OsStr) {
    let _gone = sys::unlinkat(dir, temporary, AtFlags::empty());
}

/// Opens the directory `name`; what else is there gives way to a new one.
fn make_directory(dir: &Handle, name: &OsStr) -> io::Result<Handle> {
    loop {
        match sys::mkdirat(dir, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        if dir.stat(name)?.is_some_and(|metadata| !metadata.is_dir()) {
            sys::unlinkat(dir, name, AtFlags::empty())?;
            continue;
        }
        return dir.directory(name);
    }
}
