//! What is uploaded: bytes that are made while they are sent, and made again where that failed.

use std::io::{self, Cursor, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::export::ExportError;
use crate::oci::{Digest, HashingWriter};

/// The bytes that are handed over at once, and how many such pieces may wait: 1 MiB for an upload.
const PIECE_BYTES: usize = 64 << 10;
const PIECES: usize = 16;

/// Bytes that come out the same each time they are written.
pub(super) trait Content: Sync {
    /// How many there are, where that is known before.
    fn length(&self) -> Option<u64>;

    /// Writes them.
    fn write(&self, out: &mut dyn Write) -> Result<(), ExportError>;
}

/// What all bytes of a content turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hashed {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// Opens a body, anew for each attempt to send it.
pub(super) type Open<'a> = &'a (dyn Fn() -> io::Result<Box<dyn Read>> + Sync);

/// Lets `send` read a content from `offset` on, as it is made on another thread. Beside the answer
/// there is what the whole content was, or why it could not be made; nothing, if it was not read to
/// the end.
pub(super) fn stream<T>(
    content: &dyn Content,
    offset: u64,
    send: impl FnOnce(Open<'_>) -> T,
) -> (T, Option<Result<Hashed, ExportError>>) {
    let outcome = Mutex::new(None);
    let answer = thread::scope(|scope| {
        let open = || -> io::Result<Box<dyn Read>> {
            let (sender, receiver) = sync_channel(PIECES);
            let (spent, empty) = channel();
            let (skip, piece, closed) = (offset, Vec::new(), false);
            let writer = Writer { sender, empty, skip, piece, closed };
            let outcome = &outcome;
            thread::Builder::new().spawn_scoped(scope, move || {
                if let Some(result) = produce(content, writer) {
                    *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                }
            })?;
            Ok(Box::new(Reader { receiver, spent, piece: Cursor::default(), ended: false }))
        };
        send(&open)
    });
    (answer, outcome.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Hashes all of a content and passes it on; `None` if nobody reads it.
fn produce(content: &dyn Content, writer: Writer) -> Option<Result<Hashed, ExportError>> {
    let mut out = HashingWriter::new(writer);
    let result = content.write(&mut out);
    let (mut writer, digest, size) = out.finish();
    match result {
        Err(_) if writer.closed => None,
        // Dropping the writer tells the reader.
        Err(err) => Some(Err(err)),
        Ok(()) => {
            writer.pass_on().ok()?;
            // Who knows the length needs no end, and may be gone by now with all that there was.
            drop(writer.send(Piece::End));
            Some(Ok(Hashed { digest, size }))
        }
    }
}

enum Piece {
    Bytes(Vec<u8>),
    End,
}

struct Writer {
    sender: SyncSender<Piece>,
    /// Pieces that were read, to be filled again.
    empty: Receiver<Vec<u8>>,
    /// So many bytes are not passed on.
    skip: u64,
    piece: Vec<u8>,
    /// The reader is gone: what was to be sent is not wanted any more.
    closed: bool,
}

impl Writer {
    fn send(&mut self, piece: Piece) -> io::Result<()> {
        self.sender.send(piece).map_err(|_| {
            self.closed = true;
            io::ErrorKind::BrokenPipe.into()
        })
    }

    fn pass_on(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, self.empty.try_recv().unwrap_or_default());
        if piece.is_empty() { Ok(()) } else { self.send(Piece::Bytes(piece)) }
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        if skipped > 0 {
            self.skip -= skipped as u64;
            return Ok(skipped);
        }
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.pass_on()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Reader {
    receiver: Receiver<Piece>,
    spent: Sender<Vec<u8>>,
    piece: Cursor<Vec<u8>>,
    ended: bool,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.piece.read(buffer)?;
            if read > 0 || self.ended || buffer.is_empty() {
                return Ok(read);
            }
            match self.receiver.recv() {
                Ok(Piece::Bytes(bytes)) => {
                    let read = std::mem::replace(&mut self.piece, Cursor::new(bytes));
                    let mut piece = read.into_inner();
                    piece.clear();
                    // Nobody fills it again at the end.
                    let _ignored = self.spent.send(piece);
                }
                Ok(Piece::End) => self.ended = true,
                Err(_) => return Err(io::Error::other("the layer could not be read")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbers {
        count: u32,
        fails: bool,
    }

    impl Content for Numbers {
        fn length(&self) -> Option<u64> {
            None
        }

        fn write(&self, out: &mut dyn Write) -> Result<(), ExportError> {
            let failed = |source| ExportError::Write { path: "x".into(), source };
            for number in 0..self.count {
                out.write_all(&number.to_le_bytes()).map_err(failed)?;
            }
            if self.fails { Err(ExportError::Changed) } else { Ok(()) }
        }
    }

    fn all(count: u32) -> Vec<u8> {
        (0..count).flat_map(u32::to_le_bytes).collect()
    }

    fn read(open: Open<'_>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        open()?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn from_any_offset_the_whole_is_hashed() {
        let whole = all(100_000);
        let content = Numbers { count: 100_000, fails: false };
        for offset in [0, 1, 65_535, 65_536, 399_999, 400_000, 500_000] {
            let (bytes, hashed) = stream(&content, offset, read);
            let from = usize::try_from(offset).unwrap().min(whole.len());
            assert!(bytes.expect("no error") == whole[from..], "{offset}");
            let hashed = hashed.expect("read to the end").expect("no error");
            assert_eq!(hashed, Hashed { digest: Digest::of(&whole), size: 400_000 });
        }
    }

    #[test]
    fn a_body_can_be_opened_again() {
        let content = Numbers { count: 100_000, fails: false };
        let (bytes, hashed) = stream(&content, 0, |open| {
            let mut start = [0; 10];
            open().and_then(|mut body| body.read_exact(&mut start)).expect("some bytes");
            read(open)
        });
        assert!(bytes.expect("no error") == all(100_000));
        assert!(hashed.expect("read to the end").is_ok());
    }

    #[test]
    fn who_knows_the_length_does_not_wait_for_the_end() {
        struct Slow;
        impl Content for Slow {
            fn length(&self) -> Option<u64> {
                Some(3)
            }
            fn write(&self, out: &mut dyn Write) -> Result<(), ExportError> {
                out.write_all(&vec![7; PIECE_BYTES]).expect("somebody reads");
                // The reader has all that it wants and goes.
                thread::sleep(std::time::Duration::from_millis(50));
                Ok(())
            }
        }
        let ((), hashed) = stream(&Slow, 0, |open| {
            let mut bytes = vec![0; PIECE_BYTES];
            open().and_then(|mut body| body.read_exact(&mut bytes)).expect("all bytes");
        });
        assert_eq!(hashed.expect("all was made").expect("no error").size, PIECE_BYTES as u64);
    }

    #[test]
    fn what_is_not_read_and_what_cannot_be_made() {
        let content = Numbers { count: 1_000_000, fails: false };
        let ((), hashed) = stream(&content, 0, |open| drop(open().expect("a body")));
        assert!(hashed.is_none());
        let content = Numbers { count: 1000, fails: true };
        let (bytes, hashed) = stream(&content, 0, read);
        assert!(bytes.is_err(), "a body that is cut off does not look whole");
        assert!(matches!(hashed, Some(Err(ExportError::Changed))));
    }
}
