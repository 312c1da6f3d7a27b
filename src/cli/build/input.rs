//! Where a build's files come from: the contexts and the Dockerfile.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::builder::{self, Access, BuildContext, BuildError, Fetched, Remote};
use crate::cache::content::FileCache;
use crate::cli::CliError;
use crate::cli::args::BuildArgs;
use crate::http::Url;
use crate::layer;
use crate::runtime::CancelToken;
use crate::snapshot;
use crate::store::Store;

/// The most bytes of a Dockerfile.
const MAX_DOCKERFILE_BYTES: u64 = 16 << 20;

/// What a build reads.
pub(super) struct Input {
    /// The main context, then those of `--build-context`.
    pub(super) contexts: Vec<BuildContext>,
    /// The Dockerfile, as it is named to the user.
    pub(super) file: String,
    /// Its bytes.
    pub(super) text: Vec<u8>,
    /// When the main context was made, for one that knows.
    pub(super) time: Option<i64>,
}

/// Opens the contexts and reads the Dockerfile.
pub(super) fn open(
    args: &BuildArgs,
    others: &[PathBuf],
    access: Access<'_>,
    keep_git_dir: bool,
) -> Result<Input, CliError> {
    let stdin = Stdin { cancel: access.cancel };
    let mut time = None;
    let (main, file, text) = if let Some(path) = &args.extra.archive {
        let context = below(args, archive(path, access.store)?)?;
        from_remote(args, Fetched { context, time: None, file: None }, access, stdin)?
    } else if is_stdin(&args.context) {
        from_stdin(args, access.store, stdin)?
    } else if let Some(mut remote) = remote(&args.context)? {
        if let Remote::Git(git) = &mut remote {
            git.keep_git_dir |= keep_git_dir;
        }
        let mut fetched = remote.open(access, true).map_err(build_failed)?;
        time = fetched.time;
        fetched.context = below(args, fetched.context)?;
        from_remote(args, fetched, access, stdin)?
    } else {
        from_folder(args, access, stdin)?
    };
    let mut contexts = vec![main];
    for other in others {
        contexts.push(match remote(other)? {
            Some(remote) => remote.open(access, false).map_err(build_failed)?.context,
            None => folder_context(other, None, access.store)?,
        });
    }
    Ok(Input { contexts, file, text, time })
}

/// Opens a folder and reads its Dockerfile, or reads one on standard input, with no store at hand.
pub(super) fn open_to_check(args: &BuildArgs, cancel: &CancelToken) -> Result<Input, CliError> {
    let stdin = Stdin { cancel };
    let usage = || {
        let message = "a check reads a folder, or a Dockerfile on standard input";
        CliError::Usage(message.to_owned())
    };
    let input = |contexts, file, text| Input { contexts, file, text, time: None };
    if is_stdin(&args.context) {
        let text = read_dockerfile(stdin, Path::new("-"))?;
        let is_alone = args.file.is_none() && !layer::begins_archive(&text);
        return if is_alone { Ok(input(Vec::new(), "-".to_owned(), text)) } else { Err(usage()) };
    }
    if remote(&args.context)?.is_some() {
        return Err(usage());
    }
    let open = |dockerfile: Option<&Path>| {
        BuildContext::open(&args.context, dockerfile, FileCache::none()).map_err(build_failed)
    };
    Ok(match args.file.as_deref() {
        None => {
            let default = args.context.join("Dockerfile");
            let context = open(Some(&default))?;
            let missing = || CliError::NoDockerfile(default.display().to_string());
            let (file, text) = dockerfile_in(&context)?.ok_or_else(missing)?;
            input(vec![context], file, text)
        }
        Some(path) if is_stdin(path) => {
            input(vec![open(None)?], "-".to_owned(), read_dockerfile(stdin, path)?)
        }
        Some(path) => {
            let text = read_dockerfile(open_regular(path)?, path)?;
            input(vec![open(Some(path))?], path.display().to_string(), text)
        }
    })
}

