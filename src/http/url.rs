//! [`Url`]: as much of RFC 3986 as fetching needs. What others would refuse in a path (spaces, letters
//! beyond ASCII) is encoded, as browsers do.

use std::fmt;
use std::ops::Range;

/// A URL with a host. Its text never has the user and password that it was written with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    /// `user[:password]`, as it was written.
    user: Option<Secret>,
    /// In lower case; an IPv6 address with its brackets.
    host: String,
    port: Option<u16>,
    /// Percent-encoded, with a slash in front.
    path: String,
    query: Option<String>,
    fragment: Option<String>,
}

/// What no message shows.
#[derive(Clone, PartialEq, Eq)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Url {
    /// Reads `scheme://[user[:password]@]host[:port][/path][?query][#fragment]`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        if !is_scheme {
            return Err("its scheme is not valid");
        }
        if text.chars().any(char::is_control) {
            return Err("it has a control character");
        }
        let (rest, fragment) = split_off(rest, '#');
        let (rest, query) = split_off(rest, '?');
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(Secret(user.to_owned())), address),
            None => (None, authority),
        };
        let (host, port) = split_port(address)?;
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            user,
            host: host.to_ascii_lowercase(),
            port,
            path: if path.is_empty() { "/".to_owned() } else { encode(path) },
            query: query.map(encode),
            fragment: fragment.map(str::to_owned),
        })
    }

    /// What a `Location` header means that came from this URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn join(&self, location: &str) -> Result<Self, &'static str> {
        let scheme_end = location.find("://").unwrap_or(usize::MAX);
        if location.find(['/', '?', '#']).is_none_or(|at| at > scheme_end)
            && scheme_end != usize::MAX
        {
            return Self::parse(location);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("{}:{location}", self.scheme));
        }
        let (rest, _) = split_off(location, '#');
        let (path, query) = split_off(rest, '?');
        let folder = &self.path[..=self.path.rfind('/').unwrap_or(0)];
        let path = match path {
            "" => self.path.clone(),
            path if path.starts_with('/') => without_dots(path),
            path => without_dots(&format!("{folder}{path}")),
        };
        let query = if rest.is_empty() { self.query.clone() } else { query.map(encode) };
        Ok(Self { path: encode(&path), query, fragment: None, user: None, ..self.clone() })
    }

    /// The scheme, in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The host, in lower case and without a port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host, with the port where one is written.
    pub fn host_and_port(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    /// The port, the scheme's own where none is written.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.scheme == "https" { 443 } else { 80 })
    }

    /// The path, decoded.
    pub fn path(&self) -> String {
        decode(&self.path)
    }

    /// What stands behind the `?`, as it was written.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// What stands behind the `#`, decoded.
    pub fn fragment(&self) -> Option<String> {
        self.fragment.as_deref().map(decode)
    }

    /// The user and the password that it was written with, decoded.
    pub fn credentials(&self) -> Option<(String, String)> {
        let (user, password) = split_off(&self.user.as_ref()?.0, ':');
        Some((decode(user), decode(password.unwrap_or_default())))
    }

    /// The user alone, for protocols that log in by other means than a password.
    pub fn user(&self) -> Option<String> {
        self.credentials().map(|(user, _)| user).filter(|user| !user.is_empty())
    }

    /// The same without what stands behind `?` and `#`.
    #[must_use]
    pub fn bare(&self) -> Self {
        Self { query: None, fragment: None, ..self.clone() }
    }

    /// The same with one more name and value behind its `?`.
    #[must_use]
    pub fn with_query(&self, name: &str, value: &str) -> Self {
        let before = self.query.as_deref().map_or_else(String::new, |query| format!("{query}&"));
        Self { query: Some(format!("{before}{name}={}", encode(value))), ..self.clone() }
    }

    /// Whether what is meant for one may be told to the other.
    pub fn same_origin(&self, other: &Self) -> bool {
        (&self.scheme, &self.host, self.port()) == (&other.scheme, &other.host, other.port())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.host_and_port(), self.path)?;
        match &self.query {
            Some(query) => write!(f, "?{query}"),
            None => Ok(()),
        }
    }
}

/// What stands before and behind the first `mark`.
fn split_off(text: &str, mark: char) -> (&str, Option<&str>) {
    match text.split_once(mark) {
        Some((before, behind)) => (before, Some(behind)),
        None => (text, None),
    }
}

fn split_port(address: &str) -> Result<(&str, Option<u16>), &'static str> {
    // The colons of an IPv6 address stand in brackets.
    let end = address.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match address[end..].find(':') {
        Some(colon) => (&address[..end + colon], &address[end + colon + 1..]),
        None => (address, ""),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match inside {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(plain),
    };
    if !is_host {
        return Err(if host.is_empty() { "it has no host" } else { "its host is not valid" });
    }
    match port {
        "" => Ok((host, None)),
        port => Ok((host, Some(port.parse().map_err(|_| "its port is not valid")?))),
    }
}

