//! [`LeftOut`]: what a COPY need not copy, since nobody reads the layer's files for now. It goes from
//! where it is straight into the layer's tar.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

use super::copy::{has_names, make_folder};
use super::overrides::Overrides;
use super::select::{Root, Source, vanished};
use super::tree::Folder;
use crate::builder::BuildError;
use crate::layer::Outside;
use crate::snapshot::{Attributes, Entry, Kind, Listed, Metadata, Timestamp, UpperDir};

/// With fewer bytes and files than these, a layer is as quickly made as files, which whoever runs the
/// image has then.
const MIN_BYTES: u64 = 8 << 20;
const MIN_FILES: usize = 512;

/// What one item of a COPY selects, and of what.
pub(super) type Selection<'a> = (Source<'a>, Vec<Root>);

/// What is in a layer and not in its directory.
pub(super) struct LeftOut<'a> {
    selections: &'a [Selection<'a>],
    overrides: Overrides<'a>,
    clamped: Option<i64>,
    /// By the folder of the layer that it is in.
    folders: HashMap<PathBuf, Vec<Item>>,
    /// The folder that was last read from.
    open: Option<(usize, Entry)>,
}

/// One thing that is left out.
pub(super) enum Item {
    /// The root of a selection, a file, under another name perhaps.
    Root { selection: usize, root: usize, name: OsString },
    /// A folder of the only root.
    Folder(usize),
    /// What is in a folder of the only root.
    Inside { folder: usize, file: usize },
}

/// The same, while a certain root is copied.
pub(super) struct Leaving<'l, 'a> {
    left: &'l mut LeftOut<'a>,
    selection: usize,
    root: usize,
}

impl<'a> LeftOut<'a> {
    /// Nothing yet; `None` where copying is better or needed: for few files, and where one may replace
    /// another.
    pub(super) fn new(
        selections: &'a [Selection<'a>],
        overrides: Overrides<'a>,
        clamped: Option<i64>,
    ) -> Option<Self> {
        // Owners and capabilities of a tree that has them are read from the copies.
        let plain = selections.iter().all(|(source, _)| !source.keep_owners);
        let roots = || selections.iter().flat_map(|(_, roots)| roots);
        let mut names = HashSet::new();
        let apart = roots().count() == 1
            || roots().all(|root| !root.entry.is_dir() && names.insert(&root.name));
        let inside = roots().flat_map(|root| &root.folders).flat_map(|folder| &folder.files);
        let (mut count, mut bytes) = (0, 0_u64);
        for metadata in
            roots().map(|root| root.entry.metadata()).chain(inside.map(Listed::metadata))
        {
            match metadata.kind {
                Kind::File => bytes = bytes.saturating_add(metadata.size),
                Kind::CharDevice | Kind::BlockDevice => return None,
                Kind::Directory | Kind::Symlink | Kind::Fifo | Kind::Socket => {}
            }
            count += 1;
        }
        let many = count >= MIN_FILES || bytes >= MIN_BYTES;
        let (folders, open) = (HashMap::new(), None);
        (plain && apart && many).then(|| Self { selections, overrides, clamped, folders, open })
    }

    /// For what is left out of a certain root.
    pub(super) fn of(&mut self, selection: usize, root: usize) -> Leaving<'_, 'a> {
        Leaving { left: self, selection, root }
    }

    /// Whether nothing was left out.
    pub(super) fn is_empty(&self) -> bool {
        self.folders.values().all(Vec::is_empty)
    }

    fn only_root(&self) -> Option<(&'a Source<'a>, &'a Root)> {
        self.selections.iter().find_map(|(source, roots)| Some((source, roots.first()?)))
    }

    /// The folders of the only root.
    fn all_folders(&self) -> &'a [Folder] {
        self.only_root().map(|(_, root)| &root.folders[..]).unwrap_or_default()
    }

    fn find(&mut self, item: &Item) -> Result<(&'a Source<'a>, Entry), BuildError> {
        let (folder, file) = match item {
            Item::Root { selection, root, .. } => {
                let (source, roots) = &self.selections[*selection];
                return Ok((source, roots[*root].entry.clone()));
            }
            Item::Inside { folder, file } => (*folder, Some(*file)),
            Item::Folder(folder) => (*folder, None),
        };
        let path = &self.all_folders()[folder].path;
        let (source, root) = self.only_root().ok_or_else(|| vanished(path))?;
        let open = match self.open.take() {
            Some((number, entry)) if number == folder => entry,
            _ => source.view.lookup(path)?.ok_or_else(|| vanished(path))?,
        };
        let entry = match file {
            Some(file) => open.found(&root.folders[folder].files[file])?,
            None => open.clone(),
        };
        self.open = Some((folder, open));
        Ok((source, entry))
    }
}

