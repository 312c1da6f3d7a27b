//! The first process of a sandbox: builds it around itself and turns into the user's command.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::error::{During, SetupError, Step, displayable};
use super::isolation::{Emulation, Mode as Isolation};
use super::rootfs::{self, Scratch};
use super::spec::{ExecSpec, Network, SandboxMount, Stdin};
use super::target::Targets;
use super::user::{self, User};
use super::wire::{self, Report};
use super::{chroot, console, exec, init, network_files, privilege, sys, system};

/// What the first process has of those outside.
pub(super) struct Outside<'a> {
    /// Where reports go.
    pub(super) socket: &'a UnixStream,
    /// Ends with the guardian.
    pub(super) guardian: &'a OwnedFd,
    /// Where the listener for system calls goes, if any are to be answered.
    pub(super) teller: Option<(UnixStream, Emulation)>,
    /// How it is to be held.
    pub(super) mode: Isolation,
}

/// Sets the sandbox up and executes the command; returns only if that fails.
pub(super) fn run(
    spec: &ExecSpec,
    stdin: Option<OwnedFd>,
    outside: Outside<'_>,
) -> Result<Infallible, SetupError> {
    let Outside { socket, guardian, teller, mode } = outside;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let (root, terminal) = if mode.has_namespaces() {
        enter_namespaces(spec, socket, mode)?
    } else {
        (chroot::enter(spec)?, None)
    };
    let user = look_up(&root, &spec.user)?;
    connect(spec, stdin, terminal, &user)?;
    rustix::process::setsid().during(Step::Streams)?;
    if spec.terminal {
        rustix::process::ioctl_tiocsctty(std::io::stdin()).during(Step::Terminal)?;
    }
    enter_directory(&root, &spec.cwd)?;
    drop(root);
    let command = exec::Command::new(spec, &user)?;
    privilege::drop_to(spec, &user, mode, teller)?;
    sys::reset_signals();
    die_with(guardian)?;
    Err(command.execute())
}

/// Makes the namespaces what the step is to see; returns its root, and its terminal if it has one.
fn enter_namespaces(
    spec: &ExecSpec,
    socket: &UnixStream,
    mode: Isolation,
) -> Result<(OwnedFd, Option<OwnedFd>), SetupError> {
    rootfs::enter_mount_namespace()?;
    nix::unistd::sethostname(&spec.hostname).during(Step::Hostname)?;
    if spec.network == Network::None {
        init::start_loopback()?;
    }
    let (root, dev) = mount_all(spec, socket)?;
    let terminal = if spec.terminal { Some(console::open(&dev, socket)?) } else { None };
    drop(dev);
    rootfs::pivot(&root, mode)?;
    Ok((root, terminal))
}

/// Mounts the root with everything in it; returns it and its `/dev`.
fn mount_all(spec: &ExecSpec, socket: &UnixStream) -> Result<(OwnedFd, OwnedFd), SetupError> {
    let scratch = Scratch::new()?;
    let extra = extra_mounts(spec, &scratch)?;
    let points = scratch.directory("points").during(Step::MountRoot)?;
    let system = ["/proc", "/sys", "/dev"].map(|path| (Path::new(path), true));
    let files = ["/etc/hosts", "/etc/resolv.conf"].map(|path| (Path::new(path), false));
    let others = extra.iter().map(|(_, target, directory)| (*target, *directory));
    rootfs::lay_out(&points, system.into_iter().chain(files).chain(others))?;
    let place = scratch.place("root").during(Step::MountRoot)?;
    let root = match (&spec.rootfs.lowers[..], &spec.rootfs.upper) {
        ([directory], None) => rootfs::bind_directory(directory, &place)?,
        _ => rootfs::mount_layers(&spec.rootfs, Some(&points), &place)?,
    };

    let upper = spec.rootfs.top();
    let mut targets = Targets { root: &root, upper, stubs: Vec::new() };
    let mounted = mount_into(spec, &mut targets, &scratch, &extra);
    if !targets.stubs.is_empty() {
        let report = Report::Stubs { stubs: std::mem::take(&mut targets.stubs) };
        wire::send(socket, &report, None).during(Step::Mount)?;
    }
    let dev = mounted?;
    Ok((root, dev))
}

fn mount_into(
    spec: &ExecSpec,
    targets: &mut Targets<'_>,
    scratch: &Scratch,
    extra: &[(OwnedFd, &Path, bool)],
) -> Result<OwnedFd, SetupError> {
    let empty = system::empty_directory(scratch)?;
    system::mount_proc(targets, spec.security, &empty)?;
    system::mount_sys(targets, spec.security, spec.network, &empty)?;
    let dev = system::mount_dev(targets, spec.shm_size)?;
    for (path, content) in network_files(spec) {
        let name = path.trim_start_matches("/etc/");
        let file = scratch.file(name, &content, 0o644, (0, 0)).during_on(Step::Mount, path)?;
        targets.mount(&file, Path::new(path))?;
    }
    for (mount, target, _) in extra {
        targets.mount(mount, target)?;
    }
    Ok(dev)
}

