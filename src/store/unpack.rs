//! From a layer's blob to its directory, before something reads it.

use std::io::Read;
use std::path::PathBuf;

use super::fetch::{Arrivals, Watch};
use super::{Image, LayerRecord, SealedLayer, Store, StoreError};
use crate::layer;
use crate::oci::{ChainId, Descriptor, HashingReader};
use crate::snapshot::{Handle, Upper, View};

impl Store {
    /// Makes sure that all layers of an image have directories, and gives their records, topmost
    /// first. Blobs that are missing are fetched, several at once, and unpacked as they come.
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
        records: Vec<LayerRecord>,
        arrivals: &Arrivals,
    ) -> Result<Vec<LayerRecord>, StoreError> {
        let mut below: Vec<PathBuf> = Vec::new();
        let mut present = Vec::new();
        // Held to the end: others that want the same layers wait, and find them all at once.
        let mut locks = Vec::new();
        let mut made: Vec<SealedLayer> = Vec::new();
        for mut record in records {
            if record.is_away() {
                let chain = record.chain();
                locks.push(self.lock_key(chain.0, || {})?);
                record = self.layer(chain)?.unwrap_or(record);
            }
            if record.is_away() {
                let sealed = self.unpack_layer(record, &below, arrivals)?;
                record = sealed.record().clone();
                made.push(sealed);
            }
            below.insert(0, self.layer_dir(&record)?);
            present.insert(0, record);
        }
        self.publish(Vec::new(), made)?;
        Ok(present)
    }

    fn unpack_layer(
        &self,
        record: LayerRecord,
        below: &[PathBuf],
        arrivals: &Arrivals,
    ) -> Result<SealedLayer, StoreError> {
        let blob = record.blob.clone().ok_or_else(|| StoreError::NoLayer(record.chain()))?;
        if let Some(arriving) = arrivals.find(&blob) {
            while let Some(mut follower) = arriving.follow()? {
                let unpacked = self.stage_unpacked(&mut follower, record.clone(), below);
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
        let mut blob = self.open_blob(&blob)?;
        let sealed = self.stage_unpacked(&mut blob, record, below)?;
        blob.finish()?;
        Ok(sealed)
    }

    /// Unpacks the layer of `record` out of `blob`, on top of the directories `below` (topmost first),
    /// which are those of its parent.
    ///
    /// # Errors
    /// As [`Store::unpack`].
    pub fn stage_unpacked(
        &self,
        blob: impl Read + Send,
        mut record: LayerRecord,
        below: &[PathBuf],
    ) -> Result<SealedLayer, StoreError> {
        let diff_id = record.diff_id;
        let staged = self.stage_layer()?;
        let lowers = View::open(below)?;
        let dir = staged.fs();
        let handle = Handle::open(&dir).map_err(StoreError::io("open", &dir))?;
        let upper = Upper::new(handle, &lowers)?;
        let (_, decoder) =
            layer::open_archive(blob).map_err(StoreError::io("read a blob of", self.path()))?;
        let (tar, applied) = layer::read_ahead(HashingReader::new(decoder), |tar| {
            layer::apply(tar, &upper, layer::Options::LAYER)
        })
        .map_err(StoreError::io("read a blob of", self.path()))?;
        applied.map_err(|source| StoreError::Layer { layer: diff_id.0, source })?;
        let (found, size) = tar.finish();
        if found != diff_id.0 {
            let what = "the layer's tar".to_owned();
            return Err(StoreError::DigestMismatch { what, expected: diff_id.0, found });
        }
        drop(upper);
        record.size = size;
        staged.seal_as(record)
    }
}
