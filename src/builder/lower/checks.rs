//! What lowering alone can check: what variables, stages and base images have to say.

use std::collections::BTreeSet;

use super::config::absolute;
use super::outline::StageOutline;
use super::remote::{self, Named};
use super::scope::{Scope, Undefined};
use super::state::State;
use super::text::go_quote;
use super::{Lowering, Site, source_paths};
use crate::lint::{Finding, Rule, extent};
use crate::oci::{Platform, Reference};
use crate::parser::{Argument, Command, FromImage, Instruction, Source, Span, Statement, Word};

/// Names with one of these words between their underscores look like secrets.
const SECRETS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// Two names are taken for one another if fewer edits than this lie between them, as in BuildKit.
const MAX_DISTANCE: usize = 3;

/// How many names are looked at for the one that was meant.
const MAX_CANDIDATES: usize = 1000;

/// Longer names are not looked for a likeness.
const MAX_NAME_BYTES: usize = 100;

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;

/// What a stage has had so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// A WORKDIR, in this stage or in one that it is based on.
    workdir: bool,
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
    /// Whether the base image is not known, so that it may have any variable.
    pub(super) unknown_base: bool,
    /// The paths that are known to be folders or files by now, where nothing else can have made any.
    pub(super) folders: Option<Vec<String>>,
}

impl Seen {
    /// What is left of it for a stage that is based on this one.
    pub(super) fn inherit(self) -> Self {
        Self { cmd: None, entrypoint: None, healthcheck: None, ..self }
    }
}

/// A FROM, and what it is read with.
pub(super) struct FromSite<'a> {
    pub(super) statement: &'a Statement,
    pub(super) from: &'a FromImage,
    pub(super) globals: &'a Scope,
    pub(super) escape: char,
}

impl FromSite<'_> {
    /// The findings about the variables and the platform of a FROM.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        self.variables(&self.from.image, &mut found);
        if let Some(platform) = &self.from.platform {
            let (text, matched) = self.variables(platform, &mut found);
            self.platform(platform, text.as_deref(), &matched, &mut found);
        }
        found
    }

    /// Tells undeclared variables of a word. Gives what it becomes and the names it asked for.
    fn variables(
        &self,
        word: &Word,
        found: &mut Vec<Finding>,
    ) -> (Option<String>, BTreeSet<String>) {
        let asked = self.globals.asks(word, self.escape);
        for name in &asked {
            if self.globals.get(name).is_none() && !self.globals.declares(name) {
                let near = nearest(name, self.globals.declared());
                let hint = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
                let message = format!("FROM argument '{name}' is not declared{hint}");
                let rule = Rule::UndefinedArgInFrom;
                found.push(Finding::at(rule, word.span, self.statement, message));
            }
        }
        (self.globals.peek(word, self.escape), asked.into_iter().collect())
    }

    fn platform(
        &self,
        word: &Word,
        text: Option<&str>,
        asked: &BTreeSet<String>,
        found: &mut Vec<Finding>,
    ) {
        let target = "TARGETPLATFORM";
        let is_target = asked.len() == 1 && asked.contains(target);
        if is_target && text.is_some() && text == self.globals.get(target) {
            let message = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default \
                 behavior",
                word.text
            );
            let rule = Rule::RedundantTargetPlatform;
            found.push(Finding::at(rule, word.span, self.statement, message));
        }
        let constant = text.filter(|_| asked.is_empty());
        let Some((text, platform)) = constant.and_then(|t| Some((t, Platform::parse(t)?))) else {
            return;
        };
        let name = self.from.alias.as_ref().map(|alias| alias.text.to_lowercase());
        let name = name.unwrap_or_default();
        if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let message =
                format!("FROM --platform flag should not use constant value {}", go_quote(text));
            let rule = Rule::FromPlatformFlagConstDisallowed;
            found.push(Finding::at(rule, word.span, self.statement, message));
        }
    }

    /// What the FROM uses.
    pub(super) fn outline(&self) -> StageOutline {
        let mut outline = StageOutline::default();
        for word in std::iter::once(&self.from.image).chain(&self.from.platform) {
            outline.uses(self.globals.asks(word, self.escape));
        }
        outline
    }

    /// The finding about a name that is none while only defaults of ARGs count.
    pub(super) fn default_name(&self) -> Option<Finding> {
        let name = self.globals.peek(&self.from.image, self.escape)?;
        if name.parse::<Reference>().is_ok() {
            return None;
        }
        let image = &self.from.image;
        let message = format!(
            "Default value for ARG {} results in empty or invalid base image name",
            image.text
        );
        Some(Finding::at(Rule::InvalidDefaultArgInFrom, image.span, self.statement, message))
    }
}

