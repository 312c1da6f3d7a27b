//! How runs end: with everything gone.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use mica::runtime::isolation::Mode;
use mica::runtime::{CancelToken, ExitStatus, Sandbox, SandboxError, Security};

use crate::Test;
use crate::env::Env;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("daemons end with the step", daemons),
    ("cancelling ends at once what doesn't listen", cancel),
    ("cancelling gives time to what listens", grace),
    ("killing mica leaves nothing", kill),
    ("a terminal is carried both ways", terminal),
    ("a flood of output stays in bounds", flood),
    ("many runs at once", parallel),
    ("what was got ready is used or ends", ready),
    ("the binary of mica can't be written", own_binary),
    ("insecure lifts what sandbox forbids", insecure),
    ("mounts of the host stay as they were", host_mounts),
    ("a run takes milliseconds", speed),
];

const VICTIM: &str = "MICA_TEST_VICTIM";
const TERMINAL: &str = "MICA_TEST_TERMINAL";

fn processes(tag: &str) -> usize {
    let all = std::fs::read_dir("/proc").expect("proc").flatten();
    all.filter_map(|it| std::fs::read(it.path().join("cmdline")).ok())
        .filter(|it| String::from_utf8_lossy(it).contains(tag))
        .count()
}

fn daemons(env: &Env) {
    let tag = "4711.1";
    env.shell(&format!(
        "for i in 1 2 3; do (trap '' TERM HUP INT; exec busybox setsid sleep {tag}) & done; exit 0"
    ));
    assert_eq!(processes(tag), 0);
}

fn cancel_after(env: &Env, script: &str, millis: u64, times: u32) -> (Duration, SandboxError) {
    let token = CancelToken::new().expect("a token");
    let other = token.clone();
    let thread = std::thread::spawn(move || {
        for _ in 0..times {
            std::thread::sleep(Duration::from_millis(millis));
            other.cancel();
        }
    });
    let start = Instant::now();
    let error = env.run_until(&env.step(script).spec, &token).expect_err("to be cancelled");
    let took = start.elapsed();
    thread.join().expect("the thread");
    (took, error)
}

fn cancel(env: &Env) {
    let (took, error) = cancel_after(env, "exec sleep 4711.2", 100, 1);
    assert!(matches!(error, SandboxError::Cancelled), "{error:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(processes("4711.2"), 0);
}

fn grace(env: &Env) {
    let step = env.fresh();
    let script = "trap 'exit 3' TERM; while :; do sleep 0.05; done";
    let (took, _) = cancel_after(env, script, 100, 1);
    assert!(took < Duration::from_secs(2), "{took:?}");
    let (took, _) =
        cancel_after(env, "trap '' INT; trap : TERM; while :; do sleep 4711.3; done", 200, 2);
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(processes("4711.3"), 0);
    drop(step);
}

pub(crate) fn is_victim() -> bool {
    std::env::args().any(|it| it == VICTIM || it == TERMINAL)
}

/// Runs something endless in a process of its own, to be killed.
pub(crate) fn victim() -> ExitCode {
    let mode = mica::runtime::isolation::enter(mica::runtime::isolation::Request::Auto);
    let env = Env::new(mode.expect("a mode").mode).expect("an environment");
    if std::env::args().any(|it| it == TERMINAL) {
        let mut step = env.step(
            "busybox tty; ls /dev/console; busybox stty size; read line; echo got $line; exit 5",
        );
        step.spec.terminal = true;
        let ran = env.run(&step.spec).expect("to run");
        print!("{}{:?}", ran.stdout, ran.status);
        return ExitCode::SUCCESS;
    }
    let script = "busybox setsid sleep 4711.4 & sleep 4711.4";
    drop(env.run(&env.step(script).spec));
    ExitCode::SUCCESS
}

fn kill(env: &Env) {
    if env.mode != Mode::Root {
        println!("  skipped: covered as root; a user namespace has no second set of ids");
        return;
    }
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .arg(VICTIM)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    await_count("4711.4", |count| count >= 2);
    child.kill().expect("to kill");
    child.wait().expect("to wait");
    await_count("4711.4", |count| count == 0);
}

fn terminal(env: &Env) {
    if env.mode != Mode::Root {
        return println!("  skipped: covered as root");
    }
    let program = std::env::current_exe().expect("this program");
    let inner = format!("stty rows 33 cols 77; {} {TERMINAL}", program.display());
    let mut script = Command::new("script");
    script.args(["-qec", &inner, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = script.spawn() else {
        return println!("  skipped: `script` is not installed");
    };
    std::thread::sleep(Duration::from_millis(500));
    let mut stdin = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, b"hello\n").expect("to write");
    let output = child.wait_with_output().expect("to wait");
    let out = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    for part in ["/dev/pts/0", "/dev/console", "33 77", "got hello", "Code(5)"] {
        assert!(out.contains(part), "{part} is not in:\n{out}");
    }
}

#[track_caller]
fn await_count(tag: &str, wanted: impl Fn(usize) -> bool) {
    let start = Instant::now();
    while !wanted(processes(tag)) {
        assert!(start.elapsed() < Duration::from_secs(10), "{} left", processes(tag));
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn flood(env: &Env) {
    let mut total = 0usize;
    let mut largest = 0;
    let mut output = |_, bytes: &[u8]| {
        total += bytes.len();
        largest = largest.max(bytes.len());
    };
    let token = CancelToken::new().expect("a token");
    let step = env.step("busybox head -c 67108864 /dev/zero");
    env.sandbox.run(&step.spec, &mut output, &token).expect("to run");
    assert_eq!(total, 64 << 20);
    assert!(largest <= 64 << 10);
}

fn parallel(env: &Env) {
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                for _ in 0..5 {
                    assert_eq!(env.shell(&format!("echo {number}")), format!("{number}\n"));
                }
            });
        }
    });
}

