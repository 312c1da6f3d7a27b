//! From a layer's blob to its directory, before something reads it.

use super::fetch::{Arrivals, Watch};
use super::stack::{LayerSource, Unpack, Unpacked};
use super::{Image, LayerRecord, Store, StoreError};
use crate::oci::{ChainId, Descriptor};

impl Store {
    /// Makes sure that all layers of an image have directories, and gives their records, topmost
    /// first. Blobs that are missing are fetched, several at once, and unpacked as they come,
    /// several at once too.
    ///
    /// # Errors
    /// [`StoreError::Layer`] for a layer that cannot be unpacked, [`StoreError::DigestMismatch`] for
    /// one whose bytes are not those that the config promises; as [`Store::fetch`].
    pub fn unpack(&self, image: &Image, watch: Watch<'_>) -> Result<Vec<LayerRecord>, StoreError> {
        let mut records = Vec::new();
        let mut parent = None;
        let layers = image.manifest.layers().iter().zip(&image.config.rootfs.diff_ids);
        for (blob, diff_id) in layers {
            let chain = ChainId::extend(parent, *diff_id);
            let unknown = || LayerRecord::of_image(parent, *diff_id, blob.clone());
            records.push(self.layer(chain)?.unwrap_or_else(unknown));
            parent = Some(chain);
        }
        self.bring_all(records, watch)
    }

    /// Makes sure that all layers of `chain` have directories, and gives their records, topmost first.
    ///
    /// # Errors
    /// As [`Store::layers_of`] and [`Store::unpack`].
    pub fn bring(&self, chain: ChainId, watch: Watch<'_>) -> Result<Vec<LayerRecord>, StoreError> {
        let mut records = self.layers_of(chain)?;
        records.reverse();
        self.bring_all(records, watch)
    }

    /// The same for layers, the lowest first.
    fn bring_all(
        &self,
        records: Vec<LayerRecord>,
        watch: Watch<'_>,
    ) -> Result<Vec<LayerRecord>, StoreError> {
        let away = records.iter().filter(|record| record.is_away());
        let wanted: Vec<Descriptor> = away.filter_map(|record| record.blob.clone()).collect();
        if wanted.is_empty() {
            return Ok(records.into_iter().rev().collect());
        }
        let arrivals = self.arrivals(&wanted);
        self.receive(&arrivals, watch, |arrivals| self.unpack_all(records, arrivals))
    }

    /// Unpacks those of `records`, the lowest first, that are away; gives all, topmost first.
    fn unpack_all(
        &self,
        mut records: Vec<LayerRecord>,
        arrivals: &Arrivals,
    ) -> Result<Vec<LayerRecord>, StoreError> {
        // Held to the end: others that want the same layers wait, and find them all at once.
        let mut locks = Vec::new();
        for record in records.iter_mut().filter(|record| record.is_away()) {
            let chain = record.chain();
            locks.push(self.lock_key(chain.0, || {})?);
            if let Some(known) = self.layer(chain)? {
                *record = known;
            }
        }
        let made = self.stage_unpacked(records.clone(), &Coming { store: self, arrivals })?;
        for sealed in &made {
            let chain = sealed.record().chain();
            if let Some(record) = records.iter_mut().find(|record| record.chain() == chain) {
                record.clone_from(sealed.record());
            }
        }
        self.publish(Vec::new(), made)?;
        records.reverse();
        Ok(records)
    }
}

/// Blobs that are here or on their way.
struct Coming<'a> {
    store: &'a Store,
    arrivals: &'a Arrivals,
}

impl LayerSource for Coming<'_> {
    fn read(&self, record: &LayerRecord, unpack: Unpack<'_>) -> Result<Unpacked, StoreError> {
        let blob = record.blob.clone().ok_or_else(|| StoreError::NoLayer(record.chain()))?;
        if let Some(arriving) = self.arrivals.find(&blob) {
            while let Some(mut follower) = arriving.follow()? {
                let unpacked = unpack(&mut follower);
                if unpacked.is_err() && !follower.is_current() {
                    continue;
                }
                // What came is to blame before what it was taken for.
                arriving.finish()?;
                if unpacked.is_ok() || follower.is_current() {
                    return unpacked;
                }
            }
            arriving.finish()?;
        }
        let mut blob = self.store.open_blob(&blob)?;
        let unpacked = unpack(&mut blob)?;
        blob.finish()?;
        Ok(unpacked)
    }

    fn give_up(&self) {
        self.arrivals.stop(StoreError::Cancelled);
    }
}
