//! Gzip on all cores, with bytes that do not tell how many there were.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flate2::{Compress, FlushCompress, Status};

/// What is compressed as one piece. Part of the format: another size gives other bytes.
const BLOCK_BYTES: usize = 1 << 20;
/// How far back deflate can refer to.
const WINDOW_BYTES: usize = 32 << 10;
/// Deflate, no name, no time, no flags, and an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Compresses what is written to it into one gzip member.
///
/// The input is cut into blocks of 1 MiB, each compressed by itself with the 32 KiB before it as
/// dictionary, and ended on a byte boundary; so the bytes depend on the input and the level alone, not
/// on the number of threads or on how the input was handed over. At most two blocks a thread are in
/// flight. It brings its own threads, since waiting for a shared pool from inside of it would hang.
///
/// [`GzipEncoder::finish`] ends the member; dropped before, it leaves a truncated one.
#[derive(Debug)]
pub struct GzipEncoder<W> {
    out: W,
    level: u32,
    block: Vec<u8>,
    /// The end of the block before.
    window: Arc<[u8]>,
    started: bool,
    checksum: crc32fast::Hasher,
    length: u64,
    workers: Option<Workers>,
    flying: VecDeque<Receiver<io::Result<Piece>>>,
}

#[derive(Debug)]
struct Workers {
    jobs: Sender<Job>,
    max_flying: usize,
}

#[derive(Debug)]
struct Job {
    block: Vec<u8>,
    window: Arc<[u8]>,
    level: u32,
    last: bool,
    result: Sender<io::Result<Piece>>,
}

/// A compressed block.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    checksum: crc32fast::Hasher,
    length: u64,
}

impl<W: Write> GzipEncoder<W> {
    /// Compresses into `out` at `level` (1 to 9) on `threads` threads.
    pub fn new(out: W, level: u32, threads: NonZeroUsize) -> io::Result<Self> {
        let workers = (threads.get() > 1).then(|| Workers::start(threads.get())).transpose()?;
        Ok(Self {
            out,
            level: level.clamp(1, 9),
            block: Vec::with_capacity(BLOCK_BYTES),
            window: Arc::from([]),
            started: false,
            checksum: crc32fast::Hasher::new(),
            length: 0,
            workers,
            flying: VecDeque::new(),
        })
    }

    /// Ends the member and gives back what it was written to, which is not flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.submit(true)?;
        while let Some(piece) = self.flying.pop_front() {
            self.take(&receive(&piece)?)?;
        }
        let checksum = self.checksum.finalize();
        self.out.write_all(&checksum.to_le_bytes())?;
        // The length is kept modulo 2³².
        self.out.write_all(&self.length.to_le_bytes()[..4])?;
        Ok(self.out)
    }

    fn submit(&mut self, last: bool) -> io::Result<()> {
        if !self.started {
            self.started = true;
            self.out.write_all(&HEADER)?;
        }
        let next = if last { Vec::new() } else { Vec::with_capacity(BLOCK_BYTES) };
        let block = std::mem::replace(&mut self.block, next);
        let tail: Arc<[u8]> = Arc::from(&block[block.len().saturating_sub(WINDOW_BYTES)..]);
        let window = std::mem::replace(&mut self.window, tail);
        let Some(workers) = &self.workers else {
            let piece = compress(&block, &window, self.level, last)?;
            return self.take(&piece);
        };
        let (result, receiver) = channel();
        let job = Job { block, window, level: self.level, last, result };
        workers.jobs.send(job).map_err(|_| gone())?;
        self.flying.push_back(receiver);
        if self.flying.len() >= workers.max_flying
            && let Some(piece) = self.flying.pop_front()
        {
            self.take(&receive(&piece)?)?;
        }
        Ok(())
    }

    fn take(&mut self, piece: &Piece) -> io::Result<()> {
        self.checksum.combine(&piece.checksum);
        self.length += piece.length;
        self.out.write_all(&piece.bytes)
    }
}

impl<W: Write> Write for GzipEncoder<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let room = BLOCK_BYTES - self.block.len();
        let taken = buffer.len().min(room);
        self.block.extend_from_slice(&buffer[..taken]);
        if self.block.len() == BLOCK_BYTES {
            self.submit(false)?;
        }
        Ok(taken)
    }

    /// Does nothing: ending a block early would change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Workers {
    /// Starts threads that end when the encoder is gone.
    fn start(threads: usize) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name("gzip".to_owned()).spawn(move || {
                while let Some(job) = next_job(&queue) {
                    let piece = compress(&job.block, &job.window, job.level, job.last);
                    // An encoder that was dropped waits for nothing.
                    let _ignored = job.result.send(piece);
                }
            })?;
        }
        Ok(Self { jobs, max_flying: 2 * threads })
    }
}

fn next_job(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn receive(piece: &Receiver<io::Result<Piece>>) -> io::Result<Piece> {
    piece.recv().map_err(|_| gone())?
}

fn gone() -> io::Error {
    io::Error::other("a compressing thread ended early")
}

fn compress(block: &[u8], window: &[u8], level: u32, last: bool) -> io::Result<Piece> {
    let mut deflate = Compress::new(flate2::Compression::new(level), false);
    if !window.is_empty() {
        deflate.set_dictionary(window)?;
    }
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    // Incompressible data grows by 5 bytes for each 16 KiB or so.
    let mut bytes = Vec::with_capacity(block.len() + block.len() / 1024 + 1024);
    loop {
        let done = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let status = deflate.compress_vec(&block[done..], &mut bytes, flush)?;
        let all_read = deflate.total_in() == block.len() as u64;
        let finished = match status {
            Status::StreamEnd => true,
            // All that was to be flushed has been, if there is room left.
            Status::Ok | Status::BufError => all_read && !last && bytes.len() < bytes.capacity(),
        };
        if finished {
            break;
        }
        bytes.reserve(16 << 10);
    }
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(block);
    Ok(Piece { bytes, checksum, length: block.len() as u64 })
}
