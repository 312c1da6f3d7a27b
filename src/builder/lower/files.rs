//! COPY and ADD: from the instruction to a [`CopyOp`].

use super::config::absolute;
use super::remote::{self, Named, RemoteFlags};
use super::state::State;
use super::{Lowering, Site, source_paths};
use crate::builder::BuildError;
use crate::builder::graph::{CopyItem, CopyOp, Mode, Op, Tree};
use crate::http::without_users;
use crate::parser::{Add, Copy, Diagnostic, Source, Word};

/// What COPY and ADD have in common.
struct Files<'a> {
    name: &'static str,
    from: Tree,
    chown: Option<&'a Word>,
    chmod: Option<&'a Word>,
    parents: bool,
    excludes: &'a [Word],
    sources: &'a [Source],
    destination: &'a Word,
    /// Whether archives are unpacked, where it is said.
    unpack: Option<bool>,
    /// What holds for sources from elsewhere; `None` where there may be none.
    remote: Option<RemoteFlags<'a>>,
}

impl Lowering<'_> {
    pub(super) fn copy(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        copy: &Copy,
    ) -> Result<(), BuildError> {
        let from = match copy.from.as_ref().filter(|word| !word.text.is_empty()) {
            Some(word) => self.tree(&word.text, site.place, word.span)?,
            None => Tree::Context(0),
        };
        let files = Files {
            name: "COPY",
            from,
            chown: copy.chown.as_ref(),
            chmod: copy.chmod.as_ref(),
            parents: copy.parents,
            excludes: &copy.excludes,
            sources: &copy.sources,
            destination: &copy.destination,
            unpack: Some(false),
            remote: None,
        };
        self.files(state, site, &files)
    }

    pub(super) fn add(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        add: &Add,
    ) -> Result<(), BuildError> {
        let checksum = match &add.checksum {
            Some(word) => Some((state.scope.expand(word, self.escape)?, word)),
            None => None,
        };
        let checksum = checksum.as_ref().filter(|(text, _)| !text.is_empty());
        let remote = RemoteFlags {
            checksum: checksum.map(|(text, word)| (text.as_str(), *word)),
            keep_git_dir: add.keep_git_dir,
        };
        let files = Files {
            name: "ADD",
            from: Tree::Context(0),
            chown: add.chown.as_ref(),
            chmod: add.chmod.as_ref(),
            parents: false,
            excludes: &add.excludes,
            sources: &add.sources,
            destination: &add.destination,
            unpack: add.unpack,
            remote: Some(remote),
        };
        self.files(state, site, &files)
    }

    fn files(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        files: &Files<'_>,
    ) -> Result<(), BuildError> {
        let escape = self.escape;
        let expand = |word: &Word| state.scope.expand(word, escape);
        let owner = files.chown.map(expand).transpose()?.filter(|owner| !owner.is_empty());
        let mode = files.chmod.map(expand).transpose()?.filter(|mode| !mode.is_empty());
        // As BuildKit: what is excluded is not expanded.
        let excludes = files.excludes.iter().map(|word| word.text.clone()).collect();
        let target = expand(files.destination)?;
        let parsed_mode = match (&mode, files.chmod) {
            (Some(text), Some(word)) => Some(parse_mode(text, word)?),
            _ => None,
        };
        self.check_checksum(state, files)?;
        let mut created_by = String::from(files.name);
        if files.parents {
            created_by.push_str(" --parents");
        }
        for (flag, value) in [("chown", &owner), ("chmod", &mode)] {
            if let Some(value) = value {
                created_by.push_str(&format!(" --{flag}={value}"));
            }
        }
        let mut items = Vec::new();
        let mut inline = String::new();
        for source in files.sources {
            match source {
                Source::Path(word) => {
                    let path = expand(word)?;
                    created_by.push_str(&format!(" {}", without_users(&path)));
                    items.push(self.item(files, &path, (site, word))?);
                }
                Source::Heredoc(_, heredoc) => {
                    inline.push_str(&format!(" <<{}", heredoc.name));
                    let name = heredoc.name.clone();
                    let text = state.scope.expand_heredoc(heredoc)?;
                    items.push(CopyItem::Inline { name, text });
                }
            }
        }
        state.note(format!("{created_by}{inline} {target} # buildkit"), true);
        let op = CopyOp {
            items,
            destination: destination(state.working_dir(), &target),
            owner,
            mode: parsed_mode,
            excludes,
        };
        Ok(self.add_step(state, site, Op::Copy(op))?)
    }
}

