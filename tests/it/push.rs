//! `push`, to a registry that misbehaves.

use mica::oci::Digest;
use serde_json::Value;

use crate::env::{Ran, TestEnv, bare};
use crate::image::members;
use crate::registry::{Auth, Fault, Registry};

/// An image of two layers, one of which is larger than what is sent at once. Another name makes
/// other layers.
pub(crate) fn app(env: &TestEnv, name: &str) {
    let numbers = (0..300_000u32).map(|n| format!("{}\n", n.wrapping_mul(2_654_435_761)));
    let numbers: String = std::iter::once(name.to_owned()).chain(numbers).collect();
    let context = env.context(&[
        ("Dockerfile", "FROM scratch\nCOPY a /\nCOPY b /\nCMD [\"x\"]\n"),
        ("a", name),
        ("b", &numbers),
    ]);
    env.id_of(&context, &["-t", name]);
}

fn name(registry: &Registry, rest: &str) -> String {
    format!("{}/{rest}", registry.host)
}

/// What was asked, by method.
fn count(asked: &[String], method: &str) -> usize {
    asked.iter().filter(|line| line.starts_with(method)).count()
}

/// A registry has an image whole, with the same bytes as an archive of it. Gives how many bytes its
/// blobs have.
#[track_caller]
pub(crate) fn check(env: &TestEnv, registry: &Registry, repository: &str, tag: &str) -> usize {
    let manifest = registry.manifest(repository, tag).expect("the tag is there");
    let image = name(registry, &format!("{repository}:{tag}"));
    let saved = env.mica(["save", "--format", "oci-archive", &image]).bytes;
    let index: Value = serde_json::from_slice(&members(&saved)["index.json"]).expect("JSON");
    assert_eq!(index["manifests"][0]["digest"], Digest::of(&manifest).to_string());
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let layers = manifest["layers"].as_array().expect("layers").iter();
    let sizes = layers.chain([&manifest["config"]]).map(|blob| {
        let bytes = registry.blob(blob["digest"].as_str().expect("a digest")).expect("there");
        assert_eq!(bytes.len() as u64, blob["size"].as_u64().expect("a size"));
        bytes.len()
    });
    sizes.sum()
}

fn push(env: &TestEnv, name: &str) -> Ran {
    env.mica(["push", name])
}

#[test]
fn the_second_time_nothing_is_sent() {
    let Some(env) = bare() else { return };
    let registry = Registry::start();
    let app_name = name(&registry, "team/app:1");
    app(&env, &app_name);
    let said = push(&env, &app_name).success();
    check(&env, &registry, "team/app", "1");
    let manifest = registry.manifest("team/app", "1").expect("there");
    let digest = Digest::of(&manifest);
    assert_eq!(said, format!("1: digest: {digest} size: {}\n", manifest.len()));
    let asked = registry.asked();
    let uploads = ["POST", "PATCH", "PUT"].map(|method| count(&asked, method));
    assert_eq!(uploads, [3, 2, 4], "{asked:?}");
    assert!(asked.last().is_some_and(|line| line == "PUT /v2/team/app/manifests/1"), "{asked:?}");
    assert_eq!(push(&env, &app_name).success(), said);
    assert_eq!(registry.asked(), ["HEAD /v2/team/app/manifests/1"]);
    // Another tag of what is there.
    let other = name(&registry, "team/app:2");
    env.mica(["tag", &app_name, &other]).success();
    push(&env, &other).success();
    let asked = registry.asked();
    assert_eq!((count(&asked, "HEAD"), asked.len()), (4, 5), "{asked:?}");
}

#[test]
fn all_tags_and_quiet() {
    let Some(env) = bare() else { return };
    let registry = Registry::start();
    app(&env, &name(&registry, "app:1"));
    let context = env.dockerfile("FROM scratch\nENV A=1\n");
    env.id_of(&context, &["-t", &name(&registry, "app:2"), "-t", &name(&registry, "other")]);
    env.mica(["tag", &name(&registry, "app:1"), &name(&registry, "app:3")]).success();
    let said = env.mica(["push", "-q", "--all-tags", &name(&registry, "app")]).success();
    let mut said: Vec<&str> = said.lines().collect();
    said.sort_unstable();
    let expected = ["app:1", "app:2", "app:3"].map(|tag| name(&registry, tag));
    assert_eq!(said, expected);
    assert_eq!(registry.names(), ["app:1", "app:2", "app:3"]);
    for tag in ["1", "2", "3"] {
        check(&env, &registry, "app", tag);
    }
    for (args, part) in [
        (vec!["push", "-a", "app:1"], "has a tag"),
        (
            vec![
                "push",
                "app@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ],
            "has a digest",
        ),
        (vec!["push", "UPPER"], "must be lowercase"),
    ] {
        let ran = env.mica(args);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
    let ran = push(&env, &name(&registry, "nope"));
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("no image"), "{}", ran.stderr);
}

#[test]
fn nobody_is_there() {
    let Some(env) = bare() else { return };
    app(&env, "127.0.0.1:1/app:1");
    let ran = push(&env, "127.0.0.1:1/app:1");
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains("error: cannot push `127.0.0.1:1/app:1`: cannot reach"),
        "{}",
        ran.stderr
    );
}

