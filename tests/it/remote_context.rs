//! Contexts and Dockerfiles from servers and repositories.

use std::fs;

use crate::env::{TestEnv, bare, plain_user};
use crate::image::SavedImage;
use crate::server::{Repository, Server};

const ALL: &str = "FROM scratch\nCOPY . /\n";
const CHANGED: i64 = 784_111_777;
const COMMITTED: i64 = 1_612_325_106;

#[track_caller]
fn built(env: &TestEnv, context: &str, args: &[&str]) -> SavedImage {
    let ran = env.mica(["build", "-q"].iter().chain(args).chain(&[context]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    env.saved(ran.stdout.trim())
}

fn names(image: &SavedImage) -> Vec<String> {
    image.files().into_keys().collect()
}

/// A tar whose file belongs to 1234:567 and is from the second `time`.
fn tar(time: u64) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in [("Dockerfile", ALL), (".dockerignore", "*"), ("other/Dockerfile", ALL)] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(1234);
        header.set_gid(567);
        header.set_mtime(time);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes()).expect("to write to memory");
    }
    tar.into_inner().expect("to write to memory")
}

fn contexts(env: &TestEnv) {
    let Some(repository) = Repository::new(&env.path("work")) else { return };
    repository.commit(&[
        ("Dockerfile", ALL),
        (".dockerignore", "*"),
        ("sub/Dockerfile", "FROM scratch\nCOPY sub /from-sub\n"),
        ("sub/f", "F"),
    ]);
    repository.publish(&env.path("served/r.git"));
    let served = env.path("served");
    fs::write(served.join("c.tar.gz"), zstd::encode_all(&tar(5)[..], 1).expect("zstd"))
        .expect("written");
    fs::write(served.join("one"), "FROM scratch\nCOPY context /it\n").expect("written");
    let server = Server::of_folder(&served);
    let url = |path: &str| format!("{}/{path}", server.url);

    let image = built(env, &url("r.git"), &[]);
    assert_eq!(names(&image), [".dockerignore", "Dockerfile", "sub", "sub/Dockerfile", "sub/f"]);
    assert_eq!(image.file("sub/f").owner, (0, 0));
    let image = built(env, &url("r.git"), &["-f", "sub/Dockerfile"]);
    assert_eq!(image.text("from-sub/f"), "F");
    let own = env.context(&[("D", ALL)]).join("D");
    let image = built(env, &url("r.git#main:sub"), &["-f", own.to_str().expect("UTF-8")]);
    assert_eq!(names(&image), ["Dockerfile", "f"]);
    let keep = ["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"];
    assert!(built(env, &url("r.git"), &keep).has(".git/HEAD"));

    let image = built(env, &url("c.tar.gz"), &["-f", "other/Dockerfile"]);
    assert_eq!(names(&image), [".dockerignore", "Dockerfile", "other", "other/Dockerfile"]);
    let file = image.file("Dockerfile");
    assert_eq!((file.owner, file.mode), ((1234, 567), 0o640));
    let image = built(env, &url("one"), &["-f", "what-is-not-asked-for"]);
    assert_eq!(image.file("it").mode, 0o600);
    // What a context was unpacked to goes with the build.
    let layers =
        || fs::read_dir(env.store().join("v1/layers")).expect("the store's layers").count();
    let before = layers();
    built(env, &url("one"), &[]);
    assert_eq!(layers(), before);
}

#[test]
fn contexts_from_elsewhere() {
    let Some(env) = bare() else { return };
    contexts(&env);
}

#[test]
fn contexts_from_elsewhere_of_a_plain_user() {
    let Some(env) = plain_user() else { return };
    contexts(&env);
}

#[test]
fn dockerfiles_and_named_contexts() {
    let Some(env) = bare() else { return };
    let files =
        env.context(&[("D", "FROM scratch\nCOPY --from=n . /n/\nCOPY own /\n"), ("f", "F")]);
    let server = Server::of_folder(&files);
    let context = env.context(&[("own", "O"), (".dockerignore", "hidden"), ("hidden", "")]);
    let (file, named) = (format!("{}/D", server.url), format!("n={}/f", server.url));
    let image = env.built_from(&context, &["-f", &file, "--build-context", &named]);
    assert_eq!((image.text("n/context").as_str(), image.text("own").as_str()), ("F", "O"));
    let Some(repository) = Repository::new(&env.path("work")) else { return };
    repository.commit(&[("g", "G")]);
    repository.publish(&files.join("r.git"));
    let named = format!("n={}/r.git", server.url);
    let image = env.built_from(&context, &["-f", &file, "--build-context", &named]);
    assert_eq!(names(&image), ["n", "n/g", "own"]);
}

#[test]
fn the_time_of_a_context() {
    let Some(env) = bare() else { return };
    let files = env.context(&[]);
    fs::write(files.join("old.tar"), tar(5)).expect("written");
    let dated = Server::of_folder(&files);
    let (tar, text) =
        (tar(77), "FROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL t=$SOURCE_DATE_EPOCH\nCOPY . /\n");
    let undated = Server::new(move |_| crate::server::Answer {
        status: 200,
        body: tar.clone(),
        ..Default::default()
    });
    let dockerfile = env.context(&[("D", text)]).join("D");
    let args = |epoch| ["--build-arg", epoch, "-f", dockerfile.to_str().expect("UTF-8")];
    let epoch = args("SOURCE_DATE_EPOCH=context");
    let time = |context: &str| {
        let image = built(&env, context, &epoch);
        (
            image.config["created"].as_str().expect("a time").to_owned(),
            image.config("Labels")["t"].clone(),
        )
    };
    let at = |seconds: i64| {
        let time = jiff::Timestamp::from_second(seconds).expect("a time").to_string();
        (time, serde_json::Value::from(seconds.to_string()))
    };
    assert_eq!(time(&format!("{}/old.tar", dated.url)), at(CHANGED));
    assert_eq!(time(&format!("{}/new.tar", undated.url)), at(77));
    // A folder has no time.
    let (_, label) = time(env.context(&[("f", "")]).to_str().expect("UTF-8"));
    assert_eq!(label, "");
    let Some(repository) = Repository::new(&env.path("work")) else { return };
    repository.commit(&[("g", "G")]);
    repository.publish(&files.join("r.git"));
    assert_eq!(time(&format!("{}/r.git", dated.url)), at(COMMITTED));
}

#[test]
fn contexts_that_are_not_there() {
    let Some(env) = bare() else { return };
    let server = Server::of_folder(&env.context(&[("empty", "")]));
    let told = |context: &str| {
        let ran = env.mica(["build", &context.replace("http://", "http://me:secret@")]);
        assert!(!ran.stderr.contains("secret"), "{ran:?}");
        let line = ran.stderr.lines().next().unwrap_or_default();
        (ran.code.unwrap_or_default(), line.replace(&server.url, "http://host"))
    };
    let url = |path: &str| format!("{}/{path}", server.url);
    for (context, code, expected) in [
        (
            url("none"),
            1,
            "error: cannot fetch `http://host/none`: the server answers with status 404",
        ),
        (url("r.git?x=y"), 2, "error: build context `http://host/r.git?x=y`: unexpected query `x`"),
        (
            "ftp://h/x".to_owned(),
            2,
            "error: build context `ftp://h/x`: give a folder, an http(s) URL or a git repository",
        ),
    ] {
        assert_eq!(told(&context), (code, expected.to_owned()));
    }
}
