//! Mends what can be mended without a change of what is built.

use super::syntax::{casing, majority};
use super::{Finding, Rule, extent};
use crate::parser::{Dockerfile, FromImage, Instruction, Pairs, Span, Statement, Word};

/// A part of the text and what takes its place.
type Edit = (Span, String);

/// The text with the findings mended that can be; `None` where that changes nothing.
///
/// What is built stays what it was, but for a MAINTAINER, which becomes the label that took its
/// place. The mended text has nothing that would be mended again.
pub fn fix(dockerfile: &Dockerfile, text: &str, findings: &[Finding]) -> Option<String> {
    let mut edits = Vec::new();
    for finding in findings {
        if finding.rule == Rule::NoEmptyContinuation {
            edits.extend(empty_lines(text, finding));
        }
        // Where FROM itself is mended, so is its `as`.
        let of_keyword = |other: &Finding| {
            other.rule == Rule::ConsistentInstructionCasing && other.extent == finding.extent
        };
        if finding.rule == Rule::FromAsCasing && findings.iter().any(of_keyword) {
            continue;
        }
        let mut statements = dockerfile.statements.iter();
        if let Some(statement) = statements.find(|found| extent(found) == finding.extent) {
            edits.extend(of_statement(finding.rule, dockerfile, statement));
        }
    }
    apply(text, edits)
}

fn apply(text: &str, mut edits: Vec<Edit>) -> Option<String> {
    // Of two edits of one place, the larger.
    edits.sort_by_key(|(span, _)| (span.start, std::cmp::Reverse(span.end)));
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (span, new) in edits {
        if span.start < done || text.get(span.range()).is_none() {
            continue;
        }
        out.push_str(&text[done..span.start]);
        out.push_str(&new);
        done = span.end;
    }
    out.push_str(&text[done..]);
    (out != text).then_some(out)
}

fn of_statement(rule: Rule, dockerfile: &Dockerfile, statement: &Statement) -> Vec<Edit> {
    let wanted = majority(&dockerfile.statements);
    let keyword = &statement.keyword;
    match (rule, &statement.instruction) {
        (Rule::ConsistentInstructionCasing, instruction) => {
            let mut edits = vec![(keyword.span, wanted.apply(&keyword.text))];
            if let Instruction::From(FromImage { as_keyword: Some(word), .. }) = instruction {
                edits.push((word.span, wanted.apply(&word.text)));
            }
            edits
        }
        (Rule::FromAsCasing, Instruction::From(FromImage { as_keyword: Some(word), .. })) => {
            let own = casing(&keyword.text);
            own.map(|own| (word.span, own.apply(&word.text))).into_iter().collect()
        }
        (Rule::StageNameCasing, Instruction::From(FromImage { alias: Some(alias), .. })) => {
            vec![(alias.span, alias.text.to_lowercase())]
        }
        (Rule::LegacyKeyValueFormat, Instruction::Env(pairs) | Instruction::Label(pairs)) => {
            pair(pairs, dockerfile.escape).into_iter().collect()
        }
        (Rule::ExposeProtoCasing, Instruction::Expose(ports)) => {
            ports.iter().filter_map(protocol).collect()
        }
        (Rule::MaintainerDeprecated, Instruction::Maintainer(name)) => {
            let Some(value) = quoted(&name.text, dockerfile.escape) else { return Vec::new() };
            if name.text.contains('$') || statement.span.len() != statement.original.trim().len() {
                return Vec::new();
            }
            let label = wanted.apply("LABEL");
            vec![(statement.span, format!("{label} org.opencontainers.image.authors={value}"))]
        }
        _ => Vec::new(),
    }
}

/// `key value` as `key=value`, where it is on one line and its value means the same in quotes.
fn pair(pairs: &Pairs, escape: char) -> Option<Edit> {
    let [(key, value)] = pairs.pairs.as_slice() else { return None };
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let is_one_line = |word: &Word| word.span.len() == word.text.len();
    if !pairs.legacy || !key.text.chars().all(plain) || !is_one_line(key) || !is_one_line(value) {
        return None;
    }
    let text = quoted(&value.text, escape)?;
    Some((key.span.to(value.span), format!("{}={text}", key.text)))
}

