//! The folders of cache mounts, which outlive the steps that use them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::{Store, StoreError, open_lock};
use crate::oci::Digest;

impl Store {
    /// The folder number `number` for `key`; `fill` fills it where it is new. It is visible only
    /// once it is filled.
    ///
    /// # Errors
    /// [`StoreError::Io`], and what `fill` returns.
    pub fn mount_dir<E: From<StoreError>>(
        &self,
        key: Digest,
        number: usize,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let parent = self.path().join("mounts");
        let dir = parent.join(format!("{}-{number}", key.hex()));
        if dir.exists() {
            return Ok(dir);
        }
        fs::create_dir_all(&parent).map_err(StoreError::io("make the folder", &parent))?;
        let new = self.new_scratch("mount");
        fs::create_dir(&new).map_err(StoreError::io("make the folder", &new))?;
        fill(&new)?;
        match fs::rename(&new, &dir) {
            Ok(()) => {}
            // Another process was faster.
            Err(_) if dir.exists() => {}
            Err(err) => return Err(StoreError::io("make the folder", &dir)(err).into()),
        }
        Ok(dir)
    }

    /// Locks the folder number `number` for `key` until the file is dropped. `None` where another
    /// has it and `wait` is false.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn lock_mount(
        &self,
        key: Digest,
        number: usize,
        wait: bool,
    ) -> Result<Option<File>, StoreError> {
        let path = self.path().join("locks").join(format!("mount-{}-{number}", key.hex()));
        let file = open_lock(&path)?;
        if wait {
            file.lock().map_err(StoreError::io("lock", &path))?;
            return Ok(Some(file));
        }
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(err)) => Err(StoreError::io("lock", &path)(err)),
        }
    }
}
