//! What a second build does again, and what it does not.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::env::{TestEnv, with_base, write};

/// The steps of a build that were not cached, by their names without numbers.
#[track_caller]
fn redone(env: &TestEnv, context: &Path, args: &[&str]) -> Vec<String> {
    let ran = env.build(context, args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut redone = Vec::new();
    let lines: Vec<&str> = ran.stderr.lines().collect();
    for line in &lines {
        let Some((number, name)) = line.strip_prefix('#').and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        let cached = lines.contains(&format!("#{number} CACHED").as_str());
        if let (Some((_, step)), false) = (name.split_once("] "), cached) {
            redone.push(step.to_owned());
        }
    }
    redone
}

const STEPS: &str = "FROM base\nCOPY a /a\nRUN cat /a >/from-a\nCOPY b /b\nRUN cat /b >/from-b\nENV X=1\nRUN echo $X >/x\n";

#[test]
fn a_filter_runs_the_steps_of_its_stages_anew() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile(
        "FROM base AS one\nRUN echo >/one\nFROM base AS Two\nRUN cat /proc/uptime >/two\n\
         FROM base AS three\nRUN echo >/three\nFROM base\nCOPY --from=one /one /\n\
         COPY --from=two /two /\nCOPY --from=three /three /\n",
    );
    env.id_of(&context, &[]);
    let done = |args: &[&str]| {
        let ran = env.build(&context, args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let done =
            ran.stderr.lines().filter_map(|line| line.split_once(" DONE")?.0.strip_prefix('#'));
        let name = |number: &str| {
            let start = format!("#{number} [");
            let line = ran.stderr.lines().find_map(|line| line.strip_prefix(&start));
            line.expect("a name").split('/').next().expect("a part").to_owned()
        };
        let mut lines: Vec<String> = done.map(name).collect();
        lines.sort();
        lines.join(" ")
    };
    assert_eq!(done(&[]), "");
    // Made anew, and the same as before: what is made of it is not.
    assert_eq!(done(&["--no-cache-filter", "one"]), "one 2");
    assert_eq!(done(&["--no-cache-filter=TWO,three"]), "stage-3 3 stage-3 4 three 2 two 2");
    assert_eq!(done(&["--no-cache-filter", "nobody"]), "");
    let both = env.build(&context, &["--no-cache", "--no-cache-filter", "one"]);
    assert_eq!(both.code, Some(2), "{}", both.stderr);
}

#[test]
fn a_second_build_runs_nothing() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[("Dockerfile", STEPS), ("a", "A"), ("b", "B")]);
    assert_eq!(redone(&env, &context, &[]).len(), 5);
    let second = env.build(&context, &[]);
    insta::assert_snapshot!(env.filter(&second.stderr), @r"
    #1 [2/6] COPY a /a
    #1 CACHED

    #2 [3/6] RUN cat /a >/from-a
    #2 CACHED

    #3 [4/6] COPY b /b
    #3 CACHED

    #4 [5/6] RUN cat /b >/from-b
    #4 CACHED

    #5 [6/6] RUN echo $X >/x
    #5 CACHED

    built [digest]
    ");
}

#[test]
fn a_second_build_is_the_same_image() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[("Dockerfile", STEPS), ("a", "A"), ("b", "B")]);
    assert_eq!(env.id_of(&context, &[]), env.id_of(&context, &[]));
}

#[test]
fn a_changed_file_redoes_what_depends_on_it() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[("Dockerfile", STEPS), ("a", "A"), ("b", "B")]);
    redone(&env, &context, &[]);
    write(&context, "b", "B2");
    env.give(&context);
    assert_eq!(
        redone(&env, &context, &[]),
        ["COPY b /b", "RUN cat /b >/from-b", "RUN echo $X >/x"]
    );
    let image = env.built_from(&context, &[]);
    assert_eq!((image.text("from-a"), image.text("from-b")), ("A".into(), "B2".into()));
    // And back: what was made at first is still known.
    write(&context, "b", "B");
    assert_eq!(redone(&env, &context, &[]), [""; 0]);
}

