//! What an executor's flags say of registries.

use std::path::{Path, PathBuf};

use super::flags::Given;
use crate::cli::CliError;
use crate::oci::Reference;
use crate::registry::settings::{ClientCertificate, Overrides};

/// Kaniko's name for Docker Hub's registry.
pub(super) const DOCKER_HUB: &str = "index.docker.io";

/// The overrides, where these are the names that something is pushed to.
pub(super) fn overrides(given: &Given, pushed: &[Reference]) -> Result<Overrides, CliError> {
    let mut said = Overrides::default();
    let hosts = pushed.iter().map(|name| name.domain().to_owned());
    if given.is("insecure") || given.is("skip-tls-verify") {
        for host in hosts.clone() {
            // It is a registry, as it is part of a name.
            said.insecure(&host).map_err(CliError::Usage)?;
        }
    }
    if given.is("insecure-pull") || given.is("skip-tls-verify-pull") {
        said.insecure_but(hosts);
    }
    for flag in ["insecure-registry", "skip-tls-verify-registry"] {
        for host in given.many(flag) {
            said.insecure(host).map_err(|why| wrong(flag, host, &why))?;
        }
    }
    certificates(given, &mut said)?;
    mirrors(given, &mut said)?;
    if given.is("skip-default-registry-fallback") {
        said.only_mirrors();
    }
    Ok(said)
}

/// `HOST=FILE` and `HOST=CERT,KEY`.
fn certificates(given: &Given, said: &mut Overrides) -> Result<(), CliError> {
    let flag = "registry-certificate";
    for text in given.many(flag) {
        let found = text.split_once('=').filter(|(_, file)| !file.is_empty());
        let (host, file) = found.ok_or_else(|| wrong(flag, text, "write it as HOST=FILE"))?;
        said.certificate(host, absolute(file)).map_err(|why| wrong(flag, text, &why))?;
    }
    let flag = "registry-client-cert";
    for text in given.many(flag) {
        let found = text.split_once('=').and_then(|(host, files)| {
            let (cert, key) = files.split_once(',')?;
            Some((host, ClientCertificate { cert: absolute(cert), key: absolute(key) }))
        });
        let (host, client) = found.ok_or_else(|| wrong(flag, text, "write it as HOST=CERT,KEY"))?;
        said.client(host, client).map_err(|why| wrong(flag, text, &why))?;
    }
    Ok(())
}

/// `HOST=MIRROR[;HOST=MIRROR…]`, and mirrors of Docker Hub.
fn mirrors(given: &Given, said: &mut Overrides) -> Result<(), CliError> {
    let flag = "registry-map";
    for text in given.many(flag).flat_map(|text| text.split(';')).filter(|text| !text.is_empty()) {
        let how = "write it as REGISTRY=MIRROR";
        let (host, mirror) = text.split_once('=').ok_or_else(|| wrong(flag, text, how))?;
        said.mirror(host, mirror).map_err(|why| wrong(flag, text, &why))?;
    }
    let flag = "registry-mirror";
    for mirror in given.many(flag) {
        said.mirror(DOCKER_HUB, mirror).map_err(|why| wrong(flag, mirror, &why))?;
    }
    Ok(())
}

fn absolute(path: &str) -> PathBuf {
    std::path::absolute(Path::new(path)).unwrap_or_else(|_| PathBuf::from(path))
}

/// A flag that cannot mean what was written.
pub(super) fn wrong(flag: &str, text: &str, why: &str) -> CliError {
    CliError::Usage(format!("`--{flag} {}`: {why}", text.escape_debug()))
}
