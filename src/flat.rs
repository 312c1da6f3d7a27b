//! Runs steps where overlays can't be mounted: on a copy of the root, from which the changes are taken
//! afterwards.
//!
//! | | with a mount namespace | in a chroot |
//! |---|---|---|
//! | the root | the copy, bound | the copy |
//! | what a step mounts | is mounted, overlays as copies | is copied in, and changes of it copied back |
//! | `/proc`, `/sys`, `/dev` | as ever | a folder of what can be had |
//!
//! **Invariant.** What runs a step need not know: the layer that comes out is that of an overlay, but with
//! a mount namespace for files that a step opened for writing and left as they were.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::mount::Overlay;
use crate::runtime::{
    self, CancelToken, ExecSpec, ExitStatus, Output, Sandbox, SandboxError, SandboxMount,
};
use crate::snapshot::{Attributes, Checkout, Handle, Kind, SnapshotError, Upper, UpperDir, View};

/// A sandbox whose roots are copies.
pub struct FlatSandbox {
    inner: Box<dyn Sandbox>,
    /// Whether the inner one mounts nothing.
    chroot: bool,
}

impl std::fmt::Debug for FlatSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlatSandbox").field("chroot", &self.chroot).finish_non_exhaustive()
    }
}

impl FlatSandbox {
    /// Runs on copies what `inner` then runs; `chroot` says that `inner` mounts nothing.
    pub fn new(inner: Box<dyn Sandbox>, chroot: bool) -> Self {
        Self { inner, chroot }
    }
}

impl Sandbox for FlatSandbox {
    fn expect(&self, runs: usize) {
        self.inner.expect(runs);
    }

    fn run(
        &self,
        spec: &ExecSpec,
        output: Output<'_>,
        cancel: &CancelToken,
    ) -> Result<ExitStatus, SandboxError> {
        let mut flat = Flat::prepare(spec, self.chroot).map_err(failed)?;
        let status = self.inner.run(&flat.spec, output, cancel)?;
        if status.success() {
            flat.take_back().map_err(failed)?;
        }
        Ok(status)
    }
}

fn failed(error: SnapshotError) -> SandboxError {
    SandboxError::Copy { source: Box::new(error) }
}

/// One step, on its copy. The copy goes with it.
struct Flat {
    spec: ExecSpec,
    root: Checkout,
    upper: Upper,
    /// What is copied back, and to where.
    writable: Vec<(Checkout, Upper)>,
    _place: Place,
}

/// A folder for copies that goes when it is dropped.
struct Place(PathBuf);

impl Place {
    fn directory(&self, name: &str) -> Result<PathBuf, SnapshotError> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).map_err(|error| io_error("make", &path, error))?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (Some(parent), Some(name)) = (self.0.parent(), self.0.file_name()) else { return };
        // What stays is found by the next garbage collection.
        let _left = Handle::open(parent).and_then(|dir| crate::snapshot::remove_tree(&dir, name));
    }
}

impl Flat {
    fn prepare(spec: &ExecSpec, chroot: bool) -> Result<Self, SnapshotError> {
        let (Some(upper), Some(work)) = (&spec.rootfs.upper, &spec.rootfs.work) else {
            return Err(io_error("copy", Path::new("/"), std::io::ErrorKind::InvalidInput.into()));
        };
        let place = Place(work.join("flat"));
        let tree = place.directory("root")?;
        let lowers = View::open(&spec.rootfs.lowers)?;
        let view = View::open(std::iter::once(upper).chain(&spec.rootfs.lowers))?;
        let mut flat = spec.clone();
        flat.rootfs = Overlay::directory(&tree);
        let points = if chroot { Points::of(spec, &view)? } else { Points::default() };
        let mut root = Checkout::begin(&view, &open(&tree)?, points.covered())?;
        let mut writable = Vec::new();
        if chroot {
            flat.mounts.clear();
            points.fill(&root, &mut writable, &place)?;
        } else {
            for (index, mount) in flat.mounts.iter_mut().enumerate() {
                flatten(mount, &place, index)?;
            }
            make_mount_points(spec, &view, &root)?;
        }
        root.seal()?;
        for (checkout, _) in &mut writable {
            checkout.seal()?;
        }
        let upper = Upper::new(open(upper)?, &lowers)?;
        Ok(Self { spec: flat, root, upper, writable, _place: place })
    }

    fn take_back(&mut self) -> Result<(), SnapshotError> {
        for (checkout, source) in &self.writable {
            checkout.apply_changes(source)?;
        }
        self.root.apply_changes(&self.upper)
    }
}

