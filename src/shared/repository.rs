//! [`Tag`]: a cache in a registry, under a tag.
//!
//! Any number of machines write to it at once, and a registry has no way to say "only if nobody was
//! faster". So what is once there is never overwritten: whoever adds something reads all, merges, and
//! pushes the result under a tag of its own, `TAG.mica-<digest>`. Then it lets `TAG` stand for it too, with
//! a note of which of those tags it holds. A reader takes `TAG`, and what it does not hold: that of
//! those who came at the same time. A tag is taken away only by whoever pushed something that holds all
//! of it.

use std::collections::BTreeMap;

use super::{Place, SharedError, config_type};
use crate::cache::{SharedIndex, SharedIndexError};
use crate::export::Options;
use crate::oci::{Descriptor, Digest, ImageConfig, Manifest, MediaType, Platform, Reference};
use crate::registry::push::Push;
use crate::registry::{Registries, RegistryError, Repository};
use crate::store::{LayerRecord, Origin, Store};

/// The tags that a manifest holds all of, by the digests in their names.
const HOLDS: &str = "dev.mica.cache.holds";

/// How a layer was compressed, where that was not as usual.
const METHOD: &str = "dev.mica.cache.compression";

/// A cache in a registry.
pub struct Tag<'a> {
    store: &'a Store,
    registries: &'a Registries,
    name: Reference,
    options: Options<'a>,
}

impl std::fmt::Debug for Tag<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tag").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is in the registry.
#[derive(Default)]
struct Found {
    index: SharedIndex,
    /// The tags with parts of it that `TAG` does not hold, and those that it does.
    loose: Vec<String>,
    held: Vec<String>,
}

impl<'a> Tag<'a> {
    /// The cache under a tag; layers that are pushed there are compressed as `options` say.
    pub fn new(
        store: &'a Store,
        registries: &'a Registries,
        name: Reference,
        options: Options<'a>,
    ) -> Self {
        Self { store, registries, name, options }
    }

    fn repository(&self) -> Repository<'a> {
        self.registries.repository(&self.name)
    }

    fn tag(&self) -> String {
        match self.name.digest() {
            Some(digest) => digest.to_string(),
            None => self.name.tag().unwrap_or("latest").to_owned(),
        }
    }

    /// How the tags begin that are not overwritten.
    fn prefix(&self) -> String {
        // A tag has at most 128 characters.
        let tag: String = self.tag().chars().take(100).collect();
        format!("{tag}.mica-")
    }

    fn find(&self) -> Result<Found, SharedError> {
        let repository = self.repository();
        let prefix = self.prefix();
        let mut found = Found::default();
        let mut holds = Vec::new();
        if let Some((index, names)) = self.read_index(&repository, &self.tag())? {
            found.index = index;
            holds = names;
        }
        if self.name.digest().is_some() {
            return Ok(found);
        }
        for tag in repository.tags(&prefix)? {
            if holds.iter().any(|name| tag.strip_prefix(&prefix) == Some(name.as_str())) {
                found.held.push(tag);
            } else if let Some((index, _)) = self.read_index(&repository, &tag)? {
                found.index.merge(&index);
                found.loose.push(tag);
            }
        }
        Ok(found)
    }

    /// The index that a tag stands for, and what it notes that it holds; `None` where there is no such
    /// tag.
    fn read_index(
        &self,
        repository: &Repository<'_>,
        tag: &str,
    ) -> Result<Option<(SharedIndex, Vec<String>)>, SharedError> {
        let place = || format!("{repository}:{tag}");
        let document = match repository.document(tag) {
            Err(RegistryError::NotFound { .. }) => return Ok(None),
            document => document?,
        };
        let media_type = document.descriptor.media_type.clone();
        if document.descriptor.is_manifest() {
            let manifest = Manifest::parse(document.bytes, &media_type)
                .map_err(|source| SharedError::Document { place: place(), source })?;
            if manifest.config().media_type == config_type() {
                let config = repository.small_blob(manifest.config())?;
                let index = SharedIndex::parse(&config, manifest.layers())
                    .map_err(|source| SharedError::Index { place: place(), source })?;
                let names = manifest.annotations().get(HOLDS).map(String::as_str);
                let names = names.unwrap_or_default().split(',').map(str::to_owned).collect();
                return Ok(Some((index, names)));
            }
        }
        // An image may hold the keys of its own layers.
        let found = self.registries.find(self.store, &self.name, &Platform::host())?;
        let index = index_of(&found.image.config, found.image.manifest.layers())
            .map_err(|source| SharedError::Index { place: place(), source })?;
        Ok(Some((index, Vec::new())))
    }

    fn push(&self, index: &SharedIndex, found: &Found) -> Result<(), SharedError> {
        let (config, layers) = index.to_document();
        let (prefix, own) = (self.prefix(), short(&Digest::of(&config)));
        let held = found.held.iter().chain(&found.loose);
        let mut holds: Vec<&str> = held.filter_map(|tag| tag.strip_prefix(&prefix)).collect();
        holds.push(&own);
        holds.sort_unstable();
        holds.dedup();
        let annotations = BTreeMap::from([(HOLDS.to_owned(), holds.join(","))]);
        let manifest = Manifest::new(Descriptor::of(config_type(), &config), Vec::new());
        let manifest = manifest.with(layers, None, &annotations);
        let repository = self.repository();
        let push = self.pusher(&repository);
        // The tag that stays comes first: from here on, nothing that it holds can get lost.
        let own = format!("{prefix}{own}");
        push.document(&manifest, config, &[&own, &self.tag()])?;
        for tag in found.held.iter().chain(&found.loose).filter(|tag| **tag != own) {
            // Tags that cannot be taken away are in nobody's way.
            if !repository.delete_tag(tag).unwrap_or(false) {
                break;
            }
        }
        Ok(())
    }

    fn pusher<'b>(&'b self, repository: &'b Repository<'b>) -> Push<'b> {
        Push { store: self.store, options: &self.options, repository, progress: &|_, _| {} }
    }
}

