//! What a build in which nothing changed asks of the kernel: so a regression is seen without a clock.
//! The numbers stand in `docs/performance.md`.

use std::path::Path;
use std::process::Command;

use crate::env::{Ran, TestEnv, root_only, skip, write};

/// Calls that tell of chance (which thread waits, how memory is had) and not of work; `fcntl` is what
/// a debug build asks before each `close`.
const NOT_COUNTED: [&str; 11] = [
    "fcntl",
    "futex",
    "sched_yield",
    "mprotect",
    "mmap",
    "munmap",
    "mremap",
    "madvise",
    "brk",
    "restart_syscall",
    "getrandom",
];

/// An environment where system calls can be counted.
fn counting() -> Option<TestEnv> {
    if !Command::new("strace").arg("-V").output().is_ok_and(|ran| ran.status.success()) {
        skip("strace is not installed");
        return None;
    }
    // For a plain user, the kernel lets nobody trace the programs that map ids.
    root_only()
}

/// The system calls of a build that finds everything as it was, but for what `change` changes.
fn calls(env: &TestEnv, context: &Path, change: fn(&Path)) -> u64 {
    // What was touched a moment ago would be read once more, and believed from then on.
    std::thread::sleep(std::time::Duration::from_millis(50));
    env.build(context, &["-q"]).success();
    env.build(context, &["-q"]).success();
    change(context);
    let counts = env.path("counts");
    let build = env.command(["build", "-q"]);
    let mut traced = Command::new("strace");
    traced.args(["-f", "-c", "-o"]).arg(&counts).arg(build.get_program()).args(build.get_args());
    traced.arg(context).env_clear();
    traced.envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ran::of(&mut traced).success();
    let table = std::fs::read_to_string(counts).expect("a table");
    let counted = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let count: u64 = columns.get(3)?.parse().ok()?;
        let name = *columns.last()?;
        (name != "total" && !NOT_COUNTED.contains(&name)).then_some(count)
    });
    let count = counted.sum();
    assert!(count > 100, "strace counted nothing:\n{table}");
    count
}

/// What each of `more` things costs, if `context` has so many more of them for `true`.
#[track_caller]
fn check(what: &str, more: u64, most: u64, context: impl Fn(&TestEnv, bool) -> std::path::PathBuf) {
    check_after(|_| {}, what, more, most, context);
}

/// The same where something changed first.
#[track_caller]
fn check_after(
    change: fn(&Path),
    what: &str,
    more: u64,
    most: u64,
    context: impl Fn(&TestEnv, bool) -> std::path::PathBuf,
) {
    let Some(env) = counting() else { return };
    let [few, many] = [false, true].map(|many| calls(&env, &context(&env, many), change));
    // Some more for what grows by steps, as the listings of folders do.
    let allowed = few + most * more + 100;
    assert!(many <= allowed, "more than {most} system calls for each {what}: {few}, then {many}");
}

fn tree(env: &TestEnv, folders: usize, files: usize) -> std::path::PathBuf {
    // The step after it, so that the files are copied.
    let context = env.context(&[("Dockerfile", "FROM scratch\nCOPY src /\nWORKDIR /dir\n")]);
    for folder in 0..folders {
        for file in 0..files {
            write(&context, &format!("src/{folder}/{file}"), "text");
        }
    }
    env.give(&context);
    context
}

#[test]
fn of_a_file() {
    check("file", 980, 1, |env, many| tree(env, 20, if many { 50 } else { 1 }));
}

#[test]
fn of_a_folder() {
    // With the file that is in it.
    check("folder", 180, 8, |env, many| tree(env, if many { 200 } else { 20 }, 1));
}

fn change_one(context: &Path) {
    write(context, "src/0/0", "other");
}

#[test]
fn of_a_file_beside_one_that_changed() {
    let context = |env: &TestEnv, many| tree(env, 20, if many { 50 } else { 1 });
    check_after(change_one, "file beside one that changed", 980, 8, context);
}

#[test]
fn of_a_folder_beside_one_that_changed() {
    let context = |env: &TestEnv, many| tree(env, if many { 200 } else { 20 }, 1);
    check_after(change_one, "folder beside one that changed", 180, 44, context);
}

#[test]
fn of_an_instruction() {
    check("instruction that made a layer", 40, 10, |env, many| {
        let copies = |n| format!("COPY <<E /f{n}\n{n}\nE\nENV v{n}={n}\n");
        let lines: String = (0..if many { 50 } else { 10 }).map(copies).collect();
        env.dockerfile(&format!("FROM scratch\n{lines}"))
    });
}
