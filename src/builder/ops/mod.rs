//! What vertices do: one file for each operation, and what they read.

mod chmod;
mod copy;
mod last;
mod left_out;
mod make_dir;
mod overrides;
mod owner;
mod run;
mod select;
mod tree;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) use chmod::is_clause as is_symbolic_clause;
use last::LastTime;
use left_out::LeftOut;
pub(super) use make_dir::{open as open_layer, open_upper};
use select::{Root, Source};

use super::graph::{Op, Reads, Tree, Vertex, VertexId, What};
use super::snapshot::Snapshot;
use super::sources::Sources;
use super::{BuildContext, BuildError, Services};
use crate::cache::content::FileCache;
use crate::layer;
use crate::oci::Digest;
use crate::snapshot::{Timestamp, View};
use crate::store::{LayerRecord, StagedLayer};

/// The results of the vertices that an operation reads.
#[derive(Debug, Clone, Default)]
pub(super) struct Results(HashMap<VertexId, Snapshot>);

impl Results {
    pub(super) fn new(results: impl IntoIterator<Item = (VertexId, Snapshot)>) -> Self {
        Self(results.into_iter().collect())
    }

    pub(super) fn get(&self, id: VertexId) -> Snapshot {
        self.0.get(&id).cloned().unwrap_or_default()
    }
}

/// All that an operation can read.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    contexts: &'a [BuildContext],
    results: &'a Results,
    no_files: FileCache,
    /// What was observed of contexts before anything ran.
    before: &'a [Observed],
    /// Whether something of a context is not what it was then.
    changed: AtomicBool,
}

/// What a selection of a context was before anything ran.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observed {
    /// The digest of what makes a difference to a copy.
    pub(super) digest: Digest,
    state: Digest,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(contexts: &'a [BuildContext], results: &'a Results) -> Self {
        let (no_files, changed) = (FileCache::none(), AtomicBool::new(false));
        Self { contexts, results, no_files, before: &[], changed }
    }

    /// The same, to be compared with what was observed of contexts before.
    pub(super) fn comparing(self, before: &'a [Observed]) -> Self {
        Self { before, ..self }
    }

    /// Whether what was read of contexts is not what was observed of them before.
    pub(super) fn changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// The digest of what is read.
    pub(super) fn digest(&self, reads: &Reads<'_>) -> Result<Digest, BuildError> {
        let (source, roots) = self.select(reads)?;
        source.digest(&roots)
    }

    /// What is read of a context, as it is now.
    pub(super) fn observe(&self, reads: &Reads<'_>) -> Result<Observed, BuildError> {
        let (source, roots) = self.select(reads)?;
        Ok(Observed { digest: source.digest(&roots)?, state: select::state(&roots) })
    }

    fn select(&self, reads: &Reads<'_>) -> Result<(Source<'_>, Vec<Root>), BuildError> {
        let source = self.source(reads.tree)?;
        let roots = match &reads.what {
            What::Copied { item, excludes } => copy::select(&source, item, excludes)?,
            What::Path(path) => {
                // What is not there is found out when it is mounted.
                match source.resolve(Path::new(path))? {
                    Some(_) => source.select_path(path, &[])?,
                    None => Vec::new(),
                }
            }
        };
        Ok((source, roots))
    }

    /// Compares what is selected now with what was observed before.
    fn compare(&self, source: &Source<'_>, roots: &[Root]) {
        source.compare(roots, self.before.iter().map(|observed| observed.state));
    }

    fn source(&self, tree: Tree) -> Result<Source<'_>, BuildError> {
        let in_stage = |view| Source {
            view,
            ignore: None,
            files: &self.no_files,
            keep_owners: true,
            place: "the stage".to_owned(),
            changed: None,
        };
        Ok(match tree {
            Tree::Context(number) => {
                let context = &self.contexts[number];
                Source {
                    view: context.view().clone(),
                    ignore: context.ignore(),
                    files: &context.files,
                    keep_owners: context.keeps_owners(),
                    place: "the build context".to_owned(),
                    changed: Some(&self.changed),
                }
            }
            Tree::Vertex(id) => in_stage(self.results.get(id).view()?),
            Tree::Scratch => in_stage(Snapshot::default().view()?),
        })
    }

    pub(super) fn snapshot(&self, id: VertexId) -> Snapshot {
        self.results.get(id)
    }
}

