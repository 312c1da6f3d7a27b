//! [`Server`]: HTTP as a test tells it, and git repositories behind it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use mica::oci::Digest;

use crate::env::skip;

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// A length that is not the body's.
    pub(crate) length: Option<usize>,
}

/// A server on this machine, which lives as long as the test.
pub(crate) struct Server {
    pub(crate) url: String,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn text(text: &str) -> Self {
        Self { status: 200, body: text.into(), ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

impl Server {
    /// A server that answers by this function.
    pub(crate) fn new(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen) = (Arc::new(answer), Arc::clone(&log));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                std::thread::spawn(move || {
                    if let Some(asked) = read(&stream) {
                        seen.lock().expect("the log").push(asked.clone());
                        // Whoever asked may have gone.
                        drop(send(&stream, &answer(&asked)));
                    }
                });
            }
        });
        Self { url, log }
    }

    /// A server of the files of a folder, with validators, and of the repositories in it.
    pub(crate) fn of_folder(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self::new(move |asked| serve(&dir, asked))
    }

    /// What was asked since the last call: methods and paths.
    pub(crate) fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.log.lock().expect("the log"));
        asked.into_iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect()
    }

    /// All of what was asked since the last call.
    pub(crate) fn requests(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.log.lock().expect("the log"))
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            None => break,
            Some((name, value)) => {
                headers.insert(name.to_lowercase(), value.trim().to_owned());
            }
        }
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { method, path, headers, body })
}

fn send(mut stream: &TcpStream, answer: &Answer) -> std::io::Result<()> {
    let length = answer.length.unwrap_or(answer.body.len());
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {length}\r\n\r\n"));
    stream.write_all(head.as_bytes())?;
    stream.write_all(&answer.body)
}

fn serve(dir: &Path, asked: &Asked) -> Answer {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    if let Some((repository, service)) = path.split_once(".git/") {
        let repository = dir.join(format!("{}.git", repository.trim_start_matches('/')));
        if !repository.exists() {
            return Answer::status(404);
        }
        return match service {
            "info/refs" if query == "service=git-upload-pack" => advertise(&repository),
            "git-upload-pack" => upload_pack(&repository, asked),
            _ => Answer::status(404),
        };
    }
    let Ok(body) = fs::read(dir.join(path.trim_start_matches('/'))) else {
        return Answer::status(404);
    };
    let etag = format!("\"{}\"", Digest::of(&body).short());
    if asked.headers.get("if-none-match") == Some(&etag) {
        return Answer::status(304).header("ETag", &etag);
    }
    Answer { status: 200, body, ..Answer::default() }
        .header("ETag", &etag)
        .header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
}

fn advertise(repository: &Path) -> Answer {
    let mut body = b"001e# service=git-upload-pack\n0000".to_vec();
    body.extend(git_serves(repository, &["--http-backend-info-refs"], b""));
    Answer { status: 200, body, ..Answer::default() }
        .header("Content-Type", "application/x-git-upload-pack-advertisement")
}

fn upload_pack(repository: &Path, asked: &Asked) -> Answer {
    let mut input = Vec::new();
    if asked.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        flate2::read::GzDecoder::new(&asked.body[..]).read_to_end(&mut input).expect("gzip");
    } else {
        input.clone_from(&asked.body);
    }
    let body = git_serves(repository, &["--stateless-rpc"], &input);
    Answer { status: 200, body, ..Answer::default() }
        .header("Content-Type", "application/x-git-upload-pack-result")
}

fn git_serves(repository: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = git_command();
    command.arg("upload-pack").args(args).arg(repository);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git");
    let mut stdin = child.stdin.take().expect("a pipe");
    std::thread::scope(|scope| {
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().expect("to wait for git").stdout
    })
}

fn git_command() -> Command {
    let mut command = Command::new("git");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for name in ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"] {
        command.env(name, "/dev/null");
    }
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "n").env(format!("GIT_{who}_EMAIL"), "e@x");
        command.env(format!("GIT_{who}_DATE"), "1612325106 +0000");
    }
    let config = [("safe.directory", "*"), ("init.defaultBranch", "main")];
    command.env("GIT_CONFIG_COUNT", config.len().to_string());
    for (number, (key, value)) in config.into_iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{number}"), key);
        command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
    }
    command.stderr(Stdio::inherit());
    command
}

/// A repository of a test's own; `None`, with the reason printed, where there is no `git`.
pub(crate) struct Repository(PathBuf);

impl Repository {
    pub(crate) fn new(path: &Path) -> Option<Self> {
        if Command::new("git").arg("--version").output().is_err() {
            skip("there is no git");
            return None;
        }
        fs::create_dir_all(path).expect("a directory");
        let repository = Self(path.to_owned());
        repository.git(&["init", "-q"]);
        Some(repository)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Runs git in it; it has to succeed.
    #[track_caller]
    pub(crate) fn git(&self, args: &[&str]) -> String {
        let output = git_command().arg("-C").arg(&self.0).args(args).output().expect("git");
        assert!(output.status.success(), "git {args:?}");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// Commits all that lies there, and gives the commit.
    pub(crate) fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            crate::env::write(&self.0, name, text);
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "m", "--allow-empty"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Puts what it holds where the server finds it.
    pub(crate) fn publish(&self, path: &Path) {
        drop(fs::remove_dir_all(path));
        let source = self.0.to_str().expect("UTF-8");
        self.git(&["clone", "-q", "--bare", source, path.to_str().expect("UTF-8")]);
    }
}
