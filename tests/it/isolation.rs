//! Modes of isolation: which one is taken, what is said of the others, and that images don't tell.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::env::{Ran, TestEnv, is_root, single_id, with_base};
use crate::reproducible::same_base;

const EPOCH: [&str; 2] = ["--source-date-epoch", "1600000000"];

#[test]
fn info_tells_why_not_another_mode() {
    let Some(env) = with_base() else { return };
    let info: Value =
        serde_json::from_str(&env.mica(["info", "--format", "json"]).success()).expect("JSON");
    let declined = info["IsolationDeclined"].as_array().expect("a list");
    assert!(!declined.is_empty(), "{info}");
    for it in declined {
        assert!(it["Reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{it}");
    }
    let text = env.mica(["info"]).success();
    assert!(
        text.contains(if is_root() { "not userns: not needed" } else { "not root: " }),
        "{text}"
    );
}

#[test]
fn a_mode_can_be_forced() {
    let Some(env) = with_base() else { return };
    let mode = |ran: Ran| {
        let info: Value = serde_json::from_str(&ran.success()).expect("JSON");
        info["Isolation"].as_str().expect("a mode").to_owned()
    };
    assert_eq!(mode(env.mica(["--isolation", "userns", "info", "--format", "json"])), "userns");
    let mut command = env.command(["info", "--format", "json"]);
    command.env("MICA_ISOLATION", "userns");
    assert_eq!(mode(Ran::of(&mut command)), "userns");
    let refused = env.mica(["--isolation", "jail", "images"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    let Some(user) = single_id() else { return };
    let refused = user.mica(["--isolation", "root", "images"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("not root: the user id is "), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: run mica as root"), "{}", refused.stderr);
}

/// Owners, devices, links and changes of identity, by root and by others; nothing reads an owner back.
const OWNERS: &str = r#"FROM base
COPY --chown=1000:1001 f d /data/
ADD --chown=7:8 d /other/
RUN <<END
    set -e
    mkdir -p /w/x
    ln -s /a /w/l
    echo hi >/w/f
    chown 1000:1001 /w/f
    chown -h 77 /w/l
    chown -R 5:6 /w/x
    chmod 4755 /w/f
    mknod -m 600 /null c 1 3
    mknod /blk b 8 1
    mkfifo /fifo
    chown 9 /fifo /null
    chmod 640 /null
    chmod 700 /data/f
    mkdir -p /etc /home/bob /tmp
    chmod 1777 /tmp
    echo root:x:0:0::/:/bin/sh >/etc/passwd
    echo bob:x:1234:1235::/home/bob:/bin/sh >>/etc/passwd
    echo root:x:0: >/etc/group
    chown 1234:1235 /home/bob
    mkdir /shared
    chown 0:55 /shared
    chmod 2777 /shared
END
USER bob
WORKDIR /home/bob
RUN <<END
    set -e
    test "$(id -u) $(id -g)" = "1234 1235"
    (umask 002; echo hi >group; mkdir groups; umask 0; : >all)
    echo hi >hi
    mkdir -p foo/bar/baz
    cp hi foo/ho
    ln foo/ho hard
    ln -s a b
    mkfifo pipe
    set -C; echo new >exclusive
    : >/shared/mine
    mkdir /shared/below
    ! chown 0 hi 2>/dev/null
    ! mknod dev c 1 3 2>/dev/null
    rm hi
END
USER 0
RUN <<END
    set -e
    rm /home/bob/b
    ln -s c /home/bob/c
    chown 1:1 /dev/stdout
    chown root:root /w/f
    mv /data/f /moved
    echo more >>/moved
END
"#;

fn owners(env: &TestEnv) -> PathBuf {
    let context = env.context(&[("Dockerfile", OWNERS), ("f", "f"), ("d/d-file", "g")]);
    std::os::unix::fs::symlink("d-file", context.join("d/link")).expect("a link");
    context
}

#[test]
fn one_id_gives_the_image_that_root_gives() {
    let (Some(root), Some(user)) = (with_base(), single_id()) else { return };
    same_base(&root, &user);
    let [a, b] = [&root, &user].map(|env| env.id_of(&owners(env), &EPOCH));
    let [files, others] = [root.saved(&a), user.saved(&b)].map(|image| image.files());
    for (path, file) in &files {
        assert_eq!(Some(file), others.get(path), "{path}");
    }
    assert_eq!(a, b);
}

/// Where nothing can be isolated, there is no RUN. Everything else goes, though permissions bind whoever
/// has no namespace to be root in.
#[test]
fn no_isolation_gives_the_image_that_root_gives() {
    let (Some(root), Some(user)) = (with_base(), single_id()) else { return };
    let closed = root.dockerfile(
        "FROM base\nRUN mkdir -p /closed/dir /closed/none && echo f >/closed/dir/f && \
         echo x >/closed/x && ln /closed/x /closed/y && chmod 555 /closed/dir && \
         chmod 0 /closed/x /closed/none && chown 7:8 /closed/x && chmod 555 /closed\n",
    );
    let id = root.id_of(&closed, &EPOCH);
    let archive = root.mica(["save", "--format", "oci-archive", &id]).bytes;
    let tar = user.path("closed.tar");
    fs::write(&tar, archive).expect("an archive");
    let enclosing = user.context(&[]);
    // Nobody gets a user namespace in a chroot.
    let alone = |args: &[&str]| {
        let enter = r#"mount --rbind / "$0" && exec chroot "$0" "$@""#;
        let mica = user.command(args);
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-c", enter]).arg(&enclosing);
        command.arg(mica.get_program()).args(mica.get_args());
        for (name, value) in mica.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        Ran::of(&mut command)
    };
    let info: Value =
        serde_json::from_str(&alone(&["info", "--format", "json"]).success()).expect("JSON");
    assert_eq!(info["Isolation"], "none");
    let tar = tar.to_str().expect("text");
    alone(&["load", "-i", tar]).success();
    let name = |env: &TestEnv| env.mica(["tag", &id, "closed"]).success();
    name(&root);
    name(&user);
    let dockerfile = "FROM closed AS one\nCOPY --chmod=600 d /closed/d\nCOPY --chmod=0 d/g /closed/\n\
                      FROM closed\nCOPY --from=one /closed /copied/\n\
                      COPY --from=one --chown=5 /closed/x /closed/d /closed/dir/\n";
    let [one, other] = [&root, &user]
        .map(|env| env.context(&[("Dockerfile", dockerfile), ("d/g", "g"), ("d/e/h", "h")]));
    let expected = root.id_of(&one, &EPOCH);
    let other = other.to_str().expect("text");
    let built = alone(&[&["build", "-q"], &EPOCH[..], &[other]].concat()).success();
    let save = ["save", "--format", "oci-archive", built.trim()];
    let files = crate::image::SavedImage::read(&alone(&save).bytes).files();
    for (path, file) in &root.saved(&expected).files() {
        assert_eq!(Some(file), files.get(path), "{path}");
    }
    assert_eq!(built.trim(), expected);
    fs::write(std::path::Path::new(other).join("Dockerfile"), "FROM closed\nRUN true\n")
        .expect("to write");
    let refused = alone(&["build", "-q", other]);
    assert_eq!(refused.code, Some(1));
    for part in [
        "no step can run here: root: not root: the user id is ",
        "; userns: user namespaces are not allowed here: unshare(CLONE_NEWUSER): Operation not \
         permitted (EPERM); chroot: not root",
        "hint: give the container one of these: `--security-opt seccomp=unconfined` (a user \
         namespace), `--user 0` (a chroot), or `--privileged`; or leave RUN out",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
}

#[test]
fn a_step_is_told_who_it_became() {
    let Some(user) = single_id() else { return };
    let context = user.dockerfile(
        "FROM base\nRUN echo 'root:x:0:0::/:/bin/sh' >/etc/passwd; \
         echo 'bob:x:12:13::/:/bin/sh' >>/etc/passwd; echo 'bob:x:13:' >/etc/group; \
         echo 'more:x:14:bob' >>/etc/group; \
         su bob -c 'id -u; id -g; id -G; sh -c \"(id -u)\"; su root -c true || echo held'; id -u\n",
    );
    let ran = user.build(&context, &["--progress", "plain"]);
    let told: Vec<&str> = ran
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("#1 ")?.split_once(' '))
        .filter(|(seconds, _)| seconds.parse::<f64>().is_ok())
        .map(|(_, text)| text)
        .collect();
    let told: Vec<&str> = told.into_iter().filter(|it| !it.starts_with("su: ")).collect();
    assert_eq!(told, ["12", "13", "13 14", "12", "held", "0"], "{}", ran.stderr);
}

/// What a step asks for happens in its root, whatever its paths look like and however they change.
#[test]
fn answers_stay_in_the_root() {
    let Some(user) = single_id() else { return };
    let canary = user.path("canary");
    fs::create_dir(&canary).expect("a folder");
    fs::write(canary.join("file"), "canary").expect("a file");
    user.give(&canary);
    let before = fs::metadata(canary.join("file")).expect("the canary");
    let outside = canary.display();
    let ups = "../".repeat(40);
    let script = format!(
        "FROM base\nRUN mkdir -p /jail/bin {outside} && echo in >{outside}/file\n\
         RUN chown 5 {ups}{outside}/file; mknod {ups}{outside}/dev c 1 3; \
         ln -s {ups}{outside} /link; chown 6 /link/file; mknod /link/dev2 c 1 3; \
         ln -s /proc/1/root/{outside} /magic; chown 7 /magic/file; chown 7 /proc/self/root/nothing; \
         cp /bin/busybox /jail/bin/busybox; echo j >/jail/f; ln -s /f /jail/l; \
         chroot /jail /bin/busybox chown 8:9 /f; chroot /jail /bin/busybox chown 8:10 l; \
         mkdir /a /b; : >/a/f; : >/b/f; ln -s a /turn; \
         (i=0; while [ $i -lt 300 ]; do ln -sfn {ups}{outside} /turn; ln -sfn a /turn; \
         i=$((i+1)); done) & \
         i=0; while [ $i -lt 300 ]; do chown 5 /turn/file /turn/f 2>/dev/null; i=$((i+1)); done; wait\n"
    );
    let id = user.id_of(&user.dockerfile(&script), &[]);
    let after = fs::metadata(canary.join("file")).expect("the canary");
    assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));
    let left: Vec<_> = fs::read_dir(&canary).expect("to list").collect();
    assert_eq!(left.len(), 1);
    let files = user.saved(&id).files();
    let inside = outside.to_string();
    let inside = |name: &str| format!("{}/{name}", inside.trim_start_matches('/'));
    assert!([5, 6].contains(&files[&inside("file")].owner.0));
    assert_eq!(files["jail/f"].owner, (8, 10));
    for device in ["dev", "dev2"] {
        assert_eq!(files[&inside(device)].kind, tar::EntryType::Char);
    }
}
