//! Packs a layer directory into a tar.
//!
//! # The tar
//! Entries are sorted by name, depth first, a directory before what is in it; the root has none.
//! Names are relative, directories end in a slash. Owners are numbers, times whole seconds. What does
//! not fit into a POSIX header goes into pax records: `path`, `linkpath`, `size`, `uid`, `gid`,
//! `mtime` and `SCHILY.xattr.security.capability`, the one xattr that Docker keeps in a layer. The
//! first name of a file is its entry, its other names are links to it. Sockets are left out.
//!
//! # The content digest
//! It is the BLAKE3 of `mica-tree-2\n` and then, for each entry of the tar in its order: one byte for
//! its type (`f` file, `d` directory, `l` symbolic link, `h` hard link, `p` pipe, `c` and `b`
//! devices, `w` whiteout, `o` opaque, with the name of the directory); the length of its name and the
//! name; and, but for `w`, `o` and `h`: mode, owner and group, the number of xattrs, and each one's
//! name and value with their lengths. Then, by type, the size and the bytes of the content, the target
//! of a link with its length, or the device's major and minor number. Lengths and sizes are 8 bytes,
//! other numbers 4, little-endian. Times are left out, so that a step that was run again and made the
//! same files comes to the same digest.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tar::{Builder, EntryType};

use super::beside::HashBeside;
use super::entry::{CAPABILITY, Entry, without_namespace};
use super::header::BLOCK_BYTES;
use super::{LayerError, MAX_DEPTH, OPAQUE, Refusal, Result, WHITEOUT};
use crate::oci::{DiffId, Digest};
use crate::snapshot::{Handle, Kind, Metadata, Walk, WalkEvent};

/// A layer that was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// The digest of the tar.
    pub diff_id: DiffId,
    /// The size of the tar in bytes.
    pub size: u64,
    /// The digest of what the layer holds, without times; see the head of this module.
    pub content: Digest,
}

/// Packs a layer directory into a tar that is written to `out`: a pure function of the directory.
///
/// With [`io::sink`] as `out`, it only hashes. Memory is bounded by the number of files that have
/// several names; nothing recurses.
///
/// # Errors
/// [`LayerError::Refused`] for a file whose name begins with `.wh.`, and for one that changes while it
/// is read; else what the kernel and `out` say.
pub fn pack(layer: &Handle, out: impl Write) -> Result<Packed> {
    let root = Path::new("");
    let failed = |path: &Path, source| LayerError::Walk { path: path.to_owned(), source };
    let root_handle = layer.try_clone().map_err(|error| failed(root, error))?;
    let mut content = blake3::Hasher::new();
    content.update(b"mica-tree-2\n");
    let tar = Builder::new(HashBeside::new(out));
    let mut packer = Packer { tar, content, links: HashMap::new(), buffer: Vec::new() };
    if root_handle.is_opaque().map_err(|error| failed(root, error))? {
        packer.opaque(b"")?;
    }
    let mut walk = Walk::opening_files(root_handle).map_err(|error| failed(root, error))?;
    while let Some(event) = walk.advance().map_err(|error| failed(walk.path(), error))? {
        match event {
            WalkEvent::Enter(_) if walk.path().iter().count() > MAX_DEPTH => {
                let (path, reason) = (walk.path().to_owned(), Refusal::TooDeep);
                return Err(LayerError::Refused { path, reason });
            }
            WalkEvent::Enter(metadata) => packer.directory(&walk, &metadata)?,
            WalkEvent::Leaf(metadata) => packer.leaf(&walk, &metadata)?,
            WalkEvent::Leave => {}
        }
    }
    let out = packer.tar.into_inner().map_err(LayerError::write)?;
    let (diff_id, size) = out.finish().map_err(LayerError::write)?;
    let content = Digest::from_bytes(*packer.content.finalize().as_bytes());
    Ok(Packed { diff_id: DiffId(diff_id), size, content })
}

/// So much of a file is read at once.
const BUFFER_BYTES: usize = 512 << 10;

struct Packer<W: Write> {
    tar: Builder<HashBeside<W>>,
    content: blake3::Hasher,
    /// The first names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<W> {
    fn directory(&mut self, walk: &Walk, metadata: &Metadata) -> Result<()> {
        let path = plain_path(walk)?;
        let failed = |source| LayerError::Walk { path: walk.path().to_owned(), source };
        let capability = walk.dir().xattr(None, CAPABILITY).map_err(failed)?;
        let mut entry = Entry::new(EntryType::Directory, [path, b"/"].concat(), metadata);
        entry.capability = capability;
        self.note(b'd', path, metadata, entry.capability.as_deref());
        self.header(&entry)?;
        if walk.dir().is_opaque().map_err(failed)? {
            self.opaque(path)?;
        }
        Ok(())
    }

