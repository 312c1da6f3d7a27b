//! Any bytes give a tree whose parts lie in the text in order, and whatever is well formed lowers or
//! is refused at a place within it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mica::builder::config_of_changes;
use mica::parser::{Dockerfile, Parsed, parse, parse_trigger};

fuzz_target!(|text: &[u8]| {
    let parsed = parse(text);
    check_spans(text, &parsed);
    if let Ok(text) = std::str::from_utf8(text) {
        let _ = parse_trigger(text);
        // Lowered without a store behind it, where only `FROM scratch` finds its base.
        let _ = config_of_changes(&[text.to_owned()]);
    }
    if parsed.is_ok() {
        check_comments(text, &parsed.dockerfile);
    }
});

/// Diagnostics point into the text, statements follow each other in it, and each begins with its
/// own name.
fn check_spans(text: &[u8], parsed: &Parsed) {
    for (span, _) in parsed.diagnostics.iter().flat_map(|diagnostic| &diagnostic.labels) {
        assert!(text.get(span.range()).is_some());
    }
    let mut last = 0;
    for statement in &parsed.dockerfile.statements {
        assert!(statement.span.start >= last && statement.span.end <= text.len());
        last = statement.span.end;
        assert_eq!(statement.keyword.span.start, statement.span.start);
        let keyword = statement.instruction.keyword().name();
        assert!(statement.keyword.text.eq_ignore_ascii_case(keyword));
    }
}

/// What lies between the statements of a well-formed file is blank, a comment, or a heredoc: without
/// the lines of the statements and the heredocs' bodies, no instruction is left.
fn check_comments(text: &[u8], dockerfile: &Dockerfile) {
    let mut before = 0;
    for statement in &dockerfile.statements {
        if !statement.original.contains("<<") {
            let between = &text[before..statement.span.start];
            if before > 0 && !between.is_empty() {
                check_between(between);
            }
            before = statement.span.end;
        } else {
            before = 0;
        }
    }
}

fn check_between(between: &[u8]) {
    for (number, line) in between.split(|byte| *byte == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line);
        let line = line.trim().trim_start_matches('\u{feff}');
        // The first is the end of the statement's last line.
        let is_rest = number == 0 && line.trim_matches(['\\', '`', ' ', '\t']).is_empty();
        let is_open = line.trim_matches(['\\', '`', ' ', '\t']).is_empty();
        assert!(is_rest || is_open || line.starts_with('#'), "{line:?}");
    }
}
