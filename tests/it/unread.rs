//! A COPY whose files nothing in the build reads goes straight into a tar. Nobody can tell by the image.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::env::{TestEnv, bare, with_base};

/// What each COPY is done on top of, and the COPY.
const COPIES: [(&str, &str); 8] = [
    ("", "COPY tree /app/"),
    ("WORKDIR /app\n", "COPY tree ."),
    ("WORKDIR /app\n", "COPY --chown=7:8 --chmod=u=rwX,go-w tree ."),
    // Folders that the layers below have, too, files that they have, and a link on the way.
    ("COPY --chmod=700 small /app/d1/sub/\nCOPY small /app/d2/f3\nCOPY links /\n", "COPY tree /to"),
    ("", "COPY --parents --exclude=**/f1* tree/d* /app/"),
    ("", "COPY large/* /flat/"),
    ("", "COPY large/one large/two /data/"),
    ("", "ADD large/one /data/other"),
];

fn context(env: &TestEnv) -> PathBuf {
    let context = env.context(&[
        ("small", "small"),
        ("large/one", &"one\n".repeat(3 << 20)),
        ("large/two", &"two\n".repeat(3 << 20)),
        ("tree/.dockerignore", "no rules here"),
        ("tree/empty/", ""),
    ]);
    let tree = context.join("tree");
    for number in 0..700 {
        let dir = tree.join(format!("d{}/sub", number % 3));
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join(format!("f{number}")), format!("{number}")).expect("a file");
        fs::write(dir.with_file_name(format!("f{number}")), "x".repeat(number)).expect("a file");
    }
    fs::set_permissions(tree.join("d1"), fs::Permissions::from_mode(0o2711)).expect("a mode");
    fs::set_permissions(tree.join("d1/f1"), fs::Permissions::from_mode(0o4755)).expect("a mode");
    // Between a folder and what is in it, by their bytes.
    fs::write(tree.join("d1.txt"), "").expect("a file");
    symlink("f1", tree.join("d1/link")).expect("a link");
    fs::hard_link(tree.join("d2/f2"), tree.join("d1/twin")).expect("a link");
    fs::hard_link(tree.join("d2/f2"), tree.join("d2/twin")).expect("a link");
    fs::create_dir(context.join("links")).expect("a folder");
    symlink("app", context.join("links/to")).expect("a link");
    context
}

/// The digests of the layers of what a Dockerfile says.
fn layers(env: &TestEnv, context: &Path, dockerfile: &str) -> Vec<String> {
    fs::write(context.join("Dockerfile"), dockerfile).expect("written");
    fs::write(context.join(".dockerignore"), "Dockerfile\n.dockerignore\n").expect("written");
    let id = env.id_of(context, &["--source-date-epoch", "1600000000"]);
    let image = env.saved(&id);
    let layers = image.config["rootfs"]["diff_ids"].as_array().expect("a list");
    layers.iter().map(|layer| layer.as_str().expect("a digest").to_owned()).collect()
}

/// Whether the store has a layer as a blob.
fn is_blob(env: &TestEnv, layer: &str) -> bool {
    env.store().join("v1/blobs").join(layer.replace(':', "/")).exists()
}

#[test]
fn the_layer_is_the_same() {
    let (Some(env), Some(other)) = (bare(), bare()) else { return };
    let (here, there) = (context(&env), context(&other));
    for (below, copy) in COPIES {
        let dockerfile = format!("FROM scratch\n{below}{copy}\n");
        let unread = layers(&env, &here, &dockerfile);
        // A WORKDIR looks at what is there.
        let read = layers(&other, &there, &format!("{dockerfile}WORKDIR /new\n"));
        assert_eq!(unread[..], read[..read.len() - 1], "{copy}");
        let last = unread.last().expect("a layer");
        assert_eq!((is_blob(&env, last), is_blob(&other, last)), (true, false), "{copy}");
    }
}

#[test]
fn holes_take_no_room() {
    let Some(env) = bare() else { return };
    let context = env.dockerfile("FROM scratch\nCOPY sparse /\n");
    let sparse = fs::File::create(context.join("sparse")).expect("a file");
    sparse.set_len(64 << 20).expect("a hole");
    let layers = layers(&env, &context, "FROM scratch\nCOPY sparse /\n");
    let blob = env.store().join("v1/blobs").join(layers[0].replace(':', "/"));
    let blob = fs::metadata(blob).expect("a blob");
    assert!(blob.len() > 64 << 20 && blob.blocks() * 512 < 16 << 20, "{blob:?}");
}

#[test]
fn what_is_refused_is_refused() {
    let Some(env) = bare() else { return };
    let context = context(&env);
    for (below, copy, reason) in [
        (
            "COPY small /app/d1\n",
            "COPY tree /app/",
            "cannot copy a directory to the non-directory `app/d1`",
        ),
        ("COPY tree /app/d1.txt\n", "COPY tree /app/", "`app/d1.txt` is a directory"),
        ("", "COPY tree/none /app/", "`/tree/none` is not found"),
    ] {
        let dockerfile = format!("FROM scratch\n{below}{copy}\n");
        fs::write(context.join("Dockerfile"), &dockerfile).expect("written");
        let ran = env.build(&context, &[]);
        assert_eq!(ran.code, Some(1), "{copy}");
        assert!(ran.stderr.contains(reason), "{copy}: {}", ran.stderr);
    }
}

#[test]
fn its_files_are_there_when_they_are_read() {
    let Some(env) = with_base() else { return };
    let context = context(&env);
    fs::write(context.join("Dockerfile"), "FROM base\nCOPY tree /app\n").expect("written");
    env.id_of(&context, &["-t", "app"]);
    let next = env.dockerfile("FROM app\nRUN cat /app/d2/f5 /app/d2/sub/f5 >/f\n");
    assert_eq!(env.built_from(&next, &[]).text("f"), "xxxxx5");
    assert_eq!(env.shell("app", "ls /app/d1/sub | wc -l; readlink /app/d1/link"), "233\nf1\n");
    // Again, with one file changed: what it was before is compared and linked.
    fs::write(context.join("tree/d1/f4"), "other").expect("written");
    env.id_of(&context, &["-t", "app"]);
    assert_eq!(env.shell("app", "cat /app/d1/f4 /app/d1/f7"), "otherxxxxxxx");
}

#[test]
fn outputs_of_files_have_them() {
    let Some(env) = bare() else { return };
    let context = context(&env);
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY tree /app\n").expect("written");
    let out = env.path("out");
    let ran = env.build(&context, &["-o", &format!("type=local,dest={}", out.display())]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(out.join("app/d1/sub/f1")).expect("a file"), "1");
}

#[test]
fn layers_that_are_merged_are_read() {
    let Some(env) = bare() else { return };
    let context = context(&env);
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY small /\nCOPY tree /app\n")
        .expect("written");
    let image = env.built_from(&context, &["--squash"]);
    assert_eq!(image.layers.len(), 1);
    assert_eq!((image.text("small"), image.text("app/d1/sub/f1")), ("small".into(), "1".into()));
}

#[test]
fn a_store_that_forgets_keeps_what_names_lead_to() {
    let Some(env) = bare() else { return };
    let context = context(&env);
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY tree /app\n").expect("written");
    env.id_of(&context, &["-t", "app"]);
    env.mica(["system", "prune"]).success();
    assert!(env.saved("app").has("app/d1/f1"));
    env.mica(["rmi", "app"]).success();
    env.mica(["system", "prune"]).success();
    let blobs = fs::read_dir(env.store().join("v1/blobs/sha256")).expect("a folder");
    assert_eq!(blobs.count(), 0);
}
