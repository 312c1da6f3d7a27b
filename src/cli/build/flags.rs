//! The values of `mica build`'s flags.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::builder::{self, NamedContext, Secret, Secrets};
use crate::cli::CliError;
use crate::runtime::Resource;
use crate::ssh::Agents;

/// `NAME=VALUE`; without a value it is empty.
pub(super) fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

/// The values of `--build-arg`; those without one are taken from the environment, if they are there.
pub(super) fn build_args(given: &[String], epoch: Option<&str>) -> builder::BuildArgs {
    let mut args = builder::BuildArgs::new();
    if let Some(epoch) = epoch {
        args.insert("SOURCE_DATE_EPOCH".to_owned(), epoch.to_owned());
    }
    for text in given {
        match text.split_once('=') {
            Some((name, value)) => {
                args.insert(name.to_owned(), value.to_owned());
            }
            None => {
                let value =
                    std::env::var_os(text).map(|value| value.to_string_lossy().into_owned());
                args.extend(value.map(|value| (text.clone(), value)));
            }
        }
    }
    args
}

/// The time that no other in the image is later than.
pub(super) fn epoch(args: &builder::BuildArgs) -> Result<Option<i64>, CliError> {
    let Some(text) = args.get("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds =
        text.parse().ok().filter(|seconds| jiff::Timestamp::from_second(*seconds).is_ok());
    seconds.map(Some).ok_or_else(|| {
        CliError::Usage(format!(
            "SOURCE_DATE_EPOCH is `{}`, not a number of seconds since 1970",
            text.escape_debug()
        ))
    })
}

/// What the names of `--build-context` stand for.
pub(super) struct Contexts {
    pub(super) names: HashMap<String, NamedContext>,
    /// Folders beside the main context, which is number 0.
    pub(super) folders: Vec<PathBuf>,
}

pub(super) fn named_contexts(given: &[String]) -> Result<Contexts, CliError> {
    let mut contexts = Contexts { names: HashMap::new(), folders: Vec::new() };
    for text in given {
        let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(CliError::Usage(format!(
                "`--build-context {}`: write it as NAME=VALUE",
                text.escape_debug()
            )));
        };
        let context = match value.split_once("://") {
            Some(("docker-image", image)) => NamedContext::Image(image.parse()?),
            _ => {
                refuse_remote(value)?;
                contexts.folders.push(PathBuf::from(value));
                NamedContext::Folder(contexts.folders.len())
            }
        };
        contexts.names.insert(name.to_lowercase(), context);
    }
    Ok(contexts)
}

/// Contexts that are not folders are not built yet.
pub(super) fn refuse_remote(context: &str) -> Result<(), CliError> {
    if context.starts_with("git@") || context.contains("://") {
        let message = "a build context from elsewhere is not supported yet: give a folder";
        return Err(CliError::Usage(message.to_owned()));
    }
    Ok(())
}

/// `id=ID[,src=FILE|,env=NAME][,type=file|env]`.
pub(super) fn secrets(given: &[String]) -> Result<Secrets, CliError> {
    given.iter().map(|text| secret(text)).collect()
}

