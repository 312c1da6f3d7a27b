//! The entries of a tar, one after another, from a stream that may hold anything.
//!
//! This is no general tar reader: it is as strict as a reader can be that still takes what Go's
//! writers, GNU tar and bsdtar make. The `tar` crate's own reader collects long names of any length.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;

use super::header::{BLOCK_BYTES, Block, decimal, pax_id, pax_records, pax_size, pax_time};
use super::sparse::SparseMap;
use super::{LayerError, Malformed, Result};
use crate::snapshot::{Attributes, Kind};

/// What a long name or a pax header may hold: Linux has paths of 4 KiB and xattrs of 64 KiB, of which
/// a file has a few.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// One entry, with everything applied that was said about it in front of it.
#[derive(Debug)]
pub(crate) struct Member {
    /// The name as it is written: not clean, not safe.
    pub(crate) path: Vec<u8>,
    /// The target of a link, as it is written.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: MemberKind,
    pub(crate) attributes: Attributes,
    pub(crate) rdev: (u32, u32),
    /// Where the content goes if there are holes between.
    pub(crate) sparse: Option<SparseMap>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberKind {
    HardLink,
    Node(Kind),
}

/// Reads a tar entry by entry; content that is not asked for is skipped.
#[derive(Debug)]
pub(crate) struct Members<R> {
    reader: R,
    /// How many headers there were.
    count: u64,
    /// Content of the last entry that is still to come, and the padding after it.
    left: u64,
    padding: u64,
}

/// What the headers in front of an entry say about it.
#[derive(Default)]
struct Extensions {
    pax: Vec<u8>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> Members<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, count: 0, left: 0, padding: 0 }
    }

    /// What is read from.
    pub(crate) fn reader(&mut self) -> &mut R {
        &mut self.reader
    }

    pub(crate) fn into_reader(self) -> R {
        self.reader
    }

    /// The next entry; `None` at the end, when the rest of the stream has been read as well, so that
    /// whoever hashes it has seen it whole.
    pub(crate) fn advance(&mut self) -> Result<Option<Member>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_content()?;
            let Some(block) = self.block()? else { return Ok(None) };
            self.count += 1;
            block.check().map_err(|reason| self.malformed(reason))?;
            match block.kind() {
                b'x' => extensions.pax = self.extension(&block)?,
                // What holds for all entries may not name or size any of them, and the rest of it
                // (comments, in practice) says nothing about a file.
                b'g' => {
                    let records = self.extension(&block)?;
                    pax_records(&records).map_err(|reason| self.malformed(reason))?;
                }
                b'L' => extensions.long_name = Some(until_nul(self.extension(&block)?)),
                b'K' => extensions.long_link = Some(until_nul(self.extension(&block)?)),
                // The label of a volume is no file.
                b'V' => {
                    let size = block.size().map_err(|reason| self.malformed(reason))?;
                    self.expect_content(size);
                    extensions = Extensions::default();
                }
                _ => return self.member(&block, extensions).map(Some),
            }
        }
    }

    /// Reads content of the last entry; nothing is its end.
    pub(crate) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let read = self.read_some(&mut buffer[..want])?;
        if read == 0 {
            return Err(self.malformed(Malformed::Truncated));
        }
        self.left -= read as u64;
        Ok(read)
    }

    /// How much content of the last entry is still to come.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.left
    }

    /// Says that the reader has been moved behind the content of the last entry.
    pub(crate) fn content_was_skipped(&mut self) {
        self.left = 0;
    }

    fn member(&mut self, block: &Block, extensions: Extensions) -> Result<Member> {
        let mut draft = Draft::new(block).map_err(|reason| self.malformed(reason))?;
        if let Some(path) = extensions.long_name {
            draft.member.path = path;
        }
        if let Some(link) = extensions.long_link {
            draft.member.link = link;
        }
        draft.apply_pax(&extensions.pax).map_err(|reason| self.malformed(reason))?;
        let Draft { mut member, size, sparse_version, sparse_pairs, real_size } = draft;
        if member.path.contains(&0) || member.link.contains(&0) {
            return Err(self.malformed(Malformed::Nul));
        }
        // Only files have content, whatever the header of another entry says (as Go reads it).
        let is_file = member.kind == MemberKind::Node(Kind::File);
        self.expect_content(if is_file { size } else { 0 });
        // POSIX's oldest headers have no type for directories.
        if block.kind() == 0 && member.path.ends_with(b"/") {
            member.kind = MemberKind::Node(Kind::Directory);
        }
        let invalid = |members: &Self| members.malformed(Malformed::SparseMap);
        if block.kind() == b'S' {
            member.sparse = Some(self.old_sparse_map(block)?);
        } else if is_file && sparse_version == Some((1, 0)) {
            let real_size = real_size.ok_or_else(|| invalid(self))?;
            let pairs = self.sparse_map_in_content()?;
            member.sparse = Some(SparseMap::new(pairs, real_size).ok_or_else(|| invalid(self))?);
        } else if is_file && !sparse_pairs.is_empty() {
            let real_size = real_size.ok_or_else(|| invalid(self))?;
            let map = SparseMap::of_flat(&sparse_pairs, real_size);
            member.sparse = Some(map.ok_or_else(|| invalid(self))?);
        }
        if let Some(map) = &member.sparse
            && map.stored_bytes() != self.left
        {
            return Err(invalid(self));
        }
        Ok(member)
    }

    /// The map of GNU's oldest sparse format: in the header, and in blocks that follow it.
    fn old_sparse_map(&mut self, block: &Block) -> Result<SparseMap> {
        let mut map = SparseMap::from_header(block).map_err(|reason| self.malformed(reason))?;
        let mut extended = block.0[482] != 0;
        while extended {
            let Some(more) = self.read_block()? else {
                return Err(self.malformed(Malformed::Truncated));
            };
            map.extend(&more.0[..504]).map_err(|reason| self.malformed(reason))?;
            extended = more.0[504] != 0;
        }
        Ok(map)
    }

    /// The map that stands in front of the content, as lines of decimal numbers, padded to a block.
    fn sparse_map_in_content(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut digits = Vec::new();
        let mut read = 0;
        let invalid = |members: &Self| members.malformed(Malformed::SparseMap);
        loop {
            let mut block = [0; BLOCK_BYTES];
            let mut filled = 0;
            while filled < BLOCK_BYTES {
                match self.read_content(&mut block[filled..])? {
                    0 => return Err(invalid(self)),
                    bytes => filled += bytes,
                }
            }
            read += filled as u64;
            if read > MAX_EXTENSION_BYTES {
                return Err(self.malformed(Malformed::HeaderTooLong { bytes: read }));
            }
            for byte in block {
                if byte != b'\n' {
                    digits.push(byte);
                    continue;
                }
                numbers.push(decimal(&digits).ok_or_else(|| invalid(self))?);
                digits.clear();
                let wanted = numbers[0].checked_mul(2).and_then(|wanted| wanted.checked_add(1));
                if wanted.ok_or_else(|| invalid(self))? == numbers.len() as u64 {
                    return Ok(numbers[1..]
                        .chunks_exact(2)
                        .map(|pair| (pair[0], pair[1]))
                        .collect());
                }
            }
        }
    }

    /// The content of a header that only describes the next entry.
    fn extension(&mut self, block: &Block) -> Result<Vec<u8>> {
        let bytes = block.size().map_err(|reason| self.malformed(reason))?;
        if bytes > MAX_EXTENSION_BYTES {
            return Err(self.malformed(Malformed::HeaderTooLong { bytes }));
        }
        self.expect_content(bytes);
        let mut data = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.read_content(&mut buffer)? {
                0 => return Ok(data),
                read => data.extend_from_slice(&buffer[..read]),
            }
        }
    }

    fn expect_content(&mut self, bytes: u64) {
        self.left = bytes;
        self.padding = bytes.wrapping_neg() % BLOCK_BYTES as u64;
    }

    fn skip_content(&mut self) -> Result<()> {
        // The padding is zeros that only another reader's bug would take for something else.
        self.left = self.left.saturating_add(std::mem::take(&mut self.padding));
        let mut buffer = [0; 16 << 10];
        while self.read_content(&mut buffer)? > 0 {}
        Ok(())
    }

    /// The next header. Two blocks of zeros end the archive, and so does the end of the stream, which
    /// many writers leave it at.
    fn block(&mut self) -> Result<Option<Block>> {
        let Some(block) = self.read_block()? else { return Ok(None) };
        if !block.is_zero() {
            return Ok(Some(block));
        }
        match self.read_block()? {
            Some(second) if !second.is_zero() => {
                self.count += 1;
                Err(self.malformed(Malformed::Checksum))
            }
            _ => {
                io::copy(&mut self.reader, &mut io::sink()).map_err(LayerError::read)?;
                Ok(None)
            }
        }
    }

    fn read_block(&mut self) -> Result<Option<Block>> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.read_some(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(self.malformed(Malformed::Truncated)),
                read => filled += read,
            }
        }
        Ok(Some(Block(block)))
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map_err(LayerError::read),
            }
        }
    }

    fn malformed(&self, reason: Malformed) -> LayerError {
        LayerError::Malformed { entry: self.count, reason }
    }
}

