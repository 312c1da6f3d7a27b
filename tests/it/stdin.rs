//! Contexts and Dockerfiles on standard input.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::env::{TestEnv, append, bare, plain_user};
use crate::image::SavedImage;

const COPY_ALL: &[u8] = b"FROM scratch\nCOPY . /\n";

/// A context as a tar, of files that belong to 1234:567.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(1234);
        header.set_gid(567);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, *bytes).expect("to write to memory");
    }
    tar.into_inner().expect("to write to memory")
}

#[track_caller]
fn built(env: &TestEnv, args: &[&str], input: &[u8]) -> SavedImage {
    let args = ["build", "-q"].iter().chain(args).chain(&["-"]);
    let ran = env.mica_with_input(args, input);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    env.saved(ran.stdout.trim())
}

fn an_archive_is_the_context(env: &TestEnv) {
    let context = tar(&[("Dockerfile", COPY_ALL), (".dockerignore", b"*"), ("sub/f", b"F")]);
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&context).expect("to compress");
    for input in [
        zstd::encode_all(&context[..], 1).expect("to compress"),
        bzip2.finish().expect("to compress"),
        context,
    ] {
        let files = built(env, &[], &input).files();
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(names, [".dockerignore", "Dockerfile", "sub", "sub/f"]);
        assert_eq!((files["sub/f"].owner, files["sub/f"].mode), ((1234, 567), 0o640));
    }
    let left = fs::read_dir(env.store().join("v1/layers")).expect("the store's layers").count();
    assert_eq!(left, 1, "the context was not removed");
}

#[test]
fn an_archive_on_standard_input_is_the_context() {
    let Some(env) = bare() else { return };
    an_archive_is_the_context(&env);
}

#[test]
fn an_archive_is_the_context_of_a_plain_user() {
    let Some(env) = plain_user() else { return };
    // Not the base, which is a layer too.
    env.mica(["rmi", "base"]).success();
    env.mica(["system", "prune"]).success();
    an_archive_is_the_context(&env);
}

#[test]
fn owners_in_an_archive_make_a_difference_to_the_cache() {
    let Some(env) = bare() else { return };
    let context = tar(&[("Dockerfile", COPY_ALL)]);
    assert_eq!(built(&env, &[], &context).file("Dockerfile").owner, (1234, 567));
    let folder = env.context(&[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
    fs::set_permissions(
        folder.join("Dockerfile"),
        std::os::unix::fs::PermissionsExt::from_mode(0o640),
    )
    .expect("chmod");
    assert_eq!(env.built_from(&folder, &[]).file("Dockerfile").owner, (0, 0));
}

#[test]
fn the_dockerfile_is_looked_up_in_the_archive() {
    let Some(env) = bare() else { return };
    let context = tar(&[("sub/D", b"FROM scratch\nCOPY a /from-sub\n"), ("a", b"A")]);
    assert_eq!(built(&env, &["-f", "sub/D"], &context).text("from-sub"), "A");
    for (args, name) in [(&["-f", "/etc/passwd"][..], "/etc/passwd"), (&[], "Dockerfile")] {
        let args = ["build"].iter().chain(args).chain(&["-"]);
        let ran = env.mica_with_input(args, &context);
        assert_eq!(ran.code, Some(1));
        assert!(ran.stderr.contains(&format!("no Dockerfile at `{name}`")), "{}", ran.stderr);
    }
}

#[test]
fn the_text_of_a_dockerfile_has_an_empty_context() {
    let Some(env) = bare() else { return };
    let image = built(&env, &[], b"FROM scratch\nCOPY . /all/\nLABEL a=b\n");
    assert_eq!(image.files().into_keys().collect::<Vec<_>>(), ["all"]);
    let ran = env.mica_with_input(["build", "-"], b"FROM scratch\nCOPY a /\n");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("`/a` is not found in the build context"), "{}", ran.stderr);
}

#[test]
fn standard_input_is_one_thing_only() {
    let Some(env) = bare() else { return };
    let check = |args: &[&str], input: &[u8], message: &str| {
        let ran = env.mica_with_input(["build"].iter().chain(args).chain(&["-"]), input);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    };
    let both = "can't use stdin for both build context and Dockerfile";
    check(&["-f", "-"], COPY_ALL, both);
    check(&["-f", "x"], COPY_ALL, "ambiguous Dockerfile");
    check(&[], b"", "file with no instructions");
}

#[test]
fn a_dockerfile_on_standard_input_has_no_ignore_file_of_its_own() {
    let Some(env) = bare() else { return };
    let context = env.context(&[
        ("Dockerfile", "FROM scratch\n"),
        ("Dockerfile.dockerignore", "a\n"),
        (".dockerignore", "b\n*ocker*\n"),
        ("a", ""),
        ("b", ""),
    ]);
    let args = ["build", "-q", "-f", "-", context.to_str().expect("UTF-8")];
    let id = env.mica_with_input(args, COPY_ALL).success();
    assert_eq!(env.saved(id.trim()).files().into_keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn hostile_archives_stay_below_the_context() {
    let Some(env) = bare() else { return };
    let outside = env.context(&[("secret", "S")]);
    let mut hostile = tar::Builder::new(Vec::new());
    let dockerfile = b"FROM scratch\nCOPY up/secret /stolen\n";
    append(&mut hostile, tar::EntryType::Regular, "Dockerfile", 0o644, dockerfile);
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    hostile.append_link(&mut link, "up", &outside).expect("to write to memory");
    append(&mut hostile, tar::EntryType::Regular, "up/planted", 0o644, b"P");
    let hostile = hostile.into_inner().expect("to write to memory");
    let ran = env.mica_with_input(["build", "-"], &hostile);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("`/up/secret` is not found"), "{}", ran.stderr);
    assert!(!outside.join("planted").exists());
    let cut = &tar(&[("Dockerfile", COPY_ALL), ("a", &[7; 4096])])[..2048];
    let ran = env.mica_with_input(["build", "-"], cut);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot unpack the build context: "), "{}", ran.stderr);
}

#[test]
fn what_a_killed_build_unpacked_is_removed() {
    let Some(env) = bare() else { return };
    let mut command = env.command(["build", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("to start mica");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(&tar(&[("Dockerfile", COPY_ALL)])[..1024]).expect("to write");
    let layers = env.store().join("v1/layers");
    let count = || fs::read_dir(&layers).map_or(0, Iterator::count);
    while count() == 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().expect("to kill");
    child.wait().expect("to wait");
    drop(stdin);
    env.mica(["images"]).success();
    assert_eq!(count(), 0);
}