fn secret(text: &str) -> Result<(String, Secret), CliError> {
    let wrong = |why: &str| CliError::Usage(format!("`--secret`: {why}"));
    let (mut id, mut file, mut env, mut kind) = (None, None, None, None);
    for field in text.split(',') {
        let (key, value) =
            field.split_once('=').ok_or_else(|| wrong("write it as id=ID,src=FILE"))?;
        match key {
            "id" => id = Some(value.to_owned()),
            "src" | "source" => file = Some(value),
            "env" => env = Some(value),
            "type" => kind = Some(value),
            _ => return Err(wrong("it takes id, src, env and type")),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("it has no id"))?;
    let from_env = |name: &str| {
        let value = std::env::var_os(name);
        value.map(|value| Secret::Value(std::os::unix::ffi::OsStringExt::into_vec(value)))
    };
    let secret = match (kind, file, env) {
        (Some("env"), Some(name), None) | (Some("env") | None, None, Some(name)) => from_env(name)
            .ok_or_else(|| wrong(&format!("the variable `{}` is not set", name.escape_debug())))?,
        (Some("file") | None, Some(path), None) => Secret::File(PathBuf::from(path)),
        (None, None, None) => from_env(&id).unwrap_or_else(|| Secret::File(PathBuf::from(&id))),
        (Some("env"), None, None) => {
            from_env(&id).ok_or_else(|| wrong("its variable is not set"))?
        }
        _ => return Err(wrong("it comes from a file (src=FILE) or from a variable (env=NAME)")),
    };
    Ok((id, secret))
}

/// `ID[=SOCKET]`, `ID=KEY[,KEY…]`; without either, the agent that the environment names.
pub(super) fn ssh(given: &[String]) -> Result<Agents, CliError> {
    let mut agents = Agents::default();
    // As Docker: what a script leaves empty is nothing.
    for text in given.iter().filter(|text| !text.is_empty()) {
        let (id, paths) = text.split_once('=').unwrap_or((text, ""));
        let id = if id.is_empty() { "default" } else { id };
        let mut paths: Vec<PathBuf> =
            paths.split(',').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
        if paths.is_empty() {
            let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
            let socket = socket.ok_or_else(|| {
                let why = "no agent is running: SSH_AUTH_SOCK is not set";
                CliError::Usage(format!("`--ssh {}`: {why}", id.escape_debug()))
            })?;
            paths.push(socket.into());
        }
        agents.add(id, &paths)?;
    }
    Ok(agents)
}

/// `HOST:IP` or `HOST=IP`.
pub(super) fn host(text: &str) -> Result<(String, IpAddr), CliError> {
    let parsed = text.split_once(['=', ':']).and_then(|(name, ip)| {
        let ip = ip.trim_start_matches('[').trim_end_matches(']');
        let plain =
            !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
        plain.then(|| Some((name.to_owned(), ip.parse().ok()?))).flatten()
    });
    parsed.ok_or_else(|| {
        CliError::Usage(format!("`--add-host {}`: write it as HOST:IP", text.escape_debug()))
    })
}

/// A number of bytes, with `k`, `m` or `g` behind it for powers of 1024.
pub(super) fn bytes(text: &str) -> Result<u64, CliError> {
    let lower = text.to_lowercase();
    let digits = lower.trim_end_matches('b').trim_end_matches(['k', 'm', 'g']);
    let shift = match lower[digits.len()..].chars().next() {
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        _ => 0,
    };
    let parsed = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    parsed.ok_or_else(|| {
        CliError::Usage(format!("`{}` is no size: write it like 64m", text.escape_debug()))
    })
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
        Some((name.to_owned(), limit(soft)?, limit(hard)?))
    });
    parsed.ok_or_else(|| {
        CliError::Usage(format!(
            "`--ulimit {}`: write it like nofile=1024:2048",
            text.escape_debug()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_limits() {
        for (text, expected) in [("64", 64), ("1k", 1024), ("2mb", 2 << 20), ("1G", 1 << 30)] {
            assert_eq!(bytes(text).ok(), Some(expected), "{text}");
        }
        for text in ["", "x", "-1", "1t", "99999999999g"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(ulimit("nofile=1:2").ok(), Some(("nofile".into(), 1, 2)));
        assert_eq!(ulimit("core=-1").ok(), Some(("core".into(), u64::MAX, u64::MAX)));
        assert!(ulimit("nope=1").is_err());
    }

    #[test]
    fn hosts() {
        let ip = |text: &str| host(text).ok().map(|(name, ip)| format!("{name} {ip}"));
        assert_eq!(ip("a:1.2.3.4").as_deref(), Some("a 1.2.3.4"));
        assert_eq!(ip("a=[::1]").as_deref(), Some("a ::1"));
        assert_eq!(ip("a:::1").as_deref(), Some("a ::1"));
        assert_eq!(ip("a b:1.2.3.4"), None);
        assert_eq!(ip("a"), None);
    }

    #[test]
    fn secrets_by_file_and_by_value() {
        let (id, found) = secret("id=a,src=/x").expect("valid");
        assert_eq!((id.as_str(), found), ("a", Secret::File("/x".into())));
        assert!(secret("id=a,env=MICA_TEST_NO_SUCH_VARIABLE").is_err());
        assert!(secret("src=/x").is_err());
        assert!(secret("id=a,what=b").is_err());
    }
}
