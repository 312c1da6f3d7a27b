//! `mica build --call`: what a Dockerfile says of itself, with nothing built.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{flags, input, options};
use crate::cli::args::BuildArgs;

use crate::cli::check::{self, LazyStore};
use crate::cli::{CliError, ui};
use crate::runtime::CancelToken;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Check,
}

/// A request of `--call`.
#[derive(Debug)]
pub(in crate::cli) struct Call {
    method: Method,
    json: bool,
}

impl Call {
    /// What the command line asks for; `None` for a build.
    pub(in crate::cli) fn of(args: &BuildArgs) -> Result<Option<Self>, CliError> {
        let mut fields = args.call.split(',');
        let method = match fields.next().unwrap_or_default() {
            "" | "build" if args.check => Method::Check,
            "" | "build" => return Ok(None),
            "check" | "lint" => Method::Check,
            other => {
                let message = format!("unsupported request `{}`", other.escape_debug());
                return Err(CliError::Usage(message));
            }
        };
        let mut json = false;
        for field in fields {
            json = match field {
                "format=json" => true,
                "format=text" => false,
                other => {
                    let message = format!("`--call`: invalid option `{}`", other.escape_debug());
                    return Err(CliError::Usage(message));
                }
            };
        }
        Ok(Some(Self { method, json }))
    }
}

/// Answers a request.
pub(in crate::cli) fn call(
    root: Option<PathBuf>,
    args: &BuildArgs,
    call: &Call,
) -> Result<ExitCode, CliError> {
    let named = flags::named_contexts(&args.build_context)?;
    let cancel =
        CancelToken::new().map_err(|source| CliError::Read { path: "eventfd".into(), source })?;
    let input::Input { contexts, file, text, .. } = input::open_to_check(args, &cancel)?;
    let build_args = flags::build_args(&args.build_arg, args.source_date_epoch.as_deref())?;
    let options = options(args, build_args, named.names)?;
    let images = LazyStore::new(root);
    match call.method {
        Method::Check => {
            let checked = [check::run(file, &text, contexts.first(), &options, &images)];
            if call.json {
                ui::line(&check::json(&checked))?;
            } else {
                check::text(&checked)?;
            }
            Ok(check::exit_code(&checked))
        }
    }
}
