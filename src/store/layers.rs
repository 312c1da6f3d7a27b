//! Layer directories: what a layer adds to the layers below it, as files on disk, or still elsewhere.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::publish::{give_name, sync_dir};
use super::{StagedBlob, Store, StoreError, remove};
use crate::layer::Packed;
use crate::oci::{ChainId, Descriptor, DiffId, Digest};
use crate::snapshot::read_regular;

/// What of a layer's tar is not in its files.
pub(super) const FRAME: &str = "frame";

/// What its files were copied from.
const RECEIPTS: &str = "receipts";

/// What the store knows of the top layer of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The chain below; `None` for a base layer.
    pub parent: Option<ChainId>,
    /// The digest of the layer's tar.
    pub diff_id: DiffId,
    /// The number of bytes of that tar.
    pub size: u64,
    /// The digest of the layer's files without their times; for a layer that came from elsewhere,
    /// that of its tar.
    pub content: Digest,
    /// When a step made it (RFC 3339), here or elsewhere; `None` for a layer that came with an image.
    pub created: Option<String>,
    /// The blob that it came as, or was made as; `None` for a layer that was made here as a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Descriptor>,
    /// The name of its folder below `layers/`; `None` while there is none: its files come out of `blob`
    /// when somebody reads them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    folder: Option<String>,
}

impl LayerRecord {
    /// The record of a layer that an image has as `blob`, and of which nothing else is known.
    pub fn of_image(parent: Option<ChainId>, diff_id: DiffId, blob: Descriptor) -> Self {
        Self::away(parent, &Packed { diff_id, size: 0, content: diff_id.0 }, None, blob)
    }

    /// The record of a layer that is elsewhere, as `blob`.
    pub fn away(
        parent: Option<ChainId>,
        packed: &Packed,
        created: Option<String>,
        blob: Descriptor,
    ) -> Self {
        let Packed { diff_id, size, content } = *packed;
        Self { parent, diff_id, size, content, created, blob: Some(blob), folder: None }
    }

    /// The same layer as others know it, who can have it as `blob`.
    #[must_use]
    pub fn elsewhere(&self, blob: Descriptor) -> Self {
        Self { blob: Some(blob), folder: None, ..self.clone() }
    }

    /// The chain whose top this layer is.
    pub fn chain(&self) -> ChainId {
        ChainId::extend(self.parent, self.diff_id)
    }

    /// Whether its files have to be fetched before they can be read.
    pub fn is_away(&self) -> bool {
        self.folder.is_none()
    }

    /// The name of its folder below `layers/`.
    pub(super) fn folder(&self) -> Option<&str> {
        self.folder.as_deref()
    }
}

/// A layer directory that is being filled. Dropping it removes it.
#[derive(Debug)]
pub struct StagedLayer {
    dir: PathBuf,
    armed: bool,
}

/// A layer and its record, ready to be published.
#[derive(Debug)]
pub struct SealedLayer {
    staged: Staged,
    record: LayerRecord,
}

#[derive(Debug)]
enum Staged {
    /// A filled layer directory.
    Directory(StagedLayer),
    /// A tar that nobody has unpacked, and the file that gets the chain's name.
    Tar(StagedBlob, PathBuf),
}

impl StagedLayer {
    /// The layer directory itself: the upper directory of an overlay.
    pub fn fs(&self) -> PathBuf {
        self.dir.join("fs")
    }

    /// An empty folder on the same file system: the work directory of an overlay.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Says what the directory holds; it must not change any more.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn seal(
        self,
        parent: Option<ChainId>,
        packed: &Packed,
        created: Option<String>,
    ) -> Result<SealedLayer, StoreError> {
        let Packed { diff_id, size, content } = *packed;
        self.seal_as(LayerRecord {
            parent,
            diff_id,
            size,
            content,
            created,
            blob: None,
            folder: None,
        })
    }

    /// The same, with all that is known of the layer.
    pub(super) fn seal_as(self, mut record: LayerRecord) -> Result<SealedLayer, StoreError> {
        let folder = self.dir.file_name().unwrap_or_default();
        record.folder = Some(folder.to_string_lossy().into_owned());
        let work = self.work();
        if work.exists() {
            remove(&work)?;
        }
        let path = self.record_path();
        fs::write(&path, to_bytes(&record)).map_err(StoreError::io("write", &path))?;
        Ok(SealedLayer { staged: Staged::Directory(self), record })
    }

    /// Where it may be noted what its files were copied from.
    pub fn receipts(&self) -> PathBuf {
        self.dir.join(RECEIPTS)
    }

    /// What of the tar that it comes out of is not in its files.
    pub(super) fn frame_path(&self) -> PathBuf {
        self.dir.join(FRAME)
    }

    /// The file that gets the chain's name as a second one.
    fn record_path(&self) -> PathBuf {
        self.dir.join("layer.json")
    }
}

impl SealedLayer {
    /// The record that will be published.
    pub fn record(&self) -> &LayerRecord {
        &self.record
    }

    /// Whether it is a tar, not a directory.
    pub(super) fn is_tar(&self) -> bool {
        matches!(self.staged, Staged::Tar(..))
    }

    /// The files that a tar consists of, which have to be on the disk before they get names.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = match &self.staged {
            Staged::Tar(blob, record) => Some([blob.path(), record]),
            Staged::Directory(_) => None,
        };
        files.into_iter().flatten()
    }
}

