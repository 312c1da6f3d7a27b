//! The fields of a tar header and of pax records: parsed strictly, so that no two readers can see
//! two different archives.

use crate::layer::Malformed;
use crate::snapshot::Timestamp;

/// The size of a tar header, and what content is padded to.
pub(crate) const BLOCK_BYTES: usize = 512;

/// One header block.
pub(crate) struct Block(pub(crate) [u8; BLOCK_BYTES]);

impl Block {
    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Some old writers summed signed bytes.
    pub(crate) fn check(&self) -> Result<(), Malformed> {
        let field = 148..156;
        let claimed = number(&self.0[field.clone()]).ok_or(Malformed::Checksum)?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (index, byte) in self.0.iter().enumerate() {
            let byte = if field.contains(&index) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if claimed == unsigned || claimed == signed { Ok(()) } else { Err(Malformed::Checksum) }
    }

    pub(crate) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// Name, with the prefix that POSIX headers have; GNU's keep other things in its place.
    pub(crate) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        if &self.0[257..263] != b"ustar\0" {
            return name.to_vec();
        }
        // star's variant of the header is told by its last bytes, and has a shorter prefix.
        let end = if &self.0[508..] == b"tar\0" { 476 } else { 500 };
        let prefix = text(&self.0[345..end]);
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(crate) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(crate) fn size(&self) -> Result<u64, Malformed> {
        let size = number(&self.0[124..136]).and_then(|size| u64::try_from(size).ok());
        size.ok_or(Malformed::Number("size"))
    }

    pub(crate) fn mode(&self) -> Result<u32, Malformed> {
        let mode = number(&self.0[100..108]).ok_or(Malformed::Number("mode"))?;
        // Some writers put the file type there as well.
        u32::try_from(mode & 0o7777).map_err(|_| Malformed::Number("mode"))
    }

    pub(crate) fn uid(&self) -> Result<u32, Malformed> {
        id(number(&self.0[108..116]), "owner")
    }

    pub(crate) fn gid(&self) -> Result<u32, Malformed> {
        id(number(&self.0[116..124]), "group")
    }

    pub(crate) fn mtime(&self) -> Result<Timestamp, Malformed> {
        let secs = number(&self.0[136..148]).ok_or(Malformed::Number("time"))?;
        Ok(clamp(Timestamp::from_secs(secs)))
    }

    pub(crate) fn device(&self) -> Result<(u32, u32), Malformed> {
        // A header that is neither POSIX's nor GNU's has no such fields.
        if &self.0[257..262] != b"ustar" {
            return Ok((0, 0));
        }
        let part = |field: &[u8], limit: u32| {
            let part = number(field).and_then(|part| u32::try_from(part).ok());
            part.filter(|part| *part < limit).ok_or(Malformed::Number("device number"))
        };
        // Linux has 12 bits for the major and 20 for the minor number.
        Ok((part(&self.0[329..337], 1 << 12)?, part(&self.0[337..345], 1 << 20)?))
    }
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits between blanks and NULs, or GNU's base 256: the first bit set, then a number in two's
/// complement. Nothing at all is 0.
pub(crate) fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value = if negative { -1_i128 } else { 0 };
        for (index, byte) in field.iter().enumerate() {
            let byte = if index == 0 && !negative { byte & 0x7f } else { *byte };
            value = value << 8 | i128::from(byte);
        }
        return i64::try_from(value).ok();
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let digits = field[start..].split(blank).next().unwrap_or_default();
    let rest = &field[start + digits.len()..];
    // What follows a NUL is left over from another use of the writer's buffer.
    let garbage = rest.first() == Some(&b' ') && !rest.iter().all(blank);
    if garbage || !digits.iter().all(|digit| matches!(digit, b'0'..=b'7')) {
        return None;
    }
    digits
        .iter()
        .try_fold(0_i64, |value, digit| value.checked_mul(8)?.checked_add(i64::from(digit - b'0')))
}

/// The last id of all is what `chown` takes for "leave it".
fn id(value: Option<i64>, what: &'static str) -> Result<u32, Malformed> {
    let id = value.and_then(|value| u32::try_from(value).ok());
    id.filter(|id| *id != u32::MAX).ok_or(Malformed::Number(what))
}

/// Brings a time into the years 1901 to 2446, which is what ext4 can keep: a layer must not come out
/// different on another file system.
fn clamp(time: Timestamp) -> Timestamp {
    const EARLIEST: i64 = -(1 << 31);
    const LATEST: i64 = (1 << 34) - (1 << 31) - 1;
    match time.secs {
        ..EARLIEST => Timestamp::from_secs(EARLIEST),
        EARLIEST..=LATEST => time,
        _ => Timestamp::from_secs(LATEST),
    }
}

/// A key and a value.
pub(crate) type Record<'a> = (&'a [u8], &'a [u8]);

/// The records of a pax header, `LENGTH KEY=VALUE\n` each.
pub(crate) fn pax_records(data: &[u8]) -> Result<Vec<Record<'_>>, Malformed> {
    let mut records = Vec::new();
    let mut rest = data;
    // Some writers count the padding as data.
    while !rest.is_empty() && !rest.iter().all(|byte| *byte == 0) {
        let blank = rest.iter().position(|byte| *byte == b' ').ok_or(Malformed::PaxRecord)?;
        let length = decimal(&rest[..blank]).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length > blank + 1 && *length <= rest.len());
        let (record, after) = rest.split_at(length.ok_or(Malformed::PaxRecord)?);
        let record = record[blank + 1..].strip_suffix(b"\n").ok_or(Malformed::PaxRecord)?;
        let equals = record.iter().position(|byte| *byte == b'=');
        let (key, value) = record.split_at(equals.ok_or(Malformed::PaxRecord)?);
        if key.is_empty() || key.contains(&0) {
            return Err(Malformed::PaxRecord);
        }
        records.push((key, &value[1..]));
        rest = after;
    }
    Ok(records)
}

