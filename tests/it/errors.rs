//! What cannot be built: one message that says why, the right exit status, and a store that the next
//! build works in. What is wrong with a Dockerfile itself is in `testdata/builds/err`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::env::{Ran, TestEnv, is_root, plain_user, root_only, skip, with_base, write};

/// A build that fails with this exit status. Returns all it said, filtered; the next build works.
#[track_caller]
fn fails(env: &TestEnv, context: &Path, args: &[&str], code: i32) -> String {
    said(env, &env.build(context, args), code)
}

/// The same for a Dockerfile alone.
#[track_caller]
fn refused(dockerfile: &str, code: i32) -> Option<String> {
    let env = with_base()?;
    let context = env.context(&[("Dockerfile", dockerfile), ("file", "text")]);
    Some(fails(&env, &context, &["--progress", "quiet"], code))
}

#[track_caller]
fn said(env: &TestEnv, ran: &Ran, code: i32) -> String {
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{}", ran.stderr);
    let errors = ran.stderr.lines().filter(|line| line.starts_with("error"));
    assert_eq!(errors.count(), 1, "{}", ran.stderr);
    for bad in ["panicked", "RUST_BACKTRACE", "Os {"] {
        assert!(!ran.stderr.contains(bad), "{}", ran.stderr);
    }
    works(env);
    env.filter(&ran.stderr)
}

