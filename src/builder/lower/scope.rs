//! [`Scope`]: which variables an instruction sees.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use super::checks;
use crate::oci::Platform;
use crate::parser::word::{self, ExpandError, ExpandErrorKind, Expansion};
use crate::parser::{Diagnostic, Heredoc, Span, Word, nearest};

/// The proxy variables that every RUN may have without an ARG. Both cases count.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Arguments that are read by who scans an image, and never variables of a stage.
const FOR_SCANNERS: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// The values of `--build-arg`, by name.
pub type BuildArgs = BTreeMap<String, String>;

/// How much longer than its text all that a Dockerfile says may become, in bytes.
///
/// One word cannot grow beyond bounds, but a short file has thousands of words that each hold the
/// whole of a large variable.
const MAX_GROWTH_BYTES: usize = 64 << 20;

/// What a Dockerfile's text may still grow by. The copies of one share what is left.
#[derive(Debug, Clone)]
pub(super) struct Budget(Rc<Cell<usize>>);

impl Default for Budget {
    fn default() -> Self {
        Self(Rc::new(Cell::new(MAX_GROWTH_BYTES)))
    }
}

impl Budget {
    /// Takes `bytes` for what stands at `span`.
    pub(super) fn take(&self, bytes: usize, span: Span) -> Result<(), Diagnostic> {
        let left = self.0.get().checked_sub(bytes).ok_or_else(|| {
            let message =
                format!("the Dockerfile expands to more than {} MiB", MAX_GROWTH_BYTES >> 20);
            Diagnostic::error("too-large", span, message)
        })?;
        self.0.set(left);
        Ok(())
    }
}

/// Values by name, in the order in which the names came.
#[derive(Debug, Clone)]
struct Ordered<V> {
    entries: Vec<(String, V)>,
    places: HashMap<String, usize>,
}

impl<V> Default for Ordered<V> {
    fn default() -> Self {
        Self { entries: Vec::new(), places: HashMap::new() }
    }
}

impl<V> Ordered<V> {
    fn get(&self, name: &str) -> Option<&V> {
        self.places.get(name).map(|place| &self.entries[*place].1)
    }

    /// Sets a value, in its old place where the name has one.
    fn set(&mut self, name: &str, value: V) {
        if let Some(place) = self.places.get(name) {
            self.entries[*place].1 = value;
        } else {
            self.places.insert(name.to_owned(), self.entries.len());
            self.entries.push((name.to_owned(), value));
        }
    }
}

/// The variables of a stage, or of what stands before the first FROM.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    /// What expansion and RUN see: what ENV and ARG set, the later of them winning.
    values: Ordered<String>,
    /// The ARGs declared so far, for histories.
    args: Ordered<Option<String>>,
    pub(super) budget: Budget,
    /// What words asked for since [`Scope::take_undefined`] and nothing has set.
    undefined: RefCell<Vec<Undefined>>,
}

/// How many undefined variables of one instruction are noted.
const MAX_UNDEFINED: usize = 100;

