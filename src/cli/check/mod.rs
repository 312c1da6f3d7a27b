//! `mica check`, and what it shares with `mica build --check`.

mod images;
mod render;
mod sarif;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(super) use images::LazyStore;
pub(super) use render::{json, location, text};

use super::args::{CheckFormat, LintArgs};
use super::build::{flags, input};
use super::{CliError, report, ui};
use crate::builder::{self, BuildContext, BuildError, CheckRequest, Options};
use crate::cache::content::FileCache;
use crate::lint::{self, Checks, Finding};
use crate::parser::{self, Diagnostic, Span};

/// There are findings.
const FOUND: u8 = 1;
/// A Dockerfile cannot be built.
const BROKEN: u8 = 2;

/// A Dockerfile and what checks found in it.
pub(super) struct Checked {
    /// As it is named to the user.
    pub(super) file: String,
    pub(super) text: String,
    pub(super) findings: Vec<Finding>,
    /// Why it cannot be built at all.
    pub(super) error: Option<BuildError>,
}

impl Checked {
    /// What the error says, and where.
    pub(super) fn error_place(&self) -> Option<(String, Option<Span>)> {
        let error = self.error.as_ref()?;
        let span = match error {
            BuildError::Dockerfile(found) => found.first().map(Diagnostic::span),
            BuildError::At { span, .. } => Some(*span),
            _ => None,
        };
        Some((error.to_string(), span.filter(|span| *span != Span::default())))
    }
}

/// The exit status for what was found: as buildx, not 0 where there is something.
pub(super) fn exit_code(checked: &[Checked]) -> ExitCode {
    let broken = |checked: &Checked| matches!(&checked.error, Some(error) if !matches!(error, BuildError::Checks(_)));
    if checked.iter().any(broken) {
        return ExitCode::from(BROKEN);
    }
    let found = |checked: &Checked| checked.error.is_some() || !checked.findings.is_empty();
    if checked.iter().any(found) { ExitCode::from(FOUND) } else { ExitCode::SUCCESS }
}

/// Checks one Dockerfile.
pub(super) fn run(
    file: String,
    bytes: &[u8],
    context: Option<&BuildContext>,
    options: &Options,
    images: &LazyStore,
) -> Checked {
    let parsed = parser::parse(bytes);
    let text = String::from_utf8_lossy(bytes).into_owned();
    let given = options.build_args.get(lint::OVERRIDE).map(String::as_str);
    let mut checks = match Checks::new(&parsed, given) {
        Ok(checks) => checks,
        Err(error) => {
            let error = Some(BuildError::from(*error));
            return Checked { file, text, findings: Vec::new(), error };
        }
    };
    let error = if parsed.is_ok() {
        let all_stages = options.target.is_none();
        let dockerfile = &parsed.dockerfile;
        let request = CheckRequest { dockerfile, options, context, all_stages };
        builder::check(&request, images, &mut checks).err()
    } else {
        let is_error = |found: &Diagnostic| found.severity == parser::Severity::Error;
        Some(BuildError::Dockerfile(parsed.diagnostics.into_iter().filter(is_error).collect()))
    };
    Checked { file, text, findings: checks.found().to_vec(), error }
}

/// `mica check`.
pub(super) fn check(root: Option<PathBuf>, args: &LintArgs) -> Result<ExitCode, CliError> {
    let options = Options {
        target: args.target.clone(),
        build_args: flags::build_args(&args.build_arg, None)?,
        ..Options::default()
    };
    let images = LazyStore::new(root);
    let mut checked = Vec::new();
    for (name, path, folder) in files(args) {
        let bytes = match &path {
            Some(path) => input::read_dockerfile(input::open_regular(path)?, path)?,
            None => input::read_dockerfile(std::io::stdin(), Path::new("-"))?,
        };
        let context = BuildContext::open(&folder, path.as_deref(), FileCache::none()).ok();
        let mut one = run(name, &bytes, context.as_ref(), &options, &images);
        if let Some(path) = path.filter(|_| args.fix)
            && let Some(text) = mend(&one, &bytes)
        {
            write(&path, &text)?;
            let before = one.findings.len();
            one = run(one.file, text.as_bytes(), context.as_ref(), &options, &images);
            let count = before - one.findings.len().min(before);
            ui::say(&format!("mended {count} of {before} in {}", ui::plain(&one.file)));
        }
        checked.push(one);
    }
    match args.format {
        CheckFormat::Text => text(&checked)?,
        CheckFormat::Json => ui::line(&json(&checked))?,
        CheckFormat::Sarif => ui::line(&sarif::sarif(&checked))?,
    }
    Ok(exit_code(&checked))
}

/// The text with what can be mended mended, where that changes it.
fn mend(checked: &Checked, bytes: &[u8]) -> Option<String> {
    // The places of findings are those of the bytes.
    let text = std::str::from_utf8(bytes).ok()?;
    let parsed = parser::parse(bytes);
    parsed.is_ok().then(|| lint::fix(&parsed.dockerfile, text, &checked.findings)).flatten()
}

/// Puts a text into the place of a file, all of it or nothing.
fn write(path: &Path, text: &str) -> Result<(), CliError> {
    let failed = |source| CliError::Write { path: path.to_owned(), source };
    // What a link leads to is to be written, not the link.
    let path = std::fs::canonicalize(path).map_err(failed)?;
    let permissions = std::fs::metadata(&path).map_err(failed)?.permissions();
    let mut new = tempfile::Builder::new()
        .prefix(".mica-")
        .tempfile_in(path.parent().unwrap_or(Path::new("/")))
        // The temporary file's own name helps nobody.
        .map_err(|err| failed(err.kind().into()))?;
    new.write_all(text.as_bytes()).map_err(failed)?;
    new.as_file().set_permissions(permissions).map_err(failed)?;
    new.as_file().sync_data().map_err(failed)?;
    new.persist(&path).map(drop).map_err(|err| failed(err.error))
}

/// The Dockerfiles to check: their names, paths (but for standard input), and the folders of their
/// contexts.
fn files(args: &LintArgs) -> Vec<(String, Option<PathBuf>, PathBuf)> {
    let named = |path: &PathBuf, folder: &Path| {
        let file = (path != Path::new("-")).then(|| path.clone());
        (path.display().to_string(), file, folder.to_owned())
    };
    if !args.file.is_empty() {
        return args.file.iter().map(|path| named(path, &args.path)).collect();
    }
    if !args.path.is_dir() {
        let folder = args.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        return vec![named(&args.path, folder.unwrap_or(Path::new(".")))];
    }
    let names = ["Dockerfile", "dockerfile"].map(|name| args.path.join(name));
    let found = names.iter().find(|path| path.exists()).unwrap_or(&names[0]);
    vec![named(&found.strip_prefix(".").unwrap_or(found).to_owned(), &args.path)]
}