/// An entry while its parts are put together.
struct Draft {
    member: Member,
    size: u64,
    sparse_version: Option<(u64, u64)>,
    /// Offsets and lengths by turns, from the records of GNU's formats 0.0 and 0.1.
    sparse_pairs: Vec<u64>,
    real_size: Option<u64>,
}

impl Draft {
    fn new(block: &Block) -> std::result::Result<Self, Malformed> {
        let kind = match block.kind() {
            0 | b'0' | b'7' | b'S' => MemberKind::Node(Kind::File),
            b'1' => MemberKind::HardLink,
            b'2' => MemberKind::Node(Kind::Symlink),
            b'3' => MemberKind::Node(Kind::CharDevice),
            b'4' => MemberKind::Node(Kind::BlockDevice),
            b'5' => MemberKind::Node(Kind::Directory),
            b'6' => MemberKind::Node(Kind::Fifo),
            other => return Err(Malformed::Type(other)),
        };
        let is_device = matches!(kind, MemberKind::Node(Kind::CharDevice | Kind::BlockDevice));
        let member = Member {
            path: block.path(),
            link: block.link(),
            kind,
            attributes: Attributes {
                mode: block.mode()?,
                uid: block.uid()?,
                gid: block.gid()?,
                mtime: block.mtime()?,
                xattrs: Vec::new(),
            },
            rdev: if is_device { block.device()? } else { (0, 0) },
            sparse: None,
        };
        let size = block.size()?;
        Ok(Self { member, size, sparse_version: None, sparse_pairs: Vec::new(), real_size: None })
    }

