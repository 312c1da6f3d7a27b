//! [`Proxies`]: which proxy a request goes through, by the variables that everybody knows.

use std::net::IpAddr;

use super::{HttpError, Url};

/// The proxies of an environment.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    http: Option<String>,
    https: Option<String>,
    exceptions: Vec<Exception>,
}

/// One entry of `NO_PROXY`.
#[derive(Debug, PartialEq, Eq)]
enum Exception {
    /// `*`
    All,
    /// A domain and all below it; with a port for that alone.
    Domain { name: String, port: Option<u16>, itself: bool },
    /// Addresses whose first bits are these.
    Network { address: IpAddr, bits: u8 },
}

impl Proxies {
    /// Reads `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`; in small letters they go first.
    pub(super) fn from(variable: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| {
            let found = variable(&name.to_lowercase()).or_else(|| variable(name));
            found.filter(|value| !value.trim().is_empty())
        };
        let all = get("ALL_PROXY");
        let exceptions = get("NO_PROXY").unwrap_or_default();
        Self {
            http: get("HTTP_PROXY").or_else(|| all.clone()),
            https: get("HTTPS_PROXY").or(all),
            exceptions: exceptions.split([',', ' ']).filter_map(Exception::parse).collect(),
        }
    }

    /// The proxy for a URL; `None` for one that is asked directly.
    pub(super) fn find(&self, url: &Url) -> Result<Option<ureq::Proxy>, HttpError> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        let Some(proxy) = proxy.as_deref().filter(|_| !self.excepts(url)) else { return Ok(None) };
        ureq::Proxy::new(proxy).map(Some).map_err(|_| HttpError::Proxy)
    }

    fn excepts(&self, url: &Url) -> bool {
        let host = url.host().trim_start_matches('[').trim_end_matches(']');
        let address = host.parse::<IpAddr>().ok();
        // A proxy could not reach what is on this machine alone.
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        self.exceptions.iter().any(|exception| match exception {
            Exception::All => true,
            Exception::Domain { name, port, itself } => {
                let below = host.strip_suffix(name.as_str()).is_some_and(|sub| sub.ends_with('.'));
                port.is_none_or(|port| port == url.port()) && (below || (*itself && host == name))
            }
            Exception::Network { address: network, bits } => {
                address.is_some_and(|address| is_within(address, *network, *bits))
            }
        })
    }
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_lowercase();
        if text.is_empty() {
            return None;
        }
        if text == "*" {
            return Some(Self::All);
        }
        let (address, bits) = text.split_once('/').unwrap_or((&text, "128"));
        let plain = address.trim_start_matches('[').trim_end_matches(']');
        if let (Ok(address), Ok(bits)) = (plain.parse(), bits.parse()) {
            return Some(Self::Network { address, bits });
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (text.as_str(), None),
        };
        let name = name.strip_prefix('*').unwrap_or(name);
        let itself = !name.starts_with('.');
        Some(Self::Domain { name: name.trim_start_matches('.').to_owned(), port, itself })
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (address, network) = (bytes(address), bytes(network));
    let mut left = u32::from(bits);
    address.len() == network.len()
        && address.iter().zip(network).all(|(a, b)| {
            let counted = left.min(8);
            left -= counted;
            counted == 0 || (a ^ b) >> (8 - counted) == 0
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let url = Url::parse(url).expect("a URL");
        let found = Proxies::from(get).find(&url).expect("valid proxies");
        found.map(|proxy| format!("{}:{}", proxy.host(), proxy.port()))
    }

    #[test]
    fn the_scheme_decides() {
        let variables =
            [("http_proxy", "http://a:1"), ("HTTPS_PROXY", "b:2"), ("ALL_PROXY", "c:3")];
        let check = |variables: &[(&str, &str)], url: &str, expected: Option<&str>| {
            assert_eq!(proxied(variables, url).as_deref(), expected, "{url}");
        };
        check(&variables, "http://h/", Some("a:1"));
        check(&variables, "https://h/", Some("b:2"));
        check(&variables[2..], "https://h/", Some("c:3"));
        check(&[("http_proxy", " ")], "http://h/", None);
        check(&variables, "http://localhost:5000/", None);
        check(&variables, "http://127.0.0.9/", None);
        check(&variables, "http://[::1]/", None);
    }

    #[test]
    fn exceptions() {
        let check = |exceptions: &str, url: &str, direct: bool| {
            let variables = [("HTTP_PROXY", "p:1"), ("NO_PROXY", exceptions)];
            assert_eq!(proxied(&variables, url).is_none(), direct, "{exceptions} {url}");
        };
        check("x.org, example.com", "http://example.com/", true);
        check("example.com", "http://a.example.com/", true);
        check("example.com", "http://anexample.com/", false);
        check(".example.com", "http://example.com/", false);
        check("*.example.com", "http://a.example.com/", true);
        check("example.com:81", "http://example.com/", false);
        check("example.com:81", "http://example.com:81/", true);
        check("10.0.0.0/9", "http://10.127.1.1/", true);
        check("10.0.0.0/9", "http://10.128.1.1/", false);
        check("10.1.1.1", "http://10.1.1.1/", true);
        check("fd00::/8", "http://[fd12::1]/", true);
        check("*", "http://h/", true);
        check("", "http://h/", false);
    }
}
