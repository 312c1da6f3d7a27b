//! Go's way to write durations: `1h30m`, `500ms`, `1.5s`.

use std::time::Duration;

use nom::IResult;
use nom::Parser as _;
use nom::branch::alt;
use nom::bytes::complete::tag;
use nom::character::complete::{char as character, digit0, digit1};
use nom::combinator::{all_consuming, map_opt, opt, recognize, value};
use nom::multi::fold_many1;

/// A duration in nanoseconds, negative ones included, or `None` where `text` is not one.
pub(crate) fn nanoseconds(text: &str) -> Option<i64> {
    let sign = opt(alt((value(-1, character('-')), value(1, character('+')))));
    let sum = fold_many1(part, || Some(0_i128), |sum, part| sum.map(|sum| sum + part));
    let zero = value(Some(0), tag("0"));
    let parsed: IResult<&str, _> =
        all_consuming((sign, alt((all_consuming(sum), zero)))).parse(text);
    let (_, (sign, sum)) = parsed.ok()?;
    i64::try_from(sum? * sign.unwrap_or(1)).ok()
}

/// The duration that `nanoseconds` is, or `None` for nothing and less.
pub(crate) fn positive(nanoseconds: i64) -> Option<Duration> {
    u64::try_from(nanoseconds).ok().filter(|nanoseconds| *nanoseconds > 0).map(Duration::from_nanos)
}

/// A number with its unit, in nanoseconds.
fn part(input: &str) -> IResult<&str, i128> {
    let with_fraction = alt((
        recognize((digit1, opt((character('.'), digit0)))),
        recognize((character('.'), digit1)),
    ));
    let unit = alt((
        value(1_i128, tag("ns")),
        value(1_000, alt((tag("us"), tag("µs"), tag("μs")))),
        value(1_000_000, tag("ms")),
        value(1_000_000_000, tag("s")),
        value(60_000_000_000, tag("m")),
        value(3_600_000_000_000, tag("h")),
    ));
    map_opt((with_fraction, unit), |(number, unit): (&str, i128)| {
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
        // More digits than these are below a nanosecond even in hours.
        let digits = &fraction[..fraction.len().min(18)];
        let scale = 10_i128.pow(u32::try_from(digits.len()).ok()?);
        let fraction: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        Some(whole * unit + fraction * unit / scale)
    })
    .parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("5m", Some(300_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("500ms", Some(500_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("-5s", Some(-5_000_000_000)),
            ("+1h", Some(3_600_000_000_000)),
            ("1us1ns", Some(1_001)),
            ("1µs", Some(1_000)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1d", None),
            ("1m 30s", None),
            (".s", None),
            ("9999999999999h", None),
        ] {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }
}
