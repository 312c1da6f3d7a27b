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
    /// What its value is, and what it does, where it does something.
    help: (&'static str, &'static str),
}

impl Flag {
    const fn new(name: &'static str, takes: Takes, fate: Fate) -> Self {
        Self { name, short: None, alias: None, env: None, takes, fate, help: ("VALUE", "") }
    }

    const fn done(
        name: &'static str,
        takes: Takes,
        value: &'static str,
        help: &'static str,
    ) -> Self {
        Self { help: (value, help), ..Self::new(name, takes, Done) }
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

    /// Whether `--help` says what it does.
    #[cfg(test)]
    pub(super) fn is_explained(&self) -> bool {
        !self.help.1.is_empty()
    }

    fn arg(&self) -> Arg {
        let (value, help) = self.help;
        let arg = Arg::new(self.id()).long(self.name).help(help).help_heading("Kaniko's flags");
        let arg = arg.value_name(value);
        let arg = match self.takes {
            Takes::Bool => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
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

/// In Go's words. A variable that a pipeline leaves empty says nothing.
fn boolean(text: &str) -> Result<bool, &'static str> {
    if text.is_empty() {
        return Ok(false);
    }
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
    Flag::done(
        "cache",
        Bool,
        "BOOL",
        "Use and share the steps of the cache repository; false: do all steps anew",
    ),
    Flag::new("cache-copy-layers", Bool, Moot("all steps are cached")),
    Flag::new("cache-dir", One, Moot("base images are kept in mica's store: mount a volume there")),
    Flag::done(
        "cache-repo",
        One,
        "NAME",
        "Repository of the cache, or `oci:FOLDER` [default: DESTINATION/cache]",
    ),
    Flag::done("cache-run-layers", Bool, "BOOL", "false: do all steps anew"),
    Flag::done("cache-ttl", One, "DURATION", "Do steps anew whose layers are older"),
    Flag::new("cleanup", Bool, Moot(OWN_ROOT)),
    Flag::new("compressed-caching", Bool, Moot("compressing takes little memory")),
    Flag::done("compression", One, "METHOD", "How layers are compressed: gzip, zstd"),
    Flag::done("compression-level", One, "N", "How hard they are compressed"),
    Flag::done(
        "context",
        One,
        "SOURCE",
        "Folder, dir://, tar://, tar://stdin, git:// or https:// [default: /workspace/]",
    )
    .short('c'),
    Flag::done("context-sub-path", One, "FOLDER", "Folder of it that is the context"),
    Flag::new("credential-helpers", Many, Moot(HELPERS)),
    Flag::new("custom-platform", One, Same("platform")).alias("customPlatform"),
    Flag::done(
        "destination",
        Many,
        "NAME[:TAG]",
        "Name to push the image by; may be given more than once",
    )
    .short('d'),
    Flag::done("digest-file", One, "FILE", "Write the digest of the image to a file"),
    Flag::new("dockerfile", One, Same("file")).short('f'),
    Flag::new("dryrun", Bool, Refused("`--check` and `--call=outline` tell about a build instead")),
    Flag::new("force", Bool, Moot("mica works outside of containers, too")),
    Flag::new("force-build-metadata", Bool, Moot("the history has all instructions")),
    Flag::done("git", One, "KEY=VALUE,…", "Of a git context: branch, recurse-submodules"),
    Flag::new("ignore-path", Many, Moot("only what steps write is in the image, there too")),
    Flag::new("ignore-var-run", Bool, Moot("only what steps write is in the image, there too"))
        .alias("whitelist-var-run"),
    Flag::new("image-download-retry", One, Moot(RETRIES)),
    Flag::done("image-format", One, "FORMAT", "Whose media types the image has: oci, docker"),
    Flag::new("image-fs-extract-retry", One, Moot(RETRIES)),
    Flag::done(
        "image-name-tag-with-digest-file",
        One,
        "FILE",
        "Write NAME:TAG@DIGEST for each name to a file",
    ),
    Flag::done(
        "image-name-with-digest-file",
        One,
        "FILE",
        "Write NAME@DIGEST for each name to a file",
    ),
    Flag::done("insecure", Bool, "BOOL", "Registries that are pushed to need no certificate"),
    Flag::done("insecure-pull", Bool, "BOOL", "All others need none"),
    Flag::done("insecure-registry", Many, "HOST", "This registry needs none"),
    Flag::new("kaniko-dir", One, Moot("mica's store is where `--root` says")).env("KANIKO_DIR"),
    Flag::new("label", Many, Same("label")),
    Flag::done("log-format", One, "FORMAT", "How progress is shown: text, color, json"),
    Flag::new("log-timestamp", Bool, Moot("lines have the seconds since their step began")),
    Flag::new("materialize", Bool, Refused(OWN_ROOT)),
    Flag::done("no-push", Bool, "BOOL", "Push nothing but the cache").env("KANIKO_NO_PUSH"),
    Flag::done("no-push-cache", Bool, "BOOL", "Do not push the cache"),
    Flag::done("oci-layout-path", One, "FOLDER", "Write the image to a folder, as an OCI layout"),
    Flag::new("pre-cleanup", Bool, Moot(OWN_ROOT)),
    Flag::new("preserve-context", Bool, Moot(OWN_ROOT)),
    Flag::done(
        "push-ignore-immutable-tag-errors",
        Bool,
        "BOOL",
        "Leave a tag alone that its registry never moves",
    ),
    Flag::new("push-retry", One, Moot(RETRIES)),
    Flag::done("registry-certificate", Many, "HOST=FILE", "Certificate that is also trusted there"),
    Flag::done("registry-client-cert", Many, "HOST=CERT,KEY", "What this registry is shown"),
    Flag::done(
        "registry-map",
        Many,
        "HOST=MIRROR;…",
        "Mirrors of registries, which are asked first",
    )
    .env("KANIKO_REGISTRY_MAP"),
    Flag::done("registry-mirror", Many, "MIRROR", "Mirror of Docker Hub, which is asked first")
        .env("KANIKO_REGISTRY_MIRROR"),
    Flag::done(
        "reproducible",
        Bool,
        "BOOL",
        "All times in the image are 1970, or $SOURCE_DATE_EPOCH",
    ),
    Flag::new("secret", Many, Same("secret")),
    Flag::done(
        "single-snapshot",
        Bool,
        "BOOL",
        "Make one layer of all that the build puts on its base",
    ),
    Flag::done(
        "skip-default-registry-fallback",
        Bool,
        "BOOL",
        "Ask a registry that has mirrors for no image itself",
    ),
    Flag::new("skip-push-permission-check", Bool, Moot("nobody is asked before the push")),
    Flag::done("skip-tls-verify", Bool, "BOOL", "As --insecure"),
    Flag::done("skip-tls-verify-pull", Bool, "BOOL", "As --insecure-pull"),
    Flag::done("skip-tls-verify-registry", Many, "HOST", "As --insecure-registry"),
    Flag::new("skip-unused-stages", Bool, Moot("stages that nobody needs are never built")),
    Flag::new("snapshot-mode", One, Moot(FOUND)).alias("snapshotMode"),
    Flag::done("tar-path", One, "FILE", "Write the image to an archive for `docker load`")
        .alias("tarPath"),
    Flag::new("target", One, Same("target")),
    Flag::new("use-new-run", Bool, Moot(FOUND)),
    Flag::done(
        "verbosity",
        One,
        "LEVEL",
        "panic, fatal, error: show no progress; warn, info, debug, trace",
    )
    .short('v'),
];

/// `executor`: the flags of `mica build` and those of Kaniko.
pub(super) fn command() -> Command {
    let shared = Cli::command();
    let shared = shared.get_arguments().filter(|arg| arg.get_id() != "version").cloned();
    let mut command = Command::new("executor")
        .override_usage("executor [OPTIONS] [PATH|URL|-]\n       executor COMMAND …")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(true)
        .args_override_self(true)
        .args(shared);
    command = BuildArgs::augment_args(command)
        .about("Builds an image and pushes it, called as Kaniko's executor is")
        .long_about(None)
        .mut_arg("context", |arg| arg.required(false).default_value(".").hide_default_value(true))
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