#[test]
fn who_we_are_is_asked_and_a_token_dies_on_the_way() {
    let Some(env) = bare() else { return };
    for auth in [Auth::Basic("me:hush"), Auth::Bearer("me:hush", 2)] {
        let registry = Registry::start();
        let app_name = name(&registry, "team/app:1");
        app(&env, &app_name);
        registry.require(auth);
        let ran = push(&env, &app_name);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("is denied"), "{}", ran.stderr);
        let hint = format!(
            "hint: it may not exist; if it is private, log in with `mica login {}`",
            registry.host
        );
        assert!(ran.stderr.contains(&hint), "{}", ran.stderr);
        let login = ["login", "-u", "me", "--password-stdin", &registry.host];
        env.mica_with_input(login, b"hush\n").success();
        let ran = push(&env, &app_name);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(!ran.stderr.contains("hush"), "{}", ran.stderr);
        check(&env, &registry, "team/app", "1");
    }
}

#[test]
fn a_build_is_pushed() {
    let Some(env) = bare() else { return };
    let registry = Registry::start();
    let context = env.context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a")]);
    let (one, two) = (name(&registry, "app:1"), name(&registry, "other/app:2"));
    let metadata = env.path("home/metadata.json");
    let metadata_file = metadata.to_str().expect("UTF-8");
    let args = ["--push", "-t", &one, "-t", &two, "--metadata-file", metadata_file];
    let ran = env.build(&context, &args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(registry.names(), ["app:1", "other/app:2"]);
    check(&env, &registry, "app", "1");
    check(&env, &registry, "other/app", "2");
    let digest = Digest::of(&registry.manifest("app", "1").expect("there"));
    assert!(ran.stderr.contains(&format!("pushed {one}@{digest}\n")), "{}", ran.stderr);
    let text = std::fs::read(&metadata).expect("a file");
    let metadata: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(metadata["containerimage.digest"], digest.to_string());
    // Nothing new: each tag is looked at, and that is all.
    registry.asked();
    env.build(&context, &args).success();
    let asked = registry.asked();
    assert_eq!((count(&asked, "HEAD"), asked.len()), (2, 2), "{asked:?}");
}

#[test]
fn outputs_that_are_pushed() {
    let Some(env) = bare() else { return };
    let registry = Registry::start();
    let context = env.context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a")]);
    let app_name = name(&registry, "app:1");
    let manifest = |output: &str| -> Value {
        let output = format!("{output},name={app_name}");
        env.build(&context, &["-o", &output]).success();
        let bytes = registry.manifest("app", "1").expect("there");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let types = |output: &str| {
        let manifest = manifest(output);
        let parts = [&manifest, &manifest["config"], &manifest["layers"][0]];
        parts.map(|part| part["mediaType"].as_str().expect("a type").to_owned())
    };
    let oci = |kind: &str| format!("application/vnd.oci.image.{kind}");
    let all_oci = |layer: &str| ["manifest.v1+json", "config.v1+json", layer].map(oci);
    assert_eq!(types("type=registry"), all_oci("layer.v1.tar+gzip"));
    assert_eq!(types("type=image,push=true,compression=zstd"), all_oci("layer.v1.tar+zstd"));
    assert_eq!(types("type=registry,compression=uncompressed"), all_oci("layer.v1.tar"));
    let docker = types("type=registry,oci-mediatypes=false");
    assert_eq!(docker[0], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(docker[2], "application/vnd.docker.image.rootfs.diff.tar.gzip");
    let annotated = manifest("type=registry,annotation.a.b=c");
    assert_eq!(annotated["annotations"]["a.b"], "c");
    // By its digest alone, as those do who make an index of several afterwards.
    let output = format!("type=image,push=true,push-by-digest=true,name={}", name(&registry, "by"));
    let ran = env.build(&context, &["-o", &output]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(registry.names(), ["app:1"]);
    let pushed = ran.stderr.lines().find_map(|line| line.strip_prefix("pushed "));
    let (_, digest) = pushed.and_then(|line| line.split_once('@')).expect("it is said");
    assert!(registry.manifest("by", digest).is_some(), "{digest}");
    for (args, part) in [
        (["--push"].as_slice(), "tag is needed"),
        (&["-o", "type=registry"], "tag is needed"),
        (&["-t", "a", "-o", "type=registry,registry.insecure=true"], "--tls-verify=false"),
        (&["-t", "a", "-o", "type=image,compression=zstd"], "not compressed"),
    ] {
        let ran = env.build(&context, args);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
}

#[test]
fn what_another_repository_has_is_mounted() {
    let Some(env) = bare() else { return };
    let registry = Registry::start();
    let (one, two) = (name(&registry, "one:1"), name(&registry, "deep/er/two:1"));
    app(&env, &one);
    push(&env, &one).success();
    env.mica(["tag", &one, &two]).success();
    registry.asked();
    let ran = push(&env, &two);
    assert_eq!(ran.stderr.matches("Mounted from another repository").count(), 3, "{}", ran.stderr);
    let asked = registry.asked();
    let counts = ["HEAD", "POST", "PATCH", "PUT"].map(|method| count(&asked, method));
    assert_eq!(counts, [1, 3, 0, 1], "{asked:?}");
    check(&env, &registry, "deep/er/two", "1");
    // Whoever does not have it there after all gets an upload.
    let three = name(&registry, "three:1");
    env.mica(["tag", &one, &three]).success();
    registry.unlink("deep/er/two");
    registry.plan("POST", 3, Fault::Answer(403, ""));
    let ran = push(&env, &three);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    check(&env, &registry, "three", "1");
}

/// A base that no step has read goes from its repository to another one without coming by.
#[test]
fn a_base_that_was_never_fetched() {
    let (Some(first), Some(env)) = (bare(), bare()) else { return };
    let (registry, elsewhere) = (Registry::start(), Registry::start());
    let base = name(&registry, "base:1");
    app(&first, &base);
    push(&first, &base).success();
    registry.asked();
    let context = env.dockerfile(&format!("FROM {base}\nLABEL x=1\n"));
    let app_name = name(&registry, "app:1");
    let ran = env.build(&context, &["--push", "-t", &app_name]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let asked = registry.asked();
    assert_eq!((count(&asked, "GET /v2/base/blobs"), count(&asked, "PATCH")), (1, 0), "{asked:?}");
    assert!(registry.manifest("app", "1").is_some());
    // To another registry it has to be fetched, once.
    let other = name(&elsewhere, "app:1");
    env.mica(["tag", &app_name, &other]).success();
    let ran = push(&env, &other);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(count(&registry.asked(), "GET /v2"), 2);
    check(&env, &elsewhere, "app", "1");
    assert_eq!(elsewhere.manifest("app", "1"), registry.manifest("app", "1"));
}

#[test]
fn layers_are_compressed_as_asked() {
    let Some(env) = bare() else { return };
    let registry = Registry::start();
    let app_name = name(&registry, "app:1");
    app(&env, &app_name);
    let layer = |args: &[&str]| {
        let args: Vec<&str> = ["push"].iter().chain(args).copied().chain([&*app_name]).collect();
        env.mica(args).success();
        let manifest = registry.manifest("app", "1").expect("there");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        let layer = &manifest["layers"][1];
        let kind = layer["mediaType"].as_str().expect("a type").rsplit('.').next();
        (kind.unwrap_or_default().to_owned(), layer["size"].as_u64().expect("a size"))
    };
    let (gzip, small) = (layer(&[]), layer(&["--compression-level", "9"]));
    assert!(
        gzip.0 == "tar+gzip" && small.0 == "tar+gzip" && small.1 < gzip.1,
        "{gzip:?} {small:?}"
    );
    assert_eq!(layer(&["--compression=zstd"]).0, "tar+zstd");
    assert_eq!(layer(&["--compression=uncompressed"]).0, "tar");
    registry.asked();
    assert_eq!(layer(&["--compression=zstd"]).0, "tar+zstd");
    let asked = registry.asked();
    assert_eq!((count(&asked, "PATCH"), count(&asked, "PUT")), (0, 1), "{asked:?}");
    let ran = env.mica(["push", "--compression=gzip", "--compression-level=10", &app_name]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
}