#[test]
fn a_changed_instruction_redoes_what_follows() {
    let Some(env) = with_base() else { return };
    let files = [("Dockerfile", STEPS), ("a", "A"), ("b", "B")];
    let context = env.context(&files);
    redone(&env, &context, &[]);
    write(&context, "Dockerfile", &STEPS.replace("ENV X=1", "# Just a comment.\nENV X=2"));
    assert_eq!(redone(&env, &context, &[]), ["RUN echo $X >/x"]);
}

/// The content key: the RUN that is redone makes the same bytes, so nothing behind it is redone.
#[test]
fn the_same_bytes_stop_a_rebuild() {
    let Some(env) = with_base() else { return };
    let dockerfile = "FROM base AS gen\nCOPY in /in\nRUN head -c 1 /in >/out\nFROM base\nCOPY --from=gen /out /out\nRUN cat /out >/copy\n";
    let context = env.context(&[("Dockerfile", dockerfile), ("in", "Xone")]);
    redone(&env, &context, &[]);
    write(&context, "in", "Xtwo");
    assert_eq!(redone(&env, &context, &[]), ["COPY in /in", "RUN head -c 1 /in >/out"]);
    write(&context, "in", "Ythree");
    assert_eq!(redone(&env, &context, &[]).len(), 4);
    assert_eq!(env.built_from(&context, &[]).text("copy"), "Y");
}

#[test]
fn no_cache_runs_every_step() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[("Dockerfile", STEPS), ("a", "A"), ("b", "B")]);
    redone(&env, &context, &[]);
    assert_eq!(redone(&env, &context, &["--no-cache"]).len(), 5);
    assert_eq!(redone(&env, &context, &[]), [""; 0]);
}

/// Nothing is lost but time.
#[test]
fn a_cache_that_cannot_be_written_fails_no_build() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[("Dockerfile", STEPS), ("a", "A"), ("b", "B")]);
    write(&env.store().join("v1/cache"), "steps", "no folder");
    for _ in 0..2 {
        assert_eq!(redone(&env, &context, &[]).len(), 5);
    }
}

#[test]
fn an_argument_counts_where_it_is_in_scope() {
    let Some(env) = with_base() else { return };
    let dockerfile = "FROM base\nRUN echo early >/early\nARG V=1\nRUN echo $V >/late\n";
    let context = env.dockerfile(dockerfile);
    redone(&env, &context, &[]);
    assert_eq!(redone(&env, &context, &["--build-arg", "V=2"]), ["RUN echo $V >/late"]);
    assert_eq!(redone(&env, &context, &["--build-arg", "V=1"]), [""; 0]);
    assert_eq!(redone(&env, &context, &["--build-arg", "V=2"]), [""; 0]);
}

#[test]
fn times_do_not_count_and_modes_do() {
    use std::os::unix::fs::PermissionsExt;
    let Some(env) = with_base() else { return };
    let context = env.context(&[("Dockerfile", STEPS), ("a", "A"), ("b", "B")]);
    redone(&env, &context, &[]);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let times = FileTimes::new().set_modified(long_ago);
    let file = File::options().write(true).open(context.join("b")).expect("to open");
    file.set_times(times).expect("to set its time");
    assert_eq!(redone(&env, &context, &[]), [""; 0]);
    fs::set_permissions(context.join("b"), PermissionsExt::from_mode(0o755)).expect("chmod");
    assert_eq!(redone(&env, &context, &[])[0], "COPY b /b");
}

/// Same size, same time, other bytes: the one change that a lazy look would miss.
#[test]
fn a_change_that_keeps_size_and_time_is_seen() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[("Dockerfile", "FROM scratch\nCOPY a /a\n"), ("a", "one")]);
    redone(&env, &context, &[]);
    let path = context.join("a");
    let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a time");
    fs::write(&path, "two").expect("to write");
    let file = File::options().write(true).open(&path).expect("to open");
    file.set_times(FileTimes::new().set_modified(modified)).expect("to set its time");
    assert_eq!(env.built_from(&context, &[]).text("a"), "two");
}

