//! [`BuildContext`]: the user's files, read-only and without what `.dockerignore` hides.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::BuildError;
use super::ignore::Ignore;
use crate::cache::content::FileCache;
use crate::snapshot::{Entry, Handle, SnapshotError, View};

/// The most bytes of a `.dockerignore`.
const MAX_IGNORE_BYTES: u64 = 16 << 20;

/// A folder that COPY and ADD read from. It is opened once: links in it lead nowhere outside of it.
#[derive(Debug)]
pub struct BuildContext {
    view: View,
    ignore: Ignore,
    /// What the digests of its files were when they were last read.
    pub(super) files: FileCache,
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
            _ => (PathBuf::from(".dockerignore"), read_inside(&view, ".dockerignore")?),
        };
        let ignore = Ignore::parse(&text.unwrap_or_default()).map_err(|err| {
            BuildError::Ignore { file: name.display().to_string(), reason: err.to_string() }
        })?;
        Ok(Self { view, ignore, files })
    }

    /// Reads a small file of the folder, such as its Dockerfile; `None` where there is none.
    ///
    /// # Errors
    /// [`BuildError::Snapshot`] for what is no regular file, or cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, BuildError> {
        read_inside(&self.view, name)
    }

    /// All its files, the hidden ones included.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    pub(super) fn ignore(&self) -> &Ignore {
        &self.ignore
    }
}

fn read_beside(path: &Path) -> Result<Option<Vec<u8>>, BuildError> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => {
            let (action, path) = ("read", path.to_owned());
            Err(SnapshotError::Io { action, path, source }.into())
        }
    }
}

/// A file of a view, links followed inside of it.
fn read_inside(view: &View, name: &str) -> Result<Option<Vec<u8>>, BuildError> {
    let Some(entry) = view.resolve(Path::new(name))?.entry else { return Ok(None) };
    read_small(view, &entry).map(Some)
}

/// The bytes of a file that is no larger than an ignore file may be.
pub(super) fn read_small(view: &View, entry: &Entry) -> Result<Vec<u8>, BuildError> {
    let failed = |source| {
        let (action, path) = ("read", entry.path().to_owned());
        BuildError::Snapshot(SnapshotError::Io { action, path, source })
    };
    let mut bytes = Vec::new();
    let file = view.open_file(entry)?;
    file.take(MAX_IGNORE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_IGNORE_BYTES {
        return Err(failed(io::Error::other("it has more than 16 MiB")));
    }
    Ok(bytes)
}
