//! [`PublicResolver`]: the names of servers, but never of one that only this machine can reach.

use std::net::IpAddr;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::cancel::Lookup;

/// Refuses addresses of this machine and of its link. What is resolved here is what is connected
/// to, so a name that changes its mind between a look and a connection gains nothing.
#[derive(Debug)]
pub(super) struct PublicResolver(pub(super) Lookup);

impl Resolver for PublicResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.0.resolve(uri, config, timeout)?;
        if config.proxy().is_some() {
            // The address is the proxy's, and that is the user's own choice.
            return Ok(found);
        }
        match found.iter().find(|address| is_local(address.ip())) {
            Some(address) => Err(ureq::Error::Other(
                format!("invalid address {}: it is this machine's or its link's own", address.ip())
                    .into(),
            )),
            None => Ok(found),
        }
    }
}

/// Whether an address means this machine, or what hangs on its link.
pub fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.segments()[0] & 0xffc0 == 0xfe80
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses() {
        let local =
            ["127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "::1", "::", "fe80::1"];
        let public = ["10.0.0.1", "8.8.8.8", "2001:db8::1", "::ffff:8.8.8.8"];
        let check = |text: &str| is_local(text.parse().expect("an address"));
        assert!(local.iter().all(|text| check(text)) && check("::ffff:127.0.0.1"));
        assert!(!public.iter().any(|text| check(text)));
    }
}
