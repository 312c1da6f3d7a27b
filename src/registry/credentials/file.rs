//! Docker's `config.json`, of which most is none of our business and stays as it is.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base64::engine::{DecodePaddingMode, Engine, GeneralPurpose, GeneralPurposeConfig};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Credential, CredentialError, host_of};

/// More than any such file has.
const MAX_BYTES: u64 = 4 << 20;

/// Base64 as Docker writes it; whether the padding is there does not matter.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A `config.json` or `auth.json`.
pub(super) struct ConfigFile {
    path: PathBuf,
    all: Map<String, Value>,
}

impl ConfigFile {
    /// Reads a file; one that is not there, or not for us to read, says nothing.
    pub(super) fn read(path: &Path) -> Result<Self, CredentialError> {
        let failed = |source| CredentialError::Io { action: "read", path: path.into(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(err)
                if matches!(
                    err.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(Self { path: path.to_owned(), all: Map::new() });
            }
            Err(err) => return Err(failed(err)),
        };
        let mut text = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, MAX_BYTES), &mut text).map_err(failed)?;
        Self::parse(path.to_owned(), &text)
    }

    pub(super) fn parse(path: PathBuf, text: &[u8]) -> Result<Self, CredentialError> {
        if text.trim_ascii().is_empty() {
            return Ok(Self { path, all: Map::new() });
        }
        match serde_json::from_slice(text) {
            Ok(all) => Ok(Self { path, all }),
            // The reader's own words may quote what stands there.
            Err(err) => {
                let reason = format!("not valid JSON in line {}", err.line());
                Err(CredentialError::Syntax { path, reason })
            }
        }
    }

    /// Changes the file as one step: nobody sees half of it, and of two changes none is lost.
    pub(super) fn change(
        path: &Path,
        change: impl FnOnce(&mut Self),
    ) -> Result<(), CredentialError> {
        // A link stays one, its target is replaced.
        let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let failed = |source| CredentialError::Io { action: "write", path: path.into(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let lock = File::open(folder).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut config = Self::read(path)?;
        change(&mut config);
        // Readable for its owner alone, which is what a temporary file is.
        let mut file = tempfile::Builder::new()
            .prefix("config.json")
            .tempfile_in(folder)
            .map_err(|err| failed(err.kind().into()))?;
        file.write_all(&config.to_bytes()).map_err(failed)?;
        file.as_file().sync_data().map_err(failed)?;
        file.persist(path).map_err(|err| failed(err.error))?;
        Ok(())
    }

    /// The name of the helper for a registry.
    pub(super) fn helper(&self, host: &str) -> Result<Option<String>, CredentialError> {
        let helpers = self.all.get("credHelpers").and_then(Value::as_object);
        let own = helpers.into_iter().flatten().find(|(key, _)| host_of(key) == host);
        let value = own.map(|(_, name)| name).or_else(|| self.all.get("credsStore"));
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(name)) if name.is_empty() => Ok(None),
            Some(Value::String(name)) => Ok(Some(name.clone())),
            Some(_) => Err(self.wrong("the name of a credential helper is no text")),
        }
    }

    /// What the file itself says of a registry.
    pub(super) fn auth(&self, host: &str) -> Result<Option<Credential>, CredentialError> {
        let Some((_, entry)) = self.entries().find(|(key, _)| is_key_of(key, host)) else {
            return Ok(None);
        };
        let text =
            |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credential::IdentityToken(token.to_owned())));
        }
        if let Some(auth) = text("auth") {
            let decoded = BASE64.decode(auth.trim()).ok().and_then(|b| String::from_utf8(b).ok());
            let Some((user, password)) = decoded.as_deref().and_then(|both| both.split_once(':'))
            else {
                return Err(self.wrong(&format!("`auth` of `{host}` is not a name and a password")));
            };
            let password = password.trim_matches('\0').to_owned();
            return Ok(Some(Credential::Basic { user: user.to_owned(), password }));
        }
        Ok(text("username").zip(text("password")).map(|(user, password)| Credential::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        }))
    }

    /// Whether the file has anything of a registry.
    pub(super) fn has(&self, host: &str) -> bool {
        self.entries().any(|(key, _)| is_key_of(key, host))
    }

    /// Notes a credential, or that somebody else keeps it.
    pub(super) fn set(&mut self, key: &str, credential: Option<(&str, &Credential)>) {
        self.remove(host_of(key));
        let entry = match credential {
            None => json!({}),
            Some((_, Credential::Basic { user, password })) => {
                json!({ "auth": BASE64.encode(format!("{user}:{password}")) })
            }
            Some((user, Credential::IdentityToken(token))) => {
                json!({ "auth": BASE64.encode(format!("{user}:")), "identitytoken": token })
            }
        };
        let auths = self.all.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        auths[key] = entry;
    }

    /// Forgets a registry, by whichever names it stands there.
    pub(super) fn remove(&mut self, host: &str) {
        if let Some(Value::Object(auths)) = self.all.get_mut("auths") {
            auths.retain(|key, _| !is_key_of(key, host));
        }
    }

    fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.all.get("auths").and_then(Value::as_object).into_iter().flatten()
    }

    /// As Docker writes it, with tabs.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        self.all.serialize(&mut serializer).expect("JSON that was read can be written");
        bytes
    }

    fn wrong(&self, reason: &str) -> CredentialError {
        CredentialError::Syntax { path: self.path.clone(), reason: reason.to_owned() }
    }
}

/// Whether an entry is for the registry as a whole. Podman also writes such for single repositories.
fn is_key_of(key: &str, host: &str) -> bool {
    if host_of(key) != host {
        return false;
    }
    let path = key.split_once('/').map_or("", |(_, path)| path);
    key.contains("://") || matches!(path.trim_end_matches('/'), "" | "v1" | "v2")
}
