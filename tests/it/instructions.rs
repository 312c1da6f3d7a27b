//! Each instruction of a Dockerfile, by the configuration and the files that it leaves.

use serde_json::json;
use tar::EntryType;

use crate::env::{bare, with_base};

#[test]
fn configuration() {
    let Some(env) = bare() else { return };
    let image = env.built(
        r#"FROM scratch
ARG WHO=me
MAINTAINER me
ENV A=1 B="two words"
ENV C=$A-${B}-${NONE:-none}
ENV old style value
LABEL one=1 "two words"='x y'
EXPOSE 80 53/udp
VOLUME /data /more
USER app:users
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s --retries=2 CMD ["/probe", "-x"]
ENTRYPOINT ["/entry", "a b"]
CMD one 'two three'
"#,
    );
    assert_eq!(image.config["author"], "me");
    assert_eq!(image.env("A"), Some("1"));
    assert_eq!(image.env("B"), Some("two words"));
    assert_eq!(image.env("C"), Some("1-two words-none"));
    assert_eq!(image.env("old"), Some("style value"));
    assert_eq!(image.env("WHO"), None, "an ARG is no ENV");
    assert_eq!(*image.config("Labels"), json!({ "one": "1", "two words": "x y" }));
    assert_eq!(*image.config("ExposedPorts"), json!({ "80/tcp": {}, "53/udp": {} }));
    assert_eq!(image.config("Volumes")["/data"], json!({}));
    assert_eq!(*image.config("User"), "app:users");
    assert_eq!(*image.config("StopSignal"), "SIGQUIT");
    let probe = image.config("Healthcheck");
    assert_eq!(probe["Test"], json!(["CMD", "/probe", "-x"]));
    assert_eq!((&probe["Interval"], &probe["Retries"]), (&json!(5_000_000_000_u64), &json!(2)));
    assert_eq!(*image.config("Entrypoint"), json!(["/entry", "a b"]));
    assert_eq!(*image.config("Cmd"), json!(["/bin/sh", "-c", "one 'two three'"]));
    assert!(image.layers.is_empty(), "settings make no layer: {:?}", image.layers);
}

#[test]
fn ports_are_sorted_as_they_are_written() {
    let Some(env) = bare() else { return };
    let image = env.built("FROM scratch\nENV P=\"99 7\"\nEXPOSE 20-21 100 $P\n");
    let shown = &image.config["history"][1]["created_by"];
    assert_eq!(*shown, "EXPOSE [99/tcp 7/tcp 100/tcp 20/tcp 21/tcp]");
}

#[test]
fn an_entrypoint_forgets_the_command_of_the_base() {
    let Some(env) = bare() else { return };
    let base = env.dockerfile("FROM scratch\nCMD [\"a\"]\n");
    env.id_of(&base, &["-t", "first"]);
    let image = env.built("FROM first\nENTRYPOINT [\"b\"]\n");
    assert_eq!(*image.config("Entrypoint"), json!(["b"]));
    assert!(image.config("Cmd").is_null(), "{}", image.config);
}

#[test]
fn workdir_is_made_and_adds_up() {
    let Some(env) = bare() else { return };
    let image = env.built("FROM scratch\nENV D=deep\nWORKDIR /a\nWORKDIR b/$D\n");
    assert_eq!(*image.config("WorkingDir"), "/a/b/deep");
    let file = image.file("a/b/deep");
    assert_eq!((file.kind, file.mode, file.owner), (EntryType::Directory, 0o755, (0, 0)));
}

#[test]
fn run_starts_in_the_folder_that_workdir_comes_to() {
    let Some(env) = with_base() else { return };
    let image = env.built("FROM base\nWORKDIR /a//b/./gone/..\nRUN pwd >/log\n");
    assert_eq!(image.text("log"), "/a/b\n");
    assert_eq!(*image.config("WorkingDir"), "/a//b/./gone/..");
}

#[test]
fn run_makes_its_working_folder_where_it_is_gone() {
    let Some(env) = with_base() else { return };
    let image = env.built("FROM base\nWORKDIR /a/b\nRUN cd / && rm -r /a\nUSER app\nRUN pwd\n");
    let folder = image.file("a/b");
    assert_eq!((folder.kind, folder.mode, folder.owner), (EntryType::Directory, 0o755, (0, 0)));
    let image = env.built("FROM base\nWORKDIR /a/b/../../c\nRUN pwd >/pwd\n");
    assert_eq!(image.text("pwd"), "/c\n");
    assert_eq!(image.file("a/b").kind, EntryType::Directory);
}

