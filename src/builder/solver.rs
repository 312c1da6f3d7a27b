//! [`Solver`]: which vertices have to run, and their results.
//!
//! ```text
//! definition keys ──► demand ──────────────► scheduler
//! of all vertices     from the target back:   inputs first, several at once:
//!                     found? then stop here    found by content key? then reuse
//!                                              else execute, commit, hash beside
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::graph::{Graph, Op, Tree, Vertex, VertexId};
use super::ops::{Inputs, Results, Work};
use super::progress::Event;
use super::scheduler::{self, Task};
use super::snapshot::Snapshot;
use super::sources::Sources;
use super::{BuildContext, BuildError, Services};
use crate::cache::{CacheKey, KeyHasher};
use crate::oci::{Descriptor, Digest};
use crate::store::{Fetched, Image, KeyLock, StoreError};

/// A long build publishes what it has so often, so that little is lost where it is killed.
const PUBLISH_EVERY: Duration = Duration::from_secs(5);

/// Finds or makes the results of a graph's vertices, each at most once.
pub(super) struct Solver<'a> {
    graph: &'a Graph,
    services: &'a Services<'a>,
    contexts: &'a [BuildContext],
    /// No time in a layer is later than this, in seconds since 1970.
    epoch: Option<i64>,
    /// What sources give, once they were asked.
    sources: Sources,
    journal: Mutex<Journal>,
}

/// What is known of a vertex before anything runs.
struct Planned {
    key: CacheKey,
    /// The first vertex with the same key, which does the work for all of them.
    same_as: VertexId,
    /// Whether its result must not come from the cache: it, or what it is made from, is not to.
    fresh: bool,
    /// The digests of what it reads of contexts, in order: they are the same in both its keys.
    contexts: Vec<Digest>,
}

type Plan = HashMap<VertexId, Planned>;

/// What has to run.
type Tasks = HashMap<VertexId, Task<VertexId>>;

/// What was made and is not published yet.
struct Journal {
    made: Vec<Made>,
    published: Instant,
}

/// A vertex's result and what the next build is to find it by.
struct Made {
    id: VertexId,
    key: CacheKey,
    root: Snapshot,
    results: Results,
    snapshot: Snapshot,
    contexts: Vec<Digest>,
    /// Other processes that want the same wait for it.
    _lock: Option<KeyLock>,
}

impl<'a> Solver<'a> {
    pub(super) fn new(
        graph: &'a Graph,
        services: &'a Services<'a>,
        contexts: &'a [BuildContext],
        epoch: Option<i64>,
    ) -> Self {
        let journal = Mutex::new(Journal { made: Vec::new(), published: Instant::now() });
        Self { graph, services, contexts, epoch, sources: Sources::default(), journal }
    }

    /// The result of `target`. What was done is kept for the next build even where this one fails.
    pub(super) fn solve(&mut self, target: VertexId) -> Result<Snapshot, BuildError> {
        let order = self.graph.reachable(target);
        self.sources = Sources::pin(self.graph, &order, self.services)?;
        let solver = &*self;
        let plan = solver.plan(&order)?;
        let target = plan[&target].same_as;
        let (tasks, found) = solver.demand(target, &plan)?;
        solver.tell_cached(&order, &plan, &tasks);
        let tasks: Vec<_> = tasks.into_values().collect();
        let results = scheduler::run(&tasks, found, solver.services.jobs, |id, results| {
            let inputs = solver.graph.get(id).inputs();
            let of = |input: VertexId| Some((input, results.get(&plan[&input].same_as)?.clone()));
            solver.solve_vertex(id, &plan[&id], &Results::new(inputs.filter_map(of)))
        });
        let published = solver.publish();
        let mut results = results?;
        published?;
        Ok(results.remove(&target).unwrap_or_default())
    }

    /// Keys of all vertices, inputs first.
    fn plan(&self, order: &[VertexId]) -> Result<Plan, BuildError> {
        let mut plan = Plan::new();
        let mut first_with: HashMap<(CacheKey, bool), VertexId> = HashMap::new();
        let nothing = Results::default();
        let inputs = Inputs::new(self.contexts, &nothing);
        for &id in order {
            let vertex = self.graph.get(id);
            let mut key = self.op_key("definition", id);
            match vertex.root {
                Some(root) => key.digest("root", plan[&root].key.0),
                None => key.field("root", "scratch"),
            }
            let mut contexts = Vec::new();
            for source in vertex.op.reads() {
                match source.tree {
                    Tree::Vertex(from) => key.digest("source", plan[&from].key.0),
                    Tree::Scratch => key.field("source", "scratch"),
                    Tree::Context(_) => {
                        let digest = inputs.digest(&source).map_err(|err| err.at(vertex))?;
                        key.digest("source", digest);
                        contexts.push(digest);
                    }
                }
            }
            let key = key.finish();
            let same_as = *first_with.entry((key, vertex.no_cache)).or_insert(id);
            let fresh = vertex.no_cache || vertex.inputs().any(|input| plan[&input].fresh);
            plan.insert(id, Planned { key, same_as, fresh, contexts });
        }
        Ok(plan)
    }

