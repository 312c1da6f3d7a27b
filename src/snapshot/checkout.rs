//! [`Checkout`]: a root file system as an ordinary directory, for places without overlays.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use super::{
    Attributes, Entry, Handle, Kind, Result, SnapshotError, Timestamp, Upper, UpperDir, View,
    ViewEvent, ViewWalk, copy_file,
};

/// How long the clock of the file system may take to get past the last file that was made.
const PATIENCE: Duration = Duration::from_secs(2);

/// A copy of a root file system in a directory of its own, and afterwards what has changed in it.
///
/// 1. [`Checkout::begin`] copies. 2. Whatever else is to be there is put in by [`Checkout::tree`], at
///    paths that are *covered*: nothing of the image is copied there, and nothing that happens there
///    counts. 3. [`Checkout::seal`] remembers how everything is. 4. Something runs in the directory.
///    5. [`Checkout::apply_changes`] puts what became different into a layer directory.
///
/// Every file is a copy of its own, also where the image has hard links: so they part when one is
/// written, as they do in an overlay.
///
/// What changed is told by inode and change time, which nothing but the kernel can set: a file that was
/// rewritten with the same size and time is noticed. The clock is waited for before anything runs, so
/// that no change can have a time that was there before. Whether a directory is the one that was there is
/// told by its number and by when it was made. That decides about nothing but the form of the layer
/// (what is hidden one by one, or all at once): what is in it is the same.
#[derive(Debug)]
pub struct Checkout {
    tree: Upper,
    view: View,
    covered: HashSet<PathBuf>,
    seen: HashMap<PathBuf, Mark>,
    /// Whether directories keep their numbers.
    numbered: bool,
}

/// What tells whether a file is what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    dev: u64,
    ino: u64,
    changed: Timestamp,
    is_dir: bool,
    /// When it was made, of a directory, as far as the file system knows: numbers are given again.
    born: Option<(i64, u32)>,
}

impl Mark {
    fn of(entry: &Entry, numbered: bool) -> Self {
        let it = entry.metadata();
        let born = if it.is_dir() { birth(entry) } else { None };
        let ino = if numbered || !it.is_dir() { it.ino } else { 0 };
        Self { dev: it.dev, ino, changed: it.ctime, is_dir: it.is_dir(), born }
    }

    /// Whether two directories are the same one.
    fn is_same_dir(self, other: Self) -> bool {
        let same = (self.dev, self.ino, self.born) == (other.dev, other.ino, other.born);
        self.is_dir && other.is_dir && same
    }
}

fn birth(entry: &Entry) -> Option<(i64, u32)> {
    let (flags, wanted) = (AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME);
    let found = statx(entry.parent_fd(), entry.name(), flags, wanted).ok()?;
    let known = StatxFlags::from_bits_retain(found.stx_mask).contains(wanted);
    known.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec))
}

