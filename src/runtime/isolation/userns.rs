//! Enters a user namespace, with as many ids as can be had.
//!
//! Root of a container maps the ids that it has itself. Anybody else has the subordinate ids of
//! `/etc/subuid`, which setuid programs map. Where neither is to be had, the kernel lets everybody
//! map the own id, and only that one, from inside.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setresgid, setresuid};

use super::super::sys::{Fork, fork};
use super::idmap::{MAPPERS, Mapping};
use super::{Declined, IsolationError, Mode, seclude};

const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWUSER.union(CloneFlags::CLONE_NEWNS);
/// What is missing where a namespace has one id alone.
const MANY_IDS: &str = "userns with many ids";

pub(super) fn enter(declined: &mut Vec<Declined>) -> Result<Mode, IsolationError> {
    let own = (Uid::effective().as_raw(), Gid::effective().as_raw());
    let ids = match Mapping::of_caller() {
        Ok(mapping) => {
            match enter_mapped(&mapping)? {
                Ok(()) => mapping.count(),
                // The namespace is there, without any ids so far.
                Err(refused) => {
                    let Ok(()) = map_own(own) else { return Err(refused) };
                    declined.push(Declined { what: MANY_IDS, error: refused });
                    1
                }
            }
        }
        Err(error) => {
            unshare(NAMESPACES).map_err(no_user_namespaces)?;
            map_own(own)?;
            declined.push(Declined { what: MANY_IDS, error });
            1
        }
    };
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).map_err(io::Error::from)?;
    setresuid(uid, uid, uid).map_err(io::Error::from)?;
    // A change of user hides /proc/self from this very process's children.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
        .map_err(io::Error::from)?;
    seclude().map_err(|source| IsolationError::PowerlessNamespace { source })?;
    Ok(Mode::UserNamespace { ids })
}

/// Enters a namespace and has its ids mapped from outside: by a child that stays there.
///
/// The inner error says why there is a namespace, but no mapping.
fn enter_mapped(mapping: &Mapping) -> Result<Result<(), IsolationError>, IsolationError> {
    let (told, tell) = io::pipe()?;
    let (answer, answering) = io::pipe()?;
    let pid = std::process::id();
    let mapper = match fork()? {
        Fork::Child => {
            drop((tell, answer));
            super::super::leave(map(told, &answering, pid, mapping));
        }
        Fork::Parent(mapper) => mapper,
    };
    drop((told, answering));
    let entered = unshare(NAMESPACES).map_err(no_user_namespaces);
    let mapped = entered.and_then(|()| Ok(await_mapping(tell, answer)?));
    let _reaped = rustix::process::waitpid(Some(mapper), rustix::process::WaitOptions::empty());
    mapped
}

/// Maps the own ids to root's, and nothing else.
fn map_own((uid, gid): (u32, u32)) -> io::Result<()> {
    // Whoever could leave groups would get at files that a group is denied.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
}

fn no_user_namespaces(error: nix::errno::Errno) -> IsolationError {
    const SETTINGS: &[(&str, &str, &str)] = &[
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    let forbids = |(file, value, _): &&(&str, &str, &str)| {
        std::fs::read_to_string(file).is_ok_and(|text| text.trim() == *value)
    };
    let setting = SETTINGS.iter().find(forbids).map(|(.., setting)| *setting);
    IsolationError::NoUserNamespaces { source: error.into(), setting }
}

/// Tells the mapper to begin, and waits for its verdict: nothing, or an index and a message.
fn await_mapping(
    tell: io::PipeWriter,
    mut answer: io::PipeReader,
) -> io::Result<Result<(), IsolationError>> {
    (&tell).write_all(b"!")?;
    drop(tell);
    let mut verdict = Vec::new();
    answer.read_to_end(&mut verdict)?;
    let Some((&index, message)) = verdict.split_first() else { return Ok(Ok(())) };
    let program = MAPPERS[usize::from(index) % MAPPERS.len()];
    if message.is_empty() {
        return Ok(Err(IsolationError::NoMapper { program }));
    }
    let message = String::from_utf8_lossy(message).trim().to_owned();
    Ok(Err(IsolationError::Mapping { program, message }))
}

/// The mapper: once told, maps groups and users of `pid`.
fn map(
    mut told: io::PipeReader,
    mut answering: &io::PipeWriter,
    pid: u32,
    mapping: &Mapping,
) -> u8 {
    if told.read_exact(&mut [0]).is_err() {
        return 1;
    }
    let failed = match mapping {
        Mapping::Own { uids, gids } => {
            let write = |file: &str, map: &str| std::fs::write(format!("/proc/{pid}/{file}"), map);
            let written = write("gid_map", gids).and_then(|()| write("uid_map", uids));
            written.err().map(|error| (0, error.to_string().into_bytes()))
        }
        Mapping::Subordinate(ids) => run_mappers(pid, &ids.arguments()),
    };
    let Some((index, message)) = failed else { return 0 };
    let _nobody_listens = answering.write_all(&[&[index][..], &message].concat());
    1
}

/// Runs both programs at once; returns which one failed and what it said.
fn run_mappers(pid: u32, arguments: &[Vec<String>; 2]) -> Option<(u8, Vec<u8>)> {
    let run = |index: usize| {
        Command::new(MAPPERS[index])
            .arg(pid.to_string())
            .args(&arguments[index])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    };
    for (index, started) in (0u8..).zip([run(0), run(1)]) {
        let message = match started.and_then(std::process::Child::wait_with_output) {
            Ok(output) if output.status.success() => continue,
            Ok(output) => [&output.stderr[..], b" "].concat(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => error.to_string().into_bytes(),
        };
        return Some((index, message));
    }
    None
}