/// Processes that we started, those that have ended and were not waited for included.
fn children() -> Vec<i32> {
    let own = format!("PPid:\t{}", std::process::id());
    let is_own = |status: String| status.lines().any(|line| line == own);
    let all = std::fs::read_dir("/proc").expect("proc").flatten();
    all.filter(|it| std::fs::read_to_string(it.path().join("status")).is_ok_and(is_own))
        .map(|it| it.file_name().to_string_lossy().parse().expect("a number"))
        .collect()
}

fn ready(env: &Env) {
    let before = children();
    env.sandbox.expect(3);
    for number in 0..2 {
        let cancelled = CancelToken::new().expect("a token");
        cancelled.cancel();
        env.run_until(&env.step("true").spec, &cancelled).expect_err("cancelled");
        assert_eq!(env.shell(&format!("echo {number}")), format!("{number}\n"));
        assert_eq!(children().len(), before.len() + 1, "one is ready");
    }
    // The last that is expected, and one that is not.
    for number in 2..4 {
        assert_eq!(env.shell(&format!("echo {number}")), format!("{number}\n"));
        assert_eq!(children(), before);
    }
    env.sandbox.expect(2);
    env.shell("true");
    let new = children().into_iter().filter(|pid| !before.contains(pid));
    for pid in new.map(nix::unistd::Pid::from_raw) {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("to kill");
        let status = || std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
        while !status().contains("(zombie)") {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(env.shell("echo 4"), "4\n", "one that ended meanwhile is not missed");
}

fn insecure(env: &Env) {
    let mut step = env.step("busybox mount -t tmpfs none /tmp && grep Seccomp: /proc/self/status");
    step.spec.security = Security::Insecure;
    // In a user namespace, the making of devices is still answered.
    let filters = if env.mode == Mode::Root { "0" } else { "2" };
    assert_eq!(env.expect(&step), format!("Seccomp:\t{filters}\n"));
}

fn host_mounts(env: &Env) {
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let before = mounts();
    let ran = env.run(&env.step("exit 7").spec).expect("to run");
    assert_eq!(ran.status, ExitStatus::Code(7));
    assert_eq!(before, mounts());
}

fn speed(env: &Env) {
    let mut step = env.step("");
    step.spec.argv = vec!["/bin/true".into()];
    let mut times: Vec<Duration> = (0..40)
        .map(|_| {
            let start = Instant::now();
            env.run(&step.spec).expect("to run");
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("  median {:?}, fastest {:?}", times[times.len() / 2], times[0]);
}

/// What CVE-2019-5736 did: become the runtime's binary by an interpreter line, then write to it.
fn own_binary(env: &Env) {
    use std::os::unix::fs::PermissionsExt;
    let layer = env.fresh();
    let script = layer.join("again");
    std::fs::write(&script, "#!/proc/self/exe\n").expect("a script");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("to mark it");
    let program = std::env::current_exe().expect("this program");
    let before = std::fs::metadata(&program).and_then(|it| it.modified()).expect("its time");
    let mut step = env.step_over(
        &[&layer],
        "/again & for i in 1 2 3 4 5 6; do for p in /proc/[0-9]*; do \
         (echo x >> $p/exe) 2>/dev/null; done; done; wait; true",
    );
    env.expect(&step);
    step = env.step_over(&[&layer], "");
    step.spec.argv = vec!["/again".into()];
    drop(env.run(&step.spec));
    let after = std::fs::metadata(&program).and_then(|it| it.modified()).expect("its time");
    assert_eq!(before, after);
}
