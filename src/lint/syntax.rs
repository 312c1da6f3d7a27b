//! What the syntax tree alone shows, in the order in which BuildKit looks.

use std::collections::HashSet;

use super::{Finding, Rule};
use crate::parser::{
    Argument, Diagnostic, Dockerfile, FromImage, Instruction, Parsed, Severity, Statement,
};

/// Names that mean something else where a stage is named.
const RESERVED: [&str; 2] = ["context", "scratch"];

pub(super) fn findings(parsed: &Parsed) -> Vec<Finding> {
    let statements = &parsed.dockerfile.statements;
    let mut found = of_parser(parsed);
    let is_error = |found: &&Diagnostic| found.severity == Severity::Error;
    let error = parsed.diagnostics.iter().find(is_error).map(|error| error.span().start);
    for statement in statements {
        if error.is_none_or(|error| statement.span.start < error) {
            of_statement(statement, &mut found);
        }
    }
    if error.is_some() {
        return found;
    }
    stage_names(statements, &mut found);
    instruction_casing(statements, &mut found);
    found.extend(super::own::findings(&parsed.dockerfile));
    found.extend(frontend(&parsed.dockerfile));
    found
}

/// `# syntax=` names a program that BuildKit would fetch and run. mica reads the language itself.
fn frontend(dockerfile: &Dockerfile) -> Option<Finding> {
    let syntax = dockerfile.directive("syntax")?;
    if syntax.value.contains("docker/dockerfile") {
        return None;
    }
    let message = "the frontend is not fetched: the Dockerfile is read as BuildKit's own has it";
    let (rule, span) = (Rule::OtherFrontend, syntax.value_span);
    Some(Finding { rule, message: message.to_owned(), span, extent: syntax.span })
}

/// The parser's warnings.
fn of_parser(parsed: &Parsed) -> Vec<Finding> {
    let warnings = parsed.diagnostics.iter().filter(|found| found.severity == Severity::Warning);
    let finding = |warning: &Diagnostic| {
        let (rule, message) = match warning.code {
            "no-empty-continuation" => {
                (Rule::NoEmptyContinuation, "Empty continuation line".to_owned())
            }
            "invalid-utf8" => (Rule::InvalidEncoding, warning.message.clone()),
            _ => (Rule::InvalidOnbuildTrigger, warning.message.clone()),
        };
        // The last label is where the instruction ends: the line that BuildKit names.
        let extent = warning.labels.last().map_or_else(|| warning.span(), |(span, _)| *span);
        Finding { rule, message, span: warning.span(), extent }
    };
    warnings.map(finding).collect()
}

fn of_statement(statement: &Statement, found: &mut Vec<Finding>) {
    match &statement.instruction {
        Instruction::From(from) => of_from(statement, from, found),
        Instruction::Arg(arguments) => of_arg(statement, arguments, found),
        Instruction::Maintainer(_) => {
            let message = "Maintainer instruction is deprecated in favor of using label";
            found.push(Finding::of(Rule::MaintainerDeprecated, statement, message));
        }
        _ => {}
    }
}

fn of_from(statement: &Statement, from: &FromImage, found: &mut Vec<Finding>) {
    let (Some(alias), Some(keyword)) = (&from.alias, &from.as_keyword) else { return };
    let name = alias.text.to_lowercase();
    if alias.text != name {
        let message = format!("Stage name '{}' should be lowercase", alias.text);
        found.push(Finding::at(Rule::StageNameCasing, alias.span, statement, message));
    }
    let command = &statement.keyword.text;
    let matches = match casing(command) {
        Some(Casing::Lower) => keyword.text == keyword.text.to_lowercase(),
        Some(Casing::Upper) => keyword.text == keyword.text.to_uppercase(),
        // Told by another rule.
        None => true,
    };
    if !matches {
        let message = format!("'{}' and '{command}' keywords' casing do not match", keyword.text);
        found.push(Finding::at(Rule::FromAsCasing, keyword.span, statement, message));
    }
    description(statement, "FROM", &[name.as_str()], found);
}

fn of_arg(statement: &Statement, arguments: &[Argument], found: &mut Vec<Finding>) {
    let names: Vec<&str> = arguments.iter().map(|argument| argument.name.text.as_str()).collect();
    description(statement, "ARG", &names, found);
}

/// The last comment above an instruction has to begin with a name that it declares.
fn description(statement: &Statement, what: &str, names: &[&str], found: &mut Vec<Finding>) {
    let Some(comment) = statement.comments.last() else { return };
    let first = comment.text.split(' ').next().unwrap_or_default();
    if names.contains(&first) {
        return;
    }
    let example = if let [name] = names { name } else { "<arg_key>" };
    let message =
        format!("Comment for {what} should follow the format: `# {example} <description>`");
    let rule = Rule::InvalidDefinitionDescription;
    found.push(Finding::at(rule, comment.span, statement, message));
}

fn stage_names(statements: &[Statement], found: &mut Vec<Finding>) {
    let mut names = HashSet::new();
    for statement in statements {
        let Instruction::From(FromImage { alias: Some(alias), .. }) = &statement.instruction else {
            continue;
        };
        let name = alias.text.to_lowercase();
        if RESERVED.contains(&name.as_str()) {
            let message =
                format!("Stage name should not use the same name as reserved stage \"{name}\"");
            found.push(Finding::at(Rule::ReservedStageName, alias.span, statement, message));
        }
        if names.contains(&name) {
            let message = format!("Duplicate stage name \"{name}\", stage names should be unique");
            found.push(Finding::at(Rule::DuplicateStageName, alias.span, statement, message));
        }
        names.insert(name);
    }
}

/// How a name is written, if it is so throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Casing {
    Lower,
    Upper,
}

impl Casing {
    pub(super) fn apply(self, text: &str) -> String {
        match self {
            Self::Lower => text.to_lowercase(),
            Self::Upper => text.to_uppercase(),
        }
    }
}

pub(super) fn casing(text: &str) -> Option<Casing> {
    [Casing::Lower, Casing::Upper].into_iter().find(|casing| casing.apply(text) == text)
}

/// The statements of stages: BuildKit does not look at the ARGs before the first FROM.
pub(super) fn in_stages(statements: &[Statement]) -> &[Statement] {
    let is_from = |statement: &Statement| matches!(statement.instruction, Instruction::From(_));
    let first = statements.iter().position(is_from).unwrap_or(statements.len());
    &statements[first..]
}

/// The casing of most instructions; upper case where as many are in either.
pub(super) fn majority(statements: &[Statement]) -> Casing {
    let casings = in_stages(statements).iter().filter_map(|found| casing(&found.keyword.text));
    let (lower, upper): (Vec<_>, Vec<_>) = casings.partition(|found| *found == Casing::Lower);
    if lower.len() > upper.len() { Casing::Lower } else { Casing::Upper }
}

fn instruction_casing(statements: &[Statement], found: &mut Vec<Finding>) {
    let wanted = majority(statements);
    for statement in in_stages(statements) {
        let name = &statement.keyword.text;
        if wanted.apply(name) == *name {
            continue;
        }
        let wanted = if wanted == Casing::Lower { "lowercase" } else { "uppercase" };
        let message =
            format!("Command '{name}' should match the case of the command majority ({wanted})");
        let rule = Rule::ConsistentInstructionCasing;
        found.push(Finding::at(rule, statement.keyword.span, statement, message));
    }
}