/// Makes what is missing to mount on: before anything counts as a change.
fn make_mount_points(spec: &ExecSpec, view: &View, root: &Checkout) -> Result<(), SnapshotError> {
    let folder = Attributes { mode: 0o755, ..Attributes::default() };
    let system = ["/proc", "/sys", "/dev"].map(|path| (Path::new(path), true));
    let files = ["/etc/hosts", "/etc/resolv.conf"].map(|path| (Path::new(path), false));
    let mut points: Vec<_> = system.into_iter().chain(files).collect();
    for mount in &spec.mounts {
        let is_dir = match mount {
            SandboxMount::Tmpfs { .. } => true,
            SandboxMount::File { .. } => false,
            SandboxMount::Bind { source, path, .. } => {
                let view = View::open(source.upper.iter().chain(&source.lowers))?;
                view.resolve(path)?.entry.is_some_and(|entry| entry.is_dir())
            }
        };
        points.push((mount.target(), is_dir));
    }
    for (path, is_dir) in points {
        let resolved = view.resolve(path)?;
        let (Some(parent), Some(name)) = (resolved.path.parent(), resolved.path.file_name()) else {
            continue;
        };
        if resolved.entry.is_some() {
            continue;
        }
        let dir = root.tree().directory(parent, &folder)?;
        if is_dir {
            dir.child(name, &folder)?;
        } else if dir.lookup(name)?.is_none() {
            write(&dir, name, b"", 0o644, (0, 0))?;
        }
    }
    Ok(())
}

/// Makes a mount's source one directory.
fn flatten(mount: &mut SandboxMount, place: &Place, index: usize) -> Result<(), SnapshotError> {
    let SandboxMount::Bind { source, .. } = mount else { return Ok(()) };
    if source.lowers.len() == 1 && source.upper.is_none() {
        return Ok(());
    }
    let dir = place.directory(&format!("mount{index}"))?;
    let mut copy = Checkout::begin(&View::open(&source.lowers)?, &open(&dir)?, HashSet::new())?;
    copy.seal()?;
    *source = Overlay::directory(dir);
    Ok(())
}

/// What a step without mounts is to find at certain paths.
#[derive(Default)]
struct Points<'a>(Vec<(PathBuf, Content<'a>)>);

enum Content<'a> {
    Mount(&'a SandboxMount),
    File(Vec<u8>),
    Proc,
    Sys,
    Dev,
}

impl<'a> Points<'a> {
    fn of(spec: &'a ExecSpec, view: &View) -> Result<Self, SnapshotError> {
        let mut points = Vec::new();
        for (path, content) in
            [("proc", Content::Proc), ("sys", Content::Sys), ("dev", Content::Dev)]
        {
            if view.lookup(Path::new(path))?.is_some_and(|entry| !entry.is_dir()) {
                let error = std::io::Error::other("it is no directory of the image");
                return Err(io_error("furnish", Path::new(path), error));
            }
            points.push((PathBuf::from(path), content));
        }
        let files = runtime::network_files(spec).into_iter();
        let files = files.map(|(path, content)| (Path::new(path), Content::File(content)));
        let mounts =
            spec.mounts.iter().map(|mount| (mount.target().as_path(), Content::Mount(mount)));
        for (path, content) in files.chain(mounts) {
            let resolved = view.resolve(path)?.path;
            if resolved == Path::new("") {
                let error = std::io::Error::other("it is the root itself");
                return Err(io_error("mount on", path, error));
            }
            points.push((resolved, content));
        }
        // The outer ones first: what is deeper is in them.
        points.sort_by_key(|(path, _)| path.components().count());
        Ok(Self(points))
    }

    fn covered(&self) -> HashSet<PathBuf> {
        self.0.iter().map(|(path, _)| path.clone()).collect()
    }

