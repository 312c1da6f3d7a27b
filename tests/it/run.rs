//! `mica run`.

use crate::env::{is_root, with_base};

#[test]
fn exit_status_and_streams_pass_through() {
    let Some(env) = with_base() else { return };
    let ran = env.mica(["run", "base", "/bin/sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(ran.code, Some(42));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(
        env.mica(["run", "base", "/bin/sh", "-c", "sh -c 'kill -TERM $$'; exit $?"]).code,
        Some(143)
    );
}

/// What mica blocks and ignores for itself is not inherited: `timeout` and `kill` work.
#[test]
fn no_signal_is_blocked_or_ignored() {
    let Some(env) = with_base() else { return };
    // Not by way of a shell, which ignores some itself.
    let image = env.built("FROM base\nRUN [\"/bin/cp\", \"/proc/self/status\", \"/out\"]\n");
    let run = env.mica(["run", "base", "/bin/cat", "/proc/self/status"]).success();
    for shown in [image.text("out"), run] {
        let lines = shown
            .lines()
            .filter(|line| ["SigBlk", "SigIgn"].contains(&line.get(..6).unwrap_or_default()));
        for line in lines {
            let (name, mask) = line.split_once(':').expect("a name");
            let mask = u64::from_str_radix(mask.trim(), 16).expect("a mask");
            // Those from 32 on are the C library's own.
            assert_eq!(mask & 0x7fff_ffff, 0, "{name}");
        }
    }
}

#[test]
fn programs_that_cannot_start() {
    let Some(env) = with_base() else { return };
    assert_eq!(env.mica(["run", "base", "/bin/nope"]).code, Some(127));
    assert_eq!(env.mica(["run", "base", "nope"]).code, Some(127));
    assert_eq!(env.mica(["run", "base", "/etc/passwd"]).code, Some(126));
    let ran = env.mica(["run", "base"]);
    assert_eq!(ran.code, Some(2));
    insta::assert_snapshot!(ran.stderr, @"error: the image has no command: name one behind it");
}

#[test]
fn the_image_s_settings_and_what_overrides_them() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile(
        "FROM base\nENV A=image B=image\nWORKDIR /home/app\nUSER app\n\
         ENTRYPOINT [\"/bin/sh\", \"-c\", \"echo \\\"$(id -u):$(id -g) $PWD $A $B $0 $@\\\"\"]\nCMD [\"one\", \"two\"]\n",
    );
    env.id_of(&context, &["-t", "app"]);
    let run = |args: &[&str]| {
        let args: Vec<&str> = ["run"].iter().chain(args).copied().collect();
        env.mica(args).success().trim().to_owned()
    };
    assert_eq!(run(&["app"]), "1000:1001 /home/app image image one two");
    assert_eq!(run(&["--rm", "app", "x"]), "1000:1001 /home/app image image x");
    assert_eq!(run(&["-e", "A=flag", "app", "x"]), "1000:1001 /home/app flag image x");
    assert_eq!(run(&["-w", "/new/dir", "app", "x"]), "1000:1001 /new/dir image image x");
    assert_eq!(run(&["-u", "0:55", "app", "x"]), "0:55 /home/app image image x");
    assert_eq!(run(&["--user", "root", "app", "x"]), "0:0 /home/app image image x");
    assert_eq!(run(&["--entrypoint", "/bin/echo", "app", "just", "-this"]), "just -this");
    assert_eq!(run(&["--hostname", "box", "--entrypoint", "/bin/hostname", "app"]), "box");
}

#[test]
fn volumes() {
    let Some(env) = with_base() else { return };
    let folder = env.context(&[("in", "from the host")]);
    let volume = format!("{}:/v", folder.display());
    let out =
        env.mica(["run", "-v", &volume, "base", "/bin/sh", "-c", "cat /v/in; echo back >/v/out"]);
    assert_eq!(out.success(), "from the host");
    assert_eq!(std::fs::read_to_string(folder.join("out")).expect("a file"), "back\n");
    let readonly = format!("{volume}:ro");
    let ran = env.mica(["run", "-v", &readonly, "base", "/bin/sh", "-c", "cat /v/in; echo >/v/x"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), "from the host"));
    assert!(!folder.join("x").exists());
}

#[test]
fn standard_input_is_there_when_it_is_asked_for() {
    let Some(env) = with_base() else { return };
    let with = env.mica_with_input(["run", "-i", "base", "/bin/cat"], b"piped in");
    assert_eq!(with.success(), "piped in");
    let without = env.mica_with_input(["run", "base", "/bin/cat"], b"piped in");
    assert_eq!(without.success(), "");
}

#[test]
fn a_container_leaves_no_trace() {
    let Some(env) = with_base() else { return };
    let before = env.mica(["images", "--no-trunc", "-q"]).success();
    env.shell("base", "echo changed >/etc/passwd; rm /etc/group; echo new >/new");
    assert_eq!(
        env.shell("base", "ls /new 2>/dev/null; wc -l </etc/passwd; ls /etc/group"),
        "2\n/etc/group\n"
    );
    assert_eq!(env.mica(["images", "--no-trunc", "-q"]).success(), before);
    let layers = std::fs::read_dir(env.store().join("v1/layers")).expect("a folder").count();
    assert_eq!(layers, 1, "what it wrote is gone");
}

#[test]
fn the_sandbox_of_a_container() {
    let Some(env) = with_base() else { return };
    let shown = env.shell("base", "echo $$; ls /proc | grep -c '^[0-9]'; mount -t tmpfs x /tmp 2>/dev/null || echo no; ls -d /proc/1/root/*/ | wc -l");
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].parse::<u32>().expect("a process") < 10, "{shown}");
    assert!(lines[1].parse::<u32>().expect("a number") < 10, "{shown}");
    assert_eq!(lines[2], "no");
}

#[test]
fn no_network_but_loopback() {
    let Some(env) = with_base() else { return };
    let args = [
        "run",
        "--network",
        "none",
        "base",
        "/bin/sh",
        "-c",
        "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '",
    ];
    assert_eq!(env.mica(args).success(), "lo\n");
}

#[test]
fn the_owner_of_files_on_a_volume() {
    use std::os::unix::fs::MetadataExt;
    let Some(env) = with_base() else { return };
    let folder = env.context(&[]);
    let volume = format!("{}:/v", folder.display());
    env.mica(["run", "-v", &volume, "base", "/bin/touch", "/v/made"]).success();
    let owner = std::fs::metadata(folder.join("made")).expect("a file").uid();
    // Root inside is whoever runs mica outside.
    assert_eq!(owner, nix::unistd::Uid::effective().as_raw(), "root: {}", is_root());
}
