//! How BuildKit writes values into histories: Go's `%q` and `%v`.

/// A string as Go's `%q` has it.
pub(super) fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        escape_into(&mut out, c, '"');
    }
    out.push('"');
    out
}

/// A list of strings as Go's `%q` has it: `["a" "b"]`.
pub(super) fn go_quote_list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| go_quote(item)).collect();
    format!("[{}]", quoted.join(" "))
}

/// A number as Go's `%q` has it: a character in single quotes.
pub(super) fn go_quote_number(number: u32) -> String {
    let mut out = String::from("'");
    escape_into(&mut out, char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER), '\'');
    out.push('\'');
    out
}

fn escape_into(out: &mut String, c: char, quote: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        c if c == quote => out.extend(['\\', c]),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        c if (c as u32) < 0x20 || c == '\u{7f}' => {
            out.push_str(&format!("\\x{:02x}", c as u32));
        }
        c if is_printable(c) => out.push(c),
        c if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
        c => out.push_str(&format!("\\U{:08x}", c as u32)),
    }
}

/// Whether Go prints a character as it is: no control, format, unassigned or blank one but the
/// space. Behind another character, Rust's debug form leaves the same ones alone.
fn is_printable(c: char) -> bool {
    let text = String::from_iter(['x', c]);
    c == '"' || c == '\'' || text.escape_debug().eq(text.chars())
}

/// A duration in nanoseconds as Go writes it: `1m30s`, `500ms`.
pub(super) fn go_duration(nanos: i64) -> String {
    let total = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let fraction = |value: u64, unit: u64| {
        let digits = format!("{:09}", value % unit * (1_000_000_000 / unit));
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() {
            (value / unit).to_string()
        } else {
            format!("{}.{digits}", value / unit)
        }
    };
    match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{total}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(total, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(total, 1_000_000)),
        _ => {
            let (minutes, rest) = (total / 60_000_000_000, total % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// An instruction on one line, for people.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            (0, "0s"),
            (5_000_000_000, "5s"),
            (90_000_000_000, "1m30s"),
            (500_000_000, "500ms"),
            (300_000_000_000, "5m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500_000_000, "1.5s"),
            (1_500, "1.5µs"),
        ];
        for (nanos, text) in cases {
            assert_eq!(go_duration(nanos), text);
        }
    }

    #[test]
    fn quoting() {
        assert_eq!(go_quote("a\"b\\\n\u{1b}é"), "\"a\\\"b\\\\\\n\\x1bé\"");
        assert_eq!(
            go_quote("'\u{85}\u{a0}\u{ad}\u{2028}\u{e000}\u{301}日😀\u{10ffff}"),
            "\"'\\u0085\\u00a0\\u00ad\\u2028\\ue000\u{301}日😀\\U0010ffff\""
        );
        assert_eq!(go_quote_number(3), "'\\x03'");
        assert_eq!(go_quote_number(10), "'\\n'");
        assert_eq!(go_quote_number(65), "'A'");
        assert_eq!(go_quote_number(0), "'\\x00'");
        assert_eq!(go_quote_list(&["a".into(), "b c".into()]), "[\"a\" \"b c\"]");
    }
}
