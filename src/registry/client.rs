//! [`Registries`] and [`Repository`]: questions to a registry, with who we are, again where the network
//! fails, and of its mirrors first.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::auth::{Access, Auth, Site};
use super::challenge;
use super::credentials::{Credentials, host_of};
use super::error::{RegistryError, Said};
use super::settings::{Endpoint, Settings, SettingsError};
use crate::http::{Body, Cancelled, Client, HttpError, Limits, Request, Response, TlsOptions, Url};
use crate::oci::Reference;

/// The most bytes of an error that are read.
const MAX_ERROR_BYTES: u64 = 64 << 10;

/// For a server that may not be there, or not talk TLS, while another one is the way out.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// All registries, as they are seen from this machine. Tokens, connections, and what was found out
/// about servers last for its life.
pub struct Registries {
    /// Read when the first registry is needed.
    settings: OnceLock<Settings>,
    load: Box<dyn Fn() -> Result<Settings, SettingsError> + Send + Sync>,
    pub(super) credentials: Credentials,
    pub(super) auth: Auth,
    limits: Limits,
    clients: Mutex<HashMap<(TlsOptions, Kind), Arc<Client>>>,
    /// By base URL: whether a server has ever answered.
    answers: Mutex<HashMap<String, bool>>,
    cancelled: Cancelled,
}

impl std::fmt::Debug for Registries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registries").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// A registry.
    Registry,
    /// One that may not be there.
    Probe,
    /// A realm that tokens come from: it sends nobody elsewhere.
    Realm { public_only: bool },
}

/// One repository of a registry.
#[derive(Debug, Clone)]
pub struct Repository<'a> {
    pub(super) registries: &'a Registries,
    host: String,
    name: String,
}

/// A question to a registry.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// `GET`, for example.
    pub method: &'static str,
    /// Of what.
    pub target: Target,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// What is sent.
    pub body: Body<'a>,
    /// What it needs to be allowed to do.
    pub access: Access<'a>,
    /// What it is about, for messages: "`app:1`".
    pub what: String,
}

/// What is asked.
#[derive(Debug, Clone)]
pub enum Target {
    /// Below `/`.
    Host(String),
    /// Below `/v2/` itself.
    Registry(String),
    /// Below `/v2/NAME/`.
    Repository(String),
    /// Where the registry said: for uploads. Whoever it is, only the registry itself is told who we
    /// are.
    Url(Url),
}

impl<'a> Call<'a> {
    /// A question without a body.
    pub fn new(method: &'static str, target: Target, access: Access<'a>, what: &str) -> Self {
        let (headers, what) = (Vec::new(), what.to_owned());
        Self { method, target, headers, body: Body::Empty, access, what }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

impl Registries {
    /// Registries with the settings that `load` gives once one is needed, to whom we are who
    /// `credentials` say. Nothing is asked any more once `cancelled` is true.
    pub fn new(
        load: impl Fn() -> Result<Settings, SettingsError> + Send + Sync + 'static,
        credentials: Credentials,
        limits: Limits,
        cancelled: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            settings: OnceLock::new(),
            load: Box::new(load),
            credentials,
            auth: Auth::default(),
            limits,
            clients: Mutex::default(),
            answers: Mutex::default(),
            cancelled: Cancelled::new(cancelled),
        }
    }

    /// The repository that an image's name is in.
    pub fn repository(&self, reference: &Reference) -> Repository<'_> {
        let (host, name) = (reference.domain().to_owned(), reference.path().to_owned());
        Repository { registries: self, host, name }
    }

