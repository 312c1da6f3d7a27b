//! `images`, `tag`, `rmi`, `inspect`, `history`.

use std::fs;

use serde_json::{Value, json};

use crate::env::{TestEnv, bare, with_base};

fn two_images(env: &TestEnv) -> [String; 2] {
    let one = env.context(&[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "12345")]);
    let two = env.dockerfile("FROM one\nENV X=1\nLABEL a=b\nWORKDIR /w\nCMD [\"x\"]\n");
    let epoch = ["--source-date-epoch", "1000000000"];
    let one = env.id_of(&one, &[&["-t", "one"], &epoch[..]].concat());
    [one, env.id_of(&two, &[&["-t", "localhost:5000/team/two:v2"], &epoch[..]].concat())]
}

#[test]
fn images_are_listed() {
    let Some(env) = bare() else { return };
    assert_eq!(env.mica(["images", "-q"]).success(), "");
    let [one, two] = two_images(&env);
    let table = env.mica(["images"]).success();
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..4], ["REPOSITORY", "TAG", "IMAGE", "ID"]);
    let row = |name: &str| rows.iter().find(|row| row[0] == name).expect("a row").clone();
    assert_eq!(row("one")[1..3], ["latest", &one[7..19]]);
    assert_eq!(row("localhost:5000/team/two")[1..3], ["v2", &two[7..19]]);
    assert_eq!(env.mica(["images", "-q", "one"]).success().trim(), &one[7..19]);
    assert_eq!(env.mica(["images", "-q", "--no-trunc", "one:latest"]).success().trim(), one);
    assert_eq!(env.mica(["images", "-q", "one:other"]).success(), "");
    let lines = env.mica(["images", "--format", "json"]).success();
    let objects: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(objects.len(), 2);
    assert!(objects.iter().any(|image| image["ID"] == one && image["Repository"] == "one"));
    assert_eq!(env.mica(["image", "ls"]).success(), table);
}

#[test]
fn tags_are_names_of_the_same_image() {
    let Some(env) = bare() else { return };
    let [one, two] = two_images(&env);
    env.mica(["tag", "one", "second:name"]).success();
    env.mica(["tag", &one[7..19], "third"]).success();
    for name in ["one", "second:name", "third:latest"] {
        let id = env.mica(["images", "-q", "--no-trunc", name]).success();
        assert_eq!(id.trim(), one, "{name}");
    }
    // A name that is taken moves.
    env.mica(["tag", "localhost:5000/team/two:v2", "third"]).success();
    assert_eq!(env.mica(["images", "-q", "--no-trunc", "third"]).success().trim(), two);
}

#[test]
fn rmi_removes_names_and_then_the_image() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile("FROM base\nRUN head -c 100000 /dev/urandom >/big\n");
    let id = env.id_of(&context, &["-t", "app", "-t", "app:2"]);
    let layers = || fs::read_dir(env.store().join("v1/layers")).expect("a folder").count();
    assert_eq!(layers(), 2);
    assert_eq!(env.mica(["rmi", "app"]).success(), "Untagged: app:latest\n");
    assert_eq!(env.mica(["rmi", "app:2"]).success(), format!("Untagged: app:2\nDeleted: {id}\n"));
    let gone = env.mica(["inspect", &id]);
    assert_eq!(gone.code, Some(1), "{}", gone.stdout);
    assert_eq!(layers(), 2, "the step cache has it still");
    env.mica(["system", "prune"]).success();
    assert_eq!(layers(), 1, "the base is an image still");
    env.mica(["rmi", "base"]).success();
    assert_eq!(layers(), 0);
    assert_eq!(fs::read_dir(env.store().join("v1/blobs/sha256")).expect("a folder").count(), 0);
}

#[test]
fn rmi_by_id_wants_to_be_sure() {
    let Some(env) = bare() else { return };
    let [one, _] = two_images(&env);
    env.mica(["tag", "one", "uno"]).success();
    let refused = env.mica(["rmi", &one]);
    assert_eq!(refused.code, Some(1));
    insta::assert_snapshot!(refused.stderr.replace(&one[7..19], "[id]"), @r"
    error: the image [id] has 2 names
    hint: remove its names one by one, or all with `--force`
    ");
    env.mica(["rmi", "--force", &one]).success();
    assert_eq!(env.mica(["inspect", "uno"]).code, Some(1));
    // The image that was built on it has its layers still.
    assert_eq!(env.saved("localhost:5000/team/two:v2").text("f"), "12345");
}

#[test]
fn inspect_shows_what_the_archive_holds() {
    let Some(env) = bare() else { return };
    let [_, two] = two_images(&env);
    let text = env.mica(["inspect", "localhost:5000/team/two:v2", "one"]).success();
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(shown.as_array().map(Vec::len), Some(2));
    let saved = env.saved(&two);
    assert_eq!(shown[0]["Id"], two);
    assert_eq!(shown[0]["RepoTags"], json!(["localhost:5000/team/two:v2"]));
    assert_eq!(shown[0]["Config"]["Labels"], json!({ "a": "b" }));
    assert_eq!(shown[0]["RootFS"]["Layers"], saved.config["rootfs"]["diff_ids"]);
    assert_eq!(shown[0]["Created"], "2001-09-09T01:46:40Z");
}

#[test]
fn history_is_newest_first() {
    let Some(env) = bare() else { return };
    two_images(&env);
    let table = env.mica(["history", "--no-trunc", "localhost:5000/team/two:v2"]).success();
    let by: Vec<&str> =
        table.lines().skip(1).map(|line| line.split("ago").nth(1).unwrap_or(line).trim()).collect();
    let expected = ["CMD", "WORKDIR /w", "LABEL a=b", "ENV X=1", "COPY f /f"];
    assert_eq!(by.len(), expected.len(), "{table}");
    for (line, instruction) in by.iter().zip(expected) {
        assert!(line.contains(instruction), "{line}");
    }
    let lines = env.mica(["history", "--format", "json", "one"]).success();
    let entry: Value = serde_json::from_str(lines.trim()).expect("JSON");
    assert_eq!(entry["Created"], "2001-09-09T01:46:40Z");
}

#[test]
fn names_that_are_not_there() {
    let Some(env) = bare() else { return };
    two_images(&env);
    for command in ["inspect", "history", "rmi", "run --pull=never", "save"] {
        let ran = env.mica(command.split(' ').chain(["nope"]));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{command}");
        assert!(ran.stderr.starts_with("error: no image `nope` in the store"), "{}", ran.stderr);
    }
    let ran = env.mica(["tag", "one", "UPPER CASE"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
}
