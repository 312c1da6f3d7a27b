//! [`Outside`]: what a layer has that does not lie in its directory.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::File;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use super::LayerError;
use crate::snapshot::Metadata;

/// Files and folders that a layer has and its directory has not: they are packed from where they are,
/// so that nobody has to make a copy of them first.
pub trait Outside {
    /// One of them.
    type Item;
    /// Why one cannot be had, or why there is no tar of them.
    type Error: From<LayerError>;

    /// Those in the folder `dir` of the layer, in the order of their names. Each folder is asked for
    /// once; no name of it is also in the directory.
    fn items_in(&mut self, dir: &Path) -> Vec<Self::Item>;

    /// The name of one.
    fn name<'i>(&'i self, item: &'i Self::Item) -> &'i OsStr;

    /// What it is to be in the layer. Those of one file are alike in device and inode.
    fn metadata(&self, item: &Self::Item) -> Metadata;

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// What the kernel says.
    fn open(&mut self, item: &Self::Item) -> Result<File, Self::Error>;

    /// Says that all of a file that was opened was read.
    ///
    /// # Errors
    /// Where it changed meanwhile.
    fn was_read(&mut self, item: &Self::Item, file: &File) -> Result<(), Self::Error>;

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// What the kernel says.
    fn read_link(&mut self, item: &Self::Item) -> Result<PathBuf, Self::Error>;
}

/// None at all.
#[derive(Debug)]
pub(super) struct Nothing;

impl Outside for Nothing {
    type Item = Infallible;
    type Error = LayerError;

    fn items_in(&mut self, _: &Path) -> Vec<Infallible> {
        Vec::new()
    }

    fn name<'i>(&'i self, item: &'i Infallible) -> &'i OsStr {
        match *item {}
    }

    fn metadata(&self, item: &Infallible) -> Metadata {
        match *item {}
    }

    fn open(&mut self, item: &Infallible) -> Result<File, LayerError> {
        match *item {}
    }

    fn was_read(&mut self, item: &Infallible, _: &File) -> Result<(), LayerError> {
        match *item {}
    }

    fn read_link(&mut self, item: &Infallible) -> Result<PathBuf, LayerError> {
        match *item {}
    }
}

/// What comes between the names that a walk of the directory finds.
pub(super) struct Between<O: Outside> {
    pub(super) outside: O,
    /// What is left of each folder from the root down to where the walk is.
    left: Vec<Peekable<IntoIter<O::Item>>>,
}

impl<O: Outside> Between<O> {
    /// At the root.
    pub(super) fn new(outside: O) -> Self {
        let mut between = Self { outside, left: Vec::new() };
        between.enter(Path::new(""));
        between
    }

    /// Goes down into `dir`.
    pub(super) fn enter(&mut self, dir: &Path) {
        self.left.push(self.outside.items_in(dir).into_iter().peekable());
    }

    /// The next item of this folder that comes before `name`.
    pub(super) fn before(&mut self, name: &OsStr) -> Option<O::Item> {
        let outside = &self.outside;
        self.left.last_mut()?.next_if(|item| outside.name(item) < name)
    }

    /// The next item of this folder; without any, goes back up.
    pub(super) fn rest(&mut self) -> Option<O::Item> {
        let next = self.left.last_mut()?.next();
        if next.is_none() {
            self.left.pop();
        }
        next
    }
}
