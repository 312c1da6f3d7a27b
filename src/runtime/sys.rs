//! The kernel calls that neither nix nor rustix has in a safe form: the only `unsafe` in mica.
#![expect(unsafe_code, reason = "raw system calls; each block says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::libc;
use rustix::process::Pid;

/// The two sides of a [`fork`].
pub(super) enum Fork {
    Parent(Pid),
    Child,
}

/// Splits the process in two.
///
/// To be called only where the process has one thread: init's first act, or `main`'s.
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: callers are single-threaded, so no lock can be held by a thread that the child lacks,
    // and the child may go on allocating.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => {
            let pid = Pid::from_raw(child.as_raw()).ok_or_else(|| io::Error::other("pid 0"))?;
            Ok(Fork::Parent(pid))
        }
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
    }
}

/// What [`mount_setattr`] changes: bits of `MOUNT_ATTR_*`.
pub(super) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(super) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(super) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(super) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Sets attributes on the mount that `mount` is the root of, and with `recursive` on those below.
pub(super) fn mount_setattr(mount: impl AsFd, attributes: u64, recursive: bool) -> io::Result<()> {
    let change =
        libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, and `change` outlives the call that reads as
    // many bytes of it as its size says.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    })
}

/// Leaves the session keyring that was inherited for an empty one.
pub(super) fn join_new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; nothing is read or written.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
            0,
            0,
            0,
        )
    })
}

/// Loads a system call filter for this thread, without `no_new_privs`: `sudo` has to go on working.
///
/// With `listens`, the answer is where the calls arrive that the filter tells of. A signal to a process
/// that waits for an answer comes after it, where the kernel knows how (5.19): else calls would fail that
/// never do, and others be done twice.
pub(super) fn load_filter(
    program: &[libc::sock_filter],
    listens: bool,
) -> io::Result<Option<OwnedFd>> {
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
        | if listens { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE_RECV } else { 0 };
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions from a slice that outlives the call, and never
    // writes to it.
    let load = |flags: libc::c_ulong| unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    let mut returned = load(flags);
    if listens && returned < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        returned = load(flags & !WAIT_KILLABLE_RECV);
    }
    check(returned)?;
    let listener = listens.then(|| {
        let fd = i32::try_from(returned).map_err(|_| io::ErrorKind::InvalidData)?;
        // SAFETY: with that flag, what the kernel returns is a descriptor that nobody else has.
        Ok::<_, io::Error>(unsafe { OwnedFd::from_raw_fd(fd) })
    });
    listener.transpose()
}

/// A system call that waits for an answer.
pub(super) type Notification = libc::seccomp_notif;

/// Takes the next call off a filter's listener.
pub(super) fn next_notification(listener: impl AsFd) -> io::Result<Notification> {
    // SAFETY: all zeros is a value of this plain C struct, and what the kernel asks for.
    let mut notification: Notification = unsafe { std::mem::zeroed() };
    let (listener, request) = (listener.as_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _);
    // SAFETY: the kernel writes one struct of the size that the request's number has in it.
    let received = unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw mut notification) };
    check(received.into()).map(|()| notification)
}

/// Lets who makes a call and who answers it take turns on one processor, where the kernel knows how (6.6):
/// that is several times as fast.
pub(super) fn answer_on_the_same_processor(listener: impl AsFd) {
    nix::ioctl_write_int!(set_flags, b'!', 4);
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: takes a number and no memory.
    let _not_known_here = unsafe { set_flags(listener.as_fd().as_raw_fd(), SYNC_WAKE_UP) };
}

/// Whether whoever made a call still waits for its answer: what was found by its number is its own.
pub(super) fn is_waiting(listener: impl AsFd, id: u64) -> bool {
    let request = libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _;
    // SAFETY: the kernel reads 8 bytes that live across the call.
    unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), request, &raw const id) == 0 }
}

