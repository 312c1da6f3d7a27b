//! From bytes to logical lines: continuations joined, comments and blank lines taken out.
//!
//! A [`Line`] holds the joined text of one instruction and the way back from any part of that text
//! to the bytes of the file, so that later stages work on plain `&str` and still get exact spans.

use super::diagnostic::Diagnostic;
use super::directive::{Directive, Directives};
use super::span::Span;

/// A comment line, without its `#` and the blanks around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    /// What the comment says.
    pub text: String,
    /// From the `#` to the end of the line.
    pub span: Span,
}

/// A run of the joined text that comes from one run of bytes of the file.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Where it begins in the joined text.
    at: usize,
    /// Where it begins in the file.
    source: usize,
    /// How many bytes of the file it is.
    source_len: usize,
    /// Whether these bytes are not UTF-8, so that the text has U+FFFD for each of them.
    lossy: bool,
}

/// The joined text of one instruction.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// The text that the instruction is parsed from.
    pub(crate) text: String,
    /// The comment lines above it.
    pub(crate) comments: Vec<Comment>,
    pieces: Vec<Piece>,
}

impl Line {
    /// The span of `part`, which must be a slice of this line's text.
    pub(crate) fn span_of(&self, part: &str) -> Span {
        let start = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        self.span(start, start + part.len())
    }

    /// The span of the whole text without the blanks around it.
    pub(crate) fn full_span(&self) -> Span {
        self.span_of(self.text.trim())
    }

    /// The span of the part of the text from `start` to `end`.
    fn span(&self, start: usize, end: usize) -> Span {
        let first = self.pieces.partition_point(|piece| piece.at <= start).saturating_sub(1);
        let Some(piece) = self.pieces.get(first) else { return Span::default() };
        let source_start = piece.source + (start - piece.at.min(start)).min(piece.source_len);
        if end <= start {
            return Span::new(source_start, source_start);
        }
        let last = self.pieces.partition_point(|piece| piece.at < end).saturating_sub(1);
        let piece = self.pieces[last];
        Span::new(source_start, piece.source + (end - piece.at).min(piece.source_len))
    }

    /// Appends `bytes`, which stand at `source` in the file.
    fn push(&mut self, bytes: &[u8], source: usize) {
        let mut source = source;
        for chunk in bytes.utf8_chunks() {
            self.push_text(chunk.valid(), source, chunk.valid().len(), false);
            source += chunk.valid().len();
            if !chunk.invalid().is_empty() {
                self.push_text("\u{fffd}", source, chunk.invalid().len(), true);
                source += chunk.invalid().len();
            }
        }
    }

    fn push_text(&mut self, text: &str, source: usize, source_len: usize, lossy: bool) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => return,
            // One piece for a run of them: a file may hold nothing else.
            Some(last) if lossy && last.lossy && last.source + last.source_len == source => {
                last.source_len += source_len;
            }
            _ => self.pieces.push(Piece { at: self.text.len(), source, source_len, lossy }),
        }
        self.text.push_str(text);
    }

    /// Whether bytes that are not UTF-8 became U+FFFD.
    fn is_lossy(&self) -> bool {
        self.pieces.iter().any(|piece| piece.lossy)
    }
}

