//! Any word expands, or fails at a place within it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mica::parser::word::{expand, expand_heredoc};

fuzz_target!(|word: &str| {
    let lookup = |name: &str| match name {
        "a" => Some("one/two.three"),
        "e" => Some(""),
        _ => None,
    };
    for outcome in [expand(word, '\\', &lookup), expand(word, '`', &lookup), expand_heredoc(word, &lookup)] {
        if let Err(error) = outcome {
            assert!(word.get(error.range).is_some());
        }
    }
});
