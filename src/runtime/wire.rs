//! What mica and its child say to each other, over a socket pair.
//!
//! A frame is a length (4 bytes, little-endian), then a tag and the fields one after the other;
//! numbers are little-endian, sequences carry their length. Paths and arguments are bytes, which
//! is why this is no JSON. Both ends are the same binary, so there is no version.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::error::{SetupError, Step};
use super::isolation::Mode;
use super::spec::{ExecSpec, ExitStatus, Network, Resource, SandboxMount, Security, Stdin, Ulimit};
use super::stub::Stub;
use super::user::UserError;
use crate::mount::Overlay;

/// Frames larger than this are nonsense; an environment may have megabytes.
const FRAME_LIMIT: u32 = 256 << 20;

/// From mica to its child.
#[derive(Debug)]
pub(super) enum Order {
    /// Run this; the attached descriptor, if any, is the process's standard input.
    Run { spec: Box<ExecSpec>, mode: Mode },
    /// End it gently if it listens, at once if it can't.
    Terminate,
    /// End it now.
    Kill,
}

/// From the child to mica.
#[derive(Debug)]
pub(super) enum Report {
    /// Attached is the controlling side of the process's terminal.
    Terminal,
    /// These were made in the upper directory and have to go again.
    Stubs { stubs: Vec<Stub> },
    /// The command was never started.
    Failed { error: SetupError },
    /// It ran and ended so.
    Exited { status: ExitStatus },
}

/// Sends one frame, and a descriptor with its first byte.
pub(super) fn send<T: Wire>(
    socket: &UnixStream,
    frame: &T,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    frame.put(&mut bytes);
    let length = u32::try_from(bytes.len() - 4).map_err(|_| io::ErrorKind::InvalidInput)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if let Some(fd) = &fd {
        ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
    }
    let mut sent = 0;
    while sent < bytes.len() {
        let part = [IoSlice::new(&bytes[sent..])];
        match sendmsg(socket, &part, &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(count) => {
                sent += count;
                ancillary.clear();
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Receives one frame, with the descriptor that came with it; `None` when the other end is gone.
pub(super) fn receive<T: Wire>(socket: &UnixStream) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut fd = None;
    let mut head = [0; 4];
    if !fill(socket, &mut head, &mut fd)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(head);
    if length > FRAME_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length as usize];
    if !fill(socket, &mut body, &mut fd)? {
        return Ok(None);
    }
    let frame = T::get(&mut body.as_slice()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some((frame, fd)))
}

fn fill(socket: &UnixStream, into: &mut [u8], fd: &mut Option<OwnedFd>) -> io::Result<bool> {
    let mut filled = 0;
    while filled < into.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut part = [IoSliceMut::new(&mut into[filled..])];
        match recvmsg(socket, &mut part, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) if got.bytes == 0 => return Ok(false),
            Ok(got) => filled += got.bytes,
            Err(rustix::io::Errno::INTR) => continue,
            // The other end died with frames unread: gone is gone.
            Err(rustix::io::Errno::CONNRESET) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                *fd = fds.last();
            }
        }
    }
    Ok(true)
}

/// A value that can cross the socket. `get` takes its bytes off the front, or nothing makes sense.
pub(super) trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn get(from: &mut &[u8]) -> Option<Self>;
}

macro_rules! wire {
    (number: $($type:ty),*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(from: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(Self::from_le_bytes(*bytes))
            }
        }
    )*};
    (listed: $($type:ty),*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                let index = Self::ALL.iter().position(|it| it == self).unwrap_or(usize::MAX);
                out.push(u8::try_from(index).unwrap_or(u8::MAX));
            }
            fn get(from: &mut &[u8]) -> Option<Self> {
                Self::ALL.get(usize::from(u8::get(from)?)).copied()
            }
        }
    )*};
    (struct $($name:ident { $($field:ident),* })*) => {$(
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }
            fn get(from: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: Wire::get(from)?),* })
            }
        }
    )*};
    (enum $($name:ident { $($tag:literal $variant:ident { $($field:tt $bound:ident),* })* })*) => {$(
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant { $($field: $bound),* } => {
                        out.push($tag);
                        $($bound.put(out);)*
                    })*
                }
            }
            fn get(from: &mut &[u8]) -> Option<Self> {
                match u8::get(from)? {
                    $($tag => Some(Self::$variant { $($field: Wire::get(from)?),* }),)*
                    _ => None,
                }
            }
        }
    )*};
}

