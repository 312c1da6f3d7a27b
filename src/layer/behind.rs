//! [`write_behind`]: one thread writes what another one makes.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

/// What is handed over at once, and how many such pieces may wait.
const PIECE_BYTES: usize = 512 << 10;
const PIECES: usize = 3;

/// Lets `work` make on another thread what this one writes to `out`, which need not be for other threads.
/// Gives what `work` returned. Where `out` fails, writing fails in `work`, and the error is given.
///
/// # Errors
/// Those of `out`; if there can be no other thread.
pub fn write_behind<T: Send>(
    out: &mut dyn Write,
    work: impl FnOnce(&mut Behind) -> T + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let (full, pieces) = sync_channel(PIECES);
        let (spent, empty) = channel();
        let make = move || {
            let mut behind = Behind { full, empty, piece: Vec::new() };
            let made = work(&mut behind);
            // Where nobody takes it, there is an error already.
            let _ignored = behind.hand_over();
            made
        };
        let worker = thread::Builder::new().name("behind".to_owned()).spawn_scoped(scope, make)?;
        let written = write_all(out, &pieces, &spent);
        drop(pieces);
        let made =
            worker.join().map_err(|_| io::Error::other("the thread that writes has ended"))?;
        written.map(|()| made)
    })
}

/// Writes what comes, to its end.
fn write_all(
    out: &mut dyn Write,
    pieces: &Receiver<Vec<u8>>,
    spent: &Sender<Vec<u8>>,
) -> io::Result<()> {
    for mut piece in pieces {
        out.write_all(&piece)?;
        piece.clear();
        // Nobody fills it again at the end.
        let _ignored = spent.send(piece);
    }
    Ok(())
}

/// What the work of [`write_behind`] writes to.
#[derive(Debug)]
pub struct Behind {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    piece: Vec<u8>,
}

impl Behind {
    fn hand_over(&mut self) -> io::Result<()> {
        let next = self.empty.try_recv().unwrap_or_default();
        let piece = std::mem::replace(&mut self.piece, next);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        if piece.is_empty() { Ok(()) } else { self.full.send(piece).map_err(gone) }
    }
}

impl Write for Behind {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE_BYTES {
            self.hand_over()?;
        }
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_comes_and_what_is_returned() {
        for size in [0, 1, PIECE_BYTES, 9 * PIECE_BYTES + 1] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            let mut out = Vec::new();
            let made = write_behind(&mut out, |out| out.write_all(&bytes).map(|()| size));
            assert_eq!(made.expect("a thread").expect("written"), size);
            assert!(out == bytes, "{size}");
        }
    }

    #[test]
    fn who_cannot_write_stops_it() {
        let mut out = &mut [0; 10][..];
        let endless = |out: &mut Behind| io::copy(&mut io::repeat(1), out).is_err();
        assert!(write_behind(&mut out, endless).is_err());
    }
}
