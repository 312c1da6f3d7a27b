//! Every refusal of a Dockerfile as people read it: the folders of `testdata/builds/err`.
//!
//! Each holds a `Dockerfile`, what mica says (`expected`), and perhaps arguments for it, one a line
//! (`args`); no registry is asked. `UPDATE_TESTDATA=1 cargo test --test it refusals` writes what is expected.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::env::{TestEnv, bare};

/// An image of a trigger alone.
fn trigger(env: &TestEnv, name: &str, text: &str) {
    let context = env.dockerfile(&format!("FROM scratch\nONBUILD {text}\n"));
    let ran = env.build(&context, &["--progress", "quiet", "-t", name]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

/// What mica says of one case.
fn refuse(env: &TestEnv, case: &Path) -> String {
    let context = env.context(&[]);
    let name = case.display();
    fs::copy(case.join("Dockerfile"), context.join("Dockerfile")).expect("to copy");
    env.give(&context);
    let args = fs::read_to_string(case.join("args")).unwrap_or_default();
    let args: Vec<&str> =
        ["--progress", "quiet", "--pull=never"].into_iter().chain(args.lines()).collect();
    let ran = env.build(&context, &args);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{name}: {}", ran.stderr);
    for c in ran.stderr.chars() {
        assert!(c == '\n' || !c.is_control(), "{name}: {:?}", ran.stderr);
    }
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() < 700), "{name}: {}", ran.stderr);
    let is_title = |line: &&&str| line.starts_with("error: ");
    assert_eq!(lines.iter().filter(is_title).count(), 1, "{name}: {}", ran.stderr);
    assert!(lines.iter().filter(|line| line.starts_with("hint: ")).count() <= 1, "{name}");
    ran.stderr
}

#[test]
fn every_case_says_what_is_expected() {
    let Some(env) = bare() else { return };
    trigger(&env, "with-unknown-trigger", "RUNN make");
    trigger(&env, "with-needy-trigger", "LABEL version=\"${VERSION:?which one}\"");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/builds/err");
    let mut cases: Vec<_> =
        fs::read_dir(root).expect("cases").map(|entry| entry.expect("an entry").path()).collect();
    cases.sort();
    assert!(cases.len() > 50);
    let mut wrong = Vec::new();
    for case in cases {
        let said = refuse(&env, &case);
        let path = case.join("expected");
        if std::env::var_os("UPDATE_TESTDATA").is_some() {
            fs::write(&path, &said).expect("to write");
        }
        let names = fs::read_dir(&case).expect("files").map(|entry| entry.expect("an entry"));
        let mut names: BTreeSet<_> = names.map(|entry| entry.file_name()).collect();
        names.remove(std::ffi::OsStr::new("args"));
        assert_eq!(
            names,
            BTreeSet::from(["Dockerfile".into(), "expected".into()]),
            "{}",
            case.display()
        );
        let expected = fs::read_to_string(&path).expect("text");
        if said != expected {
            wrong.push(format!("{}\n{said}\ninstead of\n{expected}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
