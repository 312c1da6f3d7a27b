//! Unpacks a tar into a layer directory, trusting nothing in it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::early::Later;
use super::frame::Tap;
use super::members::{Member, MemberKind, Members};
use super::{AUFS, LayerError, MAX_DEPTH, MAX_PATH, OPAQUE, Refusal, Result, WHITEOUT};
use crate::snapshot::{Attributes, Kind, NewFile, SnapshotError, Timestamp, Upper, UpperDir};

/// How an archive is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What `.wh.` names mean.
    pub whiteouts: Whiteouts,
    /// Who is to own everything, instead of the owners in the archive.
    pub owner: Option<(u32, u32)>,
    /// The permissions that everything but links is to have, instead of those in the archive.
    pub mode: Option<u32>,
}

/// What the `.wh.` names of an archive mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// Nothing, and they are refused: as files of an archive they could not be stored in a layer.
    Refused,
    /// They delete what lower layers have, and nothing of the one that is unpacked.
    Lower,
    /// They delete what is there: the archive is another layer that becomes part of this one.
    All,
}

impl Options {
    /// A layer of an image.
    pub const LAYER: Self = Self { whiteouts: Whiteouts::Lower, owner: None, mode: None };
    /// A layer that is added to another one.
    pub const MERGED: Self = Self { whiteouts: Whiteouts::All, owner: None, mode: None };
    /// An archive of files.
    pub const ARCHIVE: Self = Self { whiteouts: Whiteouts::Refused, owner: None, mode: None };
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// How many entries.
    pub entries: u64,
    /// How many bytes of content, without holes.
    pub bytes: u64,
}

/// Unpacks `archive`, an uncompressed tar, into `upper`.
///
/// Names are cleaned as text: a leading slash goes, and `..` ends at the root; in an archive of files, as
/// with Docker, a name that leads out of it is refused. The directory that an
/// entry belongs to is found by following links inside the root; the entry itself replaces what has
/// its name, except that a directory keeps what is in it. Directories that are only implied are those
/// of the lower layers, or else root's with mode 755 and the time of the entry.
///
/// The archive is read to its end, its padding too, so that a hash over `archive` is one of the whole.
/// Entries may be anything: memory stays below a few MiB, and nothing outside of the upper changes.
///
/// # Errors
/// [`LayerError`], at the first entry that is malformed, refused or cannot be made. The upper then
/// holds what came before, and is to be thrown away.
pub fn apply(archive: impl Read, upper: &Upper, options: Options) -> Result<Applied> {
    let mut members = Members::new(Tap::new(archive, None));
    let mut unpacker = Unpacker::new(upper, options, None);
    unpacker.unpack_all(&mut members)?;
    finish(upper)?;
    Ok(unpacker.applied)
}

pub(super) fn finish(upper: &Upper) -> Result<()> {
    upper.finish().map_err(|source| unpack_error(Path::new(""), source))
}

const BUFFER_BYTES: usize = 256 << 10;

/// Fewer zeros than a block of a file system are not worth a hole.
const HOLE_BYTES: usize = 4 << 10;

/// How many directories on the way to the last entry are kept open: enough for any real tree.
const CHAIN_LENGTH: usize = 32;