impl Lowering<'_> {
    /// `--checksum` is for one source, and that from elsewhere.
    fn check_checksum(&self, state: &State, files: &Files<'_>) -> Result<(), BuildError> {
        let Some((_, flag)) = files.remote.and_then(|remote| remote.checksum) else {
            return Ok(());
        };
        let wrong = |why: &str| Err(Diagnostic::error("checksum", flag.span, why).into());
        let mut words = source_paths(files.sources);
        match (words.next(), words.next()) {
            (Some(word), None) => {
                let text = state.scope.expand(word, self.escape)?;
                match remote::classify(&text, word)? {
                    Named::Path => wrong("checksum requires HTTP(S) or Git sources"),
                    Named::Http(_) | Named::Git(_) => Ok(()),
                }
            }
            _ => wrong("checksum can't be specified for multiple sources"),
        }
    }

    fn item(
        &mut self,
        files: &Files<'_>,
        path: &str,
        (site, word): (Site<'_>, &Word),
    ) -> Result<CopyItem, BuildError> {
        let refused = |what: &str| {
            let message = format!("source can't be a {what} for COPY");
            BuildError::from(
                Diagnostic::error("copy", word.span, message).with_hint("ADD takes it"),
            )
        };
        let (from, pattern, unpack) = match remote::classify(path, word)? {
            Named::Http(url) => {
                let flags = files.remote.ok_or_else(|| refused("URL"))?;
                let (from, name) = self.http_source(url, flags, (site, word))?;
                (from, in_brackets(&name), files.unpack.unwrap_or(false))
            }
            Named::Git(url) => {
                let flags = files.remote.ok_or_else(|| refused("git ref"))?;
                (self.git_source(url, flags, (site, word))?, "/".to_owned(), false)
            }
            Named::Path => return Ok(files.item(path)),
        };
        Ok(CopyItem::Files { from, pattern: absolute("/", &pattern), pivot: None, unpack })
    }
}

impl Files<'_> {
    fn item(&self, path: &str) -> CopyItem {
        // With `--parents`, what stands before `/./` is left off below the destination.
        let pivot = self.parents.then(|| match path.split_once("/./") {
            Some((before, rest)) => (absolute("/", before), absolute("/", rest)),
            None => ("/".to_owned(), absolute("/", path)),
        });
        CopyItem::Files {
            from: self.from,
            pattern: absolute("/", path),
            pivot,
            unpack: self.unpack.unwrap_or(true),
        }
    }
}

/// An absolute destination; a slash at its end says that it is a folder.
pub(super) fn destination(working_dir: &str, target: &str) -> String {
    let is_folder = target.is_empty()
        || target.ends_with('/')
        || matches!(target, "." | "..")
        || target.ends_with("/.")
        || target.ends_with("/..");
    match absolute(working_dir, target) {
        path if is_folder && path != "/" => format!("{path}/"),
        path => path,
    }
}

/// A pattern that matches `name` alone. A backslash would not do: see [`Glob::has_wildcards`].
///
/// [`Glob::has_wildcards`]: crate::builder::glob::Glob::has_wildcards
fn in_brackets(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c {
            '*' | '?' | '[' => out.extend(['[', c, ']']),
            '\\' => out.push_str("[\\\\]"),
            c => out.push(c),
        }
    }
    out
}

fn parse_mode(text: &str, word: &Word) -> Result<Mode, Diagnostic> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(mode) =
        u32::from_str_radix(text, 8).ok().filter(|mode| is_number && *mode <= 0o7777)
    {
        return Ok(Mode::Octal(mode));
    }
    if !is_number && text.split(',').all(crate::builder::ops::is_symbolic_clause) {
        return Ok(Mode::Symbolic(text.to_owned()));
    }
    let message = format!("invalid chmod parameter: `{}`", text.escape_debug());
    Err(Diagnostic::error("chmod", word.span, message)
        .with_hint("it takes an octal number from 0 to 07777 or changes like `u=rwX,go-w`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::Span;

    #[test]
    fn octal_modes_have_digits_alone() {
        for (text, expected) in
            [("755", Some(0o755)), ("07777", Some(0o7777)), ("+755", None), ("10000", None)]
        {
            let word = Word { text: text.to_owned(), span: Span::default() };
            let found = parse_mode(text, &word).ok().map(|mode| match mode {
                Mode::Octal(octal) => octal,
                Mode::Symbolic(symbolic) => panic!("{symbolic}"),
            });
            assert_eq!(found, expected, "{text}");
        }
    }
}
