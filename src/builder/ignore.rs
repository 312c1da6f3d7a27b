//! The patterns of `.dockerignore` and of `--exclude`, by the rules of Docker's matcher.
//!
//! - A line that starts with `#` is a comment; blanks around a pattern do not count, nor does one
//!   slash before it, and `.`, `..` and double slashes are cleaned away.
//! - `*` and `?` do not match `/`; `**` matches any number of folders, also none. Unlike git's, a
//!   pattern without a slash matches at the root only.
//! - A path is excluded when the *last* pattern that matches it, or any folder above it, is not
//!   one with `!`.
//!
//! Patterns are looked up in three ways, none of which backtracks: those without anything special
//! in a map, most others in automata of [`globset`], and the few that mean something else to
//! globset (classes, `?`, which is a byte there, and `**` inside a component) by [`Glob`].
//!
//! See <https://docs.docker.com/build/concepts/context/#dockerignore-files>.

use std::collections::HashMap;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use super::glob::{Glob, Token, ordinary, units};

/// How many patterns share an automaton: an automaton has a limit on its size.
const GLOBS_PER_SET: usize = 500;

/// A list of patterns.
#[derive(Debug, Default)]
pub struct Ignore {
    /// Patterns without anything special, and the numbers of each: one that stands twice is asked
    /// twice, since the patterns in between may have changed what it is asked for.
    literals: HashMap<Vec<u8>, Vec<usize>>,
    /// Automata, and the numbers of their patterns.
    sets: Vec<(GlobSet, Vec<usize>)>,
    /// All other patterns.
    others: Vec<(usize, Matcher)>,
    /// Whether the pattern of each number is one with `!`.
    includes: Vec<bool>,
    /// The patterns with `!`, component by component.
    included: Vec<(usize, Vec<Component>)>,
}

/// Which patterns hold for a path, by number, the last of them deciding; the default is that of the
/// root, for which none holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision(Vec<usize>);

/// A pattern is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} in line {line}")]
pub struct IgnoreError {
    /// The number of the line, or of the pattern, from one.
    pub line: usize,
    /// What is wrong.
    pub kind: IgnoreErrorKind,
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreErrorKind {
    /// A class is empty, open or has a range without an end, or a backslash ends the pattern.
    #[error("syntax error in pattern")]
    Syntax,
    /// `!` without a pattern.
    #[error("illegal exclusion pattern: `!`")]
    Empty,
}

/// A pattern that is neither a literal nor in an automaton.
#[derive(Debug)]
enum Matcher {
    /// Paths that begin so.
    Prefix(Vec<u8>),
    /// Paths that end so.
    Suffix(Vec<u8>),
    /// Paths that match.
    Glob(Glob),
}

/// A component of a pattern with `!`.
#[derive(Debug)]
enum Component {
    /// Matches one component.
    One(Glob),
    /// May match more than one.
    Many,
}

impl Ignore {
    /// Reads a `.dockerignore` file.
    ///
    /// # Errors
    ///
    /// [`IgnoreError`] for the first malformed pattern.
    pub fn parse(text: &[u8]) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let lines = text.split(|byte| *byte == b'\n').enumerate();
        let patterns = lines.filter(|(_, line)| line.first() != Some(&b'#')).map(|(i, line)| {
            let line = trim(line);
            match line.strip_prefix(b"!") {
                Some(pattern) => (i + 1, [b"!", from_root(trim(pattern)).as_slice()].concat()),
                None => (i + 1, from_root(line)),
            }
        });
        Self::compile(patterns)
    }

