//! [`HashBeside`]: a writer whose bytes are hashed on another thread, as SHA-256 is what takes longest
//! in packing a layer, and cannot be divided.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

use crate::oci::Digest;

/// So much is handed over at once. A layer that is smaller is hashed where it is written.
const PIECE_BYTES: usize = 512 << 10;

/// Pieces on their way to the other thread: memory does not grow with the data.
const PIECES: usize = 3;

/// Passes on what is written, in large pieces, and hashes it.
#[derive(Debug)]
pub(crate) struct HashBeside<W> {
    out: W,
    /// All of it is initialized; as much of it says something.
    piece: Vec<u8>,
    filled: usize,
    count: u64,
    /// Started with the second piece.
    other: Option<Other>,
}

/// The thread that hashes.
#[derive(Debug)]
struct Other {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<Sha256>,
}

impl<W: Write> HashBeside<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, piece: Vec::new(), filled: 0, count: 0, other: None }
    }

    /// The digest and the number of the bytes that were written, all of which `out` has now.
    pub(crate) fn finish(self) -> io::Result<(Digest, u64)> {
        self.into_inner().map(|(_, digest, size)| (digest, size))
    }

    /// The same, and `out`.
    pub(crate) fn into_inner(mut self) -> io::Result<(W, Digest, u64)> {
        self.out.write_all(&self.piece[..self.filled])?;
        self.out.flush()?;
        let mut hasher = match self.other {
            None => Sha256::new(),
            Some(Other { full, thread, .. }) => {
                drop(full);
                thread.join().map_err(|_| gone())?
            }
        };
        hasher.update(&self.piece[..self.filled]);
        Ok((self.out, Digest::finish(hasher), self.count + self.filled as u64))
    }

    /// Reads as much of the next `most` bytes as come at once, without copying them. There is no room for
    /// any before [`HashBeside::make_room`] was called.
    pub(crate) fn read_from(&mut self, from: &mut impl Read, most: u64) -> io::Result<u64> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let read = from.read(self.room(most))?;
        self.filled += read;
        Ok(read as u64)
    }

    /// Passes on what there is, if nothing more can be added to it.
    pub(crate) fn make_room(&mut self) -> io::Result<()> {
        if self.filled == PIECE_BYTES { self.hand_over() } else { Ok(()) }
    }

    /// Where up to `most` bytes can be put.
    fn room(&mut self, most: usize) -> &mut [u8] {
        let end = most.saturating_add(self.filled).min(PIECE_BYTES);
        if self.piece.len() < end {
            // In a few steps, as most layers are small.
            let length = end.next_multiple_of(64 << 10).max(2 * self.piece.len());
            self.piece.resize(length.min(PIECE_BYTES), 0);
        }
        &mut self.piece[self.filled..end]
    }

    fn hand_over(&mut self) -> io::Result<()> {
        self.out.write_all(&self.piece)?;
        self.count += self.piece.len() as u64;
        self.filled = 0;
        let other = match &mut self.other {
            Some(other) => other,
            none => none.insert(Other::start()?),
        };
        let next = other.empty.recv().map_err(|_| gone())?;
        other.full.send(std::mem::replace(&mut self.piece, next)).map_err(|_| gone())
    }
}

impl Other {
    fn start() -> io::Result<Self> {
        let (full, pieces) = sync_channel::<Vec<u8>>(PIECES);
        let (back, empty) = sync_channel(PIECES);
        for _ in 0..PIECES {
            // There is room for all of them.
            drop(back.send(Vec::new()));
        }
        let thread = std::thread::Builder::new().spawn(move || {
            let mut hasher = Sha256::new();
            for piece in pieces {
                hasher.update(&piece);
                if back.send(piece).is_err() {
                    break;
                }
            }
            hasher
        })?;
        Ok(Self { full, empty, thread })
    }
}

impl<W: Write> Write for HashBeside<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.make_room()?;
        let room = self.room(bytes.len());
        let taken = room.len();
        room.copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that hashes has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_and_passes_on_whatever_the_pieces() {
        for size in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 9 * PIECE_BYTES + 5] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            for chunk in [4 << 10, 3 * PIECE_BYTES + 1] {
                let mut out = Vec::new();
                let mut writer = HashBeside::new(&mut out);
                for (index, mut chunk) in bytes.chunks(chunk).enumerate() {
                    if index % 2 == 0 {
                        writer.write_all(chunk).expect("written");
                    }
                    while index % 2 == 1 && !chunk.is_empty() {
                        let most = chunk.len() as u64;
                        writer.make_room().expect("written");
                        writer.read_from(&mut chunk, most).expect("read");
                    }
                }
                let found = writer.finish().expect("hashed");
                assert_eq!(found, (Digest::of(&bytes), size as u64), "{size} {chunk}");
                assert!(out == bytes);
            }
        }
    }

    #[test]
    fn what_the_inner_writer_says_is_said() {
        let mut full = &mut [0; 10][..];
        let mut writer = HashBeside::new(&mut full);
        writer.write_all(&[1; 11]).expect("kept");
        assert!(writer.finish().is_err());
    }
}