    fn apply_pax(&mut self, pax: &[u8]) -> std::result::Result<(), Malformed> {
        let attributes = &mut self.member.attributes;
        let mut version = (None, None);
        let mut sparse_name = None;
        for (key, value) in pax_records(pax)? {
            // An empty value takes back what was said before, which nobody has said.
            match key {
                _ if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") => {}
                b"path" => self.member.path = value.to_vec(),
                b"linkpath" => self.member.link = value.to_vec(),
                b"size" => self.size = pax_size(value)?,
                b"uid" => attributes.uid = pax_id(value, "owner")?,
                b"gid" => attributes.gid = pax_id(value, "group")?,
                b"mtime" => attributes.mtime = pax_time(value)?,
                b"GNU.sparse.major" => version.0 = decimal(value),
                b"GNU.sparse.minor" => version.1 = decimal(value),
                b"GNU.sparse.name" => sparse_name = Some(value.to_vec()),
                b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                    self.real_size = Some(pax_size(value)?);
                }
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    self.sparse_pairs.push(pax_size(value)?);
                }
                b"GNU.sparse.map" => {
                    let numbers = value.split(|byte| *byte == b',').map(pax_size);
                    self.sparse_pairs = numbers.collect::<std::result::Result<_, _>>()?;
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        let name = OsString::from_vec(name.to_vec());
                        attributes.xattrs.push((name, value.to_vec()));
                    }
                }
            }
        }
        if let Some(name) = sparse_name {
            self.member.path = name;
        }
        self.sparse_version = match version {
            (Some(major), Some(minor)) => Some((major, minor)),
            _ => None,
        };
        Ok(())
    }
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}
