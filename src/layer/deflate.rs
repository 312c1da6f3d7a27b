//! Deflate (RFC 1951) where time counts more than the last hundredths: the first match that comes along is
//! taken. It takes four fifths of the time of libdeflate's fastest level, for 2 to 5 % more bytes, and
//! what it makes, which digests of layers rest on, changes only when this file does.

use std::ops::Range;

use super::huffman::{self, Code, LONGEST};

/// What has codes of its own, and can be stored as one block.
pub(super) const BLOCK_BYTES: usize = 0xffff;

/// As many places as stay in a core's nearest cache.
const HASH_BITS: u32 = 13;
/// What is read at once.
const WORD: usize = 8;
const LONGEST_MATCH: usize = 258;
/// One less than the farthest.
const FARTHEST: u16 = 0x7fff;

/// Literals, the end of a block, and lengths.
const SYMBOLS: usize = 286;
const END: usize = 256;
const DISTANCES: usize = 30;
/// Values are literals, the end, and then the lengths of matches.
const VALUES: usize = 1024;
const VALUE_OF_LENGTH: usize = END + 1 - SHORTEST_LENGTH;
const SHORTEST_LENGTH: usize = 3;
/// In which order a block has the lengths of the codes for lengths (RFC 1951, section 3.2.7).
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// A literal, a match or the end: a value in the lowest 10 bits, the symbol of its distance in 5, and the
/// extra bits of that above.
#[derive(Debug, Clone, Copy, Default)]
struct Token(u32);

/// In place of a distance's symbol where there is none.
const NO_DISTANCE: u16 = 31;

/// Deflates, each time with the memory that it used before.
#[derive(Debug)]
pub(super) struct Deflater {
    /// Where four bytes with this hash were last, modulo 2¹⁶.
    last: Box<[u16; 1 << HASH_BITS]>,
    /// Those of a block.
    tokens: Vec<Token>,
    values: Box<[u32; VALUES]>,
    distances: [u32; 32],
}

impl Deflater {
    pub(super) fn new() -> Self {
        Self {
            last: Box::new([0; 1 << HASH_BITS]),
            tokens: vec![Token::default(); BLOCK_BYTES + 1],
            values: Box::new([0; VALUES]),
            distances: [0; 32],
        }
    }

    /// How much room must be there for so many bytes: as much as it takes to store them, and a word.
    pub(super) const fn bound(bytes: usize) -> usize {
        bytes + 5 * (bytes / BLOCK_BYTES + 1) + WORD
    }

    /// Deflates all of `data` to the start of `out`; gives how many bytes it became.
    pub(super) fn deflate(&mut self, data: &[u8], out: &mut [u8]) -> usize {
        // What comes out must not depend on what was there before.
        self.last.fill(0);
        let mut bits = Bits::new(out);
        for (block, is_last) in blocks(data) {
            let tokens = self.find(&data[..block.end], block.start);
            self.write(&data[block], tokens, is_last, &mut bits);
        }
        bits.finish()
    }

    /// Puts `data` to the start of `out` as it is, in the same form; gives how many bytes it became.
    pub(super) fn store(data: &[u8], out: &mut [u8]) -> usize {
        let mut bits = Bits::new(out);
        for (block, is_last) in blocks(data) {
            bits.store(&data[block], is_last);
        }
        bits.finish()
    }

    /// Finds what the bytes from `start` on have in common with what is before them; gives the number
    /// of tokens.
    fn find(&mut self, data: &[u8], start: usize) -> usize {
        self.values.fill(0);
        self.distances.fill(0);
        let (tokens, last) = (&mut self.tokens[..], &mut *self.last);
        let (mut at, mut count) = (start, 0);
        while at + WORD <= data.len() {
            let here = word(data, at);
            let place = place(here);
            let distance = low(at).wrapping_sub(last[place]).wrapping_sub(1);
            last[place] = low(at);
            if distance <= FARTHEST {
                // It was that far back, or farther by a multiple of 2¹⁶: there are as many bytes.
                let before = at - usize::from(distance) - 1;
                let differ = word(data, before) ^ here;
                if differ.trailing_zeros() >= 32 {
                    let common = match differ {
                        0 => in_common(data, before, at),
                        _ => differ.trailing_zeros() as usize / 8,
                    };
                    let (symbol, extra) = split(distance);
                    let value = VALUE_OF_LENGTH + common;
                    tokens[count] = Token::new(low(value), symbol, extra);
                    self.values[value % VALUES] += 1;
                    self.distances[usize::from(symbol % 32)] += 1;
                    last[self::place(here >> 8)] = low(at + 1);
                    count += 1;
                    at += common;
                    continue;
                }
            }
            let [byte, ..] = here.to_le_bytes();
            tokens[count] = Token::literal(byte);
            self.values[usize::from(byte)] += 1;
            count += 1;
            at += 1;
        }
        for &byte in &data[at..] {
            tokens[count] = Token::literal(byte);
            self.values[usize::from(byte)] += 1;
            count += 1;
        }
        tokens[count] = Token::new(low(END), NO_DISTANCE, 0);
        self.values[END] = 1;
        count + 1
    }

