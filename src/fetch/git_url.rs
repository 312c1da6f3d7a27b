//! [`GitUrl`]: what BuildKit takes for a git repository, and what a URL says beside the repository.

use crate::http::{Url, basic, percent_decode};

/// A repository, and what of it, as one word of a Dockerfile or a command line says it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitUrl {
    /// What `git` is told: without a user's password, without what only we read.
    pub remote: String,
    /// The host, for secrets that are meant for it alone.
    pub host: String,
    /// The value of an `Authorization` header, for a user and a password in the URL.
    pub authorization: Option<Authorization>,
    /// A branch, a tag, a whole commit or `refs/…`; `None` for the repository's own choice.
    pub reference: Option<String>,
    /// The commit that it has to be, or how that begins.
    pub checksum: Option<String>,
    /// A folder in it.
    pub subdir: Option<String>,
    /// Whether `.git` stays, where it is said.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched, where it is said.
    pub submodules: Option<bool>,
    /// Whether it could be a local path as well: `github.com/…`, which only contexts may be.
    pub looks_local: bool,
}

/// The value of an `Authorization` header, which no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(pub(super) String);

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What the path of a repository ends in that is asked for by HTTP.
const DOT_GIT: &str = ".git";

impl GitUrl {
    /// Reads a word. `None` for one that names no repository.
    ///
    /// # Errors
    /// What is wrong with one that does.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if text.starts_with("./") || text.starts_with("../") {
            return Ok(None);
        }
        if text.starts_with("github.com/") {
            let found = Self::of_url(&format!("https://{text}"))?;
            return Ok(found.map(|found| Self { looks_local: true, ..found }));
        }
        match text.split_once("://") {
            None => Self::of_scp(text),
            Some((scheme, rest)) => {
                let path = rest.split(['?', '#']).next().unwrap_or_default();
                let is_git = match scheme.to_ascii_lowercase().as_str() {
                    "git" | "ssh" => true,
                    "http" | "https" => {
                        path.rsplit_once('/').is_some_and(|(_, name)| name.ends_with(DOT_GIT))
                    }
                    _ => false,
                };
                if is_git { Self::of_url(text) } else { Ok(None) }
            }
        }
    }

    fn of_url(text: &str) -> Result<Option<Self>, String> {
        let url = Url::parse(text).map_err(|why| format!("invalid git URL: {why}"))?;
        let mut remote = url.bare().to_string();
        let mut authorization = None;
        if let Some((user, password)) = url.credentials() {
            if url.scheme().starts_with("http") {
                authorization = Some(Authorization(basic(&user, &password)));
            } else if is_plain(&user) {
                remote = remote.replacen("://", &format!("://{user}@"), 1);
            } else {
                return Err("invalid git URL: its user is not valid".to_owned());
            }
        }
        let host = url.host_and_port();
        let found = Self { remote, host, authorization, ..Self::default() };
        found.with(url.fragment().as_deref(), url.query()).map(Some)
    }

    /// `user@host:path`.
    fn of_scp(text: &str) -> Result<Option<Self>, String> {
        let (rest, fragment) = match text.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (text, None),
        };
        let (remote, query) = match rest.split_once('?') {
            Some((remote, query)) => (remote, Some(query)),
            None => (rest, None),
        };
        let Some((address, path)) = remote.split_once(':') else { return Ok(None) };
        let Some((user, host)) = address.split_once('@') else { return Ok(None) };
        let is_host = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
        if !is_plain(user) || !is_host || path.chars().any(char::is_control) {
            return Ok(None);
        }
        let (remote, host) = (remote.to_owned(), host.to_owned());
        Self { remote, host, ..Self::default() }.with(fragment, query).map(Some)
    }

    /// Adds what stands behind `#` (`ref:subdir`) and `?`.
    fn with(mut self, fragment: Option<&str>, query: Option<&str>) -> Result<Self, String> {
        if let Some(fragment) = fragment {
            let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
            self.reference = Some(reference.to_owned()).filter(|text| !text.is_empty());
            self.subdir = Some(subdir.to_owned()).filter(|text| !text.is_empty());
        }
        let (mut tag, mut branch) = (None, None);
        let mut seen = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |text: &str| percent_decode(&text.replace('+', " "));
            let (key, value) = (plain(key), plain(value));
            if seen.contains(&key) {
                return Err(format!("query `{}` has multiple values", key.escape_debug()));
            }
            let is_switch =
                ["submodules", "keep-git-dir", "fetch-by-commit"].contains(&key.as_str());
            if value.is_empty() && !is_switch {
                return Err(format!("query `{}` has no value", key.escape_debug()));
            }
            match key.as_str() {
                "ref" => set(&mut self.reference, value, "ref")?,
                "tag" => tag = Some(value),
                "branch" => branch = Some(value),
                "subdir" => set(&mut self.subdir, value, "subdir")?,
                "checksum" | "commit" => self.checksum = Some(value),
                "keep-git-dir" => self.keep_git_dir = Some(switch(&key, &value)?),
                "submodules" => self.submodules = Some(switch(&key, &value)?),
                // Commits are fetched by their own name wherever the server allows it.
                "fetch-by-commit" => drop(switch(&key, &value)?),
                _ => return Err(format!("unexpected query `{}`", key.escape_debug())),
            }
            seen.push(key);
        }
        if tag.is_some() && branch.is_some() {
            return Err("branch conflicts with tag".to_owned());
        }
        for (value, folder) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
            let Some(value) = value else { continue };
            let name = value.strip_prefix(folder).unwrap_or(&value);
            set(&mut self.reference, format!("{folder}{name}"), "ref")?;
        }
        if self.reference.is_none() {
            self.reference.clone_from(&self.checksum);
        }
        if let Some(reference) = self.reference.as_deref().filter(|name| !is_ref(name)) {
            return Err(format!("invalid ref `{}`", reference.escape_debug()));
        }
        Ok(self)
    }
}

