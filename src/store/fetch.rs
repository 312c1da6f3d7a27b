//! Blobs that are not here yet: got from where they are, several at once, and readable as they come.
//!
//! What has come lies in `partial/` under the blob's digest until all of it is there and verified. So
//! whoever wants the blob after a break, or after a kill, goes on where it stopped.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Origin, StagedBlob, Store, StoreError};
use crate::oci::{Descriptor, Digest, HashingReader, HashingWriter};

/// So many blobs come at the same time.
const AT_ONCE: usize = 4;

/// How much is read at once, and how much of it may wait to be written.
const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS_AHEAD: usize = 8;

/// How often whoever waits for bytes looks whether they are still wanted.
const TICK: Duration = Duration::from_millis(50);

/// Gets blobs from elsewhere. Whoever opens a store hands one in; a store without one has what it
/// has.
pub trait BlobSource: fmt::Debug + Send + Sync {
    /// Opens a blob.
    ///
    /// # Errors
    /// Where nobody gives it; of the kind `InvalidData` where something else is given.
    fn open<'a>(&'a self, wanted: &WantedBlob) -> io::Result<Box<dyn Read + Send + 'a>>;
}

/// What is wanted of a [`BlobSource`].
#[derive(Debug, Clone)]
pub struct WantedBlob {
    /// Which blob.
    pub blob: Descriptor,
    /// Who has it, the first one first.
    pub origins: Vec<Origin>,
    /// The first byte that is wanted; those before it are here.
    pub from: u64,
    /// Whether what came before was something else.
    pub again: bool,
}

/// Something about a blob that comes from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// It begins to come.
    Started,
    /// It is here.
    Done,
}

/// Is told of blobs as they come. Several threads call it at once.
pub type Watch<'a> = &'a (dyn Fn(&Descriptor, Fetched) + Sync);

/// A blob on its way into the store. Readers follow behind what was written.
pub(super) struct Arriving {
    blob: Descriptor,
    /// Where it lies until it is whole.
    path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes that are in the file.
    written: u64,
    /// How often it was begun; 0 before its turn.
    round: u32,
    /// Whether it has come.
    end: Option<bool>,
}

/// Blobs on their way, in the order in which they are wanted.
pub(super) struct Arrivals {
    all: Vec<Arriving>,
    next: AtomicUsize,
    /// No more are wanted.
    stopped: AtomicBool,
    /// Why the first that failed did.
    failure: Mutex<Option<StoreError>>,
}

impl Store {
    /// Gets all of these blobs that are missing.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] where nobody has one, [`StoreError::Fetch`], [`StoreError::Io`].
    pub fn fetch(&self, wanted: &[Descriptor], watch: Watch<'_>) -> Result<(), StoreError> {
        let arrivals = self.arrivals(wanted);
        self.receive(&arrivals, watch, |arrivals| {
            arrivals.all.iter().try_for_each(Arriving::finish)
        })
    }

    /// What is missing of these blobs.
    pub(super) fn arrivals(&self, wanted: &[Descriptor]) -> Arrivals {
        let mut all: Vec<Arriving> = Vec::new();
        for blob in wanted {
            let known = all.iter().any(|other| other.blob.digest == blob.digest);
            if !known && !self.has_blob(blob.digest) {
                let path = self.path().join("partial").join(blob.digest.hex());
                let (state, changed) = (Mutex::default(), Condvar::new());
                all.push(Arriving { blob: blob.clone(), path, state, changed });
            }
        }
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arrivals { all, next, stopped, failure: Mutex::default() }
    }

    /// Has blobs come while `work` goes on. Where it fails, or one of them, the others are given up.
    pub(super) fn receive<T>(
        &self,
        arrivals: &Arrivals,
        watch: Watch<'_>,
        work: impl FnOnce(&Arrivals) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        thread::scope(|scope| {
            for _ in 0..arrivals.all.len().min(AT_ONCE) {
                scope.spawn(|| {
                    while let Some(arriving) = arrivals.take_next() {
                        let result = self.receive_one(arriving, arrivals, watch);
                        let has_come = result.is_ok();
                        if let Err(err) = result {
                            arrivals.stop(err);
                        }
                        arriving.end(has_come);
                    }
                });
            }
            work(arrivals).map_err(|err| {
                arrivals.stop(err);
                arrivals.failure().take().unwrap_or(StoreError::Cancelled)
            })
        })
    }

