//! The ssh agents that a build may ask for signatures.
//!
//! ```text
//! step ── socket of its mount ── forward ── socket of the agent
//!         one listener a step     lists keys and asks for signatures, nothing else
//! ```
//!
//! Keys that are given as files are held by an `ssh-agent` of the build's own (`keys`), so mica itself
//! never keeps or uses one.
//!
//! **Invariant.** Whoever is on the step's side is a stranger: nothing that it sends reaches the agent
//! but requests to list keys and to sign, whole and of bounded size, and nothing that it sends, or
//! leaves unsent, holds mica up beyond the step.

mod forward;
mod keys;

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

pub use forward::Forward;
use keys::KeyAgent;

/// The agents of a build, by the ids that `RUN --mount=type=ssh` names them by.
#[derive(Debug, Default)]
pub struct Agents(BTreeMap<String, Agent>);

#[derive(Debug)]
enum Agent {
    Socket(PathBuf),
    Keys(KeyAgent),
}

/// Why an agent is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// Two agents of one id.
    #[error("there are two agents with the id `{0}`")]
    Duplicate(String),
    /// A path that leads to no agent and no key.
    #[error("cannot use `{}` for ssh", path.display())]
    Path {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An agent beside other things under one id.
    #[error("the id `{0}` stands for one socket of an agent, or for files with keys")]
    Mixed(String),
    /// A file that is too large for a key.
    #[error("`{}` is too large for a private key", .0.display())]
    TooLarge(PathBuf),
    /// A key that is locked, and nobody to ask.
    #[error("the key `{}` has a passphrase, and there is no terminal to ask for it", .0.display())]
    Passphrase(PathBuf),
    /// A file that holds no key, or one that `ssh-add` refuses.
    #[error("cannot load the key `{}`: {reason}", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A program that is not there.
    #[error("`{program}` is not installed, and keys in files need it")]
    NoProgram {
        /// Which.
        program: &'static str,
    },
    /// The agent for keys in files did not start.
    #[error("cannot start `ssh-agent`: {reason}")]
    Start {
        /// What it said.
        reason: String,
    },
}

impl SshError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Passphrase(_) => {
                "give it to a running agent with `ssh-add`, and name that with `--ssh ID=SOCKET`"
            }
            Self::NoProgram { .. } => {
                "install `openssh-client` (`openssh-clients`), or name the socket of a running agent"
            }
            _ => return None,
        })
    }
}

impl Agents {
    /// Adds the agent that `id` stands for: the one socket among `paths`, or a new agent with the keys
    /// in these files. Passphrases are asked for on the terminal if `ask` says that there is one.
    ///
    /// # Errors
    /// [`SshError`]: a path that leads to neither, keys that cannot be loaded, an id that is taken.
    pub fn add(&mut self, id: &str, paths: &[PathBuf], ask: bool) -> Result<(), SshError> {
        if self.0.contains_key(id) {
            return Err(SshError::Duplicate(id.to_owned()));
        }
        let mut sockets = Vec::new();
        for path in paths {
            let failed = |source| SshError::Path { path: path.clone(), source };
            let kind = std::fs::metadata(path).map_err(failed)?.file_type();
            if kind.is_socket() {
                sockets.push(path);
            } else if !kind.is_file() {
                let neither = std::io::Error::other("it is neither a socket nor a file");
                return Err(failed(neither));
            }
        }
        let agent = match (sockets.as_slice(), paths) {
            ([socket], [_]) => Agent::Socket((*socket).clone()),
            ([], [_, ..]) => Agent::Keys(KeyAgent::start(paths, ask)?),
            _ => return Err(SshError::Mixed(id.to_owned())),
        };
        self.0.insert(id.to_owned(), agent);
        Ok(())
    }

    /// The socket of the agent with this id; `None` where there is none.
    pub fn socket(&self, id: &str) -> Option<&Path> {
        Some(match self.0.get(id)? {
            Agent::Socket(path) => path,
            Agent::Keys(agent) => agent.socket(),
        })
    }
}
