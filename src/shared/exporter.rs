//! [`Exporter`]: what is made here, for others.

use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{Place, SharedError};
use crate::cache::{SharedIndex, Step};
use crate::oci::{ChainId, Descriptor};
use crate::store::{LayerRecord, Store, StoreError};

/// Which steps leave the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Those whose layers are the image's.
    #[default]
    Min,
    /// All.
    Max,
}

/// Brings the steps of a build to a place: their layers while the build goes on, and the index once it
/// went well. Whoever has an exporter lets some threads [work](Exporter::work).
pub struct Exporter<'a> {
    store: &'a Store,
    place: &'a dyn Place,
    mode: Mode,
    /// Today, in days since 1970.
    today: u32,
    /// What was there before.
    known: OnceLock<Result<SharedIndex, SharedError>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    steps: Vec<Step>,
    /// All layers of the steps, each behind those that it stands on.
    layers: Vec<LayerRecord>,
    known: HashSet<ChainId>,
    /// How many of them have had their turn.
    taken: usize,
    /// What was brought there.
    blobs: HashMap<ChainId, Descriptor>,
    closed: bool,
    aborted: bool,
    failure: Option<SharedError>,
}

impl std::fmt::Debug for Exporter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl<'a> Exporter<'a> {
    /// An exporter from `store` to `place`. `today` is counted in days since 1970.
    pub fn new(store: &'a Store, place: &'a dyn Place, mode: Mode, today: u32) -> Self {
        let (known, state, changed) = (OnceLock::new(), Mutex::default(), Condvar::new());
        Self { store, place, mode, today, known, state, changed }
    }

    /// Where it brings things to, as people write it.
    pub fn place(&self) -> String {
        self.place.name()
    }

    /// Hears of a step whose layers the store has.
    pub fn done(&self, step: &Step, in_image: bool) {
        if self.mode == Mode::Min && !in_image {
            return;
        }
        let mut state = self.lock();
        match state.add(self.store, step) {
            Ok(()) => state.steps.push(step.clone()),
            Err(err) => state.fail(err.into()),
        }
        self.changed.notify_all();
    }

    /// Brings layers as they come, until the exporter is [closed](Exporter::close).
    pub fn work(&self) {
        while let Some(layer) = self.next() {
            let Ok(known) = self.known.get_or_init(|| self.place.read()) else { return };
            if known.has_layer(layer.chain()) {
                continue;
            }
            let put = self.place.put(&layer);
            let mut state = self.lock();
            match put {
                Ok(blob) => drop(state.blobs.insert(layer.chain(), blob)),
                Err(err) => state.fail(err),
            }
        }
    }

    fn next(&self) -> Option<LayerRecord> {
        let mut state = self.lock();
        loop {
            if state.failure.is_some() {
                return None;
            }
            if state.aborted {
                return None;
            }
            if let Some(layer) = state.layers.get(state.taken).cloned() {
                state.taken += 1;
                return Some(layer);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says that no more steps come. Where the build went wrong, what waits is left.
    pub fn close(&self, went_well: bool) {
        let mut state = self.lock();
        state.closed = true;
        state.aborted = !went_well;
        self.changed.notify_all();
    }

    /// Once nobody works any more: adds the steps to the index of the place. Gives how many layers were
    /// brought there; `None` where there was nothing to add.
    ///
    /// # Errors
    /// The first [`SharedError`] of anything.
    pub fn finish(self) -> Result<Option<usize>, SharedError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = state.failure {
            return Err(failure);
        }
        let known = self.known.into_inner().transpose()?.unwrap_or_default();
        let mut index = SharedIndex::default();
        for layer in state.layers {
            let chain = layer.chain();
            let there = known.layer(chain).and_then(|layer| layer.blob.as_ref());
            if let Some(blob) = there.or_else(|| state.blobs.get(&chain)) {
                index.add_layer(&layer, blob.clone());
            }
        }
        for step in state.steps {
            index.add_step(step, self.today);
        }
        Ok(self.place.add(&index)?.then_some(state.blobs.len()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds the layers of a step that are not known yet.
    fn add(&mut self, store: &Store, step: &Step) -> Result<(), StoreError> {
        let mut new = Vec::new();
        let mut next = Some(step.chain);
        while let Some(chain) = next.filter(|chain| !self.known.contains(chain)) {
            let layer = store.layer(chain)?.ok_or(StoreError::NoLayer(chain))?;
            next = layer.parent;
            new.push(layer);
        }
        self.known.extend(new.iter().map(LayerRecord::chain));
        self.layers.extend(new.into_iter().rev());
        Ok(())
    }

    fn fail(&mut self, err: SharedError) {
        self.failure.get_or_insert(err);
    }
}
