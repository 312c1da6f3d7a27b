//! The mounts that every sandbox has: `/proc`, `/sys`, `/dev`, and what is masked in them.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    FileType, Mode, OFlags, ResolveFlags, fstat, major, minor, mkdirat, mknodat, open, openat2,
    symlinkat,
};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::error::{During, SetupError, Step};
use super::rootfs::{Scratch, attach, clone_tree, new_mount};
use super::spec::{Network, Security};
use super::sys;
use super::target::Targets;

/// What is hidden, relative to `/proc` and `/sys`: the union of what BuildKit, Docker and Podman hide.
const MASKED_IN_PROC: &[&str] = &[
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
const MASKED_IN_SYS: &[&str] = &["firmware", "devices/virtual/powercap", "fs/selinux", "dev/block"];
/// What can be read but not written, relative to `/proc`.
const READ_ONLY_IN_PROC: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];
/// The device nodes, with their numbers: a host's file of that name may be anything.
pub(super) const DEVICES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS_IN_DEV: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// The `MOUNT_ATTR` flags of a pseudo file system.
fn hardened() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
}

/// Mounts `/proc`: a new one, or where an outer container forbids that, the outer one.
pub(super) fn mount_proc(
    targets: &mut Targets<'_>,
    security: Security,
    empty: &OwnedFd,
) -> Result<(), SetupError> {
    let proc = match new_mount("proc", &[], hardened()) {
        Err(Errno::PERM) => outer("/proc", 0)?,
        other => other.during_on(Step::Mount, "/proc")?,
    };
    targets.mount_system(&proc, "/proc")?;
    if security == Security::Insecure {
        return Ok(());
    }
    let null = device("null", 1, 3)?.during_on(Step::Mount, "/dev/null")?;
    mask(&proc, MASKED_IN_PROC, &null, empty)?;
    for path in READ_ONLY_IN_PROC {
        let Some(point) = open_inside(&proc, path)? else { continue };
        let mount = clone_tree(&point, true).during_on(Step::Mount, *path)?;
        sys::mount_setattr(&mount, sys::RDONLY, true).during_on(Step::Mount, *path)?;
        attach(&mount, &point).during_on(Step::Mount, *path)?;
    }
    Ok(())
}

/// Mounts `/sys`: a new one, or the outer one where the network namespace isn't ours.
pub(super) fn mount_sys(
    targets: &mut Targets<'_>,
    security: Security,
    network: Network,
    empty: &OwnedFd,
) -> Result<(), SetupError> {
    let read_only = security == Security::Sandbox;
    let (flags, attributes) = if read_only {
        (hardened() | MountAttrFlags::MOUNT_ATTR_RDONLY, sys::RDONLY)
    } else {
        (hardened(), 0)
    };
    let (sysfs, fresh) = match new_mount("sysfs", &[], flags) {
        Err(Errno::PERM) if network == Network::Host => (outer("/sys", attributes)?, false),
        Err(Errno::PERM) => (outer("/sys", sys::RDONLY)?, false),
        other => (other.during_on(Step::Mount, "/sys")?, true),
    };
    targets.mount_system(&sysfs, "/sys")?;
    mount_cgroup(&sysfs, flags, fresh, empty)?;
    if security == Security::Insecure {
        return Ok(());
    }
    let null = device("null", 1, 3)?.during_on(Step::Mount, "/dev/null")?;
    mask(&sysfs, MASKED_IN_SYS, &null, empty)?;
    let cpus = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let throttles: Vec<String> = cpus
        .filter_map(|it| it.file_name().into_string().ok())
        .filter(|it| it.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok()))
        .map(|it| format!("devices/system/cpu/{it}/thermal_throttle"))
        .collect();
    mask(&sysfs, &throttles, &null, empty)
}

/// Shows the process its own part of the unified hierarchy; of older ones, nothing.
fn mount_cgroup(
    sysfs: &OwnedFd,
    flags: MountAttrFlags,
    fresh: bool,
    empty: &OwnedFd,
) -> Result<(), SetupError> {
    const PATH: &str = "fs/cgroup";
    let Some(point) = open_inside(sysfs, PATH)? else { return Ok(()) };
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let mount = if unified { new_mount("cgroup2", &[], flags).ok() } else { None };
    match mount {
        Some(mount) => attach(&mount, &point).during_on(Step::Mount, "/sys/fs/cgroup"),
        // The outer hierarchies came with the outer /sys: no business of the process.
        None if !fresh => {
            let cover = clone_tree(empty, false).during_on(Step::Mount, "/sys/fs/cgroup")?;
            attach(&cover, &point).during_on(Step::Mount, "/sys/fs/cgroup")
        }
        None => Ok(()),
    }
}

fn outer(path: &str, attributes: u64) -> Result<OwnedFd, SetupError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = open(path, flags, Mode::empty()).during_on(Step::Mount, path)?;
    let mount = clone_tree(&found, true).during_on(Step::Mount, path)?;
    let attributes = attributes | sys::NOSUID | sys::NODEV | sys::NOEXEC;
    sys::mount_setattr(&mount, attributes, true).during_on(Step::Mount, path)?;
    Ok(mount)
}

/// Covers files with the null device and directories with an empty one; what isn't there needs none.
fn mask(
    within: &OwnedFd,
    paths: &[impl AsRef<str>],
    null: &OwnedFd,
    empty: &OwnedFd,
) -> Result<(), SetupError> {
    for path in paths {
        let path = path.as_ref();
        let Some(point) = open_inside(within, path)? else { continue };
        let stat = fstat(&point).during_on(Step::Mount, path)?;
        let directory = FileType::from_raw_mode(stat.st_mode).is_dir();
        let cover = clone_tree(if directory { empty } else { null }, false);
        let cover = cover.during_on(Step::Mount, path)?;
        attach(&cover, &point).during_on(Step::Mount, path)?;
    }
    Ok(())
}

