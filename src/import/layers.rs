//! Layers out of an archive: each is read once, hashed and unpacked at the same time.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use super::ImportError;
use super::members::{Archive, Place, name_of};
use crate::oci::{ChainId, Descriptor, DiffId, Manifest};
use crate::store::{
    LayerRecord, LayerSource, SealedLayer, StagedBlob, Store, StoreError, Unpack, Unpacked,
};

/// What has come into the store out of an archive, and is not published yet.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub(super) blobs: Vec<StagedBlob>,
    pub(super) layers: Vec<SealedLayer>,
}

impl Staged {
    /// Unpacks the layers of an image that the store has no directories for, so that a build can start
    /// at once. Blobs are kept of those that are compressed, or that cannot be packed again as they were.
    pub(super) fn add_layers(
        &mut self,
        store: &Store,
        archive: &Archive,
        manifest: &Manifest,
        diff_ids: &[DiffId],
    ) -> Result<(), ImportError> {
        let mut of_layers = HashMap::new();
        let mut records: Vec<LayerRecord> = Vec::new();
        for (descriptor, diff_id) in manifest.layers().iter().zip(diff_ids) {
            let parent = records.last().map(LayerRecord::chain);
            let chain = ChainId::extend(parent, *diff_id);
            let unknown = || LayerRecord::of_image(parent, *diff_id, descriptor.clone());
            let record = match self.record(chain) {
                Some(record) => record.clone(),
                None => store.layer(chain)?.unwrap_or_else(unknown),
            };
            of_layers.insert(chain, (descriptor, archive.blob(descriptor)?));
            records.push(record);
        }
        let chains: Vec<ChainId> = records.iter().map(LayerRecord::chain).collect();
        let source = Blobs { store, archive, of_layers, staged: Mutex::default() };
        self.layers.extend(store.stage_unpacked(records, &source)?);
        let Blobs { of_layers, staged, .. } = source;
        self.blobs.extend(staged.into_inner().unwrap_or_else(PoisonError::into_inner));
        for chain in chains {
            let (descriptor, place) = of_layers[&chain];
            if !self.can_write(store, chain, descriptor)? {
                self.blobs.push(store.stage_expected(descriptor, archive.bytes(place))?);
            }
        }
        Ok(())
    }

    /// The record of a layer that was unpacked.
    fn record(&self, chain: ChainId) -> Option<&LayerRecord> {
        self.layers.iter().map(SealedLayer::record).find(|record| record.chain() == chain)
    }

    /// Whether there is a blob of these bytes, or they can be made.
    fn can_write(
        &self,
        store: &Store,
        chain: ChainId,
        blob: &Descriptor,
    ) -> Result<bool, StoreError> {
        let digest = blob.digest;
        if store.has_blob(digest) || self.blobs.iter().any(|staged| staged.digest == digest) {
            return Ok(true);
        }
        let known = match self.record(chain) {
            Some(record) => Some(record.clone()),
            None => store.layer(chain)?,
        };
        Ok(known.is_some_and(|record| record.diff_id.0 == digest && store.has_tar(&record)))
    }
}

/// The blobs of an image's layers, where they lie in the archive.
struct Blobs<'a> {
    store: &'a Store,
    archive: &'a Archive,
    of_layers: HashMap<ChainId, (&'a Descriptor, Place)>,
    staged: Mutex<Vec<StagedBlob>>,
}

impl LayerSource for Blobs<'_> {
    fn read(&self, record: &LayerRecord, unpack: Unpack<'_>) -> Result<Unpacked, StoreError> {
        let (blob, place) = self.of_layers[&record.chain()];
        let mut bytes = self.archive.bytes(place);
        // The digest of a plain tar is looked at by who unpacks it.
        if blob.digest == record.diff_id.0 || self.store.has_blob(blob.digest) {
            return unpack(&mut bytes);
        }
        let mut unpacked = None;
        let staged = self.store.stage_blob(|out| -> Result<(), StoreError> {
            let mut copied = Copied { bytes, out };
            unpacked = Some(unpack(&mut copied));
            io::copy(&mut copied, &mut io::sink())
                .map_err(StoreError::io("write a blob of", self.store.path()))
                .map(drop)
        })?;
        // What came is to blame before what it was taken for.
        if staged.digest != blob.digest {
            let (expected, found) = (blob.digest, staged.digest);
            return Err(StoreError::DigestMismatch { what: name_of(blob), expected, found });
        }
        let unpacked = unpacked.ok_or(StoreError::NoBlob(blob.digest))??;
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).push(staged);
        Ok(unpacked)
    }
}

/// A reader that writes down what it reads.
struct Copied<'a, R> {
    bytes: R,
    out: &'a mut (dyn Write + Send),
}

impl<R: Read> Read for Copied<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(buffer)?;
        self.out.write_all(&buffer[..read])?;
        Ok(read)
    }
}