#[test]
fn what_did_not_change_is_shared_with_the_layer_before() {
    let (Some(env), Some(fresh)) = (with_base(), with_base()) else { return };
    let files = |b| [("Dockerfile", "FROM base\nCOPY . /app/\n"), ("a/one", "1"), ("a/two", b)];
    let context = env.context(&files("2"));
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let set_times = |context: &Path| {
        for name in ["Dockerfile", "a/one", "a/two", "a", "."] {
            let file = File::open(context.join(name)).expect("opened");
            file.set_times(FileTimes::new().set_modified(time)).expect("set");
        }
    };
    set_times(&context);
    env.id_of(&context, &[]);
    // Neither its size nor its time tells.
    write(&context, "a/two", "3");
    set_times(&context);
    let second = env.id_of(&context, &[]);
    let links = |name: &str| {
        let layers = walkdir::WalkDir::new(env.store()).into_iter().flatten();
        let found = layers.filter(|entry| entry.path().ends_with(Path::new("app/a").join(name)));
        found.map(|entry| entry.metadata().expect("read").nlink()).collect::<Vec<_>>()
    };
    assert_eq!((links("one"), links("two")), (vec![2, 2], vec![1, 1]));
    assert_eq!(env.shell(&second, "cat /app/a/one /app/a/two"), "13");
    let anew = fresh.context(&files("3"));
    set_times(&anew);
    let layers = |env: &TestEnv, id: &str| env.saved(id).config["rootfs"]["diff_ids"][1].clone();
    assert_eq!(layers(&env, &second), layers(&fresh, &fresh.id_of(&anew, &[])));
}

#[test]
fn the_same_context_elsewhere_is_the_same() {
    let Some(env) = with_base() else { return };
    let files = [("Dockerfile", STEPS), ("a", "A"), ("b", "B")];
    redone(&env, &env.context(&files), &[]);
    assert_eq!(redone(&env, &env.context(&files), &[]), [""; 0]);
}

#[test]
fn files_that_nothing_copies_do_not_count() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[("Dockerfile", STEPS), ("a", "A"), ("b", "B"), ("c", "C")]);
    redone(&env, &context, &[]);
    write(&context, "c", "C2");
    assert_eq!(redone(&env, &context, &[]), [""; 0]);
}

#[test]
fn a_failed_step_is_not_cached_and_those_before_it_are() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[
        ("Dockerfile", "FROM base\nRUN echo 1 >/1\nCOPY ok /\nRUN cat /ok | grep yes\n"),
        ("ok", "no\n"),
    ]);
    for _ in 0..2 {
        assert_eq!(env.build(&context, &[]).code, Some(1));
    }
    write(&context, "ok", "yes\n");
    assert_eq!(redone(&env, &context, &[]), ["COPY ok /", "RUN cat /ok | grep yes"]);
}

#[test]
fn cache_mounts_live_from_build_to_build() {
    let Some(env) = with_base() else { return };
    let dockerfile =
        "FROM base\nRUN --mount=type=cache,target=/c echo x >>/c/log; wc -l </c/log >/count\n";
    let context = env.dockerfile(dockerfile);
    assert_eq!(env.built_from(&context, &["--no-cache"]).text("count").trim(), "1");
    assert_eq!(env.built_from(&context, &["--no-cache"]).text("count").trim(), "2");
    let other = env.dockerfile(&dockerfile.replace("cache,", "cache,id=other,"));
    assert_eq!(env.built_from(&other, &[]).text("count").trim(), "1");
}

#[test]
fn a_base_that_was_brought_in_anew_redoes_its_steps() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile("FROM mine\nRUN cat /etc/version >/v\n");
    for version in ["1", "2"] {
        let base = env.dockerfile(&format!("FROM base\nRUN echo {version} >/etc/version\n"));
        env.id_of(&base, &["-t", "mine"]);
        assert_eq!(env.built_from(&context, &[]).text("v").trim(), version);
    }
}
