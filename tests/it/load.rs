//! `load` of archives as others write them: in other orders, by other names, through pipes.

use std::fs;
use std::path::PathBuf;

use mica::oci::Digest;
use serde_json::{Value, json};

use crate::env::{Ran, TestEnv, bare};
use crate::image::members;

/// An archive in the making.
struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(mut self, name: &str, bytes: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.0.append_data(&mut header, name, bytes).expect("memory");
        self
    }

    fn link(mut self, kind: tar::EntryType, name: &str, target: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        self.0.append_link(&mut header, name, target).expect("memory");
        self
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().expect("memory")
    }
}

/// A layer that is not packed as mica would pack it: names come in another order, one of them twice if
/// asked for, and there is something behind the end.
fn layer(name: &str, twice: bool) -> Vec<u8> {
    let archive = Archive::new().file(&format!("z-{name}"), b"z").file("a", name.as_bytes());
    let archive = if twice { archive.file("a", b"again") } else { archive };
    let mut tar = archive.file("empty", b"").end();
    tar.extend_from_slice(&[0; 4096]);
    tar
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let history: Vec<Value> = layers.iter().map(|_| json!({"created_by": "test"})).collect();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    let platform = mica::oci::Platform::host();
    json!({"architecture": platform.architecture, "os": "linux", "rootfs": rootfs, "history": history})
        .to_string()
        .into_bytes()
}

/// One image of `manifest.json`.
fn entry(config: &str, name: &str, layers: &[&str]) -> Value {
    json!({"Config": config, "RepoTags": [name], "Layers": layers})
}

fn load(env: &TestEnv, bytes: &[u8], piped: bool) -> Ran {
    if piped {
        return env.mica_with_input(["load", "-q"], bytes);
    }
    let path = env.path("home/in.tar");
    fs::write(&path, bytes).expect("to write");
    env.mica(["load", "-q", "-i", path.to_str().expect("UTF-8")])
}

/// What the store holds of layers: folders, and blobs of this digest.
fn kept(env: &TestEnv, layer: &[u8]) -> (usize, bool) {
    let store = env.store().join("v1");
    let folders = fs::read_dir(store.join("layers")).expect("a folder").count();
    (folders, store.join("blobs/sha256").join(Digest::of(layer).hex()).exists())
}

/// The layers of an image, as `save` gives them.
fn saved(env: &TestEnv, name: &str) -> Vec<Vec<u8>> {
    let members = members(&env.mica(["save", name]).bytes);
    let manifest: Value = serde_json::from_slice(&members["manifest.json"]).expect("JSON");
    let names = manifest[0]["Layers"].as_array().expect("layers");
    names.iter().map(|name| members[name.as_str().expect("a name")].clone()).collect()
}

#[test]
fn the_old_format_in_any_order_with_links() {
    let layers: Vec<Vec<u8>> = ["one", "two", "three"].map(|name| layer(name, false)).to_vec();
    let [one, two, three] = [0, 1, 2].map(|at| layers[at].as_slice());
    // The second image has a layer of the first one twice.
    let (first, second) = (config(&[one, two]), config(&[one, three, one]));
    let manifest = json!([
        entry("first.json", "first:1", &["1/layer.tar", "2/layer.tar"]),
        entry("second.json", "second:1", &["4/layer.tar", "3/layer.tar", "./5/layer.tar"]),
    ]);
    let manifest = manifest.to_string();
    let before = Archive::new()
        .file("manifest.json", manifest.as_bytes())
        .file("second.json", &second)
        .link(tar::EntryType::Symlink, "4/layer.tar", "../1/layer.tar")
        .file("3/layer.tar", three)
        .file("2/layer.tar", two)
        .file("1/layer.tar", one)
        .link(tar::EntryType::Link, "5/layer.tar", "1/layer.tar")
        .file("first.json", &first);
    let after = Archive::new()
        .file("1/layer.tar", one)
        .file("5/layer.tar", one)
        .file("4/layer.tar", one)
        .file("first.json", &first)
        .file("3/layer.tar", three)
        .file("2/layer.tar", b"replaced by the next one")
        .file("2/layer.tar", two)
        .file("second.json", &second)
        .file("manifest.json", manifest.as_bytes());
    for archive in [before.end(), after.end()] {
        for piped in [false, true] {
            let Some(env) = bare() else { return };
            assert_eq!(load(&env, &archive, piped).success(), "first:1\nsecond:1\n");
            assert_eq!(kept(&env, one), (4, false), "their files are enough");
            assert!(saved(&env, "first:1") == [one, two]);
            assert!(saved(&env, "second:1") == [one, three, one]);
            let id = env.mica(["images", "-q", "--no-trunc", "first:1"]).success();
            assert_eq!(id.trim(), Digest::of(&first).to_string());
            env.mica(["system", "check"]).success();
        }
    }
}

