//! The files that settings come from.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ClientCertificate, TlsOptions, beside};
use crate::oci::Reference;

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file that is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file that cannot be understood.
    #[error("{}:{line}: {reason}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A value of Docker's `daemon.json` that cannot be.
    #[error("{}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong with which value.
        reason: String,
    },
}

/// What one of our files says of one registry.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "RawRegistry")]
pub(super) struct Registry {
    pub(super) mirrors: Vec<Mirror>,
    pub(super) http: bool,
    pub(super) insecure: bool,
    pub(super) ca: Option<PathBuf>,
    pub(super) client: Option<ClientCertificate>,
}

/// A registry as it is written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawRegistry {
    mirrors: Vec<Mirror>,
    http: bool,
    insecure: bool,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnFile {
    #[serde(default)]
    registry: BTreeMap<Host, Registry>,
}

/// The name of a registry, as images are named by it.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
pub(super) struct Host(pub(super) String);

/// Where copies of a registry's images are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Mirror {
    /// As far as it was written.
    pub(super) scheme: Option<Scheme>,
    pub(super) host: String,
    /// Empty, or from the first slash on, without one in the end.
    pub(super) path: String,
    /// What stands before a repository's name there: empty, or with a slash in the end.
    pub(super) prefix: String,
}

/// How a mirror is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Https,
    Http,
}

/// What of a `daemon.json` is about registries.
#[derive(Debug, Default)]
pub(super) struct Docker {
    pub(super) mirrors: Vec<Mirror>,
    pub(super) insecure: Vec<Insecure>,
}

/// An entry of `insecure-registries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Insecure {
    Host(String),
    Network(IpAddr, u8),
}

impl TryFrom<RawRegistry> for Registry {
    type Error = &'static str;

    fn try_from(raw: RawRegistry) -> Result<Self, &'static str> {
        let client = match (raw.cert, raw.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(ClientCertificate { cert, key }),
            (Some(_), None) => return Err("`cert` needs a `key`"),
            (None, Some(_)) => return Err("`key` needs a `cert`"),
        };
        let RawRegistry { mirrors, http, insecure, ca, .. } = raw;
        Ok(Self { mirrors, http, insecure, ca, client })
    }
}

impl TryFrom<String> for Host {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let host = if matches!(text.as_str(), "index.docker.io" | "registry-1.docker.io") {
            "docker.io".to_owned()
        } else {
            text
        };
        let name: Result<Reference, _> = format!("{host}/image").parse();
        match name {
            Ok(name) if name.domain() == host => Ok(Self(host)),
            _ => Err(format!("`{}` is not the host of a registry", host.escape_debug())),
        }
    }
}

impl TryFrom<String> for Mirror {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = |reason: &str| format!("the mirror `{}` {reason}", text.escape_debug());
        let (scheme, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(_) => return Err(wrong("is neither `https:` nor `http:`")),
            None => (None, text.as_str()),
        };
        let rest = rest.trim_end_matches('/');
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.contains('@') {
            return Err(wrong("holds a user name; `mica login` keeps credentials"));
        }
        // With a port, a name without a dot is a host as well.
        let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:443") };
        let name: Result<Reference, _> = format!("{with_port}/image").parse();
        if !name.is_ok_and(|name| name.domain() == with_port) {
            return Err(wrong("has no valid host"));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
        if !path.bytes().all(plain) {
            return Err(wrong("has characters in its path that no mirror's has"));
        }
        let (host, path, prefix) = (host.to_owned(), path.to_owned(), String::new());
        Ok(Self { scheme, host, path, prefix })
    }
}

impl Mirror {
    /// The same with its path read as the first part of the names of repositories there, as the
    /// caches of Harbor and Artifactory have them, and not as where the whole registry lies.
    pub(super) fn path_in_names(mut self) -> Self {
        let path = std::mem::take(&mut self.path);
        let path = path.trim_start_matches('/');
        self.prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        self
    }
}

impl TryFrom<&str> for Insecure {
    type Error = String;

    fn try_from(text: &str) -> Result<Self, String> {
        // Docker forgives a scheme here.
        let plain = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let plain = plain.unwrap_or(text).trim_end_matches('/');
        let wrong = || format!("`insecure-registries`: `{}` is no registry", text.escape_debug());
        if let Some((address, bits)) = plain.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            let bits: u8 = bits.parse().map_err(|_| wrong())?;
            let width = if address.is_ipv4() { 32 } else { 128 };
            return if bits <= width { Ok(Self::Network(address, bits)) } else { Err(wrong()) };
        }
        if plain.is_empty() { Err(wrong()) } else { Ok(Self::Host(plain.to_owned())) }
    }
}

/// Reads one of our own files; `None` where there is none.
pub(super) fn own(path: &Path) -> Result<Option<BTreeMap<String, Registry>>, SettingsError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SettingsError::Read { path: path.to_owned(), source }),
    };
    let file: OwnFile = toml::from_str(&text).map_err(|err| {
        let start = err.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..start].split(|byte| *byte == b'\n').count();
        let reason = err.message().lines().collect::<Vec<_>>().join(", ");
        SettingsError::Syntax { path: path.to_owned(), line, reason }
    })?;
    let settled = file.registry.into_iter().map(|(host, mut set)| {
        set.ca = set.ca.map(|file| beside(path, &file));
        set.client = set.client.map(|client| ClientCertificate {
            cert: beside(path, &client.cert),
            key: beside(path, &client.key),
        });
        (host.0, set)
    });
    Ok(Some(settled.collect()))
}

/// Reads a `daemon.json`; `None` where there is none, or none for our eyes: it is another program's.
pub(super) fn docker(path: &Path) -> Result<Option<Docker>, SettingsError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct DaemonFile {
        registry_mirrors: Option<Vec<Mirror>>,
        insecure_registries: Option<Vec<String>>,
    }
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(err)
            if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
        {
            return Ok(None);
        }
        Err(source) => return Err(SettingsError::Read { path: path.to_owned(), source }),
    };
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let file: DaemonFile = serde_json::from_slice(&text).map_err(|err| {
        let (path, line) = (path.to_owned(), err.line().max(1));
        SettingsError::Syntax { path, line, reason: err.to_string() }
    })?;
    let insecure = file.insecure_registries.unwrap_or_default();
    let insecure: Result<_, _> =
        insecure.iter().map(|entry| Insecure::try_from(entry.as_str())).collect();
    let insecure =
        insecure.map_err(|reason| SettingsError::Value { path: path.to_owned(), reason })?;
    Ok(Some(Docker { mirrors: file.registry_mirrors.unwrap_or_default(), insecure }))
}

/// The registries that have a folder in a `certs.d`.
pub(super) fn hosts_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Host::try_from(name).ok()).map(|host| host.0).collect()
}

/// Adds what a registry's folder below `certs.d` holds: authorities in `*.crt`, what we show in
/// `*.cert`, each with a `*.key` beside it.
pub(super) fn certificates(folder: &Path, tls: &mut TlsOptions) {
    // No folder is the ordinary case; a file in it that cannot be read is told when it is used.
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|kind| kind.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                tls.client.get_or_insert(ClientCertificate { cert: path, key });
            }
            _ => {}
        }
    }
}
