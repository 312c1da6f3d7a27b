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
    assert_eq!(excluded, reference(&patterns, path));
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
fn reference(patterns: &[&[u8]], path: &[u8]) -> bool {
    let singles: Vec<(bool, Ignore, Option<Vec<u8>>)> =
        patterns.iter().filter_map(|pattern| single(pattern)).collect();
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
    excluded
}

/// A pattern's sign, a matcher for it alone, and its text where a plain recursion can match it.
fn single(line: &[u8]) -> Option<(bool, Ignore, Option<Vec<u8>>)> {
    if line.starts_with(b"#") {
        return None;
    }
    let trimmed = line.trim_ascii();
    let (include, bare) = match trimmed.strip_prefix(b"!") {
        Some(bare) => (true, bare.trim_ascii()),
        None => (false, trimmed),
    };
    // Whatever cleaning, signs or classes make of others is left to the list itself.
    let matcher = Ignore::parse(bare).ok().filter(|matcher| !matcher.is_empty())?;
    let is_simple = is_clean(bare)
        && bare.is_ascii()
        && !bare.windows(2).any(|pair| pair == b"**")
        && bare.iter().all(|byte| byte.is_ascii_alphanumeric() || b"*?/._-".contains(byte));
    Some((include, matcher, is_simple.then(|| bare.to_vec())))
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