/// The index that an image's config holds; an empty one for an image without.
fn index_of(config: &ImageConfig, layers: &[Descriptor]) -> Result<SharedIndex, SharedIndexError> {
    match config.extra.get(SharedIndex::MEMBER) {
        Some(index) => SharedIndex::parse_image(index, layers),
        None => Ok(SharedIndex::default()),
    }
}

/// What a tag's name has room for, and what two indexes do not share by chance.
fn short(digest: &Digest) -> String {
    digest.hex()[..16].to_owned()
}

impl Place for Tag<'_> {
    fn name(&self) -> String {
        self.name.familiar()
    }

    fn read(&self) -> Result<SharedIndex, SharedError> {
        Ok(self.find()?.index)
    }

    fn offer(&self, layers: &[LayerRecord]) -> Result<(), SharedError> {
        let blobs: Vec<Descriptor> = layers.iter().filter_map(|layer| layer.blob.clone()).collect();
        self.store.note_origin(&blobs, &Origin::new(&self.repository().to_string()))?;
        for layer in layers.iter().filter(|layer| layer.created.is_some()) {
            // So a push knows what the layer will be called without having its bytes.
            if let Some(blob) = &layer.blob {
                let usual = match blob.media_type {
                    MediaType::ImageLayerZstd => "zstd",
                    _ => "gzip",
                };
                let method = blob.annotations.get(METHOD).map_or(usual, String::as_str);
                let mut blob = blob.clone();
                blob.annotations.clear();
                self.store.note_compressed(layer.diff_id, method, &blob);
            }
        }
        Ok(())
    }

    fn put(&self, layer: &LayerRecord) -> Result<Descriptor, SharedError> {
        let repository = self.repository();
        let mut blob = self.pusher(&repository).layer(layer)?;
        if self.options.level.is_some() && layer.created.is_some() {
            blob.annotations.insert(METHOD.to_owned(), self.options.method());
        }
        Ok(blob)
    }

    fn add(&self, index: &SharedIndex) -> Result<bool, SharedError> {
        let found = self.find()?;
        let mut merged = found.index.clone();
        merged.merge(index);
        merged.prune();
        if found.loose.is_empty() && merged.to_document() == found.index.to_document() {
            return Ok(false);
        }
        self.push(&merged, &found)?;
        Ok(true)
    }
}
