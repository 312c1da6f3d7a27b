//! [`Archive`]: where the members of an archive lie, by name.
//!
//! An archive that is a plain file is read where it lies, each member once, when it is known what for. One
//! that comes as a stream, or compressed, is put into a file without a name first.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};

use super::ImportError;
use crate::layer::{self, Format, MemberKind, Members};
use crate::oci::{Descriptor, Digest, HashingReader, MAX_DOCUMENT_BYTES};
use crate::snapshot::{Escaped, Kind};
use crate::store::{Store, StoreError};

/// How many links from member to member are followed.
const MAX_LINKS: usize = 8;

/// What an archive holds. Names are only ever looked up here, never in a file system.
#[derive(Debug)]
pub(super) struct Archive {
    file: File,
    members: HashMap<Vec<u8>, Member>,
    /// Members that were found to be these blobs, and need not be named like them.
    known: HashMap<Digest, Place>,
    hashed: HashMap<Place, Digest>,
}

#[derive(Debug)]
enum Member {
    File(Place),
    /// A hard or symbolic link to another member.
    Link(Vec<u8>),
}

/// Where a member's bytes lie in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    offset: u64,
    pub(super) size: u64,
}

impl Archive {
    /// Opens an archive, compressed or not, and looks for its members up to its end.
    pub(super) fn open(store: &Store, input: File) -> Result<Self, ImportError> {
        let start = plain_start(&input).map_err(ImportError::Read)?;
        let (file, start) = match start {
            Some(start) => (input, start),
            None => (spool(store, input)?, 0),
        };
        let end = file.metadata().map_err(ImportError::Read)?.len();
        let members = find_members(Stretch { file: &file, at: start, end })?;
        Ok(Self { file, members, known: HashMap::new(), hashed: HashMap::new() })
    }

    /// A file of the archive, links between members followed; `None` where there is none.
    pub(super) fn find(&self, name: &str) -> Option<Place> {
        let mut name = clean(name.as_bytes());
        for _ in 0..MAX_LINKS {
            match self.members.get(&name)? {
                Member::File(place) => return Some(*place),
                Member::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    /// The bytes of a member that is a document.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImportError> {
        let Some(place) = self.find(name) else { return Ok(None) };
        self.small(place, || Escaped(name.as_bytes()).to_string()).map(Some)
    }

    fn small(&self, place: Place, what: impl Fn() -> String) -> Result<Vec<u8>, ImportError> {
        let size = place.size;
        if size > MAX_DOCUMENT_BYTES {
            return Err(StoreError::TooLarge { what: what(), size }.into());
        }
        let mut bytes = Vec::new();
        self.bytes(place).read_to_end(&mut bytes).map_err(ImportError::Read)?;
        Ok(bytes)
    }

    /// The bytes of the blob of a descriptor that points to a document.
    pub(super) fn document_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImportError> {
        let bytes = self.small(self.blob(descriptor)?, || descriptor.digest.to_string())?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            let (what, expected) = (name_of(descriptor), descriptor.digest);
            return Err(StoreError::DigestMismatch { what, expected, found }.into());
        }
        Ok(bytes)
    }

    /// The member that says that it is the blob of a descriptor, which its bytes may not be.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<Place, ImportError> {
        let name = format!("blobs/sha256/{}", descriptor.digest.hex());
        // Docker's older archives name their members otherwise.
        let known = || self.known.get(&descriptor.digest).copied();
        let place = self.find(&name).or_else(known).ok_or(ImportError::Missing(name))?;
        if place.size != descriptor.size {
            let (expected, found) = (descriptor.size, place.size);
            let what = name_of(descriptor);
            return Err(StoreError::SizeMismatch { what, expected, found }.into());
        }
        Ok(place)
    }

    /// Notes that a member has this digest, or has to be found to have it.
    pub(super) fn name(&mut self, digest: Digest, place: Place) {
        self.known.insert(digest, place);
    }

    /// Hashes a member, once, however many images have it.
    pub(super) fn hash(&mut self, place: Place) -> Result<Digest, ImportError> {
        if let Some(known) = self.hashed.get(&place) {
            return Ok(*known);
        }
        let mut bytes = HashingReader::new(BufReader::with_capacity(256 << 10, self.bytes(place)));
        io::copy(&mut bytes, &mut io::sink()).map_err(ImportError::Read)?;
        let digest = bytes.finish().0;
        self.hashed.insert(place, digest);
        Ok(digest)
    }

