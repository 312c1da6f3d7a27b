//! Builds and containers that are stopped: by a signal, by the one that cannot be caught.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use mica::oci::Descriptor;

use crate::env::{TestEnv, plain_user, with_base};
use crate::registry::{Fault, Pushed, Registry, blob_path};

/// Long enough for any machine: only what hangs takes so long.
const PATIENCE: Duration = Duration::from_mins(1);

/// A number of seconds that no other process sleeps.
fn marker() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("9{}{:03}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether any process on the machine has this in its command line.
fn is_running(marker: &str) -> bool {
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    let command_lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let mut texts = command_lines.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    texts.any(|text| text.contains(marker))
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts mica, and returns once its command says that it is ready.
pub(crate) fn started(env: &TestEnv, args: &[&str]) -> (Child, BufReader<impl Read + use<>>) {
    let mut command = env.command(args);
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("to start mica");
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while !line.ends_with("ready\n") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).expect("to read"), 0, "it ended too soon");
    }
    (child, stderr)
}

/// Sends a signal to mica, waits for its end, and returns its exit status and the rest of what it
/// said.
fn end(child: &mut Child, stderr: &mut impl Read, signal: Signal) -> (Option<i32>, String) {
    let pid = Pid::from_raw(child.id().try_into().expect("a process ID"));
    kill(pid, signal).expect("to send a signal");
    wait_until("mica's end", || child.try_wait().expect("to wait").is_some());
    let mut said = String::new();
    // After a kill, whoever inherited the pipe has to be gone for this to end.
    stderr.read_to_string(&mut said).expect("to read");
    (child.wait().expect("to wait").code(), said)
}

#[track_caller]
fn nothing_is_left(env: &TestEnv, marker: &str) {
    wait_until("the command's end", || !is_running(marker));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(env.store().to_str().expect("UTF-8")), "{mounts}");
    let next = env.built("FROM base\nRUN echo it works >/next\n");
    assert_eq!(next.text("next"), "it works\n");
    let left: Vec<_> = std::fs::read_dir(env.store().join("v1/tmp")).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(env.mica(["images", "-q", "failed"]).success(), "");
}

fn interrupted_build(env: &TestEnv, signal: Signal) -> (Option<i32>, String) {
    let marker = marker();
    let context = env.dockerfile(&format!(
        "FROM base\nRUN echo 1 >/first\nRUN (trap '' INT TERM; sleep {marker}) & echo x >/half; echo ready; sleep {marker}\n"
    ));
    let args = ["build", "--progress", "plain", "-t", "failed", context.to_str().expect("UTF-8")];
    let (mut child, mut stderr) = started(env, &args);
    assert!(is_running(&marker), "the command can be seen from here");
    let ended = end(&mut child, &mut stderr, signal);
    nothing_is_left(env, &marker);
    if signal != Signal::SIGKILL {
        let again = env.build(&env.dockerfile("FROM base\nRUN echo 1 >/first\n"), &[]);
        assert!(again.stderr.contains("CACHED"), "finished steps are kept: {}", again.stderr);
    }
    ended
}

#[test]
fn ctrl_c_and_its_kin_stop_a_build() {
    let Some(env) = with_base() else { return };
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let (code, said) = interrupted_build(&env, signal);
        assert_eq!(code, Some(130), "{signal}: {said}");
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error")).collect();
        assert_eq!(errors, ["error: cancelled"], "{signal}");
    }
}

#[test]
fn ctrl_c_stops_a_plain_user_s_build() {
    let Some(env) = plain_user() else { return };
    let (code, said) = interrupted_build(&env, Signal::SIGINT);
    assert_eq!(code, Some(130), "{said}");
}

#[test]
fn a_killed_build_leaves_nothing_behind() {
    let Some(env) = with_base() else { return };
    let (code, said) = interrupted_build(&env, Signal::SIGKILL);
    assert_eq!((code, said.contains("error")), (None, false), "{said}");
}

#[test]
fn a_killed_build_of_a_plain_user_leaves_nothing_behind() {
    let Some(env) = plain_user() else { return };
    interrupted_build(&env, Signal::SIGKILL);
}

#[test]
fn a_container_ends_with_mica() {
    let Some(env) = with_base() else { return };
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let marker = marker();
        let script = format!("echo ready >&2; sleep {marker}");
        let (mut child, mut stderr) = started(&env, &["run", "base", "/bin/sh", "-c", &script]);
        let (code, said) = end(&mut child, &mut stderr, signal);
        assert_ne!(code, Some(0), "{signal}: {said}");
        nothing_is_left(&env, &marker);
    }
}

/// A registry that falls silent in the middle of the second layer, and an image in it.
fn stalling() -> (Registry, Pushed) {
    let registry = Registry::start();
    let pushed = registry.push("app", "1", &[("one", "first"), ("two", &"x".repeat(40_000))]);
    registry.plan(&blob_path("app", &pushed.layers[1]), 1, Fault::Stall(30_000));
    (registry, pushed)
}

