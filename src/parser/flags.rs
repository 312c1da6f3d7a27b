//! Flags: the `--name=value` words between an instruction's name and its arguments.

use nom::IResult;
use nom::Parser as _;
use nom::bytes::complete::{tag, take_while};

use super::ast::Word;
use super::diagnostic::{Diagnostic, quote};
use super::lines::Line;
use super::span::Span;
use super::suggest::nearest;

/// A flag as written, without its quotes and escapes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawFlag<'a> {
    /// All of it: `--name` or `--name=value`.
    pub(crate) text: String,
    /// The slice of the line that it is written as.
    source: &'a str,
    /// Where the value starts, in `text` and in `source`.
    value: Option<(usize, usize)>,
}

impl<'a> RawFlag<'a> {
    /// The name, without the dashes.
    fn name(&self) -> &str {
        let end = self.value.map_or(self.text.len(), |(start, _)| start - 1);
        &self.text[2..end]
    }

    /// The slice of the line with the dashes and the name.
    fn name_source(&self) -> &'a str {
        &self.source[..self.value.map_or(self.source.len(), |(_, start)| start - 1)]
    }

    /// The value and the slice of the line that it is written as.
    fn value(&self) -> Option<(&str, &'a str)> {
        self.value.map(|(start, source)| (&self.text[start..], &self.source[source..]))
    }
}

/// Takes the flags off the start of `arguments`, giving them and the rest.
pub(crate) fn split(arguments: &str, escape: char) -> (Vec<RawFlag<'_>>, &str) {
    let mut flags = Vec::new();
    let mut rest = arguments;
    while let Ok((behind, (_, source))) = flag_start(rest) {
        let (after, flag) = flag(source, behind, escape);
        rest = after;
        if flag.text == "--" {
            break;
        }
        flags.push(flag);
    }
    (flags, rest)
}

/// Blanks and two dashes, giving what starts with the dashes as well.
fn flag_start(input: &str) -> IResult<&str, (&str, &str)> {
    let (dashes, blanks) = take_while(is_blank).parse(input)?;
    let (behind, _) = tag("--").parse(dashes)?;
    Ok((behind, (blanks, dashes)))
}

/// One flag that starts with `source`, up to the first blank that is not quoted.
fn flag<'a>(source: &'a str, behind: &'a str, escape: char) -> (&'a str, RawFlag<'a>) {
    let mut text = String::from("--");
    let mut value = None;
    let mut quote = None;
    let dashes = source.len() - behind.len();
    let mut chars = behind.char_indices();
    let mut end = source.len();
    while let Some((at, ch)) = chars.next() {
        match quote {
            None if is_blank(ch) => {
                end = dashes + at;
                break;
            }
            None if ch == '\'' || ch == '"' => quote = Some(ch),
            Some(open) if ch == open => quote = None,
            _ if ch == escape => text.extend(chars.next().map(|(_, ch)| ch)),
            _ => {
                if ch == '=' && value.is_none() {
                    value = Some((text.len() + 1, dashes + at + 1));
                }
                text.push(ch);
            }
        }
    }
    (&source[end..], RawFlag { text, source: &source[..end], value })
}

/// The blanks around flags. BuildKit looks at bytes here: no blank beyond ASCII ends a flag.
fn is_blank(ch: char) -> bool {
    matches!(ch, '\t'..='\r' | ' ')
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A value, once.
    Text,
    /// A value, any number of times.
    List,
    /// `true`, `false`, or nothing for `true`.
    Bool,
}

/// The flags of one instruction, checked against those it knows.
#[derive(Debug, Default)]
pub(crate) struct Flags(Vec<(&'static str, Word)>);

impl Flags {
    /// Checks `flags` against `known`; the first wrong one is the error.
    pub(crate) fn check(
        line: &Line,
        flags: &[RawFlag<'_>],
        known: &[(&'static str, Kind)],
    ) -> Result<Self, Diagnostic> {
        let mut checked = Self::default();
        for flag in flags {
            let name_span = line.span_of(flag.name_source());
            let shown = quote(&format!("--{}", flag.name()));
            let Some((name, kind)) = known.iter().find(|(name, _)| *name == flag.name()) else {
                return Err(unknown(flag.name(), &shown, name_span, known));
            };
            if let Some(first) = checked.find(name)
                && *kind != Kind::List
            {
                let message = format!("duplicate flag specified: {shown}");
                return Err(Diagnostic::error("duplicate-flag", name_span, message)
                    .with_label(first.span, "first given here"));
            }
            let word = match (kind, flag.value()) {
                (Kind::Bool, None) => Word { text: "true".to_owned(), span: name_span },
                (Kind::Bool, Some(("", _))) | (Kind::Text | Kind::List, None) => {
                    let message = format!("missing a value on flag: {shown}");
                    return Err(Diagnostic::error("missing-flag-value", name_span, message)
                        .with_hint(format!("write `--{name}=…`")));
                }
                (_, Some((text, source))) => {
                    Word { text: text.to_owned(), span: line.span_of(source) }
                }
            };
            if *kind == Kind::Bool && !is_bool(&word.text) {
                let message =
                    format!("expecting boolean value for flag {shown}, not: {}", quote(&word.text));
                return Err(Diagnostic::error("invalid-flag-value", word.span, message)
                    .with_hint("use `true` or `false`"));
            }
            checked.0.push((name, word));
        }
        Ok(checked)
    }

    fn find(&self, name: &str) -> Option<&Word> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, word)| word)
    }

    /// The value of a flag that is given at most once.
    pub(crate) fn text(&self, name: &str) -> Option<Word> {
        self.find(name).cloned()
    }

    /// The values of a flag that may be given many times, in order.
    pub(crate) fn list(&self, name: &str) -> Vec<Word> {
        self.0.iter().filter(|(known, _)| *known == name).map(|(_, word)| word.clone()).collect()
    }

    /// The value of a boolean flag, where it is given.
    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        self.find(name).map(|word| word.text.eq_ignore_ascii_case("true"))
    }
}

fn is_bool(text: &str) -> bool {
    text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false")
}

fn unknown(name: &str, shown: &str, span: Span, known: &[(&'static str, Kind)]) -> Diagnostic {
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let error = Diagnostic::error("unknown-flag", span, format!("unknown flag: {shown}"));
    match nearest(name, &names) {
        Some(near) => error.with_hint(format!("did you mean `--{near}`?")),
        None if names.is_empty() => error.with_hint("this instruction takes no flags"),
        None => error.with_hint(format!("known flags: `--{}`", names.join("`, `--"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_end_at_the_first_other_word() {
        for (arguments, flags, rest) in [
            ("a b", &[][..], "a b"),
            ("--a=b --c d --e", &["--a=b", "--c"], " d --e"),
            ("--a -- --b", &["--a"], " --b"),
            ("--", &[], ""),
            ("--a='x y'\"z\" b", &["--a=x yz"], " b"),
            ("--a=x\\ y b", &["--a=x y"], " b"),
            ("--a=x\\", &["--a=x"], ""),
            ("--a='x", &["--a=x"], ""),
            ("- a", &[], "- a"),
            ("--\u{a0} a", &["--\u{a0}"], " a"),
        ] {
            let (found, after) = split(arguments, '\\');
            let texts: Vec<&str> = found.iter().map(|flag| flag.text.as_str()).collect();
            assert_eq!((texts.as_slice(), after.trim()), (flags, rest.trim()), "{arguments}");
        }
    }
}
