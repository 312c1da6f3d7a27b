//! [`Reference`]: the name of an image, as Docker reads and completes it.

use std::fmt;
use std::str::FromStr;

use super::Digest;

/// The name of an image with all defaults filled in: `busybox` is
/// `docker.io/library/busybox:latest`. `parse(display(r)) == r`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// A character or an order of them that no name has.
    #[error("invalid reference format: `{0}` is not an image name")]
    Format(String),
    /// Upper-case letters in the repository's name.
    #[error("invalid reference format: repository name of `{0}` must be lowercase")]
    UpperCase(String),
    /// More than 255 characters.
    #[error("invalid reference format: the repository name has more than 255 characters")]
    TooLong,
}

const DEFAULT_DOMAIN: &str = "docker.io";

impl Reference {
    /// The registry's host, with its port where it has one.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry, as `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `latest` where the name has neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of a manifest or index.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The name as people type it: without the defaults.
    pub fn familiar(&self) -> String {
        let mut out = self.familiar_repository();
        if let Some(tag) = &self.tag {
            out.push(':');
            out.push_str(tag);
        }
        if let Some(digest) = self.digest {
            out.push('@');
            out.push_str(&digest.to_string());
        }
        out
    }

    /// The repository as people type it: without the defaults, tag and digest.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        self.path.strip_prefix("library/").unwrap_or(&self.path).to_owned()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let malformed = || ReferenceError::Format(shortened(text));
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse().map_err(|_| malformed())?)),
            None => (text, None),
        };
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (name, None),
        };
        let (domain, path) = match repository.split_once('/') {
            Some((first, rest)) if is_domain(first) => (first, rest.to_owned()),
            Some(_) => (DEFAULT_DOMAIN, repository.to_owned()),
            None => (DEFAULT_DOMAIN, format!("library/{repository}")),
        };
        let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
        let path = match path.split_once('/') {
            None if domain == DEFAULT_DOMAIN => format!("library/{path}"),
            _ => path,
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) && text.is_ascii() {
            return Err(ReferenceError::UpperCase(shortened(text)));
        }
        if !path.split('/').all(is_path_component) || !is_domain_name(domain) {
            return Err(malformed());
        }
        if domain.len() + path.len() > 255 {
            return Err(ReferenceError::TooLong);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(malformed());
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag,
        };
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether the first part of a name is a registry rather than a user.
fn is_domain(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// `host[:port]`, as the reference grammar has it.
fn is_domain_name(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|ip| ip.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'));
    (bracketed || host.split('.').all(label))
        && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case words joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(|b| word(*b)) || !bytes.last().is_some_and(|b| word(*b)) {
        return false;
    }
    bytes.split(|b| word(*b)).all(|between| {
        matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// A text from outside, cut to what fits a message, its control characters escaped.
pub(super) fn shortened(text: &str) -> String {
    let mut out: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn defaults() {
        let check = |text: &str, full: &str, familiar: &str| {
            let reference: Reference = text.parse().expect(text);
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
        };
        check("busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("me/app:1", "docker.io/me/app:1", "me/app:1");
        check("localhost/app", "localhost/app:latest", "localhost/app:latest");
        check("localhost:5000/a/b:x", "localhost:5000/a/b:x", "localhost:5000/a/b:x");
        check("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest");
        check("a__b.c-d---e", "docker.io/library/a__b.c-d---e:latest", "a__b.c-d---e:latest");
        let digest = format!("a@sha256:{HEX}");
        check(&digest, &format!("docker.io/library/{digest}"), &digest);
        let both = format!("r.example/a:1@sha256:{HEX}");
        check(&both, &both, &both);
    }

    #[test]
    fn refuses_what_is_no_name() {
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "-a",
            "a-",
            "a___b",
            "a:",
            "a:-x",
            "a b",
            "a\nb:c",
            "--root=/tmp:x",
            "../../etc",
            "\u{1b}]0;owned\u{7}:x",
            "UPPER",
            "me/UPPER",
            "a@sha256:abc",
            "a@",
            "é",
            "ex_ample.com/a",
            "host:port/a",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        assert!(matches!("UPPER".parse::<Reference>(), Err(ReferenceError::UpperCase(_))));
        assert_eq!("a".repeat(256).parse::<Reference>(), Err(ReferenceError::TooLong));
    }

    proptest! {
        #[test]
        fn round_trip(text in "([a-z0-9.:-]{1,9}/)?[a-z0-9._-]{1,9}(/[a-z0-9._-]{1,9})?(:[A-Za-z0-9._-]{1,9})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse(), Ok(reference));
            }
        }

        #[test]
        fn never_panics(text in ".*") {
            drop(text.parse::<Reference>());
        }
    }
}
