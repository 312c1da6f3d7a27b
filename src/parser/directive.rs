//! Parser directives: `# name=value` lines at the very top of the file.
//!
//! See <https://docs.docker.com/reference/dockerfile/#parser-directives>.

use nom::IResult;
use nom::Parser as _;
use nom::bytes::complete::take_while;
use nom::character::complete::{alpha1, char as character};
use nom::combinator::recognize;
use nom::sequence::pair;

use super::diagnostic::{Diagnostic, quote};
use super::span::Span;
use super::suggest::nearest;

/// The names that are directives; any other `# name=value` is a comment.
const NAMES: [&str; 3] = ["syntax", "escape", "check"];

/// A parser directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// `syntax`, `escape` or `check`, in lower case.
    pub name: String,
    /// The value as written, without blanks around.
    pub value: String,
    /// From the `#` to the end of the line.
    pub span: Span,
    /// Where the value stands.
    pub value_span: Span,
}

/// The directives met so far, and whether more may come.
#[derive(Debug)]
pub(super) struct Directives {
    /// The escape character in force.
    pub(super) escape: char,
    /// What was met, in order.
    pub(super) found: Vec<Directive>,
    closed: bool,
    lines: usize,
    shebang: bool,
}

impl Default for Directives {
    fn default() -> Self {
        Self { escape: '\\', found: Vec::new(), closed: false, lines: 0, shebang: false }
    }
}

impl Directives {
    /// Looks at one line, `body` being without blanks at its start, and tells whether it is a
    /// directive.
    pub(super) fn read(
        &mut self,
        body: &[u8],
        start: usize,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> bool {
        self.lines += 1;
        if self.closed {
            return false;
        }
        if self.lines == 1 && body.starts_with(b"#!") {
            self.shebang = true;
            return false;
        }
        let text = String::from_utf8_lossy(body);
        let Ok((_, (name, value))) = directive(&text) else {
            self.closed = true;
            return false;
        };
        let name = name.to_ascii_lowercase();
        let span = Span::new(start, start + body.len());
        if !NAMES.contains(&name.as_str()) {
            self.closed = true;
            if let Some(near) = nearest(&name, &NAMES) {
                let message = format!("{} is no parser directive but a comment", quote(&name));
                diagnostics.push(
                    Diagnostic::warning("unknown-directive", span, message)
                        .with_hint(format!("did you mean `{near}`?")),
                );
            }
            return false;
        }
        let value_start = start + (value.as_ptr() as usize - text.as_ptr() as usize);
        let value_span =
            Span::new(value_start.min(span.end), (value_start + value.len()).min(span.end));
        if let Some(first) = self.found.iter().find(|found| found.name == name) {
            // BuildKit looks for each directive on its own behind a `#!` line, and takes the first.
            if self.shebang {
                return true;
            }
            let message = format!("only one `{name}` parser directive can be used");
            diagnostics.push(
                Diagnostic::error("duplicate-directive", span, message)
                    .with_label(first.span, "first given here"),
            );
            return true;
        }
        if name == "escape" {
            self.set_escape(value, value_span, diagnostics);
        }
        self.found.push(Directive { name, value: value.to_owned(), span, value_span });
        true
    }

    fn set_escape(&mut self, value: &str, span: Span, diagnostics: &mut Vec<Diagnostic>) {
        match value {
            // BuildKit looks for `syntax` and `check` behind a `#!` line, but not for `escape`.
            _ if self.shebang => {}
            "\\" => self.escape = '\\',
            "`" => self.escape = '`',
            _ => diagnostics.push(
                Diagnostic::error(
                    "invalid-escape",
                    span,
                    format!("invalid escape token {}", quote(value)),
                )
                .with_hint("use a backslash or a backtick"),
            ),
        }
    }
}

/// `# name = value`, giving the name and the value without blanks around.
fn directive(text: &str) -> IResult<&str, (&str, &str)> {
    let blanks = || take_while(char::is_whitespace);
    let name = recognize(pair(alpha1, take_while(|ch: char| ch.is_ascii_alphanumeric())));
    let (value, (_, _, name, _, _, _)) =
        (character('#'), blanks(), name, blanks(), character('='), blanks()).parse(text)?;
    let value = value.trim_end();
    if value.is_empty() {
        let error = nom::error::Error::new(value, nom::error::ErrorKind::NonEmpty);
        return Err(nom::Err::Error(error));
    }
    Ok(("", (name, value)))
}

#[cfg(test)]
mod tests {
    use crate::parser::parse;

    fn check(text: &str, escape: char, directives: &[&str]) {
        let dockerfile = parse(text.as_bytes()).dockerfile;
        let found: Vec<String> =
            dockerfile.directives.iter().map(|d| format!("{}={}", d.name, d.value)).collect();
        assert_eq!(
            (dockerfile.escape, found.as_slice()),
            (escape, &directives.iter().map(|d| (*d).to_owned()).collect::<Vec<_>>()[..]),
            "{text:?}"
        );
    }

    #[test]
    fn only_the_top_of_the_file_counts() {
        check("# escape=`\nFROM a", '`', &["escape=`"]);
        check("#Escape = ` \r\n#syntax=a b\nFROM a", '`', &["escape=`", "syntax=a b"]);
        check("\n# escape=`\nFROM a", '\\', &[]);
        check("# a comment\n# escape=`\nFROM a", '\\', &[]);
        check("# other=1\n# escape=`\nFROM a", '\\', &[]);
        check("#!/bin/x\n# check=skip=all\nFROM a", '\\', &["check=skip=all"]);
        check("#!/bin/x\n# escape=`\nFROM a", '\\', &["escape=`"]);
        check("#!/bin/x\n# check=a\n# check=b\nFROM a", '\\', &["check=a"]);
        check("# escape=\nFROM a", '\\', &[]);
    }
}