pub(super) struct Unpacker<'a> {
    upper: &'a Upper,
    /// What is below, as long as it was not asked for: `upper` is on top of nothing till then.
    later: Option<Later<'a>>,
    /// The directories that were made without looking at what is below.
    pub(super) assumed: Vec<PathBuf>,
    /// Files of layers below that this one links to: they came up, and no whiteout can tell them from
    /// its own.
    linked_below: BTreeSet<PathBuf>,
    /// Changes of an upper that there was before.
    changes_before: u64,
    options: Options,
    /// The directories on the way to the last entry, from the root down: real ones, no links.
    chain: Vec<(OsString, UpperDir)>,
    /// The directory of the last entry, by the path in the archive.
    last: Option<(PathBuf, UpperDir)>,
    /// When the chain was found. It is dropped after any change that may lead paths elsewhere.
    generation: u64,
    buffer: Vec<u8>,
    pub(super) applied: Applied,
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(upper: &'a Upper, options: Options, later: Option<Later<'a>>) -> Self {
        Self {
            upper,
            later,
            assumed: Vec::new(),
            linked_below: BTreeSet::new(),
            changes_before: 0,
            options,
            chain: Vec::new(),
            last: None,
            generation: upper.generation(),
            buffer: vec![0; BUFFER_BYTES],
            applied: Applied::default(),
        }
    }

    pub(super) fn unpack_all<R: Read>(&mut self, members: &mut Members<Tap<'_, R>>) -> Result<()> {
        while let Some(member) = members.advance()? {
            self.unpack(member, members)?;
        }
        Ok(())
    }

    /// Waits for what is below, and goes on on top of it. The directories that were found go.
    fn see_below(&mut self) -> Result<()> {
        if let Some(later) = self.later.take() {
            self.changes_before = self.changes();
            self.upper = later.upper()?;
            self.generation = self.upper.generation();
            self.chain.clear();
            self.last = None;
        }
        Ok(())
    }

    /// Counts what was replaced, and other changes that may have replaced something.
    fn changes(&self) -> u64 {
        self.changes_before + self.upper.generation()
    }

    fn unpack<R: Read>(
        &mut self,
        mut member: Member,
        members: &mut Members<Tap<'_, R>>,
    ) -> Result<()> {
        self.applied.entries += 1;
        let path = clean(&member.path);
        let refused = |reason| LayerError::Refused { path: path.clone(), reason };
        if self.options.whiteouts == Whiteouts::Refused && leads_out(&member.path) {
            return Err(refused(Refusal::Outside));
        }
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            // The root is the upper's own, so that no archive can lock us out of it. What else is
            // called so is skipped, as Docker does.
            return Ok(());
        };
        if path.iter().count() > MAX_DEPTH {
            return Err(refused(Refusal::TooDeep));
        }
        if path.as_os_str().len() > MAX_PATH {
            return Err(refused(Refusal::TooLong));
        }
        if path.iter().any(|part| part.as_bytes().starts_with(WHITEOUT)) {
            return self.delete(&path, member.attributes.mtime);
        }
        self.override_attributes(&mut member);
        let changes = self.changes();
        match member.kind {
            MemberKind::HardLink => self.hard_link(&member, &path)?,
            MemberKind::Node(Kind::Directory) => self.directory(&member, &path)?,
            MemberKind::Node(kind) => {
                let dir = self.parent(parent, member.attributes.mtime)?;
                match kind {
                    Kind::File => self.file(&member, &path, &dir, name, members)?,
                    kind => make(&member, kind, &path, &dir, name)?,
                }
            }
        }
        if self.changes() != changes {
            members.reader().spoil();
        }
        Ok(())
    }

    /// Does what an entry means that has `.wh.` in its path.
    fn delete(&mut self, path: &Path, mtime: Timestamp) -> Result<()> {
        let refused = |reason| LayerError::Refused { path: path.to_owned(), reason };
        let whiteouts = self.options.whiteouts;
        if whiteouts == Whiteouts::Refused {
            return Err(refused(Refusal::Unrepresentable));
        }
        if path.iter().any(is_aufs) {
            return Ok(());
        }
        let (name, parent) = parts(path);
        let Some(gone) = name.as_bytes().strip_prefix(WHITEOUT) else {
            return Err(refused(Refusal::Whiteout));
        };
        if parent.iter().any(|part| part.as_bytes().starts_with(WHITEOUT)) {
            return Err(refused(Refusal::Whiteout));
        }
        let dir = self.parent(parent, mtime)?;
        let gone = OsStr::from_bytes(gone);
        let is_opaque = name.as_bytes() == OPAQUE;
        let hidden = if is_opaque { dir.path().to_owned() } else { dir.path().join(gone) };
        // What is in a folder comes right behind it.
        let next = self.linked_below.range::<PathBuf, _>(&hidden..).next();
        if next.is_some_and(|linked| linked.starts_with(&hidden)) {
            return Err(refused(Refusal::LinkedAndGone));
        }
        let done = match whiteouts {
            Whiteouts::All if is_opaque => dir.clear(),
            _ if is_opaque => dir.make_opaque(),
            _ if ["", ".", ".."].iter().any(|none| gone == *none) => {
                return Err(refused(Refusal::Whiteout));
            }
            Whiteouts::All => dir.remove(gone),
            _ => dir.whiteout(gone),
        };
        done.map_err(|error| unpack_error(path, error))
    }

    fn override_attributes(&self, member: &mut Member) {
        if let Some((uid, gid)) = self.options.owner {
            (member.attributes.uid, member.attributes.gid) = (uid, gid);
        }
        if let Some(mode) = self.options.mode {
            member.attributes.mode = mode;
        }
    }

    /// The directory at `path`, made where it is missing. Every part is looked at again unless nothing
    /// has changed that could have made it something else.
    fn parent(&mut self, path: &Path, mtime: Timestamp) -> Result<UpperDir> {
        if self.generation != self.upper.generation() {
            self.chain.clear();
            self.last = None;
        }
        let known = path.iter().zip(&self.chain).take_while(|(part, (name, _))| part == name);
        let known = known.count();
        self.chain.truncate(known);
        let (mut dir, done) = match self.last.take() {
            Some((last, dir)) if path.starts_with(&last) => (dir, last.iter().count()),
            _ => match self.chain.last() {
                Some((_, dir)) => (dir.clone(), known),
                None => (self.upper.root(), 0),
            },
        };
        let implied = Attributes { mode: 0o755, mtime, ..Attributes::default() };
        for (depth, name) in path.iter().enumerate().skip(done) {
            // Whatever is not a directory of this layer may be one of a layer below.
            if self.later.is_some() && !is_directory(&dir, name, path)? {
                self.see_below()?;
                return self.parent(path, mtime);
            }
            match dir.child(name, &implied) {
                Ok((child, _)) => dir = child,
                Err(SnapshotError::NotADirectory { kind: Kind::Symlink, .. }) => {
                    let found = self.upper.directory(path, &implied);
                    dir = found.map_err(|source| unpack_error(path, source))?;
                    break;
                }
                Err(source) => return Err(unpack_error(path, source)),
            }
            if depth == self.chain.len() && depth < CHAIN_LENGTH {
                self.chain.push((name.to_owned(), dir.clone()));
            }
        }
        self.last = Some((path.to_owned(), dir.clone()));
        self.generation = self.upper.generation();
        Ok(dir)
    }

    fn file<R: Read>(
        &mut self,
        member: &Member,
        path: &Path,
        dir: &UpperDir,
        name: &OsStr,
        members: &mut Members<Tap<'_, R>>,
    ) -> Result<()> {
        let failed = |source| unpack_error(path, source);
        let new = replacing(dir, name, || dir.create_file(name, &member.attributes));
        let new = new.map_err(failed)?;
        let write_error = |error| failed(SnapshotError::io("write", path, error));
        self.applied.bytes += members.content_bytes();
        match &member.sparse {
            None => {
                let bytes = members.content_bytes();
                members.reader().content(&dir.path().join(name), bytes);
                self.content(&new, members, write_error)?;
            }
            Some(map) => {
                for &(offset, bytes) in map.stretches() {
                    self.stretch(&new, offset, bytes, members, write_error)?;
                }
                new.file().set_len(map.real_size).map_err(write_error)?;
            }
        }
        new.finish().map_err(failed)
    }

    /// Writes an entry's content. Long runs of zeros become holes.
    fn content<R: Read>(
        &mut self,
        new: &NewFile<'_>,
        members: &mut Members<R>,
        write_error: impl Fn(std::io::Error) -> LayerError,
    ) -> Result<()> {
        let (mut offset, mut end) = (0, 0);
        loop {
            let read = members.read_content(&mut self.buffer)?;
            if read == 0 {
                break;
            }
            let piece = &self.buffer[..read];
            offset += read as u64;
            if read < HOLE_BYTES || piece.iter().any(|byte| *byte != 0) {
                let at = offset - read as u64;
                new.file().write_all_at(piece, at).map_err(&write_error)?;
                end = offset;
            }
        }
        // A hole at the end; most files have none, and this would be a call for each.
        if end < offset { new.file().set_len(offset).map_err(write_error) } else { Ok(()) }
    }

    fn stretch<R: Read>(
        &mut self,
        new: &NewFile<'_>,
        mut offset: u64,
        bytes: u64,
        members: &mut Members<R>,
        write_error: impl Fn(std::io::Error) -> LayerError,
    ) -> Result<()> {
        let end = offset + bytes;
        while offset < end {
            let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let want = left.min(self.buffer.len());
            let read = members.read_content(&mut self.buffer[..want])?;
            if read == 0 {
                break;
            }
            new.file().write_all_at(&self.buffer[..read], offset).map_err(&write_error)?;
            offset += read as u64;
        }
        Ok(())
    }

    fn directory(&mut self, member: &Member, path: &Path) -> Result<()> {
        let failed = |source| unpack_error(path, source);
        let attributes = &member.attributes;
        let (name, parent) = parts(path);
        let mut dir = self.parent(parent, attributes.mtime)?;
        match dir.child_with(name, attributes) {
            Err(SnapshotError::NotADirectory { .. }) => {
                if self.later.is_some() {
                    // It hides what has its name below, if there is something.
                    self.see_below()?;
                    dir = self.parent(parent, attributes.mtime)?;
                }
                dir.remove(name).map_err(failed)?;
                dir.child_with(name, attributes).map_err(failed)?;
            }
            result => {
                let made = result.map_err(failed)?;
                if self.later.is_some() {
                    self.assumed.push(made.path().to_owned());
                }
            }
        }
        Ok(())
    }

    fn hard_link(&mut self, member: &Member, path: &Path) -> Result<()> {
        let refused = |reason| LayerError::Refused { path: path.to_owned(), reason };
        let failed = |source| unpack_error(path, source);
        let target = clean(&member.link);
        let (Some(target_name), Some(target_parent)) = (target.file_name(), target.parent()) else {
            return Err(refused(Refusal::MissingTarget));
        };
        // Looking first keeps a missing target from leaving directories on the way to it.
        let mut found = self.upper.lookup(&target).map_err(failed)?;
        if found.is_none() && self.later.is_some() {
            self.see_below()?;
            found = self.upper.lookup(&target).map_err(failed)?;
        }
        match found {
            None => return Err(refused(Refusal::MissingTarget)),
            Some(metadata) if metadata.is_dir() => return Err(refused(Refusal::MissingTarget)),
            Some(_) => {}
        }
        let (name, parent) = parts(path);
        let from = self.parent(target_parent, member.attributes.mtime)?;
        let dir = &self.parent(parent, member.attributes.mtime)?;
        // As Docker, which first removes what has the name.
        if (from.path(), target_name) == (dir.path(), name) {
            return Err(refused(Refusal::MissingTarget));
        }
        if !from.has_own(target_name).map_err(failed)? {
            self.linked_below.insert(from.path().join(target_name));
        }
        replacing(dir, name, || dir.hard_link(name, &from, target_name)).map_err(failed)?;
        // As Docker: the last entry of a file says what it is, whichever of its names that is.
        dir.change_file(name, &member.attributes).map_err(failed)
    }
}

