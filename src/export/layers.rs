//! The bytes of an image's layers, from their blobs or made from their directories.

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;

use super::ExportError;
use crate::layer::{self, Compression};
use crate::oci::{ChainId, Descriptor, DiffId, MediaType};
use crate::snapshot::Handle;
use crate::store::{Image, StagedBlob, Store, StoreError};

/// One layer, and where its bytes come from.
pub(super) struct LayerBytes {
    /// What the exported manifest says of it.
    pub(super) descriptor: Descriptor,
    source: Source,
}

enum Source {
    /// As the store has it.
    Blob(Descriptor),
    /// From the directory of the layer at the top of this chain.
    Directory(ChainId),
    /// Compressed for this export.
    Staged(StagedBlob),
}

/// The layers of an image, base first, with the plain ones compressed if `compress`.
pub(super) fn of(
    store: &Store,
    image: &Image,
    compress: bool,
) -> Result<Vec<LayerBytes>, ExportError> {
    let diff_ids = &image.config.rootfs.diff_ids;
    let mut layers = Vec::new();
    for (index, descriptor) in image.manifest.layers().iter().enumerate() {
        let source = if store.has_blob(descriptor.digest) {
            Source::Blob(descriptor.clone())
        } else {
            match ChainId::of(&diff_ids[..=index]) {
                Some(chain) if descriptor.digest == diff_ids[index].0 => Source::Directory(chain),
                _ => return Err(StoreError::NoBlob(descriptor.digest).into()),
            }
        };
        let layer = LayerBytes { descriptor: descriptor.clone(), source };
        layers.push(if compress && descriptor.media_type == MediaType::ImageLayer {
            layer.compressed(store)?
        } else {
            layer
        });
    }
    Ok(layers)
}

impl LayerBytes {
    /// Writes the layer's bytes, verified as they go.
    pub(super) fn write(&self, store: &Store, out: &mut dyn Write) -> Result<(), ExportError> {
        match &self.source {
            Source::Blob(descriptor) => {
                let mut blob = store.open_blob(descriptor)?;
                copy(&mut blob, out)?;
                Ok(blob.finish()?)
            }
            Source::Directory(chain) => {
                let record = store.layer(*chain)?;
                let record = record.ok_or(StoreError::NoLayer(*chain))?;
                let dir = store.layer_dir(&record);
                let handle = Handle::open(&dir).map_err(|source| StoreError::Io {
                    action: "open",
                    path: dir,
                    source,
                })?;
                let packed = layer::pack(&handle, out)?;
                if packed.diff_id == DiffId(self.descriptor.digest) {
                    Ok(())
                } else {
                    Err(ExportError::Changed)
                }
            }
            Source::Staged(staged) => {
                let failed = |source| ExportError::Write { path: staged.path().into(), source };
                copy(&mut File::open(staged.path()).map_err(failed)?, out)
            }
        }
    }

    fn compressed(self, store: &Store) -> Result<Self, ExportError> {
        let staged = store.stage_blob(|out| {
            let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
            let encoder = Compression::Gzip.encoder(out, threads).map_err(write_failed)?;
            let mut encoder = encoder;
            self.write(store, &mut encoder)?;
            encoder.finish().map(drop).map_err(write_failed)
        })?;
        let descriptor = Descriptor::new(MediaType::ImageLayerGzip, staged.digest, staged.size);
        Ok(Self { descriptor, source: Source::Staged(staged) })
    }
}

fn copy(from: &mut impl Read, out: &mut dyn Write) -> Result<(), ExportError> {
    io::copy(from, out).map(drop).map_err(write_failed)
}

fn write_failed(source: io::Error) -> ExportError {
    ExportError::Write { path: "the archive".into(), source }
}
