//! What the sources of a COPY or a bind mount select, and the digest of that.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::tree::{self, Filter, Folder};
use crate::builder::BuildError;
use crate::builder::glob::Glob;
use crate::builder::ignore::Ignore;
use crate::cache::KeyHasher;
use crate::cache::content::FileCache;
use crate::oci::Digest;
use crate::snapshot::{Entry, Kind, Listed, Metadata, SnapshotError, Timestamp, View};

/// Where a folder's files have more bytes than this together, they are read by all cores.
const LARGE_BYTES: u64 = 8 << 20;

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
    /// Where it is noted that a file is not what it was: somebody may be at work in a context.
    pub(super) changed: Option<&'a AtomicBool>,
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

impl Source<'_> {
    /// What `pattern`, an absolute path with Go's wildcards, matches. Without wildcards it is a path.
    pub(super) fn select(
        &self,
        pattern: &str,
        excludes: &[String],
    ) -> Result<Vec<Root>, BuildError> {
        if !Glob::has_wildcards(pattern.as_bytes()) {
            // BuildKit's client takes it for a pattern all the same, which does not match itself then.
            if self.ignore.is_some() && pattern.contains('\\') {
                return Err(self.not_found(pattern));
            }
            return self.select_path(pattern, excludes);
        }
        let exclude = patterns(excludes)?;
        let filter = Filter { include: None, exclude: &exclude };
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        let is_literal = |part: &&&str| !Glob::has_wildcards(part.as_bytes());
        let literal = parts.iter().take_while(is_literal).count();
        let prefix: PathBuf = parts[..literal].iter().collect();
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

    /// What is at `path`, in which no character is special. It has to be there.
    pub(super) fn select_path(
        &self,
        path: &str,
        excludes: &[String],
    ) -> Result<Vec<Root>, BuildError> {
        let exclude = patterns(excludes)?;
        let filter = Filter { include: None, exclude: &exclude };
        let Some(entry) = self.resolve(Path::new(path))? else { return Err(self.not_found(path)) };
        let name = Path::new(path).file_name().unwrap_or_default().to_owned();
        let root = self.root(name, entry, filter)?;
        // A hidden folder is there only for what is shown in it.
        if root.as_ref().is_some_and(|root| root.entry.is_dir() && root.folders.is_empty()) {
            return Err(self.not_found(path));
        }
        Ok(root.into_iter().collect())
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
            let folders = tree::walk(self, &entry, filter)?;
            return Ok(Some(Root { name, entry, folders }));
        }
        // As BuildKit: what is named itself is not excluded.
        Ok(Some(Root { name, entry, folders: Vec::new() }))
    }

    /// The digest of all that makes a difference to a copy: names, types, modes, bytes, and owners
    /// where they are kept; no times.
    pub(super) fn digest(&self, roots: &[Root]) -> Result<Digest, BuildError> {
        let mut key = KeyHasher::new("selection");
        key.number("keep owners", self.keep_owners.into());
        for root in roots {
            key.field("name", root.name.as_bytes());
            if !root.entry.is_dir() {
                let (entry, metadata) = (&root.entry, root.entry.metadata());
                let bytes = self.bytes(entry.path(), metadata, || self.view.open_file(entry))?;
                self.encode(&mut key, metadata, bytes, || Ok(entry.clone()))?;
            }
            let digests = root.folders.par_iter().map(|folder| self.folder_digest(folder));
            for digest in digests.collect::<Result<Vec<_>, _>>()? {
                key.digest("folder", digest);
            }
        }
        Ok(key.finish().0)
    }

    /// Notes it if what is selected now is not what it was at the time of one of the `states`.
    pub(super) fn compare(&self, roots: &[Root], mut states: impl Iterator<Item = Digest>) {
        if let Some(changed) = self.changed {
            let state = state(roots);
            changed.fetch_or(!states.any(|known| known == state), Ordering::Relaxed);
        }
    }

    /// Notes it if a file that was read is not what it was when it was selected.
    ///
    /// # Errors
    /// [`SnapshotError::Changed`] where that can be seen from its size.
    pub(super) fn check(&self, file: &File, selected: &Entry) -> Result<(), SnapshotError> {
        let Some(changed) = self.changed else { return Ok(()) };
        let now = file.metadata().map_err(|source| {
            let path = selected.path().to_owned();
            SnapshotError::Io { action: "read", path, source }
        })?;
        let (expected, found) = (selected.metadata().size, now.len());
        if expected != found {
            return Err(SnapshotError::Changed { expected, found });
        }
        let Timestamp { secs, nanos } = selected.metadata().ctime;
        let same = (now.ctime(), now.ctime_nsec()) == (secs, i64::from(nanos));
        changed.fetch_or(!same, Ordering::Relaxed);
        Ok(())
    }

    fn folder_digest(&self, folder: &Folder) -> Result<Digest, BuildError> {
        let mut key = KeyHasher::new("folder");
        key.field("path", folder.relative.as_os_str().as_bytes());
        self.encode_metadata(&mut key, &folder.metadata);
        // Most often nothing in it has to be opened.
        let dir = OnceLock::new();
        let find = |file: &Listed| self.open_dir(folder, &dir)?.found(file);
        let bytes = |file: &Listed| {
            let open = || self.view.open_file(&find(file)?);
            self.bytes(&folder.path.join(&file.name), file.metadata(), open)
        };
        let size: u64 = folder.files.iter().map(|file| file.metadata().size).sum();
        let digests: Vec<_> = if size > LARGE_BYTES {
            folder.files.par_iter().map(bytes).collect::<Result<_, _>>()?
        } else {
            folder.files.iter().map(bytes).collect::<Result<_, _>>()?
        };
        for (file, bytes) in folder.files.iter().zip(digests) {
            key.field("name", file.name.as_bytes());
            self.encode(&mut key, file.metadata(), bytes, || find(file))?;
        }
        Ok(key.finish().0)
    }

    /// The folder, looked up when it is first needed.
    fn open_dir<'d>(
        &self,
        folder: &Folder,
        dir: &'d OnceLock<Entry>,
    ) -> Result<&'d Entry, SnapshotError> {
        match dir.get() {
            Some(dir) => Ok(dir),
            None => {
                let found = self.view.lookup(&folder.path)?;
                let found = found.ok_or_else(|| vanished(&folder.path))?;
                Ok(dir.get_or_init(|| found))
            }
        }
    }

    /// The digest of a file's content; of anything else, nothing.
    fn bytes(
        &self,
        path: &Path,
        metadata: &Metadata,
        open: impl FnOnce() -> Result<File, SnapshotError>,
    ) -> Result<Option<Digest>, BuildError> {
        if metadata.kind != Kind::File {
            return Ok(None);
        }
        let open = || {
            open().map_err(|err| match err {
                SnapshotError::Io { source, .. } => source,
                other => io::Error::other(other.to_string()),
            })
        };
        let digest = self.files.digest(path, metadata, open);
        let failed = |source| SnapshotError::Io { action: "read", path: path.to_owned(), source };
        Ok(Some(digest.map_err(failed)?))
    }

    /// Adds what there is to know about a file to a key; `find` looks at it again, where `metadata`
    /// does not tell it all.
    fn encode(
        &self,
        key: &mut KeyHasher,
        metadata: &Metadata,
        bytes: Option<Digest>,
        find: impl FnOnce() -> Result<Entry, SnapshotError>,
    ) -> Result<(), BuildError> {
        self.encode_metadata(key, metadata);
        match metadata.kind {
            Kind::File => {
                if let Some(bytes) = bytes {
                    key.digest("bytes", bytes);
                }
                // Those of a user's folder count for nothing in the image.
                let xattrs =
                    if self.keep_owners { self.view.xattrs(&find()?)? } else { Vec::new() };
                for (name, value) in xattrs {
                    if name == "security.capability" {
                        key.field("capability", value);
                    }
                }
            }
            Kind::Symlink => {
                key.field("target", self.view.read_link(&find()?)?.as_os_str().as_bytes());
            }
            Kind::CharDevice | Kind::BlockDevice => {
                key.number("major", metadata.rdev.0.into());
                key.number("minor", metadata.rdev.1.into());
            }
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        Ok(())
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

fn patterns(texts: &[String]) -> Result<Ignore, BuildError> {
    Ignore::from_patterns(texts.iter().map(String::as_bytes))
        .map_err(|err| BuildError::Copy(format!("invalid pattern: {err}")))
}

/// The digest of what the kernel says of a selection. While it is the same, so is [`Source::digest`].
pub(super) fn state(roots: &[Root]) -> Digest {
    let mut state = blake3::Hasher::new();
    for root in roots {
        let mut bytes = Vec::new();
        note(&mut bytes, &root.name, root.entry.metadata());
        note(&mut bytes, root.entry.path().as_os_str(), root.entry.metadata());
        state.update(&bytes);
        let folders: Vec<blake3::Hash> = root.folders.par_iter().map(folder_state).collect();
        for folder in folders {
            state.update(folder.as_bytes());
        }
    }
    Digest::from_bytes(*state.finalize().as_bytes())
}

/// All of a folder is hashed at once: every build asks for every file.
fn folder_state(folder: &Folder) -> blake3::Hash {
    const USUAL_BYTES: usize = 128;
    let mut bytes = Vec::with_capacity(USUAL_BYTES * (folder.files.len() + 1));
    note(&mut bytes, folder.path.as_os_str(), &folder.metadata);
    folder.files.iter().for_each(|file| note(&mut bytes, &file.name, file.metadata()));
    blake3::hash(&bytes)
}

fn note(bytes: &mut Vec<u8>, name: &OsStr, metadata: &Metadata) {
    let mut number = |number: u64| bytes.extend_from_slice(&number.to_le_bytes());
    number(name.len() as u64);
    number(metadata.kind as u64);
    number(metadata.mode.into());
    // A folder has another time when something comes into it that is not selected.
    if !metadata.is_dir() {
        [metadata.dev, metadata.ino, metadata.size].into_iter().for_each(&mut number);
        for time in [metadata.mtime, metadata.ctime] {
            number(time.secs.cast_unsigned());
            number(time.nanos.into());
        }
    }
    bytes.extend_from_slice(name.as_bytes());
}

/// Something that was there a moment ago.
pub(super) fn vanished(path: &Path) -> SnapshotError {
    let source = io::Error::from(io::ErrorKind::NotFound);
    SnapshotError::Io { action: "read", path: path.to_owned(), source }
}

impl Root {
    /// The name of the file, for messages.
    pub(super) fn display(&self) -> String {
        OsStr::to_string_lossy(self.entry.path().as_os_str()).into_owned()
    }
}
