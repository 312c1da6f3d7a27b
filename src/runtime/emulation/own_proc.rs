//! What processes ask about themselves where there is no `/proc`: descriptors, program, status.
//!
//! `/dev/stdin`, the `/dev/fd/63` of a shell's `<(…)`, `/proc/self/exe` and the like are looked for among
//! all paths that a step looks up, and found in the outer `/proc`, below the process's own number.
//!
//! **Invariant.** What is handed in is a file about a process of this step, or what one has open already:
//! never a directory of `/proc`, from which paths lead out of the chroot. It is opened with the user and
//! groups of the process that asks, which decide what it may open.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, openat, readlinkat};
use rustix::io::Errno;

use super::super::sys;
use super::tracee::{Tracee, Unanswered, Who};
use super::{Answer, Asked, Call};

const NOFOLLOW: u32 = nix::libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
/// Links to what a process has anyway.
const LINKS: &[&str] = &["cwd", "exe", "root"];
/// Files that tell of a process and its threads.
const FILES: &[&str] = &[
    "auxv",
    "cgroup",
    "cmdline",
    "comm",
    "environ",
    "io",
    "limits",
    "loginuid",
    "maps",
    "oom_score",
    "oom_score_adj",
    "sched",
    "schedstat",
    "setgroups",
    "smaps",
    "smaps_rollup",
    "stat",
    "statm",
    "status",
    "uid_map",
    "gid_map",
    "wchan",
];

/// Whose folder in `/proc` a path names.
#[derive(Debug, PartialEq, Eq)]
enum Whose {
    Process,
    Thread,
    Number(u32),
}

/// Returns the path that a call looks up, if it may be one of those that are answered here.
pub(super) fn find(tracee: &Tracee<'_>, asked: &Asked<'_>) -> Result<Option<PathBuf>, Unanswered> {
    let at = usize::from(!matches!(
        asked.call,
        Call::Open | Call::Readlink | Call::Stat | Call::Lstat | Call::Access
    ));
    if !tracee.path_begins(asked.arguments[at], &[b"/proc/", b"/dev/std", b"/dev/fd/"])? {
        return Ok(None);
    }
    tracee.path_at(asked.arguments[at]).map(Some)
}

/// Answers what asks for something of a process in `/proc`; the kernel answers the rest.
pub(super) fn look_up(
    mut tracee: Tracee<'_>,
    asked: &Asked<'_>,
    path: &Path,
) -> Result<Answer, Unanswered> {
    let Some((whose, name)) = parse(path) else { return Ok(Answer::Continue) };
    let number = |index| asked.number(index);
    let follows = match asked.call {
        Call::Lstat | Call::Readlink | Call::Readlinkat => false,
        Call::Newfstatat => number(3) & NOFOLLOW == 0,
        Call::Statx => number(2) & NOFOLLOW == 0,
        _ => true,
    };
    // These are files of the root itself.
    if !follows && path.starts_with("/dev") && !path.starts_with("/dev/fd") {
        return Ok(Answer::Continue);
    }
    let who = tracee.who()?;
    let process = who.process;
    let (other, path) = match whose {
        Whose::Number(number) if number != tracee.tid && number != process => {
            (Some(number), format!("{number}/{name}"))
        }
        Whose::Thread => (None, format!("{process}/task/{}/{name}", tracee.tid)),
        _ => (None, format!("{process}/{name}")),
    };
    tracee.enter_root()?;
    let found = Found { other, path: Path::new(&path), who, tracee: &tracee };
    let [_, first, second, third, ..] = *asked.arguments;
    match asked.call {
        Call::Open => found.open(number(1)),
        Call::Openat => found.open(number(2)),
        Call::Readlink => found.read_link(first, second),
        Call::Readlinkat => found.read_link(second, third),
        Call::Stat => found.stat(first, 0),
        Call::Lstat => found.stat(first, NOFOLLOW),
        Call::Newfstatat => found.stat(second, number(3)),
        Call::Statx => found.statx(asked.arguments[4], number(2), number(3)),
        _ => found.exists(),
    }
}

/// Something of a process of the step: its path below the outer `/proc`.
struct Found<'a> {
    /// The number of the process, if it is not the one that waits.
    other: Option<u32>,
    path: &'a Path,
    who: Who,
    tracee: &'a Tracee<'a>,
}

