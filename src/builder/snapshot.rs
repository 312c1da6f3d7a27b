//! [`Snapshot`]: the file system that a vertex made, as a stack of layers of which some may still
//! be being hashed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::BuildError;
use crate::cache::{CacheKey, KeyHasher};
use crate::layer::{self, Packed};
use crate::oci::{ChainId, Digest};
use crate::snapshot::{Handle, View};
use crate::store::{LayerRecord, SealedLayer, StagedLayer, Store};

/// A file system: the topmost of its layers, or nothing at all. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot(Option<Arc<Layer>>);

/// One layer and those below it.
#[derive(Debug)]
pub(super) struct Layer {
    below: Snapshot,
    dir: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The store had it, or has it by now.
    Stored(LayerRecord),
    /// It was made in this build.
    Fresh(Box<Fresh>),
}

#[derive(Debug)]
struct Fresh {
    /// Until it is published.
    staged: Mutex<Option<StagedLayer>>,
    created: String,
    /// Set by the thread that hashes it.
    packed: OnceLock<Result<Packed, String>>,
}

impl Snapshot {
    /// The snapshot of a stored chain.
    pub(super) fn stored(store: &Store, chain: ChainId) -> Result<Self, BuildError> {
        let records = store.layers_of(chain)?;
        Ok(Self::of_records(store, records))
    }

    /// The snapshot of records, topmost first.
    pub(super) fn of_records(store: &Store, records: Vec<LayerRecord>) -> Self {
        records.into_iter().rev().fold(Self::default(), |below, record| {
            let dir = store.layer_dir(&record);
            Self(Some(Arc::new(Layer { below, dir, state: State::Stored(record) })))
        })
    }

    /// Puts a filled layer on top, and has it hashed on a thread of its own, beside what the build
    /// does next.
    pub(super) fn commit(&self, staged: StagedLayer, created: String) -> Self {
        let dir = staged.fs();
        let fresh = Fresh { staged: Mutex::new(Some(staged)), created, packed: OnceLock::new() };
        let layer =
            Arc::new(Layer { below: self.clone(), dir, state: State::Fresh(Box::new(fresh)) });
        let hashed = Arc::clone(&layer);
        std::thread::spawn(move || {
            let packed = hash(&hashed.dir).map_err(|err| with_causes(err.as_ref()));
            if let State::Fresh(fresh) = &hashed.state {
                // Nobody else sets it.
                drop(fresh.packed.set(packed));
            }
        });
        Self(Some(layer))
    }

    /// The layers, topmost first.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Arc<Layer>> {
        std::iter::successors(self.0.as_ref(), |layer| layer.below.0.as_ref())
    }

    /// The topmost layer; `None` for an empty file system.
    pub(super) fn top(&self) -> Option<&Arc<Layer>> {
        self.0.as_ref()
    }

    /// The layer directories, topmost first.
    pub(super) fn dirs(&self) -> Vec<PathBuf> {
        self.layers().map(|layer| layer.dir.clone()).collect()
    }

    /// The files.
    pub(super) fn view(&self) -> Result<View, BuildError> {
        Ok(View::open(self.dirs())?)
    }

    /// The chain of its layers, once they are hashed; `None` for an empty file system.
    pub(super) fn chain(&self) -> Result<Option<ChainId>, BuildError> {
        let mut chain = None;
        for layer in self.layers().collect::<Vec<_>>().into_iter().rev() {
            chain = Some(match &layer.state {
                State::Stored(record) => record.chain(),
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
    /// What hashing found; waits for it.
    fn packed(&self) -> Result<Packed, BuildError> {
        match &self.state {
            State::Stored(record) => {
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
    pub(super) fn seal(&self) -> Result<Option<SealedLayer>, BuildError> {
        let State::Fresh(fresh) = &self.state else { return Ok(None) };
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
