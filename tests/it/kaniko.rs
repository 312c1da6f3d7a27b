//! mica called `executor`, with the command lines of Kaniko's pipelines.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use mica::oci::Digest;
use serde_json::Value;

use crate::env::{Ran, TestEnv, append, bare, with_base};
use crate::image::{SavedImage, members};
use crate::registry::{Registry, Reply};

const APP: &[(&str, &str)] =
    &[("Dockerfile", "FROM scratch\nCOPY a /\nCOPY b /\n"), ("a", "one"), ("b", "two")];

/// mica by Kaniko's name, in a folder, with the store of an environment.
fn executor(env: &TestEnv, folder: &Path, args: &[&str]) -> Command {
    let program = env.path("executor");
    if !program.exists() {
        symlink(env!("CARGO_BIN_EXE_mica"), &program).expect("a link");
    }
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", env.path("home"))
        .env("MICA_ROOT", env.store())
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

fn run(env: &TestEnv, folder: &Path, args: &[&str]) -> Ran {
    Ran::of(&mut executor(env, folder, args))
}

/// The digest of a tag's manifest.
#[track_caller]
fn digest(registry: &Registry, repository: &str, tag: &str) -> String {
    Digest::of(&registry.manifest(repository, tag).expect("the tag is there")).to_string()
}

#[test]
fn a_pipeline_pushes_and_tells_the_digest() {
    let Some(env) = bare() else { return };
    let registry = Registry::start();
    let context = env.context(APP);
    let (one, two) = (registry.name("team/app:1"), registry.name("other:2"));
    let line = ["--context", ".", "--dockerfile=Dockerfile", "-d", &one, "--destination", &two];
    let files = ["--digest-file", "out/digest", "--image-name-with-digest-file=out/names"];
    let more = ["--image-name-tag-with-digest-file=out/tags", "--snapshot-mode=redo", "--force"];
    let ran = run(&env, &context, &[&line[..], &files, &more].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let notes: Vec<&str> =
        ran.stderr.lines().filter(|line| line.starts_with("note: `--")).collect();
    insta::assert_snapshot!(notes.join("\n"), @r"
    note: `--force` changes nothing: mica works outside of containers, too
    note: `--snapshot-mode` changes nothing: every change is found, without a look at other files
    ");
    let found = digest(&registry, "team/app", "1");
    assert_eq!(digest(&registry, "other", "2"), found);
    let read = |name: &str| fs::read_to_string(context.join("out").join(name)).expect("a file");
    let host = &registry.host;
    assert_eq!(read("digest"), found);
    assert_eq!(read("names"), format!("{host}/team/app@{found}\n{host}/other@{found}\n"));
    assert_eq!(read("tags"), format!("{one}@{found}\n{two}@{found}\n"));
}

#[test]
fn without_a_push_the_digest_is_that_of_one() {
    let Some(env) = bare() else { return };
    let registry = Registry::start();
    let context = env.context(APP);
    let name = registry.name("app:1");
    let line = ["-c", ".", "-d", &name, "--digest-file=before", "--tar-path=app.tar"];
    let ran = run(&env, &context, &[&line[..], &["--no-push", "--oci-layout-path=out"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(registry.asked().is_empty());
    let before = fs::read_to_string(context.join("before")).expect("a file");
    let archive = members(&fs::read(context.join("app.tar")).expect("an archive"));
    let manifest: Value = serde_json::from_slice(&archive["manifest.json"]).expect("JSON");
    assert_eq!(manifest[0]["RepoTags"][0], name);
    let index = fs::read(context.join("out/index.json")).expect("a layout");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    assert_eq!(index["manifests"][0]["digest"], before);
    let other = context.join("other");
    fs::create_dir(&other).expect("a folder");
    let line = ["-c", "..", "--no-push", "--digest-file=digest", "--compression=gzip"];
    run(&env, &other, &line).success();
    assert_eq!(fs::read_to_string(other.join("digest")).expect("a file"), before);
    run(&env, &context, &["-c", ".", "-d", &name]).success();
    assert_eq!(digest(&registry, "app", "1"), before);
}

#[test]
fn a_single_snapshot_is_one_layer_on_the_base() {
    let Some(env) = with_base() else { return };
    let steps = "FROM base\nRUN mkdir /d && echo 1 >/d/one && echo 2 >/d/two && ln /d/one /d/link\n\
                 ENV A=b\nRUN rm /d/two /home/app -r && echo 3 >/d/three && chown 5:6 /d/three\n\
                 COPY f /d/one\nRUN mkdir -p /e/deep && touch /e/deep/x /r && ln -s x /d/l\n\
                 RUN rm -r /e && echo 4 >/e && rm /r && mkdir /r && touch /r/in && rm /d/l /bin/vi\n\
                 RUN rm -r /tmp /r && mkdir /tmp /r && touch /tmp/new && echo x >>/etc/passwd\n";
    let context = env.context(&[("Dockerfile", steps), ("f", "copied")]);
    let whole = env.id_of(&context, &[]);
    run(&env, &context, &["-c", ".", "--no-push", "-d=app", "--single-snapshot"]).success();
    let (base, app) = (env.saved("base"), env.saved("app"));
    assert_eq!(app.layers.len(), base.layers.len() + 1);
    assert_eq!(app.layers[0], base.layers[0]);
    let (found, expected) = (app.files(), env.saved(&whole).files());
    let differs = |path: &&String| found.get(*path) != expected.get(*path);
    let differing: Vec<_> = found.keys().chain(expected.keys()).filter(differs).collect();
    assert!(differing.is_empty(), "{differing:?}");
    assert_eq!(app.env("A"), Some("b"));
    let top = app.top();
    for gone in ["d/two", "d/.wh.two", "d/.wh.l", "r/in", "e/deep"] {
        assert!(!top.contains(&gone), "{top:?}");
    }
    assert!(top.contains(&"home/.wh.app") && top.contains(&"bin/.wh.vi"), "{top:?}");
    let history: Value =
        serde_json::from_str(&env.mica(["inspect", "app"]).success()).expect("JSON");
    let shown = env.mica(["history", "--no-trunc", "app"]).success();
    assert!(shown.contains("ENV A=b") && shown.contains("touch /tmp/new"), "{shown}");
    // What was made once is the same the next time.
    let again = env.id_of(&context, &["--squash"]);
    assert_eq!(history[0]["Id"], again);
    let refused = env.build(&context, &["--squash", "--cache-to", "type=inline"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

#[test]
fn contexts_of_all_kinds() {
    let Some(env) = bare() else { return };
    let text = "FROM scratch\nCOPY file /\n";
    let folder = env.context(&[("sub/file", "folder"), ("sub/Other", text), ("Dockerfile", "no")]);
    let file = |name: &str| env.saved(name).text("file");
    let sub = folder.join("sub");
    let url = format!("dir://{}", folder.display());
    let line = ["-c", &url, "--context-sub-path=sub", "--no-push", "-d", "a", "-f", "Other"];
    run(&env, &env.path("home"), &line).success();
    assert_eq!(file("a"), "folder");
    // A Dockerfile of the working directory comes first.
    run(&env, &sub, &["-c", "../sub", "-f", "Other", "--no-push", "-d", "b"]).success();
    assert_eq!(file("b"), "folder");
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, tar::EntryType::Regular, "file", 0o644, b"tar");
    append(&mut tar, tar::EntryType::Regular, "x/Dockerfile", 0o644, text.as_bytes());
    let tar = tar.into_inner().expect("a tar");
    let path = env.path("context.tar");
    fs::write(&path, &tar).expect("to write");
    let url = format!("tar://{}", path.display());
    run(&env, &sub, &["-c", &url, "-f", "x/Dockerfile", "--no-push", "-d", "c"]).success();
    assert_eq!(file("c"), "tar");
    let line = ["--context=tar://stdin", "--dockerfile=x/Dockerfile", "--no-push", "-d", "d"];
    let mut child = executor(&env, &sub, &line).stdin(Stdio::piped()).spawn().expect("to start");
    child.stdin.take().expect("a pipe").write_all(&tar).expect("to write");
    assert!(child.wait().expect("to wait").success());
    assert_eq!(file("d"), "tar");
    let line = ["-c", &url, "--context-sub-path=x", "--no-push"];
    let outside = run(&env, &sub, &line);
    assert!(outside.stderr.contains("`/file` is not found"), "{}", outside.stderr);
    let gone = run(&env, &sub, &["-c", &url, "--context-sub-path=none", "--no-push"]);
    assert!(gone.stderr.contains("`none` is not found in the build context"), "{}", gone.stderr);
    // As with Docker.
    run(&env, &folder, &["-t", "e", "-f", "sub/Other", "sub"]).success();
    assert_eq!(file("e"), "folder");
    let missing = run(&env, &sub, &["-c", "tar:///nowhere/at/all", "--no-push"]);
    assert_eq!(missing.code, Some(1), "{}", missing.stderr);
    assert!(missing.stderr.contains("cannot read `/nowhere/at/all`"), "{}", missing.stderr);
}

#[test]
fn what_is_not_understood() {
    let Some(env) = bare() else { return };
    let context = env.context(APP);
    let mut seen = String::new();
    for line in [
        &["-c", "."][..],
        &["-c", ".", "--no-push", "--bucket", "b"],
        &["-c", "s3://bucket/key", "--no-push"],
        &["-c", ".", "--no-push", "--materialize"],
    ] {
        let ran = run(&env, &context, line);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{line:?}");
        seen.push_str(&ran.stderr);
    }
    insta::assert_snapshot!(seen, @r"
    error: nothing says where the image goes: give `--destination`, or `--no-push`
    error: `--bucket` is not supported: fetch it first, or give an https:// URL
    error: `--context s3://bucket/key`: fetch it first, or give an https:// URL of it
    error: `--materialize` is not supported: steps have a root of their own, and leave nothing in this container
    ");
    let version = run(&env, &context, &["version"]).success();
    assert_eq!(version, env.mica(["version"]).success());
    assert!(run(&env, &context, &["--help"]).success().contains("--single-snapshot"));
}

#[test]
fn a_cache_repository() {
    let Some(env) = with_base() else { return };
    let base = env.mica(["save", "base"]).bytes;
    let registry = Registry::start();
    let text = "FROM base AS side\nRUN cat /proc/sys/kernel/random/uuid >/id\nFROM base\nCOPY --from=side /id /\n";
    let other = |args: &[&str]| {
        let Some(env) = bare() else { return String::new() };
        env.mica_with_input(["load"], &base).success();
        let context = env.dockerfile(text);
        let name = registry.name("app:1");
        let line = [&["--context", ".", "--no-push", "-d", &name][..], args].concat();
        let ran = run(&env, &context, &line);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        env.saved(&name).text("id")
    };
    let first = other(&["--cache=true"]);
    assert!(registry.manifest("app/cache", "mica").is_some());
    assert_eq!(other(&["--cache", "--no-push-cache"]), first);
    assert_ne!(other(&[]), first);
    assert_ne!(other(&["--cache=true", "--cache-run-layers=false"]), first);
    assert_eq!(other(&["--cache=true", "--cache-ttl=1h", "--no-push-cache"]), first);
    assert_ne!(other(&["--cache=true", "--cache-ttl=0s", "--no-push-cache"]), first);
}

#[test]
fn registries_by_flags() {
    let (Some(env), Some(open)) = (bare(), Registry::start_in_the_open()) else { return };
    open.push("hub/library/tool", "1", &[("f", "mirrored")]);
    open.push("quay/team/tool", "1", &[("f", "mapped")]);
    let context = env.dockerfile("FROM tool:1\nCOPY --from=quay.example/team/tool:1 f /g\n");
    let (hub, map) = (open.name("hub"), format!("quay.example={}", open.name("quay")));
    let name = open.name("app:1");
    let mirrors = ["--registry-mirror", &hub, "--registry-map", &map];
    let line =
        [&["-c", ".", "-d", &name, "--skip-default-registry-fallback"][..], &mirrors].concat();
    let secure = run(&env, &context, &line);
    assert_eq!(secure.code, Some(1), "{}", secure.stderr);
    let insecure = [&line[..], &["--insecure-registry", &open.host]].concat();
    run(&env, &context, &insecure).success();
    let image: SavedImage = env.saved(&name);
    assert_eq!((image.text("f"), image.text("g")), ("mirrored".to_owned(), "mapped".to_owned()));
    // Pushing and pulling are two things.
    env.mica(["rmi", "--force", &name, "tool:1", "quay.example/team/tool:1"]);
    assert_eq!(run(&env, &context, &[&line[..], &["--insecure"]].concat()).code, Some(0));
    let nowhere = ["-c", ".", "--no-push", "--insecure-pull", "--skip-default-registry-fallback"];
    let missing = env.dockerfile("FROM tool:2\n");
    let ran = run(&env, &missing, &[&nowhere[..], &mirrors].concat());
    assert!(ran.stderr.contains("is not found"), "{}", ran.stderr);
}

#[test]
fn an_immutable_tag_may_stay() {
    let Some(env) = bare() else { return };
    let registry = Registry::start();
    let context = env.context(APP);
    let message = "The image tag '1' cannot be overwritten because the repository is immutable.";
    let reply = Reply::error(400, "TAG_INVALID", message);
    registry.rule(move |asked| {
        let is_tag = asked.method == "PUT" && asked.path.ends_with("/manifests/1");
        is_tag.then(|| reply.clone())
    });
    let name = registry.name("app:1");
    assert_eq!(run(&env, &context, &["-c", ".", "-d", &name]).code, Some(1));
    let forgiving = ["-c", ".", "-d", &name, "--push-ignore-immutable-tag-errors"];
    let ran = run(&env, &context, &forgiving);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn a_reproducible_image_has_no_times() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile("FROM base\nRUN touch /now\n");
    run(&env, &context, &["-c", ".", "--no-push", "-d", "app", "--reproducible"]).success();
    assert_eq!(env.saved("app").file("now").mtime, 0);
}
