//! The sandbox of those who may neither mount nor unshare: a chroot.
//!
//! It is what root has in a container under Docker's default system call filter. The directory that is
//! the root was made for this one step (`flat`), so nothing of another step is in it, and no
//! descriptor of ours leads out. What is dropped beyond Docker's defaults keeps it so: without
//! `CAP_SYS_CHROOT` there is no second chroot to walk out of, without `CAP_MKNOD` no disk to open;
//! calls that look into other processes are refused, as those of the container have the same ids, and
//! what is aimed at one by its number passes the guardian first (`emulation`). Landlock, where there is
//! one, says all that again, and keeps abstract sockets inside.
//!
//! What there is not: namespaces. A step sees the container's network, host name and process numbers.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::error::{During, SetupError, Step, displayable};
use super::spec::{ExecSpec, Network, Security};
use super::sys;

/// How long it may take to end what a step has left behind: one that forks without end may get away.
const PATIENCE: Duration = Duration::from_secs(30);

/// The device nodes that are made in a root, with their numbers.
pub const DEVICES: &[(&str, u32, u32)] = super::system::DEVICES;

/// What links that the step makes (`access.log` to `/dev/stdout`) lead to; what a process looks up itself
/// by these names is its own stream.
pub const STREAMS: &[&str] = &["stdin", "stdout", "stderr"];

/// What is read once for a step's `/proc`, as far as it is there.
const PROC_FILES: &[&str] = &[
    "cpuinfo",
    "filesystems",
    "loadavg",
    "meminfo",
    "stat",
    "sys/kernel/hostname",
    "sys/kernel/osrelease",
    "sys/kernel/ostype",
    "sys/kernel/pid_max",
    "sys/kernel/version",
    "sys/vm/overcommit_memory",
    "uptime",
    "version",
];

/// What is the same for every process of every step. (What differs is answered: `emulation`.)
const FIXED_PROC_FILES: &[(&str, &str)] = &[
    ("mounts", "root / none rw 0 0\n"),
    ("self/mountinfo", "1 0 0:1 / / rw - none root rw\n"),
    ("self/mounts", "root / none rw 0 0\n"),
];

/// Reads what a step can have of `/proc`: how the machine was when it began.
pub fn proc_files() -> Vec<(PathBuf, Vec<u8>)> {
    let read =
        |name: &&str| Some((name.into(), std::fs::read(Path::new("/proc").join(name)).ok()?));
    let fixed = FIXED_PROC_FILES.iter().map(|(name, text)| (name.into(), text.as_bytes().to_vec()));
    PROC_FILES.iter().filter_map(read).chain(fixed).collect()
}

/// Makes the root of `spec` the root of this process.
pub(super) fn enter(spec: &ExecSpec) -> Result<OwnedFd, SetupError> {
    let lacking = match spec {
        _ if spec.network == Network::None => "a network of its own",
        _ if spec.security == Security::Insecure => "all rights",
        _ if spec.terminal => "a terminal of its own",
        _ => "",
    };
    if !lacking.is_empty() {
        let reason = format!("a step in a chroot can't have {lacking}: see `mica info`");
        return Err(SetupError::Invalid { reason });
    }
    let ([root], None) = (&spec.rootfs.lowers[..], &spec.rootfs.upper) else {
        let reason = "a chroot needs its root as one directory".to_owned();
        return Err(SetupError::Invalid { reason });
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = root;
    let root = rustix::fs::open(path, flags, Mode::empty()).during_on(Step::MountRoot, path)?;
    let mounted = rustix::fs::fstatvfs(&root).during_on(Step::MountRoot, path)?.f_flag;
    for (flag, name) in [(StatVfsMountFlags::NOEXEC, "noexec"), (StatVfsMountFlags::NODEV, "nodev")]
    {
        if mounted.contains(flag) {
            let reason = format!(
                "a chroot needs its files where programs and devices work, and `{}` is mounted with \
                 `{name}`: keep images elsewhere with `--root`, on a volume for example",
                displayable(path).display()
            );
            return Err(SetupError::Invalid { reason });
        }
    }
    rustix::process::fchdir(&root).during(Step::PivotRoot)?;
    rustix::process::chroot(".").during(Step::PivotRoot)?;
    rustix::process::chdir("/").during(Step::PivotRoot)?;
    Ok(root)
}

/// Shuts the process in, beyond what the chroot does, as far as this kernel can.
pub(super) fn shut_in() -> Result<(), SetupError> {
    // Without CAP_SYS_ADMIN, there is no filter and no Landlock without it.
    rustix::thread::set_no_new_privs(true).during(Step::Filter)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).during(Step::Filter)?;
    let scopes = sys::ABSTRACT_SOCKETS | sys::SIGNALS;
    let _kernel_without_landlock = sys::restrict(Some(root.as_fd()), scopes);
    Ok(())
}

/// Ends all that a step has left behind: whatever has lost its parent became this process's child.
///
/// # Errors
/// Some of it got away: what it goes on to write must not become a layer.
pub(super) fn end_children() -> Result<(), SetupError> {
    let (own, began) = (rustix::process::getpid(), Instant::now());
    while began.elapsed() < PATIENCE {
        for child in children(own) {
            let _gone = kill_process(child, Signal::KILL);
        }
        loop {
            match waitpid(None, WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                // None is left.
                Err(_) => return Ok(()),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(SetupError::Restless)
}

/// The processes whose parent is `parent`; the working directory is `/proc`.
fn children(parent: Pid) -> Vec<Pid> {
    let names = std::fs::read_dir(".").into_iter().flatten().flatten();
    let numbers = names.filter_map(|it| it.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("{pid}/stat")).unwrap_or_default();
        // The name may hold anything.
        let field = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse::<i32>().ok());
        field == Some(parent.as_raw_nonzero().get())
    };
    numbers.filter(is_child).filter_map(Pid::from_raw).collect()
}
