//! Running `git`: with nothing of the user's or the machine's configuration, no prompts, no hooks, and
//! only the protocols that it is to speak.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::FetchError;
use crate::http::Cancelled;

/// What we read of an output at most; what is behind it is thrown away.
const MAX_OUTPUT_BYTES: u64 = 16 << 20;
/// How much of what `git` complains about is shown, in lines.
const SHOWN_LINES: usize = 3;
/// How often we look whether `git` has ended.
const POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Whom `git` may talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocols {
    /// Servers.
    Remote,
    /// Repositories on this machine, which are our own.
    Local,
}

/// A way of running `git`.
#[derive(Clone)]
pub(super) struct Git<'a> {
    /// The repository, without a password.
    pub(super) remote: &'a str,
    /// An empty folder, where `git` looks for configuration and templates.
    pub(super) home: PathBuf,
    /// Where the keys of SSH servers are kept that were seen.
    pub(super) known_hosts: PathBuf,
    /// A URL and the value of the `Authorization` header that is sent to what lies below it.
    pub(super) authorization: Option<(String, String)>,
    pub(super) cancelled: &'a Cancelled,
}

/// How `git` ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

impl Git<'_> {
    /// Runs `git`; it has to succeed.
    pub(super) fn run(
        &self,
        action: &'static str,
        protocols: Protocols,
        args: &[&OsStr],
    ) -> Result<Vec<u8>, FetchError> {
        let ended = self.try_run(protocols, args)?;
        if ended.status.success() { Ok(ended.stdout) } else { Err(self.failed(action, &ended)) }
    }

    /// An error of what `git` says.
    pub(super) fn failed(&self, action: &'static str, ended: &Ended) -> FetchError {
        let lines = ended.stderr.lines().map(str::trim).filter(|line| !line.is_empty());
        let told: Vec<&str> = lines
            .filter(|line| {
                ["fatal:", "error:", "remote:", "ssh:"].iter().any(|p| line.starts_with(p))
            })
            .collect();
        let last = &told[told.len().saturating_sub(SHOWN_LINES)..];
        let reason = match last {
            [] => format!("git ended with {}", ended.status),
            lines => lines.join("; "),
        };
        FetchError::Git { action, remote: self.remote.to_owned(), reason }
    }

    /// Runs `git` and tells how it ended.
    pub(super) fn try_run(
        &self,
        protocols: Protocols,
        args: &[&OsStr],
    ) -> Result<Ended, FetchError> {
        let mut command = Command::new("git");
        command
            .args(args)
            .env_clear()
            .envs(self.environment(protocols))
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().map_err(FetchError::NoGit)?;
        let stdout = reader(child.stdout.take());
        let stderr = reader(child.stderr.take());
        let status = self.wait(&mut child);
        let (stdout, stderr) = (join(stdout), join(stderr));
        let status = status?;
        Ok(Ended { status, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
    }

    fn wait(&self, child: &mut Child) -> Result<ExitStatus, FetchError> {
        let failed = |err| FetchError::io("wait for", Path::new("git"))(err);
        let mut pause = POLL.0;
        loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                return Ok(status);
            }
            if self.cancelled.is() {
                // Its helpers are in its process group.
                let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
                let _killed = group.map(|group| {
                    rustix::process::kill_process_group(group, rustix::process::Signal::KILL)
                });
                child.wait().map_err(failed)?;
                return Err(FetchError::Cancelled);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(POLL.1);
        }
    }

    fn environment(&self, protocols: Protocols) -> Vec<(OsString, OsString)> {
        let mut variables: Vec<(OsString, OsString)> = Vec::new();
        let mut set = |name: &str, value: &OsStr| variables.push((name.into(), value.into()));
        let null = OsStr::new("/dev/null");
        set("HOME", self.home.as_os_str());
        set("GIT_TEMPLATE_DIR", self.home.as_os_str());
        for name in ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"] {
            set(name, null);
        }
        for name in ["GIT_CONFIG_NOSYSTEM", "GIT_ATTR_NOSYSTEM"] {
            set(name, "1".as_ref());
        }
        set("GIT_TERMINAL_PROMPT", "0".as_ref());
        set("LC_ALL", "C".as_ref());
        set(
            "GIT_ALLOW_PROTOCOL",
            match protocols {
                Protocols::Remote => "http:https:git:ssh".as_ref(),
                Protocols::Local => "file".as_ref(),
            },
        );
        set("GIT_SSH_COMMAND", self.ssh().as_ref());
        for (name, from) in
            [("GIT_SSL_CAINFO", "SSL_CERT_FILE"), ("GIT_SSL_CAPATH", "SSL_CERT_DIR")]
        {
            if let Some(value) = std::env::var_os(from) {
                set(name, &value);
            }
        }
        let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
        let lower = proxies.map(str::to_lowercase);
        let kept = proxies.into_iter().chain(lower.iter().map(String::as_str));
        for name in kept.chain(["PATH", "SSH_AUTH_SOCK"]) {
            if let Some(value) = std::env::var_os(name) {
                set(name, &value);
            }
        }
        let config = self.config();
        set("GIT_CONFIG_COUNT", config.len().to_string().as_ref());
        for (number, (key, value)) in config.iter().enumerate() {
            set(&format!("GIT_CONFIG_KEY_{number}"), key.as_ref());
            set(&format!("GIT_CONFIG_VALUE_{number}"), value.as_ref());
        }
        variables
    }

    /// Through the environment, since arguments can be seen by everybody.
    fn config(&self) -> Vec<(String, &str)> {
        let fixed = [
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("core.autocrlf", "false"),
            ("safe.directory", "*"),
            ("init.defaultBranch", "master"),
            ("advice.detachedHead", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            // A server that sends nothing for a minute has died.
            ("http.lowSpeedLimit", "1"),
            ("http.lowSpeedTime", "60"),
        ];
        let mut config: Vec<_> = fixed.map(|(key, value)| (key.to_owned(), value)).to_vec();
        if let Some((scope, value)) = &self.authorization {
            config.push((format!("http.{scope}.extraHeader"), value));
        }
        config
    }

    /// SSH with the agent's keys alone. A server that was never seen is believed, and remembered.
    fn ssh(&self) -> String {
        let mut files = vec![self.known_hosts.clone()];
        // In a user namespace of our own, ssh would take somebody else's home for ours.
        files.extend(std::env::home_dir().map(|home| home.join(".ssh/known_hosts")));
        let quoted: Vec<String> = files
            .iter()
            .filter_map(|file| file.to_str())
            .filter(|file| !file.contains(['\'', '"', ' ', '\\', '%', '\n']))
            .map(str::to_owned)
            .collect();
        format!(
            "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=20 \
             -o StrictHostKeyChecking=accept-new -o 'UserKnownHostsFile={}'",
            quoted.join(" ")
        )
    }
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> Option<JoinHandle<Vec<u8>>> {
    let mut pipe = pipe?;
    Some(thread::spawn(move || {
        let mut bytes = Vec::new();
        // What cannot be read is not there; git's status tells whether it mattered.
        drop((&mut pipe).take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes));
        drop(io::copy(&mut pipe, &mut io::sink()));
        bytes
    }))
}

fn join(reader: Option<JoinHandle<Vec<u8>>>) -> Vec<u8> {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}
