//! Instructions that change the image config, and the dispatch to those that make files.

use std::net::IpAddr;

use nix::sys::signal::Signal;

use super::state::State;
use super::text::{go_duration, go_quote_list, go_quote_number};
use super::{Lowering, Site, outline};
use crate::builder::BuildError;
use crate::builder::graph::{MakeDirOp, Op};
use crate::oci::Healthcheck;
use crate::parser::{
    Argument, Command, Diagnostic, HealthTest, Healthcheck as Check, Instruction, Pairs, Word,
    nearest,
};

impl Lowering<'_> {
    /// What an instruction does to a stage.
    pub(super) fn apply(&mut self, state: &mut State, site: Site<'_>) -> Result<(), BuildError> {
        let escape = self.escape;
        match &site.statement.instruction {
            Instruction::Run(run) => {
                self.outline_mounts(state, site, run);
                return self.run(state, site, run);
            }
            Instruction::Copy(copy) => return self.copy(state, site, copy),
            Instruction::Add(add) => return self.add(state, site, add),
            Instruction::Workdir(path) => self.workdir(state, site, path)?,
            Instruction::Arg(arguments) => self.arg(state, site, arguments)?,
            Instruction::Env(pairs) => env(state, pairs, escape)?,
            Instruction::Label(pairs) => label(state, pairs, escape)?,
            Instruction::User(user) => {
                let user = state.scope.expand(user, escape)?;
                state.note(format!("USER {user}"), false);
                state.config.config.user = user;
            }
            Instruction::Expose(ports) => expose(state, ports, escape)?,
            Instruction::Volume(volumes) => volume(state, volumes, escape)?,
            Instruction::Stopsignal(signal) => stop_signal(state, signal, escape)?,
            Instruction::Cmd(command) => {
                let args = with_shell(state, command);
                state.note(format!("CMD {}", go_quote_list(&args)), false);
                state.config.config.cmd = Some(args);
                state.config.config.args_escaped = true;
                state.has_cmd = true;
            }
            Instruction::Entrypoint(command) => {
                let args = with_shell(state, command);
                state.note(format!("ENTRYPOINT {}", go_quote_list(&args)), false);
                state.config.config.entrypoint = Some(args);
                if !state.has_cmd {
                    state.config.config.cmd = None;
                }
            }
            Instruction::Shell(words) => {
                let shell: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
                state.note(format!("SHELL [{}]", shell.join(" ")), false);
                state.config.config.shell = shell;
            }
            Instruction::Healthcheck(check) => healthcheck(state, check),
            Instruction::Onbuild(trigger) => {
                state.config.config.on_build.push(trigger.trigger.clone());
            }
            Instruction::Maintainer(name) => {
                state.note(format!("MAINTAINER {}", name.text), false);
                state.config.author = Some(name.text.clone());
            }
            // It begins a stage, and no trigger may be one.
            Instruction::From(_) => {}
        }
        Ok(())
    }

    /// `ARG name[=default]…`: the command line wins over the default, and that over what stands
    /// before the first FROM.
    fn arg(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        arguments: &[Argument],
    ) -> Result<(), Diagnostic> {
        let mut shown = String::from("ARG");
        for argument in arguments {
            // As BuildKit: a variable in the name is part of the name.
            let name = argument.name.text.clone();
            let given = self.options.build_args.get(&name).cloned();
            let value = match (given, &argument.default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => Some(state.scope.expand(default, self.escape)?),
                (None, None) => self.stages.globals.get(&name).map(str::to_owned),
            };
            let is_global = argument.default.is_none()
                && !self.options.build_args.contains_key(&name)
                && self.stages.globals.get(&name).is_some();
            let outline = &mut self.outlines[site.place.stage];
            if is_global {
                outline.uses([name.clone()]);
            } else {
                outline.declares(outline::arg(site.statement, &name, value.as_deref()));
            }
            state.scope.declare(&name, value.as_deref());
            shown.push(' ');
            shown.push_str(&name);
            if let Some(value) = value {
                shown.push('=');
                shown.push_str(&value);
            }
        }
        state.note(shown, false);
        Ok(())
    }

    fn workdir(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        path: &Word,
    ) -> Result<(), Diagnostic> {
        let path = state.scope.expand(path, self.escape)?;
        let dir = absolute(state.working_dir(), &path);
        // As BuildKit: an absolute path is kept as it is written.
        let shown = if path.starts_with('/') { path } else { dir.clone() };
        let makes_layer = shown != "/";
        state.note(format!("WORKDIR {shown}"), makes_layer);
        state.config.config.working_dir = shown;
        if makes_layer {
            let user = state.config.config.user.clone();
            self.add_step(state, site, Op::MakeDir(MakeDirOp { path: dir, user }))?;
        }
        Ok(())
    }
}

