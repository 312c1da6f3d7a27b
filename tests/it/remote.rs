//! ADD of URLs and of git repositories.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Mutex;

use insta::assert_snapshot;

use crate::env::{TestEnv, bare, plain_user};
use crate::server::{Answer, Repository, Server};

const CHANGED: u64 = 784_111_777;
const COMMITTED: u64 = 1_612_325_106;

/// A text without what differs from run to run.
fn plain(env: &TestEnv, server: &Server, text: &str) -> String {
    env.filter(&text.replace(&server.url, "http://host"))
}

#[track_caller]
fn fails(env: &TestEnv, server: &Server, dockerfile: &str, args: &[&str]) -> String {
    let ran = env.build(&env.dockerfile(dockerfile), args);
    assert!(matches!(ran.code, Some(1 | 2)), "{ran:?}");
    let errors = ran.stderr.lines().skip_while(|line| !line.starts_with("error"));
    plain(env, server, &errors.collect::<Vec<_>>().join("\n"))
}

fn urls_as_docker_has_them(env: &TestEnv) {
    let files = env.context(&[("file.txt", "hello"), ("a b", "spaces")]);
    let server = Server::of_folder(&files);
    let url = &server.url;
    // The server decodes nothing: it has to be asked for by the same name.
    fs::rename(files.join("a b"), files.join("a%20b")).expect("renamed");
    let image = env.built(&format!(
        "FROM scratch\nADD {url}/file.txt /a/\nADD --chown=1:2 --chmod=755 {url}/file.txt /b\n\
         ADD {url}/a%20b?x=y {url}/file.txt /c/\n"
    ));
    let file = image.file("a/file.txt");
    assert_eq!((file.bytes.as_slice(), file.mode, file.owner), (&b"hello"[..], 0o600, (0, 0)));
    assert_eq!(file.mtime, CHANGED);
    let file = image.file("b");
    assert_eq!((file.mode, file.owner, file.mtime), (0o755, (1, 2), CHANGED));
    assert_eq!(image.text("c/a b"), "spaces");
    assert_eq!(image.file("a").mode, 0o755);
    let history = &image.config["history"];
    assert_eq!(history[0]["created_by"], format!("ADD {url}/file.txt /a/ # buildkit"));
    assert_eq!(
        history[1]["created_by"],
        format!("ADD --chown=1:2 --chmod=755 {url}/file.txt /b # buildkit")
    );
    // One file is fetched once, however often it is added.
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn what_is_asked_of_servers_is_shown() {
    let Some(env) = bare() else { return };
    let server = Server::of_folder(&env.context(&[("file.txt", "hello")]));
    let context = env.dockerfile(&format!("FROM scratch\nADD {}/file.txt /\n", server.url));
    let ran = env.build(&context, &["--progress", "plain"]);
    let shown = plain(&env, &server, &ran.stderr);
    let steps: Vec<&str> = shown.lines().filter(|line| line.starts_with('#')).take(3).collect();
    assert_eq!(
        steps,
        ["#1 pin http://host/file.txt", "#1 DONE [time]", "#2 fetch http://host/file.txt"]
    );
}

#[test]
fn add_of_urls() {
    let Some(env) = bare() else { return };
    urls_as_docker_has_them(&env);
}

#[test]
fn add_of_urls_by_a_plain_user() {
    let Some(env) = plain_user() else { return };
    urls_as_docker_has_them(&env);
}

#[test]
fn what_did_not_change_is_not_sent_again() {
    let Some(env) = bare() else { return };
    let files = env.context(&[("f", "one")]);
    let server = Server::of_folder(&files);
    let context = env.dockerfile(&format!("FROM scratch\nADD {}/f /f\n", server.url));
    let first = env.id_of(&context, &[]);
    server.requests();
    assert_eq!(env.id_of(&context, &[]), first);
    let asked = server.requests();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].headers.contains_key("if-none-match"), "{asked:?}");
    // Nothing is kept of what changed but the new file.
    fs::write(files.join("f"), "two").expect("written");
    assert_eq!(env.built_from(&context, &[]).text("f"), "two");
    let kept = fs::read_dir(env.store().join("v1/fetched/http")).expect("what is kept").count();
    assert_eq!(kept, 2);
    env.mica(["system", "prune"]).success();
    assert!(!env.store().join("v1/fetched").exists());
    assert_eq!(env.built_from(&context, &[]).text("f"), "two");
}

