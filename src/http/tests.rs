//! A client against a server that answers as a test tells it to.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use proptest::prelude::*;

use super::*;

/// Answers one connection after the other, and tells what was asked.
struct Server {
    url: String,
    asked: Receiver<String>,
}

impl Server {
    fn answering(answers: Vec<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (tell, asked) = channel();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a connection");
                tell.send(request(&stream)).expect("somebody listens");
                stream.write_all(answer.as_bytes()).expect("sent");
                if answer.ends_with("STALL") {
                    std::thread::sleep(Duration::from_secs(5));
                }
            }
        });
        Self { url, asked }
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("{}{path}", self.url)).expect("a URL")
    }
}

/// The head of a request, and as much body as it says.
fn request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        reader.read_line(&mut text).expect("a request");
    }
    let lower = text.to_lowercase();
    let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
    reader.read_exact(&mut body).expect("a body");
    text + &String::from_utf8_lossy(&body)
}

fn client() -> Client {
    let short = Duration::from_millis(300);
    let limits = Limits { stall: short, pause: Duration::from_millis(5), ..Limits::default() };
    Client::new(limits, Cancelled::default())
}

fn get(url: Url) -> Result<(u16, String), String> {
    let response = client().send(&Request::get(url)).map_err(|err| err.to_string())?;
    let status = response.status;
    let mut body = String::new();
    response.into_body().read_to_string(&mut body).map_err(|err| err.to_string())?;
    Ok((status, body))
}

const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn a_body_and_a_status_arrive() {
    let server = Server::answering(vec![OK]);
    assert_eq!(get(server.url("/a%20b?c")), Ok((200, "hi".to_owned())));
    let asked = server.asked.recv().expect("a request");
    assert!(asked.starts_with("GET /a%20b?c HTTP/1.1\r\n"), "{asked}");
    assert!(asked.to_lowercase().contains("user-agent: mica/"), "{asked}");
    let server = Server::answering(vec![
        "HTTP/1.1 404 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    ]);
    assert_eq!(get(server.url("/")), Ok((404, String::new())));
}

#[test]
fn tired_servers_are_asked_again() {
    let tired =
        "HTTP/1.1 503 Later\r\nRetry-After: 0\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let server = Server::answering(vec![
        tired,
        "",
        "HTTP/1.1 502 B\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        OK,
    ]);
    assert_eq!(get(server.url("/")), Ok((200, "hi".to_owned())));
    let server = Server::answering(vec![tired; 4]);
    assert_eq!(get(server.url("/")).map(|(status, _)| status), Ok(503));
    assert_eq!(server.asked.iter().count(), 4);
    for never in [
        "HTTP/1.1 429 L\r\nRetry-After: 9999\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 429 L\r\nRetry-After: 18446744073709551615\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 429 L\r\nRetry-After: Fri, 31 Dec 2100 23:59:59 GMT\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    ] {
        let server = Server::answering(vec![never]);
        assert_eq!(get(server.url("/")).map(|(status, _)| status), Ok(429));
    }
}

