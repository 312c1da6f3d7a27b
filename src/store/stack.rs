//! Several layers unpacked at once, each on top of those below it.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::{LayerRecord, SealedLayer, StagedLayer, Store, StoreError};
use crate::layer::{self, Below, Early};
use crate::oci::HashingReader;
use crate::snapshot::{Handle, SnapshotError, View};

/// So many layers are unpacked at once. One waits for its bytes while another is written.
const AT_ONCE: usize = 4;

/// Has the bytes of layers that are to be unpacked.
pub trait LayerSource: Sync {
    /// Lets `unpack` read the blob that a layer comes as, and says in the end whether it was the blob.
    /// Where it was not, or where it comes anew meanwhile, what was unpacked is nothing worth.
    ///
    /// # Errors
    /// What `unpack` says; what is wrong with the blob.
    fn read(&self, record: &LayerRecord, unpack: Unpack<'_>) -> Result<Unpacked, StoreError>;

    /// Says that a layer has failed, and that nobody waits for the others any more.
    fn give_up(&self) {}
}

/// Unpacks a layer out of its blob.
pub type Unpack<'a> = &'a dyn Fn(&mut (dyn Read + Send)) -> Result<Unpacked, StoreError>;

/// A layer that was unpacked, perhaps before those below it.
#[derive(Debug)]
pub struct Unpacked {
    staged: StagedLayer,
    early: Early,
    /// The bytes of its tar.
    size: u64,
}

/// The layers of an image while some of them are unpacked.
struct Stack<'a> {
    store: &'a Store,
    source: &'a dyn LayerSource,
    /// The lowest first.
    records: Vec<LayerRecord>,
    /// Which of them are to be unpacked.
    away: Vec<usize>,
    next: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
    failed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The directories of the lowest layers, the topmost of these first.
    dirs: Vec<PathBuf>,
    /// Layers that are unpacked and may still have to be held against those below.
    unpacked: Vec<Option<Unpacked>>,
    sealed: Vec<SealedLayer>,
    /// Why the first that failed did.
    failure: Option<StoreError>,
}

impl Store {
    /// Unpacks those of `records`, which are all layers of an image, the lowest first, that have no
    /// directories. Several are unpacked at once.
    ///
    /// # Errors
    /// [`StoreError::Layer`] for a layer that cannot be unpacked, [`StoreError::DigestMismatch`] for
    /// one whose bytes are not those that the config promises; what `source` says.
    pub fn stage_unpacked(
        &self,
        records: Vec<LayerRecord>,
        source: &dyn LayerSource,
    ) -> Result<Vec<SealedLayer>, StoreError> {
        let away: Vec<usize> = (0..records.len()).filter(|at| records[*at].is_away()).collect();
        let workers = away.len().min(AT_ONCE);
        let state = State { unpacked: records.iter().map(|_| None).collect(), ..State::default() };
        let stack = Stack {
            store: self,
            source,
            records,
            away,
            next: AtomicUsize::new(0),
            state: Mutex::new(state),
            changed: Condvar::new(),
            failed: AtomicBool::new(false),
        };
        stack.settle()?;
        // Where all is here, nothing is to be flushed.
        if workers > 0 {
            self.flushing_on(|| stack.work_together(workers));
        }
        let state = stack.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.failure.map_or(Ok(state.sealed), Err)
    }