    /// The repository `HOST/NAME`, as [`Repository`] shows itself.
    pub fn repository_named(&self, text: &str) -> Option<Repository<'_>> {
        let (host, name) = text.split_once('/')?;
        Some(Repository { registries: self, host: host.to_owned(), name: name.to_owned() })
    }

    fn settings(&self) -> Result<&Settings, RegistryError> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let loaded = (self.load)()?;
        Ok(self.settings.get_or_init(|| loaded))
    }

    /// The limits that it works with.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.is()
    }

    /// For a realm that tokens come from, which may be on this machine only if it is trusted.
    pub(super) fn token_client(
        &self,
        realm: &Url,
        trusted: bool,
    ) -> Result<Arc<Client>, RegistryError> {
        let endpoints = self.settings()?.endpoints(&realm.host_and_port());
        let own = endpoints.into_iter().find(|endpoint| !endpoint.is_mirror);
        let tls = own.map(|endpoint| endpoint.tls).unwrap_or_default();
        Ok(self.client(&tls, Kind::Realm { public_only: !trusted }))
    }

    fn client(&self, tls: &TlsOptions, kind: Kind) -> Arc<Client> {
        let mut clients = lock(&self.clients);
        let limits = self.limits;
        let make = || {
            let connect = limits.connect.min(PROBE_PATIENCE);
            let limits = match kind {
                Kind::Registry => limits,
                Kind::Probe => Limits { connect, attempts: 1, ..limits },
                Kind::Realm { .. } => Limits { redirects: 0, ..limits },
            };
            let client = Client::new(limits, self.cancelled.clone()).with_tls(tls.clone());
            let public_only = matches!(kind, Kind::Realm { public_only: true });
            Arc::new(if public_only { client.public_only() } else { client })
        };
        Arc::clone(clients.entry((tls.clone(), kind)).or_insert_with(make))
    }

    /// Notes whether a server answers.
    fn note(&self, base: &str, answers: bool) {
        let mut known = lock(&self.answers);
        // One that has answered once is only tired: nobody looks for it elsewhere.
        if answers || !known.contains_key(base) {
            known.insert(base.to_owned(), answers);
        }
    }

    /// Whom to ask of a registry, without those that are known to be dead.
    fn endpoints(&self, host: &str, with_mirrors: bool) -> Result<Vec<Endpoint>, RegistryError> {
        let mut endpoints = self.settings()?.endpoints(host);
        let known = lock(&self.answers);
        let answers = |endpoint: &Endpoint| known.get(&endpoint.base).copied();
        let found = endpoints.iter().position(|e| !e.is_mirror && answers(e) == Some(true));
        if let Some(found) = found {
            let base = endpoints[found].base.clone();
            endpoints.retain(|endpoint| endpoint.is_mirror || endpoint.base == base);
        }
        endpoints.retain(|endpoint| with_mirrors || !endpoint.is_mirror);
        if self.settings()?.only_mirrors() && endpoints.iter().any(|endpoint| endpoint.is_mirror) {
            endpoints.retain(|endpoint| endpoint.is_mirror);
        }
        let is_last_own = |at: usize| at + 1 == endpoints.len();
        let keep: Vec<bool> = endpoints
            .iter()
            .enumerate()
            .map(|(at, endpoint)| is_last_own(at) || answers(endpoint) != Some(false))
            .collect();
        let mut keep = keep.into_iter();
        endpoints.retain(|_| keep.next().unwrap_or(true));
        Ok(endpoints)
    }
}

