//! Mounts, and that they leave nothing behind.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use mica::mount::Overlay;
use mica::runtime::{SandboxError, SandboxMount, SetupError};

use crate::Test;
use crate::env::{Env, tree};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a step that does nothing leaves nothing", nothing),
    ("what a step writes is in its layer, and no more", layer),
    ("missing mount points leave no trace", no_trace),
    ("mount points behind links leave no trace", dangling_link),
    ("mount points behind whiteouts leave no trace", whiteout),
    ("system directories that are links are refused", hostile_links),
    ("etc as a link stays inside", hostile_etc),
    ("bind mounts", binds),
    ("bind sources never leave their root", bind_escape),
    ("read-only roots", read_only_root),
    ("files and directories have one device", one_device),
    ("hostile user files", user_files),
    ("many layers", many_layers),
];

fn nothing(env: &Env) {
    let step = env.step("true");
    env.expect(&step);
    assert_eq!(tree(&step.upper), [""; 0]);
}

fn layer(env: &Env) {
    let step = env.step("echo hi > /etc/new; mkdir /made; ln -s x /made/link");
    env.expect(&step);
    assert_eq!(tree(&step.upper), ["etc", "etc/new", "made", "made/link"]);
}

fn tmpfs(target: &str) -> SandboxMount {
    SandboxMount::Tmpfs { target: target.into(), size: None, mode: 0o755, read_only: false }
}

fn no_trace(env: &Env) {
    let mut step = env.step("echo x > /new/deep/dir/x; cat /run/secrets/key; ls -d /mnt/f");
    step.spec.mounts = vec![
        tmpfs("/new/deep/dir"),
        SandboxMount::File {
            content: b"secret\n".to_vec(),
            target: "/run/secrets/key".into(),
            mode: 0o400,
            uid: 0,
            gid: 0,
        },
        tmpfs("/mnt/f"),
        tmpfs("/etc/sub"),
    ];
    assert_eq!(env.expect(&step), "secret\n/mnt/f\n");
    assert_eq!(tree(&step.upper), [""; 0]);
}

fn dangling_link(env: &Env) {
    let layer = env.fresh();
    std::fs::create_dir(layer.join("etc")).expect("a directory");
    symlink("../run/resolve/stub.conf", layer.join("etc/resolv.conf")).expect("a link");
    symlink("/var/lib/nowhere", layer.join("cache")).expect("a link");
    let mut step =
        env.step_over(&[&layer], "cat /run/resolve/stub.conf >/dev/null && ls -d /cache/.");
    step.spec.mounts = vec![tmpfs("/cache")];
    assert_eq!(env.expect(&step), "/cache/.\n");
    assert_eq!(tree(&step.upper), [""; 0]);
}

fn whiteout(env: &Env) {
    let first = env.step("rm -r /home; rm -r /etc; mkdir /etc; rm -r /root; mkdir -p /root/kept");
    env.expect(&first);
    let mut step =
        env.step_over(&[&first.upper], "echo x > /home/a/x; ls /etc /root; test -e /etc/hosts");
    step.spec.mounts = vec![tmpfs("/home/a"), tmpfs("/root/kept/b")];
    let before = std::fs::metadata(first.upper.join("etc")).expect("etc").mtime_nsec();
    assert_eq!(env.expect(&step), "/etc:\nhosts\nresolv.conf\n\n/root:\nkept\n");
    let left = tree(&step.upper);
    // Parents may have been copied up, with their times; what was made is gone.
    assert!(left.iter().all(|it| ["etc", "root", "root/kept"].contains(&it.as_str())), "{left:?}");
    let after = std::fs::metadata(step.upper.join("etc")).map_or(before, |it| it.mtime_nsec());
    assert_eq!(before, after);
}

fn hostile_links(env: &Env) {
    for name in ["proc", "sys", "dev"] {
        let (layer, canary) = (env.fresh(), env.fresh());
        std::fs::write(canary.join("secret.txt"), "secret").expect("a canary");
        symlink(&canary, layer.join(name)).expect("a link");
        let step = env.step_over(&[&layer], "true");
        let error = env.run(&step.spec).expect_err(name);
        let SandboxError::Setup(SetupError::MountPoint { .. }) = error else { panic!("{error:?}") };
        assert_eq!(tree(&canary), ["secret.txt"]);
        assert_eq!(tree(&step.upper), [""; 0]);
    }
}

fn hostile_etc(env: &Env) {
    let (layer, canary) = (env.fresh(), env.fresh());
    std::fs::write(canary.join("hosts"), "secret").expect("a canary");
    symlink(&canary, layer.join("etc")).expect("a link");
    let step = env.step_over(&[&layer], "cat /etc/hosts");
    assert!(env.expect(&step).starts_with("127.0.0.1"));
    assert_eq!(tree(&canary), ["hosts"]);
    assert_eq!(std::fs::read_to_string(canary.join("hosts")).expect("the canary"), "secret");
    assert_eq!(tree(&step.upper), [""; 0]);
}

