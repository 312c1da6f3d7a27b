//! COPY and ADD: files of a tree into the layer that is being made, by BuildKit's rules.
//!
//! | source | destination | result |
//! |---|---|---|
//! | folder | none | the destination becomes a folder with its contents |
//! | folder | folder | its contents are merged in, file by file |
//! | folder | anything else | refused |
//! | file | folder, or ends in a slash | into the folder, under its own name |
//! | file | none, or a file | the destination becomes the file |
//!
//! Links in the destination are followed inside the root; links at the end of a source are followed
//! inside the source; links met below a copied folder are copied as links.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::Work;
use super::last::{LastFolder, LastTime};
use super::left_out::{Leaving, LeftOut, Selection};
use super::make_dir::open_upper;
use super::overrides::Overrides;
use super::select::{Root, Source, vanished};
use super::tree::Folder;
use crate::builder::BuildError;
use crate::builder::graph::{CopyItem, CopyOp, Mode, Tree};
use crate::cache::receipts::{NewReceipts, Receipt};
use crate::layer;
use crate::snapshot::{
    Attributes, Entry, Kind, Metadata, SnapshotError, Timestamp, Upper, UpperDir, copy_file,
};
use crate::store::StagedLayer;

/// What a source of a COPY matches.
pub(super) fn select(
    source: &Source<'_>,
    item: &CopyItem,
    excludes: &[String],
) -> Result<Vec<Root>, BuildError> {
    match item {
        CopyItem::Files { pivot: Some((folder, rest)), .. } => {
            source.select_with_parents(folder, rest, excludes)
        }
        CopyItem::Files { pattern, .. } => source.select(pattern, excludes),
        CopyItem::Inline { .. } => Ok(Vec::new()),
    }
}

/// Copies what is selected, and gives what it needed not copy: with `as_tar`, what goes into a tar alone
/// is left where it is.
pub(super) fn execute<'a>(
    work: &Work<'_>,
    op: &'a CopyOp,
    selections: &'a [Selection<'a>],
    staged: &StagedLayer,
) -> Result<Option<LeftOut<'a>>, BuildError> {
    let upper = open_upper(staged, &work.view()?)?;
    let last = work.last_time();
    let overrides = Overrides { owner: work.owner(op.owner.as_deref())?, mode: op.mode.as_ref() };
    let mut left = if work.as_tar { LeftOut::new(selections, overrides, work.epoch) } else { None };
    let copier = Copier {
        upper: &upper,
        last: last.as_ref(),
        overrides,
        now: work.now(),
        clamped: work.epoch,
        linked: Mutex::default(),
        shared: Mutex::default(),
        receipts: NewReceipts::default(),
    };
    for (number, (item, (source, roots))) in op.items.iter().zip(selections).enumerate() {
        match item {
            CopyItem::Inline { name, text } => copier.inline(op, name, text)?,
            CopyItem::Files { unpack, .. } => {
                for (root, of) in roots.iter().enumerate() {
                    let left = left.as_mut().map(|left| left.of(number, root));
                    copier.root(source, of, &op.destination, *unpack, left)?;
                }
            }
        }
    }
    upper.finish()?;
    if op.items.iter().all(|item| matches!(item, CopyItem::Files { unpack: false, .. })) {
        // Without them, the next time takes longer and nothing else.
        drop(copier.receipts.write(&staged.receipts()));
    }
    Ok(left.filter(|left| !left.is_empty()))
}

/// What the items of a COPY select.
pub(super) fn selections<'a>(
    work: &Work<'a>,
    op: &CopyOp,
) -> Result<Vec<Selection<'a>>, BuildError> {
    let of = |item: &CopyItem| {
        let from = match item {
            CopyItem::Inline { .. } => Tree::Scratch,
            CopyItem::Files { from, .. } => *from,
        };
        let source = work.inputs.source(from)?;
        let roots = select(&source, item, &op.excludes)?;
        work.inputs.compare(&source, &roots);
        Ok((source, roots))
    };
    op.items.iter().map(of).collect()
}

