//! [`Registry`]: a registry in memory that misbehaves where a test tells it to.
//!
//! It knows what the distribution specification asks for, remembers what it was asked, and checks what
//! it is sent: a blob has its digest, a manifest has all of its blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use mica::oci::Digest;
use serde_json::{Value, json};

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is answered so, with these headers, and nothing else is done.
    Answer(u16, &'static str),
    /// After so many bytes of its body the connection is cut. What has arrived is kept.
    Cut(usize),
    /// What it asks for is done, and the connection is cut before it is answered.
    Mute,
    /// Half of its body is thrown away, which the answer tells.
    Half,
    /// One byte of its body is another one afterwards.
    Flip,
}

/// A registry on a port of this machine.
pub(crate) struct Registry {
    state: Arc<Mutex<State>>,
    /// `127.0.0.1:PORT`.
    pub(crate) host: String,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    /// Which repositories have which blobs.
    links: BTreeSet<(String, String)>,
    /// By repository and tag or digest: the media type and the bytes.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    /// By number: the repository and what has arrived.
    uploads: BTreeMap<usize, (String, Vec<u8>)>,
    next_upload: usize,
    /// Bytes of blobs that came.
    received: usize,
    /// `METHOD PATH` of all requests, without what stands behind a `?`.
    asked: Vec<String>,
    faults: Vec<Planned>,
    auth: Auth,
    tokens: BTreeMap<String, usize>,
}

/// The fault of one request: the `nth` whose `METHOD PATH` has this in it.
struct Planned {
    part: String,
    nth: usize,
    fault: Fault,
}

/// What has to be shown.
#[derive(Debug, Clone, Default)]
pub(crate) enum Auth {
    #[default]
    Nothing,
    /// A user and a password, as `user:password`.
    Basic(&'static str),
    /// A token that is given for a user and a password. The first one is good for so many requests.
    Bearer(&'static str, usize),
}

/// A request as far as it is read.
struct Asked {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, name) = (Arc::clone(&state), host.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, name) = (Arc::clone(&shared), name.clone());
                std::thread::spawn(move || serve(stream, &shared, &name));
            }
        });
        Self { state, host }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with it")
    }

    /// Lets the `nth` request (from 1) go wrong whose `METHOD PATH` has `part` in it.
    pub(crate) fn plan(&self, part: &str, nth: usize, fault: Fault) {
        self.lock().faults.push(Planned { part: part.to_owned(), nth, fault });
    }

    pub(crate) fn require(&self, auth: Auth) {
        self.lock().auth = auth;
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().asked)
    }

    /// How many bytes of blobs came since the last time.
    pub(crate) fn received(&self) -> usize {
        std::mem::take(&mut self.lock().received)
    }

    /// Whether all that was planned has happened.
    pub(crate) fn is_through(&self) -> bool {
        self.lock().faults.is_empty()
    }

    /// The manifest of a tag or digest.
    pub(crate) fn manifest(&self, repository: &str, tag: &str) -> Option<Vec<u8>> {
        let key = (repository.to_owned(), tag.to_owned());
        self.lock().manifests.get(&key).map(|(_, bytes)| bytes.clone())
    }

    /// The names of all manifests, as `repository:tag`.
    pub(crate) fn names(&self) -> Vec<String> {
        let state = self.lock();
        let tags = state.manifests.keys().filter(|(_, tag)| !tag.starts_with("sha256:"));
        tags.map(|(repository, tag)| format!("{repository}:{tag}")).collect()
    }

    pub(crate) fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        self.lock().blobs.get(digest).cloned()
    }

    /// Takes all blobs away from a repository.
    pub(crate) fn unlink(&self, repository: &str) {
        self.lock().links.retain(|(name, _)| name != repository);
    }

    /// Uploads that nobody has ended.
    pub(crate) fn open_uploads(&self) -> usize {
        self.lock().uploads.len()
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, host: &str) {
    let mut first = [0];
    // A greeting of TLS, which is not spoken here.
    if !matches!(stream.peek(&mut first), Ok(1)) || !first[0].is_ascii_uppercase() {
        return;
    }
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let Some(asked) = read_head(&mut reader) else { return };
    let line = format!("{} {}", asked.method, asked.path);
    let fault = {
        let mut state = state.lock().expect("no panic");
        state.asked.push(line.clone());
        state.fault(&line)
    };
    let limit = if let Some(Fault::Cut(bytes)) = fault { bytes } else { usize::MAX };
    let mut body = read_body(&mut reader, &asked.headers, limit);
    if asked.method == "PATCH" {
        state.lock().expect("no panic").received += body.len();
    }
    match fault {
        Some(Fault::Half) => body.truncate(body.len() / 2),
        Some(Fault::Flip) => body[0] ^= 1,
        _ => {}
    }
    let answer = match fault {
        Some(Fault::Answer(status, headers)) => {
            let header = headers.split_once(": ").map(|(name, value)| (name, value.to_owned()));
            let message = json!({"errors": [{"code": "PLANNED", "message": "as planned"}]});
            let body = message.to_string().into_bytes();
            Answer { status, headers: header.into_iter().collect(), body }
        }
        _ => state.lock().expect("no panic").answer(&asked, body, host),
    };
    if matches!(fault, Some(Fault::Cut(_) | Fault::Mute)) {
        return;
    }
    let mut head = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !answer.headers.iter().any(|(name, _)| *name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    head += "\r\n";
    let body: &[u8] = if asked.method == "HEAD" { b"" } else { &answer.body };
    // Whoever asked may have gone.
    drop(stream.write_all(&[head.as_bytes(), body].concat()));
}

fn read_head(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => return Some(Asked { method, path, query, headers }),
        };
    }
}

