//! A layer is unpacked before it is known what lies below it.
//!
//! Most layers say all of their directories, as overlays leave them. What is made of their entries does
//! not depend on what is below, but for a directory in whose place a layer below has something else. So
//! a layer is unpacked on top of nothing at first, beside those below it, and what was taken for granted
//! is held against them in the end. A layer that leaves a directory out, or that links to a file of a
//! layer below, waits for these in the middle.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::apply::{Applied, Options, Unpacker, finish};
use super::frame::Tap;
use super::members::Members;
use super::{LayerError, Result};
use crate::snapshot::{Entry, Handle, SnapshotError, Upper, View};

/// What is below a layer.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "a closure has none")]
pub enum Below<'a> {
    /// These layers.
    Known(&'a View),
    /// What this waits for. An error says that it will not come.
    Later(&'a dyn Fn() -> std::result::Result<View, SnapshotError>),
}

/// What [`apply_early`] made.
#[derive(Debug)]
pub struct Early {
    /// What was unpacked.
    pub applied: Applied,
    /// Whether the frame is whole.
    pub framed: bool,
    /// Directories of which layers below may have only directories.
    assumed: Vec<PathBuf>,
}

/// What is below a layer, and was not looked at yet.
pub(super) struct Later<'a> {
    dir: &'a Handle,
    wait: &'a dyn Fn() -> std::result::Result<View, SnapshotError>,
    upper: &'a OnceCell<Upper>,
}

/// Unpacks the tar of an image's layer into `dir` as [`apply`](super::apply()) does, on top of `below`,
/// which is asked for when it makes a difference. A frame is written to `frame`; there is none of a
/// layer that replaces a file of its own, or has a sparse one.
///
/// # Errors
/// As [`apply`](super::apply()); what `below` says.
pub fn apply_early(
    archive: impl Read,
    dir: &Handle,
    below: Below<'_>,
    frame: Option<&mut dyn Write>,
) -> Result<Early> {
    let failed = |source| LayerError::Unpack { path: PathBuf::new(), source };
    let nothing = View::new(Vec::new()).map_err(failed)?;
    let second = OnceCell::new();
    let (first, later) = match below {
        Below::Known(below) => (upper(dir, below)?, None),
        Below::Later(wait) => (upper(dir, &nothing)?, Some(Later { dir, wait, upper: &second })),
    };
    let mut members = Members::new(Tap::new(archive, frame));
    let mut unpacker = Unpacker::new(&first, Options::LAYER, later);
    unpacker.unpack_all(&mut members)?;
    let Unpacker { applied, assumed, .. } = unpacker;
    finish(&first)?;
    // Later, as it knows better of the directories that both have changed.
    second.get().map_or(Ok(()), finish)?;
    Ok(Early { applied, framed: members.into_reader().finish(), assumed })
}

impl<'a> Later<'a> {
    /// The same layer on top of what is below.
    pub(super) fn upper(self) -> Result<&'a Upper> {
        let failed = |source| LayerError::Unpack { path: PathBuf::new(), source };
        let upper = upper(self.dir, &(self.wait)().map_err(failed)?)?;
        Ok(self.upper.get_or_init(|| upper))
    }
}

fn upper(dir: &Handle, below: &View) -> Result<Upper> {
    let failed = |source| LayerError::Unpack { path: PathBuf::new(), source };
    let dir = dir.try_clone();
    let dir = dir.map_err(|error| failed(SnapshotError::io("open", Path::new(""), error)))?;
    Upper::new(dir, below).map_err(failed)
}

impl Early {
    /// Whether anything was taken for granted that layers below could make untrue.
    pub fn assumes(&self) -> bool {
        !self.assumed.is_empty()
    }

    /// Whether it is what it would be had it been unpacked on top of `below`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn holds_on(&self, below: &View) -> std::result::Result<bool, SnapshotError> {
        /// Deeper ones would keep too many directories open.
        const MAX_DEPTH: usize = 32;
        let mut paths: Vec<&Path> = self.assumed.iter().map(PathBuf::as_path).collect();
        paths.sort_unstable();
        // Directories that are below, too, each in the one before.
        let mut both: Vec<Entry> = vec![below.root()];
        for path in paths {
            while both.last().is_some_and(|dir| !path.starts_with(dir.path())) {
                both.pop();
            }
            // Where there is nothing below, there is nothing further down.
            let Some(dir) = both.last().filter(|dir| Some(dir.path()) == path.parent()) else {
                continue;
            };
            let name = path.file_name().unwrap_or(OsStr::new(""));
            match below.child(dir, name)? {
                None => {}
                Some(entry) if entry.is_dir() && both.len() < MAX_DEPTH => both.push(entry),
                Some(_) => return Ok(false),
            }
        }
        Ok(true)
    }
}
