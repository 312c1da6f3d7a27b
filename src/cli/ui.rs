//! The only file that prints. Standard output is data, standard error is talk.

use std::io::{self, IsTerminal, Write};

use super::CliError;

/// Writes one line of data.
pub(super) fn line(text: &str) -> Result<(), CliError> {
    data(|out| writeln!(out, "{text}"))
}

/// Writes data. A reader that has gone away is reported as such, and is no error in the end.
pub(super) fn data(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), CliError> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    write(&mut out).and_then(|()| out.flush()).map_err(CliError::Stdout)
}

/// Says something to whoever watches.
pub(super) fn say(text: &str) {
    // Nobody listens where this fails.
    drop(writeln!(anstream::stderr().lock(), "{text}"));
}

/// Asks something of whoever sits at the terminal; the answer stands behind it.
pub(super) fn ask(question: &str) {
    let mut out = anstream::stderr().lock();
    drop(write!(out, "{question}").and_then(|()| out.flush()));
}

/// Whether standard error is a terminal that can be drawn on.
pub(super) fn can_draw() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether somebody can be asked: programs do so on the terminal.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// A text from outside as one line that cannot steer a terminal.
pub(super) fn plain(text: &str) -> String {
    let escape = |c: char| if is_harmless(c) { c.into() } else { c.escape_default().to_string() };
    text.chars().map(escape).collect()
}

/// Whether a character neither steers a terminal nor makes a line read as what it is not.
pub(super) fn is_harmless(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !turns
}

/// Columns as wide as their widest cell, the last one ragged.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let shown = |row: &Vec<String>| row.iter().map(|cell| plain(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(shown).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count().min(*width)));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A number of bytes as people read it, in powers of 1000, as Docker shows sizes.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 1000.0 || unit == "TB" {
            return match unit {
                "B" => format!("{bytes}B"),
                _ if value < 10.0 => format!("{value:.2}{unit}"),
                _ if value < 100.0 => format!("{value:.1}{unit}"),
                _ => format!("{value:.0}{unit}"),
            };
        }
        value /= 1000.0;
    }
    String::new()
}

/// How long ago a time is, in words; empty for what is no time.
pub(super) fn ago(time: &str, now: jiff::Timestamp) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return String::new() };
    let seconds = (now.as_second() - then.as_second()).max(0);
    let units = [("year", 31_536_000), ("month", 2_592_000), ("week", 604_800), ("day", 86_400)];
    let units = units.into_iter().chain([("hour", 3600), ("minute", 60), ("second", 1)]);
    for (unit, length) in units {
        let count = seconds / length;
        if count >= 1 {
            let plural = if count == 1 { "" } else { "s" };
            return format!("{count} {unit}{plural} ago");
        }
    }
    "just now".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [(0, "0B"), (999, "999B"), (2_071_152, "2.07MB"), (515_000_000, "515MB")];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times() {
        let now = "2026-01-02T00:00:00Z".parse().expect("a time");
        assert_eq!(ago("2026-01-01T23:59:00Z", now), "1 minute ago");
        assert_eq!(ago("2014-05-13T16:53:20Z", now), "11 years ago");
        assert_eq!(ago("2030-01-01T00:00:00Z", now), "just now");
        assert_eq!(ago("not a date", now), "");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["A".into(), "B".into()], vec!["longer".into(), "x\u{1b}".into()]];
        assert_eq!(table(&rows), "A        B\nlonger   x\\u{1b}\n");
    }
}
