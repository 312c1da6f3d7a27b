//! Making new things visible: stage, flush once, then give names.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::layers::SealedLayer;
use super::{Store, StoreError};
use crate::layer::{Drain, Packed};
use crate::oci::{Descriptor, Digest, HashingWriter};

/// What takes less time is flushed faster in one go.
const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// How long the disk rests where more and more comes.
const FLUSH_AGAIN: Duration = Duration::from_millis(100);

/// A blob that is written and hashed and has no name yet.
#[derive(Debug)]
pub struct StagedBlob {
    path: PathBuf,
    /// The digest of its bytes.
    pub digest: Digest,
    /// The number of its bytes.
    pub size: u64,
}

impl StagedBlob {
    pub(super) fn new(path: PathBuf, digest: Digest, size: u64) -> Self {
        Self { path, digest, size }
    }

    /// Where its bytes lie until it is published or the store is closed.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// Writes what `fill` writes into a new blob.
    ///
    /// # Errors
    /// [`StoreError::Io`], and what `fill` returns.
    pub fn stage_blob<E: From<StoreError>>(
        &self,
        fill: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), E>,
    ) -> Result<StagedBlob, E> {
        let (path, (digest, size)) = self.new_blob(|file, _| {
            let mut writer = HashingWriter::new(file);
            fill(&mut writer)?;
            let (_, digest, size) = writer.finish();
            Ok::<_, E>((digest, size))
        })?;
        Ok(StagedBlob { path, digest, size })
    }

    /// Writes the tar of a layer, which `pack` hashes, into a new blob. The disk is at work while it is
    /// written, so that flushing it in the end takes no longer than it must.
    ///
    /// # Errors
    /// [`StoreError::Io`], and what `pack` returns.
    pub fn stage_tar<E: From<StoreError>>(
        &self,
        pack: impl FnOnce(&mut dyn Write) -> Result<Packed, E>,
    ) -> Result<(StagedBlob, Packed), E> {
        let (path, packed) = self.new_blob(|file, path| {
            let packed = pack(&mut Early { file, written: 0, drain: Drain::default() })?;
            // What ends in a hole is longer than what was written.
            file.set_len(packed.size).map_err(StoreError::io("write", path))?;
            Ok::<_, E>(packed)
        })?;
        Ok((StagedBlob::new(path, packed.diff_id.0, packed.size), packed))
    }

    /// A new file that `fill` fills; none where that fails.
    fn new_blob<T, E: From<StoreError>>(
        &self,
        fill: impl FnOnce(&File, &Path) -> Result<T, E>,
    ) -> Result<(PathBuf, T), E> {
        let path = self.new_scratch("blob");
        let file = File::create_new(&path).map_err(StoreError::io("make", &path))?;
        match fill(&file, &path) {
            Ok(filled) => Ok((path, filled)),
            Err(err) => {
                // The lease is removed in the end anyway; this frees a full disk at once.
                drop(fs::remove_file(&path));
                Err(err)
            }
        }
    }

    /// Stages the blob that `descriptor` points to, read from `source`, of which no more bytes
    /// are taken than the descriptor says.
    ///
    /// # Errors
    /// [`StoreError::SizeMismatch`], [`StoreError::DigestMismatch`], [`StoreError::Io`].
    pub fn stage_expected(
        &self,
        descriptor: &Descriptor,
        source: impl Read,
    ) -> Result<StagedBlob, StoreError> {
        let staged = self.stage_blob(|out| {
            let mut source = source.take(descriptor.size.saturating_add(1));
            io::copy(&mut source, out)
                .map_err(StoreError::io("write a blob of", self.path()))
                .map(drop)
        })?;
        let what = || format!("the blob {}", descriptor.digest);
        if staged.size != descriptor.size {
            let (expected, found) = (descriptor.size, staged.size);
            return Err(StoreError::SizeMismatch { what: what(), expected, found });
        }
        if staged.digest != descriptor.digest {
            let (expected, found) = (descriptor.digest, staged.digest);
            return Err(StoreError::DigestMismatch { what: what(), expected, found });
        }
        Ok(staged)
    }

    /// Stages `bytes` as a blob.
    pub fn stage_bytes(&self, bytes: &[u8]) -> Result<StagedBlob, StoreError> {
        self.stage_blob(|out| out.write_all(bytes).map_err(StoreError::io("write", self.path())))
    }

    /// Makes blobs and layers durable, then visible. Nothing of it is visible where it fails early;
    /// what is visible is whole. Blobs and layers that are in the store already are dropped.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn publish(
        &self,
        blobs: Vec<StagedBlob>,
        layers: Vec<SealedLayer>,
    ) -> Result<(), StoreError> {
        let blobs: Vec<_> = blobs.into_iter().filter(|blob| !self.has_blob(blob.digest)).collect();
        if blobs.is_empty() && layers.is_empty() {
            return Ok(());
        }
        if layers.iter().all(SealedLayer::is_tar) {
            // A few files: nobody has to wait for whatever else is being written on this disk.
            let files = blobs.iter().map(StagedBlob::path);
            for path in files.chain(layers.iter().flat_map(SealedLayer::files)) {
                flush_file(path)?;
            }
        } else {
            self.flush()?;
        }
        for blob in &blobs {
            self.name_blob(blob)?;
        }
        for layer in layers {
            self.name_layer(layer)?;
        }
        sync_dir(&self.path().join("blobs/sha256"))?;
        sync_dir(&self.path().join("chains"))
    }

    /// Makes one blob durable and visible, whatever comes of those beside it.
    pub(super) fn publish_blob(&self, blob: &StagedBlob) -> Result<(), StoreError> {
        flush_file(&blob.path)?;
        self.name_blob(blob)?;
        sync_dir(&self.path().join("blobs/sha256"))
    }

    /// Flushes the whole file system once: cheaper than each file alone.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        let path = self.path();
        let dir = File::open(path).map_err(StoreError::io("open", path))?;
        rustix::fs::syncfs(dir.as_fd()).map_err(|err| StoreError::io("flush", path)(err.into()))
    }

    /// Does `work`, and has the disk begin meanwhile with what is to be flushed after it, if it takes
    /// long: it waits for layers that are still being hashed.
    pub fn flushing<T>(&self, work: impl FnOnce() -> T) -> T {
        self.flush_beside(None, work)
    }

    /// The same for work that does nothing but write what stays: the disk is to keep up with it.
    pub(super) fn flushing_on<T>(&self, work: impl FnOnce() -> T) -> T {
        self.flush_beside(Some(FLUSH_AGAIN), work)
    }

    /// Does `work`, and flushes beside it if it takes long: once, or again and again.
    fn flush_beside<T>(&self, again: Option<Duration>, work: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            let (done, waiting) = mpsc::channel::<()>();
            let flush = move || {
                let mut pause = Some(FLUSH_AFTER);
                while let Some(time) = pause
                    && waiting.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
                {
                    // What fails now fails again when it counts.
                    let _hint = self.flush();
                    pause = again;
                }
            };
            // Without another thread, all is flushed in the end.
            drop(thread::Builder::new().spawn_scoped(scope, flush));
            let result = work();
            drop(done);
            result
        })
    }

    pub(super) fn name_blob(&self, blob: &StagedBlob) -> Result<(), StoreError> {
        fs::set_permissions(&blob.path, fs::Permissions::from_mode(0o444))
            .map_err(StoreError::io("change the mode of", &blob.path))?;
        give_name(&blob.path, &self.blob_path(blob.digest))
    }

    /// Replaces `path` by a file of `bytes`, durably and at once.
    pub(super) fn replace(&self, path: PathBuf, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.replace_all(vec![(path, bytes)])
    }

    /// The same for any number of files, which are flushed together.
    pub(super) fn replace_all(&self, files: Vec<(PathBuf, Vec<u8>)>) -> Result<(), StoreError> {
        let mut written = Vec::new();
        for (path, bytes) in files {
            let temporary = self.new_scratch("record");
            fs::write(&temporary, bytes).map_err(StoreError::io("write", &temporary))?;
            written.push((temporary, path));
        }
        match written.as_slice() {
            [] => return Ok(()),
            // Nobody has to wait for whatever else is being written on this disk.
            [(temporary, _)] => flush_file(temporary)?,
            _ => self.flush()?,
        }
        let mut folders = BTreeSet::new();
        for (temporary, path) in &written {
            fs::rename(temporary, path).map_err(StoreError::io("replace", path))?;
            folders.extend(path.parent());
        }
        folders.into_iter().try_for_each(sync_dir)
    }

    /// A path in the scratch folder that was not given before.
    pub(super) fn new_scratch(&self, kind: &str) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.scratch(&format!("{kind}-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Gives a flushed file its name. Where there is that name, it says what the file says.
pub(super) fn give_name(staged: &Path, name: &Path) -> Result<(), StoreError> {
    match fs::hard_link(staged, name) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
            Err(StoreError::io("make", name)(err))
        }
        _ => fs::remove_file(staged).map_err(StoreError::io("remove", staged)),
    }
}

/// The tar of a layer on its way to the disk.
struct Early<'a> {
    file: &'a File,
    written: u64,
    drain: Drain,
}

impl Write for Early<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The holes of sparse files stay holes.
        let written = if bytes.iter().all(|byte| *byte == 0) {
            let length = i64::try_from(bytes.len()).map_err(io::Error::other)?;
            self.file.seek(SeekFrom::Current(length))?;
            bytes.len()
        } else {
            self.file.write(bytes)?
        };
        self.written += written as u64;
        self.drain.up_to(self.file, self.written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn flush_file(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_data()).map_err(StoreError::io("flush", path))
}

pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(StoreError::io("flush", path))
}
