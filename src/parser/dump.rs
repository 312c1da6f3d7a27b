//! The tree in the notation of BuildKit's parser tests, to compare both.

use std::fmt::Write as _;

use super::diagnostic::{Diagnostic, Severity};
use super::heredoc;
use super::instruction::takes_heredocs;
use super::lines::Reader;
use super::node::{Arguments, Context, Node};

/// One `(instruction arguments…)` a line; the first error instead, where there is one.
pub(super) fn dump(text: &[u8]) -> Result<String, Diagnostic> {
    let mut reader = Reader::new(text);
    let mut diagnostics = Vec::new();
    let mut out = String::new();
    while let Some(line) = reader.logical_line(&mut diagnostics) {
        let context = Context { line: &line, escape: reader.escape() };
        let node = context.node()?;
        writeln!(out, "({})", dump_node(&node)).unwrap();
        if takes_heredocs(&node) {
            heredoc::read(&line, &mut reader)?;
        }
    }
    match diagnostics.into_iter().find(|diagnostic| diagnostic.severity == Severity::Error) {
        Some(error) => Err(error),
        None => Ok(out),
    }
}

fn dump_node(node: &Node<'_>) -> String {
    let mut out = node.keyword.name().to_ascii_lowercase();
    if !node.flags.is_empty() {
        let flags: Vec<String> = node.flags.iter().map(|flag| go_quote(&flag.text)).collect();
        write!(out, " [{}]", flags.join(" ")).unwrap();
    }
    dump_arguments(&node.arguments, &mut out);
    out
}

fn dump_arguments(arguments: &Arguments<'_>, out: &mut String) {
    let mut add = |text: &str| {
        out.push(' ');
        out.push_str(&go_quote(text));
    };
    match arguments {
        Arguments::Words(words) => words.iter().for_each(|word| add(word)),
        Arguments::Exec(elements) => elements.iter().for_each(|(text, _)| add(text)),
        Arguments::Text("") | Arguments::Nested(None) | Arguments::NoInstruction(_) => {}
        Arguments::Text(text) => add(text),
        Arguments::Pairs(pairs, legacy) => {
            for (key, value) in pairs {
                add(key);
                add(value);
                add(if *legacy { "" } else { "=" });
            }
        }
        Arguments::Health(kind, command) => {
            if !kind.is_empty() {
                add(kind);
            }
            dump_arguments(command, out);
        }
        Arguments::Nested(Some(node)) => write!(out, " ({})", dump_node(node)).unwrap(),
    }
}

/// `text` as Go's `%q` shows it.
fn go_quote(text: &str) -> String {
    let mut out = String::from('"');
    for ch in text.chars() {
        match ch {
            '"' | '\\' => out.extend(['\\', ch]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            _ if ch.is_ascii_control() => write!(out, "\\x{:02x}", u32::from(ch)).unwrap(),
            _ => out.push(ch),
        }
    }
    out.push('"');
    out
}
