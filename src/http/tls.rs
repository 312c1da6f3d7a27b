//! [`TlsOptions`]: whom a client trusts beyond those whom the machine trusts, and who it is itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::HttpError;

/// How the other side of a connection proves who it is, and we to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// Files of certificates (PEM) that are trusted beside the system's.
    pub ca: Vec<PathBuf>,
    /// What we show to a server that asks.
    pub client: Option<ClientCertificate>,
    /// Whether the server's certificate is verified at all.
    pub verify: bool,
}

/// A certificate and its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// The certificate, with those that lead to its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { ca: Vec::new(), client: None, verify: true }
    }
}

impl TlsOptions {
    /// What the HTTP library is to do about it.
    pub(super) fn config(&self) -> Result<TlsConfig, HttpError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
        if self.verify {
            let mut roots = self.own_roots()?;
            roots.extend(native_roots(roots.is_empty())?);
            config = config.root_certs(RootCerts::new_with_certs(&roots));
        } else {
            config = config.disable_verification(true);
        }
        if let Some(client) = &self.client {
            config = config.client_cert(Some(client.read()?));
        }
        Ok(config.build())
    }

    fn own_roots(&self) -> Result<Vec<Certificate<'static>>, HttpError> {
        let mut roots = Vec::new();
        for path in &self.ca {
            let (certificates, _) = read_pem(path)?;
            if certificates.is_empty() {
                return Err(pem_error(path, "it holds no certificate".to_owned()));
            }
            roots.extend(certificates);
        }
        Ok(roots)
    }
}

impl ClientCertificate {
    fn read(&self) -> Result<ClientCert, HttpError> {
        let (chain, _) = read_pem(&self.cert)?;
        if chain.is_empty() {
            return Err(pem_error(&self.cert, "it holds no certificate".to_owned()));
        }
        let (_, key) = read_pem(&self.key)?;
        let key = key.ok_or_else(|| pem_error(&self.key, "it holds no private key".to_owned()))?;
        Ok(ClientCert::new_with_certs(&chain, key))
    }
}

/// The certificate authorities of this machine, or those in `SSL_CERT_FILE` and `SSL_CERT_DIR`.
fn native_roots(required: bool) -> Result<Vec<Certificate<'static>>, HttpError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() && required {
        let cause = found.errors.first().map(|err| format!(": {err}"));
        return Err(HttpError::Certificates(cause.unwrap_or_default()));
    }
    Ok(found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect())
}

fn read_pem(
    path: &Path,
) -> Result<(Vec<Certificate<'static>>, Option<PrivateKey<'static>>), HttpError> {
    let bytes = fs::read(path).map_err(|err| pem_error(path, err.to_string()))?;
    let (mut certificates, mut key) = (Vec::new(), None);
    for item in parse_pem(&bytes) {
        match item.map_err(|err| pem_error(path, err.to_string()))? {
            PemItem::Certificate(certificate) => certificates.push(certificate),
            PemItem::PrivateKey(found) => key = key.or(Some(found)),
            _ => {}
        }
    }
    Ok((certificates, key))
}

fn pem_error(path: &Path, reason: String) -> HttpError {
    HttpError::Pem { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_hold_nothing_are_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_owned();
        let client = ClientCertificate { cert: path.clone(), key: path.clone() };
        for options in [
            TlsOptions { ca: vec![path.clone()], ..TlsOptions::default() },
            TlsOptions { client: Some(client), verify: false, ..TlsOptions::default() },
            TlsOptions { ca: vec!["/nowhere/ca.pem".into()], ..TlsOptions::default() },
        ] {
            let err = options.config().expect_err("no certificate").to_string();
            let known = err.contains("holds no certificate") || err.contains("/nowhere/ca.pem");
            assert!(known, "{err}");
        }
    }
}
