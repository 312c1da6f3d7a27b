//! That each code of an error has a case in `testdata`, be it of the parser or of lowering.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// The errors of a case: of the parser, or of lowering with `args`.
fn codes(case: &Path) -> Vec<&'static str> {
    let text = fs::read(case.join("Dockerfile")).expect("a Dockerfile");
    let args = fs::read_to_string(case.join("args")).unwrap_or_default();
    let args: Vec<&str> = args.lines().collect();
    let parsed = parser::parse(&text);
    if parsed.is_ok() {
        let mut options = Options::default();
        for pair in args.chunks_exact(2) {
            match pair[0] {
                "--target" => options.target = Some(pair[1].to_owned()),
                "--build-context" => {
                    let name = pair[1].split('=').next().expect("a name");
                    let name = name.parse().expect("an image's name");
                    options.named_contexts.insert(&name, NamedContext::Folder(1));
                }
                other => panic!("{other} is not known here"),
            }
        }
        let inputs = Inputs {
            dockerfile: &parsed.dockerfile,
            options: &options,
            images: &NoImages,
            ignore: None,
            purpose: Purpose::Build,
        };
        match lower(&inputs, &mut Checks::default()) {
            Err(BuildError::Dockerfile(found)) => found.iter().map(|found| found.code).collect(),
            other => panic!("{}: {other:?}", case.display()),
        }
    } else {
        let errors = parsed.diagnostics.iter().filter(|found| found.severity == Severity::Error);
        errors.map(|found| found.code).collect()
    }
}

fn folder(name: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_dir(root).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
}

/// What stands as the first argument of a call like that of `Diagnostic::error`.
fn codes_in_source(folders: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in folders.iter().flat_map(|name| folder(name)).filter(|path| path.is_file()) {
        let text = fs::read_to_string(path).expect("text");
        for (_, behind) in
            text.match_indices("error(").map(|(at, call)| text.split_at(at + call.len()))
        {
            let Some(behind) = behind.trim_start().strip_prefix('"') else { continue };
            let Some((code, _)) = behind.split_once("\",") else { continue };
            if code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
                found.insert(code.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_code_has_a_case() {
    let cases = [folder("testdata/dockerfiles/err"), folder("testdata/builds/err")].concat();
    let cases: BTreeSet<String> =
        cases.iter().flat_map(|case| codes(case)).map(str::to_owned).collect();
    let source = codes_in_source(&["src/parser", "src/parser/word", "src/builder/lower"]);
    assert!(source.len() > 30, "{source:?}");
    let missing: Vec<_> = source.difference(&cases).collect();
    assert!(missing.is_empty(), "without a folder in testdata/…/err: {missing:?}");
}
