//! What the network and the library say, in our words.

use std::io::{self, Read};

use rustls::{CertificateError, InvalidMessage};
use ureq::Timeout;

use super::cancel::Cancelled;
use super::error::{NO_TLS, TURNED_AWAY};

/// Why there is no answer, or no more of one.
pub(super) fn reason(err: &ureq::Error) -> String {
    match err {
        ureq::Error::Io(err) => {
            let tls = err.get_ref().and_then(|inner| inner.downcast_ref());
            match (tls, err.kind()) {
                (Some(tls), _) => tls_reason(tls),
                (None, io::ErrorKind::UnexpectedEof) => "the connection broke off".to_owned(),
                _ => err.to_string(),
            }
        }
        ureq::Error::Timeout(Timeout::PerRead | Timeout::PerWrite) => "it fell silent".to_owned(),
        ureq::Error::Timeout(phase) => format!("it takes too long ({phase})"),
        ureq::Error::Rustls(err) => tls_reason(err),
        err => err.to_string(),
    }
}

/// A body whose errors are said in our words.
pub(super) struct Legible {
    body: ureq::BodyReader<'static>,
    cancelled: Cancelled,
}

impl Legible {
    pub(super) fn new(body: ureq::BodyReader<'static>, cancelled: Cancelled) -> Self {
        Self { body, cancelled }
    }
}

impl Read for Legible {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.body.read(buffer) {
            // A connection that we broke looks like one that ends in order.
            Ok(0) | Err(_) if self.cancelled.is() => Err(io::Error::other("cancelled")),
            Ok(read) => Ok(read),
            Err(err) => {
                let kind = err.kind();
                Err(io::Error::new(kind, reason(&ureq::Error::from(err))))
            }
        }
    }
}

fn tls_reason(err: &rustls::Error) -> String {
    match err {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is not signed by anybody who is trusted here".to_owned()
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => NO_TLS.to_owned(),
        rustls::Error::AlertReceived(alert) => {
            format!("{TURNED_AWAY}{alert:?}")
        }
        err => err.to_string(),
    }
}
