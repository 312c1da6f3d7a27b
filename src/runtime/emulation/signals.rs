//! Calls that are aimed at a process by its number, where a step has no numbers of its own.
//!
//! The kernel does what was asked, once it is known to concern the step alone. In between, what was found
//! may end and its number may go to somebody else; but not to mica, nor to the guardian, which have theirs.

use rustix::io::Errno;

use super::tracee::Tracee;
use super::{Answer, Asked, Call};

pub(super) fn aimed(tracee: &Tracee<'_>, asked: &Asked<'_>) -> Answer {
    const F_SETOWN: u32 = nix::libc::F_SETOWN.cast_unsigned();
    // Its number is behind a pointer, where it may change.
    const F_SETOWN_EX: u32 = 15;
    let aims: &[usize] = match (asked.call, asked.number(1)) {
        (Call::KillThread, _) => &[0, 1],
        (Call::Fcntl, F_SETOWN) => &[2],
        (Call::Fcntl, F_SETOWN_EX) => return Answer::Fails(Errno::PERM),
        (Call::Fcntl, _) => &[],
        _ => &[0],
    };
    if aims.iter().all(|index| are_of_step(tracee, asked.descriptor(*index))) {
        Answer::Continue
    } else {
        // As in a PID namespace: whoever is not of the step is not there.
        Answer::Fails(Errno::SRCH)
    }
}

/// Whether all processes that a signal to `number` would reach are of the step.
fn are_of_step(tracee: &Tracee<'_>, number: i32) -> bool {
    match (number, u32::try_from(number)) {
        // Its own group: the step began a session.
        (0, _) => true,
        // Whoever can be reached.
        (-1, _) => false,
        (_, Ok(process)) => tracee.shares_step_with(process),
        (group, Err(_)) => tracee.group(group.unsigned_abs()).all(|it| tracee.shares_step_with(it)),
    }
}
