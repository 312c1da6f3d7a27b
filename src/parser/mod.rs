//! From the text of a Dockerfile to its syntax tree.
//!
//! ```text
//! bytes ─lines→ Line ─node→ Node ─instruction→ Statement
//!        joined text   name, flags,      typed; words
//!        + way back    arguments         unexpanded
//! ```
//!
//! [`parse`] is pure and total: any bytes give a tree of what is well formed and a list of
//! [`Diagnostic`]s for the rest, in time linear to their number. It knows nothing of builds,
//! paths or the environment, and expands nothing; [`word`] does that later, with the variables
//! that its caller knows. The language is that of BuildKit's stable frontend.
//!
//! ```
//! use mica::parser::{Instruction, parse};
//!
//! let parsed = parse(b"FROM alpine AS build\nRUNN make\n");
//! assert!(matches!(parsed.dockerfile.statements[0].instruction, Instruction::From(_)));
//! assert_eq!(parsed.diagnostics[0].message, "unknown instruction: `RUNN`");
//! assert_eq!(parsed.diagnostics[0].hint.as_deref(), Some("did you mean `RUN`?"));
//! ```

mod ast;
mod diagnostic;
mod directive;
#[cfg(test)]
mod dump;
mod duration;
mod exec_form;
mod flags;
mod healthcheck;
mod heredoc;
mod instruction;
mod keyword;
mod lines;
mod mount;
mod node;
mod span;
mod suggest;
#[cfg(test)]
mod tests;
pub mod word;

pub use ast::{
    Add, Argument, Command, Copy, Dockerfile, FromImage, HealthTest, Healthcheck, Instruction,
    Onbuild, Pairs, Run, Script, ShellText, Source, Statement, Word,
};
pub use diagnostic::{Diagnostic, Severity};
pub use directive::Directive;
pub use heredoc::Heredoc;
pub use keyword::Keyword;
pub use lines::Comment;
pub use mount::{Mount, MountKey, MountOption, MountSpec, MountType, Sharing, boolean, size};
pub use span::Span;

pub(crate) use duration::nanoseconds;
pub(crate) use suggest::nearest;

use lines::{Line, Reader};
use node::Context;

/// How many diagnostics are kept; a file that is no Dockerfile could have one for each line.
const MAX_DIAGNOSTICS: usize = 100;

/// What [`parse`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The instructions that are well formed.
    pub dockerfile: Dockerfile,
    /// What is wrong, in the order of the text; at most a hundred.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// Whether the file can be built.
    pub fn is_ok(&self) -> bool {
        self.diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error)
    }
}

/// Parses a Dockerfile.
///
/// Bytes that are not UTF-8 become U+FFFD with a warning; UTF-16 and NUL bytes are errors.
pub fn parse(text: &[u8]) -> Parsed {
    let mut parsed = parse_statements(text);
    if parsed.is_ok() {
        check_stages(&parsed.dockerfile, &mut parsed.diagnostics);
    }
    parsed
}

/// Parses what an ONBUILD instruction has stored in an image.
///
/// # Errors
///
/// All diagnostics, where there is an error among them: the text must be one instruction, and not
/// FROM, MAINTAINER or ONBUILD. Their spans are those of `text`.
pub fn parse_trigger(text: &str) -> Result<Statement, Vec<Diagnostic>> {
    let Parsed { mut dockerfile, mut diagnostics } = parse_statements(text.as_bytes());
    let refuse = |code, span, message: String| vec![Diagnostic::error(code, span, message)];
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(std::mem::take(&mut diagnostics));
    }
    let whole = Span::new(0, text.len());
    let statement = dockerfile.statements.pop().filter(|_| dockerfile.statements.is_empty());
    let Some(statement) = statement else {
        let message = "onbuild trigger should be a single instruction".to_owned();
        return Err(refuse("onbuild-trigger", whole, message));
    };
    match statement.instruction.keyword() {
        keyword @ (Keyword::From | Keyword::Maintainer | Keyword::Onbuild) => {
            let message = format!("{} isn't allowed as an ONBUILD trigger", keyword.name());
            Err(refuse("onbuild-trigger", statement.keyword.span, message))
        }
        _ => Ok(statement),
    }
}

/// Parses instructions, whether or not they make up stages.
fn parse_statements(text: &[u8]) -> Parsed {
    if let Some(error) = check_encoding(text) {
        let dockerfile =
            Dockerfile { escape: '\\', directives: Vec::new(), statements: Vec::new() };
        return Parsed { dockerfile, diagnostics: vec![error] };
    }
    let mut reader = Reader::new(text);
    let mut diagnostics = Vec::new();
    let mut statements = Vec::new();
    let mut is_empty = true;
    while let Some(line) = reader.logical_line(&mut diagnostics) {
        is_empty = false;
        match statement(line, &mut reader, &mut diagnostics) {
            Ok(statement) => statements.push(statement),
            Err(error) => diagnostics.push(error),
        }
        if diagnostics.len() > MAX_DIAGNOSTICS {
            break;
        }
    }
    if is_empty {
        let message = "file with no instructions";
        diagnostics.push(Diagnostic::error("no-instructions", Span::default(), message));
    }
    // Errors first to go in are the last to be dropped.
    if diagnostics.len() > MAX_DIAGNOSTICS {
        diagnostics.sort_by_key(|diagnostic| diagnostic.severity == Severity::Warning);
        diagnostics.truncate(MAX_DIAGNOSTICS);
    }
    diagnostics.sort_by_key(|diagnostic| diagnostic.span().start);
    let escape = reader.escape();
    Parsed {
        dockerfile: Dockerfile { escape, directives: reader.into_directives(), statements },
        diagnostics,
    }
}

fn statement(
    mut line: Line,
    reader: &mut Reader<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Statement, Diagnostic> {
    let comments = std::mem::take(&mut line.comments);
    let context = Context { line: &line, escape: reader.escape() };
    let node = context.node()?;
    // Bodies are read first of all, so that an error does not turn them into instructions.
    let heredocs =
        if instruction::takes_heredocs(&node) { heredoc::read(&line, reader)? } else { Vec::new() };
    let instruction = instruction::instruction(context, &node, heredocs, diagnostics)?;
    Ok(Statement {
        span: line.full_span(),
        keyword: context.word(node.name),
        instruction,
        comments,
        original: line.text.clone(),
    })
}

/// The error for bytes that no encoding of a Dockerfile has.
fn check_encoding(text: &[u8]) -> Option<Diagnostic> {
    if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        let message = "the file is UTF-16, not UTF-8";
        return Some(
            Diagnostic::error("encoding", Span::new(0, 2), message)
                .with_hint("save the file as UTF-8"),
        );
    }
    let at = text.iter().position(|byte| *byte == 0)?;
    let message = "the file holds a NUL byte: it is not text";
    Some(Diagnostic::error("encoding", Span::new(at, at + 1), message))
}

/// Checks that there is a stage, and that nothing but ARG stands before the first.
fn check_stages(dockerfile: &Dockerfile, diagnostics: &mut Vec<Diagnostic>) {
    for statement in &dockerfile.statements {
        match statement.instruction {
            Instruction::From(_) => return,
            Instruction::Arg(_) => {}
            _ => {
                let message = "no build stage in current context";
                let error = Diagnostic::error("no-stage", statement.keyword.span, message);
                diagnostics.push(error.with_hint("only ARG may stand before the first FROM"));
                return;
            }
        }
    }
    if let Some(last) = dockerfile.statements.last() {
        let message = "dockerfile contains no stages to build";
        diagnostics.push(Diagnostic::error("no-stage", last.span, message));
    }
}