    /// Writes a block: so many tokens, or the data as it is if that is shorter.
    fn write(&self, data: &[u8], tokens: usize, is_last: bool, bits: &mut Bits<'_>) {
        let mut symbols = [0; SYMBOLS];
        symbols[..=END].copy_from_slice(&self.values[..=END]);
        for length in SHORTEST_LENGTH..=LONGEST_MATCH {
            symbols[symbol_of(length).0] += self.values[VALUE_OF_LENGTH + length];
        }
        let distances: &[u32; DISTANCES] = self.distances.first_chunk().expect("it has 32");
        let symbols_lengths = huffman::lengths(&symbols, LONGEST);
        let distances_lengths = huffman::lengths(distances, LONGEST);
        let header = Header::new(&symbols_lengths, &distances_lengths);
        let values = value_codes(&huffman::codes(&symbols_lengths));
        let mut codes = [Code::default(); 32];
        codes[..DISTANCES].copy_from_slice(&huffman::codes(&distances_lengths));

        let values_bits =
            values.iter().zip(&*self.values).map(|(code, &count)| code.length * count);
        let distances_bits = (0..).zip(codes).zip(self.distances);
        let distances_bits = distances_bits
            .map(|((symbol, code), count)| (code.length + extra_bits(symbol)) * count);
        let all_bits = header.bits() + values_bits.sum::<u32>() + distances_bits.sum::<u32>();
        if all_bits as usize / 8 >= data.len() + 4 {
            return bits.store(data, is_last);
        }
        bits.put(u64::from(is_last) | 2 << 1, 3);
        header.write(bits);
        let code_of = |token: &Token| {
            let (value, distance) = (values[token.value()], codes[token.symbol()]);
            let all = u64::from(distance.bits) | token.extra() << distance.length;
            let length = value.length + distance.length + extra_bits(token.symbol());
            (u64::from(value.bits) | all << value.length, length)
        };
        let (pairs, rest) = self.tokens[..tokens].as_chunks::<2>();
        for [one, two] in pairs {
            let ((one, one_length), (two, two_length)) = (code_of(one), code_of(two));
            // A word less what may be held already.
            if one_length + two_length <= 56 {
                bits.put(one | two << one_length, one_length + two_length);
            } else {
                bits.put(one, one_length);
                bits.put(two, two_length);
            }
        }
        for (code, length) in rest.iter().map(code_of) {
            bits.put(code, length);
        }
    }
}

/// Where the blocks of this data are, at least one, and whether it is the last one.
fn blocks(data: &[u8]) -> impl Iterator<Item = (Range<usize>, bool)> {
    let count = data.len().div_ceil(BLOCK_BYTES).max(1);
    let end = |number| data.len().min(number * BLOCK_BYTES);
    (0..count).map(move |number| (end(number)..end(number + 1), number + 1 == count))
}

impl Token {
    fn new(value: u16, symbol: u16, extra: u16) -> Self {
        Self(u32::from(value) | u32::from(symbol) << 10 | u32::from(extra) << 15)
    }

    fn literal(byte: u8) -> Self {
        Self::new(u16::from(byte), NO_DISTANCE, 0)
    }

    fn value(self) -> usize {
        self.0 as usize % VALUES
    }

    fn symbol(self) -> usize {
        (self.0 >> 10) as usize % 32
    }

    fn extra(self) -> u64 {
        u64::from(self.0 >> 15)
    }
}

/// For each value its code, with the extra bits of a length.
fn value_codes(symbols: &[Code; SYMBOLS]) -> [Code; VALUES] {
    let mut codes = [Code::default(); VALUES];
    codes[..=END].copy_from_slice(&symbols[..=END]);
    for length in SHORTEST_LENGTH..=LONGEST_MATCH {
        let (symbol, extra, extra_bits) = symbol_of(length);
        let Code { bits, length: code_length } = symbols[symbol];
        codes[VALUE_OF_LENGTH + length] =
            Code { bits: bits | extra << code_length, length: code_length + extra_bits };
    }
    codes
}

/// The symbol of a length, its extra bits and their number (RFC 1951, section 3.2.5).
fn symbol_of(length: usize) -> (usize, u32, u32) {
    let above = length - SHORTEST_LENGTH;
    if length == LONGEST_MATCH {
        return (SYMBOLS - 1, 0, 0);
    }
    let extra_bits = above.max(4).ilog2() - 2;
    let extra = above & ((1 << extra_bits) - 1);
    let symbol = END + 1 + 4 * extra_bits as usize + (above >> extra_bits);
    (symbol, u32::from(low(extra)), extra_bits)
}

