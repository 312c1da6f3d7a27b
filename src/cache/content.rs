//! Digests of files, and what they were the last time.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::records;
use crate::oci::Digest;
use crate::snapshot::{Metadata, Timestamp};

/// The digests of a folder's files, remembered from build to build.
///
/// A digest is believed while the file's path, device, inode, size, mtime and ctime are what they
/// were, and while it had not been touched in the very moment in which it was read: a later change
/// within the clock's resolution would not show (git's "racily clean" rule).
#[derive(Debug)]
pub struct FileCache {
    /// Where it is kept; `None` for one that remembers nothing.
    path: Option<PathBuf>,
    /// What was kept, in the order of the stamps.
    known: Vec<Known>,
    /// Which of them this build asked for.
    asked: Vec<AtomicBool>,
    /// What this build had to read.
    read: Mutex<Vec<Known>>,
    /// When reading began, in nanoseconds since 1970.
    began: i128,
}

/// What tells a file from another, and from what it was before.
pub type Stamp = [u64; 8];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    stamp: Stamp,
    digest: [u8; 32],
}

/// Files that changed so shortly before they were read are not believed the next time.
const RACY_NANOS: i128 = 20_000_000;

const MAGIC: &[u8] = b"mica files 2\n";

/// The bytes of a [`Known`].
const RECORD_BYTES: usize = size_of::<Stamp>() + 32;

/// So much of a file is read at once; a larger one is hashed on all cores.
const PIECE_BYTES: usize = 4 << 20;

impl FileCache {
    /// One that remembers nothing.
    pub fn none() -> Self {
        Self { path: None, known: Vec::new(), asked: Vec::new(), read: Mutex::default(), began: 0 }
    }

    /// The digests kept for the folder `context` in `dir`. What cannot be read is not there.
    pub fn open(dir: &Path, context: &Path) -> Self {
        let name = Digest::of(context.as_os_str().as_bytes()).hex();
        let path = dir.join("files").join(name);
        let known = records::read(&path, MAGIC, Known::decode).unwrap_or_default();
        let asked = known.iter().map(|_| AtomicBool::new(false)).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let began = i128::try_from(now).unwrap_or(i128::MAX);
        Self { path: Some(path), known, asked, read: Mutex::default(), began }
    }

    /// The digest of a file (its BLAKE3), read only where it may have changed.
    ///
    /// # Errors
    /// What reading it says.
    pub fn digest(
        &self,
        path: &Path,
        metadata: &Metadata,
        open: impl FnOnce() -> io::Result<File>,
    ) -> io::Result<Digest> {
        let stamp = stamp(path, metadata);
        if let Ok(at) = self.known.binary_search_by(|known| known.stamp.cmp(&stamp)) {
            self.asked[at].store(true, Ordering::Relaxed);
            return Ok(Digest::from_bytes(self.known[at].digest));
        }
        let digest = hash_file(&open()?, metadata.size)?;
        if self.is_settled(metadata) {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            read.push(Known { stamp, digest });
        }
        Ok(Digest::from_bytes(digest))
    }

    /// The stamp of a file; `None` where a later change might not show in it.
    pub fn stamp(&self, path: &Path, metadata: &Metadata) -> Option<Stamp> {
        self.is_settled(metadata).then(|| stamp(path, metadata))
    }

    /// Whether any change since this build began shows in a file's stamp.
    fn is_settled(&self, metadata: &Metadata) -> bool {
        let touched = nanos(metadata.ctime).max(nanos(metadata.mtime));
        self.path.is_some() && touched + RACY_NANOS < self.began
    }

    /// Keeps what this build asked for, for the next one, if it had to read anything. What cannot be
    /// written is not kept.
    pub fn save(&self, scratch: &Path) {
        let mut files = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = self.path.as_ref().filter(|_| !files.is_empty()) else { return };
        let asked = self.known.iter().zip(&self.asked);
        files.extend(
            asked.filter(|(_, asked)| asked.load(Ordering::Relaxed)).map(|(known, _)| known),
        );
        files.sort_unstable();
        files.dedup();
        let write = || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(scratch, records::encode(MAGIC, files.iter().map(Known::encode)))?;
            fs::rename(scratch, path)
        };
        // A cache that cannot be written costs time and nothing else.
        drop(write());
    }
}

