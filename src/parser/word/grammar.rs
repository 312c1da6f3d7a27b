//! The grammar of a word, as a tree of slices of it.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_till, take_while, take_while1};
use nom::character::complete::{anychar, char as character};
use nom::combinator::{opt, recognize, verify};
use nom::error::ParseError;
use nom::sequence::{preceded, terminated};
use nom::{Err, IResult, Parser as _};

use super::{ExpandError, ExpandErrorKind, MAX_DEPTH};

/// A part of a word.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Text in which blanks separate words.
    Plain(&'a str),
    /// Text in which blanks are data.
    Solid(&'a str),
    /// An escape character and what it escapes: nothing at the end of the word.
    Escaped(&'a str, Option<char>),
    /// An escape character in double quotes that stands before an ordinary character.
    Backslash(&'a str),
    /// What stands between single quotes.
    Single(&'a str),
    /// What stands between double quotes.
    Double(Vec<Self>),
    /// `$name`, `${name}` and all that can be done to it.
    Variable(Box<Variable<'a>>),
}

/// `$name` or `${name…}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable<'a> {
    /// All of it, from the dollar on.
    pub(super) source: &'a str,
    pub(super) name: &'a str,
    /// What to do with the value.
    pub(super) operator: Operator<'a>,
}

/// What follows the name in `${name…}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operator<'a> {
    /// Nothing: the value.
    Value,
    /// `-`, `+` or `?`, with a colon when an empty value counts as unset.
    Condition { kind: char, colon: bool, word: Vec<Piece<'a>> },
    /// `#` or `%`; a pattern that starts with the same again asks for the longest match.
    Trim { kind: char, pattern: Vec<Piece<'a>> },
    /// `/` or `//`.
    Replace { all: bool, pattern: Vec<Piece<'a>>, replacement: Vec<Piece<'a>> },
}

impl Piece<'_> {
    /// Whether the piece, or one inside it, is quoted.
    pub(super) fn is_quoted(&self) -> bool {
        matches!(self, Self::Single(_) | Self::Double(_))
    }

    /// Whether the piece is `${name…}` with an operator, or has one in its double quotes.
    pub(super) fn has_operator(&self) -> bool {
        match self {
            Self::Variable(variable) => !matches!(variable.operator, Operator::Value),
            Self::Double(inner) => inner.iter().any(Self::has_operator),
            _ => false,
        }
    }
}

/// What is special in a word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grammar {
    pub(super) escape: char,
    /// Whether quotes are special.
    pub(super) quotes: bool,
    /// Whether the blanks behind `<<` belong to the word that follows.
    pub(super) heredocs: bool,
}

/// A failure and the rest of the input that it starts at.
#[derive(Debug)]
struct Fail<'a> {
    rest: &'a str,
    kind: ExpandErrorKind,
}

type Parsed<'a, T> = IResult<&'a str, T, Fail<'a>>;

impl<'a> ParseError<&'a str> for Fail<'a> {
    fn from_error_kind(rest: &'a str, _: nom::error::ErrorKind) -> Self {
        Self { rest, kind: ExpandErrorKind::BadSubstitution }
    }

    fn append(_: &'a str, _: nom::error::ErrorKind, other: Self) -> Self {
        other
    }
}

fn fail<T>(rest: &str, kind: ExpandErrorKind) -> Parsed<'_, T> {
    Err(Err::Failure(Fail { rest, kind }))
}

