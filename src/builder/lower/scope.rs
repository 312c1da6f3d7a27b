//! [`Scope`]: which variables an instruction sees.

use std::collections::BTreeMap;

use crate::oci::Platform;
use crate::parser::word::{self, Expansion};
use crate::parser::{Diagnostic, Heredoc, Word};

/// The proxy variables that every RUN may have without an ARG. Both cases count.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Arguments that are read by who scans an image, and never variables of a stage.
const FOR_SCANNERS: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// The values of `--build-arg`, by name.
pub type BuildArgs = BTreeMap<String, String>;

/// The variables of a stage, or of what stands before the first FROM.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    /// What expansion and RUN see: what ENV and ARG set, the later of them winning.
    values: Vec<(String, String)>,
    /// The ARGs declared so far, for histories.
    args: Vec<(String, Option<String>)>,
}

impl Scope {
    /// What stands before the first FROM sees: what BuildKit sets by itself.
    pub(super) fn automatic(target: &Platform, stage: &str, given: &BuildArgs) -> Self {
        let build = Platform::host();
        let mut scope = Self::default();
        for (prefix, platform) in [("BUILD", &build), ("TARGET", target)] {
            for (suffix, value) in [
                ("PLATFORM", platform.to_string()),
                ("OS", platform.os.clone()),
                ("OSVERSION", String::new()),
                ("ARCH", platform.architecture.clone()),
                ("VARIANT", platform.variant.clone()),
            ] {
                scope.set(&format!("{prefix}{suffix}"), &value);
            }
        }
        scope.set("TARGETSTAGE", stage);
        for (name, value) in given {
            if scope.get(name).is_some() {
                scope.set(name, value);
            }
        }
        scope
    }

    /// The value of a variable.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.values.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Sets a variable, as ENV does.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        match self.values.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.values.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Declares an ARG.
    pub(super) fn declare(&mut self, name: &str, value: Option<&str>) {
        match self.args.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.map(str::to_owned),
            None => self.args.push((name.to_owned(), value.map(str::to_owned))),
        }
        if let Some(value) = value
            && !FOR_SCANNERS.contains(&name)
        {
            self.set(name, value);
        }
    }

    /// `NAME=value` of every variable, for RUN.
    pub(super) fn environment(&self) -> Vec<String> {
        self.values.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// `|2 A=1 B=2 ` where ARGs are declared: how histories begin the text of a RUN.
    pub(super) fn history_prefix(&self) -> String {
        if self.args.is_empty() {
            return String::new();
        }
        let effective = |(name, value): &(String, Option<String>)| {
            let value = self.get(name).or(value.as_deref()).unwrap_or_default();
            format!("{name}={value} ")
        };
        let args: String = self.args.iter().map(effective).collect();
        format!("|{} {args}", self.args.len())
    }

    /// Expands a word to one text.
    pub(super) fn expand(&self, word: &Word, escape: char) -> Result<String, Diagnostic> {
        self.expansion(word, escape).map(|expansion| expansion.text)
    }

    /// Expands a word, which may become several.
    pub(super) fn expand_words(
        &self,
        word: &Word,
        escape: char,
    ) -> Result<Vec<String>, Diagnostic> {
        self.expansion(word, escape).map(|expansion| expansion.words)
    }

    fn expansion(&self, word: &Word, escape: char) -> Result<Expansion, Diagnostic> {
        word::expand(&word.text, escape, &|name| self.get(name)).map_err(|err| {
            Diagnostic::error("expansion", word.part(err.range.clone()), err.to_string())
        })
    }

    /// The text of a file that a here-document describes.
    pub(super) fn expand_heredoc(&self, heredoc: &Heredoc) -> Result<String, Diagnostic> {
        let body = heredoc.body();
        if !heredoc.expand {
            return Ok(body.into_owned());
        }
        word::expand_heredoc(&body, &|name| self.get(name))
            .map(|expansion| expansion.text)
            .map_err(|err| Diagnostic::error("expansion", heredoc.span, err.to_string()))
    }
}

/// The proxies that were given, as `NAME=value` and in both cases, as programs look for either. They
/// win over what ENV says, and are part of no key: where an ARG declares one, that is.
pub(super) fn proxies(given: &BuildArgs) -> Vec<String> {
    let mut proxies = Vec::new();
    for proxy in PROXIES {
        let found = given.iter().rfind(|(name, _)| name.eq_ignore_ascii_case(proxy));
        let Some((_, value)) = found.filter(|(_, value)| !value.is_empty()) else { continue };
        proxies.extend([format!("{proxy}={value}"), format!("{}={value}", proxy.to_lowercase())]);
    }
    proxies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_shows_what_is_in_force() {
        let mut scope = Scope::default();
        assert_eq!(scope.history_prefix(), "");
        scope.declare("A", Some("1"));
        scope.declare("B", None);
        scope.declare("A", Some("2"));
        scope.set("A", "env");
        assert_eq!(scope.history_prefix(), "|2 A=env B= ");
        assert_eq!(scope.environment(), ["A=env"]);
    }

    #[test]
    fn proxies_need_no_declaration() {
        let given: BuildArgs =
            [("http_proxy", "p"), ("NO_PROXY", "n"), ("ftp_proxy", ""), ("X", "y")]
                .map(|(k, v)| (k.into(), v.into()))
                .into();
        let all = ["HTTP_PROXY=p", "http_proxy=p", "NO_PROXY=n", "no_proxy=n"];
        assert_eq!(proxies(&given), all);
    }

    #[test]
    fn build_arguments_override_what_is_automatic() {
        let given =
            BuildArgs::from([("TARGETARCH".into(), "arm64".into()), ("X".into(), "1".into())]);
        let scope = Scope::automatic(&Platform::host(), "default", &given);
        assert_eq!(scope.get("TARGETARCH"), Some("arm64"));
        assert_eq!(scope.get("BUILDPLATFORM"), Some("linux/amd64"));
        assert_eq!(scope.get("X"), None);
    }
}
