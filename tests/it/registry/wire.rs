//! What goes over the line: questions, answers, TLS, and what goes wrong with either.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How long who stalls says nothing: longer than any test waits.
const SILENCE: Duration = Duration::from_secs(30);

/// What goes wrong with a question or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is answered so, with this header, and nothing else is done.
    Answer(u16, &'static str),
    /// After so many bytes of the question's body the connection is cut. What has arrived is kept.
    Cut(usize),
    /// What is asked for is done, and the connection is cut before it is answered.
    Mute,
    /// Half of the question's body is thrown away, which the answer tells.
    Half,
    /// One byte of the question's body is another one afterwards.
    Flip,
    /// The connection breaks off after so many bytes of the answer.
    Break(usize),
    /// Nothing more comes after so many bytes of the answer; with 0 of them, no answer at all.
    Stall(usize),
    /// The answer goes on for ever.
    Endless,
    /// One byte of the answer is another one.
    Garble,
    /// The answer has one byte less than it should, and says so.
    Short,
}

/// One answer to one question.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// A question that was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Without its query.
    pub(crate) path: String,
    /// What stands behind the `?`.
    pub(crate) query: String,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// An error as the distribution specification has it.
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
        Self::new(status, body.to_string())
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl Asked {
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The value of a parameter; empty where it is not there.
    pub(crate) fn parameter(&self, name: &str) -> String {
        value_of(&self.query, name).unwrap_or_default()
    }
}

/// The value of a name in what a form sends, decoded.
pub(crate) fn value_of(form: &str, name: &str) -> Option<String> {
    let value = form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let url = format!("http://h/{value}");
    Some(mica::http::Url::parse(&url).expect("a URL").path()[1..].to_owned())
}

trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

/// A connection on which questions come, plain or in TLS.
pub(super) struct Line {
    reader: BufReader<Box<dyn Duplex>>,
    socket: TcpStream,
}

impl Line {
    /// `None` for a greeting in the other language, which is answered as most servers do.
    pub(super) fn accept(mut socket: TcpStream, tls: Option<&Arc<ServerConfig>>) -> Option<Self> {
        let (mut first, handle) = ([0], socket.try_clone().expect("a second handle"));
        let is_plain = matches!(socket.peek(&mut first), Ok(1)) && first[0].is_ascii_uppercase();
        let stream: Box<dyn Duplex> = match tls {
            None if is_plain => Box::new(socket),
            Some(config) if !is_plain => {
                let connection = ServerConnection::new(Arc::clone(config)).expect("a valid setup");
                let mut stream = StreamOwned::new(connection, socket);
                while stream.conn.is_handshaking() {
                    if stream.conn.complete_io(&mut stream.sock).is_err() {
                        part(&mut stream.sock);
                        return None;
                    }
                }
                Box::new(stream)
            }
            _ => {
                drop(socket.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n"));
                part(&mut socket);
                return None;
            }
        };
        Some(Self { reader: BufReader::new(stream), socket: handle })
    }

    /// The next question without its body.
    pub(super) fn question(&mut self) -> Option<Asked> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let mut words = line.split_ascii_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (path, query) = (path.to_owned(), query.to_owned());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            match line.trim().split_once(':') {
                Some((name, value)) => {
                    headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
                }
                None => return Some(Asked { method, path, query, headers }),
            }
        }
    }

    /// As much of a body as comes, and at most `limit` bytes.
    pub(super) fn body(&mut self, asked: &Asked, limit: usize) -> Vec<u8> {
        let mut body = Vec::new();
        let mut take = |reader: &mut dyn BufRead, length: usize| {
            let rest = length.min(limit - body.len());
            reader.take(rest as u64).read_to_end(&mut body).is_ok() && rest == length
        };
        let coding = asked.headers.get("transfer-encoding");
        if coding.is_some_and(|coding| coding == "chunked") {
            loop {
                let mut line = String::new();
                let came = self.reader.read_line(&mut line).is_ok();
                let length = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
                if !came || !take(&mut self.reader, length) {
                    break;
                }
                if self.reader.read_line(&mut String::new()).is_err() || length == 0 {
                    break;
                }
            }
        } else if let Some(length) = asked.headers.get("content-length") {
            take(&mut self.reader, length.parse().expect("a number"));
        }
        body
    }

    /// Sends an answer; `None` where the connection ends with it.
    pub(super) fn answer(
        &mut self,
        asked: &Asked,
        reply: Reply,
        fault: Option<Fault>,
    ) -> Option<()> {
        let Reply { mut status, mut headers, mut body } = reply;
        match fault {
            Some(Fault::Cut(_) | Fault::Mute) => return None,
            Some(Fault::Stall(0)) => {
                std::thread::sleep(SILENCE);
                return None;
            }
            Some(Fault::Garble) => body[0] ^= 1,
            Some(Fault::Short) => drop(body.pop()),
            _ => {}
        }
        if status == 200
            && let Some(start) = range(asked).filter(|start| (1..body.len()).contains(start))
        {
            status = 206;
            let end = body.len();
            headers.push(("Content-Range".into(), format!("bytes {start}-{}/{end}", end - 1)));
            body.drain(..start);
        }
        let mut head = format!("HTTP/1.1 {status} Whatever\r\n");
        for (name, value) in &headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if fault == Some(Fault::Endless) {
            return self.send_for_ever(&head, body);
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        self.send(head.as_bytes())?;
        if asked.method == "HEAD" {
            return Some(());
        }
        match fault {
            Some(Fault::Break(at)) if at < body.len() => {
                self.send(&body[..at])?;
                None
            }
            Some(Fault::Stall(at)) => {
                self.send(&body[..at])?;
                std::thread::sleep(SILENCE);
                None
            }
            _ => self.send(&body),
        }
    }

    fn send_for_ever(&mut self, head: &str, mut body: Vec<u8>) -> Option<()> {
        self.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
        loop {
            body.resize(body.len() + 4096, b' ');
            self.send(format!("{:x}\r\n", body.len()).as_bytes())?;
            self.send(&body)?;
            self.send(b"\r\n")?;
            body.clear();
        }
    }

    /// Whoever asked may have gone.
    fn send(&mut self, bytes: &[u8]) -> Option<()> {
        let stream = self.reader.get_mut();
        stream.write_all(bytes).and_then(|()| stream.flush()).ok()
    }
}

/// Ends a connection so that what was said last arrives.
fn part(socket: &mut TcpStream) {
    drop(socket.shutdown(Shutdown::Write));
    drop(std::io::copy(socket, &mut std::io::sink()));
}

impl Drop for Line {
    fn drop(&mut self) {
        drop(self.socket.shutdown(Shutdown::Both));
    }
}

/// From which byte on something is asked for.
fn range(asked: &Asked) -> Option<usize> {
    asked.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}