/// As much of a body as comes, and at most `limit` bytes.
fn read_body(
    reader: &mut impl BufRead,
    headers: &BTreeMap<String, String>,
    limit: usize,
) -> Vec<u8> {
    let mut body = Vec::new();
    let mut take = |reader: &mut dyn BufRead, length: usize| {
        let rest = length.min(limit - body.len());
        reader.take(rest as u64).read_to_end(&mut body).is_ok() && rest == length
    };
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("a length");
            let length = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
            if !take(reader, length) {
                break;
            }
            reader.read_line(&mut String::new()).expect("an end of line");
            if length == 0 {
                break;
            }
        }
    } else if let Some(length) = headers.get("content-length") {
        take(reader, length.parse().expect("a number"));
    }
    body
}

impl Answer {
    fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn header(mut self, name: &'static str, value: &(impl ToString + ?Sized)) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    fn error(status: u16, code: &str) -> Self {
        let message = json!({"errors": [{"code": code, "message": code.to_lowercase()}]});
        Self { body: message.to_string().into_bytes(), ..Self::new(status) }
    }
}

impl State {
    fn fault(&mut self, line: &str) -> Option<Fault> {
        for planned in self.faults.iter_mut().filter(|planned| line.contains(&planned.part)) {
            planned.nth = planned.nth.saturating_sub(1);
        }
        // Of several that are due, the next request gets the second one.
        let is_due = |planned: &Planned| planned.nth == 0 && line.contains(&planned.part);
        let due = self.faults.iter().position(is_due)?;
        Some(self.faults.remove(due).fault)
    }

    fn answer(&mut self, asked: &Asked, body: Vec<u8>, host: &str) -> Answer {
        if asked.path == "/token" {
            return self.token(asked);
        }
        if let Some(refused) = self.unauthorized(asked, host) {
            return refused;
        }
        let Some(rest) = asked.path.strip_prefix("/v2/") else { return Answer::new(404) };
        if rest.is_empty() {
            return Answer::new(200);
        }
        for (part, what) in [("/blobs/uploads/", 'u'), ("/blobs/", 'b'), ("/manifests/", 'm')] {
            let Some((repository, name)) = rest.split_once(part) else { continue };
            return match what {
                'u' => self.upload(asked, repository, name, body),
                'b' => self.blob(repository, name),
                _ => self.manifest(asked, repository, name, body),
            };
        }
        Answer::error(404, "NAME_UNKNOWN")
    }

    fn token(&mut self, asked: &Asked) -> Answer {
        let Auth::Bearer(user, uses) = self.auth.clone() else { return Answer::new(404) };
        if asked.headers.get("authorization") != Some(&basic(user)) {
            return Answer::error(401, "UNAUTHORIZED");
        }
        let uses = if self.tokens.is_empty() { uses } else { usize::MAX };
        let token = format!("token{}", self.tokens.len());
        self.tokens.insert(format!("Bearer {token}"), uses);
        let body = json!({"token": token, "expires_in": 300}).to_string().into_bytes();
        Answer { body, ..Answer::new(200) }
    }

    fn unauthorized(&mut self, asked: &Asked, host: &str) -> Option<Answer> {
        let shown = asked.headers.get("authorization").map_or("", String::as_str);
        let challenge = match &self.auth {
            Auth::Nothing => return None,
            Auth::Basic(user) if shown == basic(user) => return None,
            Auth::Basic(_) => "Basic realm=\"test\"".to_owned(),
            Auth::Bearer(..) => {
                if let Some(left) = self.tokens.get_mut(shown).filter(|left| **left > 0) {
                    *left -= 1;
                    return None;
                }
                format!("Bearer realm=\"http://{host}/token\",service=\"test\"")
            }
        };
        Some(Answer::error(401, "UNAUTHORIZED").header("WWW-Authenticate", &challenge))
    }

