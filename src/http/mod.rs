//! HTTP and HTTPS: a request, and a response whose body is read as it comes.
//!
//! A [`Client`] costs nothing until it is asked: proxies and certificates are looked up by the first
//! request that needs them. It follows redirects itself, so that what is meant for one server is not
//! told to another, and it asks again where a server or the network is only tired. A status is not an
//! error here: what 404 or 304 means is for the caller to know.

mod cancel;
mod error;
mod legible;
mod pace;
mod proxy;
mod resolver;
mod tls;
mod url;

use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
pub use cancel::Cancelled;
use cancel::{Lookup, Opener};
pub use error::HttpError;
use legible::{Legible, reason};
use pace::Paced;
use proxy::Proxies;
use resolver::PublicResolver;
pub use resolver::is_local;
pub use tls::{ClientCertificate, TlsOptions};
use ureq::http;
use ureq::tls::TlsConfig;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, RustlsConnector};
use ureq::{Agent, SendBody};
pub(crate) use url::decode as percent_decode;
pub use url::{Url, users_in, without_users};

/// How long a client waits, and how often it tries.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a name, a connection, and the handshake on it.
    pub connect: Duration,
    /// For the next bytes of a response: a server that sends nothing for so long has died, and so has
    /// one that sends hardly anything.
    pub stall: Duration,
    /// How often a request is sent at most.
    pub attempts: u32,
    /// For the first repetition; doubled for each one after.
    pub pause: Duration,
    /// For all repetitions of a request together; also the longest `Retry-After` that is obeyed.
    pub patience: Duration,
    /// How many redirects are followed.
    pub redirects: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            stall: Duration::from_mins(1),
            attempts: 4,
            pause: Duration::from_millis(300),
            patience: Duration::from_mins(1),
            redirects: 10,
        }
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `GET`, for example.
    pub method: &'static str,
    /// Whom, and for what. A user and password in it are sent as `Authorization`.
    pub url: Url,
    /// Names and values. `Authorization` and `Cookie` go to the URL's own server alone.
    pub headers: Vec<(String, String)>,
    /// What is sent.
    pub body: Body<'a>,
}

/// What is sent with a request.
#[derive(Clone, Copy)]
pub enum Body<'a> {
    /// Nothing.
    Empty,
    /// These bytes.
    Bytes(&'a [u8]),
    /// What a reader gives, which is opened anew for each attempt. With a method such as `PATCH` it is
    /// sent once: what becomes of it where it arrived in part is for the caller to decide.
    Stream {
        /// How many bytes, where that is known before.
        length: Option<u64>,
        /// Opens it.
        open: &'a (dyn Fn() -> io::Result<Box<dyn Read>> + Sync),
    },
}

impl std::fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Stream { length, .. } => write!(f, "Stream({length:?})"),
        }
    }
}

/// What a server answers.
pub struct Response {
    /// 200, for example.
    pub status: u16,
    /// Where it came from in the end.
    pub url: Url,
    headers: http::HeaderMap,
    body: Box<dyn Read + Send>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Response");
        shown.field("status", &self.status).field("url", &self.url).finish_non_exhaustive()
    }
}

impl<'a> Request<'a> {
    /// `GET` of a URL.
    pub fn get(url: Url) -> Self {
        Self { method: "GET", url, headers: Vec::new(), body: Body::Empty }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sends this body.
    #[must_use]
    pub fn body(self, body: Body<'a>) -> Self {
        Self { body, ..self }
    }
}

impl Response {
    /// The value of a header; `None` for one that is not there, or no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All values of a header that may come more than once.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
    }

    /// The body. Reading fails where it ends too soon or stalls.
    pub fn into_body(self) -> Box<dyn Read + Send> {
        self.body
    }
}

/// Sends requests. Connections are kept and used again.
#[derive(Debug, Default)]
pub struct Client {
    limits: Limits,
    cancelled: Cancelled,
    tls: TlsOptions,
    public_only: bool,
    proxies: OnceLock<Proxies>,
    plain: OnceLock<Agent>,
    secure: OnceLock<Agent>,
    /// As long as this is.
    alive: Arc<()>,
}

