//! Any value of `WWW-Authenticate`: what is understood of it means the same when it is written out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mica::registry::challenge::{Challenge, parse};

fuzz_target!(|input: &[u8]| {
    let Ok(header) = std::str::from_utf8(input) else { return };
    let found = parse(header);
    let written: Vec<String> = found.iter().map(written).collect();
    let written = written.join(", ");
    // What is longer than any header is not read to its end.
    if written.len() < 16 << 10 {
        assert_eq!(parse(&written), found, "{written}");
    }
});

fn written(challenge: &Challenge) -> String {
    match challenge {
        Challenge::Basic => "Basic".to_owned(),
        Challenge::Bearer { realm, service, scope } => {
            let mut text = format!("Bearer realm={}", quoted(realm));
            for (name, value) in [("service", service), ("scope", scope)] {
                if let Some(value) = value {
                    text.push_str(&format!(",{name}={}", quoted(value)));
                }
            }
            text
        }
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
