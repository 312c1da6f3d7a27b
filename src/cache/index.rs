//! [`StepCache`]: from a key to the snapshot that was made for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::CacheKey;
use crate::oci::{ChainId, Digest};

/// The records of the step cache: a file for each key, spread over 256 folders.
///
/// A record is one line, `<chain> <checksum>`. It is written without being flushed: one that a power
/// loss has garbled does not fit its checksum and is a miss.
#[derive(Debug)]
pub struct StepCache {
    dir: PathBuf,
}

/// A record could not be written. Nothing is lost but the reuse of the step.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the cache record {}", path.display())]
pub struct CacheError {
    /// The record.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

impl StepCache {
    /// The cache whose records lie in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The snapshot that was made for `key`. Whatever cannot be read is a miss.
    pub fn get(&self, key: CacheKey) -> Option<ChainId> {
        parse(&fs::read_to_string(self.path(key)).ok()?, key)
    }

    /// Remembers what was made for `key`, in place of what was remembered before. `scratch` is a
    /// path on the same file system for the file until it is whole.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn put(&self, key: CacheKey, chain: ChainId, scratch: &Path) -> Result<(), CacheError> {
        let path = self.path(key);
        let write = || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(scratch, line(key, chain))?;
            fs::rename(scratch, &path)
        };
        write().map_err(|source| CacheError { path: path.clone(), source })
    }

    /// All snapshots that records lead to.
    pub fn chains(&self) -> Vec<ChainId> {
        self.records()
            .filter_map(|(path, key)| parse(&fs::read_to_string(path).ok()?, key))
            .collect()
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn clear(&self) -> Result<(), CacheError> {
        for (path, _) in self.records() {
            fs::remove_file(&path).map_err(|source| CacheError { path, source })?;
        }
        Ok(())
    }

    /// Removes the records that are damaged, and says which.
    pub fn damaged(&self) -> Vec<PathBuf> {
        let is_damaged = |path: &Path, key| {
            fs::read_to_string(path).is_ok_and(|text| parse(&text, key).is_none())
        };
        self.records().filter(|(path, key)| is_damaged(path, *key)).map(|(path, _)| path).collect()
    }

    fn records(&self) -> impl Iterator<Item = (PathBuf, CacheKey)> {
        walkdir::WalkDir::new(&self.dir).into_iter().flatten().filter_map(|entry| {
            let path = entry.into_path();
            let name = path.file_name()?.to_str()?;
            let folder = path.parent()?.file_name()?.to_str()?;
            let key = CacheKey(Digest::from_hex(&format!("{folder}{name}")).ok()?);
            Some((path, key))
        })
    }

    fn path(&self, key: CacheKey) -> PathBuf {
        let hex = key.0.hex();
        self.dir.join(&hex[..2]).join(&hex[2..])
    }
}

fn line(key: CacheKey, chain: ChainId) -> String {
    format!("{chain} {}\n", checksum(key, chain))
}

fn parse(text: &str, key: CacheKey) -> Option<ChainId> {
    let (chain, sum) = text.strip_suffix('\n')?.split_once(' ')?;
    let chain = ChainId(chain.parse().ok()?);
    (sum == checksum(key, chain)).then_some(chain)
}

/// Binds the record to its key, so that a record under a wrong name is a miss too.
fn checksum(key: CacheKey, chain: ChainId) -> String {
    Digest::of(format!("{key} {chain}").as_bytes()).short()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_a_miss() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = StepCache::new(dir.path());
        let key = CacheKey(Digest::of(b"key"));
        let chain = ChainId(Digest::of(b"chain"));
        assert_eq!(cache.get(key), None);
        cache.put(key, chain, &dir.path().join("new")).expect("written");
        assert_eq!(cache.get(key), Some(chain));
        assert_eq!(cache.chains(), [chain]);
        let path = cache.path(key);
        let good = fs::read(&path).expect("read");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).expect("written");
            assert_eq!(cache.get(key), None, "byte {at}");
        }
        fs::write(&path, &good[..10]).expect("written");
        assert_eq!(cache.get(key), None);
        assert_eq!(cache.damaged(), [path]);
    }
}
