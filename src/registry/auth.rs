//! [`Auth`]: what is shown to a registry, and how it is got.
//!
//! A registry that wants to know more answers 401 and says how. Nothing is sent before that, and what
//! is sent goes to the registry itself or to the realm that it names, as far as that is a place to
//! send a password to. How a registry wants to be asked is remembered, and so are tokens, for each
//! registry and scope.

use std::collections::HashMap;
use std::io::Read;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::challenge::Challenge;
use super::client::Registries;
use super::credentials::Credential;
use super::error::{RegistryError, Said};
use crate::http::{Body, Request, Response, Url, basic, is_local};

/// How long a token is good for where its server does not say (distribution's token specification).
const DEFAULT_LIFE: Duration = Duration::from_mins(1);

/// The most bytes of an answer with a token.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// What a request needs to be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access<'a> {
    /// Nothing: it asks whether somebody is there.
    Nothing,
    /// To read of the repository.
    Pull,
    /// To read of it and to write to it.
    Push,
    /// To write to it, and to read of another one, blobs of which are mounted.
    Mount(&'a str),
    /// To remove what is in it.
    Delete,
    /// To list the registry's repositories.
    Catalog,
}

impl Access<'_> {
    /// The scopes of a token for it.
    pub(super) fn scopes(self, repository: &str) -> Vec<String> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Pull => vec![format!("repository:{repository}:pull")],
            Self::Push => vec![format!("repository:{repository}:pull,push")],
            Self::Mount(from) => vec![
                format!("repository:{repository}:pull,push"),
                format!("repository:{from}:pull"),
            ],
            Self::Delete => vec![format!("repository:{repository}:delete")],
            Self::Catalog => vec!["registry:catalog:*".to_owned()],
        }
    }
}

/// Whom something is shown to, and for what.
#[derive(Debug)]
pub(super) struct Site<'a> {
    /// The endpoint's base URL.
    pub(super) base: &'a Url,
    /// As credentials are kept: the registry's name.
    pub(super) host: &'a str,
    /// What the request needs.
    pub(super) scopes: &'a [String],
    /// What is asked for, for messages.
    pub(super) what: &'a str,
}

/// What is known of how registries want to be asked.
#[derive(Debug, Default)]
pub(super) struct Auth {
    /// By the endpoint's base URL.
    challenges: Mutex<HashMap<String, Challenge>>,
    /// By the endpoint's base URL and the scopes.
    tokens: Mutex<HashMap<(String, Vec<String>), Token>>,
}

/// Not `Debug`: it is as good as a password for as long as it lives.
struct Token {
    header: String,
    until: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Registries {
    /// What to send along, as far as the endpoint has said before that it wants something.
    pub(super) fn authorization(&self, site: &Site<'_>) -> Result<Option<String>, RegistryError> {
        let key = (site.base.to_string(), site.scopes.to_vec());
        if let Some(token) = lock(&self.auth.tokens).get(&key)
            && token.until > Instant::now()
        {
            return Ok(Some(token.header.clone()));
        }
        let known = lock(&self.auth.challenges).get(&key.0).cloned();
        known.map_or(Ok(None), |challenge| self.meet(site, &challenge))
    }

    /// What to send after a 401; `None` where nothing would help.
    pub(super) fn answer(
        &self,
        site: &Site<'_>,
        challenges: &[Challenge],
    ) -> Result<Option<String>, RegistryError> {
        let bearer = challenges.iter().find(|one| matches!(one, Challenge::Bearer { .. }));
        let Some(challenge) = bearer.or(challenges.first()) else { return Ok(None) };
        // The scope is that of this one request.
        let kept = match challenge.clone() {
            Challenge::Bearer { realm, service, .. } => {
                Challenge::Bearer { realm, service, scope: None }
            }
            Challenge::Basic => Challenge::Basic,
        };
        lock(&self.auth.challenges).insert(site.base.to_string(), kept);
        self.meet(site, challenge)
    }

    fn meet(
        &self,
        site: &Site<'_>,
        challenge: &Challenge,
    ) -> Result<Option<String>, RegistryError> {
        let credential = self.credentials.get(site.host)?;
        match challenge {
            Challenge::Basic => Ok(match credential {
                Some(Credential::Basic { user, password }) => Some(basic(&user, &password)),
                _ => None,
            }),
            Challenge::Bearer { realm, service, scope } => {
                let scopes = wanted(site.scopes, scope.as_deref());
                let realm = Realm::of(site, realm)?;
                let response =
                    self.ask_realm(site, &realm, service.as_deref(), &scopes, credential.as_ref())?;
                let token = read_token(site, &realm, response, credential.is_some())?;
                let header = token.header.clone();
                let key = (site.base.to_string(), site.scopes.to_vec());
                lock(&self.auth.tokens).insert(key, token);
                Ok(Some(header))
            }
        }
    }

    fn ask_realm(
        &self,
        site: &Site<'_>,
        realm: &Realm,
        service: Option<&str>,
        scopes: &[String],
        credential: Option<&Credential>,
    ) -> Result<Response, RegistryError> {
        let mut form = Form::default();
        if let Some(service) = service {
            form.add("service", service);
        }
        let client = self.token_client(&realm.url, realm.is_trusted(site))?;
        if let Some(Credential::IdentityToken(token)) = credential {
            form.add("grant_type", "refresh_token");
            form.add("client_id", "mica");
            if !scopes.is_empty() {
                form.add("scope", &scopes.join(" "));
            }
            form.add("refresh_token", token);
            let request = Request { method: "POST", ..Request::get(realm.url.clone()) }
                .header("Content-Type", "application/x-www-form-urlencoded")
                .body(Body::Bytes(form.0.as_bytes()));
            return Ok(client.send(&request)?);
        }
        for scope in scopes {
            form.add("scope", scope);
        }
        let mut authorization = None;
        if let Some(Credential::Basic { user, password }) = credential {
            form.add("account", user);
            form.add("client_id", "mica");
            authorization = Some(basic(user, password));
        }
        let joint = if realm.url.query().is_some() { '&' } else { '?' };
        let url = format!("{}{joint}{}", realm.url, form.0);
        let url = Url::parse(&url).map_err(|reason| realm.refused(site, reason))?;
        let mut request = Request::get(url);
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization);
        }
        Ok(client.send(&request)?)
    }
}