/// The name that was probably meant.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    // The time goes with the product of the lengths.
    let fits = |candidate: &&str| name.len().max(candidate.len()) <= MAX_NAME_BYTES;
    candidates
        .filter(fits)
        .take(MAX_CANDIDATES)
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance < MAX_DISTANCE)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The number of characters to insert, delete or replace to make `b` of `a`, as BuildKit counts.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (number, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = number + 1;
        for (column, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl Lowering<'_> {
    /// Tells what an instruction's words asked for and nobody has set.
    pub(super) fn tell_undefined(&mut self, state: &State, site: Site<'_>) {
        let undefined = state.scope.take_undefined();
        // BuildKit does not look here.
        let is_exempt = matches!(site.statement.instruction, Instruction::Expose(_));
        if is_exempt || state.seen.unknown_base {
            return;
        }
        for Undefined { name, near, span } in undefined {
            let hint = near.map(|near| format!(" (did you mean ${near}?)")).unwrap_or_default();
            let message = format!("Usage of undefined variable '${name}'{hint}");
            self.checks.report(site.finding(Rule::UndefinedVar, span, message));
        }
    }

    /// What an instruction shows with the variables in force where it stands.
    pub(super) fn findings(&self, state: &mut State, site: Site<'_>) -> Vec<Finding> {
        let name = site.statement.keyword.text.as_str();
        match &site.statement.instruction {
            Instruction::Env(pairs) => {
                let mut found = legacy(pairs.legacy, site);
                for (key, _) in &pairs.pairs {
                    let text = state.scope.peek(key, self.escape).unwrap_or_default();
                    found.extend(secret("ENV", &text, key.span, site));
                }
                found
            }
            Instruction::Label(pairs) => legacy(pairs.legacy, site),
            Instruction::Arg(arguments) => {
                let of = |argument: &Argument| {
                    secret("ARG", &argument.name.text, argument.name.span, site)
                };
                arguments.iter().filter_map(of).collect()
            }
            Instruction::Workdir(path) => self.workdir_finding(state, path, site),
            Instruction::Cmd(command) => {
                let mut found = used_once(&mut state.seen.cmd, name, site);
                found.extend(shell_form(state, command, name, site));
                found
            }
            Instruction::Entrypoint(command) => {
                let mut found = used_once(&mut state.seen.entrypoint, name, site);
                found.extend(shell_form(state, command, name, site));
                found
            }
            Instruction::Healthcheck(_) => used_once(&mut state.seen.healthcheck, name, site),
            Instruction::Expose(ports) => self.expose_findings(state, ports, site),
            Instruction::Copy(copy) if copy.from.is_none() => {
                self.ignored(state, "Copy", &copy.sources, site)
            }
            Instruction::Add(add) => self.ignored(state, "Add", &add.sources, site),
            _ => Vec::new(),
        }
    }

    fn workdir_finding(&self, state: &mut State, path: &Word, site: Site<'_>) -> Vec<Finding> {
        if std::mem::replace(&mut state.seen.workdir, true) {
            return Vec::new();
        }
        let text = state.scope.peek(path, self.escape).unwrap_or_default();
        if text.starts_with('/') {
            return Vec::new();
        }
        let message = format!(
            "Relative workdir {} can have unexpected results if the base image changes",
            go_quote(&text)
        );
        vec![site.finding(Rule::WorkdirRelativePath, path.span, message)]
    }

    fn expose_findings(&self, state: &State, ports: &[Word], site: Site<'_>) -> Vec<Finding> {
        let mut texts = Vec::new();
        for word in ports {
            let words = state.scope.peek_words(word, self.escape);
            texts.extend(words.into_iter().map(|text| (text, word.span)));
        }
        texts.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut found = Vec::new();
        for (port, span) in texts {
            let (address, protocol) = port.split_once('/').unwrap_or((&port, ""));
            if protocol != protocol.to_lowercase() {
                let message =
                    format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
                found.push(site.finding(Rule::ExposeProtoCasing, span, message));
            }
            if address.rsplit_once(':').is_some_and(|(host, _)| !host.is_empty()) {
                let message = format!(
                    "EXPOSE instruction should not define an IP address or host-port mapping, \
                     found '{port}'"
                );
                found.push(site.finding(Rule::ExposeInvalidFormat, span, message));
            }
        }
        found
    }

    fn ignored(
        &self,
        state: &State,
        what: &str,
        sources: &[Source],
        site: Site<'_>,
    ) -> Vec<Finding> {
        let Some(ignore) = self.ignore else { return Vec::new() };
        let mut found = Vec::new();
        for word in source_paths(sources) {
            let Some(path) = state.scope.peek(word, self.escape) else { continue };
            if !matches!(remote::classify(&path, word), Ok(Named::Path)) {
                continue;
            }
            let path = absolute("/", &path);
            let path = match path.trim_start_matches('/') {
                "" => ".",
                path => path,
            };
            if ignore.is_excluded(path.as_bytes()) {
                let message = format!(
                    "Attempting to {what} file {} that is excluded by .dockerignore",
                    go_quote(path)
                );
                found.push(site.finding(Rule::CopyIgnoredFile, word.span, message));
            }
        }
        found
    }

    /// The finding about a base image that is not for the platform of its stage.
    pub(super) fn tell_platform(&mut self, stage: usize, found: &Platform, wanted: &Platform) {
        if (&found.os, &found.architecture) == (&wanted.os, &wanted.architecture) {
            return;
        }
        let stage = &self.stages.all[stage];
        let message = format!(
            "Base image {} was pulled with platform {}, expected {} for current build",
            stage.base,
            go_quote(&found.to_string()),
            go_quote(&wanted.to_string())
        );
        self.checks.report(Finding {
            rule: Rule::InvalidBaseImagePlatform,
            message,
            span: stage.from.image.span,
            extent: stage.span,
        });
    }
}

impl Site<'_> {
    /// A finding about a part of the instruction, or about the FROM that brought it.
    pub(super) fn finding(&self, rule: Rule, span: Span, message: String) -> Finding {
        match self.place.trigger_of {
            Some(from) => Finding { rule, message, span: from, extent: from },
            None => Finding { rule, message, span, extent: extent(self.statement) },
        }
    }
}

