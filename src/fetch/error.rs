//! [`FetchError`]: why something could not be fetched.

use std::io;
use std::path::{Path, PathBuf};

use crate::http::HttpError;
use crate::oci::Digest;

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No server answered.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The server does not give the file.
    #[error("cannot fetch `{url}`: the server answers with status {status}")]
    Status {
        /// What was asked for, without a password.
        url: String,
        /// What it said: 404, for example.
        status: u16,
    },
    /// The file broke off.
    #[error("cannot fetch `{url}`: {source}")]
    Body {
        /// What was asked for, without a password.
        url: String,
        /// What the network said.
        source: io::Error,
    },
    /// The server gives something else than what was asked for.
    #[error("digest mismatch: `{url}` gives {found}, not {expected}")]
    Digest {
        /// What was asked for, without a password.
        url: String,
        /// What was wanted.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// There is no `git`.
    #[error("cannot run `git`")]
    NoGit(#[source] io::Error),
    /// `git` failed.
    #[error("cannot {action} `{remote}`: {reason}")]
    Git {
        /// What it was to do.
        action: &'static str,
        /// The repository, without a password.
        remote: String,
        /// What it said.
        reason: String,
    },
    /// A repository without the branch, tag or commit.
    #[error("repository `{remote}` does not contain ref `{reference}`")]
    NoRef {
        /// The repository, without a password.
        remote: String,
        /// What was looked for.
        reference: String,
    },
    /// A checksum that is none.
    #[error("invalid checksum `{0}` for a git URL: expected the hex digits of a commit")]
    GitChecksum(String),
    /// Another commit than the one that was asked for.
    #[error("expected checksum to match `{expected}`, got {found}")]
    Commit {
        /// What was wanted.
        expected: String,
        /// What the repository has.
        found: String,
    },
    /// A folder of a repository that is not there.
    #[error("invalid subdir `{subdir}`: {reason}")]
    Subdir {
        /// As it was given.
        subdir: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A secret that cannot be sent.
    #[error("the secret `{name}` cannot be used: {reason}")]
    Secret {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The disk failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it was not.
        source: io::Error,
    },
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl FetchError {
    /// Says what was done to which file when it failed.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Whether somebody asked to stop.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Http(HttpError::Cancelled))
    }

    /// What can be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Http(err) => err.hint(),
            Self::NoGit(_) => Some("git sources need the `git` program: install it"),
            Self::Status { status: 401 | 403, .. } => Some(
                "log in with `--secret id=HTTP_AUTH_TOKEN_<host>,…` or a header in \
                 `id=HTTP_AUTH_HEADER_<host>`",
            ),
            Self::Digest { .. } => Some("what the URL gives has changed, or is not what you think"),
            Self::Git { reason, .. }
                if ["could not read Username", "Authentication failed"]
                    .iter()
                    .any(|text| reason.contains(text)) =>
            {
                Some(
                    "log in with `--secret id=GIT_AUTH_TOKEN,…`; private repositories look missing",
                )
            }
            Self::Git { reason, .. } if reason.contains("Permission denied (publickey") => {
                Some("start an SSH agent that has the key: SSH_AUTH_SOCK names it")
            }
            Self::NoRef { .. } => Some("a commit needs all its digits: 40, or 64 with SHA-256"),
            _ => None,
        }
    }
}
