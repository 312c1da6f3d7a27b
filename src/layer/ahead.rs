//! [`read_ahead`]: one thread reads what another one uses.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

/// What is handed over at once, and how many such pieces may wait.
const PIECE_BYTES: usize = 256 << 10;
const PIECES: usize = 8;

/// Lets `work` read what another thread reads from `reader`, a little ahead of it: so decompressing and
/// hashing go on beside whatever becomes of the bytes. Gives back the reader, which may have been read
/// further than `work` went, and what `work` returned.
///
/// # Errors
/// If there can be no other thread; those of `reader` go to `work`, in their place.
pub fn read_ahead<R: Read + Send, T>(
    mut reader: R,
    work: impl FnOnce(&mut Ahead) -> T,
) -> io::Result<(R, T)> {
    let result = thread::scope(|scope| {
        let (sender, pieces) = sync_channel(PIECES);
        let (spent, spent_before) = channel();
        let reader = &mut reader;
        let pump = move || pump(reader, &sender, &spent_before);
        thread::Builder::new().name("ahead".to_owned()).spawn_scoped(scope, pump)?;
        let piece = Piece::default();
        let mut ahead = Ahead { pieces, spent, piece, position: 0 };
        Ok::<T, io::Error>(work(&mut ahead))
    });
    result.map(|result| (reader, result))
}

/// What [`read_ahead`] has read.
#[derive(Debug)]
pub struct Ahead {
    pieces: Receiver<io::Result<Piece>>,
    /// Pieces to be filled again.
    spent: Sender<Piece>,
    piece: Piece,
    position: usize,
}

/// A buffer, all of it initialized, and how much of it says something.
#[derive(Debug, Default)]
struct Piece {
    buffer: Vec<u8>,
    filled: usize,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.piece.filled
            // Nobody sends any more after the end or an error.
            && let Ok(next) = self.pieces.recv()
        {
            let spent = std::mem::replace(&mut self.piece, next?);
            self.position = 0;
            // Whoever would fill it again may have come to the end.
            let _ignored = self.spent.send(spent);
        }
        Ok(&self.piece.buffer[self.position..self.piece.filled])
    }

    fn consume(&mut self, bytes: usize) {
        self.position += bytes;
    }
}

/// Reads to the end, to an error, or until nobody wants more.
fn pump(reader: &mut impl Read, pieces: &SyncSender<io::Result<Piece>>, spent: &Receiver<Piece>) {
    loop {
        let mut piece = spent.try_recv().unwrap_or_default();
        let result = piece.fill(reader);
        let is_last = piece.filled < PIECE_BYTES;
        // Where nobody receives any more, nobody misses it.
        if piece.filled > 0 && pieces.send(Ok(piece)).is_err() {
            return;
        }
        if let Err(err) = result {
            let _ignored = pieces.send(Err(err));
        }
        if is_last {
            return;
        }
    }
}

impl Piece {
    /// Reads as much as there is room for; less is all that there is, also before an error.
    fn fill(&mut self, reader: &mut impl Read) -> io::Result<()> {
        self.buffer.resize(PIECE_BYTES, 0);
        self.filled = 0;
        while self.filled < PIECE_BYTES {
            match reader.read(&mut self.buffer[self.filled..]) {
                Ok(0) => break,
                Ok(read) => self.filled += read,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives bytes a few at a time, then nothing or an error.
    struct Slow {
        left: usize,
        fails: bool,
    }

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = self.left.min(buffer.len()).min(10_000);
            buffer[..read].fill(7);
            self.left -= read;
            if read == 0 && self.fails { Err(io::ErrorKind::InvalidData.into()) } else { Ok(read) }
        }
    }

    #[test]
    fn all_bytes_come_and_then_the_end_or_the_error() {
        for bytes in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 1, 30 * PIECE_BYTES] {
            for fails in [false, true] {
                let (reader, (read, result)) = read_ahead(Slow { left: bytes, fails }, |ahead| {
                    let mut all = Vec::new();
                    let result = ahead.read_to_end(&mut all);
                    assert_eq!(ahead.read(&mut [0]).expect("nothing more"), 0);
                    (all.len(), result)
                })
                .expect("a thread");
                assert_eq!((read, reader.left), (bytes, 0));
                assert_eq!(result.is_err(), fails, "{bytes}");
            }
        }
    }

    #[test]
    fn who_wants_no_more_stops_it() {
        let endless = Slow { left: usize::MAX, fails: false };
        let (reader, ()) = read_ahead(endless, |ahead| {
            ahead.read_exact(&mut [0; 100]).expect("there is enough");
        })
        .expect("a thread");
        let read = usize::MAX - reader.left;
        assert!(read <= (PIECES + 4) * PIECE_BYTES, "{read}");
    }
}