#[test]
fn a_layer_that_its_files_do_not_tell_is_kept() {
    let Some(env) = bare() else { return };
    let layers = [layer("one", true), layer("two", false)];
    let config = config(&[&layers[0], &layers[1]]);
    let manifest = json!([entry("c.json", "app:1", &["1.tar", "2.tar"])]).to_string();
    let archive = Archive::new()
        .file("1.tar", &layers[0])
        .file("2.tar", &layers[1])
        .file("c.json", &config)
        .file("manifest.json", manifest.as_bytes())
        .end();
    load(&env, &archive, false).success();
    assert_eq!(kept(&env, &layers[0]), (2, true));
    assert_eq!(kept(&env, &layers[1]), (2, false));
    assert!(saved(&env, "app:1") == layers);
    env.mica(["system", "check"]).success();
    // Built on, it is saved with the same layers, too.
    let built = env.dockerfile("FROM app:1\nCOPY Dockerfile /b\n");
    env.id_of(&built, &["-t", "built:1"]);
    assert!(saved(&env, "built:1").starts_with(&layers));
}

#[test]
fn compressed_layers_are_kept_as_they_came() {
    let tars = [layer("one", false), layer("two", false)];
    let config = config(&[&tars[0], &tars[1]]);
    let packed = tars.clone().map(|tar| zstd::encode_all(&tar[..], 3).expect("memory"));
    let manifest = json!([entry("c.json", "app:1", &["1", "2"])]).to_string();
    let archive = |second: &[u8]| {
        Archive::new()
            .file("c.json", &config)
            .file("1", &packed[0])
            .file("2", second)
            .file("manifest.json", manifest.as_bytes())
            .end()
    };
    for piped in [false, true] {
        let Some(env) = bare() else { return };
        // A layer that is another one than the config says.
        let other = zstd::encode_all(&layer("other", false)[..], 3).expect("memory");
        nothing_of(&env, &archive(&other), piped, "digest");
        load(&env, &archive(&packed[1]), piped).success();
        assert_eq!(kept(&env, &packed[1]), (2, true));
        assert!(saved(&env, "app:1") == packed);
        env.mica(["system", "check"]).success();
    }
}

#[test]
fn an_image_has_the_names_of_all_entries_that_lead_to_it() {
    let Some(env) = bare() else { return };
    let tar = layer("one", false);
    let config = config(&[&tar]);
    let tags = |of: &str| (0..50).map(|at| format!("{of}:{at}")).collect::<Vec<_>>();
    let entry = |config: &str, of| json!({"Config": config, "RepoTags": tags(of), "Layers": ["1"]});
    let entries = json!([entry("c.json", "b"), entry("./c.json", "a"), entry("d.json", "b")]);
    let archive = Archive::new()
        .file("1", &tar)
        .file("c.json", &config)
        .link(tar::EntryType::Symlink, "d.json", "c.json")
        .file("manifest.json", entries.to_string().as_bytes())
        .end();
    load(&env, &archive, false).success();
    let id = env.mica(["images", "-q", "--no-trunc"]).success();
    assert_eq!(id.trim(), Digest::of(&config).to_string());
    assert_eq!(env.mica(["images"]).success().lines().count(), 1 + 100);
}

/// An archive that is refused leaves nothing behind.
fn nothing_of(env: &TestEnv, archive: &[u8], piped: bool, why: &str) {
    let ran = load(env, archive, piped);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains(why), "{}", ran.stderr);
    let count = |folder: PathBuf| fs::read_dir(folder).map_or(0, Iterator::count);
    for folder in ["layers", "chains", "refs", "blobs/sha256", "tmp"] {
        let path = env.store().join("v1").join(folder);
        // The lease of a process that has ended goes with the next one.
        assert_eq!(count(path), 0, "{folder}");
    }
}

#[test]
fn what_is_not_what_it_says_leaves_nothing() {
    let tars: Vec<Vec<u8>> = (0..6).map(|at| layer(&format!("{at}"), false)).collect();
    let all: Vec<&[u8]> = tars.iter().map(Vec::as_slice).collect();
    let names: Vec<String> = (0..6).map(|at| format!("{at}.tar")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let manifest = json!([entry("c.json", "app:1", &names)]).to_string();
    let archive = |bad: Option<usize>, content: &[u8]| {
        let start = Archive::new().file("c.json", &config(&all));
        let start = start.file("manifest.json", manifest.as_bytes());
        let add = |archive: Archive, at: usize| {
            archive.file(names[at], if bad == Some(at) { content } else { all[at] })
        };
        (0..6).fold(start, add).end()
    };
    let Some(env) = bare() else { return };
    for piped in [false, true] {
        for bad in [0, 3, 5] {
            let other = layer("other", false);
            nothing_of(&env, &archive(Some(bad), &other), piped, "digest");
            nothing_of(&env, &archive(Some(bad), &[7; 1024]), piped, "malformed");
            nothing_of(&env, &archive(Some(bad), &all[bad][..700]), piped, "cut off");
        }
        let whole = archive(None, &[]);
        nothing_of(&env, &whole[..whole.len() - 7000], piped, "error");
    }
    load(&env, &archive(None, &[]), false).success();
    assert!(saved(&env, "app:1") == all);
}
