//! `info`, `version`, `system check`, `system prune`.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::args::{CheckArgs, InfoArgs, ListFormat};
use super::{CliError, Context, store_root, ui};
use crate::builder;
use crate::cache::{CacheError, StepCache};
use crate::fetch;
use crate::registry::settings::{Endpoint, Settings};
use crate::runtime::isolation::{self, Declined, Request};
use crate::store::{Finding, Repair};

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn version() -> Result<(), CliError> {
    ui::line(&format!("mica {VERSION}"))
}

/// Shows how mica works here; where it does not, why.
pub(super) fn info(
    root: Option<PathBuf>,
    wanted: Request,
    args: &InfoArgs,
) -> Result<(), CliError> {
    let by_root = rustix::process::geteuid().is_root();
    let isolation = isolation::enter(wanted)?;
    let (name, reason) = (isolation.mode.to_string(), isolation.mode.explanation());
    let root = store_root(root, by_root)?;
    let kernel = rustix::system::uname();
    let kernel = kernel.release().to_string_lossy().into_owned();
    let settings = Settings::load()?;
    if args.format == ListFormat::Json {
        let info = json!({
            "Version": VERSION, "Root": root, "Isolation": name, "IsolationReason": reason,
            "IsolationDeclined": isolation.declined.iter().map(declined_json).collect::<Vec<_>>(),
            "Kernel": kernel, "Network": "host", "Registries": registries_json(&settings),
        });
        return ui::line(&info.to_string());
    }
    let mut rows = vec![
        ("version", VERSION.to_owned()),
        ("store", root.display().to_string()),
        ("isolation", format!("{name}: {reason}")),
    ];
    rows.extend(isolation.declined.iter().map(|it| ("", declined(it))));
    rows.extend([
        ("network", "host; `none` for steps that ask for it".to_owned()),
        ("kernel", kernel),
    ]);
    rows.extend(registry_rows(&settings));
    let rows: Vec<_> = rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect();
    ui::data(|out| write!(out, "{}", ui::table(&rows)))
}

/// Why a mode was not taken, and what would enable it.
fn declined(it: &Declined) -> String {
    let hint = it.error.hint().map(|hint| format!("; to enable it: {hint}")).unwrap_or_default();
    format!("not {}: {}{hint}", it.what, it.error)
}

fn declined_json(it: &Declined) -> serde_json::Value {
    json!({
        "Mode": it.what, "Reason": it.error.to_string(), "Errno": it.error.errno(),
        "Hint": it.error.hint(),
    })
}

/// What is set for registries, and by which files; nothing where nothing is.
fn registry_rows(settings: &Settings) -> Vec<(&'static str, String)> {
    let files = settings.files().iter().map(|file| ("settings", file.display().to_string()));
    let mut rows: Vec<_> = files.collect();
    for host in settings.hosts() {
        let endpoints: Vec<String> =
            settings.endpoints(&host).iter().map(describe_endpoint).collect();
        rows.push(("registry", format!("{host}: {}", endpoints.join(", "))));
    }
    let networks = settings.insecure_networks();
    rows.extend(
        networks.into_iter().map(|network| ("registries in", format!("{network}: unverified"))),
    );
    rows
}

fn describe_endpoint(endpoint: &Endpoint) -> String {
    let tls = &endpoint.tls;
    let is_https = endpoint.base.starts_with("https:");
    let mut notes = Vec::new();
    let mut note = |applies: bool, text: &str| {
        if applies {
            notes.push(text.to_owned());
        }
    };
    note(endpoint.is_mirror, "mirror");
    note(is_https && !tls.verify, "unverified");
    note(is_https && !tls.ca.is_empty(), "own authority");
    note(is_https && tls.client.is_some(), "client certificate");
    if notes.is_empty() {
        return endpoint.base.clone();
    }
    format!("{} ({})", endpoint.base, notes.join(", "))
}

fn registries_json(settings: &Settings) -> serde_json::Value {
    let endpoint = |endpoint: &Endpoint| {
        let tls = &endpoint.tls;
        json!({
            "Url": endpoint.base, "Mirror": endpoint.is_mirror, "Verify": tls.verify,
            "CaFiles": tls.ca, "ClientCertificate": tls.client.as_ref().map(|client| &client.cert),
        })
    };
    let hosts: serde_json::Map<_, _> = settings
        .hosts()
        .into_iter()
        .map(|host| {
            let endpoints = settings.endpoints(&host);
            (host, endpoints.iter().map(endpoint).collect())
        })
        .collect();
    json!({
        "Files": settings.files(), "Endpoints": hosts,
        "InsecureNetworks": settings.insecure_networks(),
    })
}

/// Verifies the store; exit status 1 where something is broken and was not mended.
pub(super) fn check(context: &Context, args: &CheckArgs) -> Result<ExitCode, CliError> {
    let mut store = context.open_store()?;
    let cache = StepCache::new(&store.path().join("cache"));
    let repair = if args.repair { Repair::Remove } else { Repair::Nothing };
    let mut findings = store.check(repair)?;
    for path in cache.damaged() {
        let problem = "the cache record does not fit its checksum: it is a miss".to_owned();
        findings.push(Finding { path: path.clone(), problem });
        if repair == Repair::Remove {
            StepCache::forget(path).map_err(not_written)?;
        }
    }
    for finding in &findings {
        ui::line(&format!("{}: {}", finding.path.display(), ui::plain(&finding.problem)))?;
    }
    if findings.is_empty() {
        ui::say("all is well");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if args.repair { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn not_written(err: CacheError) -> CliError {
    CliError::Write { path: err.path, source: err.source }
}

/// Removes the build cache, images without a name, and what no other image needs.
pub(super) fn prune(context: &Context) -> Result<(), CliError> {
    let mut store = context.open_store()?;
    for unnamed in store.names()?.iter().filter(|named| named.reference().is_none()) {
        store.untag(&unnamed.name)?;
    }
    let cache = StepCache::new(&store.path().join("cache"));
    cache.clear().map_err(not_written)?;
    match store.collect([])? {
        Some(freed) => {
            let fetched = fetch::clear(&builder::fetched(&store))?;
            ui::line(&format!("Total reclaimed space: {}", ui::size(freed.bytes + fetched)))
        }
        None => {
            ui::say("note: another mica is at work; only the build cache was forgotten");
            Ok(())
        }
    }
}