    fn leaf(&mut self, walk: &Walk, metadata: &Metadata) -> Result<()> {
        let path = plain_path(walk)?;
        if metadata.is_whiteout() {
            let name = walk.name().as_bytes();
            let marked = [&path[..path.len() - name.len()], WHITEOUT, name].concat();
            self.note_name(b'w', path);
            return self.header(&Entry::mark(marked));
        }
        if metadata.kind == Kind::Socket {
            return Ok(());
        }
        if metadata.nlink > 1 {
            let id = (metadata.dev, metadata.ino);
            if let Some(first) = self.links.get(&id) {
                let mut entry = Entry::new(EntryType::Link, path.to_vec(), metadata);
                entry.link.clone_from(first);
                self.note_name(b'h', path);
                self.note_bytes(&entry.link);
                return self.header(&entry);
            }
            self.links.insert(id, path.to_vec());
        }
        match metadata.kind {
            Kind::File => self.file(walk, path, metadata),
            Kind::Symlink => {
                let failed = |source| LayerError::Walk { path: walk.path().to_owned(), source };
                let target = walk.dir().read_link(walk.name()).map_err(failed)?;
                let mut entry = Entry::new(EntryType::Symlink, path.to_vec(), metadata);
                entry.link = target.as_os_str().as_bytes().to_vec();
                self.note(b'l', path, metadata, None);
                self.note_bytes(&entry.link);
                self.header(&entry)
            }
            kind => {
                let (tag, entry_type) = match kind {
                    Kind::CharDevice => (b'c', EntryType::Char),
                    Kind::BlockDevice => (b'b', EntryType::Block),
                    _ => (b'p', EntryType::Fifo),
                };
                self.note(tag, path, metadata, None);
                let mut entry = Entry::new(entry_type, path.to_vec(), metadata);
                if kind != Kind::Fifo {
                    entry.rdev = Some(metadata.rdev);
                    self.content.update(&metadata.rdev.0.to_le_bytes());
                    self.content.update(&metadata.rdev.1.to_le_bytes());
                }
                self.header(&entry)
            }
        }
    }

    fn file(&mut self, walk: &Walk, path: &[u8], metadata: &Metadata) -> Result<()> {
        let failed = |source| LayerError::Walk { path: walk.path().to_owned(), source };
        let mut entry = Entry::new(EntryType::Regular, path.to_vec(), metadata);
        entry.size = metadata.size;
        if walk.has_xattrs() {
            entry.capability = walk.dir().xattr(Some(walk.name()), CAPABILITY).map_err(failed)?;
        }
        self.note(b'f', path, metadata, entry.capability.as_deref());
        self.content.update(&metadata.size.to_le_bytes());
        self.header(&entry)?;
        let changed = || {
            let path = walk.path().to_owned();
            LayerError::Refused { path, reason: Refusal::Changed }
        };
        let mut file = walk.file().ok_or_else(changed)?;
        let mut left = metadata.size;
        let longest = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        if self.buffer.len() < longest {
            self.buffer.resize(longest, 0);
        }
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = match file.read(&mut self.buffer[..want]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(failed)?,
            };
            if read == 0 {
                return Err(changed());
            }
            self.content.update(&self.buffer[..read]);
            self.tar.get_mut().write_all(&self.buffer[..read]).map_err(LayerError::write)?;
            left -= read as u64;
        }
        let padding = metadata.size.wrapping_neg() % BLOCK_BYTES as u64;
        let padding = usize::try_from(padding).unwrap_or_default();
        self.tar.get_mut().write_all(&[0; BLOCK_BYTES][..padding]).map_err(LayerError::write)
    }

    fn opaque(&mut self, dir: &[u8]) -> Result<()> {
        self.note_name(b'o', dir);
        let slash = if dir.is_empty() { &b""[..] } else { b"/" };
        self.header(&Entry::mark([dir, slash, OPAQUE].concat()))
    }

    fn header(&mut self, entry: &Entry) -> Result<()> {
        entry.write(&mut self.tar)
    }

    fn note(&mut self, tag: u8, path: &[u8], metadata: &Metadata, capability: Option<&[u8]>) {
        self.note_name(tag, path);
        for number in [metadata.mode, metadata.uid, metadata.gid] {
            self.content.update(&number.to_le_bytes());
        }
        self.content.update(&u32::from(capability.is_some()).to_le_bytes());
        if let Some(value) = capability {
            self.note_bytes(CAPABILITY.as_bytes());
            self.note_bytes(&without_namespace(value));
        }
    }

    fn note_name(&mut self, tag: u8, path: &[u8]) {
        self.content.update(&[tag]);
        self.note_bytes(path);
    }

    fn note_bytes(&mut self, bytes: &[u8]) {
        self.content.update(&(bytes.len() as u64).to_le_bytes());
        self.content.update(bytes);
    }
}

/// The path of a walk's last event, unless it would mean a deletion in a layer.
fn plain_path(walk: &Walk) -> Result<&[u8]> {
    if walk.name().as_bytes().starts_with(WHITEOUT) {
        let path = walk.path().to_owned();
        return Err(LayerError::Refused { path, reason: Refusal::Unrepresentable });
    }
    Ok(walk.path().as_os_str().as_bytes())
}
