//! [`Forward`]: a socket behind which an agent lists keys and signs, and does nothing else.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// The largest message, as OpenSSH has it.
const MAX_MESSAGE_BYTES: u32 = 256 << 10;
/// How many connections are served at once; further ones wait.
const MAX_CONNECTIONS: usize = 16;

/// `SSH_AGENT_FAILURE`: no, whatever it was.
const FAILURE: u8 = 5;
/// `SSH_AGENTC_REQUEST_IDENTITIES`: list the keys.
const LIST: u8 = 11;
/// `SSH_AGENTC_SIGN_REQUEST`: sign with one of them.
const SIGN: u8 = 13;

/// A listening socket and whoever is connected to it. Dropping it ends all of them.
#[derive(Debug)]
pub struct Forward {
    listener: UnixListener,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Forward {
    /// Listens on a new socket `name` in `dir`, with this mode and owner, on behalf of the agent behind
    /// another socket. `dir` must be closed to others until the mode is set.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(
        dir: &Path,
        name: &str,
        (mode, uid, gid): (u32, u32, u32),
        agent: &Path,
    ) -> io::Result<Self> {
        let folder = File::open(dir)?;
        // Short, however long the path of the folder is.
        let listener = UnixListener::bind(by_descriptor(&folder).join(name))?;
        match chown(dir.join(name), Some(uid), Some(gid)) {
            // Nobody there for the kernel: everybody in the namespace is its one id.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            owned => owned?,
        }
        std::fs::set_permissions(dir.join(name), Permissions::from_mode(mode))?;
        let shared = Arc::new(Shared::default());
        let accepting = {
            let (listener, shared, agent) =
                (listener.try_clone()?, shared.clone(), agent.to_owned());
            thread::Builder::new().spawn(move || accept(&listener, &shared, &agent))?
        };
        Ok(Self { listener, shared, accepting: Some(accepting) })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.shared.stop();
        // Wakes whoever waits for a connection.
        let _woken = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
        self.shared.await_all();
    }
}

/// What the threads of one [`Forward`] share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    served: usize,
    next: u64,
    /// Both ends of all connections, so that they can be ended from outside.
    streams: BTreeMap<u64, UnixStream>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more may be served; `false` where there is nothing to serve any more.
    fn enter(&self) -> bool {
        let full = |state: &mut State| !state.stopped && state.served >= MAX_CONNECTIONS;
        let waited = self.changed.wait_while(self.lock(), full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.served += usize::from(!state.stopped);
        !state.stopped
    }

    fn leave(&self) {
        self.lock().served -= 1;
        self.changed.notify_all();
    }

    /// Remembers a stream for as long as what is returned lives.
    fn watch(&self, stream: &UnixStream) -> io::Result<Watched<'_>> {
        let stream = stream.try_clone()?;
        let mut state = self.lock();
        if state.stopped {
            return Err(io::ErrorKind::Interrupted.into());
        }
        state.next += 1;
        let number = state.next;
        state.streams.insert(number, stream);
        Ok(Watched { shared: self, number })
    }

    fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        for stream in state.streams.values() {
            // Fails where the other side has ended it.
            drop(stream.shutdown(Shutdown::Both));
        }
        self.changed.notify_all();
    }

    fn await_all(&self) {
        drop(self.changed.wait_while(self.lock(), |state| state.served > 0));
    }
}

struct Watched<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.shared.lock().streams.remove(&self.number);
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>, agent: &Path) {
    while shared.enter() {
        let Ok((client, _)) = listener.accept() else {
            shared.leave();
            // Out of descriptors, or the end: the latter is seen at the next turn.
            thread::park_timeout(Duration::from_millis(20));
            continue;
        };
        let (served, agent) = (shared.clone(), agent.to_owned());
        let started = thread::Builder::new().spawn(move || {
            // Whatever went wrong, the connection ends, which is all that the other side has to know.
            drop(serve(&served, client, &agent));
            served.leave();
        });
        if started.is_err() {
            shared.leave();
        }
    }
}

/// Answers one connection's requests until it ends.
fn serve(shared: &Shared, mut client: UnixStream, agent: &Path) -> io::Result<()> {
    let _watched = shared.watch(&client)?;
    let mut upstream = None;
    while let Some(request) = receive(&mut client)? {
        let answer = match request.first() {
            Some(&(LIST | SIGN)) => {
                let (agent, _) = match &mut upstream {
                    Some(upstream) => upstream,
                    None => {
                        let agent = reach(agent)?;
                        let watched = shared.watch(&agent)?;
                        upstream.insert((agent, watched))
                    }
                };
                send(agent, &request)?;
                receive(agent)?.ok_or(io::ErrorKind::UnexpectedEof)?
            }
            _ => vec![FAILURE],
        };
        send(&mut client, &answer)?;
    }
    Ok(())
}