/// A number of a pax record: digits and nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A pax record's size.
pub(crate) fn pax_size(text: &[u8]) -> Result<u64, Malformed> {
    let size = decimal(text).filter(|size| i64::try_from(*size).is_ok());
    size.ok_or(Malformed::Number("size"))
}

/// A pax record's owner or group.
pub(crate) fn pax_id(text: &[u8], what: &'static str) -> Result<u32, Malformed> {
    id(decimal(text).and_then(|value| i64::try_from(value).ok()), what)
}

/// A pax record's time: seconds with an optional sign and fraction. A count of seconds beyond any
/// year is clamped like one in a header.
pub(crate) fn pax_time(text: &[u8]) -> Result<Timestamp, Malformed> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (parts.next().unwrap_or_default(), parts.next().unwrap_or(b"0"));
    let is_number = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return Err(Malformed::Number("time"));
    }
    let secs = decimal(whole).and_then(|secs| i64::try_from(secs).ok()).unwrap_or(i64::MAX);
    let mut nanos = 0;
    for place in 0..9 {
        nanos = nanos * 10 + u32::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
    }
    Ok(clamp(match (negative, nanos) {
        (false, _) => Timestamp { secs, nanos },
        (true, 0) => Timestamp::from_secs(-secs),
        (true, _) => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let check = |field: &[u8], expected: Option<i64>| {
            assert_eq!(number(field), expected, "{field:?}");
        };
        check(b"0000644\0", Some(0o644));
        check(b"   644 \0", Some(0o644));
        check(b"\0\0\0\0\0\0\0\0", Some(0));
        check(b"77777777", Some(0o77_777_777));
        check(b"644\0left", Some(0o644));
        check(b"6 4\0\0\0\0\0", None);
        check(b"-000001\0", None);
        check(b"0000689\0", None);
        check(b"\x80\0\0\0\0\0\x01\0", Some(256));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\x00", Some(-512));
        check(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None);
    }

    #[test]
    fn pax_records_are_strict() {
        let check = |data: &[u8], keys: Option<&[&str]>| {
            let found = pax_records(data).ok();
            let found: Option<Vec<&[u8]>> =
                found.map(|records| records.into_iter().map(|(key, _)| key).collect());
            let keys = keys.map(|keys| keys.iter().map(|key| key.as_bytes()).collect());
            assert_eq!(found, keys, "{data:?}");
        };
        check(b"", Some(&[]));
        check(b"9 path=x\n11 mtime=1\n", Some(&["path", "mtime"]));
        check(b"9 path=x\n\0\0\0", Some(&["path"]));
        check(b"11 a=\nb=c\n\n", Some(&["a"]));
        for bad in [
            &b"999999999 path=x\n"[..],
            b"-5 path=x\n",
            b"+9 path=x\n",
            b"9 path=xx",
            b"0 path=x\n",
            b"2 path=x\n",
            b"6 path\n",
            b"5 =x\n",
            b"99999999999999999999999 path=x\n",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn pax_times() {
        let check = |text: &str, expected: Option<(i64, u32)>| {
            let expected = expected.map(|(secs, nanos)| Timestamp { secs, nanos });
            assert_eq!(pax_time(text.as_bytes()).ok(), expected, "{text}");
        };
        check("0", Some((0, 0)));
        check("1700000000.5", Some((1_700_000_000, 500_000_000)));
        check("-1.25", Some((-2, 750_000_000)));
        check("1.1234567899", Some((1, 123_456_789)));
        check("-99999999999999999999.5", Some((-(1 << 31), 0)));
        check("99999999999999999999", Some(((1 << 34) - (1 << 31) - 1, 0)));
        for text in ["nan", "1e400", "", "-", "1.x", " 1"] {
            check(text, None);
        }
    }
}
