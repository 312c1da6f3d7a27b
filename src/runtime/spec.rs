//! What is to be run: plain data, with no behavior beyond its defaults.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::mount::Overlay;

/// One process in a sandbox: its file system, its identity, and what it may see.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// The root file system.
    pub rootfs: Overlay,
    /// Further mounts, made in this order.
    pub mounts: Vec<SandboxMount>,
    /// The program and its arguments; a program without a slash is looked up in `PATH`.
    pub argv: Vec<OsString>,
    /// The whole environment; `HOME` is added from the image's passwd file where it is missing.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory, absolute; it is made where it is missing.
    pub cwd: PathBuf,
    /// As in `USER`: empty, `name`, `uid`, `name:group`, `uid:gid`, looked up in the root.
    pub user: String,
    /// Which network the process sees.
    pub network: Network,
    /// More lines for `/etc/hosts`.
    pub hosts: Vec<(String, IpAddr)>,
    /// The name of the machine as the process sees it.
    pub hostname: String,
    /// Resource limits to change; what the machine doesn't grant is lowered silently.
    pub ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm` in bytes; 64 MiB by default, as Docker.
    pub shm_size: Option<u64>,
    /// How much the process is held.
    pub security: Security,
    /// Gives the process a terminal of its own, tied to the caller's.
    pub terminal: bool,
    /// What the process reads. A terminal implies [`Stdin::Inherit`].
    pub stdin: Stdin,
}

impl ExecSpec {
    /// Runs `argv` as root in `rootfs`, held as a build step is, on the network of the host.
    pub fn new(rootfs: Overlay, argv: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            rootfs,
            mounts: Vec::new(),
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            user: String::new(),
            network: Network::Host,
            hosts: Vec::new(),
            hostname: "buildkitsandbox".to_owned(),
            ulimits: Vec::new(),
            shm_size: None,
            security: Security::Sandbox,
            terminal: false,
            stdin: Stdin::Null,
        }
    }
}

/// Something mounted over the root file system.
///
/// Targets are resolved inside the root: no link leads out of it. A target that doesn't exist is
/// there while the process runs and leaves no trace in the layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxMount {
    /// A file or directory from outside, without devices.
    Bind {
        /// The tree that holds it: a host directory, or layers with or without an upper directory.
        source: Overlay,
        /// The path inside `source`, resolved without ever leaving it; empty for all of it.
        path: PathBuf,
        /// Where it appears.
        target: PathBuf,
        /// Refuses writes.
        read_only: bool,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Where it appears.
        target: PathBuf,
        /// Its limit in bytes; half of the memory by default.
        size: Option<u64>,
        /// Permission bits of its root.
        mode: u32,
        /// Refuses writes.
        read_only: bool,
    },
    /// A read-only file in memory: secrets never touch the disk.
    File {
        /// Its bytes.
        content: Vec<u8>,
        /// Where it appears.
        target: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

impl SandboxMount {
    /// Returns where the mount appears.
    pub fn target(&self) -> &PathBuf {
        match self {
            Self::Bind { target, .. } | Self::Tmpfs { target, .. } | Self::File { target, .. } => {
                target
            }
        }
    }
}

/// The network of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// That of the host.
    #[default]
    Host,
    /// Nothing but a loopback of its own.
    None,
}

/// How much the process is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// Docker's default capabilities, system call filter, masked and read-only paths.
    #[default]
    Sandbox,
    /// Every capability that mica has, no filter, nothing masked.
    Insecure,
}

/// What the process reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stdin {
    /// Nothing.
    #[default]
    Null,
    /// What mica itself would read.
    Inherit,
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    /// Which resource.
    pub resource: Resource,
    /// The limit that holds; `None` is unlimited.
    pub soft: Option<u64>,
    /// How far the process may raise it; `None` is unlimited.
    pub hard: Option<u64>,
}

macro_rules! resources {
    ($($variant:ident $name:literal $doc:literal,)*) => {
        /// A limited resource, by the names of `--ulimit`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Resource {
            $(#[doc = $doc] $variant,)*
        }

        impl Resource {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns the name that `--ulimit` uses.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Finds a resource by the name that `--ulimit` uses.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|resource| resource.name() == name)
            }
        }
    };
}

resources! {
    Core "core" "Size of a core file.",
    Cpu "cpu" "Seconds of processor time.",
    Data "data" "Size of the data segment.",
    Fsize "fsize" "Size of a file.",
    Locks "locks" "Number of file locks.",
    Memlock "memlock" "Bytes locked in memory.",
    Msgqueue "msgqueue" "Bytes in message queues.",
    Nice "nice" "Ceiling of the nice value.",
    Nofile "nofile" "Number of open files.",
    Nproc "nproc" "Number of processes of the user.",
    Rss "rss" "Resident memory.",
    Rtprio "rtprio" "Ceiling of the real-time priority.",
    Rttime "rttime" "Microseconds of real-time work.",
    Sigpending "sigpending" "Number of queued signals.",
    Stack "stack" "Size of the stack.",
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It returned this code.
    Code(u8),
    /// This signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// Says whether the process returned 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// Returns the code that a shell would show: 128 and the signal's number for a signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(signal).map_or(255, |it| it.saturating_add(128)),
        }
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "killed by {name}"),
                Err(_) => write!(f, "killed by signal {signal}"),
            },
        }
    }
}
