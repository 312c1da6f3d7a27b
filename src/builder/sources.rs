//! What comes from elsewhere: pinned before keys are made, brought when a step needs it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use super::graph::{Graph, HttpOp, Op, VertexId};
use super::ops::open_upper;
use super::progress::Event;
use super::scheduler::{self, Task};
use super::{Access, BuildError, Services};
use crate::cache::KeyHasher;
use crate::fetch::{Download, FetchError, Fetcher, GitSource, Pinned};
use crate::http::Cancelled;
use crate::oci::Digest;
use crate::snapshot::{Attributes, SnapshotError, Timestamp, View, copy_file};
use crate::store::{StagedLayer, Store};

/// What a source gives now.
#[derive(Debug, Clone)]
enum Pin {
    /// These bytes.
    File(Digest),
    /// The files of this commit.
    Commit(Pinned),
}

/// The sources of a build.
#[derive(Debug, Default)]
pub(super) struct Sources(HashMap<VertexId, Pin>);

impl Sources {
    /// Asks what all sources among `vertices` give now, several at once.
    pub(super) fn pin(
        graph: &Graph,
        vertices: &[VertexId],
        services: &Services<'_>,
    ) -> Result<Self, BuildError> {
        let is_source = |id: &&VertexId| matches!(graph.get(**id).op, Op::Http(_) | Op::Git(_));
        let tasks: Vec<_> = vertices
            .iter()
            .filter(is_source)
            .map(|id| Task { id: *id, needs: Vec::new() })
            .collect();
        if tasks.is_empty() {
            return Ok(Self::default());
        }
        scheduler::run(&tasks, HashMap::new(), services.jobs, |id, _| {
            let vertex = graph.get(id);
            if let Op::Http(HttpOp { checksum: Some(digest), .. }) = &vertex.op {
                return Ok(Pin::File(*digest));
            }
            let (started, progress) = (Instant::now(), services.progress);
            let name = vertex.name.replacen("fetch", "pin", 1);
            progress.event(&Event::Started { vertex: id, name: &name });
            let pin = with_fetcher(services.access(), |fetcher| match &vertex.op {
                Op::Http(http) => Ok(Pin::File(fetcher.download(&http.url)?.digest)),
                Op::Git(git) => Ok(Pin::Commit(fetcher.pin(git)?)),
                _ => Err(FetchError::Cancelled),
            });
            let took = started.elapsed();
            progress.event(&match &pin {
                Ok(_) => Event::Done { vertex: id, took },
                Err(_) => Event::Failed { vertex: id, took },
            });
            pin.map_err(|err| err.at(vertex))
        })
        .map(Self)
    }

    /// Adds to a key what a source gives.
    pub(super) fn encode(&self, id: VertexId, key: &mut KeyHasher) {
        match self.0.get(&id) {
            None => {}
            Some(Pin::File(digest)) => key.digest("file", *digest),
            Some(Pin::Commit(pinned)) => {
                key.field("commit", &pinned.commit);
                key.field("object", &pinned.object);
                key.list("reference", &pinned.reference);
            }
        }
    }

    /// Puts the file of a URL into a layer.
    pub(super) fn file(
        &self,
        id: VertexId,
        http: &HttpOp,
        services: &Services<'_>,
        staged: &StagedLayer,
    ) -> Result<(), BuildError> {
        let Some(Pin::File(digest)) = self.0.get(&id) else { return Err(BuildError::Cancelled) };
        let download = with_fetcher(services.access(), |fetcher| {
            fetcher.download_exactly(&http.url, *digest)
        })?;
        put_file(&download, &http.name, staged)
    }

    /// Puts the files of a commit into a layer.
    pub(super) fn tree(
        &self,
        id: VertexId,
        git: &GitSource,
        services: &Services<'_>,
        staged: &StagedLayer,
    ) -> Result<(), BuildError> {
        let Some(Pin::Commit(pinned)) = self.0.get(&id) else { return Err(BuildError::Cancelled) };
        with_fetcher(services.access(), |fetcher| fetcher.checkout(git, pinned, &staged.fs()))?;
        Ok(())
    }
}

/// Where what was fetched is kept in a store.
pub fn fetched(store: &Store) -> PathBuf {
    store.path().join("fetched")
}

/// Puts a file that was fetched into a layer.
pub(super) fn put_file(
    download: &Download,
    name: &str,
    staged: &StagedLayer,
) -> Result<(), BuildError> {
    let failed = |source| {
        let (action, path) = ("read", download.path.clone());
        SnapshotError::Io { action, path, source }
    };
    let from = File::open(&download.path).map_err(failed)?;
    let size = from.metadata().map_err(failed)?.len();
    let mtime = Timestamp::from_secs(download.modified.unwrap_or_default());
    let attributes = Attributes { mode: 0o600, mtime, ..Attributes::default() };
    let upper = open_upper(staged, &View::new(Vec::new())?)?;
    let root = upper.root();
    let new = root.create_file(name.as_ref(), &attributes)?;
    copy_file(&from, new.file(), size, None).map_err(|err| err.at(name.as_ref()))?;
    new.finish()?;
    Ok(upper.finish()?)
}

/// Lends a fetcher to some work.
pub(super) fn with_fetcher<T>(
    access: Access<'_>,
    work: impl FnOnce(&Fetcher<'_>) -> Result<T, FetchError>,
) -> Result<T, BuildError> {
    let secret = |name: &str| access.secrets.read(name).map_err(io::Error::other);
    let cancel = access.cancel.clone();
    let cancelled = Cancelled::new(move || cancel.is_cancelled());
    let (dir, scratch) = (fetched(access.store), access.store.scratch("fetch"));
    Ok(work(&Fetcher::new(dir, scratch, &secret, cancelled))?)
}
