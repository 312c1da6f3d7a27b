//! [`KeyLock`]: one process at a time for one piece of work.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{Store, StoreError, open_lock};
use crate::oci::Digest;

/// Held while a piece of work is done that other processes may want done too; they wait for it and
/// then find the result. It ends with its process.
#[derive(Debug)]
pub struct KeyLock {
    path: PathBuf,
    _file: File,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Whoever waits for the old file sees that it has no name any more and starts over.
        drop(fs::remove_file(&self.path));
    }
}

impl Store {
    /// Waits until no other process works on `key`, and calls `waiting` once if it has to.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn lock_key(&self, key: Digest, waiting: impl FnOnce()) -> Result<KeyLock, StoreError> {
        let path = self.path().join("locks").join(format!("build-{}", key.hex()));
        let mut waiting = Some(waiting);
        loop {
            let file = open_lock(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    file.lock().map_err(StoreError::io("lock", &path))?;
                }
                Err(TryLockError::Error(err)) => return Err(StoreError::io("lock", &path)(err)),
            }
            let ours = file.metadata().map_err(StoreError::io("read", &path))?;
            match fs::metadata(&path) {
                Ok(named) if named.ino() == ours.ino() => {
                    return Ok(KeyLock { path, _file: file });
                }
                // Removed by the one we waited for.
                _ => {}
            }
        }
    }
}