wire! { number: u8, u32, u64, i32, i64 }
wire! { listed: Step, Resource }
wire! { struct
    Overlay { lowers, upper, work }
    ExecSpec {
        rootfs, mounts, argv, env, cwd, user, network, hosts, hostname, ulimits, shm_size, security,
        terminal, stdin
    }
    Ulimit { resource, soft, hard }
    Stub { path, directory, device, inode, accessed, modified }
}
wire! { enum
    Order { 0 Run { spec spec, mode mode } 1 Terminate {} 2 Kill {} }
    Report {
        0 Terminal {}
        1 Stubs { stubs stubs }
        2 Failed { error error }
        3 Exited { status status }
    }
    SandboxMount {
        0 Bind { source source, path path, target target, read_only read_only }
        1 Tmpfs { target target, size size, mode mode, read_only read_only }
        2 File { content content, target target, mode mode, uid uid, gid gid }
    }
    Mode { 0 Root {} 1 UserNamespace { ids ids } 2 Chroot {} 3 None {} }
    Network { 0 Host {} 1 None {} }
    Security { 0 Sandbox {} 1 Insecure {} }
    Stdin { 0 Null {} 1 Inherit {} }
    ExitStatus { 0 Code { 0 code } 1 Signal { 0 signal } }
    UserError {
        0 UnknownUser { name name }
        1 UnknownGroup { name name }
        2 OutOfRange { number number }
        3 NoFile { user user, path path }
    }
    SetupError {
        0 Kernel { step step, path path, errno errno }
        1 MountPoint { path path, reason reason }
        2 User { source source }
        3 UserFile { path path, reason reason }
        4 WorkingDirectory { path path, errno errno }
        5 CommandNotFound { command command }
        6 CommandDenied { command command, errno errno }
        7 Invalid { reason reason }
        8 Restless {}
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    (bytes.len() as u64).put(out);
    out.extend_from_slice(bytes);
}

fn get_bytes(from: &mut &[u8]) -> Option<Vec<u8>> {
    let length = usize::try_from(u64::get(from)?).ok()?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes.to_vec())
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        Self::from_utf8(get_bytes(from)?).ok()
    }
}

impl Wire for OsString {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        get_bytes(from).map(Self::from_vec)
    }
}

impl Wire for PathBuf {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_os_str().as_bytes(), out);
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        OsString::get(from).map(Self::from)
    }
}

impl Wire for IpAddr {
    fn put(&self, out: &mut Vec<u8>) {
        self.to_string().put(out);
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        String::get(from)?.parse().ok()
    }
}

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        u8::get(from).map(|it| it != 0)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(it) = self {
            it.put(out);
        }
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        if bool::get(from)? { T::get(from).map(Some) } else { Some(None) }
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u64).put(out);
        for it in self {
            it.put(out);
        }
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        (0..u64::get(from)?).map(|_| T::get(from)).collect()
    }
}

impl<T: Wire> Wire for Box<T> {
    fn put(&self, out: &mut Vec<u8>) {
        T::put(self, out);
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        T::get(from).map(Self::new)
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(from: &mut &[u8]) -> Option<Self> {
        Some((A::get(from)?, B::get(from)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_text_survive() {
        let odd = OsString::from_vec(vec![0xff, b'=', b'\n', 0xc3]);
        let mut spec = ExecSpec::new(Overlay::writable(vec!["/l".into()], "/u", "/w"), ["a"]);
        spec.argv.push(odd.clone());
        spec.env.push((odd.clone(), odd.clone()));
        spec.hosts.push(("db".to_owned(), IpAddr::from([10, 0, 0, 1])));
        spec.ulimits.push(Ulimit { resource: Resource::Nofile, soft: Some(1), hard: None });
        spec.mounts.push(SandboxMount::File {
            content: vec![0, 255],
            target: odd.clone().into(),
            mode: 0o400,
            uid: 1,
            gid: 2,
        });
        let (near, far) = UnixStream::pair().expect("a socket pair");
        let mode = Mode::UserNamespace { ids: 7 };
        send(&near, &Order::Run { spec: Box::new(spec.clone()), mode }, None).expect("to send");
        let (order, _) = receive::<Order>(&far).expect("to receive").expect("a frame");
        let Order::Run { spec: received, mode: Mode::UserNamespace { ids: 7 } } = order else {
            panic!("{order:?}")
        };
        assert_eq!(format!("{received:?}"), format!("{spec:?}"));
        drop(near);
        assert!(receive::<Order>(&far).expect("the end").is_none());
    }

    #[test]
    fn errors_survive() {
        for &step in Step::ALL {
            let error = SetupError::Kernel { step, path: Some("/x".into()), errno: 13 };
            let mut bytes = Vec::new();
            error.put(&mut bytes);
            assert_eq!(SetupError::get(&mut bytes.as_slice()), Some(error));
            assert_eq!(SetupError::get(&mut &bytes[..3]), None);
        }
    }
}