impl Client {
    /// A client with limits of its own. What it waits for, bodies of responses included, fails soon
    /// after `cancelled` is so.
    pub fn new(limits: Limits, cancelled: Cancelled) -> Self {
        Self { limits, cancelled, ..Self::default() }
    }

    /// Trusts others, and says who it is.
    #[must_use]
    pub fn with_tls(self, tls: TlsOptions) -> Self {
        Self { tls, ..self }
    }

    /// Never talks to this machine or its link: for URLs that a stranger gave.
    #[must_use]
    pub fn public_only(self) -> Self {
        Self { public_only: true, ..self }
    }

    /// Sends a request, follows redirects, and repeats what fails in a way that may pass.
    ///
    /// # Errors
    /// [`HttpError`] where no server gives an answer.
    pub fn send(&self, request: &Request<'_>) -> Result<Response, HttpError> {
        let mut step = Step::first(request);
        for _ in 0..=self.limits.redirects {
            let response = self.send_patiently(&step)?;
            match step.redirected(&response)? {
                Some(next) => step = next,
                None => return Ok(response),
            }
        }
        let (url, limit) = (request.url.to_string(), self.limits.redirects);
        Err(HttpError::Redirects { url, limit })
    }

    fn send_patiently(&self, step: &Step<'_>) -> Result<Response, HttpError> {
        let end = Instant::now() + self.limits.patience;
        let mut pause = self.limits.pause;
        for attempt in 1.. {
            if self.cancelled.is() {
                return Err(HttpError::Cancelled);
            }
            let result = self.send_once(step);
            // What was broken off for that reason looks like any failure.
            if result.is_err() && self.cancelled.is() {
                return Err(HttpError::Cancelled);
            }
            let Some(wait) = step.may_pass(&result, pause) else { return result };
            let left = end.saturating_duration_since(Instant::now());
            if attempt >= self.limits.attempts || wait > left {
                return result;
            }
            sleep(wait, &self.cancelled);
            pause *= 2;
        }
        Err(HttpError::Cancelled)
    }

    fn send_once(&self, step: &Step<'_>) -> Result<Response, HttpError> {
        let url = step.url.to_string();
        let failed =
            |err: ureq::Error| HttpError::Transport { url: url.clone(), reason: reason(&err) };
        let agent = self.agent(&step.url)?;
        let proxies = self.proxies.get_or_init(|| Proxies::from(|name| std::env::var(name).ok()));
        let mut head = http::Request::builder().method(step.method).uri(&url);
        for (name, value) in &step.headers {
            head = head.header(name, value);
        }
        let (body, length) = match step.body {
            Body::Empty => (SendBody::none(), None),
            Body::Bytes(bytes) => {
                let reader = io::Cursor::new(bytes.to_vec());
                (SendBody::from_owned_reader(reader), Some(bytes.len() as u64))
            }
            Body::Stream { length, open } => {
                let reader =
                    open().map_err(|source| HttpError::Body { url: url.clone(), source })?;
                (SendBody::from_owned_reader(reader), length)
            }
        };
        if let Some(length) = length {
            head = head.header("content-length", length);
        }
        let request = head.body(body).map_err(|err| failed(err.into()))?;
        let proxy = proxies.find(&step.url)?;
        let request = agent.configure_request(request).proxy(proxy).build();
        let (parts, body) = agent.run(request).map_err(failed)?.into_parts();
        let body = Legible::new(body.into_reader(), self.cancelled.clone());
        Ok(Response {
            status: parts.status.as_u16(),
            url: step.url.clone(),
            headers: parts.headers,
            body: Box::new(Paced::new(body, self.limits.stall)),
        })
    }

    fn agent(&self, url: &Url) -> Result<&Agent, HttpError> {
        match url.scheme() {
            "http" => Ok(self.plain.get_or_init(|| self.new_agent(None))),
            "https" => {
                if let Some(agent) = self.secure.get() {
                    return Ok(agent);
                }
                let tls = self.tls.config()?;
                Ok(self.secure.get_or_init(|| self.new_agent(Some(tls))))
            }
            _ => {
                let reason = "only http and https can be fetched";
                Err(HttpError::Url { url: url.to_string(), reason })
            }
        }
    }

