//! What the sources of a COPY or a bind mount select, and the digest of that.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::builder::BuildError;
use crate::builder::glob::Glob;
use crate::builder::ignore::{Decision, Ignore};
use crate::cache::KeyHasher;
use crate::cache::content::FileCache;
use crate::oci::Digest;
use crate::snapshot::{Entry, Kind, Metadata, SnapshotError, View};

/// A tree that files are selected from.
#[derive(Debug)]
pub(in crate::builder) struct Source<'a> {
    pub(super) view: View,
    /// What is hidden, for a context.
    pub(super) ignore: Option<&'a Ignore>,
    pub(super) files: &'a FileCache,
    /// Whether the owners of its files count: those of a user's folder become root.
    pub(super) keep_owners: bool,
    /// As messages name it.
    pub(super) place: String,
}

/// One thing that a pattern matches.
#[derive(Debug)]
pub(super) struct Root {
    /// The last part of the path that matched: the name that a file keeps.
    pub(super) name: OsString,
    /// What it is, links followed.
    pub(super) entry: Entry,
    /// For a folder, itself and all folders below it that are selected, parents first.
    pub(super) folders: Vec<Folder>,
}

/// One folder of a selected tree.
#[derive(Debug)]
pub(super) struct Folder {
    /// The path in the source.
    pub(super) path: PathBuf,
    /// The path below the selected root; empty for itself.
    pub(super) relative: PathBuf,
    pub(super) metadata: Metadata,
    /// What is selected in it, but for folders.
    pub(super) files: Vec<(OsString, Metadata)>,
    /// Where its parent is in the list.
    parent: usize,
    /// Whether it is selected itself, or only leads to what is.
    own: bool,
}

/// Which part of a tree is selected.
#[derive(Debug, Clone, Copy)]
struct Filter<'a> {
    /// Only what matches, if there is anything to match.
    include: Option<&'a Ignore>,
    /// Not what matches.
    exclude: &'a Ignore,
}

