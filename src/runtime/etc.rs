//! The contents of `/etc/hosts` and `/etc/resolv.conf` in a sandbox, as BuildKit writes them.

use std::fmt::Write;
use std::net::IpAddr;

use super::spec::Network;

/// The host's file may be anything; more than this is no resolver's configuration.
const RESOLV_CONF_LIMIT: u64 = 1 << 20;

/// Returns the text of `/etc/hosts`.
pub(super) fn hosts(hostname: &str, more: &[(String, IpAddr)]) -> Vec<u8> {
    let mut text =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in more {
        let _infallible = writeln!(text, "{address}\t{name}");
    }
    text.into_bytes()
}

/// Returns the text of `/etc/resolv.conf`: the host's, since the process is on its network.
///
/// Without a network there is nobody to ask: servers are left out, search domains are kept.
pub(super) fn resolv_conf(network: Network) -> Vec<u8> {
    let root = std::fs::File::open("/");
    let text = root
        .and_then(|root| super::rootfs::read_file(root, "/etc/resolv.conf", RESOLV_CONF_LIMIT))
        .ok()
        .flatten()
        .unwrap_or_default();
    match network {
        Network::Host => text,
        Network::None => text
            .split_inclusive(|&byte| byte == b'\n')
            .filter(|line| !line.trim_ascii_start().starts_with(b"nameserver"))
            .flatten()
            .copied()
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_those_of_buildkit() {
        let text = hosts("buildkitsandbox", &[("db".to_owned(), IpAddr::from([10, 0, 0, 7]))]);
        assert_eq!(
            String::from_utf8_lossy(&text),
            "127.0.0.1\tlocalhost buildkitsandbox\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n"
        );
    }
}