fn open_inside(within: &OwnedFd, path: &str) -> Result<Option<OwnedFd>, SetupError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match openat2(within, path, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::PERM | Errno::LOOP) => Ok(None),
        Err(error) => Err(error).during_on(Step::Mount, path),
    }
}

/// Opens a device of the host, having made sure that it is that device (CVE-2025-31133).
fn device(
    name: &str,
    major_number: u32,
    minor_number: u32,
) -> Result<rustix::io::Result<OwnedFd>, SetupError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = format!("/dev/{name}");
    let fd = match open(&*path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(error) => return Ok(Err(error)),
    };
    let stat = fstat(&fd).during_on(Step::Mount, &*path)?;
    let number = (major(stat.st_rdev), minor(stat.st_rdev));
    let character = FileType::from_raw_mode(stat.st_mode).is_char_device();
    Ok(if character && number == (major_number, minor_number) { Ok(fd) } else { Err(Errno::NODEV) })
}

/// Mounts `/dev` with its nodes, links and the file systems below it.
///
/// The nodes are bound from the host: the mount itself allows no devices, so one that the process
/// makes by mknod can't be opened. That is what Docker needs a device cgroup for.
pub(super) fn mount_dev(
    targets: &mut Targets<'_>,
    shm: Option<u64>,
) -> Result<OwnedFd, SetupError> {
    let step = Step::Mount;
    let options = [("mode", "755"), ("size", "65536k")];
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let dev = new_mount("tmpfs", &options, flags).during_on(step, "/dev")?;
    targets.mount_system(&dev, "/dev")?;
    for &(name, major, minor) in DEVICES {
        let node = match device(name, major, minor)? {
            Ok(node) => node,
            // A machine may lack /dev/tty, or have something else there; nothing runs without the others.
            Err(Errno::NOENT | Errno::NODEV) if name == "tty" => continue,
            Err(error) => return Err(error).during_on(step, format!("/dev/{name}")),
        };
        let node = clone_tree(&node, false).during_on(step, format!("/dev/{name}"))?;
        attach(&node, file_in(&dev, name)?).during_on(step, format!("/dev/{name}"))?;
    }
    for (name, target) in LINKS_IN_DEV {
        symlinkat(*target, &dev, *name).during_on(step, format!("/dev/{name}"))?;
    }
    let pts = new_pts().during_on(step, "/dev/pts")?;
    attach(&pts, directory_in(&dev, "pts")?).during_on(step, "/dev/pts")?;
    let size = shm.unwrap_or(DEFAULT_SHM_BYTES).to_string();
    let shm = new_mount("tmpfs", &[("mode", "1777"), ("size", &*size)], hardened());
    attach(shm.during_on(step, "/dev/shm")?, directory_in(&dev, "shm")?)
        .during_on(step, "/dev/shm")?;
    match new_mount("mqueue", &[], hardened()) {
        Ok(queues) => {
            attach(queues, directory_in(&dev, "mqueue")?).during_on(step, "/dev/mqueue")?;
        }
        // A kernel without POSIX queues.
        Err(Errno::NODEV) => {}
        Err(error) => return Err(error).during_on(step, "/dev/mqueue"),
    }
    Ok(dev)
}

/// Group 5 is `tty` everywhere; in a user namespace it may have no counterpart outside.
fn new_pts() -> rustix::io::Result<OwnedFd> {
    let options = [("mode", "620"), ("ptmxmode", "666"), ("gid", "5")];
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    match new_mount("devpts", &options, flags) {
        Err(Errno::INVAL) => new_mount("devpts", &options[..2], flags),
        other => other,
    }
}

/// Makes an empty file in `dev` to mount on.
pub(super) fn file_in(dev: &OwnedFd, name: &str) -> Result<OwnedFd, SetupError> {
    mknodat(dev, name, FileType::RegularFile, Mode::from_raw_mode(0o666), 0)
        .during_on(Step::Mount, format!("/dev/{name}"))?;
    open_made(dev, name)
}

fn directory_in(dev: &OwnedFd, name: &str) -> Result<OwnedFd, SetupError> {
    mkdirat(dev, name, Mode::from_raw_mode(0o755))
        .during_on(Step::Mount, format!("/dev/{name}"))?;
    open_made(dev, name)
}

fn open_made(dev: &OwnedFd, name: &str) -> Result<OwnedFd, SetupError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(dev, name, flags, Mode::empty(), ResolveFlags::BENEATH)
        .during_on(Step::Mount, format!("/dev/{name}"))
}

/// Makes the directory that covers masked ones.
pub(super) fn empty_directory(scratch: &Scratch) -> Result<OwnedFd, SetupError> {
    let empty = scratch.directory("empty").during(Step::Mount)?;
    let mount = clone_tree(&empty, false).during(Step::Mount)?;
    let attributes = sys::RDONLY | sys::NOSUID | sys::NODEV | sys::NOEXEC;
    sys::mount_setattr(&mount, attributes, false).during(Step::Mount)?;
    // Cloned once for each place: kernels before 6.15 only clone what is attached.
    attach(&mount, &empty).during(Step::Mount)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&mount, ".", flags, Mode::empty()).during(Step::Mount)
}
