//! Any patterns and any path: the first line is the path. The decision is that of the definition,
//! pattern by pattern, and a single simple pattern matches what a plain recursion says.
#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use mica::builder::glob::Glob;
use mica::builder::ignore::{Decision, Ignore};

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (path, patterns) = input.split_at(end);
    let patterns: Vec<&[u8]> = patterns.split(|byte| *byte == b'\n').skip(1).collect();
    for pattern in &patterns {
        for glob in [Glob::parse(pattern), Glob::parse_deep(pattern)].into_iter().flatten() {
            let _ = glob.matches(path);
        }
    }
    let Ok(ignore) = Ignore::parse(&patterns.join(&b'\n')) else { return };
    let excluded = ignore.is_excluded(path);
    if !is_clean(path) {
        return;
    }
    if let Some(expected) = reference(&patterns, path) {
        assert_eq!(excluded, expected);
    }
    for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        let dir = &path[..at];
        if ignore.is_excluded(dir) && !ignore.may_hold_included(dir) {
            assert!(excluded, "a folder that need not be walked holds what is included");
        }
    }
});

fn is_clean(path: &[u8]) -> bool {
    !path.contains(&0) && path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// The last pattern that matches the path, or a folder above it, decides; one that would change
/// nothing is not asked.
///
/// `None` for lists with a pattern that cannot be told apart line by line.
fn reference(patterns: &[&[u8]], path: &[u8]) -> Option<bool> {
    let mut singles = Vec::new();
    for (number, line) in patterns.iter().enumerate() {
        let line = std::str::from_utf8(line).ok()?;
        // A byte-order mark is one at the start of the list alone.
        let line = if number == 0 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        let bare = line.trim().strip_prefix('!').unwrap_or(line);
        if bare.contains('!') {
            return None;
        }
        singles.extend(single(line));
    }
    let mut holds = vec![false; singles.len()];
    let mut excluded = false;
    let ends = (0..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]);
    for end in ends {
        excluded = false;
        for ((include, matcher, simple), holds) in singles.iter().zip(&mut holds) {
            let here = &path[..end];
            let matches = matcher.excludes(&matcher.decide(&Decision::default(), here));
            if let Some(simple) = simple {
                assert_eq!(matches, wild(simple, here, &mut HashMap::new()));
            }
            *holds |= *include == excluded && matches;
            if *holds {
                excluded = !include;
            }
        }
    }
    Some(excluded)
}

/// A pattern's sign, a matcher for it alone, and its text where a plain recursion can match it.
fn single(line: &str) -> Option<(bool, Ignore, Option<Vec<u8>>)> {
    if line.starts_with('#') {
        return None;
    }
    let (include, bare) = match line.trim().strip_prefix('!') {
        Some(bare) => (true, bare.trim()),
        None => (false, line.trim()),
    };
    // A line that is not the first has no byte-order mark, and one behind a blank is no comment.
    let matcher = Ignore::parse(format!("\n {bare}").as_bytes()).ok()?;
    let is_simple = is_clean(bare.as_bytes())
        && !bare.contains("**")
        && bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"*?/._-".contains(&byte));
    (!matcher.is_empty()).then(|| (include, matcher, is_simple.then(|| bare.into())))
}

fn wild(pattern: &[u8], path: &[u8], known: &mut HashMap<(usize, usize), bool>) -> bool {
    if let Some(known) = known.get(&(pattern.len(), path.len())) {
        return *known;
    }
    // One character of the path, or one byte that is none.
    let step = path.utf8_chunks().next().map_or(0, |chunk| {
        chunk.valid().chars().next().map_or(1, char::len_utf8)
    });
    let found = match (pattern.first(), path.first()) {
        (None, None) => true,
        (Some(b'*'), next) => {
            wild(&pattern[1..], path, known)
                || next.is_some_and(|next| *next != b'/' && wild(pattern, &path[step..], known))
        }
        (Some(b'?'), Some(next)) if *next != b'/' => wild(&pattern[1..], &path[step..], known),
        (Some(a), Some(b)) if a == b => wild(&pattern[1..], &path[1..], known),
        _ => false,
    };
    known.insert((pattern.len(), path.len()), found);
    found
}
