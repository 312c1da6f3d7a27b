//! Where exports are written: files that appear whole or not at all, and streams.

use std::fs::{self, File};
use std::io::{self, BufWriter, StdoutLock, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{ExportError, Stop};
use crate::layer::Drain;

/// What an export is written to.
pub trait Output: Write {
    /// A file, in which one can go back.
    fn file(&mut self) -> Option<&mut NewFile> {
        None
    }
}

/// Pipes and devices are written once.
impl Output for BufWriter<File> {}
impl Output for io::Sink {}
impl Output for BufWriter<StdoutLock<'_>> {}

/// Fails when it is to stop; else it passes on what is written.
#[expect(missing_debug_implementations, reason = "a closure has none")]
pub struct Stoppable<'a, W> {
    /// What is written to.
    pub out: W,
    /// Whether to stop.
    pub stop: Stop<'a>,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.stop)() {
            return Err(io::Error::other("interrupted"));
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A file that is written from its beginning.
#[derive(Debug)]
pub struct NewFile {
    out: BufWriter<File>,
    /// How many bytes were written, those that wait in the buffer included.
    position: u64,
    drain: Drain,
}

/// What is larger is not gathered first.
const BUFFER_BYTES: usize = 256 << 10;

impl NewFile {
    fn new(file: File) -> Self {
        let out = BufWriter::with_capacity(BUFFER_BYTES, file);
        Self { out, position: 0, drain: Drain::default() }
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Writes over what was written before.
    pub(super) fn write_over(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().write_all_at(bytes, position)
    }

    /// Takes back all that was written from `position` on.
    pub(super) fn take_back(&mut self, position: u64) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().set_len(position)?;
        io::Seek::seek(self.out.get_mut(), io::SeekFrom::Start(position))?;
        self.position = position;
        Ok(())
    }

    /// Waits until all is on the disk.
    fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_data()
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.position += written as u64;
        self.drain.up_to(self.out.get_ref(), self.position);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Output for NewFile {
    fn file(&mut self) -> Option<&mut NewFile> {
        Some(self)
    }
}

/// Writes a file as a whole or not at all: what was at `path` before stays until `fill` has
/// succeeded and all is on disk.
///
/// # Errors
/// What `fill` returns; [`ExportError::Write`].
pub fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut dyn Output) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let failed = |source| ExportError::Write { path: path.to_owned(), source };
    // Devices and pipes are written to as they are.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let file = File::options().write(true).open(path).map_err(failed)?;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
        fill(&mut out)?;
        return out.flush().map_err(failed);
    }
    write_named(path, |out| fill(out).map(|()| Some(path.to_owned())))
}

/// Writes a file that gets its name when it is whole, in the folder of `beside`; or none, and is gone.
pub(super) fn write_named(
    beside: &Path,
    fill: impl FnOnce(&mut dyn Output) -> Result<Option<PathBuf>, ExportError>,
) -> Result<(), ExportError> {
    let failed = |source| ExportError::Write { path: beside.to_owned(), source };
    let folder = match beside.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let (file, temporary) = temporary_in(folder).map_err(failed)?.into_parts();
    let mut out = NewFile::new(file);
    let Some(path) = fill(&mut out)? else { return Ok(()) };
    out.finish().map_err(failed)?;
    temporary.persist(path).map_err(|err| failed(err.error))
}

fn temporary_in(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".mica-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(folder)
        // The temporary file's own name helps nobody.
        .map_err(|err| err.kind().into())
}