    fn op_key(&self, question: &str, id: VertexId) -> KeyHasher {
        let op = &self.graph.get(id).op;
        let mut key = KeyHasher::new(op.kind());
        key.field("question", question);
        if !matches!(op, Op::Image(_)) {
            key.list("epoch", self.epoch.map(i64::to_le_bytes));
        }
        op.encode(&mut key);
        self.sources.encode(id, &mut key);
        key
    }

    /// The key of what is done to inputs of which the bytes are known.
    fn content_key(
        &self,
        id: VertexId,
        root: &Snapshot,
        results: &Results,
        contexts: &[Digest],
    ) -> Result<CacheKey, BuildError> {
        let mut key = self.op_key("content", id);
        key.digest("root", root.content()?.0);
        let inputs = Inputs::new(self.contexts, results);
        let mut contexts = contexts.iter();
        for source in self.graph.get(id).op.reads() {
            let known = match source.tree {
                Tree::Scratch => {
                    key.field("source", "scratch");
                    continue;
                }
                Tree::Context(_) => contexts.next().copied(),
                Tree::Vertex(_) => None,
            };
            key.digest("source", known.map_or_else(|| inputs.digest(&source), Ok)?);
        }
        Ok(key.finish())
    }

    /// What has to run, and what the cache has: from the target back to what is found.
    fn demand(
        &self,
        target: VertexId,
        plan: &Plan,
    ) -> Result<(Tasks, HashMap<VertexId, Snapshot>), BuildError> {
        let mut tasks = Tasks::new();
        let mut found = HashMap::new();
        let mut asked = vec![target];
        while let Some(id) = asked.pop() {
            if tasks.contains_key(&id) || found.contains_key(&id) {
                continue;
            }
            let vertex = self.graph.get(id);
            let cached = match (&vertex.op, plan[&id].fresh) {
                (Op::Image(_), _) | (_, true) => None,
                (_, false) => self.lookup(plan[&id].key)?,
            };
            match cached {
                Some(snapshot) => {
                    found.insert(id, snapshot);
                }
                None => {
                    let needs: Vec<_> = vertex.inputs().map(|need| plan[&need].same_as).collect();
                    asked.extend(&needs);
                    tasks.insert(id, Task { id, needs });
                }
            }
        }
        Ok((tasks, found))
    }