fn legacy(legacy: bool, site: Site<'_>) -> Vec<Finding> {
    let name = &site.statement.keyword.text;
    let message = format!(
        "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
    );
    let span = site.statement.span;
    let finding = legacy.then(|| site.finding(Rule::LegacyKeyValueFormat, span, message));
    finding.into_iter().collect()
}

fn secret(what: &str, key: &str, span: Span, site: Site<'_>) -> Option<Finding> {
    let lower = key.to_ascii_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|word| words.contains(&word));
    if !has(&SECRETS) || has(&["public"]) {
        return None;
    }
    let message =
        format!("Do not use ARG or ENV instructions for sensitive data ({what} {})", go_quote(key));
    Some(site.finding(Rule::SecretsUsedInArgOrEnv, span, message))
}

/// Of several instructions the last one counts: each earlier one is told.
fn used_once(seen: &mut Option<Span>, name: &str, site: Site<'_>) -> Vec<Finding> {
    let here = site.place.trigger_of.unwrap_or_else(|| extent(site.statement));
    let Some(earlier) = seen.replace(here) else { return Vec::new() };
    let message = format!(
        "Multiple {name} instructions should not be used in the same stage because only the last \
         one will be used"
    );
    let rule = Rule::MultipleInstructionsDisallowed;
    vec![Finding { rule, message, span: earlier, extent: earlier }]
}

fn shell_form(state: &State, command: &Command, name: &str, site: Site<'_>) -> Option<Finding> {
    let has_shell = !state.config.config.shell.is_empty();
    if has_shell || matches!(command, Command::Exec(_)) {
        return None;
    }
    let message = format!(
        "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
    );
    Some(site.finding(Rule::JSONArgsRecommended, site.statement.span, message))
}
