//! Gzip on all cores, with bytes that do not tell how many there were.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flate2::Crc;
use libdeflater::{CompressionLvl, Compressor};

use super::deflate::{BLOCK_BYTES, Deflater};

/// What becomes a member of its own. Part of the format: another size gives other bytes. Smaller ones
/// compress less well, larger ones by a thousandth better, and cost memory for each thread.
const MEMBER_BYTES: usize = 4 * BLOCK_BYTES;
/// How many members wait for threads, or for being written, whatever the number of threads.
const MAX_FLYING: usize = 64;

/// Compresses what is written to it into a gzip stream.
///
/// The stream is a row of members of four blocks each, which every reader of gzip takes for one (RFC 1952,
/// section 2.2). They know nothing of one another, so the bytes depend on the input and the level
/// alone, not on the number of threads or on how the input was handed over. Members that would hardly
/// shrink are stored. It brings its own threads, since waiting for a shared pool from inside of it
/// would hang.
///
/// [`GzipEncoder::finish`] ends the stream; dropped before, it leaves a truncated one.
#[derive(Debug)]
pub struct GzipEncoder<W> {
    out: W,
    member: Member,
    /// Whether there was a member already. A stream without any would be no gzip.
    started: bool,
    makers: Makers,
    flying: VecDeque<Receiver<Member>>,
    /// Members that were written, to be filled again: fresh memory costs more than a copy.
    spent: Vec<Member>,
}

/// A member on its way.
#[derive(Debug, Default)]
struct Member {
    data: Vec<u8>,
    /// Where it is made, longer than it can become.
    packed: Vec<u8>,
    /// How long it became.
    packed_bytes: usize,
}

/// Who makes members.
#[derive(Debug)]
enum Makers {
    Here(Box<Maker>),
    Threads { jobs: Sender<Job>, max_flying: usize },
}

#[derive(Debug)]
struct Job {
    member: Member,
    result: Sender<Member>,
}

impl<W: Write> GzipEncoder<W> {
    /// Compresses into `out` at `level` (0, which only stores, to 9) on `threads` threads.
    pub fn new(out: W, level: u32, threads: NonZeroUsize) -> io::Result<Self> {
        let makers = match threads.get() {
            1 => Makers::Here(Box::new(Maker::new(level))),
            threads => Makers::start(threads, level)?,
        };
        let (member, flying, spent) = (Member::default(), VecDeque::new(), Vec::new());
        Ok(Self { out, member, started: false, makers, flying, spent })
    }

    /// Ends the stream and gives back what it was written to, which is not flushed.
    pub fn finish(mut self) -> io::Result<W> {
        if !self.member.data.is_empty() || !self.started {
            self.submit()?;
        }
        while self.write_next()? {}
        Ok(self.out)
    }

    fn submit(&mut self) -> io::Result<()> {
        self.started = true;
        match &mut self.makers {
            Makers::Here(maker) => {
                maker.make(&mut self.member)?;
                self.member.data.clear();
                self.out.write_all(self.member.packed())
            }
            Makers::Threads { jobs, max_flying } => {
                let next = self.spent.pop().unwrap_or_default();
                let member = std::mem::replace(&mut self.member, next);
                let (result, receiver) = channel();
                jobs.send(Job { member, result }).map_err(|_| gone())?;
                self.flying.push_back(receiver);
                if self.flying.len() >= *max_flying {
                    self.write_next()?;
                }
                Ok(())
            }
        }
    }

    /// Writes the next member as soon as it is made; `false` if there is none.
    fn write_next(&mut self) -> io::Result<bool> {
        let Some(next) = self.flying.pop_front() else { return Ok(false) };
        let mut member = next.recv().map_err(|_| gone())?;
        self.out.write_all(member.packed())?;
        member.data.clear();
        self.spent.push(member);
        Ok(true)
    }
}

