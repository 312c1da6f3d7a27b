//! The directories of several layers that make up one merged directory.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;

use rustix::io::Errno;

use super::Metadata;
use super::handle::Handle;

/// The directories that one merged directory consists of, topmost first. None at all is an empty
/// directory.
#[derive(Debug, Default)]
pub(crate) struct Dirs {
    pub(crate) handles: Vec<Handle>,
    /// For each handle, which layer of the stack it is of, counted from the top.
    layers: Vec<usize>,
    /// Whether whiteouts, opaque marks and stubs have their meaning here.
    pub(crate) layered: bool,
}

/// A name that a merged directory shows.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Which of the handles holds it.
    pub(crate) index: usize,
    pub(crate) metadata: Metadata,
}

impl Dirs {
    /// The roots of a stack of layers.
    pub(crate) fn stack(handles: Vec<Handle>, layered: bool) -> Self {
        let layers = (0..handles.len()).collect();
        Self { handles, layers, layered }
    }

    /// Which layer of the stack the handle `index` is of, counted from the top.
    pub(crate) fn layer(&self, index: usize) -> usize {
        self.layers[index]
    }

    /// Looks for `name` from the topmost directory down.
    pub(crate) fn lookup(&self, name: &OsStr) -> io::Result<Option<Found>> {
        for (index, handle) in self.handles.iter().enumerate() {
            let metadata = if self.layered { handle.metadata(name) } else { handle.stat(name) };
            if let Some(metadata) = metadata? {
                let hidden = self.layered && metadata.is_whiteout();
                return Ok((!hidden).then_some(Found { index, metadata }));
            }
        }
        Ok(None)
    }

    /// Opens the directory `name` in all layers that contribute to it, given the topmost of them.
    pub(crate) fn child(&self, name: &OsStr, topmost: usize) -> io::Result<Self> {
        let (mut handles, mut layers) = (Vec::new(), Vec::new());
        for (handle, layer) in self.handles.iter().zip(&self.layers).skip(topmost) {
            let opened = if self.layered { handle.directory(name) } else { handle.passage(name) };
            match opened {
                Ok(child) => {
                    let opaque = self.layered && child.is_opaque()?;
                    handles.push(child);
                    layers.push(*layer);
                    if opaque {
                        break;
                    }
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::NOENT) => {}
                    // A whiteout or another file ends what shows through.
                    Some(Errno::NOTDIR | Errno::LOOP) => break,
                    _ => return Err(error),
                },
            }
        }
        Ok(Self { handles, layers, layered: self.layered })
    }

    /// Everything that shows, sorted by name.
    pub(crate) fn list(&self) -> io::Result<Vec<(OsString, Found)>> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for (index, handle) in self.handles.iter().enumerate() {
            for name in handle.names()? {
                if self.handles.len() > 1 && !seen.insert(name.clone()) {
                    continue;
                }
                let metadata =
                    if self.layered { handle.metadata(&name) } else { handle.stat(&name) };
                // A context may change under us: what is gone is not listed.
                let Some(metadata) = metadata? else { continue };
                if !(self.layered && metadata.is_whiteout()) {
                    found.push((name, Found { index, metadata }));
                }
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }
}
