//! `info`, `version`, `system check`, `system prune`.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::args::{CheckArgs, InfoArgs, ListFormat};
use super::{CliError, Context, store_root, ui};
use crate::cache::StepCache;
use crate::runtime::isolation::{self, Mode, Request};
use crate::store::Repair;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn version() -> Result<(), CliError> {
    ui::line(&format!("mica {VERSION}"))
}

/// Shows how mica works here; where it does not, why.
pub(super) fn info(root: Option<PathBuf>, args: &InfoArgs) -> Result<(), CliError> {
    let mode = isolation::enter(Request::Auto);
    let (name, reason) = match &mode {
        Ok(mode) => (mode.to_string(), mode.explanation()),
        Err(err) => {
            let hint = err.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            ("none".to_owned(), format!("{err}{hint}"))
        }
    };
    let plain_user = Mode::UserNamespace { ids: 0 };
    let root = store_root(root, mode.as_ref().unwrap_or(&plain_user))?;
    let kernel = rustix::system::uname();
    let kernel = kernel.release().to_string_lossy().into_owned();
    if args.format == ListFormat::Json {
        let info = json!({
            "Version": VERSION, "Root": root, "Isolation": name, "IsolationReason": reason,
            "Kernel": kernel, "Network": "host",
        });
        return ui::line(&info.to_string());
    }
    let rows = [
        ("version", VERSION.to_owned()),
        ("store", root.display().to_string()),
        ("isolation", format!("{name}: {reason}")),
        ("network", "host; `none` for steps that ask for it".to_owned()),
        ("kernel", kernel),
    ];
    let rows: Vec<_> = rows.map(|(key, value)| vec![key.to_owned(), value]).to_vec();
    ui::data(|out| write!(out, "{}", ui::table(&rows)))
}

/// Verifies the store; exit status 1 where something is broken and was not mended.
pub(super) fn check(context: &Context, args: &CheckArgs) -> Result<ExitCode, CliError> {
    let mut store = context.open_store()?;
    let cache = StepCache::new(&store.path().join("cache"));
    let repair = if args.repair { Repair::Remove } else { Repair::Nothing };
    let mut findings = store.check(repair)?;
    findings.extend(cache.damaged().into_iter().map(|path| crate::store::Finding {
        path,
        problem: "the cache record does not fit its checksum: it is a miss".to_owned(),
    }));
    for finding in &findings {
        ui::line(&format!("{}: {}", finding.path.display(), ui::plain(&finding.problem)))?;
    }
    if findings.is_empty() {
        ui::say("all is well");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if args.repair { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Removes the build cache, images without a name, and what no other image needs.
pub(super) fn prune(context: &Context) -> Result<(), CliError> {
    let mut store = context.open_store()?;
    for unnamed in store.names()?.iter().filter(|named| named.reference().is_none()) {
        store.untag(&unnamed.name)?;
    }
    let cache = StepCache::new(&store.path().join("cache"));
    let clear = cache.clear();
    clear.map_err(|err| CliError::Write { path: err.path, source: err.source })?;
    match store.collect([])? {
        Some(freed) => ui::line(&format!("Total reclaimed space: {}", ui::size(freed.bytes))),
        None => {
            ui::say("note: another mica is at work; only the build cache was forgotten");
            Ok(())
        }
    }
}