/// Reads the token of an answer.
fn read_token(
    site: &Site<'_>,
    realm: &Realm,
    response: Response,
    known: bool,
) -> Result<Token, RegistryError> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let failed = |reason: String| RegistryError::Token {
        host: site.host.to_owned(),
        realm: realm.url.bare().to_string(),
        reason,
    };
    let status = response.status;
    let mut body = Vec::new();
    let read = response.into_body().take(MAX_ANSWER_BYTES).read_to_end(&mut body);
    match status {
        200 => read.map_err(|err| failed(err.to_string()))?,
        401 | 403 => {
            let (what, host) = (site.what.to_owned(), site.host.to_owned());
            return Err(RegistryError::Denied { what, host, known, said: Said::of(&body) });
        }
        status => return Err(failed(format!("it answers {status}{}", Said::of(&body)))),
    };
    let no_json = |_| failed("its answer is no JSON".to_owned());
    let answer: Answer = serde_json::from_slice(&body).map_err(no_json)?;
    let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token);
    let token = token.unwrap_or_default();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(failed("its answer has none".to_owned()));
    }
    let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
    // What lives on for a moment only may be dead on arrival.
    let until = Instant::now() + life.min(Duration::from_hours(24)).mul_f32(0.9);
    Ok(Token { header: format!("Bearer {token}"), until })
}

/// Where tokens are given.
struct Realm {
    url: Url,
}

impl Realm {
    /// Looks whether it is a place to go to: a password may be sent there.
    fn of(site: &Site<'_>, text: &str) -> Result<Self, RegistryError> {
        let refused = |reason| {
            let shown = text.chars().take(100).flat_map(char::escape_debug).collect();
            RegistryError::Realm { host: site.host.to_owned(), realm: shown, reason }
        };
        let url = Url::parse(text).map_err(refused)?;
        match url.scheme() {
            "https" => {}
            "http" if site.base.scheme() == "http" => {}
            "http" => return Err(refused("what is sent to it can be read on the way")),
            _ => return Err(refused("only https can be asked for a token")),
        }
        if url.credentials().is_some() {
            return Err(refused("it has a user in it"));
        }
        let realm = Self { url };
        if !realm.is_trusted(site) && realm.is_local_by_name() {
            return Err(refused("it is this machine's or its link's own address"));
        }
        Ok(realm)
    }

    fn refused(&self, site: &Site<'_>, reason: &'static str) -> RegistryError {
        let realm = self.url.bare().to_string();
        RegistryError::Realm { host: site.host.to_owned(), realm, reason }
    }

