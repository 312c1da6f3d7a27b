//! Where the content of a sparse file belongs.

use super::Malformed;
use super::header::{Block, number};

/// The stretches of a file that are stored, in order and apart; between them are holes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SparseMap {
    /// Offset and length of each.
    stretches: Vec<(u64, u64)>,
    /// The file's size with its holes.
    pub(crate) real_size: u64,
}

impl SparseMap {
    /// `None` if the stretches overlap, go backwards or leave the file.
    pub(crate) fn new(pairs: Vec<(u64, u64)>, real_size: u64) -> Option<Self> {
        let mut map = Self { stretches: Vec::new(), real_size };
        for (offset, bytes) in pairs {
            map.push(offset, bytes)?;
        }
        Some(map)
    }

    /// Of offsets and lengths by turns.
    pub(crate) fn of_flat(numbers: &[u64], real_size: u64) -> Option<Self> {
        let pairs = numbers.chunks(2).map(|pair| Some((pair[0], *pair.get(1)?)));
        Self::new(pairs.collect::<Option<_>>()?, real_size)
    }

    /// What the header of GNU's oldest format holds: four stretches and the size.
    pub(crate) fn from_header(block: &Block) -> Result<Self, Malformed> {
        let real_size = number(&block.0[483..495]).and_then(|size| u64::try_from(size).ok());
        let real_size = real_size.ok_or(Malformed::SparseMap)?;
        let mut map = Self { stretches: Vec::new(), real_size };
        map.extend(&block.0[386..482])?;
        Ok(map)
    }

    /// Adds stretches as that format writes them, 24 bytes each; one that starts with a NUL is unused.
    pub(crate) fn extend(&mut self, fields: &[u8]) -> Result<(), Malformed> {
        /// A map this long describes a file of stretches of a block each that is larger than any.
        const MAX_STRETCHES: usize = 1 << 16;
        for field in fields.chunks_exact(24).take_while(|field| field[0] != 0) {
            let part = |field| number(field).and_then(|part| u64::try_from(part).ok());
            let pair = part(&field[..12]).zip(part(&field[12..]));
            let (offset, bytes) = pair.ok_or(Malformed::SparseMap)?;
            self.push(offset, bytes).ok_or(Malformed::SparseMap)?;
        }
        if self.stretches.len() > MAX_STRETCHES { Err(Malformed::SparseMap) } else { Ok(()) }
    }

    fn push(&mut self, offset: u64, bytes: u64) -> Option<()> {
        let end = self.stretches.last().map_or(0, |(offset, bytes)| offset + bytes);
        let valid = offset >= end && offset.checked_add(bytes)? <= self.real_size;
        valid.then(|| self.stretches.push((offset, bytes)))
    }

    /// How much of the file is stored.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.stretches.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Offset and length of each stretch.
    pub(crate) fn stretches(&self) -> &[(u64, u64)] {
        &self.stretches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_go_forward_and_stay_inside() {
        let check = |numbers: &[u64], size, valid| {
            assert_eq!(SparseMap::of_flat(numbers, size).is_some(), valid, "{numbers:?} {size}");
        };
        check(&[], 0, true);
        check(&[0, 10, 20, 10], 30, true);
        check(&[0, 10, 20, 10, 40, 0], 40, true);
        check(&[0, 10, 20, 10], 29, false);
        check(&[0, 10, 5, 10], 30, false);
        check(&[20, 10, 0, 10], 30, false);
        check(&[0, 10, 20], 30, false);
        check(&[u64::MAX, 2], u64::MAX, false);
    }
}
