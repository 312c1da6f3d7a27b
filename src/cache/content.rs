//! Digests of files, and what they were the last time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use crate::oci::Digest;
use crate::snapshot::{Metadata, Timestamp};

/// The digests of a folder's files, remembered from build to build.
///
/// A digest is believed while the file's device, inode, size, mtime and ctime are what they were,
/// and while it had not been touched in the very moment in which it was read: a later change within
/// the clock's resolution would not show (git's "racily clean" rule).
#[derive(Debug)]
pub struct FileCache {
    /// Where it is kept; `None` for one that remembers nothing.
    path: Option<PathBuf>,
    known: HashMap<PathBuf, Known>,
    /// What this build asked for.
    asked: Mutex<Asked>,
    /// When reading began, in nanoseconds since 1970.
    began: i128,
}

#[derive(Debug, Default)]
struct Asked {
    files: HashMap<PathBuf, Known>,
    /// Whether anything had to be read.
    changed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    stamp: [u64; 7],
    digest: Digest,
}

/// Files that changed so shortly before they were read are not believed the next time.
const RACY_NANOS: i128 = 20_000_000;

const MAGIC: &[u8] = b"mica files 1\n";

impl FileCache {
    /// One that remembers nothing.
    pub fn none() -> Self {
        Self { path: None, known: HashMap::new(), asked: Mutex::default(), began: 0 }
    }

    /// The digests kept for the folder `context` in `dir`. What cannot be read is not there.
    pub fn open(dir: &Path, context: &Path) -> Self {
        let name = Digest::of(context.as_os_str().as_bytes()).hex();
        let path = dir.join("files").join(name);
        let known = fs::read(&path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let began = i128::try_from(now).unwrap_or(i128::MAX);
        Self { path: Some(path), known, asked: Mutex::default(), began }
    }

    /// The digest of a file, read only where it may have changed.
    ///
    /// # Errors
    /// What reading it says.
    pub fn digest(
        &self,
        path: &Path,
        metadata: &Metadata,
        open: impl FnOnce() -> io::Result<File>,
    ) -> io::Result<Digest> {
        let stamp = stamp(metadata);
        let known = self.known.get(path).filter(|known| known.stamp == stamp);
        let digest = match known {
            Some(known) => known.digest,
            None => hash_file(open()?)?,
        };
        if self.path.is_some() {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.changed |= known.is_none();
            if nanos(metadata.ctime).max(nanos(metadata.mtime)) + RACY_NANOS < self.began {
                asked.files.insert(path.to_owned(), Known { stamp, digest });
            }
        }
        Ok(digest)
    }

    /// Keeps what this build asked for, for the next one. What cannot be written is not kept.
    pub fn save(&self, scratch: &Path) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = self.path.as_ref().filter(|_| asked.changed) else { return };
        let write = || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(scratch, encode(&asked.files))?;
            fs::rename(scratch, path)
        };
        // A cache that cannot be written costs time and nothing else.
        drop(write());
    }
}

fn hash_file(mut file: File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::finish(hasher)),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn nanos(time: Timestamp) -> i128 {
    i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos)
}

fn stamp(metadata: &Metadata) -> [u64; 7] {
    [
        metadata.dev,
        metadata.ino,
        metadata.size,
        metadata.mtime.secs.cast_unsigned(),
        metadata.mtime.nanos.into(),
        metadata.ctime.secs.cast_unsigned(),
        metadata.ctime.nanos.into(),
    ]
}

/// The magic line; for each file the length of its path, the path, the stamp and the digest; and the
/// digest of all that.
fn encode(files: &HashMap<PathBuf, Known>) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for (path, known) in files {
        let path = path.as_os_str().as_bytes();
        out.extend((path.len() as u64).to_le_bytes());
        out.extend(path);
        known.stamp.iter().for_each(|number| out.extend(number.to_le_bytes()));
        out.extend(known.digest.as_bytes());
    }
    let sum = Digest::of(&out);
    out.extend(sum.as_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<HashMap<PathBuf, Known>> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    if Digest::of(body).as_bytes() != sum {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut files = HashMap::new();
    while !rest.is_empty() {
        let length = usize::try_from(take_number(&mut rest)?).ok()?;
        let (path, after) = rest.split_at_checked(length)?;
        rest = after;
        let mut stamp = [0; 7];
        for number in &mut stamp {
            *number = take_number(&mut rest)?;
        }
        let (digest, after) = rest.split_first_chunk::<32>()?;
        rest = after;
        let path = std::ffi::OsString::from_vec(path.to_vec());
        files.insert(path.into(), Known { stamp, digest: Digest::from_bytes(*digest) });
    }
    Some(files)
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Handle, View};

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
        assert_eq!(digest(&first, true), Digest::of(b"one"));
        first.save(&dir.path().join("scratch"));
        // It was written just before it was read: not believed.
        assert_eq!(digest(&FileCache::open(&kept, &context), true), Digest::of(b"one"));
        first.began += 1_000_000_000;
        digest(&first, true);
        first.save(&dir.path().join("scratch"));
        assert_eq!(digest(&FileCache::open(&kept, &context), false), Digest::of(b"one"));
        fs::write(&file, "two").expect("written");
        assert_eq!(digest(&FileCache::open(&kept, &context), true), Digest::of(b"two"));
    }

    #[test]
    fn damage_is_forgotten() {
        let known = Known { stamp: [1, 2, 3, 4, 5, 6, 7], digest: Digest::of(b"x") };
        let files = HashMap::from([(PathBuf::from("a/b"), known)]);
        let good = encode(&files);
        assert_eq!(decode(&good), Some(files));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&bad), None);
            assert_eq!(decode(&good[..at]), None);
        }
    }
}
