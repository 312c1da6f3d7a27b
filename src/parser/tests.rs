//! The whole parser: cases from `testdata/dockerfiles`, properties, and hostile inputs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::dump::dump;
use super::*;

/// Diagnostics as text: severity, code, line:column, what is marked, message and hint.
fn render(text: &[u8], diagnostics: &[Diagnostic]) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        let span = diagnostic.span();
        let before = String::from_utf8_lossy(&text[..span.start]).into_owned();
        let (line, start) =
            (before.matches('\n').count() + 1, before.rfind('\n').map_or(0, |at| at + 1));
        let marked = String::from_utf8_lossy(&text[span.range()]);
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let column = before[start..].chars().count() + 1;
        writeln!(out, "{severity}[{}] {line}:{column} {marked:?}", diagnostic.code).unwrap();
        writeln!(out, "  {}", diagnostic.message).unwrap();
        for (span, label) in &diagnostic.labels[1..] {
            writeln!(out, "  {label}: {:?}", String::from_utf8_lossy(&text[span.range()])).unwrap();
        }
        if let Some(hint) = &diagnostic.hint {
            writeln!(out, "  hint: {hint}").unwrap();
        }
    }
    out
}

/// Runs `check` on every folder of `testdata/dockerfiles/KIND`; each must hold a `Dockerfile` and
/// the file `expected`, and nothing else. With `UPDATE_TESTDATA` set the latter is written.
fn cases(kind: &str, expected: &str, check: impl Fn(&[u8]) -> String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dockerfiles").join(kind);
    let mut folders: Vec<_> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() > 5);
    for folder in folders {
        let text = fs::read(folder.join("Dockerfile")).unwrap();
        let found = check(&text);
        if option_env!("UPDATE_TESTDATA").is_some() {
            fs::write(folder.join(expected), &found).unwrap();
        }
        let files: BTreeSet<_> =
            fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(files, BTreeSet::from(["Dockerfile".into(), expected.into()]), "{folder:?}");
        let expected = fs::read_to_string(folder.join(expected)).unwrap();
        assert_eq!(found, expected, "{}", folder.display());
    }
}

#[test]
fn well_formed_dockerfiles() {
    cases("ok", "tree", |text| {
        let parsed = parse(text);
        let warnings = render(text, &parsed.diagnostics);
        assert!(parsed.is_ok(), "{warnings}");
        dump(text).unwrap() + &warnings
    });
}

#[test]
fn malformed_dockerfiles() {
    cases("err", "diagnostics", |text| {
        let parsed = parse(text);
        assert!(!parsed.is_ok());
        render(text, &parsed.diagnostics)
    });
}

/// A corpus in BuildKit's form may be compared too: folders with a `Dockerfile` and a `result`,
/// those called `negative-…` without the latter.
#[test]
fn foreign_corpus() {
    let Some(root) = option_env!("MICA_PARSER_CORPUS") else { return };
    for entry in fs::read_dir(root).unwrap() {
        let folder = entry.unwrap().path();
        let text = fs::read(folder.join("Dockerfile")).unwrap();
        match fs::read_to_string(folder.join("result")) {
            Ok(expected) => assert_eq!(dump(&text).unwrap().trim(), expected.trim(), "{folder:?}"),
            Err(_) => assert!(dump(&text).is_err() || !parse(&text).is_ok(), "{folder:?}"),
        }
    }
}

fn only(text: &str) -> Instruction {
    let mut parsed = parse_statements(text.as_bytes());
    assert_eq!(parsed.diagnostics, [], "{text}");
    assert_eq!(parsed.dockerfile.statements.len(), 1, "{text}");
    parsed.dockerfile.statements.remove(0).instruction
}

#[test]
fn scripts_are_what_the_shell_gets() {
    let script = |text: &str| match only(text) {
        Instruction::Run(Run { command: Command::Shell(shell), .. }) => shell.script(),
        other => panic!("{other:?}"),
    };
    let text = |text: &str| Script::Text(text.to_owned());
    assert_eq!(script("RUN a  b \\\n  c"), text("a  b   c"));
    assert_eq!(script("RUN"), text(""));
    assert_eq!(script("RUN <<EOF\na\n b\nEOF\n"), text("a\n b\n"));
    assert_eq!(script("RUN <<-EOF\n\ta\n\tEOF\n"), text("a\n"));
    assert_eq!(
        script("RUN cat <<-A <<B >x\n\ta\n\tA\nb\nB\n"),
        text("cat <<-A <<B >x\n\ta\nA\nb\nB")
    );
    assert_eq!(script("RUN echo \"<<EOF\""), text("echo \"<<EOF\""));
    let file = Script::File { name: "EOF".to_owned(), content: "#!/bin/x\n\n".to_owned() };
    assert_eq!(script("RUN <<EOF\n#!/bin/x\n\nEOF"), file);
}