impl Leaving<'_, '_> {
    /// Leaves out the root itself, a file that goes to `dir` as `name`.
    pub(super) fn root(&mut self, dir: &UpperDir, name: &OsStr) -> Result<(), BuildError> {
        dir.make_way(name)?;
        let Self { selection, root, .. } = *self;
        let item = Item::Root { selection, root, name: name.to_owned() };
        self.left.folders.entry(dir.path().to_owned()).or_default().push(item);
        Ok(())
    }

    /// Leaves out what is in the root, a folder, but for folders that the layers below `top` have, too:
    /// they are made here.
    pub(super) fn folders(&mut self, top: &UpperDir) -> Result<(), BuildError> {
        // The folders above, as far as they are made.
        let mut way: Vec<(&Path, Option<UpperDir>)> = Vec::new();
        for (number, folder) in self.left.all_folders().iter().enumerate() {
            while way.last().is_some_and(|(above, _)| folder.relative.parent() != Some(*above)) {
                way.pop();
            }
            let made = match (way.last(), folder.relative.file_name()) {
                (Some((above, made)), Some(name)) => {
                    let made = made.as_ref().map(|made| self.make(made, name, folder));
                    let made = made.transpose()?.flatten();
                    if made.is_none() {
                        let above = top.path().join(above);
                        self.left.folders.entry(above).or_default().push(Item::Folder(number));
                    }
                    made
                }
                _ => Some(top.clone()),
            };
            let mut items = Vec::new();
            for (file, listed) in folder.files.iter().enumerate() {
                if let Some(made) = &made {
                    made.make_way(&listed.name)?;
                }
                if listed.metadata().kind != Kind::Socket {
                    items.push(Item::Inside { folder: number, file });
                }
            }
            self.left.folders.insert(top.path().join(&folder.relative), items);
            way.push((&folder.relative, made));
        }
        Ok(())
    }

    /// Makes a folder in `above` if there is something of that name.
    fn make(
        &self,
        above: &UpperDir,
        name: &OsStr,
        folder: &Folder,
    ) -> Result<Option<UpperDir>, BuildError> {
        if above.lookup(name)?.is_none() {
            return Ok(None);
        }
        let mut metadata = folder.metadata.clone();
        self.left.overrides.apply(false, &mut metadata);
        make_folder(above, name, &Attributes::of(&metadata)).map(Some)
    }
}

impl Outside for LeftOut<'_> {
    type Item = Item;
    type Error = BuildError;

    fn items_in(&mut self, dir: &Path) -> Vec<Item> {
        let mut items = self.folders.remove(dir).unwrap_or_default();
        items.sort_by(|a, b| self.name(a).cmp(self.name(b)));
        items
    }

    fn name<'i>(&'i self, item: &'i Item) -> &'i OsStr {
        match item {
            Item::Root { name, .. } => name,
            Item::Folder(folder) => {
                self.all_folders()[*folder].relative.file_name().unwrap_or_default()
            }
            Item::Inside { folder, file } => &self.all_folders()[*folder].files[*file].name,
        }
    }

    fn metadata(&self, item: &Item) -> Metadata {
        let (mut metadata, inside) = match item {
            Item::Root { selection, root, .. } => {
                (self.selections[*selection].1[*root].entry.metadata().clone(), false)
            }
            Item::Folder(folder) => (self.all_folders()[*folder].metadata.clone(), false),
            Item::Inside { folder, file } => {
                (self.all_folders()[*folder].files[*file].metadata().clone(), true)
            }
        };
        // As BuildKit: what is matched on its own is copied on its own.
        if !(inside && has_names(&metadata)) {
            metadata.nlink = 1;
        }
        self.overrides.apply(false, &mut metadata);
        if let Some(epoch) = self.clamped {
            metadata.mtime = metadata.mtime.min(Timestamp::from_secs(epoch));
        }
        metadata
    }

    fn open(&mut self, item: &Item) -> Result<File, BuildError> {
        let (source, entry) = self.find(item)?;
        Ok(source.view.open_file(&entry)?)
    }

    fn was_read(&mut self, item: &Item, file: &File) -> Result<(), BuildError> {
        let (source, entry) = self.find(item)?;
        Ok(source.check(file, &entry)?)
    }

    fn read_link(&mut self, item: &Item) -> Result<PathBuf, BuildError> {
        let (source, entry) = self.find(item)?;
        Ok(source.view.read_link(&entry)?)
    }
}
