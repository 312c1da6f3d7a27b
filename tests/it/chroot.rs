//! Steps in a chroot: what root has in a container that forbids namespaces. Any root can have it.

use std::fs;

use crate::env::{Ran, TestEnv, root_only, with_base};
use crate::reproducible::same_base;

const EPOCH: [&str; 2] = ["--source-date-epoch", "1600000000"];

fn build(env: &TestEnv, context: &std::path::Path, args: &[&str]) -> Ran {
    let context = context.to_str().expect("text");
    env.mica([&["--isolation", "chroot", "build"], args, &[context]].concat())
}

/// Every kind of change, each with what an overlay makes of it.
const CHANGES: &str = r"FROM base
COPY --chown=7:8 f d /data/
RUN <<END
    set -e
    mkdir -p /tree/kept /tree/gone/below /tree/again /tree/file
    echo 1 >/tree/same-size; echo 2 >/tree/gone/f; echo 3 >/tree/kept/f; echo 4 >/tree/again/f
    echo 5 >/tree/link-a; ln /tree/link-a /tree/link-b; ln -s f /tree/sym; echo 6 >/tree/mode
    echo 7 >/tree/moved; : >/tree/plain; echo 8 >/tree/touched; echo 9 >/tree/lock
    touch -d @1000 /tree/same-size
    mknod -m 600 /tree/null c 1 3; mkfifo -m 640 /tree/fifo; chown 5:6 /tree/fifo
    chmod 4755 /tree/mode; chown 12:13 /tree/kept; chmod 1777 /tree/kept
END
RUN <<END
    set -e
    echo 9 >/tree/same-size; touch -d @1000 /tree/same-size
    rm -r /tree/gone
    rm -r /tree/again; mkdir /tree/again; echo new >/tree/again/g
    rmdir /tree/file; echo file >/tree/file
    rm /tree/plain; mkdir -p /tree/plain/sub
    echo more >>/tree/link-a
    ln /tree/kept/f /tree/second
    ln -sfn elsewhere /tree/sym
    chmod 600 /tree/mode
    mv /tree/moved /tree/kept/moved
    touch /tree/touched
    chown 99 /data/d-file
    mkdir -p /new/a/b; echo x >/new/a/b/c
    : >>/tree/lock; : >>/data/f
    rm /tree/fifo /tree/null
END
RUN mkdir /empty; rmdir /empty; rm -f /nothing; cat /data/f >/dev/null
USER 1000:1001
RUN id -u >/tmp/mine; ! echo no >/data/f
";

fn changes(env: &TestEnv) -> std::path::PathBuf {
    env.context(&[("Dockerfile", CHANGES), ("f", "f"), ("d/d-file", "g")])
}

#[test]
fn a_chroot_gives_the_image_of_an_overlay() {
    let (Some(overlay), Some(chroot)) = (root_only(), with_base()) else { return };
    same_base(&overlay, &chroot);
    let context = changes(&overlay);
    let one = overlay.id_of(&context, &EPOCH);
    let other = build(&chroot, &context, &[&["-q"], &EPOCH[..]].concat()).success();
    let [a, b] = [(&overlay, one.trim()), (&chroot, other.trim())]
        .map(|(env, image)| env.saved(image).layers);
    for (number, (a, b)) in a.iter().zip(&b).enumerate() {
        let names = |layer: &std::collections::BTreeMap<String, _>| {
            layer.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(a), names(b), "layer {number}");
        for (path, file) in a {
            assert_eq!(Some(file), b.get(path), "{path} in layer {number}");
        }
    }
    assert_eq!(one, other.trim());
}

