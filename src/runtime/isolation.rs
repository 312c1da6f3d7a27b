//! Enters the namespaces that mica itself needs, before it starts a thread.
//!
//! | mode | when | how |
//! |---|---|---|
//! | `root` | root that may mount | a mount namespace of its own, so the host sees none of its mounts |
//! | `userns` | anybody else | that, inside a user namespace whose ids come from `/etc/subuid` |

use std::fmt;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setresgid, setresuid};
use rustix::mount::{MountPropagationFlags, mount_change};

use super::idmap::{self, IdRange};
use super::sys::{Fork, fork};

/// How mica is kept apart from the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Root with a mount namespace of its own.
    Root,
    /// Root of a user namespace.
    UserNamespace {
        /// How many ids an image may use.
        ids: u32,
    },
}

impl Mode {
    /// Says in a sentence why this mode was taken and what it means.
    pub fn explanation(&self) -> String {
        match self {
            Self::Root => "running as root: steps run as root of the host, held by namespaces, \
                 capabilities and a system call filter"
                .to_owned(),
            Self::UserNamespace { ids } => format!(
                "running as a plain user: steps run in a user namespace with {ids} ids of yours, \
                 and can do nothing that you can't"
            ),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::UserNamespace { .. } => "userns",
        })
    }
}

/// Which mode is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Request {
    /// The strongest that works here.
    #[default]
    Auto,
    /// [`Mode::Root`] or an error.
    Root,
    /// [`Mode::UserNamespace`] or an error.
    UserNamespace,
}

/// Why no mode works here.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    /// Root is not allowed to mount.
    #[error("this root may not make mounts")]
    NoMounts {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses a user namespace.
    #[error("user namespaces are not allowed here")]
    NoUserNamespaces {
        /// What the kernel said.
        #[source]
        source: io::Error,
        /// The setting that forbids them, as far as it can be told.
        setting: Option<&'static str>,
    },
    /// The user has no subordinate ids.
    #[error("`{user}` has no subordinate ids in `{file}`")]
    NoSubordinateIds {
        /// Whose.
        user: String,
        /// Where they should be.
        file: &'static str,
    },
    /// The programs that map ids are missing.
    #[error("`{program}` is not installed")]
    NoMapper {
        /// Which one.
        program: &'static str,
    },
    /// A program that maps ids failed.
    #[error("`{program}` failed: {message}")]
    Mapping {
        /// Which one.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// Anything that should not fail.
    #[error("could not prepare the namespaces")]
    System {
        /// What the kernel said.
        #[from]
        source: io::Error,
    },
}

impl IsolationError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoMounts { .. } => {
                "in a container, allow it with `--cap-add SYS_ADMIN --security-opt \
                 seccomp=unconfined`, or run as a plain user"
                    .to_owned()
            }
            Self::NoUserNamespaces { setting: Some(setting), .. } => {
                format!("as root: `sysctl -w {setting}`")
            }
            Self::NoUserNamespaces { setting: None, .. } => {
                "an outer container's system call filter may forbid them".to_owned()
            }
            Self::NoSubordinateIds { user, .. } => {
                format!(
                    "as root: `usermod --add-subuids 100000-165535 --add-subgids \
                     100000-165535 {user}`"
                )
            }
            Self::NoMapper { .. } => {
                "install the package `uidmap` (Debian, Ubuntu) or `shadow-utils`".to_owned()
            }
            Self::Mapping { .. } => {
                "it has to be setuid root, or have file capabilities".to_owned()
            }
            Self::System { .. } => return None,
        })
    }
}

/// Enters the namespaces of the wanted mode; from then on this process is root in them.
///
/// To be called while the process has one thread: before anything else but
/// [`init_if_child`](super::init_if_child).
///
/// # Errors
/// The machine, or what runs around us, doesn't allow it; each reason has a hint.
pub fn enter(request: Request) -> Result<Mode, IsolationError> {
    let root = Uid::effective().is_root();
    match request {
        Request::Root => enter_mounts().map(|()| Mode::Root),
        Request::Auto if root => match enter_mounts() {
            // Root in a pod may be allowed user namespaces still.
            Err(refused) => enter_user_namespace().map_err(|_| refused),
            Ok(()) => Ok(Mode::Root),
        },
        Request::Auto | Request::UserNamespace => enter_user_namespace(),
    }
}

