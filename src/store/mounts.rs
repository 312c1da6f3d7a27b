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
        // Only one makes it: an empty folder would be replaced under whoever had it mounted.
        let lock_path = self.path().join("locks").join(format!("make-{}-{number}", key.hex()));
        let lock = open_lock(&lock_path)?;
        lock.lock().map_err(StoreError::io("lock", &lock_path))?;
        if dir.exists() {
            return Ok(dir);
        }
        fs::create_dir_all(&parent).map_err(StoreError::io("make the folder", &parent))?;
        let new = self.new_scratch("mount");
        fs::create_dir(&new).map_err(StoreError::io("make the folder", &new))?;
        fill(&new)?;
        fs::rename(&new, &dir).map_err(StoreError::io("make the folder", &dir))?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn all_who_ask_at_once_get_the_same_folder() {
        const ASKING: usize = 8;
        let root = tempfile::tempdir().expect("a folder");
        let store = Store::open(root.path()).expect("a store");
        let identity = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino()));
        for key in (0..100_u32).map(|number| Digest::of(&number.to_le_bytes())) {
            let start = Barrier::new(ASKING);
            let ask = || {
                start.wait();
                let dir = store.mount_dir(key, 0, |_| Ok::<_, StoreError>(())).expect("a folder");
                let seen = identity(&dir).expect("there");
                (dir, seen)
            };
            std::thread::scope(|scope| {
                let asking: Vec<_> = (0..ASKING).map(|_| scope.spawn(ask)).collect();
                let given: Vec<_> = asking.into_iter().map(|it| it.join().expect("made")).collect();
                for (dir, seen) in given {
                    assert_eq!(identity(&dir).expect("there"), seen, "it was replaced");
                }
            });
        }
    }
}
