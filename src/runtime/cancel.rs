//! Tells running sandboxes to stop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::Timespec;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

/// Asks any number of running sandboxes to stop; clones share one state.
///
/// The first [`cancel`](Self::cancel) is a request with a period of grace, the second one an order.
/// It never goes back. Two event counters that nobody drains carry the two levels, so that every
/// sandbox can wait for them beside its output, without a thread or a timer.
#[derive(Debug, Clone)]
pub struct CancelToken {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    request: OwnedFd,
    order: OwnedFd,
}

impl CancelToken {
    /// Makes a token that nobody has cancelled.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn new() -> std::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let inner = Inner { request: eventfd(0, flags)?, order: eventfd(0, flags)? };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Asks to stop; called again, orders it.
    pub fn cancel(&self) {
        let level = if self.is_cancelled() { &self.inner.order } else { &self.inner.request };
        // A full counter is as good as a raised one.
        let _raised = rustix::io::write(level, &1u64.to_ne_bytes());
    }

    /// Says whether anybody has asked to stop.
    pub fn is_cancelled(&self) -> bool {
        let mut fds = [PollFd::new(&self.inner.request, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }

    /// Waits until something can be read from `file`, or to its end; false if that was not to be.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait_to_read(&self, file: impl AsFd) -> std::io::Result<bool> {
        let request = self.request();
        let mut fds = [PollFd::new(&file, PollFlags::IN), PollFd::new(&request, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        Ok(fds[1].revents().is_empty())
    }

    pub(super) fn request(&self) -> BorrowedFd<'_> {
        self.inner.request.as_fd()
    }

    pub(super) fn order(&self) -> BorrowedFd<'_> {
        self.inner.order.as_fd()
    }
}
