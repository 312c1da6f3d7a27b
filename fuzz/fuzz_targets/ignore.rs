//! Any patterns and any path: the first line is the path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mica::builder::glob::Glob;
use mica::builder::ignore::Ignore;

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (path, patterns) = input.split_at(end);
    if let Ok(ignore) = Ignore::parse(patterns) {
        let _ = (ignore.is_excluded(path), ignore.may_hold_included(path));
    }
    for pattern in patterns.split(|byte| *byte == b'\n') {
        for glob in [Glob::parse(pattern), Glob::parse_deep(pattern)].into_iter().flatten() {
            let _ = glob.matches(path);
        }
    }
});
