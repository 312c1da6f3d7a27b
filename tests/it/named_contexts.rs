//! `--build-context`: what stands in the place of stages and images.

use std::fs;
use std::path::{Path, PathBuf};

use crate::env::{TestEnv, bare, plain_user, with_base};
use crate::image::SavedImage;

/// `NAME=VALUE`, with a path of the test's own at its end.
fn named(name: &str, path: &Path) -> String {
    format!("{name}={}", path.to_str().expect("UTF-8"))
}

#[track_caller]
fn built(env: &TestEnv, dockerfile: &str, contexts: &[&str]) -> SavedImage {
    let context = env.dockerfile(dockerfile);
    let args: Vec<&str> = contexts.iter().flat_map(|given| ["--build-context", given]).collect();
    env.built_from(&context, &args)
}

#[track_caller]
fn fails(env: &TestEnv, dockerfile: &str, given: &str, code: i32) -> String {
    let ran = env.build(&env.dockerfile(dockerfile), &["--build-context", given]);
    assert_eq!(ran.code, Some(code), "{}", ran.stderr);
    ran.stderr
}

fn paths(image: &SavedImage) -> Vec<String> {
    image.files().into_keys().collect()
}

#[test]
fn a_context_stands_in_the_place_of_a_whole_stage() {
    let Some(env) = bare() else { return };
    let folder = env.context(&[("f", "F"), ("hidden", ""), (".dockerignore", "hidden\n.d*\n")]);
    let one = &named("one", &folder);
    let stage = "FROM no/such/image AS one\nRUN false\n";
    let check = |rest: &str, expected: &[&str]| {
        let image = built(&env, &format!("{stage}{rest}"), &[one]);
        assert_eq!(paths(&image), expected, "{rest}");
    };
    check("FROM scratch\nCOPY --from=one f /x\n", &["x"]);
    check("FROM scratch\nCOPY --from=0 f /x\n", &["x"]);
    check("FROM scratch\nCOPY --from=ONE . /x/\n", &["x", "x/f"]);
    check("FROM one\nCOPY Dockerfile /d\n", &["d", "f"]);
    check("", &["f"]);
}

#[test]
fn a_folder_may_be_a_base() {
    let Some(env) = bare() else { return };
    let folder = env.context(&[("f", "F")]);
    let image = built(&env, "FROM base\nENV A=b\nCOPY Dockerfile /d\n", &[&named("base", &folder)]);
    assert_eq!(paths(&image), ["d", "f"]);
    assert_eq!((image.layers.len(), image.env("A")), (2, Some("b")));
    assert!(image.env("PATH").is_some());
}

#[test]
fn names_are_those_of_images() {
    let Some(env) = bare() else { return };
    let folder = env.context(&[("f", "F")]);
    for (given, asked) in [
        ("a", "a:latest"),
        ("a:latest", "a"),
        ("docker.io/library/a", "a"),
        ("a:3", "a:3"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
    ] {
        let dockerfile = format!("FROM scratch\nCOPY --from={asked} f /x\n");
        assert_eq!(paths(&built(&env, &dockerfile, &[&named(given, &folder)])), ["x"], "{given}");
    }
    let other = "FROM scratch\nCOPY --from=a f /x\n";
    let args = ["--pull=never", "--build-context", &named("a:3", &folder)];
    let ran = env.build(&env.dockerfile(other), &args);
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("image `a:latest` not found"), "{}", ran.stderr);
    // `scratch` and numbers are nobody's names.
    let image = built(&env, "FROM scratch\nCOPY Dockerfile /d\n", &[&named("scratch", &folder)]);
    assert_eq!(paths(&image), ["d"]);
    let two = "FROM scratch\nCOPY Dockerfile /d\nFROM scratch\nCOPY --from=0 . /\n";
    assert_eq!(paths(&built(&env, two, &[&named("0", &folder)])), ["d"]);
    for given in ["Upper=.", "a b=.", "=.", "a", "a::linux/amd64=.", "a=docker-image://A@B"] {
        fails(&env, "FROM scratch\n", given, 2);
    }
}

