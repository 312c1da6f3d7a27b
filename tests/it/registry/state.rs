//! What a registry knows, and what the distribution specification makes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use base64::Engine;
use mica::oci::Digest;
use serde_json::{Value, json};

use super::wire::{Asked, Fault, Reply, value_of};

/// What has to be shown.
#[derive(Debug, Clone, Default)]
pub(crate) enum Auth {
    #[default]
    Nothing,
    /// A user and a password, as `user:password`.
    Basic(&'static str),
    /// A token that is given for a user and a password. The first one is good for so many requests.
    Bearer(&'static str, usize),
    /// A token that is given for an identity token. The first one is good for so many requests.
    Identity(&'static str, usize),
}

pub(super) type Rule = dyn Fn(&Asked) -> Option<Reply> + Send + Sync;

/// The fault of one request: the `nth` whose `METHOD PATH` has this in it.
pub(super) struct Planned {
    pub(super) part: String,
    pub(super) nth: usize,
    pub(super) fault: Fault,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) blobs: BTreeMap<String, Vec<u8>>,
    /// Which repositories have which blobs.
    pub(super) links: BTreeSet<(String, String)>,
    /// By repository and tag or digest: the media type and the bytes.
    pub(super) manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    /// By number: the repository and what has arrived.
    pub(super) uploads: BTreeMap<usize, Vec<u8>>,
    next_upload: usize,
    /// Bytes of blobs that came.
    pub(super) received: usize,
    pub(super) asked: Vec<Asked>,
    pub(super) faults: Vec<Planned>,
    pub(super) auth: Auth,
    /// By what is shown: how often it is still good, and for what.
    tokens: BTreeMap<String, (usize, Vec<String>)>,
    /// Answers to a path whatever is there.
    pub(super) instead: HashMap<String, Reply>,
    /// For the next questions to a path.
    pub(super) once: HashMap<String, Vec<Reply>>,
    pub(super) rule: Option<Arc<Rule>>,
    /// What a search finds; `None` where there is none.
    pub(super) found: Option<Value>,
}

impl State {
    /// What goes wrong with this request, if anything.
    pub(super) fn fault(&mut self, line: &str) -> Option<Fault> {
        for planned in self.faults.iter_mut().filter(|planned| line.contains(&planned.part)) {
            planned.nth = planned.nth.saturating_sub(1);
        }
        // Of several that are due, the next request gets the second one.
        let is_due = |planned: &Planned| planned.nth == 0 && line.contains(&planned.part);
        let due = self.faults.iter().position(is_due)?;
        Some(self.faults.remove(due).fault)
    }

    pub(super) fn answer(&mut self, asked: &Asked, body: Vec<u8>, base: &str) -> Reply {
        if let Some(reply) = self.rule.clone().and_then(|rule| rule(asked)) {
            return reply;
        }
        if let Some(once) = self.once.get_mut(&asked.path).filter(|once| !once.is_empty()) {
            return once.remove(0);
        }
        if let Some(reply) = self.instead.get(&asked.path) {
            return reply.clone();
        }
        match asked.path.as_str() {
            "/token" => return self.token(asked, &body),
            "/v1/search" => return self.search(asked),
            _ => {}
        }
        let Some(rest) = asked.path.strip_prefix("/v2/") else { return Reply::new(404, "") };
        if let Some(refused) = self.unauthorized(asked, base) {
            return refused;
        }
        match rest {
            "" => return Reply::new(200, "{}"),
            "_catalog" => return self.catalog(asked),
            _ => {}
        }
        if let Some(repository) = rest.strip_suffix("/tags/list") {
            return self.tags(asked, repository);
        }
        for (part, what) in [("/blobs/uploads/", 'u'), ("/blobs/", 'b'), ("/manifests/", 'm')] {
            let Some((repository, name)) = rest.split_once(part) else { continue };
            return match what {
                'u' => self.upload(asked, repository, name, body),
                'b' => self.blob(repository, name),
                _ => self.manifest(asked, repository, name, body),
            };
        }
        Reply::error(404, "NAME_UNKNOWN", "name unknown")
    }

    fn token(&mut self, asked: &Asked, body: &[u8]) -> Reply {
        let form = String::from_utf8_lossy(body);
        let (is_known, uses) = match &self.auth {
            Auth::Bearer(user, uses) => {
                (asked.headers.get("authorization") == Some(&basic(user)), *uses)
            }
            Auth::Identity(token, uses) => {
                let given = value_of(&form, "refresh_token");
                (asked.method == "POST" && given.as_deref() == Some(token), *uses)
            }
            _ => return Reply::new(404, ""),
        };
        if !is_known {
            return Reply::error(401, "UNAUTHORIZED", "unauthorized");
        }
        let asked_for = if body.is_empty() { asked.query.as_str() } else { &form };
        let scopes = asked_for.split('&').filter(|pair| pair.starts_with("scope="));
        let scopes = scopes.filter_map(|pair| value_of(pair, "scope"));
        let scopes: Vec<String> =
            scopes.flat_map(|all| all.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
        let uses = if self.tokens.is_empty() { uses } else { usize::MAX };
        let token = format!("token{}", self.tokens.len());
        self.tokens.insert(format!("Bearer {token}"), (uses, scopes));
        Reply::new(200, json!({"token": token, "expires_in": 300}).to_string())
    }

    fn unauthorized(&mut self, asked: &Asked, base: &str) -> Option<Reply> {
        let shown = asked.headers.get("authorization").map_or("", String::as_str);
        let needed = scopes_of(asked);
        let challenge = match &self.auth {
            Auth::Nothing => return None,
            Auth::Basic(user) if shown == basic(user) => return None,
            Auth::Basic(_) => "Basic realm=\"test\"".to_owned(),
            Auth::Bearer(..) | Auth::Identity(..) => {
                let token = self.tokens.get_mut(shown).filter(|(left, _)| *left > 0);
                if let Some((left, scopes)) = token
                    && needed.iter().all(|needed| scopes.iter().any(|has| covers(has, needed)))
                {
                    *left -= 1;
                    return None;
                }
                let scope = needed.join(" ");
                format!("Bearer realm=\"{base}/token\",service=\"test\",scope=\"{scope}\"")
            }
        };
        let refused = Reply::error(401, "UNAUTHORIZED", "unauthorized");
        Some(refused.header("WWW-Authenticate", &challenge))
    }

    fn search(&self, asked: &Asked) -> Reply {
        let Some(all) = &self.found else { return Reply::new(404, "404 page not found") };
        let (term, most) = (asked.parameter("q"), asked.parameter("n"));
        let results = all.as_array().expect("a list").iter();
        let found = results.filter(|one| one["name"].as_str().expect("a name").contains(&term));
        let found: Vec<&Value> = found.take(most.parse().expect("a number")).collect();
        Reply::new(200, json!({ "num_results": found.len(), "results": found }).to_string())
    }

    /// Two repositories at a time, whatever is asked for.
    fn catalog(&self, asked: &Asked) -> Reply {
        let names = self.manifests.keys().map(|(repository, _)| repository);
        let names: BTreeSet<&String> = names.collect();
        let last = asked.parameter("last");
        let rest: Vec<&String> = names.into_iter().filter(|name| **name > last).collect();
        let page = &rest[..rest.len().min(2)];
        let reply = Reply::new(200, json!({ "repositories": page }).to_string());
        match page.last().filter(|_| rest.len() > 2) {
            Some(last) => {
                let next = format!("</v2/_catalog?last={last}&n=2>; rel=\"next\"");
                reply.header("Link", &next)
            }
            None => reply,
        }
    }

    fn blob(&self, repository: &str, digest: &str) -> Reply {
        let link = (repository.to_owned(), digest.to_owned());
        match self.blobs.get(digest).filter(|_| self.links.contains(&link)) {
            Some(bytes) => Reply::new(200, bytes.clone()).header("Docker-Content-Digest", digest),
            None => Reply::error(404, "BLOB_UNKNOWN", "blob unknown"),
        }
    }

    fn manifest(&mut self, asked: &Asked, repository: &str, name: &str, body: Vec<u8>) -> Reply {
        let key = (repository.to_owned(), name.to_owned());
        if asked.method == "PUT" {
            let manifest: Value = serde_json::from_slice(&body).expect("a manifest");
            let media_type = asked.headers.get("content-type").cloned().unwrap_or_default();
            assert_eq!(manifest["mediaType"], media_type);
            if !self.has_all_of(repository, &manifest) {
                return Reply::error(400, "MANIFEST_BLOB_UNKNOWN", "manifest_blob_unknown");
            }
            let digest = Digest::of(&body).to_string();
            let value = (media_type, body);
            self.manifests.insert((repository.to_owned(), digest.clone()), value.clone());
            self.manifests.insert(key, value);
            return Reply::new(201, "").header("Docker-Content-Digest", &digest);
        }
        if asked.method == "DELETE" {
            let removed = self.manifests.remove(&key).is_some();
            return Reply::new(if removed { 202 } else { 404 }, "");
        }
        match self.manifests.get(&key) {
            Some((media_type, bytes)) => Reply::new(200, bytes.clone())
                .header("Content-Type", media_type)
                .header("Docker-Content-Digest", &Digest::of(bytes).to_string()),
            None => Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        }
    }

    /// Whether all that a manifest or index points to is there.
    fn has_all_of(&self, repository: &str, manifest: &Value) -> bool {
        let key = |part: &Value| {
            (repository.to_owned(), part["digest"].as_str().expect("a digest").to_owned())
        };
        if let Some(manifests) = manifest["manifests"].as_array() {
            return manifests.iter().all(|one| self.manifests.contains_key(&key(one)));
        }
        let layers = manifest["layers"].as_array().expect("layers").iter();
        layers.chain([&manifest["config"]]).all(|blob| self.links.contains(&key(blob)))
    }

    fn tags(&self, asked: &Asked, repository: &str) -> Reply {
        let (last, most) = (asked.parameter("last"), asked.parameter("n").parse());
        let names = self.manifests.keys().filter(|(name, _)| name == repository);
        let tags = names.map(|(_, tag)| tag).filter(|tag| !tag.contains(':') && **tag > last);
        let tags: Vec<&String> = tags.take(most.unwrap_or(usize::MAX)).collect();
        Reply::new(200, json!({"name": repository, "tags": tags}).to_string())
    }

    fn upload(&mut self, asked: &Asked, repository: &str, name: &str, body: Vec<u8>) -> Reply {
        if asked.method == "POST" {
            let (digest, from) = (asked.parameter("mount"), asked.parameter("from"));
            if self.links.contains(&(from, digest.clone())) {
                self.links.insert((repository.to_owned(), digest.clone()));
                return Reply::new(201, "").header("Docker-Content-Digest", &digest);
            }
            self.next_upload += 1;
            self.uploads.insert(self.next_upload, Vec::new());
            return Self::at(202, repository, self.next_upload, 0);
        }
        let number = name.parse().expect("a number");
        let Some(arrived) = self.uploads.get_mut(&number) else {
            return Reply::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown");
        };
        if let Some(range) = asked.headers.get("content-range") {
            let start = range.split('-').next().and_then(|start| start.parse().ok());
            if start != Some(arrived.len()) {
                return Reply::error(416, "RANGE_INVALID", "range_invalid");
            }
        }
        arrived.extend(body);
        let length = arrived.len();
        match asked.method.as_str() {
            "GET" => Self::at(204, repository, number, length),
            "PATCH" => Self::at(202, repository, number, length),
            "DELETE" => {
                self.uploads.remove(&number);
                Reply::new(204, "")
            }
            _ => {
                let bytes = self.uploads.remove(&number).expect("it was there");
                let digest = asked.parameter("digest");
                if Digest::of(&bytes).to_string() != digest {
                    return Reply::error(400, "DIGEST_INVALID", "digest_invalid");
                }
                self.blobs.insert(digest.clone(), bytes);
                self.links.insert((repository.to_owned(), digest.clone()));
                Reply::new(201, "").header("Docker-Content-Digest", &digest)
            }
        }
    }

    fn at(status: u16, repository: &str, number: usize, length: usize) -> Reply {
        Reply::new(status, "")
            .header("Location", &format!("/v2/{repository}/blobs/uploads/{number}?_state=x"))
            .header("Range", &format!("0-{}", length.saturating_sub(1)))
    }
}

/// The scopes that a request needs.
fn scopes_of(asked: &Asked) -> Vec<String> {
    let rest = asked.path.strip_prefix("/v2/").unwrap_or_default();
    if rest == "_catalog" {
        return vec!["registry:catalog:*".to_owned()];
    }
    let parts = ["/blobs/", "/manifests/", "/tags/"];
    let Some((repository, _)) = parts.iter().find_map(|part| rest.split_once(part)) else {
        return Vec::new();
    };
    let reads = matches!(asked.method.as_str(), "GET" | "HEAD") && !rest.contains("/uploads/");
    let actions = match asked.method.as_str() {
        "DELETE" if rest.contains("/manifests/") => "delete",
        _ if reads => "pull",
        _ => "pull,push",
    };
    vec![format!("repository:{repository}:{actions}")]
}

/// Whether a scope that was given allows what another one says.
fn covers(given: &str, needed: &str) -> bool {
    let parts = |scope: &str| {
        let (resource, actions) = scope.rsplit_once(':').expect("a scope");
        (resource.to_owned(), actions.split(',').map(str::to_owned).collect::<BTreeSet<_>>())
    };
    let (given, needed) = (parts(given), parts(needed));
    given.0 == needed.0 && given.1.is_superset(&needed.1)
}

fn basic(user: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user))
}