    /// Takes patterns as `--exclude` has them: a slash before a pattern counts.
    ///
    /// # Errors
    ///
    /// [`IgnoreError`] for the first malformed pattern.
    pub fn from_patterns<'p>(
        patterns: impl IntoIterator<Item = &'p [u8]>,
    ) -> Result<Self, IgnoreError> {
        Self::compile(patterns.into_iter().enumerate().map(|(i, text)| (i + 1, text.to_vec())))
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.includes.is_empty()
    }

    /// Whether `path` is excluded; it is relative to the root of the context, clean, and without a
    /// slash at either end. The root itself (an empty path) never is.
    pub fn is_excluded(&self, path: &[u8]) -> bool {
        self.excludes(&self.decide_all(path))
    }

    /// Whether something below the excluded folder `dir` may be included all the same, so that
    /// the folder must be walked.
    pub fn may_hold_included(&self, dir: &[u8]) -> bool {
        self.may_hold_included_below(&self.decide_all(dir), dir)
    }

    /// The same for a folder that `decision` is known of.
    pub fn may_hold_included_below(&self, decision: &Decision, dir: &[u8]) -> bool {
        let decided = decision.0.last();
        let components: Vec<&[u8]> = split(dir).collect();
        self.included
            .iter()
            // What holds for the folder holds for all below it, and the last pattern wins.
            .filter(|(number, _)| decided.is_none_or(|decided| number > decided))
            .any(|(_, pattern)| may_match_below(pattern, &components))
    }

    /// The decision about `path`, found from the root on.
    pub(super) fn decide_all(&self, path: &[u8]) -> Decision {
        if self.is_empty() {
            return Decision::default();
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let ends = ends.chain(std::iter::once(path.len())).filter(|end| *end > 0);
        ends.fold(Decision::default(), |above, end| self.decide(&above, &path[..end]))
    }

    /// The decision about `path`, given the one about the folder it is in. It is worth keeping on
    /// a walk: [`Ignore::is_excluded`] asks for all folders above the path again.
    #[must_use]
    pub fn decide(&self, above: &Decision, path: &[u8]) -> Decision {
        if self.is_empty() {
            return Decision::default();
        }
        let mut numbers = self.matching(path);
        numbers.extend(&above.0);
        numbers.sort_unstable();
        numbers.dedup();
        let mut excluded = false;
        // As BuildKit: a pattern that would change nothing is not asked for the path itself, and so
        // is not known to hold for what is below it.
        numbers.retain(|number| {
            let include = self.includes[*number];
            let holds = include == excluded || above.0.contains(number);
            if holds {
                excluded = !include;
            }
            holds
        });
        Decision(numbers)
    }

    /// The numbers of the patterns that match `path` itself.
    fn matching(&self, path: &[u8]) -> Vec<usize> {
        let mut numbers = self.literals.get(path).cloned().unwrap_or_default();
        let candidate = Candidate::from_bytes(path);
        let mut found = Vec::new();
        for (set, of_set) in &self.sets {
            set.matches_candidate_into(&candidate, &mut found);
            numbers.extend(found.iter().map(|at| of_set[*at]));
        }
        let others = self.others.iter().filter(|(_, matcher)| matcher.matches(path));
        numbers.extend(others.map(|(number, _)| number));
        numbers
    }

    /// Whether a path with this decision is excluded.
    pub fn excludes(&self, decision: &Decision) -> bool {
        decision.0.last().is_some_and(|number| !self.includes[*number])
    }

    /// Sorts cleaned patterns into the three ways to look them up.
    fn compile(patterns: impl Iterator<Item = (usize, Vec<u8>)>) -> Result<Self, IgnoreError> {
        let mut this = Self::default();
        let mut globs = Vec::new();
        for (line, pattern) in patterns {
            let pattern = trim(&pattern);
            if pattern.is_empty() {
                continue;
            }
            let pattern = clean(pattern);
            let (include, pattern) = match pattern.strip_prefix(b"!") {
                Some(b"") => return Err(IgnoreError { line, kind: IgnoreErrorKind::Empty }),
                Some(pattern) => (true, pattern.to_vec()),
                None => (false, pattern),
            };
            if Glob::parse(&pattern).is_err() {
                return Err(IgnoreError { line, kind: IgnoreErrorKind::Syntax });
            }
            let number = this.includes.len();
            this.includes.push(include);
            if include {
                this.included.push((number, components(&pattern)));
            }
            if has_wildcard_in_brackets(&pattern) {
                continue;
            }
            if !Glob::is_pattern(&pattern) {
                this.literals.entry(pattern).or_default().push(number);
            } else if let Some(glob) = globset_syntax(&pattern) {
                globs.push((number, glob, pattern));
            } else {
                this.others.push((number, Matcher::new(&pattern)));
            }
        }
        for chunk in globs.chunks(GLOBS_PER_SET) {
            match automaton(chunk) {
                Some(set) => {
                    this.sets.push((set, chunk.iter().map(|(number, ..)| *number).collect()));
                }
                // Too large for an automaton.
                None => this.others.extend(
                    chunk.iter().map(|(number, _, pattern)| (*number, Matcher::new(pattern))),
                ),
            }
        }
        Ok(this)
    }
}

