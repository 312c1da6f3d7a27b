//! Where an executor's files come from: `--context`, `--context-sub-path`, `--git`, `--dockerfile`.

use std::path::{Path, PathBuf};

use super::flags::Given;
use crate::cli::CliError;
use crate::cli::args::BuildArgs;
use crate::cli::build::input::without_password;
use crate::parser;

/// Where Kaniko looks when nobody says.
const DEFAULT: &str = "/workspace/";

/// A context, as `mica build` has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A folder.
    Folder(PathBuf),
    /// A tar, compressed or not.
    Archive(PathBuf),
    /// A word that `mica build` understands, for what it unpacks.
    Word(String),
    /// The URL of a repository, with the folder in it.
    Repository(String),
}

impl Source {
    /// Whether one of its folders can still be chosen.
    fn is_archive(&self) -> bool {
        matches!(self, Self::Archive(_) | Self::Word(_))
    }
}

/// Sets the context and the Dockerfile. With PATH both are as with `mica build`, else as with Kaniko.
pub(super) fn apply(given: &Given, build: &mut BuildArgs) -> Result<(), CliError> {
    let flag = given.one("context");
    if given.is_set("context") {
        let path = without_password(&build.context.display().to_string());
        return match flag {
            None => Ok(()),
            Some(_) => Err(CliError::Usage(format!(
                "`{path}` stands beside `--context`: there is one context (a value of true or \
                 false is written with `=`)"
            ))),
        };
    }
    let text = flag.unwrap_or(DEFAULT);
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let below = given.one("context-sub-path");
    let source = source(text, below, given.one("git"), &env)?;
    if source.is_archive() {
        build.extra.below = below.map(PathBuf::from);
    }
    build.file = dockerfile(build.file.take(), &source, Path::is_file);
    build.context = match source {
        Source::Folder(path) => path,
        Source::Archive(path) => {
            build.extra.archive = Some(path);
            PathBuf::from(text)
        }
        Source::Word(word) | Source::Repository(word) => PathBuf::from(word),
    };
    Ok(())
}

/// What `--context` stands for.
pub(super) fn source(
    text: &str,
    below: Option<&str>,
    git: Option<&str>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Source, CliError> {
    let wrong =
        |why: &str| CliError::Usage(format!("`--context {}`: {why}", without_password(text)));
    let (scheme, rest) = text.split_once("://").unwrap_or(("dir", text));
    match scheme {
        "dir" => {
            let path = PathBuf::from(rest);
            Ok(Source::Folder(below.map_or_else(|| path.clone(), |below| path.join(below))))
        }
        "tar" if rest == "stdin" => Ok(Source::Word("-".to_owned())),
        "tar" => Ok(Source::Archive(PathBuf::from(rest))),
        "git" => git_word(rest, below, git, env).map(Source::Repository),
        "gs" | "s3" => Err(wrong("fetch it first, or give an https:// URL of it")),
        _ => Ok(Source::Word(text.to_owned())),
    }
}

/// `HOST/PATH[#REF[#COMMIT]]`, as a URL of a repository. As with Kaniko, submodules come when they are
/// asked for, and the environment says who asks.
fn git_word(
    rest: &str,
    below: Option<&str>,
    options: Option<&str>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String, CliError> {
    let wrong = |why: String| CliError::Usage(format!("`--git`: {why}"));
    let mut parts = rest.split('#');
    let repository = parts.next().unwrap_or_default();
    let mut reference = parts.next().unwrap_or_default().to_owned();
    let mut submodules = false;
    for field in options.into_iter().flat_map(|text| text.split(',')) {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let switch = || {
            let found = parser::boolean(value);
            found.ok_or_else(|| wrong(format!("`{}` is neither true nor false", plain(key))))
        };
        match key {
            "branch" if value.is_empty() => {}
            "branch" => value.clone_into(&mut reference),
            "recurse-submodules" => submodules = switch()?,
            // No more is fetched than the one commit.
            "single-branch" => drop(switch()?),
            "depth" => {}
            "insecure-skip-tls" if !switch()? => {}
            "insecure-skip-tls" => {
                let why = "`insecure-skip-tls` is not supported: certificates are verified";
                return Err(wrong(why.to_owned()));
            }
            _ => return Err(wrong(format!("`{}` is not known", plain(key)))),
        }
    }
    let reference = parts.next().map_or(reference, str::to_owned);
    let (user, password) = match env("GIT_TOKEN") {
        Some(token) => (token, String::new()),
        None => (env("GIT_USERNAME").unwrap_or_default(), env("GIT_PASSWORD").unwrap_or_default()),
    };
    let who = if user.is_empty() && password.is_empty() || repository.contains('@') {
        String::new()
    } else {
        format!("{}:{}@", encoded(&user), encoded(&password))
    };
    let scheme = env("GIT_PULL_METHOD").filter(|scheme| scheme == "http");
    let scheme = scheme.as_deref().unwrap_or("https");
    let repository = repository.trim_end_matches('/');
    let has_dot_git = Path::new(repository).extension().is_some_and(|kind| kind == "git");
    let dot_git = if has_dot_git { "" } else { ".git" };
    let below = below.map(|below| format!(":{below}")).unwrap_or_default();
    Ok(format!("{scheme}://{who}{repository}{dot_git}?submodules={submodules}#{reference}{below}"))
}

/// The Dockerfile, by Kaniko's rule: a path of this machine if there is such a file, else one of the
/// context.
pub(super) fn dockerfile(
    named: Option<PathBuf>,
    source: &Source,
    is_file: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let is_url = |path: &Path| path.to_str().is_some_and(|text| text.contains("://"));
    let is_named = named.is_some();
    let name = named.unwrap_or_else(|| PathBuf::from("Dockerfile"));
    if is_url(&name) || name == Path::new("-") {
        return Some(name);
    }
    if is_file(&name) {
        return Some(std::path::absolute(&name).unwrap_or(name));
    }
    match source {
        // The one without a name may be called `dockerfile`, too.
        _ if !is_named => None,
        Source::Folder(folder) => Some(folder.join(name)),
        Source::Archive(_) | Source::Word(_) | Source::Repository(_) => Some(name),
    }
}

/// A part of a URL in which nothing has a meaning.
fn encoded(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let bytes = text.bytes();
    bytes.map(|b| if keep(b) { char::from(b).into() } else { format!("%{b:02X}") }).collect()
}

fn plain(text: &str) -> String {
    text.escape_debug().to_string()
}
