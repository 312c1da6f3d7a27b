//! [`Settings`]: mirrors, certificates and plain HTTP for each registry, as far as people have set any.
//!
//! mica's own file is `config.toml`:
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["https://mirror.example"]   # asked first, in this order
//!
//! [registry."registry.example:5000"]
//! ca = "registry.pem"       # also trusted here; relative to this file
//! cert = "client.pem"       # shown to the registry, with `key`
//! key = "client.key"
//! insecure = true           # certificates are not verified, plain HTTP is a way out
//! http = true               # plain HTTP and nothing else
//! ```
//!
//! Of Docker's files, `daemon.json` (`registry-mirrors`, `insecure-registries`) and `certs.d` are read
//! as they are.

mod files;
mod overrides;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

pub use crate::http::{ClientCertificate, TlsOptions};
pub use files::SettingsError;
use files::{Docker, Insecure, Mirror, Registry, Scheme};
pub use overrides::Overrides;

/// Where Docker Hub really is.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Where settings are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// mica's own files; of two that set something for one registry, the later one counts.
    pub own: Vec<PathBuf>,
    /// Docker's `daemon.json`.
    pub docker: Vec<PathBuf>,
    /// Folders as Docker's `certs.d`, with a folder for each registry.
    pub certificates: Vec<PathBuf>,
}

impl Places {
    /// The system's places and the user's.
    pub fn of_environment() -> Self {
        let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let user =
            folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")));
        let with = |system: &str, name: &str| {
            let user = user.as_ref().map(|user| user.join(name));
            [PathBuf::from(system)].into_iter().chain(user).collect()
        };
        Self {
            own: with("/etc/mica/config.toml", "mica/config.toml"),
            docker: with("/etc/docker/daemon.json", "docker/daemon.json"),
            certificates: with("/etc/docker/certs.d", "docker/certs.d"),
        }
    }
}

/// One place to ask for what a registry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://host[:port]`, or `http:`, with a mirror's path; it ends before `/v2/`.
    pub base: String,
    /// For `https:`.
    pub tls: TlsOptions,
    /// Whether this only serves copies: nothing is pushed to it.
    pub is_mirror: bool,
    /// What stands before the name of each repository there: empty, or with a slash in the end.
    pub prefix: String,
}

impl Endpoint {
    /// The same without TLS.
    fn plain(mut self) -> Self {
        self.base = self.base.replacen("https:", "http:", 1);
        self
    }
}

/// What is in force for registries.
#[derive(Debug, Default)]
pub struct Settings {
    registries: BTreeMap<String, Registry>,
    docker: Docker,
    certificates: Vec<PathBuf>,
    files: Vec<PathBuf>,
    verify: Option<bool>,
    /// All registries but these need no certificate.
    insecure_but: Option<BTreeSet<String>>,
    only_mirrors: bool,
}

impl Settings {
    /// Reads the settings of the system and the user.
    ///
    /// # Errors
    /// [`SettingsError`]: a file that is there and cannot be understood.
    pub fn load() -> Result<Self, SettingsError> {
        Self::read(Places::of_environment())
    }