/// Docker's matcher makes of a `*` or `?` between brackets what it makes of one elsewhere, and so a
/// pattern that no real name matches.
fn has_wildcard_in_brackets(pattern: &[u8]) -> bool {
    let mut inside = false;
    let mut escaped = false;
    for byte in pattern {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'[' => inside = true,
            b']' => inside = false,
            b'*' | b'?' if inside => return true,
            _ => {}
        }
    }
    false
}

fn automaton(globs: &[(usize, String, Vec<u8>)]) -> Option<GlobSet> {
    let mut builder = GlobSetBuilder::new();
    for (_, glob, _) in globs {
        let glob = GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build();
        builder.add(glob.ok()?);
    }
    builder.build().ok()
}

/// The pattern in globset's syntax, where it means the same there.
fn globset_syntax(pattern: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(pattern).ok()?;
    if text.contains(['?', '[', ']', '\\', '^']) || text.len() > 1_000 {
        return None;
    }
    // What follows a leading `**` may begin inside a component, and a lone or trailing one may
    // match nothing: Docker's matcher has its own ideas of these.
    let mut parts = text.split('/').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        if part.contains("**") && (part != "**" || is_last) {
            return None;
        }
    }
    Some(text.replace('{', "\\{").replace('}', "\\}"))
}

impl Matcher {
    fn new(pattern: &[u8]) -> Self {
        let special = |text: &[u8]| Glob::is_pattern(text) || text.contains(&b']');
        if let Some(suffix) = pattern.strip_prefix(b"**")
            && !special(suffix)
            && suffix.first() != Some(&b'/')
        {
            return Self::Suffix(suffix.to_vec());
        }
        if let Some(prefix) = pattern.strip_suffix(b"**")
            && !special(prefix)
        {
            return Self::Prefix(prefix.to_vec());
        }
        let units = units(pattern);
        let mut tokens = Vec::new();
        let mut rest = units.as_slice();
        while let Some((unit, behind)) = rest.split_first() {
            rest = behind;
            if *unit == u32::from('^') {
                anchor(&mut tokens);
                continue;
            }
            let star = u32::from('*');
            if *unit != star || rest.first() != Some(&star) {
                // A syntax error was found before.
                tokens.extend(ordinary(*unit, &mut rest));
                continue;
            }
            rest = &rest[1..];
            if rest.first() == Some(&u32::from('/')) {
                rest = &rest[1..];
            }
            tokens.push(if rest.is_empty() { Token::Rest } else { Token::Folders });
        }
        Self::Glob(Glob::from_tokens(tokens))
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Prefix(prefix) => path.starts_with(prefix),
            Self::Suffix(suffix) => path.ends_with(suffix),
            Self::Glob(glob) => glob.matches(path),
        }
    }
}

/// A `^` outside of a class: Docker makes regular expressions of patterns and leaves this one
/// character as it is, so it matches at the start of the path alone.
fn anchor(tokens: &mut Vec<Token>) {
    let nothing_before =
        tokens.iter().all(|token| matches!(token, Token::Star | Token::Folders | Token::Rest));
    tokens.clear();
    if !nothing_before {
        tokens.push(Token::Class { negated: false, ranges: Vec::new() });
    }
}

/// The components of a pattern, up to the first that may match more than one.
fn components(pattern: &[u8]) -> Vec<Component> {
    let mut components = Vec::new();
    for part in split(pattern) {
        // A class may match a slash, and hold one.
        let simple = !part.iter().any(|byte| matches!(byte, b'[' | b'^'))
            && !part.windows(2).any(|pair| pair == b"**");
        match Glob::parse(part) {
            Ok(glob) if simple => components.push(Component::One(glob)),
            _ => {
                components.push(Component::Many);
                break;
            }
        }
    }
    components
}

