//! The frame of a tar: all that it is besides the contents of files.
//!
//! A layer that others packed comes to its digest only as they packed it: with their order, their kind of
//! headers and their padding. Its frame, kept beside its files, gives the same bytes again, and takes
//! a hundredth of their room.
//!
//! It is a Zstandard stream of pieces. Each begins with a length of 8 bytes, little-endian: if the
//! highest bit is not set, so many bytes follow that stand in the tar as they are; if it is, the rest of
//! it is the length of a file's content, and the file's path in the layer directory follows, behind its
//! own length of 4 bytes.

use std::ffi::OsString;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::beside::HashBeside;
use super::{LayerError, MAX_DEPTH, Packed, Refusal, Result};
use crate::oci::DiffId;
use crate::snapshot::Handle;

/// What tells a content from bytes.
const CONTENT: u64 = 1 << 63;

/// So many bytes of the tar are gathered for one piece.
const PIECE_BYTES: usize = 64 << 10;

/// Longer than any path that a kernel takes.
const MAX_PATH_BYTES: usize = 64 << 10;

/// Writes a frame while its tar is read.
struct FrameWriter<'a> {
    out: zstd::stream::write::Encoder<'static, &'a mut dyn Write>,
    /// Bytes of the piece that has begun.
    piece: Vec<u8>,
}

impl<'a> FrameWriter<'a> {
    fn new(out: &'a mut dyn Write) -> io::Result<Self> {
        Ok(Self { out: zstd::stream::write::Encoder::new(out, 1)?, piece: Vec::new() })
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES { self.end_piece() } else { Ok(()) }
    }

    fn content(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        self.end_piece()?;
        let path = path.as_os_str().as_bytes();
        self.out.write_all(&(CONTENT | bytes).to_le_bytes())?;
        self.out.write_all(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        self.out.write_all(path)
    }

    fn end_piece(&mut self) -> io::Result<()> {
        if !self.piece.is_empty() {
            self.out.write_all(&(self.piece.len() as u64).to_le_bytes())?;
            self.out.write_all(&self.piece)?;
            self.piece.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.end_piece()?;
        self.out.finish()?.flush()
    }
}

/// A reader of a tar that writes down its frame, if it is to.
pub(super) struct Tap<'a, R> {
    reader: R,
    /// Gone when it turned out that there is no frame: a file did not stay, or the disk is full.
    frame: Option<FrameWriter<'a>>,
    /// So many of the next bytes are a file's content.
    content: u64,
}

impl<'a, R: Read> Tap<'a, R> {
    pub(super) fn new(reader: R, frame: Option<&'a mut dyn Write>) -> Self {
        let frame = frame.and_then(|out| FrameWriter::new(out).ok());
        Self { reader, frame, content: 0 }
    }

    /// Says that the next so many bytes are what the file at `path` of the layer directory will hold.
    pub(super) fn content(&mut self, path: &Path, bytes: u64) {
        if let Some(frame) = self.frame.as_mut().filter(|_| bytes > 0) {
            match frame.content(path, bytes) {
                Ok(()) => self.content = bytes,
                Err(_) => self.spoil(),
            }
        }
    }

    /// Says that a file may not be what was said any more.
    pub(super) fn spoil(&mut self) {
        self.frame = None;
        self.content = 0;
    }

    /// Whether the frame is whole.
    pub(super) fn finish(self) -> bool {
        self.content == 0 && self.frame.is_some_and(|frame| frame.finish().is_ok())
    }
}

impl<R: Read> Read for Tap<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if let Some(frame) = &mut self.frame {
            if self.content > 0 {
                // Contents are never read together with what follows them.
                self.content = self.content.saturating_sub(read as u64);
            } else if frame.bytes(&buffer[..read]).is_err() {
                self.spoil();
            }
        }
        Ok(read)
    }
}

/// Writes the tar that a layer directory and a frame are, and says what it is. Its `content` is the
/// digest of the tar, as that of all layers that came from elsewhere.
///
/// # Errors
/// [`LayerError::Read`] for what is no frame, [`LayerError::Refused`] for a file that is shorter than it
/// was; else what the kernel and `out` say.
pub fn pack_framed(frame: impl Read, layer: &Handle, out: impl Write) -> Result<Packed> {
    let frame = zstd::stream::read::Decoder::new(frame).map_err(LayerError::read)?;
    let mut frame = BufReader::with_capacity(PIECE_BYTES, frame);
    let mut out = HashBeside::new(out);
    let mut files = Files { top: layer, near: Vec::new() };
    while let Some(length) = next_length(&mut frame).map_err(LayerError::read)? {
        if length & CONTENT == 0 {
            let copied = io::copy(&mut (&mut frame).take(length), &mut out);
            if copied.map_err(LayerError::write)? != length {
                return Err(LayerError::read(io::ErrorKind::UnexpectedEof.into()));
            }
        } else {
            let path = read_path(&mut frame).map_err(LayerError::read)?;
            files.copy(&path, length & !CONTENT, &mut out)?;
        }
    }
    let (digest, size) = out.finish().map_err(LayerError::write)?;
    Ok(Packed { diff_id: DiffId(digest), size, content: digest })
}