#[test]
fn a_post_is_not_sent_twice() {
    let server = Server::answering(vec![
        "HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    ]);
    let url = server.url("/");
    let request = Request { method: "POST", ..Request::get(url) }.body(Body::Bytes(b"data"));
    assert_eq!(client().send(&request).expect("an answer").status, 500);
    assert!(server.asked.recv().expect("a request").ends_with("\r\n\r\ndata"));
}

#[test]
fn a_stream_is_sent_anew() {
    let server = Server::answering(vec![
        "HTTP/1.1 502 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        OK,
    ]);
    let open = || Ok(Box::new(io::Cursor::new(b"layer")) as Box<dyn Read>);
    let body = Body::Stream { length: Some(5), open: &open };
    let request = Request { method: "PUT", ..Request::get(server.url("/")) }.body(body);
    assert_eq!(client().send(&request).expect("an answer").status, 200);
    assert!(server.asked.iter().all(|asked| asked.ends_with("\r\n\r\nlayer")));
}

#[test]
fn what_is_meant_for_one_server_is_not_told_to_another() {
    let other = Server::answering(vec![OK]);
    let answer = format!(
        "HTTP/1.1 302 F\r\nLocation: {}/x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        other.url
    );
    let here = "HTTP/1.1 307 F\r\nLocation: ../b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let first = Server::answering(vec![here, Box::leak(answer.into_boxed_str())]);
    let request =
        Request::get(first.url("/a/b")).header("Authorization", "Bearer secret").header("X-Y", "z");
    assert_eq!(client().send(&request).expect("an answer").url, other.url("/x"));
    for path in ["/a/b", "/b"] {
        let asked = first.asked.recv().expect("a request").to_lowercase();
        assert!(
            asked.starts_with(&format!("get {path} ")) && asked.contains("bearer secret"),
            "{asked}"
        );
    }
    let asked = other.asked.recv().expect("a request").to_lowercase();
    assert!(!asked.contains("secret") && asked.contains("x-y: z"), "{asked}");
}

#[test]
fn a_user_in_the_url_logs_in() {
    let server = Server::answering(vec![OK]);
    let url = server.url.replace("http://", "http://me:pass@");
    get(Url::parse(&url).expect("a URL")).expect("an answer");
    assert!(server.asked.recv().expect("a request").contains("Basic bWU6cGFzcw=="));
    assert_eq!(basic("", ""), "Basic Og==");
    assert_eq!(basic("a", "b"), "Basic YTpi");
}

#[test]
fn redirects_in_a_circle_end() {
    let circle = "HTTP/1.1 301 M\r\nLocation: /\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let server = Server::answering(vec![circle; 11]);
    let err = get(server.url("/")).expect_err("a circle");
    assert!(err.ends_with("redirects more than 10 times"), "{err}");
}

#[test]
fn bodies_that_end_too_soon_or_stall_are_errors() {
    let short = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhi";
    assert!(get(Server::answering(vec![short]).url("/")).is_err());
    let stalls = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nSTALL";
    let began = Instant::now();
    assert!(get(Server::answering(vec![stalls]).url("/")).is_err());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn what_cannot_be_reached_is_told() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let url = Url::parse(&format!("http://u:secret@{free}/")).expect("a URL");
    let err = get(url).expect_err("nobody listens");
    assert!(err.contains(&format!("cannot reach `http://{free}/`")), "{err}");
    assert!(!err.contains("secret"), "{err}");
    assert!(
        get(Url::parse("ftp://h/").expect("a URL")).expect_err("no http").contains("only http")
    );
}

/// Whatever a client waits for: it ends soon after somebody asks to stop.
#[test]
fn whoever_is_asked_to_stop_stops() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = format!("http://{}/", listener.local_addr().expect("an address"));
    let stalls = Server::answering(vec!["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nSTALL"]);
    let endless = Server::answering(vec!["HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nSTALL"]);
    // Whose queue is full does not answer to a connection at all.
    let full = Full::new();
    let unreachable = format!("http://{}/", full.listener.local_addr().expect("an address"));
    for url in [silent, stalls.url("/").to_string(), endless.url("/").to_string(), unreachable] {
        let end = Instant::now() + Duration::from_millis(300);
        let client = Client::new(Limits::default(), Cancelled::new(move || Instant::now() > end));
        let request = Request::get(Url::parse(&url).expect("a URL"));
        match client.send(&request) {
            Ok(response) => {
                let mut body = Vec::new();
                let err = response.into_body().read_to_end(&mut body).expect_err("not all of it");
                assert_eq!(err.to_string(), "cancelled");
            }
            Err(err) => assert!(matches!(err, HttpError::Cancelled), "{err}"),
        }
        assert!(Instant::now() < end + Duration::from_secs(1), "{url}");
    }
}

/// A socket that listens, and takes no more connections.
struct Full {
    listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Full {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        rustix::net::listen(&listener, 0).expect("to listen");
        let address = listener.local_addr().expect("an address");
        let short = Duration::from_millis(100);
        let connect = || TcpStream::connect_timeout(&address, short).ok();
        let queue = std::iter::from_fn(connect).take(20).collect();
        Self { listener, _queue: queue }
    }
}

#[test]
fn dates() {
    assert_eq!(parse_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
    assert_eq!(parse_date("yesterday"), None);
}

proptest! {
    #[test]
    fn waits_of_any_kind(text in r"[0-9]{0,22}|[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,5} [0-9:]{0,9} GMT|.{0,30}") {
        // A date in the past is no wait, and one that is none is not there.
        let wait = retry_after(&text);
        if let Ok(seconds) = text.trim().parse() {
            prop_assert_eq!(wait, Some(Duration::from_secs(seconds)));
        } else {
            prop_assert_eq!(wait.is_some(), parse_date(&text).is_some_and(|time| time >= 0));
        }
    }
}
