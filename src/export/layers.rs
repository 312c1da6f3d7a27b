//! The bytes of an image's layers, from their blobs or made from their directories.

use std::io::{self, BufRead, Read, Write};
use std::num::NonZeroUsize;

use super::{ExportError, Options, Stoppable};
use crate::layer::{self, Compression};
use crate::oci::{ChainId, Descriptor, DiffId, HashingReader, MediaType, MediaTypes};
use crate::store::{Image, LayerRecord, Store, StoreError};

/// One layer, and where its bytes come from.
pub(crate) struct LayerBytes {
    /// What the store's manifest says of it.
    pub(crate) descriptor: Descriptor,
    /// Its tar.
    pub(crate) diff_id: DiffId,
    /// Whether it gets another compression than it has.
    pub(crate) changes: bool,
    source: Source,
}

enum Source {
    /// As the store has it.
    Blob(Descriptor),
    /// From the directory of the layer at the top of this chain.
    Directory(ChainId),
}

/// The layers of an image, base first.
pub(crate) fn plan(
    store: &Store,
    image: &Image,
    options: &Options<'_>,
) -> Result<Vec<LayerBytes>, ExportError> {
    let diff_ids = &image.config.rootfs.diff_ids;
    let mut layers = Vec::new();
    for (index, descriptor) in image.manifest.layers().iter().enumerate() {
        let chain = ChainId::of(&diff_ids[..=index]);
        let source = match chain.filter(|_| descriptor.digest == diff_ids[index].0) {
            _ if store.has_blob(descriptor.digest) => Source::Blob(descriptor.clone()),
            Some(chain) if store.layer(chain)?.is_some() => Source::Directory(chain),
            _ if store.can_have_blob(descriptor.digest) => Source::Blob(descriptor.clone()),
            Some(chain) => return Err(StoreError::NoLayer(chain).into()),
            None => return Err(StoreError::NoBlob(descriptor.digest).into()),
        };
        let changes = changes(descriptor, options);
        let (descriptor, diff_id) = (descriptor.clone(), diff_ids[index]);
        layers.push(LayerBytes { descriptor, diff_id, changes, source });
    }
    Ok(layers)
}

/// One layer of the store by itself: as the blob that it came as, or else compressed as `options` say.
pub(crate) fn single(store: &Store, record: &LayerRecord, options: &Options<'_>) -> LayerBytes {
    let came = record.blob.clone().filter(|blob| store.can_have_blob(blob.digest));
    let diff_id = record.diff_id;
    let (descriptor, source) = match came {
        Some(blob) => (blob.clone(), Source::Blob(blob)),
        None => (
            Descriptor::new(MediaType::ImageLayer, diff_id.0, record.size),
            Source::Directory(record.chain()),
        ),
    };
    let changes = changes(&descriptor, options);
    LayerBytes { descriptor, diff_id, changes, source }
}

/// Whether a layer gets another compression than it has.
fn changes(descriptor: &Descriptor, options: &Options<'_>) -> bool {
    let compressed = compression_of(descriptor);
    let may_change = compressed == Some(Compression::None) || options.force;
    may_change && compressed != Some(options.compression)
}

impl LayerBytes {
    /// Has all here that its bytes are made of.
    pub(crate) fn bring(&self, store: &Store) -> Result<(), StoreError> {
        match &self.source {
            Source::Blob(blob) => store.fetch(std::slice::from_ref(blob), &|_, _| {}),
            Source::Directory(chain) => store.bring(*chain, &|_, _| {}).map(drop),
        }
    }

    /// Writes the layer's bytes, verified as they go.
    pub(crate) fn write(&self, store: &Store, out: &mut dyn Write) -> Result<(), ExportError> {
        match &self.source {
            Source::Blob(descriptor) => {
                let blob = copy(store.open_blob(descriptor)?, out)?;
                Ok(blob.finish()?)
            }
            // Reading files and writing take about the same time.
            Source::Directory(chain) => {
                let packed = layer::write_behind(out, |out| self.pack(store, *chain, out));
                packed.map_err(write_failed)?
            }
        }
    }

    /// Writes the tar of a directory.
    fn pack(&self, store: &Store, chain: ChainId, out: impl Write) -> Result<(), ExportError> {
        let records = store.bring(chain, &|_, _| {})?;
        let packed = store.write_tar(&records[0], out).map_err(|err| match err {
            StoreError::Pack(source) => ExportError::Pack(source),
            other => other.into(),
        })?;
        if packed.diff_id == DiffId(self.descriptor.digest) {
            Ok(())
        } else {
            Err(ExportError::Changed)
        }
    }

    /// Writes the layer's bytes in the compression that it gets.
    pub(crate) fn write_changed(
        &self,
        store: &Store,
        options: &Options<'_>,
        out: &mut dyn Write,
    ) -> Result<(), ExportError> {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let out = Stoppable { out, stop: options.stop };
        let encoder = options.compression.encoder(options.level, out, threads);
        let mut encoder = encoder.map_err(write_failed)?;
        match &self.source {
            Source::Blob(descriptor) if compression_of(descriptor) != Some(Compression::None) => {
                let mut blob = store.open_blob(descriptor)?;
                let (_, tar) = layer::open_archive(&mut blob).map_err(write_failed)?;
                let tar = copy(HashingReader::new(tar), &mut encoder)?;
                if tar.finish().0 != self.diff_id.0 {
                    return Err(ExportError::Changed);
                }
                blob.finish()?;
            }
            // The encoder has threads of its own.
            Source::Directory(chain) => self.pack(store, *chain, &mut encoder)?,
            Source::Blob(_) => self.write(store, &mut encoder)?,
        }
        encoder.finish().map(drop).map_err(write_failed)
    }
}

/// The type of a layer that is compressed so.
pub(crate) fn media_type_of(compression: Compression) -> MediaType {
    match compression {
        Compression::None => MediaType::ImageLayer,
        Compression::Gzip => MediaType::ImageLayerGzip,
        Compression::Zstd => MediaType::ImageLayerZstd,
    }
}

/// How a layer is compressed, by its type; `None` for a type that is not known.
fn compression_of(descriptor: &Descriptor) -> Option<Compression> {
    match descriptor.clone().in_words_of(MediaTypes::Oci).media_type {
        MediaType::ImageLayer => Some(Compression::None),
        MediaType::ImageLayerGzip => Some(Compression::Gzip),
        MediaType::ImageLayerZstd => Some(Compression::Zstd),
        _ => None,
    }
}

/// Lets `fill` write to `out`, exactly so many bytes.
pub(super) fn counted(
    out: &mut dyn Write,
    size: u64,
    fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let mut counted = Counted { out, count: 0 };
    fill(&mut counted)?;
    if counted.count == size { Ok(()) } else { Err(ExportError::Changed) }
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    count: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes all that `from` gives, and gives it back. It is read, and what that means of hashing and
/// decompressing is done, beside the writing.
fn copy<R: Read + Send>(from: R, out: &mut dyn Write) -> Result<R, ExportError> {
    let copied = layer::read_ahead(from, |ahead| -> io::Result<()> {
        loop {
            let piece = ahead.fill_buf()?;
            if piece.is_empty() {
                return Ok(());
            }
            out.write_all(piece)?;
            let bytes = piece.len();
            ahead.consume(bytes);
        }
    });
    let (from, written) = copied.map_err(write_failed)?;
    written.map(|()| from).map_err(write_failed)
}

fn write_failed(source: io::Error) -> ExportError {
    ExportError::Write { path: "the archive".into(), source }
}
