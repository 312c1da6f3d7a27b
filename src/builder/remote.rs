//! [`Remote`]: contexts from elsewhere.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::sources::{self, put_file};
use super::{BuildContext, BuildError, Secrets};
use crate::fetch::{Download, GitSource, GitUrl};
use crate::http::Url;
use crate::layer;
use crate::runtime::CancelToken;
use crate::snapshot::{Handle, SnapshotError, Walk, WalkEvent};
use crate::store::{StagedLayer, Store};

/// What the file of a URL is called in its context. As BuildKit.
const FILE: &str = "context";
/// The most bytes of a Dockerfile.
const MAX_DOCKERFILE_BYTES: u64 = 16 << 20;

/// A context that is no folder of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// The files of a git repository.
    Git(Box<GitSource>),
    /// What a URL gives.
    Http(Url),
}

/// What a build needs to fetch things.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// Where it is kept.
    pub store: &'a Store,
    /// What servers want to know.
    pub secrets: &'a Secrets,
    /// How the build is stopped.
    pub cancel: &'a CancelToken,
}

/// A context that was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// Its files. A `.dockerignore` among them hides nothing, as with BuildKit.
    pub context: BuildContext,
    /// When it was made: the time of a commit, what the server says of a file, or the newest file of an
    /// archive; in seconds since 1970.
    pub time: Option<i64>,
    /// The one file of a context that is no archive: a Dockerfile, if it is the main context.
    pub file: Option<&'static str>,
}

impl Remote {
    /// Reads what may be the name of a context. `None` for a path.
    ///
    /// # Errors
    /// What is wrong with a URL.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if let Some(url) = GitUrl::parse(text)? {
            return Ok(Some(Self::Git(Box::new(GitSource::new(url)))));
        }
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Ok(None);
        }
        let url = Url::parse(text).map_err(|why| format!("invalid URL: {why}"))?;
        Ok(Some(Self::Http(url)))
    }

    /// Fetches it. An archive is unpacked, where that is wanted.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn open(&self, access: Access<'_>, unpack: bool) -> Result<Fetched, BuildError> {
        match self {
            Self::Git(git) => {
                let staged = access.store.stage_layer()?;
                let time = sources::with_fetcher(access, |fetcher| {
                    let pinned = fetcher.pin(git)?;
                    fetcher.checkout(git, &pinned, &staged.fs())
                })?;
                let context = BuildContext::of_layer(staged)?;
                Ok(Fetched { context, time: Some(time), file: None })
            }
            Self::Http(url) => {
                let download = sources::with_fetcher(access, |fetcher| fetcher.download(url))?;
                of_download(access.store, &download, unpack)
            }
        }
    }
}

/// The text of a Dockerfile that lies at a URL.
///
/// # Errors
/// [`BuildError`].
pub fn read_url(url: &Url, access: Access<'_>) -> Result<Vec<u8>, BuildError> {
    let download = sources::with_fetcher(access, |fetcher| fetcher.download(url))?;
    let failed = |source| failed(&download.path, source);
    let mut text = Vec::new();
    let file = File::open(&download.path).map_err(failed)?;
    file.take(MAX_DOCKERFILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_DOCKERFILE_BYTES {
        return Err(failed(std::io::Error::other("it has more than 16 MiB")));
    }
    Ok(text)
}

fn of_download(store: &Store, download: &Download, unpack: bool) -> Result<Fetched, BuildError> {
    let open = || File::open(&download.path).map_err(|source| failed(&download.path, source));
    let mut start = Vec::new();
    let first = open()?.take(layer::SNIFF_BYTES as u64).read_to_end(&mut start);
    first.map_err(|source| failed(&download.path, source))?;
    if unpack && layer::begins_archive(&start) {
        let context = BuildContext::archive(store, open()?)?;
        let time =
            download.modified.map_or_else(|| newest_file(&context), |time| Ok(Some(time)))?;
        return Ok(Fetched { context, time, file: None });
    }
    let staged: StagedLayer = store.stage_layer()?;
    put_file(download, FILE, &staged)?;
    let context = BuildContext::of_layer(staged)?;
    Ok(Fetched { context, time: download.modified, file: Some(FILE) })
}

/// The latest time of a context's files.
fn newest_file(context: &BuildContext) -> Result<Option<i64>, BuildError> {
    let Some(dir) = context.unpacked() else { return Ok(None) };
    let failed = |source| failed(&dir, source);
    let mut walk = Handle::open(&dir).and_then(Walk::new).map_err(failed)?;
    let mut newest = None;
    while let Some(event) = walk.advance().map_err(failed)? {
        if let WalkEvent::Leaf(metadata) = event
            && metadata.is_file()
        {
            newest = newest.max(Some(metadata.mtime.secs));
        }
    }
    Ok(newest)
}

fn failed(path: &Path, source: std::io::Error) -> BuildError {
    SnapshotError::Io { action: "read", path: path.to_owned(), source }.into()
}