/// Makes the caller's mounts, detached; with each its target and whether it is a directory.
fn extra_mounts<'a>(
    spec: &'a ExecSpec,
    scratch: &Scratch,
) -> Result<Vec<(OwnedFd, &'a Path, bool)>, SetupError> {
    let mut mounts = Vec::with_capacity(spec.mounts.len());
    for (index, mount) in spec.mounts.iter().enumerate() {
        let target = mount.target().as_path();
        let fd = match mount {
            SandboxMount::Bind { source, path, read_only, .. } => {
                let place =
                    scratch.place(&format!("source{index}")).during_on(Step::Mount, path)?;
                rootfs::mount_source(source, path, *read_only, &place)?
            }
            SandboxMount::Tmpfs { size, mode, read_only, .. } => {
                let mode = format!("{mode:o}");
                let size = size.map(|it| it.to_string());
                let mut options = vec![("mode", mode.as_str())];
                options.extend(size.as_deref().map(|size| ("size", size)));
                let mut flags =
                    MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, *read_only);
                rootfs::new_mount("tmpfs", &options, flags).during_on(Step::Mount, target)?
            }
            SandboxMount::File { content, mode, uid, gid, .. } => scratch
                .file(&format!("file{index}"), content, *mode, (*uid, *gid))
                .during_on(Step::Mount, target)?,
        };
        let stat = rustix::fs::fstat(&fd).during_on(Step::Mount, target)?;
        let directory = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        mounts.push((fd, target, directory));
    }
    Ok(mounts)
}

fn look_up(root: &OwnedFd, spec: &str) -> Result<User, SetupError> {
    let read = |path: &str| {
        rootfs::read_file(root, path, user::FILE_LIMIT)
            .map(Option::unwrap_or_default)
            .map_err(|error| SetupError::UserFile { path: path.into(), reason: error.to_string() })
    };
    Ok(user::lookup(spec, &read("/etc/passwd")?, &read("/etc/group")?)?)
}

/// Gives the process its three streams; every other descriptor goes at execve.
fn connect(
    spec: &ExecSpec,
    stdin: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    user: &User,
) -> Result<(), SetupError> {
    let step = Step::Streams;
    if let Some(terminal) = terminal {
        let owner = Some(rustix::fs::Uid::from_raw(user.uid));
        let _unmapped = rustix::fs::fchown(&terminal, owner, None);
        nix::unistd::dup2_stdin(&terminal).during(step)?;
        nix::unistd::dup2_stdout(&terminal).during(step)?;
        return nix::unistd::dup2_stderr(&terminal).during(step);
    }
    match stdin {
        Some(stdin) if spec.stdin == Stdin::Inherit => {
            nix::unistd::dup2_stdin(&stdin).during(step)?;
        }
        _ => {
            let null = std::fs::File::open("/dev/null").during(step)?;
            nix::unistd::dup2_stdin(&null).during(step)?;
        }
    }
    // So that a user other than root can open /dev/stdout again, as under Docker.
    for stream in [std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        let _unmapped = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(user.uid)), None);
    }
    Ok(())
}

/// Goes to the working directory, which no descriptor of ours may be (CVE-2024-21626).
fn enter_directory(root: &OwnedFd, path: &Path) -> Result<(), SetupError> {
    let missing = |error: Errno| SetupError::WorkingDirectory {
        path: displayable(path),
        errno: error.raw_os_error(),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path| openat2(root, path, flags, Mode::empty(), resolve);
    let directory = match open(path) {
        Err(Errno::NOENT) => make_directories(path, &open),
        found => found,
    }
    .map_err(missing)?;
    rustix::process::fchdir(&directory).map_err(missing)?;
    let current = rustix::process::getcwd(Vec::new()).map_err(missing)?;
    if current.as_bytes().starts_with(b"/") { Ok(()) } else { Err(missing(Errno::XDEV)) }
}

/// Makes a directory and those above it, as Docker does for a working directory that is gone.
fn make_directories(
    path: &Path,
    open: &dyn Fn(&Path) -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    let above: Vec<&Path> = path.ancestors().collect();
    let mut parent = open(Path::new("/"))?;
    for path in above.into_iter().rev().skip(1) {
        parent = match (open(path), path.file_name()) {
            (Err(Errno::NOENT), Some(name)) => {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                open(path)?
            }
            (found, _) => found?,
        };
    }
    Ok(parent)
}

/// Ends with the guardian, even if that one is killed.
///
/// A change of user clears the wish, so it comes last, and looks whether it came too late.
fn die_with(guardian: &OwnedFd) -> Result<(), SetupError> {
    let signal = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(signal).during(Step::Parent)?;
    let mut fds = [PollFd::new(guardian, PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut fds, Some(&now)).during(Step::Parent)? > 0 {
        super::leave(1);
    }
    Ok(())
}

/// Returns the environment's `PATH`, or what Docker takes for none.
pub(super) fn path_of(env: &[(OsString, OsString)]) -> OsString {
    const DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let found = env.iter().rev().find(|(key, _)| key == "PATH");
    found.map_or_else(|| DEFAULT.into(), |(_, value)| value.clone())
}