/// Reads logical lines from the bytes of a Dockerfile.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    directives: Directives,
    comments: Vec<Comment>,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes` that starts behind a byte-order mark.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let position = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Self { bytes, position, directives: Directives::default(), comments: Vec::new() }
    }

    /// The escape character in force.
    pub(crate) fn escape(&self) -> char {
        self.directives.escape
    }

    /// The directives met, in order.
    pub(crate) fn into_directives(self) -> Vec<Directive> {
        self.directives.found
    }

    /// The next physical line with its line end, and where it starts.
    pub(crate) fn physical_line(&mut self) -> Option<(&'a [u8], usize)> {
        let rest = self.bytes.get(self.position..).filter(|rest| !rest.is_empty())?;
        let len = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let start = self.position;
        self.position += len;
        Some((&rest[..len], start))
    }

    /// The next instruction's line, or `None` at the end of the file.
    pub(crate) fn logical_line(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<Line> {
        loop {
            let (raw, start) = self.physical_line()?;
            let content = trim_line_end(raw);
            let body = trim_blanks(content);
            let body_start = start + (content.len() - body.len());
            let is_directive = self.directives.read(body, body_start, diagnostics);
            if body.first() == Some(&b'#') {
                if !is_directive {
                    self.comment(body, body_start);
                }
                continue;
            }
            let (kept, mut open) = trim_continuation(body, self.directives.escape);
            if kept.is_empty() && !open {
                continue;
            }
            let mut line = Line { comments: std::mem::take(&mut self.comments), ..Line::default() };
            line.push(kept, body_start);
            let mut empty = None;
            while open {
                let Some((raw, start)) = self.physical_line() else { break };
                open = self.continuation(&mut line, raw, start, &mut empty);
            }
            diagnostics.extend(empty.map(|first| self.empty_line(first)));
            if line.is_lossy() {
                diagnostics.push(
                    Diagnostic::warning(
                        "invalid-utf8",
                        line.full_span(),
                        "the instruction holds bytes that are not UTF-8; each became U+FFFD",
                    )
                    .with_hint("save the file as UTF-8"),
                );
            }
            return Some(line);
        }
    }

    /// Adds one more physical line to `line`; tells whether yet another follows.
    fn continuation(
        &mut self,
        line: &mut Line,
        raw: &[u8],
        start: usize,
        empty: &mut Option<Span>,
    ) -> bool {
        let content = trim_line_end(raw);
        let body = trim_blanks(content);
        if body.first() == Some(&b'#') {
            return true;
        }
        if body.is_empty() {
            empty.get_or_insert(Span::new(start, start + raw.len()));
            return true;
        }
        let (kept, open) = trim_continuation(content, self.directives.escape);
        line.push(kept, start);
        open
    }

    /// One warning for the empty lines of an instruction: the first of them is marked, and the line
    /// that the instruction ends in.
    fn empty_line(&self, first: Span) -> Diagnostic {
        let message = "empty line inside a continued instruction";
        let last = self.bytes[..self.position.saturating_sub(1)].iter().rposition(|b| *b == b'\n');
        let start = last.map_or(0, |end| end + 1);
        let line = trim_line_end(&self.bytes[start..self.position]);
        let last = Span::new(start, start + line.len());
        Diagnostic::warning("no-empty-continuation", first, message)
            .with_label(last, "the instruction ends here")
    }

    /// Keeps a comment for the next instruction; an empty one cuts the block off.
    fn comment(&mut self, body: &[u8], start: usize) {
        let text = String::from_utf8_lossy(&body[1..]).trim().to_owned();
        if text.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(Comment { text, span: Span::new(start, start + body.len()) });
        }
    }
}

/// `line` without the carriage returns and line feeds at its end.
pub(crate) fn trim_line_end(line: &[u8]) -> &[u8] {
    let len = line.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |at| at + 1);
    &line[..len]
}

/// `line` without the white space at its start, Unicode's included.
fn trim_blanks(line: &[u8]) -> &[u8] {
    let Some(text) = line.utf8_chunks().next().map(|chunk| chunk.valid()) else { return line };
    &line[text.len() - text.trim_start().len()..]
}

/// `line` without an escape character at its end, and whether there was one.
///
/// A doubled escape character is data, and so does not continue the line.
fn trim_continuation(line: &[u8], escape: char) -> (&[u8], bool) {
    let Some(last) = line.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')) else {
        return (line, false);
    };
    let is_escape = |at: usize| char::from(line[at]) == escape;
    if is_escape(last) && (last == 0 || !is_escape(last - 1)) {
        (&line[..last], true)
    } else {
        (line, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<(String, Span)> {
        let mut reader = Reader::new(text);
        let mut diagnostics = Vec::new();
        std::iter::from_fn(|| reader.logical_line(&mut diagnostics))
            .map(|line| (line.text.clone(), line.full_span()))
            .collect()
    }

    fn texts(text: &str) -> Vec<String> {
        lines(text.as_bytes()).into_iter().map(|(text, _)| text).collect()
    }

    #[test]
    fn joins_continuations() {
        for (text, expected) in [
            ("a\nb", &["a", "b"][..]),
            ("  a \\\n  b", &["a   b"]),
            ("a\\ \t\nb\n", &["ab"]),
            ("a\\\\\nb\n", &["a\\\\", "b"]),
            ("a\\\n# no\n\n b\n", &["a b"]),
            ("a\\\r\nb\r\n", &["ab"]),
            ("a\\", &["a"]),
            ("\\\na", &["a"]),
            ("#c\n\n\u{feff}a", &["\u{feff}a"]),
            ("\u{feff}a", &["a"]),
            ("# escape=`\na`\nb\\\nc", &["ab\\", "c"]),
        ] {
            assert_eq!(texts(text), expected, "{text:?}");
        }
    }

    #[test]
    fn spans_lead_back_to_the_file() {
        let text = "\u{feff}RUN a\\\n # c\n  bcd e\n";
        let mut reader = Reader::new(text.as_bytes());
        let line = reader.logical_line(&mut Vec::new()).unwrap();
        assert_eq!(line.text, "RUN a  bcd e");
        let span = |part: &str| {
            let at = line.text.find(part).unwrap();
            &text[line.span_of(&line.text[at..at + part.len()]).range()]
        };
        assert_eq!(span("RUN"), "RUN");
        assert_eq!(span("bcd"), "bcd");
        assert_eq!(span("a  b"), "a\\\n # c\n  b");
        assert_eq!(
            lines(b"L a\xff\xfeb\n"),
            [("L a\u{fffd}\u{fffd}b".to_owned(), Span::new(0, 6))]
        );
    }
}
