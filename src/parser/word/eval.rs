//! Evaluation of a word's tree with the variables of a build.

use super::grammar::{Operator, Piece, Variable};
use super::pattern::Pattern;
use super::{ExpandError, ExpandErrorKind, MAX_GROWTH_BYTES};

/// Finds the value of a variable by its name; `None` is unset, which differs from empty.
pub type Lookup<'v, 'f> = dyn Fn(&str) -> Option<&'v str> + 'f;

/// How many steps the patterns of one word may take together.
const MAX_PATTERN_STEPS: usize = 1 << 28;

/// What a word became.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// The word as one piece.
    pub text: String,
    /// The words that the text falls into at its unquoted blanks. What stands in a word before
    /// `${name…}` with an operator is lost, as with BuildKit: `1${none:-2}` is the word `2`.
    pub words: Vec<String>,
    /// The names that were asked for and are unset, once each, in order; those with a default
    /// (`${name:-…}` and its kin) are left out.
    pub undefined: Vec<String>,
}

/// Evaluates one word.
pub(super) struct Evaluator<'w, 'v, 'f> {
    word: &'w str,
    lookup: &'f Lookup<'v, 'f>,
    raw_quotes: bool,
    raw_escapes: bool,
    keep_unset: bool,
    undefined: Vec<String>,
    bytes_left: usize,
    steps_left: usize,
}

/// Collects text, and the words it falls into.
#[derive(Default)]
struct Output {
    text: String,
    words: Vec<String>,
    word: String,
    in_word: bool,
}

impl Output {
    /// Text in which blanks end a word.
    fn plain(&mut self, text: &str) {
        self.text.push_str(text);
        for ch in text.chars() {
            if !ch.is_whitespace() {
                self.word.push(ch);
                self.in_word = true;
            } else if self.in_word && !self.word.is_empty() {
                self.words.push(std::mem::take(&mut self.word));
                self.in_word = false;
            }
        }
    }

    /// Text in which blanks are data.
    fn solid(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
        self.in_word = true;
    }
}

impl<'w, 'v, 'f> Evaluator<'w, 'v, 'f> {
    pub(super) fn new(word: &'w str, lookup: &'f Lookup<'v, 'f>) -> Self {
        Self {
            word,
            lookup,
            raw_quotes: false,
            raw_escapes: false,
            keep_unset: false,
            undefined: Vec::new(),
            bytes_left: word.len() + MAX_GROWTH_BYTES,
            steps_left: MAX_PATTERN_STEPS,
        }
    }

    /// Leaves unset variables as they are written.
    pub(super) fn keep_unset(mut self) -> Self {
        self.keep_unset = true;
        self
    }

    /// Leaves quotes, escapes and unset variables as they are written.
    pub(super) fn keep_all(mut self) -> Self {
        self.raw_quotes = true;
        self.raw_escapes = true;
        self.keep_unset()
    }

