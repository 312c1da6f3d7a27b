//! File content copied the cheapest way that the file system offers.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use rustix::fs::{self as sys, SeekFrom};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::{Result, SnapshotError};

/// How [`copy_file`] copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// By sharing the blocks (reflink): no data was moved.
    Cloned,
    /// Inside of the kernel.
    InKernel,
    /// Through a buffer of this process.
    Buffered,
}

/// Up to this size one read and one write cost less than asking for a reflink that may not be had.
const SMALL_BYTES: u64 = 128 << 10;
const BUFFER_BYTES: usize = 1 << 20;

/// Copies the `len` bytes of `source` to the empty file `target`, and into `hasher` if there is one.
///
/// Holes of large files stay holes. Both files must be positioned at their start; where they are
/// positioned afterwards is not said.
///
/// # Errors
/// [`SnapshotError::Changed`] if the source turns out to be shorter or longer than `len`, else what
/// the kernel says.
pub fn copy_file(
    source: &File,
    target: &File,
    len: u64,
    mut hasher: Option<&mut Sha256>,
) -> Result<Copied> {
    if len <= SMALL_BYTES {
        copy_small(source, target, len, hasher)?;
        return Ok(Copied::Buffered);
    }
    let copied = if sys::ioctl_ficlone(target, source).is_ok() {
        if let Some(hasher) = hasher {
            each_segment(source, len, |segment| match segment {
                Segment::Hole(bytes) => hash_zeros(hasher, bytes),
                Segment::Data(start, bytes) => through_buffer(source, start, bytes, |_, data| {
                    hasher.update(data);
                    Ok(())
                }),
            })?;
        }
        Copied::Cloned
    } else {
        let mut way = Copied::InKernel;
        each_segment(source, len, |segment| match segment {
            Segment::Hole(bytes) => {
                hasher.as_deref_mut().map_or(Ok(()), |hasher| hash_zeros(hasher, bytes))
            }
            Segment::Data(start, bytes) => {
                way = copy_segment(source, target, start, bytes, hasher.as_deref_mut())?;
                Ok(())
            }
        })?;
        sys::ftruncate(target, len).map_err(failed)?;
        way
    };
    let found = source.metadata().map_err(failed)?.len();
    if found == len { Ok(copied) } else { Err(SnapshotError::Changed { expected: len, found }) }
}

fn copy_small(
    mut source: &File,
    mut target: &File,
    len: u64,
    hasher: Option<&mut Sha256>,
) -> Result<()> {
    let expected = usize::try_from(len).unwrap_or(usize::MAX);
    // One byte more, so that a file that has grown is noticed without another call.
    let mut buffer = vec![0; expected + 1];
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]).map_err(failed)? {
            0 => break,
            read => filled += read,
        }
        if filled == expected {
            break;
        }
    }
    if filled != expected {
        return Err(SnapshotError::Changed { expected: len, found: filled as u64 });
    }
    if let Some(hasher) = hasher {
        hasher.update(&buffer[..filled]);
    }
    target.write_all(&buffer[..filled]).map_err(failed)
}

enum Segment {
    Data(u64, u64),
    Hole(u64),
}

/// Calls `visit` for the stretches of data and the holes of a file, in order.
fn each_segment(
    source: &File,
    len: u64,
    mut visit: impl FnMut(Segment) -> Result<()>,
) -> Result<()> {
    let mut at = 0;
    while at < len {
        let data = match sys::seek(source, SeekFrom::Data(at)) {
            Ok(data) => data.min(len),
            // No data up to the end.
            Err(Errno::NXIO) => len,
            // A file system without holes.
            Err(_) => return visit(Segment::Data(at, len - at)),
        };
        if data > at {
            visit(Segment::Hole(data - at))?;
        }
        if data >= len {
            break;
        }
        let hole = sys::seek(source, SeekFrom::Hole(data)).map_or(len, |hole| hole.min(len));
        visit(Segment::Data(data, hole - data))?;
        at = hole;
    }
    Ok(())
}

