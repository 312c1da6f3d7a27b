//! The sandbox of namespaces, as seen from outside: starts the child, carries its output, ends it.
//!
//! mica has threads, so it can't fork and go on. It starts its own binary again, which has one
//! thread (`init`); that one unshares, forks the first process of the new PID namespace, and stays
//! outside of it as its guardian: if mica goes away, its end of the socket tells the guardian, which
//! kills the namespace. So no process outlives a step, however mica ended.

use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::cancel::CancelToken;
use super::error::SandboxError;
use super::isolation::Mode;
use super::spec::{ExecSpec, ExitStatus, Stdin};
use super::stub::{self, Stub};
use super::terminal::Relay;
use super::wire::{self, Order, Report};
use super::{INIT_NAME, Output, Sandbox, Stream, sys};

/// How long a process may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(10);
/// How much output is read at once: what a pipe holds.
const PIECE_BYTES: usize = 64 << 10;

/// Runs processes in Linux namespaces; where there are none, in a chroot.
///
/// Works as root and, after [`isolation::enter`](super::isolation::enter), as a plain user alike.
#[derive(Debug)]
pub struct NamespaceSandbox {
    program: OwnedFd,
    mode: Mode,
    ahead: Mutex<Ahead>,
}

/// What is got ready for the next run while one is going on.
#[derive(Debug, Default)]
struct Ahead {
    /// So many runs are to come.
    expected: usize,
    init: Option<Init>,
}

impl NamespaceSandbox {
    /// Prepares to start mica itself as the sandbox's init, in the mode that was entered.
    ///
    /// # Errors
    /// The kernel is older than 5.12, or mounts are forbidden here.
    pub fn new(mode: Mode) -> std::io::Result<Self> {
        let running = rustix::fs::stat("/proc/self/exe")?;
        if let Ok(sandbox) =
            std::env::current_exe().and_then(|path| Self::with_program(mode, &path))
        {
            let found = rustix::fs::fstat(&sandbox.program)?;
            if (found.st_dev, found.st_ino) == (running.st_dev, running.st_ino) {
                return Ok(sandbox);
            }
        }
        // Renamed, deleted or replaced since it was started.
        Ok(Self::of(sealed_copy(Path::new("/proc/self/exe"))?, mode))
    }

    fn of(program: OwnedFd, mode: Mode) -> Self {
        Self { program, mode, ahead: Mutex::default() }
    }

    /// Like [`new`](Self::new) with another binary, whose `main` calls
    /// [`init_if_child`](super::init_if_child) first.
    #[doc(hidden)]
    pub fn with_program(mode: Mode, program: &Path) -> std::io::Result<Self> {
        // A container could reach the binary that started it by /proc/1/exe and overwrite it
        // (CVE-2019-5736); through a detached read-only mount, nobody can.
        if !mode.has_namespaces() {
            // A chroot has no /proc to reach it by.
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
            let program = rustix::fs::open(program, flags, rustix::fs::Mode::empty())?;
            return Ok(Self::of(program, mode));
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let program = open_tree(rustix::fs::CWD, program, flags)?;
        sys::mount_setattr(&program, sys::RDONLY, false)?;
        Ok(Self::of(program, mode))
    }

    /// An init that waits for its order.
    fn init(&self) -> std::io::Result<Init> {
        let ready = {
            let mut ahead = self.ahead();
            ahead.expected = ahead.expected.saturating_sub(1);
            ahead.init.take()
        };
        if let Some(mut init) = ready
            // Somebody may have ended it.
            && matches!(init.child.try_wait(), Ok(None))
        {
            return Ok(init);
        }
        Init::start(&self.program)
    }

    /// Starts the init of the next run, if there will be one.
    fn get_ready(&self) {
        let mut ahead = self.ahead();
        if ahead.expected > 0 && ahead.init.is_none() {
            // What fails now is tried again when it is needed.
            ahead.init = Init::start(&self.program).ok();
        }
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies a program into memory where nobody can change it.
fn sealed_copy(program: &Path) -> std::io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = std::fs::File::from(memfd_create("mica", flags)?);
    std::io::copy(&mut std::fs::File::open(program)?, &mut copy)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

impl Sandbox for NamespaceSandbox {
    fn expect(&self, runs: usize) {
        self.ahead().expected = runs;
    }

    fn run(
        &self,
        spec: &ExecSpec,
        output: Output<'_>,
        cancel: &CancelToken,
    ) -> Result<ExitStatus, SandboxError> {
        if cancel.is_cancelled() {
            return Err(SandboxError::Cancelled);
        }
        let init = self.init().map_err(|source| SandboxError::Spawn { source })?;
        let mut run =
            Run::start(init, spec, self.mode).map_err(|source| SandboxError::Spawn { source })?;
        self.get_ready();
        let watched = run.watch(output, cancel);
        let Run { init, stubs, end, .. } = run;
        drop(init);
        if let Some(top) = spec.rootfs.top() {
            stub::remove(top, &stubs);
        }
        watched.map_err(|source| SandboxError::Spawn { source })?;
        match end {
            Some(Err(error)) => Err(error),
            _ if cancel.is_cancelled() => Err(SandboxError::Cancelled),
            Some(Ok(status)) => Ok(status),
            None => Err(SandboxError::Lost),
        }
    }
}

/// mica, started as the init of a sandbox. Until it has its order, it is the same for all of them.
#[derive(Debug)]
struct Init {
    child: Child,
    socket: UnixStream,
}

impl Init {
    fn start(program: &OwnedFd) -> std::io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0(INIT_NAME)
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self { child, socket })
    }
}

impl Drop for Init {
    /// Ends it, with all that it has started.
    fn drop(&mut self) {
        let _told = self.socket.shutdown(Shutdown::Both);
        let _reaped = self.child.wait();
    }
}

/// One process from its start to its end.
struct Run {
    init: Init,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    relay: Option<Relay>,
    stubs: Vec<Stub>,
    end: Option<Result<ExitStatus, SandboxError>>,
    open: bool,
}

impl Run {
    fn start(mut init: Init, spec: &ExecSpec, mode: Mode) -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        let inherited = (spec.stdin == Stdin::Inherit && !spec.terminal).then(|| stdin.as_fd());
        let order = Order::Run { spec: Box::new(spec.clone()), mode };
        wire::send(&init.socket, &order, inherited)?;
        let (stdout, stderr) = (init.child.stdout.take(), init.child.stderr.take());
        let (relay, stubs, end, open) = (None, Vec::new(), None, true);
        Ok(Self { init, stdout, stderr, relay, stubs, end, open })
    }

