//! [`RegistryError`]: why a registry did not give, or take, what was asked.

use super::credentials::CredentialError;
use super::settings::SettingsError;
use crate::http::HttpError;
use crate::oci::{Digest, DocumentError, Invalid, Platform};
use crate::store::StoreError;

/// Why a registry did not give, or take, what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No server answers.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The registry does not have it.
    #[error("{what} is not found{said}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// What the registry said.
        said: Said,
    },
    /// The registry wants to see somebody else.
    #[error("access to {what} is denied{said}")]
    Denied {
        /// What was asked for.
        what: String,
        /// The registry.
        host: String,
        /// Whether we have shown who we are.
        known: bool,
        /// What the registry said.
        said: Said,
    },
    /// The registry answered with an error.
    #[error("the registry refuses {what} (status {status}){said}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said.
        said: Said,
    },
    /// The registry sends us for a token to where we do not go.
    #[error("`{host}` sends us to `{realm}` for a token: {reason}")]
    Realm {
        /// The registry.
        host: String,
        /// Where it sends us.
        realm: String,
        /// Why we do not go there.
        reason: &'static str,
    },
    /// No token is given.
    #[error("`{realm}` gives no token for `{host}`: {reason}")]
    Token {
        /// The registry.
        host: String,
        /// Who was asked.
        realm: String,
        /// What it said.
        reason: String,
    },
    /// Credentials cannot be had.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The settings for registries are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What came is not what was asked for.
    #[error("{what} is not what the registry says: {reason}")]
    Wrong {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What came has another digest.
    #[error("{what} does not have the digest {expected}, its bytes are {found}")]
    Digest {
        /// What was asked for.
        what: String,
        /// As it is named.
        expected: Digest,
        /// As it was hashed.
        found: Digest,
    },
    /// A blob that breaks off again and again.
    #[error("{what} broke off {times} times, at last after {got} of {size} bytes: {reason}")]
    Broken {
        /// Which blob.
        what: String,
        /// How often.
        times: u32,
        /// How many bytes came.
        got: u64,
        /// How many there are.
        size: u64,
        /// What the network said.
        reason: String,
    },
    /// No image for this platform.
    #[error("`{name}` has no image for {wanted}; it has {}", list(.available))]
    NoPlatform {
        /// The image.
        name: String,
        /// What it was wanted for.
        wanted: Platform,
        /// What there is.
        available: Vec<Platform>,
    },
    /// Nothing to search in.
    #[error("`{host}` offers neither a search nor a catalog of its repositories")]
    NoSearch {
        /// The registry.
        host: String,
    },
    /// Something else than an image.
    #[error("`{name}` is no image: it is `{media_type}`")]
    NotAnImage {
        /// Its name.
        name: String,
        /// What it is.
        media_type: String,
    },
    /// A manifest that contradicts itself.
    #[error("`{name}` is not a valid image: {}", list(.found))]
    Invalid {
        /// Its name.
        name: String,
        /// Everything that is wrong.
        found: Vec<Invalid>,
    },
    /// A manifest, index or config that cannot be read.
    #[error("{what} cannot be understood")]
    Document {
        /// Which.
        what: String,
        /// Why.
        source: DocumentError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RegistryError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Http(err) if err.is_untrusted() => Some(
                "name who signed it as `ca` in mica's config.toml, or do without by \
                 `--tls-verify=false`"
                    .to_owned(),
            ),
            Self::Http(err) if err.is_turned_away() => Some(
                "if it wants a certificate of yours, name that as `cert` and `key` in mica's \
                 config.toml"
                    .to_owned(),
            ),
            Self::Http(err) if err.is_without_tls() => Some(
                "plain HTTP has to be asked for: `http = true` in mica's config.toml, or \
                 `--tls-verify=false`"
                    .to_owned(),
            ),
            Self::Http(HttpError::Transport { .. }) => {
                Some("where there is no way to it, images come in with `mica load`".to_owned())
            }
            Self::Http(err) => err.hint().map(str::to_owned),
            Self::NotFound { .. } => Some("is the name spelled right?".to_owned()),
            Self::Denied { known: true, .. } => {
                Some("it may not exist, or be for somebody else than who is logged in".to_owned())
            }
            Self::Denied { host, .. } if host == "docker.io" => {
                Some("it may not exist; if it is private, log in with `mica login`".to_owned())
            }
            Self::Denied { host, .. } => {
                Some(format!("it may not exist; if it is private, log in with `mica login {host}`"))
            }
            Self::Refused { status: 429, .. } => Some(
                "wait a while, or log in: registries let known users ask more often".to_owned(),
            ),
            Self::NoSearch { .. } => Some("ask whoever runs it for the name".to_owned()),
            Self::NoPlatform { .. } => Some("choose one with `--platform`".to_owned()),
            _ => None,
        }
    }

    /// The same for readers.
    pub(super) fn into_io(self) -> std::io::Error {
        let kind = match self {
            Self::Wrong { .. } => std::io::ErrorKind::InvalidData,
            _ => std::io::ErrorKind::Other,
        };
        std::io::Error::new(kind, self)
    }

    /// Whether the registry has answered, and has not what was asked for.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Denied { .. })
    }
}

/// What a registry said, if anything: it is put behind a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said(Option<String>);

/// The most characters of what a registry says that are shown.
const MAX_CHARACTERS: usize = 200;

impl Said {
    /// Reads the body of an error, as the distribution specification has it (`errors[].message`).
    pub(super) fn of(body: &[u8]) -> Self {
        #[derive(serde::Deserialize)]
        struct Body {
            #[serde(default)]
            errors: Vec<One>,
            // Token servers have their own ways.
            details: Option<String>,
            error_description: Option<String>,
        }
        #[derive(serde::Deserialize)]
        struct One {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let Ok(body) = serde_json::from_slice::<Body>(body) else { return Self(None) };
        let of_one = |one: One| if one.message.is_empty() { one.code } else { one.message };
        let mut texts: Vec<String> = body.errors.into_iter().map(of_one).collect();
        texts.extend(body.details);
        texts.extend(body.error_description);
        texts.retain(|text| !text.trim().is_empty());
        texts.dedup();
        if texts.is_empty() {
            return Self(None);
        }
        let text = texts.join("; ");
        let plain: String =
            text.trim().chars().take(MAX_CHARACTERS).flat_map(char::escape_debug).collect();
        Self(Some(plain))
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

fn list<T: std::fmt::Display>(all: &[T]) -> String {
    if all.is_empty() {
        return "none at all".to_owned();
    }
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_say() {
        let check = |body: &str, expected: &str| {
            assert_eq!(Said::of(body.as_bytes()).to_string(), expected, "{body}");
        };
        check(
            r#"{"errors":[{"code":"DENIED","message":"no\u001b[1m way"}]}"#,
            r": no\u{1b}[1m way",
        );
        check(r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, ": NAME_UNKNOWN");
        check(
            r#"{"details":"incorrect username or password"}"#,
            ": incorrect username or password",
        );
        check("<html>", "");
        check("{}", "");
        assert_eq!(Said::of(&[b'x'; 10]), Said::default());
    }

    proptest::proptest! {
        #[test]
        fn whatever_they_say_steers_no_terminal(message in ".{0,400}", details in ".{0,40}") {
            let body = serde_json::json!({ "errors": [{ "message": message }], "details": details });
            let said = Said::of(body.to_string().as_bytes()).to_string();
            proptest::prop_assert!(!said.chars().any(char::is_control));
            // Each of them may be shown as an escape.
            proptest::prop_assert!(said.chars().count() <= 2 + 10 * MAX_CHARACTERS);
        }
    }
}
