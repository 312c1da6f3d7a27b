//! Blobs that are not here yet: got from where they are, several at once, and readable as they come.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{Origin, StagedBlob, Store, StoreError};
use crate::oci::{Descriptor, Digest, HashingWriter};

/// So many blobs come at the same time.
const AT_ONCE: usize = 4;

/// Gets blobs from elsewhere. Whoever opens a store hands one in; a store without one has what it
/// has.
pub trait BlobSource: fmt::Debug + Send + Sync {
    /// Opens a blob that one of `origins` has. `again` says that what came before was not it.
    ///
    /// # Errors
    /// Where nobody gives it; of the kind `InvalidData` where something else is given.
    fn open<'a>(
        &'a self,
        blob: &Descriptor,
        origins: &[Origin],
        again: bool,
    ) -> io::Result<Box<dyn Read + Send + 'a>>;
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
    end: Option<Result<(), StoreError>>,
}

/// Blobs on their way, in the order in which they are wanted.
pub(super) struct Arrivals {
    all: Vec<Arriving>,
    next: AtomicUsize,
    stopped: AtomicBool,
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
                let path = self.new_scratch("blob");
                let (state, changed) = (Mutex::default(), Condvar::new());
                all.push(Arriving { blob: blob.clone(), path, state, changed });
            }
        }
        Arrivals { all, next: AtomicUsize::new(0), stopped: AtomicBool::new(false) }
    }

    /// Has blobs come while `work` goes on. Where it fails, no more are begun.
    pub(super) fn receive<T>(
        &self,
        arrivals: &Arrivals,
        watch: Watch<'_>,
        work: impl FnOnce(&Arrivals) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        std::thread::scope(|scope| {
            for _ in 0..arrivals.all.len().min(AT_ONCE) {
                scope.spawn(|| {
                    while let Some(arriving) = arrivals.take_next() {
                        let result = self.receive_one(arriving, arrivals, watch);
                        arriving.end(result);
                    }
                });
            }
            let result = work(arrivals);
            if result.is_err() {
                arrivals.stopped.store(true, Ordering::Relaxed);
            }
            result
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
        let source = self.source.as_deref().filter(|_| !origins.is_empty());
        let source = source.ok_or(StoreError::NoBlob(digest))?;
        watch(&arriving.blob, Fetched::Started);
        let mut again = false;
        loop {
            match receive_once(arriving, arrivals, source, &origins, again) {
                Err(err) if !again && is_wrong(&err) => again = true,
                Err(err) => return Err(err),
                Ok(staged) => {
                    self.publish_blob(&staged)?;
                    watch(&arriving.blob, Fetched::Done);
                    return Ok(());
                }
            }
        }
    }
}

fn receive_once(
    arriving: &Arriving,
    arrivals: &Arrivals,
    source: &dyn BlobSource,
    origins: &[Origin],
    again: bool,
) -> Result<StagedBlob, StoreError> {
    let blob = &arriving.blob;
    let failed = |source| StoreError::Fetch { digest: blob.digest, source };
    let write_failed = |err| StoreError::io("write", &arriving.path)(err);
    let mut reader = source.open(blob, origins, again).map_err(failed)?;
    let file = File::create(&arriving.path).map_err(write_failed)?;
    arriving.begin();
    let mut writer = HashingWriter::new(file);
    let mut buffer = vec![0; 128 << 10];
    loop {
        if arrivals.stopped.load(Ordering::Relaxed) {
            return Err(failed(io::ErrorKind::Interrupted.into()));
        }
        let read = reader.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        writer.write_all(&buffer[..read]).map_err(write_failed)?;
        arriving.grow(read as u64);
    }
    let (_, found, size) = writer.finish();
    if (found, size) != (blob.digest, blob.size) {
        let what = format!("the blob {} comes with other bytes, those of {found}", blob.digest);
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, what)));
    }
    Ok(StagedBlob::new(arriving.path.clone(), found, size))
}

/// Whether what came was something else: from a mirror, or after a break, and not so next time.
fn is_wrong(err: &StoreError) -> bool {
    matches!(err, StoreError::Fetch { source, .. } if source.kind() == io::ErrorKind::InvalidData)
}

impl Arrivals {
    fn take_next(&self) -> Option<&Arriving> {
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        self.all.get(self.next.fetch_add(1, Ordering::Relaxed))
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

    fn begin(&self) {
        let mut state = self.lock();
        state.round += 1;
        state.written = 0;
        self.changed.notify_all();
    }

    fn grow(&self, bytes: u64) {
        self.lock().written += bytes;
        self.changed.notify_all();
    }

    fn end(&self, result: Result<(), StoreError>) {
        self.lock().end = Some(result);
        self.changed.notify_all();
    }

    /// Waits until it is in the store.
    pub(super) fn finish(&self) -> Result<(), StoreError> {
        let mut state = self.lock();
        loop {
            match state.end.take() {
                None => state = wait(&self.changed, state),
                Some(end) => {
                    // Later ones learn only that it is over.
                    state.end = Some(match &end {
                        Ok(()) => Ok(()),
                        Err(_) => Err(StoreError::NoBlob(self.blob.digest)),
                    });
                    return end;
                }
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
                Some(Ok(())) => return Ok(0),
                Some(Err(_)) => return Err(io::Error::other("the blob did not arrive")),
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
