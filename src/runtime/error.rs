//! Why a sandbox could not start, apart from how its process ended.

use std::path::PathBuf;

use super::user::UserError;

/// What helps where the limit on processes is reached.
const FEW_PROCESSES: &str =
    "raise the limit on processes: `ulimit -u`, or `--pids-limit` of the container";

/// A failure to start a process; once it runs, its end is an [`ExitStatus`](super::ExitStatus).
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The first part of the sandbox could not be started at all.
    #[error("could not start the sandbox")]
    Spawn {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No mode of isolation works here.
    #[error("no step can run here: {reason}")]
    NoIsolation {
        /// Each mode, with what the kernel said.
        reason: String,
    },
    /// The root could not be copied, or what changed in it not be taken back.
    #[error("could not copy the root file system")]
    Copy {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A step of the set-up failed inside.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The caller cancelled before the process ended; nothing of it is left.
    #[error("cancelled")]
    Cancelled,
    /// The sandbox went away without a word, most likely killed from outside.
    #[error("the sandbox ended without a report")]
    Lost,
}

impl SandboxError {
    /// Returns the exit code that Docker gives for this failure, as `mica run` has to.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Setup(SetupError::CommandNotFound { .. }) => 127,
            Self::Setup(SetupError::CommandDenied { .. }) => 126,
            Self::Cancelled => 130,
            _ => 125,
        }
    }

    /// Returns what the user could do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Setup(error) => error.hint(),
            Self::Spawn { source } if source.raw_os_error() == Some(nix::libc::EAGAIN) => {
                Some(FEW_PROCESSES)
            }
            Self::NoIsolation { .. } => Some(
                "give the container one of these: `--security-opt seccomp=unconfined` (a user \
                 namespace), `--user 0` (a chroot), or `--privileged`; or leave RUN out",
            ),
            _ => None,
        }
    }
}

/// What failed inside the sandbox, before the user's command ran; it travels out over a socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// A kernel call was refused.
    #[error("could not {step}{}: {}", on(path.as_ref()), message(*errno))]
    Kernel {
        /// What was tried.
        step: Step,
        /// What it was tried on, where there is such a thing.
        path: Option<PathBuf>,
        /// The kernel's error number.
        errno: i32,
    },
    /// A mount point in the image can't take a mount.
    #[error("cannot mount on `{}`: {reason}", path.display())]
    MountPoint {
        /// The path inside the root.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The user or group is not in the image.
    #[error(transparent)]
    User {
        /// Who could not be found.
        #[from]
        source: UserError,
    },
    /// The image's passwd or group file can't be read.
    #[error("cannot use `{}` of the image: {reason}", path.display())]
    UserFile {
        /// The path inside the root.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The working directory is missing, no directory, or outside of the root.
    #[error("working directory `{}`: {}", path.display(), message(*errno))]
    WorkingDirectory {
        /// The path inside the root.
        path: PathBuf,
        /// The kernel's error number.
        errno: i32,
    },
    /// No such program.
    #[error("{}", not_found(command))]
    CommandNotFound {
        /// The program as given.
        command: String,
    },
    /// The program is there but can't be executed.
    #[error("exec: \"{command}\": {}", message(*errno))]
    CommandDenied {
        /// The program as given.
        command: String,
        /// The kernel's error number.
        errno: i32,
    },
    /// Without a PID namespace: what the step has started forks faster than it can be ended.
    #[error("the step leaves processes behind that can't be ended")]
    Restless,
    /// The specification itself is wrong.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
}

impl SetupError {
    /// Returns what the user could do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Kernel { errno: nix::libc::EAGAIN, .. } => Some(FEW_PROCESSES),
            Self::Kernel { step: Step::Namespaces, .. } => {
                Some("the kernel or an outer container forbids namespaces: see `mica info`")
            }
            Self::Kernel { step: Step::MountRoot, errno: nix::libc::ENOSPC, .. } => {
                Some("free some space, with `mica system prune` for example")
            }
            Self::Kernel { step: Step::MountRoot, .. } => Some(
                "the store's file system may not carry overlays: put `--root` on ext4, xfs or btrfs",
            ),
            Self::CommandNotFound { .. } => {
                Some("is it installed in the image, and for this architecture?")
            }
            _ => None,
        }
    }
}

macro_rules! steps {
    ($($variant:ident $text:literal,)*) => {
        /// A step of the set-up.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Step {
            $(#[doc = $text] $variant,)*
        }

        impl Step {
            /// All of them, in the order of the set-up.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
        }

        impl std::fmt::Display for Step {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)* })
            }
        }
    };
}

steps! {
    Receive "read what is to be run",
    Namespaces "enter new namespaces",
    Fork "start the first process",
    MountRoot "mount the root file system",
    Mount "mount",
    PivotRoot "make the mounted root the only one",
    Hostname "set the host name",
    Loopback "start the loopback network",
    Terminal "open a terminal",
    Limits "set resource limits",
    Filter "load the system call filter",
    Capabilities "drop capabilities",
    Identity "change the user",
    Streams "connect the standard streams",
    Parent "watch over the parent",
}

fn on(path: Option<&PathBuf>) -> String {
    path.map(|path| format!(" `{}`", path.display())).unwrap_or_default()
}

/// The kernel's words in lower case and without the number that std appends.
fn message(errno: i32) -> String {
    let text = nix::errno::Errno::from_raw(errno).desc();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Docker's wording: a name was searched for, a path was not.
fn not_found(command: &str) -> String {
    if command.contains('/') {
        format!("exec: \"{command}\": no such file or directory")
    } else {
        format!("exec: \"{command}\": executable file not found in $PATH")
    }
}

/// Attaches a step to a kernel call's failure.
pub(super) trait During<T> {
    /// Names the step.
    fn during(self, step: Step) -> Result<T, SetupError>;
    /// Names the step and what it worked on.
    fn during_on(self, step: Step, path: impl Into<PathBuf>) -> Result<T, SetupError>;
}

impl<T, E: Into<std::io::Error>> During<T> for Result<T, E> {
    fn during(self, step: Step) -> Result<T, SetupError> {
        self.map_err(|error| SetupError::Kernel { step, path: None, errno: errno(&error.into()) })
    }

    fn during_on(self, step: Step, path: impl Into<PathBuf>) -> Result<T, SetupError> {
        self.map_err(|error| SetupError::Kernel {
            step,
            path: Some(displayable(&path.into())),
            errno: errno(&error.into()),
        })
    }
}

/// Paths are bytes, reports are text.
pub(super) fn displayable(path: &std::path::Path) -> PathBuf {
    PathBuf::from(path.to_string_lossy().into_owned())
}

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(nix::libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_not_blamed_on_its_kind() {
        let hint = |errno| SetupError::Kernel { step: Step::MountRoot, path: None, errno }.hint();
        assert!(hint(nix::libc::ENOSPC).is_some_and(|hint| hint.starts_with("free some space")));
        assert!(hint(nix::libc::EINVAL).is_some_and(|hint| hint.contains("may not carry")));
    }
}
