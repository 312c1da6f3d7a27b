//! `save` and `load`.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::env::{TestEnv, bare, with_base};
use crate::image::members;

fn app(env: &TestEnv) -> String {
    let context = env.context(&[
        ("Dockerfile", "FROM scratch\nCOPY a /a\nENV X=1\nCOPY b /b\n"),
        ("a", "A"),
        ("b", "B"),
    ]);
    env.id_of(&context, &["-t", "app:v1", "-t", "other/app"])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("to write to memory");
    gzip.finish().expect("to write to memory")
}

#[test]
fn both_formats_come_back_as_the_same_image() {
    let (Some(env), Some(second)) = (with_base(), bare()) else { return };
    let context = env.dockerfile("FROM base\nRUN rm /etc/group && ln /etc/passwd /etc/p2 && mkdir -m 1777 /t\nCMD [\"/bin/cat\", \"/etc/p2\"]\n");
    let id = env.id_of(&context, &["-t", "app:v1"]);
    for format in ["docker-archive", "oci-archive"] {
        let saved = env.mica(["save", "--format", format, "app:v1"]);
        assert_eq!(saved.code, Some(0), "{}", saved.stderr);
        let loaded = second.mica_with_input(["load"], &saved.bytes).success();
        assert_eq!(loaded, "Loaded image: app:v1\n", "{format}");
        let ids = second.mica(["images", "-q", "--no-trunc"]).success();
        assert_eq!(ids.trim(), id, "{format}");
        let shown = second.mica(["run", "app:v1"]).success();
        assert!(shown.contains("app:x:1000"), "{shown}");
        second.mica(["rmi", "app:v1"]).success();
    }
}

#[test]
fn input_may_be_compressed_and_may_be_a_file() {
    let (Some(env), Some(second)) = (bare(), bare()) else { return };
    let id = app(&env);
    let tar = env.mica(["save", "app:v1"]).bytes;
    let inputs = [
        ("tar", tar.clone()),
        ("gz", gzip(&tar)),
        ("zst", zstd::encode_all(&tar[..], 1).expect("to compress")),
    ];
    for (name, bytes) in inputs {
        let path = second.path(format!("home/app.{name}"));
        fs::write(&path, &bytes).expect("to write");
        let path = path.to_str().expect("UTF-8");
        assert_eq!(second.mica(["load", "-q", "-i", path]).success(), "app:v1\n", "{name}");
        assert_eq!(second.mica(["images", "-q", "--no-trunc"]).success().trim(), id);
        second.mica(["rmi", "app:v1"]).success();
        assert_eq!(second.mica_with_input(["load", "-q"], &bytes).success(), "app:v1\n", "{name}");
        second.mica(["rmi", "app:v1"]).success();
    }
}

#[test]
fn a_docker_archive_is_an_oci_layout_too() {
    let Some(env) = bare() else { return };
    let id = app(&env);
    let tar = env.mica(["save", "app:v1"]).bytes;
    let members = members(&tar);
    for name in ["manifest.json", "oci-layout", "index.json"] {
        assert!(members.contains_key(name), "{name} among {:?}", members.keys());
    }
    let manifest: serde_json::Value =
        serde_json::from_slice(&members["manifest.json"]).expect("JSON");
    let hex = id.trim_start_matches("sha256:");
    assert_eq!(manifest[0]["Config"], format!("blobs/sha256/{hex}"));
    assert_eq!(manifest[0]["RepoTags"], serde_json::json!(["app:v1"]));
    for layer in manifest[0]["Layers"].as_array().expect("layers") {
        assert!(members.contains_key(layer.as_str().expect("a path")), "{layer}");
    }
    for (name, bytes) in &members {
        if let Some(hex) = name.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty()) {
            assert_eq!(mica::oci::Digest::of(bytes).hex(), hex);
        }
    }
}

#[test]
fn saving_twice_gives_equal_bytes() {
    let Some(env) = with_base() else { return };
    let id = app(&env);
    for format in ["docker-archive", "oci-archive"] {
        let save = || env.mica(["save", "--format", format, "app:v1", "base"]);
        let (first, second) = (save(), save());
        assert_eq!(first.code, Some(0), "{}", first.stderr);
        assert!(first.bytes == second.bytes, "{format}");
        let file = env.path("home/saved.tar");
        env.mica([
            "save",
            "--format",
            format,
            "-o",
            file.to_str().expect("UTF-8"),
            "app:v1",
            "base",
        ])
        .success();
        assert!(fs::read(&file).expect("a file") == first.bytes, "{format}");
    }
    // What was loaded is saved as what was built.
    let (Some(other), archive) = (bare(), env.mica(["save", "app:v1"]).bytes) else { return };
    other.mica_with_input(["load"], &archive).success();
    assert!(other.mica(["save", "app:v1"]).bytes == archive, "{id}");
}

