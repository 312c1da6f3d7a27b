//! [`Solver`]: which vertices have to run, and their results.
//!
//! ```text
//! definition keys ──► demand ──────────────► scheduler
//! of all vertices     from the target back:   inputs first, several at once:
//!                     found? then stop here    found by content key? then reuse
//!                                              else execute, commit, hash beside
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::graph::{Graph, Op, Tree, Vertex, VertexId};
use super::ops::{Inputs, Observed, Results, Work};
use super::progress::Event;
use super::scheduler::{self, Task};
use super::snapshot::{Snapshot, with_causes};
use super::sources::Sources;
use super::{BuildContext, BuildError, Services};
use crate::cache::{CacheKey, KeyHasher, Step};
use crate::oci::{ChainId, Descriptor};
use crate::store::{Fetched, Image, KeyLock, LayerRecord, StoreError, Watch};

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
    /// The vertices whose layers are the image's.
    image: HashSet<VertexId>,
    /// The vertex whose files nobody reads for now.
    unread: Option<VertexId>,
    /// Layers that were thought to be elsewhere and cannot be had.
    gone: HashSet<ChainId>,
    /// The vertices that were made of other files than their keys say, as somebody changed them
    /// meanwhile, or of what such a vertex made.
    unsure: Mutex<HashSet<VertexId>>,
    journal: Mutex<Journal>,
}