    fn new_agent(&self, tls: Option<TlsConfig>) -> Agent {
        let limits = self.limits;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("mica/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .proxy(None)
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_per_read(Some(limits.stall))
            .timeout_per_write(Some(limits.stall));
        if let Some(tls) = tls {
            config = config.tls_config(tls);
        }
        // The library's own chain, but for what it cannot break off.
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(Opener(self.cancelled.clone()))
                .chain(RustlsConnector::default());
        let lookup = Lookup(self.cancelled.clone());
        let agent = if self.public_only {
            Agent::with_parts(config.build(), connector, PublicResolver(lookup))
        } else {
            Agent::with_parts(config.build(), connector, lookup)
        };
        self.cancelled.watch(&agent, Arc::downgrade(&self.alive));
        agent
    }
}

/// One request of a chain of redirects.
struct Step<'a> {
    method: &'static str,
    url: Url,
    headers: Vec<(String, String)>,
    body: Body<'a>,
}

impl<'a> Step<'a> {
    fn first(request: &Request<'a>) -> Self {
        let mut headers = request.headers.clone();
        let is_authorized =
            headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if let Some((user, password)) = request.url.credentials().filter(|_| !is_authorized) {
            headers.push(("authorization".to_owned(), basic(&user, &password)));
        }
        Self { method: request.method, url: request.url.clone(), headers, body: request.body }
    }

    /// Where a response leads on to; `None` for one that is the answer.
    fn redirected(&self, response: &Response) -> Result<Option<Self>, HttpError> {
        let Some(location) = response.header("location") else { return Ok(None) };
        let keeps_method = match response.status {
            307 | 308 => true,
            301 | 302 => matches!(self.method, "GET" | "HEAD"),
            303 => self.method == "HEAD",
            _ => return Ok(None),
        };
        let url = self.url.join(location).map_err(|reason| {
            let url = location.escape_debug().to_string();
            HttpError::Url { url, reason }
        })?;
        let mut headers = self.headers.clone();
        if !url.same_origin(&self.url) {
            headers.retain(|(name, _)| {
                !["authorization", "cookie"].contains(&name.to_ascii_lowercase().as_str())
            });
        }
        let (method, body) =
            if keeps_method { (self.method, self.body) } else { ("GET", Body::Empty) };
        Ok(Some(Self { method, url, headers, body }))
    }

    /// When the same request may go well: after `pause`, or when the server says; `None` for never.
    fn may_pass(&self, result: &Result<Response, HttpError>, pause: Duration) -> Option<Duration> {
        let harmless = matches!(self.method, "GET" | "HEAD" | "PUT" | "DELETE");
        // Some of it may have arrived, and to send it again would add it once more.
        if !harmless && matches!(self.body, Body::Stream { .. }) {
            return None;
        }
        match result {
            Ok(response) => match response.status {
                429 | 503 => {
                    Some(response.header("retry-after").and_then(retry_after).unwrap_or(pause))
                }
                500 | 502 | 504 => harmless.then_some(pause),
                _ => None,
            },
            // A name that is not known, or a certificate that is not trusted, stays so.
            Err(HttpError::Transport { reason, .. }) => {
                let stays =
                    ["host not found", "not known", "certificate", "invalid", error::NO_TLS];
                let passes = !stays.iter().any(|word| reason.contains(word));
                (harmless && passes).then_some(pause)
            }
            Err(_) => None,
        }
    }
}

/// The value of `Authorization` for a user and a password.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}

/// `Retry-After` in seconds, or as a date.
fn retry_after(value: &str) -> Option<Duration> {
    match value.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
            let then = u64::try_from(parse_date(value)?).ok()?;
            Some(Duration::from_secs(then.saturating_sub(now.as_secs())))
        }
    }
}

/// A date as HTTP has it (`Sun, 06 Nov 1994 08:49:37 GMT`), in seconds since 1970.
pub fn parse_date(text: &str) -> Option<i64> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    Some(time.as_second())
}

fn sleep(time: Duration, cancelled: &Cancelled) {
    let end = Instant::now() + time;
    while !cancelled.is() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

#[cfg(test)]
mod tests;
