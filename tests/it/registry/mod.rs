//! [`Registry`]: a registry in memory that misbehaves where a test tells it to.
//!
//! It knows what the distribution specification asks for, remembers what it was asked, and checks what
//! it is sent: a blob has its digest, a manifest has all of its blobs, a token is for the repository.

mod images;
mod state;
mod tls;
mod wire;

use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard};

use mica::oci::Descriptor;
use rustls::ServerConfig;

pub(crate) use images::{Pushed, blob_path, tar_of};
pub(crate) use state::Auth;
use state::{Planned, State};
pub(crate) use tls::Authority;
use wire::Line;
pub(crate) use wire::{Asked, Fault, Reply};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A registry on a port of this machine. It ends with the test.
#[derive(Clone)]
pub(crate) struct Registry {
    state: Arc<Mutex<State>>,
    /// `127.0.0.1:PORT`, or another address of this machine.
    pub(crate) host: String,
    tls: Option<Arc<ServerConfig>>,
}

impl Registry {
    /// A registry that talks plain HTTP.
    pub(crate) fn start() -> Self {
        Self::listen(LOOPBACK, None)
    }

    /// The same at an address of this machine by which others know it; `None` where it has none.
    pub(crate) fn start_in_the_open() -> Option<Self> {
        // No packet is sent by this.
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect("192.0.2.1:9").ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_loopback()).then(|| Self::listen(address, None))
    }

    /// A registry that talks TLS and nothing else.
    pub(crate) fn start_tls(config: ServerConfig) -> Self {
        Self::listen(LOOPBACK, Some(Arc::new(config)))
    }

    fn listen(address: IpAddr, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let registry = Self { state: Arc::default(), host, tls };
        let served = registry.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                std::thread::spawn(move || served.serve(stream));
            }
        });
        registry
    }

    /// The name of an image here.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.host)
    }

    /// Lets the `nth` request (from 1) go wrong whose `METHOD PATH` has `part` in it.
    pub(crate) fn plan(&self, part: &str, nth: usize, fault: Fault) {
        self.lock().faults.push(Planned { part: part.to_owned(), nth, fault });
    }

    /// Answers a path once with this, and then as before.
    pub(crate) fn once(&self, path: &str, reply: Reply) {
        self.lock().once.entry(path.to_owned()).or_default().push(reply);
    }

    /// Answers a path with this from now on.
    pub(crate) fn always(&self, path: &str, reply: Reply) {
        self.lock().instead.insert(path.to_owned(), reply);
    }

    /// Looks at each question before anything else does.
    pub(crate) fn rule(&self, rule: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) {
        self.lock().rule = Some(Arc::new(rule));
    }

    /// Wants to know who asks.
    pub(crate) fn require(&self, auth: Auth) {
        self.lock().auth = auth;
    }

    /// Finds these when somebody searches, as Docker Hub does.
    pub(crate) fn finds(&self, results: serde_json::Value) {
        self.lock().found = Some(results);
    }

    /// What was asked since the last time.
    pub(crate) fn requests(&self) -> Vec<Asked> {
        std::mem::take(&mut self.lock().asked)
    }

    /// The same as `METHOD PATH`, without what stands behind a `?`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.requests().iter().map(Asked::line).collect()
    }

    /// How often a blob has been asked for since the last time.
    pub(crate) fn asked_for(&self, blob: &Descriptor) -> usize {
        let digest = blob.digest.to_string();
        self.requests().iter().filter(|asked| asked.path.ends_with(&digest)).count()
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

    /// Lets a tag stand for what another one stands for, whatever it did before.
    pub(crate) fn retag(&self, repository: &str, from: &str, to: &str) {
        let key = |tag: &str| (repository.to_owned(), tag.to_owned());
        let mut state = self.lock();
        let manifest = state.manifests[&key(from)].clone();
        state.manifests.insert(key(to), manifest);
    }

    /// Takes all blobs away from a repository.
    pub(crate) fn unlink(&self, repository: &str) {
        self.lock().links.retain(|(name, _)| name != repository);
    }

    /// Uploads that nobody has ended.
    pub(crate) fn open_uploads(&self) -> usize {
        self.lock().uploads.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with it")
    }

    fn serve(&self, stream: TcpStream) {
        let Some(mut line) = Line::accept(stream, self.tls.as_ref()) else { return };
        while let Some(asked) = line.question() {
            let fault = {
                let mut state = self.lock();
                state.asked.push(asked.clone());
                state.fault(&asked.line())
            };
            let limit = if let Some(Fault::Cut(bytes)) = fault { bytes } else { usize::MAX };
            let mut body = line.body(&asked, limit);
            if asked.path.contains("/blobs/uploads/") {
                self.lock().received += body.len();
            }
            match fault {
                Some(Fault::Half) => body.truncate(body.len() / 2),
                Some(Fault::Flip) => body[0] ^= 1,
                _ => {}
            }
            let reply = match fault {
                Some(Fault::Answer(status, header)) => {
                    let reply = Reply::error(status, "PLANNED", "as planned");
                    let header = header.split_once(": ");
                    header.into_iter().fold(reply, |reply, (name, value)| reply.header(name, value))
                }
                _ => self.lock().answer(&asked, body, &self.url()),
            };
            if line.answer(&asked, reply, fault).is_none() {
                return;
            }
        }
    }
}
