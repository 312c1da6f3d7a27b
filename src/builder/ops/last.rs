//! What the same instruction made the last time: files that did not change since are linked into the
//! new layer, which costs neither their bytes nor a new inode.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::cache::receipts::{Receipt, Receipts};
use crate::snapshot::{Attributes, Entry, Handle, UpperDir, View};

/// So much of both files is compared at once.
const PIECE_BYTES: usize = 128 << 10;

/// The files of a layer that the same instruction made before, perhaps of other sources.
///
/// A layer never changes, so a file of it can be in another one as well, if that one is to have it
/// byte for byte, with the same owner, mode and time. That its receipt is the same tells so; without one,
/// the bytes are compared. Whatever cannot be read is not there.
#[derive(Debug)]
pub(super) struct LastTime {
    view: View,
    receipts: Receipts,
}

impl LastTime {
    /// The layer directory `dir`, taken as it is on disk, and what is kept of its sources.
    pub(super) fn open(dir: &Path, receipts: &Path) -> Option<Self> {
        let view = View::plain(Handle::open(dir).ok()?).ok()?;
        Some(Self { view, receipts: Receipts::read(receipts) })
    }

    /// The folder at `path`.
    pub(super) fn folder(&self, path: &Path) -> Option<LastFolder<'_>> {
        let entry = self.view.lookup(path).ok()??;
        entry.is_dir().then_some(LastFolder { last: self, entry })
    }
}

/// A folder of it.
#[derive(Debug, Clone)]
pub(super) struct LastFolder<'a> {
    last: &'a LastTime,
    entry: Entry,
}

impl LastFolder<'_> {
    /// The folder `name` in it.
    pub(super) fn folder(&self, name: &OsStr) -> Option<Self> {
        let entry = self.last.view.child(&self.entry, name).ok()??;
        entry.is_dir().then_some(Self { last: self.last, entry })
    }

    /// Whether the file `name` came to `dir` as the receipt says and could be put there again.
    pub(super) fn again(&self, receipt: &Receipt, dir: &UpperDir, name: &OsStr) -> bool {
        self.last.receipts.has(receipt) && dir.link_from(&self.entry, name).is_ok()
    }

    /// The file `name`, if it has these attributes and the bytes of `file`, which are `size`.
    pub(super) fn same(
        &self,
        name: &OsStr,
        attributes: &Attributes,
        file: &File,
        size: u64,
    ) -> Option<Entry> {
        let found = self.last.view.child(&self.entry, name).ok()??;
        let metadata = found.metadata();
        let alike = metadata.is_file()
            && metadata.size == size
            && metadata.mtime == attributes.mtime
            && (metadata.mode, metadata.uid, metadata.gid)
                == (attributes.mode, attributes.uid, attributes.gid);
        if !alike || !attributes.xattrs.is_empty() {
            return None;
        }
        let before = self.last.view.open_file(&found).ok()?;
        // Any xattr may make it something else than it seems to be.
        let plain = found.has_no_xattrs(&before).ok()?;
        (plain && same_bytes(&before, file, size).ok()?).then_some(found)
    }
}

/// Whether two files have the same `size` bytes, and no more.
fn same_bytes(one: &File, other: &File, size: u64) -> io::Result<bool> {
    // One byte more, to see where they end.
    let piece = usize::try_from(size).unwrap_or(usize::MAX).min(PIECE_BYTES - 1) + 1;
    let [mut first, mut second] = [vec![0; piece], vec![0; piece]];
    let mut at = 0;
    loop {
        let (read, also) = (fill(one, &mut first, at)?, fill(other, &mut second, at)?);
        if first[..read] != second[..also] {
            return Ok(false);
        }
        at += read as u64;
        if read < piece {
            return Ok(at == size);
        }
    }
}

fn fill(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            // Short of the last byte, which is there to see that there is none.
            Ok(read) if filled + read + 1 == buffer.len() => return Ok(filled + read),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::snapshot::Timestamp;

    const TIME: Timestamp = Timestamp { secs: 1_000_000_000, nanos: 5 };

    /// Whether `now` would be the file that held `before`.
    fn is_same(before: &[u8], now: &[u8], change: impl FnOnce(&Path, &mut Attributes)) -> bool {
        let dir = tempfile::tempdir().expect("a folder");
        let [layer, context] = ["layer", "context"].map(|name| dir.path().join(name));
        fs::create_dir_all(layer.join("app")).expect("made");
        let file = layer.join("app/f");
        fs::write(&file, before).expect("written");
        fs::write(&context, now).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("set");
        let handle = Handle::open(&layer.join("app")).expect("opened");
        handle.set_mtime("f".as_ref(), TIME).expect("set");
        let found = handle.stat("f".as_ref()).expect("read").expect("there");
        let mut wanted = Attributes { mode: 0o640, mtime: TIME, ..Attributes::default() };
        (wanted.uid, wanted.gid) = (found.uid, found.gid);
        change(&file, &mut wanted);
        let last = LastTime::open(&layer, Path::new("none")).expect("opened");
        assert!(last.folder(Path::new("elsewhere")).is_none());
        let folder = last.folder(Path::new("app")).expect("there");
        let file = File::open(&context).expect("opened");
        folder.same("f".as_ref(), &wanted, &file, now.len() as u64).is_some()
    }

    #[test]
    fn only_what_is_the_same_in_all_is_linked() {
        assert!(is_same(b"text", b"text", |_, _| {}));
        assert!(is_same(b"", b"", |_, _| {}));
        // A change that nothing but the bytes tells of.
        assert!(!is_same(b"text", b"next", |_, _| {}));
        assert!(!is_same(b"text", b"text", |_, wanted| wanted.mtime.nanos += 1));
        assert!(!is_same(b"text", b"text", |_, wanted| wanted.mode = 0o644));
        assert!(!is_same(b"text", b"text", |_, wanted| wanted.uid += 1));
        assert!(!is_same(b"text", b"text", |_, wanted| wanted.gid += 1));
        assert!(!is_same(b"text", b"text", |_, wanted| {
            wanted.xattrs.push(("user.a".into(), b"b".to_vec()));
        }));
        assert!(!is_same(b"text", b"text", |file, _| fs::remove_file(file).expect("removed")));
    }

    #[test]
    fn all_bytes_are_compared() {
        for size in [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + 5] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            assert!(is_same(&bytes, &bytes, |_, _| {}), "{size}");
            for at in [0, size / 2, size - 1] {
                let mut other = bytes.clone();
                other[at] ^= 1;
                assert!(!is_same(&bytes, &other, |_, _| {}), "{size} {at}");
            }
        }
    }
}
