//! [`KeyAgent`]: an `ssh-agent` of the build's own, for keys that are given as files.
//!
//! The agent lives as long as a shell that reads from a pipe which mica holds open: when mica goes, in
//! whatever way, the pipe ends and the shell ends the agent.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::SshError;

/// More is no private key: as BuildKit.
const MAX_KEY_BYTES: u64 = 100 << 10;

/// What is in all files with private keys, whatever their format.
const BEGIN: &[u8] = b"PRIVATE KEY-----";

/// The name of the socket in the agent's folder. Relative, as a socket's path must be short.
const SOCKET: &str = "agent";

/// What the agent's shell does: says that the agent is there, waits for the end of mica, and leaves
/// nothing behind.
const GUARD: &str =
    r#"echo; cat >/dev/null; kill "$SSH_AGENT_PID"; rm -f agent; cd / && rmdir -- "$1""#;

/// A running agent. Dropping it ends it.
#[derive(Debug)]
pub(super) struct KeyAgent {
    socket: PathBuf,
    process: Child,
    alive: Option<ChildStdin>,
}

impl KeyAgent {
    /// Starts an agent that has the keys in these files; `ask` says whether there is a terminal.
    pub(super) fn start(keys: &[PathBuf], ask: bool) -> Result<Self, SshError> {
        let failed = |err: std::io::Error| SshError::Start { reason: err.to_string() };
        let dir = tempfile::Builder::new().prefix("mica-ssh-").tempdir().map_err(failed)?;
        let mut process = Command::new("ssh-agent")
            .args(["-a", SOCKET, "sh", "-c", GUARD, "sh"])
            .arg(dir.path())
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // An interrupt at the terminal is for mica to act on.
            .process_group(0)
            .spawn()
            .map_err(|err| missing("ssh-agent", &err))?;
        let alive = process.stdin.take();
        let ready = process.stdout.take().is_some_and(|mut out| out.read_exact(&mut [0]).is_ok());
        if !ready {
            drop(alive);
            let output = process.wait_with_output().map_err(failed)?;
            return Err(SshError::Start { reason: last_line(&output.stderr) });
        }
        // From here on the shell removes it.
        let dir = dir.keep();
        let agent = Self { socket: dir.join(SOCKET), process, alive };
        for key in keys {
            load(&dir, key, ask)?;
        }
        Ok(agent)
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        self.alive = None;
        // The shell ends with the pipe.
        drop(self.process.wait());
    }
}

/// Loads a key from standard input, where nobody asks for a passphrase and for permissions; then,
/// with somebody to ask, from its file.
fn load(dir: &Path, key: &Path, ask: bool) -> Result<(), SshError> {
    let content = read(key)?;
    let refused = |reason: String| SshError::Key { path: key.to_owned(), reason };
    if !content.windows(BEGIN.len()).any(|part| part == BEGIN) {
        return Err(refused("it holds no private key".to_owned()));
    }
    let mut add = ssh_add(dir, OsStr::new("-"));
    let mut child = add.stdin(Stdio::piped()).spawn().map_err(|e| missing("ssh-add", &e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may refuse the key before it has read all of it.
        drop(stdin.write_all(&content));
    }
    let output = child.wait_with_output().map_err(|err| refused(err.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    if ask {
        let path = std::path::absolute(key).unwrap_or_else(|_| key.to_owned());
        let mut add = ssh_add(dir, path.as_os_str());
        add.stdin(Stdio::inherit()).stderr(Stdio::inherit());
        if add.status().is_ok_and(|status| status.success()) {
            return Ok(());
        }
    }
    let reason = last_line(&output.stderr);
    if reason.contains("passphrase") {
        return Err(SshError::Passphrase(key.to_owned()));
    }
    Err(refused(reason))
}

fn ssh_add(dir: &Path, key: &OsStr) -> Command {
    let mut command = Command::new("ssh-add");
    command
        .arg("-q")
        .arg(key)
        .current_dir(dir)
        .env("SSH_AUTH_SOCK", SOCKET)
        .env("SSH_ASKPASS_REQUIRE", "never")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn read(key: &Path) -> Result<Vec<u8>, SshError> {
    let failed = |source| SshError::Path { path: key.to_owned(), source };
    let mut content = Vec::new();
    let file = File::open(key).map_err(failed)?;
    file.take(MAX_KEY_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > MAX_KEY_BYTES {
        return Err(SshError::TooLarge(key.to_owned()));
    }
    Ok(content)
}

fn missing(program: &'static str, err: &std::io::Error) -> SshError {
    match err.kind() {
        std::io::ErrorKind::NotFound => SshError::NoProgram { program },
        _ => SshError::Start { reason: err.to_string() },
    }
}

fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it gave no reason").to_owned()
}