    /// Reads the settings that are at `places`.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn read(places: Places) -> Result<Self, SettingsError> {
        let mut settings = Self { certificates: places.certificates, ..Self::default() };
        for path in places.own {
            if let Some(found) = files::own(&path)? {
                settings.registries.extend(found);
                settings.files.push(path);
            }
        }
        for path in places.docker {
            if let Some(found) = files::docker(&path)? {
                settings.docker.mirrors.extend(found.mirrors);
                settings.docker.insecure.extend(found.insecure);
                settings.files.push(path);
            }
        }
        Ok(settings)
    }

    /// Overrules, for all registries, whether certificates are verified: `false` also allows plain
    /// HTTP, `true` forbids it.
    #[must_use]
    pub fn tls_verify(mut self, verify: Option<bool>) -> Self {
        self.verify = verify;
        self
    }

    /// Adds what a command line says, which counts more than what files do.
    #[must_use]
    pub fn overridden(mut self, overrides: &Overrides) -> Self {
        overrides.apply(&mut self);
        self
    }

    /// Whether a registry that has mirrors is never asked for an image itself.
    pub fn only_mirrors(&self) -> bool {
        self.only_mirrors
    }

    /// Where to ask for what the registry `host` (with its port, where it has one) has, in order:
    /// its mirrors, then the registry itself. A second address of the registry is for when the
    /// first does not talk TLS.
    pub fn endpoints(&self, host: &str) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> =
            self.mirrors(host).iter().flat_map(|mirror| self.mirror(mirror)).collect();
        let address = if host == DOCKER_HUB.0 { DOCKER_HUB.1 } else { host };
        endpoints.extend(self.addresses(host, address, ""));
        endpoints
    }

    /// The registries that something is set for, sorted.
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts: BTreeSet<String> = self.registries.keys().cloned().collect();
        hosts.extend(self.certificates.iter().flat_map(|folder| files::hosts_in(folder)));
        if !self.docker.mirrors.is_empty() {
            hosts.insert(DOCKER_HUB.0.to_owned());
        }
        hosts.extend(self.docker.insecure.iter().filter_map(|insecure| match insecure {
            Insecure::Host(host) => Some(host.clone()),
            Insecure::Network(..) => None,
        }));
        hosts.into_iter().collect()
    }

    /// The networks whose registries need no certificate, as `address/bits`.
    pub fn insecure_networks(&self) -> Vec<String> {
        let networks = self.docker.insecure.iter().filter_map(|insecure| match insecure {
            Insecure::Network(address, bits) => Some(format!("{address}/{bits}")),
            Insecure::Host(_) => None,
        });
        networks.collect()
    }

    /// The files that were read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    fn mirrors(&self, host: &str) -> &[Mirror] {
        match self.registries.get(host) {
            Some(registry) if !registry.mirrors.is_empty() => &registry.mirrors,
            _ if host == DOCKER_HUB.0 => &self.docker.mirrors,
            _ => &[],
        }
    }

    /// Where a mirror is, as far as what is asked of TLS leaves it in.
    fn mirror(&self, mirror: &Mirror) -> Vec<Endpoint> {
        let Mirror { scheme, host, path, prefix } = mirror;
        let mut endpoints = match scheme {
            Some(Scheme::Https) => vec![self.https(host, host, path)],
            Some(Scheme::Http) => vec![self.https(host, host, path).plain()],
            None => self.addresses(host, host, path),
        };
        endpoints.retain(|at| self.verify != Some(true) || !at.base.starts_with("http://"));
        for endpoint in &mut endpoints {
            endpoint.is_mirror = true;
            endpoint.prefix.clone_from(prefix);
        }
        endpoints
    }

    /// The addresses of a host, as far as they are allowed.
    fn addresses(&self, host: &str, address: &str, path: &str) -> Vec<Endpoint> {
        let https = self.https(host, address, path);
        let http = https.clone().plain();
        if self.verify.is_none() && self.registries.get(host).is_some_and(|set| set.http) {
            return vec![http];
        }
        if https.tls.verify { vec![https] } else { vec![https, http] }
    }

    fn https(&self, host: &str, address: &str, path: &str) -> Endpoint {
        let set = self.registries.get(host);
        let mut tls = TlsOptions { ca: Vec::new(), client: None, verify: true };
        for folder in &self.certificates {
            files::certificates(&folder.join(host), &mut tls);
        }
        if let Some(set) = set {
            tls.ca.extend(set.ca.clone());
            tls.client = set.client.clone().or(tls.client);
        }
        // Where somebody went to the trouble of a certificate, it is looked at.
        let is_exempt = || is_loopback(host) && tls.ca.is_empty();
        tls.verify = self.verify.unwrap_or_else(|| {
            let is_insecure = set.is_some_and(|set| set.insecure)
                || self.insecure_but.as_ref().is_some_and(|others| !others.contains(host));
            !is_insecure && !is_exempt() && !self.is_insecure(host)
        });
        let base = format!("https://{address}{path}");
        Endpoint { base, tls, is_mirror: false, prefix: String::new() }
    }

    /// Whether Docker's daemon would talk to the host without looking at its certificate.
    fn is_insecure(&self, host: &str) -> bool {
        let mut addresses: Option<Vec<IpAddr>> = None;
        self.docker.insecure.iter().any(|insecure| match insecure {
            Insecure::Host(name) => name == host,
            Insecure::Network(network, bits) => {
                let addresses = addresses.get_or_insert_with(|| addresses_of(host));
                addresses.iter().any(|address| is_within(*address, *network, *bits))
            }
        })
    }
}

/// The host without its port, and without the brackets of an IPv6 address.
fn name_of(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.split(':').next().unwrap_or(host)
}

/// Whether a host is this machine, by its name alone: Docker asks nobody of it for a certificate.
fn is_loopback(host: &str) -> bool {
    let name = name_of(host);
    name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// The addresses of a host; none where nobody knows it, which the connection will tell.
fn addresses_of(host: &str) -> Vec<IpAddr> {
    let name = name_of(host);
    if let Ok(address) = name.parse() {
        return vec![address];
    }
    (name, 443).to_socket_addrs().map_or_else(|_| Vec::new(), |all| all.map(|a| a.ip()).collect())
}

/// Whether the first `bits` of two addresses of one kind are equal.
fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let (a, b, width) = match (address.to_canonical(), network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128),
        _ => return false,
    };
    (a ^ b).checked_shr(width - u32::from(bits)).unwrap_or(0) == 0
}

/// A path of a settings file, which is relative to that file.
fn beside(file: &Path, path: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("/")).join(path)
}

#[cfg(test)]
mod tests;
