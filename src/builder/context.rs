//! [`BuildContext`]: the user's files, read-only and without what `.dockerignore` hides.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::BuildError;
use super::ignore::Ignore;
use crate::cache::content::FileCache;
use crate::layer::{self, LayerError};
use crate::snapshot::{self, Attributes, Entry, Handle, SnapshotError, Upper, View};
use crate::store::{StagedLayer, Store};

/// The most bytes of a `.dockerignore`.
const MAX_IGNORE_BYTES: u64 = 16 << 20;

/// Files that COPY and ADD read: a folder, or what an archive holds. It is opened once: links in it
/// lead nowhere outside of it.
#[derive(Debug)]
pub struct BuildContext {
    view: View,
    /// What is hidden; nothing of an archive ever is.
    ignore: Option<Ignore>,
    /// What the digests of its files were when they were last read.
    pub(super) files: FileCache,
    /// Where an archive was unpacked to. It goes with the context, or with the process's lease.
    unpacked: Option<StagedLayer>,
}

impl BuildContext {
    /// Opens the folder at `path`. Its ignore file is `DOCKERFILE.dockerignore` beside the
    /// Dockerfile where there is one, else `.dockerignore` in the folder itself.
    ///
    /// # Errors
    /// [`BuildError::Snapshot`] where the folder cannot be read, [`BuildError::Ignore`].
    pub fn open(
        path: &Path,
        dockerfile: Option<&Path>,
        files: FileCache,
    ) -> Result<Self, BuildError> {
        let failed = |source| {
            let (action, path) = ("open the folder", path.to_owned());
            BuildError::Snapshot(SnapshotError::Io { action, path, source })
        };
        let path = fs::canonicalize(path).map_err(failed)?;
        let view = View::plain(Handle::open(&path).map_err(failed)?)?;
        let beside = dockerfile.map(|file| {
            let mut name = file.as_os_str().to_owned();
            name.push(".dockerignore");
            PathBuf::from(name)
        });
        let own = beside.as_deref().map(read_beside).transpose()?.flatten();
        let (name, text) = match (beside, own) {
            (Some(beside), Some(text)) => (beside, Some(text)),
            _ => (PathBuf::from(".dockerignore"), read_rules(&view)?),
        };
        let ignore = Ignore::parse(&text.unwrap_or_default()).map_err(|err| {
            BuildError::Ignore { file: name.display().to_string(), reason: err.to_string() }
        })?;
        Ok(Self { view, ignore: Some(ignore), files, unpacked: None })
    }

    /// A context without any file.
    ///
    /// # Errors
    /// None but those of the kernel.
    pub fn empty() -> Result<Self, BuildError> {
        let view = View::new(Vec::new())?;
        Ok(Self { view, ignore: None, files: FileCache::none(), unpacked: None })
    }

    /// Unpacks a tar, plain or compressed, into a folder of the store that goes with the context. As
    /// BuildKit: its files keep their owners, and a `.dockerignore` in it hides nothing.
    ///
    /// # Errors
    /// [`BuildError::Archive`] for a tar that [`layer::apply`] refuses, [`BuildError::Store`].
    pub fn archive(store: &Store, archive: impl Read + Send) -> Result<Self, BuildError> {
        let staged = store.stage_layer()?;
        let (_, tar) = layer::open_archive(archive)
            .map_err(|error| BuildError::Archive(LayerError::read(error)))?;
        let upper = Upper::new(open_layer(&staged)?, &View::new(Vec::new())?)?;
        layer::apply(tar, &upper, layer::Options::ARCHIVE).map_err(BuildError::Archive)?;
        Self::of_layer(staged)
    }

    /// The same with one of its folders for its root.
    ///
    /// # Errors
    /// [`BuildError::NotFound`] where there is no such folder, [`BuildError::Snapshot`].
    pub fn below(self, folder: &Path) -> Result<Self, BuildError> {
        let found = self.view.resolve(folder)?;
        let (Some(staged), true) = (&self.unpacked, found.entry.is_some_and(|it| it.is_dir()))
        else {
            let path = folder.display().to_string().escape_debug().to_string();
            let place = "the build context".to_owned();
            return Err(BuildError::NotFound { path, place, ignored: false });
        };
        let upper = Upper::new(open_layer(staged)?, &View::new(Vec::new())?)?;
        // It is there, and so nothing is made.
        let dir = upper.directory(&found.path, &Attributes::default())?;
        let handles = dir.layers().map_err(|source| {
            let (action, path) = ("open the folder", folder.to_owned());
            SnapshotError::Io { action, path, source }
        })?;
        Ok(Self { view: View::new(handles)?, ..self })
    }

    /// The files of a folder of the store that goes with the context.
    pub(super) fn of_layer(staged: StagedLayer) -> Result<Self, BuildError> {
        let view = View::new(vec![open_layer(&staged)?])?;
        Ok(Self { view, ignore: None, files: FileCache::none(), unpacked: Some(staged) })
    }

    /// Reads a small file of it, such as its Dockerfile; `None` where there is none.
    ///
    /// # Errors
    /// [`BuildError::Snapshot`] for what is no regular file, or cannot be read.
    pub fn read(&self, name: impl AsRef<Path>) -> Result<Option<Vec<u8>>, BuildError> {
        read_inside(&self.view, name.as_ref())
    }

    /// All its files, the hidden ones included.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    pub(super) fn ignore(&self) -> Option<&Ignore> {
        self.ignore.as_ref()
    }

    /// Where it lies in the store, if it does.
    pub(super) fn unpacked(&self) -> Option<PathBuf> {
        self.unpacked.as_ref().map(StagedLayer::fs)
    }

    /// Whether the owners of its files count: those of a user's folder become root.
    pub(super) fn keeps_owners(&self) -> bool {
        self.unpacked.is_some()
    }
}

/// The ignore file of the folder itself. As BuildKit: what is no file holds no rules.
fn read_rules(view: &View) -> Result<Option<Vec<u8>>, BuildError> {
    let found = view.resolve(Path::new(".dockerignore"))?.entry;
    found.filter(|entry| !entry.is_dir()).map(|entry| read_small(view, &entry)).transpose()
}

fn open_layer(staged: &StagedLayer) -> Result<Handle, BuildError> {
    let path = staged.fs();
    let action = "open the folder";
    let opened = Handle::open(&path);
    opened.map_err(|source| SnapshotError::Io { action, path, source }.into())
}

fn read_beside(path: &Path) -> Result<Option<Vec<u8>>, BuildError> {
    let failed = |source| {
        let (action, path) = ("read", path.to_owned());
        BuildError::Snapshot(SnapshotError::Io { action, path, source })
    };
    match snapshot::open_regular(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.and_then(read_up_to_limit).map(Some).map_err(failed),
    }
}

/// A file of a view, links followed inside of it.
fn read_inside(view: &View, name: &Path) -> Result<Option<Vec<u8>>, BuildError> {
    let Some(entry) = view.resolve(name)?.entry else { return Ok(None) };
    read_small(view, &entry).map(Some)
}

/// The bytes of a file that is no larger than an ignore file may be.
pub(super) fn read_small(view: &View, entry: &Entry) -> Result<Vec<u8>, BuildError> {
    let failed = |source| {
        let (action, path) = ("read", entry.path().to_owned());
        BuildError::Snapshot(SnapshotError::Io { action, path, source })
    };
    read_up_to_limit(view.open_file(entry)?).map_err(failed)
}

fn read_up_to_limit(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_IGNORE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_IGNORE_BYTES {
        return Err(io::Error::other("it has more than 16 MiB"));
    }
    Ok(bytes)
}