/// Lets a call return a value, or fail with an error number, or go on as if nobody had looked.
pub(super) fn answer(
    listener: impl AsFd,
    id: u64,
    answer: Option<Result<i64, i32>>,
) -> io::Result<()> {
    let response = libc::seccomp_notif_resp {
        id,
        val: answer.and_then(Result::ok).unwrap_or(0),
        error: answer.and_then(Result::err).map_or(0, |errno| -errno),
        flags: if answer.is_none() { CONTINUE } else { 0 },
    };
    // SAFETY: the kernel reads one struct that lives across the call.
    check(
        unsafe {
            libc::ioctl(
                listener.as_fd().as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND as _,
                &raw const response,
            )
        }
        .into(),
    )
}

const CONTINUE: u32 = 1;

/// Gives `fd` to whoever made a call, and lets the call return its number there.
pub(super) fn answer_with_descriptor(
    listener: impl AsFd,
    id: u64,
    fd: BorrowedFd<'_>,
    close_at_exec: bool,
) -> io::Result<()> {
    const SEND: u32 = 2;
    let request = libc::seccomp_notif_addfd {
        id,
        flags: SEND,
        srcfd: u32::try_from(fd.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?,
        newfd: 0,
        newfd_flags: if close_at_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
    };
    // SAFETY: the kernel reads one struct that lives across the call.
    check(
        unsafe {
            libc::ioctl(
                listener.as_fd().as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ADDFD as _,
                &raw const request,
            )
        }
        .into(),
    )
}

/// The bytes of a `struct stat`.
pub(super) type StatBytes = [u8; size_of::<libc::stat>()];
/// The bytes of a `struct statx`.
pub(super) type StatxBytes = [u8; size_of::<libc::statx>()];

/// What `newfstatat` writes, to be written elsewhere as it is.
pub(super) fn stat_bytes(
    dir: impl AsFd,
    path: impl rustix::path::Arg,
    flags: u32,
) -> rustix::io::Result<StatBytes> {
    let mut bytes = [0; size_of::<libc::stat>()];
    let (dir, to) = (dir.as_fd().as_raw_fd(), bytes.as_mut_ptr());
    path.into_with_c_str(|path| {
        // SAFETY: the path ends with a NUL byte; the kernel writes one struct, as long as `bytes`.
        errno(unsafe { libc::syscall(libc::SYS_newfstatat, dir, path.as_ptr(), to, flags) })
    })?;
    Ok(bytes)
}

/// What `statx` writes, to be written elsewhere as it is.
pub(super) fn statx_bytes(
    dir: impl AsFd,
    path: impl rustix::path::Arg,
    flags: u32,
    mask: u32,
) -> rustix::io::Result<StatxBytes> {
    let mut bytes = [0; size_of::<libc::statx>()];
    let (dir, to) = (dir.as_fd().as_raw_fd(), bytes.as_mut_ptr());
    path.into_with_c_str(|path| {
        // SAFETY: the path ends with a NUL byte; the kernel writes one struct, as long as `bytes`.
        errno(unsafe { libc::syscall(libc::SYS_statx, dir, path.as_ptr(), flags, mask, to) })
    })?;
    Ok(bytes)
}

/// What [`restrict`] keeps inside besides files: bits of `LANDLOCK_SCOPE_*`.
pub(super) const ABSTRACT_SOCKETS: u64 = 1;
pub(super) const SIGNALS: u64 = 2;

/// Lets this thread and its children reach no files but those below `root`, if one is given, and keeps
/// in what `scopes` says, as far as the kernel's Landlock knows how. Needs `no_new_privs`, or
/// `CAP_SYS_ADMIN`.
pub(super) fn restrict(root: Option<BorrowedFd<'_>>, scopes: u64) -> io::Result<()> {
    #[repr(C)]
    struct Ruleset {
        files: u64,
        network: u64,
        scoped: u64,
    }
    #[repr(C, packed)]
    struct Beneath {
        allowed: u64,
        parent: i32,
    }
    const VERSION: u32 = 1;
    const RULE_BENEATH: u32 = 1;
    // SAFETY: with this flag the kernel reads no attributes and returns a number.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION)
    };
    check(version)?;
    // How many rights over files each version knows.
    let rights = match version {
        // This one lets nobody move a file into another directory.
        1 => 0,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    let files = if root.is_some() { (1 << rights) - 1 } else { 0 };
    let scoped = if version >= 6 { scopes } else { 0 };
    if files == 0 && scoped == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let ruleset = Ruleset { files, network: 0, scoped };
    // Older kernels know the first field, then the first two.
    let size = match version {
        1..=3 => 8,
        4 | 5 => 16,
        _ => size_of::<Ruleset>(),
    };
    // SAFETY: the kernel reads `size` bytes of a struct that is as long and outlives the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size, 0) };
    check(fd)?;
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: what the kernel returned is a new descriptor that nobody else has.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let ruleset = fd.as_raw_fd();
    if let Some(root) = root {
        let rule = Beneath { allowed: files, parent: root.as_raw_fd() };
        // SAFETY: the kernel reads one packed struct that outlives the call.
        check(unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, ruleset, RULE_BENEATH, &raw const rule, 0)
        })?;
    }
    // SAFETY: takes a descriptor and no memory.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) })
}