impl Repository<'_> {
    /// The registry's name, as in an image's name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's name in the registry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks the registry itself. Any answer is one, but for 401.
    ///
    /// # Errors
    /// [`RegistryError::Http`], [`RegistryError::Denied`], and what getting a token fails with.
    pub fn request(&self, call: &Call<'_>) -> Result<Response, RegistryError> {
        self.ask(call, false, Ok)
    }

    /// Asks a mirror, or else the registry. `take` makes something of the answer; where it cannot, the
    /// next one is asked.
    ///
    /// # Errors
    /// As [`Repository::request`], and what `take` returns.
    pub(super) fn read<T>(
        &self,
        call: &Call<'_>,
        with_mirrors: bool,
        take: impl Fn(Response) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let only_mirrors = self.registries.settings()?.only_mirrors();
        self.ask(call, with_mirrors || only_mirrors, take)
    }

    fn ask<T>(
        &self,
        call: &Call<'_>,
        with_mirrors: bool,
        take: impl Fn(Response) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let endpoints = self.registries.endpoints(&self.host, with_mirrors)?;
        let mut endpoints = endpoints.iter().peekable();
        while let Some(endpoint) = endpoints.next() {
            let is_last = endpoints.peek().is_none();
            let result = self.ask_one(endpoint, call, is_last);
            // Who talks TLS and does not believe us is there, and says more that way than in the open.
            let unreachable = match &result {
                Err(RegistryError::Http(HttpError::Certificates(_))) => true,
                Err(RegistryError::Http(err @ HttpError::Transport { .. })) => {
                    endpoint.is_mirror || !(err.is_untrusted() || err.is_turned_away())
                }
                _ => false,
            };
            self.registries.note(&endpoint.base, !unreachable);
            match result.and_then(&take) {
                Err(RegistryError::Http(HttpError::Cancelled)) => break,
                Err(_) if !is_last && (unreachable || endpoint.is_mirror) => {}
                result => return result,
            }
        }
        Err(HttpError::Cancelled.into())
    }

    fn ask_one(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        is_last: bool,
    ) -> Result<Response, RegistryError> {
        let registries = self.registries;
        let base = parse_url(&endpoint.base)?;
        let name = format!("{}{}", endpoint.prefix, self.name);
        let url = match &call.target {
            Target::Host(path) => parse_url(&format!("{}/{path}", endpoint.base))?,
            Target::Registry(path) => parse_url(&format!("{}/v2/{path}", endpoint.base))?,
            Target::Repository(path) => parse_url(&format!("{}/v2/{name}/{path}", endpoint.base))?,
            Target::Url(url) => url.clone(),
        };
        let kind = if is_last { Kind::Registry } else { Kind::Probe };
        let client = registries.client(&endpoint.tls, kind);
        let own_host = base.host_and_port();
        let host = if endpoint.is_mirror { host_of(&own_host) } else { &self.host };
        let scopes = call.access.scopes(&name);
        let site = Site { base: &base, host, scopes: &scopes, what: &call.what };
        let is_own = url.same_origin(&base);
        let mut authorization = if is_own { registries.authorization(&site)? } else { None };
        // What was shown may have died on the way; what comes fresh from its source has not.
        let mut rounds = 0..1;
        loop {
            let mut headers = call.headers.clone();
            headers.extend(authorization.iter().map(|text| ("Authorization".into(), text.clone())));
            let (method, body) = (call.method, call.body);
            let request = Request { method, url: url.clone(), headers, body };
            let response = client.send(&request)?;
            // Who is somewhere else has no business with who we are.
            if response.status != 401 || !response.url.same_origin(&base) {
                return Ok(response);
            }
            let challenges: Vec<_> =
                response.headers("www-authenticate").flat_map(challenge::parse).collect();
            let said = said(response);
            if rounds.next().is_some() {
                authorization = registries.answer(&site, &challenges)?;
                if authorization.is_some() {
                    continue;
                }
            }
            let known = registries.credentials.get(host)?.is_some();
            let (what, host) = (call.what.clone(), host.to_owned());
            return Err(RegistryError::Denied { what, host, known, said });
        }
    }

    /// Turns an answer that is no success into an error.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::Denied`], [`RegistryError::Refused`].
    pub fn success(&self, call: &Call<'_>, response: Response) -> Result<Response, RegistryError> {
        let status = response.status;
        if (200..300).contains(&status) {
            return Ok(response);
        }
        let what = call.what.clone();
        let said = said(response);
        Err(match status {
            404 => RegistryError::NotFound { what, said },
            401 | 403 => {
                let known = self.registries.credentials.get(&self.host)?.is_some();
                RegistryError::Denied { what, host: self.host.clone(), known, said }
            }
            status => RegistryError::Refused { what, status, said },
        })
    }
}

/// `HOST/NAME`.
impl std::fmt::Display for Repository<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.host, self.name)
    }
}

/// What an error's body says. It is read to its end, so that the connection can be used again.
fn said(response: Response) -> Said {
    let mut body = Vec::new();
    // What did not come says nothing.
    drop(response.into_body().take(MAX_ERROR_BYTES).read_to_end(&mut body));
    Said::of(&body)
}

fn parse_url(text: &str) -> Result<Url, RegistryError> {
    let failed = |reason| HttpError::Url { url: text.escape_debug().to_string(), reason };
    Ok(Url::parse(text).map_err(failed)?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