/// Copies all of a tree's selected part into a layer, for bind mounts that need a copy.
pub(super) fn copy_tree(
    source: &Source<'_>,
    roots: &[Root],
    upper: &Upper,
    destination: &str,
    now: Timestamp,
) -> Result<(), BuildError> {
    let (overrides, clamped) = (Overrides { owner: None, mode: None }, None);
    let (linked, shared) = (Mutex::default(), Mutex::default());
    let receipts = NewReceipts::default();
    let copier = Copier { upper, last: None, overrides, now, clamped, linked, shared, receipts };
    for root in roots {
        copier.root(source, root, destination, false, None)?;
    }
    Ok(upper.finish()?)
}

/// The permissions that BuildKit's own umask keeps from the folders that it makes.
const UMASK: u32 = 0o022;

/// So many folders are open at once.
const BATCH: usize = 128;

/// Fewer files of one folder than this are not worth another thread.
const MIN_FILES: usize = 16;

/// A folder that is copied, and where to.
#[derive(Clone)]
struct Pair<'a> {
    folder: &'a Folder,
    from: Entry,
    to: Target<'a>,
}

/// A folder that files are copied into, and what it was the last time.
#[derive(Clone)]
struct Target<'a> {
    dir: UpperDir,
    last: Option<LastFolder<'a>>,
}

/// Device, inode, and the layer of the source that holds it.
type FileId = (u64, u64, usize);

struct Copier<'a> {
    upper: &'a Upper,
    /// What this instruction made before.
    last: Option<&'a LastTime>,
    overrides: Overrides<'a>,
    now: Timestamp,
    clamped: Option<i64>,
    /// Where files of one root with several names went, by device, inode and the source's layer.
    linked: Mutex<HashMap<FileId, (PathBuf, OsString)>>,
    /// The files that are in this layer and in another, by device and inode: once each, as twice
    /// would be hard links of one another.
    shared: Mutex<HashSet<(u64, u64)>>,
    /// What came from where.
    receipts: NewReceipts,
}

impl<'a> Copier<'a> {
    /// A here-document becomes a file.
    fn inline(&self, op: &CopyOp, name: &str, text: &str) -> Result<(), BuildError> {
        let (dir, name) = self.place_file(&op.destination, OsStr::new(name))?;
        let (uid, gid) = self.overrides.owner.unwrap_or((0, 0));
        let mode = self.overrides.mode(0o644, false);
        let attributes = Attributes { mode, uid, gid, mtime: self.now, xattrs: Vec::new() };
        let new = dir.create_file(&name, &attributes)?;
        std::io::Write::write_all(&mut new.file(), text.as_bytes()).map_err(|source| {
            SnapshotError::Io { action: "write", path: dir.path().join(&name), source }
        })?;
        Ok(new.finish()?)
    }

    fn root(
        &self,
        source: &Source<'_>,
        root: &Root,
        destination: &str,
        unpack: bool,
        left: Option<Leaving<'_, '_>>,
    ) -> Result<(), BuildError> {
        // As BuildKit: what is matched on its own is copied on its own.
        self.linked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if root.entry.is_dir() {
            return self.folders(source, root, destination, left);
        }
        if unpack && root.entry.metadata().is_file() && self.unpack(source, root, destination)? {
            return Ok(());
        }
        if root.entry.kind() == Kind::Socket {
            return Ok(());
        }
        let (dir, name) = self.place_file(destination, &root.name)?;
        if let Some(mut left) = left.filter(|_| root.entry.metadata().is_file()) {
            return left.root(&dir, &name);
        }
        self.entry(source, &root.entry, &self.target(dir), &name)
    }

