//! `mica pull`, and base images out of registries: what goes well, and what each fault leads to.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mica::oci::{Descriptor, MediaType, Platform};
use serde_json::json;

use crate::env::{self, Ran, TestEnv};
use crate::registry::{Fault, Pushed, Registry, Reply, blob_path, tar_of};

/// A registry with the image `app:1`, which has two layers.
fn with_app() -> Option<(TestEnv, Registry, Pushed)> {
    let env = env::bare()?;
    let registry = Registry::start();
    let text = "x".repeat(40_000);
    let pushed = registry.push("app", "1", &[("one", "first"), ("two", &text)]);
    Some((env, registry, pushed))
}

fn pull(env: &TestEnv, registry: &Registry, name: &str) -> Ran {
    env.mica(["pull", &registry.name(name)])
}

/// What a failed pull says, without ports and digests; nothing of it is in the store.
#[track_caller]
fn refused(env: &TestEnv, registry: &Registry) -> String {
    let ran = pull(env, registry, "app:1");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(env.mica(["images", "-q"]).success(), "");
    let errors = ran.stderr.lines().filter(|line| !line.contains(": Pull"));
    errors.collect::<Vec<_>>().join("\n").replace(&registry.host, "HOST")
}

#[test]
fn an_image_is_pulled() {
    let Some((env, registry, pushed)) = with_app() else { return };
    let name = registry.name("app:1");
    let expected = format!(
        "1: Pulling from app\nDigest: {}\nStatus: Downloaded newer image for {name}\n{name}\n",
        pushed.digest
    );
    assert_eq!(pull(&env, &registry, "app:1").success(), expected);
    assert_eq!(env.saved(&name).layers.len(), 2);
    registry.requests();
    let again = pull(&env, &registry, "app:1").success();
    assert!(again.contains(&format!("Status: Image is up to date for {name}")), "{again}");
    assert_eq!(registry.asked(), ["GET /v2/app/manifests/1"]);
    let by_digest = format!("{}@{}", registry.name("app"), pushed.digest);
    assert_eq!(env.mica(["pull", "-q", &by_digest]).success(), format!("{by_digest}\n"));
}

#[test]
fn a_broken_layer_is_taken_up_where_it_broke() {
    let Some((env, registry, pushed)) = with_app() else { return };
    let layer = &pushed.layers[1];
    let path = blob_path("app", layer);
    registry.plan(&path, 1, Fault::Break(30_000));
    pull(&env, &registry, "app:1").success();
    let asked = registry.requests();
    let ranges: Vec<_> = asked
        .iter()
        .filter(|asked| asked.path == path)
        .map(|asked| asked.headers.get("range").map(String::as_str))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=30000-")]);
}

#[test]
fn a_layer_that_always_breaks_is_given_up() {
    let Some((env, registry, pushed)) = with_app() else { return };
    let path = blob_path("app", &pushed.layers[1]);
    (0..5).for_each(|_| registry.plan(&path, 1, Fault::Break(100)));
    let said = refused(&env, &registry);
    assert!(said.contains("broke off 5 times, at last after 500 of"), "{said}");
    // What came whole need not come again.
    registry.requests();
    pull(&env, &registry, "app:1").success();
    assert_eq!(registry.asked_for(&pushed.layers[0]), 0);
}

#[test]
fn a_layer_that_fails_does_not_wait_for_one_that_stalls() {
    let Some((env, registry, pushed)) = with_app() else { return };
    registry.plan(&blob_path("app", &pushed.layers[0]), 1, Fault::Stall(10));
    let gone = Reply::error(404, "BLOB_UNKNOWN", "blob unknown");
    registry.always(&blob_path("app", &pushed.layers[1]), gone);
    let began = std::time::Instant::now();
    let said = refused(&env, &registry);
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(said.contains("is not found: blob unknown"), "{said}");
}

