//! The syntax tree: what each instruction says, with a span on every part and nothing expanded.

use std::ops::Range;
use std::time::Duration;

use super::directive::Directive;
use super::heredoc::{self, Heredoc};
use super::keyword::Keyword;
use super::lines::Comment;
use super::mount::Mount;
use super::span::Span;

/// A word of an instruction, before expansion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The text with continuations joined, and with its quotes, escapes and variables still in.
    /// (Flag values and strings of an exec form have lost their own quotes already.)
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl Word {
    /// The span of the part `range` of the text, or of the whole word where the text does not
    /// stand in the file as it is (because of a continuation or quotes).
    pub fn part(&self, range: Range<usize>) -> Span {
        if self.text.len() == self.span.len() && range.end <= self.text.len() {
            Span::new(self.span.start + range.start, self.span.start + range.end)
        } else {
            self.span
        }
    }
}

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The escape character: a backslash, or a backtick by the `escape` directive.
    pub escape: char,
    /// The parser directives, in order.
    pub directives: Vec<Directive>,
    /// The instructions that are well formed, in order.
    pub statements: Vec<Statement>,
}

impl Dockerfile {
    /// The directive `name` (`syntax`, `escape` or `check`), where it is given.
    pub fn directive(&self, name: &str) -> Option<&Directive> {
        self.directives.iter().find(|directive| directive.name == name)
    }
}

/// An instruction and what surrounds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// From the name to the last argument; bodies of heredocs have spans of their own.
    pub span: Span,
    /// The instruction's name as written.
    pub keyword: Word,
    /// The joined line, without blanks before it: what histories show.
    pub original: String,
    /// The comment lines above, directives left out.
    pub comments: Vec<Comment>,
    /// What the instruction says.
    pub instruction: Instruction,
}

/// An instruction, as the [Dockerfile reference] describes it.
///
/// [Dockerfile reference]: https://docs.docker.com/reference/dockerfile/#overview
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// `FROM [--platform=…] image [AS name]`.
    From(FromImage),
    /// `ARG name[=default]…`.
    Arg(Vec<Argument>),
    /// `ENV key=value…` or `ENV key value`.
    Env(Pairs),
    /// `LABEL key=value…` or `LABEL key value`.
    Label(Pairs),
    /// `RUN [flags] command`.
    Run(Run),
    /// `COPY [flags] source… destination`.
    Copy(Copy),
    /// `ADD [flags] source… destination`.
    Add(Add),
    /// `WORKDIR path`.
    Workdir(Word),
    /// `USER user[:group]`.
    User(Word),
    /// `EXPOSE port[/protocol]…`; a word may still expand to several.
    Expose(Vec<Word>),
    /// `VOLUME path…`, in either form.
    Volume(Vec<Word>),
    /// `CMD command`.
    Cmd(Command),
    /// `ENTRYPOINT command`.
    Entrypoint(Command),
    /// `SHELL ["…"]`, never empty.
    Shell(Vec<Word>),
    /// `STOPSIGNAL signal`.
    Stopsignal(Word),
    /// `HEALTHCHECK …`.
    Healthcheck(Healthcheck),
    /// `ONBUILD instruction`.
    Onbuild(Onbuild),
    /// `MAINTAINER name`.
    Maintainer(Word),
}

impl Instruction {
    /// The instruction's name.
    pub fn keyword(&self) -> Keyword {
        match self {
            Self::From(_) => Keyword::From,
            Self::Arg(_) => Keyword::Arg,
            Self::Env(_) => Keyword::Env,
            Self::Label(_) => Keyword::Label,
            Self::Run(_) => Keyword::Run,
            Self::Copy(_) => Keyword::Copy,
            Self::Add(_) => Keyword::Add,
            Self::Workdir(_) => Keyword::Workdir,
            Self::User(_) => Keyword::User,
            Self::Expose(_) => Keyword::Expose,
            Self::Volume(_) => Keyword::Volume,
            Self::Cmd(_) => Keyword::Cmd,
            Self::Entrypoint(_) => Keyword::Entrypoint,
            Self::Shell(_) => Keyword::Shell,
            Self::Stopsignal(_) => Keyword::Stopsignal,
            Self::Healthcheck(_) => Keyword::Healthcheck,
            Self::Onbuild(_) => Keyword::Onbuild,
            Self::Maintainer(_) => Keyword::Maintainer,
        }
    }
}

/// The start of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromImage {
    /// The value of `--platform`.
    pub platform: Option<Word>,
    /// The image or earlier stage to start from.
    pub image: Word,
    /// The word `AS` as written, where there is a name.
    pub as_keyword: Option<Word>,
    /// The name as written; stages are looked up by it in lower case.
    pub alias: Option<Word>,
}

