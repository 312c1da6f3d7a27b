//! Packs a whole root file system, all its layers merged, into one tar.

use std::collections::HashMap;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;

use tar::{Builder, EntryType};

use super::entry::{CAPABILITY, Entry};
use super::header::BLOCK_BYTES;
use super::{LayerError, Result};
use crate::snapshot::{self, Kind, Metadata, SnapshotError, View, ViewEvent, ViewWalk};

/// Writes the files of a root file system to `out` as a tar of the form that layers have, without
/// whiteouts. With an `epoch`, in seconds since 1970, everything has that time.
///
/// Memory is bounded by the number of files that have several names; nothing recurses.
///
/// # Errors
/// What the kernel and `out` say; what was written by then is no whole tar.
pub fn pack_view(view: &View, epoch: Option<i64>, out: impl Write) -> Result<()> {
    let tar = Builder::new(BufWriter::with_capacity(256 << 10, out));
    let mut packer = Packer { view, epoch, tar, links: HashMap::new(), buffer: vec![0; 256 << 10] };
    let mut walk = ViewWalk::new(view).map_err(walk_error)?;
    while let Some(event) = walk.advance().map_err(walk_error)? {
        match event {
            ViewEvent::Enter(entry) => packer.directory(&entry)?,
            ViewEvent::Leaf(entry) => packer.leaf(&entry)?,
            ViewEvent::Leave => {}
        }
    }
    let mut out = packer.tar.into_inner().map_err(LayerError::write)?;
    out.flush().map_err(LayerError::write)
}

struct Packer<'a, W: Write> {
    view: &'a View,
    epoch: Option<i64>,
    tar: Builder<W>,
    /// The first names of files that have several, by device, inode and layer.
    links: HashMap<(u64, u64, usize), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<'_, W> {
    fn directory(&mut self, entry: &snapshot::Entry) -> Result<()> {
        let path = [entry.path().as_os_str().as_bytes(), b"/"].concat();
        let mut header = self.new_header(EntryType::Directory, path, entry.metadata());
        header.capability = self.capability(entry)?;
        header.write(&mut self.tar)
    }

    fn leaf(&mut self, entry: &snapshot::Entry) -> Result<()> {
        let metadata = entry.metadata();
        let path = entry.path().as_os_str().as_bytes().to_vec();
        if metadata.nlink > 1 {
            let id = (metadata.dev, metadata.ino, entry.layer());
            if let Some(first) = self.links.get(&id) {
                let link = first.clone();
                let mut header = self.new_header(EntryType::Link, path, metadata);
                header.link = link;
                return header.write(&mut self.tar);
            }
            self.links.insert(id, path.clone());
        }
        let kind = match metadata.kind {
            Kind::File => return self.file(entry, path),
            Kind::Symlink => EntryType::Symlink,
            Kind::CharDevice => EntryType::Char,
            Kind::BlockDevice => EntryType::Block,
            Kind::Fifo => EntryType::Fifo,
            Kind::Directory | Kind::Socket => return Ok(()),
        };
        let mut header = self.new_header(kind, path, metadata);
        match metadata.kind {
            Kind::Symlink => {
                let target = self.view.read_link(entry).map_err(walk_error)?;
                header.link = target.as_os_str().as_bytes().to_vec();
            }
            Kind::CharDevice | Kind::BlockDevice => header.rdev = Some(metadata.rdev),
            _ => {}
        }
        header.write(&mut self.tar)
    }

    fn file(&mut self, entry: &snapshot::Entry, path: Vec<u8>) -> Result<()> {
        let size = entry.metadata().size;
        let mut header = self.new_header(EntryType::Regular, path, entry.metadata());
        header.size = size;
        header.capability = self.capability(entry)?;
        let file = self.view.open_file(entry).map_err(walk_error)?;
        header.write(&mut self.tar)?;
        let failed = |source| LayerError::Walk { path: entry.path().to_owned(), source };
        let mut content = file.take(size);
        let mut left = size;
        while left > 0 {
            let read = match content.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(failed)?,
            };
            if read == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            self.tar.get_mut().write_all(&self.buffer[..read]).map_err(LayerError::write)?;
            left -= read as u64;
        }
        let padding = usize::try_from(size.wrapping_neg() % BLOCK_BYTES as u64).unwrap_or_default();
        self.tar.get_mut().write_all(&[0; BLOCK_BYTES][..padding]).map_err(LayerError::write)
    }

    fn new_header(&self, kind: EntryType, path: Vec<u8>, metadata: &Metadata) -> Entry {
        let mut header = Entry::new(kind, path, metadata);
        header.mtime_secs = self.epoch.unwrap_or(header.mtime_secs);
        header
    }

    fn capability(&self, entry: &snapshot::Entry) -> Result<Option<Vec<u8>>> {
        let xattrs = self.view.xattrs(entry).map_err(walk_error)?;
        Ok(xattrs.into_iter().find(|(name, _)| name == CAPABILITY).map(|(_, value)| value))
    }
}

fn walk_error(error: SnapshotError) -> LayerError {
    match error {
        SnapshotError::Io { path, source, .. } => LayerError::Walk { path, source },
        other => LayerError::Walk {
            path: std::path::PathBuf::new(),
            source: io::Error::other(other.to_string()),
        },
    }
}
