//! From an instruction as written to what it says: flags known, arguments counted and named.

use std::collections::HashMap;

use super::ast::{
    Add, Argument, Command, Copy, FromImage, Instruction, Onbuild, Pairs, Run, ShellText, Source,
    Word,
};
use super::diagnostic::{Diagnostic, Severity, quote};
use super::exec_form::Element;
use super::flags::{Flags, Kind};
use super::healthcheck::healthcheck;
use super::heredoc::{self, Heredoc};
use super::keyword::Keyword;
use super::mount::{self, Mount};
use super::node::{Arguments, Context, Node};
use super::suggest::nearest;

type Outcome = Result<Instruction, Diagnostic>;

/// Gives `node` its meaning. Warnings go to `diagnostics`.
pub(crate) fn instruction(
    context: Context<'_>,
    node: &Node<'_>,
    heredocs: Vec<Heredoc>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Outcome {
    let this = Builder { context, node };
    match node.keyword {
        Keyword::From => this.from(),
        Keyword::Arg => this.arg(),
        Keyword::Env => this.pairs().map(Instruction::Env),
        Keyword::Label => this.pairs().map(Instruction::Label),
        Keyword::Run => this.run(heredocs),
        Keyword::Copy => this.copy(&heredocs),
        Keyword::Add => this.add(&heredocs),
        Keyword::Workdir => this.text().map(Instruction::Workdir),
        Keyword::User => this.text().map(Instruction::User),
        Keyword::Maintainer => this.text().map(Instruction::Maintainer),
        // BuildKit does not look at the flags of this one.
        Keyword::Stopsignal => this.one_argument().map(Instruction::Stopsignal),
        Keyword::Expose => this.expose(),
        Keyword::Volume => this.volume(),
        Keyword::Cmd => this.no_flags().map(|()| Instruction::Cmd(this.command(Vec::new()))),
        Keyword::Entrypoint => {
            this.no_flags().map(|()| Instruction::Entrypoint(this.command(Vec::new())))
        }
        Keyword::Shell => this.shell(),
        Keyword::Healthcheck => healthcheck(context, node).map(Instruction::Healthcheck),
        Keyword::Onbuild => this.onbuild(heredocs, diagnostics),
    }
}

/// Whether heredocs are read for `node`.
pub(crate) fn takes_heredocs(node: &Node<'_>) -> bool {
    match (&node.keyword, &node.arguments) {
        (Keyword::Onbuild, Arguments::Nested(Some(nested))) => takes_heredocs(nested),
        (Keyword::Run | Keyword::Copy | Keyword::Add, arguments) => {
            !matches!(arguments, Arguments::Exec(_))
        }
        _ => false,
    }
}

/// A string of an exec form as a word.
pub(crate) fn element(context: Context<'_>, (text, source): &Element<'_>) -> Word {
    Word { text: text.clone(), span: context.line.span_of(source) }
}

/// The command that `arguments` are.
pub(crate) fn command(
    context: Context<'_>,
    arguments: &Arguments<'_>,
    heredocs: Vec<Heredoc>,
) -> Command {
    match arguments {
        Arguments::Exec(elements) => {
            Command::Exec(elements.iter().map(|string| element(context, string)).collect())
        }
        Arguments::Text(text) => Command::Shell(ShellText { text: context.word(text), heredocs }),
        _ => Command::Exec(Vec::new()),
    }
}

struct Builder<'c, 'a> {
    context: Context<'a>,
    node: &'c Node<'a>,
}

impl Builder<'_, '_> {
    fn name(&self) -> &'static str {
        self.node.keyword.name()
    }

    /// An error about the instruction as a whole.
    fn error(&self, code: &'static str, message: impl Into<String>) -> Diagnostic {
        self.context.error(code, self.node.name, message)
    }

    fn flags(&self, known: &[(&'static str, Kind)]) -> Result<Flags, Diagnostic> {
        Flags::check(self.context.line, &self.node.flags, known)
    }

    fn no_flags(&self) -> Result<(), Diagnostic> {
        self.flags(&[]).map(|_| ())
    }

    /// The arguments as words, in whichever form.
    fn words(&self) -> Vec<Word> {
        match &self.node.arguments {
            Arguments::Words(words) => words.iter().map(|word| self.context.word(word)).collect(),
            Arguments::Exec(elements) => {
                elements.iter().map(|string| element(self.context, string)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn at_least_one(&self) -> Diagnostic {
        self.error("missing-argument", format!("{} requires at least one argument", self.name()))
    }

    fn command(&self, heredocs: Vec<Heredoc>) -> Command {
        command(self.context, &self.node.arguments, heredocs)
    }

    fn one_argument(&self) -> Result<Word, Diagnostic> {
        if self.node.rest.is_empty() {
            let message = format!("{} requires exactly one argument", self.name());
            return Err(self.error("missing-argument", message));
        }
        Ok(self.context.word(self.node.rest))
    }

    fn text(&self) -> Result<Word, Diagnostic> {
        let word = self.one_argument()?;
        self.no_flags()?;
        Ok(word)
    }

    fn from(&self) -> Outcome {
        let words = self.words();
        let (image, as_keyword, alias) = match words.as_slice() {
            [image] => (image, None, None),
            [image, keyword, alias] if keyword.text.eq_ignore_ascii_case("as") => {
                (image, Some(keyword), Some(alias))
            }
            _ => return Err(self.misfits_of_from(&words)),
        };
        if let Some(alias) = alias
            && !is_stage_name(&alias.text)
        {
            let message = format!(
                "invalid name for build stage: {}, name can't start with a number or contain symbols",
                quote(&alias.text)
            );
            let hint = "begin with a letter, and use letters, digits, `-`, `_` and `.`";
            return Err(
                Diagnostic::error("invalid-stage-name", alias.span, message).with_hint(hint)
            );
        }
        let flags = self.flags(&[("platform", Kind::Text)])?;
        Ok(Instruction::From(FromImage {
            platform: flags.text("platform"),
            image: image.clone(),
            as_keyword: as_keyword.cloned(),
            alias: alias.cloned(),
        }))
    }

    /// The error for too few or too many words behind FROM: it marks those that do not fit.
    fn misfits_of_from(&self, words: &[Word]) -> Diagnostic {
        let message = "FROM requires either one or three arguments";
        let (misfits, hint) = match words {
            [_, keyword, _] => {
                (Some((keyword, keyword)), "write `AS` before the name of the stage")
            }
            [_, keyword] if keyword.text.eq_ignore_ascii_case("as") => {
                (Some((keyword, keyword)), "the name of the stage is missing")
            }
            [_, keyword, _, first, ..] if keyword.text.eq_ignore_ascii_case("as") => {
                (Some((first, &words[words.len() - 1])), "a comment needs a line of its own")
            }
            [_, first, ..] => {
                let hint = "write `FROM image` or `FROM image AS name`";
                (Some((first, &words[words.len() - 1])), hint)
            }
            _ => (None, "write `FROM image` or `FROM image AS name`"),
        };
        let error = match misfits {
            Some((first, last)) => {
                Diagnostic::error("from-arguments", first.span.to(last.span), message)
            }
            None => self.error("from-arguments", message),
        };
        error.with_hint(hint)
    }

    fn arg(&self) -> Outcome {
        // Flags are not looked at, as in BuildKit.
        let Arguments::Words(words) = &self.node.arguments else { return Err(self.at_least_one()) };
        if words.is_empty() {
            return Err(self.at_least_one());
        }
        let argument = |word: &&str| match word.split_once('=') {
            Some(("", _)) => {
                Err(self.context.error("blank-name", word, "ARG names can not be blank"))
            }
            Some((name, default)) => Ok(Argument {
                name: self.context.word(name),
                default: Some(self.context.word(default)),
            }),
            None => Ok(Argument { name: self.context.word(word), default: None }),
        };
        words.iter().map(argument).collect::<Result<_, _>>().map(Instruction::Arg)
    }

    fn pairs(&self) -> Result<Pairs, Diagnostic> {
        self.no_flags()?;
        let Arguments::Pairs(pairs, legacy) = &self.node.arguments else {
            return Err(self.at_least_one());
        };
        if pairs.is_empty() {
            return Err(self.at_least_one());
        }
        let pair = |(key, value): &(&str, &str)| {
            if key.is_empty() {
                let message = format!("{} names can not be blank", self.name());
                let span = self.context.line.span_of(key).to(self.context.line.span_of(value));
                return Err(Diagnostic::error("blank-name", span, message));
            }
            Ok((self.context.word(key), self.context.word(value)))
        };
        Ok(Pairs { pairs: pairs.iter().map(pair).collect::<Result<_, _>>()?, legacy: *legacy })
    }

    fn run(&self, heredocs: Vec<Heredoc>) -> Outcome {
        let flags = self.flags(&[
            ("mount", Kind::List),
            ("network", Kind::Text),
            ("security", Kind::Text),
            ("device", Kind::List),
        ])?;
        let network = choice(&flags, "network", "network mode", &["default", "none", "host"])?;
        let security = choice(&flags, "security", "security mode", &["sandbox", "insecure"])?;
        let mut mounts = Vec::new();
        for word in flags.list("mount") {
            let mount = Mount::parse(word)?;
            if mount.is_literal() {
                mount.resolve(&mut |word| Ok(word.text.clone()))?;
            }
            mounts.push(mount);
        }
        let devices = flags.list("device");
        let command = self.command(heredocs);
        Ok(Instruction::Run(Run { mounts, network, security, devices, command }))
    }

    fn copy(&self, heredocs: &[Heredoc]) -> Outcome {
        let words = self.source_and_destination()?;
        let flags = self.flags(&[
            ("chown", Kind::Text),
            ("from", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Bool),
            ("exclude", Kind::List),
            ("parents", Kind::Bool),
        ])?;
        let from = flags.text("from");
        if let Some(from) = from.as_ref().filter(|from| mount::has_variable(&from.text)) {
            return Err(mount::from_variable("--from", from.span));
        }
        let (sources, destination) = self.sources(words, heredocs)?;
        Ok(Instruction::Copy(Copy {
            from,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.boolean("link").unwrap_or(false),
            parents: flags.boolean("parents").unwrap_or(false),
            excludes: flags.list("exclude"),
            sources,
            destination,
        }))
    }

    fn add(&self, heredocs: &[Heredoc]) -> Outcome {
        let words = self.source_and_destination()?;
        let flags = self.flags(&[
            ("chown", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Bool),
            ("keep-git-dir", Kind::Bool),
            ("checksum", Kind::Text),
            ("unpack", Kind::Bool),
            ("exclude", Kind::List),
        ])?;
        let (sources, destination) = self.sources(words, heredocs)?;
        Ok(Instruction::Add(Add {
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            checksum: flags.text("checksum"),
            link: flags.boolean("link").unwrap_or(false),
            keep_git_dir: flags.boolean("keep-git-dir"),
            unpack: flags.boolean("unpack"),
            excludes: flags.list("exclude"),
            sources,
            destination,
        }))
    }

    fn source_and_destination(&self) -> Result<Vec<Word>, Diagnostic> {
        let words = self.words();
        if words.len() < 2 {
            let message = format!(
                "{} requires at least two arguments: the destination could not be determined",
                self.name()
            );
            return Err(self.error("missing-argument", message));
        }
        Ok(words)
    }

    fn sources(
        &self,
        mut words: Vec<Word>,
        heredocs: &[Heredoc],
    ) -> Result<(Vec<Source>, Word), Diagnostic> {
        let Some(destination) = words.pop() else { return Err(self.at_least_one()) };
        if heredoc::opener(&destination.text).is_some() {
            let message = format!("{} cannot accept a heredoc as a destination", self.name());
            return Err(Diagnostic::error("heredoc-destination", destination.span, message));
        }
        // Where two heredocs have one name, both are the last: so does BuildKit.
        let bodies: HashMap<&str, &Heredoc> =
            heredocs.iter().map(|heredoc| (heredoc.name.as_str(), heredoc)).collect();
        let source = |word: Word| match heredoc::opener(&word.text) {
            Some(opener) => {
                let body = bodies.get(opener.name.as_str());
                let heredoc = Heredoc {
                    content: body.map_or_else(String::new, |body| body.content.clone()),
                    span: body.map_or(word.span, |body| body.span),
                    name: opener.name,
                    expand: opener.expand,
                    strip_tabs: opener.strip_tabs,
                };
                Source::Heredoc(word, heredoc)
            }
            None => Source::Path(word),
        };
        Ok((words.into_iter().map(source).collect(), destination))
    }

    fn expose(&self) -> Outcome {
        let words = self.words();
        if words.is_empty() {
            return Err(self.at_least_one());
        }
        self.no_flags()?;
        Ok(Instruction::Expose(words))
    }

    fn volume(&self) -> Outcome {
        let mut words = self.words();
        if words.is_empty() {
            return Err(self.at_least_one());
        }
        self.no_flags()?;
        for word in &mut words {
            let trimmed = word.text.trim();
            if trimmed.is_empty() {
                let message = "VOLUME specified can not be an empty string";
                return Err(Diagnostic::error("blank-name", word.span, message));
            }
            word.text = trimmed.to_owned();
        }
        Ok(Instruction::Volume(words))
    }

    fn shell(&self) -> Outcome {
        self.no_flags()?;
        match self.command(Vec::new()) {
            Command::Exec(words) if !words.is_empty() => Ok(Instruction::Shell(words)),
            Command::Shell(text) if !text.text.text.is_empty() => {
                let message = "SHELL requires the arguments to be in JSON form";
                Err(Diagnostic::error("shell-form", text.text.span, message)
                    .with_hint("write `SHELL [\"executable\", \"argument\"]`"))
            }
            _ => Err(self.at_least_one()),
        }
    }

    fn onbuild(&self, heredocs: Vec<Heredoc>, diagnostics: &mut Vec<Diagnostic>) -> Outcome {
        let nested = match &self.node.arguments {
            Arguments::Nested(Some(nested)) => Ok(nested),
            Arguments::NoInstruction(error) => Err(error.as_ref().clone()),
            _ => return Err(self.at_least_one()),
        };
        self.no_flags()?;
        let line = self.context.line.text.trim_start();
        let mut trigger = line[self.node.name.len()..].trim_start().to_owned();
        for heredoc in &heredocs {
            trigger.push('\n');
            trigger.push_str(&heredoc.content);
            trigger.push_str(&heredoc.name);
        }
        // BuildKit stores what it does not understand; the error comes where it is triggered.
        let parsed = nested.and_then(|node| instruction(self.context, node, heredocs, diagnostics));
        let instruction = match parsed {
            Ok(instruction) => Some(Box::new(instruction)),
            Err(error) => {
                diagnostics.push(Diagnostic { severity: Severity::Warning, ..error });
                None
            }
        };
        Ok(Instruction::Onbuild(Onbuild { trigger, instruction }))
    }
}

/// The value of a flag that must be one of `choices`.
fn choice(
    flags: &Flags,
    name: &str,
    what: &str,
    choices: &[&str],
) -> Result<Option<Word>, Diagnostic> {
    let word = flags.text(name);
    match &word {
        Some(value) if !choices.contains(&value.text.as_str()) => {
            let message = format!("invalid {what} {}", quote(&value.text));
            let hint = match nearest(&value.text, choices) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("use one of `{}`", choices.join("`, `")),
            };
            Err(Diagnostic::error("invalid-flag-value", value.span, message).with_hint(hint))
        }
        _ => Ok(word),
    }
}

/// Whether `text` may name a stage, in whatever case.
fn is_stage_name(text: &str) -> bool {
    // Lowered first, as a few letters beyond ASCII have a small form within it.
    let lower = text.to_lowercase();
    lower.starts_with(|ch: char| ch.is_ascii_lowercase())
        && lower
            .chars()
            .all(|ch| ch.is_ascii_lowercase() || ch.is_ascii_digit() || "-_.".contains(ch))
}
