//! [`CliError`]: everything that a command can fail with.

use std::io;
use std::path::PathBuf;

use crate::builder::BuildError;
use crate::export::ExportError;
use crate::fetch::FetchError;
use crate::import::ImportError;
use crate::oci::ReferenceError;
use crate::parser::Diagnostic;
use crate::registry::RegistryError;
use crate::registry::credentials::CredentialError;
use crate::registry::push::PushError;
use crate::registry::settings::SettingsError;
use crate::runtime::SandboxError;
use crate::runtime::isolation::IsolationError;
use crate::store::StoreError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// A build, and the Dockerfile that it is about.
    #[error("{source}")]
    Build {
        /// As it is named to the user.
        file: String,
        /// Its text.
        text: String,
        /// Why.
        source: Box<BuildError>,
    },
    /// A Dockerfile that cannot be understood.
    #[error("invalid Dockerfile")]
    Dockerfile {
        /// As it is named to the user.
        file: String,
        /// Its text.
        text: String,
        /// What is wrong with it.
        found: Vec<Diagnostic>,
    },
    /// No Dockerfile where one should be.
    #[error("no Dockerfile at `{0}`")]
    NoDockerfile(String),
    /// An agent or key of `--ssh` that cannot be had.
    #[error("`--ssh`: {0}")]
    Ssh(#[from] crate::ssh::SshError),
    /// A flag of Docker's that mica does not have.
    #[error("`{flag}` is not supported: {why}")]
    Unsupported {
        /// Which.
        flag: &'static str,
        /// What to know about it.
        why: &'static str,
    },
    /// A command line that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Something from elsewhere could not be fetched, or what is kept of it not be removed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// `--change` of something that cannot be changed.
    #[error("`--change`: {0}")]
    Change(String),
    /// The limit on processes is reached.
    #[error("cannot start a thread")]
    Threads(#[source] io::Error),
    /// A file of the user's that cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the user's that cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder that is no OCI image layout, or lacks the image.
    #[error("cannot use the OCI layout `{}`", path.display())]
    Layout {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<ImportError>,
    },
    /// Standard output is closed or full.
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    /// An archive would go to a terminal.
    #[error("cowardly refusing to write an archive to a terminal")]
    ArchiveToTerminal,
    /// An archive would come from a terminal.
    #[error("no archive on standard input, which is a terminal")]
    InputFromTerminal,
    /// An image has more names than the one command can mean.
    #[error("the image {id} has {count} names")]
    SeveralNames {
        /// Its ID.
        id: String,
        /// How many.
        count: usize,
    },
    /// There is no folder for the store.
    #[error("no folder for images: neither `--root` nor MICA_ROOT, XDG_DATA_HOME or HOME is set")]
    NoHome,
    /// This machine allows no isolation.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// A container could not be started.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An archive could not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// An archive could not be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A registry did not give what was asked.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// An image could not be pushed.
    #[error("cannot push `{name}`")]
    Push {
        /// Its name, or its repository's.
        name: String,
        /// Why.
        source: Box<PushError>,
    },
    /// A registry does not know whoever tried to log in.
    #[error("cannot log in to `{host}`")]
    Login {
        /// The registry.
        host: String,
        /// Why.
        source: Box<RegistryError>,
    },
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A name or a password would have to be typed.
    #[error("no terminal to ask for a user name and a password on")]
    NoTerminal,
    /// The settings for registries are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Credentials could not be had or kept.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// A name that is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}