    fn blob(&self, repository: &str, digest: &str) -> Answer {
        let link = (repository.to_owned(), digest.to_owned());
        match self.blobs.get(digest).filter(|_| self.links.contains(&link)) {
            Some(bytes) => Answer { body: bytes.clone(), ..Answer::new(200) }
                .header("Content-Length", &bytes.len())
                .header("Docker-Content-Digest", &digest),
            None => Answer::error(404, "BLOB_UNKNOWN"),
        }
    }

    fn manifest(&mut self, asked: &Asked, repository: &str, name: &str, body: Vec<u8>) -> Answer {
        let key = (repository.to_owned(), name.to_owned());
        if asked.method == "PUT" {
            let lacks = |digest: &Value| {
                let digest = digest["digest"].as_str().expect("a digest").to_owned();
                !self.links.contains(&(repository.to_owned(), digest))
            };
            let manifest: Value = serde_json::from_slice(&body).expect("a manifest");
            let layers = manifest["layers"].as_array().expect("layers");
            if layers.iter().chain([&manifest["config"]]).any(lacks) {
                return Answer::error(400, "MANIFEST_BLOB_UNKNOWN");
            }
            let digest = Digest::of(&body).to_string();
            let media_type = asked.headers.get("content-type").cloned().unwrap_or_default();
            assert_eq!(manifest["mediaType"], media_type);
            let value = (media_type, body);
            self.manifests.insert((repository.to_owned(), digest.clone()), value.clone());
            self.manifests.insert(key, value);
            return Answer::new(201).header("Docker-Content-Digest", &digest);
        }
        match self.manifests.get(&key) {
            Some((media_type, bytes)) => Answer { body: bytes.clone(), ..Answer::new(200) }
                .header("Content-Length", &bytes.len())
                .header("Content-Type", &media_type)
                .header("Docker-Content-Digest", &Digest::of(bytes)),
            None => Answer::error(404, "MANIFEST_UNKNOWN"),
        }
    }

    fn upload(&mut self, asked: &Asked, repository: &str, name: &str, body: Vec<u8>) -> Answer {
        let parameter = |name: &str| {
            let found = asked.query.split('&').find_map(|pair| pair.strip_prefix(name));
            found.and_then(|rest| rest.strip_prefix('=')).unwrap_or_default().to_owned()
        };
        if asked.method == "POST" {
            let (digest, from) = (parameter("mount"), parameter("from"));
            if self.links.contains(&(from, digest.clone())) {
                self.links.insert((repository.to_owned(), digest.clone()));
                return Answer::new(201).header("Docker-Content-Digest", &digest);
            }
            self.next_upload += 1;
            self.uploads.insert(self.next_upload, (repository.to_owned(), Vec::new()));
            return Self::at(202, repository, self.next_upload, 0);
        }
        let number = name.parse().expect("a number");
        let Some((_, arrived)) = self.uploads.get_mut(&number) else {
            return Answer::error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        if let Some(range) = asked.headers.get("content-range") {
            let start: usize =
                range.split('-').next().and_then(|start| start.parse().ok()).expect("a range");
            if start != arrived.len() {
                return Answer::error(416, "RANGE_INVALID");
            }
        }
        arrived.extend(body);
        let length = arrived.len();
        match asked.method.as_str() {
            "GET" => Self::at(204, repository, number, length),
            "PATCH" => Self::at(202, repository, number, length),
            "DELETE" => {
                self.uploads.remove(&number);
                Answer::new(204)
            }
            _ => {
                let (_, bytes) = self.uploads.remove(&number).expect("it was there");
                let digest = parameter("digest");
                if Digest::of(&bytes).to_string() != digest {
                    return Answer::error(400, "DIGEST_INVALID");
                }
                self.blobs.insert(digest.clone(), bytes);
                self.links.insert((repository.to_owned(), digest.clone()));
                Answer::new(201).header("Docker-Content-Digest", &digest)
            }
        }
    }

    fn at(status: u16, repository: &str, number: usize, length: usize) -> Answer {
        Answer::new(status)
            .header("Location", &format!("/v2/{repository}/blobs/uploads/{number}?_state=x"))
            .header("Range", &format!("0-{}", length.saturating_sub(1)))
    }
}

fn basic(user: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user))
}
