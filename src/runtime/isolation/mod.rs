//! Finds out how mica can be kept apart from the host, and takes the strongest way that works.
//!
//! | mode | when | how |
//! |---|---|---|
//! | `root` | root that may mount | a mount namespace of its own, so the host sees none of its mounts |
//! | `userns` | whoever may have a user namespace | that, inside one: with many ids, or with one alone |
//! | `chroot` | root that may do neither | a chroot on a copy of the files |
//! | `none` | anybody else | no step can run; everything else works |
//!
//! Modes are tried in this order, by doing what they need. Each one that is not taken leaves a
//! [`Declined`] that says why. What differs between modes from there on is told by three questions
//! of [`Mode`], and nowhere else.

mod error;
mod idmap;
mod userns;

use std::fmt;
use std::io;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};

pub use error::IsolationError;

use super::nothing::NoSandbox;
use super::{NamespaceSandbox, Sandbox};

/// How mica is kept apart from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Root with a mount namespace of its own.
    Root,
    /// Root of a user namespace.
    UserNamespace {
        /// How many ids an image may use.
        ids: u32,
    },
    /// Root that may neither mount nor unshare: steps run in a chroot.
    Chroot,
    /// Whoever started mica, held by nothing: it runs no steps.
    None,
}

impl Mode {
    /// Says in a sentence why this mode was taken and what it means.
    pub fn explanation(self) -> String {
        match self {
            Self::Root => "running as root: steps run as root of the host, held by namespaces, \
                 capabilities and a system call filter"
                .to_owned(),
            Self::UserNamespace { ids: 1 } => "steps run in a user namespace with your id alone, \
                 and can do nothing that you can't; other owners and devices are written down for \
                 the image, not made"
                .to_owned(),
            Self::UserNamespace { ids } => format!(
                "steps run in a user namespace with {ids} ids of yours, and can do nothing that \
                 you can't"
            ),
            Self::Chroot => "steps run in a chroot on a copy of their files, held by fewer \
                 capabilities and a system call filter; they have this container's network, host \
                 name and process numbers"
                .to_owned(),
            Self::None => "this machine allows no isolation: images can be built without RUN, \
                 pulled, pushed and saved"
                .to_owned(),
        }
    }

    /// Whether mounts and namespaces can be made.
    pub fn has_namespaces(self) -> bool {
        matches!(self, Self::Root | Self::UserNamespace { .. })
    }

    /// What of a step's system calls is answered by mica.
    pub(super) fn emulation(self) -> Emulation {
        match self {
            Self::Root | Self::None => Emulation::Nothing,
            Self::UserNamespace { ids: 1 } => Emulation::Owners,
            Self::UserNamespace { .. } => Emulation::Devices,
            Self::Chroot => Emulation::Processes,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::UserNamespace { .. } => "userns",
            Self::Chroot => "chroot",
            Self::None => "none",
        })
    }
}

/// What of a step's system calls is answered by mica, because the kernel refuses it here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Emulation {
    /// The kernel allows all that it should.
    Nothing,
    /// The making of device nodes.
    Devices,
    /// That, what a process asks about itself, as there is no `/proc`, and whatever is aimed at a process by
    /// its number: those outside have numbers, too.
    Processes,
    /// The making of device nodes, and whatever names a user or group that is not mapped.
    Owners,
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
    /// [`Mode::Chroot`] or an error.
    Chroot,
}

/// The mode that was taken, and those that were not.
#[derive(Debug)]
pub struct Isolation {
    /// The mode.
    pub mode: Mode,
    /// The others, the strongest first.
    pub declined: Vec<Declined>,
    /// Whether root started mica, inside of a container or out of it.
    pub by_root: bool,
}

impl Isolation {
    /// Prepares what runs steps in this mode. In a chroot, it needs roots of one directory.
    ///
    /// # Errors
    /// The kernel is older than 5.12, or mounts are forbidden here.
    pub fn sandbox(&self) -> io::Result<Box<dyn Sandbox>> {
        Ok(match self.mode {
            Mode::Root | Mode::UserNamespace { .. } | Mode::Chroot => {
                Box::new(NamespaceSandbox::new(self.mode)?)
            }
            Mode::None => Box::new(NoSandbox::new(&self.declined)),
        })
    }
}

/// A mode that was not taken.
#[derive(Debug)]
pub struct Declined {
    /// Its name, or the part of it that does not work.
    pub what: &'static str,
    /// Why.
    pub error: IsolationError,
}

/// Enters the namespaces of the wanted mode, or of the strongest one that works. From then on this
/// process is root in them.
///
/// To be called while the process has one thread: before anything else but
/// [`init_if_child`](super::init_if_child).
///
/// # Errors
/// The wanted mode doesn't work here; each reason has a hint. [`Request::Auto`] finds [`Mode::None`]
/// at worst.
pub fn enter(request: Request) -> Result<Isolation, IsolationError> {
    let by_root = rustix::process::geteuid().is_root();
    let mut declined = Vec::new();
    let mut taken = None;
    for &(what, wanted, try_it) in WAYS {
        let error = match taken {
            _ if request != Request::Auto && request != wanted => IsolationError::NotAsked,
            Some(taken) => IsolationError::NotNeeded { taken },
            None => match try_it(&mut declined) {
                Ok(mode) => {
                    taken = Some(mode);
                    continue;
                }
                Err(error) if request == wanted => return Err(error),
                Err(error) => error,
            },
        };
        declined.push(Declined { what, error });
    }
    Ok(Isolation { mode: taken.unwrap_or(Mode::None), declined, by_root })
}

type Way = fn(&mut Vec<Declined>) -> Result<Mode, IsolationError>;

/// The modes, the strongest first.
const WAYS: &[(&str, Request, Way)] = &[
    ("root", Request::Root, |_| enter_mounts()),
    ("userns", Request::UserNamespace, userns::enter),
    ("chroot", Request::Chroot, |_| enter_chroot()),
];

fn enter_mounts() -> Result<Mode, IsolationError> {
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        return Err(IsolationError::NotRoot { uid: uid.as_raw() });
    }
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(io::Error::from)
        .and_then(|()| seclude())
        .map(|()| Mode::Root)
        .map_err(|source| IsolationError::NoMounts { source })
}

fn enter_chroot() -> Result<Mode, IsolationError> {
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        return Err(IsolationError::NotRoot { uid: uid.as_raw() });
    }
    // Into where it is: that changes nothing and needs the same right.
    rustix::process::chroot("/")
        .map_err(|error| IsolationError::NoChroot { source: error.into() })?;
    // Steps have the same user: without this, they could read mica's memory.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(io::Error::from)?;
    Ok(Mode::Chroot)
}

/// Mounts of the host still arrive, ours never leave.
fn seclude() -> io::Result<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(mount_change("/", flags)?)
}