fn enter_mounts() -> Result<(), IsolationError> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(io::Error::from)
        .and_then(|()| seclude())
        .map_err(|source| IsolationError::NoMounts { source })
}

/// Mounts of the host still arrive, ours never leave.
fn seclude() -> io::Result<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(mount_change("/", flags)?)
}

fn enter_user_namespace() -> Result<Mode, IsolationError> {
    let ids = idmap::Ids::of_caller()?;
    let (told, tell) = io::pipe()?;
    let (answer, answering) = io::pipe()?;
    let pid = std::process::id();
    // Ids are mapped from outside: by a child that stays there.
    let mapper = match fork()? {
        Fork::Child => {
            drop((tell, answer));
            super::leave(map(told, answering, pid, &ids));
        }
        Fork::Parent(mapper) => mapper,
    };
    drop((told, answering));
    let entered = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
    let mapped = entered.map_err(no_user_namespaces).and_then(|()| await_mapping(tell, answer));
    let _reaped = rustix::process::waitpid(Some(mapper), rustix::process::WaitOptions::empty());
    mapped?;
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).map_err(io::Error::from)?;
    setresuid(uid, uid, uid).map_err(io::Error::from)?;
    // A change of user hides /proc/self from this very process's children.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
        .map_err(io::Error::from)?;
    seclude()?;
    Ok(Mode::UserNamespace { ids: ids.count() })
}

fn no_user_namespaces(error: nix::errno::Errno) -> IsolationError {
    const SETTINGS: &[(&str, &str, &str)] = &[
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    let forbids = |(file, value, _): &&(&str, &str, &str)| {
        std::fs::read_to_string(file).is_ok_and(|text| text.trim() == *value)
    };
    let setting = SETTINGS.iter().find(forbids).map(|(.., setting)| *setting);
    IsolationError::NoUserNamespaces { source: error.into(), setting }
}

/// Tells the mapper to begin, and waits for its verdict: nothing, or an index and a message.
fn await_mapping(tell: io::PipeWriter, mut answer: io::PipeReader) -> Result<(), IsolationError> {
    (&tell).write_all(b"!")?;
    drop(tell);
    let mut verdict = Vec::new();
    answer.read_to_end(&mut verdict)?;
    let Some((&index, message)) = verdict.split_first() else { return Ok(()) };
    let program = idmap::MAPPERS[usize::from(index) % idmap::MAPPERS.len()];
    if message.is_empty() {
        return Err(IsolationError::NoMapper { program });
    }
    let message = String::from_utf8_lossy(message).trim().to_owned();
    Err(IsolationError::Mapping { program, message })
}

/// The mapper: once told, maps users and groups of `pid`, both at once.
fn map(mut told: io::PipeReader, mut answering: io::PipeWriter, pid: u32, ids: &idmap::Ids) -> u8 {
    if told.read_exact(&mut [0]).is_err() {
        return 1;
    }
    let run = |index: usize, own: u32, ranges: &[IdRange]| {
        Command::new(idmap::MAPPERS[index])
            .arg(pid.to_string())
            .args(idmap::arguments(own, ranges))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    };
    let started = [run(0, ids.uid, &ids.uids), run(1, ids.gid, &ids.gids)];
    for (index, started) in (0u8..).zip(started) {
        let message = match started.and_then(std::process::Child::wait_with_output) {
            Ok(output) if output.status.success() => continue,
            Ok(output) => [&output.stderr[..], b" "].concat(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => error.to_string().into_bytes(),
        };
        let _told = answering.write_all(&[&[index][..], &message].concat());
        return 1;
    }
    0
}
