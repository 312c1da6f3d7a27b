//! Images into registries.
//!
//! What the registry has is found out first, and not sent: by its tag, by the digests of its blobs, and
//! in other repositories of the registry. What it lacks goes up in parallel, compressed as it goes. The
//! manifest follows when all of its blobs are there, and names come last: so a push that fails has
//! changed nothing that anybody can pull.

mod content;
mod upload;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use content::{Content, Hashed};
use upload::Uploader;

use super::auth::Access;
use super::client::{Call, Repository, Target};
use super::error::RegistryError;
use crate::export::layers::{self, LayerBytes};
use crate::export::{ExportError, Options, Stop, Stoppable};
use crate::http::Body;
use crate::oci::{Descriptor, Digest, Manifest};
use crate::store::{Image, LayerRecord, Origin, Store, StoreError};

/// How many blobs go up at once.
const UPLOADS: usize = 4;
/// How much nicer an upload is than the one that began before it, which so gets four times as much of a
/// core, and how often.
const YIELD: i32 = 6;
const MAX_YIELDS: i32 = 2;

/// Why an image could not be pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry did not take it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store could not give it.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl From<StoreError> for PushError {
    fn from(err: StoreError) -> Self {
        Self::Export(err.into())
    }
}

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The repository had it.
    Exists,
    /// Another repository of the registry had it.
    Mounted,
    /// It was sent.
    Pushed,
}

/// Pushes images to one repository.
pub struct Push<'a> {
    /// Where they are.
    pub store: &'a Store,
    /// How layers are compressed, and what becomes of manifests.
    pub options: &'a Options<'a>,
    /// Where they go.
    pub repository: &'a Repository<'a>,
    /// Called for each blob once it is there.
    pub progress: &'a (dyn Fn(Digest, Outcome) + Sync),
}

impl std::fmt::Debug for Push<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push").finish_non_exhaustive()
    }
}

/// A layer or config that has to be in the registry before the manifest.
struct Blob<'a> {
    /// As the image in the store has it.
    own: Descriptor,
    source: Source<'a>,
}

enum Source<'a> {
    Document(Vec<u8>),
    /// It is compressed on its way where that is another compression than it has.
    Layer(&'a LayerBytes),
}

impl Blob<'_> {
    fn kind(&self) -> &'static str {
        if let Source::Document(_) = self.source { "config" } else { "layer" }
    }
}

