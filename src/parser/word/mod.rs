//! The expansion language: quotes, escapes and `${…}` in the words of an instruction.
//!
//! A word is parsed to a small tree (by `grammar`), which is then evaluated with the variables that
//! the caller looks up (by `eval`). Nothing is expanded at parse time of the Dockerfile: the words
//! of the tree keep their quotes and escapes, since what they mean depends on the build.
//!
//! | form | result |
//! |---|---|
//! | `$v` `${v}` | the value, or nothing when unset |
//! | `${v:-w}` `${v-w}` | `w` when unset (with colon: or empty) |
//! | `${v:+w}` `${v+w}` | `w` when set (with colon: and not empty) |
//! | `${v:?w}` `${v?w}` | an error with the text `w` when unset (with colon: or empty) |
//! | `${v#p}` `${v##p}` | without the shortest, the longest prefix that matches `p` |
//! | `${v%p}` `${v%%p}` | without the shortest, the longest suffix that matches `p` |
//! | `${v/p/w}` `${v//p/w}` | with the first, with every match of `p` replaced |
//!
//! Patterns know `*`, `?` and a backslash before either. See
//! <https://docs.docker.com/reference/dockerfile/#environment-replacement>.

mod eval;
mod grammar;
mod pattern;

use std::ops::Range;

pub use eval::{Expansion, Lookup};

use eval::Evaluator;
use grammar::Grammar;

/// How deep `${…}` may stand inside `${…}`; the parser recurses once per level.
pub const MAX_DEPTH: usize = 100;

/// How much longer than the word itself its expansion may be, in bytes.
///
/// Without a limit, forty lines of `ARG b=$a$a` make a terabyte.
pub const MAX_GROWTH_BYTES: usize = 1 << 20;

/// Why a word cannot be expanded, and where in the word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct ExpandError {
    /// What is wrong.
    pub kind: ExpandErrorKind,
    /// The bytes of the word that are to blame.
    pub range: Range<usize>,
}

/// What is wrong with a word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpandErrorKind {
    /// A quote is opened and not closed.
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    UnterminatedQuote(&'static str),
    /// `${` is not closed, or `${v/p` has no second slash.
    #[error("syntax error: missing `{0}` in `${{…}}`")]
    Missing(char),
    /// `${}`, `${{` or `${:`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// What follows the name is none of the known operators.
    #[error("unsupported modifier ({}) in substitution", super::diagnostic::printable(.0))]
    UnsupportedModifier(String),
    /// A backslash in a pattern stands before something that needs none.
    #[error(
        "invalid pattern in substitution: a backslash must stand before `*`, `?`, `}}`, `/` or another"
    )]
    InvalidPattern,
    /// `${v:?message}` with `v` unset or empty.
    #[error("{}: {}", super::diagnostic::printable(.name), super::diagnostic::printable(.message))]
    Required {
        /// The variable's name.
        name: String,
        /// What the Dockerfile says about it.
        message: String,
    },
    /// More than [`MAX_DEPTH`] levels of `${…}`.
    #[error("substitutions are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// More than [`MAX_GROWTH_BYTES`] bytes longer than the word, or as much work.
    #[error("the expanded text is too large")]
    TooLarge,
}

/// Expands `word` with the variables of `lookup`; `escape` is the Dockerfile's escape character.
///
/// [`Expansion::text`] is the word as one piece, [`Expansion::words`] what it falls into at the
/// blanks that are not quoted, those in the values of variables included.
///
/// # Errors
///
/// [`ExpandError`] where the word is malformed, asks for a variable that is not there, or becomes
/// too large.
///
/// ```
/// use mica::parser::word::expand;
///
/// let lookup = |name: &str| (name == "v").then_some("1.2");
/// let expansion = expand("\"v${v%.*}\" ${missing:-none}", '\\', &lookup).unwrap();
/// assert_eq!(expansion.text, "v1 none");
/// assert_eq!(expansion.words, ["v1", "none"]);
/// ```
pub fn expand(word: &str, escape: char, lookup: &Lookup<'_, '_>) -> Result<Expansion, ExpandError> {
    let tree = Grammar { escape, quotes: true, heredocs: false }.parse(word)?;
    Evaluator::new(word, lookup).run(&tree)
}

/// Expands the body of a heredoc that becomes a file: quotes are data, and only a backslash
/// escapes, whatever the Dockerfile's escape character is.
///
/// # Errors
///
/// As for [`expand`].
pub fn expand_heredoc(body: &str, lookup: &Lookup<'_, '_>) -> Result<Expansion, ExpandError> {
    let tree = Grammar { escape: '\\', quotes: false, heredocs: false }.parse(body)?;
    Evaluator::new(body, lookup).run(&tree)
}