/// A context from elsewhere. A folder of this machine goes first, whatever its name looks like.
fn remote(word: &Path) -> Result<Option<Remote>, CliError> {
    match word.to_str().filter(|_| !word.is_dir()) {
        Some(text) => {
            let wrong = |why: &str| {
                CliError::Usage(format!("build context `{}`: {why}", without_password(text)))
            };
            match Remote::parse(text).map_err(|why| wrong(&why))? {
                None if text.contains("://") => {
                    Err(wrong("give a folder, an http(s) URL or a git repository"))
                }
                found => Ok(found),
            }
        }
        None => Ok(None),
    }
}

type Main = (BuildContext, String, Vec<u8>);

fn from_folder(args: &BuildArgs, access: Access<'_>, stdin: Stdin<'_>) -> Result<Main, CliError> {
    let store = access.store;
    match args.file.as_deref() {
        // One that was not named is looked up inside the context: if it is a link, it leads nowhere
        // else.
        None => {
            let default = args.context.join("Dockerfile");
            let context = folder_context(&args.context, Some(&default), store)?;
            let found = dockerfile_in(&context)?;
            let (file, text) =
                found.ok_or_else(|| CliError::NoDockerfile(default.display().to_string()))?;
            Ok((context, file, text))
        }
        Some(path) => match elsewhere(path, access, stdin)? {
            Some((file, text)) => Ok((folder_context(&args.context, None, store)?, file, text)),
            None => {
                let text = read_dockerfile(open_regular(path)?, path)?;
                let context = folder_context(&args.context, Some(path), store)?;
                Ok((context, path.display().to_string(), text))
            }
        },
    }
}

/// A Dockerfile that lies in no folder: on standard input, or at a URL.
fn elsewhere(
    path: &Path,
    access: Access<'_>,
    stdin: Stdin<'_>,
) -> Result<Option<(String, Vec<u8>)>, CliError> {
    if is_stdin(path) {
        return Ok(Some(("-".to_owned(), read_dockerfile(stdin, path)?)));
    }
    let is_url = |text: &&str| text.starts_with("http://") || text.starts_with("https://");
    let Some(text) = path.to_str().filter(is_url) else { return Ok(None) };
    let url = Url::parse(text).map_err(|why| {
        CliError::Usage(format!("`--file {}`: invalid URL: {why}", without_password(text)))
    })?;
    let text = builder::read_url(&url, access).map_err(build_failed)?;
    Ok(Some((url.to_string(), text)))
}

/// As with Docker, an absolute path is one of this machine, any other is one of the context. A context
/// that is one file is its own Dockerfile.
fn from_remote(
    args: &BuildArgs,
    fetched: Fetched,
    access: Access<'_>,
    stdin: Stdin<'_>,
) -> Result<Main, CliError> {
    let context = fetched.context;
    if let Some(path) = &args.file {
        if let Some((file, text)) = elsewhere(path, access, stdin)? {
            return Ok((context, file, text));
        }
        if path.is_absolute() {
            let text = read_dockerfile(open_regular(path)?, path)?;
            return Ok((context, path.display().to_string(), text));
        }
    }
    let named = match fetched.file {
        Some(file) => Some(Path::new(file)),
        None => args.file.as_deref(),
    };
    let (file, text) = dockerfile_of(&context, named)?;
    Ok((context, file, text))
}

/// The Dockerfile of a context, by the name that was given.
fn dockerfile_of(
    context: &BuildContext,
    named: Option<&Path>,
) -> Result<(String, Vec<u8>), CliError> {
    let found = match named {
        None => dockerfile_in(context)?,
        Some(name) => {
            let text = context.read(name).map_err(build_failed)?;
            text.map(|text| (name.display().to_string(), text))
        }
    };
    let name = named.unwrap_or(Path::new("Dockerfile"));
    found.ok_or_else(|| CliError::NoDockerfile(name.display().to_string()))
}