fn bind(source: Overlay, path: &str, target: &str, read_only: bool) -> SandboxMount {
    SandboxMount::Bind { source, path: path.into(), target: target.into(), read_only }
}

fn binds(env: &Env) {
    let (host, cache) = (env.fresh(), env.fresh());
    std::fs::write(host.join("file"), "content\n").expect("a file");
    let overlay = env.fresh();
    for part in ["upper", "work"] {
        std::fs::create_dir(overlay.join(part)).expect("a directory");
    }
    let discarded = Overlay::writable(
        vec![host.clone(), env.layer()],
        overlay.join("upper"),
        overlay.join("work"),
    );
    let mut step = env.step(
        "cat /src/file; echo x > /src/new || echo refused; cat /one; echo kept > /cache/made; \
         echo gone > /both/new && cat /both/file; ls /stage",
    );
    step.spec.mounts = vec![
        bind(Overlay::directory(&host), "", "/src", true),
        bind(Overlay::directory(&host), "file", "/one", true),
        bind(Overlay::directory(&cache), "", "/cache", false),
        bind(discarded, "", "/both", false),
        bind(
            Overlay { lowers: vec![host.clone(), env.layer()], ..Overlay::default() },
            "/etc",
            "/stage",
            true,
        ),
    ];
    assert_eq!(env.expect(&step), "content\nrefused\ncontent\ncontent\ngroup\npasswd\n");
    assert_eq!((tree(&host), tree(&cache)), (vec!["file".to_owned()], vec!["made".to_owned()]));
    assert_eq!(tree(&step.upper), [""; 0]);
}

fn bind_escape(env: &Env) {
    let (host, canary) = (env.fresh(), env.fresh());
    std::fs::write(canary.join("secret.txt"), "secret").expect("a canary");
    symlink(&canary, host.join("link")).expect("a link");
    let up = format!("../../../../../../../..{}", canary.display());
    for path in ["link", up.as_str(), "/proc/self/root"] {
        let mut step = env.step("cat /m/secret.txt");
        step.spec.mounts = vec![bind(Overlay::directory(&host), path, "/m", false)];
        env.run(&step.spec).expect_err(path);
    }
    for target in ["/", "/../..", "/proc/self/fd/0", "/proc/self/root"] {
        let mut step = env.step("true");
        step.spec.mounts = vec![tmpfs(target)];
        env.run(&step.spec).expect_err(target);
        assert_eq!(tree(&step.upper), [""; 0]);
    }
}

fn read_only_root(env: &Env) {
    let mut step = env.step("echo x > /x || echo refused; cat /etc/hosts >/dev/null && ls -d /new");
    let lowers = vec![env.fresh(), env.layer()];
    step.spec.rootfs = Overlay { lowers, upper: None, work: None };
    step.spec.mounts = vec![tmpfs("/new")];
    let before = tree(&env.layer());
    assert_eq!(env.expect(&step), "refused\n/new\n");
    assert_eq!(tree(&env.layer()), before);
}

fn one_device(env: &Env) {
    let out = env.shell("touch /tmp/new; stat -c %d / /bin /bin/busybox /tmp/new /etc/passwd");
    let devices: std::collections::BTreeSet<&str> = out.lines().collect();
    assert_eq!(devices.len(), 1, "{out}");
}

fn user_files(env: &Env) {
    let layer = env.fresh();
    std::fs::create_dir(layer.join("etc")).expect("a directory");
    let fifo = layer.join("etc/passwd");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let mut step = env.step_over(&[&layer], "true");
    step.spec.user = "someone".into();
    let error = env.run(&step.spec).expect_err("a pipe");
    assert!(error.to_string().contains("not a regular file"), "{error}");
    std::fs::remove_file(&fifo).expect("to remove it");
    let huge = std::fs::File::create(layer.join("etc/group")).expect("a file");
    huge.set_len(640 << 20).expect("to grow it");
    step.spec.user = "app:some".into();
    let error = env.run(&step.spec).expect_err("a huge file");
    assert!(error.to_string().contains("larger than"), "{error}");
}

fn many_layers(env: &Env) {
    let layers: Vec<_> = (0..140)
        .map(|number| {
            let layer = env.fresh();
            std::fs::write(layer.join(format!("file{number}")), "").expect("a file");
            layer
        })
        .collect();
    let layers: Vec<&Path> = layers.iter().map(AsRef::as_ref).collect();
    let step = env.step_over(&layers, "ls / | grep -c file");
    assert_eq!(env.expect(&step).trim(), "140");
}
