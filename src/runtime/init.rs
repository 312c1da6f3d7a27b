//! The child's side: mica started again, with one thread, to become a sandbox.
//!
//! Two processes come of it. The *guardian* stays in the old PID namespace; the *first process*,
//! PID 1 of the new one, sets the sandbox up (`container`) and turns into the user's command.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sched::CloneFlags;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};

use super::emulation::Supervisor;
use super::error::{During, SetupError, Step};
use super::isolation::{Emulation, Mode};
use super::spec::{ExecSpec, ExitStatus, Network};
use super::sys::{Fork, fork};
use super::wire::{self, Order, Report};
use super::{chroot, container, sys};

/// Reads what is to be run from standard input, runs it, and reports on the same socket.
pub(super) fn main() -> u8 {
    drop(sys::stop_ignoring(nix::sys::signal::Signal::SIGCHLD));
    let Ok(socket) = std::io::stdin().as_fd().try_clone_to_owned() else { return 1 };
    let socket = UnixStream::from(socket);
    // Nobody to report to: mica is gone, or somebody plays with our name.
    let Ok(Some((Order::Run { spec, mode }, stdin))) = wire::receive(&socket) else {
        return 1;
    };
    let started = start(&spec, stdin, &socket, mode);
    match started.and_then(|(pid, calls)| guard(pid, &socket, calls, mode)) {
        Ok(status) => report(&socket, &Report::Exited { status }),
        Err(error) => report(&socket, &Report::Failed { error }),
    }
}

fn report(socket: &UnixStream, report: &Report) -> u8 {
    u8::from(wire::send(socket, report, None).is_err())
}

/// The end of a socket that brings the listener for a step's system calls, and what is answered.
type Calls = Option<(UnixStream, Emulation)>;

/// Forks the first process into new namespaces.
fn start(
    spec: &ExecSpec,
    stdin: Option<OwnedFd>,
    socket: &UnixStream,
    mode: Mode,
) -> Result<(Pid, Calls), SetupError> {
    sys::close_all_at_exec().during(Step::Streams)?;
    let mut namespaces = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    if spec.network == Network::None {
        namespaces |= CloneFlags::CLONE_NEWNET;
    }
    if mode.has_namespaces() {
        nix::sched::unshare(namespaces).during(Step::Namespaces)?;
    } else {
        // Whatever loses its parent comes here, and is found at the end.
        nix::sys::prctl::set_child_subreaper(true).during(Step::Namespaces)?;
    }
    // Ends when the guardian does, which the first process can't see by its parent's number.
    let (alive, guardian) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during(Step::Fork)?;
    let (calls, teller) = match mode.emulation() {
        Emulation::Nothing => (None, None),
        emulation => {
            let (near, far) = UnixStream::pair().during(Step::Fork)?;
            (Some((near, emulation)), Some((far, emulation)))
        }
    };
    match fork().during(Step::Fork)? {
        Fork::Parent(pid) => {
            // Kept open by the guardian for as long as it lives.
            std::mem::forget(guardian);
            Ok((pid, calls))
        }
        Fork::Child => {
            drop((guardian, calls));
            let outside = container::Outside { socket, guardian: &alive, teller, mode };
            let Err(error) = container::run(spec, stdin, outside);
            let code = report(socket, &Report::Failed { error });
            super::leave(code.max(1))
        }
    }
}

/// Waits for the first process, and ends it when mica says so or is gone; meanwhile, answers what the
/// step asks.
fn guard(
    pid: Pid,
    socket: &UnixStream,
    mut calls: Calls,
    mode: Mode,
) -> Result<ExitStatus, SetupError> {
    // The output has to end with the processes inside, not with their guardian.
    let null = std::fs::File::options().write(true).open("/dev/null").during(Step::Streams)?;
    nix::unistd::dup2_stdout(&null).during(Step::Streams)?;
    nix::unistd::dup2_stderr(&null).during(Step::Streams)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).during(Step::Fork)?;
    let _hears_of_signals_less = rustix::process::chdir("/proc");
    let mut listening = true;
    let mut supervisor: Option<Supervisor> = None;
    loop {
        let watched = [
            Some(process.as_fd()),
            listening.then(|| socket.as_fd()),
            calls.as_ref().map(|(socket, _)| socket.as_fd()),
            supervisor.as_ref().map(Supervisor::listener),
        ];
        let mut fds: Vec<_> = watched
            .iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).during(Step::Parent),
        }
        let mut answers = fds.iter().map(|fd| !fd.revents().is_empty());
        let [ended, ordered, told, asked] =
            watched.map(|it| it.is_some() && answers.next().unwrap_or(false));
        if ended {
            let status = status_of(pid);
            if !mode.has_namespaces() {
                chroot::end_children()?;
            }
            return status;
        }
        if told && let Some((socket, emulation)) = calls.take() {
            // Without a listener, the process has failed before, and says so itself.
            if let Ok(Some((0u8, Some(listener)))) = wire::receive(&socket) {
                supervisor = Some(Supervisor::new(listener, pid, emulation, mode.has_namespaces()));
            }
        }
        if asked && let Some(supervisor) = &mut supervisor {
            supervisor.answer();
        }
        if ordered {
            let signal = match wire::receive(socket) {
                Ok(Some((Order::Terminate, _))) if listens_to_term(pid) => Signal::TERM,
                order => {
                    listening = matches!(order, Ok(Some(_)));
                    Signal::KILL
                }
            };
            // Fails only where the process has just ended.
            let _ended = pidfd_send_signal(&process, signal);
        }
    }
}

/// When PID 1 has ended and can be waited for, the kernel has killed all others with it.
fn status_of(pid: Pid) -> Result<ExitStatus, SetupError> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                if let Some(code) = status.exit_status() {
                    return Ok(ExitStatus::Code(u8::try_from(code).unwrap_or(u8::MAX)));
                }
                if let Some(signal) = status.terminating_signal() {
                    return Ok(ExitStatus::Signal(signal));
                }
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).during(Step::Parent),
        }
    }
}

/// PID 1 never hears a signal that it has no handler for, so waiting for one would be in vain.
fn listens_to_term(pid: Pid) -> bool {
    const TERM: u64 = 1 << (nix::libc::SIGTERM - 1);
    // Relative: the working directory is /proc, also once the root is another.
    let status = std::fs::read_to_string(format!("{}/status", pid.as_raw_nonzero()));
    status
        .ok()
        .and_then(|it| {
            let caught = it.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
            u64::from_str_radix(caught.trim(), 16).ok()
        })
        .is_some_and(|caught| caught & TERM != 0)
}

/// Brings the loopback of a network namespace of its own up.
pub(super) fn start_loopback() -> Result<(), SetupError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .during(Step::Loopback)?;
    sys::start_loopback(&socket).during(Step::Loopback)
}
