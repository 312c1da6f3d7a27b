//! What a layer is called once it is compressed: known again without compressing it again.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::gc::names_in;
use super::{Store, StoreError, remove};
use crate::oci::{Descriptor, DiffId, Digest};
use crate::snapshot::read_regular;

/// One file of `compressed/`.
#[derive(Serialize, Deserialize)]
struct Record {
    descriptor: Descriptor,
    /// Of the descriptor's JSON: a record is not flushed, so a crash may tear it.
    checksum: Digest,
}

impl Store {
    /// The blob that a layer became when it was compressed by the method of this name, if that was
    /// noted. Nobody says that the blob is anywhere.
    pub fn compressed(&self, layer: DiffId, method: &str) -> Option<Descriptor> {
        let bytes = read_regular(&self.compressed_path(layer, method)).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        (checksum(&record.descriptor) == record.checksum).then_some(record.descriptor)
    }

    /// Notes what a layer became when it was compressed by the method of this name, which holds
    /// letters, digits and dashes. It is a hint: that it cannot be written is no error.
    pub fn note_compressed(&self, layer: DiffId, method: &str, descriptor: &Descriptor) {
        let record = Record { descriptor: descriptor.clone(), checksum: checksum(descriptor) };
        let bytes = serde_json::to_vec(&record).expect("a record of plain strings serializes");
        let (path, temporary) = (self.compressed_path(layer, method), self.new_scratch("record"));
        let folder = self.path().join("compressed");
        drop(
            fs::create_dir_all(folder)
                .and_then(|()| fs::write(&temporary, bytes))
                .and_then(|()| fs::rename(&temporary, path)),
        );
    }

    /// Forgets all layers but these, and gives the blobs that those became.
    pub(super) fn forget_compressed(
        &self,
        kept: &HashSet<DiffId>,
    ) -> Result<Vec<Digest>, StoreError> {
        let folder = self.path().join("compressed");
        let mut blobs = Vec::new();
        // A store of which nothing was pushed has none.
        for name in if folder.exists() { names_in(&folder)? } else { Vec::new() } {
            let (hex, method) = name.split_once('.').unwrap_or_default();
            let layer = Digest::from_hex(hex).ok().map(DiffId).filter(|id| kept.contains(id));
            match layer {
                Some(layer) => blobs.extend(self.compressed(layer, method).map(|blob| blob.digest)),
                None => remove(&folder.join(name))?,
            }
        }
        Ok(blobs)
    }

    fn compressed_path(&self, layer: DiffId, method: &str) -> PathBuf {
        self.path().join("compressed").join(format!("{}.{method}", layer.0.hex()))
    }
}

fn checksum(descriptor: &Descriptor) -> Digest {
    Digest::of(&serde_json::to_vec(descriptor).expect("a descriptor serializes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::MediaType;

    #[test]
    fn noted_is_known_until_it_is_torn_or_forgotten() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let layer = DiffId(Digest::of(b"layer"));
        let blob = Descriptor::of(MediaType::ImageLayerGzip, b"blob");
        assert_eq!(store.compressed(layer, "gzip-6"), None);
        store.note_compressed(layer, "gzip-6", &blob);
        assert_eq!(store.compressed(layer, "gzip-6"), Some(blob.clone()));
        assert_eq!(store.compressed(layer, "zstd-3"), None);
        let path = store.compressed_path(layer, "gzip-6");
        let text = fs::read_to_string(&path).expect("a file");
        fs::write(&path, text.replace("\"size\":4", "\"size\":5")).expect("to write");
        assert_eq!(store.compressed(layer, "gzip-6"), None);
        store.note_compressed(layer, "gzip-6", &blob);
        let kept = store.forget_compressed(&HashSet::from([layer])).expect("to forget");
        assert_eq!(kept, [blob.digest]);
        assert_eq!(store.compressed(layer, "gzip-6"), Some(blob));
        store.forget_compressed(&HashSet::new()).expect("to forget");
        assert_eq!(store.compressed(layer, "gzip-6"), None);
    }
}