/// What a layer becomes is known when it is written, and it may be there already.
#[test]
fn a_layer_of_two_images_is_written_once() {
    let Some(env) = bare() else { return };
    app(&env);
    let packed = env.mica(["save", "--format", "oci-archive", "app:v1"]).bytes;
    // Now its layers are compressed, and those of an image that is built are not.
    env.mica_with_input(["load", "-q"], &packed).success();
    let dockerfile = "FROM scratch\nCOPY a /a\nENV X=1\nCOPY b /b\nENV Y=2\n";
    let context = env.context(&[("Dockerfile", dockerfile), ("a", "A"), ("b", "B")]);
    env.id_of(&context, &["-t", "more"]);
    let file = env.path("home/saved.tar");
    let output = file.to_str().expect("UTF-8");
    let both = ["save", "--format", "oci-archive", "app:v1", "more"];
    let streamed = env.mica(both).bytes;
    env.mica(both.into_iter().chain(["-o", output])).success();
    assert!(fs::read(&file).expect("a file") == streamed);
    let mut archive = tar::Archive::new(&streamed[..]);
    let names = archive.entries().expect("entries").map(|entry| {
        entry.expect("an entry").path().expect("a path").to_str().expect("UTF-8").to_owned()
    });
    let mut names: Vec<String> = names.collect();
    let count = names.len();
    names.sort();
    names.dedup();
    // Two folders; two layers, two configs and two manifests; the index and the version.
    assert_eq!((names.len(), count), (10, 10), "{names:?}");
    let Some(second) = bare() else { return };
    second.mica_with_input(["load", "-q"], &streamed).success();
}

#[test]
fn several_images_and_several_names() {
    let (Some(env), Some(second)) = (bare(), bare()) else { return };
    let id = app(&env);
    env.id_of(&env.dockerfile("FROM scratch\nENV Y=2\n"), &["-t", "empty"]);
    let tar = env.mica(["save", "app:v1", "other/app", "empty"]).bytes;
    let mut names: Vec<String> =
        second.mica_with_input(["load", "-q"], &tar).success().lines().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["app:v1", "empty:latest", "other/app:latest"]);
    let unnamed = env.mica(["save", &id]).bytes;
    let Some(third) = bare() else { return };
    let loaded = third.mica_with_input(["load"], &unnamed).success();
    assert_eq!(loaded, format!("Loaded image ID: {id}\n"));
    third.mica(["inspect", &id]).success();
}

#[test]
fn a_save_that_fails_leaves_the_old_file() {
    let Some(env) = bare() else { return };
    app(&env);
    let file = env.path("home/app.tar");
    fs::write(&file, "the old one").expect("to write");
    let output = file.to_str().expect("UTF-8");
    assert_eq!(env.mica(["save", "-o", output, "app:v1", "nope"]).code, Some(1));
    assert_eq!(fs::read_to_string(&file).expect("a file"), "the old one");
    let names = fs::read_dir(env.path("home")).expect("a folder").count();
    assert_eq!(names, 1, "nothing half written lies beside it");
    env.mica(["save", "-o", output, "app:v1"]).success();
    assert!(members(&fs::read(&file).expect("a file")).contains_key("index.json"));
}

#[test]
fn a_save_that_fails_midway_leaves_the_old_file() {
    let Some(mut env) = bare() else { return };
    env.expect_damage();
    app(&env);
    let file = env.path("home/app.tar");
    fs::write(&file, "the old one").expect("to write");
    // The layers' files are gone behind mica's back.
    for layer in fs::read_dir(env.store().join("v1/layers")).expect("a folder") {
        fs::remove_dir_all(layer.expect("a layer").path()).expect("to remove");
    }
    let ran = env.mica(["save", "-o", file.to_str().expect("UTF-8"), "app:v1"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("error:").count(), 1, "{}", ran.stderr);
    assert_eq!(fs::read_to_string(&file).expect("a file"), "the old one");
    assert_eq!(fs::read_dir(env.path("home")).expect("a folder").count(), 1);
}

#[test]
fn archives_that_are_none() {
    let Some(env) = bare() else { return };
    app(&env);
    let whole = env.mica(["save", "app:v1"]).bytes;
    let mut flipped = whole.clone();
    let place = whole.windows(5).position(|window| window == b"X=1\"]").expect("the config");
    flipped[place + 2] = b'2';
    let Some(second) = bare() else { return };
    let cases: [(&str, &[u8]); 5] = [
        ("nothing", b""),
        ("text", b"this is no archive at all"),
        ("half", &whole[..whole.len() / 2]),
        ("a changed byte", &flipped),
        ("half a gzip", &gzip(&whole)[..300]),
    ];
    for (what, bytes) in cases {
        let ran = second.mica_with_input(["load"], bytes);
        assert_eq!(ran.code, Some(1), "{what}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{what}");
        let errors = ran.stderr.lines().filter(|line| line.starts_with("error:")).count();
        assert_eq!(errors, 1, "{what}: {}", ran.stderr);
        assert_eq!(second.mica(["images", "-q"]).success(), "", "{what}");
    }
    second.mica_with_input(["load"], &whole).success();
}

#[test]
fn a_reader_that_goes_away_is_no_drama() {
    let Some(env) = with_base() else { return };
    let mut child = env
        .command(["save", "base"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("to start mica");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("to wait");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(stderr.lines().count() <= 1, "{stderr}");
}