    fn fill(
        &self,
        root: &Checkout,
        writable: &mut Vec<(Checkout, Upper)>,
        place: &Place,
    ) -> Result<(), SnapshotError> {
        let folder = Attributes { mode: 0o755, ..Attributes::default() };
        for (path, content) in &self.0 {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let dir = root.tree().directory(parent, &folder)?;
            match content {
                Content::Proc => {
                    let proc = dir.child(name, &folder)?.0;
                    for (file, text) in runtime::chroot::proc_files() {
                        let parent = file.parent().unwrap_or(Path::new(""));
                        let mut dir = proc.clone();
                        for part in parent {
                            dir = dir.child(part, &folder)?.0;
                        }
                        write(&dir, file.file_name().unwrap_or_default(), &text, 0o444, (0, 0))?;
                    }
                }
                Content::Sys => {
                    dir.child(name, &folder)?;
                }
                Content::Dev => {
                    let dev = dir.child(name, &folder)?.0;
                    let device = Attributes { mode: 0o666, ..Attributes::default() };
                    for (name, major, minor) in runtime::chroot::DEVICES {
                        dev.node(OsStr::new(name), Kind::CharDevice, (*major, *minor), &device)?;
                    }
                    for name in runtime::chroot::STREAMS {
                        dev.node(OsStr::new(name), Kind::CharDevice, (1, 3), &device)?;
                    }
                    let shared = Attributes { mode: 0o1777, ..Attributes::default() };
                    dev.child(OsStr::new("shm"), &shared)?;
                }
                Content::File(text) => write(&dir, name, text, 0o644, (0, 0))?,
                Content::Mount(mount) => {
                    let point = Point { path, dir: &dir, name, below: self.below(path) };
                    writable.extend(point.mount(mount, place)?);
                }
            }
        }
        Ok(())
    }

    /// The points below one, as seen from it.
    fn below(&self, path: &Path) -> HashSet<PathBuf> {
        let paths = self.0.iter().filter_map(|(it, _)| it.strip_prefix(path).ok());
        paths.filter(|it| *it != Path::new("")).map(Path::to_owned).collect()
    }
}

/// Where a mount is to appear.
struct Point<'a> {
    path: &'a Path,
    dir: &'a UpperDir,
    name: &'a OsStr,
    below: HashSet<PathBuf>,
}

impl Point<'_> {
    /// Puts there what a mount would show; returns what is to be copied back, and to where.
    fn mount(
        self,
        mount: &SandboxMount,
        place: &Place,
    ) -> Result<Option<(Checkout, Upper)>, SnapshotError> {
        let (source, path, read_only) = match mount {
            SandboxMount::Tmpfs { mode, .. } => {
                let attributes = Attributes { mode: *mode, ..Attributes::default() };
                self.dir.child(self.name, &attributes)?;
                return Ok(None);
            }
            SandboxMount::File { content, mode, uid, gid, .. } => {
                write(self.dir, self.name, content, *mode, (*uid, *gid))?;
                return Ok(None);
            }
            SandboxMount::Bind { source, path, read_only, .. } => (source, path, *read_only),
        };
        let view = View::open(source.upper.iter().chain(&source.lowers))?;
        let resolved = view.resolve(path)?;
        let Some(entry) = resolved.entry else {
            return Err(io_error("find", path, std::io::ErrorKind::NotFound.into()));
        };
        if entry.kind() == Kind::Socket {
            self.dir.link_entry(self.name, &entry)?;
            return Ok(None);
        }
        Checkout::copy(&view, &entry, self.dir, self.name)?;
        let ([lower], None, false) = (&source.lowers[..], &source.upper, read_only) else {
            return Ok(None);
        };
        if !entry.is_dir() {
            let error = std::io::Error::other("without mounts, only folders can be written");
            return Err(io_error("mount", path, error));
        }
        let copy = open_below(&place.directory("root")?, self.path)?;
        let original = open_below(lower, &resolved.path)?;
        let target = Upper::new(original, &View::new(Vec::new())?)?;
        Ok(Some((Checkout::watch(&copy, self.below)?, target)))
    }
}

fn write(
    dir: &UpperDir,
    name: &OsStr,
    content: &[u8],
    mode: u32,
    (uid, gid): (u32, u32),
) -> Result<(), SnapshotError> {
    let attributes = Attributes { mode, uid, gid, ..Attributes::default() };
    let new = dir.create_file(name, &attributes)?;
    std::io::Write::write_all(&mut new.file(), content)
        .map_err(|error| io_error("write", Path::new(name), error))?;
    new.finish()
}

fn open(path: &Path) -> Result<Handle, SnapshotError> {
    Handle::open(path).map_err(|error| io_error("open", path, error))
}

/// Opens a directory by a path without links below one of ours.
fn open_below(root: &Path, path: &Path) -> Result<Handle, SnapshotError> {
    path.iter().try_fold(open(root)?, |dir, name| {
        dir.directory(name).map_err(|error| io_error("open", path, error))
    })
}

fn io_error(action: &'static str, path: &Path, source: std::io::Error) -> SnapshotError {
    SnapshotError::Io { action, path: path.to_owned(), source }
}
