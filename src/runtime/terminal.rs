//! Ties the process's terminal to the caller's: raw mode, data both ways, window size.

use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::{Output, Stream, sys};

/// Carries bytes between the caller's terminal and the process's, until dropped.
pub(super) struct Relay {
    /// The controlling side; `None` once the process has left it.
    master: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    resized: OwnedFd,
    /// What the caller's terminal was like, to be put back.
    before: Option<Termios>,
}

impl Relay {
    pub(super) fn start(master: OwnedFd) -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        let resized = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mut before = None;
        if stdin.is_terminal() {
            let modes = tcgetattr(&stdin)?;
            let mut raw = modes.clone();
            raw.make_raw();
            tcsetattr(&stdin, OptionalActions::Now, &raw)?;
            before = Some(modes);
            sys::on_window_change(resized.as_fd())?;
        }
        let relay = Self {
            master: Some(master),
            stdin: Some(stdin.as_fd().try_clone_to_owned()?),
            resized,
            before,
        };
        relay.resize();
        Ok(relay)
    }

    /// What to wait for.
    pub(super) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let stdin = self.stdin.as_ref().filter(|_| self.master.is_some());
        let fds = self.master.iter().chain(stdin).map(AsFd::as_fd);
        fds.chain([self.resized.as_fd()])
    }

    /// Carries whatever is there, without waiting.
    pub(super) fn carry(&mut self, piece: &mut [u8], output: Output<'_>) -> std::io::Result<()> {
        if ready(&self.resized) {
            let _drained = rustix::io::read(&self.resized, &mut [0; 8][..]);
            self.resize();
        }
        if self.master.as_ref().is_some_and(ready) {
            self.carry_out(piece, output);
        }
        let (Some(master), Some(stdin)) = (&self.master, &self.stdin) else { return Ok(()) };
        if !ready(stdin) {
            return Ok(());
        }
        match rustix::io::read(stdin, &mut *piece) {
            // The terminal stays: what the process does at the end of its input is its own matter.
            Ok(0) | Err(Errno::IO) => self.stdin = None,
            Ok(count) => write_all(master, &piece[..count])?,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Carries what the process wrote last, until its side is closed.
    pub(super) fn drain(&mut self, piece: &mut [u8], output: Output<'_>) {
        while self.master.as_ref().is_some_and(ready) {
            self.carry_out(piece, output);
        }
    }

    fn carry_out(&mut self, piece: &mut [u8], output: Output<'_>) {
        let Some(master) = &self.master else { return };
        match rustix::io::read(master, &mut *piece) {
            Ok(count) if count > 0 => output(Stream::Stdout, &piece[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The kernel says EIO when the last process has closed the other side.
            Ok(_) | Err(_) => self.master = None,
        }
    }

    fn resize(&self) {
        if let (Some(master), Ok(size)) = (&self.master, tcgetwinsize(std::io::stdin())) {
            let _cosmetic = tcsetwinsize(master, size);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _gone = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}

fn ready(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|count| count > 0)
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::IO) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
