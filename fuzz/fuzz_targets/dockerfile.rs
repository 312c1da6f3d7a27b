//! Any bytes give a tree whose spans lie within them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mica::parser::{parse, parse_trigger};

fuzz_target!(|text: &[u8]| {
    let parsed = parse(text);
    for (span, _) in parsed.diagnostics.iter().flat_map(|diagnostic| &diagnostic.labels) {
        assert!(text.get(span.range()).is_some());
    }
    for statement in &parsed.dockerfile.statements {
        assert!(text.get(statement.span.range()).is_some());
    }
    if let Ok(text) = std::str::from_utf8(text) {
        let _ = parse_trigger(text);
    }
});
