//! Images, layers and blobs on disk, shared by any number of processes without a daemon.
//!
//! ```text
//! ROOT/                          mode 0700
//!   CACHEDIR.TAG                 for backup programs
//!   v1/                          the format version
//!     oci-layout
//!     blobs/sha256/<hex>         documents, and layers as they came; mode 0444, never overwritten
//!     layers/<lease>-<n>/fs/     what a layer adds, in OverlayFS's form
//!     layers/<lease>-<n>/layer.json   its LayerRecord
//!     layers/<lease>-<n>/receipts   what its files were copied from, if a COPY made it
//!     layers/<lease>-<n>/frame   the rest of the tar that it came out of, if it came from elsewhere
//!     chains/<chain>             a link to the LayerRecord of this chain's top layer, which is complete and
//!                                never changes; or a record of a layer that is still elsewhere, as a blob
//!     origins/<hex>              the repositories that have this blob, which need not be here
//!     compressed/<layer>.<method>   what a layer was called once it was compressed so
//!     refs/<hash of the name>    a name and the manifest that it stands for
//!     cache/steps/<key>          the step cache's records, cache/files/: digests of context files (see
//!                                `crate::cache`)
//!     fetched/                     what came from elsewhere (see `crate::fetch`)
//!     partial/<hex>              what has come of a blob; locked by who gets the rest, until it is whole
//!     tmp/<lease>/               what a living process is making
//!     locks/gc                   shared: at work; exclusive: collecting garbage
//!     locks/<lease>              held for its life by the process that owns tmp/<lease>
//!     locks/make-<key>-<n>       held by the process that makes that folder of a cache mount
//!     locks/build-<key>          held by the process that builds the step of that key
//! ```
//!
//! **Publishing.** What is new is made without a name (blobs and records under `tmp/`, layers in a
//! folder that no record names), flushed by one `syncfs`, and only then named, by `link`; a name that
//! exists already wins, since names say what the bytes are. Names of images come last. So at any
//! moment, power loss included, whatever has a name is whole. A layer's folder never moves, so that
//! the steps that run on top of it do not care when it is published.
//!
//! **Locks** are `flock`s, which die with their process: nothing has to be repaired after a crash.
//! Whoever opens the store next and finds nobody at work removes what dead processes left.

mod blob;
mod check;
mod compressed;
mod error;
mod fetch;
mod gc;
mod image;
mod key_lock;
mod layers;
mod lease;
mod mounts;
mod origins;
mod publish;
mod stack;
mod tar;
mod unpack;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use blob::Verified;
pub use check::{Finding, Repair};
pub use error::StoreError;
pub use fetch::{BlobSource, Fetched, WantedBlob, Watch};
pub use gc::Freed;
pub use image::{Image, Named};
pub use key_lock::KeyLock;
pub use layers::{LayerRecord, SealedLayer, StagedLayer};
use lease::Lease;
pub use origins::Origin;
pub use publish::StagedBlob;
pub use stack::{LayerSource, Unpack, Unpacked};

use crate::snapshot::{self, Handle};

/// The format version that this mica reads and writes.
const FORMAT: &str = "v1";

/// An open store. Holding one keeps the garbage collectors of other processes away from what this
/// process uses and makes; dropping it removes what was made and not published.
#[derive(Debug)]
pub struct Store {
    /// `ROOT/v1`.
    base: PathBuf,
    /// Layers that others have published first: steps may still run on them.
    unused: Mutex<Vec<StagedLayer>>,
    /// Where blobs come from that are not here.
    source: Option<Arc<dyn BlobSource>>,
    /// While it is held, nobody takes what this process makes for a dead one's.
    lease: Lease,
    /// Locked shared until the store is dropped. Dropped last: who collects garbage removes whatever
    /// no record names, and must not meet us removing the same.
    gc_lock: File,
}

