//! [`Authority`]: who signs the certificates of a test.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;

/// Signs certificates that whoever trusts it believes.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Its own certificate, by which others believe it.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server on this machine, which asks for a certificate of `clients` where there are any.
    pub(crate) fn server(&self, clients: Option<&Self>) -> ServerConfig {
        let (certificate, key) = self.signed(&named("server", &["127.0.0.1", "localhost"]));
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().expect("known versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.0.der().clone()).expect("a certificate");
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        builder.with_single_cert(vec![certificate.der().clone()], key).expect("a pair")
    }

    /// A certificate of a client, and its key.
    pub(crate) fn client(&self) -> (String, String) {
        let (certificate, key) = self.signed(&named("client", &[]));
        (certificate.pem(), key.serialize_pem())
    }

    /// A certificate of this machine, and its key.
    pub(crate) fn server_pem(&self) -> (String, String) {
        let (certificate, key) = self.signed(&named("server", &["127.0.0.1"]));
        (certificate.pem(), key.serialize_pem())
    }

    fn signed(&self, params: &CertificateParams) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.0).expect("a certificate"), key)
    }
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("names of hosts");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