impl Checkout {
    /// Copies `view` into the empty directory `dir`, without what is covered.
    ///
    /// Devices are left as stubs: whatever may be opened as one is not the image's business.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn begin(view: &View, dir: &Handle, covered: HashSet<PathBuf>) -> Result<Self> {
        let checkout = Self::watch(dir, covered)?;
        let root = checkout.tree.root();
        root.set_attributes(&view.attributes(&view.root())?)?;
        copy_tree(view, ViewWalk::new(view)?, &root, &checkout.covered)?;
        Ok(checkout)
    }

    /// Looks after a directory that is filled already: the same without the copying.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch(dir: &Handle, covered: HashSet<PathBuf>) -> Result<Self> {
        let open = |error| SnapshotError::io("open", Path::new(""), error);
        let tree = Upper::new(dir.try_clone().map_err(open)?, &View::new(Vec::new())?)?;
        let view = View::new(vec![dir.try_clone().map_err(open)?])?;
        Ok(Self { tree, view, covered, seen: HashMap::new(), numbered: true })
    }

    /// The directory, to put more into it.
    pub fn tree(&self) -> &Upper {
        &self.tree
    }

    /// Copies what `entry` of another view is, a file or a tree, to the free name `name` in `dir`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn copy(view: &View, entry: &Entry, dir: &UpperDir, name: &OsStr) -> Result<()> {
        if entry.is_dir() {
            let made = dir.child_with(name, &view.attributes(entry)?)?;
            copy_tree(view, ViewWalk::below(view, entry)?, &made, &HashSet::new())
        } else {
            copy_leaf(view, entry, dir, name)
        }
    }

    /// Ends the copying: from now on, whatever happens is a change.
    ///
    /// # Errors
    /// What the kernel says; and a clock that does not go on.
    pub fn seal(&mut self) -> Result<()> {
        self.tree.finish()?;
        let mut latest = Timestamp::default();
        let mut seen = HashMap::new();
        // An overlay of several file systems gives its files another device than its directories, and
        // these a new number whenever they come back from disk.
        let (own, mut numbered) = (self.view.root().metadata().dev, true);
        self.each(|_, entry| {
            latest = latest.max(entry.metadata().ctime);
            numbered &= entry.is_dir() || entry.metadata().dev == own;
            seen.insert(entry.path().to_owned(), Mark::of(entry, true));
            Ok(())
        })?;
        if !numbered {
            seen.values_mut().filter(|mark| mark.is_dir).for_each(|mark| mark.ino = 0);
        }
        (self.seen, self.numbered) = (seen, numbered);
        let layers = self.view.layers();
        layers.handles.first().map_or(Ok(()), |root| wait_past(latest, root))
    }

    /// Calls `visit` for everything that is not covered, directories before what is in them.
    fn each(&self, mut visit: impl FnMut(&View, &Entry) -> Result<()>) -> Result<()> {
        let mut walk = ViewWalk::new(&self.view)?;
        while let Some(event) = walk.advance()? {
            let (ViewEvent::Enter(entry) | ViewEvent::Leaf(entry)) = event else { continue };
            if self.covered.contains(entry.path()) {
                if entry.is_dir() {
                    walk.skip();
                }
                continue;
            }
            visit(&self.view, &entry)?;
        }
        Ok(())
    }

    /// Does to `upper`, the layer directory above what was copied, what has been done to the copy: it
    /// becomes what the upper directory of an overlay would be.
    ///
    /// The copy and the layer directory may share files afterwards: nobody may write to it any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn apply_changes(&self, upper: &Upper) -> Result<()> {
        let mut found = HashMap::with_capacity(self.seen.len());
        let mut writer = Writer { upper, last: None, new_dirs: HashSet::new() };
        self.each(|view, entry| {
            let mark = Mark::of(entry, self.numbered);
            found.insert(entry.path().to_owned(), mark);
            match self.seen.get(entry.path()) {
                Some(before) if *before == mark && !writer.is_in_new_dir(entry) => Ok(()),
                before => writer.put(view, entry, mark, before.copied()),
            }
        })?;
        let mut gone: Vec<_> = self.seen.keys().filter(|path| !found.contains_key(*path)).collect();
        gone.sort();
        for path in gone {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let stayed = match (found.get(parent), self.seen.get(parent)) {
                (Some(now), Some(before)) => now.is_same_dir(*before),
                _ => parent == Path::new(""),
            };
            // What was below a directory that is gone, or another one, went with it.
            if stayed {
                writer.dir(parent)?.remove(name)?;
            }
        }
        upper.finish()
    }
}

/// Writes changes into a layer directory.
struct Writer<'a> {
    upper: &'a Upper,
    last: Option<(PathBuf, UpperDir)>,
    /// Those that nothing shows through.
    new_dirs: HashSet<PathBuf>,
}

impl Writer<'_> {
    /// The directory `path` of the layer, copied up where only lower layers have it.
    fn dir(&mut self, path: &Path) -> Result<UpperDir> {
        if let Some((last, dir)) = &self.last
            && last == path
        {
            return Ok(dir.clone());
        }
        let implied = Attributes { mode: 0o755, ..Attributes::default() };
        let dir = self.upper.directory(path, &implied)?;
        self.last = Some((path.to_owned(), dir.clone()));
        Ok(dir)
    }

    /// Whether nothing shows through where an entry is, so that all has to be written.
    fn is_in_new_dir(&self, entry: &Entry) -> bool {
        entry.path().parent().is_some_and(|parent| self.new_dirs.contains(parent))
    }

    fn put(&mut self, view: &View, entry: &Entry, mark: Mark, before: Option<Mark>) -> Result<()> {
        let (Some(parent), Some(name)) = (entry.path().parent(), entry.path().file_name()) else {
            return Ok(());
        };
        let before = before.filter(|_| !self.is_in_new_dir(entry));
        let dir = self.dir(parent)?;
        if before.is_some_and(|before| before.is_same_dir(mark)) {
            dir.child_with(name, &view.attributes(entry)?)?;
            return Ok(());
        }
        if before.is_some_and(|before| before.is_dir || mark.is_dir) {
            dir.remove(name)?;
        }
        if mark.is_dir {
            let (made, _) = dir.child(name, &view.attributes(entry)?)?;
            // As OverlayFS does, where it is of no consequence.
            if !self.new_dirs.contains(parent) {
                made.make_opaque()?;
            }
            self.new_dirs.insert(entry.path().to_owned());
            return Ok(());
        }
        match entry.kind() {
            Kind::Socket => Ok(()),
            Kind::File | Kind::CharDevice | Kind::BlockDevice => {
                match dir.link_entry(name, entry) {
                    Err(error) if error.errno() == Some(Errno::XDEV.raw_os_error()) => {
                        copy_leaf(view, entry, &dir, name)
                    }
                    linked => linked,
                }
            }
            _ => copy_leaf(view, entry, &dir, name),
        }
    }
}

