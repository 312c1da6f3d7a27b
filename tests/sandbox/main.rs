//! The sandbox against the table of its defaults, a row a test, as root and as a plain user.
//!
//! Started as root, it runs everything as root, and then itself again as a user with subordinate
//! ids, if there is one. What the machine can't do is skipped with a reason. Arguments are parts of
//! names to run.

#![expect(clippy::print_stdout, clippy::panic, reason = "a test harness of its own")]

mod defaults;
mod env;
mod lifecycle;
mod mounts;

use std::panic::AssertUnwindSafe;
use std::process::{Command, ExitCode};

use env::Env;
use mica::runtime::isolation::{self, Mode};

/// A test passes, or panics.
type Test = fn(&Env);

fn main() -> ExitCode {
    mica::runtime::init_if_child();
    let filters: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    if std::env::args().any(|it| it == "--list") {
        return ExitCode::SUCCESS;
    }
    if lifecycle::is_victim() {
        return lifecycle::victim();
    }
    let root = nix::unistd::Uid::effective().is_root();
    let isolation = isolation::enter(isolation::Request::Auto).expect("a mode");
    let mode = isolation.mode;
    if mode == Mode::None {
        println!("skipped: {}", mode.explanation());
        return ExitCode::SUCCESS;
    }
    let failed = run_all(mode, &filters);
    let failed_as_user = root && mode == Mode::Root && !run_as_user(&filters);
    ExitCode::from(u8::from(failed || failed_as_user))
}

fn run_all(mode: Mode, filters: &[String]) -> bool {
    let env = match Env::new(mode) {
        Ok(env) => env,
        Err(reason) => {
            println!("skipped: {reason}");
            return false;
        }
    };
    let tests = defaults::TESTS.iter().chain(mounts::TESTS).chain(lifecycle::TESTS);
    let mut failed = false;
    for (name, test) in tests {
        if !filters.is_empty() && !filters.iter().any(|it| name.contains(it.as_str())) {
            continue;
        }
        let passed = std::panic::catch_unwind(AssertUnwindSafe(|| test(&env))).is_ok();
        println!("{mode}: {name}: {}", if passed { "ok" } else { "FAILED" });
        failed |= !passed;
    }
    failed
}

/// Runs this program again as the first plain user with subordinate ids.
fn run_as_user(filters: &[String]) -> bool {
    let text = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let user = text.split('\n').filter_map(|it| it.split(':').next()).find(|it| !it.is_empty());
    let Some(user) = user.filter(|it| *it != "root") else {
        println!("userns: skipped: no user in /etc/subuid");
        return true;
    };
    // The target directory may be closed to that user.
    let copy = std::env::temp_dir().join(format!("mica-sandbox-test-{}", std::process::id()));
    let program = std::env::current_exe().expect("the path of this test");
    std::fs::copy(program, &copy).expect("to copy this test");
    let status = Command::new("setpriv")
        .args(["--reuid", user, "--regid", user, "--init-groups"])
        .arg(&copy)
        .args(filters)
        .current_dir("/")
        .status();
    std::fs::remove_file(&copy).expect("to remove the copy");
    match status {
        Ok(status) => status.success(),
        Err(error) => {
            println!("userns: skipped: setpriv: {error}");
            true
        }
    }
}
