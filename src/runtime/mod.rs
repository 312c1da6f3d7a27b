//! Runs one process in a sandbox, to its end.
//!
//! ```text
//! mica (threads) ──start── guardian (init) ──fork── first process (container) ──execve── command
//!   namespace.rs  socket    outside the PID          inside all namespaces: mounts,
//!   output, cancel          namespace: waits, kills  pivots, drops privileges
//! ```
//!
//! What the process may do is what Docker's build allows, row by row: capabilities and limits in
//! `privilege`, the system call filter in `seccomp`, mounts and masks in `system`, the root in
//! `rootfs`. Root and plain users take the same path; a plain user's mica has entered a user
//! namespace first ([`isolation`]); what the kernel then refuses for want of ids, the guardian answers
//! (`emulation`).
//!
//! **Invariants.** When [`Sandbox::run`] returns, no process and no mount of it is left, however it
//! ended; if mica is killed, the same holds a moment later. No path of an image is followed outside
//! of its root. A mount leaves no trace in the layer. This module knows of no store and no
//! Dockerfile, and prints nothing.

mod cancel;
pub mod chroot;
mod console;
mod container;
mod emulation;
mod error;
mod etc;
mod exec;
pub mod fake;
mod init;
pub mod isolation;
mod namespace;
mod nothing;
mod privilege;
mod rootfs;
mod seccomp;
mod spec;
mod stub;
mod sys;
mod system;
mod target;
mod terminal;
pub mod user;
mod wire;

pub use cancel::CancelToken;
pub use error::{SandboxError, SetupError, Step};
pub use namespace::NamespaceSandbox;
pub use spec::{ExecSpec, ExitStatus, Network, Resource, SandboxMount, Security, Stdin, Ulimit};

/// Says why overlays cannot be mounted on the file system of `directory`, if they can't: an overlay or a
/// network file system carries none.
pub fn overlay_error(directory: &std::path::Path) -> Option<std::io::Error> {
    rootfs::overlay_error(directory).err()
}

/// The files about the network that a step finds in its `/etc`, with their paths.
pub fn network_files(spec: &ExecSpec) -> [(&'static str, Vec<u8>); 2] {
    let hosts = etc::hosts(&spec.hostname, &spec.hosts);
    [("/etc/hosts", hosts), ("/etc/resolv.conf", etc::resolv_conf(spec.network))]
}

/// The name under which mica starts itself as a sandbox's init.
const INIT_NAME: &str = "mica-init";

/// Where a process wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes what a process writes, in pieces of at most 64 KiB as they come.
pub type Output<'a> = &'a mut dyn FnMut(Stream, &[u8]);

/// Runs one [`ExecSpec`] to its end, leaves no process or mount behind, and reports how the process
/// ended apart from why it could not start.
pub trait Sandbox: Send + Sync {
    /// Says how many runs are to come, for what can be got ready for one while another goes on.
    fn expect(&self, _runs: usize) {}

    /// Runs `spec` until its process has ended or `cancel` ended it.
    ///
    /// `output` is called on the calling thread; while it works, the process's pipes may fill up and
    /// hold it.
    ///
    /// # Errors
    /// The process could not be started, or was cancelled.
    fn run(
        &self,
        spec: &ExecSpec,
        output: Output<'_>,
        cancel: &CancelToken,
    ) -> Result<ExitStatus, SandboxError>;
}

/// Becomes a sandbox's init if this process was started as one; otherwise returns at once.
///
/// The first thing that `main` does, before there are threads or open files.
pub fn init_if_child() {
    if std::env::args_os().next().is_some_and(|name| name == INIT_NAME) {
        leave(init::main());
    }
}

/// Makes a full quota an error like a full disk instead of a signal that kills, and lets this process
/// have as many open files as it is allowed. Whoever started it may not care for its children; it does
/// for its own. What is refused is done without.
pub fn set_up_process() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    drop(sys::ignore(nix::sys::signal::Signal::SIGXFSZ));
    drop(sys::stop_ignoring(nix::sys::signal::Signal::SIGCHLD));
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _kept_where_refused = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Ends a process that is mica's own child and has no caller to return to.
#[expect(clippy::exit, reason = "a forked or re-executed child must never return into the caller")]
fn leave(code: u8) -> ! {
    std::process::exit(code.into())
}