impl Grammar {
    /// Parses the whole of `word`.
    pub(super) fn parse(self, word: &str) -> Result<Vec<Piece<'_>>, ExpandError> {
        match self.pieces(word, None, 0) {
            Ok((_, pieces)) => Ok(pieces),
            Err(Err::Error(fail) | Err::Failure(fail)) => {
                let start = word.len() - fail.rest.len();
                let end = match &fail.kind {
                    ExpandErrorKind::UnsupportedModifier(modifier) => {
                        let behind_name = fail.rest.find(modifier.as_str()).unwrap_or(0);
                        (start + behind_name + modifier.len()).min(word.len())
                    }
                    _ => word.len(),
                };
                let end =
                    (end..word.len()).find(|at| word.is_char_boundary(*at)).unwrap_or(word.len());
                Err(ExpandError { kind: fail.kind, range: start..end })
            }
            Err(Err::Incomplete(_)) => Ok(Vec::new()),
        }
    }

    /// Pieces up to `stop`, which is taken too, or to the end.
    fn pieces(self, input: &str, stop: Option<char>, depth: usize) -> Parsed<'_, Vec<Piece<'_>>> {
        let special = |ch: char| {
            ch == '$'
                || ch == self.escape
                || Some(ch) == stop
                || (self.quotes && (ch == '\'' || ch == '"'))
                || (self.heredocs && ch == '<')
        };
        let mut pieces = Vec::new();
        let mut rest = input;
        while let Some(ch) = rest.chars().next() {
            let piece;
            (rest, piece) = match ch {
                _ if Some(ch) == stop => return Ok((&rest[ch.len_utf8()..], pieces)),
                '$' => self.dollar(rest, depth)?,
                '\'' if self.quotes => single(rest)?,
                '"' if self.quotes => self.double(rest, depth)?,
                '<' if self.heredocs => angle(rest)?,
                _ if ch == self.escape => self.escaped(rest)?,
                _ => take_till(special).map(Piece::Plain).parse(rest)?,
            };
            pieces.push(piece);
        }
        match stop {
            Some(stop) => fail(input, ExpandErrorKind::Missing(stop)),
            None => Ok((rest, pieces)),
        }
    }

    /// The escape character and what follows it.
    fn escaped(self, input: &str) -> Parsed<'_, Piece<'_>> {
        let (rest, (escape, next)) =
            (recognize(character(self.escape)), opt(anychar)).parse(input)?;
        Ok((rest, Piece::Escaped(escape, next)))
    }

    /// From a double quote to the next.
    fn double(self, input: &str, depth: usize) -> Parsed<'_, Piece<'_>> {
        let mut rest = &input[1..];
        let mut pieces = Vec::new();
        while let Some(ch) = rest.chars().next() {
            let piece;
            (rest, piece) = match ch {
                '"' => return Ok((&rest[1..], Piece::Double(pieces))),
                '$' => self.dollar(rest, depth)?,
                _ if ch == self.escape => match rest[1..].chars().next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        self.escaped(rest)?
                    }
                    Some(_) => (&rest[1..], Piece::Backslash(&rest[..1])),
                    None => (&rest[1..], Piece::Escaped(&rest[..1], None)),
                },
                _ => take_till(|ch| ch == '"' || ch == '$' || ch == self.escape)
                    .map(Piece::Solid)
                    .parse(rest)?,
            };
            pieces.push(piece);
        }
        fail(input, ExpandErrorKind::UnterminatedQuote("double"))
    }

    /// `$`, `$name` or `${…}`.
    fn dollar(self, input: &str, depth: usize) -> Parsed<'_, Piece<'_>> {
        let behind = &input[1..];
        if behind.starts_with('{') {
            return self.braced(input, depth);
        }
        let (rest, name) = name(behind)?;
        if name.is_empty() {
            return Ok((rest, Piece::Plain(&input[..1])));
        }
        let source = &input[..input.len() - rest.len()];
        let variable = Variable { source, name, operator: Operator::Value };
        Ok((rest, Piece::Variable(Box::new(variable))))
    }

    /// `${…}`, `input` being at the dollar.
    fn braced(self, input: &str, depth: usize) -> Parsed<'_, Piece<'_>> {
        if depth >= MAX_DEPTH {
            return fail(input, ExpandErrorKind::TooDeep);
        }
        let inside = &input[2..];
        match inside.chars().next() {
            None => return fail(input, ExpandErrorKind::Missing('}')),
            Some('{' | '}' | ':') => return fail(input, ExpandErrorKind::BadSubstitution),
            Some(_) => {}
        }
        let (rest, name) = name(inside)?;
        let outcome = self.operator(rest, depth + 1);
        let (rest, operator) = outcome.map_err(|error| match error {
            // What is not closed is best shown from its dollar on.
            Err::Failure(Fail {
                kind: kind @ (ExpandErrorKind::Missing(_) | ExpandErrorKind::UnsupportedModifier(_)),
                ..
            }) => Err::Failure(Fail { rest: input, kind }),
            other => other,
        })?;
        let source = &input[..input.len() - rest.len()];
        Ok((rest, Piece::Variable(Box::new(Variable { source, name, operator }))))
    }

    /// What follows the name, with the closing brace.
    fn operator(self, input: &str, depth: usize) -> Parsed<'_, Operator<'_>> {
        let (rest, colon) = opt(character(':')).parse(input)?;
        let colon = colon.is_some();
        let Some(kind) = rest.chars().next() else {
            return fail(input, ExpandErrorKind::Missing('}'));
        };
        let behind = &rest[kind.len_utf8()..];
        match kind {
            '}' if !colon => Ok((behind, Operator::Value)),
            '-' | '+' | '?' => {
                let (rest, word) = self.pieces(behind, Some('}'), depth)?;
                Ok((rest, Operator::Condition { kind, colon, word }))
            }
            '#' | '%' if !colon => {
                let (rest, pattern) = self.pieces(behind, Some('}'), depth)?;
                Ok((rest, Operator::Trim { kind, pattern }))
            }
            '/' if !colon => {
                let (rest, all) = opt(character('/')).parse(behind)?;
                let (rest, pattern) = self.pieces(rest, Some('/'), depth)?;
                let (rest, replacement) = self.pieces(rest, Some('}'), depth)?;
                Ok((rest, Operator::Replace { all: all.is_some(), pattern, replacement }))
            }
            _ => {
                let modifier = &input[..input.len() - behind.len()];
                fail(input, ExpandErrorKind::UnsupportedModifier(modifier.to_owned()))
            }
        }
    }
}

/// From a single quote to the next; nothing can be escaped in between.
fn single(input: &str) -> Parsed<'_, Piece<'_>> {
    let quoted = (character('\''), take_till(|ch| ch == '\''), character('\''));
    quoted
        .map(|(_, inner, _)| Piece::Single(inner))
        .parse(input)
        .or_else(|_: Err<Fail>| fail(input, ExpandErrorKind::UnterminatedQuote("single")))
}

/// `<<` with the blanks behind it, or a lone `<`.
fn angle(input: &str) -> Parsed<'_, Piece<'_>> {
    alt((terminated(tag("<<"), take_while(char::is_whitespace)), tag("<")))
        .map(|_| ())
        .parse(input)
        .map(|(rest, ())| (rest, Piece::Solid(&input[..input.len() - rest.len()])))
}

/// A name: digits, one special parameter, or letters, digits and underscores; possibly nothing.
fn name(input: &str) -> Parsed<'_, &str> {
    let digits = take_while1(|ch: char| ch.is_ascii_digit());
    let special = recognize(verify(anychar, |ch| "@*#?-$!".contains(*ch)));
    let word = take_while(|ch: char| ch.is_alphanumeric() || ch == '_');
    preceded(tag(""), alt((digits, special, word))).parse(input)
}
