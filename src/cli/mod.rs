//! The command line: what was typed, what is done about it, what is said.

mod archives;
mod args;
mod build;
mod check;
mod error;
mod images;
mod kaniko;
mod login;
mod progress;
mod pull;
mod push;
mod report;
mod run;
mod search;
mod signals;
mod system;
mod threads;
mod ui;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, ImageCommand, SystemCommand};
use error::CliError;

use crate::flat::FlatSandbox;
use crate::runtime::isolation::{self, Isolation, Mode};
use crate::runtime::{self, Sandbox};
use crate::store::Store;

/// Does what the command line says. The exit status is 0 when it was done, 1 when it failed, 2 for a
/// command line or a Dockerfile that is not understood, 130 when it was interrupted; `mica run` gives
/// the status of the command that it ran.
pub fn run() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let cli = if kaniko::is_called(words.first().map(OsString::as_os_str)) {
        kaniko::parse(&words)
    } else {
        Cli::try_parse_from(words).map_err(|err| report::usage(&err))
    };
    let cli = match cli {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(err) => report::error(&err),
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, CliError> {
    match &cli.command {
        Command::Version => return system::version().map(|()| ExitCode::SUCCESS),
        Command::Info(args) => {
            return system::info(cli.root, cli.isolation.into(), args).map(|()| ExitCode::SUCCESS);
        }
        Command::Search(args) => return search::search(args).map(|()| ExitCode::SUCCESS),
        Command::Login(args) => return login::login(args).map(|()| ExitCode::SUCCESS),
        Command::Logout(args) => return login::logout(args).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => return check::check(cli.root, args),
        Command::Build(args) => {
            if let Some(call) = build::Call::of(args)? {
                return build::call(cli.root, args, &call);
            }
        }
        _ => {}
    }
    // Before anything else: it needs a process of one thread.
    let isolation = isolation::enter(cli.isolation.into())?;
    threads::prepare()?;
    let context = Context { root: cli.root, isolation };
    match cli.command {
        Command::Build(args) => return build::build(&context, &args),
        Command::Run(args) => return run::run(&context, &args),
        Command::Images(args) | Command::Image(ImageCommand::Ls(args)) => {
            images::images(&context, &args)
        }
        Command::Tag(args) | Command::Image(ImageCommand::Tag(args)) => {
            images::tag(&context, &args)
        }
        Command::Rmi(args) | Command::Image(ImageCommand::Rm(args)) => images::rmi(&context, &args),
        Command::Inspect(args) | Command::Image(ImageCommand::Inspect(args)) => {
            images::inspect(&context, &args)
        }
        Command::History(args) | Command::Image(ImageCommand::History(args)) => {
            images::history(&context, &args)
        }
        Command::Save(args) | Command::Image(ImageCommand::Save(args)) => {
            archives::save(&context, &args)
        }
        Command::Load(args) | Command::Image(ImageCommand::Load(args)) => {
            archives::load(&context, &args)
        }
        Command::Pull(args) | Command::Image(ImageCommand::Pull(args)) => {
            pull::pull(&context, &args)
        }
        Command::Import(args) | Command::Image(ImageCommand::Import(args)) => {
            archives::import(&context, &args)
        }
        Command::Push(args) | Command::Image(ImageCommand::Push(args)) => {
            push::push(&context, &args)
        }
        Command::System(SystemCommand::Check(args)) => return system::check(&context, &args),
        Command::System(SystemCommand::Prune) => system::prune(&context),
        Command::Check(_)
        | Command::Info(_)
        | Command::Login(_)
        | Command::Logout(_)
        | Command::Search(_)
        | Command::Version => Ok(()),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// What all commands share.
#[derive(Debug)]
struct Context {
    root: Option<PathBuf>,
    isolation: Isolation,
}

impl Context {
    /// What runs steps: on overlays, or where there are none, on copies.
    fn sandbox(&self, store: &Store) -> Result<Box<dyn Sandbox>, CliError> {
        let failed = |source| CliError::Read { path: "/proc/self/exe".into(), source };
        let sandbox = self.isolation.sandbox().map_err(failed)?;
        let chroot = self.isolation.mode == Mode::Chroot;
        let flat = match self.isolation.mode {
            Mode::None => false,
            Mode::Chroot => {
                ui::say("note: a chroot: steps see this container's network and processes");
                true
            }
            _ => {
                let bare = runtime::overlay_error(store.path());
                if let Some(error) = &bare {
                    let path = store.path().display();
                    ui::say(&format!(
                        "note: no overlays on `{path}` ({error}): steps run on copies"
                    ));
                }
                bare.is_some()
            }
        };
        Ok(if flat { Box::new(FlatSandbox::new(sandbox, chroot)) } else { sandbox })
    }

    fn open_store(&self) -> Result<Store, CliError> {
        Ok(Store::open(&store_root(self.root.clone(), self.isolation.by_root)?)?)
    }
}

/// Where the store is: as asked, else where the user's data is.
fn store_root(asked: Option<PathBuf>, by_root: bool) -> Result<PathBuf, CliError> {
    if let Some(root) = asked {
        return std::path::absolute(&root).map_err(|source| CliError::Read { path: root, source });
    }
    if by_root {
        return Ok(PathBuf::from("/var/lib/mica"));
    }
    let home = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    home.filter(|home| home.is_absolute()).map(|home| home.join("mica")).ok_or(CliError::NoHome)
}