    /// Whether it may be on this machine: where the registry is there too.
    fn is_trusted(&self, site: &Site<'_>) -> bool {
        self.url.host() == site.base.host() || is_local_host(site.base)
    }

    /// Other names are looked at when they are connected to.
    fn is_local_by_name(&self) -> bool {
        let name = bare_host(&self.url);
        name == "localhost" || name.parse().is_ok_and(is_local)
    }
}

/// Whether a server is on this machine or its link.
fn is_local_host(url: &Url) -> bool {
    let name = bare_host(url);
    if let Ok(address) = name.parse::<IpAddr>() {
        return is_local(address);
    }
    let found = (name, url.port()).to_socket_addrs();
    found.is_ok_and(|mut all| all.any(|address| is_local(address.ip())))
}

fn bare_host(url: &Url) -> &str {
    url.host().trim_start_matches('[').trim_end_matches(']')
}

/// The scopes to ask for: those that the request needs, and what the registry says beyond them. A
/// mirror may call the repository by another name, so of that only its own word counts.
fn wanted(needed: &[String], said: Option<&str>) -> Vec<String> {
    let Some(said) = said else { return needed.to_vec() };
    let resource = |scope: &str| scope.rsplit_once(':').map(|(resource, _)| resource.to_owned());
    let said: Vec<&str> = said.split_ascii_whitespace().collect();
    let is_ours = |scope: &&str| needed.iter().any(|own| resource(own) == resource(scope));
    if said.iter().any(is_ours) {
        let others = said.iter().filter(|scope| !is_ours(scope)).map(|scope| (*scope).to_owned());
        return needed.iter().cloned().chain(others).collect();
    }
    let rest = needed.iter().skip(1).cloned();
    said.into_iter().map(str::to_owned).chain(rest).collect()
}

/// Names and values as a browser sends them.
#[derive(Default)]
pub(super) struct Form(pub(super) String);

impl Form {
    pub(super) fn add(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z'
                | b'A'..=b'Z'
                | b'0'..=b'9'
                | b'-'
                | b'.'
                | b'_'
                | b'~'
                | b':'
                | b'/' => {
                    self.0.push(char::from(byte));
                }
                byte => self.0.push_str(&format!("%{byte:02X}")),
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm(base: &str, realm: &str) -> Result<(), String> {
        let base = Url::parse(base).expect("a URL");
        let site = Site { base: &base, host: "r.example", scopes: &[], what: "it" };
        Realm::of(&site, realm).map(drop).map_err(|err| err.to_string())
    }

    #[test]
    fn realms() {
        for good in ["https://auth.example/token?x=y", "https://10.0.0.1/", "https://192.0.2.1/t"] {
            assert_eq!(realm("https://192.0.2.1", good), Ok(()));
        }
        for bad in [
            "http://auth.example/token",
            "file:///etc/passwd",
            "/token",
            "https://user:pw@auth.example/",
            "https://localhost/token",
            "https://127.0.0.1/token",
            "https://[::1]/token",
            "https://169.254.169.254/latest",
            "https://0.0.0.0/",
            "gopher://x/",
        ] {
            assert!(realm("https://192.0.2.1", bad).is_err(), "{bad}");
        }
        for good in ["http://127.0.0.1:5001/token", "https://localhost/t", "http://192.0.2.1/"] {
            assert_eq!(realm("http://127.0.0.1:5000", good), Ok(()));
        }
    }

    #[test]
    fn scopes() {
        let check = |access: Access<'_>, said: Option<&str>, expected: &[&str]| {
            assert_eq!(wanted(&access.scopes("a/b"), said), expected);
        };
        let (pull, push) = ("repository:a/b:pull", "repository:a/b:pull,push");
        check(Access::Pull, None, &[pull]);
        check(Access::Pull, Some(pull), &[pull]);
        check(Access::Push, Some(pull), &[push]);
        check(Access::Pull, Some("repository:cache/a/b:pull"), &["repository:cache/a/b:pull"]);
        check(Access::Pull, Some("repository:a/b:pull x:y:z"), &[pull, "x:y:z"]);
        check(Access::Mount("c/d"), Some(push), &[push, "repository:c/d:pull"]);
        check(Access::Nothing, None, &[]);
    }

    #[test]
    fn forms() {
        let mut form = Form::default();
        form.add("service", "a b&c");
        form.add("scope", "repository:x/y:pull,push");
        assert_eq!(form.0, "service=a%20b%26c&scope=repository:x/y:pull%2Cpush");
    }
}
