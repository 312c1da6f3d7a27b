//! Heredocs: bodies that follow the line that opens them with `<<NAME`.
//!
//! See <https://docs.docker.com/reference/dockerfile/#here-documents>.

use std::borrow::Cow;
use std::ops::Range;

use nom::IResult;
use nom::Parser as _;
use nom::bytes::complete::{tag, take_while};
use nom::character::complete::{char as character, digit0, multispace0};
use nom::combinator::{all_consuming, opt, verify};

use super::diagnostic::{Diagnostic, quote};
use super::lines::{Line, Reader, trim_line_end};
use super::span::Span;
use super::word;

/// A heredoc with its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without its quotes; also the name of the file that COPY makes of it.
    pub name: String,
    /// Whether variables in the body are expanded by the builder (in COPY and ADD): no part of
    /// the delimiter was quoted.
    pub expand: bool,
    /// Whether tabs at the starts of lines go away: it was opened with `<<-`.
    pub strip_tabs: bool,
    /// The body as written, with its line ends, and without the line that ends it.
    pub content: String,
    /// Where the body stands; empty where the body is.
    pub span: Span,
}

impl Heredoc {
    /// The body, without the leading tabs of its lines where [`Heredoc::strip_tabs`] says so.
    pub fn body(&self) -> Cow<'_, str> {
        if !self.strip_tabs {
            return Cow::Borrowed(&self.content);
        }
        let lines = self.content.split_inclusive('\n');
        Cow::Owned(lines.map(|line| line.trim_start_matches('\t')).collect())
    }

    /// The span of the part `range` of [`Heredoc::body`], or of the whole where the content does
    /// not stand in the file as it is.
    pub fn part(&self, range: &Range<usize>) -> Span {
        if self.content.len() != self.span.len() {
            return self.span;
        }
        let (start, end) = (self.in_content(range.start), self.in_content(range.end));
        Span::new(self.span.start + start, self.span.start + end.max(start))
    }

    /// Where in the content the byte `at` of the body stands.
    fn in_content(&self, at: usize) -> usize {
        if !self.strip_tabs {
            return at.min(self.content.len());
        }
        let (mut of_body, mut of_content) = (0, 0);
        for line in self.content.split_inclusive('\n') {
            let kept = line.trim_start_matches('\t').len();
            if at < of_body + kept {
                return of_content + line.len() - kept + (at - of_body);
            }
            of_body += kept;
            of_content += line.len();
        }
        of_content
    }
}

/// What a word like `3<<-"EOF"` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opener {
    pub(crate) name: String,
    pub(crate) expand: bool,
    pub(crate) strip_tabs: bool,
}

/// Reads the whole of `text` as the opener of a heredoc, where it is one.
pub(crate) fn opener(text: &str) -> Option<Opener> {
    let (_, (strip_tabs, delimiter)) = opening(text).ok()?;
    let (name, expand) = word::delimiter(delimiter)?;
    Some(Opener { name, expand, strip_tabs })
}

/// `<<` with an optional number before and a dash behind, and the delimiter as written.
fn opening(input: &str) -> IResult<&str, (bool, &str)> {
    let delimiter = verify(take_while(|ch| ch != '<'), |text: &str| !text.is_empty());
    all_consuming((digit0, tag("<<"), opt(character('-')), multispace0, delimiter))
        .map(|(_, _, dash, _, delimiter)| (dash.is_some(), delimiter))
        .parse(input)
}

/// Reads the bodies of all heredocs that `line` opens, in the order of their openers.
pub(crate) fn read(line: &Line, reader: &mut Reader<'_>) -> Result<Vec<Heredoc>, Diagnostic> {
    if !line.text.contains("<<") {
        return Ok(Vec::new());
    }
    let mut heredocs = Vec::new();
    // The words are parts of the line, in its order.
    let mut rest = line.text.as_str();
    for word in word::raw_words(&line.text) {
        let found = rest.find(&word).map(|at| rest[at..].split_at(word.len()));
        let (source, behind) = found.unwrap_or((line.text.trim(), ""));
        rest = behind;
        if let Some(opener) = opener(&word) {
            heredocs.push(body(opener, line.span_of(source), reader)?);
        }
    }
    Ok(heredocs)
}

/// Reads the body of the heredoc that is opened at `span`.
fn body(opener: Opener, at: Span, reader: &mut Reader<'_>) -> Result<Heredoc, Diagnostic> {
    let Opener { name, expand, strip_tabs } = opener;
    let mut bytes = Vec::new();
    let mut span: Option<Span> = None;
    while let Some((raw, start)) = reader.physical_line() {
        let mut last = trim_line_end(raw);
        if strip_tabs {
            let tabs = last.iter().take_while(|byte| **byte == b'\t').count();
            last = &last[tabs..];
        }
        if last == name.as_bytes() {
            let span = span.unwrap_or_else(|| Span::new(start, start));
            let content = String::from_utf8_lossy(&bytes).into_owned();
            return Ok(Heredoc { name, expand, strip_tabs, content, span });
        }
        bytes.extend_from_slice(raw);
        let here = Span::new(start, start + raw.len());
        span = Some(span.map_or(here, |span| span.to(here)));
    }
    let shown = quote(&name);
    let message = format!("unterminated heredoc {shown}");
    Err(Diagnostic::error("unterminated-heredoc", at, message)
        .with_hint(format!("end it with a line that holds {shown} and nothing else")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openers() {
        let check = |text: &str, expected: Option<(&str, bool, bool)>| {
            let found = opener(text);
            let found = found.as_ref().map(|o| (o.name.as_str(), o.expand, o.strip_tabs));
            assert_eq!(found, expected, "{text}");
        };
        check("<<EOF", Some(("EOF", true, false)));
        check("<<-EOF", Some(("EOF", true, true)));
        check("3<<'EOF'", Some(("EOF", false, false)));
        check("<<\"a b\"", Some(("a b", false, false)));
        check("<< EOF", Some(("EOF", true, false)));
        check("<<a b", None);
        check("<<", None);
        check("<<<EOF", None);
        check("a<<EOF", None);
        check("<<'EOF", None);
    }
}
