//! A stack of layer directories, or one plain directory, read as a root file system.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::dirs::{Dirs, Found};
use super::handle::{Handle, has_no_xattrs, xattrs_of};
use super::{Attributes, Kind, Metadata, Result, SnapshotError};

/// A read-only root file system: a stack of layer directories merged, or one directory of the host.
///
/// It holds the directories open, so they may be renamed under it, and caches nothing else: what a
/// file is, is asked of the kernel each time. It may be used from any number of threads.
#[derive(Debug, Clone)]
pub struct View {
    root: Entry,
}

/// A file, directory or other thing that a [`View`] shows. Cloning it is cheap.
///
/// A directory opens the directories of the layers that contribute to it when it is first looked
/// into, and keeps them open for as long as it or a thing found in it lives.
#[derive(Debug, Clone)]
pub struct Entry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The merged directory that holds it; for the root, itself.
    parent: Arc<Dirs>,
    /// Which of the parent's directories holds it.
    index: usize,
    path: PathBuf,
    metadata: Metadata,
    /// The merged directory that it is, once opened.
    dirs: OnceLock<Arc<Dirs>>,
}

/// What a directory shows under one name. It holds nothing open.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: OsString,
    found: Found,
}

impl Listed {
    /// What it is.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.found.metadata
    }
}

impl View {
    /// Merges layer directories, topmost first. No layer at all is an empty root.
    pub fn new(layers: Vec<Handle>) -> Result<Self> {
        Self::of(Dirs::stack(layers, true))
    }

    /// Opens and merges layer directories of the host, topmost first.
    pub fn open<P: AsRef<Path>>(layers: impl IntoIterator<Item = P>) -> Result<Self> {
        let open = |path: P| {
            let path = path.as_ref();
            Handle::open(path).map_err(|error| SnapshotError::io("open", path, error))
        };
        Self::new(layers.into_iter().map(open).collect::<Result<_>>()?)
    }

    /// One directory of the host as it is: nothing in it is a whiteout, a stub or opaque.
    pub fn plain(dir: Handle) -> Result<Self> {
        Self::of(Dirs::stack(vec![dir], false))
    }

    fn of(dirs: Dirs) -> Result<Self> {
        let path = PathBuf::new();
        let metadata = match dirs.handles.first() {
            Some(handle) => {
                handle.own_metadata().map_err(|error| SnapshotError::io("read", &path, error))?
            }
            None => Metadata {
                kind: Kind::Directory,
                mode: 0o755,
                uid: 0,
                gid: 0,
                size: 0,
                mtime: super::Timestamp::default(),
                ctime: super::Timestamp::default(),
                rdev: (0, 0),
                dev: 0,
                ino: 0,
                nlink: 1,
            },
        };
        let dirs = Arc::new(dirs);
        let opened = OnceLock::from(Arc::clone(&dirs));
        let root = Inner { parent: dirs, index: 0, path, metadata, dirs: opened };
        Ok(Self { root: Entry(Arc::new(root)) })
    }

    /// The root directory.
    pub fn root(&self) -> Entry {
        self.root.clone()
    }

    /// The directories that the root consists of, topmost first.
    pub(crate) fn layers(&self) -> Arc<Dirs> {
        Arc::clone(&self.root.0.parent)
    }

    /// What `name`, a single component, is in `dir`; `None` if there is no such thing.
    pub fn child(&self, dir: &Entry, name: &OsStr) -> Result<Option<Entry>> {
        let dirs = dir.dirs()?;
        let found = dirs
            .lookup(name)
            .map_err(|error| SnapshotError::io("look up", &dir.path().join(name), error))?;
        Ok(found.map(|found| dir.entry(&dirs, name, found)))
    }

    /// The things in a directory, sorted by the bytes of their names.
    pub fn read_dir(&self, dir: &Entry) -> Result<Vec<Entry>> {
        dir.list()?.iter().map(|listed| dir.found(listed)).collect()
    }

    /// The target of a symbolic link, as it is written there.
    pub fn read_link(&self, link: &Entry) -> Result<PathBuf> {
        let (dir, name) = link.place();
        dir.read_link(name).map_err(|error| link.error("read the link", error))
    }

    /// Opens a regular file for reading; anything else is an error, without waiting for it.
    pub fn open_file(&self, file: &Entry) -> Result<File> {
        if !file.metadata().is_file() {
            let kind = file.metadata().kind;
            return Err(SnapshotError::NotAFile { path: file.path().to_owned(), kind });
        }
        let (dir, name) = file.place();
        dir.file(name).map_err(|error| file.error("open", error))
    }