    pub(super) fn run(mut self, pieces: &[Piece<'_>]) -> Result<Expansion, ExpandError> {
        let mut output = Output::default();
        self.pieces(pieces, self.raw_escapes, &mut output)?;
        if !output.word.is_empty() {
            output.words.push(output.word);
        }
        Ok(Expansion { text: output.text, words: output.words, undefined: self.undefined })
    }

    fn pieces(
        &mut self,
        pieces: &[Piece<'_>],
        raw_escapes: bool,
        output: &mut Output,
    ) -> Result<(), ExpandError> {
        for piece in pieces {
            let before = output.text.len();
            if piece.has_operator() {
                // As BuildKit, which collects the words inside in the same buffer.
                output.word.clear();
            }
            match piece {
                Piece::Plain(text) => output.plain(text),
                Piece::Solid(text) => output.solid(text),
                Piece::Escaped(escape, next) => {
                    if raw_escapes {
                        output.solid(escape);
                    }
                    if let Some(next) = next {
                        output.solid(next.encode_utf8(&mut [0; 4]));
                    }
                }
                Piece::Backslash(escape) => {
                    // Doubled where escapes are kept: so does BuildKit, and patterns see it.
                    output.solid(escape);
                    if raw_escapes {
                        output.solid(escape);
                    }
                }
                Piece::Single(text) => self.quoted("'", output, |_, output| {
                    output.solid(text);
                    Ok(())
                })?,
                Piece::Double(inner) => self.quoted("\"", output, |this, output| {
                    let text = this.text(inner, raw_escapes)?;
                    output.solid(&text);
                    Ok(())
                })?,
                Piece::Variable(variable) => output.plain(&self.variable(variable)?),
            }
            self.pay(output.text.len() - before)?;
        }
        Ok(())
    }

    fn quoted(
        &mut self,
        quote: &str,
        output: &mut Output,
        inner: impl FnOnce(&mut Self, &mut Output) -> Result<(), ExpandError>,
    ) -> Result<(), ExpandError> {
        let kept = if self.raw_quotes { quote } else { "" };
        output.solid(kept);
        inner(self, output)?;
        output.solid(kept);
        Ok(())
    }

    /// The text of pieces inside a variable or double quotes.
    fn text(&mut self, pieces: &[Piece<'_>], raw_escapes: bool) -> Result<String, ExpandError> {
        let mut output = Output::default();
        self.pieces(pieces, raw_escapes, &mut output)?;
        Ok(output.text)
    }

    fn variable(&mut self, variable: &Variable<'_>) -> Result<String, ExpandError> {
        let value = (self.lookup)(variable.name);
        if value.is_none() && self.keep_unset {
            return Ok(variable.source.to_owned());
        }
        match &variable.operator {
            Operator::Value => Ok(self.known(variable, value).to_owned()),
            Operator::Condition { kind, colon, word } => {
                let word = self.text(word, false)?;
                let present = value.filter(|value| !(*colon && value.is_empty()));
                match (kind, present) {
                    ('+', None) => Ok(String::new()),
                    ('+', Some(_)) | ('-', None) => Ok(word),
                    (_, Some(value)) => Ok(value.to_owned()),
                    (_, None) => Err(self.required(variable, value.is_some(), word)),
                }
            }
            Operator::Trim { kind, pattern } => {
                let text = self.text(pattern, true)?;
                let longest = text.starts_with(*kind);
                let pattern = Pattern::parse(if longest { &text[1..] } else { &text })
                    .ok_or_else(|| self.error(variable, ExpandErrorKind::InvalidPattern))?;
                let value = self.known(variable, value);
                self.work(variable, pattern.cost(value))?;
                let trim = if *kind == '#' { Pattern::trim_prefix } else { Pattern::trim_suffix };
                Ok(trim(&pattern, value, longest))
            }
            Operator::Replace { all, pattern, replacement } => {
                let text = self.text(pattern, true)?;
                let replacement = self.text(replacement, true)?;
                let pattern = Pattern::parse(&text)
                    .ok_or_else(|| self.error(variable, ExpandErrorKind::InvalidPattern))?;
                let value = self.known(variable, value);
                self.work(variable, pattern.cost(value))?;
                pattern
                    .replace(value, &replacement, *all, self.bytes_left)
                    .ok_or_else(|| self.error(variable, ExpandErrorKind::TooLarge))
            }
        }
    }

    /// The value, noting the name where there is none.
    fn known(&mut self, variable: &Variable<'_>, value: Option<&'v str>) -> &'v str {
        if value.is_none() && !self.undefined.iter().any(|name| name == variable.name) {
            self.undefined.push(variable.name.to_owned());
        }
        value.unwrap_or_default()
    }

    fn required(&self, variable: &Variable<'_>, is_set: bool, word: String) -> ExpandError {
        let message = match (word.is_empty(), is_set) {
            (false, _) => word,
            (true, true) => "is not allowed to be empty".to_owned(),
            (true, false) => "is not allowed to be unset".to_owned(),
        };
        let name = variable.name.to_owned();
        self.error(variable, ExpandErrorKind::Required { name, message })
    }

    /// Takes `bytes` off what may still be produced.
    fn pay(&mut self, bytes: usize) -> Result<(), ExpandError> {
        let kind = ExpandErrorKind::TooLarge;
        self.bytes_left = self
            .bytes_left
            .checked_sub(bytes)
            .ok_or(ExpandError { kind, range: 0..self.word.len() })?;
        Ok(())
    }

    /// Takes `steps` off what patterns may still take.
    fn work(&mut self, variable: &Variable<'_>, steps: usize) -> Result<(), ExpandError> {
        self.steps_left = self
            .steps_left
            .checked_sub(steps)
            .ok_or_else(|| self.error(variable, ExpandErrorKind::TooLarge))?;
        Ok(())
    }

    fn error(&self, variable: &Variable<'_>, kind: ExpandErrorKind) -> ExpandError {
        let start = (variable.source.as_ptr() as usize).saturating_sub(self.word.as_ptr() as usize);
        ExpandError { kind, range: start..start + variable.source.len() }
    }
}
