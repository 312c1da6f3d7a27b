//! `mica check`, `mica build --check` and its kin, and what a build says of checks.

use serde_json::Value;

use crate::env::{bare, write};

const ODD: &str = "FROM scratch AS Foo\nENV a b\nCOPY file $nope\n";

#[test]
fn a_check_shows_places_and_makes_no_store() {
    let Some(env) = bare() else { return };
    let context = env.context(&[("Dockerfile", ODD)]);
    let ran = env.mica(["check".as_ref(), context.as_os_str()]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), ""));
    let shown = ran.stdout.replace(&format!("{}/", context.display()), "");
    insta::assert_snapshot!(shown, @r#"
    warning: StageNameCasing: Stage name 'Foo' should be lowercase
     --> Dockerfile:1:17
      |
    1 | FROM scratch AS Foo
      |                 ^^^
    warning: LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format
     --> Dockerfile:2:1
      |
    2 | ENV a b
      | ^^^^^^^
    warning: UndefinedVar: Usage of undefined variable '$nope'
     --> Dockerfile:3:11
      |
    3 | COPY file $nope
      |           ^^^^^

    Check complete, 3 warnings have been found!
    "#);
    assert!(!env.store().join("v1").exists(), "nothing was to be kept");
}

#[test]
fn build_check_is_json_as_buildkit_has_it() {
    let Some(env) = bare() else { return };
    let context = env.context(&[("Dockerfile", ODD)]);
    let ran =
        env.mica(["build".as_ref(), "--call=check,format=json".as_ref(), context.as_os_str()]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let found: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(found["warnings"][1]["ruleName"], "LegacyKeyValueFormat");
    assert_eq!(found["warnings"][1]["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(found["sources"][0]["filename"], "Dockerfile");
    write(&context, "Dockerfile", "FROM scratch\n");
    let ran = env.mica(["build".as_ref(), "--check".as_ref(), context.as_os_str()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "Check complete, no warnings found.\n"));
}

#[test]
fn a_build_lists_findings_and_error_refuses_it() {
    let Some(env) = bare() else { return };
    let files = [("Dockerfile", ODD), ("file", "text")];
    let context = env.context(&files);
    let ran = env.build(&context, &["--progress", "plain"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let listed = ran.stderr.split("\n\n").find(|part| part.contains("found")).expect("a list");
    let listed: Vec<&str> = listed.lines().take_while(|line| !line.starts_with("built")).collect();
    insta::assert_snapshot!(listed.join("\n"), @r#"
    3 warnings found (`mica check` shows the places):
     - StageNameCasing: Stage name 'Foo' should be lowercase (line 1)
     - LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 2)
     - UndefinedVar: Usage of undefined variable '$nope' (line 3)
    "#);
    write(&context, "Dockerfile", &format!("# check=error=true\n{ODD}"));
    let ran = env.build(&context, &["--progress", "quiet"]);
    assert_eq!(ran.code, Some(2));
    insta::assert_snapshot!(ran.stderr, @r"
    error: lint violation found for rules: LegacyKeyValueFormat, StageNameCasing, UndefinedVar
    hint: `# check=error=true` makes it one
    ");
}

#[test]
fn raw_json_has_findings_as_events() {
    let Some(env) = bare() else { return };
    let context = env.context(&[("Dockerfile", "FROM scratch AS Foo\n")]);
    let ran = env.build(&context, &["--progress", "rawjson"]);
    let events = ran.stderr.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let warning = events.into_iter().find_map(|event| event.get("warnings").cloned());
    let warning = warning.expect("an event");
    assert_eq!(warning[0]["range"][0]["start"]["line"], 1);
    assert_eq!(warning[0]["sourceInfo"]["filename"], "Dockerfile");
}