impl Store {
    /// Opens the store at `root` and makes it where there is none.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for a format that this mica does not know, [`StoreError::Untrusted`]
    /// where other users could write to it, [`StoreError::Io`].
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let base = root.join(FORMAT);
        if !base.join("oci-layout").exists() {
            create(root, &base)?;
        }
        let metadata = fs::metadata(root).map_err(StoreError::io("read", root))?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        if owner != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
            return Err(StoreError::Untrusted { path: root.to_owned(), owner, mode });
        }
        let lock_path = base.join("locks/gc");
        let gc_lock = open_lock(&lock_path)?;
        if lease::any_dead(&base)? && gc_lock.try_lock().is_ok() {
            gc::sweep_dead(&base)?;
            gc_lock.unlock().map_err(StoreError::io("unlock", &lock_path))?;
        }
        gc_lock.lock_shared().map_err(StoreError::io("lock", &lock_path))?;
        let lease = Lease::take(&base)?;
        Ok(Self { base, unused: Mutex::default(), source: None, lease, gc_lock })
    }

    /// Lets blobs that are missing come from elsewhere.
    #[must_use]
    pub fn with_source(self, source: Arc<dyn BlobSource>) -> Self {
        Self { source: Some(source), ..self }
    }

    /// The folder that holds the store's format version, `ROOT/v1`.
    pub fn path(&self) -> &Path {
        &self.base
    }

    /// A path below [`Store::path`] that belongs to this process alone and is removed with it.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.lease.path(name)
    }
}

fn create(root: &Path, base: &Path) -> Result<(), StoreError> {
    refuse_other_formats(root)?;
    for sub in ["blobs/sha256", "layers", "chains", "refs", "cache", "tmp", "locks"] {
        let path = base.join(sub);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(StoreError::io("make the folder", &path))?;
    }
    spread_layers(&base.join("layers"));
    let write =
        |path: PathBuf, text: &str| fs::write(&path, text).map_err(StoreError::io("write", &path));
    write(
        root.join("CACHEDIR.TAG"),
        "Signature: 8a477f597d28d172789f06886806bc55\n# Images and build cache of mica.\n",
    )?;
    // Last: the store is there once this is.
    write(base.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
}

/// Tells ext4 that layers have nothing to do with one another, so that each gets a part of the disk
/// where there is room. Else they all lie close together, where a new file has to be looked for among
/// the inodes of layers that were removed a moment ago. Other file systems have their own ways.
fn spread_layers(dir: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    if let Ok(dir) = File::open(dir)
        && let Ok(flags) = ioctl_getflags(&dir)
    {
        let _unsupported = ioctl_setflags(&dir, flags | IFlags::TOPDIR);
    }
}

fn refuse_other_formats(root: &Path) -> Result<(), StoreError> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(StoreError::io("read", root)(err)),
    };
    for entry in entries {
        let name = entry.map_err(StoreError::io("read", root))?.file_name();
        let name = name.to_string_lossy();
        let is_format = name
            .strip_prefix('v')
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        if is_format && name != FORMAT {
            return Err(StoreError::Newer {
                path: root.to_owned(),
                found: name.into_owned(),
                known: FORMAT,
            });
        }
    }
    Ok(())
}

/// Removes a file or a whole tree; what is not there is no error.
fn remove(path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::io("remove", path)(source);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = Handle::open(parent).map_err(failed)?;
    snapshot::remove_tree(&parent, name).map_err(failed)
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    // For reading too: so a pipe is opened at once, and found to be none of ours.
    let opened = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path);
    opened
        .and_then(|file| snapshot::size_of_regular(&file).map(|_| file))
        .map_err(StoreError::io("open", path))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::oci::{ChainId, Digest};

    #[test]
    fn nobody_waits_for_a_pipe_in_the_place_of_a_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().join("store");
        let store = Store::open(&root).expect("a store");
        let pipe = |name: &str| {
            let path = root.join("v1").join(name);
            drop(fs::remove_file(&path));
            mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
        };
        let chain = ChainId(Digest::of(b"chain"));
        pipe(&format!("chains/{}", chain.0.hex()));
        assert!(store.layer(chain).is_err());
        pipe("refs/name");
        assert!(store.names().is_err());
        pipe("locks/1-1");
        assert!(Store::open(&root).is_ok());
        pipe("locks/gc");
        assert!(Store::open(&root).is_err());
    }
}