#[test]
fn an_image_is_for_the_platform_that_is_asked_for() {
    let Some(env) = bare() else { return };
    let base = env.dockerfile("FROM --platform=linux/mips64 scratch\nLABEL a=b\n");
    let first = env.saved(&env.id_of(&base, &["-t", "first"]));
    assert_eq!(first.config["architecture"], mica::oci::Platform::host().architecture);
    let context = env.dockerfile("FROM --platform=$BUILDPLATFORM first\nENV A=1\n");
    let image = env.built_from(&context, &["--platform", "linux/arm"]);
    let (architecture, variant) = (&image.config["architecture"], &image.config["variant"]);
    assert_eq!((architecture, variant), (&json!("arm"), &json!("v7")));
}

#[test]
fn shell_is_what_run_and_cmd_use() {
    let Some(env) = with_base() else { return };
    let image = env.built(
        "FROM base\nSHELL [\"/bin/busybox\", \"sh\", \"-ec\"]\nRUN echo $0 >/shell; ps -o args >/ps\nCMD go\n",
    );
    assert!(image.text("ps").contains("/bin/busybox sh -ec"), "{}", image.text("ps"));
    assert_eq!(*image.config("Cmd"), json!(["/bin/busybox", "sh", "-ec", "go"]));
    assert_eq!(*image.config("Shell"), json!(["/bin/busybox", "sh", "-ec"]));
}

#[test]
fn run_writes_files_with_their_attributes() {
    let Some(env) = with_base() else { return };
    let image = env.built(
        "FROM base\nRUN echo hi >/plain && chmod 640 /plain && mkdir -m 2775 /group && touch /app \
         && chown app:1001 /app && chmod 4755 /app && ln /plain /hard && ln -s /x/y /soft && \
         mkfifo /fifo && : >'/an odd name ü' && touch -d @86400 /old\n",
    );
    let plain = image.file("plain");
    assert_eq!((plain.mode, plain.owner), (0o640, (0, 0)));
    assert_eq!(image.file("group").mode, 0o2775);
    let app = image.file("app");
    assert_eq!((app.mode, app.owner), (0o4755, (1000, 1001)));
    let kinds = ["hard", "plain"].map(|name| image.file(name).kind);
    let links = kinds.iter().filter(|kind| **kind == EntryType::Link).count();
    assert_eq!(links, 1, "one of the two names is a link: {kinds:?}");
    assert_eq!(image.file("soft").link.as_deref(), Some("/x/y"));
    assert_eq!(image.file("fifo").kind, EntryType::Fifo);
    assert!(image.has("an odd name ü"));
    assert_eq!(image.file("old").mtime, 86_400);
    assert_eq!(image.layers.len(), 2, "one layer for the RUN, over the base");
}

#[test]
fn run_removes_files_with_whiteouts() {
    let Some(env) = with_base() else { return };
    let image = env.built(
        "FROM base\nRUN mkdir /d && touch /d/a /d/b /f\nRUN rm /f && rm -r /d && mkdir /d && touch /d/c\n",
    );
    assert!(!image.has("f") && !image.has("d/a") && image.has("d/c"));
    assert!(image.top().contains(&".wh.f"), "{:?}", image.top());
    assert_eq!(
        env.shell(&env.id_of(&env.dockerfile("FROM base"), &[]), "ls /d 2>&1 | wc -l"),
        "1\n"
    );
}

#[test]
fn run_forms_all_start_the_same_program() {
    let Some(env) = with_base() else { return };
    let image = env.built(
        r#"FROM base
ENV X=from-env
RUN ["/bin/sh", "-c", "echo exec $X >> /log"]
RUN echo shell \
    # a comment in between
    "$X" >> /log
RUN <<EOF
echo heredoc $X >> /log
echo second >> /log
EOF
RUN cat <<-'ONE' > /one && cat <<TWO > /two
	raw $X
ONE
cooked $X
TWO
"#,
    );
    assert_eq!(image.text("log"), "exec from-env\nshell from-env\nheredoc from-env\nsecond\n");
    assert_eq!(image.text("one"), "raw $X\n");
    assert_eq!(image.text("two"), "cooked from-env\n");
}