impl Drop for StagedLayer {
    fn drop(&mut self) {
        if self.armed {
            // What cannot be removed now is found by the next garbage collection.
            drop(remove(&self.dir));
        }
    }
}

impl Store {
    /// Makes an empty layer directory.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn stage_layer(&self) -> Result<StagedLayer, StoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}", self.lease.name(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = self.path().join("layers").join(name);
        let make = |path: &Path, mode| {
            let made = DirBuilder::new().mode(mode).create(path);
            made.map_err(StoreError::io("make the folder", path))
        };
        make(&dir, 0o700)?;
        let staged = StagedLayer { dir, armed: true };
        make(&staged.fs(), 0o755)?;
        make(&staged.work(), 0o700)?;
        Ok(staged)
    }

    /// Makes the tar of a layer ready to be published as it is, with its record: its files come out of
    /// it when somebody reads them.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn seal_tar(
        &self,
        tar: StagedBlob,
        record: &LayerRecord,
    ) -> Result<SealedLayer, StoreError> {
        let path = self.new_scratch("record");
        fs::write(&path, to_bytes(record)).map_err(StoreError::io("write", &path))?;
        Ok(SealedLayer { staged: Staged::Tar(tar, path), record: record.clone() })
    }

    /// The record of the top layer of `chain`; `None` where the store does not know it.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn layer(&self, chain: ChainId) -> Result<Option<LayerRecord>, StoreError> {
        let path = self.chain_path(chain);
        let bytes = match read_regular(&path) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(StoreError::io("read", &path)(err)),
        };
        parse_record(&path, &bytes).map(Some)
    }

    /// Where the files of a recorded layer lie.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`] for one that is away: see [`Store::bring`].
    pub fn layer_dir(&self, record: &LayerRecord) -> Result<PathBuf, StoreError> {
        let folder = record.folder().ok_or_else(|| StoreError::NoLayer(record.chain()))?;
        Ok(self.path().join("layers").join(folder).join("fs"))
    }

    /// Where it may be noted what the files of a layer were copied from.
    ///
    /// # Errors
    /// As [`Store::layer_dir`].
    pub fn layer_receipts(&self, record: &LayerRecord) -> Result<PathBuf, StoreError> {
        Ok(self.layer_dir(record)?.with_file_name(RECEIPTS))
    }

    /// Notes layers that are elsewhere, so that chains of them can be used at once. Those that the
    /// store knows stay as they are.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn note_away(&self, records: &[LayerRecord]) -> Result<(), StoreError> {
        let unknown = records.iter().filter(|record| !self.chain_path(record.chain()).exists());
        let mut written = Vec::new();
        for record in unknown {
            let path = self.new_scratch("record");
            fs::write(&path, to_bytes(record)).map_err(StoreError::io("write", &path))?;
            written.push((path, self.chain_path(record.chain())));
        }
        if written.is_empty() {
            return Ok(());
        }
        self.flush()?;
        for (path, name) in written {
            give_name(&path, &name)?;
        }
        sync_dir(&self.path().join("chains"))
    }

    /// The records of all layers of `chain`, topmost first. Some may be away.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`] where one is missing; as [`Store::layer`].
    pub fn layers_of(&self, chain: ChainId) -> Result<Vec<LayerRecord>, StoreError> {
        let mut records = Vec::new();
        let mut next = Some(chain);
        while let Some(chain) = next {
            let record = self.layer(chain)?.ok_or(StoreError::NoLayer(chain))?;
            next = record.parent;
            records.push(record);
        }
        Ok(records)
    }

    fn chain_path(&self, chain: ChainId) -> PathBuf {
        self.path().join("chains").join(chain.0.hex())
    }

    /// Gives a flushed layer its name. One that another process published first stays: ours is
    /// removed when the store is closed, as steps may be running on it.
    pub(super) fn name_layer(&self, layer: SealedLayer) -> Result<(), StoreError> {
        let SealedLayer { staged, record } = layer;
        let path = self.chain_path(record.chain());
        let mut staged = match staged {
            Staged::Directory(staged) => staged,
            Staged::Tar(blob, named) => {
                self.name_blob(&blob)?;
                return give_name(&named, &path);
            }
        };
        match fs::hard_link(staged.record_path(), &path) {
            Ok(()) => staged.armed = false,
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                if let Some(known) = self.layer(record.chain())?.filter(LayerRecord::is_away) {
                    // What was known of it stays: images may have its time already.
                    let arrived = LayerRecord { folder: record.folder, ..known };
                    self.replace(path, to_bytes(&arrived))?;
                    staged.armed = false;
                    return Ok(());
                }
                let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
                unused.push(staged);
            }
            Err(err) => return Err(StoreError::io("make", &path)(err)),
        }
        Ok(())
    }
}

pub(super) fn parse_record(path: &Path, bytes: &[u8]) -> Result<LayerRecord, StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    let record: LayerRecord =
        serde_json::from_slice(bytes).map_err(|err| damaged(err.to_string()))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match &record.folder {
        Some(folder) if folder.is_empty() || !folder.bytes().all(plain) => {
            Err(damaged("its folder is no plain name".into()))
        }
        None if record.blob.is_none() => Err(damaged("it has neither a folder nor a blob".into())),
        _ => Ok(record),
    }
}

fn to_bytes(record: &LayerRecord) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record of plain strings serializes")
}
