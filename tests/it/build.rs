//! The flags of `mica build`.

use serde_json::{Value, json};

use crate::env::{bare, with_base};

#[test]
fn plain_progress() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile("FROM base\nRUN echo hello\nRUN echo 'to stderr' >&2\n");
    let ran = env.build(&context, &["-t", "app", "-t", "app:v2"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
    insta::assert_snapshot!(env.filter(&ran.stderr), @r"
    #1 [2/3] RUN echo hello
    #1 [time] hello
    #1 DONE [time]

    #2 [3/3] RUN echo 'to stderr' >&2
    #2 [time] to stderr
    #2 DONE [time]

    built [digest]
    named app:latest
    named app:v2
    ");
}

#[test]
fn quiet_shows_the_id_and_nothing_else() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile("FROM base\nRUN echo hello\n");
    for args in [&["-q"][..], &["--quiet", "--no-cache"]] {
        let ran = env.build(&context, args);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        assert_eq!(env.filter(&ran.stdout), "[digest]");
    }
    let ran = env.build(&context, &["--progress", "quiet", "--no-cache"]);
    assert_eq!(env.filter(&ran.stderr), "built [digest]");
}

#[test]
fn quiet_shows_the_end_of_what_a_failing_step_wrote() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile("FROM base\nRUN echo why; exit 9\n");
    let ran = env.build(&context, &["-q"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    insta::assert_snapshot!(env.filter(&ran.stderr), @r"
    > why
    error: `[2/2] RUN echo why; exit 9` failed: exit status 9
     --> Dockerfile:2:1
      |
    2 | RUN echo why; exit 9
      | ^^^^^^^^^^^^^^^^^^^^
    ");
}

#[test]
fn rawjson_is_a_json_object_a_line() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile("FROM base\nRUN echo hello\n");
    let vertexes = |stderr: &str| -> Vec<Value> {
        let lines = stderr.lines().filter(|line| line.starts_with('{'));
        let objects = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        objects.filter_map(|object| Some(object["vertexes"].as_array()?[0].clone())).collect()
    };
    let first = env.build(&context, &["--progress", "rawjson"]);
    let done = vertexes(&first.stderr).pop().expect("a vertex");
    assert!(done["completed"].is_string() && done["cached"].is_null(), "{done}");
    assert_eq!(done["name"], "[2/2] RUN echo hello");
    assert!(first.stderr.contains(r#""data":"aGVsbG8K""#), "{}", first.stderr);
    let second = env.build(&context, &["--progress", "rawjson"]);
    let cached = vertexes(&second.stderr).pop().expect("a vertex");
    assert_eq!(cached["cached"], true);
    let others = first.stderr.lines().filter(|line| !line.starts_with('{'));
    assert_eq!(others.count(), 0, "{}", first.stderr);
}

#[test]
fn labels_iidfile_and_names() {
    let Some(env) = bare() else { return };
    let context = env.dockerfile("FROM scratch\nLABEL a=file b=file\n");
    let iidfile = env.path("home/iid");
    let id = env.id_of(
        &context,
        &[
            "--label",
            "a=flag",
            "--label",
            "c",
            "--iidfile",
            iidfile.to_str().expect("UTF-8"),
            "-t",
            "one",
            "-t",
            "localhost:5000/two/three:v1",
        ],
    );
    assert_eq!(std::fs::read_to_string(iidfile).expect("an ID"), id);
    for name in ["one", "one:latest", "localhost:5000/two/three:v1", &id, &id[..15], &id[7..19]] {
        let image = env.saved(name);
        assert_eq!(*image.config("Labels"), json!({ "a": "flag", "b": "file", "c": "" }), "{name}");
    }
}

#[test]
fn no_network_but_loopback() {
    let Some(env) = with_base() else { return };
    let dockerfile = "FROM base\nRUN ls /sys/class/net >/net; cat /proc/net/dev >/dev-file\n";
    let context = env.dockerfile(dockerfile);
    let image = env.built_from(&context, &["--network=none"]);
    let devices = image.text("dev-file");
    let names: Vec<&str> =
        devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    assert_eq!(names, ["lo"]);
    let image = env.built("FROM base\nRUN --network=none cat /proc/net/dev >/dev-file\n");
    let devices = image.text("dev-file");
    assert_eq!(devices.lines().filter(|line| line.contains(':')).count(), 1, "{devices}");
}

#[test]
fn secrets_reach_the_step_and_nothing_else() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[
        ("Dockerfile", "FROM base\nRUN --mount=type=secret,id=k wc -c </run/secrets/k >/size; stat -c %a /run/secrets/k >>/size\n"),
        ("key", "s3cr3t-value"),
    ]);
    let secret = format!("id=k,src={}", context.join("key").display());
    let image = env.built_from(&context, &["--secret", &secret]);
    assert_eq!(image.text("size"), "12\n400\n");
    let leaked = |bytes: &[u8]| bytes.windows(12).any(|window| window == b"s3cr3t-value");
    assert!(!leaked(image.config.to_string().as_bytes()));
    assert!(
        !image
            .files()
            .iter()
            .any(|(path, file)| { leaked(&file.bytes) || path.starts_with("run/secrets/") })
    );
}

#[test]
fn build_args_from_the_environment() {
    let Some(env) = bare() else { return };
    let context = env.dockerfile("FROM scratch\nARG FROM_ENV\nENV GOT=$FROM_ENV\n");
    let mut command = env.command(["build", "-q", "--build-arg", "FROM_ENV"]);
    command.arg(&context).env("FROM_ENV", "outside");
    let id = crate::env::Ran::of(&mut command).success();
    assert_eq!(env.saved(id.trim()).env("GOT"), Some("outside"));
}

#[test]
fn hosts_limits_and_shared_memory() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile(
        "FROM base\nRUN grep db.test /etc/hosts >/out; ulimit -n >>/out; df -k /dev/shm | tail -1 | awk '{print $2}' >>/out\n",
    );
    let image = env.built_from(
        &context,
        &["--add-host", "db.test:10.1.2.3", "--ulimit", "nofile=333:444", "--shm-size", "2m"],
    );
    let out = image.text("out");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("10.1.2.3"), "{lines:?}");
    assert_eq!(lines[1..], ["333", "2048"]);
}