/// What an operation works with.
pub(super) struct Work<'a> {
    pub(super) id: VertexId,
    pub(super) vertex: &'a Vertex,
    pub(super) root: &'a Snapshot,
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) services: &'a Services<'a>,
    pub(super) sources: &'a Sources,
    /// No time in a layer is later than this, in seconds since 1970.
    pub(super) epoch: Option<i64>,
    /// The layer that the same instruction made the last time, perhaps of other inputs.
    pub(super) last: Option<LayerRecord>,
    /// Whether it is known that no build before this one made the same.
    pub(super) is_new: bool,
    /// Whether nothing in this build reads the layer's files, so that a tar of them is enough.
    pub(super) as_tar: bool,
}

impl Work<'_> {
    /// Does what the vertex says, on top of its root.
    pub(super) fn execute(&self) -> Result<Snapshot, BuildError> {
        let staged = self.services.store.stage_layer()?;
        match &self.vertex.op {
            // The solver unpacks images: they are found, not made.
            Op::Image(_) => return Ok(self.root.clone()),
            Op::Http(http) => self.sources.file(self.id, http, self.services, &staged)?,
            Op::Git(git) => self.sources.tree(self.id, git, self.services, &staged)?,
            Op::Run(run) => run::execute(self, run, &staged)?,
            Op::Copy(copy) => {
                let selections = copy::selections(self, copy)?;
                if let Some(left_out) = copy::execute(self, copy, &selections, &staged)? {
                    return self.commit_tar(&staged, left_out);
                }
            }
            Op::MakeDir(dir) => make_dir::execute(self, dir, &staged)?,
        }
        self.commit(staged)
    }

    fn commit(&self, staged: StagedLayer) -> Result<Snapshot, BuildError> {
        self.clamp_times(&staged)?;
        Ok(self.root.commit(staged, self.created().to_string(), self.is_new))
    }

    /// Makes the tar of what is in the layer's directory and what was left out of it.
    fn commit_tar(
        &self,
        staged: &StagedLayer,
        left_out: LeftOut<'_>,
    ) -> Result<Snapshot, BuildError> {
        self.clamp_times(staged)?;
        let dir = make_dir::open(&staged.fs())?;
        let store = self.services.store;
        let (tar, packed) = store.stage_tar(|out| layer::pack_with(&dir, left_out, out))?;
        self.root.commit_tar(tar, &packed, self.created().to_string())
    }

    /// What the same instruction made the last time, if it is here.
    fn last_time(&self) -> Option<LastTime> {
        let (store, record) = (self.services.store, self.last.as_ref()?);
        LastTime::open(&store.layer_dir(record).ok()?, &store.layer_receipts(record).ok()?)
    }

    fn clamp_times(&self, staged: &StagedLayer) -> Result<(), BuildError> {
        let Some(epoch) = self.epoch else { return Ok(()) };
        Ok(layer::clamp_times(&make_dir::open(&staged.fs())?, epoch)?)
    }

    /// When what is made now was made: now, or at the epoch where that is earlier.
    fn created(&self) -> jiff::Timestamp {
        let now = (self.services.now)();
        self.epoch.map_or(now, |epoch| {
            jiff::Timestamp::from_second(epoch).map_or(now, |epoch| epoch.min(now))
        })
    }

    /// The same, for a file.
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(self.created().as_second())
    }

    /// The root file system to read.
    fn view(&self) -> Result<View, BuildError> {
        self.root.view()
    }
}
