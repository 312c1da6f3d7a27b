//! `info`, `version`, `system check` and `system prune`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::env::{TestEnv, bare, is_root, with_base, write};

/// Changes one bit in the middle of a file, whatever its mode.
fn flip(path: &Path) {
    let metadata = fs::metadata(path).expect("a file");
    let mut bytes = fs::read(path).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).expect("chmod");
    fs::write(path, bytes).expect("to write");
    fs::set_permissions(path, metadata.permissions()).expect("chmod");
}

/// A file of this name below a layer.
fn layer_file(env: &TestEnv, name: &str) -> PathBuf {
    let all = walkdir::WalkDir::new(env.store().join("v1/layers")).into_iter().flatten();
    let found = all.into_iter().find(|entry| entry.file_name() == name);
    found.expect("the file is in a layer").into_path()
}

#[test]
fn version_and_help() {
    let Some(env) = bare() else { return };
    let version = env.mica(["version"]).success();
    assert_eq!(version, format!("mica {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(env.mica(["--version"]).success(), version);
    let help = env.mica(["--help"]).success();
    for command in ["build", "run", "images", "save", "load", "import", "system"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
}

#[test]
fn info_tells_how_it_works_here() {
    let Some(env) = bare() else { return };
    let info: Value =
        serde_json::from_str(&env.mica(["info", "--format", "json"]).success()).expect("JSON");
    assert_eq!(info["Isolation"], if is_root() { "root" } else { "userns" });
    assert_eq!(info["Root"], env.store().to_str().expect("UTF-8"));
    let table = env.mica(["info"]).success();
    assert!(table.contains(env.store().to_str().expect("UTF-8")), "{table}");
}

#[test]
fn info_tells_what_is_set_for_registries() {
    let Some(env) = bare() else { return };
    let config = "[registry.'docker.io']\nmirrors = ['https://mirror.example']\n";
    write(&env.path("home/.config/mica"), "config.toml", config);
    let daemon = r#"{"insecure-registries": ["old.example:5000", "10.0.0.0/8"]}"#;
    write(&env.path("home/.config/docker"), "daemon.json", daemon);
    env.give(&env.path("home"));
    let table = env.mica(["info"]).success();
    let about: Vec<&str> = table.lines().skip_while(|line| !line.starts_with("settings")).collect();
    insta::assert_snapshot!(env.filter(&about.join("\n")), @r"
    settings        [dir]/home/.config/mica/config.toml
    settings        [dir]/home/.config/docker/daemon.json
    registry        docker.io: https://mirror.example (mirror), https://registry-1.docker.io
    registry        old.example:5000: https://old.example:5000 (unverified), http://old.example:5000
    registries in   10.0.0.0/8: unverified
    ");
    let info: Value =
        serde_json::from_str(&env.mica(["info", "--format", "json"]).success()).expect("JSON");
    let set = &info["Registries"];
    assert_eq!(set["Endpoints"]["docker.io"][0]["Url"], "https://mirror.example");
    assert_eq!(set["Endpoints"]["docker.io"][0]["Mirror"], true);
    assert_eq!(set["Endpoints"]["old.example:5000"][0]["Verify"], false);
    assert_eq!(set["InsecureNetworks"][0], "10.0.0.0/8");
    write(
        &env.path("home/.config/mica"),
        "config.toml",
        "\n[registry.'r.example']\nmirorrs = []\n",
    );
    let ran = env.mica(["info"]);
    assert_eq!(ran.code, Some(2));
    insta::assert_snapshot!(env.filter(&ran.stderr), @"error: [dir]/home/.config/mica/config.toml:3: unknown field `mirorrs`, expected one of `mirrors`, `http`, `insecure`, `ca`, `cert`, `key`");
}

#[test]
fn check_finds_a_flipped_bit_in_a_blob() {
    let Some(env) = bare() else { return };
    let context = env.dockerfile("FROM scratch\nENV A=1\n");
    let id = env.id_of(&context, &["-t", "app"]);
    let blob = env.store().join("v1/blobs/sha256").join(id.trim_start_matches("sha256:"));
    flip(&blob);
    let found = env.mica(["system", "check"]);
    assert_eq!(found.code, Some(1));
    let path = blob.to_str().expect("UTF-8");
    assert!(found.stdout.contains(path), "{}", found.stdout);
    let again = env.mica(["system", "check"]);
    assert_eq!(again.stdout, found.stdout, "looking changes nothing");
    env.mica(["system", "check", "--repair"]).success();
    assert!(!blob.exists());
    assert_eq!(env.id_of(&context, &["-t", "app"]).len(), id.len());
    env.mica(["system", "check"]).success();
}

#[test]
fn check_finds_a_flipped_bit_in_a_layer() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile("FROM base\nRUN seq 1000 >/numbers\n");
    env.id_of(&context, &["-t", "app"]);
    let file = layer_file(&env, "numbers");
    let before = fs::read(&file).expect("a file");
    flip(&file);
    let found = env.mica(["system", "check"]);
    assert_eq!(found.code, Some(1), "{}", found.stdout);
    assert!(found.stdout.contains("the layer's files have changed"), "{}", found.stdout);
    env.mica(["system", "check", "--repair"]).success();
    let rebuilt = env.built_from(&context, &["-t", "app"]);
    assert_eq!(rebuilt.file("numbers").bytes, before);
    env.mica(["system", "check"]).success();
}

#[test]
fn check_finds_what_changed_in_a_loaded_layer() {
    let (Some(env), Some(mut second)) = (with_base(), bare()) else { return };
    let context = env.dockerfile("FROM base\nRUN seq 1000 >/numbers\n");
    env.id_of(&context, &["-t", "app"]);
    let archive = env.mica(["save", "--format", "oci-archive", "app"]).bytes;
    second.mica_with_input(["load"], &archive).success();
    second.shell("app", "true");
    flip(&layer_file(&second, "numbers"));
    let found = second.mica(["system", "check"]);
    assert_eq!(found.code, Some(1), "{}", found.stdout);
    second.mica(["system", "check", "--repair"]).success();
    let sum = second.shell("app", "tail -n 1 /numbers");
    assert_eq!(sum, "1000\n", "it is unpacked anew");
    second.mica(["system", "check"]).success();
    // A blob that came from elsewhere cannot be made anew: the name is told.
    second.expect_damage();
    let blobs = fs::read_dir(second.store().join("v1/blobs/sha256")).expect("a folder");
    let sizes = blobs.flatten().map(|blob| (blob.metadata().expect("a size").len(), blob.path()));
    flip(&sizes.max().expect("a blob").1);
    assert_eq!(second.mica(["system", "check", "--repair"]).code, Some(0));
    second.mica(["rmi", "app"]).success();
    second.mica(["system", "prune"]).success();
    second.mica_with_input(["load"], &archive).success();
    second.mica(["system", "check"]).success();
    assert_eq!(second.shell("app", "tail -n 1 /numbers"), "1000\n");
}

#[test]
fn check_finds_what_the_rest_of_a_tar_does_not_tell() {
    let Some(env) = with_base() else { return };
    env.id_of(&env.dockerfile("FROM base\nRUN echo text >/file\n"), &["-t", "app"]);
    let archive = env.mica(["save", "app"]).bytes;
    let changes: [fn(&Path); 3] = [
        |file| fs::write(file, "text\nand more\n").expect("written"),
        |file| fs::set_permissions(file, PermissionsExt::from_mode(0o4777)).expect("set"),
        |file| fs::write(file.with_file_name("another"), "").expect("written"),
    ];
    for change in changes {
        let Some(mut second) = bare() else { return };
        second.expect_damage();
        second.mica_with_input(["load"], &archive).success();
        second.mica(["system", "check"]).success();
        change(&layer_file(&second, "file"));
        let found = second.mica(["system", "check"]);
        assert_eq!(found.code, Some(1), "{}", found.stdout);
    }
}

#[test]
fn check_repairs_what_is_no_file() {
    let Some(env) = bare() else { return };
    let context = env.dockerfile("FROM scratch\nENV A=1\n");
    let id = env.id_of(&context, &["-t", "app"]);
    let blob = env.store().join("v1/blobs/sha256").join(id.trim_start_matches("sha256:"));
    for make in [
        |path: &Path| fs::create_dir(path).expect("made"),
        |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("made"),
    ] {
        fs::remove_file(&blob).expect("removed");
        make(&blob);
        assert_eq!(env.mica(["system", "check"]).code, Some(1));
        env.mica(["system", "check", "--repair"]).success();
        assert_eq!(env.id_of(&context, &["-t", "app"]), id);
    }
}

#[test]
fn a_damaged_cache_record_is_a_miss() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile("FROM base\nRUN echo 1 >/x\n");
    env.id_of(&context, &[]);
    let all = walkdir::WalkDir::new(env.store().join("v1/cache")).into_iter().flatten();
    for entry in all.filter(|entry| entry.file_type().is_file()) {
        flip(entry.path());
    }
    assert_eq!(env.mica(["system", "check"]).code, Some(1));
    assert_eq!(env.built_from(&context, &[]).text("x"), "1\n");
    env.mica(["system", "check", "--repair"]).success();
}

#[test]
fn prune_forgets_the_cache_and_keeps_images() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile("FROM base\nRUN head -c 300000 /dev/urandom >/big\nRUN rm /big\n");
    env.id_of(&context, &["-t", "app"]);
    let other = env.dockerfile("FROM base AS a\nRUN head -c 300000 /dev/urandom >/unneeded\nFROM base\nCOPY --from=a /etc/passwd /p\n");
    env.id_of(&other, &["-t", "app2"]);
    let has = |name: &str| {
        let mut all = walkdir::WalkDir::new(env.store().join("v1/layers")).into_iter().flatten();
        all.any(|entry| entry.file_name() == name)
    };
    assert!(has("big") && has("unneeded"));
    let said = env.mica(["system", "prune"]).success();
    assert!(said.starts_with("Total reclaimed space: 3"), "{said}");
    assert!(has("big") && !has("unneeded"), "what images need stays");
    assert!(env.saved("app2").has("p"));
    let again = env.build(&context, &[]);
    assert!(!again.stderr.contains("CACHED"), "{}", again.stderr);
}

#[test]
fn a_store_of_a_newer_mica_is_left_alone() {
    let Some(mut env) = bare() else { return };
    env.expect_damage();
    fs::create_dir_all(env.store().join("v7")).expect("a folder");
    let ran = env.mica(["images"]);
    assert_eq!(ran.code, Some(1));
    insta::assert_snapshot!(env.filter(&ran.stderr), @r"
    error: the store at [dir]/store has format v7; this mica knows format v1
    hint: use a newer mica, or another folder with `--root DIR`
    ");
    assert!(!env.store().join("v1").exists());
}

#[test]
fn a_store_that_others_can_write_to_is_not_trusted() {
    let Some(mut env) = bare() else { return };
    env.expect_damage();
    env.mica(["images"]).success();
    fs::set_permissions(env.store(), PermissionsExt::from_mode(0o777)).expect("chmod");
    let ran = env.mica(["images"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: others could change its images"), "{}", ran.stderr);
}
