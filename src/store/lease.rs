//! [`Lease`]: a process's own folder below `tmp/`, and the lock that says that it lives.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{StoreError, open_lock, remove};
use crate::snapshot::open_regular;

/// A folder of this process below `tmp/`. Dropping it removes the folder; a process that dies
/// without that leaves its lock free, by which others see that the folder is garbage.
#[derive(Debug)]
pub(super) struct Lease {
    base: PathBuf,
    name: String,
    /// Locked until the lease is dropped.
    _lock: File,
}

impl Lease {
    pub(super) fn take(base: &Path) -> Result<Self, StoreError> {
        // The clock serves only to keep apart the leases of processes with the same ID.
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let name = format!("{}-{nanos:x}", std::process::id());
        let lock_path = base.join("locks").join(&name);
        let lock = open_lock(&lock_path)?;
        lock.lock().map_err(StoreError::io("lock", &lock_path))?;
        let dir = base.join("tmp").join(&name);
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(StoreError::io("make the folder", &dir))?;
        Ok(Self { base: base.to_owned(), name, _lock: lock })
    }

    /// The lease's name: with it begin the names of the layer folders that the process makes.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.base.join("tmp").join(&self.name).join(name)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What cannot be removed now is garbage that the next collection finds.
        drop(remove(&self.base.join("tmp").join(&self.name)));
        drop(fs::remove_file(self.base.join("locks").join(&self.name)));
    }
}

/// The names of the leases whose processes are dead, each with its free lock.
pub(super) fn dead(base: &Path) -> Result<Vec<String>, StoreError> {
    let locks = base.join("locks");
    let mut names = Vec::new();
    for entry in fs::read_dir(&locks).map_err(StoreError::io("read", &locks))? {
        let name = entry.map_err(StoreError::io("read", &locks))?.file_name();
        let Some(name) = name.to_str().filter(|name| is_lease(name)) else { continue };
        let Ok(lock) = open_regular(&locks.join(name)) else { continue };
        if lock.try_lock().is_ok() {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Whether a dead process left something behind.
pub(super) fn any_dead(base: &Path) -> Result<bool, StoreError> {
    Ok(!dead(base)?.is_empty())
}

/// Leases are named by process ID and time, other locks by words.
fn is_lease(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_digit())
}