/// A variable that ARG declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The name; BuildKit expands it, too.
    pub name: Word,
    /// What stands behind the equals sign, where there is one.
    pub default: Option<Word>,
}

/// The keys and values of ENV or LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// Keys, never blank, and values, in order.
    pub pairs: Vec<(Word, Word)>,
    /// Whether it is one pair without an equals sign, the value being the rest of the line.
    pub legacy: bool,
}

/// A command for the shell or for `exec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Text for the shell.
    Shell(ShellText),
    /// The executable and its arguments, nothing in them being expanded.
    Exec(Vec<Word>),
}

/// Text for the shell, with the heredocs it opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShellText {
    /// The text as written, possibly empty.
    pub text: Word,
    /// The heredocs that it opens (in RUN alone).
    pub heredocs: Vec<Heredoc>,
}

/// What is to be run for a [`ShellText`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// The one argument of the shell.
    Text(String),
    /// A body that starts with `#!`: a file to make executable and have the shell start.
    File {
        /// The name of the file.
        name: String,
        /// All of the file.
        content: String,
    },
}

impl ShellText {
    /// What is to be run: the body of a heredoc that stands alone, or the text with its bodies.
    pub fn script(&self) -> Script {
        let Some(first) = self.heredocs.first() else {
            return Script::Text(self.text.text.clone());
        };
        if heredoc::opener(&self.text.text).is_some() {
            let content = first.body().into_owned();
            return if first.content.starts_with("#!") {
                Script::File { name: first.name.clone(), content }
            } else {
                Script::Text(content)
            };
        }
        let mut text = self.text.text.clone();
        for heredoc in &self.heredocs {
            text.push('\n');
            text.push_str(&heredoc.content);
            text.push_str(&heredoc.name);
        }
        Script::Text(text)
    }
}

/// A command of the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The values of `--mount`, in order.
    pub mounts: Vec<Mount>,
    /// The value of `--network`: `default`, `none` or `host`.
    pub network: Option<Word>,
    /// The value of `--security`: `sandbox` or `insecure`.
    pub security: Option<Word>,
    /// The values of `--device`, in order.
    pub devices: Vec<Word>,
    /// The command.
    pub command: Command,
}

/// Where COPY and ADD take something from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path, a pattern, or (for ADD) a URL.
    Path(Word),
    /// A heredoc, and the word that opens it.
    Heredoc(Word, Heredoc),
}

/// Files from the context, a stage or an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The value of `--from`, which never holds a variable.
    pub from: Option<Word>,
    /// The value of `--chown`.
    pub chown: Option<Word>,
    /// The value of `--chmod`.
    pub chmod: Option<Word>,
    /// Whether `--link` is on.
    pub link: bool,
    /// Whether `--parents` is on.
    pub parents: bool,
    /// The values of `--exclude`, in order.
    pub excludes: Vec<Word>,
    /// The sources, at least one.
    pub sources: Vec<Source>,
    /// Where to.
    pub destination: Word,
}

/// Files from the context, from URLs or from git.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// The value of `--chown`.
    pub chown: Option<Word>,
    /// The value of `--chmod`.
    pub chmod: Option<Word>,
    /// The value of `--checksum`.
    pub checksum: Option<Word>,
    /// Whether `--link` is on.
    pub link: bool,
    /// The value of `--keep-git-dir`, where it is given.
    pub keep_git_dir: Option<bool>,
    /// The value of `--unpack`, where it is given.
    pub unpack: Option<bool>,
    /// The values of `--exclude`, in order.
    pub excludes: Vec<Word>,
    /// The sources, at least one.
    pub sources: Vec<Source>,
    /// Where to.
    pub destination: Word,
}

/// How to test that a container works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`: not at all, whatever the base image says.
    None,
    /// `HEALTHCHECK CMD`.
    Check(HealthTest),
}

/// A test of a container; what is not given, or zero, is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthTest {
    /// The time between two tests.
    pub interval: Option<Duration>,
    /// The time after which a test has failed.
    pub timeout: Option<Duration>,
    /// The time in which failures do not count.
    pub start_period: Option<Duration>,
    /// The time between two tests during the start period.
    pub start_interval: Option<Duration>,
    /// How many failures in a row it takes.
    pub retries: Option<u32>,
    /// The command, never empty.
    pub command: Command,
}

/// An instruction for images that are built on this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The text to store in the image: the instruction with the bodies of its heredocs.
    pub trigger: String,
    /// The instruction, or `None` where it is malformed: that shows when it is triggered.
    pub instruction: Option<Box<Instruction>>,
}