impl Source<'_> {
    /// What `pattern`, an absolute path with Go's wildcards, matches. Without wildcards it has to
    /// be there.
    pub(super) fn select(
        &self,
        pattern: &str,
        excludes: &[String],
    ) -> Result<Vec<Root>, BuildError> {
        let exclude = patterns(excludes)?;
        let filter = Filter { include: None, exclude: &exclude };
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        let literal = parts.iter().take_while(|part| !Glob::is_pattern(part.as_bytes())).count();
        let prefix: PathBuf = parts[..literal].iter().collect();
        if literal == parts.len() {
            let Some(entry) = self.resolve(&prefix)? else { return Err(self.not_found(pattern)) };
            let name = OsString::from(parts.last().copied().unwrap_or_default());
            let root = self.root(name, entry, filter)?;
            // A hidden folder is there only for what is shown in it.
            if root.as_ref().is_some_and(|root| root.entry.is_dir() && root.folders.is_empty()) {
                return Err(self.not_found(pattern));
            }
            return Ok(root.into_iter().collect());
        }
        let Some(folder) = self.resolve(&prefix)? else {
            return Err(self.not_found(&format!("/{}", prefix.display())));
        };
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let mut found = vec![folder];
        for part in &parts[literal..] {
            let glob = Glob::parse(part.as_bytes()).map_err(|_| {
                BuildError::Copy(format!("`{}` is no valid pattern", pattern.escape_debug()))
            })?;
            let mut next = Vec::new();
            for folder in found.iter().filter(|entry| entry.is_dir()) {
                let children = self.view.read_dir(folder)?;
                next.extend(children.into_iter().filter(|c| glob.matches(c.name().as_bytes())));
            }
            found = next;
        }
        // BuildKit's client sends of a context only what matches by the rules of a `.dockerignore`
        // too, which read brackets otherwise.
        let sent = patterns(&[parts.join("/")])?;
        let mut roots = Vec::new();
        for entry in found {
            let name = entry.name().to_owned();
            let behind =
                entry.path().iter().skip(entry.path().iter().count() + literal - parts.len());
            let path = prefix.join(behind.collect::<PathBuf>());
            let is_sent = self.ignore.is_none() || sent.is_excluded(path.as_os_str().as_bytes());
            if self.is_hidden(&entry) || !is_sent {
                continue;
            }
            // A match that is a link counts as what it leads to, which has to be there.
            let Some(target) = self.resolve(entry.path())? else {
                return Err(self.not_found(&format!("/{}", entry.path().display())));
            };
            roots.extend(self.root(name, target, filter)?);
        }
        Ok(roots)
    }

    /// What `pattern` matches below `folder`, with the folders that lead to it: `COPY --parents`.
    pub(super) fn select_with_parents(
        &self,
        folder: &str,
        pattern: &str,
        excludes: &[String],
    ) -> Result<Vec<Root>, BuildError> {
        let relative = pattern.trim_matches('/');
        let whole = format!("{}/{relative}", folder.trim_end_matches('/'));
        if !Glob::is_pattern(relative.as_bytes()) && self.resolve(Path::new(&whole))?.is_none() {
            return Err(self.not_found(&whole));
        }
        let Some(entry) = self.resolve(Path::new(folder))? else {
            return Err(self.not_found(folder));
        };
        let exclude = patterns(excludes)?;
        let include = patterns(&[relative.to_owned()])?;
        let filter = Filter { include: Some(&include), exclude: &exclude };
        let mut root = self.root(OsString::new(), entry, filter)?;
        if let Some(root) = root.as_mut().filter(|_| relative.is_empty()) {
            // As BuildKit: an empty pattern matches nothing, and the destination is made.
            root.folders.truncate(1);
            root.folders.iter_mut().for_each(|folder| folder.files.clear());
        }
        Ok(root.into_iter().collect())
    }

    /// What is at `path`, links followed, unless it is hidden.
    pub(super) fn resolve(&self, path: &Path) -> Result<Option<Entry>, BuildError> {
        let found = self.view.resolve_without(path, &|link| self.is_hidden(link))?;
        Ok(found.entry.filter(|entry| !self.is_hidden(entry)))
    }

    /// Whether an ignore file hides something, and all that is below it.
    fn is_hidden(&self, entry: &Entry) -> bool {
        let path = entry.path().as_os_str().as_bytes();
        self.ignore.is_some_and(|ignore| {
            ignore.is_excluded(path) && !(entry.is_dir() && ignore.may_hold_included(path))
        })
    }

    fn not_found(&self, path: &str) -> BuildError {
        let hidden = self.view.resolve(Path::new(path)).is_ok_and(|found| found.entry.is_some());
        BuildError::NotFound { path: path.to_owned(), place: self.place.clone(), ignored: hidden }
    }

    fn root(
        &self,
        name: OsString,
        entry: Entry,
        filter: Filter<'_>,
    ) -> Result<Option<Root>, BuildError> {
        if entry.is_dir() {
            let folders = self.folders(&entry, filter)?;
            return Ok(Some(Root { name, entry, folders }));
        }
        // As BuildKit: what is named itself is not excluded.
        Ok(Some(Root { name, entry, folders: Vec::new() }))
    }

    /// Walks a tree, parents first, without recursion.
    fn folders(&self, root: &Entry, filter: Filter<'_>) -> Result<Vec<Folder>, BuildError> {
        let mut folders: Vec<Folder> = Vec::new();
        let path = root.path().as_os_str().as_bytes();
        let shown = self.ignore.is_none_or(|ignore| !ignore.is_excluded(path));
        let decisions = Decisions {
            ignored: self.ignore.map(|ignore| ignore.decide_all(path)).unwrap_or_default(),
            excluded: Decision::default(),
        };
        let mut left = vec![(root.clone(), PathBuf::new(), 0, shown, decisions)];
        while let Some((entry, relative, parent, own, above)) = left.pop() {
            let index = folders.len();
            let mut files = Vec::new();
            let mut below = Vec::new();
            for child in self.view.read_dir(&entry)? {
                let path = relative.join(child.name());
                let decisions = self.decide(&child, &path, filter, &above);
                let (shown, inside) = self.fate(&child, &path, filter, &decisions);
                if child.is_dir() && (shown || inside) {
                    below.push((child, path, index, shown, decisions));
                } else if shown {
                    files.push((child.name().to_owned(), child.metadata().clone()));
                }
            }
            left.extend(below.into_iter().rev());
            let metadata = entry.metadata().clone();
            let path = entry.path().to_owned();
            folders.push(Folder { path, relative, metadata, files, parent, own });
        }
        Ok(without_empty(folders))
    }

    /// What the patterns say of a child of a folder of which `above` is known.
    fn decide(
        &self,
        entry: &Entry,
        relative: &Path,
        filter: Filter<'_>,
        above: &Decisions,
    ) -> Decisions {
        let path = entry.path().as_os_str().as_bytes();
        let ignored = self.ignore.map(|ignore| ignore.decide(&above.ignored, path));
        let excluded = filter.exclude.decide(&above.excluded, relative.as_os_str().as_bytes());
        Decisions { ignored: ignored.unwrap_or_default(), excluded }
    }

    /// Whether something is selected itself, and whether something below it may be.
    fn fate(
        &self,
        entry: &Entry,
        relative: &Path,
        filter: Filter<'_>,
        decisions: &Decisions,
    ) -> (bool, bool) {
        let relative = relative.as_os_str().as_bytes();
        let path = entry.path().as_os_str().as_bytes();
        let mut shown = filter.include.is_none_or(|include| include.is_excluded(relative));
        let hiding = self.ignore.map(|ignore| (ignore, &decisions.ignored, path));
        let excluding = (filter.exclude, &decisions.excluded, relative);
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

    /// The digest of all that makes a difference to a copy: names, types, modes, bytes, and owners
    /// where they are kept; no times.
    pub(super) fn digest(&self, roots: &[Root]) -> Result<Digest, BuildError> {
        let mut key = KeyHasher::new("selection");
        key.number("keep owners", self.keep_owners.into());
        for root in roots {
            key.field("name", root.name.as_bytes());
            if !root.entry.is_dir() {
                self.encode(&mut key, &root.entry)?;
            }
            let digests = root.folders.par_iter().map(|folder| self.folder_digest(folder));
            for digest in digests.collect::<Result<Vec<_>, _>>()? {
                key.digest("folder", digest);
            }
        }
        Ok(key.finish().0)
    }

    fn folder_digest(&self, folder: &Folder) -> Result<Digest, BuildError> {
        let mut key = KeyHasher::new("folder");
        key.field("path", folder.relative.as_os_str().as_bytes());
        self.encode_metadata(&mut key, &folder.metadata);
        if folder.files.is_empty() {
            return Ok(key.finish().0);
        }
        let Some(entry) = self.view.lookup(&folder.path)? else {
            return Err(vanished(&folder.path));
        };
        for (name, _) in &folder.files {
            let child = self.view.child(&entry, name)?;
            let child = child.ok_or_else(|| vanished(&folder.path.join(name)))?;
            key.field("name", name.as_bytes());
            self.encode(&mut key, &child)?;
        }
        Ok(key.finish().0)
    }

    fn encode(&self, key: &mut KeyHasher, entry: &Entry) -> Result<(), BuildError> {
        let metadata = entry.metadata();
        self.encode_metadata(key, metadata);
        match metadata.kind {
            Kind::File => {
                let open = || self.open(entry);
                let digest = self.files.digest(entry.path(), metadata, open);
                let failed = |source| SnapshotError::Io {
                    action: "read",
                    path: entry.path().to_owned(),
                    source,
                };
                key.digest("bytes", digest.map_err(failed)?);
                for (name, value) in self.view.xattrs(entry)? {
                    if name == "security.capability" {
                        key.field("capability", value);
                    }
                }
            }
            Kind::Symlink => {
                key.field("target", self.view.read_link(entry)?.as_os_str().as_bytes());
            }
            Kind::CharDevice | Kind::BlockDevice => {
                key.number("major", metadata.rdev.0.into());
                key.number("minor", metadata.rdev.1.into());
            }
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        Ok(())
    }

    fn open(&self, entry: &Entry) -> io::Result<File> {
        self.view.open_file(entry).map_err(|err| match err {
            SnapshotError::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        })
    }

    fn encode_metadata(&self, key: &mut KeyHasher, metadata: &Metadata) {
        key.number("kind", metadata.kind as u64);
        if metadata.kind != Kind::Symlink {
            key.number("mode", metadata.mode.into());
        }
        if self.keep_owners {
            key.number("uid", metadata.uid.into());
            key.number("gid", metadata.gid.into());
        }
    }
}

/// What the patterns say of a path.
#[derive(Debug, Clone, Default)]
struct Decisions {
    /// Those of the ignore file.
    ignored: Decision,
    /// Those of `--exclude`.
    excluded: Decision,
}

/// Leaves out the folders that are not selected and lead to nothing that is.
fn without_empty(folders: Vec<Folder>) -> Vec<Folder> {
    let mut kept = vec![false; folders.len()];
    for (index, folder) in folders.iter().enumerate().rev() {
        kept[index] |= folder.own || !folder.files.is_empty();
        if kept[index] {
            kept[folder.parent] = true;
        }
    }
    folders.into_iter().zip(kept).filter_map(|(folder, kept)| kept.then_some(folder)).collect()
}

fn patterns(texts: &[String]) -> Result<Ignore, BuildError> {
    Ignore::from_patterns(texts.iter().map(String::as_bytes))
        .map_err(|err| BuildError::Copy(format!("invalid pattern: {err}")))
}

/// Something that was there a moment ago.
pub(super) fn vanished(path: &Path) -> BuildError {
    let source = io::Error::from(io::ErrorKind::NotFound);
    SnapshotError::Io { action: "read", path: path.to_owned(), source }.into()
}

impl Root {
    /// The name of the file, for messages.
    pub(super) fn display(&self) -> String {
        OsStr::to_string_lossy(self.entry.path().as_os_str()).into_owned()
    }
}
