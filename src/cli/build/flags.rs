//! The values of `mica build`'s flags.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::builder;
use crate::cli::CliError;
use crate::parser;
use crate::runtime::Resource;

/// The build argument with the time that no other is later than.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// `NAME=VALUE`; without a value it is empty.
pub(super) fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

/// The values of `--build-arg`; those without one are taken from the environment, if they are there.
pub(in crate::cli) fn build_args(
    given: &[String],
    epoch: Option<&str>,
) -> Result<builder::BuildArgs, CliError> {
    let mut args = builder::BuildArgs::new();
    if let Some(epoch) = epoch {
        args.insert(EPOCH.to_owned(), epoch.to_owned());
    }
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => {
                let value = std::env::var_os(text);
                (text.as_str(), value.map(|value| value.to_string_lossy().into_owned()))
            }
        };
        if name.is_empty() {
            let why = "it has no name: write it as NAME=VALUE or NAME";
            return Err(CliError::Usage(format!("`--build-arg {}`: {why}", text.escape_debug())));
        }
        args.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(args)
}

/// The time that no other in the image is later than. `context` is that of the main context, where it
/// has one; the Dockerfile sees what it comes to.
pub(super) fn epoch(
    args: &mut builder::BuildArgs,
    context: Option<i64>,
) -> Result<Option<i64>, CliError> {
    let Some(text) = args.get_mut(EPOCH).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if text == "context" {
        *text = context.map(|time| time.to_string()).unwrap_or_default();
        return Ok(context);
    }
    let seconds =
        text.parse().ok().filter(|seconds| jiff::Timestamp::from_second(*seconds).is_ok());
    seconds.map(Some).ok_or_else(|| {
        CliError::Usage(format!(
            "SOURCE_DATE_EPOCH is `{}`, not a number of seconds since 1970, nor `context`",
            text.escape_debug()
        ))
    })
}

/// Whether the `.git` of a context from a repository stays.
pub(super) fn keeps_git_dir(args: &builder::BuildArgs) -> bool {
    let value = args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
    value.is_some_and(|value| parser::boolean(value) == Some(true))
}

/// `HOST:IP` or `HOST=IP`, several of them with commas between them.
pub(super) fn hosts(given: &[String]) -> Result<Vec<(String, IpAddr)>, CliError> {
    let fields = given.iter().flat_map(|text| text.split(',')).filter(|field| !field.is_empty());
    fields.map(host).collect()
}

fn host(text: &str) -> Result<(String, IpAddr), CliError> {
    let parsed = text.split_once(['=', ':']).and_then(|(name, ip)| {
        let plain =
            !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
        let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
        let ip = match ip {
            // Steps are on the host's network.
            "host-gateway" => IpAddr::from([127, 0, 0, 1]),
            ip => ip.parse().ok()?,
        };
        plain.then(|| (name.to_lowercase(), ip))
    });
    parsed.ok_or_else(|| {
        let shown = text.escape_debug();
        CliError::Usage(format!("`--add-host {shown}`: write it as HOST:IP or HOST=IP"))
    })
}

/// What RUN steps may be allowed.
const ENTITLEMENTS: [&str; 2] = ["network.host", "security.insecure"];

/// The values of `--allow`.
pub(super) fn allowed(given: &[String]) -> Result<BTreeSet<String>, CliError> {
    let given = given.iter().filter(|text| !text.is_empty());
    given
        .map(|text| {
            if ENTITLEMENTS.contains(&text.as_str()) {
                return Ok(text.clone());
            }
            let (shown, known) = (text.escape_debug(), ENTITLEMENTS.join("` and `"));
            Err(CliError::Usage(format!("`--allow {shown}`: there are `{known}`")))
        })
        .collect()
}

/// The stages that `--no-cache-filter` names.
pub(super) fn stages(given: &[String]) -> Vec<String> {
    let names = given.iter().flat_map(|text| text.split(','));
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// A number of bytes, with a unit behind it for powers of 1024; nothing for 0.
pub(super) fn bytes(text: &str) -> Result<Option<u64>, CliError> {
    let parsed = parser::size(text).ok_or_else(|| {
        CliError::Usage(format!("`{}` is no size: write it like 64m", text.escape_debug()))
    })?;
    Ok(Some(parsed).filter(|bytes| *bytes > 0))
}

/// `TYPE=SOFT[:HARD]`.
pub(super) fn ulimit(text: &str) -> Result<(String, u64, u64), CliError> {
    let limit = |text: &str| match text {
        "-1" | "unlimited" => Some(u64::MAX),
        text => text.parse().ok(),
    };
    let parsed = text.split_once('=').and_then(|(name, limits)| {
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        Resource::from_name(name)?;
        let (soft, hard) = (limit(soft)?, limit(hard)?);
        (soft <= hard).then(|| (name.to_owned(), soft, hard))
    });
    parsed.ok_or_else(|| {
        CliError::Usage(format!(
            "`--ulimit {}`: write it like nofile=1024:2048, the second not below the first",
            text.escape_debug()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_limits() {
        assert_eq!(bytes("1.5m").ok(), Some(Some(3 << 19)));
        assert_eq!(bytes("0").ok(), Some(None));
        assert!(bytes("x").is_err());
        assert_eq!(ulimit("nofile=1:2").ok(), Some(("nofile".into(), 1, 2)));
        assert_eq!(ulimit("core=-1").ok(), Some(("core".into(), u64::MAX, u64::MAX)));
        assert_eq!(ulimit("core=0:-1").ok(), Some(("core".into(), 0, u64::MAX)));
        for text in
            ["nope=1", "nofile", "nofile=", "nofile=a", "nofile=2:1", "core=-1:5", "core=1:2:3"]
        {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn host_names() {
        let check = |text: &str, expected: Option<&str>| {
            let found = hosts(&[text.to_owned()]).ok().map(|hosts| {
                let shown = hosts.iter().map(|(name, ip)| format!("{name} {ip}"));
                shown.collect::<Vec<_>>().join(";")
            });
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check("a:1.2.3.4", Some("a 1.2.3.4"));
        check("A=[::1]", Some("a ::1"));
        check("a:::1", Some("a ::1"));
        check("a:[fe80::1]", Some("a fe80::1"));
        check("a:1.2.3.4,b:2.3.4.5", Some("a 1.2.3.4;b 2.3.4.5"));
        check("a=host-gateway", Some("a 127.0.0.1"));
        check("", Some(""));
        for text in ["a b:1.2.3.4", "a", "a:", ":1.2.3.4", "a:nope", "a\n:1.2.3.4", "a:[::1"] {
            check(text, None);
        }
    }

    #[test]
    fn entitlements() {
        let given = ["network.host".to_owned(), String::new()];
        assert_eq!(allowed(&given).ok(), Some(BTreeSet::from(["network.host".to_owned()])));
        assert!(allowed(&["device".to_owned()]).is_err());
    }
}
