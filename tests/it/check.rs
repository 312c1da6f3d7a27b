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

/// A rule of `docs/checks.md`: its name, a `.dockerignore`, and the two files that show it.
struct Section<'a> {
    name: &'a str,
    ignore: Option<&'a str>,
    files: Vec<&'a str>,
}

fn sections(page: &str) -> Vec<Section<'_>> {
    page.split("\n### ")
        .skip(1)
        .map(|text| {
            let fenced = |kind: &str| -> Vec<&str> {
                let parts = text.split("```").skip(1).step_by(2);
                parts.filter_map(|part| part.strip_prefix(kind)).map(|part| &part[1..]).collect()
            };
            let name = text.lines().next().unwrap_or_default();
            Section { name, ignore: fenced("text").first().copied(), files: fenced("dockerfile") }
        })
        .collect()
}

#[test]
fn every_rule_has_examples_that_show_it() {
    let Some(env) = bare() else { return };
    let page = include_str!("../../docs/checks.md");
    let sections = sections(page);
    let foreign = env.context(&[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", "")]);
    let platform = ["--platform", "linux/arm64", "-t", "foreign", "-q"];
    assert_eq!(env.build(&foreign, &platform).code, Some(0));
    let empty = env.context(&[("Dockerfile", "FROM scratch\n")]);
    let sarif =
        env.mica(["check".as_ref(), "--format=sarif".as_ref(), empty.as_os_str()]).success();
    let sarif: Value = serde_json::from_str(&sarif).expect("JSON");
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array().expect("rules");
    let named: Vec<&str> = rules.iter().filter_map(|rule| rule["id"].as_str()).collect();
    let mut described: Vec<&str> = sections.iter().map(|section| section.name).collect();
    described.sort_by_key(|name| named.iter().position(|known| known == name));
    assert_eq!(described, named);
    let mut wrong = String::new();
    for section in &sections {
        let [bad, good] = section.files.as_slice() else { panic!("{}", section.name) };
        for (text, expected) in [(bad, vec![section.name]), (good, vec![])] {
            let context = env.context(&[(".dockerignore", section.ignore.unwrap_or_default())]);
            let bytes: Vec<u8> = match text.split_once("\\xff") {
                Some((before, after)) => [before.as_bytes(), b"\xff", after.as_bytes()].concat(),
                None => text.as_bytes().to_vec(),
            };
            std::fs::write(context.join("Dockerfile"), bytes).expect("to write");
            let ran = env.mica(["check".as_ref(), "--format=json".as_ref(), context.as_os_str()]);
            let found: Value = serde_json::from_str(&ran.stdout).expect("JSON");
            let warnings = found["warnings"].as_array().expect("a list");
            let mut rules: Vec<&str> =
                warnings.iter().filter_map(|warning| warning["ruleName"].as_str()).collect();
            rules.dedup();
            if rules != expected || (ran.code == Some(0)) != expected.is_empty() {
                wrong.push_str(&format!("{text}\n{rules:?}, not {expected:?}: {found}\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn fix_mends_the_file_and_tells_what_is_left() {
    let Some(env) = bare() else { return };
    let context = env.context(&[("Dockerfile", "from scratch as Foo\nENV a b c\nCMD x\n")]);
    let ran = env.mica(["check".as_ref(), "--fix".as_ref(), context.as_os_str()]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("mended 3 of 4 in "), "{}", ran.stderr);
    assert!(ran.stdout.contains("JSONArgsRecommended"), "{}", ran.stdout);
    let text = std::fs::read_to_string(context.join("Dockerfile")).expect("a file");
    assert_eq!(text, "FROM scratch AS foo\nENV a=\"b c\"\nCMD x\n");
}

const PARAMETERS: &str = "\
# VERSION what to build
ARG VERSION=1 UNUSED=2
FROM scratch AS deps
ARG VERSION
RUN --mount=type=secret,id=token --mount=type=cache,target=/cache make
# final is what counts
FROM scratch AS final
# MODE how
ARG MODE
COPY --from=deps /x /x
RUN --mount=type=ssh --mount=type=secret,id=token,required=true make
";

#[test]
fn outline_and_targets_tell_of_a_build() {
    let Some(env) = bare() else { return };
    let context = env.context(&[("Dockerfile", PARAMETERS)]);
    let call = |what: &str, more: &[&str]| {
        let flag = format!("--call={what}");
        let mut args = vec!["build", &flag];
        args.extend(more);
        args.push(context.to_str().expect("UTF-8"));
        env.mica(args).success()
    };
    insta::assert_snapshot!(call("outline", &["--build-arg", "MODE=x"]), @r"
    TARGET:      final
    DESCRIPTION: is what counts

    BUILD ARG   VALUE   DESCRIPTION
    VERSION     1       what to build
    MODE        x       how

    SECRET   REQUIRED
    token    true

    SSH       REQUIRED
    default

    CACHE
    /cache
    ");
    insta::assert_snapshot!(call("targets", &[]), @r"
    TARGET            DESCRIPTION
    deps
    final (default)   is what counts
    ");
    let outline: Value =
        serde_json::from_str(&call("outline,format=json", &["--target", "deps"])).expect("JSON");
    assert_eq!(outline["name"], "deps");
    assert_eq!(outline["args"][0]["name"], "VERSION");
    assert_eq!(outline["args"][0]["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(outline["secrets"][0]["required"], Value::Null);
    let targets: Value = serde_json::from_str(&call("targets,format=json", &[])).expect("JSON");
    assert_eq!(targets["targets"][1]["default"], true);
    assert_eq!(targets["targets"][1]["base"], "scratch");
    assert!(call("subrequests.describe", &[]).contains("outline"));
    assert!(!env.store().join("v1").exists(), "nothing was to be kept");
}