impl Push<'_> {
    /// Pushes an image under these tags, or by its digest alone where there are none, and gives its
    /// manifest's descriptor.
    ///
    /// # Errors
    /// [`PushError`]; no tag has moved then.
    pub fn push(&self, image: &Image, tags: &[String]) -> Result<Descriptor, PushError> {
        let layers = layers::plan(self.store, image, self.options)?;
        let blobs = self.blobs(image, &layers)?;
        let known: Option<Vec<Descriptor>> = blobs.iter().map(|blob| self.known(blob)).collect();
        let mut names = tags.to_vec();
        if let Some(known) = known {
            let manifest = self.manifest(image, known);
            let digest = manifest.descriptor().digest;
            let mut missing = Vec::new();
            for name in names_of(&names, &manifest) {
                if self.digest_of(&name)? != Some(digest) {
                    missing.push(name);
                }
            }
            names = missing;
            if names.is_empty() {
                return Ok(manifest.descriptor());
            }
        }
        let pushed = self.push_blobs(&blobs)?;
        let manifest = self.manifest(image, pushed.clone());
        for name in names_of(&names, &manifest) {
            self.put(&manifest, &name)?;
        }
        // Now other repositories can have its blobs from here.
        self.store.note_origin(&pushed, &self.origin())?;
        Ok(manifest.descriptor())
    }

    /// Pushes one layer by itself, and gives its blob.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn layer(&self, record: &LayerRecord) -> Result<Descriptor, PushError> {
        let layer = layers::single(self.store, record, self.options);
        let blob = Blob { own: layer.descriptor.clone(), source: Source::Layer(&layer) };
        let pushed = self.push_blob(&blob, self.options.stop)?;
        self.store.note_origin(std::slice::from_ref(&pushed), &self.origin())?;
        Ok(pushed)
    }

    /// Pushes a manifest with its config under these tags; its layers are there.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn document(
        &self,
        manifest: &Manifest,
        config: Vec<u8>,
        tags: &[&str],
    ) -> Result<(), PushError> {
        let blob = Blob { own: manifest.config().clone(), source: Source::Document(config) };
        self.push_blob(&blob, self.options.stop)?;
        tags.iter().try_for_each(|tag| self.put(manifest, tag))
    }

    fn origin(&self) -> Origin {
        Origin::new(&self.repository.to_string())
    }

    /// The layers, base first, and the config.
    fn blobs<'a>(
        &self,
        image: &Image,
        layers: &'a [LayerBytes],
    ) -> Result<Vec<Blob<'a>>, PushError> {
        let blob = |layer: &'a LayerBytes| Blob {
            own: layer.descriptor.clone(),
            source: Source::Layer(layer),
        };
        let mut blobs: Vec<Blob<'a>> = layers.iter().map(blob).collect();
        let config = image.manifest.config().clone();
        let bytes = self.store.read_document(&config)?;
        blobs.push(Blob { own: config, source: Source::Document(bytes) });
        Ok(blobs)
    }

    /// What a blob will be in the registry, as far as one can tell without compressing it.
    fn known(&self, blob: &Blob<'_>) -> Option<Descriptor> {
        match blob.source {
            Source::Layer(layer) if layer.changes => {
                self.store.compressed(layer.diff_id, &self.options.method())
            }
            _ => Some(blob.own.clone()),
        }
    }

    /// Brings all blobs into the registry, several at once; gives what they are there.
    fn push_blobs(&self, blobs: &[Blob<'_>]) -> Result<Vec<Descriptor>, PushError> {
        // A layer that an image has twice is sent once. The longest way comes first.
        let mut distinct: Vec<&Blob<'_>> = blobs.iter().collect();
        distinct.sort_by_key(|blob| (Reverse(blob.own.size), blob.own.digest));
        distinct.dedup_by_key(|blob| blob.own.digest);
        let places: HashMap<Digest, usize> =
            distinct.iter().enumerate().map(|(place, blob)| (blob.own.digest, place)).collect();
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let results = Mutex::new(vec![None; distinct.len()]);
        let error = Mutex::new(None);
        let cancelled = || failed.load(Ordering::Acquire) || (self.options.stop)();
        let work = || {
            let mut place = next.fetch_add(1, Ordering::Relaxed);
            yield_to(place);
            while let Some(blob) = distinct.get(place) {
                match self.push_blob(blob, &cancelled) {
                    Ok(descriptor) => {
                        results.lock().unwrap_or_else(PoisonError::into_inner)[place] =
                            Some(descriptor);
                    }
                    Err(err) => {
                        // The first one is why the others stop, so they come behind it.
                        error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(err);
                        failed.store(true, Ordering::Release);
                        return;
                    }
                }
                place = next.fetch_add(1, Ordering::Relaxed);
            }
        };
        thread::scope(|scope| {
            for _ in 0..UPLOADS.min(distinct.len()) {
                scope.spawn(work);
            }
        });
        if let Some(err) = error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(err);
        }
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let all = blobs.iter().map(|blob| results[places[&blob.own.digest]].clone());
        Ok(all.map(|found| found.expect("without an error, each one has a result")).collect())
    }

    fn push_blob(
        &self,
        blob: &Blob<'_>,
        cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Descriptor, PushError> {
        let what = format!("the {} {}", blob.kind(), blob.own.digest);
        let uploader = Uploader { repository: self.repository, what: &what, cancelled };
        if cancelled() {
            return Err(PushError::Cancelled);
        }
        let mut session = None;
        if let Some(known) = self.known(blob) {
            let (is_here, elsewhere) = self.places(known.digest)?;
            // A repository that never got the blob from us more likely lacks it: one question less.
            let mut outcome = None;
            if let Some(origin) = elsewhere.filter(|_| !is_here) {
                session = uploader.mount(known.digest, &origin)?;
                outcome = session.is_none().then_some(Outcome::Mounted);
            }
            let is_small = matches!(blob.source, Source::Document(_));
            if outcome.is_none() && (is_here || !is_small) && uploader.has(known.digest)? {
                uploader.abandon(session.take());
                outcome = Some(Outcome::Exists);
            }
            if let Some(outcome) = outcome {
                (self.progress)(known.digest, outcome);
                return Ok(known);
            }
        }
        if let Source::Document(bytes) = &blob.source {
            uploader.upload_document(&BlobContent::new(self, blob, cancelled), bytes, session)?;
            (self.progress)(blob.own.digest, Outcome::Pushed);
            return Ok(blob.own.clone());
        }
        if let Source::Layer(layer) = blob.source {
            // An upload does not wait well.
            layer.bring(self.store)?;
        }
        let content = BlobContent::new(self, blob, cancelled);
        let Hashed { digest, size } = uploader.upload(&content, session)?;
        (self.progress)(digest, Outcome::Pushed);
        match blob.source {
            Source::Layer(layer) if layer.changes => {
                let media_type = layers::media_type_of(self.options.compression);
                let descriptor = Descriptor::new(media_type, digest, size);
                self.store.note_compressed(layer.diff_id, &self.options.method(), &descriptor);
                Ok(descriptor)
            }
            _ => Ok(blob.own.clone()),
        }
    }

    /// Whether the repository had a blob when it was last seen, and another one of the registry that
    /// may have it.
    fn places(&self, digest: Digest) -> Result<(bool, Option<String>), PushError> {
        let (host, own) = (self.repository.host(), self.repository.name());
        let origins = self.store.origins(digest)?;
        let names = origins.iter().filter_map(|origin| origin.as_str().split_once('/'));
        let (here, elsewhere): (Vec<_>, Vec<_>) = names
            .filter(|(registry, _)| *registry == host)
            .map(|(_, name)| name.to_owned())
            .partition(|name| name == own);
        Ok((!here.is_empty(), elsewhere.into_iter().next()))
    }

    /// The digest of what a tag stands for.
    fn digest_of(&self, tag: &str) -> Result<Option<Digest>, PushError> {
        let call = self.call("HEAD", tag).header("accept", ACCEPT);
        let response = self.repository.request(&call)?;
        if response.status == 404 {
            return Ok(None);
        }
        let response = self.repository.success(&call, response)?;
        let digest = response.header("docker-content-digest");
        Ok(digest.and_then(|digest| digest.parse().ok()))
    }

    fn put(&self, manifest: &Manifest, tag: &str) -> Result<(), PushError> {
        if (self.options.stop)() {
            return Err(PushError::Cancelled);
        }
        let media_type = manifest.descriptor().media_type.to_string();
        let mut call = self.call("PUT", tag).header("content-type", media_type);
        call.body = Body::Bytes(manifest.bytes());
        self.repository.success(&call, self.repository.request(&call)?)?;
        Ok(())
    }

    /// The manifest of an image whose blobs, the config last, are these: the same as in an archive.
    fn manifest(&self, image: &Image, mut blobs: Vec<Descriptor>) -> Manifest {
        blobs.pop();
        image.manifest.with(blobs, self.options.words, &self.options.annotations)
    }

    /// A question about what a tag stands for.
    fn call(&self, method: &'static str, tag: &str) -> Call<'static> {
        let what = format!("`{}:{tag}`", self.repository);
        Call::new(method, Target::Repository(format!("manifests/{tag}")), Access::Push, &what)
    }
}

/// Lets this thread, and those that it will start, leave the cores to the uploads that began before
/// the one at this place: the registry can bring the largest blob to its disk while others are compressed.
fn yield_to(place: usize) {
    let yields = YIELD * i32::try_from(place).unwrap_or(i32::MAX).min(MAX_YIELDS);
    // Otherwise the push takes a little longer.
    let _ignored = rustix::process::nice(yields);
}

/// By what a manifest is called in its repository.
fn names_of(tags: &[String], manifest: &Manifest) -> Vec<String> {
    if tags.is_empty() { vec![manifest.descriptor().digest.to_string()] } else { tags.to_vec() }
}

/// What a manifest can be.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

struct BlobContent<'a> {
    store: &'a Store,
    options: &'a Options<'a>,
    blob: &'a Blob<'a>,
    stop: Stop<'a>,
}

impl<'a> BlobContent<'a> {
    fn new(push: &Push<'a>, blob: &'a Blob<'a>, stop: Stop<'a>) -> Self {
        Self { store: push.store, options: push.options, blob, stop }
    }
}

impl Content for BlobContent<'_> {
    fn length(&self) -> Option<u64> {
        match self.blob.source {
            Source::Layer(layer) if layer.changes => None,
            _ => Some(self.blob.own.size),
        }
    }

    fn write(&self, out: &mut dyn Write) -> Result<(), ExportError> {
        let out = &mut Stoppable { out, stop: self.stop };
        match &self.blob.source {
            Source::Document(bytes) => out
                .write_all(bytes)
                .map_err(|source| ExportError::Write { path: "the registry".into(), source }),
            Source::Layer(layer) if layer.changes => {
                layer.write_changed(self.store, self.options, out)
            }
            Source::Layer(layer) => layer.write(self.store, out),
        }
    }
}
