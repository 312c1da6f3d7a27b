//! Where little is allowed, set, or there: builds go on, and make the same image.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::env::{Ran, TestEnv, is_root, plain_user, root_only, single_id, skip, with_base};

/// What somebody may have done to the process before mica begins, in the words of a shell.
const LITTLE: &[(&str, &str)] = &[
    ("few open files", "ulimit -n 64"),
    ("small files", "ulimit -f 16384"),
    ("small memory", "ulimit -v 1000000"),
    ("no dumps, endless stacks", "ulimit -c 0; ulimit -s unlimited"),
    ("nothing for others", "umask 077"),
    ("nothing for anybody", "umask 777"),
    ("no home", "unset HOME"),
    ("no path", "unset PATH"),
    ("an empty path", "export PATH="),
    ("no temporary folder", "export TMPDIR=/nonexistent"),
    ("a strange language", "export LANG=xx_YY LC_ALL=tlh TERM= TZ=Nowhere/At-all"),
    ("no input", "exec <&-"),
    ("no errors", "exec 2>&-"),
    ("more descriptors", "exec 3</ 4</etc/passwd 9</dev/null"),
    ("signals ignored", "trap '' PIPE HUP INT TERM USR1"),
    (
        "ends of children ignored",
        "(env --ignore-signal=CHLD true) 2>&- && exec env --ignore-signal=CHLD \"$@\"",
    ),
    ("a folder that is gone", "mkdir gone && cd gone && rmdir ../gone"),
];

const DOCKERFILE: &str = "FROM base AS one\nCOPY src /src\nRUN cat /src/* >/all && mkdir -p /tmp\n\
                          FROM base AS two\nCOPY --chown=7:8 src /other\nRUN ls /other >/list\n\
                          FROM base\nCOPY --from=one /all /src /out/\nCOPY --from=two /list /\n\
                          RUN --mount=type=cache,target=/c test -s /list && echo x >/c/x\n";

fn context(env: &TestEnv) -> std::path::PathBuf {
    let names: Vec<String> = (0..100).map(|number| format!("src/{number}")).collect();
    let files = names.iter().map(|name| (name.as_str(), name.as_str()));
    env.context(&files.chain([("Dockerfile", DOCKERFILE)]).collect::<Vec<_>>())
}

/// Builds behind a piece of shell; returns the image's ID.
fn build(env: &TestEnv, words: &[&str], context: &Path, before: &str) -> Ran {
    let context = context.to_str().expect("text");
    let build = ["build", "-q", "--no-cache", "--source-date-epoch", "1600000000", context];
    let mica = env.command(words.iter().chain(&build));
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{before}; exec \"$@\"; echo no exec"), "sh"]);
    command.arg(which(mica.get_program())).args(mica.get_args()).env_clear();
    for (name, value) in mica.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    Ran::of(command.current_dir(env.path("contexts")).stdin(Stdio::null()))
}

/// The path of a program, since a shell may be left without.
fn which(program: &std::ffi::OsStr) -> std::path::PathBuf {
    let places = ["", "/usr/bin", "/bin"].map(|place| Path::new(place).join(program));
    places.into_iter().find(|it| it.exists()).expect("the program")
}

fn builds(env: &TestEnv, words: &[&str]) {
    let context = context(env);
    let expected = build(env, words, &context, ":").success();
    for (name, before) in LITTLE {
        let ran = build(env, words, &context, before);
        assert_eq!((ran.code, &ran.stdout), (Some(0), &expected), "{name}: {}", ran.stderr);
    }
}

#[test]
fn little_is_enough() {
    if let Some(env) = with_base() {
        builds(&env, &[]);
    }
}

#[test]
fn little_is_enough_for_many_ids() {
    // Where a plain user runs the tests, that is the test above.
    if let Some(env) = is_root().then(plain_user).flatten() {
        builds(&env, &[]);
    }
}

#[test]
fn little_is_enough_for_one_id() {
    if let Some(env) = single_id() {
        builds(&env, &[]);
    }
}

#[test]
fn little_is_enough_in_a_chroot() {
    if let Some(env) = root_only() {
        builds(&env, &["--isolation", "chroot"]);
    }
}

/// Those that fit are used, and where none does, that is said.
#[test]
fn few_processes_are_enough() {
    let Some(env) = single_id() else { return };
    if Ran::of(Command::new("bash").args(["-c", "ulimit -u 100"])).code != Some(0) {
        return skip("no `bash` to set limits with");
    }
    let context = context(&env);
    let limited = |most: usize| {
        let before = format!("exec bash -c 'ulimit -u {most}; exec \"$@\"' bash \"$@\"");
        build(&env, &[], &context, &before)
    };
    // Those of other tests count, too.
    let ran = limited(140);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let refused = limited(1);
    // With those of other tests, not even that one is allowed.
    if refused.code == Some(126) {
        return;
    }
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert_eq!(
        refused.stderr,
        "error: cannot start a thread: Resource temporarily unavailable (os error 11)\n\
         hint: raise the limit on processes: `ulimit -u`, or `--pids-limit` of the container\n"
    );
}
