//! Huffman codes as deflate has them (RFC 1951, section 3.2.2).

/// The longest code of a literal, a length or a distance.
pub(super) const LONGEST: usize = 15;

/// What stands for a symbol; its first bit is the lowest.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Code {
    pub(super) bits: u32,
    pub(super) length: u32,
}

/// How long the code of each symbol is, none of them longer than `longest`, so that symbols as frequent
/// as these take the least room; 0 where there is no such symbol.
pub(super) fn lengths<const N: usize>(frequencies: &[u32; N], longest: usize) -> [u8; N] {
    let mut leaves: Vec<(u32, usize)> =
        (0..N).map(|symbol| (frequencies[symbol], symbol)).filter(|leaf| leaf.0 > 0).collect();
    // Not every reader takes a code of fewer than two symbols.
    let unused = (0..N).filter(|&symbol| frequencies[symbol] == 0);
    leaves.extend(unused.map(|symbol| (1, symbol)).take(2_usize.saturating_sub(leaves.len())));
    leaves.sort_unstable();
    let mut counts = depths(&leaves, longest);
    // Where some had to be brought up to the longest, there are too many: each turn makes room for one
    // beside a shorter one, which becomes longer by a bit.
    let mut taken: usize = (1..=longest).map(|length| counts[length] << (longest - length)).sum();
    while taken > 1 << longest {
        let longer = (1..longest).rfind(|&length| counts[length] > 0);
        let length = longer.expect("not all symbols have the longest code");
        counts[length] -= 1;
        counts[length + 1] += 2;
        counts[longest] -= 1;
        taken -= 1;
    }
    let mut lengths = [0; N];
    let mut rarest_first = leaves.iter();
    for (length, count) in (0..=15_u8).zip(counts).rev() {
        for &(_, symbol) in rarest_first.by_ref().take(count) {
            lengths[symbol] = length;
        }
    }
    lengths
}

/// How many leaves, of which the rarest come first, are how deep in a tree of least weight.
fn depths(leaves: &[(u32, usize)], deepest: usize) -> [usize; LONGEST + 1] {
    let count = leaves.len();
    let mut weights: Vec<u32> = leaves.iter().map(|leaf| leaf.0).collect();
    let mut parents = vec![0; 2 * count - 1];
    // Inner nodes come about in the order of their weights, so that the two lightest of all are always
    // the next leaf or the next node.
    let (mut leaf, mut node) = (0, count);
    for next in count..2 * count - 1 {
        let mut weight = 0;
        for _ in 0..2 {
            let is_leaf = leaf < count && (node == next || weights[leaf] <= weights[node]);
            let lightest = if is_leaf { &mut leaf } else { &mut node };
            weight += weights[*lightest];
            parents[*lightest] = next;
            *lightest += 1;
        }
        weights.push(weight);
    }
    let mut depth = vec![0; 2 * count - 1];
    let mut counts = [0; LONGEST + 1];
    for below in (0..2 * count - 2).rev() {
        depth[below] = depth[parents[below]] + 1;
        if below < count {
            counts[depth[below].min(deepest)] += 1;
        }
    }
    counts
}

/// The codes that have these lengths.
pub(super) fn codes<const N: usize>(lengths: &[u8; N]) -> [Code; N] {
    let mut counts = [0_u32; LONGEST + 2];
    for &length in lengths {
        counts[usize::from(length) + 1] += u32::from(length > 0);
    }
    let mut next = [0_u32; LONGEST + 2];
    for length in 1..=LONGEST {
        next[length] = (next[length - 1] + counts[length]) << 1;
    }
    lengths.map(|length| {
        let next = &mut next[usize::from(length)];
        let length = u32::from(length);
        let bits = next.reverse_bits().checked_shr(u32::BITS - length).unwrap_or(0);
        *next += 1;
        Code { bits, length }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_complete(lengths: &[u8], longest: usize) -> bool {
        let used = lengths.iter().filter(|&&length| length > 0);
        used.map(|&length| 1_u64 << (longest - usize::from(length))).sum::<u64>() == 1 << longest
    }

    #[test]
    fn rare_symbols_get_long_codes() {
        assert_eq!(lengths(&[8, 4, 2, 1, 1, 0], LONGEST), [1, 2, 3, 4, 4, 0]);
        assert_eq!(lengths(&[8, 4, 2, 1, 1, 0], 3), [1, 3, 3, 3, 3, 0]);
        assert_eq!(lengths(&[0, 0, 7], LONGEST), [1, 0, 1]);
        assert_eq!(lengths(&[0, 0, 0], LONGEST), [1, 1, 0]);
    }

    /// The example of RFC 1951, section 3.2.2.
    #[test]
    fn codes_are_in_the_order_of_lengths_and_symbols() {
        let codes = codes(&[3, 3, 3, 3, 3, 2, 4, 4]);
        let text = codes.map(|code| {
            let bits = code.bits.reverse_bits() >> (u32::BITS - code.length);
            format!("{bits:0width$b}", width = code.length as usize)
        });
        assert_eq!(text, ["010", "011", "100", "101", "110", "00", "1110", "1111"]);
    }

    proptest! {
        #[test]
        fn codes_are_complete_and_not_too_long(
            frequencies in prop::array::uniform32(prop_oneof![Just(0), 0..9_u32, 0..9_000_000_u32]),
            longest in 5..=LONGEST,
        ) {
            let lengths = lengths(&frequencies, longest);
            prop_assert!(is_complete(&lengths, longest), "{lengths:?}");
            prop_assert!((0..32).all(|symbol| frequencies[symbol] == 0 || lengths[symbol] > 0));
        }
    }
}
