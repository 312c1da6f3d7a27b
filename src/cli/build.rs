//! `mica build`: from the words of the command line to a [`BuildRequest`].

mod flags;

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::args::{BuildArgs, NetworkArg, ProgressArg};
use super::progress::Drawing;
use super::{CliError, Context, report, ui};
use crate::builder::{self, BuildContext, BuildRequest, NamedContext, Options, Services};
use crate::cache::StepCache;
use crate::cache::content::FileCache;
use crate::oci::Platform;
use crate::parser::{self, Severity};
use crate::runtime::NamespaceSandbox;

/// The most bytes of a Dockerfile.
const MAX_DOCKERFILE_BYTES: u64 = 16 << 20;

/// Steps wait for disks and networks too: even one core runs this many at once.
const MIN_JOBS: usize = 4;

pub(super) fn build(context: &Context, args: &BuildArgs) -> Result<ExitCode, CliError> {
    let cancel = super::signals::cancel_token()?;
    let store = context.open_store()?;
    let cache_dir = store.path().join("cache");
    let named = flags::named_contexts(&args.build_context)?;
    let contexts = open_contexts(args, &named.folders, &cache_dir)?;
    let (file, text) = dockerfile(args, &contexts[0])?;
    let parsed = parser::parse(&text);
    let text = String::from_utf8_lossy(&text).into_owned();
    if parsed.diagnostics.iter().any(|found| found.severity == Severity::Error) {
        return Err(CliError::Dockerfile { file, text, found: parsed.diagnostics });
    }
    let build_args = flags::build_args(&args.build_arg, args.source_date_epoch.as_deref());
    let request = BuildRequest {
        dockerfile: parsed.dockerfile,
        contexts,
        epoch: flags::epoch(&build_args)?,
        options: options(args, build_args, named.names)?,
        names: args.tag.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
    };
    let result = {
        let progress = Drawing::new(args.progress, args.quiet);
        let sandbox = NamespaceSandbox::new()
            .map_err(|source| CliError::Read { path: "/proc/self/exe".into(), source })?;
        let services = Services {
            store: &store,
            cache: &StepCache::new(&cache_dir),
            sandbox: &sandbox,
            progress: &progress,
            secrets: &flags::secrets(&args.secret)?,
            cancel: &cancel,
            now: &jiff::Timestamp::now,
            jobs: args.jobs.unwrap_or_else(default_jobs).max(1),
        };
        builder::build(&request, &services)
    };
    let result = result.map_err(|source| CliError::Build {
        file: file.clone(),
        text: text.clone(),
        source: Box::new(source),
    })?;
    if !args.quiet {
        report::warnings(&file, &text, &parsed.diagnostics);
        report::warnings(&file, &text, &result.warnings);
    }
    let id = result.image.id().to_string();
    if let Some(path) = &args.iidfile {
        std::fs::write(path, &id)
            .map_err(|source| CliError::Write { path: path.clone(), source })?;
    }
    if args.quiet {
        ui::line(&id)?;
    } else if args.progress != ProgressArg::Rawjson {
        ui::say(&format!("built {id}"));
        for name in &request.names {
            ui::say(&format!("named {}", name.familiar()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(MIN_JOBS, NonZeroUsize::get).max(MIN_JOBS)
}

fn options(
    args: &BuildArgs,
    build_args: builder::BuildArgs,
    named_contexts: std::collections::HashMap<String, NamedContext>,
) -> Result<Options, CliError> {
    let platform = match args.platform.as_deref() {
        None => Platform::host(),
        Some(text) => Platform::parse(text).ok_or_else(|| {
            CliError::Usage(format!("`{}` is not a platform", text.escape_debug()))
        })?,
    };
    Ok(Options {
        target: args.target.clone(),
        build_args,
        labels: args.label.iter().map(|label| flags::pair(label)).collect(),
        named_contexts,
        platform,
        no_cache: args.no_cache,
        network: args.network != NetworkArg::None,
        allow: args.allow.iter().cloned().collect(),
        hosts: args.add_host.iter().map(|host| flags::host(host)).collect::<Result<_, _>>()?,
        shm_size: args.shm_size.as_deref().map(flags::bytes).transpose()?,
        ulimits: args.ulimit.iter().map(|limit| flags::ulimit(limit)).collect::<Result<_, _>>()?,
    })
}

/// The main context and the folders of `--build-context`.
fn open_contexts(
    args: &BuildArgs,
    folders: &[PathBuf],
    cache_dir: &Path,
) -> Result<Vec<BuildContext>, CliError> {
    flags::refuse_remote(&args.context.to_string_lossy())?;
    let default = args.context.join("Dockerfile");
    let file = args.file.as_deref().filter(|file| *file != Path::new("-"));
    let open = |path: &Path, dockerfile: Option<&Path>| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let files = FileCache::open(cache_dir, &absolute);
        BuildContext::open(path, dockerfile, files).map_err(|source| CliError::Build {
            file: String::new(),
            text: String::new(),
            source: Box::new(source),
        })
    };
    let main = open(&args.context, Some(file.unwrap_or(&default)))?;
    let mut contexts = vec![main];
    for folder in folders {
        contexts.push(open(folder, None)?);
    }
    Ok(contexts)
}

/// The Dockerfile's name and text. One that was not named is looked up inside the context: if it is
/// a link, it leads nowhere else.
fn dockerfile(args: &BuildArgs, context: &BuildContext) -> Result<(String, Vec<u8>), CliError> {
    let Some(path) = &args.file else {
        for name in ["Dockerfile", "dockerfile"] {
            let found = context.read(name).map_err(|source| CliError::Build {
                file: String::new(),
                text: String::new(),
                source: Box::new(source),
            })?;
            if let Some(text) = found {
                return Ok((name.to_owned(), text));
            }
        }
        let path = args.context.join("Dockerfile");
        return Err(CliError::NoDockerfile(path.display().to_string()));
    };
    let mut text = Vec::new();
    let read = |input: &mut dyn Read, text: &mut Vec<u8>| {
        let failed = |source| CliError::Read { path: path.clone(), source };
        input.take(MAX_DOCKERFILE_BYTES + 1).read_to_end(text).map_err(failed)?;
        if text.len() as u64 > MAX_DOCKERFILE_BYTES {
            return Err(failed(std::io::Error::other("it has more than 16 MiB")));
        }
        Ok(())
    };
    if path == Path::new("-") {
        read(&mut std::io::stdin(), &mut text)?;
        return Ok(("-".to_owned(), text));
    }
    read(&mut open_regular(path)?, &mut text)?;
    Ok((path.display().to_string(), text))
}

/// Opens a file that was named; a pipe nobody writes to must not make us wait.
fn open_regular(path: &Path) -> Result<File, CliError> {
    let failed = |source| CliError::Read { path: path.to_owned(), source };
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            return Err(CliError::NoDockerfile(path.display().to_string()));
        }
        Err(err) => return Err(failed(err)),
    };
    if file.metadata().map_err(failed)?.is_file() {
        Ok(file)
    } else {
        Err(failed(std::io::Error::other("it is no regular file")))
    }
}
