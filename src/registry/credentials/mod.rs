//! [`Credentials`]: who we are to a registry, as `docker login` and `podman login` keep it.
//!
//! A secret is in one of these places, asked in this order: the variable `DOCKER_AUTH_CONFIG`; for a
//! registry that Docker's `config.json` names a helper for (`credHelpers`, else `credsStore`), that
//! program; the file's own `auths`; Podman's `auth.json`.

mod file;
mod helper;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use file::ConfigFile;
use helper::Helper;

/// How `config.json` calls Docker Hub.
pub const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
const DOCKER_HUB: &str = "docker.io";

/// The user name that says that a helper's secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Proves to a registry who we are. It is never shown, `Debug` included.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and its password.
    Basic {
        /// The name.
        user: String,
        /// The password, or a token in its place.
        password: String,
    },
    /// What the registry gave for a password once, to be changed for short-lived tokens.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(…)",
            Self::IdentityToken(_) => "IdentityToken(…)",
        })
    }
}

/// Why credentials cannot be had or kept. No variant holds any.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file of credentials cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of credentials that cannot be understood.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Why, without what stands there.
        reason: String,
    },
    /// There is no folder for `config.json`.
    #[error("no folder for credentials: neither DOCKER_CONFIG nor HOME is set")]
    NoHome,
    /// `credsStore` or `credHelpers` name what is no program's name.
    #[error("`{}` is not the name of a credential helper", .0.escape_debug())]
    HelperName(String),
    /// A helper cannot be started.
    #[error("cannot run the credential helper `{helper}`")]
    Start {
        /// The program.
        helper: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A helper failed.
    #[error("the credential helper `{helper}` failed: {reason}")]
    Helper {
        /// The program.
        helper: String,
        /// What it said, or what is wrong with that.
        reason: String,
    },
}

/// Where credentials were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In a file, for everybody who can read it.
    File(PathBuf),
    /// With this helper.
    Helper(String),
}

/// Where credentials are looked for.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Docker's `config.json`.
    pub docker: Option<PathBuf>,
    /// Podman's `auth.json`, the first that has an answer.
    pub podman: Vec<PathBuf>,
    /// The text of a `config.json` by itself.
    pub variable: Option<String>,
}

impl Places {
    /// Where Docker and Podman look.
    pub fn of_environment() -> Self {
        let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = folder("HOME");
        let config = folder("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let docker = std::env::var_os("DOCKER_CONFIG").filter(|path| !path.is_empty());
        let docker = docker.map(PathBuf::from).or_else(|| Some(home?.join(".docker")));
        let podman = [
            std::env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from),
            folder("XDG_RUNTIME_DIR").map(|run| run.join("containers/auth.json")),
            config.map(|config| config.join("containers/auth.json")),
        ];
        Self {
            docker: docker.map(|folder| folder.join("config.json")),
            podman: podman.into_iter().flatten().collect(),
            variable: std::env::var("DOCKER_AUTH_CONFIG").ok().filter(|text| !text.is_empty()),
        }
    }
}

/// The credentials of whoever runs this. Nothing is read before somebody asks.
#[derive(Debug, Default)]
pub struct Credentials {
    places: Places,
    /// What was found: a helper may well ask the user something each time.
    known: Mutex<HashMap<String, Option<Credential>>>,
}

impl Credentials {
    /// Those of the environment.
    pub fn of_environment() -> Self {
        Self::at(Places::of_environment())
    }

    /// Those at `places`.
    pub fn at(places: Places) -> Self {
        Self { places, known: Mutex::default() }
    }

    /// One for one registry, and none for others.
    pub fn only(host: &str, credential: Credential) -> Self {
        let known = HashMap::from([(host.to_owned(), Some(credential))]);
        Self { places: Places::default(), known: Mutex::new(known) }
    }

    /// Who we are to the registry `host`, named as in an image's name; `None` for nobody.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn get(&self, host: &str) -> Result<Option<Credential>, CredentialError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(host) {
            return Ok(found.clone());
        }
        let found = self.find(host)?;
        known.insert(host.to_owned(), found.clone());
        Ok(found)
    }

    fn find(&self, host: &str) -> Result<Option<Credential>, CredentialError> {
        if let Some(text) = &self.places.variable
            && let Some(found) =
                ConfigFile::parse("DOCKER_AUTH_CONFIG".into(), text.as_bytes())?.auth(host)?
        {
            return Ok(Some(found));
        }
        if let Some(path) = &self.places.docker {
            let config = ConfigFile::read(path)?;
            let found = match config.helper(host)? {
                Some(name) => Helper::new(&name)?.get(&key_of(host))?,
                None => config.auth(host)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        for path in &self.places.podman {
            let config = ConfigFile::read(path)?;
            let found = match config.helper(host)? {
                Some(name) => Helper::new(&name)?.get(host)?,
                None => config.auth(host)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Keeps what proves who we are to `host`, where Docker would: with the helper for it, else in
    /// `config.json`. `user` is kept beside an identity token.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn keep(
        &self,
        host: &str,
        user: &str,
        credential: &Credential,
    ) -> Result<Kept, CredentialError> {
        let path = self.docker_file()?;
        let key = key_of(host);
        self.forget(host);
        let Some(name) = ConfigFile::read(path)?.helper(host)? else {
            ConfigFile::change(path, |config| config.set(&key, Some((user, credential))))?;
            return Ok(Kept::File(path.clone()));
        };
        let helper = Helper::new(&name)?;
        match credential {
            Credential::Basic { user, password } => helper.store(&key, user, password)?,
            Credential::IdentityToken(token) => helper.store(&key, TOKEN_USER, token)?,
        }
        // Docker notes in the file for whom a helper has something.
        ConfigFile::change(path, |config| config.set(&key, None))?;
        Ok(Kept::Helper(helper.program))
    }

    /// Forgets who we are to `host`.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn remove(&self, host: &str) -> Result<(), CredentialError> {
        let path = self.docker_file()?;
        self.forget(host);
        let config = ConfigFile::read(path)?;
        if let Some(name) = config.helper(host)? {
            Helper::new(&name)?.erase(&key_of(host))?;
        }
        if config.has(host) {
            ConfigFile::change(path, |config| config.remove(host))?;
        }
        Ok(())
    }

    fn forget(&self, host: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    fn docker_file(&self) -> Result<&PathBuf, CredentialError> {
        self.places.docker.as_ref().ok_or(CredentialError::NoHome)
    }
}

/// The registry that a server is, however it is written: `https://index.docker.io/v1/` is `docker.io`.
pub fn host_of(server: &str) -> &str {
    let plain = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://"));
    let host = plain.unwrap_or(server).split('/').next().unwrap_or_default();
    match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    }
}

/// How Docker's files and helpers call the registry `host`.
pub fn key_of(host: &str) -> String {
    if host == DOCKER_HUB { DOCKER_HUB_KEY.to_owned() } else { host.to_owned() }
}

#[cfg(test)]
mod tests;