/// Nothing of the failure is in the way, and nothing of it is left.
#[track_caller]
fn works(env: &TestEnv) {
    let next = env.built("FROM base\nRUN echo it works >/next\n");
    assert_eq!(next.text("next"), "it works\n");
    let names = env.mica(["images", "-q", "--no-trunc", "failed"]).success();
    assert_eq!(names, "", "an image that was not built has no name");
    let left: Vec<_> = fs::read_dir(env.store().join("v1/tmp")).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn missing_file() {
    let Some(said) = refused("FROM base\nCOPY fiel /\n", 1) else { return };
    insta::assert_snapshot!(said, @r"
    error: `/fiel` is not found in the build context
     --> Dockerfile:2:1
      |
    2 | COPY fiel /
      | ^^^^^^^^^^^
    hint: paths are relative to the build context, or to the stage
    ");
}

#[test]
fn missing_file_of_a_stage() {
    let Some(said) = refused("FROM base AS a\nFROM base\nCOPY --from=a /none /\n", 1) else {
        return;
    };
    insta::assert_snapshot!(said, @r"
    error: `/none` is not found in the stage
     --> Dockerfile:3:1
      |
    3 | COPY --from=a /none /
      | ^^^^^^^^^^^^^^^^^^^^^
    hint: paths are relative to the build context, or to the stage
    ");
}

#[test]
fn a_folder_onto_a_file() {
    let Some(said) = refused("FROM base\nCOPY . /etc/passwd\n", 1) else { return };
    insta::assert_snapshot!(said, @r"
    error: cannot copy a directory to the non-directory `etc/passwd`
     --> Dockerfile:2:1
      |
    2 | COPY . /etc/passwd
      | ^^^^^^^^^^^^^^^^^^
    ");
}

#[test]
fn failing_run() {
    let Some(said) = refused("FROM base\nRUN echo the reason >&2 && \\\n    exit 3\n", 1) else {
        return;
    };
    insta::assert_snapshot!(said, @r"
    > the reason
    error: `[2/2] RUN echo the reason >&2 && exit 3` failed: exit status 3
     --> Dockerfile:2:1
      |
    2 | RUN echo the reason >&2 && \
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    ");
}

#[test]
fn run_killed_by_a_signal() {
    let Some(said) =
        refused("FROM base\nRUN [\"/bin/sh\", \"-c\", \"sh -c 'kill -9 $$'; exit 137\"]\n", 1)
    else {
        return;
    };
    insta::assert_snapshot!(said, @r#"
    > Killed
    error: `[2/2] RUN ["/bin/sh", "-c", "sh -c 'kill -9 $$'; exit 137"]` failed: exit status 137
     --> Dockerfile:2:1
      |
    2 | RUN ["/bin/sh", "-c", "sh -c 'kill -9 $$'; exit 137"]
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    "#);
}

#[test]
fn command_not_found() {
    let Some(said) = refused("FROM base\nRUN mkae all\n", 1) else { return };
    insta::assert_snapshot!(said, @r"
    > /bin/sh: mkae: not found
    error: `[2/2] RUN mkae all` failed: exit status 127
     --> Dockerfile:2:1
      |
    2 | RUN mkae all
      | ^^^^^^^^^^^^
    ");
}

#[test]
fn program_not_found() {
    let Some(said) = refused("FROM base\nRUN [\"/usr/bin/mkae\", \"all\"]\n", 1) else { return };
    insta::assert_snapshot!(said, @r#"
    > exec: "/usr/bin/mkae": no such file or directory
    error: `[2/2] RUN ["/usr/bin/mkae", "all"]` failed: exit status 127
     --> Dockerfile:2:1
      |
    2 | RUN ["/usr/bin/mkae", "all"]
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    "#);
}

#[test]
fn no_shell_in_the_image() {
    let Some(said) = refused("FROM scratch\nRUN make\n", 1) else { return };
    insta::assert_snapshot!(said, @r#"
    > exec: "/bin/sh": no such file or directory
    error: `[2/2] RUN make` failed: exit status 127
     --> Dockerfile:2:1
      |
    2 | RUN make
      | ^^^^^^^^
    "#);
}

#[test]
fn unknown_user() {
    let Some(said) = refused("FROM base\nUSER nobody-knows\nRUN id\n", 1) else { return };
    insta::assert_snapshot!(said, @r"
    error: cannot run `[2/2] RUN id`: unable to find user nobody-knows: no matching entries in passwd file
     --> Dockerfile:3:1
      |
    3 | RUN id
      | ^^^^^^
    ");
}

#[test]
fn user_without_a_file_to_find_them_in() {
    let dockerfile =
        "FROM base AS tools\nFROM scratch\nCOPY --from=tools /bin /bin\nUSER 5\nRUN id\n";
    let Some(said) = refused(dockerfile, 1) else { return };
    insta::assert_snapshot!(said, @r"
    error: cannot run `[stage-1 3/3] RUN id`: unable to find user 5: there is no /etc/passwd
     --> Dockerfile:5:1
      |
    5 | RUN id
      | ^^^^^^
    ");
}

#[test]
fn secret_that_was_not_given() {
    let Some(said) =
        refused("FROM base\nRUN --mount=type=secret,id=key,required cat /run/secrets/key\n", 1)
    else {
        return;
    };
    insta::assert_snapshot!(said, @r"
    error: the secret `key` is required and was not given
     --> Dockerfile:2:1
      |
    2 | RUN --mount=type=secret,id=key,required cat /run/secrets/key
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: give it with `--secret id=key,src=FILE`
    ");
}

#[test]
fn ignored_source() {
    let Some(env) = with_base() else { return };
    let context = env.context(&[
        ("Dockerfile", "FROM base\nCOPY file /\n"),
        ("file", ""),
        (".dockerignore", "f*\n"),
    ]);
    insta::assert_snapshot!(fails(&env, &context, &[], 1), @r"
    error: `/file` is not found in the build context
     --> Dockerfile:2:1
      |
    2 | COPY file /
      | ^^^^^^^^^^^
    hint: a `.dockerignore` pattern hides it
    ");
}

#[test]
fn flags_that_make_no_sense() {
    let Some(env) = with_base() else { return };
    let context = env.dockerfile("FROM base\n");
    let cases: [&[&str]; 9] = [
        &["--build-arg", "SOURCE_DATE_EPOCH=soon"],
        &["--source-date-epoch", "-99999999999999"],
        &["-t", "Not A Name"],
        &["--platform", "a/b/c/d"],
        &["--secret", "src=/x"],
        &["--add-host", "no-address"],
        &["--ulimit", "nope=1"],
        &["--shm-size", "big"],
        &["--no-such-flag"],
    ];
    let said: Vec<String> = cases.iter().map(|args| fails(&env, &context, args, 2)).collect();
    insta::assert_snapshot!(said.join("\n\n"), @r"
    error: SOURCE_DATE_EPOCH is `soon`, not a number of seconds since 1970, nor `context`

    error: unexpected argument '-9' found

      tip: to pass '-9' as a value, use '-- -9'

    Usage: mica build [OPTIONS] <PATH|URL|->

    For more information, try '--help'.

    error: invalid reference format: repository name of `Not A Name` must be lowercase

    error: `a/b/c/d` is not a platform

    error: `--secret`: it has no id

    error: `--add-host no-address`: write it as HOST:IP or HOST=IP

    error: `--ulimit nope=1`: write it like nofile=1024:2048, the second not below the first

    error: `big` is no size: write it like 64m

    error: unexpected argument '--no-such-flag' found

      tip: a similar argument exists: '--no-cache-filter'

    Usage: mica build --no-cache-filter <STAGE[,STAGE]> <PATH|URL|->

    For more information, try '--help'.
    ");
}

#[test]
fn contexts_that_are_none() {
    let Some(env) = with_base() else { return };
    let none = env.path("contexts/none");
    let file = env.context(&[("file", "")]).join("file");
    let empty = env.context(&[]);
    let said = [
        fails(&env, &none, &[], 1),
        fails(&env, &file, &[], 1),
        fails(&env, &empty, &[], 1).replace(empty.to_str().expect("UTF-8"), "[empty]"),
        fails(&env, Path::new("svn://example.invalid/repository"), &[], 2),
    ];
    let said = said.map(|said| {
        let name = |path: &Path| {
            path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned()
        };
        said.replace(&name(file.parent().expect("a folder")), "[context]")
            .replace(&name(&empty), "[empty]")
    });
    insta::assert_snapshot!(said.join("\n\n"), @r"
    error: cannot open the folder `[dir]/contexts/none`: No such file or directory (os error 2)

    error: cannot open the folder `[dir]/contexts/[context]/file`: Not a directory (os error 20)

    error: no Dockerfile at `[dir]/contexts/[empty]/Dockerfile`
    hint: name it with `--file PATH`

    error: build context `svn://example.invalid/repository`: give a folder, an http(s) URL or a git repository
    ");
}

#[test]
fn a_dockerfile_that_is_no_file() {
    let Some(env) = with_base() else { return };
    let folder = env.context(&[("Dockerfile/", "")]);
    let pipe = env.context(&[]);
    nix::unistd::mkfifo(&pipe.join("Dockerfile"), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    env.give(&pipe);
    let named = pipe.join("Dockerfile");
    let said = [
        fails(&env, &folder, &[], 1),
        fails(&env, &pipe, &[], 1),
        fails(&env, &pipe, &["-f", named.to_str().expect("UTF-8")], 1),
        fails(&env, &pipe, &["-f", "nowhere"], 1),
    ];
    let name = pipe.file_name().and_then(|name| name.to_str()).expect("UTF-8");
    insta::assert_snapshot!(said.join("\n\n").replace(name, "[context]"), @r"
    error: `Dockerfile` is a directory, not a file

    error: `Dockerfile` is a named pipe, not a file

    error: cannot read `[dir]/contexts/[context]/Dockerfile`: it is no regular file

    error: no Dockerfile at `nowhere`
    hint: name it with `--file PATH`
    ");
}

#[test]
fn a_dockerfile_of_anything() {
    let Some(env) = with_base() else { return };
    for bytes in [&b"\xff\xfeF\0R\0O\0M\0"[..], b"\0\0\0\0", b"\x7fELF\x02\x01\x01", b"{\"a\":1}"] {
        let context = env.dockerfile("");
        fs::write(context.join("Dockerfile"), bytes).expect("to write");
        fails(&env, &context, &[], 2);
    }
}

/// Files of somebody else's: what is the user's own can be read whatever its mode.
#[test]
fn files_that_may_not_be_read() {
    if !is_root() {
        return skip("needs root, which can own files that a plain user may not read");
    }
    let Some(env) = plain_user() else { return };
    for kind in ["file", "folder"] {
        let context = env.dockerfile("FROM base\nCOPY . /all/\n");
        let path = context.join("closed");
        let made = if kind == "file" { fs::write(&path, "x") } else { fs::create_dir(&path) };
        made.expect("to make it");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).expect("chmod");
        let said = fails(&env, &context, &["--progress", "quiet"], 1);
        if kind == "file" {
            insta::assert_snapshot!(said, @r"
            error: cannot read `closed`: Permission denied (os error 13)
             --> Dockerfile:2:1
              |
            2 | COPY . /all/
              | ^^^^^^^^^^^^
            ");
        } else {
            insta::assert_snapshot!(said, @r"
            error: cannot list `closed`: Permission denied (os error 13)
             --> Dockerfile:2:1
              |
            2 | COPY . /all/
              | ^^^^^^^^^^^^
            ");
        }
        write(&context, ".dockerignore", "closed\n");
        assert_eq!(env.build(&context, &[]).code, Some(0), "it can be ignored");
    }
}

#[test]
fn a_store_that_may_not_be_written_to() {
    let Some(env) = plain_user() else { return };
    for store in ["/proc/store", "/dev/null/store"] {
        let mut command = env.command_in(Path::new(store), ["images"]);
        let said = said(&env, &Ran::of(&mut command), 1);
        assert!(said.starts_with("error: cannot "), "{said}");
    }
    if !is_root() {
        return skip("the rest needs root, which can own folders that a plain user may not change");
    }
    let closed = env.path("home/closed");
    fs::create_dir(&closed).expect("a folder");
    let mut command = env.command_in(&closed.join("store"), ["images"]);
    insta::assert_snapshot!(said(&env, &Ran::of(&mut command), 1), @r"
    error: cannot make the folder [dir]/home/closed/store/v1/blobs/sha256: Permission denied (os error 13)
    hint: choose another folder with `--root DIR`
    ");
}

/// Runs a script that makes mounts of its own, with `$mica` and `$store`.
fn in_mounts(env: &TestEnv, script: &str) -> Ran {
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-ec", script]).env("mica", env!("CARGO_BIN_EXE_mica"));
    command.env("store", env.store()).env("home", env.path("home"));
    Ran::of(command.current_dir(env.path("contexts")))
}

#[test]
fn a_read_only_store() {
    let Some(env) = root_only() else { return };
    let context = env.dockerfile("FROM base\nRUN echo >/x\n");
    let script = format!(
        "mount --bind $store $store; mount -o remount,ro,bind $store; exec $mica --root $store build {}",
        context.display()
    );
    let ran = in_mounts(&env, &script);
    insta::assert_snapshot!(said(&env, &ran, 1), @r"
    error: cannot open [dir]/store/v1/locks/gc: Read-only file system (os error 30)
    hint: the store is read-only
    ");
}

#[test]
fn a_full_disk() {
    let Some(env) = root_only() else { return };
    let archive = env.path("home/base.tar");
    env.mica(["save", "-o", archive.to_str().expect("UTF-8"), "base"]).success();
    let run = env.dockerfile("FROM base\nRUN head -c 20000000 /dev/zero >/big\n");
    let copy = env.dockerfile("FROM base\nCOPY big /\n");
    fs::write(copy.join("big"), vec![1; 20_000_000]).expect("to write");
    let small = env.dockerfile("FROM base\nRUN echo 1 >/x\n");
    let [run, copy, small] = [&run, &copy, &small].map(|path| path.display());
    let script = format!(
        "mkdir $home/small; mount -t tmpfs -o size=12m none $home/small; cd $home/small
        mica=\"$mica --root $home/small/store\"
        $mica load -qi {archive} >&2
        for context in {run} {copy}; do
            if $mica build --progress quiet -t failed $context; then exit 9; fi
            $mica build -q $context && exit 9
            [ $(ls -A store/v1/tmp | wc -l) = 0 ] || exit 8
            $mica build -q {small} >/dev/null
            $mica system check
        done",
        archive = archive.display(),
    );
    let ran = in_mounts(&env, &script);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    insta::assert_snapshot!(env.filter(&ran.stderr), @r"
    base:latest
    > head: standard output: I/O error
    error: `[2/2] RUN head -c 20000000 /dev/zero >/big` failed: exit status 1
     --> Dockerfile:2:1
      |
    2 | RUN head -c 20000000 /dev/zero >/big
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    > head: standard output: I/O error
    error: `[2/2] RUN head -c 20000000 /dev/zero >/big` failed: exit status 1
     --> Dockerfile:2:1
      |
    2 | RUN head -c 20000000 /dev/zero >/big
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    all is well
    error: cannot write the new layer: No space left on device (os error 28)
     --> Dockerfile:2:1
      |
    2 | COPY big /
      | ^^^^^^^^^^
    hint: free some space, with `mica system prune` for example
    error: cannot write the new layer: No space left on device (os error 28)
     --> Dockerfile:2:1
      |
    2 | COPY big /
      | ^^^^^^^^^^
    hint: free some space, with `mica system prune` for example
    all is well
    ");
}
