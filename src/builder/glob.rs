//! Patterns for the sources of COPY and ADD: Go's `filepath.Match`, on bytes.
//!
//! | pattern | matches |
//! |---|---|
//! | `*` | any characters but `/`, also none |
//! | `?` | one character but `/` |
//! | `[a-z]` `[^a-z]` | one character in the class, or not in it |
//! | `\c` | the character `c` |
//! | `**` | with [`Glob::parse_deep`], as a whole component: any folders, also none |
//!
//! A name that is not UTF-8 still matches: each byte that is not part of a character counts as
//! one. All states are followed at once, so the time is the product of the lengths at most, and
//! no pattern can make it explode.

/// A pattern that was taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<Token>);

/// The pattern is malformed: a class is empty, open or has a range without an end, or a backslash
/// stands at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct GlobError;

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// One character, as [`units`] gives them.
    Unit(u32),
    /// `?`.
    Any,
    /// `*`.
    Star,
    /// `[…]`; `/` has no special place in it, as in Go.
    Class { negated: bool, ranges: Vec<(u32, u32)> },
    /// Nothing, or anything that ends with a slash.
    Folders,
    /// Anything.
    Rest,
}

/// What a byte that is no part of a character is counted from, above all characters.
const STRAY: u32 = 0x11_0000;

/// The characters of `text` by their numbers, and its stray bytes by numbers above them.
pub(super) fn units(text: &[u8]) -> Vec<u32> {
    let mut units = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        units.extend(chunk.valid().chars().map(u32::from));
        units.extend(chunk.invalid().iter().map(|byte| STRAY + u32::from(*byte)));
    }
    units
}

const SLASH: u32 = '/' as u32;
const STAR: u32 = '*' as u32;
const BACKSLASH: u32 = '\\' as u32;

impl Glob {
    /// Parses a pattern of Go's `filepath.Match`, in which `**` is the same as `*`.
    ///
    /// # Errors
    ///
    /// [`GlobError`] where Go finds the pattern bad.
    pub fn parse(pattern: &[u8]) -> Result<Self, GlobError> {
        Self::tokens(pattern, false)
    }

    /// The same, but `**` as a whole component stands for any number of folders: for
    /// `COPY --parents`.
    ///
    /// # Errors
    ///
    /// [`GlobError`] where Go finds the pattern bad.
    pub fn parse_deep(pattern: &[u8]) -> Result<Self, GlobError> {
        Self::tokens(pattern, true)
    }

    /// A pattern of these tokens.
    pub(super) fn from_tokens(tokens: Vec<Token>) -> Self {
        Self(tokens)
    }

    /// Whether `text` holds anything that is special in a pattern.
    pub fn is_pattern(text: &[u8]) -> bool {
        text.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
    }

