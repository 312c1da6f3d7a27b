//! [`Redactor`]: takes the values of secrets out of what a step writes, as it comes.
//!
//! Values are looked for line by line, so that one line of a key that a tool quotes is found too. All
//! are looked for at once, in time linear in the output, by the automaton of Aho and Corasick. What may
//! still become a value is held back: never more than one line, nor more than the value has itself.

use std::collections::{HashMap, VecDeque};

/// Shorter lines are left alone: they say little, and words like `true` are in every output.
const MIN_BYTES: usize = 8;

/// What stands in a value's place.
const MARK: &[u8] = b"***";

/// The root of the automaton: nothing of any value was seen.
const ROOT: usize = 0;

/// The values that a step must not show.
#[derive(Default)]
pub(super) struct Redactor {
    nodes: Vec<Node>,
    edges: HashMap<(usize, u8), usize>,
}

#[derive(Clone, Copy, Default)]
struct Node {
    /// How many bytes lead to it.
    depth: usize,
    /// Where its longest other suffix leads.
    fallback: usize,
    /// The longest value that ends here; 0 for none.
    value: usize,
}

/// One stream's place in the automaton, and what is held back of it.
#[derive(Default)]
pub(super) struct Held {
    node: usize,
    bytes: VecDeque<u8>,
    /// How many bytes of the stream came before these.
    released: usize,
    /// Where in the stream values are: from, to. In order, apart from one another.
    hidden: VecDeque<(usize, usize)>,
}

impl Redactor {
    /// Looks for the lines of these values.
    pub(super) fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut redactor = Self { nodes: vec![Node::default()], edges: HashMap::new() };
        for value in values {
            for line in value.split(|byte| *byte == b'\n') {
                let line = line.trim_ascii();
                if line.len() >= MIN_BYTES {
                    redactor.add(line);
                }
            }
        }
        redactor.link();
        redactor
    }

    /// Whether there is nothing to look for.
    pub(super) fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    fn add(&mut self, value: &[u8]) {
        let mut node = ROOT;
        for byte in value {
            let next = self.nodes.len();
            let found = *self.edges.entry((node, *byte)).or_insert(next);
            if found == next {
                let depth = self.nodes[node].depth + 1;
                self.nodes.push(Node { depth, ..Node::default() });
            }
            node = found;
        }
        self.nodes[node].value = value.len();
    }

    /// Sets the fallbacks, from the root outwards.
    fn link(&mut self) {
        let mut edges: Vec<_> = self.edges.iter().map(|(from, to)| (*from, *to)).collect();
        edges.sort_unstable_by_key(|(_, to)| self.nodes[*to].depth);
        for ((from, byte), to) in edges {
            if from != ROOT {
                let fallback = self.step(self.nodes[from].fallback, byte);
                self.nodes[to].fallback = fallback;
                self.nodes[to].value = self.nodes[to].value.max(self.nodes[fallback].value);
            }
        }
    }

    fn step(&self, mut node: usize, byte: u8) -> usize {
        loop {
            match self.edges.get(&(node, byte)) {
                Some(next) => return *next,
                None if node == ROOT => return ROOT,
                None => node = self.nodes[node].fallback,
            }
        }
    }

    /// Takes a piece of a stream, and gives what of it, and of what was held back, can be shown.
    pub(super) fn pass(&self, held: &mut Held, piece: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(piece.len());
        for byte in piece {
            held.bytes.push_back(*byte);
            held.node = self.step(held.node, *byte);
            let Node { depth, value, .. } = self.nodes[held.node];
            if value > 0 {
                held.hide(value);
            }
            // A byte before the longest beginning of a value is part of none that is to come.
            held.release(held.bytes.len() - depth, &mut shown);
        }
        shown
    }
}

impl Held {
    /// What is left at the end of a stream.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        self.release(self.bytes.len(), &mut shown);
        shown
    }

    /// Hides the last bytes.
    fn hide(&mut self, count: usize) {
        let end = self.released + self.bytes.len();
        let mut from = end - count;
        while let Some((before, _)) = self.hidden.pop_back_if(|(_, to)| *to > from) {
            from = from.min(before);
        }
        self.hidden.push_back((from, end));
    }

    fn release(&mut self, count: usize, shown: &mut Vec<u8>) {
        for byte in self.bytes.drain(..count) {
            match self.hidden.front() {
                Some((from, _)) if self.released < *from => shown.push(byte),
                Some((from, to)) => {
                    if self.released == *from {
                        shown.extend(MARK);
                    }
                    if self.released + 1 == *to {
                        self.hidden.pop_front();
                    }
                }
                None => shown.push(byte),
            }
            self.released += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes `text` in pieces of each size, which must not matter.
    #[track_caller]
    fn check(values: &[&str], text: &str, expected: &str) {
        let redactor = Redactor::new(values.iter().map(|value| value.as_bytes()));
        for size in 1..=text.len().max(1) {
            let mut held = Held::default();
            let mut shown = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                shown.extend(redactor.pass(&mut held, piece));
            }
            shown.extend(held.finish());
            assert_eq!(String::from_utf8_lossy(&shown), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn values_are_replaced() {
        check(&["hunter2hunter2"], "a hunter2hunter2 b\n", "a *** b\n");
        check(&["hunter2hunter2\n"], "hunter2hunter2", "***");
        check(&["abcabcabd"], "abcabcabcabd!", "abc***!");
        check(&["abcdefgh"], "abcdefghabcdefgh", "******");
        check(&["aaaaaaaa"], "aaaaaaaaaaa aaaaaaa", "*** aaaaaaa");
        check(&["12345678", "1234567890"], "1234567890 123456789", "*** ***9");
        check(&["xx12345678yy", "12345678"], "xx12345678zz", "xx***zz");
        check(&["abcdefgh", "efghijkl"], "abcdefghijkl", "***");
    }

    #[test]
    fn each_line_of_a_value_counts() {
        let key = "-----BEGIN-----\r\n  line one of it\nshort\n";
        check(&[key], "> line one of it\n-----BEGIN----- short\n", "> ***\n*** short\n");
    }

    #[test]
    fn what_is_no_value_stays() {
        check(&["short", "", "\n\n"], "short and sweet", "short and sweet");
        check(&["abcdefgh"], "abcdefg", "abcdefg");
        check(&["abcdefgh"], "abcdefg\nh", "abcdefg\nh");
        assert!(Redactor::new([&b"1234567"[..]]).is_empty());
    }

    #[test]
    fn only_the_beginning_of_a_value_is_held_back() {
        let redactor = Redactor::new([&b"abcdefgh"[..]]);
        let mut held = Held::default();
        assert_eq!(redactor.pass(&mut held, b"> abcx > abc"), b"> abcx > ");
        assert_eq!(redactor.pass(&mut held, b"d\n"), b"abcd\n");
    }
}