#[test]
fn settings_that_are_wrong_stop_only_what_needs_them() {
    let Some((env, registry, _)) = with_app() else { return };
    crate::env::write(&env.path("home/.config/mica"), "config.toml", "[registry\n");
    crate::env::write(&env.path("home/.docker"), "config.json", "{");
    env.give(&env.path("home"));
    env.built("FROM scratch\nWORKDIR /x\n");
    let ran = pull(&env, &registry, "app:1");
    assert_eq!(ran.code, Some(2), "{ran:?}");
    insta::assert_snapshot!(
        env.filter(&ran.stderr),
        @"error: [dir]/home/.config/mica/config.toml:1: unclosed table, expected `]`"
    );
    let context = env.dockerfile(&format!("FROM {}\n", registry.name("app:1")));
    let ran = env.build(&context, &[]);
    insta::assert_snapshot!(env.filter(&ran.stderr.replace(&registry.host, "localhost:50000")), @r"
    error: [dir]/home/.config/mica/config.toml:1: unclosed table, expected `]`
     --> Dockerfile:1:6
      |
    1 | FROM localhost:50000/app:1
      |      ^^^^^^^^^^^^^^^^^^^^^
    ");
    // A registry that wants nothing to be shown needs no credentials.
    crate::env::write(&env.path("home/.config/mica"), "config.toml", "");
    pull(&env, &registry, "app:1").success();
}

#[test]
fn what_is_not_there_is_told() {
    let Some(env) = env::bare() else { return };
    let registry = Registry::start();
    insta::assert_snapshot!(refused(&env, &registry), @r"
    error: `HOST/app:1` is not found: manifest unknown
    hint: is the name spelled right?
    ");
    let context =
        env.dockerfile(&format!("FROM scratch\nCOPY --from={} / /\n", registry.name("no")));
    let said = env.build(&context, &[]);
    assert_eq!(said.code, Some(1));
    insta::assert_snapshot!(said.stderr.replace(&registry.host, "localhost:50000"), @r"
    error: `localhost:50000/no:latest` is not found: manifest unknown
     --> Dockerfile:2:13
      |
    2 | COPY --from=localhost:50000/no / /
      |             ^^^^^^^^^^^^^^^^^^
    hint: is the name spelled right?
    ");
}

/// mica with a password for a registry.
fn logged_in(env: &TestEnv, host: &str, args: &[&str]) -> Command {
    let mut command = env.command(args);
    // `me:secret`
    let auths = json!({ "auths": { host: { "auth": "bWU6c2VjcmV0" } } });
    command.env("DOCKER_AUTH_CONFIG", auths.to_string());
    command
}

#[test]
fn a_password_is_not_told_to_where_a_redirect_leads() {
    let Some((env, registry, pushed)) = with_app() else { return };
    let elsewhere = Registry::start();
    let bytes = tar_of("two", "x".repeat(40_000).as_bytes());
    elsewhere.always("/there", Reply::new(200, bytes));
    let to = format!("http://{}/there", elsewhere.host);
    let moved = blob_path("app", &pushed.layers[1]);
    registry.rule(move |asked| match asked.headers.get("authorization") {
        None => Some(Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x")),
        Some(shown) => {
            assert_eq!(shown, "Basic bWU6c2VjcmV0");
            (asked.path == moved).then(|| Reply::new(307, "").header("Location", &to))
        }
    });
    Ran::of(&mut logged_in(&env, &registry.host, &["pull", &registry.name("app:1")])).success();
    let asked = elsewhere.requests();
    assert_eq!(asked.len(), 1);
    assert!(!asked[0].headers.contains_key("authorization"), "{asked:?}");
}

#[test]
fn a_challenge_from_elsewhere_is_not_met() {
    let Some((env, registry, pushed)) = with_app() else { return };
    let elsewhere = Registry::start();
    elsewhere.rule(|_| Some(Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x")));
    let to = format!("http://{}/there", elsewhere.host);
    let moved = blob_path("app", &pushed.layers[1]);
    registry.rule(move |asked| {
        (asked.path == moved).then(|| Reply::new(307, "").header("Location", &to))
    });
    let command = &mut logged_in(&env, &registry.host, &["pull", &registry.name("app:1")]);
    assert_eq!(Ran::of(command).code, Some(1));
    let asked = elsewhere.requests();
    assert!(asked.iter().all(|asked| !asked.headers.contains_key("authorization")), "{asked:?}");
}

#[test]
fn an_expired_token_is_renewed() {
    let Some((env, registry, _)) = with_app() else { return };
    let issued = Arc::new(AtomicUsize::new(0));
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"test\"", registry.host);
    let tokens = Arc::clone(&issued);
    registry.rule(move |asked| {
        if asked.path == "/token" {
            let number = tokens.fetch_add(1, Ordering::SeqCst);
            assert!(asked.query == "service=test&scope=repository:app:pull", "{asked:?}");
            return Some(Reply::new(200, json!({ "token": format!("t{number}") }).to_string()));
        }
        // The first token dies before a blob is asked for.
        let shown = asked.headers.get("authorization").map(String::as_str);
        let alive = match shown {
            Some("Bearer t0") => !asked.path.contains("/blobs/"),
            Some(_) => true,
            None => false,
        };
        (!alive).then(|| Reply::new(401, "").header("WWW-Authenticate", &challenge))
    });
    pull(&env, &registry, "app:1").success();
    assert!((2..=6).contains(&issued.load(Ordering::SeqCst)));
}

#[test]
fn a_registry_that_is_never_content_is_given_up() {
    let Some((env, registry, _)) = with_app() else { return };
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    registry.rule(move |_| Some(Reply::new(401, body).header("WWW-Authenticate", "Basic realm=x")));
    insta::assert_snapshot!(refused(&env, &registry), @r"
    error: access to `HOST/app:1` is denied: authentication required
    hint: it may not exist; if it is private, log in with `mica login HOST`
    ");
    registry.requests();
    let ran = Ran::of(&mut logged_in(&env, &registry.host, &["pull", &registry.name("app:1")]));
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("for somebody else than who is logged in"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn tokens_are_not_asked_for_anywhere() {
    let Some((env, registry, _)) = with_app() else { return };
    for realm in ["file:///etc/passwd", "http://u:p@127.0.0.1/", "nonsense"] {
        let challenge = format!("Bearer realm=\"{realm}\"");
        registry.rule(move |_| Some(Reply::new(401, "").header("WWW-Authenticate", &challenge)));
        let said = refused(&env, &registry);
        assert!(said.contains("`127.0.0.1:") || said.contains("`HOST` sends us to"), "{said}");
    }
}

#[test]
fn only_what_a_step_reads_is_fetched() {
    let Some((env, registry, pushed)) = with_app() else { return };
    let name = registry.name("app:1");
    let context = env
        .context(&[("f", "x"), ("Dockerfile", &format!("FROM {name}\nENV A=b\nCMD [\"/x\"]\n"))]);
    let id = env.id_of(&context, &[]);
    let asked = registry.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].contains("/blobs/"), "{asked:?}");
    // The store is sound without the layers, and another build asks nobody.
    assert_eq!(env.mica(["system", "check"]).code, Some(0));
    assert_eq!(env.id_of(&context, &[]), id);
    assert_eq!(registry.asked(), Vec::<String>::new());
    // Whoever wants them gets them: here an archive.
    assert_eq!(env.saved(&id).layers.len(), 2);
    assert_eq!(registry.asked_for(&pushed.layers[0]), 1);
    env.mica(["system", "prune"]).success();
    let context = env.context(&[("f", "x"), ("Dockerfile", &format!("FROM {name}\nCOPY f /\n"))]);
    assert_eq!(env.built_from(&context, &[]).layers.len(), 3);
}

#[test]
fn a_moved_tag_is_noticed_by_one_question() {
    let Some((env, registry, _)) = with_app() else { return };
    let context = env.dockerfile(&format!("FROM {}\nCMD [\"/x\"]\n", registry.name("app:1")));
    let id = env.id_of(&context, &[]);
    registry.requests();
    assert_eq!(env.id_of(&context, &["--pull"]), id);
    assert_eq!(registry.asked(), ["HEAD /v2/app/manifests/1"]);
    registry.push("app", "1", &[("three", "third")]);
    assert_eq!(env.id_of(&context, &[]), id);
    assert_eq!(registry.asked(), Vec::<String>::new());
    assert_ne!(env.id_of(&context, &["--pull"]), id);
    let ran = env.build(&env.dockerfile("FROM 127.0.0.1:1/nobody\n"), &["--pull=never"]);
    assert!(ran.stderr.contains("image `127.0.0.1:1/nobody:latest` not found"), "{}", ran.stderr);
}

#[test]
fn an_index_has_an_image_for_each_platform() {
    let Some((env, registry, pushed)) = with_app() else { return };
    let of = |manifest: &Descriptor, platform: &str| {
        let platform = Platform::parse(platform);
        Descriptor { platform, ..manifest.clone() }
    };
    let other = registry.push("app", "other", &[("arm", "arm")]);
    let inner = registry.index("app", "inner", &[of(&pushed.manifest, "linux/amd64")]);
    let entries = [of(&other.manifest, "linux/arm64"), of(&inner, "linux/amd64")];
    let index = registry.index("app", "all", &entries);
    let said = pull(&env, &registry, "app:all").success();
    assert!(said.contains(&index.digest.to_string()), "{said}");
    assert_eq!(env.saved(&registry.name("app:all")).layers.len(), 2);
    // A moved tag is looked for by the index.
    let context = env.dockerfile(&format!("FROM {}\nCMD [\"/x\"]\n", registry.name("app:all")));
    registry.requests();
    env.id_of(&context, &["--pull"]);
    assert_eq!(registry.asked(), ["HEAD /v2/app/manifests/all"]);
    let ran = env.mica(["pull", "--platform", "linux/s390x", &registry.name("app:all")]);
    assert!(
        ran.stderr.contains("has no image for linux/s390x; it has linux/arm64, linux/amd64"),
        "{}",
        ran.stderr
    );
}

#[test]
fn indexes_in_a_circle_are_refused() {
    let Some((env, registry, _)) = with_app() else { return };
    let mut inner = registry.index("app", "0", &[]);
    for depth in 1..=6 {
        inner.platform = Some(Platform::host());
        inner = registry.index("app", &depth.to_string(), &[inner]);
    }
    let ran = pull(&env, &registry, "app:6");
    assert!(ran.stderr.contains("nested more than 4 times"), "{}", ran.stderr);
}

#[test]
fn layers_of_all_kinds_are_unpacked() {
    use std::io::Write;
    let Some(env) = env::bare() else { return };
    let registry = Registry::start();
    let tars = ["plain", "gzip", "zstd"].map(|name| tar_of(name, name.as_bytes()));
    let diff_ids = tars.each_ref().map(|tar| mica::oci::Digest::of(tar).to_string());
    let [plain, gzip, zstd] = tars;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&gzip).expect("to compress");
    let docker = |kind: &str| {
        MediaType::from(format!("application/vnd.docker.image.rootfs.diff.{kind}").as_str())
    };
    let layers = vec![
        registry.put_blob("kinds", docker("tar"), plain),
        registry.put_blob("kinds", docker("tar.gzip"), encoder.finish().expect("to compress")),
        registry.put_blob(
            "kinds",
            MediaType::ImageLayerZstd,
            zstd::encode_all(&zstd[..], 1).expect("to compress"),
        ),
    ];
    registry.image("kinds", "1", layers, &json!({}), &diff_ids);
    pull(&env, &registry, "kinds:1").success();
    let context =
        env.dockerfile(&format!("FROM scratch\nCOPY --from={} / /\n", registry.name("kinds:1")));
    let image = env.built_from(&context, &[]);
    assert_eq!(image.layers.len(), 1);
}

/// The files of a layer are here, and so its blob in another compression is not fetched.
#[test]
fn a_layer_that_two_images_compress_differently() {
    let Some(env) = env::bare() else { return };
    let registry = Registry::start();
    // mica would write another tar for the same file.
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_username("somebody").expect("it is short");
    tar.append_data(&mut header, "f", &b"x"[..]).expect("a tar");
    let tar = tar.into_inner().expect("a tar");
    let diff_ids = [mica::oci::Digest::of(&tar).to_string()];
    let zstd = zstd::encode_all(&tar[..], 1).expect("to compress");
    let plain = registry.put_blob("app", MediaType::ImageLayer, tar);
    let zstd = registry.put_blob("app", MediaType::ImageLayerZstd, zstd);
    for (tag, layer) in [("a-zstd", zstd.clone()), ("b-plain", plain), ("c-zstd", zstd)] {
        registry.image("app", tag, vec![layer], &json!({ "User": tag }), &diff_ids);
    }
    for tag in ["b-plain", "a-zstd", "c-zstd"] {
        pull(&env, &registry, &format!("app:{tag}")).success();
    }
    assert_eq!(registry.asked().iter().filter(|line| line.contains("/blobs/")).count(), 4);
    assert_eq!(env.mica(["system", "check"]).success(), "");
}

#[test]
fn a_mirror_is_asked_first_and_not_trusted() {
    let Some((env, registry, pushed)) = with_app() else { return };
    let mirror = Registry::start();
    let copy = mirror.push("app", "1", &[("one", "first"), ("two", &"x".repeat(40_000))]);
    assert_eq!(copy.digest, pushed.digest);
    let settings =
        format!("[registry.\"{}\"]\nmirrors = [\"http://{}\"]\n", registry.host, mirror.host);
    crate::env::write(&env.path("home/.config/mica"), "config.toml", &settings);
    env.give(&env.path("home"));
    let evil = vec![b'e'; usize::try_from(pushed.layers[1].size).expect("it is small")];
    mirror.always(&blob_path("app", &pushed.layers[1]), Reply::new(200, evil));
    pull(&env, &registry, "app:1").success();
    // All came from the mirror but for what was wrong there.
    assert_eq!(registry.asked(), [format!("GET {}", blob_path("app", &pushed.layers[1]))]);
    // What it does not have, the registry has.
    registry.push("app", "2", &[("three", "third")]);
    pull(&env, &registry, "app:2").success();
}

#[test]
fn a_transfer_that_stalls_is_taken_up_again() {
    use std::io::Read;
    use std::time::{Duration, Instant};

    use mica::http::Limits;
    use mica::registry::Registries;
    use mica::registry::credentials::{Credentials, Places};
    use mica::registry::settings::Settings;

    let registry = Registry::start();
    let bytes = tar_of("two", "x".repeat(40_000).as_bytes());
    let blob = registry.put_blob("app", MediaType::ImageLayer, bytes.clone());
    registry.plan(&blob_path("app", &blob), 1, Fault::Stall(30_000));
    let limits = Limits { stall: Duration::from_millis(300), ..Limits::default() };
    let credentials = Credentials::at(Places::default());
    let registries = Registries::new(|| Ok(Settings::default()), credentials, limits, || false);
    let repository = registries.repository_named(&registry.name("app")).expect("a name");
    let (mut read, began) = (Vec::new(), Instant::now());
    let mut reader = repository.blob(&blob, 0, true).expect("an answer");
    reader.read_to_end(&mut read).expect("all of it");
    assert!(read == bytes && began.elapsed() < Duration::from_millis(2900));
}