/// A value as one word, in double quotes where it needs some.
fn quoted(value: &str, escape: char) -> Option<String> {
    let is_special = |c: char| c == escape || c.is_control() || "\"'`\\".contains(c);
    if value.is_empty() || value.contains(is_special) {
        return None;
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:,@%+-$".contains(c);
    Some(if value.chars().all(is_plain) { value.to_owned() } else { format!("\"{value}\"") })
}

/// The protocol of a port in lower case.
fn protocol(port: &Word) -> Option<Edit> {
    let (_, protocol) = port.text.split_once('/')?;
    let is_name = !protocol.is_empty() && protocol.chars().all(|c| c.is_ascii_alphabetic());
    if !is_name || port.span.len() != port.text.len() {
        return None;
    }
    let span = Span::new(port.span.end - protocol.len(), port.span.end);
    Some((span, protocol.to_lowercase()))
}

/// The empty lines of an instruction, from its first to its last line.
fn empty_lines(text: &str, finding: &Finding) -> Vec<Edit> {
    let (start, end) = (finding.span.start, finding.extent.end.max(finding.extent.start));
    let mut edits = Vec::new();
    let mut at = start;
    for line in text.get(start..).unwrap_or_default().split_inclusive('\n') {
        if at > end {
            break;
        }
        if line.trim().is_empty() {
            edits.push((Span::new(at, at + line.len()), String::new()));
        }
        at += line.len();
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::Checks;
    use crate::parser::parse;

    fn fixed(text: &str) -> Option<String> {
        let parsed = parse(text.as_bytes());
        let mut checks = Checks::new(&parsed, None).unwrap();
        // What lowering would find.
        for statement in &parsed.dockerfile.statements {
            let legacy = match &statement.instruction {
                Instruction::Env(pairs) | Instruction::Label(pairs) => pairs.legacy,
                _ => false,
            };
            if legacy {
                checks.report(Finding::of(Rule::LegacyKeyValueFormat, statement, ""));
            }
            checks.report(Finding::of(Rule::ExposeProtoCasing, statement, ""));
        }
        fix(&parsed.dockerfile, text, checks.found())
    }

    #[test]
    fn what_is_mended() {
        for (text, expected) in [
            ("FROM a as B\n", "FROM a AS b\n"),
            ("from a AS b\n", "from a as b\n"),
            ("from a as b\nRUN x\nRun y\n", "FROM a AS b\nRUN x\nRUN y\n"),
            ("FROM a\nENV a b c\n", "FROM a\nENV a=\"b c\"\n"),
            ("FROM a\nENV a  $b:c\nLABEL x.y 1\n", "FROM a\nENV a=$b:c\nLABEL x.y=1\n"),
            (
                "FROM a\nMAINTAINER A <b@c>\n",
                "FROM a\nLABEL org.opencontainers.image.authors=\"A <b@c>\"\n",
            ),
            (
                "FROM a\nRUN a \\\n\n b \\\n \n# c\n c\n\nRUN d\n",
                "FROM a\nRUN a \\\n b \\\n# c\n c\n\nRUN d\n",
            ),
            ("FROM a\nRUN a \\\n\n", "FROM a\nRUN a \\\n"),
            ("FROM a\nEXPOSE 80/TCP 81 $x/UDP\n", "FROM a\nEXPOSE 80/tcp 81 $x/udp\n"),
            (
                "# check=skip=StageNameCasing\nFROM a as B\n",
                "# check=skip=StageNameCasing\nFROM a AS B\n",
            ),
        ] {
            let found = fixed(text).expect(text);
            assert_eq!(found, expected, "{text}");
            assert_eq!(fixed(&found), None, "once more: {text}");
        }
    }

    #[test]
    fn what_is_left_alone() {
        for text in [
            "FROM a AS b\nRUN c\n",
            "FROM a\nENV a it's\nENV b \"c d\"\nENV e f\\ g\n",
            "FROM a\nENV a b \\\n c\n",
            "FROM a\nMAINTAINER $x\nMAINTAINER \"q\"\n",
            "FROM a\nCMD b\n",
            "FROM a\nRUN <<b\n\nx \\\n\nb\n",
        ] {
            assert_eq!(fixed(text), None, "{text}");
        }
    }
}
