//! The flags of Kaniko's executor, and what becomes of each. `docs/kaniko.md` is the list for people.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, CommandFactory};

use crate::cli::args::{BuildArgs, Cli};
use crate::parser;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, `=true` or `=false`.
    Bool,
    /// A value; the last one counts.
    One,
    /// A value, each time.
    Many,
}

/// What becomes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is done, by what the translation makes of it.
    Done,
    /// It is one of `mica build`, perhaps by another name: that is the one.
    Same(&'static str),
    /// There is nothing to do: why, for whoever gave it.
    Moot(&'static str),
    /// It cannot be had: why.
    Refused(&'static str),
}

/// A flag of Kaniko's executor.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    short: Option<char>,
    /// As it was called once, or is by forks.
    pub(super) alias: Option<&'static str>,
    env: Option<&'static str>,
    takes: Takes,
    pub(super) fate: Fate,
}

impl Flag {
    const fn new(name: &'static str, takes: Takes, fate: Fate) -> Self {
        Self { name, short: None, alias: None, env: None, takes, fate }
    }

    const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    const fn alias(self, alias: &'static str) -> Self {
        Self { alias: Some(alias), ..self }
    }

    const fn env(self, env: &'static str) -> Self {
        Self { env: Some(env), ..self }
    }

    /// By what clap knows it: PATH of `mica build` is called `context` already.
    fn id(&self) -> &'static str {
        if self.name == "context" { "kaniko-context" } else { self.name }
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.id()).long(self.name).help_heading("Kaniko's flags");
        let arg = match self.takes {
            Takes::Bool => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_name("BOOL")
                .value_parser(boolean),
            Takes::One => arg.action(ArgAction::Set).allow_hyphen_values(true),
            Takes::Many => arg.action(ArgAction::Append).allow_hyphen_values(true),
        };
        let arg = arg.aliases(self.alias).short(self.short);
        let arg = match self.env {
            Some(name) => arg.env(name).hide_env_values(true),
            None => arg,
        };
        arg.hide(!matches!(self.fate, Fate::Done))
    }
}

fn boolean(text: &str) -> Result<bool, &'static str> {
    parser::boolean(text).ok_or("it is neither true nor false")
}

use Fate::{Done, Moot, Refused, Same};
use Takes::{Bool, Many, One};

const OWN_ROOT: &str = "steps have a root of their own, and leave nothing in this container";
const RETRIES: &str = "what may pass is asked for again anyway";
const FOUND: &str = "every change is found, without a look at other files";
const HELPERS: &str = "helpers are those that config.json names, if they are there";

/// All of them.
pub(super) const FLAGS: &[Flag] = &[
    Flag::new("annotation", Many, Same("annotation")),
    Flag::new("azure-container-registry-config", One, Refused(HELPERS)),
    Flag::new("bucket", One, Refused("fetch it first, or give an https:// URL")).short('b'),
    Flag::new("build-arg", Many, Same("build_arg")),
    Flag::new("cache", Bool, Done),
    Flag::new("cache-copy-layers", Bool, Moot("all steps are cached")),
    Flag::new("cache-dir", One, Moot("base images are kept in mica's store: mount a volume there")),
    Flag::new("cache-repo", One, Done),
    Flag::new("cache-run-layers", Bool, Done),
    Flag::new("cache-ttl", One, Done),
    Flag::new("cleanup", Bool, Moot(OWN_ROOT)),
    Flag::new("compressed-caching", Bool, Moot("compressing takes little memory")),
    Flag::new("compression", One, Done),
    Flag::new("compression-level", One, Done),
    Flag::new("context", One, Done).short('c'),
    Flag::new("context-sub-path", One, Done),
    Flag::new("credential-helpers", Many, Moot(HELPERS)),
    Flag::new("custom-platform", One, Same("platform")).alias("customPlatform"),
    Flag::new("destination", Many, Done).short('d'),
    Flag::new("digest-file", One, Done),
    Flag::new("dockerfile", One, Same("file")).short('f'),
    Flag::new("dryrun", Bool, Refused("`--check` and `--call=outline` tell about a build instead")),
    Flag::new("force", Bool, Moot("mica works outside of containers, too")),
    Flag::new("force-build-metadata", Bool, Moot("the history has all instructions")),
    Flag::new("git", One, Done),
    Flag::new("ignore-path", Many, Moot("only what steps write is in the image, there too")),
    Flag::new("ignore-var-run", Bool, Moot("only what steps write is in the image, there too"))
        .alias("whitelist-var-run"),
    Flag::new("image-download-retry", One, Moot(RETRIES)),
    Flag::new("image-format", One, Done),
    Flag::new("image-fs-extract-retry", One, Moot(RETRIES)),
    Flag::new("image-name-tag-with-digest-file", One, Done),
    Flag::new("image-name-with-digest-file", One, Done),
    Flag::new("insecure", Bool, Done),
    Flag::new("insecure-pull", Bool, Done),
    Flag::new("insecure-registry", Many, Done),
    Flag::new("kaniko-dir", One, Moot("mica's store is where `--root` says")).env("KANIKO_DIR"),
    Flag::new("label", Many, Same("label")),
    Flag::new("log-format", One, Done),
    Flag::new("log-timestamp", Bool, Moot("lines have the seconds since their step began")),
    Flag::new("materialize", Bool, Refused(OWN_ROOT)),
    Flag::new("no-push", Bool, Done).env("KANIKO_NO_PUSH"),
    Flag::new("no-push-cache", Bool, Done),
    Flag::new("oci-layout-path", One, Done),
    Flag::new("pre-cleanup", Bool, Moot(OWN_ROOT)),
    Flag::new("preserve-context", Bool, Moot(OWN_ROOT)),
    Flag::new("push-ignore-immutable-tag-errors", Bool, Done),
    Flag::new("push-retry", One, Moot(RETRIES)),
    Flag::new("registry-certificate", Many, Done),
    Flag::new("registry-client-cert", Many, Done),
    Flag::new("registry-map", Many, Done).env("KANIKO_REGISTRY_MAP"),
    Flag::new("registry-mirror", Many, Done).env("KANIKO_REGISTRY_MIRROR"),
    Flag::new("reproducible", Bool, Done),
    Flag::new("secret", Many, Same("secret")),
    Flag::new("single-snapshot", Bool, Done),
    Flag::new("skip-default-registry-fallback", Bool, Done),
    Flag::new("skip-push-permission-check", Bool, Moot("nobody is asked before the push")),
    Flag::new("skip-tls-verify", Bool, Done),
    Flag::new("skip-tls-verify-pull", Bool, Done),
    Flag::new("skip-tls-verify-registry", Many, Done),
    Flag::new("skip-unused-stages", Bool, Moot("stages that nobody needs are never built")),
    Flag::new("snapshot-mode", One, Moot(FOUND)).alias("snapshotMode"),
    Flag::new("tar-path", One, Done).alias("tarPath"),
    Flag::new("target", One, Same("target")),
    Flag::new("use-new-run", Bool, Moot(FOUND)),
    Flag::new("verbosity", One, Done).short('v'),
];