#[test]
fn run_is_the_user_in_the_folder_with_the_arguments() {
    let Some(env) = with_base() else { return };
    let image = env.built(
        "FROM base\nARG MODE=fast\nWORKDIR /tmp/w\nUSER app\nWORKDIR /home/app\nUSER root\nRUN chown app /home/app\n\
         USER app:extra\nRUN echo \"$(id -u):$(id -g) $HOME $PWD $MODE\" >/home/app/out\n",
    );
    assert_eq!(image.text("home/app/out"), "1000:55 /home/app /home/app fast\n");
    assert_eq!(image.file("home/app/out").owner, (1000, 55));
}

#[test]
fn nothing_of_the_sandbox_enters_a_layer() {
    let Some(env) = with_base() else { return };
    let image = env.built(
        "FROM base\nRUN --mount=type=tmpfs,target=/scratch --mount=type=cache,target=/var/c \
         cat /etc/hosts /etc/resolv.conf && touch /scratch/x /var/c/y /dev/shm/z && echo done >/made\n",
    );
    let unexpected =
        ["etc/hosts", "etc/resolv.conf", "scratch/x", "var/c/y", "dev/shm/z", "proc/1"];
    for path in unexpected {
        assert!(!image.has(path), "{path}: {:?}", image.top());
    }
    assert_eq!(image.text("made"), "done\n");
}

#[test]
fn the_last_mount_on_a_path_counts() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[
        (
            "Dockerfile",
            "FROM base\nRUN --mount=type=bind,source=f,target=/m --mount=type=tmpfs,target=/m \
             test -d /m && echo folder >/kind\n\
             RUN --mount=type=tmpfs,target=/m --mount=type=bind,source=f,target=/m cat /m >>/kind\n",
        ),
        ("f", "file\n"),
    ]);
    assert_eq!(env.built_from(&context, &[]).text("kind"), "folder\nfile\n");
}

#[test]
fn copy_of_files_folders_and_patterns() {
    let Some(env) = bare() else { return };
    let context = env.context(&[
        ("Dockerfile", "FROM scratch\nCOPY one /one\nCOPY one two /both/\nCOPY tree /copied\nCOPY *.txt /texts/\nCOPY [\"with space\", \"/a b/\"]\nCOPY tree/deep/../leaf .\n"),
        ("one", "1"),
        ("two", "2"),
        ("a.txt", "a"),
        ("b.txt", "b"),
        ("with space", "s"),
        ("tree/leaf", "l"),
        ("tree/deep/er/leaf", "d"),
        ("tree/empty/", ""),
    ]);
    let image = env.built_from(&context, &[]);
    let found: Vec<String> = image.files().into_keys().collect();
    assert_eq!(
        found,
        [
            "a b",
            "a b/with space",
            "both",
            "both/one",
            "both/two",
            "copied",
            "copied/deep",
            "copied/deep/er",
            "copied/deep/er/leaf",
            "copied/empty",
            "copied/leaf",
            "leaf",
            "one",
            "texts",
            "texts/a.txt",
            "texts/b.txt",
        ]
    );
    assert_eq!(image.text("copied/deep/er/leaf"), "d");
    assert_eq!(image.file("one").owner, (0, 0), "context files belong to root");
}

#[test]
fn a_source_without_wildcards_is_a_name_with_its_backslashes() {
    let Some(env) = bare() else { return };
    let context = env.context(&[
        ("Dockerfile", "FROM scratch AS files\nCOPY . /\nFROM scratch\nCOPY --from=files q\\\\* d\\\\*/q* /o/\n"),
        ("q*", "star"),
        ("q\\*", "backslash"),
        ("d*/q1", "star"),
        ("d\\*/q2", "backslash"),
    ]);
    let image = env.built_from(&context, &[]);
    assert_eq!(image.files().into_keys().collect::<Vec<_>>(), ["o", "o/q2", "o/q\\*"]);
}

#[test]
fn copy_with_owner_mode_and_heredoc() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[
        ("Dockerfile", "FROM base\nARG V=5\nCOPY --chown=app:extra a /named\nCOPY --chown=12:34 --chmod=600 a /numbers\nCOPY --chmod=u=rwx,go=rx a /words\nCOPY --chown=app: a /colon\nCOPY <<one <<\"two\" /here/\nv$V\none\nv$V\ntwo\n"),
        ("a", "A"),
    ]);
    let image = env.built_from(&context, &[]);
    assert_eq!(image.file("named").owner, (1000, 55));
    assert_eq!(image.file("colon").owner, (1000, 0));
    let numbers = image.file("numbers");
    assert_eq!((numbers.owner, numbers.mode), ((12, 34), 0o600));
    assert_eq!(image.file("words").mode, 0o755);
    assert_eq!((image.text("here/one"), image.text("here/two")), ("v5\n".into(), "v$V\n".into()));
}