impl<W: Write> Write for GzipEncoder<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let data = &mut self.member.data;
        let taken = buffer.len().min(MEMBER_BYTES - data.len());
        data.extend_from_slice(&buffer[..taken]);
        if data.len() == MEMBER_BYTES {
            self.submit()?;
        }
        Ok(taken)
    }

    /// Does nothing: ending a member early would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Makers {
    /// Starts threads that end when the encoder is gone.
    fn start(threads: usize, level: u32) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name("gzip".to_owned()).spawn(move || {
                let mut maker = Maker::new(level);
                while let Some(Job { mut member, result }) = next_job(&queue) {
                    // Without a result the encoder finds the channel closed.
                    let Ok(()) = maker.make(&mut member) else { return };
                    // An encoder that was dropped waits for nothing.
                    let _ignored = result.send(member);
                }
            })?;
        }
        Ok(Self::Threads { jobs, max_flying: (2 * threads).min(MAX_FLYING) })
    }
}

fn next_job(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn gone() -> io::Error {
    io::Error::other("a compressing thread ended early")
}

impl Member {
    fn packed(&self) -> &[u8] {
        &self.packed[..self.packed_bytes]
    }
}

/// A member's header without a name or a time, as whoever compresses fastest says (RFC 1952, section 2.3).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
/// CRC-32 and length.
const TRAILER_BYTES: usize = 8;

/// Makes members, one after another.
struct Maker {
    deflater: Deflater,
    /// For levels above the first.
    thorough: Option<Compressor>,
    /// Whether the level is 0.
    stores: bool,
    /// The longest that a member can become.
    most_bytes: usize,
    sample: Vec<u8>,
}

impl Maker {
    fn new(level: u32) -> Self {
        let mut thorough = (level > 1).then(|| {
            let level = CompressionLvl::new(level.min(9).cast_signed());
            Compressor::new(level.expect("the compressor has levels 0 to 12"))
        });
        let bound = thorough.as_mut().map_or(0, |other| other.gzip_compress_bound(MEMBER_BYTES));
        let most_bytes = bound.max(HEADER.len() + Deflater::bound(MEMBER_BYTES) + TRAILER_BYTES);
        Self {
            deflater: Deflater::new(),
            thorough,
            stores: level == 0,
            most_bytes,
            sample: Vec::new(),
        }
    }

    fn make(&mut self, member: &mut Member) -> io::Result<()> {
        let Member { data, packed, packed_bytes } = member;
        packed.resize(self.most_bytes, 0);
        let stores = self.stores || self.hardly_shrinks(data, packed);
        if let Some(compressor) = self.thorough.as_mut().filter(|_| !stores) {
            *packed_bytes = compressor.gzip_compress(data, packed).map_err(io::Error::other)?;
            return Ok(());
        }
        packed[..HEADER.len()].copy_from_slice(&HEADER);
        let deflated = &mut packed[HEADER.len()..];
        let deflated = if stores {
            Deflater::store(data, deflated)
        } else {
            self.deflater.deflate(data, deflated)
        };
        let mut crc = Crc::new();
        crc.update(data);
        *packed_bytes = HEADER.len() + deflated + TRAILER_BYTES;
        let trailer = u64::from(crc.sum()) | (data.len() as u64) << 32;
        packed[*packed_bytes - TRAILER_BYTES..*packed_bytes]
            .copy_from_slice(&trailer.to_le_bytes());
        Ok(())
    }

    /// Whether a sample of 8 KiB, in pieces from all over a whole member, does not shrink by a
    /// thirty-second. Media, archives and keys are found out at a thirtieth of the cost of trying to
    /// compress them.
    fn hardly_shrinks(&mut self, data: &[u8], scratch: &mut [u8]) -> bool {
        const PIECES: usize = 8;
        const PIECE_BYTES: usize = 1 << 10;
        if data.len() < MEMBER_BYTES {
            return false;
        }
        self.sample.clear();
        for part in data.chunks_exact(data.len() / PIECES) {
            self.sample.extend_from_slice(&part[..PIECE_BYTES]);
        }
        let packed = self.deflater.deflate(&self.sample, scratch);
        packed + packed / 32 >= self.sample.len()
    }
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maker").finish_non_exhaustive()
    }
}