fn set(place: &mut Option<String>, value: String, what: &str) -> Result<(), String> {
    match place.as_deref() {
        Some(known) if known != value => Err(format!(
            "{what} conflicts: `{}` and `{}`",
            known.escape_debug(),
            value.escape_debug()
        )),
        _ => {
            *place = Some(value);
            Ok(())
        }
    }
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid {key} value: `{}`", value.escape_debug())),
    }
}

fn is_plain(user: &str) -> bool {
    !user.is_empty()
        && !user.starts_with('-')
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Whether `git` would take this for a name, and for nothing else (git-check-ref-format).
fn is_ref(name: &str) -> bool {
    let wrong = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    !name.is_empty()
        && !name.starts_with(['-', '/'])
        && !name.contains("..")
        && !name.contains("@{")
        && !name.chars().any(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> GitUrl {
        GitUrl::parse(text).expect(text).expect(text)
    }

    #[test]
    fn what_is_a_repository() {
        let check = |text: &str, remote: Option<&str>| {
            let found = GitUrl::parse(text).expect(text);
            assert_eq!(found.map(|url| url.remote).as_deref(), remote, "{text}");
        };
        check("https://example.com/foo.git", Some("https://example.com/foo.git"));
        check("https://example.com/foo", None);
        check("https://example.com/foo.git/", None);
        check("https://example.com/foo.git.bar", None);
        check("https://foo.git", None);
        check("git://example.com/foo", Some("git://example.com/foo"));
        check("github.com/moby/buildkit", Some("https://github.com/moby/buildkit"));
        check("custom.xyz/moby/buildkit.git", None);
        check("git@github.com:moby/buildkit", Some("git@github.com:moby/buildkit"));
        check("ssh://git@h:22/x?ref=a", Some("ssh://git@h:22/x"));
        check("https://me:pass@h/x.git", Some("https://h/x.git"));
        for none in ["./.git", ".git", "../x.git", "a:b", "file:///x.git", "ext::sh", "-u@h:x", ""]
        {
            check(none, None);
        }
        assert!(parse("github.com/moby/buildkit").looks_local);
    }

    #[test]
    fn what_of_it() {
        let url = parse("https://h/x.git#baz/qux:quux/quuz");
        assert_eq!(url.reference.as_deref(), Some("baz/qux"));
        assert_eq!(url.subdir.as_deref(), Some("quux/quuz"));
        let url = parse("https://h/x.git#:folder");
        assert_eq!((url.reference, url.subdir.as_deref()), (None, Some("folder")));
        let url = parse("git@h:x?tag=v1&subdir=%2Fs&keep-git-dir&submodules=0&commit=abc");
        assert_eq!(url.reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!(url.subdir.as_deref(), Some("/s"));
        assert_eq!((url.keep_git_dir, url.submodules), (Some(true), Some(false)));
        assert_eq!(url.checksum.as_deref(), Some("abc"));
        assert_eq!(parse("git://h/x?checksum=abc").reference.as_deref(), Some("abc"));
        assert_eq!(
            parse("git://h/x?branch=refs/heads/b").reference.as_deref(),
            Some("refs/heads/b")
        );
    }

    #[test]
    fn what_cannot_be() {
        for (text, expected) in [
            ("git://h/x?foo=1", "unexpected query `foo`"),
            ("git://h/x?ref", "query `ref` has no value"),
            ("git://h/x?ref=a&ref=b", "query `ref` has multiple values"),
            ("git://h/x?ref=a#b", "ref conflicts: `b` and `a`"),
            ("git://h/x?subdir=a#:b", "subdir conflicts: `b` and `a`"),
            ("git://h/x?tag=a&branch=b", "branch conflicts with tag"),
            ("git://h/x?submodules=x", "invalid submodules value: `x`"),
            ("git://h/x#--upload-pack=sh", "invalid ref `--upload-pack=sh`"),
            ("git://h/x#a b", "invalid ref `a b`"),
            ("git:///x", "invalid git URL: it has no host"),
        ] {
            assert_eq!(GitUrl::parse(text), Err(expected.to_owned()), "{text}");
        }
    }
}
