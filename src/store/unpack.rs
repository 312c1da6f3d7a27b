//! From a layer's blob to its directory, before something reads it.

use std::io::Read;
use std::path::PathBuf;

use super::fetch::{Arrivals, Watch};
use super::{Image, LayerRecord, SealedLayer, Store, StoreError};
use crate::layer::{self, Packed};
use crate::oci::{ChainId, Descriptor, DiffId, HashingReader};
use crate::snapshot::{Handle, Upper, View};

impl Store {
    /// Makes sure that all layers of an image have directories, and gives their records, topmost
    /// first. Blobs that are missing are fetched, several at once, and unpacked as they come.
    ///
    /// # Errors
    /// [`StoreError::Layer`] for a layer that cannot be unpacked, [`StoreError::DigestMismatch`] for
    /// one whose bytes are not those that the config promises; as [`Store::fetch`].
    pub fn unpack(&self, image: &Image, watch: Watch<'_>) -> Result<Vec<LayerRecord>, StoreError> {
        let layers: Vec<_> =
            image.manifest.layers().iter().zip(&image.config.rootfs.diff_ids).collect();
        let mut records: Vec<LayerRecord> = Vec::new();
        let mut wanted = Vec::new();
        let mut parent = None;
        for (descriptor, diff_id) in &layers {
            let chain = ChainId::extend(parent, **diff_id);
            match self.layer(chain)? {
                Some(record) if wanted.is_empty() => records.insert(0, record),
                Some(_) => {}
                None => wanted.push((*descriptor).clone()),
            }
            parent = Some(chain);
        }
        let missing = &layers[records.len()..];
        if missing.is_empty() {
            return Ok(records);
        }
        let arrivals = self.arrivals(&wanted);
        self.receive(&arrivals, watch, |arrivals| self.unpack_onto(records, missing, arrivals))
    }

    /// Unpacks layers, the lowest first, on top of `records` (topmost first).
    fn unpack_onto(
        &self,
        mut records: Vec<LayerRecord>,
        missing: &[(&Descriptor, &DiffId)],
        arrivals: &Arrivals,
    ) -> Result<Vec<LayerRecord>, StoreError> {
        let mut below: Vec<PathBuf> = records.iter().map(|record| self.layer_dir(record)).collect();
        // Held to the end: others that want the same layers wait, and find them all at once.
        let mut locks = Vec::new();
        let mut made: Vec<SealedLayer> = Vec::new();
        for (descriptor, diff_id) in missing {
            let parent = records.first().map(LayerRecord::chain);
            let chain = ChainId::extend(parent, **diff_id);
            locks.push(self.lock_key(chain.0, || {})?);
            if let Some(record) = self.layer(chain)? {
                below.insert(0, self.layer_dir(&record));
                records.insert(0, record);
                continue;
            }
            let sealed = self.unpack_layer(descriptor, **diff_id, parent, &below, arrivals)?;
            below.insert(0, sealed.fs());
            records.insert(0, sealed.record().clone());
            made.push(sealed);
        }
        self.publish(Vec::new(), made)?;
        Ok(records)
    }

    fn unpack_layer(
        &self,
        descriptor: &Descriptor,
        diff_id: DiffId,
        parent: Option<ChainId>,
        below: &[PathBuf],
        arrivals: &Arrivals,
    ) -> Result<SealedLayer, StoreError> {
        if let Some(arriving) = arrivals.find(descriptor) {
            while let Some(mut follower) = arriving.follow()? {
                let unpacked = self.stage_unpacked(&mut follower, diff_id, parent, below);
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
        let mut blob = self.open_blob(descriptor)?;
        let sealed = self.stage_unpacked(&mut blob, diff_id, parent, below)?;
        blob.finish()?;
        Ok(sealed)
    }

    /// Unpacks `blob` on top of the directories `below` (topmost first), which are those of `parent`.
    ///
    /// # Errors
    /// As [`Store::unpack`].
    pub fn stage_unpacked(
        &self,
        blob: impl Read + Send,
        diff_id: DiffId,
        parent: Option<ChainId>,
        below: &[PathBuf],
    ) -> Result<SealedLayer, StoreError> {
        let staged = self.stage_layer()?;
        let lowers = View::open(below)?;
        let dir = staged.fs();
        let handle = Handle::open(&dir).map_err(StoreError::io("open", &dir))?;
        let upper = Upper::new(handle, &lowers)?;
        let (_, decoder) =
            layer::open_archive(blob).map_err(StoreError::io("read a blob of", self.path()))?;
        let mut tar = HashingReader::new(decoder);
        layer::apply(&mut tar, &upper, layer::Options::LAYER)
            .map_err(|source| StoreError::Layer { layer: diff_id.0, source })?;
        let (found, size) = tar.finish();
        if found != diff_id.0 {
            let what = "the layer's tar".to_owned();
            return Err(StoreError::DigestMismatch { what, expected: diff_id.0, found });
        }
        drop(upper);
        let packed = Packed { diff_id, size, content: diff_id.0 };
        staged.seal(parent, &packed, None)
    }
}