/// What the next piece begins with; `None` at the end.
fn next_length(frame: &mut impl Read) -> io::Result<Option<u64>> {
    let mut length = [0; 8];
    loop {
        match frame.read(&mut length[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    frame.read_exact(&mut length[1..])?;
    Ok(Some(u64::from_le_bytes(length)))
}

fn read_path(frame: &mut impl Read) -> io::Result<PathBuf> {
    let mut length = [0; 4];
    frame.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_PATH_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a path is too long"));
    }
    let mut path = vec![0; length];
    frame.read_exact(&mut path)?;
    Ok(OsString::from_vec(path).into())
}

/// So many directories are kept open: enough for any real tree.
const NEAR: usize = 32;

/// The files of a layer directory, most of which lie beside the one before.
struct Files<'a> {
    top: &'a Handle,
    /// The directories on the way to the last file, from the root down.
    near: Vec<(OsString, Handle)>,
}

impl Files<'_> {
    fn copy(&mut self, path: &Path, size: u64, out: &mut HashBeside<impl Write>) -> Result<()> {
        let failed = |source| LayerError::Walk { path: path.to_owned(), source };
        let refused = |reason| LayerError::Refused { path: path.to_owned(), reason };
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        let (Some(name), Some(parent), true) = (path.file_name(), path.parent(), is_plain) else {
            return Err(refused(Refusal::Outside));
        };
        if parent.iter().count() > MAX_DEPTH {
            return Err(refused(Refusal::TooDeep));
        }
        let known = parent.iter().zip(&self.near).take_while(|(part, (name, _))| part == name);
        self.near.truncate(known.count());
        let mut far = None;
        for part in parent.iter().skip(self.near.len()) {
            let dir = far.as_ref().or(self.near.last().map(|(_, dir)| dir)).unwrap_or(self.top);
            let dir = dir.directory(part).map_err(failed)?;
            if self.near.len() < NEAR {
                self.near.push((part.to_owned(), dir));
            } else {
                far = Some(dir);
            }
        }
        let dir = far.as_ref().or(self.near.last().map(|(_, dir)| dir)).unwrap_or(self.top);
        let mut file = dir.file(name).map_err(failed)?;
        let mut left = size;
        while left > 0 {
            out.make_room().map_err(LayerError::write)?;
            let read = match out.read_from(&mut file, left) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(failed)?,
            };
            if read == 0 {
                return Err(refused(Refusal::Changed));
            }
            left -= read;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame that says that a file is in the tar.
    fn frame(path: &str, bytes: u64) -> Vec<u8> {
        let mut frame = Vec::new();
        let mut writer = FrameWriter::new(&mut frame).expect("memory");
        writer.content(Path::new(path), bytes).expect("memory");
        writer.finish().expect("memory");
        frame
    }

    #[test]
    fn only_files_of_the_layer_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let layer = folder.path().join("layer");
        std::fs::create_dir_all(layer.join("a")).expect("a folder");
        std::fs::write(folder.path().join("secret"), "secret").expect("a file");
        std::fs::write(layer.join("a/b"), "content").expect("a file");
        std::os::unix::fs::symlink("../secret", layer.join("link")).expect("a link");
        std::os::unix::fs::symlink("a", layer.join("c")).expect("a link");
        let handle = Handle::open(&layer).expect("the folder");
        let packed = |path: &str, bytes| {
            let mut tar = Vec::new();
            pack_framed(&frame(path, bytes)[..], &handle, &mut tar).map(|_| tar).ok()
        };
        assert_eq!(packed("a/b", 7).as_deref(), Some(&b"content"[..]));
        assert_eq!(packed("a/b", 3).as_deref(), Some(&b"con"[..]));
        assert_eq!(packed("a/b", 8), None);
        for path in ["../secret", "/a/b", "link", "c/b", "a/../a/b", "a", "", "a/c"] {
            assert_eq!(packed(path, 1), None, "{path}");
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let handle = Handle::open(folder.path()).expect("the folder");
        let mut frame = Vec::new();
        let mut writer = FrameWriter::new(&mut frame).expect("memory");
        writer.bytes(&vec![7; 100_000]).expect("memory");
        writer.finish().expect("memory");
        let packed = |frame: &[u8]| pack_framed(frame, &handle, io::sink());
        assert_eq!(packed(&frame).expect("all of it").size, 100_000);
        assert!(packed(&frame[..frame.len() / 2]).is_err());
        assert!(packed(b"no frame").is_err());
    }
}