    /// Whether `text` is a pattern by BuildKit's rules for sources: one of which all that is special is
    /// behind a backslash is a name, backslashes and all.
    pub fn has_wildcards(text: &[u8]) -> bool {
        let mut bytes = text.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => drop(bytes.next()),
                b'*' | b'?' | b'[' => return true,
                _ => {}
            }
        }
        false
    }

    fn tokens(pattern: &[u8], deep: bool) -> Result<Self, GlobError> {
        let units = units(pattern);
        let mut tokens = Vec::new();
        let mut rest = units.as_slice();
        let mut at_start = true;
        while let Some((unit, behind)) = rest.split_first() {
            let starts = std::mem::replace(&mut at_start, *unit == SLASH);
            rest = behind;
            match *unit {
                STAR if deep && starts && behind.starts_with(&[STAR, SLASH]) => {
                    tokens.push(Token::Folders);
                    rest = &behind[2..];
                    at_start = true;
                }
                STAR if deep && starts && behind == [STAR] => {
                    tokens.push(Token::Rest);
                    rest = &[];
                }
                _ => {
                    let token = ordinary(*unit, &mut rest)?;
                    // A second star adds nothing but work.
                    if token != Token::Star || tokens.last() != Some(&Token::Star) {
                        tokens.push(token);
                    }
                }
            }
        }
        Ok(Self(tokens))
    }

    /// Whether all of `path` matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        let tokens = &self.0;
        // Tokens that may be next; the last is the end of the pattern.
        let mut states = vec![false; tokens.len() + 1];
        states[0] = true;
        skip_empty(tokens, &mut states);
        // `Folders` that have begun, and so may end only behind a slash.
        let mut inside = vec![false; tokens.len()];
        let mut next = vec![false; tokens.len() + 1];
        for unit in units(path) {
            next.fill(false);
            let mut alive = false;
            for (i, token) in tokens.iter().enumerate() {
                if !states[i] && !inside[i] {
                    continue;
                }
                match token {
                    Token::Unit(expected) => next[i + 1] |= *expected == unit,
                    Token::Any => next[i + 1] |= unit != SLASH,
                    Token::Star => next[i] |= unit != SLASH,
                    Token::Class { negated, ranges } => {
                        next[i + 1] |= in_class(unit, ranges) != *negated;
                    }
                    Token::Folders => {
                        inside[i] = true;
                        next[i + 1] |= unit == SLASH;
                        alive = true;
                    }
                    Token::Rest => next[i] = true,
                }
            }
            skip_empty(tokens, &mut next);
            std::mem::swap(&mut states, &mut next);
            if !alive && !states.contains(&true) {
                return false;
            }
        }
        states[tokens.len()]
    }
}

/// Whether a token may match nothing.
fn skips(token: &Token) -> bool {
    matches!(token, Token::Star | Token::Folders | Token::Rest)
}

/// Adds the tokens that may be next because those before them match nothing.
fn skip_empty(tokens: &[Token], states: &mut [bool]) {
    for (i, token) in tokens.iter().enumerate() {
        if states[i] && skips(token) {
            states[i + 1] = true;
        }
    }
}

fn in_class(unit: u32, ranges: &[(u32, u32)]) -> bool {
    let unit = if unit >= STRAY { u32::from(char::REPLACEMENT_CHARACTER) } else { unit };
    ranges.iter().any(|(low, high)| (*low..=*high).contains(&unit))
}

/// The token that starts with `unit`; what else it takes is taken off `rest`.
pub(super) fn ordinary(unit: u32, rest: &mut &[u32]) -> Result<Token, GlobError> {
    match char::from_u32(unit) {
        Some('*') => Ok(Token::Star),
        Some('?') => Ok(Token::Any),
        Some('[') => class(rest),
        Some('\\') => take(rest).map(Token::Unit).ok_or(GlobError),
        _ => Ok(Token::Unit(unit)),
    }
}

