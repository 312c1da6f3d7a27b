//! The topmost layer directory of a stack, to be written.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use rustix::io::Errno;

use super::attributes::times;
use super::dirs::Dirs;
use super::handle::Handle;
use super::metadata::owner;
use super::{Attributes, Metadata, Result, SnapshotError, Timestamp, UpperDir, View};

/// The topmost layer directory of a stack: every change of a COPY, an ADD, a WORKDIR or an unpacked
/// layer goes through it, and means what the same change through an overlay mount would mean.
///
/// The lower layers are never changed. What is written into a directory that only they have, makes
/// that directory in this one too, with the same owner, mode, xattrs *and time*: a kernel mount
/// would leave the moment of the copy there, which no two builds share.
///
/// Several threads may use it at once. [`Upper::finish`] ends it; dropping it before leaves the times
/// of directories wrong, and nothing else.
#[derive(Debug)]
pub struct Upper {
    root: UpperDir,
    shared: Arc<Shared>,
    view: View,
}

/// What all directories of one upper need.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The layer directory.
    top: Handle,
    /// The owner that a new file has before it is given one.
    pub(crate) maker: (u32, u32),
    /// The permissions that a new file does not get.
    pub(crate) umask: u32,
    /// The times of directories; each change in one would spoil them, so they are set at the end.
    times: Mutex<HashMap<PathBuf, Timestamp>>,
    /// Counts the changes that may turn a path to somewhere else.
    generation: AtomicU64,
    /// Held while a directory is made, so that two threads make it once.
    making: Mutex<()>,
}

impl Upper {
    /// Writes into `dir`, on top of `lowers`. The directory's own owner and mode are those of the
    /// merged root, and stay as they are; access lists that it has inherited from the host go.
    pub fn new(dir: Handle, lowers: &View) -> Result<Self> {
        let root = Path::new("");
        let open_error = |error| SnapshotError::io("open", root, error);
        dir.remove_own_acls().map_err(open_error)?;
        let mut layers = vec![dir.try_clone().map_err(open_error)?];
        let mut below = Vec::new();
        for lower in &lowers.layers().handles {
            layers.push(lower.try_clone().map_err(open_error)?);
            below.push(lower.try_clone().map_err(open_error)?);
        }
        // One that is not new may hide what is below it, as any other directory.
        let is_opaque = dir.is_opaque().map_err(open_error)?;
        let lower = if is_opaque { Dirs::default() } else { Dirs::stack(below, true) };
        let maker = owner(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let shared = Arc::new(Shared {
            top: dir.try_clone().map_err(open_error)?,
            maker,
            umask: umask(),
            times: Mutex::default(),
            generation: AtomicU64::new(0),
            making: Mutex::new(()),
        });
        let root = UpperDir::new(Arc::clone(&shared), dir, lower, PathBuf::new())?;
        Ok(Self { root, shared, view: View::new(layers)? })
    }

    /// The root directory.
    pub fn root(&self) -> UpperDir {
        self.root.clone()
    }

    /// The merged root as it is now, this directory included.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The directory at `path`, with symbolic links followed inside the root. What is missing of it is
    /// made with `new`, what only lower layers have is copied up.
    ///
    /// # Errors
    /// [`SnapshotError::NotADirectory`] if something else is in the way.
    pub fn directory(&self, path: &Path, new: &Attributes) -> Result<UpperDir> {
        let resolved = self.view.resolve(path)?.path;
        let mut dir = self.root();
        for component in resolved.components() {
            if let Component::Normal(name) = component {
                dir = dir.child(name, new)?.0;
            }
        }
        Ok(dir)
    }

    /// What is at `path` in the merged root; links are followed on the way, not at the end.
    pub fn lookup(&self, path: &Path) -> Result<Option<Metadata>> {
        Ok(self.view.lookup(path)?.map(|entry| entry.metadata().clone()))
    }

    /// Counts the changes after which a path that was resolved before may lead somewhere else.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// The tree below `dir` as a root of its own: links and `..` in it do not lead out of `dir`. An ADD
    /// unpacks archives so. Times are still set by [`Upper::finish`], of this or that one.
    pub fn below(&self, dir: &UpperDir) -> Result<Self> {
        let layers = dir.layers().map_err(|error| SnapshotError::io("open", dir.path(), error))?;
        let shared = Arc::clone(&self.shared);
        Ok(Self { root: dir.clone(), shared, view: View::new(layers)? })
    }

    /// Sets the times of all directories that were made, copied up or given attributes. What is made
    /// in them later needs another call.
    pub fn finish(&self) -> Result<()> {
        let mut times_of: Vec<_> =
            self.shared.times().iter().map(|(path, mtime)| (path.clone(), *mtime)).collect();
        times_of.sort();
        let mut finder = Finder { top: &self.shared.top, near: Vec::new(), last: None };
        for (path, mtime) in times_of {
            let failed = |error| SnapshotError::io("set the time of", &path, error);
            if let Some(dir) = finder.find(&path).map_err(failed)? {
                rustix::fs::futimens(dir, &times(mtime)).map_err(|errno| failed(errno.into()))?;
            }
        }
        Ok(())
    }
}

/// Opens directories of the topmost layer in the order of their paths, each by way of those before,
/// which costs one call in most cases; from the root each time, a deep tree would cost its square.
struct Finder<'a> {
    top: &'a Handle,
    /// The directories on the way to the last one, from the root down, as far as it makes sense to
    /// keep them open.
    near: Vec<(OsString, Handle)>,
    last: Option<(PathBuf, Handle)>,
}

impl Finder<'_> {
    /// The directory `path`, unless it has been replaced meanwhile.
    fn find(&mut self, path: &Path) -> io::Result<Option<&Handle>> {
        const NEAR: usize = 32;
        let known = path.iter().zip(&self.near).take_while(|(part, (name, _))| part == name);
        let known = known.count();
        self.near.truncate(known);
        let (mut handle, done) = match self.last.take() {
            Some((last, handle)) if path.starts_with(&last) => (handle, last.iter().count()),
            _ => {
                let nearest = self.near.last().map_or(self.top, |(_, handle)| handle);
                (nearest.try_clone()?, known)
            }
        };
        for name in path.iter().skip(done) {
            match handle.directory(name) {
                Ok(child) => handle = child,
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
        // One whose parents are not all kept open is not either: the rest would not fit to it.
        if let (Some(name), true) = (path.file_name(), path.iter().count() == self.near.len() + 1)
            && self.near.len() < NEAR
        {
            self.near.push((name.to_owned(), handle.try_clone()?));
        }
        Ok(Some(&self.last.insert((path.to_owned(), handle)).1))
    }
}

impl Shared {
    /// Notes the time that a directory is to have in the end.
    pub(crate) fn set_time(&self, path: &Path, mtime: Timestamp) {
        self.times().insert(path.to_owned(), mtime);
    }

    /// Says that paths may lead somewhere else now.
    pub(crate) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn making(&self) -> MutexGuard<'_, ()> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn times(&self) -> MutexGuard<'_, HashMap<PathBuf, Timestamp>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The umask, read without changing it, which would be seen by all threads. Where it cannot be read,
/// every file's mode is set explicitly.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}