    /// The snapshot that the cache and the store have for a key.
    fn lookup(&self, key: CacheKey) -> Result<Option<Snapshot>, BuildError> {
        let Some(chain) = self.services.cache.get(key) else { return Ok(None) };
        match Snapshot::stored(self.services.store, chain) {
            Ok(snapshot) => Ok(Some(snapshot)),
            // The record has outlived its layers.
            Err(BuildError::Store(StoreError::NoLayer(_))) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Tells what is reused: the vertices that were found, and those behind them.
    fn tell_cached(&self, order: &[VertexId], plan: &Plan, tasks: &Tasks) {
        for id in order {
            let vertex = self.graph.get(*id);
            let runs = tasks.contains_key(&plan[id].same_as);
            if !runs && !matches!(vertex.op, Op::Image(_)) {
                self.tell_found(*id, vertex);
            }
        }
    }

    fn tell_found(&self, id: VertexId, vertex: &Vertex) {
        self.services.progress.event(&Event::Cached { vertex: id, name: &vertex.name });
    }

    /// Finds or makes the result of a vertex whose inputs are there.
    fn solve_vertex(
        &self,
        id: VertexId,
        planned: &Planned,
        results: &Results,
    ) -> Result<Snapshot, BuildError> {
        let vertex = self.graph.get(id);
        let services = self.services;
        if let Op::Image(image) = &vertex.op {
            return self.solve_image(id, vertex, image);
        }
        let root = vertex.root.map(|root| results.get(root)).unwrap_or_default();
        let mut lock = None;
        if !planned.fresh {
            // Whoever we have to wait for may be waiting for what we have made.
            let waiting = || drop(self.publish());
            lock = Some(services.store.lock_key(planned.key.0, waiting)?);
            if let Some(found) = self.lookup(planned.key)? {
                self.tell_found(id, vertex);
                return Ok(found);
            }
        }
        // What is made of something that was done anew may come out the same.
        let seen = services.cache.get(self.op_key("seen", id).finish());
        if !vertex.no_cache
            && seen.is_some()
            && let Some(found) =
                self.lookup(self.content_key(id, &root, results, &planned.contexts)?)?
        {
            self.tell_found(id, vertex);
            self.made(Made::new(id, planned, root, results, &found, lock))?;
            return Ok(found);
        }
        let started = Instant::now();
        services.progress.event(&Event::Started { vertex: id, name: &vertex.name });
        let (inputs, epoch) = (Inputs::new(self.contexts, results), self.epoch);
        let sources = &self.sources;
        let record = |chain| services.store.layer(chain).ok().flatten();
        let last = seen.and_then(record).map(|record| services.store.layer_dir(&record));
        let root = &root;
        let work = Work { id, vertex, root, inputs: &inputs, services, sources, epoch, last };
        let made = work.execute();
        let took = started.elapsed();
        match made {
            Ok(made) => {
                services.progress.event(&Event::Done { vertex: id, took });
                self.made(Made::new(id, planned, root.clone(), results, &made, lock))?;
                Ok(made)
            }
            Err(err) => {
                services.progress.event(&Event::Failed { vertex: id, took });
                Err(err.at(vertex))
            }
        }
    }

    /// Has the layers of a base image ready. Only what has to be fetched for it is worth a word.
    fn solve_image(
        &self,
        id: VertexId,
        vertex: &Vertex,
        image: &Image,
    ) -> Result<Snapshot, BuildError> {
        let services = self.services;
        let (started, begin) = (Instant::now(), OnceLock::new());
        let watch = |blob: &Descriptor, what: Fetched| {
            let event = Event::Started { vertex: id, name: &vertex.name };
            begin.get_or_init(|| services.progress.event(&event));
            if what == Fetched::Done {
                let line = format!("{} {} bytes\n", blob.digest, blob.size);
                services.progress.event(&Event::Output { vertex: id, bytes: line.as_bytes() });
            }
        };
        let unpacked = services.store.unpack(image, &watch);
        let took = started.elapsed();
        if begin.get().is_some() {
            services.progress.event(&match &unpacked {
                Ok(_) => Event::Done { vertex: id, took },
                Err(_) => Event::Failed { vertex: id, took },
            });
        }
        let records = unpacked.map_err(|err| BuildError::from(err).at(vertex))?;
        Ok(Snapshot::of_records(services.store, records))
    }

    /// Notes a result, and publishes where that was not done for long.
    fn made(&self, made: Made) -> Result<(), BuildError> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.made.push(made);
        if journal.published.elapsed() < PUBLISH_EVERY {
            return Ok(());
        }
        drop(journal);
        self.publish()
    }

    /// Makes durable and visible what was made, for other processes and the next build.
    fn publish(&self) -> Result<(), BuildError> {
        let made = {
            let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.published = Instant::now();
            std::mem::take(&mut journal.made)
        };
        if made.is_empty() {
            return Ok(());
        }
        let mut layers = Vec::new();
        for made in &made {
            if let Some(layer) = made.snapshot.top() {
                let vertex = self.graph.get(made.id);
                layers.extend(layer.seal().map_err(|err| err.at(vertex))?);
            }
        }
        let services = self.services;
        services.store.publish(Vec::new(), layers)?;
        for made in made {
            let Some(chain) = made.snapshot.chain()? else { continue };
            let seen = self.op_key("seen", made.id).finish();
            let content = self.content_key(made.id, &made.root, &made.results, &made.contexts)?;
            for key in [made.key, content, seen] {
                let scratch = services.store.scratch(&format!("key-{}", key.0.short()));
                services.cache.put(key, chain, &scratch)?;
            }
        }
        Ok(())
    }
}

impl Made {
    fn new(
        id: VertexId,
        planned: &Planned,
        root: Snapshot,
        results: &Results,
        snapshot: &Snapshot,
        lock: Option<KeyLock>,
    ) -> Self {
        let (results, snapshot) = (results.clone(), snapshot.clone());
        let contexts = planned.contexts.clone();
        Self { id, key: planned.key, root, results, snapshot, contexts, _lock: lock }
    }
}