/// What follows the opening bracket, with the closing one.
fn class(rest: &mut &[u32]) -> Result<Token, GlobError> {
    let negated = rest.first() == Some(&u32::from('^'));
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if rest.first() == Some(&u32::from(']')) && !ranges.is_empty() {
            *rest = &rest[1..];
            return Ok(Token::Class { negated, ranges });
        }
        let low = bound(rest)?;
        let high = if rest.first() == Some(&u32::from('-')) {
            *rest = &rest[1..];
            bound(rest)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

/// One end of a range.
fn bound(rest: &mut &[u32]) -> Result<u32, GlobError> {
    let unit = take(rest).ok_or(GlobError)?;
    match char::from_u32(unit) {
        Some('-' | ']') => Err(GlobError),
        _ if unit == BACKSLASH => take(rest).ok_or(GlobError),
        // Go takes a byte that is no character for a bad pattern here.
        None => Err(GlobError),
        Some(_) => Ok(unit),
    }
}

fn take(rest: &mut &[u32]) -> Option<u32> {
    let (first, behind) = rest.split_first()?;
    *rest = behind;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, path: &str) -> Option<bool> {
        Glob::parse(pattern.as_bytes()).ok().map(|glob| glob.matches(path.as_bytes()))
    }

    #[test]
    fn matches_as_go_does() {
        for (pattern, path, expected) in [
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*", "", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("a???b", "a☺b", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("*[a-ζ]", "A", Some(false)),
            ("a?b", "a/b", Some(false)),
            ("a*b", "a/b", Some(false)),
            ("a[^x]b", "a/b", Some(true)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-x]", "-", Some(true)),
            ("[x\\-]", "z", Some(false)),
            ("[!a]", "!", Some(true)),
            ("{a,b}", "{a,b}", Some(true)),
            ("a**b", "axyb", Some(true)),
            ("a**b", "a/b", Some(false)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[a-b-c]", "a", None),
            ("[", "a", None),
            ("[^", "a", None),
            ("a[", "ab", None),
            ("\\", "\\", None),
            ("*x[", "y", None),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn escaped_wildcards_make_no_pattern() {
        for (text, expected) in [
            ("a*", true),
            ("a?", true),
            ("[a", true),
            ("a\\*", false),
            ("\\[a\\?", false),
            ("a\\\\*", true),
            ("a\\", false),
            ("a", false),
        ] {
            assert_eq!(Glob::has_wildcards(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn deep_patterns_cross_folders() {
        for (pattern, path, expected) in [
            ("**/a", "a", true),
            ("**/a", "x/y/a", true),
            ("**/a", "xa", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "axb", false),
            ("a/**/b", "a/xb", false),
            ("a/**", "a/x/y", true),
            ("a/**", "a", false),
            ("**", "x/y", true),
            ("**/*.c", "x/y.c", true),
            ("x**/y", "xz/y", true),
            ("x**/y", "x/z/y", false),
            ("**/**/a", "b/a", true),
        ] {
            let glob = Glob::parse_deep(pattern.as_bytes()).unwrap();
            assert_eq!(glob.matches(path.as_bytes()), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_match() {
        let glob = Glob::parse(b"a?\xffz*").unwrap();
        assert!(glob.matches(b"a\xfe\xffz\x80"));
        assert!(!glob.matches(b"a\xfe\xfez"));
    }

    #[test]
    fn no_pattern_explodes() {
        let pattern = "*a".repeat(2_000);
        assert_eq!(matches(&pattern, &"a".repeat(3_000)), Some(true));
        assert_eq!(matches(&(pattern + "b"), &"a".repeat(3_000)), Some(false));
    }

    /// The plain recursive definition.
    fn reference(tokens: &[Token], text: &[u32]) -> bool {
        let Some((token, rest)) = tokens.split_first() else { return text.is_empty() };
        let one = |fits: &dyn Fn(u32) -> bool| {
            text.split_first().is_some_and(|(unit, text)| fits(*unit) && reference(rest, text))
        };
        match token {
            Token::Unit(expected) => one(&|unit| unit == *expected),
            Token::Any => one(&|unit| unit != SLASH),
            Token::Class { negated, ranges } => one(&|unit| in_class(unit, ranges) != *negated),
            Token::Star | Token::Rest => {
                let crosses = *token == Token::Rest;
                let len = text.iter().take_while(|unit| crosses || **unit != SLASH).count();
                (0..=len).any(|at| reference(rest, &text[at..]))
            }
            Token::Folders => {
                let ends = (0..text.len()).filter(|at| text[*at] == SLASH).map(|at| at + 1);
                std::iter::once(0).chain(ends).any(|at| reference(rest, &text[at..]))
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            pattern in "(a|b|/|\\*|\\*\\*|\\*\\*/|\\?|\\[ab\\]|\\[\\^a\\]){0,7}",
            path in "[ab/]{0,8}",
        ) {
            for glob in [Glob::parse(pattern.as_bytes()), Glob::parse_deep(pattern.as_bytes())] {
                let glob = glob.unwrap();
                let expected = reference(&glob.0, &units(path.as_bytes()));
                prop_assert_eq!(glob.matches(path.as_bytes()), expected);
            }
        }

        #[test]
        fn any_bytes_are_a_pattern_or_not(
            pattern in prop::collection::vec(any::<u8>(), 0..30),
            path in prop::collection::vec(any::<u8>(), 0..30),
        ) {
            if let Ok(glob) = Glob::parse(&pattern) {
                let _ = glob.matches(&path);
            }
        }
    }
}
