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
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tar::{Builder, EntryType};

use super::beside::HashBeside;
use super::entry::{CAPABILITY, Entry, without_namespace};
use super::header::BLOCK_BYTES;
use super::outside::{Between, Nothing, Outside};
use super::{LayerError, MAX_DEPTH, MAX_PATH, OPAQUE, Refusal, Result, WHITEOUT};
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
    pack_with(layer, Nothing, out)
}

/// The same for a layer of which a part is `outside` of the directory: the tar is that of a directory
/// which has it all.
///
/// # Errors
/// As [`pack`].
pub fn pack_with<O: Outside>(
    layer: &Handle,
    outside: O,
    out: impl Write,
) -> std::result::Result<Packed, O::Error> {
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
    let mut between = Between::new(outside);
    while let Some(event) = walk.advance().map_err(|error| failed(walk.path(), error))? {
        if !matches!(event, WalkEvent::Leave) {
            let dir = walk.path().parent().unwrap_or(root);
            while let Some(item) = between.before(walk.name()) {
                packer.outside(&mut between.outside, dir, item)?;
            }
        }
        match event {
            WalkEvent::Enter(metadata) => {
                packer.walked_directory(&walk, &metadata)?;
                between.enter(walk.path());
            }
            WalkEvent::Leaf(metadata) => packer.leaf(&walk, &metadata)?,
            WalkEvent::Leave => {
                while let Some(item) = between.rest() {
                    packer.outside(&mut between.outside, walk.path(), item)?;
                }
            }
        }
    }
    while let Some(item) = between.rest() {
        packer.outside(&mut between.outside, root, item)?;
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
    fn walked_directory(&mut self, walk: &Walk, metadata: &Metadata) -> Result<()> {
        let failed = |source| LayerError::Walk { path: walk.path().to_owned(), source };
        if !walk.has_xattrs() {
            return self.directory(walk.path(), metadata, None).map(drop);
        }
        let capability = walk.dir().xattr(None, CAPABILITY).map_err(failed)?;
        let path = self.directory(walk.path(), metadata, capability)?;
        if walk.dir().is_opaque().map_err(failed)? {
            self.opaque(path)?;
        }
        Ok(())
    }

    fn directory<'p>(
        &mut self,
        path: &'p Path,
        metadata: &Metadata,
        capability: Option<Vec<u8>>,
    ) -> Result<&'p [u8]> {
        if path.iter().count() > MAX_DEPTH {
            let (path, reason) = (path.to_owned(), Refusal::TooDeep);
            return Err(LayerError::Refused { path, reason });
        }
        let path = plain(path)?;
        let mut entry = Entry::new(EntryType::Directory, [path, b"/"].concat(), metadata);
        entry.capability = capability;
        self.note(b'd', path, metadata, entry.capability.as_deref());
        self.header(&entry)?;
        Ok(path)
    }

    fn leaf(&mut self, walk: &Walk, metadata: &Metadata) -> Result<()> {
        let path = plain(walk.path())?;
        if metadata.is_whiteout() {
            let name = walk.name().as_bytes();
            let marked = [&path[..path.len() - name.len()], WHITEOUT, name].concat();
            self.note_name(b'w', path);
            return self.header(&Entry::mark(marked));
        }
        if metadata.kind == Kind::Socket || self.link_to_first(path, metadata)? {
            return Ok(());
        }
        let failed = |source| LayerError::Walk { path: walk.path().to_owned(), source };
        match metadata.kind {
            Kind::File => {
                let mut capability = None;
                if walk.has_xattrs() {
                    let value = walk.dir().xattr(Some(walk.name()), CAPABILITY);
                    capability = value.map_err(failed)?;
                }
                let file = walk.file().ok_or_else(|| changed(path))?;
                self.file(path, metadata, capability, file)
            }
            Kind::Symlink => {
                let target = walk.dir().read_link(walk.name()).map_err(failed)?;
                self.symlink(path, metadata, &target)
            }
            _ => self.special(path, metadata),
        }
    }

    /// What is not in the layer's directory, but belongs in the folder `dir` of it: with all in it, if it
    /// is a folder.
    fn outside<O: Outside>(
        &mut self,
        outside: &mut O,
        dir: &Path,
        item: O::Item,
    ) -> std::result::Result<(), O::Error> {
        let mut way = vec![(dir.to_owned(), vec![item].into_iter())];
        while let Some((dir, items)) = way.last_mut() {
            let Some(item) = items.next() else {
                way.pop();
                continue;
            };
            let path = dir.join(outside.name(&item));
            let metadata = outside.metadata(&item);
            if metadata.is_dir() {
                self.directory(&path, &metadata, None)?;
                let items = outside.items_in(&path).into_iter();
                way.push((path, items));
                continue;
            }
            let path = plain(&path)?;
            if self.link_to_first(path, &metadata)? {
                continue;
            }
            match metadata.kind {
                Kind::File => {
                    let file = outside.open(&item)?;
                    self.file(path, &metadata, None, &file)?;
                    outside.was_read(&item, &file)?;
                }
                Kind::Symlink => self.symlink(path, &metadata, &outside.read_link(&item)?)?,
                _ => self.special(path, &metadata)?,
            }
        }
        Ok(())
    }

    /// Writes a file that was written under another name as a link to that. False for the first name.
    fn link_to_first(&mut self, path: &[u8], metadata: &Metadata) -> Result<bool> {
        if metadata.nlink <= 1 {
            return Ok(false);
        }
        let id = (metadata.dev, metadata.ino);
        let Some(first) = self.links.get(&id) else {
            self.links.insert(id, path.to_vec());
            return Ok(false);
        };
        let mut entry = Entry::new(EntryType::Link, path.to_vec(), metadata);
        entry.link.clone_from(first);
        self.note_name(b'h', path);
        self.note_bytes(&entry.link);
        self.header(&entry)?;
        Ok(true)
    }

    fn symlink(&mut self, path: &[u8], metadata: &Metadata, target: &Path) -> Result<()> {
        let mut entry = Entry::new(EntryType::Symlink, path.to_vec(), metadata);
        entry.link = target.as_os_str().as_bytes().to_vec();
        self.note(b'l', path, metadata, None);
        self.note_bytes(&entry.link);
        self.header(&entry)
    }

    /// A pipe or a device.
    fn special(&mut self, path: &[u8], metadata: &Metadata) -> Result<()> {
        let (tag, entry_type) = match metadata.kind {
            Kind::CharDevice => (b'c', EntryType::Char),
            Kind::BlockDevice => (b'b', EntryType::Block),
            _ => (b'p', EntryType::Fifo),
        };
        self.note(tag, path, metadata, None);
        let mut entry = Entry::new(entry_type, path.to_vec(), metadata);
        if entry_type != EntryType::Fifo {
            entry.rdev = Some(metadata.rdev);
            self.content.update(&metadata.rdev.0.to_le_bytes());
            self.content.update(&metadata.rdev.1.to_le_bytes());
        }
        self.header(&entry)
    }

    fn file(
        &mut self,
        path: &[u8],
        metadata: &Metadata,
        capability: Option<Vec<u8>>,
        mut file: &File,
    ) -> Result<()> {
        let mut entry = Entry::new(EntryType::Regular, path.to_vec(), metadata);
        entry.size = metadata.size;
        entry.capability = capability;
        self.note(b'f', path, metadata, entry.capability.as_deref());
        self.content.update(&metadata.size.to_le_bytes());
        self.header(&entry)?;
        let mut left = metadata.size;
        let longest = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        if self.buffer.len() < longest {
            self.buffer.resize(longest, 0);
        }
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = match file.read(&mut self.buffer[..want]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(|source| {
                    let path = Path::new(OsStr::from_bytes(path)).to_owned();
                    LayerError::Walk { path, source }
                })?,
            };
            if read == 0 {
                return Err(changed(path));
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

/// The bytes of a path, unless no layer can have it.
fn plain(path: &Path) -> Result<&[u8]> {
    let refused = |reason| Err(LayerError::Refused { path: path.to_owned(), reason });
    let name = path.file_name().unwrap_or_default();
    if name.as_bytes().starts_with(WHITEOUT) {
        return refused(Refusal::Unrepresentable);
    }
    if path.as_os_str().len() > MAX_PATH {
        return refused(Refusal::TooLong);
    }
    Ok(path.as_os_str().as_bytes())
}

fn changed(path: &[u8]) -> LayerError {
    let path = Path::new(OsStr::from_bytes(path)).to_owned();
    LayerError::Refused { path, reason: Refusal::Changed }
}