    fn receive_one(
        &self,
        arriving: &Arriving,
        arrivals: &Arrivals,
        watch: Watch<'_>,
    ) -> Result<(), StoreError> {
        let digest = arriving.blob.digest;
        // Two processes that want the same blob get it once. The key is not the digest alone: that of
        // a plain layer is its chain's too, which whoever unpacks it has locked.
        let key = Digest::of(format!("blob {digest}").as_bytes());
        let _lock = self.lock_key(key, || {})?;
        if self.has_blob(digest) {
            return Ok(());
        }
        let origins = self.origins(digest)?;
        let source = self.source.as_ref().filter(|_| !origins.is_empty());
        let source = source.ok_or(StoreError::NoBlob(digest))?;
        let partial = self.path().join("partial");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&partial);
        made.map_err(StoreError::io("make the folder", &partial))?;
        watch(&arriving.blob, Fetched::Started);
        let blob = arriving.blob.clone();
        let mut wanted = WantedBlob { blob, origins, from: 0, again: false };
        loop {
            match receive_once(arriving, arrivals, source, &mut wanted) {
                Ok(()) => {
                    let whole = self.new_scratch("blob");
                    fs::rename(&arriving.path, &whole)
                        .map_err(StoreError::io("move", &arriving.path))?;
                    self.publish_blob(&StagedBlob::new(whole, digest, arriving.blob.size))?;
                    watch(&arriving.blob, Fetched::Done);
                    return Ok(());
                }
                Err(err) if is_wrong(&err) => {
                    // Nobody is to go on from it.
                    drop(fs::remove_file(&arriving.path));
                    if wanted.again {
                        return Err(err);
                    }
                    wanted.again = true;
                }
                Err(err) => return Err(err),
            }
        }
    }
}

/// Gets what is missing of a blob's file, and looks at all of it.
fn receive_once(
    arriving: &Arriving,
    arrivals: &Arrivals,
    source: &Arc<dyn BlobSource>,
    wanted: &mut WantedBlob,
) -> Result<(), StoreError> {
    let blob = &arriving.blob;
    let failed = |source| StoreError::Fetch { digest: blob.digest, source };
    let write_failed = |err| StoreError::io("write", &arriving.path)(err);
    let mut writer = arriving.take_up().map_err(write_failed)?;
    wanted.from = writer.count();
    arriving.begin(wanted.from);
    let chunks = pump(Arc::clone(source), wanted.clone()).map_err(failed)?;
    loop {
        if arrivals.stopped.load(Ordering::Relaxed) {
            return Err(StoreError::Cancelled);
        }
        match chunks.recv_timeout(TICK) {
            Ok(chunk) => {
                let chunk = chunk.map_err(failed)?;
                writer.write_all(&chunk).map_err(write_failed)?;
                arriving.grow(chunk.len() as u64);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let (_, found, size) = writer.finish();
    if (found, size) != (blob.digest, blob.size) {
        let what = format!("the blob {} comes with other bytes, those of {found}", blob.digest);
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, what)));
    }
    Ok(())
}

/// Reads a blob in a thread of its own, which can be left alone where it waits for somebody silent. The
/// end of the chunks is that of the blob.
fn pump(
    source: Arc<dyn BlobSource>,
    wanted: WantedBlob,
) -> io::Result<Receiver<io::Result<Vec<u8>>>> {
    let (sender, chunks) = mpsc::sync_channel(CHUNKS_AHEAD);
    let work = move || {
        if let Err(err) = read_all(source.as_ref(), &wanted, &sender) {
            // Nobody may wait for it any more.
            drop(sender.send(Err(err)));
        }
    };
    thread::Builder::new().spawn(work)?;
    Ok(chunks)
}

fn read_all(
    source: &dyn BlobSource,
    wanted: &WantedBlob,
    sender: &SyncSender<io::Result<Vec<u8>>>,
) -> io::Result<()> {
    // All of it may be here already.
    if wanted.from == wanted.blob.size {
        return Ok(());
    }
    let mut reader = source.open(wanted)?;
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = reader.read(&mut chunk)?;
        chunk.truncate(read);
        if read == 0 || sender.send(Ok(chunk)).is_err() {
            return Ok(());
        }
    }
}

