//! Remembers which process takes itself for whom.
//!
//! A process that is not known has what its parent has: so it is told once, when a process changes, and
//! its children follow. A parent that has ended in the meantime leaves its children to root; nothing
//! but what they are shown hangs on it.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};

use super::identity::Identity;
use super::tracee::field;

/// Deeper trees of processes are none.
const DEPTH_LIMIT: usize = 64;
/// With more than this many, those that have ended are looked for.
const MANY: usize = 4096;

/// The identities of a step's processes.
#[derive(Debug)]
pub(super) struct Identities {
    proc: OwnedFd,
    /// The step's first process.
    first: u32,
    of_first: Identity,
    /// Those that have changed theirs, with the moment of their start: numbers come again.
    changed: HashMap<u32, (u64, Identity)>,
}

impl Identities {
    pub(super) fn new(proc: OwnedFd, first: u32) -> Self {
        Self { proc, first, of_first: Identity::default(), changed: HashMap::new() }
    }

    /// Who this thread takes itself for.
    pub(super) fn of(&mut self, tid: u32) -> Identity {
        if self.changed.is_empty() || tid == self.first {
            return self.of_first.clone();
        }
        let mut at = tid;
        for _ in 0..DEPTH_LIMIT {
            if at == self.first {
                break;
            }
            if let Some((started, identity)) = self.changed.get(&at)
                && self.started(at) == Some(*started)
            {
                let identity = identity.clone();
                if at != tid {
                    self.set(tid, identity.clone());
                }
                return identity;
            }
            match self.origin(at) {
                Some(origin) => at = origin,
                None => break,
            }
        }
        self.of_first.clone()
    }

    pub(super) fn set(&mut self, tid: u32, identity: Identity) {
        if tid == self.first {
            self.of_first = identity;
            return;
        }
        if self.changed.len() >= MANY {
            let mut changed = std::mem::take(&mut self.changed);
            changed.retain(|tid, (started, _)| self.started(*tid) == Some(*started));
            self.changed = changed;
        }
        if let Some(started) = self.started(tid) {
            self.changed.insert(tid, (started, identity));
        }
    }

    fn read(&self, tid: u32, name: &str) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.proc, format!("{tid}/{name}"), flags, Mode::empty()).ok()?;
        std::io::read_to_string(File::from(file)).ok()
    }

    /// When a thread was started. (Its name may hold anything, so what counts is behind the last `)`.)
    fn started(&self, tid: u32) -> Option<u64> {
        let stat = self.read(tid, "stat")?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
    }

    /// Where a thread has its identity from: its process, or that one's parent.
    fn origin(&self, tid: u32) -> Option<u32> {
        let status = self.read(tid, "status")?;
        let number = |name| field(&status, name)?.parse::<u32>().ok();
        let process = number("Tgid:")?;
        if process == tid { number("PPid:").filter(|parent| *parent != 0) } else { Some(process) }
    }
}