    /// How a member is compressed, by its first bytes.
    pub(super) fn format(&self, place: Place) -> Result<Format, ImportError> {
        let mut start = Vec::new();
        let bytes = self.bytes(place).take(Format::SNIFF_BYTES as u64);
        { bytes }.read_to_end(&mut start).map_err(ImportError::Read)?;
        Ok(Format::sniff(&start))
    }

    /// The bytes of a member, which end early where the archive was cut off meanwhile.
    pub(super) fn bytes(&self, place: Place) -> impl Read + Send + '_ {
        Stretch { file: &self.file, at: place.offset, end: place.offset + place.size }
    }
}

/// What errors call a blob of an archive.
pub(super) fn name_of(descriptor: &Descriptor) -> String {
    format!("the archive's blob {}", descriptor.digest)
}

/// Where an archive begins, if it is a file that is no compressed one.
fn plain_start(mut input: &File) -> io::Result<Option<u64>> {
    if !input.metadata()?.is_file() {
        return Ok(None);
    }
    let start = input.stream_position()?;
    let mut first = [0; Format::SNIFF_BYTES];
    let read = input.read_at(&mut first, start)?;
    Ok((Format::sniff(&first[..read]) == Format::Plain).then_some(start))
}

/// Puts an archive into a file that is gone with this process. Where it is, it is not flushed with others.
fn spool(store: &Store, input: impl Read + Send) -> Result<File, ImportError> {
    let path = store.scratch("archive");
    let failed = |source| StoreError::Io { action: "write to", path: "the store".into(), source };
    let made = File::options().read(true).write(true).create_new(true).open(&path);
    let mut file = made.map_err(failed)?;
    fs::remove_file(&path).map_err(failed)?;
    let (_, tar) = layer::open_archive(input).map_err(ImportError::Read)?;
    let copied = layer::read_ahead(tar, |tar| -> Result<(), ImportError> {
        loop {
            let piece = tar.fill_buf().map_err(ImportError::Read)?;
            if piece.is_empty() {
                return Ok(());
            }
            file.write_all(piece).map_err(failed)?;
            let bytes = piece.len();
            tar.consume(bytes);
        }
    });
    copied.map_err(ImportError::Read)?.1?;
    Ok(file)
}

/// Reads headers, and passes over what lies between them.
fn find_members(bytes: Stretch<'_>) -> Result<HashMap<Vec<u8>, Member>, ImportError> {
    let mut found = HashMap::new();
    let mut members = Members::new(bytes);
    while let Some(member) = members.advance()? {
        let name = clean(&member.path);
        let kept = match member.kind {
            MemberKind::Node(Kind::File) => {
                let size = members.content_bytes();
                let bytes = members.reader();
                let place = Place { offset: bytes.at, size };
                // What is behind the end is found to be missing.
                if let Some(end) = bytes.at.checked_add(size).filter(|end| *end <= bytes.end) {
                    bytes.at = end;
                    members.content_was_skipped();
                }
                Member::File(place)
            }
            MemberKind::HardLink => Member::Link(clean(&member.link)),
            MemberKind::Node(Kind::Symlink) => Member::Link(beside(&name, &member.link)),
            MemberKind::Node(_) => continue,
        };
        found.insert(name, kept);
    }
    Ok(found)
}

/// A part of a file, read without moving its position, which others may share.
#[derive(Debug)]
struct Stretch<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Stretch<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let want = left.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A name without `.`, `..` and doubled slashes; it is only a key.
fn clean(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Where a symbolic link leads.
fn beside(name: &[u8], target: &[u8]) -> Vec<u8> {
    if target.starts_with(b"/") {
        return clean(target);
    }
    let folder = name.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |end| &name[..end]);
    clean(&[folder, b"/", target].concat())
}

/// Whether a name of `manifest.json` stays within the archive.
pub(super) fn is_inside(name: &str) -> bool {
    Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(clean(b"./blobs//sha256/x"), b"blobs/sha256/x");
        assert_eq!(clean(b"/../../etc/passwd"), b"etc/passwd");
        assert_eq!(beside(b"a/layer.tar", b"../b/layer.tar"), b"b/layer.tar");
        assert!(is_inside("blobs/sha256/x"));
        assert!(!is_inside("../x"));
        assert!(!is_inside("/etc/passwd"));
    }
}
