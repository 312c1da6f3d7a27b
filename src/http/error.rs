//! [`HttpError`]: why there is no response.

/// Why a server gives no answer that has no TLS.
pub(super) const NO_TLS: &str = "it does not talk TLS";
/// What stands before why a server ends a connection that it has begun.
pub(super) const TURNED_AWAY: &str = "it ends the TLS connection: ";

/// Why there is no response. A status like 404 is none: it is a response.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A URL that nothing can be fetched from.
    #[error("`{url}` is no valid URL: {reason}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The server could not be reached, or did not answer as a server should.
    #[error("cannot reach `{url}`: {reason}")]
    Transport {
        /// What was asked for, without a password.
        url: String,
        /// What the network said.
        reason: String,
    },
    /// One redirect after the other.
    #[error("`{url}` redirects more than {limit} times")]
    Redirects {
        /// The first of them.
        url: String,
        /// How many are followed.
        limit: u32,
    },
    /// A variable such as `HTTPS_PROXY` does not hold a URL.
    #[error("the proxy in the environment is no valid URL")]
    Proxy,
    /// There is nothing to tell servers from impostors by.
    #[error("no certificate authorities are known on this machine{0}")]
    Certificates(String),
    /// A certificate or key of the user's that cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    Pem {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A body could not be read from where it comes from.
    #[error("cannot read what is to be sent to `{url}`")]
    Body {
        /// Where it was to be sent.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl HttpError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Certificates(_) => {
                Some("install `ca-certificates`, or name a file of them in SSL_CERT_FILE")
            }
            Self::Proxy => Some("see HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"),
            Self::Transport { .. } if self.is_untrusted() => {
                Some("name a file with the certificate of who signed it in SSL_CERT_FILE")
            }
            _ => None,
        }
    }

    /// Whether the server's certificate is not believed.
    pub fn is_untrusted(&self) -> bool {
        matches!(self, Self::Transport { reason, .. } if reason.contains("certificate"))
    }

    /// Whether the server talks TLS, and not with us.
    pub fn is_turned_away(&self) -> bool {
        matches!(self, Self::Transport { reason, .. } if reason.starts_with(TURNED_AWAY))
    }

    /// Whether the server talks plain HTTP where TLS was expected.
    pub fn is_without_tls(&self) -> bool {
        matches!(self, Self::Transport { reason, .. } if reason == NO_TLS)
    }
}
