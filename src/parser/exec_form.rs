//! The exec form: arguments as a JSON array of strings.

use nom::IResult;
use nom::Parser as _;
use nom::branch::alt;
use nom::bytes::complete::{take_while, take_while_m_n, take_while1};
use nom::character::complete::{anychar, char as character};
use nom::combinator::{consumed, map, map_opt};
use nom::multi::{fold_many0, separated_list0};
use nom::sequence::{delimited, preceded, terminated};
use serde::de::IgnoredAny;

/// A string of an exec form and the slice of the line that it is written as.
pub(crate) type Element<'a> = (String, &'a str);

/// What arguments that may be an exec form are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ExecForm<'a> {
    /// Not a JSON array: the text is to be taken as it stands.
    No,
    /// A JSON array, some of which is not a string.
    NotStrings,
    /// An array of strings.
    Strings(Vec<Element<'a>>),
}

/// Reads `text` as an exec form, as far as it is one.
pub(crate) fn exec_form(text: &str) -> ExecForm<'_> {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return ExecForm::No;
    }
    match array(text) {
        Ok(("", elements)) => ExecForm::Strings(elements),
        _ if serde_json::from_str::<Vec<IgnoredAny>>(text).is_ok() => ExecForm::NotStrings,
        _ => ExecForm::No,
    }
}

fn blanks(input: &str) -> IResult<&str, &str> {
    take_while(|ch| matches!(ch, ' ' | '\t' | '\r' | '\n')).parse(input)
}

fn array(input: &str) -> IResult<&str, Vec<Element<'_>>> {
    let comma = delimited(blanks, character(','), blanks);
    let element = map(consumed(string), |(source, text)| (text, source));
    delimited(
        terminated(character('['), blanks),
        separated_list0(comma, element),
        (blanks, character(']'), blanks),
    )
    .parse(input)
}

fn string(input: &str) -> IResult<&str, String> {
    /// What a string is made of.
    enum Part<'a> {
        Plain(&'a str),
        Char(char),
    }
    let plain = take_while1(|ch: char| ch >= ' ' && ch != '"' && ch != '\\');
    let part = alt((map(plain, Part::Plain), map(preceded(character('\\'), escape), Part::Char)));
    let body = fold_many0(part, String::new, |mut text, part| {
        match part {
            Part::Plain(plain) => text.push_str(plain),
            Part::Char(ch) => text.push(ch),
        }
        text
    });
    delimited(character('"'), body, character('"')).parse(input)
}

/// What follows a backslash.
fn escape(input: &str) -> IResult<&str, char> {
    alt((
        map_opt(anychar, |ch| match ch {
            '"' | '\\' | '/' => Some(ch),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            _ => None,
        }),
        surrogates,
        // Half of a surrogate pair stands for nothing.
        map(unit, |unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)),
    ))
    .parse(input)
}

/// `uD83D\uDE00`: two units that make one character.
fn surrogates(input: &str) -> IResult<&str, char> {
    map_opt((unit, preceded(character('\\'), unit)), |(high, low)| {
        char::decode_utf16([u16::try_from(high).ok()?, u16::try_from(low).ok()?])
            .next()?
            .ok()
            .filter(|ch| *ch > '\u{ffff}')
    })
    .parse(input)
}

/// `u` and four hex digits.
fn unit(input: &str) -> IResult<&str, u32> {
    let digits = take_while_m_n(4, 4, |ch: char| ch.is_ascii_hexdigit());
    map_opt(preceded(character('u'), digits), |digits| u32::from_str_radix(digits, 16).ok())
        .parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&[&str]>) {
        let found = match exec_form(text) {
            ExecForm::Strings(elements) => {
                Some(elements.into_iter().map(|(text, _)| text).collect::<Vec<_>>())
            }
            _ => None,
        };
        assert_eq!(
            found.as_deref(),
            expected
                .map(|texts| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>())
                .as_deref(),
            "{text}"
        );
    }

    #[test]
    fn arrays_of_strings() {
        check("[]", Some(&[]));
        check(" [ \"a\" ,\t\"b\" ] ", Some(&["a", "b"]));
        check(
            r#"["\"\\\/\b\f\n\r\t\u0041\ud83d\ude00\ud800x"]"#,
            Some(&["\"\\/\u{8}\u{c}\n\r\tA😀\u{fffd}x"]),
        );
    }

    #[test]
    fn all_else_is_not() {
        for text in ["a", "[", "['a']", "[\"a\"", "[\"a\",]", "[\"a\"] x", "[a]", "[\"\\x\"]"] {
            assert_eq!(exec_form(text), ExecForm::No, "{text}");
        }
        for text in ["[1]", "[\"a\", [\"b\"]]", "[null]", "[{}]", "[true, \"a\"]"] {
            assert_eq!(exec_form(text), ExecForm::NotStrings, "{text}");
        }
        assert_eq!(exec_form(&"[".repeat(100_000)), ExecForm::No);
    }
}
