//! [`Snapshot`]: the file system that a vertex made, as a stack of layers of which some may still
//! be being hashed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::BuildError;
use crate::cache::{CacheKey, KeyHasher};
use crate::layer::{self, Packed};
use crate::oci::{ChainId, Descriptor, Digest, MediaType};
use crate::snapshot::{Handle, View};
use crate::store::{LayerRecord, SealedLayer, StagedBlob, StagedLayer, Store, StoreError, Watch};

/// A file system: the topmost of its layers, or nothing at all. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot(Option<Arc<Layer>>);

/// One layer and those below it.
#[derive(Debug)]
pub(super) struct Layer {
    below: Snapshot,
    state: State,
    /// Whether it is known without hashing that nothing was ever done to these layers.
    is_new: bool,
}

#[derive(Debug)]
enum State {
    /// The store knew it. Where its files are is empty while they are away.
    Stored(Box<LayerRecord>, OnceLock<PathBuf>),
    /// It was made in this build.
    Fresh(Box<Fresh>),
    /// It was made in this build, as a tar that lies here until it is published.
    Tar(Box<LayerRecord>, Mutex<Option<StagedBlob>>),
}

#[derive(Debug)]
struct Fresh {
    dir: PathBuf,
    /// Until it is published.
    staged: Mutex<Option<StagedLayer>>,
    created: String,
    /// Set by the thread that hashes it.
    packed: OnceLock<Result<Packed, String>>,
}

impl Snapshot {
    /// The snapshot of records, topmost first.
    pub(super) fn of_records(store: &Store, records: Vec<LayerRecord>) -> Self {
        records.into_iter().rev().fold(Self::default(), |below, record| {
            let dir = store.layer_dir(&record).map(OnceLock::from).unwrap_or_default();
            let state = State::Stored(Box::new(record), dir);
            Self(Some(Arc::new(Layer { below, state, is_new: false })))
        })
    }

    /// Has the files of all layers here. To be called before something reads them.
    pub(super) fn bring(&self, store: &Store, watch: Watch<'_>) -> Result<(), BuildError> {
        let mut stored = self.layers().filter_map(|layer| match &layer.state {
            State::Stored(record, dir) => Some((record, dir)),
            State::Fresh(_) | State::Tar(..) => None,
        });
        // What is made here stands on what was found, so from the first one on all were.
        let Some(top) = stored.by_ref().find(|(_, dir)| dir.get().is_none()) else { return Ok(()) };
        let chain = top.0.chain();
        let brought = store
            .bring(chain, watch)
            .map_err(|source| BuildError::Gone { chain, source: Box::new(source) })?;
        for ((_, dir), record) in std::iter::once(top).chain(stored).zip(brought) {
            let path = store.layer_dir(&record)?;
            dir.get_or_init(|| path);
        }
        Ok(())
    }

    /// Puts a filled layer on top, and has it hashed on a thread of its own, beside what the build
    /// does next.
    pub(super) fn commit(&self, staged: StagedLayer, created: String, is_new: bool) -> Self {
        let dir = staged.fs();
        let (staged, packed) = (Mutex::new(Some(staged)), OnceLock::new());
        let fresh = Fresh { dir, staged, created, packed };
        let state = State::Fresh(Box::new(fresh));
        let layer = Arc::new(Layer { below: self.clone(), state, is_new });
        let hashed = Arc::clone(&layer);
        let started = std::thread::Builder::new().spawn(move || hashed.pack());
        if started.is_err() {
            // No thread is to be had: here, then.
            layer.pack();
        }
        Self(Some(layer))
    }

    /// What lies below the topmost `count` layers.
    pub(super) fn below(&self, count: usize) -> Self {
        self.layers().nth(count).cloned().map_or_else(Self::default, |layer| Self(Some(layer)))
    }

    /// When the topmost layer was made.
    pub(super) fn created(&self) -> String {
        match self.top().map(|layer| &layer.state) {
            Some(State::Stored(record, _) | State::Tar(record, _)) => {
                record.created.clone().unwrap_or_default()
            }
            Some(State::Fresh(fresh)) => fresh.created.clone(),
            None => String::new(),
        }
    }

    /// Puts a layer on top that is a tar, for good or until somebody reads its files: nothing of this
    /// build does.
    pub(super) fn commit_tar(
        &self,
        tar: StagedBlob,
        packed: &Packed,
        created: String,
    ) -> Result<Self, BuildError> {
        let blob = Descriptor::new(MediaType::ImageLayer, tar.digest, tar.size);
        let record = LayerRecord::away(self.chain()?, packed, Some(created), blob);
        let state = State::Tar(Box::new(record), Mutex::new(Some(tar)));
        Ok(Self(Some(Arc::new(Layer { below: self.clone(), state, is_new: false }))))
    }