/// Encodes what may not stand in a path or query. What is encoded already stays.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Decodes percent signs with two digits; others stay.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|_| byte == b'%');
        let decoded = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(decoded.unwrap_or(byte));
        at += if decoded.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A path without `.` and `..`.
fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        parts.push("");
    }
    format!("/{}", parts.join("/"))
}

/// Where in a text the users and passwords of URLs stand.
pub fn users_in(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(|(at, scheme)| {
        let start = at + scheme.len();
        let ends = |c: char| c.is_whitespace() || "/?#\"'`,".contains(c);
        let authority = text[start..].split(ends).next()?;
        authority.rfind('@').map(|length| start..start + length)
    })
}

/// A text as it may be shown: with `***` in the place of the users and passwords of URLs.
pub fn without_users(text: &str) -> String {
    let mut shown = String::new();
    let mut end = 0;
    for user in users_in(text) {
        shown.push_str(&text[end..user.start]);
        shown.push_str("***");
        end = user.end;
    }
    shown + &text[end..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let check = |text: &str, shown: &str, path: &str| {
            let url = Url::parse(text).expect(text);
            assert_eq!((url.to_string().as_str(), url.path().as_str()), (shown, path));
        };
        check("HTTP://Example.COM", "http://example.com/", "/");
        check("https://u:p@h:8443/a?b#c", "https://h:8443/a?b", "/a");
        check("https://h/a b/ä%2Fc", "https://h/a%20b/%C3%A4%2Fc", "/a b/ä/c");
        check("http://[::1]:80/%zz%", "http://[::1]:80/%zz%", "/%zz%");
        check("ssh://git@h/x.git", "ssh://h/x.git", "/x.git");
        for wrong in [
            "",
            "h/x",
            "://h",
            "1s://h",
            "http://",
            "http://:80",
            "http://h:99999",
            "http://h:x",
            "http://[::x]/",
            "http://a b/",
            "http://h/\u{1b}",
        ] {
            assert!(Url::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let url = Url::parse("https://me:s%40cret@h/").expect("a URL");
        assert_eq!(url.credentials(), Some(("me".to_owned(), "s@cret".to_owned())));
        assert!(!format!("{url} {url:?}").contains("cret"));
        for (text, shown) in [
            ("ADD https://me:p@ss@h/x /x", "ADD https://***@h/x /x"),
            ("[\"ssh://git@h:1/x\", \"http://:p@h\"]", "[\"ssh://***@h:1/x\", \"http://***@h\"]"),
            ("https://h/a@b ://@ a@b://c", "https://h/a@b ://***@ a@b://c"),
            ("http://h x@y http://é:ü@", "http://h x@y http://***@"),
        ] {
            assert_eq!(without_users(text), shown);
        }
    }

    #[test]
    fn locations_are_joined() {
        let base = Url::parse("https://u:p@h:1/a/b?q").expect("a URL");
        for (location, expected) in [
            ("http://x/y", "http://x/y"),
            ("//x/y", "https://x/y"),
            ("/c?d", "https://h:1/c?d"),
            ("c", "https://h:1/a/c"),
            ("../c/./d/..", "https://h:1/c/"),
            ("?z", "https://h:1/a/b?z"),
            ("/r?to=http://x", "https://h:1/r?to=http://x"),
            ("", "https://h:1/a/b?q"),
        ] {
            let joined = base.join(location).expect(location);
            assert_eq!(joined.to_string(), expected, "{location}");
            assert_eq!(joined.credentials(), None, "{location}");
        }
    }

    #[test]
    fn origins() {
        let same = |a: &str, b: &str| Url::parse(a).unwrap().same_origin(&Url::parse(b).unwrap());
        assert!(same("http://h/a", "http://H:80/b"));
        assert!(!same("http://h/", "https://h/"));
        assert!(!same("http://h/", "http://h:8080/"));
        assert!(!same("http://h/", "http://h.x/"));
    }

    const TEXT: &str = r#"((https?|ssh)://)?([a-z@:]{0,4})?([a-zA-Z0-9.:é\[\]-]{0,12})([/a-z%0-9 .?#&=é"\\<|]{0,24})"#;

    proptest::proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(text in TEXT, location in TEXT) {
            let Ok(url) = Url::parse(&text) else { return Ok(()) };
            let shown = url.to_string();
            proptest::prop_assert!(shown.is_ascii() && !shown.contains(' '), "{}", shown);
            let again = Url::parse(&shown).expect("it is one");
            proptest::prop_assert_eq!(&again.to_string(), &shown);
            proptest::prop_assert!(again.same_origin(&url) && again.credentials().is_none());
            // Wherever a redirect leads: it is a URL without anybody's password, or an error.
            if let Ok(joined) = url.join(&location)
                && !location.contains("://") && !location.starts_with("//")
            {
                proptest::prop_assert!(joined.same_origin(&url) && joined.credentials().is_none());
            }
        }
    }
}