/// Whether what came was something else: from a mirror, or after a break, and not so next time.
fn is_wrong(err: &StoreError) -> bool {
    matches!(err, StoreError::Fetch { source, .. } if source.kind() == io::ErrorKind::InvalidData)
}

impl Arrivals {
    fn take_next(&self) -> Option<&Arriving> {
        self.all.get(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Gives up what has not come. The first reason counts; that it was given up is none.
    pub(super) fn stop(&self, err: StoreError) {
        if !matches!(err, StoreError::Cancelled) {
            self.failure().get_or_insert(err);
        }
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn failure(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blob, if it is on its way.
    pub(super) fn find(&self, blob: &Descriptor) -> Option<&Arriving> {
        self.all.iter().find(|arriving| arriving.blob.digest == blob.digest)
    }
}

impl Arriving {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens its file behind what is there of it. The caller has it locked.
    fn take_up(&self) -> io::Result<HashingWriter<File>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).mode(0o600).open(&self.path)?;
        if file.metadata()?.len() > self.blob.size {
            file.set_len(0)?;
        }
        let mut kept = HashingReader::new(file.try_clone()?);
        io::copy(&mut kept, &mut io::sink())?;
        Ok(kept.into_writer(file))
    }

    fn begin(&self, from: u64) {
        let mut state = self.lock();
        state.round += 1;
        state.written = from;
        self.changed.notify_all();
    }

    fn grow(&self, bytes: u64) {
        self.lock().written += bytes;
        self.changed.notify_all();
    }

    fn end(&self, has_come: bool) {
        self.lock().end = Some(has_come);
        self.changed.notify_all();
    }

    /// Waits until it is in the store. Why it is not is told by [`Store::receive`].
    pub(super) fn finish(&self) -> Result<(), StoreError> {
        let mut state = self.lock();
        loop {
            match state.end {
                None => state = wait(&self.changed, state),
                Some(true) => return Ok(()),
                Some(false) => return Err(StoreError::Cancelled),
            }
        }
    }

    /// Waits until it comes, or is here, or will not come, and gives a reader of what comes. `None`
    /// where there is nothing to follow: it is in the store, or will never be.
    pub(super) fn follow(&self) -> Result<Option<Follower<'_>>, StoreError> {
        let mut state = self.lock();
        while state.round == 0 && state.end.is_none() {
            state = wait(&self.changed, state);
        }
        if state.end.is_some() {
            return Ok(None);
        }
        let round = state.round;
        drop(state);
        match File::open(&self.path) {
            Ok(file) => Ok(Some(Follower { arriving: self, file, round, position: 0 })),
            // It has been moved to its place in between.
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(StoreError::io("open", &self.path)(err)),
        }
    }
}

/// Reads a blob while it is written. The bytes are not verified before the blob has arrived.
pub(super) struct Follower<'a> {
    arriving: &'a Arriving,
    file: File,
    round: u32,
    position: u64,
}

impl Follower<'_> {
    /// Whether the bytes that were read are those that are coming now.
    pub(super) fn is_current(&self) -> bool {
        self.arriving.lock().round == self.round
    }
}

impl Read for Follower<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.arriving.lock();
        let available = loop {
            if state.round != self.round {
                return Err(io::Error::other("the blob is fetched anew"));
            }
            let available = state.written - self.position;
            if available > 0 {
                break available;
            }
            match &state.end {
                None => state = wait(&self.arriving.changed, state),
                Some(true) => return Ok(0),
                Some(false) => return Err(io::Error::other("the blob did not arrive")),
            }
        };
        drop(state);
        let most = usize::try_from(available).map_or(buffer.len(), |n| n.min(buffer.len()));
        self.file.seek(SeekFrom::Start(self.position))?;
        let read = self.file.read(&mut buffer[..most])?;
        self.position += read as u64;
        Ok(read)
    }
}

fn wait<'a>(changed: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    changed.wait(state).unwrap_or_else(PoisonError::into_inner)
}