#[test]
fn a_checksum_spares_the_question() {
    let Some(env) = bare() else { return };
    let server = Server::of_folder(&env.context(&[("f", "one")]));
    let digest = mica::oci::Digest::of(b"one");
    let text = format!("FROM scratch\nARG SUM={digest}\nADD --checksum=$SUM {}/f /f\n", server.url);
    let context = env.dockerfile(&text);
    assert_eq!(env.built_from(&context, &[]).text("f"), "one");
    assert_eq!(server.asked(), ["GET /f"]);
    env.id_of(&context, &[]);
    assert_eq!(server.asked(), [""; 0]);
}

#[test]
fn archives_are_unpacked_where_it_is_said() {
    let Some(env) = bare() else { return };
    let mut tar = tar::Builder::new(Vec::new());
    crate::env::append(&mut tar, tar::EntryType::Regular, "in", 0o640, b"x");
    let files = env.context(&[]);
    fs::write(files.join("a.tar"), tar.into_inner().expect("a tar")).expect("written");
    let server = Server::of_folder(&files);
    let url = format!("{}/a.tar", server.url);
    let image = env.built(&format!("FROM scratch\nADD {url} /no/\nADD --unpack {url} /yes/\n"));
    assert!(image.has("no/a.tar") && image.has("yes/in") && !image.has("yes/a.tar"));
}

#[test]
fn tired_servers_and_redirects() {
    let Some(env) = bare() else { return };
    let other = Server::new(|_| Answer::text("moved"));
    let target = format!("{}/x", other.url);
    let times = Mutex::new(0);
    let server = Server::new(move |asked| {
        let mut times = times.lock().expect("a count");
        *times += 1;
        match (*times, asked.path.as_str()) {
            (1, _) => Answer::status(503).header("Retry-After", "0"),
            (2, _) => Answer { length: Some(100), ..Answer::text("broken off") },
            (_, "/a/name") => Answer::status(302).header("Location", &target),
            _ => Answer::status(404),
        }
    });
    let text = format!("FROM scratch\nADD {}/a/name /\n", server.url);
    let secret = ["--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,env=TOKEN"];
    let mut command = env.command(["build"].iter().chain(&secret));
    let ran = crate::env::Ran::of(command.env("TOKEN", "t0k3n").arg(env.dockerfile(&text)));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let told = server.requests();
    assert!(told.iter().all(|asked| asked.headers["authorization"] == "Bearer t0k3n"), "{told:?}");
    // Another port is another server.
    assert!(other.requests().iter().all(|asked| !asked.headers.contains_key("authorization")));
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("t0k3n"));
    let kept = walkdir::WalkDir::new(env.store()).into_iter().flatten();
    let leaks = kept.filter(|entry| {
        fs::read(entry.path()).is_ok_and(|bytes| bytes.windows(5).any(|part| part == b"t0k3n"))
    });
    assert_eq!(leaks.count(), 0);
}

