//! Files from elsewhere: what a URL gives, and what a git repository holds.
//!
//! Either is done in two parts. First it is **pinned**: a URL to the digest of what it gives now, a
//! branch or tag to the commit that it names now. That takes one question to the server, and none for
//! what names its own content. The second part brings the files, from what is kept below a folder of
//! the cache where it can:
//!
//! ```text
//! http/<hash of the URL>                    what the server said: validators, digest, time
//! http/<hash of the URL>-<digest>-<time>    the bytes
//! git/<hash of the URL>/                    a bare repository with the commits that were asked for
//! git/<hash of the URL>.lock                held by the process that uses it
//! git/known_hosts                           the keys of SSH servers that were seen
//! ```
//!
//! Everything there can be fetched again: what is damaged or gone costs time only. Secrets are asked
//! for when a server needs them. They go into headers and into the environment of `git`, and nowhere
//! else: into no argument, file, message or name of a file.

mod download;
mod error;
mod git;
mod git_url;
mod program;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

pub use download::Download;
pub use error::FetchError;
pub use git::{GitSource, Pinned};
pub use git_url::GitUrl;

use crate::http::{Cancelled, Client, Limits};
use crate::snapshot::{Handle, remove_tree};

/// Gives the value of a secret by its name; `None` for one that there is not.
pub type SecretReader<'a> = dyn Fn(&str) -> io::Result<Option<Vec<u8>>> + Sync + 'a;

/// Fetches things. It costs nothing until it is asked.
pub struct Fetcher<'a> {
    client: Client,
    /// What is kept.
    dir: PathBuf,
    /// What is on its way; nobody else's.
    scratch: PathBuf,
    secrets: &'a SecretReader<'a>,
    cancelled: Cancelled,
}

impl std::fmt::Debug for Fetcher<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl<'a> Fetcher<'a> {
    /// A fetcher that keeps what it fetched below `dir`. What is on its way lies below `scratch`, on
    /// the same file system; the caller removes that.
    pub fn new(
        dir: PathBuf,
        scratch: PathBuf,
        secrets: &'a SecretReader<'a>,
        cancelled: Cancelled,
    ) -> Self {
        let client = Client::new(Limits::default(), cancelled.clone());
        Self { client, dir, scratch, secrets, cancelled }
    }

    /// A path below the scratch folder that nothing else has.
    fn fresh(&self, what: &str) -> Result<PathBuf, FetchError> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        make_dir(&self.scratch)?;
        Ok(self.scratch.join(format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))))
    }

    /// A secret as text of one line, as headers take it.
    fn secret(&self, name: &str) -> Result<Option<String>, FetchError> {
        let failed = |reason: String| FetchError::Secret { name: name.to_owned(), reason };
        let Some(value) = (self.secrets)(name).map_err(|err| failed(err.to_string()))? else {
            return Ok(None);
        };
        let text = String::from_utf8(value).map_err(|_| failed("it is no text".to_owned()))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.chars().any(char::is_control) {
            return Err(failed("it has several lines".to_owned()));
        }
        Ok(Some(text.to_owned()))
    }
}

/// Removes all that is kept below `dir`, and tells how many bytes that were. The caller knows that
/// nobody is fetching.
///
/// # Errors
/// [`FetchError::Io`].
pub fn clear(dir: &Path) -> Result<u64, FetchError> {
    let files = walkdir::WalkDir::new(dir).into_iter().flatten();
    let sizes = files.filter_map(|entry| entry.metadata().ok());
    let bytes = sizes.map(|metadata| metadata.blocks() * 512).sum();
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(0) };
    let removed = Handle::open(parent).and_then(|parent| remove_tree(&parent, name));
    removed.map_err(FetchError::io("remove", dir))?;
    Ok(bytes)
}

/// Makes a folder that is ours alone, and those above it.
fn make_dir(path: &Path) -> Result<(), FetchError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(FetchError::io("make the folder", path))
}

/// Writes a small file so that others find the old text or the new one.
fn write_small(path: &Path, scratch: &Path, bytes: &[u8]) -> Result<(), FetchError> {
    fs::write(scratch, bytes).map_err(FetchError::io("write", scratch))?;
    fs::rename(scratch, path).map_err(FetchError::io("write", path))
}
