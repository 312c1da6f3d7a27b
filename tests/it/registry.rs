//! [`Registry`]: a registry on this machine that does as a test tells it, and [`Pushed`]: an image in it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mica::oci::{Descriptor, Digest, MediaType};
use serde_json::json;

/// One answer to one question.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What goes wrong on the way.
    pub(crate) fault: Fault,
}

/// What goes wrong with an answer on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The connection breaks off after so many bytes.
    Cut(usize),
    /// Nothing more comes after so many bytes.
    Stall(usize),
    /// It goes on for ever.
    Endless,
}

/// A question that was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
}

type Rule = dyn Fn(&Asked) -> Option<Reply> + Send + Sync;

#[derive(Default)]
struct State {
    /// By path without its query.
    content: HashMap<String, Reply>,
    /// For the next questions to a path.
    once: HashMap<String, Vec<Reply>>,
    rule: Option<Arc<Rule>>,
    asked: Vec<Asked>,
}

/// A registry. It ends with the test.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(crate) host: String,
    state: Arc<Mutex<State>>,
}

/// An image in a registry.
pub(crate) struct Pushed {
    /// What its manifest's digest is.
    pub(crate) digest: Digest,
    pub(crate) manifest: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), fault: Fault::None }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn fault(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }
}

impl Registry {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let registry = Self { host, state: Arc::default() };
        let served = registry.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                std::thread::spawn(move || served.serve(&stream));
            }
        });
        registry
    }

    /// The name of an image here.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    /// Answers a path once with this, and then as before.
    pub(crate) fn once(&self, path: &str, reply: Reply) {
        let mut state = self.state.lock().expect("no panic");
        state.once.entry(path.to_owned()).or_default().push(reply);
    }

    /// Answers a path with this from now on.
    pub(crate) fn always(&self, path: &str, reply: Reply) {
        self.state.lock().expect("no panic").content.insert(path.to_owned(), reply);
    }

    /// Looks at each question before anything else does.
    pub(crate) fn rule(&self, rule: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) {
        self.state.lock().expect("no panic").rule = Some(Arc::new(rule));
    }

    /// What has been asked since this was last looked at.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().expect("no panic").asked)
    }

    /// The same as `METHOD path`.
    pub(crate) fn asked_lines(&self) -> Vec<String> {
        self.asked().iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect()
    }

    /// How often a blob has been asked for since this was last looked at.
    pub(crate) fn asked_for(&self, blob: &Descriptor) -> usize {
        let digest = blob.digest.to_string();
        self.asked().iter().filter(|asked| asked.path.ends_with(&digest)).count()
    }

    /// Puts an image into a repository, with one plain layer for each of `files`: its name and text.
    pub(crate) fn push(&self, repository: &str, tag: &str, files: &[(&str, &str)]) -> Pushed {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for (name, text) in files {
            let tar = tar_of(name, text.as_bytes());
            diff_ids.push(Digest::of(&tar).to_string());
            layers.push(self.blob(repository, MediaType::ImageLayer, tar));
        }
        self.image(repository, tag, layers, &json!({ "Cmd": ["/bin/true"] }), &diff_ids)
    }

    /// Puts an image of these layers into a repository.
    pub(crate) fn image(
        &self,
        repository: &str,
        tag: &str,
        layers: Vec<Descriptor>,
        config: &serde_json::Value,
        diff_ids: &[String],
    ) -> Pushed {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": vec![json!({ "created_by": "test" }); diff_ids.len()],
        });
        let config = self.blob(repository, MediaType::ImageConfig, config.to_string().into());
        let media_type = MediaType::ImageManifest;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers,
        });
        let manifest = self.document(repository, tag, media_type, manifest.to_string());
        Pushed { digest: manifest.digest, manifest, layers }
    }

    /// Puts an index of these manifests into a repository.
    pub(crate) fn index(
        &self,
        repository: &str,
        tag: &str,
        manifests: &[Descriptor],
    ) -> Descriptor {
        let media_type = MediaType::ImageIndex;
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        self.document(repository, tag, media_type, index.to_string())
    }

    /// Puts a manifest or index into a repository.
    pub(crate) fn document(
        &self,
        repository: &str,
        tag: &str,
        media_type: MediaType,
        text: String,
    ) -> Descriptor {
        let descriptor = Descriptor::of(media_type, text.as_bytes());
        let reply = Reply::new(200, text)
            .header("Content-Type", descriptor.media_type.as_ref())
            .header("Docker-Content-Digest", &descriptor.digest.to_string());
        for name in [tag, &descriptor.digest.to_string()] {
            self.always(&format!("/v2/{repository}/manifests/{name}"), reply.clone());
        }
        descriptor
    }

    pub(crate) fn blob(
        &self,
        repository: &str,
        media_type: MediaType,
        bytes: Vec<u8>,
    ) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.always(&blob_path(repository, &descriptor), Reply::new(200, bytes));
        descriptor
    }

    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(asked) = read_question(&mut reader) {
            let reply = self.reply(&asked);
            if send(stream, &asked, reply).is_none() {
                drop(stream.shutdown(Shutdown::Both));
                return;
            }
        }
    }

    fn reply(&self, asked: &Asked) -> Reply {
        let path = asked.path.split('?').next().unwrap_or_default().to_owned();
        let mut state = self.state.lock().expect("no panic");
        state.asked.push(asked.clone());
        if let Some(reply) = state.rule.clone().and_then(|rule| rule(asked)) {
            return reply;
        }
        if let Some(once) = state.once.get_mut(&path).filter(|once| !once.is_empty()) {
            return once.remove(0);
        }
        let unknown = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        state.content.get(&path).cloned().unwrap_or_else(|| Reply::new(404, unknown))
    }
}

pub(crate) fn blob_path(repository: &str, blob: &Descriptor) -> String {
    format!("/v2/{repository}/blobs/{}", blob.digest)
}

fn read_question(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_ascii_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    reader.read_exact(&mut vec![0; length]).ok()?;
    Some(Asked { method, path, headers })
}

/// Sends an answer; `None` where the connection ends with it.
fn send(mut stream: &TcpStream, asked: &Asked, reply: Reply) -> Option<()> {
    let Reply { mut status, mut headers, mut body, fault } = reply;
    let range = asked.headers.get("range").and_then(|text| text.strip_prefix("bytes="));
    if let Some(start) = range.and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok())
        && (1..body.len()).contains(&start)
        && status == 200
    {
        status = 206;
        let end = body.len();
        headers.push(("Content-Range".into(), format!("bytes {start}-{}/{end}", end - 1)));
        body.drain(..start);
    }
    let mut head = format!("HTTP/1.1 {status} X\r\n");
    for (name, value) in &headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if fault == Fault::Endless {
        head.push_str("Transfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        loop {
            stream.write_all(format!("{:x}\r\n", body.len() + 4096).as_bytes()).ok()?;
            body.resize(body.len() + 4096, b' ');
            stream.write_all(&body).ok()?;
            stream.write_all(b"\r\n").ok()?;
            body.clear();
        }
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).ok()?;
    if asked.method == "HEAD" {
        return Some(());
    }
    match fault {
        Fault::Cut(at) if at < body.len() => {
            stream.write_all(&body[..at]).ok()?;
            None
        }
        Fault::Stall(at) => {
            stream.write_all(&body[..at]).ok()?;
            std::thread::sleep(Duration::from_secs(3));
            None
        }
        _ => stream.write_all(&body).ok(),
    }
}

/// A layer of one file.
pub(crate) fn tar_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, name, bytes).expect("a tar");
    tar.into_inner().expect("a tar")
}