impl Found<'_> {
    /// Does something with the path as the process that waits would. What came of it counts if the path
    /// was that of a process of this step, before and after.
    fn with<T>(
        &self,
        act: impl FnOnce(&OwnedFd, &Path) -> Result<T, Errno>,
    ) -> Result<Result<T, Errno>, Unanswered> {
        let is_ours = || self.other.is_none_or(|other| self.tracee.shares_step_with(other));
        if !is_ours() {
            return Ok(Err(Errno::NOENT));
        }
        let proc = self.tracee.proc();
        let result = self.who.does(|| act(proc, self.path))?;
        if self.tracee.waits() && is_ours() { Ok(result) } else { Err(Unanswered) }
    }

    fn open(&self, flags: u32) -> Result<Answer, Unanswered> {
        let flags = OFlags::from_bits_retain(flags);
        if flags.contains(OFlags::CREATE | OFlags::EXCL) {
            return Ok(Answer::Fails(Errno::EXIST));
        }
        // A pipe that nobody writes to would hold up every answer.
        let ours = (flags - OFlags::CREATE) | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = self.with(|proc, path| {
            let file = openat(proc, path, ours, Mode::empty())?;
            if !flags.intersects(OFlags::NONBLOCK | OFlags::PATH) {
                let now = fcntl_getfl(&file)?;
                fcntl_setfl(&file, now - OFlags::NONBLOCK)?;
            }
            Ok(file)
        })?;
        let file = match opened {
            Ok(file) => file,
            Err(errno) => return Ok(Answer::Fails(errno)),
        };
        let closes = flags.contains(OFlags::CLOEXEC);
        sys::answer_with_descriptor(self.tracee.listener, self.tracee.id, file.as_fd(), closes)
            .map_err(|_| Unanswered)?;
        Ok(Answer::Done)
    }

    fn read_link(&self, to: u64, room: u64) -> Result<Answer, Unanswered> {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        if room == 0 {
            return Ok(Answer::Fails(Errno::INVAL));
        }
        let target = self.with(|proc, path| readlinkat(proc, path, Vec::new()))?;
        Ok(target
            .and_then(|target| {
                let bytes = &target.as_bytes()[..target.as_bytes().len().min(room)];
                self.give(to, bytes)?;
                Ok(Answer::Value(i64::try_from(bytes.len()).unwrap_or(i64::MAX)))
            })
            .into())
    }

    fn stat(&self, to: u64, flags: u32) -> Result<Answer, Unanswered> {
        let stat = self.with(|proc, path| sys::stat_bytes(proc, path, flags))?;
        Ok(stat.and_then(|bytes| self.give(to, &bytes)).map(|()| Answer::Value(0)).into())
    }

    fn statx(&self, to: u64, flags: u32, mask: u32) -> Result<Answer, Unanswered> {
        let stat = self.with(|proc, path| sys::statx_bytes(proc, path, flags, mask))?;
        Ok(stat.and_then(|bytes| self.give(to, &bytes)).map(|()| Answer::Value(0)).into())
    }

    /// What is there may be used: all of it is the process's own.
    fn exists(&self) -> Result<Answer, Unanswered> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = self.with(|proc, path| openat(proc, path, flags, Mode::empty()))?;
        Ok(found.map(|_| Answer::Value(0)).into())
    }

    /// Writes into the process's memory.
    fn give(&self, to: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.tracee.write(to, bytes).map_err(|Unanswered| Errno::FAULT)
    }
}

/// What a path names of which process, if that is something to be had.
fn parse(path: &Path) -> Option<(Whose, String)> {
    let path = std::str::from_utf8(path.as_os_str().as_bytes()).ok()?;
    if let Some(name) = path.strip_prefix("/dev/") {
        let number = match name {
            "stdin" => "0",
            "stdout" => "1",
            "stderr" => "2",
            _ => name.strip_prefix("fd/")?,
        };
        return is_number(number).then(|| (Whose::Process, format!("fd/{number}")));
    }
    let (whose, name) = path.strip_prefix("/proc/")?.split_once('/')?;
    let whose = match whose {
        "self" => Whose::Process,
        "thread-self" => Whose::Thread,
        number if is_number(number) => Whose::Number(number.parse().ok()?),
        _ => return None,
    };
    is_offered(name).then(|| (whose, name.to_owned()))
}

fn is_offered(name: &str) -> bool {
    match name.split_once('/') {
        None => LINKS.contains(&name) || FILES.contains(&name),
        Some(("fd" | "fdinfo", number)) => is_number(number),
        Some(("task", rest)) => rest
            .split_once('/')
            .is_some_and(|(number, name)| is_number(number) && FILES.contains(&name)),
        Some(_) => false,
    }
}

fn is_number(text: &str) -> bool {
    (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leads_nowhere_else_is_found() {
        let check = |path: &str, expected: Option<(Whose, &str)>| {
            let expected = expected.map(|(whose, name)| (whose, name.to_owned()));
            assert_eq!(parse(Path::new(path)), expected, "{path}");
        };
        check("/dev/stdin", Some((Whose::Process, "fd/0")));
        check("/dev/stderr", Some((Whose::Process, "fd/2")));
        check("/dev/fd/63", Some((Whose::Process, "fd/63")));
        check("/proc/self/fd/0", Some((Whose::Process, "fd/0")));
        check("/proc/self/exe", Some((Whose::Process, "exe")));
        check("/proc/thread-self/comm", Some((Whose::Thread, "comm")));
        check("/proc/12/status", Some((Whose::Number(12), "status")));
        check("/proc/self/task/7/comm", Some((Whose::Process, "task/7/comm")));
        for path in [
            "/dev/fd",
            "/dev/fd/",
            "/dev/fd/..",
            "/dev/fd/+1",
            "/dev/fd/1/..",
            "/dev/null",
            "/proc/self",
            "/proc/self/",
            "/proc/self/fd",
            "/proc/self/fd/",
            "/proc/self/fd/3/x",
            "/proc/self/mem",
            "/proc/self/ns/mnt",
            "/proc/self/map_files/1-2",
            "/proc/self/root/etc",
            "/proc/self/task",
            "/proc/self/task/7",
            "/proc/self/task/7/root",
            "/proc/self/task/../status",
            "/proc/self/../1/status",
            "/proc/../status",
            "/proc/sys/kernel/core_pattern",
            "/proc/1234567890123/status",
            "proc/self/exe",
        ] {
            check(path, None);
        }
    }
}
