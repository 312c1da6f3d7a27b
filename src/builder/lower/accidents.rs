//! mica's own rules that take the state of a stage to know.

use std::collections::BTreeSet;

use super::state::State;
use super::{Lowering, Site, files};
use crate::lint::{Finding, Rule};
use crate::parser::{Command, Copy, Instruction, MountKey, Run, Source};

/// How many names of variables of one script are looked at.
const MAX_NAMES: usize = 1000;

impl Lowering<'_> {
    /// What an instruction does that builds, and that nobody means.
    pub(super) fn accidents(&self, state: &mut State, site: Site<'_>) -> Vec<Finding> {
        match &site.statement.instruction {
            Instruction::Run(run) => {
                state.seen.folders = None;
                self.global_args(state, run, site)
            }
            Instruction::Copy(copy) => self.onto_file(state, copy, site).into_iter().collect(),
            Instruction::Add(_) => {
                state.seen.folders = None;
                Vec::new()
            }
            Instruction::Workdir(path) => {
                if let (Some(folders), Some(path)) =
                    (&mut state.seen.folders, state.scope.peek(path, self.escape))
                {
                    folders.push(super::config::absolute(
                        state.config.config.working_dir.as_str(),
                        &path,
                    ));
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A command that asks for an ARG from before the first FROM, which its stage has not declared.
    fn global_args(&self, state: &State, run: &Run, site: Site<'_>) -> Vec<Finding> {
        let Command::Shell(text) = &run.command else { return Vec::new() };
        if state.seen.unknown_base || self.stages.global_args.is_empty() {
            return Vec::new();
        }
        let mut names = BTreeSet::new();
        let bodies = text.heredocs.iter().map(|heredoc| heredoc.content.as_str());
        let scripts: Vec<&str> = std::iter::once(text.text.text.as_str()).chain(bodies).collect();
        for script in &scripts {
            variables(script, &mut names);
        }
        let is_lost = |name: &&&str| {
            self.stages.global_args.contains_key(**name)
                && state.scope.get(name).is_none()
                && !state.scope.declares(name)
                && !is_set(run, &scripts, name)
        };
        let finding = |name: &&str| {
            let message = format!(
                "'${name}' is an ARG from before the first FROM: it is empty here without \
                 `ARG {name}` in this stage"
            );
            site.finding(Rule::GlobalArgInRun, text.text.span, message)
        };
        names.iter().filter(is_lost).map(finding).collect()
    }

    /// Several sources onto what cannot be a folder: of files, each replaces the one before.
    fn onto_file(&self, state: &mut State, copy: &Copy, site: Site<'_>) -> Option<Finding> {
        let target = state.scope.peek(&copy.destination, self.escape)?;
        let path = files::destination(state.working_dir(), &target);
        let folder = path.trim_end_matches('/').to_owned();
        let inside = format!("{folder}/");
        let is_known = |known: &String| *known == folder || known.starts_with(&inside);
        let has_pattern = |source: &Source| matches!(source, Source::Path(word) if word.text.contains(['*', '?', '[', '$']));
        let is_one_file = copy.sources.len() == 1 && !path.ends_with('/');
        let folders = state.seen.folders.as_mut()?;
        let is_accident = copy.sources.len() > 1
            && !path.ends_with('/')
            && !copy.parents
            && !copy.sources.iter().any(has_pattern)
            && !folders.iter().any(is_known);
        if !is_one_file {
            folders.push(folder.clone());
        } else if let Some((parent, _)) = folder.rsplit_once('/') {
            // Whether it is a file or a folder, its parent is one.
            folders.extend([parent.to_owned(), folder.clone()]);
        }
        is_accident.then(|| {
            let message = format!(
                "'{target}' is no folder: of several files copied there, only the last stays \
                 (write '{target}/')"
            );
            site.finding(Rule::CopyOntoFile, copy.destination.span, message)
        })
    }
}

/// The names behind `$` and `${` in a script.
fn variables<'a>(script: &'a str, names: &mut BTreeSet<&'a str>) {
    for (at, _) in script.match_indices('$') {
        let rest = &script[at + 1..];
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = &rest[..end.unwrap_or(rest.len())];
        let is_quoted = script[..at].ends_with('\\');
        if !name.is_empty() && !is_quoted && names.len() < MAX_NAMES {
            names.insert(name);
        }
    }
}

/// Whether a step may set a variable itself.
fn is_set(run: &Run, scripts: &[&str], name: &str) -> bool {
    let sets = |word: &str| {
        word == name || word.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
    };
    let is_name =
        |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '=' || c == '$' || c == '{';
    let in_script = |script: &&str| script.split(|c: char| !is_name(c)).any(sets);
    let by_mount = run.mounts.iter().flat_map(|mount| &mount.options).any(|option| {
        option.key == MountKey::Env && option.value.as_ref().is_some_and(|word| word.text == name)
    });
    by_mount || scripts.iter().any(in_script)
}