/// Hashes a file that is said to have `size` bytes.
fn hash_file(mut file: &File, size: u64) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    // One byte more: a file that has grown is noticed, and one that has not needs no second call.
    let piece = usize::try_from(size).unwrap_or(usize::MAX).min(PIECE_BYTES - 1) + 1;
    let mut buffer = vec![0; piece];
    loop {
        let mut filled = 0;
        while filled < piece {
            match file.read(&mut buffer[filled..]) {
                Ok(read) => {
                    filled += read;
                    if read == 0 || hasher.count() + filled as u64 == size && filled < piece {
                        hasher.update(&buffer[..filled]);
                        return Ok(*hasher.finalize().as_bytes());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        hasher.update_rayon(&buffer);
    }
}

fn nanos(time: Timestamp) -> i128 {
    i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos)
}

fn stamp(path: &Path, metadata: &Metadata) -> Stamp {
    // Of another release it may be another number: then the file is read again.
    let mut place = std::hash::DefaultHasher::new();
    path.as_os_str().as_bytes().hash(&mut place);
    [
        // First what is near for files that are asked for one after another.
        metadata.dev,
        metadata.ino,
        metadata.size,
        metadata.mtime.secs.cast_unsigned(),
        metadata.mtime.nanos.into(),
        metadata.ctime.secs.cast_unsigned(),
        metadata.ctime.nanos.into(),
        place.finish(),
    ]
}

impl Known {
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        let (numbers, digest) = record.split_at_mut(size_of::<Stamp>());
        let (numbers, _) = numbers.as_chunks_mut();
        for (bytes, number) in numbers.iter_mut().zip(self.stamp) {
            *bytes = number.to_le_bytes();
        }
        digest.copy_from_slice(&self.digest);
        record
    }

    fn decode(record: &[u8; RECORD_BYTES]) -> Self {
        let (numbers, digest) = record.split_at(size_of::<Stamp>());
        let (numbers, _) = numbers.as_chunks();
        let mut known = Self { stamp: Stamp::default(), digest: [0; 32] };
        for (number, bytes) in known.stamp.iter_mut().zip(numbers) {
            *number = u64::from_le_bytes(*bytes);
        }
        known.digest.copy_from_slice(digest);
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Handle, View};

    fn of(bytes: &[u8]) -> Digest {
        Digest::from_bytes(*blake3::hash(bytes).as_bytes())
    }

    #[test]
    fn hashes_files_whatever_their_size() {
        for size in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + 7] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            let file = tempfile::NamedTempFile::new().expect("a file");
            fs::write(file.path(), &bytes).expect("written");
            // What it was thought to be need not be what it is.
            for said in [0, size as u64 + 1, size as u64, u64::MAX] {
                let found = hash_file(&File::open(file.path()).expect("opened"), said);
                assert_eq!(Digest::from_bytes(found.expect("read")), of(&bytes), "{size} {said}");
            }
        }
    }

    #[test]
    fn believes_old_files_and_reads_new_ones() {
        let dir = tempfile::tempdir().expect("a folder");
        let (context, kept) = (dir.path().join("context"), dir.path().join("kept"));
        fs::create_dir(&context).expect("made");
        let file = context.join("f");
        fs::write(&file, "one").expect("written");
        let digest = |cache: &FileCache, may_read: bool| {
            let view = View::plain(Handle::open(&context).expect("opened")).expect("a view");
            let entry = view.lookup(Path::new("f")).expect("read").expect("there");
            cache
                .digest(entry.path(), entry.metadata(), || {
                    assert!(may_read, "the file was read");
                    File::open(&file)
                })
                .expect("a digest")
        };
        let mut first = FileCache::open(&kept, &context);
        assert_eq!(digest(&first, true), of(b"one"));
        first.save(&dir.path().join("scratch"));
        // It was written just before it was read: not believed.
        assert_eq!(digest(&FileCache::open(&kept, &context), true), of(b"one"));
        first.began += 1_000_000_000;
        digest(&first, true);
        first.save(&dir.path().join("scratch"));
        assert_eq!(digest(&FileCache::open(&kept, &context), false), of(b"one"));
        fs::write(&file, "two").expect("written");
        assert_eq!(digest(&FileCache::open(&kept, &context), true), of(b"two"));
    }

    #[test]
    fn records_come_back() {
        let known = Known { stamp: [1, 2, 3, 4, 5, 6, 7, u64::MAX], digest: [9; 32] };
        assert_eq!(Known::decode(&known.encode()), known);
    }
}
