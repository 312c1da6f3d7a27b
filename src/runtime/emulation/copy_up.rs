//! Makes a file that is opened for writing count as changed, as it does in an overlay, which copies it up
//! then: lock files are in layers for no other reason.
//!
//! A copy of a root is asked afterwards what changed (`snapshot::Checkout`), and tells by change times.
//! Setting the mode that a file has sets no more than that.

use rustix::fs::{CWD, FileType, Mode, OFlags, chmodat, fstat, openat};

use super::record::by_descriptor;
use super::tracee::{Tracee, Unanswered};
use super::{Answer, Asked, Call};

/// Marks the file that an `open` or `openat` asks for, if that is one and may be written; the kernel
/// answers in any case.
pub(super) fn mark(mut tracee: Tracee<'_>, asked: &Asked<'_>) -> Result<Answer, Unanswered> {
    let (directory, at) = match asked.call {
        Call::Open => (nix::libc::AT_FDCWD, 0),
        Call::Openat => (asked.descriptor(0), 1),
        _ => return Ok(Answer::Continue),
    };
    let flags = OFlags::from_bits_retain(asked.number(at + 1));
    if !flags.intersects(OFlags::WRONLY | OFlags::RDWR) || flags.contains(OFlags::PATH) {
        return Ok(Answer::Continue);
    }
    let path = tracee.path_at(asked.arguments[at])?;
    let file = tracee.resolve(directory, &path, flags & OFlags::NOFOLLOW)?;
    let mode = fstat(&file)?.st_mode;
    if FileType::from_raw_mode(mode) == FileType::RegularFile {
        let writing = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let who = tracee.who()?;
        who.does(|| openat(CWD, by_descriptor(&file), writing, Mode::empty()))??;
        chmodat(
            CWD,
            by_descriptor(&file),
            Mode::from_raw_mode(mode),
            rustix::fs::AtFlags::empty(),
        )?;
    }
    Ok(Answer::Continue)
}