#[test]
fn heredocs_become_sources() {
    let Instruction::Copy(copy) = only("COPY <<A b <<-'C' /d/\na\r\nA\n\tc$x\n\tC\n") else {
        panic!("not a copy");
    };
    let sources: Vec<String> = copy
        .sources
        .iter()
        .map(|source| match source {
            Source::Path(word) => word.text.clone(),
            Source::Heredoc(_, h) => format!("{} {} {:?}", h.name, h.expand, h.body()),
        })
        .collect();
    assert_eq!(sources, ["A true \"a\\r\\n\"", "b", "C false \"c$x\\n\""]);
}

#[test]
fn triggers() {
    let Instruction::Onbuild(onbuild) = only("onbuild  run  <<EOF\nx\nEOF\n") else {
        panic!("not a trigger");
    };
    assert_eq!(onbuild.trigger, "run  <<EOF\nx\nEOF");
    let statement = parse_trigger(&onbuild.trigger).unwrap();
    let keyword = onbuild.instruction.map(|instruction| instruction.keyword());
    assert_eq!(keyword, Some(Keyword::Run));
    assert_eq!(statement.instruction.keyword(), Keyword::Run);
    for trigger in ["FROM a", "MAINTAINER a", "ONBUILD RUN a", "", "RUN a\nRUN b", "WAT"] {
        assert!(parse_trigger(trigger).is_err(), "{trigger}");
    }
}

#[test]
fn parts_have_exact_spans() {
    let text = "FROM --platform=\\\n$P a AS \\\n  b\nCOPY --from=b --chown=\"u\" \\\n x y\nENV k=\"v w\" q=1\n";
    let at = |span: Span| &text[span.range()];
    let statements = parse(text.as_bytes()).dockerfile.statements;
    let Instruction::From(from) = &statements[0].instruction else { panic!() };
    assert_eq!(at(from.platform.as_ref().unwrap().span), "$P");
    assert_eq!((at(from.image.span), at(from.alias.as_ref().unwrap().span)), ("a", "b"));
    let Instruction::Copy(copy) = &statements[1].instruction else { panic!() };
    assert_eq!(at(copy.chown.as_ref().unwrap().span), "\"u\"");
    assert_eq!(at(copy.destination.span), "y");
    let Instruction::Env(env) = &statements[2].instruction else { panic!() };
    let pairs: Vec<_> = env.pairs.iter().map(|(k, v)| (at(k.span), at(v.span))).collect();
    assert_eq!(pairs, [("k", "\"v w\""), ("q", "1")]);
    assert_eq!(at(env.pairs[0].1.part(1..2)), "v");
}

#[test]
fn comments_above_are_kept() {
    let text = "# syntax=x\n# one\n#\n# two\n\n# three\nFROM a\n# four\n";
    let statements = parse(text.as_bytes()).dockerfile.statements;
    let comments: Vec<&str> = statements[0].comments.iter().map(|c| c.text.as_str()).collect();
    assert_eq!(comments, ["two", "three"]);
}

#[test]
fn nothing_secret_is_quoted() {
    let text = b"root:$6$abcdef:19000:0:99999:7:::\ndaemon:*:1:0:9:7:::\n\x1b[2J\n";
    for diagnostic in parse(text).diagnostics {
        assert_eq!(diagnostic.message, "unknown instruction");
        assert_eq!(diagnostic.hint, None);
    }
    assert_eq!(parse("no such\n".repeat(5000).as_bytes()).diagnostics.len(), MAX_DIAGNOSTICS);
}