/// What is known of a vertex before anything runs.
struct Planned {
    key: CacheKey,
    /// The first vertex with the same key, which does the work for all of them.
    same_as: VertexId,
    /// Whether its result must not come from the cache: it, or what it is made from, is not to.
    fresh: bool,
    /// What it reads of contexts, in order: the digests are the same in both its keys.
    contexts: Vec<Observed>,
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
    contexts: Vec<Observed>,
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
        let (sources, image, gone) = (Sources::default(), HashSet::new(), HashSet::new());
        let (unread, unsure) = (None, Mutex::default());
        Self { graph, services, contexts, epoch, sources, image, unread, gone, unsure, journal }
    }

    /// The result of `target`. What was done is kept for the next build even where this one fails.
    /// With `inline`, there are also the steps that made its layers. `read` says whether the caller
    /// reads its files.
    pub(super) fn solve(
        &mut self,
        target: VertexId,
        inline: bool,
        read: bool,
    ) -> Result<(Snapshot, Vec<Step>), BuildError> {
        let order = self.graph.reachable(target);
        self.sources = Sources::pin(self.graph, &order, self.services)?;
        let plan = self.plan(&order)?;
        let target = plan[&target].same_as;
        self.unread = (!read).then_some(target);
        let root = |id: &VertexId| Some(plan[&self.graph.get(*id).root?].same_as);
        self.image = std::iter::successors(Some(target), root).collect();
        loop {
            match self.attempt(target, &order, &plan) {
                // What was found in the cache and is gone is made anew.
                Err(err) => {
                    let gone = self.gone_by(&err)?;
                    if gone.is_empty() {
                        return Err(err);
                    }
                    let text = format!("{}; it is done anew", with_causes(&err));
                    self.services.progress.event(&Event::Warning { vertex: None, text: &text });
                    self.gone.extend(gone);
                }
                Ok(snapshot) if !inline && self.services.shared.is_none() => {
                    return Ok((snapshot, Vec::new()));
                }
                Ok(snapshot) => {
                    let steps = self.share(&order, &plan)?;
                    return Ok((snapshot, if inline { steps } else { Vec::new() }));
                }
            }
        }
    }

    fn attempt(
        &self,
        target: VertexId,
        order: &[VertexId],
        plan: &Plan,
    ) -> Result<Snapshot, BuildError> {
        let (tasks, found) = self.demand(target, plan)?;
        self.tell_cached(order, plan, &tasks);
        let tasks: Vec<_> = tasks.into_values().collect();
        let is_run = |task: &&Task<_>| matches!(self.graph.get(task.id).op, Op::Run(_));
        self.services.sandbox.expect(tasks.iter().filter(is_run).count());
        let work = |id, results: &HashMap<VertexId, Snapshot>| {
            let inputs = self.graph.get(id).inputs();
            let of = |input: VertexId| Some((input, results.get(&plan[&input].same_as)?.clone()));
            if self.graph.get(id).inputs().any(|input| self.is_unsure(plan[&input].same_as)) {
                self.doubt(id);
            }
            self.solve_vertex(id, &plan[&id], &Results::new(inputs.filter_map(of)))
        };
        let run = || scheduler::run(&tasks, found, self.services.jobs, work);
        // A last COPY is flushed by itself. Whatever else is made waits in the end for what others have
        // left to be written as well, and with that the disk can begin.
        let leaves_files = |task: &Task<_>| match self.graph.get(task.id).op {
            Op::Image(_) => false,
            Op::Copy(_) => self.unread != Some(task.id),
            _ => true,
        };
        let results =
            if tasks.iter().any(leaves_files) { self.services.store.flushing(run) } else { run() };
        let published = self.publish();
        let mut results = results?;
        published?;
        Ok(results.remove(&target).unwrap_or_default())
    }

    /// The layers for want of which a build failed, and which were not known to be gone.
    fn gone_by(&self, err: &BuildError) -> Result<Vec<ChainId>, BuildError> {
        let Some(chain) = err.gone().filter(|_| !self.services.cancel.is_cancelled()) else {
            return Ok(Vec::new());
        };
        let layers = self.services.store.layers_of(chain)?.into_iter();
        let gone = layers.filter(LayerRecord::is_away).map(|layer| layer.chain());
        Ok(gone.filter(|chain| !self.gone.contains(chain)).collect())
    }

    /// Tells whoever shares the cache of all steps of this build; gives those of the image's layers.
    fn share(&self, order: &[VertexId], plan: &Plan) -> Result<Vec<Step>, BuildError> {
        let mut of_image = Vec::new();
        for id in order {
            let planned = &plan[id];
            let Some(step) = self.step(planned.key)? else { continue };
            let in_image = self.image.contains(&planned.same_as);
            if let Some(shared) = self.services.shared {
                shared.done(&step, in_image);
            }
            if in_image {
                of_image.push(step);
            }
        }
        Ok(of_image)
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
                        let seen = inputs.observe(&source).map_err(|err| err.at(vertex))?;
                        key.digest("source", seen.digest);
                        contexts.push(seen);
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
        contexts: &[Observed],
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
                Tree::Context(_) => contexts.next().map(|seen| seen.digest),
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

    /// The snapshot that was made for a key, here or elsewhere.
    fn lookup(&self, key: CacheKey) -> Result<Option<Snapshot>, BuildError> {
        let Some(step) = self.step(key)? else { return Ok(None) };
        let store = self.services.store;
        match store.layers_of(step.chain) {
            Ok(layers) if layers.iter().any(|layer| self.gone.contains(&layer.chain())) => Ok(None),
            Ok(layers) => Ok(Some(Snapshot::of_records(store, layers))),
            Err(StoreError::NoLayer(_)) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }

    /// The step that was done for a key, if the store knows what it made.
    fn step(&self, key: CacheKey) -> Result<Option<Step>, BuildError> {
        let services = self.services;
        // A record may outlive its layers.
        let is_good = |step: &Step| -> Result<bool, BuildError> {
            Ok(services.store.layer(step.chain)?.is_some_and(|layer| self.is_young(&layer)))
        };
        if let Some(step) = services.cache.get(key)
            && is_good(&step)?
        {
            return Ok(Some(step));
        }
        let Some(step) = services.shared.and_then(|shared| shared.find(key)) else {
            return Ok(None);
        };
        if !is_good(&step)? {
            return Ok(None);
        }
        self.remember(&step);
        Ok(Some(step))
    }

    /// Whether a layer was made late enough to be used again.
    fn is_young(&self, layer: &LayerRecord) -> bool {
        let Some(since) = self.services.since else { return true };
        let created = layer.created.as_deref().and_then(|time| time.parse().ok());
        created.is_none_or(|created: jiff::Timestamp| created >= since)
    }

    /// Has the next build find a step; where that cannot be, the step is done again.
    fn remember(&self, step: &Step) {
        let Services { store, cache, progress, .. } = self.services;
        let scratch = store.scratch(&format!("step-{}", step.chain.0.short()));
        if let Err(err) = cache.put(step, &scratch) {
            let text = format!("{err}: {}", err.source);
            progress.event(&Event::Warning { vertex: None, text: &text });
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
        let seen = self.seen(id);
        let may_be_known = !vertex.no_cache && seen.is_some() && !root.is_new();
        if may_be_known
            && let Some(found) = self.lookup({
                self.bring_sources(vertex, &Inputs::new(self.contexts, results), &|_, _| {})?;
                self.content_key(id, &root, results, &planned.contexts)?
            })?
        {
            self.tell_found(id, vertex);
            self.made(Made::new(id, planned, root, results, &found, lock))?;
            return Ok(found);
        }
        // The same COPY of other files makes other layers, so whatever is done to them is done for the first
        // time: to know that, nobody has to wait until they are hashed.
        let is_new = root.is_new() || may_be_known && matches!(vertex.op, Op::Copy(_));
        let started = Instant::now();
        services.progress.event(&Event::Started { vertex: id, name: &vertex.name });
        let inputs = Inputs::new(self.contexts, results).comparing(&planned.contexts);
        let made = self.execute(id, &root, &inputs, seen, is_new);
        let took = started.elapsed();
        if inputs.changed() && !self.is_unsure(id) {
            self.doubt(id);
            let text = format!("files changed while `{}` read them: it is not cached", vertex.name);
            services.progress.event(&Event::Warning { vertex: Some(id), text: &text });
        }
        match made {
            Ok(made) => {
                services.progress.event(&Event::Done { vertex: id, took });
                self.made(Made::new(id, planned, root, results, &made, lock))?;
                Ok(made)
            }
            Err(err) => {
                services.progress.event(&Event::Failed { vertex: id, took });
                Err(err.at(vertex))
            }
        }
    }

    /// Does what a vertex says. `seen` is the last time that the same was done.
    fn execute(
        &self,
        id: VertexId,
        root: &Snapshot,
        inputs: &Inputs<'_>,
        seen: Option<Step>,
        is_new: bool,
    ) -> Result<Snapshot, BuildError> {
        let (vertex, services, sources) = (self.graph.get(id), self.services, &self.sources);
        let watch = |blob: &Descriptor, what| self.tell_fetched(id, blob, what);
        root.bring(services.store, &watch)?;
        self.bring_sources(vertex, inputs, &watch)?;
        let epoch = self.epoch;
        // What is done again and again is kept as files, of which the next time only some change.
        let as_tar = self.unread == Some(id) && seen.is_none();
        let last = seen.and_then(|step| services.store.layer(step.chain).ok().flatten());
        Work { id, vertex, root, inputs, services, sources, epoch, last, is_new, as_tar }.execute()
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
            self.tell_fetched(id, blob, what);
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

    /// Has the files here that a vertex reads of other stages.
    fn bring_sources(
        &self,
        vertex: &Vertex,
        inputs: &Inputs<'_>,
        watch: Watch<'_>,
    ) -> Result<(), BuildError> {
        vertex.op.reads().into_iter().try_for_each(|source| match source.tree {
            Tree::Vertex(from) => inputs.snapshot(from).bring(self.services.store, watch),
            _ => Ok(()),
        })
    }

    fn tell_fetched(&self, id: VertexId, blob: &Descriptor, what: Fetched) {
        if what == Fetched::Done {
            let line = format!("{} {} bytes\n", blob.digest, blob.size);
            let event = Event::Output { vertex: id, bytes: line.as_bytes() };
            self.services.progress.event(&event);
        }
    }

    /// Notes that a vertex's result is not what its key says, so that no other build finds it.
    fn doubt(&self, id: VertexId) {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    fn is_unsure(&self, id: VertexId) -> bool {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// The last time that the same was done to anything: else its content key is not worth the trouble.
    fn seen(&self, id: VertexId) -> Option<Step> {
        let key = self.op_key("seen", id).finish();
        let shared = || self.services.shared.and_then(|shared| shared.find(key));
        self.services.cache.get(key).or_else(shared)
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
        let services = self.services;
        let seal = |made: &Made| {
            let sealed = made.snapshot.top().map(|layer| layer.seal(services.store)).transpose();
            sealed.map(Option::flatten).map_err(|err| err.at(self.graph.get(made.id)))
        };
        let layers =
            services.store.flushing(|| made.iter().map(seal).collect::<Result<Vec<_>, _>>())?;
        services.store.publish(Vec::new(), layers.into_iter().flatten().collect())?;
        for made in made.into_iter().filter(|made| !self.is_unsure(made.id)) {
            let Some(chain) = made.snapshot.chain()? else { continue };
            let seen = self.op_key("seen", made.id).finish();
            let content = self.content_key(made.id, &made.root, &made.results, &made.contexts)?;
            let step = Step { chain, keys: vec![made.key, content, seen] };
            self.remember(&step);
            if let Some(shared) = services.shared {
                shared.done(&step, self.image.contains(&made.id));
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
