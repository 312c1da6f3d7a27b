//! Kaniko's face: mica called `executor` takes the flags of Kaniko's executor beside those of
//! `mica build`, and turns them into what `mica build` is asked for. There is no second way to build.

mod contexts;
mod flags;
mod registries;
#[cfg(test)]
mod tests;
mod translate;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use super::args::{BuildArgs, Cli, Command};
use super::error::CliError;
use super::{report, ui};
use flags::{Fate, Given};

/// What Kaniko calls its program.
const NAME: &str = "executor";

/// Whether that is what mica was called.
pub(super) fn is_called(program: Option<&OsStr>) -> bool {
    program.is_some_and(|program| Path::new(program).file_name() == Some(OsStr::new(NAME)))
}

/// The command that an executor's command line means. What there is nothing to do for is said.
pub(super) fn parse(words: &[OsString]) -> Result<Cli, ExitCode> {
    // `executor version`, and all the others that mica has.
    let is_command = |word: &OsString| Cli::command().find_subcommand(word).is_some();
    if words.get(1).is_some_and(is_command) {
        return Cli::try_parse_from(words).map_err(|err| report::usage(&err));
    }
    let matches = flags::command().try_get_matches_from(words);
    let matches = matches.map_err(|err| report::usage(&err))?;
    let (cli, said) = understand(matches)?;
    for line in said {
        ui::say(&line);
    }
    Ok(cli)
}

/// The same, with what is to be said.
fn understand(matches: clap::ArgMatches) -> Result<(Cli, Vec<String>), ExitCode> {
    let given = Given::new(matches);
    let build = BuildArgs::from_arg_matches(given.matches());
    let mut build = build.map_err(|err| report::usage(&err))?;
    let mut said = moot(&given).map_err(|err| report::error(&err))?;
    said.extend(translate::apply(&given, &mut build).map_err(|err| report::error(&err))?);
    let root = given.matches().get_one("root").cloned();
    let isolation = given.matches().get_one("isolation").copied();
    let isolation = isolation.unwrap_or(super::args::IsolationArg::Auto);
    Ok((Cli { root, isolation, command: Command::Build(Box::new(build)) }, said))
}

/// A line for each flag that there is nothing to do for.
fn moot(given: &Given) -> Result<Vec<String>, CliError> {
    let refused = |fate| if let Fate::Refused(why) = fate { Some(why) } else { None };
    if let Some((name, why)) = given.of(refused).next() {
        return Err(CliError::Usage(format!("`--{name}` is not supported: {why}")));
    }
    let moot = given.of(|fate| if let Fate::Moot(why) = fate { Some(why) } else { None });
    Ok(moot.map(|(name, why)| format!("note: `--{name}` changes nothing: {why}")).collect())
}