    fn target(&self, dir: UpperDir) -> Target<'a> {
        let last = self.last.and_then(|last| last.folder(dir.path()));
        Target { dir, last }
    }

    /// The folder and the name that a file goes to.
    fn place_file(
        &self,
        destination: &str,
        own_name: &OsStr,
    ) -> Result<(UpperDir, OsString), BuildError> {
        let path = Path::new(destination);
        if destination.ends_with('/') {
            return Ok((self.directory(path)?, own_name.to_owned()));
        }
        // The folder as written comes first: the last part may be a link that leads nowhere yet.
        self.directory(path.parent().unwrap_or(path))?;
        let found = self.upper.view().resolve(path)?;
        if found.entry.is_some_and(|entry| entry.is_dir()) {
            return Ok((self.directory(&found.path)?, own_name.to_owned()));
        }
        let parent = found.path.parent().unwrap_or(Path::new(""));
        let name = found.path.file_name().unwrap_or(own_name).to_owned();
        Ok((self.directory(parent)?, name))
    }

    /// A folder of the destination, made where it is missing.
    fn directory(&self, path: &Path) -> Result<UpperDir, BuildError> {
        Ok(self.upper.directory(path, &self.new_folder(self.now))?)
    }

    /// What a folder that is made for the destination gets. As BuildKit: an octal `--chmod` holds for
    /// it too, under the umask.
    fn new_folder(&self, mtime: Timestamp) -> Attributes {
        let (uid, gid) = self.overrides.owner.unwrap_or((0, 0));
        let mode = match self.overrides.mode {
            Some(Mode::Octal(mode)) => mode & 0o777 & !UMASK,
            Some(Mode::Symbolic(_)) | None => 0o755,
        };
        Attributes { mode, uid, gid, mtime, xattrs: Vec::new() }
    }

    fn folders(
        &self,
        source: &Source<'_>,
        root: &Root,
        destination: &str,
        left: Option<Leaving<'_, '_>>,
    ) -> Result<(), BuildError> {
        let path = Path::new(destination);
        let found = self.upper.view().resolve(path)?.entry;
        if let Some(found) = found.as_ref().filter(|entry| !entry.is_dir()) {
            return Err(not_a_folder(found.path()));
        }
        let Some(first) = root.folders.first() else { return Ok(()) };
        let top = self.directory(path)?;
        if found.is_none() {
            top.set_attributes(&self.new_folder(first.metadata.mtime))?;
        }
        if let Some(mut left) = left {
            return left.folders(&top);
        }
        let mut way: Vec<Pair<'_>> = Vec::new();
        for batch in root.folders.chunks(BATCH) {
            let pairs: Vec<_> = batch
                .iter()
                .map(|folder| self.pair(source, folder, &top, &mut way))
                .collect::<Result<_, _>>()?;
            pairs.par_iter().try_for_each(|pair| self.files(source, pair, |it| !has_names(it)))?;
        }
        // Files with several names come one after another, so that the first is always the same.
        way.clear();
        for folder in &root.folders {
            if folder.files.iter().any(|file| has_names(file.metadata())) {
                let from = source.view.lookup(&folder.path)?;
                let from = from.ok_or_else(|| vanished(&folder.path))?;
                let to = self.target(open_below(&top, &folder.relative)?);
                let pair = Pair { folder, from, to };
                self.files(source, &pair, has_names)?;
            }
        }
        Ok(())
    }

    /// Opens a folder and what it is copied to, which is made unless it is the `top`. `way` is where
    /// the folder before it was, and those above that.
    fn pair<'f>(
        &self,
        source: &Source<'_>,
        folder: &'f Folder,
        top: &UpperDir,
        way: &mut Vec<Pair<'f>>,
    ) -> Result<Pair<'f>, BuildError>
    where
        'a: 'f,
    {
        while way
            .last()
            .is_some_and(|above| folder.relative.parent() != Some(&above.folder.relative))
        {
            way.pop();
        }
        let pair = match (way.last(), folder.relative.file_name()) {
            (Some(above), Some(name)) => {
                let from = source.view.child(&above.from, name)?;
                let from = from.ok_or_else(|| vanished(&folder.path))?;
                let attributes = self.attributes(source, &from, source.view.xattrs(&from)?);
                let dir = make_folder(&above.to.dir, name, &attributes)?;
                let last = above.to.last.as_ref().and_then(|last| last.folder(name));
                Pair { folder, from, to: Target { dir, last } }
            }
            _ => {
                let from = source.view.lookup(&folder.path)?;
                let from = from.ok_or_else(|| vanished(&folder.path))?;
                Pair { folder, from, to: self.target(top.clone()) }
            }
        };
        way.push(pair.clone());
        Ok(pair)
    }

    /// Copies those files of a folder that are `wanted`.
    fn files(
        &self,
        source: &Source<'_>,
        pair: &Pair<'_>,
        wanted: impl Fn(&Metadata) -> bool + Sync,
    ) -> Result<(), BuildError> {
        let files = pair.folder.files.par_iter().with_min_len(MIN_FILES);
        files.filter(|file| wanted(file.metadata())).try_for_each(|file| {
            let entry = pair.from.found(file)?;
            self.entry(source, &entry, &pair.to, &file.name)
        })
    }

    /// Copies anything but a folder.
    fn entry(
        &self,
        source: &Source<'_>,
        entry: &Entry,
        target: &Target<'_>,
        name: &OsStr,
    ) -> Result<(), BuildError> {
        let (metadata, dir) = (entry.metadata(), &target.dir);
        let shared = has_names(metadata);
        if shared && self.link_again(entry, dir, name)? {
            self.receipts.note(dir.path(), name, None);
            return Ok(());
        }
        let mut receipt = None;
        let attributes = || -> Result<_, BuildError> {
            Ok(self.attributes(source, entry, source.view.xattrs(entry)?))
        };
        match metadata.kind {
            Kind::File => receipt = self.file(source, entry, target, name)?,
            Kind::Symlink => dir.symlink(name, &source.view.read_link(entry)?, &attributes()?)?,
            Kind::Fifo => dir.node(name, Kind::Fifo, metadata.rdev, &attributes()?)?,
            // As BuildKit, which makes a character device of either.
            Kind::CharDevice | Kind::BlockDevice => {
                dir.node(name, Kind::CharDevice, metadata.rdev, &attributes()?)?;
            }
            Kind::Socket | Kind::Directory => {}
        }
        self.receipts.note(dir.path(), name, receipt);
        if shared {
            let mut linked = self.linked.lock().unwrap_or_else(PoisonError::into_inner);
            let place = (dir.path().to_owned(), name.to_owned());
            linked.entry((metadata.dev, metadata.ino, entry.layer())).or_insert(place);
        }
        Ok(())
    }

    /// Two names that are one file in the source are one in the copy. False for the first of them.
    fn link_again(&self, entry: &Entry, dir: &UpperDir, name: &OsStr) -> Result<bool, BuildError> {
        let metadata = entry.metadata();
        let known = {
            let linked = self.linked.lock().unwrap_or_else(PoisonError::into_inner);
            linked.get(&(metadata.dev, metadata.ino, entry.layer())).cloned()
        };
        let Some((first_dir, first_name)) = known else { return Ok(false) };
        let first = open_below(&self.upper.root(), &first_dir)?;
        dir.hard_link(name, &first, &first_name)?;
        Ok(true)
    }

    /// Copies a file; gives the receipt for the copy, where there can be one.
    fn file(
        &self,
        source: &Source<'_>,
        entry: &Entry,
        target: &Target<'_>,
        name: &OsStr,
    ) -> Result<Option<Receipt>, BuildError> {
        let (metadata, dir) = (entry.metadata(), &target.dir);
        if self.may_share(source, entry) && self.share(dir, name, entry) {
            return Ok(None);
        }
        let last = target.last.as_ref();
        let receipt = self.receipt(source, entry, dir, name);
        if let (Some(receipt), Some(last)) = (&receipt, last)
            && last.again(receipt, dir, name)
        {
            return Ok(Some(*receipt));
        }
        let from = source.view.open_file(entry)?;
        let attributes = self.attributes(source, entry, entry.xattrs_of(&from)?);
        let receipt = receipt.filter(|_| attributes.xattrs.is_empty());
        if let Some(same) = last.and_then(|it| it.same(name, &attributes, &from, metadata.size))
            && self.share(dir, name, &same)
        {
            source.check(&from, entry)?;
            return Ok(receipt);
        }
        let new = dir.create_file(name, &attributes)?;
        copy_file(&from, new.file(), metadata.size, None)
            .map_err(|error| error.at(&dir.path().join(name)))?;
        source.check(&from, entry)?;
        new.finish()?;
        Ok(receipt)
    }

    /// What says all about a copy: not where one file has several names.
    fn receipt(
        &self,
        source: &Source<'_>,
        entry: &Entry,
        dir: &UpperDir,
        name: &OsStr,
    ) -> Option<Receipt> {
        let metadata = entry.metadata();
        let stamp = source.files.stamp(entry.path(), metadata).filter(|_| !has_names(metadata))?;
        let mut metadata = metadata.clone();
        self.overrides.apply(source.keep_owners, &mut metadata);
        Some(Receipt::new(dir.path(), name, &stamp, &metadata))
    }

    /// Puts a file of another layer into this one too; not twice, nor where the file system can't.
    fn share(&self, dir: &UpperDir, name: &OsStr, file: &Entry) -> bool {
        let id = (file.metadata().dev, file.metadata().ino);
        let first = self.shared.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        first && dir.link_entry(name, file).is_ok()
    }

    /// Whether the file of a stage can itself be in the new layer too. Layers never change, so it
    /// can where nothing about it changes; a time that is to be clamped is a change.
    fn may_share(&self, source: &Source<'_>, entry: &Entry) -> bool {
        source.keep_owners
            && self.overrides.owner.is_none()
            && self.overrides.mode.is_none()
            && self
                .clamped
                .is_none_or(|epoch| entry.metadata().mtime <= Timestamp::from_secs(epoch))
    }

    fn attributes(
        &self,
        source: &Source<'_>,
        entry: &Entry,
        mut xattrs: Vec<(OsString, Vec<u8>)>,
    ) -> Attributes {
        let metadata = entry.metadata();
        if !source.keep_owners {
            // As BuildKit: what a context grants counts for nothing in the image.
            xattrs.retain(|(name, _)| name != "security.capability");
        }
        let mut metadata = metadata.clone();
        self.overrides.apply(source.keep_owners, &mut metadata);
        Attributes { xattrs, ..Attributes::of(&metadata) }
    }

    /// Unpacks a local archive. False for what is none.
    fn unpack(
        &self,
        source: &Source<'_>,
        root: &Root,
        destination: &str,
    ) -> Result<bool, BuildError> {
        let failed = |source| BuildError::Unpack { path: root.display(), source };
        if !layer::is_archive(source.view.open_file(&root.entry)?) {
            return Ok(false);
        }
        let (uid, gid) = self.overrides.owner.unwrap_or((0, 0));
        let new = Attributes { mode: 0o755, uid, gid, mtime: self.now, xattrs: Vec::new() };
        let dir = self.upper.directory(Path::new(destination), &new)?;
        let failed_read = |error| failed(layer::LayerError::read(error));
        let file = source.view.open_file(&root.entry)?;
        let (_, archive) = layer::open_archive(&file).map_err(failed_read)?;
        let options = layer::Options { owner: self.overrides.owner, ..layer::Options::ARCHIVE };
        layer::apply(archive, &self.upper.below(&dir)?, options).map_err(failed)?;
        source.check(&file, &root.entry)?;
        Ok(true)
    }
}

/// Whether a file has several names, which are to be one file in the copy too.
pub(super) fn has_names(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.nlink > 1
}

/// Makes a folder below the destination, or gives one that is there the source's attributes.
pub(super) fn make_folder(
    parent: &UpperDir,
    name: &OsStr,
    attributes: &Attributes,
) -> Result<UpperDir, BuildError> {
    let (dir, made) = match parent.child(name, attributes) {
        Err(SnapshotError::NotADirectory { path, .. }) => return Err(not_a_folder(&path)),
        found => found?,
    };
    if !made {
        dir.set_attributes(attributes)?;
    }
    Ok(dir)
}

fn not_a_folder(path: &Path) -> BuildError {
    let path = path.to_string_lossy().escape_debug().to_string();
    BuildError::Copy(format!("cannot copy a directory to the non-directory `{path}`"))
}

/// A folder below another that is in the layer already.
fn open_below(top: &UpperDir, relative: &Path) -> Result<UpperDir, BuildError> {
    let existing = Attributes::default();
    let mut dir = top.clone();
    for name in relative {
        dir = dir.child(name, &existing)?.0;
    }
    Ok(dir)
}
