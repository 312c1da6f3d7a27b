//! From a logical line to a name, flags and arguments, each in its instruction's own form.
//!
//! This layer knows how arguments are written, not what they mean.

use nom::IResult;
use nom::Parser as _;
use nom::branch::alt;
use nom::bytes::complete::{take_till, take_while};
use nom::character::complete::{anychar, char as character};
use nom::combinator::{cut, eof, opt, recognize};
use nom::multi::{fold_many0, fold_many1};
use nom::sequence::{pair, preceded, terminated};

use super::ast::Word;
use super::diagnostic::{Diagnostic, quote};
use super::exec_form::{Element, ExecForm, exec_form};
use super::flags::{self, RawFlag};
use super::keyword::Keyword;
use super::lines::Line;

/// An instruction as written.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) keyword: Keyword,
    /// The name as written.
    pub(crate) name: &'a str,
    pub(crate) flags: Vec<RawFlag<'a>>,
    pub(crate) arguments: Arguments<'a>,
    /// The arguments as one text.
    pub(crate) rest: &'a str,
}

/// What stands behind the flags.
#[derive(Debug)]
pub(crate) enum Arguments<'a> {
    /// Words between blanks; quotes count for ARG alone.
    Words(Vec<&'a str>),
    /// A JSON array of strings.
    Exec(Vec<Element<'a>>),
    /// The text as it stands, possibly empty.
    Text(&'a str),
    /// Keys and values, and whether there is no equals sign between them.
    Pairs(Vec<(&'a str, &'a str)>, bool),
    /// The first word, and what follows it.
    Health(&'a str, Box<Self>),
    /// Another instruction; `None` where nothing follows.
    Nested(Option<Box<Node<'a>>>),
    /// Something behind ONBUILD that is no instruction, and why.
    NoInstruction(Box<Diagnostic>),
}

/// What a line is parsed with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) line: &'a Line,
    pub(crate) escape: char,
}

impl<'a> Context<'a> {
    /// `part` of the line as a word.
    pub(crate) fn word(self, part: &str) -> Word {
        Word { text: part.to_owned(), span: self.line.span_of(part) }
    }

    /// An error at `part` of the line.
    pub(crate) fn error(
        self,
        code: &'static str,
        part: &str,
        message: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic::error(code, self.line.span_of(part), message)
    }

    /// Parses all of the line.
    pub(crate) fn node(self) -> Result<Node<'a>, Diagnostic> {
        self.parse(&self.line.text)
    }

    fn parse(self, text: &'a str) -> Result<Node<'a>, Diagnostic> {
        let text = text.trim();
        let name_end = text.find(is_blank).unwrap_or(text.len());
        let (name, behind) = text.split_at(name_end);
        let Some(keyword) = Keyword::parse(name) else { return Err(self.unknown(name)) };
        let (flags, rest) = flags::split(behind, self.escape);
        let rest = rest.trim();
        // An empty slice should still stand behind the name.
        let rest = if rest.is_empty() { &text[text.len()..] } else { rest };
        let arguments = self.arguments(keyword, rest)?;
        Ok(Node { keyword, name, flags, arguments, rest })
    }

    fn arguments(self, keyword: Keyword, rest: &'a str) -> Result<Arguments<'a>, Diagnostic> {
        Ok(match keyword {
            Keyword::Add | Keyword::Copy | Keyword::Volume => match self.exec(rest)? {
                Some(elements) => Arguments::Exec(elements),
                None => Arguments::Words(blank_separated(rest)),
            },
            Keyword::Cmd | Keyword::Entrypoint | Keyword::Run | Keyword::Shell => {
                self.maybe_exec(rest)?
            }
            Keyword::Arg => Arguments::Words(quoted_words(rest, self.escape)),
            Keyword::Env | Keyword::Label => self.pairs(keyword, rest)?,
            Keyword::Expose | Keyword::From => Arguments::Words(blank_separated(rest)),
            Keyword::Maintainer | Keyword::Stopsignal | Keyword::User | Keyword::Workdir => {
                Arguments::Text(rest)
            }
            Keyword::Healthcheck => {
                let (kind, command) =
                    rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
                Arguments::Health(kind, Box::new(self.maybe_exec(command.trim_start())?))
            }
            Keyword::Onbuild => self.nested(rest)?,
        })
    }

    /// The instruction behind ONBUILD. What may not stand there is refused before it is parsed,
    /// which also keeps a line of a million ONBUILDs from recursing.
    fn nested(self, rest: &'a str) -> Result<Arguments<'a>, Diagnostic> {
        let name = &rest[..rest.find(is_blank).unwrap_or(rest.len())];
        match Keyword::parse(name) {
            None if name.is_empty() => Ok(Arguments::Nested(None)),
            None => Ok(Arguments::NoInstruction(Box::new(self.unknown(name)))),
            Some(Keyword::Onbuild) => {
                let message = "chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed";
                Err(self.error("onbuild-trigger", name, message))
            }
            Some(keyword @ (Keyword::From | Keyword::Maintainer)) => {
                let message = format!("{} isn't allowed as an ONBUILD trigger", keyword.name());
                Err(self.error("onbuild-trigger", name, message))
            }
            Some(_) => Ok(Arguments::Nested(Some(Box::new(self.parse(rest)?)))),
        }
    }

    fn exec(self, rest: &'a str) -> Result<Option<Vec<Element<'a>>>, Diagnostic> {
        match exec_form(rest) {
            ExecForm::No => Ok(None),
            ExecForm::Strings(elements) => Ok(Some(elements)),
            ExecForm::NotStrings => {
                let message =
                    "when using JSON array syntax, arrays must be comprised of strings only";
                Err(self.error("json-not-strings", rest, message))
            }
        }
    }

    fn maybe_exec(self, rest: &'a str) -> Result<Arguments<'a>, Diagnostic> {
        Ok(self.exec(rest)?.map_or(Arguments::Text(rest), Arguments::Exec))
    }

    /// The arguments of ENV and LABEL: pairs, or in the old form a key and the rest of the line.
    fn pairs(self, keyword: Keyword, rest: &'a str) -> Result<Arguments<'a>, Diagnostic> {
        let words = quoted_words(rest, self.escape);
        let name = keyword.name();
        if words.first().is_some_and(|first| !first.contains('=')) {
            let Some((key, value)) = rest.split_once(is_blank) else {
                let message = format!("{name} must have two arguments");
                return Err(self
                    .error("missing-value", rest, message)
                    .with_hint(format!("write `{name} name=value`")));
            };
            return Ok(Arguments::Pairs(vec![(key, value.trim_start_matches(is_blank))], true));
        }
        let pair = |word: &'a str| {
            word.split_once('=').ok_or_else(|| {
                let message = format!(
                    "syntax error: can't find = in {}, must be of the form: name=value",
                    quote(word)
                );
                self.error("missing-equals", word, message)
                    .with_hint("quote a value that holds blanks")
            })
        };
        Ok(Arguments::Pairs(words.into_iter().map(pair).collect::<Result<_, _>>()?, false))
    }

    /// The error for a name that is no instruction. It is quoted only if it looks like one: the
    /// file may be anything that a link led to.
    fn unknown(self, name: &str) -> Diagnostic {
        let presentable = name.len() <= 20 && name.bytes().all(|byte| byte.is_ascii_alphabetic());
        let message = if presentable {
            format!("unknown instruction: {}", quote(name))
        } else {
            "unknown instruction".to_owned()
        };
        let error = self.error("unknown-instruction", name, message);
        match Keyword::nearest(name).filter(|_| presentable) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None => error,
        }
    }
}

/// The blanks that separate words; others, such as a no-break space, are part of them.
fn is_blank(ch: char) -> bool {
    matches!(ch, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

fn blank_separated(text: &str) -> Vec<&str> {
    text.split(is_blank).filter(|word| !word.is_empty()).collect()
}

/// Words between blanks that are neither quoted nor escaped; quotes and escapes stay in.
fn quoted_words(text: &str, escape: char) -> Vec<&str> {
    let blanks = || take_while(char::is_whitespace);
    let words = fold_many0(
        terminated(|input| word(input, escape), blanks()),
        Vec::new,
        |mut words, word: &str| {
            words.push(word);
            words
        },
    );
    preceded(blanks(), words).parse(text).map_or_else(|_| Vec::new(), |(_, words)| words)
}

/// One word. An escape character that ends the text is dropped; a quote may stay open.
fn word(input: &str, escape: char) -> IResult<&str, &str> {
    let escaped = || recognize(pair(character(escape), anychar));
    let single = recognize((character('\''), take_till(|ch| ch == '\''), opt(character('\''))));
    let inner = fold_many0(
        alt((escaped(), nom::bytes::complete::take_while1(move |ch| ch != '"' && ch != escape))),
        || (),
        |(), _| (),
    );
    let double = recognize((character('"'), cut(inner), opt(character('"'))));
    let plain = nom::bytes::complete::take_while1(move |ch: char| {
        !ch.is_whitespace() && ch != '\'' && ch != '"' && ch != escape
    });
    let body = recognize(fold_many1(alt((single, double, escaped(), plain)), || (), |(), _| ()));
    let dangling = opt(terminated(character(escape), eof));
    terminated(body, dangling).parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_quotes_and_escapes() {
        for (text, expected) in [
            ("a=1  b=2", &["a=1", "b=2"][..]),
            ("a=\"x y\" b='p q'", &["a=\"x y\"", "b='p q'"]),
            ("a=x\\ y b", &["a=x\\ y", "b"]),
            ("a=\"x\\\" y\" b", &["a=\"x\\\" y\"", "b"]),
            ("a='x\\' y", &["a='x\\'", "y"]),
            ("a=\"open b", &["a=\"open b"]),
            ("a='open b", &["a='open b"]),
            ("a=x\\", &["a=x"]),
            ("\"a\"b'c'\\ d", &["\"a\"b'c'\\ d"]),
            ("\"\" ''", &["\"\"", "''"]),
            ("", &[]),
        ] {
            assert_eq!(quoted_words(text, '\\'), expected, "{text}");
        }
    }
}
