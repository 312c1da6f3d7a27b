//! [`Archive`]: the members of an archive as staged blobs, by name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path};

use super::ImportError;
use crate::layer::{self, MemberKind, Members};
use crate::oci::{Descriptor, MAX_DOCUMENT_BYTES};
use crate::snapshot::{Escaped, Kind};
use crate::store::{StagedBlob, Store, StoreError};

/// How many links from member to member are followed.
const MAX_LINKS: usize = 8;

/// What an archive holds. Names are only ever looked up here, never in a file system.
#[derive(Debug, Default)]
pub(super) struct Archive {
    members: HashMap<Vec<u8>, Member>,
}

#[derive(Debug)]
enum Member {
    File(StagedBlob),
    /// A hard or symbolic link to another member.
    Link(Vec<u8>),
}

impl Archive {
    /// Reads an archive, compressed or not, to its end.
    pub(super) fn read(store: &Store, input: impl Read + Send) -> Result<Self, ImportError> {
        let (_, tar) = layer::open_archive(input).map_err(ImportError::Read)?;
        let mut archive = Self::default();
        let mut members = Members::new(tar);
        while let Some(member) = members.advance()? {
            let name = clean(&member.path);
            let kept = match member.kind {
                MemberKind::Node(Kind::File) => {
                    Member::File(store.stage_blob(|out| copy(&mut members, out))?)
                }
                MemberKind::HardLink => Member::Link(clean(&member.link)),
                MemberKind::Node(Kind::Symlink) => Member::Link(beside(&name, &member.link)),
                MemberKind::Node(_) => continue,
            };
            archive.members.insert(name, kept);
        }
        Ok(archive)
    }

    /// A file of the archive, links between members followed; `None` where there is none.
    pub(super) fn find(&self, name: &str) -> Option<&StagedBlob> {
        let mut name = clean(name.as_bytes());
        for _ in 0..MAX_LINKS {
            match self.members.get(&name)? {
                Member::File(blob) => return Some(blob),
                Member::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    /// The bytes of a member that is a document.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImportError> {
        let Some(blob) = self.find(name) else { return Ok(None) };
        if blob.size > MAX_DOCUMENT_BYTES {
            let what = Escaped(name.as_bytes()).to_string();
            return Err(StoreError::TooLarge { what, size: blob.size }.into());
        }
        std::fs::read(blob.path()).map(Some).map_err(ImportError::Read)
    }

    /// The member that is the blob of a descriptor, once it has been found to be it.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<&StagedBlob, ImportError> {
        let name = format!("blobs/sha256/{}", descriptor.digest.hex());
        // Docker's older archives name their members otherwise.
        let same = |blob: &&StagedBlob| blob.digest == descriptor.digest;
        let blob = self.find(&name).or_else(|| self.blobs().find(same));
        let blob = blob.ok_or(ImportError::Missing(name))?;
        let what = || format!("the archive's blob {}", descriptor.digest);
        if blob.digest != descriptor.digest {
            let (expected, found) = (descriptor.digest, blob.digest);
            return Err(StoreError::DigestMismatch { what: what(), expected, found }.into());
        }
        if blob.size != descriptor.size {
            let (expected, found) = (descriptor.size, blob.size);
            return Err(StoreError::SizeMismatch { what: what(), expected, found }.into());
        }
        Ok(blob)
    }

    /// The first bytes of a member, to tell its compression.
    pub(super) fn start(blob: &StagedBlob) -> Result<Vec<u8>, ImportError> {
        let mut start = Vec::new();
        let file = File::open(blob.path()).map_err(ImportError::Read)?;
        file.take(layer::Format::SNIFF_BYTES as u64)
            .read_to_end(&mut start)
            .map_err(ImportError::Read)?;
        Ok(start)
    }

    fn blobs(&self) -> impl Iterator<Item = &StagedBlob> {
        self.members.values().filter_map(|member| match member {
            Member::File(blob) => Some(blob),
            Member::Link(_) => None,
        })
    }

    /// All files of the archive, for publishing those that are needed.
    pub(super) fn into_blobs(self) -> impl Iterator<Item = StagedBlob> {
        self.members.into_values().filter_map(|member| match member {
            Member::File(blob) => Some(blob),
            Member::Link(_) => None,
        })
    }
}

fn copy<R: Read>(members: &mut Members<R>, out: &mut dyn Write) -> Result<(), ImportError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match members.read_content(&mut buffer)? {
            0 => return Ok(()),
            read => out.write_all(&buffer[..read]).map_err(write_failed)?,
        }
    }
}

fn write_failed(source: io::Error) -> ImportError {
    StoreError::Io { action: "write to", path: "the store".into(), source }.into()
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