/// How much of a layer has come.
fn arrived(env: &TestEnv, layer: &Descriptor) -> u64 {
    let path = env.store().join("v1/partial").join(layer.digest.hex());
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Ctrl-C does not wait for a server, and what has come is not fetched again, whatever the end was.
#[test]
fn a_pull_that_is_stopped_goes_on_where_it_was() {
    let Some(env) = crate::env::bare() else { return };
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let (registry, pushed) = stalling();
        let (layer, name) = (&pushed.layers[1], registry.name("app:1"));
        let mut command = env.command(["pull", &name]);
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("to start mica");
        wait_until("a part of it", || arrived(&env, layer) == 30_000);
        let began = Instant::now();
        let mut stderr = child.stderr.take().expect("a pipe");
        let (code, said) = end(&mut child, &mut stderr, signal);
        assert!(began.elapsed() < Duration::from_secs(2), "{signal}: {:?}", began.elapsed());
        if signal == Signal::SIGINT {
            assert_eq!(code, Some(130), "{said}");
            assert!(said.ends_with("error: cancelled\n"), "{said}");
        }
        registry.requests();
        env.mica(["pull", &name]).success();
        let requests = registry.requests();
        let asked = requests.iter().find(|asked| asked.path == blob_path("app", layer));
        let range = asked.and_then(|asked| asked.headers.get("range")).map(String::as_str);
        assert_eq!(range, Some("bytes=30000-"), "{signal}: {requests:?}");
        assert_eq!(arrived(&env, layer), 0);
        env.mica(["rmi", &name]).success();
        env.mica(["system", "prune"]).success();
    }
}

#[test]
fn ctrl_c_stops_a_build_that_waits_for_a_registry() {
    let Some(env) = with_base() else { return };
    for silent in ["/v2/app/manifests/1", "/blobs/"] {
        let registry = Registry::start();
        registry.push("app", "1", &[("one", &"x".repeat(40_000))]);
        registry.plan(silent, 1, Fault::Stall(0));
        let text = format!("FROM base\nCOPY --from={} / /\n", registry.name("app:1"));
        let context = env.dockerfile(&text);
        let context = context.to_str().expect("UTF-8");
        let (code, said, took) = interrupted(&env, &registry, silent, &["build", context]);
        assert!(took < Duration::from_secs(2), "{silent}: {took:?}");
        assert_eq!(code, Some(130), "{silent}: {said}");
    }
}

#[test]
fn ctrl_c_stops_a_push_that_waits_for_a_registry() {
    let Some(env) = crate::env::bare() else { return };
    for silent in ["POST", "PUT"] {
        let registry = Registry::start();
        let name = registry.name("app:1");
        let context = env.context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a")]);
        env.id_of(&context, &["-t", &name]);
        registry.plan(silent, 1, Fault::Stall(0));
        let (code, said, took) = interrupted(&env, &registry, silent, &["push", &name]);
        assert!(took < Duration::from_secs(2), "{silent}: {took:?}");
        assert_eq!(code, Some(130), "{silent}: {said}");
        assert_eq!(registry.names(), [""; 0]);
    }
}

/// Stops mica by Ctrl-C once the registry was asked something, and tells how it ended and when.
fn interrupted(
    env: &TestEnv,
    registry: &Registry,
    question: &str,
    args: &[&str],
) -> (Option<i32>, String, Duration) {
    let mut command = env.command(args);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("to start mica");
    let mut asked = Vec::new();
    wait_until(question, || {
        asked.extend(registry.asked());
        asked.iter().any(|line| line.contains(question))
    });
    let began = Instant::now();
    let mut stderr = child.stderr.take().expect("a pipe");
    let (code, said) = end(&mut child, &mut stderr, Signal::SIGINT);
    (code, said, began.elapsed())
}

/// Bytes that were kept and are not right, as after a loss of power, are fetched anew.
#[test]
fn what_was_kept_is_not_believed() {
    let Some(env) = crate::env::bare() else { return };
    let registry = Registry::start();
    let pushed = registry.push("app", "1", &[("one", "first"), ("two", &"x".repeat(40_000))]);
    let layer = &pushed.layers[1];
    let size = usize::try_from(layer.size).expect("it is small");
    env.mica(["images"]).success();
    for kept in [vec![0; 20_000], vec![0; size], vec![0; size + 1]] {
        let folder = env.store().join("v1/partial");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(layer.digest.hex()), &kept).expect("to write");
        let name = registry.name("app:1");
        env.mica(["pull", &name]).success();
        assert_eq!(arrived(&env, layer), 0);
        env.mica(["rmi", &name]).success();
        std::fs::write(folder.join(layer.digest.hex()), &kept).expect("to write");
        env.mica(["system", "prune"]).success();
        assert_eq!(arrived(&env, layer), 0);
    }
}

/// A process that a step leaves running ends with the step.
#[test]
fn no_process_outlives_its_step() {
    let Some(env) = with_base() else { return };
    let marker = marker();
    env.built(&format!("FROM base\nRUN (setsid sleep {marker} >/dev/null 2>&1 &) ; echo done\n"));
    assert!(!is_running(&marker));
}