/// A variable that a word asks for and that nothing has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Undefined {
    pub(super) name: String,
    /// The variable that was probably meant.
    pub(super) near: Option<String>,
    /// The word.
    pub(super) span: Span,
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
        self.values.get(name).map(String::as_str)
    }

    /// The names of all variables that have a value.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.entries.iter().map(|(name, _)| name.as_str())
    }

    /// Sets a variable, as ENV does.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.values.set(name, value.to_owned());
    }

    /// Declares an ARG.
    pub(super) fn declare(&mut self, name: &str, value: Option<&str>) {
        self.args.set(name, value.map(str::to_owned));
        if let Some(value) = value
            && !FOR_SCANNERS.contains(&name)
        {
            self.set(name, value);
        }
    }

    /// About how many bytes a copy takes.
    pub(super) fn size_bytes(&self) -> usize {
        let value = |(name, value): &(String, String)| 2 * name.len() + value.len() + 128;
        let argument = |(name, value): &(String, Option<String>)| {
            2 * name.len() + value.as_ref().map_or(0, String::len) + 128
        };
        let values: usize = self.values.entries.iter().map(value).sum();
        values + self.args.entries.iter().map(argument).sum::<usize>()
    }

    /// `NAME=value` of every variable, for RUN.
    pub(super) fn environment(&self) -> Vec<String> {
        self.values.entries.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// `|2 A=1 B=2 ` where ARGs are declared: how histories begin the text of a RUN.
    pub(super) fn history_prefix(&self) -> String {
        let args = &self.args.entries;
        if args.is_empty() {
            return String::new();
        }
        let effective = |(name, value): &(String, Option<String>)| {
            let value = self.get(name).or(value.as_deref()).unwrap_or_default();
            format!("{name}={value} ")
        };
        let shown: String = args.iter().map(effective).collect();
        format!("|{} {shown}", args.len())
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
        let first = self.undefined.borrow().len();
        let lookup = |name: &str| self.lookup(name, word.span, first);
        let expansion = word::expand(&word.text, escape, &lookup)
            .map_err(|err| self.refusal(word.part(err.range.clone()), &err))?;
        // A text is kept as a variable, in the config and in the history.
        let growth = expansion.text.len().saturating_sub(word.text.len());
        self.budget.take(growth.saturating_mul(4), word.span)?;
        Ok(expansion)
    }

    /// The value of a variable, or a note that it has none: once for each word, whose notes begin
    /// at `first`.
    fn lookup(&self, name: &str, span: Span, first: usize) -> Option<&str> {
        let value = self.get(name);
        if value.is_none() && !self.declares(name) {
            let mut undefined = self.undefined.borrow_mut();
            let is_known = undefined.iter().skip(first).any(|known| known.name == name);
            if !is_known && undefined.len() < MAX_UNDEFINED {
                let near = checks::nearest(name, self.names()).map(str::to_owned);
                undefined.push(Undefined { name: name.to_owned(), near, span });
            }
        }
        value
    }

    /// What a word becomes, with nothing noted; `None` where it is malformed.
    pub(super) fn peek(&self, word: &Word, escape: char) -> Option<String> {
        word::expand(&word.text, escape, &|name| self.get(name)).ok().map(|found| found.text)
    }

    /// The words that a word becomes, with nothing noted.
    pub(super) fn peek_words(&self, word: &Word, escape: char) -> Vec<String> {
        let expansion = word::expand(&word.text, escape, &|name| self.get(name));
        expansion.map(|found| found.words).unwrap_or_default()
    }

    /// The names of variables that a word asks for, with nothing noted.
    pub(super) fn asks(&self, word: &Word, escape: char) -> Vec<String> {
        let asked = RefCell::new(Vec::<String>::new());
        let lookup = |name: &str| {
            let mut asked = asked.borrow_mut();
            if asked.len() < MAX_UNDEFINED && !asked.iter().any(|known| known == name) {
                asked.push(name.to_owned());
            }
            self.get(name)
        };
        // What is wrong with the word is told where it is expanded in earnest.
        drop(word::expand(&word.text, escape, &lookup));
        asked.into_inner()
    }

    /// The undefined variables that were asked for since this was called last, by word.
    pub(super) fn take_undefined(&self) -> Vec<Undefined> {
        let mut undefined = self.undefined.take();
        // Lowering may look at a word more than once.
        let mut seen = HashSet::new();
        undefined.retain(|found| seen.insert((found.span, found.name.clone())));
        undefined
    }

    /// The names of all variables and of all ARGs.
    pub(super) fn declared(&self) -> impl Iterator<Item = &str> {
        self.names().chain(self.args.entries.iter().map(|(name, _)| name.as_str()))
    }

    /// Whether an ARG has declared the name.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.args.get(name).is_some() || FOR_SCANNERS.contains(&name)
    }

    /// The text of a file that a here-document describes.
    pub(super) fn expand_heredoc(&self, heredoc: &Heredoc) -> Result<String, Diagnostic> {
        let body = heredoc.body();
        if !heredoc.expand {
            return Ok(body.into_owned());
        }
        let first = self.undefined.borrow().len();
        let lookup = |name: &str| self.lookup(name, heredoc.span, first);
        let expansion = word::expand_heredoc(&body, &lookup)
            .map_err(|err| self.refusal(heredoc.part(&err.range), &err))?;
        self.budget.take(expansion.text.len().saturating_sub(body.len()), heredoc.span)?;
        Ok(expansion.text)
    }

    /// Says what is wrong with a word, and what to write.
    fn refusal(&self, span: Span, err: &ExpandError) -> Diagnostic {
        let error = Diagnostic::error("expansion", span, err.to_string());
        let hint = match &err.kind {
            ExpandErrorKind::Required { name, .. } => match self.nearest(name) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("set it above, with `ARG {name}=…`"),
            },
            ExpandErrorKind::UnterminatedQuote(_) => {
                "a quote that is data has a backslash before it".to_owned()
            }
            ExpandErrorKind::BadSubstitution | ExpandErrorKind::Missing(_) => {
                "write `${name}`, or `\\$` for a dollar sign that is data".to_owned()
            }
            ExpandErrorKind::UnsupportedModifier(_) => {
                "known are `:-`, `-`, `:+`, `+`, `:?`, `?`, `#`, `##`, `%`, `%%`, `/` and `//`"
                    .to_owned()
            }
            _ => return error,
        };
        error.with_hint(hint)
    }

    /// The variable that was probably meant by a name that has no value.
    pub(super) fn nearest(&self, name: &str) -> Option<&str> {
        // A long list is no help, and would take its time.
        let names: Vec<&str> = self.names().take(1000).filter(|known| *known != name).collect();
        nearest(name, &names)
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
    fn growth_is_bounded_over_all_copies() {
        let mut scope = Scope::default();
        scope.set("a", &"x".repeat(100_000));
        let word = Word { text: "$a$a$a".into(), span: Span::new(3, 9) };
        let copy = scope.clone();
        let refused = (0..1000).find_map(|n| {
            let scope = if n % 2 == 0 { &scope } else { &copy };
            scope.expand(&word, '\\').err()
        });
        assert_eq!(refused.map(|error| (error.code, error.span())), Some(("too-large", word.span)));
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
