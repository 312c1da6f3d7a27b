//! The terminal of a process, out of the sandbox's own `/dev/pts`.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{Mode, OFlags, openat};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::error::{During, SetupError, Step};
use super::wire::{self, Report};
use super::{rootfs, system};

/// Opens a terminal, hands its controlling side to mica, and shows it as `/dev/console`.
pub(super) fn open(dev: &OwnedFd, socket: &UnixStream) -> Result<OwnedFd, SetupError> {
    let step = Step::Terminal;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat(dev, "pts/ptmx", flags, Mode::empty()).during(step)?;
    unlockpt(&master).during(step)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = ioctl_tiocgptpeer(&master, flags).during(step)?;
    // The first terminal of a new devpts has the number 0.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = openat(dev, "pts/0", flags, Mode::empty()).during(step)?;
    let console = rootfs::clone_tree(&node, false).during(step)?;
    rootfs::attach(&console, system::file_in(dev, "console")?).during(step)?;
    wire::send(socket, &Report::Terminal, Some(master.as_fd())).during(step)?;
    Ok(terminal)
}