/// Whether a pattern may match something below the folder with these components.
fn may_match_below(pattern: &[Component], dir: &[&[u8]]) -> bool {
    for (i, component) in pattern.iter().enumerate() {
        match (component, dir.get(i)) {
            (Component::Many, _) | (_, None) => return true,
            (Component::One(glob), Some(name)) => {
                if !glob.matches(name) {
                    return false;
                }
            }
        }
    }
    // It matches the folder or one above it, if anything.
    false
}

fn split(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

/// `text` without the blanks around it.
fn trim(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

/// The cleaned pattern without the slash before it, which stands for the root of the context.
fn from_root(pattern: &[u8]) -> Vec<u8> {
    if pattern.is_empty() {
        return Vec::new();
    }
    let pattern = clean(pattern);
    match pattern.strip_prefix(b"/") {
        Some(rest) if !rest.is_empty() => rest.to_vec(),
        _ => pattern,
    }
}

/// `path` without `.`, `..` and double slashes, by its text alone, as Go's `path.Clean`.
fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in split(path) {
        match part {
            b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            _ => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", joined.as_slice()].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ignore(text: &str) -> Ignore {
        Ignore::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn single_patterns() {
        for (pattern, path, expected) in [
            ("a", "a", true),
            ("a", "a/b/c", true),
            ("a", "b/a", false),
            ("a", "ab", false),
            ("/a", "a", true),
            ("./a//b/", "a/b", true),
            ("x/../a", "a", true),
            ("../a", "a", false),
            (".", "a", false),
            ("/", "a", false),
            ("*", "a", true),
            ("*", "a/b", true),
            ("*", ".a", true),
            ("*.go", "a.go", true),
            ("*.go", "x/a.go", false),
            ("*/a", "x/a", true),
            ("*/a", "a", false),
            ("*/a", "x/y/a", false),
            ("**", "a/b", true),
            ("**/", "a", true),
            ("**/a", "a", true),
            ("**/a", "x/y/a", true),
            ("**/a", "xa", false),
            ("**/a", "x/a/b", true),
            ("**a", "xa", true),
            ("**a", "x/ya", true),
            ("**.go", "x/a.go", true),
            ("**/*.go", "x/a.go", true),
            ("**/*.go", "a.go", true),
            ("a/**", "a/b", true),
            ("a/**", "a", false),
            ("a**", "abc/d", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "axb", false),
            ("a**/b", "a/b", true),
            ("a**/b", "ab", true),
            ("a**/b", "axy/b", true),
            ("a**b", "ab", true),
            ("a**b", "axb", false),
            ("a**b", "ax/b", true),
            ("*a**b", "aab", true),
            ("**/b/**", "a/b/c", true),
            ("**/b/**", "a/b", false),
            ("a?c", "abc", true),
            ("a?c", "aéc", true),
            ("a?c", "a/c", false),
            ("a[bc]d", "acd", true),
            ("a[^bc]d", "acd", false),
            ("a[^b]d", "aéd", true),
            ("[!a]", "!", true),
            ("{a,b}", "a", false),
            ("{a,b}*", "{a,b}c", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("^a*", "ab", true),
            ("a^*", "a^b", false),
            ("**/^a?", "ab", true),
            ("^a", "^a", true),
            ("a b", "a b", true),
            ("*.{md}", "x.{md}", true),
        ] {
            assert_eq!(ignore(pattern).is_excluded(path.as_bytes()), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_match_wins() {
        let text = "\u{feff}# comment\n #not-a-comment\n*\n!a\n! /b/c \r\na/x\n\n!**/*.md\n";
        for (path, expected) in [
            ("z", true),
            ("a", false),
            ("a/y", false),
            ("a/x", true),
            ("a/x/w.md", false),
            ("b", true),
            ("b/c", false),
            ("b/d", true),
            ("q/r.md", false),
        ] {
            assert_eq!(ignore(text).is_excluded(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn a_pattern_that_stands_twice_counts_twice() {
        for (text, path, expected) in [
            ("**/b*\n!**/a\n**/b*", "b/a", false),
            ("b\n!b/c\nb", "b/c", false),
            ("**/b*\n!**/a\n**/a", "b/a", true),
        ] {
            assert_eq!(ignore(text).is_excluded(path.as_bytes()), expected, "{text:?} {path}");
        }
    }

    #[test]
    fn excluded_folders_are_walked_only_for_what_may_be_in_them() {
        for (text, dir, expected) in [
            ("*", "a", false),
            ("*\n!a", "b", false),
            ("*\n!b/c", "b", true),
            ("*\n!b/c", "b/d", false),
            ("*\n!b/*/e", "b/d", true),
            ("*\n!b?/e", "bc", true),
            ("*\n!b?/e", "c", false),
            ("*\n!**/e", "b/d", true),
            ("*\n!b/**/e", "c", false),
            ("*\n!b[x]c", "b", true),
            ("!b/c\n*", "b", false),
            ("b\n!b/c\nb", "b", true),
        ] {
            assert_eq!(ignore(text).may_hold_included(dir.as_bytes()), expected, "{text:?} {dir}");
        }
    }

    #[test]
    fn bad_patterns_are_named_by_their_line() {
        let error = |text: &str| Ignore::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error("a\n\n[\n"), IgnoreError { line: 3, kind: IgnoreErrorKind::Syntax });
        assert_eq!(error("# [\n ! \n"), IgnoreError { line: 2, kind: IgnoreErrorKind::Empty });
        assert_eq!(error("a\\").to_string(), "syntax error in pattern in line 1");
    }

    #[test]
    fn excludes_keep_their_slash() {
        let ignore = Ignore::from_patterns([&b"/a"[..], b"b"]).unwrap();
        assert!(!ignore.is_excluded(b"a"));
        assert!(ignore.is_excluded(b"b"));
    }

    #[test]
    fn hostile_lists_come_to_an_end() {
        let stars = "**/a*".repeat(40);
        assert!(!ignore(&stars).is_excluded("a".repeat(200).as_bytes()));
        let odd = format!("{}b", "a?*".repeat(40));
        assert!(!ignore(&odd).is_excluded("a".repeat(2_000).as_bytes()));
        let lines = |n| format!("dir{n}/*.o\n**/x{n}*\n!f{n}\n");
        let many = ignore(&(0..5_000).map(lines).collect::<Vec<_>>().concat());
        assert!(many.is_excluded(b"y/x4999z"));
        assert!(!many.is_excluded(b"f7"));
        assert!(!ignore(&"*".repeat(100_000)).is_excluded(b""));
    }

    /// BuildKit's definition, pattern by pattern and without any automaton.
    fn reference(patterns: &[String], path: &str) -> bool {
        let mut holds = vec![false; patterns.len()];
        let mut excluded = false;
        for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
            excluded = false;
            for (pattern, holds) in patterns.iter().zip(&mut holds) {
                let bare = pattern.strip_prefix('!');
                let matcher = Matcher::new(&clean(bare.unwrap_or(pattern).as_bytes()));
                let asked = bare.is_some() == excluded;
                *holds |= asked && matcher.matches(&path.as_bytes()[..end]);
                if *holds {
                    excluded = bare.is_none();
                }
            }
        }
        excluded
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            patterns in prop::collection::vec("!?(a|b|ab|\\*|a\\*)(/(a|b|\\*\\*|\\*b|\\?))?(/(a|\\*))?|!?\\*\\*/(a|b\\*|a/b)", 0..5),
            path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
        ) {
            let ignore = ignore(&patterns.join("\n"));
            prop_assert_eq!(ignore.is_excluded(path.as_bytes()), reference(&patterns, &path));
            // A folder that need not be walked holds nothing that is included.
            for (at, _) in path.match_indices('/') {
                let dir = &path.as_bytes()[..at];
                if ignore.is_excluded(dir) && !ignore.may_hold_included(dir) {
                    prop_assert!(ignore.is_excluded(path.as_bytes()));
                }
            }
        }

        #[test]
        fn any_bytes_compile_or_fail(
            text in prop::collection::vec(any::<u8>(), 0..100),
            path in prop::collection::vec(any::<u8>(), 0..30),
        ) {
            if let Ok(ignore) = Ignore::parse(&text) {
                let _ = (ignore.is_excluded(&path), ignore.may_hold_included(&path));
            }
        }
    }
}