#[test]
fn hostile_inputs_come_to_an_end() {
    let from = "FROM scratch\n";
    let quotes = "\"".repeat(300_001);
    let bodies = (0..2_000).fold(String::new(), |text, n| text + &format!("{n}\nE{n}\n"));
    let openers = (0..2_000).fold(String::new(), |text, n| text + &format!("<<E{n} "));
    for (text, ok) in [
        (format!("{from}LABEL a={}\n", "x".repeat(4 << 20)), true),
        (format!("{from}RUN a{}", " \\\n b".repeat(300_000)), true),
        (format!("{from}RUN a \\\n{}", "# c\n\n".repeat(100_000)), true),
        (format!("{from}COPY {openers}/x\n{bodies}"), true),
        (format!("{from}{}", "RUN <<EOF\n".repeat(20_000)), false),
        (format!("{from}{}", "ENV a=$a$a\n".repeat(20_000)), true),
        (format!("{from}{}", "ONBUILD ".repeat(300_000)), false),
        (format!("{from}ENV {quotes}=1\n"), true),
        (format!("{from}RUN {}\n", "${a:-".repeat(100_000)), true),
        (format!("{from}RUN {} <<EOF\n", "${a:-".repeat(100_000)), true),
        (format!("{from}RUN {}\n", "<<".repeat(100_000)), true),
        (format!("{from}CMD {}\n", "[".repeat(300_000)), true),
        (format!("{from}CMD [{}1]\n", "\"a\",".repeat(300_000)), false),
        (format!("{from}RUN {}\n", "--mount=target=/x ".repeat(20_000)), true),
        (format!("{from}COPY {}\n", "--link ".repeat(100_000)), false),
        (format!("{from}ARG {}\n", "a=\\".repeat(100_000)), true),
        ("FROM a\0b".to_owned(), false),
        ("\u{feff}".to_owned(), false),
        (String::new(), false),
    ] {
        let start: String = text.chars().take(40).collect();
        assert_eq!(parse(text.as_bytes()).is_ok(), ok, "{start}");
    }
    assert!(!parse(b"\xff\xfeF\0R\0O\0M\0").is_ok());
}

/// Every span of the tree and of the diagnostics.
fn spans(parsed: &Parsed) -> Vec<Span> {
    let mut spans: Vec<Span> = parsed
        .diagnostics
        .iter()
        .flat_map(|diagnostic| diagnostic.labels.iter().map(|(span, _)| *span))
        .collect();
    // All of them are in the debug output, which saves a visitor.
    let tree = format!("{:?}", parsed.dockerfile);
    for part in tree.split("Span { start: ").skip(1) {
        let Some((start, rest)) = part.split_once(", end: ") else { continue };
        let Some((end, _)) = rest.split_once(' ') else { continue };
        if let (Ok(start), Ok(end)) = (start.parse(), end.parse()) {
            spans.push(Span { start, end });
        }
    }
    spans
}

fn assert_total(text: &[u8]) {
    let parsed = parse(text);
    for span in spans(&parsed) {
        assert!(span.start <= span.end && span.end <= text.len(), "{span:?}");
    }
    let mut last = 0;
    for statement in &parsed.dockerfile.statements {
        assert!(statement.span.start >= last, "{:?}", statement.span);
        last = statement.span.end;
        let shown = String::from_utf8_lossy(&text[statement.keyword.span.range()]).into_owned();
        assert!(shown.contains(char::is_alphabetic), "{shown}");
    }
}

/// Text that is likely to reach deep into the parser.
fn dockerfile_like() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "FROM ",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "LABEL ",
        "ONBUILD ",
        "HEALTHCHECK ",
        "CMD ",
        "SHELL ",
        "VOLUME ",
        "EXPOSE ",
        "# escape=`",
        "# c",
        "\n",
        "\n",
        "\r\n",
        "\\\n",
        "`\n",
        "<<EOF",
        "<<-'E'",
        "EOF\n",
        "E\n",
        "--from=",
        "--mount=type=",
        "--link",
        "[\"",
        "\"]",
        "\",\"",
        "a",
        "=",
        " ",
        "\t",
        "$x",
        "${x",
        ":-",
        "}",
        "'",
        "\"",
        "\\",
        "/",
        "é",
        "\u{a0}",
        "NONE",
        "AS ",
    ]);
    prop::collection::vec(token, 0..60).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn any_bytes_parse(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        assert_total(&bytes);
    }

    #[test]
    fn any_tokens_parse(text in dockerfile_like()) {
        assert_total(text.as_bytes());
        assert_total(format!("FROM a\n{text}").as_bytes());
    }

    #[test]
    fn any_word_expands_or_fails(text in dockerfile_like()) {
        let lookup = |name: &str| (name == "x").then_some("a/b.c");
        for escape in ['\\', '`'] {
            if let Err(error) = word::expand(&text, escape, &lookup) {
                prop_assert!(error.range.end <= text.len() && text.get(error.range).is_some());
            }
        }
    }
}
