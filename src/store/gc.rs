//! Garbage: what no name and no cache record leads to.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::layers::parse_record;
use super::{LayerRecord, Store, StoreError, lease, remove};
use crate::oci::{ChainId, Digest};
use crate::snapshot::read_regular;

/// What a garbage collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Images, layers, blobs and records that were removed.
    pub objects: u64,
    /// Disk blocks that they took, in bytes.
    pub bytes: u64,
}

impl Store {
    /// Removes all that no name and none of `cached` (the chains that the step cache wants kept)
    /// leads to. `None` where another process is at work on the store and does not end soon.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn collect(
        &mut self,
        cached: impl IntoIterator<Item = ChainId>,
    ) -> Result<Option<Freed>, StoreError> {
        let lock_path = self.path().join("locks/gc");
        let end = Instant::now() + Duration::from_secs(1);
        while self.gc_lock.try_lock().is_err() {
            if Instant::now() > end {
                // A failed upgrade may have given up the shared lock.
                self.gc_lock.lock_shared().map_err(StoreError::io("lock", &lock_path))?;
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        sweep_dead(self.path())?;
        let freed = self.sweep(cached);
        self.gc_lock.lock_shared().map_err(StoreError::io("lock", &lock_path))?;
        freed.map(Some)
    }

    fn sweep(&self, cached: impl IntoIterator<Item = ChainId>) -> Result<Freed, StoreError> {
        let mut blobs = HashSet::new();
        let mut chains = HashSet::new();
        let mut layers = HashSet::new();
        for named in self.names()? {
            let image = self.image(&named.manifest)?;
            blobs.insert(named.manifest.digest);
            blobs.insert(image.id());
            blobs.extend(image.manifest.layers().iter().map(|layer| layer.digest));
            let diff_ids = &image.config.rootfs.diff_ids;
            layers.extend(diff_ids.iter().copied());
            let prefixes = (1..=diff_ids.len()).filter_map(|n| ChainId::of(&diff_ids[..n]));
            chains.extend(prefixes);
        }
        for chain in cached {
            self.mark(Some(chain), &mut chains)?;
        }
        let mut freed = Freed::default();
        let mut folders = HashSet::new();
        for (chain, record) in chain_records(self.path())? {
            if chains.contains(&chain) {
                let is_away = record.is_away();
                folders.extend(record.folder().map(str::to_owned));
                blobs.extend(record.blob.filter(|_| is_away).map(|blob| blob.digest));
                layers.insert(record.diff_id);
            } else {
                freed.remove(&self.path().join("chains").join(chain.0.hex()))?;
            }
        }
        blobs.extend(self.forget_compressed(&layers)?);
        for name in names_in(&self.path().join("layers"))? {
            // Our own process's layers are at work too.
            if !folders.contains(&name) && !name.starts_with(self.lease.name()) {
                freed.remove(&self.path().join("layers").join(name))?;
            }
        }
        for name in names_in(&self.path().join("blobs/sha256"))? {
            if Digest::from_hex(&name).is_ok_and(|digest| !blobs.contains(&digest)) {
                freed.remove(&self.path().join("blobs/sha256").join(name))?;
            }
        }
        let origins = self.path().join("origins");
        // A store that never met a registry has none.
        for name in if origins.exists() { names_in(&origins)? } else { Vec::new() } {
            if Digest::from_hex(&name).is_ok_and(|digest| !blobs.contains(&digest)) {
                freed.remove(&origins.join(name))?;
            }
        }
        // Nobody is at work, so nobody is getting the rest of it.
        let partial = self.path().join("partial");
        for name in if partial.exists() { names_in(&partial)? } else { Vec::new() } {
            freed.remove(&partial.join(name))?;
        }
        Ok(freed)
    }

    /// Marks a chain and all below it.
    fn mark(
        &self,
        chain: Option<ChainId>,
        marked: &mut HashSet<ChainId>,
    ) -> Result<(), StoreError> {
        let mut next = chain;
        while let Some(chain) = next {
            if !marked.insert(chain) {
                return Ok(());
            }
            next = self.layer(chain)?.and_then(|record| record.parent);
        }
        Ok(())
    }
}

impl Freed {
    fn remove(&mut self, path: &Path) -> Result<(), StoreError> {
        self.objects += 1;
        self.bytes += walkdir::WalkDir::new(path)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| metadata.blocks() * 512)
            .sum::<u64>();
        remove(path)?;
        Ok(())
    }
}

/// Removes what dead processes made and did not publish. The caller holds the gc lock exclusively.
pub(super) fn sweep_dead(base: &Path) -> Result<(), StoreError> {
    let dead = lease::dead(base)?;
    let records = chain_records(base)?;
    let published: HashSet<&str> =
        records.iter().filter_map(|(_, record)| record.folder()).collect();
    let of_dead = |folder: &str| dead.iter().any(|lease| folder.starts_with(&format!("{lease}-")));
    for folder in names_in(&base.join("layers"))? {
        if of_dead(&folder) && !published.contains(folder.as_str()) {
            remove(&base.join("layers").join(folder))?;
        }
    }
    for name in names_in(&base.join("tmp"))? {
        if dead.contains(&name) {
            remove(&base.join("tmp").join(name))?;
        }
    }
    for name in dead {
        let path = base.join("locks").join(name);
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
    }
    Ok(())
}

/// All chains with their records. A damaged record is left for `system check` to name.
fn chain_records(base: &Path) -> Result<Vec<(ChainId, LayerRecord)>, StoreError> {
    let dir = base.join("chains");
    let mut records = Vec::new();
    for name in names_in(&dir)? {
        let path = dir.join(&name);
        let bytes = read_regular(&path).map_err(StoreError::io("read", &path))?;
        if let (Ok(digest), Ok(record)) = (Digest::from_hex(&name), parse_record(&path, &bytes)) {
            records.push((ChainId(digest), record));
        }
    }
    Ok(records)
}

pub(super) fn names_in(dir: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(StoreError::io("read", dir))? {
        let entry = entry.map_err(StoreError::io("read", dir))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}