    /// Whether it is known without hashing that nothing was ever done to this.
    pub(super) fn is_new(&self) -> bool {
        self.top().is_some_and(|layer| layer.is_new)
    }

    /// The layers, topmost first.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Arc<Layer>> {
        std::iter::successors(self.0.as_ref(), |layer| layer.below.0.as_ref())
    }

    /// The topmost layer; `None` for an empty file system.
    pub(super) fn top(&self) -> Option<&Arc<Layer>> {
        self.0.as_ref()
    }

    /// The layer directories, topmost first; all of them are [here](Self::bring).
    pub(super) fn dirs(&self) -> Result<Vec<PathBuf>, BuildError> {
        let dir = |layer: &Arc<Layer>| match &layer.state {
            State::Fresh(fresh) => Ok(fresh.dir.clone()),
            State::Stored(record, dir) => {
                dir.get().cloned().ok_or_else(|| StoreError::NoLayer(record.chain()).into())
            }
            State::Tar(record, _) => Err(StoreError::NoLayer(record.chain()).into()),
        };
        self.layers().map(dir).collect()
    }

    /// The files.
    pub(super) fn view(&self) -> Result<View, BuildError> {
        Ok(View::open(self.dirs()?)?)
    }

    /// The chain of its layers, once they are hashed; `None` for an empty file system.
    pub(super) fn chain(&self) -> Result<Option<ChainId>, BuildError> {
        let mut chain = None;
        for layer in self.layers().collect::<Vec<_>>().into_iter().rev() {
            chain = Some(match &layer.state {
                State::Stored(record, _) | State::Tar(record, _) => record.chain(),
                State::Fresh(_) => ChainId::extend(chain, layer.packed()?.diff_id),
            });
        }
        Ok(chain)
    }

    /// The digest of what all layers hold, without times, once they are hashed.
    pub(super) fn content(&self) -> Result<CacheKey, BuildError> {
        let mut key = KeyHasher::new("snapshot");
        for layer in self.layers() {
            key.digest("layer", layer.content()?);
        }
        Ok(key.finish())
    }
}

impl Layer {
    /// Hashes what was made in this build.
    fn pack(&self) {
        if let State::Fresh(fresh) = &self.state {
            let packed = hash(&fresh.dir).map_err(|err| with_causes(err.as_ref()));
            // Nobody else sets it.
            drop(fresh.packed.set(packed));
        }
    }

    /// What hashing found; waits for it.
    fn packed(&self) -> Result<Packed, BuildError> {
        match &self.state {
            State::Stored(record, _) | State::Tar(record, _) => {
                Ok(Packed { diff_id: record.diff_id, size: record.size, content: record.content })
            }
            State::Fresh(fresh) => {
                fresh.packed.wait().clone().map_err(|reason| BuildError::Pack { reason })
            }
        }
    }

    fn content(&self) -> Result<Digest, BuildError> {
        self.packed().map(|packed| packed.content)
    }

    /// Makes a layer of this build ready to be published, with its record; `None` for one that is
    /// published already.
    pub(super) fn seal(&self, store: &Store) -> Result<Option<SealedLayer>, BuildError> {
        let fresh = match &self.state {
            State::Fresh(fresh) => fresh,
            State::Stored(..) => return Ok(None),
            State::Tar(record, tar) => {
                let tar = tar.lock().unwrap_or_else(PoisonError::into_inner).take();
                return Ok(tar.map(|tar| store.seal_tar(tar, record)).transpose()?);
            }
        };
        let packed = self.packed()?;
        let parent = self.below.chain()?;
        let staged = fresh.staged.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(staged) = staged else { return Ok(None) };
        Ok(Some(staged.seal(parent, &packed, Some(fresh.created.clone()))?))
    }
}

fn hash(dir: &Path) -> Result<Packed, Box<dyn std::error::Error>> {
    Ok(layer::pack(&Handle::open(dir)?, std::io::sink())?)
}

/// An error with its causes as one text, since the thread that finds it is not the one that tells.
pub(super) fn with_causes(err: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(err.source(), |cause| cause.source());
    causes.fold(err.to_string(), |text, cause| format!("{text}: {cause}"))
}
