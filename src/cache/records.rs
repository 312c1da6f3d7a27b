//! Files of equally long records: a magic line, the records in their order, and a checksum of all that.
//! They are written without being flushed, and a power loss may leave anything of them.

use std::path::Path;

use crate::snapshot::read_regular;

/// The bytes of such a file.
pub(super) fn encode<const N: usize>(
    magic: &[u8],
    records: impl ExactSizeIterator<Item = [u8; N]>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(magic.len() + records.len() * N + blake3::OUT_LEN);
    out.extend(magic);
    records.for_each(|record| out.extend(record));
    let sum = blake3::hash(&out);
    out.extend(sum.as_bytes());
    out
}

/// The records of the file at `path`; `None` where it does not hold just that.
pub(super) fn read<const N: usize, T: Ord>(
    path: &Path,
    magic: &[u8],
    each: impl Fn(&[u8; N]) -> T,
) -> Option<Vec<T>> {
    decode(&read_regular(path).ok()?, magic, each)
}

fn decode<const N: usize, T: Ord>(
    bytes: &[u8],
    magic: &[u8],
    each: impl Fn(&[u8; N]) -> T,
) -> Option<Vec<T>> {
    let (body, sum) = bytes.split_last_chunk::<{ blake3::OUT_LEN }>()?;
    if blake3::hash(body) != *sum {
        return None;
    }
    let (records, rest) = body.strip_prefix(magic)?.as_chunks::<N>();
    let records: Vec<_> = records.iter().map(each).collect();
    (rest.is_empty() && records.is_sorted()).then_some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: &[u8] = b"some\n";

    fn decode_plain(bytes: &[u8]) -> Option<Vec<[u8; 3]>> {
        decode(bytes, MAGIC, |record| *record)
    }

    #[test]
    fn damage_is_forgotten() {
        let records = vec![[1, 2, 3], [4, 5, 6]];
        let good = encode(MAGIC, records.iter().copied());
        assert_eq!(decode_plain(&good), Some(records));
        assert_eq!(decode(&good, b"other\n", |record: &[u8; 3]| *record), None);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(decode_plain(&bad), None);
            assert_eq!(decode_plain(&good[..at]), None);
        }
        assert_eq!(decode_plain(&encode(MAGIC, [[4, 5, 6], [1, 2, 3]].into_iter())), None);
        assert_eq!(decode_plain(&encode(MAGIC, [[1, 2]].into_iter())), None);
    }
}