#[test]
fn images_by_name_and_nothing_at_all() {
    let Some(env) = with_base() else { return };
    let image = built(&env, "FROM x\nCOPY Dockerfile /d\n", &["x=docker-image://scratch"]);
    assert_eq!(paths(&image), ["d"]);
    let image = built(&env, "FROM x\nRUN echo 1 >/one\n", &["x=docker-image://base"]);
    assert_eq!(image.text("one"), "1\n");
    // One that nobody needs may be missing.
    built(&env, "FROM scratch\nLABEL a=b\n", &["x=docker-image://no/such"]);
}

/// A layout with the images `one` (a file `1`) and `two` (a file `2`).
fn layout(env: &TestEnv) -> PathBuf {
    let out = env.path("home/layout");
    for name in ["one", "two"] {
        let text = format!("FROM scratch\nCOPY <<E /{name}\n{name}\nE\nENV WHO={name}\n");
        let output = format!("type=oci,tar=false,dest={}", out.display());
        let tag = format!("any:{name}");
        env.build(&env.dockerfile(&text), &["-t", &tag, "-o", &output]).success();
    }
    env.mica(["system", "prune"]).success();
    out
}

fn layouts(env: &TestEnv) {
    let out = layout(env);
    let given = |rest: &str| format!("base=oci-layout://{}{rest}", out.display());
    let image = built(env, "FROM base\nCOPY Dockerfile /d\n", &[&given(":two")]);
    assert_eq!((paths(&image), image.env("WHO")), (vec!["d".into(), "two".into()], Some("two")));
    let image = built(env, "FROM scratch\nCOPY --from=base /one /x\n", &[&given(":one")]);
    assert_eq!(image.text("x"), "one\n");
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("index.json")).expect("an index")).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
    let image = built(env, "FROM base\n", &[&given(&format!("@{digest}"))]);
    assert_eq!(paths(&image), ["one"]);
    assert!(!env.mica(["images"]).success().contains("any"), "it has a name in the store");
    let said = fails(env, "FROM base\n", &given(":three"), 1);
    assert!(said.contains("none of its images has the tag `three`"), "{said}");
}

#[test]
fn an_image_of_a_layout() {
    let Some(env) = bare() else { return };
    layouts(&env);
}

#[test]
fn an_image_of_a_layout_for_a_plain_user() {
    let Some(env) = plain_user() else { return };
    layouts(&env);
}

#[test]
fn a_layout_that_lies_is_refused() {
    let Some(env) = bare() else { return };
    let out = layout(&env);
    let given = format!("base=oci-layout://{}:one", out.display());
    let blobs = out.join("blobs/sha256");
    let build = || env.build(&env.dockerfile("FROM base\n"), &["--build-context", &given]);
    let mut needed = 0;
    for blob in fs::read_dir(&blobs).expect("blobs").flatten() {
        let bytes = fs::read(blob.path()).expect("to read");
        let mut wrong = bytes.clone();
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        fs::write(blob.path(), &wrong).expect("to write");
        let changed = build();
        fs::remove_file(blob.path()).expect("to remove");
        let gone = build();
        // Those of the other image are not even read.
        if changed.code == Some(1) {
            needed += 1;
            assert!(changed.stderr.contains("does not have the digest"), "{}", changed.stderr);
            assert!(gone.stderr.contains("lacks `blobs/"), "{}", gone.stderr);
        }
        fs::write(blob.path(), bytes).expect("to write");
        env.mica(["system", "prune"]).success();
    }
    assert_eq!(needed, 3, "manifest, config and layer");
    fs::remove_file(out.join("index.json")).expect("to remove");
    let said = fails(&env, "FROM base\n", &given, 1);
    assert!(said.contains("it has no `index.json`"), "{said}");
}