/// A path in the image, seen from a folder of it, without `.`, `..` and doubled slashes.
pub(super) fn absolute(folder: &str, path: &str) -> String {
    let joined = if path.starts_with('/') { path.to_owned() } else { format!("{folder}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The arguments of a command, behind the shell in force where it is written for one.
pub(super) fn with_shell(state: &State, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
        Command::Shell(text) => in_shell(state, text.text.text.clone()),
    }
}

/// The arguments that run a text in the shell in force.
pub(super) fn in_shell(state: &State, text: String) -> Vec<String> {
    let mut args = state.config.config.shell.clone();
    if args.is_empty() {
        args = vec!["/bin/sh".into(), "-c".into()];
    }
    args.push(text);
    args
}

/// Keys and values as they are after expansion; all see the values from before the instruction.
fn expand_pairs(
    state: &State,
    pairs: &Pairs,
    escape: char,
) -> Result<Vec<(String, String)>, Diagnostic> {
    let expand = |word| state.scope.expand(word, escape);
    pairs.pairs.iter().map(|(key, value)| Ok((expand(key)?, expand(value)?))).collect()
}

fn env(state: &mut State, pairs: &Pairs, escape: char) -> Result<(), Diagnostic> {
    let mut shown = String::from("ENV");
    for (name, value) in expand_pairs(state, pairs, escape)? {
        shown.push_str(&format!(" {name}={value}"));
        state.set_env(&name, &value);
    }
    state.note(shown, false);
    Ok(())
}

fn label(state: &mut State, pairs: &Pairs, escape: char) -> Result<(), Diagnostic> {
    let mut shown = String::from("LABEL");
    for (name, value) in expand_pairs(state, pairs, escape)? {
        shown.push_str(&format!(" {name}={value}"));
        state.config.config.labels.insert(name, value);
    }
    state.note(shown, false);
    Ok(())
}

/// About how many bytes a port takes, in the config and in the history.
const PORT_BYTES: usize = 32;

fn expose(state: &mut State, words: &[Word], escape: char) -> Result<(), Diagnostic> {
    // As BuildKit: the words are sorted as they are written, what each stands for is not.
    let mut words: Vec<&Word> = words.iter().collect();
    words.sort_by(|a, b| a.text.cmp(&b.text));
    let mut texts = Vec::new();
    for word in words {
        let expanded = state.scope.expand_words(word, escape)?;
        texts.extend(expanded.into_iter().map(|text| (text, word.span)));
    }
    let mut ports: Vec<String> = Vec::new();
    for (text, span) in texts {
        let parsed = port_range(&text).ok_or_else(|| {
            let message = format!("invalid containerPort: `{}`", text.escape_debug());
            Diagnostic::error("expose", span, message)
                .with_hint("EXPOSE takes `80`, `80/udp` or `8000-8010`")
        })?;
        state.scope.budget.take(parsed.len() * PORT_BYTES, span)?;
        ports.extend(parsed);
    }
    state.note(format!("EXPOSE [{}]", ports.join(" ")), false);
    state.config.config.exposed_ports.extend(ports);
    Ok(())
}

/// `[[ip:]host:]first[-last][/protocol]`, of which only the container's side counts.
fn port_range(text: &str) -> Option<Vec<String>> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (ports, protocol.to_lowercase()),
        None => (text, "tcp".to_owned()),
    };
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return None;
    }
    let (host, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (ip, host) = host.rsplit_once(':').unwrap_or(("", host));
    let (first, last) = numbers(container)?;
    if !host.is_empty() {
        let (host_first, host_last) = numbers(host)?;
        // One port may have a range to choose from, a range must have one of its own length.
        if first != last && last - first != host_last - host_first {
            return None;
        }
    }
    let bare_ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if !ip.is_empty() && bare_ip.parse::<IpAddr>().is_err() {
        return None;
    }
    Some((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// `first[-last]`; as with Docker, a number may have a plus.
fn numbers(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

fn volume(state: &mut State, words: &[Word], escape: char) -> Result<(), Diagnostic> {
    let mut volumes = Vec::new();
    for word in words {
        let volume = state.scope.expand(word, escape)?;
        if volume.is_empty() {
            return Err(Diagnostic::error("volume", word.span, "VOLUME names no folder"));
        }
        volumes.push(volume);
    }
    state.note(format!("VOLUME [{}]", volumes.join(" ")), false);
    state.config.config.volumes.extend(volumes);
    Ok(())
}

fn stop_signal(state: &mut State, word: &Word, escape: char) -> Result<(), Diagnostic> {
    let signal = state.scope.expand(word, escape)?;
    if !is_signal(&signal) {
        let message = format!("invalid signal `{}`", signal.escape_debug());
        let names: Vec<&str> = Signal::iterator().map(Signal::as_str).collect();
        let hint = match nearest(&signal, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "STOPSIGNAL takes a name like `SIGTERM`, or a number other than 0".to_owned(),
        };
        return Err(Diagnostic::error("stopsignal", word.span, message).with_hint(hint));
    }
    state.note(format!("STOPSIGNAL {signal}"), false);
    state.config.config.stop_signal = signal;
    Ok(())
}

fn is_signal(text: &str) -> bool {
    // As Docker: a number is taken for a signal of whatever system the image runs on.
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |rest: &str, sign: char, limit: u32| {
        rest.is_empty() || (1..=limit).any(|number| rest == format!("{sign}{number}"))
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return real_time(rest, '+', 15);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return real_time(rest, '-', 14);
    }
    matches!(name, "CLD" | "STKFLT" | "POLL" | "IOT")
        || format!("SIG{name}").parse::<Signal>().is_ok()
}

fn healthcheck(state: &mut State, check: &Check) {
    let nanos = |duration: Option<std::time::Duration>| {
        duration.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
    };
    let found = match check {
        Check::None => Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() },
        Check::Check(HealthTest {
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
            command,
        }) => {
            let test = match command {
                Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.text.text.clone()],
                Command::Exec(words) => {
                    let words = words.iter().map(|word| word.text.clone());
                    std::iter::once("CMD".to_owned()).chain(words).collect()
                }
            };
            Healthcheck {
                test,
                interval: nanos(*interval),
                timeout: nanos(*timeout),
                start_period: nanos(*start_period),
                start_interval: nanos(*start_interval),
                retries: retries.unwrap_or(0).into(),
            }
        }
    };
    let times = [found.interval, found.timeout, found.start_period, found.start_interval];
    let times: Vec<String> = times.iter().map(|t| format!("\"{}\"", go_duration(*t))).collect();
    let retries = go_quote_number(u32::try_from(found.retries).unwrap_or(0));
    let test = go_quote_list(&found.test);
    state.note(format!("HEALTHCHECK &{{{test} {} {retries}}}", times.join(" ")), false);
    state.config.config.healthcheck = Some(found);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let cases = [
            ("/", "a", "/a"),
            ("/w", "../../x", "/x"),
            ("/w", "/a//b/./c/", "/a/b/c"),
            ("/w", "", "/w"),
            ("/w", "..", "/"),
        ];
        for (folder, path, expected) in cases {
            assert_eq!(absolute(folder, path), expected);
        }
    }

    #[test]
    fn ports() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let expected = expected.map(|ports| ports.iter().map(|p| (*p).to_owned()).collect());
            assert_eq!(port_range(text), expected, "{text}");
        };
        check("80", Some(&["80/tcp"]));
        check("90/UDP", Some(&["90/udp"]));
        check("80/", Some(&["80/tcp"]));
        check("100-101", Some(&["100/tcp", "101/tcp"]));
        check("127.0.0.1:80:8080", Some(&["8080/tcp"]));
        check("[::1]:80:8080", Some(&["8080/tcp"]));
        check("90-99:80", Some(&["80/tcp"]));
        check("+80-+81", Some(&["80/tcp", "81/tcp"]));
        for text in ["", "a", "99999", "3-1", "80/icmp", "-1", "80-82:90-91", "x:80", "1.2:1:2"] {
            check(text, None);
        }
    }

    #[test]
    fn signals() {
        for text in [
            "SIGTERM",
            "term",
            "9",
            "65",
            "-1",
            "4294967296",
            "RTMIN",
            "SIGRTMIN+3",
            "SIGRTMAX-2",
            "SIGCLD",
        ] {
            assert!(is_signal(text), "{text}");
        }
        for text in ["", "0", "9223372036854775808", "SIGNOPE", "RTMIN+16", "RTMIN+03", "SIG"] {
            assert!(!is_signal(text), "{text}");
        }
    }
}