/// Copies what a walk finds into `dir`, which stands for where the walk began.
fn copy_tree(
    view: &View,
    mut walk: ViewWalk<'_>,
    dir: &UpperDir,
    covered: &HashSet<PathBuf>,
) -> Result<()> {
    let mut dirs = vec![dir.clone()];
    while let Some(event) = walk.advance()? {
        let Some(dir) = dirs.last() else { break };
        match event {
            ViewEvent::Enter(entry) if covered.contains(entry.path()) => walk.skip(),
            ViewEvent::Enter(entry) => {
                let made = dir.child_with(entry.name(), &view.attributes(&entry)?)?;
                dirs.push(made);
            }
            ViewEvent::Leaf(entry) if covered.contains(entry.path()) => {}
            ViewEvent::Leaf(entry) => copy_leaf(view, &entry, dir, entry.name())?,
            ViewEvent::Leave => {
                dirs.pop();
            }
        }
    }
    Ok(())
}

fn copy_leaf(view: &View, entry: &Entry, dir: &UpperDir, name: &OsStr) -> Result<()> {
    let attributes = view.attributes(entry)?;
    match entry.kind() {
        Kind::Socket | Kind::Directory => Ok(()),
        Kind::Symlink => dir.symlink(name, &view.read_link(entry)?, &attributes),
        Kind::File => {
            let new = dir.create_file(name, &attributes)?;
            let size = entry.metadata().size;
            copy_file(&view.open_file(entry)?, new.file(), size, None)
                .map_err(|error| error.at(entry.path()))?;
            new.finish()
        }
        Kind::Fifo => dir.node(name, Kind::Fifo, (0, 0), &attributes),
        kind => dir.stand_in(name, kind, entry.metadata().rdev, &attributes),
    }
}

/// Waits until whatever is changed from now on gets a later time, by the clock that the file system of
/// `root` has.
fn wait_past(latest: Timestamp, root: &Handle) -> Result<()> {
    let failed = |error: std::io::Error| SnapshotError::io("watch", Path::new(""), error);
    let began = Instant::now();
    loop {
        root.touch().map_err(failed)?;
        if root.own_metadata().map_err(failed)?.ctime > latest {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(failed(std::io::Error::other("its files are newer than its clock")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A copy of `/t/a/b/c` and `/t/d`, sealed; in it, `/t/d` is then written.
    fn changed(dir: &Path) -> Checkout {
        let [image, copy, layer] = ["image", "copy", "layer"].map(|name| dir.join(name));
        fs::create_dir_all(image.join("t/a/b")).unwrap();
        fs::write(image.join("t/a/b/c"), "c").unwrap();
        fs::write(image.join("t/d"), "d").unwrap();
        fs::create_dir(&copy).unwrap();
        fs::create_dir(layer).unwrap();
        let view = View::open([&image]).unwrap();
        let handle = Handle::open(&copy).unwrap();
        let mut checkout = Checkout::begin(&view, &handle, HashSet::new()).unwrap();
        checkout.seal().unwrap();
        fs::write(copy.join("t/d"), "D").unwrap();
        checkout
    }

    /// What the layer has, and what it shows above the image.
    fn layer(dir: &Path, checkout: &Checkout) -> (Vec<String>, Vec<String>) {
        let [image, layer] = ["image", "layer"].map(|name| dir.join(name));
        let lowers = View::open([&image]).unwrap();
        let upper = Upper::new(Handle::open(&layer).unwrap(), &lowers).unwrap();
        checkout.apply_changes(&upper).unwrap();
        let paths = |view: &View| {
            let mut walk = ViewWalk::new(view).unwrap();
            let mut paths = Vec::new();
            while let Some(event) = walk.advance().unwrap() {
                if let ViewEvent::Enter(entry) | ViewEvent::Leaf(entry) = event {
                    paths.push(entry.path().display().to_string());
                }
            }
            paths
        };
        (paths(&View::open([&layer]).unwrap()), paths(&View::open([layer, image]).unwrap()))
    }

    const ALL: &[&str] = &["t", "t/a", "t/a/b", "t/a/b/c", "t/d"];

    #[test]
    fn a_directory_taken_for_another_one_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut checkout = changed(dir.path());
        checkout.seen.get_mut(Path::new("t")).unwrap().ino += 1;
        let (layer, shown) = layer(dir.path(), &checkout);
        assert_eq!(shown, ALL);
        assert_eq!(layer, ALL);
    }

    #[test]
    fn numbers_count_only_where_they_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut checkout = changed(dir.path());
        checkout.numbered = false;
        for mark in checkout.seen.values_mut().filter(|mark| mark.is_dir) {
            mark.ino = 0;
        }
        let (layer, shown) = layer(dir.path(), &checkout);
        assert_eq!(shown, ALL);
        assert_eq!(layer, ["t", "t/d"]);
    }
}