    /// Carries output and reports until the child has closed everything.
    fn watch(&mut self, output: Output<'_>, cancel: &CancelToken) -> std::io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        let mut stop = Stop::default();
        while self.open || self.stdout.is_some() || self.stderr.is_some() {
            let ready = self.wait(cancel, &stop)?;
            if ready.stdout && !carry(self.stdout.as_ref(), Stream::Stdout, &mut piece, output)? {
                self.stdout = None;
            }
            if ready.stderr && !carry(self.stderr.as_ref(), Stream::Stderr, &mut piece, output)? {
                self.stderr = None;
            }
            if ready.report {
                self.take_report()?;
            }
            if let Some(relay) = &mut self.relay {
                relay.carry(&mut piece, output)?;
            }
            stop.follow(ready.request, ready.order, &self.init.socket);
        }
        if let Some(mut relay) = self.relay.take() {
            relay.drain(&mut piece, output);
        }
        Ok(())
    }

    fn take_report(&mut self) -> std::io::Result<()> {
        let Some((report, fd)) = wire::receive(&self.init.socket)? else {
            self.open = false;
            return Ok(());
        };
        match (report, fd) {
            (Report::Terminal, Some(master)) => self.relay = Some(Relay::start(master)?),
            (Report::Terminal, None) => {}
            (Report::Stubs { stubs }, _) => self.stubs = stubs,
            (Report::Failed { error }, _) => self.end = Some(Err(error.into())),
            (Report::Exited { status }, _) => {
                self.end.get_or_insert(Ok(status));
            }
        }
        Ok(())
    }

    /// Waits until anything can be carried, or the period of grace is over.
    fn wait(&self, cancel: &CancelToken, stop: &Stop) -> std::io::Result<Ready> {
        let watched = [
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
            self.open.then(|| self.init.socket.as_fd()),
            (!stop.requested).then(|| cancel.request()),
            (!stop.ordered).then(|| cancel.order()),
        ];
        let places = watched.iter().flatten().copied();
        let terminal = self.relay.iter().flat_map(Relay::watched);
        let mut fds: Vec<_> =
            places.chain(terminal).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut fds, stop.remaining().as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error.into()),
        }
        let mut answers = fds.iter().map(|fd| !fd.revents().is_empty());
        let [stdout, stderr, report, request, order] =
            watched.map(|it| it.is_some() && answers.next().unwrap_or(false));
        Ok(Ready { stdout, stderr, report, request, order })
    }
}

/// What [`Run::wait`] found to do.
#[derive(Default)]
struct Ready {
    stdout: bool,
    stderr: bool,
    report: bool,
    request: bool,
    order: bool,
}

/// How far the process has been told to end.
#[derive(Default)]
struct Stop {
    requested: bool,
    ordered: bool,
    deadline: Option<Instant>,
}

impl Stop {
    fn remaining(&self) -> Option<Timespec> {
        let left = self.deadline?.saturating_duration_since(Instant::now());
        Timespec::try_from(left).ok()
    }

    /// Passes a request or an order on, each once. A child that is gone needs neither.
    fn follow(&mut self, request: bool, order: bool, socket: &UnixStream) {
        if request && !self.requested {
            self.requested = true;
            self.deadline = Some(Instant::now() + GRACE);
            let _gone = wire::send(socket, &Order::Terminate, None);
        }
        let late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if (order || late) && !self.ordered {
            self.ordered = true;
            self.deadline = None;
            let _gone = wire::send(socket, &Order::Kill, None);
        }
    }
}

/// Passes one piece of output on; `false` at its end.
fn carry(
    from: Option<&impl AsFd>,
    stream: Stream,
    piece: &mut [u8],
    output: Output<'_>,
) -> std::io::Result<bool> {
    let Some(from) = from else { return Ok(false) };
    match rustix::io::read(from, &mut *piece) {
        Ok(0) => Ok(false),
        Ok(count) => {
            output(stream, &piece[..count]);
            Ok(true)
        }
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
