//! mica's own rules, as far as the syntax tree alone shows them.

use std::collections::HashSet;

use super::{Finding, Rule};
use crate::parser::{
    Command, Dockerfile, FromImage, Instruction, Run, Script, ShellText, Source, Span, Statement,
};

pub(super) fn findings(dockerfile: &Dockerfile) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut stages = HashSet::new();
    let mut shell = String::new();
    for statement in &dockerfile.statements {
        match &statement.instruction {
            Instruction::From(from) => {
                shell.clear();
                found.extend(unpinned(statement, from, &stages));
                stages.extend(from.alias.as_ref().map(|alias| alias.text.to_lowercase()));
            }
            Instruction::Shell(words) => {
                shell = words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
            }
            Instruction::Run(run) => of_run(statement, run, &shell, &mut found),
            Instruction::Copy(copy) => found.extend(one_name(statement, &copy.sources)),
            Instruction::Add(add) => {
                found.extend(one_name(statement, &add.sources));
                if add.checksum.is_none() {
                    found.extend(unverified(statement, &add.sources));
                }
            }
            _ => {}
        }
    }
    found
}

fn unpinned(statement: &Statement, from: &FromImage, stages: &HashSet<String>) -> Option<Finding> {
    let name = &from.image.text;
    let is_image = name != "scratch" && !name.contains('$') && !stages.contains(name);
    let last = name.rsplit('/').next().unwrap_or_default();
    let is_loose = last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    if !is_image || !is_loose || name.contains('@') {
        return None;
    }
    let message = format!("Base image '{name}' has no version: builds change when it does");
    Some(Finding::at(Rule::UnpinnedBaseImage, from.image.span, statement, message))
}

/// Sources that give files of one name, of which the last stays: here-documents, which are files for
/// sure.
fn one_name(statement: &Statement, sources: &[Source]) -> Vec<Finding> {
    let mut names = HashSet::new();
    let again = |source: &Source| match source {
        Source::Heredoc(word, heredoc) if !names.insert(heredoc.name.clone()) => {
            let message = format!(
                "Two here-documents have the name '{}': only the last is kept",
                heredoc.name
            );
            Some(Finding::at(Rule::DuplicateHeredocName, word.span, statement, message))
        }
        _ => None,
    };
    sources.iter().filter_map(again).collect()
}

fn unverified(statement: &Statement, sources: &[Source]) -> Vec<Finding> {
    let finding = |source: &Source| match source {
        Source::Path(word)
            if word.text.starts_with("http://") || word.text.starts_with("https://") =>
        {
            let message = "What is fetched may change: `--checksum` makes sure that it has not";
            Some(Finding::at(Rule::AddWithoutChecksum, word.span, statement, message))
        }
        _ => None,
    };
    sources.iter().filter_map(finding).collect()
}

fn of_run(statement: &Statement, run: &Run, shell: &str, found: &mut Vec<Finding>) {
    let Command::Shell(text) = &run.command else { return };
    if text.text.text.trim().is_empty() {
        let message = "RUN has no command: the shell is started to do nothing";
        found.push(Finding::of(Rule::EmptyRun, statement, message));
    }
    let Script::Text(script) = text.script() else { return };
    let span = text.text.span;
    found.extend(without_errexit(statement, text, &script, shell));
    if !shell.contains("pipefail") && !script.contains("pipefail") && has_pipe(&text.text.text) {
        let message = "What fails before a pipe goes unnoticed: `set -o pipefail` tells of it";
        found.push(Finding::at(Rule::PipeWithoutPipefail, span, statement, message));
    }
    let installs = ["apt-get install", "apt install"].iter().any(|text| script.contains(text));
    if installs && !script.contains("/var/lib/apt/lists") && !mounts_apt(run) {
        let message =
            "The package lists stay in the layer: remove `/var/lib/apt/lists/*` in this RUN";
        found.push(Finding::at(Rule::AptListsLeft, span, statement, message));
    }
}

fn mounts_apt(run: &Run) -> bool {
    run.mounts.iter().any(|mount| mount.word.text.contains("/var/lib/apt"))
}

/// A script of several commands that goes on when one of them fails.
fn without_errexit(
    statement: &Statement,
    text: &ShellText,
    script: &str,
    shell: &str,
) -> Option<Finding> {
    // A here-document that feeds a command is no script.
    let is_script = text.text.text.trim_start().starts_with("<<") && text.heredocs.len() == 1;
    let lines = || {
        let lines = script.lines().map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
    };
    let stops = |line: &str| {
        line.split_whitespace().next() == Some("set")
            && line.split_whitespace().skip(1).any(|word| {
                word == "errexit"
                    || (word.starts_with('-') && !word.starts_with("--") && word.contains('e'))
            })
    };
    let has_errexit = shell.split(' ').any(|word| word.starts_with('-') && word.contains('e'));
    let goes_on = lines().rev().skip(1).any(|line| !line.ends_with("&&") && !line.ends_with('\\'));
    if !is_script || has_errexit || !goes_on || lines().any(stops) {
        return None;
    }
    let message = "The script goes on when a command fails: begin it with `set -e`";
    Some(Finding::at(Rule::HeredocWithoutErrexit, opener(text), statement, message))
}

fn opener(text: &ShellText) -> Span {
    text.text.span
}

/// Whether a shell command has a pipe outside of quotes.
fn has_pipe(command: &str) -> bool {
    let mut quote = None;
    let mut chars = command.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == '\\' => drop(chars.next()),
            None if c == '|' && before != '|' && before != '>' && chars.peek() != Some(&'|') => {
                return true;
            }
            _ => {}
        }
        before = c;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::parse;

    #[test]
    fn what_is_found() {
        let check = |text: &str, expected: &[Rule]| {
            let parsed = parse(format!("FROM scratch\n{text}").as_bytes());
            let found: Vec<Rule> =
                findings(&parsed.dockerfile).into_iter().map(|found| found.rule).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("RUN\nRUN true", &[Rule::EmptyRun]);
        check("RUN a | b\nRUN a || b\nRUN 'a | b' >| c", &[Rule::PipeWithoutPipefail]);
        check("RUN set -o pipefail; a | b\nSHELL [\"sh\", \"-o\", \"pipefail\"]\nRUN a | b", &[]);
        check("RUN <<x\na\nb\nx", &[Rule::HeredocWithoutErrexit]);
        check("RUN <<x\nset -ex\na\nb\nx\nRUN <<x\na &&\nb\nx\nRUN <<x\na\nx", &[]);
        check("RUN cat <<x\na\nb\nx\nRUN <<x\n#!/bin/sh\na\nb\nx", &[]);
        check("SHELL [\"sh\", \"-ec\"]\nRUN <<x\na\nb\nx", &[]);
        check("COPY <<a <<a /\n1\na\n2\na", &[Rule::DuplicateHeredocName]);
        check(
            "FROM a\nFROM a:1\nFROM a:1 AS b\nFROM b\nFROM a@sha256:0\nFROM r:5/a",
            &[Rule::UnpinnedBaseImage, Rule::UnpinnedBaseImage],
        );
        check(
            "ADD https://a/b /\nADD --checksum=x https://a/b /\nADD b /",
            &[Rule::AddWithoutChecksum],
        );
        check("RUN apt-get update && apt-get install -y x", &[Rule::AptListsLeft]);
        check("RUN apt-get install x && rm -r /var/lib/apt/lists/*", &[]);
        check("RUN --mount=type=cache,target=/var/lib/apt apt-get install x", &[]);
    }
}
