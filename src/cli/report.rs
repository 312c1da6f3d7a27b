//! From an error to what the person at the terminal reads: what failed, where, why, what to do.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::error::CliError;
use super::ui;
use crate::builder::BuildError;
use crate::export::ExportError;
use crate::http::{users_in, without_users};
use crate::lint::Finding;
use crate::parser::{Diagnostic, Severity, Span};
use crate::registry::RegistryError;
use crate::registry::push::PushError;
use crate::snapshot::SnapshotError;
use crate::store::StoreError;

/// The command failed.
const FAILED: u8 = 1;
/// The command line or the Dockerfile is not understood.
const USAGE: u8 = 2;
/// Interrupted, as a shell counts SIGINT.
const INTERRUPTED: u8 = 130;

/// The longest error line that is printed, in characters.
const MAX_LINE: usize = 600;

/// Shows what clap has to say: help goes to standard output and is no failure.
pub(super) fn usage(err: &clap::Error) -> ExitCode {
    // Nobody listens where this fails.
    drop(err.print());
    if err.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// Shows an error, once, and gives the exit status for it.
pub(super) fn error(err: &CliError) -> ExitCode {
    if is_broken_pipe(err) {
        return ExitCode::from(FAILED);
    }
    match err {
        CliError::Dockerfile { file, text, found } => {
            diagnostics(file, text, found);
            return ExitCode::from(USAGE);
        }
        CliError::Build { file, text, source } => return build(file, text, source),
        _ => {}
    }
    ui::say(&format!("error: {}", chain(err)));
    hint(hint_of(err).as_deref());
    match err {
        CliError::Usage(_)
        | CliError::Unsupported { .. }
        | CliError::Reference(_)
        | CliError::Registry(RegistryError::Settings(_))
        | CliError::Settings(_) => ExitCode::from(USAGE),
        CliError::Sandbox(err) => ExitCode::from(err.exit_code()),
        CliError::Cancelled => ExitCode::from(INTERRUPTED),
        _ => ExitCode::from(FAILED),
    }
}

/// Whether whoever read our output has gone away, which needs no words.
fn is_broken_pipe(err: &CliError) -> bool {
    let mut cause: Option<&dyn Error> = match err {
        CliError::Stdout(source) => Some(source),
        CliError::Export(source) => Some(source),
        _ => None,
    };
    while let Some(err) = cause {
        let io = err.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        cause = err.source();
    }
    false
}

/// Shows why a Dockerfile cannot be built.
pub(super) fn build_error(file: &str, text: &str, err: &BuildError) {
    build(file, text, err);
}

fn build(file: &str, text: &str, err: &BuildError) -> ExitCode {
    match err {
        BuildError::Dockerfile(found) => {
            diagnostics(file, text, found);
            ExitCode::from(USAGE)
        }
        BuildError::Checks(_) => {
            ui::say(&format!("error: {}", chain(err)));
            hint(Some("`# check=error=true` makes it one"));
            ExitCode::from(USAGE)
        }
        BuildError::Cancelled => {
            ui::say("error: cancelled");
            ExitCode::from(INTERRUPTED)
        }
        BuildError::At { span, source } => {
            if let BuildError::Cancelled = **source {
                return build(file, text, source);
            }
            let title = chain(source.as_ref());
            ui::say(&snippet(Level::ERROR, file, text, &title, &[(*span, String::new())]));
            hint(build_hint(source).as_deref());
            ExitCode::from(FAILED)
        }
        other => {
            ui::say(&format!("error: {}", chain(other)));
            hint(build_hint(other).as_deref());
            ExitCode::from(FAILED)
        }
    }
}

/// Shows the first error, and where the others are.
fn diagnostics(file: &str, text: &str, found: &[Diagnostic]) {
    let mut errors = found.iter().filter(|found| found.severity == Severity::Error);
    let Some(first) = errors.next() else { return };
    ui::say(&diagnostic(Level::ERROR, file, text, first));
    hint(first.hint.as_deref());
    let others: Vec<String> =
        errors.take(9).map(|other| line_of(text, other.span().start).to_string()).collect();
    if !others.is_empty() {
        ui::say(&format!("note: there is more to mend in line {}", others.join(", ")));
    }
}

/// How many findings of checks are listed after a build.
const MAX_LISTED: usize = 20;

/// Lists what checks found, a line each.
pub(super) fn findings(text: &str, found: &[Finding]) {
    let (count, plural) = (found.len(), if found.len() == 1 { "" } else { "s" });
    if count > 0 {
        ui::say(&format!("\n{count} warning{plural} found (`mica check` shows the places):"));
    }
    for finding in found.iter().take(MAX_LISTED) {
        ui::say(&format!(" - {}", finding_line(text, finding)));
    }
    if count > MAX_LISTED {
        ui::say(&format!(" - and {} more", count - MAX_LISTED));
    }
}

/// A finding on one line, as BuildKit has it.
pub(super) fn finding_line(text: &str, finding: &Finding) -> String {
    let (line, _) = lines_of(text, finding.extent);
    one_line(&format!("{}: {} (line {line})", finding.rule.name(), finding.message))
}

/// A finding in its place, with a caret under what it is about.
pub(super) fn finding_in_place(file: &str, text: &str, finding: &Finding) -> String {
    let title = format!("{}: {}", finding.rule.name(), finding.message);
    snippet(Level::WARNING, file, text, &title, &[(finding.span, String::new())])
}

/// The first and the last line of a part of a file, from 1.
pub(super) fn lines_of(text: &str, span: Span) -> (usize, usize) {
    let ends_line = span.end > span.start && text.as_bytes().get(span.end - 1) == Some(&b'\n');
    // What ends behind a line end is a heredoc's body, whose last line is its name's.
    (
        line_of(text, span.start),
        line_of(text, if ends_line { span.end } else { span.end.max(span.start + 1) - 1 }),
    )
}

fn diagnostic(level: Level<'_>, file: &str, text: &str, found: &Diagnostic) -> String {
    let title = one_line(&found.message);
    // Without a word of its own in the message, the line may be anything: it is not shown, as the
    // file could be a link to what is not for everybody's eyes.
    let is_unknown = found.code == "unknown-instruction" && !found.message.contains('`');
    if found.labels.is_empty() || is_unknown || found.span() == Span::default() {
        return Renderer::plain().render(&[title_only(level, &title)]);
    }
    snippet(level, file, text, &title, &found.labels)
}

fn title_only<'a>(level: Level<'a>, title: &'a str) -> annotate_snippets::Group<'a> {
    annotate_snippets::Group::with_title(level.primary_title(title))
}

/// The lines with carets under the parts that are to blame.
fn snippet(
    level: Level<'_>,
    file: &str,
    text: &str,
    title: &str,
    labels: &[(Span, String)],
) -> String {
    let title = one_line(title);
    let file = ui::plain(file);
    let mut lines: Vec<(Line, Vec<usize>)> = Vec::new();
    for (number, (span, _)) in labels.iter().enumerate() {
        match lines.iter_mut().find(|(line, _)| line.holds(*span)) {
            Some((_, of_line)) => of_line.push(number),
            None => lines.push((Line::around(text, *span), vec![number])),
        }
    }
    let mut group = title_only(level, &title);
    for (line, of_line) in &lines {
        let mut source = Snippet::source(line.shown.as_str()).line_start(line.number).path(&file);
        for number in of_line {
            let (span, label) = &labels[*number];
            let Some(range) = line.range(*span) else { continue };
            let kind = if *number == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            source = source.annotation(kind.span(range).label(label.as_str()));
        }
        group = group.element(source);
    }
    Renderer::plain().render(&[group])
}

/// One line of a file, made fit to be shown.
struct Line {
    number: usize,
    shown: String,
    /// Where in the file, and where in `shown`, each shown character begins.
    places: Vec<(usize, usize)>,
}

impl Line {
    /// How much of a long line is shown before what it is about, and in all, in characters.
    const BEFORE: usize = 40;
    const WIDTH: usize = 160;

    fn around(text: &str, span: Span) -> Self {
        let at = floor_boundary(text, span.start);
        let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
        let end = text[at..].find('\n').map_or(text.len(), |length| at + length);
        let skipped = text[start..at].char_indices().rev().nth(Self::BEFORE.max(1) - 1);
        let begin = match skipped {
            Some((offset, _)) if end - start > Self::WIDTH => start + offset,
            _ => start,
        };
        let users: Vec<_> = users_in(&text[start..end]).collect();
        let mut shown = String::new();
        let mut places = Vec::new();
        for (offset, c) in text[begin..end].char_indices().take(Self::WIDTH) {
            places.push((begin + offset, shown.len()));
            let place = begin + offset - start;
            shown.push(match c {
                _ if users.iter().any(|user| user.contains(&place)) => '*',
                // One cell for one that shows nothing or turns the line around.
                c if c == '\t' || !ui::is_harmless(c) => ' ',
                c => c,
            });
        }
        let last = places.last().map_or(begin, |(offset, _)| offset + 1);
        places.push((last.max(begin), shown.len()));
        Self { number: line_of(text, at), shown, places }
    }

    /// Whether a span begins in what is shown.
    fn holds(&self, span: Span) -> bool {
        let (first, last) = (self.places.first(), self.places.last());
        first.is_some_and(|(first, _)| span.start >= *first)
            && last.is_some_and(|(last, _)| span.start <= *last)
    }

    /// The part of a span that is shown.
    fn range(&self, span: Span) -> Option<std::ops::Range<usize>> {
        let place = |offset: usize| {
            let index = self.places.partition_point(|(known, _)| *known < offset);
            self.places.get(index).or(self.places.last()).map(|(_, shown)| *shown)
        };
        let first = self.places.first()?.0;
        let last = self.places.last()?.0;
        (span.start <= last && span.end >= first).then_some(())?;
        // At least one character is marked.
        let (start, end) = (place(span.start)?, place(span.end.max(span.start + 1))?);
        Some(start..end.max(start))
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

fn line_of(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    text.as_bytes()[..at].split(|byte| *byte == b'\n').count()
}

/// An error and its causes on one line.
fn chain(err: &dyn Error) -> String {
    let mut parts = vec![err.to_string()];
    let mut cause = err.source();
    while let Some(err) = cause {
        let text = err.to_string();
        // The kernel's words, which may stand there already.
        let words = text.split(" (os error").next().unwrap_or_default();
        if !parts.last().is_some_and(|last| last.ends_with(&text) || last.contains(words)) {
            parts.push(text);
        }
        cause = err.source();
    }
    one_line(&parts.join(": "))
}

fn one_line(text: &str) -> String {
    let plain = ui::plain(&without_users(text));
    match plain.char_indices().nth(MAX_LINE) {
        Some((end, _)) => format!("{}…", &plain[..end]),
        None => plain,
    }
}

fn hint(text: Option<&str>) {
    if let Some(text) = text {
        ui::say(&format!("hint: {}", ui::plain(text)));
    }
}

fn hint_of(err: &CliError) -> Option<String> {
    let text = match err {
        CliError::Isolation(err) => return err.hint(),
        CliError::Sandbox(err) => err.hint()?,
        CliError::Fetch(err) => err.hint()?,
        CliError::Store(err)
        | CliError::Export(ExportError::Store(err))
        | CliError::Import(crate::import::ImportError::Store(err)) => return store_hint(err),
        CliError::Ssh(err) => err.hint()?,
        CliError::Registry(err) => return err.hint(),
        CliError::Push { source, .. } => match &**source {
            PushError::Registry(err) => return err.hint(),
            PushError::Export(ExportError::Store(err)) => return store_hint(err),
            _ => return None,
        },
        CliError::NoTerminal => "give them with `--username NAME --password-stdin`",
        CliError::NoDockerfile(_) => "name it with `--file PATH`",
        CliError::ArchiveToTerminal => "give a file with `--output FILE`, or redirect it",
        CliError::InputFromTerminal => "give a file with `--input FILE`, or redirect it",
        CliError::SeveralNames { .. } => "remove its names one by one, or all with `--force`",
        CliError::Threads(_) => {
            "raise the limit on processes: `ulimit -u`, or `--pids-limit` of the container"
        }
        CliError::NoHome => "say where images are to be kept with `--root DIR`",
        _ => return None,
    };
    Some(text.to_owned())
}

fn build_hint(err: &BuildError) -> Option<String> {
    let text = match err {
        BuildError::NotFound { ignored: true, .. } => "a `.dockerignore` pattern hides it",
        BuildError::NotFound { .. } => "paths are relative to the build context, or to the stage",
        BuildError::NoSecret(id) => {
            return Some(format!("give it with `--secret id={id},src=FILE`"));
        }
        BuildError::NoSsh(id) => return Some(format!("give it with `--ssh {id}`")),
        BuildError::Sandbox { source, .. } => source.hint()?,
        BuildError::Image { near: Some(near), .. } => {
            return Some(format!("did you mean the stage `{near}`?"));
        }
        BuildError::Image { source, .. } => return hint_of(source.downcast_ref::<CliError>()?),
        BuildError::Store(err) => return store_hint(err),
        BuildError::Fetch(err) => err.hint()?,
        // Only what is written can fill a disk; what may not be read is not in the store.
        BuildError::Snapshot(SnapshotError::Io { source, .. })
            if source.kind() != io::ErrorKind::PermissionDenied =>
        {
            return io_hint(source);
        }
        _ => return None,
    };
    Some(text.to_owned())
}

fn io_hint(err: &io::Error) -> Option<String> {
    let text = match err.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space, with `mica system prune` for example"
        }
        io::ErrorKind::PermissionDenied => "choose another folder with `--root DIR`",
        io::ErrorKind::ReadOnlyFilesystem => "the store is read-only",
        _ => return None,
    };
    Some(text.to_owned())
}

fn store_hint(err: &StoreError) -> Option<String> {
    let text = match err {
        StoreError::Io { source, .. } => return io_hint(source),
        StoreError::Fetch { source, .. } => {
            return source.get_ref()?.downcast_ref::<RegistryError>()?.hint();
        }
        StoreError::NoImage(_) => "`mica images` lists those that are there",
        StoreError::Newer { .. } => "use a newer mica, or another folder with `--root DIR`",
        StoreError::Untrusted { .. } => {
            "others could change its images: make it yours alone, or choose another with `--root DIR`"
        }
        StoreError::NoBlob(_)
        | StoreError::NoLayer(_)
        | StoreError::DigestMismatch { .. }
        | StoreError::Damaged { .. } => "`mica system check --repair` finds what is broken",
        _ => return None,
    };
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, part: &str) -> String {
        let start = text.find(part).expect("the part is in the text");
        let span = Span::new(start, start + part.len());
        snippet(Level::ERROR, "Dockerfile", text, "it is wrong", &[(span, "here".into())])
    }

    #[test]
    fn a_caret_under_the_part() {
        insta::assert_snapshot!(render("FROM a\nRUNN make\n", "RUNN"), @r"
        error: it is wrong
         --> Dockerfile:2:1
          |
        2 | RUNN make
          | ^^^^ here
        ");
    }

    #[test]
    fn a_long_line_is_cut_around_the_part() {
        let text = format!("LABEL a={} b=\u{1b} c={}\n", "x".repeat(100_000), "y".repeat(100_000));
        let shown = render(&text, "b=");
        assert!(shown.len() < 1000, "{shown}");
        assert!(shown.contains("x b=  c=yyy"), "{shown}");
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn spans_that_fit_nothing_do_no_harm() {
        for (start, end) in [(0, 0), (1, 400), (500, 600), (3, 2)] {
            for text in ["", "é", "a\nb\n", "日本語\n"] {
                let labels = [(Span::new(start, end.max(start)), String::new())];
                snippet(Level::ERROR, "f", text, "t", &labels);
            }
        }
    }
}
