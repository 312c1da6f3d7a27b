//! Why a mode of isolation does not work here, and what would change that.

use std::io;

use super::Mode;

/// Why a mode was not taken: what was tried, and what the kernel said.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    /// Another mode was asked for.
    #[error("another mode is asked for")]
    NotAsked,
    /// A stronger one works.
    #[error("not needed: `{taken}` works")]
    NotNeeded {
        /// The stronger one.
        taken: Mode,
    },
    /// Only root can have it.
    #[error("not root: the user id is {uid}")]
    NotRoot {
        /// Who is asking.
        uid: u32,
    },
    /// Root is not allowed to mount.
    #[error("this root may not make mounts: unshare(CLONE_NEWNS): {}", told(source))]
    NoMounts {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refuses a user namespace.
    #[error("user namespaces are not allowed here: unshare(CLONE_NEWUSER): {}", told(source))]
    NoUserNamespaces {
        /// What the kernel said.
        source: io::Error,
        /// The setting that forbids them, as far as it can be told.
        setting: Option<&'static str>,
    },
    /// A user namespace is allowed, but nothing can be done in it.
    #[error("mounts are not allowed in a user namespace here: {}", told(source))]
    PowerlessNamespace {
        /// What the kernel said.
        source: io::Error,
    },
    /// Root has no right to a chroot.
    #[error("no chroot is allowed here: chroot: {}", told(source))]
    NoChroot {
        /// What the kernel said.
        source: io::Error,
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
    /// Ids could not be mapped.
    #[error("`{program}` failed: {message}")]
    Mapping {
        /// The program, or the file of the kernel.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// Anything that should not fail.
    #[error("could not prepare the namespaces: {}", told(source))]
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
            Self::NotAsked | Self::NotNeeded { .. } | Self::System { .. } => return None,
            Self::NotRoot { .. } => "run mica as root".to_owned(),
            Self::NoMounts { .. } => {
                "in a container, allow it with `--cap-add SYS_ADMIN --security-opt \
                 seccomp=unconfined`, or run as a plain user"
                    .to_owned()
            }
            Self::NoUserNamespaces { setting: Some(setting), .. } => {
                format!("as root: `sysctl -w {setting}`")
            }
            Self::NoUserNamespaces { setting: None, .. } => {
                "an outer container's system call filter may forbid them: allow them with \
                 `--security-opt seccomp=unconfined`"
                    .to_owned()
            }
            Self::PowerlessNamespace { .. } => {
                "as root: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run the \
                 outer container without its AppArmor profile"
                    .to_owned()
            }
            Self::NoChroot { .. } => "give the container `--cap-add SYS_CHROOT`".to_owned(),
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
        })
    }

    /// Returns the kernel's error number, where it is what decided.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::NoMounts { source }
            | Self::NoUserNamespaces { source, .. }
            | Self::PowerlessNamespace { source }
            | Self::NoChroot { source }
            | Self::System { source } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// The kernel's words with the name of the number, as everybody searches for it.
fn told(error: &io::Error) -> String {
    match error.raw_os_error().map(nix::errno::Errno::from_raw) {
        Some(errno) => format!("{} ({errno:?})", errno.desc()),
        None => error.to_string(),
    }
}
