//! Several processes at work in one store.

use std::process::{Child, Stdio};

use crate::env::{Ran, TestEnv, with_base};

fn start(env: &TestEnv, args: &[&str]) -> Child {
    let mut command = env.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("to start mica")
}

/// Waits for all, which have to succeed.
#[track_caller]
fn wait(children: Vec<Child>) -> Vec<String> {
    let outputs: Vec<Ran> = children
        .into_iter()
        .map(|child| child.wait_with_output().expect("to wait for mica").into())
        .collect();
    outputs.into_iter().map(|ran| ran.success().trim().to_owned()).collect()
}

#[test]
fn the_same_build_four_times_at_once_runs_its_step_once() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile(
        "FROM base\nRUN --mount=type=cache,id=log,target=/c echo ran >>/c/log; sleep 0.3; date >/made\n\
         RUN --mount=type=cache,id=log,target=/c echo ran >>/c/second; cat /proc/sys/kernel/random/uuid >/id\n",
    );
    let path = context.to_str().expect("UTF-8");
    let args = ["build", "-q", "--source-date-epoch", "1000000000", "-t", "app", path];
    let mut ids = wait((0..4).map(|_| start(&env, &args)).collect());
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let count = env
        .built("FROM base\nRUN --mount=type=cache,id=log,target=/c cat /c/log /c/second >/count\n");
    assert_eq!(count.text("count"), "ran\nran\n");
}

#[test]
fn different_builds_at_once() {
    let Some(env) = with_base() else { return };
    let contexts: Vec<_> = (0..4)
        .map(|n| env.dockerfile(&format!("FROM base\nRUN echo shared >/s\nRUN echo {n} >/n\n")))
        .collect();
    let children = contexts.iter().enumerate().map(|(n, context)| {
        let name = format!("app{n}");
        start(&env, &["build", "-q", "-t", &name, context.to_str().expect("UTF-8")])
    });
    wait(children.collect());
    for n in 0..4 {
        assert_eq!(env.saved(&format!("app{n}")).text("n"), format!("{n}\n"));
    }
}

#[test]
fn builds_loads_and_removals_at_once() {
    let Some(env) = with_base() else { return };
    let archive = env.path("home/base.tar");
    let archive = archive.to_str().expect("UTF-8");
    env.mica(["save", "-o", archive, "base"]).success();
    let context = env.dockerfile("FROM base\nRUN echo 1 >/1\nRUN echo 2 >/2\n");
    let path = context.to_str().expect("UTF-8");
    for round in 0..3 {
        let name = format!("victim{round}");
        env.mica(["tag", "base", &name]).success();
        wait(vec![
            start(&env, &["build", "-q", "--no-cache", "-t", "app", path]),
            start(&env, &["load", "-i", archive]),
            start(&env, &["rmi", &name]),
            start(&env, &["system", "prune"]),
            start(&env, &["run", "base", "/bin/true"]),
        ]);
        env.mica(["system", "check"]).success();
        assert_eq!(env.saved("app").text("2"), "2\n");
    }
}