    /// The xattrs that belong to the image: no marks of OverlayFS or ours. Sorted by name.
    pub fn xattrs(&self, entry: &Entry) -> Result<Vec<(OsString, Vec<u8>)>> {
        if entry.metadata().kind == Kind::Symlink {
            return Ok(Vec::new());
        }
        if entry.path().as_os_str().is_empty() {
            return match self.root.0.parent.handles.first() {
                Some(dir) => dir.xattrs(None).map_err(|error| entry.error("read", error)),
                None => Ok(Vec::new()),
            };
        }
        let (dir, name) = entry.place();
        dir.xattrs(Some(name)).map_err(|error| entry.error("read the attributes of", error))
    }

    /// All that a faithful copy of an entry is given besides its content: xattrs, too.
    pub fn attributes(&self, entry: &Entry) -> Result<Attributes> {
        Ok(Attributes { xattrs: self.xattrs(entry)?, ..Attributes::of(entry.metadata()) })
    }
}

impl Entry {
    /// The path from the root, without a leading slash and free of symbolic links; empty for the root.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The last component of the path; empty for the root.
    pub fn name(&self) -> &OsStr {
        self.0.path.file_name().unwrap_or_default()
    }

    /// What it is.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// The kind of thing it is.
    pub fn kind(&self) -> Kind {
        self.0.metadata.kind
    }

    /// Which layer of the stack holds it, counted from the top. Two names are hard links of one
    /// another in the image only if they are one file *of one layer*: the same file may lie in
    /// several layers, see [`UpperDir::link_entry`](super::UpperDir::link_entry).
    pub fn layer(&self) -> usize {
        self.0.parent.layer(self.0.index)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.0.metadata.is_dir()
    }

    /// The directory of the layer that holds it, for the calls that take a directory and a name.
    ///
    /// Not for the root: it has no name.
    pub fn parent_fd(&self) -> BorrowedFd<'_> {
        self.place().0.as_fd()
    }

    pub(crate) fn place(&self) -> (&Handle, &OsStr) {
        (&self.0.parent.handles[self.0.index], self.name())
    }

    /// The merged directory that it is.
    pub(crate) fn dirs(&self) -> Result<Arc<Dirs>> {
        if let Some(dirs) = self.0.dirs.get() {
            return Ok(Arc::clone(dirs));
        }
        if !self.is_dir() {
            let (path, kind) = (self.path().to_owned(), self.kind());
            return Err(SnapshotError::NotADirectory { path, kind });
        }
        let dirs = self.0.parent.child(self.name(), self.0.index);
        let dirs = Arc::new(dirs.map_err(|error| self.error("open", error))?);
        Ok(Arc::clone(self.0.dirs.get_or_init(|| dirs)))
    }

    /// What [`View::read_dir`] gives, for who looks at many and keeps few: an entry is more to make.
    pub(crate) fn list(&self) -> Result<Vec<Listed>> {
        let found = self.dirs()?.list().map_err(|error| self.error("list", error))?;
        Ok(found.into_iter().map(|(name, found)| Listed { name, found }).collect())
    }

    /// The entry for what [`Entry::list`] found in this directory. The kernel is not asked again.
    pub(crate) fn found(&self, listed: &Listed) -> Result<Self> {
        Ok(self.entry(&self.dirs()?, &listed.name, listed.found.clone()))
    }

    /// The xattrs that [`View::xattrs`] gives, of a file that was opened: that costs less.
    pub(crate) fn xattrs_of(&self, file: &File) -> Result<Vec<(OsString, Vec<u8>)>> {
        xattrs_of(file).map_err(|error| self.error("read the attributes of", error))
    }

    /// Whether a file that was opened has no xattr at all, not even a mark of ours.
    pub(crate) fn has_no_xattrs(&self, file: &File) -> Result<bool> {
        has_no_xattrs(file).map_err(|error| self.error("read the attributes of", error))
    }

    fn entry(&self, dirs: &Arc<Dirs>, name: &OsStr, found: Found) -> Self {
        let inner = Inner {
            parent: Arc::clone(dirs),
            index: found.index,
            path: self.path().join(name),
            metadata: found.metadata,
            dirs: OnceLock::new(),
        };
        Self(Arc::new(inner))
    }

    fn error(&self, action: &'static str, error: io::Error) -> SnapshotError {
        SnapshotError::io(action, self.path(), error)
    }
}
