//! Answers system calls of a step that the kernel would refuse for want of ids, or of `/proc`.
//!
//! A user namespace of one id has no other user to change to or to give a file to, and none has
//! devices. A chroot has no `/proc` (`own_proc`), and no process numbers of its own (`signals`). Where the
//! kernel would refuse, or allow too much, the step's filter stops the call and tells the guardian;
//! it writes down what was wanted (`record`), where whoever reads the layer finds it, and answers that
//! it is done. What a process takes itself for is remembered and told to it (`identities`), so that
//! programs that check find what they set.
//!
//! **Invariant.** The guardian acts only where the process itself could: in its mount namespace, with
//! paths resolved by its root, on descriptors, never twice on a name (`tracee`). It makes files, notes
//! and changes of mode, and opens nothing for reading. Whatever it doesn't understand, the kernel
//! decides.

mod call;
mod copy_up;
mod create;
mod identities;
mod identity;
mod own_proc;
mod owner;
mod record;
mod signals;
mod tracee;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

pub(super) use call::{Call, Condition};
use identities::Identities;
use tracee::{Places, Tracee, Unanswered};

use super::isolation::Emulation;
use super::{seccomp, sys};

/// The kernel's number for 32-bit programs on `x86_64`, whose older calls have ids of 16 bits.
const AUDIT_I386: u32 = 0x4000_0003;

/// What is to become of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The kernel does what it would have done.
    Continue,
    /// It returns this.
    Value(i64),
    /// It fails so.
    Fails(Errno),
    /// It was answered already, with a descriptor.
    Done,
}

impl From<Result<Self, Errno>> for Answer {
    fn from(result: Result<Self, Errno>) -> Self {
        result.unwrap_or_else(Self::Fails)
    }
}

/// How wide a call's ids are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Narrow,
    Full,
}

impl Width {
    /// An id out of an argument; `None` for -1.
    fn id(self, argument: u64) -> Option<u32> {
        let id = match self {
            Self::Narrow if argument & 0xffff == 0xffff => u32::MAX,
            Self::Narrow => u32::try_from(argument & 0xffff).unwrap_or(u32::MAX),
            Self::Full => low(argument),
        };
        (id != u32::MAX).then_some(id)
    }

    /// The bytes of ids in memory.
    fn encode(self, ids: &[u32]) -> Vec<u8> {
        match self {
            Self::Full => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
            Self::Narrow => ids
                .iter()
                .flat_map(|id| u16::try_from(*id).unwrap_or(65534).to_le_bytes())
                .collect(),
        }
    }

    fn bytes(self) -> usize {
        if self == Self::Narrow { 2 } else { 4 }
    }
}

/// The lower half of an argument: what a call that takes an `int` gets.
#[expect(clippy::cast_possible_truncation, reason = "the upper half of an int is nobody's")]
fn low(argument: u64) -> u32 {
    argument as u32
}

/// Answers the calls of one step.
#[derive(Debug)]
pub(super) struct Supervisor {
    listener: OwnedFd,
    first: Pid,
    emulation: Emulation,
    /// Whether the step has a mount namespace of its own.
    namespaces: bool,
    inside: Option<Inside>,
}

/// What answers take, once there is something to answer: many steps never ask.
#[derive(Debug)]
struct Inside {
    calls: HashMap<(u32, u32), (Call, Width)>,
    identities: Identities,
    places: Places,
}

