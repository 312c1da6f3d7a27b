//! `RUN --mount=type=ssh`: an agent's keys sign in a step, and nothing else of it is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::env::{TestEnv, plain_user, skip, with_base};

/// Programs that a step has to be given to talk to an agent.
const CLIENTS: [&str; 2] = ["ssh-add", "ssh-keygen"];

/// Signs and lists by the agent, and then tries all that is not for a step to do.
const USE_AGENT: &str = "\
FROM base
COPY client /client
COPY key.pub /
RUN --mount=type=ssh,required set -e; \
    add() { /client/run /client/ssh-add \"$@\"; }; \
    add -l | awk '{print $3}'; \
    echo hello >/msg; /client/run /client/ssh-keygen -q -Y sign -f /key.pub -n mica /msg; \
    for flag in -D -x; do if add $flag </dev/null >/dev/null 2>&1; then echo \"$flag passed\"; fi; done; \
    add -l >/dev/null
RUN test ! -e /run/buildkit && test -z \"$SSH_AUTH_SOCK\"
";

/// A context with a key, its clients and that Dockerfile; nothing where OpenSSH is missing.
fn context(env: &TestEnv, dockerfile: &str) -> Option<PathBuf> {
    let context = env.context(&[("Dockerfile", dockerfile), (".dockerignore", "key\nlocked")]);
    for (name, passphrase) in [("key", ""), ("locked", "no secret")] {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-C", name, "-N", passphrase, "-f"])
            .arg(context.join(name))
            .status();
        if !made.is_ok_and(|status| status.success()) {
            skip("no ssh-keygen: install openssh-client");
            return None;
        }
    }
    copy_clients(&context.join("client"));
    env.give(&context);
    Some(context)
}

/// Copies the clients with their libraries, and a script that runs them with these.
fn copy_clients(dir: &Path) {
    fs::create_dir(dir).expect("a directory");
    let mut loader = String::new();
    for client in CLIENTS {
        let program = Path::new("/usr/bin").join(client);
        fs::copy(&program, dir.join(client)).expect("to copy a client");
        let libraries = Command::new("ldd").arg(&program).output().expect("ldd").stdout;
        let libraries = String::from_utf8(libraries).expect("UTF-8");
        for path in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let name = Path::new(path).file_name().expect("a name").to_str().expect("UTF-8");
            fs::copy(path, dir.join(name)).expect("to copy a library");
            if name.starts_with("ld-") {
                name.clone_into(&mut loader);
            }
        }
    }
    let script = format!("#!/bin/sh\nexec /client/{loader} --library-path /client \"$@\"\n");
    fs::write(dir.join("run"), script).expect("to write a file");
    fs::set_permissions(dir.join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("chmod");
}

/// A running agent with a key.
struct Agent(Child);

impl Agent {
    fn start(socket: &Path, key: &Path) -> Self {
        let mut agent = Command::new("ssh-agent");
        agent.args(["-D", "-a"]).arg(socket).stdout(Stdio::null()).stderr(Stdio::null());
        let agent = Self(agent.spawn().expect("to start ssh-agent"));
        let add = || {
            let add =
                Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", socket).output();
            add.expect("to run ssh-add").status.success()
        };
        // The socket is there before somebody answers at it.
        let answered = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            add()
        });
        assert!(answered, "the agent does not answer");
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What was signed in a step is verified outside with the key's other half.
fn verify(context: &Path, signature: &str) {
    let public = fs::read_to_string(context.join("key.pub")).expect("a key");
    let (signers, file) = (context.join("signers"), context.join("sig"));
    fs::write(&signers, format!("me {public}")).expect("to write");
    fs::write(&file, signature).expect("to write");
    let mut verify = Command::new("ssh-keygen");
    verify.args(["-Y", "verify", "-I", "me", "-n", "mica", "-f"]).arg(&signers);
    verify.arg("-s").arg(&file).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut verify = verify.spawn().expect("to start ssh-keygen");
    std::io::Write::write_all(&mut verify.stdin.take().expect("a pipe"), b"hello\n")
        .expect("write");
    let verified = verify.wait_with_output().expect("to wait");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

fn signs_with_a_key_of_a_file(env: &TestEnv) {
    let Some(context) = context(env, USE_AGENT) else { return };
    let ran =
        env.build(&context, &["--ssh", &format!("default={}", context.join("key").display())]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains(" key\n") && !ran.stderr.contains("-D passed"), "{}", ran.stderr);
    let left: Vec<_> = fs::read_dir(env.path("tmp")).expect("to list").collect();
    assert!(left.is_empty(), "{left:?}");
    let id = ran.stderr.lines().find_map(|line| line.strip_prefix("built ")).expect("an ID");
    let image = env.saved(id);
    verify(&context, &image.text("msg.sig"));
    assert!(!image.has("run"), "the socket's folders are not in a layer");
}

#[test]
fn a_key_of_a_file_signs() {
    if let Some(env) = with_base() {
        signs_with_a_key_of_a_file(&env);
    }
}

#[test]
fn a_key_of_a_file_signs_for_a_plain_user() {
    if let Some(env) = plain_user() {
        signs_with_a_key_of_a_file(&env);
    }
}

#[test]
fn a_running_agent_signs_and_its_path_is_nowhere() {
    let Some(env) = with_base() else { return };
    let Some(context) = context(&env, USE_AGENT) else { return };
    let socket = env.path("tmp").join("a-path-that-nobody-is-told");
    let _agent = Agent::start(&socket, &context.join("key"));
    let mut build =
        env.command([std::ffi::OsStr::new("build"), "--ssh=default".as_ref(), context.as_ref()]);
    let ran = crate::env::Ran::of(build.env("SSH_AUTH_SOCK", &socket));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!ran.stderr.contains("nobody-is-told"), "{}", ran.stderr);
    crate::secrets::assert_nowhere(&env, b"nobody-is-told");
    // Another agent makes the same step.
    let key = format!("default={}", context.join("key").display());
    let again = env.build(&context, &["--ssh", &key]);
    assert!(!again.stderr.contains("DONE") && again.stderr.contains("CACHED"), "{}", again.stderr);
}

#[test]
fn sockets_are_as_the_mount_says() {
    let Some(env) = with_base() else { return };
    let dockerfile = "\
FROM base
RUN --network=none --mount=type=ssh --mount=type=ssh,id=b,mode=0666,uid=1000,gid=5,target=/a/b \
    --mount=type=ssh,id=none,target=/not/there --mount=type=ssh,id=b \
    ls -ln /run/buildkit /a/b | awk '/^s/ {print $1, $3, $4, $NF}' >/log; echo $SSH_AUTH_SOCK >>/log; \
    ! test -e /not
ENV SSH_AUTH_SOCK=/own
RUN --mount=type=ssh,target=/x echo $SSH_AUTH_SOCK >>/log
RUN ! test -e /a && ! test -e /run/buildkit
";
    let Some(context) = context(&env, dockerfile) else { return };
    let key = context.join("key").display().to_string();
    let args = [format!("--ssh=default={key}"), format!("--ssh=b={key},{key}")];
    let image = env.built_from(&context, &[&args[0], &args[1]]);
    insta::assert_snapshot!(image.text("log"), @r"
    srw-rw-rw- 1000 5 /a/b
    srw------- 0 0 ssh_agent.0
    srw------- 0 0 ssh_agent.3
    /run/buildkit/ssh_agent.0
    /own
    ");
}

#[test]
fn what_is_missing_is_told() {
    let Some(env) = with_base() else { return };
    let Some(context) = context(&env, "FROM base\nRUN --mount=type=ssh,id=deploy,required true\n")
    else {
        return;
    };
    let error = |args: &[&str]| {
        let ran = env.build(&context, args);
        let from = ran.stderr.find("error:").expect("an error");
        let text = ran.stderr[from..].replace(&*context.to_string_lossy(), "[context]");
        format!("{text}exit {}", ran.code.expect("a code"))
    };
    insta::assert_snapshot!(error(&[]), @r"
    error: the ssh agent `deploy` is required and was not given
     --> Dockerfile:2:1
      |
    2 | RUN --mount=type=ssh,id=deploy,required true
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: give it with `--ssh deploy`
    exit 1
    ");
    insta::assert_snapshot!(error(&["--ssh", "deploy"]), @r"
    error: `--ssh deploy`: no agent is running: SSH_AUTH_SOCK is not set
    exit 2
    ");
    insta::assert_snapshot!(error(&["--ssh", "deploy=/nowhere"]), @r"
    error: `--ssh`: cannot use `/nowhere` for ssh: No such file or directory (os error 2)
    exit 1
    ");
    let locked = format!("deploy={}", context.join("locked").display());
    insta::assert_snapshot!(error(&["--ssh", &locked]), @r"
    error: `--ssh`: the key `[context]/locked` has a passphrase, and there is no terminal to ask for it
    hint: give it to a running agent with `ssh-add`, and name that with `--ssh ID=SOCKET`
    exit 1
    ");
    let wrong = format!("deploy={}", context.join("Dockerfile").display());
    insta::assert_snapshot!(error(&["--ssh", &wrong]), @r"
    error: `--ssh`: cannot load the key `[context]/Dockerfile`: it holds no private key
    exit 1
    ");
}
