//! Mounts trees of layers, and makes one of them the root.
//!
//! The root has one layer more than the image: the lowest, in memory, holds an empty file or
//! directory for each mount point. Where the image has a path itself, its own shows; where it
//! doesn't, the mount point does. So nothing is made in the upper directory, nothing is copied up
//! into it, and the layer that comes out knows of no mount.
//!
//! Options that matter:
//! - `userxattr`, always: root and plain users then write the same bytes to disk.
//! - `xino=on`: the layer in memory is a file system of its own; without it, files would have other
//!   device numbers than directories, and `find -xdev` or `tar --one-file-system` would stop short.
//! - `volatile`: a crash loses the step anyway; who commits the layer syncs it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, mkdirat, open, openat, openat2, statx,
    unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, mount, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::error::{During, SetupError, Step};
use super::isolation::Mode as Isolation;
use super::sys;
use crate::mount::Overlay;

/// Mounts a file system of type `kind` with `options`, detached.
pub(super) fn new_mount(
    kind: &str,
    options: &[(&str, &str)],
    flags: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", kind)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Puts the detached `mount` on `target`.
pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// Makes a detached mount of what `source` points to.
pub(super) fn clone_tree(source: impl AsFd, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(source, "", flags)
}

/// Opens a directory for use in kernel calls that take one.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, SetupError> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during_on(Step::MountRoot, path)
}

/// A private tmpfs on the old root: places to attach mounts to, the layer of mount points, and files
/// to be bound.
///
/// Paths that are looked up from the old root don't cross what is mounted on it, nobody else sees it,
/// and the pivot lets go of it.
pub(super) struct Scratch {
    mount: OwnedFd,
}

impl Scratch {
    pub(super) fn new() -> Result<Self, SetupError> {
        let mount = new_mount("tmpfs", &[("mode", "755")], MountAttrFlags::empty())
            .during(Step::MountRoot)?;
        // Attached, since kernels before 6.15 make no overlay of a detached mount.
        attach(&mount, open_directory(Path::new("/"))?).during(Step::MountRoot)?;
        Ok(Self { mount })
    }

    /// Makes an empty directory in it and opens that.
    pub(super) fn directory(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        mkdirat(&self.mount, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.mount, name, flags, Mode::empty())
    }

    /// Makes an empty directory in it, as a path that crosses what is mounted there.
    pub(super) fn place(&self, name: &str) -> rustix::io::Result<PathBuf> {
        mkdirat(&self.mount, name, Mode::from_raw_mode(0o755))?;
        Ok(PathBuf::from(by_descriptor(&self.mount)).join(name))
    }