impl Inside {
    /// Takes this process, the guardian, into the mount namespace of the step's first process.
    fn enter(first: Pid, emulation: Emulation, namespaces: bool) -> std::io::Result<Self> {
        // What is made here has the mode that the step's process gives it.
        rustix::process::umask(Mode::empty());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
        if namespaces {
            let process = pidfd_open(first, PidfdFlags::empty())?;
            setns(&process, CloneFlags::CLONE_NEWNS)?;
        }
        let calls = seccomp::numbers().filter_map(|(name, audit, number)| {
            let call = Call::named(name).filter(|call| call.needed_for(emulation))?;
            if audit == AUDIT_I386 && call.fills_structure() {
                return None;
            }
            let narrow = audit == AUDIT_I386 && !name.ends_with("32") && call.has_old_ids();
            let width = if narrow { Width::Narrow } else { Width::Full };
            Some(((audit, number), (call, width)))
        });
        let first = first.as_raw_nonzero().get().cast_unsigned();
        let identities = Identities::new(proc.try_clone()?, first);
        Ok(Self { calls: calls.collect(), identities, places: Places::new(proc)? })
    }
}

impl Supervisor {
    pub(super) fn new(
        listener: OwnedFd,
        first: Pid,
        emulation: Emulation,
        namespaces: bool,
    ) -> Self {
        sys::answer_on_the_same_processor(&listener);
        Self { listener, first, emulation, namespaces, inside: None }
    }

    /// Ready for reading when a call waits.
    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Answers one call. Whoever made it may be gone by then.
    pub(super) fn answer(&mut self) {
        let Ok(notification) = sys::next_notification(&self.listener) else { return };
        let id = notification.id;
        let answer = match self.find_answer(&notification) {
            Ok(Answer::Done) => return,
            Ok(Answer::Value(value)) => Some(Ok(value)),
            Ok(Answer::Fails(errno)) => Some(Err(errno.raw_os_error())),
            Ok(Answer::Continue) | Err(Unanswered) => None,
        };
        let _gone = sys::answer(&self.listener, id, answer);
    }

    fn find_answer(&mut self, notification: &sys::Notification) -> Result<Answer, Unanswered> {
        let emulation = self.emulation;
        let inside = match &mut self.inside {
            Some(inside) => inside,
            // Whoever waits is there, and so is the first process.
            none => {
                match Inside::enter(self.first, emulation, self.namespaces) {
                    Ok(inside) => none.insert(inside),
                    // Without a look at it, no call is let through.
                    Err(_) => return Ok(Answer::Fails(Errno::PERM)),
                }
            }
        };
        let data = &notification.data;
        let number = data.nr.cast_unsigned();
        let Some(&(call, width)) = inside.calls.get(&(data.arch, number)) else {
            return Err(Unanswered);
        };
        let tracee = Tracee {
            listener: self.listener.as_fd(),
            places: &mut inside.places,
            tid: notification.pid,
            id: notification.id,
        };
        let asked = Asked { call, width, arguments: &data.args };
        let identities = &mut inside.identities;
        match call {
            Call::Mknod | Call::Mknodat => create::node(tracee, &asked, identities, emulation),
            Call::Chown | Call::Lchown | Call::Fchown | Call::Fchownat => {
                owner::change(tracee, &asked, identities)
            }
            Call::Open
            | Call::Openat
            | Call::Creat
            | Call::Mkdir
            | Call::Mkdirat
            | Call::Symlink
            | Call::Symlinkat
                if emulation == Emulation::Owners =>
            {
                create::anything(tracee, &asked, identities)
            }
            call if call.aims_at_processes() => Ok(signals::aimed(&tracee, &asked)),
            _ if emulation == Emulation::Processes => match own_proc::find(&tracee, &asked)? {
                Some(path) => own_proc::look_up(tracee, &asked, &path),
                None => copy_up::mark(tracee, &asked),
            },
            _ => owner::identity(&tracee, &asked, identities),
        }
    }
}

/// A call and its arguments.
struct Asked<'a> {
    call: Call,
    width: Width,
    arguments: &'a [u64; 6],
}

impl Asked<'_> {
    fn id(&self, index: usize) -> Option<u32> {
        self.width.id(self.arguments[index])
    }

    fn number(&self, index: usize) -> u32 {
        low(self.arguments[index])
    }

    fn descriptor(&self, index: usize) -> i32 {
        low(self.arguments[index]).cast_signed()
    }
}
