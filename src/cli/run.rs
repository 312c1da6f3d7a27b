//! `mica run`: a command in a new container of an image, in the foreground.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::args::{NetworkArg, PullPolicy, RunArgs};
use super::pull::{Puller, platform, registries, say_fetched};
use super::signals::unless_cancelled;
use super::{CliError, Context};
use crate::mount::Overlay;
use crate::oci::{ContainerConfig, Reference};
use crate::registry::Registries;
use crate::runtime::{
    CancelToken, ExecSpec, Network, Sandbox, SandboxMount, Security, Stdin, Stream,
};
use crate::snapshot::{Attributes, Handle, SnapshotError, Upper, View};
use crate::store::{Image, StagedLayer, Store, StoreError};

pub(super) fn run(context: &Context, args: &RunArgs) -> Result<ExitCode, CliError> {
    let cancel = super::signals::cancel_token()?;
    let registries = registries(None, &cancel);
    let store = context.open_fetching_store(&registries)?;
    let get = || -> Result<(Image, Vec<PathBuf>), CliError> {
        let image = find(&store, &registries, args)?;
        let layers = store.unpack(&image, &say_fetched)?;
        let dirs = layers.iter().map(|record| store.layer_dir(record));
        Ok((image, dirs.collect::<Result<_, _>>()?))
    };
    let (image, layers) = get().map_err(unless_cancelled(&cancel))?;
    let top = store.stage_layer()?;
    let spec = spec(args, &image, layers, &top)?;
    let sandbox = context.sandbox(&store)?;
    run_to_end(sandbox.as_ref(), &spec, &cancel)
}

/// The image, which is pulled where the store lacks it.
fn find(store: &Store, registries: &Registries, args: &RunArgs) -> Result<Image, CliError> {
    let stored = store.find(&args.image);
    let named = args.image.parse::<Reference>();
    match (stored, args.pull, named) {
        (Ok(_), PullPolicy::Always, Ok(name))
        | (Err(StoreError::NoImage(_)), PullPolicy::Always | PullPolicy::Missing, Ok(name)) => {
            let platform = platform(args.platform.as_deref())?;
            let found = Puller::new(store, registries, args.pull).find(&name, &platform)?;
            found.ok_or_else(|| StoreError::NoImage(name.familiar()).into())
        }
        (Ok(named), ..) => Ok(store.image(&named.manifest)?),
        (Err(err), ..) => Err(err.into()),
    }
}

/// Runs, passes on what is written, and gives the command's exit status.
fn run_to_end(
    sandbox: &dyn Sandbox,
    spec: &ExecSpec,
    cancel: &CancelToken,
) -> Result<ExitCode, CliError> {
    let mut output = |stream, bytes: &[u8]| {
        let written = match stream {
            Stream::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Stream::Stderr => std::io::stderr().lock().write_all(bytes),
        };
        if written.is_err() {
            // Nobody reads: as a pipe would end the command.
            cancel.cancel();
        }
    };
    let status = sandbox.run(spec, &mut output, cancel)?;
    Ok(ExitCode::from(status.code()))
}

fn spec(
    args: &RunArgs,
    image: &Image,
    layers: Vec<PathBuf>,
    top: &StagedLayer,
) -> Result<ExecSpec, CliError> {
    let config = &image.config.config;
    let argv = argv(args, config)?;
    let cwd = args.workdir.clone().unwrap_or_else(|| config.working_dir.clone());
    let cwd = PathBuf::from("/").join(cwd);
    make_folder(&layers, top, &cwd)?;
    let mut spec = ExecSpec::new(Overlay::writable(layers, top.fs(), top.work()), argv);
    spec.cwd = cwd;
    spec.env = environment(args, config);
    spec.user = args.user.clone().unwrap_or_else(|| config.user.clone());
    spec.mounts = args.volume.iter().map(|text| volume(text)).collect::<Result<_, _>>()?;
    spec.network = if args.network == NetworkArg::None { Network::None } else { Network::Host };
    spec.hostname = args.hostname.clone().unwrap_or_else(|| image.id().short());
    spec.security = Security::Sandbox;
    spec.terminal = args.tty;
    spec.stdin = if args.interactive || args.tty { Stdin::Inherit } else { Stdin::Null };
    Ok(spec)
}

fn argv(args: &RunArgs, config: &ContainerConfig) -> Result<Vec<String>, CliError> {
    let mut argv = match args.entrypoint.as_deref() {
        Some("") => Vec::new(),
        Some(program) => vec![program.to_owned()],
        None => config.entrypoint.clone().unwrap_or_default(),
    };
    if !args.command.is_empty() {
        argv.extend(args.command.iter().cloned());
    } else if args.entrypoint.is_none() {
        argv.extend(config.cmd.iter().flatten().cloned());
    }
    if argv.is_empty() {
        return Err(CliError::Usage("the image has no command: name one behind it".to_owned()));
    }
    Ok(argv)
}

fn environment(args: &RunArgs, config: &ContainerConfig) -> Vec<(OsString, OsString)> {
    let mut config = config.clone();
    if args.tty {
        config.set_env("TERM", "xterm");
    }
    for text in &args.env {
        match text.split_once('=') {
            Some((name, value)) => config.set_env(name, value),
            None => {
                if let Some(value) = std::env::var_os(text) {
                    config.set_env(text, &value.to_string_lossy());
                }
            }
        }
    }
    let pairs = config.env.iter().filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.into(), value.into())).collect()
}

/// `HOST:CONTAINER[:ro|rw]`.
fn volume(text: &str) -> Result<SandboxMount, CliError> {
    let mut parts = text.split(':');
    let (Some(host), Some(target), options, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(CliError::Usage(format!(
            "`--volume {}`: write it as HOST:CONTAINER[:ro]",
            text.escape_debug()
        )));
    };
    let read_only = match options {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(other) => {
            let message = format!("`--volume`: `{}` is no option: ro, rw", other.escape_debug());
            return Err(CliError::Usage(message));
        }
    };
    let failed = |source| CliError::Read { path: host.into(), source };
    let host = std::fs::canonicalize(host).map_err(failed)?;
    let (folder, path) = match (host.is_dir(), host.parent(), host.file_name()) {
        (false, Some(folder), Some(name)) => (folder.to_owned(), PathBuf::from(name)),
        _ => (host.clone(), PathBuf::new()),
    };
    let target = PathBuf::from("/").join(target);
    Ok(SandboxMount::Bind { source: Overlay::directory(folder), path, target, read_only })
}

/// The folder that the command starts in is made where it is missing, as Docker does.
fn make_folder(layers: &[PathBuf], top: &StagedLayer, path: &Path) -> Result<(), CliError> {
    let failed = |err: SnapshotError| CliError::Store(StoreError::Snapshot(err));
    let dir = top.fs();
    let handle = Handle::open(&dir).map_err(|source| CliError::Read { path: dir, source })?;
    let below = View::open(layers).map_err(failed)?;
    if below.resolve(path).map_err(failed)?.entry.is_some() {
        return Ok(());
    }
    let upper = Upper::new(handle, &below).map_err(failed)?;
    let attributes = Attributes { mode: 0o755, ..Attributes::default() };
    upper.directory(path, &attributes).map_err(failed)?;
    upper.finish().map_err(failed)
}