/// Marks every descriptor but the standard streams to be closed at execve.
///
/// Rust opens nothing else, but whoever started mica may have left some open for it.
pub(super) fn close_all_at_exec() -> io::Result<()> {
    // SAFETY: changes a flag of descriptors, which stay open and with their owners.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
}

/// Brings the loopback interface of this network namespace up.
pub(super) fn start_loopback(socket: impl AsFd) -> io::Result<()> {
    // SAFETY: an all-zero `ifreq` is a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = flags.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which lives across the call.
    check(
        unsafe {
            libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)
        }
        .into(),
    )
}

/// Ignores a signal. A sandbox's process gets it back: see [`reset_signals`].
pub(super) fn ignore(signal: nix::sys::signal::Signal) -> io::Result<()> {
    use nix::sys::signal::{SigHandler, signal as set};
    // SAFETY: ignoring a signal installs no handler.
    unsafe { set(signal, SigHandler::SigIgn) }.map(drop).map_err(io::Error::from)
}

/// Gives a signal its default action again, which somebody may have taken before this process began.
pub(super) fn stop_ignoring(signal: nix::sys::signal::Signal) -> io::Result<()> {
    use nix::sys::signal::{SigHandler, signal as set};
    // SAFETY: the default action installs no handler.
    unsafe { set(signal, SigHandler::SigDfl) }.map(drop).map_err(io::Error::from)
}

/// Where [`on_window_change`] tells of a new size.
static WINDOW_CHANGES: AtomicI32 = AtomicI32::new(-1);

/// Writes a count to the event counter `to` whenever the terminal's window changes, for as long as
/// the process lives: the counter is kept open.
pub(super) fn on_window_change(to: BorrowedFd<'_>) -> io::Result<()> {
    extern "C" fn tell(_signal: libc::c_int) {
        let one = 1u64;
        // SAFETY: write(2) is safe in a signal handler, reads 8 bytes that live on this stack, and
        // fails harmlessly on a descriptor that is gone.
        unsafe { libc::write(WINDOW_CHANGES.load(Ordering::Relaxed), (&raw const one).cast(), 8) };
    }
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let kept = to.try_clone_to_owned()?.into_raw_fd();
    WINDOW_CHANGES.store(kept, Ordering::Relaxed);
    let action = SigAction::new(SigHandler::Handler(tell), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing but write(2), which is safe in a signal handler.
    unsafe { sigaction(Signal::SIGWINCH, &action) }?;
    Ok(())
}

/// Gives every signal its default action and lets all through: Rust ignores SIGPIPE, mica blocks those
/// that it waits for, and may have been started with others ignored; execve would pass all that on.
pub(super) fn reset_signals() {
    let _refused_by_nobody = nix::sys::signal::SigSet::empty().thread_set_mask();
    for signal in 1..libc::SIGRTMIN() {
        // SAFETY: SIG_DFL is no function of ours. KILL and STOP refuse, which is as well.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn errno(returned: libc::c_long) -> rustix::io::Result<()> {
    check(returned)
        .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
}

fn check(returned: libc::c_long) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