    /// Makes a file in it; returns a read-only mount of it.
    pub(super) fn file(
        &self,
        name: &str,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> std::io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = openat(&self.mount, name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = File::from(fd);
        std::io::Write::write_all(&mut file, content)?;
        match std::os::unix::fs::fchown(&file, Some(owner.0), Some(owner.1)) {
            // Nobody there for the kernel: everybody in the namespace is its one id.
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => {}
            owned => owned?,
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        let mount = clone_tree(&file, false)?;
        let mut flags = sys::RDONLY | sys::NOSUID | sys::NODEV;
        if mode & 0o111 == 0 {
            flags |= sys::NOEXEC;
        }
        sys::mount_setattr(&mount, flags, false)?;
        Ok(mount)
    }
}

/// Lays out the lowest layer: for each path an empty directory, or file where `directory` is false.
///
/// Paths are taken literally, without `..`; those that aren't so get their mount point later.
pub(super) fn lay_out<'a>(
    layer: &OwnedFd,
    points: impl Iterator<Item = (&'a Path, bool)>,
) -> Result<(), SetupError> {
    for (path, directory) in points {
        let Ok(path) = path.strip_prefix("/") else { continue };
        let plain = |it| matches!(it, std::path::Component::Normal(_));
        if path == Path::new("") || !path.components().all(plain) {
            continue;
        }
        let parents: Vec<_> = path.ancestors().skip(1).filter(|it| *it != Path::new("")).collect();
        for parent in parents.into_iter().rev() {
            make(layer, parent, true)?;
        }
        make(layer, path, directory)?;
    }
    Ok(())
}

fn make(layer: &OwnedFd, path: &Path, directory: bool) -> Result<(), SetupError> {
    let made = if directory {
        mkdirat(layer, path, Mode::from_raw_mode(0o755))
    } else {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        openat(layer, path, flags, Mode::from_raw_mode(0o644)).map(drop)
    };
    match made {
        // One mount inside another, or two on one place. A file where a directory is wanted fails
        // when it is mounted on, with a better message.
        Ok(()) | Err(Errno::EXIST | Errno::NOTDIR | Errno::ISDIR) => Ok(()),
        Err(error) => Err(error).during_on(Step::MountRoot, path),
    }
}

/// Mounts a directory on `place`, to be written.
pub(super) fn bind_directory(directory: &Path, place: &Path) -> Result<OwnedFd, SetupError> {
    let opened = open_directory(directory)?;
    let mount = clone_tree(&opened, false).during_on(Step::MountRoot, directory)?;
    sys::mount_setattr(&mount, sys::NODEV, false).during_on(Step::MountRoot, directory)?;
    attach_to_path(mount, place).during_on(Step::MountRoot, directory)
}

/// Mounts an overlay of layers on `place`, over the additional lowest directory `base` if any.
pub(super) fn mount_layers(
    layers: &Overlay,
    base: Option<&OwnedFd>,
    place: &Path,
) -> Result<OwnedFd, SetupError> {
    let mut lowers = Vec::with_capacity(layers.lowers.len() + 1);
    for lower in &layers.lowers {
        lowers.push(open_directory(lower)?);
    }
    let upper = match (&layers.upper, &layers.work) {
        (Some(upper), Some(work)) => Some((open_directory(upper)?, open_directory(work)?)),
        (None, None) => None,
        _ => {
            let reason = "an upper directory needs a work directory, and the other way round";
            return Err(SetupError::Invalid { reason: reason.to_owned() });
        }
    };
    if let Some((_, work)) = &upper {
        forget_volatile(work);
    }
    let lowers: Vec<&OwnedFd> = lowers.iter().chain(base).collect();
    let upper = upper.as_ref();
    let path = layers.upper.as_ref().or(layers.lowers.first()).cloned().unwrap_or_default();
    let mounted = match configure(&lowers, upper, Naming::Descriptor) {
        // `lowerdir+` by descriptor came with 6.13, by path with 6.5. Other mistakes are EINVAL
        // too; they fail in the older ways as well.
        Err(Errno::INVAL) => match configure(&lowers, upper, Naming::Path) {
            Err(Errno::INVAL) => mount_by_string(&lowers, upper, place),
            other => other.and_then(|mount| attach_to_path(mount, place)),
        },
        other => other.and_then(|mount| attach_to_path(mount, place)),
    };
    mounted.during_on(Step::MountRoot, path)
}

/// Tries whether the file system of `directory` carries overlays, unless it is known to.
pub(super) fn overlay_error(directory: &Path) -> std::io::Result<()> {
    // ext4, xfs, btrfs, tmpfs, f2fs.
    const KNOWN: &[i64] = &[0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010];
    if KNOWN.contains(&rustix::fs::statfs(directory)?.f_type) {
        return Ok(());
    }
    let place = tempfile::Builder::new().prefix("overlay-").tempdir_in(directory)?;
    let open = |name: &str| {
        let path = place.path().join(name);
        std::fs::create_dir(&path)?;
        Ok::<_, std::io::Error>(open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    };
    let (lower, upper) = (open("lower")?, (open("upper")?, open("work")?));
    match configure(&[&lower], Some(&upper), Naming::Descriptor) {
        Err(Errno::INVAL) => configure(&[&lower], Some(&upper), Naming::Path),
        other => other,
    }?;
    Ok(())
}

fn attach_to_path(mount: OwnedFd, place: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&mount, "", rustix::fs::CWD, place, flags)?;
    Ok(mount)
}

/// Removes the mark of an earlier volatile mount, for which the kernel would refuse another one.
///
/// What a crash may have lost since is for the owner of the directories to know.
fn forget_volatile(work: &OwnedFd) {
    let _absent = unlinkat(work, "work/incompat/volatile/dirty", AtFlags::empty());
    let _absent = unlinkat(work, "work/incompat/volatile", AtFlags::REMOVEDIR);
}

/// How a layer is told to the kernel.
#[derive(Clone, Copy)]
enum Naming {
    Descriptor,
    Path,
}

fn configure(
    lowers: &[&OwnedFd],
    upper: Option<&(OwnedFd, OwnedFd)>,
    naming: Naming,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, fd: &OwnedFd| match naming {
        Naming::Descriptor => fsconfig_set_fd(&context, key, fd),
        Naming::Path => fsconfig_set_string(&context, key, by_descriptor(fd)),
    };
    fsconfig_set_string(&context, "source", "overlay")?;
    fsconfig_set_flag(&context, "userxattr")?;
    fsconfig_set_string(&context, "xino", "on")?;
    for lower in lowers {
        set("lowerdir+", lower)?;
    }
    if let Some((upper, work)) = upper {
        set("upperdir", upper)?;
        set("workdir", work)?;
        fsconfig_set_flag(&context, "volatile")?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// The way of kernels before 6.5: one string of at most a page, so paths have to be short.
fn mount_by_string(
    lowers: &[&OwnedFd],
    upper: Option<&(OwnedFd, OwnedFd)>,
    place: &Path,
) -> rustix::io::Result<OwnedFd> {
    let names: Vec<_> = lowers.iter().map(|fd| by_descriptor(fd)).collect();
    let mut options = format!("userxattr,xino=on,lowerdir={}", names.join(":"));
    if let Some((upper, work)) = upper {
        let (upper, work) = (by_descriptor(upper), by_descriptor(work));
        for part in [",upperdir=", &upper, ",workdir=", &work, ",volatile"] {
            options.push_str(part);
        }
    }
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    mount("overlay", place, "overlay", MountFlags::NODEV, &*options)?;
    open(place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn by_descriptor(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Mounts what a bind mount shows, detached: all of `source`, or `path` inside it.
pub(super) fn mount_source(
    source: &Overlay,
    path: &Path,
    read_only: bool,
    place: &Path,
) -> Result<OwnedFd, SetupError> {
    let step = Step::Mount;
    let whole = if let ([directory], None) = (&source.lowers[..], &source.upper) {
        open_directory(directory)?
    } else {
        // Attached, since kernels before 6.15 clone nothing out of a detached mount.
        mount_layers(source, None, place)?
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let inside = if path == Path::new("") { Path::new("/") } else { path };
    let found = openat2(&whole, inside, flags, Mode::empty(), resolve).during_on(step, path)?;
    let mount = clone_tree(&found, true).during_on(step, path)?;
    let read_only = if read_only { sys::RDONLY } else { 0 };
    sys::mount_setattr(&mount, sys::NODEV | read_only, true).during_on(step, path)?;
    Ok(mount)
}

/// Takes this process into a mount namespace of its own, of which nothing gets out.
pub(super) fn enter_mount_namespace() -> Result<(), SetupError> {
    use rustix::mount::MountPropagationFlags as Propagation;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).during(Step::Namespaces)?;
    mount_change("/", Propagation::DOWNSTREAM | Propagation::REC).during(Step::Namespaces)
}

/// Makes `root` the root of this mount namespace and lets go of everything else.
pub(super) fn pivot(root: &OwnedFd, mode: Isolation) -> Result<(), SetupError> {
    // The old root ends up on top of the new one, from where it is detached: no directory of the
    // image is needed for it. The scratch file system lies on top of it in turn.
    if replace_root(root).during(Step::PivotRoot)? {
        unmount(".", UnmountFlags::DETACH).during(Step::PivotRoot)?;
    }
    if mode == Isolation::Root {
        // Whoever starts mica in a chroot has given it a root that is not that of the mount namespace,
        // and out of it a step could walk. (The kernel gives no user namespace to those in a chroot.)
        // Entering the namespace again leads to its true root.
        let own = pidfd_open(getpid(), PidfdFlags::empty()).during(Step::PivotRoot)?;
        nix::sched::setns(&own, nix::sched::CloneFlags::CLONE_NEWNS).during(Step::PivotRoot)?;
        let mounts = mount_id(root).and_then(|it| Ok((it, mount_id(rustix::fs::CWD)?)));
        let (wanted, true_root) = mounts.during(Step::PivotRoot)?;
        if wanted != true_root {
            replace_root(root).during(Step::PivotRoot)?;
        }
    }
    rustix::process::chdir("/").during(Step::PivotRoot)
}

/// Puts `root` in the root's place and lets go of that; `false` if it stays, covered.
fn replace_root(root: &OwnedFd) -> rustix::io::Result<bool> {
    rustix::process::fchdir(root)?;
    match rustix::process::pivot_root(".", ".") {
        // Docker's filter lets who has `CAP_SYS_ADMIN` mount but not pivot, and an initial RAM disk stays.
        // No `..` leads below what is mounted on the root of a namespace, and nobody without that
        // capability can take it away.
        Err(Errno::PERM | Errno::INVAL) => {
            rustix::mount::mount_move(".", "/")?;
            rustix::process::chroot(".")?;
            Ok(false)
        }
        pivoted => {
            pivoted?;
            unmount(".", UnmountFlags::DETACH)?;
            Ok(true)
        }
    }
}

fn mount_id(directory: impl AsFd) -> rustix::io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH;
    Ok(statx(directory, "", flags, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Reads a regular file of at most `limit` bytes below `root`; `None` if there is none.
///
/// Nothing is waited for: a FIFO is no file, and a device neither.
pub(super) fn read_file(
    root: impl AsFd,
    path: &str,
    limit: u64,
) -> std::io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    if metadata.len() > limit {
        return Err(std::io::Error::other(format!("larger than {limit} bytes")));
    }
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    Ok(Some(content))
}
