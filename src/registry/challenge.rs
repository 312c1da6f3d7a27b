//! [`Challenge`]: what a registry says that it wants to see before it answers (RFC 9110, 11.6.1).

/// The longest header that is read.
const MAX_BYTES: usize = 16 << 10;

/// One way to prove who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A user and a password with each request.
    Basic,
    /// A token from another server.
    Bearer {
        /// Where tokens are given.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What it has to allow.
        scope: Option<String>,
    },
}

/// Reads the value of `WWW-Authenticate`. What is not understood is left out.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = Cursor(header.get(..MAX_BYTES).unwrap_or(header));
    let mut scheme = String::new();
    let mut parameters: Vec<(String, String)> = Vec::new();
    loop {
        rest.skip(|c| c == ',' || c.is_ascii_whitespace());
        let Some(word) = rest.token() else {
            if rest.0.is_empty() {
                break;
            }
            // Such as the padding of a token that stands for itself.
            rest.0 = &rest.0[1..];
            continue;
        };
        rest.skip(|c| c.is_ascii_whitespace());
        // Behind a comma stands either another parameter or another scheme.
        match rest.value() {
            Some(value) => parameters.push((word.to_ascii_lowercase(), value)),
            None => {
                found.extend(challenge(&scheme, &mut parameters));
                scheme = word.to_ascii_lowercase();
            }
        }
    }
    found.extend(challenge(&scheme, &mut parameters));
    found
}

fn challenge(scheme: &str, parameters: &mut Vec<(String, String)>) -> Option<Challenge> {
    let parameters = std::mem::take(parameters);
    let get = |name: &str| {
        let found = parameters.iter().find(|(known, _)| known == name)?;
        (!found.1.is_empty()).then(|| found.1.clone())
    };
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope"),
        }),
        _ => None,
    }
}

/// What is not read yet.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn skip(&mut self, wanted: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(wanted);
    }

    /// A word; `None` where there is none, which ends the header.
    fn token(&mut self) -> Option<&'a str> {
        let end = self.0.find(|c: char| c.is_ascii_whitespace() || ",=\"".contains(c));
        let (word, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }

    /// What stands behind an equals sign, quoted or not.
    fn value(&mut self) -> Option<String> {
        self.0 = self.0.strip_prefix('=')?;
        self.skip(|c| c.is_ascii_whitespace());
        let Some(quoted) = self.0.strip_prefix('"') else {
            return Some(self.token().unwrap_or_default().to_owned());
        };
        let mut value = String::new();
        let mut escaped = false;
        for (at, c) in quoted.char_indices() {
            match c {
                '"' if !escaped => {
                    self.0 = &quoted[at + 1..];
                    return Some(value);
                }
                '\\' if !escaped => escaped = true,
                c => {
                    escaped = false;
                    value.push(c);
                }
            }
        }
        self.0 = "";
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) }
    }

    #[test]
    fn headers() {
        let check = |header: &str, expected: &[Challenge]| {
            assert_eq!(parse(header), expected, "{header}");
        };
        check(
            r#"Bearer realm="https://a.example/token",service="r.example",scope="repository:a/b:pull,push""#,
            &[bearer(
                "https://a.example/token",
                Some("r.example"),
                Some("repository:a/b:pull,push"),
            )],
        );
        check(r#"BASIC realm="Registry""#, &[Challenge::Basic]);
        check("Basic", &[Challenge::Basic]);
        check(r#"bearer realm = "x" , service=y"#, &[bearer("x", Some("y"), None)]);
        check(
            r#"Negotiate abc==, Basic realm="a, b=\"c\"", Bearer realm=x,error="invalid_token""#,
            &[Challenge::Basic, bearer("x", None, None)],
        );
        check(r#"Bearer realm="unclosed, Basic"#, &[bearer("unclosed, Basic", None, None)]);
        for nothing in
            ["", ",,,", "=", "Bearer", r#"Bearer realm="""#, "Digest x=y", "\"", "Bearer =="]
        {
            check(nothing, &[]);
        }
    }

    proptest! {
        #[test]
        fn never_panics(header in r#"([a-zA-Z]{0,6}[ ,=\\"é]{0,3}){0,20}"#) {
            drop(parse(&header));
        }
    }
}