#[test]
fn copy_keeps_links_and_modes() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let Some(env) = bare() else { return };
    let context = env.context(&[("Dockerfile", "FROM scratch\nCOPY d /d\n"), ("d/run", "#!")]);
    std::fs::set_permissions(context.join("d/run"), PermissionsExt::from_mode(0o751))
        .expect("chmod");
    symlink("/nowhere/at all", context.join("d/link")).expect("a link");
    let image = env.built_from(&context, &[]);
    assert_eq!(image.file("d/run").mode, 0o751);
    assert_eq!(image.file("d/link").link.as_deref(), Some("/nowhere/at all"));
}

#[test]
fn add_unpacks_archives_and_copy_does_not() {
    let Some(env) = bare() else { return };
    let context = env.dockerfile("FROM scratch\nADD a.tar.gz /added/\nCOPY a.tar.gz /copied/\n");
    let mut tar = tar::Builder::new(Vec::new());
    crate::env::append(&mut tar, EntryType::Regular, "in/side", 0o640, b"packed");
    let gzip = flate2::write::GzEncoder::new(
        std::fs::File::create(context.join("a.tar.gz")).expect("a file"),
        flate2::Compression::fast(),
    );
    let (tar, mut gzip) = (tar.into_inner().expect("a tar"), gzip);
    std::io::Write::write_all(&mut gzip, &tar).expect("to write");
    gzip.finish().expect("to write");
    let image = env.built_from(&context, &[]);
    let inside = image.file("added/in/side");
    assert_eq!((inside.bytes.as_slice(), inside.mode), (&b"packed"[..], 0o640));
    assert!(!image.has("added/a.tar.gz") && image.has("copied/a.tar.gz"));
}

#[test]
fn onbuild_waits_for_the_next_build() {
    let Some(env) = with_base() else { return };
    let first = env.dockerfile("FROM base\nONBUILD COPY app /app\nONBUILD RUN echo made >/made\n");
    env.id_of(&first, &["-t", "parent"]);
    let parent = env.saved("parent");
    assert_eq!(*parent.config("OnBuild"), json!(["COPY app /app", "RUN echo made >/made"]));
    assert!(!parent.has("made"));
    let context = env.context(&[("Dockerfile", "FROM parent\n"), ("app", "code")]);
    let child = env.built_from(&context, &[]);
    assert_eq!((child.text("app"), child.text("made")), ("code".into(), "made\n".into()));
    assert!(child.config("OnBuild").as_array().is_none_or(Vec::is_empty), "it fires once");
}

#[test]
fn arguments_have_their_scopes() {
    let Some(env) = bare() else { return };
    let context = env.dockerfile(
        "ARG BASE=scratch\nARG V=outer\nFROM $BASE\nENV BEFORE=[$V]\nARG V\nENV AFTER=[$V]\nARG W=default\nENV W2=$W\n",
    );
    let image = env.built_from(&context, &[]);
    let values =
        ["BEFORE", "AFTER", "W2"].map(|name| image.env(name).expect("it is set").to_owned());
    assert_eq!(values, ["[]", "[outer]", "default"]);
    let image = env.built_from(&context, &["--build-arg", "V=given", "--build-arg", "W="]);
    let values =
        ["BEFORE", "AFTER", "W2"].map(|name| image.env(name).expect("it is set").to_owned());
    assert_eq!(values, ["[]", "[given]", ""]);
}

#[test]
fn the_escape_directive_and_syntax_line() {
    let Some(env) = bare() else { return };
    let image = env
        .built("# syntax=docker/dockerfile:1\n# escape=`\nFROM scratch\nENV A=one` \n B=C:\\dir\n");
    assert_eq!((image.env("A"), image.env("B")), (Some("one"), Some("C:\\dir")));
}

#[test]
fn history_tells_the_instructions() {
    let Some(env) = with_base() else { return };
    let image = env.built("FROM base\nENV A=1\nRUN echo >/x\nCMD [\"/x\"]\n");
    let history = image.config["history"].as_array().expect("a history");
    let by: Vec<&str> = history.iter().filter_map(|entry| entry["created_by"].as_str()).collect();
    let tail = by[by.len() - 3..].join("\n");
    assert!(
        tail.contains("ENV A=1") && tail.contains("echo >/x") && tail.contains("CMD"),
        "{tail}"
    );
}
