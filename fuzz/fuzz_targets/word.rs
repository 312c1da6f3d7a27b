//! Any word expands within bounds, or fails at a place within it. The first line holds the value of
//! `v`, the rest is the word.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mica::parser::word::{MAX_GROWTH_BYTES, expand, expand_heredoc};

fuzz_target!(|input: &str| {
    let (value, word) = input.split_once('\n').unwrap_or(("", input));
    let large = value.repeat(if word.len() % 2 == 0 { 1 } else { 500 });
    let lookup = |name: &str| match name {
        "v" => Some(large.as_str()),
        "a" => Some("one/two.three"),
        "j" => Some("日本語"),
        "e" => Some(""),
        _ => None,
    };
    for outcome in
        [expand(word, '\\', &lookup), expand(word, '`', &lookup), expand_heredoc(word, &lookup)]
    {
        match outcome {
            Ok(expansion) => {
                assert!(expansion.text.len() <= word.len() + MAX_GROWTH_BYTES);
                let words: usize = expansion.words.iter().map(String::len).sum();
                assert!(words <= expansion.text.len());
                assert!(expansion.words.len() <= expansion.text.len() + word.len());
            }
            Err(error) => assert!(word.get(error.range).is_some()),
        }
    }
    // What holds no special character is itself.
    if !word.contains(['$', '\\', '\'', '"']) {
        assert_eq!(expand(word, '\\', &lookup).expect("a plain word").text, word);
    }
});
