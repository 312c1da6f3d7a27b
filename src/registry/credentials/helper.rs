//! Credential helpers: programs called `docker-credential-NAME` that keep secrets.
//!
//! A helper is told what to do by its one argument, `get`, `store` or `erase`, and about whom by its
//! standard input; so no secret is ever an argument.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::{Credential, CredentialError, TOKEN_USER};

/// Long enough for somebody to type a passphrase.
const TIME_LIMIT: Duration = Duration::from_mins(1);
/// More than any secret has.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// What a helper says that knows nothing of a server.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// A helper by its name.
pub(super) struct Helper {
    pub(super) program: String,
    pub(super) time_limit: Duration,
}

/// What `get` answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Helper {
    /// The helper `docker-credential-NAME`. The name is nothing but a name, never a path.
    pub(super) fn new(name: &str) -> Result<Self, CredentialError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > 100 || !name.bytes().all(plain) {
            return Err(CredentialError::HelperName(name.chars().take(100).collect()));
        }
        Ok(Self { program: format!("docker-credential-{name}"), time_limit: TIME_LIMIT })
    }

    pub(super) fn get(&self, server: &str) -> Result<Option<Credential>, CredentialError> {
        let (status, output) = self.run("get", server.as_bytes())?;
        if !status.success() {
            let said = String::from_utf8_lossy(&output);
            return if said.trim() == NOT_FOUND { Ok(None) } else { Err(self.failed(&said)) };
        }
        // The reader's own words may quote the secret.
        let answer: Answer =
            serde_json::from_slice(&output).map_err(|_| self.failed("its answer is not JSON"))?;
        let Answer { username: user, secret } = answer;
        Ok(match (user.as_str(), secret.as_str()) {
            (_, "") => None,
            (TOKEN_USER, _) => Some(Credential::IdentityToken(secret)),
            _ => Some(Credential::Basic { user, password: secret }),
        })
    }

    pub(super) fn store(
        &self,
        server: &str,
        user: &str,
        secret: &str,
    ) -> Result<(), CredentialError> {
        let input = json!({ "ServerURL": server, "Username": user, "Secret": secret }).to_string();
        match self.run("store", input.as_bytes())? {
            (status, _) if status.success() => Ok(()),
            // What it says could be what it was told.
            (status, _) => Err(self.failed(&format!("it did not store anything ({status})"))),
        }
    }

    pub(super) fn erase(&self, server: &str) -> Result<(), CredentialError> {
        let (status, output) = self.run("erase", server.as_bytes())?;
        let said = String::from_utf8_lossy(&output);
        if status.success() || said.trim() == NOT_FOUND { Ok(()) } else { Err(self.failed(&said)) }
    }

    /// Runs the helper to its end; gives what it wrote to its standard output.
    fn run(&self, action: &str, input: &[u8]) -> Result<(ExitStatus, Vec<u8>), CredentialError> {
        let started = Command::new(&self.program)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = started
            .map_err(|source| CredentialError::Start { helper: self.program.clone(), source })?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let input = input.to_vec();
        // Not scoped: a helper's own child can keep the pipes open for ever.
        thread::spawn(move || drop(stdin.map(|mut pipe| pipe.write_all(&input))));
        let (sender, answer) = mpsc::channel();
        thread::spawn(move || {
            let mut output = Vec::new();
            let read = stdout.map(|pipe| pipe.take(MAX_ANSWER_BYTES).read_to_end(&mut output));
            drop(sender.send(read.transpose().map(|_| output)));
        });
        let answer = answer.recv_timeout(self.time_limit);
        let end = Instant::now() + Duration::from_secs(1);
        let status = match &answer {
            Ok(_) => wait(&mut child, end),
            Err(_) => None,
        };
        if status.is_none() {
            drop(child.kill());
            drop(child.wait());
        }
        match (status, answer) {
            (Some(status), Ok(Ok(output))) => Ok((status, output)),
            (_, Ok(Err(err))) => Err(self.failed(&err.to_string())),
            _ => Err(self.failed("it took too long")),
        }
    }

    fn failed(&self, reason: &str) -> CredentialError {
        let reason: String = reason.trim().chars().take(200).flat_map(char::escape_debug).collect();
        CredentialError::Helper { helper: self.program.clone(), reason }
    }
}

/// Waits for a program that has closed its output.
fn wait(child: &mut Child, end: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(2)),
            _ => return None,
        }
    }
}