fn copy_segment(
    source: &File,
    target: &File,
    start: u64,
    bytes: u64,
    hasher: Option<&mut Sha256>,
) -> Result<Copied> {
    if let Some(hasher) = hasher {
        through_buffer(source, start, bytes, |at, data| {
            hasher.update(data);
            write_at(target, data, at)
        })?;
        return Ok(Copied::Buffered);
    }
    let (mut from, mut to) = (start, start);
    let end = start + bytes;
    while from < end {
        let chunk = usize::try_from(end - from).unwrap_or(usize::MAX).min(1 << 30);
        match sys::copy_file_range(source, Some(&mut from), target, Some(&mut to), chunk) {
            Ok(0) => return Err(SnapshotError::Changed { expected: end, found: from }),
            Ok(_) => {}
            // Some file systems can't, some kernels can't between two of them.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                through_buffer(source, from, end - from, |at, data| write_at(target, data, at))?;
                return Ok(Copied::Buffered);
            }
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(Copied::InKernel)
}

fn through_buffer(
    source: &File,
    start: u64,
    bytes: u64,
    mut take: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let end = start + bytes;
    let size = usize::try_from(bytes).unwrap_or(usize::MAX).min(BUFFER_BYTES);
    let mut buffer = vec![0; size];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(size);
        let read = source.read_at(&mut buffer[..want], at).map_err(failed)?;
        if read == 0 {
            return Err(SnapshotError::Changed { expected: end, found: at });
        }
        take(at, &buffer[..read])?;
        at += read as u64;
    }
    Ok(())
}

fn write_at(target: &File, data: &[u8], at: u64) -> Result<()> {
    use std::os::unix::fs::FileExt;
    target.write_all_at(data, at).map_err(failed)
}

// The result keeps the match arms of the callers alike.
#[expect(clippy::unnecessary_wraps, reason = "one arm among fallible ones")]
fn hash_zeros(hasher: &mut Sha256, mut bytes: u64) -> Result<()> {
    let zeros = [0; 16 << 10];
    while bytes > 0 {
        let chunk = usize::try_from(bytes).unwrap_or(usize::MAX).min(zeros.len());
        hasher.update(&zeros[..chunk]);
        bytes -= chunk as u64;
    }
    Ok(())
}

/// The caller knows the path, and adds it with [`SnapshotError::at`].
fn failed(error: impl Into<std::io::Error>) -> SnapshotError {
    SnapshotError::io("copy", Path::new(""), error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn file(content: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        file
    }

    fn check(content: &[u8]) {
        for hashing in [false, true] {
            let (source, target) = (file(content), file(b""));
            let mut hasher = Sha256::new();
            let len = content.len() as u64;
            copy_file(&source, &target, len, hashing.then_some(&mut hasher)).unwrap();
            assert_eq!(target.metadata().unwrap().len(), len);
            let mut copy = vec![0; content.len()];
            target.read_exact_at(&mut copy, 0).unwrap();
            assert!(copy == content);
            if hashing {
                assert_eq!(hasher.finalize(), Sha256::digest(content));
            }
        }
    }

    #[test]
    fn copies_and_hashes() {
        check(b"");
        check(b"small");
        let large: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        check(&large);
    }

    #[test]
    fn keeps_holes() {
        let source = file(b"");
        source.write_all_at(b"end", 8 << 20).unwrap();
        let (target, mut hasher) = (file(b""), Sha256::new());
        let len = source.metadata().unwrap().len();
        copy_file(&source, &target, len, Some(&mut hasher)).unwrap();
        assert_eq!(target.metadata().unwrap().len(), len);
        assert!(target.metadata().unwrap().blocks() <= source.metadata().unwrap().blocks());
        let mut whole = vec![0; 8 << 20];
        whole.extend_from_slice(b"end");
        assert_eq!(hasher.finalize(), Sha256::digest(&whole));
    }

    #[test]
    fn notices_a_file_that_changed() {
        for (size, claimed) in [(5, 4), (5, 6), (300_000, 299_999), (300_000, 300_001)] {
            let (source, target) = (file(&vec![b'x'; size]), file(b""));
            let result = copy_file(&source, &target, claimed, None);
            assert!(matches!(result, Err(SnapshotError::Changed { .. })), "{size} {claimed}");
        }
    }
}