/// The words of a whole line with quotes, escapes and variables left as they are, or none where
/// the line is malformed. Blanks behind `<<` stay part of the word that follows.
pub(super) fn raw_words(line: &str) -> Vec<String> {
    let tree = Grammar { escape: '\\', quotes: true, heredocs: true }.parse(line);
    let none = |_: &str| None;
    tree.and_then(|tree| Evaluator::new(line, &none).keep_all().run(&tree))
        .map(|expansion| expansion.words)
        .unwrap_or_default()
}

/// The delimiter that a heredoc opener names, and whether no part of it is quoted.
pub(super) fn delimiter(word: &str) -> Option<(String, bool)> {
    let tree = Grammar { escape: '\\', quotes: true, heredocs: true }.parse(word).ok()?;
    let none = |_: &str| None;
    let mut words = Evaluator::new(word, &none).keep_unset().run(&tree).ok()?.words;
    let name = words.pop().filter(|_| words.is_empty())?;
    Some((name, !tree.iter().any(grammar::Piece::is_quoted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One case a line: `word | expected text` or `word | error: text`, `A` being `a.b.c`, `E`
    /// empty, `S` two words; the others stand in the table's head.
    #[test]
    fn table() {
        let lookup = |name: &str| match name {
            "A" => Some("a.b.c"),
            "E" => Some(""),
            "S" => Some("one  two"),
            "P" => Some("/usr/local/bin:/usr/bin"),
            "Ü" => Some("umlaut"),
            "J" => Some("日本語"),
            "B" => Some("{x}"),
            "Q" => Some("a*b?c\\d"),
            _ => None,
        };
        let table = include_str!("../../../testdata/words.txt");
        let mut count = 0;
        for (number, line) in table.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, expected) = line.split_once(" | ").expect(line);
            let outcome = match expand(word, '\\', &lookup) {
                Ok(expansion) if expected.contains(" ¦ ") => {
                    format!("{} ¦ {}", expansion.text, expansion.words.join("¦"))
                }
                Ok(expansion) => expansion.text,
                Err(error) => format!("error: {error}"),
            };
            assert_eq!(outcome, expected, "line {}: {word}", number + 1);
            count += 1;
        }
        assert!(count > 80, "{count}");
    }

    #[test]
    fn escape_character_may_be_a_backtick() {
        let lookup = |_: &str| Some("v");
        assert_eq!(expand(r"C:\$x`$x`\", '`', &lookup).unwrap().text, r"C:\v$x\");
    }

    #[test]
    fn heredoc_bodies_keep_their_quotes() {
        let lookup = |name: &str| (name == "V").then_some("val");
        let text =
            expand_heredoc("it's \"$V\" \\$V \\\\ ${V:-d}\nx \\\ny\n", &lookup).unwrap().text;
        assert_eq!(text, "it's \"val\" $V \\ val\nx \ny\n");
    }

    #[test]
    fn undefined_names_are_listed_once_and_not_where_a_default_is_given() {
        let lookup = |_: &str| None;
        let expansion = expand("$b$a$b${c:-x}${d+x}${e#x}", '\\', &lookup).unwrap();
        assert_eq!(expansion.undefined, ["b", "a", "e"]);
    }

    #[test]
    fn errors_point_into_the_word() {
        let lookup = |_: &str| None;
        for (word, range) in [("ab'c", 2..4), ("x${y", 1..4), ("x${y!z}", 1..5), ("a${b:?}c", 1..7)]
        {
            assert_eq!(expand(word, '\\', &lookup).unwrap_err().range, range, "{word}");
        }
    }

    #[test]
    fn nesting_and_growth_are_bounded() {
        let value = "x".repeat(600_000);
        let lookup = |_: &str| Some(value.as_str());
        let kind = |word: &str| expand(word, '\\', &lookup).unwrap_err().kind;
        assert_eq!(kind("$a$a"), ExpandErrorKind::TooLarge);
        assert_eq!(kind(&"${a:-".repeat(100_000)), ExpandErrorKind::TooDeep);
        assert_eq!(kind(&"${a%%?*?*?*}".repeat(1_000)), ExpandErrorKind::TooLarge);
        let nested = "${a:+".repeat(99) + &"}".repeat(99);
        assert_eq!(expand(&nested, '\\', &lookup).unwrap().text, "");
    }

    #[test]
    fn delimiters() {
        for (word, expected) in [
            ("eof", Some(("eof", true))),
            ("eo\\'f", Some(("eo'f", true))),
            ("eo'f'", Some(("eof", false))),
            ("'e'o\\'f", Some(("eo'f", false))),
            ("'one two'", Some(("one two", false))),
            ("one two", None),
            ("$EOF", Some(("$EOF", true))),
            ("\"x", None),
        ] {
            let found = delimiter(word);
            assert_eq!(
                found.as_ref().map(|(name, plain)| (name.as_str(), *plain)),
                expected,
                "{word}"
            );
        }
    }
}