/// Connects to an agent, without waiting for one that does not listen.
fn reach(agent: &Path) -> io::Result<UnixStream> {
    use rustix::fs::{Mode, OFlags, open};
    let place = File::from(open(agent, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(by_descriptor(&place))?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// One message without its length; `None` at the end.
fn receive(from: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if from.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut length[1..])?;
    let length = u32::from_be_bytes(length);
    if length == 0 || length > MAX_MESSAGE_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = Vec::new();
    from.take(length.into()).read_to_end(&mut message)?;
    if message.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(message))
}

fn send(to: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    to.write_all(&[&length.to_be_bytes(), message].concat())
}

fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that answers each request with its own bytes, and how often it was asked.
    struct Echo {
        dir: tempfile::TempDir,
        asked: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Echo {
        fn start() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let listener = UnixListener::bind(dir.path().join("real")).expect("to listen");
            let asked = Arc::new(Mutex::new(Vec::new()));
            let told = asked.clone();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let (mut stream, told) = (stream.expect("a connection"), told.clone());
                    thread::spawn(move || {
                        while let Ok(Some(request)) = receive(&mut stream) {
                            told.lock().expect("no panic").push(request.clone());
                            // Never answered.
                            if request == [SIGN, b'?'] {
                                continue;
                            }
                            send(&mut stream, &request).expect("to answer");
                        }
                    });
                }
            });
            Self { dir, asked }
        }

        fn forward(&self) -> Forward {
            let real = self.dir.path().join("real");
            let owner = (0o600, rustix::process::getuid().as_raw(), 0);
            let gid = rustix::process::getgid().as_raw();
            let owner = (owner.0, owner.1, gid);
            Forward::listen(self.dir.path(), "door", owner, &real).expect("to listen")
        }

        fn client(&self) -> UnixStream {
            UnixStream::connect(self.dir.path().join("door")).expect("to connect")
        }
    }

    fn ask(client: &mut UnixStream, request: &[u8]) -> Vec<u8> {
        send(client, request).expect("to ask");
        receive(client).expect("an answer").expect("no end")
    }

    #[test]
    fn only_listing_and_signing_pass() {
        let echo = Echo::start();
        let _forward = echo.forward();
        let mut client = echo.client();
        assert_eq!(ask(&mut client, &[LIST]), [LIST]);
        for other in (0..=255_u8).filter(|kind| ![LIST, SIGN].contains(kind)) {
            assert_eq!(ask(&mut client, &[other, 1, 2]), [FAILURE], "{other}");
        }
        assert_eq!(ask(&mut client, &[SIGN, 7, 8]), [SIGN, 7, 8]);
        assert_eq!(*echo.asked.lock().expect("no panic"), [vec![LIST], vec![SIGN, 7, 8]]);
        let mode = std::fs::metadata(echo.dir.path().join("door")).expect("the socket");
        assert_eq!(mode.permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn what_is_no_message_ends_the_connection() {
        for bytes in [&[0_u8, 0, 0, 0][..], &[0xff; 8], &[0, 4, 0, 1, LIST]] {
            let echo = Echo::start();
            let _forward = echo.forward();
            let mut client = echo.client();
            client.write_all(bytes).expect("to write");
            assert!(!matches!(receive(&mut client), Ok(Some(_))), "{bytes:?}");
        }
    }

    #[test]
    fn the_end_waits_for_nobody() {
        let echo = Echo::start();
        let forward = echo.forward();
        let mut stuck = echo.client();
        send(&mut stuck, &[SIGN, b'?']).expect("to ask");
        let mut half = echo.client();
        half.write_all(&[0, 0, 0]).expect("half a length");
        // More than are served at once.
        let idle: Vec<UnixStream> = (0..2 * MAX_CONNECTIONS).map(|_| echo.client()).collect();
        while echo.asked.lock().expect("no panic").is_empty() {
            thread::yield_now();
        }
        drop(forward);
        for mut client in idle.into_iter().chain([stuck, half]) {
            assert!(!matches!(receive(&mut client), Ok(Some(_))));
        }
    }

    #[test]
    fn without_an_agent_the_connection_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let owner = (0o600, rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let forward = Forward::listen(dir.path(), "door", owner, &dir.path().join("gone"));
        let _forward = forward.expect("to listen");
        let mut client = UnixStream::connect(dir.path().join("door")).expect("to connect");
        send(&mut client, &[LIST]).expect("to ask");
        assert!(!matches!(receive(&mut client), Ok(Some(_))));
    }
}