/// The symbol of a distance, which is one more than said, and its extra bits.
fn split(distance: u16) -> (u16, u16) {
    let extra_bits = (distance | 2).ilog2() - 1;
    (2 * low(extra_bits as usize) + (distance >> extra_bits), distance & ((1 << extra_bits) - 1))
}

/// How many extra bits a distance with this symbol has.
fn extra_bits(symbol: usize) -> u32 {
    if symbol < DISTANCES { u32::from(low(symbol / 2)).saturating_sub(1) } else { 0 }
}

/// How many bytes at two places, where a word is the same, are the same as far as a match can go.
fn in_common(data: &[u8], before: usize, at: usize) -> usize {
    let most = LONGEST_MATCH.min(data.len() - at);
    let mut common = WORD;
    while common + WORD <= most {
        let differ = word(data, before + common) ^ word(data, at + common);
        if differ != 0 {
            return common + differ.trailing_zeros() as usize / 8;
        }
        common += WORD;
    }
    let rest = data[before + common..].iter().zip(&data[at + common..at + most]);
    common + rest.take_while(|(before, at)| before == at).count()
}

fn word(data: &[u8], at: usize) -> u64 {
    let word = data[at..at + WORD].try_into();
    u64::from_le_bytes(word.expect("it has the length of one"))
}

/// Where the first four bytes of a word have their place.
fn place(word: u64) -> usize {
    const MULTIPLIER: u64 = 0x9e37_79b1;
    let [_, _, low, high, ..] = (word & 0xffff_ffff).wrapping_mul(MULTIPLIER).to_le_bytes();
    usize::from(u16::from_le_bytes([low, high]) >> (u16::BITS - HASH_BITS))
}

