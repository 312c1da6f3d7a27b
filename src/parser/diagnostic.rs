//! What is wrong with a Dockerfile, as data: nothing here prints or draws carets.

use super::span::Span;

/// How bad a [`Diagnostic`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The file cannot be built.
    Error,
    /// The file can be built, though likely not as meant.
    Warning,
}

/// One finding about the text of a Dockerfile.
///
/// Texts are lower case, end without a full stop, and hold values in backticks. They never quote
/// more of the file than one shortened, escaped token: the file may be a link to a secret of the
/// host, and may hold escape sequences for the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the file can be built all the same.
    pub severity: Severity,
    /// A stable name in kebab case, such as `unknown-flag`.
    pub code: &'static str,
    /// The cause, in one line.
    pub message: String,
    /// The places to mark and what to say at each (possibly nothing); the first is the main one.
    pub labels: Vec<(Span, String)>,
    /// What to do about it, where there is something to do.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            labels: vec![(span, String::new())],
            hint: None,
        }
    }

    /// A warning at `span`.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, span, message) }
    }

    /// The same with `hint`.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with a second place marked.
    #[must_use]
    pub fn with_label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push((span, text.into()));
        self
    }

    /// The main place, which is the start of the file where no other is known.
    pub fn span(&self) -> Span {
        self.labels.first().map_or_else(Span::default, |(span, _)| *span)
    }
}

/// The longest piece of the file that a message repeats, in characters.
const QUOTE_MAX_CHARS: usize = 80;

/// `token` in backticks, shortened, with every control character escaped.
pub(crate) fn quote(token: &str) -> String {
    format!("`{}`", printable(token))
}

/// `token` shortened, with every control and every direction-changing character escaped.
pub(crate) fn printable(token: &str) -> String {
    let mut out = String::new();
    for (count, ch) in token.chars().enumerate() {
        if count == QUOTE_MAX_CHARS {
            out.push('…');
            break;
        }
        // Bidirectional overrides can make a line read as what it is not.
        if ch.is_control() || matches!(ch, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(ch.escape_default());
        } else {
            out.push(ch);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_short_and_without_control_characters() {
        assert_eq!(quote("plain"), "`plain`");
        assert_eq!(quote("a\u{1b}[31m"), "`a\\u{1b}[31m`");
        assert_eq!(quote("x\u{202e}y"), "`x\\u{202e}y`");
        assert_eq!(quote(&"é".repeat(500)).chars().count(), 83);
    }
}
