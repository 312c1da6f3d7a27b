//! Secrets reach the step that asks for them, and nothing else: no file of the store, no output.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use crate::env::{Ran, TestEnv, with_base};

/// Looks through all files, names and links of the store.
#[track_caller]
pub(crate) fn assert_nowhere(env: &TestEnv, value: &[u8]) {
    let leaked = |bytes: &[u8]| bytes.windows(value.len()).any(|part| part == value);
    let mut files = 0;
    for entry in walkdir::WalkDir::new(env.store()) {
        let entry = entry.expect("to walk");
        let path = entry.path();
        let kind = entry.file_type();
        let bytes = match () {
            () if kind.is_file() => fs::read(path).expect("to read"),
            () if kind.is_symlink() => {
                fs::read_link(path).expect("a link").into_os_string().into_encoded_bytes()
            }
            () => Vec::new(),
        };
        assert!(!leaked(&bytes), "in {}", path.display());
        assert!(!leaked(path.as_os_str().as_bytes()), "as {}", path.display());
        files += 1;
    }
    assert!(files > 10, "the store is empty");
}

const VALUE: &str = "correct-horse-battery-staple";

/// Shows its secrets by all ways that it has, in pieces and on both streams.
const TALKATIVE: &str = "\
FROM base
ARG HTTP_PROXY
RUN --mount=type=secret,id=file --mount=type=secret,id=env,env=PASSWORD \
    --mount=type=secret,id=env,target=/etc/password,mode=0444 set -e; \
    cat /run/secrets/file; echo $PASSWORD >&2; printf correct-horse; sleep 0.1; \
    printf -- '-battery-staple and more\\n'; od -c /etc/password | head -1; \
    wc -c </etc/password
";

fn talkative(env: &TestEnv, more: &str) -> (std::path::PathBuf, String) {
    let context = env.context(&[
        ("Dockerfile", &format!("{TALKATIVE}{more}")),
        ("value", VALUE),
        (".dockerignore", "value"),
    ]);
    let file = format!("id=file,src={}", context.join("value").display());
    (context, file)
}

fn build(env: &TestEnv, more: &str) -> Ran {
    let (context, file) = talkative(env, more);
    let args = ["build", "--secret", &file, "--secret", "id=env,env=MY_PASSWORD"];
    let mut command = env.command(args);
    Ran::of(command.arg(context).env("MY_PASSWORD", VALUE))
}

#[test]
fn a_build_that_succeeds_shows_and_keeps_none() {
    let Some(env) = with_base() else { return };
    let ran = build(&env, "");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let output: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("***")).collect();
    assert_eq!(output.len(), 2, "one line of each stream: {}", ran.stderr);
    assert!(ran.stderr.contains("*** and more") && ran.stderr.contains("28"), "{}", ran.stderr);
    assert!(!ran.stderr.contains(VALUE), "{}", ran.stderr);
    assert_nowhere(&env, VALUE.as_bytes());
}

#[test]
fn a_build_that_fails_shows_and_keeps_none() {
    let Some(env) = with_base() else { return };
    let more = "RUN --mount=type=secret,id=env,env=P echo $P; $P; exit 3\n";
    let ran = build(&env, more);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(!ran.stderr.contains(VALUE), "{}", ran.stderr);
    assert_nowhere(&env, VALUE.as_bytes());
    // A command that is not there, with the secret for its name.
    let more = "RUN --mount=type=secret,id=env,env=P exec $P\n";
    let ran = build(&env, more);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(!ran.stderr.contains(VALUE), "{}", ran.stderr);
    assert_nowhere(&env, VALUE.as_bytes());
}

#[test]
fn a_build_that_is_killed_keeps_none() {
    let Some(env) = with_base() else { return };
    let (context, file) =
        talkative(&env, "RUN --mount=type=secret,id=file touch /made; sleep 100\n");
    let mut command =
        env.command(["build", "--secret", &file, "--secret", "id=env,env=MY_PASSWORD"]);
    command.arg(context).env("MY_PASSWORD", VALUE).stdout(Stdio::null()).stderr(Stdio::null());
    let mut mica = command.spawn().expect("to start mica");
    let made = || {
        let found = walkdir::WalkDir::new(env.store()).into_iter().flatten();
        found.into_iter().any(|entry| entry.file_name() == "made")
    };
    while !made() {
        assert!(mica.try_wait().expect("to ask").is_none(), "it ended too early");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    mica.kill().expect("to kill mica");
    mica.wait().expect("to wait");
    assert_nowhere(&env, VALUE.as_bytes());
}