/// Standard input is an archive with a Dockerfile in it, or else the text of a Dockerfile that has no
/// context.
fn from_stdin(args: &BuildArgs, store: &Store, stdin: Stdin<'_>) -> Result<Main, CliError> {
    if args.file.as_deref().is_some_and(is_stdin) {
        let message = "can't use stdin for both build context and Dockerfile";
        return Err(CliError::Usage(message.to_owned()));
    }
    let path = Path::new("-");
    let mut start = Vec::new();
    stdin
        .take(layer::SNIFF_BYTES as u64)
        .read_to_end(&mut start)
        .map_err(|source| read_failed(path, source))?;
    let is_archive = layer::begins_archive(&start);
    let whole = io::Cursor::new(start).chain(stdin);
    if !is_archive {
        if args.file.is_some() {
            let message = "ambiguous Dockerfile: both standard input and `--file` are Dockerfiles";
            return Err(CliError::Usage(message.to_owned()));
        }
        let context = BuildContext::empty().map_err(build_failed)?;
        return Ok((context, "-".to_owned(), read_dockerfile(whole, path)?));
    }
    let context = BuildContext::archive(store, whole)
        .map_err(|err| if stdin.cancel.is_cancelled() { BuildError::Cancelled } else { err })
        .map_err(build_failed)?;
    let context = below(args, context)?;
    let (file, text) = dockerfile_of(&context, args.file.as_deref())?;
    Ok((context, file, text))
}

/// That of a context that is to be used.
fn below(args: &BuildArgs, context: BuildContext) -> Result<BuildContext, CliError> {
    match &args.extra.below {
        Some(folder) => context.below(folder).map_err(build_failed),
        None => Ok(context),
    }
}

/// The context that an archive of this machine holds.
fn archive(path: &Path, store: &Store) -> Result<BuildContext, CliError> {
    let file = File::open(path).map_err(|source| read_failed(path, source))?;
    BuildContext::archive(store, file).map_err(build_failed)
}

fn folder_context(
    path: &Path,
    dockerfile: Option<&Path>,
    store: &Store,
) -> Result<BuildContext, CliError> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let files = FileCache::open(&store.path().join("cache"), &absolute);
    BuildContext::open(path, dockerfile, files).map_err(build_failed)
}

/// The Dockerfile of a context, by the names that it has when nobody says.
pub(in crate::cli) fn dockerfile_in(
    context: &BuildContext,
) -> Result<Option<(String, Vec<u8>)>, CliError> {
    for name in ["Dockerfile", "dockerfile"] {
        if let Some(text) = context.read(name).map_err(build_failed)? {
            return Ok(Some((name.to_owned(), text)));
        }
    }
    Ok(None)
}

pub(in crate::cli) fn read_dockerfile(input: impl Read, path: &Path) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    let failed = |source| read_failed(path, source);
    input.take(MAX_DOCKERFILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_DOCKERFILE_BYTES {
        return Err(failed(io::Error::other("it has more than 16 MiB")));
    }
    Ok(text)
}

/// Opens a Dockerfile that was named.
pub(in crate::cli) fn open_regular(path: &Path) -> Result<File, CliError> {
    snapshot::open_regular(path).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => CliError::NoDockerfile(path.display().to_string()),
        _ => read_failed(path, err),
    })
}

/// A URL as it may be shown.
pub(in crate::cli) fn without_password(text: &str) -> String {
    let plain = match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}{}", &text[..scheme + 3], &text[at + 1..])
        }
        _ => text.to_owned(),
    };
    plain.escape_debug().to_string()
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn read_failed(path: &Path, source: io::Error) -> CliError {
    if source.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Interrupted>) {
        return build_failed(BuildError::Cancelled);
    }
    CliError::Read { path: path.to_owned(), source }
}

/// An error from before there is a Dockerfile to point into.
fn build_failed(source: BuildError) -> CliError {
    CliError::Build { file: String::new(), text: String::new(), source: Box::new(source) }
}

/// Standard input, which ends in an error when the build is interrupted: somebody may never write.
#[derive(Clone, Copy)]
struct Stdin<'a> {
    cancel: &'a CancelToken,
}

impl Read for Stdin<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        if self.cancel.wait_to_read(&stdin)? {
            return Ok(rustix::io::read(&stdin, buffer)?);
        }
        Err(io::Error::other(Interrupted))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;