/// Makes what has neither content nor entries.
fn make(member: &Member, kind: Kind, path: &Path, dir: &UpperDir, name: &OsStr) -> Result<()> {
    let failed = |source| unpack_error(path, source);
    let attributes = &member.attributes;
    match kind {
        Kind::Symlink => {
            let target = Path::new(OsStr::from_bytes(&member.link));
            replacing(dir, name, || dir.symlink(name, target, attributes)).map_err(failed)
        }
        Kind::CharDevice if member.rdev == (0, 0) => {
            Err(LayerError::Refused { path: path.to_owned(), reason: Refusal::DeviceZero })
        }
        kind => {
            let make = || dir.node(name, kind, member.rdev, attributes);
            replacing(dir, name, make).map_err(failed)
        }
    }
}

/// Makes something; a directory in its place goes first.
fn replacing<T>(
    dir: &UpperDir,
    name: &OsStr,
    make: impl Fn() -> std::result::Result<T, SnapshotError>,
) -> std::result::Result<T, SnapshotError> {
    match make() {
        Err(SnapshotError::IsADirectory { .. }) => {
            dir.remove(name)?;
            make()
        }
        result => result,
    }
}

/// Whether the topmost layer has `name` as a directory.
fn is_directory(dir: &UpperDir, name: &OsStr, path: &Path) -> Result<bool> {
    let found = dir.lookup(name).map_err(|source| unpack_error(path, source))?;
    Ok(found.is_some_and(|metadata| metadata.is_dir()))
}

/// The name of an entry, and the directory that it is in.
fn parts(path: &Path) -> (&OsStr, &Path) {
    (path.file_name().unwrap_or_default(), path.parent().unwrap_or(Path::new("")))
}

fn is_aufs(part: &OsStr) -> bool {
    part.as_bytes() != OPAQUE && part.as_bytes().starts_with(AUFS)
}

/// Whether a name leads out of the folder that the archive is unpacked in, going by its text.
fn leads_out(name: &[u8]) -> bool {
    let mut depth = 0_usize;
    !name.starts_with(b"/")
        && name.split(|byte| *byte == b'/').any(|part| {
            match part {
                b"" | b"." => {}
                b".." if depth == 0 => return true,
                b".." => depth -= 1,
                _ => depth += 1,
            }
            false
        })
}

/// An entry's name as a path below the root: no leading slash, no `.`, `..` and empty parts.
fn clean(name: &[u8]) -> PathBuf {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    OsString::from_vec(parts.join(&b'/')).into()
}

fn unpack_error(path: &Path, source: SnapshotError) -> LayerError {
    LayerError::Unpack { path: path.to_owned(), source }
}
