//! [`Importer`]: what others have made.

use std::sync::OnceLock;

use super::{Place, SharedError};
use crate::cache::{CacheKey, SharedIndex, Step};
use crate::oci::ChainId;
use crate::store::{LayerRecord, Store};

/// Finds steps in places, the first of which is asked first. Nothing is read before something is asked
/// for, and each index once.
pub struct Importer<'a> {
    store: &'a Store,
    places: Vec<(&'a dyn Place, OnceLock<SharedIndex>)>,
    warn: &'a (dyn Fn(&str) + Sync),
}

impl std::fmt::Debug for Importer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Importer").field("places", &self.places.len()).finish_non_exhaustive()
    }
}

impl<'a> Importer<'a> {
    /// An importer into `store`, which tells what fails by `warn`.
    pub fn new(
        store: &'a Store,
        places: impl IntoIterator<Item = &'a dyn Place>,
        warn: &'a (dyn Fn(&str) + Sync),
    ) -> Self {
        let places = places.into_iter().map(|place| (place, OnceLock::new())).collect();
        Self { store, places, warn }
    }

    /// The step that was done elsewhere for `key`; the store knows its layers from then on.
    pub fn find(&self, key: CacheKey) -> Option<Step> {
        self.places.iter().find_map(|(place, index)| {
            let index = index.get_or_init(|| self.read(*place));
            let step = index.find(key)?;
            match self.note(*place, index, step.chain) {
                Ok(()) => Some(step.clone()),
                Err(err) => {
                    self.tell("cannot use the cache of", *place, &err);
                    None
                }
            }
        })
    }

    fn read(&self, place: &dyn Place) -> SharedIndex {
        match place.read() {
            Ok(index) => {
                if index.is_empty() {
                    (self.warn)(&format!("there is no cache at {} yet", place.name()));
                }
                index
            }
            Err(err) => {
                self.tell("cannot read the cache of", place, &err);
                SharedIndex::default()
            }
        }
    }

    fn note(
        &self,
        place: &dyn Place,
        index: &SharedIndex,
        chain: ChainId,
    ) -> Result<(), SharedError> {
        // Where a layer is known, so are those below it.
        let is_known = |chain| matches!(self.store.layer(chain), Ok(Some(_)));
        let unknown: Vec<LayerRecord> = index.above(chain, is_known).into_iter().cloned().collect();
        place.offer(&unknown)?;
        Ok(self.store.note_away(&unknown)?)
    }

    fn tell(&self, what: &str, place: &dyn Place, err: &SharedError) {
        (self.warn)(&format!("{what} {}: {}", place.name(), super::with_causes(err)));
    }
}
