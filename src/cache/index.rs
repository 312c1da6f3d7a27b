//! [`StepCache`]: from a key to the snapshot that was made for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::CacheKey;
use crate::oci::{ChainId, Digest};
use crate::snapshot::read_regular;

/// A step that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The snapshot that it made.
    pub chain: ChainId,
    /// All keys that it is found by, the definition key first.
    pub keys: Vec<CacheKey>,
}

/// The records of the step cache: a file for each key.
///
/// A record is one line, `<chain> <key>… <checksum>`. It is written without being flushed: one that a
/// power loss has garbled does not fit its checksum and is a miss.
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
    /// The step cache of what is remembered in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.join("steps") }
    }

    /// The step that was done for `key`. Whatever cannot be read is a miss.
    pub fn get(&self, key: CacheKey) -> Option<Step> {
        read(&self.path(key), key)
    }

    /// Remembers a step by all its keys, in place of what was remembered before. `scratch` is a path on
    /// the same file system for a file until it is whole.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn put(&self, step: &Step, scratch: &Path) -> Result<(), CacheError> {
        let line = line(step);
        step.keys.iter().try_for_each(|key| {
            let path = self.path(*key);
            let write = || {
                fs::write(scratch, &line)?;
                let renamed = fs::rename(scratch, &path);
                match renamed.as_ref().map_err(io::Error::kind) {
                    Err(io::ErrorKind::NotFound) => fs::create_dir_all(&self.dir)?,
                    // Whatever it is, it is no record.
                    Err(io::ErrorKind::IsADirectory) => fs::remove_dir_all(&path)?,
                    _ => return renamed,
                }
                fs::rename(scratch, &path)
            };
            write().map_err(|source| CacheError { path: path.clone(), source })
        })
    }

    /// All snapshots that records lead to.
    pub fn chains(&self) -> Vec<ChainId> {
        self.records().filter_map(|(path, key)| read(&path, key)).map(|step| step.chain).collect()
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn clear(&self) -> Result<(), CacheError> {
        self.records().try_for_each(|(path, _)| Self::forget(path))
    }

    /// Removes a record, whatever it is.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn forget(path: PathBuf) -> Result<(), CacheError> {
        let removed = match fs::remove_file(&path) {
            Err(err) if err.kind() == io::ErrorKind::IsADirectory => fs::remove_dir_all(&path),
            // By somebody else, just now.
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        removed.map_err(|source| CacheError { path, source })
    }

    /// The records that are damaged.
    pub fn damaged(&self) -> Vec<PathBuf> {
        let damaged = self.records().filter(|(path, key)| read(path, *key).is_none());
        damaged.map(|(path, _)| path).collect()
    }

    fn records(&self) -> impl Iterator<Item = (PathBuf, CacheKey)> {
        fs::read_dir(&self.dir).into_iter().flatten().flatten().filter_map(|entry| {
            let path = entry.path();
            let key = CacheKey(Digest::from_hex(path.file_name()?.to_str()?).ok()?);
            Some((path, key))
        })
    }

    fn path(&self, key: CacheKey) -> PathBuf {
        self.dir.join(key.0.hex())
    }
}

fn read(path: &Path, key: CacheKey) -> Option<Step> {
    parse(std::str::from_utf8(&read_regular(path).ok()?).ok()?, key)
}

fn line(step: &Step) -> String {
    let digests = std::iter::once(step.chain.0).chain(step.keys.iter().map(|key| key.0));
    let text = digests.map(|digest| digest.to_string()).collect::<Vec<_>>().join(" ");
    format!("{text} {}\n", checksum(&text))
}

/// A record under a wrong name is a miss too.
fn parse(line: &str, key: CacheKey) -> Option<Step> {
    let (text, sum) = line.strip_suffix('\n')?.rsplit_once(' ')?;
    let mut digests = text.split(' ').map(str::parse::<Digest>);
    let chain = ChainId(digests.next()?.ok()?);
    let keys: Vec<_> = digests.map(|digest| digest.map(CacheKey)).collect::<Result<_, _>>().ok()?;
    (sum == checksum(text) && keys.contains(&key)).then_some(Step { chain, keys })
}

fn checksum(text: &str) -> String {
    Digest::of(text.as_bytes()).short()
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn damage_is_a_miss() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = StepCache::new(dir.path());
        let key = CacheKey(Digest::of(b"key"));
        let chain = ChainId(Digest::of(b"chain"));
        let other = CacheKey(Digest::of(b"other"));
        let step = Step { chain, keys: vec![key, other] };
        assert_eq!(cache.get(key), None);
        cache.put(&step, &dir.path().join("new")).expect("written");
        assert_eq!(cache.get(key), Some(step.clone()));
        assert_eq!(cache.get(other), Some(step));
        assert_eq!(cache.chains(), [chain, chain]);
        let path = cache.path(key);
        let good = fs::read(&path).expect("read");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).expect("written");
            assert_eq!(cache.get(key), None, "byte {at}");
        }
        let alone = Step { chain, keys: vec![other] };
        cache.put(&alone, &dir.path().join("new")).expect("written");
        fs::copy(cache.path(other), &path).expect("copied");
        assert_eq!(cache.get(key), None, "a record under another name");
        fs::write(&path, &good[..10]).expect("written");
        assert_eq!(cache.get(key), None);
        assert_eq!(cache.damaged(), [path]);
    }

    #[test]
    fn what_is_in_the_place_of_a_record_is_a_miss() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = StepCache::new(dir.path());
        let key = CacheKey(Digest::of(b"key"));
        let step = Step { chain: ChainId(Digest::of(b"chain")), keys: vec![key] };
        let path = cache.path(key);
        fs::create_dir_all(path.join("folder")).expect("a folder");
        assert_eq!((cache.get(key), cache.damaged()), (None, vec![path.clone()]));
        cache.put(&step, &dir.path().join("new")).expect("written");
        assert_eq!(cache.get(key), Some(step.clone()));
        fs::remove_file(&path).expect("removed");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
        assert_eq!((cache.get(key), cache.damaged()), (None, vec![path.clone()]));
        cache.put(&step, &dir.path().join("new")).expect("written");
        assert_eq!(cache.get(key), Some(step));
        fs::remove_file(&path).expect("removed");
        fs::create_dir_all(path.join("folder")).expect("a folder");
        cache.clear().expect("cleared");
        assert!(!path.exists());
        StepCache::forget(path).expect("it is not there");
    }
}