/// `executor`: the flags of `mica build` and those of Kaniko.
pub(super) fn command() -> Command {
    let shared = Cli::command();
    let shared = shared.get_arguments().filter(|arg| arg.get_id() != "version").cloned();
    let mut command = Command::new("executor")
        .about("Builds an image and pushes it, called as Kaniko's executor is")
        .override_usage("executor [OPTIONS] [PATH|URL|-]\n       executor COMMAND …")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(true)
        .args_override_self(true)
        .args(shared);
    command = BuildArgs::augment_args(command)
        .mut_arg("context", |arg| arg.required(false).default_value("."))
        // Kaniko's `-c` is the context.
        .mut_arg("cpu_shares", |arg| arg.short(None));
    for flag in FLAGS {
        command = match flag.fate {
            Same(id) => {
                let names = [Some(flag.name), flag.alias].into_iter().flatten();
                let names = names.filter(|name| *name != id.replace('_', "-"));
                command.mut_arg(id, |arg| arg.aliases(names))
            }
            _ => command.arg(flag.arg()),
        };
    }
    command
}

/// The flags of Kaniko that were given.
pub(super) struct Given(ArgMatches);

impl Given {
    pub(super) fn new(matches: ArgMatches) -> Self {
        Self(matches)
    }

    pub(super) fn matches(&self) -> &ArgMatches {
        &self.0
    }

    /// Whether somebody set an argument of `mica build`, by its id.
    pub(super) fn is_set(&self, id: &str) -> bool {
        let source = self.0.value_source(id);
        source.is_some_and(|source| source != ValueSource::DefaultValue)
    }

    pub(super) fn bool(&self, name: &'static str) -> Option<bool> {
        self.0.get_one::<bool>(flag(name, Bool).id()).copied()
    }

    /// Whether it is given and true.
    pub(super) fn is(&self, name: &'static str) -> bool {
        self.bool(name) == Some(true)
    }

    /// A value; an empty one is none.
    pub(super) fn one(&self, name: &'static str) -> Option<&str> {
        let value = self.0.get_one::<String>(flag(name, One).id());
        value.map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All values but empty ones.
    pub(super) fn many(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let values = self.0.get_many::<String>(flag(name, Many).id());
        values.unwrap_or_default().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Those that were given of these fates.
    pub(super) fn of(
        &self,
        wanted: impl Fn(Fate) -> Option<&'static str>,
    ) -> impl Iterator<Item = (&'static str, &'static str)> {
        let found = FLAGS.iter().filter_map(move |flag| Some((flag, wanted(flag.fate)?)));
        found.filter(|(flag, _)| self.is_set(flag.id())).map(|(flag, why)| (flag.name, why))
    }
}

fn flag(name: &'static str, takes: Takes) -> &'static Flag {
    let found = FLAGS.iter().find(|flag| flag.name == name && flag.takes == takes);
    found.expect("the translation asks for what is in the table")
}