    /// Unpacks one layer. What is below is asked for when it makes a difference.
    fn unpack_layer(
        &self,
        record: &LayerRecord,
        blob: &mut (dyn Read + Send),
        below: Below<'_>,
    ) -> Result<Unpacked, StoreError> {
        let diff_id = record.diff_id;
        let read_failed = |source| StoreError::io("read a blob of", self.path())(source);
        let staged = self.stage_layer()?;
        let dir = staged.fs();
        let handle = Handle::open(&dir).map_err(StoreError::io("open", &dir))?;
        let path = staged.frame_path();
        let mut frame = File::create_new(&path).map_err(StoreError::io("make", &path))?;
        let (_, decoder) = layer::open_archive(blob).map_err(read_failed)?;
        let (tar, early) = layer::read_ahead(HashingReader::new(decoder), |tar| {
            layer::apply_early(tar, &handle, below, Some(&mut frame))
        })
        .map_err(read_failed)?;
        let early = early.map_err(|source| StoreError::Layer { layer: diff_id.0, source })?;
        let (found, size) = tar.finish();
        if found != diff_id.0 {
            let what = "the layer's tar".to_owned();
            return Err(StoreError::DigestMismatch { what, expected: diff_id.0, found });
        }
        Ok(Unpacked { staged, early, size })
    }
}

impl Stack<'_> {
    /// Unpacks all layers, so many at once.
    fn work_together(&self, workers: usize) {
        thread::scope(|scope| {
            for _ in 1..workers {
                // Without another thread, this one does it all.
                drop(thread::Builder::new().spawn_scoped(scope, || self.work()));
            }
            self.work();
        });
    }

    /// Unpacks one layer after another.
    fn work(&self) {
        while let Some(at) = self.away.get(self.next.fetch_add(1, Ordering::Relaxed)).copied()
            && !self.failed.load(Ordering::Relaxed)
        {
            let unpacked = self.source.read(&self.records[at], &|blob| {
                let mut blob = Stoppable { blob, stop: &self.failed };
                self.store.unpack_layer(
                    &self.records[at],
                    &mut blob,
                    Below::Later(&|| self.below(at)),
                )
            });
            let done = unpacked.and_then(|unpacked| {
                self.lock().unpacked[at] = Some(unpacked);
                self.settle()
            });
            if let Err(err) = done {
                let mut state = self.lock();
                state.failure.get_or_insert(err);
                self.failed.store(true, Ordering::Relaxed);
                self.changed.notify_all();
                drop(state);
                self.source.give_up();
            }
        }
    }

    /// The layers below one, once all of them are there. The one that does not wait for others is always
    /// at work: the lowest that is not there.
    fn below(&self, at: usize) -> Result<View, SnapshotError> {
        let mut state = self.lock();
        while state.dirs.len() < at {
            if self.failed.load(Ordering::Relaxed) {
                let source = io::Error::other("a layer below cannot be unpacked");
                return Err(SnapshotError::io("read", &PathBuf::new(), source));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let dirs: Vec<PathBuf> = state.dirs[state.dirs.len() - at..].to_vec();
        drop(state);
        View::open(dirs)
    }

    /// Finishes layers whose layers below are all there.
    fn settle(&self) -> Result<(), StoreError> {
        let mut state = self.lock();
        while let Some(record) = self.records.get(state.dirs.len()) {
            let at = state.dirs.len();
            let dir = if record.is_away() {
                let Some(mut unpacked) = state.unpacked[at].take() else { break };
                if unpacked.early.assumes() {
                    let below = View::open(&state.dirs)?;
                    if !unpacked.early.holds_on(&below)? {
                        // Once more, knowing what is below from the start.
                        unpacked = self.source.read(record, &|blob| {
                            self.store.unpack_layer(record, blob, Below::Known(&below))
                        })?;
                    }
                }
                let sealed = unpacked.seal(record.clone())?;
                let dir = self.store.layer_dir(sealed.record())?;
                state.sealed.push(sealed);
                dir
            } else {
                self.store.layer_dir(record)?
            };
            state.dirs.insert(0, dir);
            self.changed.notify_all();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unpacked {
    fn seal(self, mut record: LayerRecord) -> Result<SealedLayer, StoreError> {
        record.size = self.size;
        if !self.early.framed {
            let path = self.staged.frame_path();
            std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        self.staged.seal_as(record)
    }
}

/// Ends where another layer has failed.
struct Stoppable<'a> {
    blob: &'a mut (dyn Read + Send),
    stop: &'a AtomicBool,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("another layer cannot be unpacked"));
        }
        self.blob.read(buffer)
    }
}
