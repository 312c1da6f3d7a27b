//! From a layer's blob to its directory, before something reads it.

use std::io::Read;
use std::path::PathBuf;

use super::{Image, LayerRecord, SealedLayer, Store, StoreError};
use crate::layer::{self, Packed};
use crate::oci::{ChainId, Descriptor, DiffId, HashingReader};
use crate::snapshot::{Handle, Upper, View};

impl Store {
    /// Makes sure that all layers of an image have directories, and gives their records, topmost
    /// first.
    ///
    /// # Errors
    /// [`StoreError::Layer`] for a layer that cannot be unpacked, [`StoreError::DigestMismatch`] for
    /// one whose bytes are not those that the config promises.
    pub fn unpack(&self, image: &Image) -> Result<Vec<LayerRecord>, StoreError> {
        let mut records: Vec<LayerRecord> = Vec::new();
        let layers = image.manifest.layers().iter().zip(&image.config.rootfs.diff_ids);
        for (descriptor, diff_id) in layers {
            let parent = records.first().map(LayerRecord::chain);
            let chain = ChainId::extend(parent, *diff_id);
            let record = match self.layer(chain)? {
                Some(record) => record,
                None => self.unpack_layer(descriptor, *diff_id, &records)?,
            };
            records.insert(0, record);
        }
        Ok(records)
    }

    /// Unpacks one layer on top of `below` (topmost first).
    fn unpack_layer(
        &self,
        descriptor: &Descriptor,
        diff_id: DiffId,
        below: &[LayerRecord],
    ) -> Result<LayerRecord, StoreError> {
        let parent = below.first().map(LayerRecord::chain);
        let chain = ChainId::extend(parent, diff_id);
        let _lock = self.lock_key(chain.0, || {})?;
        if let Some(record) = self.layer(chain)? {
            return Ok(record);
        }
        let below: Vec<PathBuf> = below.iter().map(|record| self.layer_dir(record)).collect();
        let mut blob = self.open_blob(descriptor)?;
        let sealed = self.stage_unpacked(&mut blob, diff_id, parent, &below)?;
        blob.finish()?;
        let record = sealed.record().clone();
        self.publish(Vec::new(), vec![sealed])?;
        Ok(record)
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
