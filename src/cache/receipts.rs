//! Receipts: of what state of what file each file of a layer is a copy.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::content::Stamp;
use super::records;
use crate::snapshot::Metadata;

/// Of the files that a COPY has put into a layer, from where each one came.
///
/// They are kept beside the layer. When the same is copied again, a file whose receipt is the same
/// would become the same copy, and nobody has to open it to know that.
#[derive(Debug, Default)]
pub struct Receipts(Vec<Record>);

/// Those of a layer that is being filled.
#[derive(Debug, Default)]
pub struct NewReceipts(Mutex<HashMap<Half, Half>>);

/// That a file came to a place.
#[derive(Debug, Clone, Copy)]
pub struct Receipt {
    place: Half,
    source: Half,
}

/// Of a digest.
type Half = [u8; 16];

/// The place, and the source.
type Record = [u8; 32];

const MAGIC: &[u8] = b"mica receipts 1\n";

impl Receipt {
    /// For a file that comes to `name` in the folder `dir` of the layer from the one with this stamp,
    /// without xattrs, its time unchanged, with the owner and mode of `metadata`.
    pub fn new(dir: &Path, name: &OsStr, stamp: &Stamp, metadata: &Metadata) -> Self {
        let mut source = blake3::Hasher::new();
        for number in stamp {
            source.update(&number.to_le_bytes());
        }
        for number in [metadata.mode, metadata.uid, metadata.gid] {
            source.update(&number.to_le_bytes());
        }
        Self { place: place(dir, name), source: half(source.finalize()) }
    }
}

impl Receipts {
    /// Those that were kept at `path`. What cannot be read is not there.
    pub fn read(path: &Path) -> Self {
        Self(records::read(path, MAGIC, |record| *record).unwrap_or_default())
    }

    /// Whether this is one of them.
    pub fn has(&self, receipt: &Receipt) -> bool {
        self.0.binary_search(&record((&receipt.place, &receipt.source))).is_ok()
    }
}

impl NewReceipts {
    /// Notes what came to `name` in `dir`, in place of what was there before: without a receipt, it is
    /// looked at again the next time.
    pub fn note(&self, dir: &Path, name: &OsStr, receipt: Option<Receipt>) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match receipt {
            Some(Receipt { place, source }) => drop(noted.insert(place, source)),
            None if noted.is_empty() => {}
            None => drop(noted.remove(&place(dir, name))),
        }
    }

    /// Keeps them at `path`, if there are any.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.is_empty() {
            return Ok(());
        }
        let mut all: Vec<_> = noted.iter().map(record).collect();
        all.sort_unstable();
        fs::write(path, records::encode(MAGIC, all.into_iter()))
    }
}

fn place(dir: &Path, name: &OsStr) -> Half {
    let mut place = blake3::Hasher::new();
    place.update(dir.as_os_str().as_bytes()).update(b"/").update(name.as_bytes());
    half(place.finalize())
}

fn half(digest: blake3::Hash) -> Half {
    let (half, _) = digest.as_bytes().as_chunks::<16>();
    half[0]
}

fn record((place, source): (&Half, &Half)) -> Record {
    let mut record = Record::default();
    record[..16].copy_from_slice(place);
    record[16..].copy_from_slice(source);
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Handle;

    #[test]
    fn only_the_last_copy_to_a_place_has_a_receipt_and_it_says_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = folder.path().join("kept");
        fs::write(folder.path().join("f"), "text").expect("written");
        let handle = Handle::open(folder.path()).expect("opened");
        let metadata = handle.stat("f".as_ref()).expect("read").expect("there");
        let (dir, stamp) = (Path::new("app"), [7; 8]);
        let receipt = |name: &str| Receipt::new(dir, name.as_ref(), &stamp, &metadata);
        let new = NewReceipts::default();
        new.write(&kept).expect("nothing to write");
        assert!(!kept.exists() && !Receipts::read(&kept).has(&receipt("a")));
        for name in ["a", "b", "c"] {
            new.note(dir, name.as_ref(), Some(receipt(name)));
        }
        new.note(dir, "b".as_ref(), None);
        let newer = Receipt::new(dir, "c".as_ref(), &[8; 8], &metadata);
        new.note(dir, "c".as_ref(), Some(newer));
        new.write(&kept).expect("written");
        let known = Receipts::read(&kept);
        assert!(known.has(&receipt("a")) && known.has(&newer));
        assert!(!known.has(&receipt("b")) && !known.has(&receipt("c")));
        let elsewhere = Receipt::new(Path::new("ap"), "p/a".as_ref(), &stamp, &metadata);
        assert!(!known.has(&elsewhere));
        for change in [
            Metadata { mode: metadata.mode ^ 1, ..metadata.clone() },
            Metadata { uid: metadata.uid ^ 1, ..metadata.clone() },
            Metadata { gid: metadata.gid ^ 1, ..metadata.clone() },
        ] {
            assert!(!known.has(&Receipt::new(dir, "a".as_ref(), &stamp, &change)));
        }
        for number in 0..8 {
            let mut other = stamp;
            other[number] += 1;
            assert!(!known.has(&Receipt::new(dir, "a".as_ref(), &other, &metadata)));
        }
        let mut bytes = fs::read(&kept).expect("read");
        bytes[20] ^= 1;
        fs::write(&kept, bytes).expect("written");
        assert!(!Receipts::read(&kept).has(&receipt("a")));
    }
}
