//! Gzip on all cores, with bytes that do not tell how many there were.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use libdeflater::{CompressionLvl, Compressor};

/// What becomes a member of its own. Part of the format: another size gives other bytes. Smaller ones
/// compress less well, larger ones by a thousandth better, and cost memory for each thread.
const MEMBER_BYTES: usize = 256 << 10;
/// How many members wait for threads, or for being written, whatever the number of threads.
const MAX_FLYING: usize = 64;

/// Compresses what is written to it into a gzip stream.
///
/// The stream is a row of members of 256 KiB each, which every reader of gzip takes for one (RFC 1952,
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

/// Makes members, one after another.
struct Maker {
    compressor: Compressor,
    storer: Compressor,
    /// The longest that a member can become.
    most_bytes: usize,
    sample: Vec<u8>,
    packed_sample: Vec<u8>,
}

impl Maker {
    fn new(level: u32) -> Self {
        let level = CompressionLvl::new(level.min(9).cast_signed());
        let level = level.expect("the compressor has levels 0 to 12");
        let store = CompressionLvl::new(0).expect("0 is one of them");
        let (mut compressor, mut storer) = (Compressor::new(level), Compressor::new(store));
        let most = [&mut compressor, &mut storer].map(|one| one.gzip_compress_bound(MEMBER_BYTES));
        let most_bytes = most[0].max(most[1]);
        let [sample, packed_sample] = [Vec::new(), Vec::new()];
        Self { compressor, storer, most_bytes, sample, packed_sample }
    }

    fn make(&mut self, member: &mut Member) -> io::Result<()> {
        let Member { data, packed, packed_bytes } = member;
        packed.resize(self.most_bytes, 0);
        let stores = self.hardly_shrinks(data)?;
        let compressor = if stores { &mut self.storer } else { &mut self.compressor };
        *packed_bytes = compressor.gzip_compress(data, packed).map_err(io::Error::other)?;
        Ok(())
    }

    /// Whether a sample of 8 KiB, in pieces from all over a whole member, does not shrink by a
    /// thirty-second. Media, archives and keys are found out at a thirtieth of the cost of trying to
    /// compress them.
    fn hardly_shrinks(&mut self, data: &[u8]) -> io::Result<bool> {
        const PIECES: usize = 8;
        const PIECE_BYTES: usize = 1 << 10;
        if data.len() < MEMBER_BYTES {
            return Ok(false);
        }
        self.sample.clear();
        for part in data.chunks(data.len() / PIECES) {
            self.sample.extend_from_slice(&part[..PIECE_BYTES]);
        }
        self.packed_sample.resize(self.compressor.deflate_compress_bound(self.sample.len()), 0);
        let packed = self.compressor.deflate_compress(&self.sample, &mut self.packed_sample);
        let packed = packed.map_err(io::Error::other)?;
        Ok(packed + packed / 32 >= self.sample.len())
    }
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maker").finish_non_exhaustive()
    }
}