#[test]
fn what_a_step_mounts_is_there_and_leaves_no_trace() {
    let Some(env) = root_only() else { return };
    let context = env.context(&[
        (
            "Dockerfile",
            "FROM base AS other\nRUN mkdir /o && echo other >/o/f\nFROM base\nARG N\n\
             RUN --mount=type=cache,target=/cache,id=c echo $N >>/cache/log && rm -f /cache/old && \
             mkdir -p /cache/dir$N && cat /cache/log >/log\n\
             RUN --mount=type=secret,id=s,mode=0400,uid=3 cat /run/secrets/s && \
             test \"$(stat -c %a:%u /run/secrets/s)\" = 400:3\n\
             RUN --mount=from=other,source=/o,target=/other,rw cat /other/f && echo x >/other/g\n\
             RUN --mount=target=/ctx cat /ctx/file && test ! -e /other && test ! -e /run/secrets/s\n\
             RUN --mount=type=tmpfs,target=/t test -z \"$(ls /t)\" && echo x >/t/x\n\
             RUN --mount=type=cache,target=/cache,id=c ls /cache >/ls && : >/cache/old\n\
             RUN test -c /dev/null && echo gone >/dev/null && head -c 4 /dev/zero >/dev/shm/z && \
             grep -q . /proc/meminfo && grep -q localhost /etc/hosts\n",
        ),
        ("file", "context"),
        ("secret", "hidden-value"),
    ]);
    let secret = format!("id=s,src={}", context.join("secret").display());
    let run = |n: &str| {
        let arg = format!("N={n}");
        build(&env, &context, &["-q", "--secret", &secret, "--build-arg", &arg]).success()
    };
    let first = run("1");
    let files = env.saved(first.trim()).files();
    for gone in
        ["cache", "cache/log", "run/secrets/s", "other", "ctx", "t", "dev/null", "proc/meminfo"]
    {
        assert!(!files.contains_key(gone), "{gone}");
    }
    assert!(
        !files.values().any(|file| String::from_utf8_lossy(&file.bytes).contains("hidden-value"))
    );
    let second = run("2");
    assert_eq!(env.saved(second.trim()).text("log"), "1\n2\n");
    assert_eq!(env.saved(second.trim()).text("ls"), "dir1\ndir2\nlog\n");
}

#[test]
fn a_chroot_holds() {
    let Some(env) = root_only() else { return };
    let canary = env.path("canary");
    fs::write(&canary, "canary").expect("a file");
    let script = format!(
        "FROM base\nRUN <<END\n\
         test ! -e {canary}\n\
         test ! -e /../../../../../../../..{canary}\n\
         mkdir /jail; chroot /jail /bin/true 2>/dev/null && echo CHROOT\n\
         mknod /disk b 254 0 && head -c 1 /disk >/dev/null 2>&1 && test -s /disk && echo DISK\n\
         mount -t tmpfs none /jail 2>/dev/null && echo MOUNT\n\
         unshare -m true 2>/dev/null && echo UNSHARE\n\
         grep -E '^Cap(Eff|Bnd)' /proc/self/status | grep -v 00000000a00025fb && echo CAPABILITIES\n\
         grep -q '^NoNewPrivs:.*1' /proc/self/status || echo PRIVILEGES\n\
         (sleep 4712.5 & sleep 4712.5 & setsid sleep 4712.5 &)\n\
         exit 0\nEND\n",
        canary = canary.display()
    );
    let ran = build(&env, &env.dockerfile(&script), &["--progress", "plain", "-t", "held"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for broken in ["CHROOT", "DISK", "MOUNT", "UNSHARE", "CAPABILITIES", "PRIVILEGES"] {
        assert!(!ran.stderr.lines().any(|line| line.ends_with(broken)), "{}", ran.stderr);
    }
    let left = std::process::Command::new("pgrep").args(["-f", "4712.5"]).output();
    assert!(left.is_ok_and(|found| found.stdout.is_empty()));
    let files = env.saved("held").files();
    assert_eq!(files["disk"].kind, tar::EntryType::Block);
    let refused = build(&env, &env.dockerfile("FROM base\nRUN --network=none true\n"), &[]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("can't have a network of its own"), "{}", refused.stderr);
}
