//! COPY and ADD: from the instruction to a [`CopyOp`].

use super::config::absolute;
use super::state::State;
use super::{Lowering, Site, source_paths};
use crate::builder::BuildError;
use crate::builder::graph::{CopyItem, CopyOp, Mode, Op, Tree};
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
    /// Whether archives are unpacked.
    unpack: bool,
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
        if let Some(word) = source_paths(&copy.sources).find(|word| is_remote(&word.text)) {
            let message = "source can't be a URL for COPY";
            return Err(Diagnostic::error("copy", word.span, message)
                .with_hint("ADD takes URLs")
                .into());
        }
        let files = Files {
            name: "COPY",
            from,
            chown: copy.chown.as_ref(),
            chmod: copy.chmod.as_ref(),
            parents: copy.parents,
            excludes: &copy.excludes,
            sources: &copy.sources,
            destination: &copy.destination,
            unpack: false,
        };
        self.files(state, site, &files)
    }

    pub(super) fn add(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        add: &Add,
    ) -> Result<(), BuildError> {
        let unsupported = |word: &Word, what: &str| {
            let message = format!("{what} is not supported yet");
            Diagnostic::error("unsupported", word.span, message)
        };
        for word in source_paths(&add.sources) {
            let text = state.scope.expand(word, self.escape)?;
            if is_remote(&text) {
                let hint = "fetch it in a RUN step";
                return Err(unsupported(word, "ADD of a remote source").with_hint(hint).into());
            }
            if text.contains("://") {
                let message = "ADD takes files of the context, http(s) URLs and git repositories";
                return Err(Diagnostic::error("add", word.span, message).into());
            }
        }
        if let Some(word) = &add.checksum {
            let message = "checksum can't be specified for sources that are not remote";
            return Err(Diagnostic::error("add", word.span, message).into());
        }
        let files = Files {
            name: "ADD",
            from: Tree::Context(0),
            chown: add.chown.as_ref(),
            chmod: add.chmod.as_ref(),
            parents: false,
            excludes: &add.excludes,
            sources: &add.sources,
            destination: &add.destination,
            unpack: add.unpack.unwrap_or(true),
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
                    created_by.push_str(&format!(" {path}"));
                    items.push(files.item(&path));
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
        self.add_step(state, site, Op::Copy(op));
        Ok(())
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
            unpack: self.unpack,
        }
    }
}

/// An absolute destination; a slash at its end says that it is a folder.
fn destination(working_dir: &str, target: &str) -> String {
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

/// Whether BuildKit would fetch this from elsewhere.
fn is_remote(source: &str) -> bool {
    let scheme = ["http://", "https://", "git://", "ssh://"];
    scheme.iter().any(|scheme| source.starts_with(scheme))
        || source.starts_with("git@")
        || source.starts_with("github.com/")
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