#[test]
fn what_cannot_be_fetched() {
    let Some(env) = bare() else { return };
    let server = Server::of_folder(&env.context(&[("f", "one")]));
    let url = &server.url;
    assert_snapshot!(fails(&env, &server, &format!("FROM scratch\nADD {url}/none /\n"), &[]), @r"
    error: cannot fetch `http://host/none`: the server answers with status 404
     --> Dockerfile:2:5
      |
    2 | ADD http://host/none /
      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^
    ");
    let zeros = "0".repeat(64);
    let wrong = format!("FROM scratch\nADD --checksum=sha256:{zeros} {url}/f /\n");
    assert_snapshot!(fails(&env, &server, &wrong, &[]), @r"
    error: digest mismatch: `http://host/f` gives [digest], not [digest]
     --> Dockerfile:2:88
      |
    2 | ADD --checksum=[digest] http://host/f /
      |                                                                                        ^^^^^^^^^^^^^^^^^^^^^^^^
    hint: what the URL gives has changed, or is not what you think
    ");
    assert_eq!(fs::read_dir(env.store().join("v1/fetched/http")).expect("kept").count(), 0);
    for (add, expected) in [
        ("ADD --checksum=foo {url}/f /", "invalid checksum digest format"),
        ("ADD --checksum=foo f /", "checksum requires HTTP(S) or Git sources"),
        ("ADD --checksum=foo {url}/f f /x/", "checksum can't be specified for multiple sources"),
        ("COPY {url}/f /", "source can't be a URL for COPY"),
        ("COPY {url}/f.git /", "source can't be a git ref for COPY"),
        ("ADD {url}/f.git?x=y /", "unexpected query `x`"),
        (
            "ADD --keep-git-dir {url}/f.git?keep-git-dir=0 /",
            "inconsistent keep-git-dir configuration",
        ),
        ("ADD --checksum=aa {url}/f.git?commit=bb /", "checksum mismatch `aa` != `bb`"),
        (
            "ADD --checksum=x {url}/f.git /",
            "invalid checksum `x` for a git URL: expected the hex digits of a commit",
        ),
    ] {
        let add = add.replace("{url}", url);
        let told = fails(&env, &server, &format!("FROM scratch\n{add}\n"), &[]);
        assert_eq!(told.lines().next(), Some(format!("error: {expected}").as_str()), "{add}");
    }
    assert_eq!(env.mica(["images", "-q"]).success(), "");
}

/// A repository with two branches and tags of either kind.
fn repository(env: &TestEnv) -> Option<(Repository, [String; 2])> {
    let repository = Repository::new(&env.path("work"))?;
    crate::env::write(&repository.path(""), "run", "#!/bin/sh\n");
    fs::set_permissions(
        repository.path("run"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .expect("chmod");
    symlink("sub", repository.path("link")).expect("a link");
    let first =
        repository.commit(&[("f", "one"), ("sub/g", "G"), (".gitattributes", "* export-ignore")]);
    repository.git(&["tag", "light"]);
    repository.git(&["tag", "-a", "-m", "m", "full"]);
    repository.git(&["checkout", "-q", "-b", "feature/x"]);
    let second = repository.commit(&[("f", "two")]);
    repository.git(&["checkout", "-q", "main"]);
    repository.publish(&env.path("served/r.git"));
    Some((repository, [first, second]))
}

fn repositories_as_docker_has_them(env: &TestEnv) {
    let Some((_, [first, second])) = repository(env) else { return };
    let server = Server::of_folder(&env.path("served"));
    let url = format!("{}/r.git", server.url);
    let image = env.built(&format!(
        "FROM scratch\nADD {url} /main/\nADD {url}#feature/x:sub /x\nADD {url}#{second} /second\n\
         ADD --chown=3:4 --exclude=run {url}?tag=light&subdir=../sub/.. /light\n\
         ADD --keep-git-dir --checksum={} {url}#full /full\n",
        &first[..9]
    ));
    let files = image.files();
    let names = |folder: &str| -> Vec<String> {
        let inside = files.keys().filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/'));
        inside.map(str::to_owned).collect()
    };
    assert_eq!(names("main"), [".gitattributes", "f", "link", "run", "sub", "sub/g"]);
    let file = &files["main/run"];
    assert_eq!((file.mode, file.owner, file.mtime), (0o755, (0, 0), COMMITTED));
    assert_eq!((files["main/f"].mode, files["main/sub"].mode), (0o644, 0o755));
    assert_eq!(files["main/link"].link.as_deref(), Some("sub"));
    assert_eq!(names("x"), ["g"]);
    assert_eq!(image.text("second/f"), "two");
    assert_eq!(names("light"), [".gitattributes", "f", "link", "sub", "sub/g"]);
    assert_eq!(files["light/f"].owner, (3, 4));
    assert_eq!(image.text("full/.git/HEAD").trim(), first);
    assert!(image.text("full/.git/config").contains(&url));
    let history = &image.config["history"];
    assert_eq!(history[1]["created_by"], format!("ADD {url}#feature/x:sub /x # buildkit"));
}

#[test]
fn add_of_repositories() {
    let Some(env) = bare() else { return };
    repositories_as_docker_has_them(&env);
}

#[test]
fn add_of_repositories_by_a_plain_user() {
    let Some(env) = plain_user() else { return };
    repositories_as_docker_has_them(&env);
}

#[test]
fn a_commit_is_fetched_once() {
    let Some(env) = bare() else { return };
    let Some((repository, [first, _])) = repository(&env) else { return };
    let server = Server::of_folder(&env.path("served"));
    let context = env.dockerfile(&format!("FROM scratch\nADD {}/r.git /r\n", server.url));
    let image = env.id_of(&context, &[]);
    server.asked();
    assert_eq!(env.id_of(&context, &[]), image);
    assert_eq!(server.asked(), ["GET /r.git/info/refs?service=git-upload-pack"]);
    // Another name of the same commit is the same source; its own name needs nobody to be asked.
    let text = format!("FROM scratch\nADD {}/r.git#{first} /r\n", server.url);
    assert_eq!(env.built(&text).text("r/f"), "one");
    assert_eq!(server.asked(), [""; 0]);
    repository.commit(&[("f", "three")]);
    repository.publish(&env.path("served/r.git"));
    assert_eq!(env.built_from(&context, &[]).text("r/f"), "three");
}

#[test]
fn submodules_come_along() {
    let Some(env) = bare() else { return };
    let Some((_, _)) = repository(&env) else { return };
    let server = Server::of_folder(&env.path("served"));
    let outer = Repository::new(&env.path("outer")).expect("git");
    outer.git(&["remote", "add", "origin", &format!("{}/outer.git", server.url)]);
    outer.git(&["submodule", "-q", "add", "../r.git", "in/r"]);
    outer.commit(&[]);
    outer.publish(&env.path("served/outer.git"));
    let url = format!("{}/outer.git", server.url);
    let image = env.built(&format!(
        "FROM scratch\nADD {url} /all\nADD {url}?submodules=false /alone\nADD --keep-git-dir {url} /git\n"
    ));
    assert_eq!(image.text("all/in/r/f"), "one");
    assert!(!image.has("all/in/r/.git") && !image.has("all/.git"));
    assert!(image.has("alone/in/r") && !image.has("alone/in/r/f"));
    assert_eq!(image.text("git/in/r/.git").trim(), "gitdir: ../../.git/modules/in/r");
    assert_eq!(image.text("git/in/r/f"), "one");
}

#[test]
fn hostile_repositories() {
    let Some(env) = bare() else { return };
    let Some((repository, [first, _])) = repository(&env) else { return };
    let secret = env.context(&[("secret", "s")]);
    symlink(&secret, repository.path("out")).expect("a link");
    // A submodule from this machine, and a filter and a hook that nobody asked for.
    let module = format!("[submodule \"m\"]\n\tpath = m\n\turl = {}\n", env.path("work").display());
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{first},m")]);
    repository.commit(&[(".gitattributes", "* filter=evil"), (".gitmodules", "")]);
    fs::write(repository.path(".gitmodules"), module).expect("written");
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{first},m")]);
    repository.git(&["add", ".gitmodules"]);
    repository.git(&["commit", "-q", "-m", "m"]);
    repository.publish(&env.path("served/r.git"));
    let server = Server::of_folder(&env.path("served"));
    let url = format!("{}/r.git", server.url);
    let told = fails(&env, &server, &format!("FROM scratch\nADD {url} /\n"), &[]);
    assert!(told.contains("transport 'file' not allowed"), "{told}");
    let told =
        fails(&env, &server, &format!("FROM scratch\nADD {url}?submodules=0&subdir=out /\n"), &[]);
    assert!(told.starts_with("error: invalid subdir `out`: it is no folder"), "{told}");
    let image = env.built(&format!("FROM scratch\nADD {url}?submodules=0 /\n"));
    assert_eq!(image.file("out").kind, tar::EntryType::Symlink);
}

#[test]
fn what_a_repository_does_not_have() {
    let Some(env) = bare() else { return };
    let Some(_) = repository(&env) else { return };
    let server = Server::of_folder(&env.path("served"));
    let url = &server.url;
    let told =
        |source: &str| fails(&env, &server, &format!("FROM scratch\nADD {url}/{source} /\n"), &[]);
    assert_snapshot!(told("r.git#nope"), @r"
    error: repository `http://host/r.git` does not contain ref `nope`
     --> Dockerfile:2:5
      |
    2 | ADD http://host/r.git#nope /
      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: a commit needs all its digits: 40, or 64 with SHA-256
    ");
    assert_snapshot!(told("r.git#main:none"), @r"
    error: invalid subdir `none`: it is not in the repository
     --> Dockerfile:2:5
      |
    2 | ADD http://host/r.git#main:none /
      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    ");
    assert_snapshot!(told("r.git?branch=main&checksum=abcd"), @r"
    error: expected checksum to match `abcd`, got bb2ddf5eedac9884942dec47c30fd4cd34d55b14
     --> Dockerfile:2:5
      |
    2 | ADD http://host/r.git?branch=main&checksum=abcd /
      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    ");
    assert_snapshot!(told("none.git"), @r"
    error: cannot read the refs of `http://host/none.git`: fatal: repository 'http://host/none.git/' not found
     --> Dockerfile:2:5
      |
    2 | ADD http://host/none.git /
      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    ");
    let told =
        fails(&env, &server, &format!("FROM scratch\nADD {url}/r.git#{} /\n", "a".repeat(40)), &[]);
    assert!(told.starts_with("error: "), "{told}");
    let ran = crate::env::Ran::of(
        env.command(["build"])
            .env("PATH", "/nonexistent")
            .arg(env.dockerfile(&format!("FROM scratch\nADD {url}/r.git /\n"))),
    );
    if crate::env::is_root() {
        assert!(ran.stderr.contains("hint: git sources need the `git` program"), "{ran:?}");
    }
}

#[test]
fn repositories_that_ask_who_is_there() {
    let Some(env) = bare() else { return };
    let Some(_) = repository(&env) else { return };
    let inner = Server::of_folder(&env.path("served"));
    // The password of "x-access-token:t0k3n", as git sends it.
    let wanted = "Basic eC1hY2Nlc3MtdG9rZW46dDBrM24=";
    let target = inner.url.clone();
    let server = Server::new(move |asked| match asked.headers.get("authorization") {
        Some(value) if value == wanted => {
            Answer::status(307).header("Location", &format!("{target}{}", asked.path))
        }
        _ => Answer::status(401).header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let context = env.dockerfile(&format!("FROM scratch\nADD {}/r.git /r\n", server.url));
    let told = fails(&env, &server, &format!("FROM scratch\nADD {}/r.git /r\n", server.url), &[]);
    assert!(told.contains("hint: log in with `--secret id=GIT_AUTH_TOKEN"), "{told}");
    for id in ["GIT_AUTH_TOKEN", "GIT_AUTH_TOKEN.127.0.0.1:PORT"] {
        let port = server.url.rsplit(':').next().expect("a port");
        let secret = format!("id={},env=TOKEN", id.replace("PORT", port));
        let mut command = env.command(["build", "--no-cache", "--secret", &secret]);
        let ran = crate::env::Ran::of(command.env("TOKEN", "t0k3n").arg(&context));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("t0k3n"));
    }
    let kept = walkdir::WalkDir::new(env.store()).into_iter().flatten();
    let texts = kept.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let leaks = texts.filter(|text| text.contains("t0k3n") || text.contains("dDBrM24"));
    assert_eq!(leaks.count(), 0);
}
