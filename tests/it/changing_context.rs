//! Files of a context that somebody changes while mica builds.

use std::io::Read as _;
use std::path::Path;

use crate::env::{TestEnv, with_base, write};
use crate::image::SavedImage;
use crate::interrupt::started;

/// Builds `context` as `app`, does `change` while its first step is at work, and gives what mica said.
fn build_while(env: &TestEnv, context: &Path, change: impl FnOnce()) -> String {
    let args = ["build", "--progress", "plain", "-t", "app", context.to_str().expect("UTF-8")];
    let (mut child, mut stderr) = started(env, &args);
    change();
    let gates = std::fs::read_dir(env.store().join("v1/mounts")).expect("the cache mount");
    gates.for_each(|gate| write(&gate.expect("read").path(), "open", ""));
    let mut said = String::new();
    stderr.read_to_string(&mut said).expect("to read");
    assert!(child.wait().expect("to wait").success(), "{said}");
    said
}

/// A step that says `ready` and waits.
const GATE: &str =
    "RUN --mount=type=cache,target=/gate echo ready; until [ -e /gate/open ]; do sleep 0.02; done";

const WARNING: &str = "it is not cached";

#[test]
fn what_was_made_of_files_that_changed_is_not_cached() {
    for dockerfile in [
        "FROM base\nGATE\nCOPY f /f\nRUN cat f >g\n",
        "FROM base\nGATE\nCOPY . /\nRUN cat f >g\n",
        "FROM base\nGATE\nRUN --mount=type=bind,target=/c cp /c/f /f\nRUN cat f >g\n",
        "FROM base AS a\nGATE\nCOPY f /f\nFROM base\nCOPY --from=a f /f\nRUN cat f >g\n",
    ] {
        let Some(env) = with_base() else { return };
        let gated = dockerfile.replace("GATE", GATE);
        let context = env.context(&[("f", "first"), ("Dockerfile", &gated)]);
        let said = build_while(&env, &context, || write(&context, "f", "other"));
        assert!(said.contains(WARNING), "{dockerfile}{said}");
        let texts = |image: &SavedImage| [image.text("f"), image.text("g")];
        assert_eq!(texts(&env.saved("app")), ["other", "other"], "{dockerfile}");
        for now in ["first", "other"] {
            write(&context, "f", now);
            env.give(&context);
            assert_eq!(texts(&env.built_from(&context, &[])), [now, now], "{dockerfile}");
        }
    }
}

#[test]
fn what_is_not_read_may_change() {
    let Some(env) = with_base() else { return };
    let dockerfile = format!("FROM base\n{GATE}\nCOPY f /f\nCOPY d /d\n");
    let files = [("f", "first"), ("d/x", "x"), (".dockerignore", "d/log")];
    let context = env.context(&files);
    write(&context, "Dockerfile", &dockerfile);
    let said = build_while(&env, &context, || {
        write(&context, "g", "new");
        write(&context, "d/log", "new");
    });
    assert!(!said.contains(WARNING), "{said}");
    let again = env.build(&context, &[]);
    assert_eq!(again.stderr.matches("CACHED").count(), 3, "{}", again.stderr);
}
