//! `import`: the tar of a root file system becomes an image.

use std::fs;

use serde_json::json;

use crate::env::{append, bare, base_tar};

fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, tar::EntryType::Directory, "etc/", 0o755, b"");
    append(&mut tar, tar::EntryType::Regular, "etc/name", 0o600, b"me");
    tar.into_inner().expect("to write to memory")
}

#[test]
fn from_standard_input_and_from_files() {
    let Some(env) = bare() else { return };
    let id = env.mica_with_input(["import", "-", "a"], &tar()).success();
    assert!(id.starts_with("sha256:"), "{id}");
    let image = env.saved("a");
    assert_eq!((image.text("etc/name"), image.file("etc/name").mode), ("me".into(), 0o600));
    let compressed = zstd::encode_all(&tar()[..], 1).expect("to compress");
    for (name, bytes) in [("plain.tar", tar()), ("small.tar.zst", compressed)] {
        let path = env.path("home").join(name);
        fs::write(&path, bytes).expect("to write");
        let id = env.mica(["import", path.to_str().expect("UTF-8")]).success();
        assert_eq!(env.saved(id.trim()).text("etc/name"), "me");
    }
}

#[test]
fn changes_and_message() {
    let Some(env) = bare() else { return };
    let args = [
        "import",
        "-",
        "a:1",
        "-c",
        "CMD [\"/x\"]",
        "--change",
        "ENV A=1 B=2",
        "-c",
        "USER me",
        "-c",
        "EXPOSE 80",
        "-m",
        "brought in by a test",
    ];
    env.mica_with_input(args, &tar()).success();
    let image = env.saved("a:1");
    assert_eq!(*image.config("Cmd"), json!(["/x"]));
    assert_eq!((image.env("A"), image.env("B")), (Some("1"), Some("2")));
    assert_eq!(*image.config("User"), "me");
    assert_eq!(*image.config("ExposedPorts"), json!({ "80/tcp": {} }));
    let history = image.config["history"].as_array().expect("a history");
    assert_eq!(history.len(), 1);
    assert_eq!(history[0]["comment"], "brought in by a test");
}

#[test]
fn what_cannot_be_imported() {
    let Some(env) = bare() else { return };
    let cases: [(&[&str], &[u8], i32); 5] = [
        (&["import", "-", "a", "-c", "RUN x"], &tar(), 1),
        (&["import", "-", "a", "-c", "FROM x"], &tar(), 1),
        (&["import", "-", "Not A Name"], &tar(), 2),
        (&["import", "-", "a"], b"not a tar, but long enough to be read as one", 1),
        (&["import", "/nonexistent/root.tar", "a"], b"", 1),
    ];
    for (args, input, code) in cases {
        let ran = env.mica_with_input(args, input);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{args:?}: {}", ran.stderr);
        let errors = ran.stderr.lines().filter(|line| line.starts_with("error:")).count();
        assert_eq!(errors, 1, "{args:?}: {}", ran.stderr);
        assert_eq!(env.mica(["images", "-q"]).success(), "", "{args:?}");
    }
}

#[test]
fn an_imported_system_runs() {
    let (Some(env), Some(tar)) = (bare(), base_tar()) else { return };
    env.mica_with_input(["import", "-", "sys", "-c", "CMD [\"/bin/echo\", \"hello\"]"], tar)
        .success();
    assert_eq!(env.mica(["run", "sys"]).success(), "hello\n");
}