fn low(number: usize) -> u16 {
    let [low, high, ..] = number.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// What a block tells of its codes: their lengths, of which runs are told by one symbol.
struct Header {
    /// How many lengths there are of symbols and of distances.
    symbols: usize,
    distances: usize,
    /// Symbols, their extra bits and the number of them.
    runs: Vec<(u8, u8, u8)>,
    lengths: [u8; ORDER.len()],
    /// How many of these lengths are told.
    told: usize,
}

impl Header {
    fn new(symbols: &[u8; SYMBOLS], distances: &[u8; DISTANCES]) -> Self {
        let used =
            |lengths: &[u8]| lengths.iter().rposition(|&length| length > 0).map_or(0, |at| at + 1);
        let (symbols, distances) = (&symbols[..used(symbols)], &distances[..used(distances)]);
        let all = [symbols, distances].concat();
        let runs = runs(&all);
        let mut frequencies = [0; ORDER.len()];
        for (symbol, ..) in &runs {
            frequencies[usize::from(*symbol)] += 1;
        }
        let lengths = huffman::lengths(&frequencies, 7);
        let told =
            ORDER.iter().rposition(|&symbol| lengths[symbol] > 0).map_or(4, |at| at.max(3) + 1);
        Self { symbols: symbols.len(), distances: distances.len(), runs, lengths, told }
    }

    /// How long the block is without its tokens.
    fn bits(&self) -> u32 {
        let run = |(symbol, _, extra): &(u8, u8, u8)| {
            u32::from(self.lengths[usize::from(*symbol)]) + u32::from(*extra)
        };
        3 + 14 + 3 * u32::from(low(self.told)) + self.runs.iter().map(run).sum::<u32>()
    }

    fn write(&self, bits: &mut Bits<'_>) {
        bits.put((self.symbols - END - 1) as u64, 5);
        bits.put((self.distances - 1) as u64, 5);
        bits.put((self.told - 4) as u64, 4);
        for symbol in &ORDER[..self.told] {
            bits.put(u64::from(self.lengths[*symbol]), 3);
        }
        let codes = huffman::codes(&self.lengths);
        for &(symbol, extra, extra_bits) in &self.runs {
            let code = codes[usize::from(symbol)];
            let all = u64::from(code.bits) | u64::from(extra) << code.length;
            bits.put(all, code.length + u32::from(extra_bits));
        }
    }
}

/// Tells lengths by symbols (RFC 1951, section 3.2.7).
fn runs(lengths: &[u8]) -> Vec<(u8, u8, u8)> {
    let mut runs = Vec::new();
    for run in lengths.chunk_by(|one, next| one == next) {
        let (length, mut left) = (run[0], run.len());
        if length > 0 {
            runs.push((length, 0, 0));
            left -= 1;
        }
        // The symbol, how often it repeats at least and at most, and its extra bits.
        let repeats: &[(u8, usize, usize, u8)] =
            if length > 0 { &[(16, 3, 6, 2)] } else { &[(18, 11, 138, 7), (17, 3, 10, 3)] };
        for &(symbol, least, most, extra_bits) in repeats {
            while left >= least {
                let repeated = left.min(most);
                let [extra, ..] = (repeated - least).to_le_bytes();
                runs.push((symbol, extra, extra_bits));
                left -= repeated;
            }
        }
        runs.extend(std::iter::repeat_n((length, 0, 0), left));
    }
    runs
}

/// Writes bits, the lowest first, where there is room for a word more than they are.
struct Bits<'a> {
    out: &'a mut [u8],
    at: usize,
    held: u64,
    /// How many are held: fewer than eight.
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0, held: 0, count: 0 }
    }

    /// Writes up to 56 bits; those above are 0.
    fn put(&mut self, bits: u64, count: u32) {
        self.held |= bits << self.count;
        self.count += count;
        self.out[self.at..self.at + WORD].copy_from_slice(&self.held.to_le_bytes());
        self.at += self.count as usize / 8;
        self.held >>= self.count & !7;
        self.count %= 8;
    }

    /// Writes a block that is as the data is (RFC 1951, section 3.2.4).
    fn store(&mut self, data: &[u8], is_last: bool) {
        self.put(u64::from(is_last), 3);
        self.fill_byte();
        let length = low(data.len());
        self.put(u64::from(length) | u64::from(!length) << 16, 32);
        self.out[self.at..self.at + data.len()].copy_from_slice(data);
        self.at += data.len();
    }

    fn fill_byte(&mut self) {
        self.put(0, (8 - self.count) % 8);
    }

    fn finish(mut self) -> usize {
        self.fill_byte();
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read as _;

    fn deflate(deflater: &mut Deflater, data: &[u8]) -> Vec<u8> {
        let mut out = vec![0xff; Deflater::bound(data.len())];
        let bytes = deflater.deflate(data, &mut out);
        out.truncate(bytes);
        out
    }

    /// What two other programs make of it.
    fn check(deflater: &mut Deflater, data: &[u8]) -> usize {
        let packed = deflate(deflater, data);
        let mut unpacked = Vec::new();
        let mut reader = flate2::bufread::DeflateDecoder::new(&packed[..]);
        reader.read_to_end(&mut unpacked).expect("a stream");
        assert!(unpacked == data, "{} bytes", data.len());
        unpacked.fill(0);
        let mut other = libdeflater::Decompressor::new();
        assert_eq!(other.deflate_decompress(&packed, &mut unpacked), Ok(data.len()));
        assert!(unpacked == data, "{} bytes", data.len());
        packed.len()
    }

    #[test]
    fn all_lengths_and_distances() {
        let mut deflater = Deflater::new();
        for distance in (1..20).chain([255, 256, 257, 4095, 32_767, 32_768, 32_769, 40_000]) {
            for length in (3..20).chain([31, 66, 130, 257, 258, 259, 600]) {
                let start =
                    (0..distance).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8);
                let start: Vec<u8> = start.collect();
                let data: Vec<u8> =
                    start.iter().copied().cycle().take(start.len() + length).collect();
                check(&mut deflater, &[&data[..], b"."].concat());
            }
        }
    }

    #[test]
    fn sizes_around_a_block() {
        let mut deflater = Deflater::new();
        for bytes in [0, 1, 7, 8, 9, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 200_000] {
            let text: Vec<u8> =
                b"a tar of many words ".iter().copied().cycle().take(bytes).collect();
            let packed = check(&mut deflater, &text);
            assert!(packed <= bytes / 100 + 100, "{packed}");
            let mut state = 1_u32;
            let noise = std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            });
            let noise: Vec<u8> = noise.take(bytes).collect();
            let packed = check(&mut deflater, &noise);
            assert!(packed <= Deflater::bound(bytes) - WORD, "{packed}");
            let mut stored = vec![0; Deflater::bound(bytes)];
            let packed = Deflater::store(&noise, &mut stored);
            assert_eq!(packed, bytes + 5 * bytes.div_ceil(BLOCK_BYTES).max(1));
        }
    }

    #[test]
    fn what_was_before_does_not_matter() {
        let data = b"the same bytes, the same bytes, the same".repeat(100);
        let mut used = Deflater::new();
        deflate(&mut used, &data[7..]);
        assert_eq!(deflate(&mut used, &data), deflate(&mut Deflater::new(), &data));
    }

    proptest! {
        #[test]
        fn all_comes_back(parts in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 1..40), 1..300_usize, 1..=255_u8), 0..60)
        ) {
            let part = |(bytes, times, mask): (Vec<u8>, usize, u8)| {
                bytes.into_iter().map(|byte| byte & mask).collect::<Vec<_>>().repeat(times)
            };
            let data: Vec<u8> = parts.into_iter().flat_map(part).collect();
            check(&mut Deflater::new(), &data);
        }
    }
}
