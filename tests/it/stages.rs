//! Several stages: which run, at what time, and what they give each other.

use crate::env::{bare, with_base};

#[test]
fn files_and_settings_of_other_stages() {
    let Some(env) = with_base() else { return };
    let image = env.built(
        "FROM base AS build\nENV FROM_BUILD=1\nRUN mkdir /out && echo bin >/out/app && chmod 711 /out/app\n\
         FROM build AS more\nRUN echo more >/out/more\n\
         FROM scratch\nCOPY --from=build /out /app\nCOPY --from=1 /out/more /app/\nCOPY --from=base /etc/passwd /\n",
    );
    assert_eq!(image.text("app/app"), "bin\n");
    assert_eq!(image.file("app/app").mode, 0o711);
    assert_eq!(image.text("app/more"), "more\n");
    assert!(image.has("passwd"));
    assert_eq!(image.env("FROM_BUILD"), None);
}

#[test]
fn stages_that_nobody_needs_do_not_run() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile(
        "FROM base AS unused\nRUN exit 7\nFROM base AS used\nRUN echo u >/u\nFROM scratch\nCOPY --from=used /u /u\n",
    );
    let ran = env.build(&context, &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!ran.stderr.contains("exit 7"), "{}", ran.stderr);
}

#[test]
fn target_ends_the_build_early() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile("FROM base AS one\nENV STAGE=one\nFROM one AS two\nRUN exit 7\n");
    for target in ["one", "ONE"] {
        let image = env.built_from(&context, &["--target", target]);
        assert_eq!(image.env("STAGE"), Some("one"), "{target}");
    }
    assert_eq!(env.build(&context, &["--target", "two"]).code, Some(1));
}

/// Each of the two stages waits until the other has begun: one after the other would never end.
#[test]
fn independent_stages_run_at_once() {
    let Some(env) = with_base() else { return };
    let image = env.built(
        "FROM base AS a\nRUN --mount=type=cache,target=/c touch /c/a; i=0; while [ ! -e /c/b ]; do \
         i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done; echo a >/a\n\
         FROM base AS b\nRUN --mount=type=cache,target=/c touch /c/b; i=0; while [ ! -e /c/a ]; do \
         i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done; echo b >/b\n\
         FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
    );
    assert!(image.has("a") && image.has("b"));
}

#[test]
fn a_name_hides_an_image_of_the_same_name() {
    let Some(env) = bare() else { return };
    let stored = env.dockerfile("FROM scratch\nENV WHO=image\n");
    env.id_of(&stored, &["-t", "thing"]);
    let image = env.built("FROM scratch AS thing\nENV WHO=stage\nFROM thing\n");
    assert_eq!(image.env("WHO"), Some("stage"));
}

#[test]
fn mounts_of_other_stages_and_of_the_context() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[
        ("Dockerfile", "FROM base AS src\nRUN echo s >/s\nFROM base\nRUN --mount=from=src,target=/src --mount=target=/ctx cat /src/s /ctx/file >/out; touch /src/x 2>/dev/null && exit 1; true\n"),
        ("file", "c\n"),
    ]);
    let image = env.built_from(&context, &[]);
    assert_eq!(image.text("out"), "s\nc\n");
    assert!(!context.join("x").exists() && !image.has("src/s"));
}

#[test]
fn a_stage_of_a_named_context() {
    let Some(env) = bare() else { return };
    let other = env.context(&[("lib", "L")]);
    let context = env.dockerfile("FROM scratch\nCOPY --from=libs lib /lib\n");
    let image =
        env.built_from(&context, &["--build-context", &format!("libs={}", other.display())]);
    assert_eq!(image.text("lib"), "L");
}

#[test]
fn what_no_stage_may_say_even_if_nobody_needs_it() {
    let Some(env) = bare() else { return };
    for (stages, expected) in [
        ("FROM scratch AS a\nCOPY --from=0 /x /y\n", "circular dependency detected on stage: a"),
        ("FROM scratch\nCOPY --from=1 /x /y\nFROM scratch\nCOPY --from=0 /x /y\n", "circular"),
        ("FROM scratch AS a\nRUN --mount=from=a,target=/a true\n", "circular"),
        ("FROM scratch AS a\nCOPY --from=9 /x /y\n", "invalid stage index 9"),
    ] {
        let context = env.dockerfile(&format!("{stages}FROM scratch\nENV A=1\n"));
        let ran = env.build(&context, &[]);
        assert_eq!(ran.code, Some(2), "{stages}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    }
    let forward =
        "FROM scratch AS a\nCOPY --from=b /x /y\nFROM scratch AS b\nFROM scratch\nENV A=1\n";
    assert_eq!(env.built(forward).env("A"), Some("1"));
}
