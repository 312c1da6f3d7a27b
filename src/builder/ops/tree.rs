//! The folders of a source that a pattern selects: one walk on all cores, which asks the kernel once
//! about each file.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::select::Source;
use crate::builder::BuildError;
use crate::builder::ignore::{Decision, Ignore};
use crate::snapshot::{Entry, Listed, Metadata};

/// One folder of a selected tree.
#[derive(Debug)]
pub(super) struct Folder {
    /// The path in the source.
    pub(super) path: PathBuf,
    /// The path below the selected root; empty for itself.
    pub(super) relative: PathBuf,
    pub(super) metadata: Metadata,
    /// What is selected in it, but for folders.
    pub(super) files: Vec<Listed>,
    /// Whether it is selected itself, or only leads to what is.
    own: bool,
}

/// Which part of a tree is selected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filter<'a> {
    /// Only what matches, if there is anything to match.
    pub(super) include: Option<&'a Ignore>,
    /// Not what matches.
    pub(super) exclude: &'a Ignore,
}

/// What the patterns say of a path.
#[derive(Debug, Clone, Default)]
struct Decisions {
    /// Those of the ignore file.
    ignored: Decision,
    /// Those of `--exclude`.
    excluded: Decision,
}

/// A folder that was found and not looked into yet.
struct Pending {
    entry: Entry,
    relative: PathBuf,
    own: bool,
    decisions: Decisions,
}

struct Walk<'a> {
    source: &'a Source<'a>,
    filter: Filter<'a>,
    found: Mutex<Vec<Folder>>,
    failed: OnceLock<BuildError>,
}

/// Walks the tree of `root`. The folders come as on a walk in the order of names, depth first.
pub(super) fn walk(
    source: &Source<'_>,
    root: &Entry,
    filter: Filter<'_>,
) -> Result<Vec<Folder>, BuildError> {
    let path = root.path().as_os_str().as_bytes();
    let decisions = Decisions {
        ignored: source.ignore.map(|ignore| ignore.decide_all(path)).unwrap_or_default(),
        excluded: Decision::default(),
    };
    let own = source.ignore.is_none_or(|ignore| !ignore.is_excluded(path));
    let first = Pending { entry: root.clone(), relative: PathBuf::new(), own, decisions };
    let walk = Walk { source, filter, found: Mutex::default(), failed: OnceLock::new() };
    rayon::scope(|scope| walk.folder(scope, first));
    if let Some(error) = walk.failed.into_inner() {
        return Err(error);
    }
    let mut found = walk.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_unstable_by(|a, b| components(&a.relative).cmp(components(&b.relative)));
    Ok(without_empty(found))
}

impl Walk<'_> {
    /// Looks into a folder, and has those in it looked into. A thread takes up what it found last,
    /// so that few folders are open at once.
    fn folder<'s>(&'s self, scope: &rayon::Scope<'s>, pending: Pending) {
        if self.failed.get().is_some() {
            return;
        }
        match self.look_into(pending) {
            Ok((folder, below)) => {
                self.found.lock().unwrap_or_else(PoisonError::into_inner).push(folder);
                for pending in below {
                    scope.spawn(|scope| self.folder(scope, pending));
                }
            }
            // The first one tells enough.
            Err(error) => drop(self.failed.set(error)),
        }
    }

    fn look_into(&self, pending: Pending) -> Result<(Folder, Vec<Pending>), BuildError> {
        let Pending { entry, relative, own, decisions: above } = pending;
        let (mut files, mut below) = (Vec::new(), Vec::new());
        let [mut path, mut inner] = [entry.path(), &relative].map(prefix);
        let lengths = [path.len(), inner.len()];
        for child in entry.list()? {
            path.truncate(lengths[0]);
            path.extend(child.name.as_bytes());
            inner.truncate(lengths[1]);
            inner.extend(child.name.as_bytes());
            let decisions = self.decide(&path, &inner, &above);
            let (shown, inside) = self.fate(&path, &inner, &decisions);
            if child.metadata().is_dir() && (shown || inside) {
                let relative = PathBuf::from(OsString::from_vec(inner.clone()));
                let entry = entry.found(&child)?;
                below.push(Pending { entry, relative, own: shown, decisions });
            } else if shown {
                files.push(child);
            }
        }
        let (path, metadata) = (entry.path().to_owned(), entry.metadata().clone());
        Ok((Folder { path, relative, metadata, files, own }, below))
    }

    /// What the patterns say of a child of a folder of which `above` is known.
    fn decide(&self, path: &[u8], relative: &[u8], above: &Decisions) -> Decisions {
        let ignored = self.source.ignore.map(|ignore| ignore.decide(&above.ignored, path));
        let excluded = self.filter.exclude.decide(&above.excluded, relative);
        Decisions { ignored: ignored.unwrap_or_default(), excluded }
    }

    /// Whether something is selected itself, and whether something below it may be.
    fn fate(&self, path: &[u8], relative: &[u8], decisions: &Decisions) -> (bool, bool) {
        let mut shown = self.filter.include.is_none_or(|include| include.is_excluded(relative));
        let hiding = self.source.ignore.map(|ignore| (ignore, &decisions.ignored, path));
        let excluding = (self.filter.exclude, &decisions.excluded, relative);
        for (patterns, decision, path) in hiding.into_iter().chain([excluding]) {
            if patterns.excludes(decision) {
                if !patterns.may_hold_included_below(decision, path) {
                    return (false, false);
                }
                shown = false;
            }
        }
        (shown, true)
    }
}

/// What compares as the components of a path, one after another.
fn components(path: &Path) -> impl Iterator<Item = u8> {
    path.as_os_str().as_bytes().iter().map(|byte| if *byte == b'/' { 0 } else { *byte })
}

/// What the paths in a folder begin with.
fn prefix(path: &Path) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    if path.is_empty() { Vec::new() } else { [path, b"/"].concat() }
}

/// Leaves out the folders that are not selected and lead to nothing that is.
fn without_empty(mut folders: Vec<Folder>) -> Vec<Folder> {
    let mut leading = HashSet::new();
    for folder in folders.iter_mut().rev() {
        folder.own |= !folder.files.is_empty() || leading.contains(folder.relative.as_path());
        if let Some(parent) = folder.relative.parent().filter(|_| folder.own) {
            leading.insert(parent.to_owned());
        }
    }
    folders.retain(|folder| folder.own);
    folders
}
