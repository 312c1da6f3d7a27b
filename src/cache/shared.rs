//! [`SharedIndex`]: the steps and layers of a cache that machines share, as one small document.
//!
//! The document is an image manifest and its config. The manifest's layers are the blobs, so that a
//! registry keeps them; the config says what each is, and which keys lead to it:
//!
//! ```json
//! {"version": 1,
//!  "layers": [{"diffId": "sha256:…", "size": 10, "content": "sha256:…", "created": "…"},
//!             {"parent": 0, "diffId": "sha256:…", …}],
//!  "steps":  [{"layer": 1, "keys": ["sha256:…"], "used": 20778}]}
//! ```
//!
//! Layer _n_ of the config is layer _n_ of the manifest. An index says what is true of keys and layers
//! whoever wrote it, so two can always be [merged](SharedIndex::merge), and equal sets of steps have
//! equal bytes.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::{CacheKey, Step};
use crate::layer::Packed;
use crate::oci::{ChainId, Descriptor, DiffId, Digest, MediaType};
use crate::store::LayerRecord;

/// The version of the document.
const VERSION: u32 = 1;

/// The most steps and layers that a document keeps: it stays below the 4 MiB that registries allow.
const MAX_STEPS: usize = 6000;
const MAX_LAYERS: usize = 6000;

/// A cache that machines share, as a build sees it.
pub trait SharedCache: Sync {
    /// The step that was done elsewhere for `key`. The store knows its layers from then on.
    fn find(&self, key: CacheKey) -> Option<Step>;

    /// Hears of a step whose layers the store has; `in_image` if they are the image's.
    fn done(&self, step: &Step, in_image: bool);
}

/// Why bytes are not an index.
#[derive(Debug, thiserror::Error)]
pub enum SharedIndexError {
    /// They are not JSON of the right shape.
    #[error("it is no cache of mica")]
    Json(#[from] serde_json::Error),
    /// Another mica wrote it.
    #[error("it has version {0}; this mica knows version 1")]
    Version(u32),
    /// It contradicts itself.
    #[error("it contradicts itself: {0}")]
    Invalid(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SharedLayer {
    /// The layer below, by its place in the list; `None` for a base layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<usize>,
    diff_id: DiffId,
    size: u64,
    content: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct SharedStep {
    layer: usize,
    keys: Vec<Digest>,
    /// The day of its last use, counted from 1970; 0 where nobody counts.
    #[serde(default, skip_serializing_if = "is_zero")]
    used: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(day: &u32) -> bool {
    *day == 0
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    layers: Vec<SharedLayer>,
    steps: Vec<SharedStep>,
}

/// Steps by their keys, and layers by their chains.
#[derive(Debug, Clone, Default)]
pub struct SharedIndex {
    layers: BTreeMap<ChainId, LayerRecord>,
    /// By definition key.
    steps: BTreeMap<Digest, KnownStep>,
    /// The definition keys of the steps that have a key.
    by_key: HashMap<CacheKey, BTreeSet<Digest>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownStep {
    step: Step,
    used: u32,
}

impl SharedIndex {
    /// The member of an image's config that holds an index of its own layers.
    pub const MEMBER: &str = "mica.cache.v1";

    /// Reads an index: its config, and the layers of its manifest.
    ///
    /// # Errors
    /// [`SharedIndexError`].
    pub fn parse(config: &[u8], blobs: &[Descriptor]) -> Result<Self, SharedIndexError> {
        #[derive(Deserialize)]
        struct Face {
            version: u32,
        }
        let invalid = SharedIndexError::Invalid;
        let face: Face = serde_json::from_slice(config)?;
        if face.version != VERSION {
            return Err(SharedIndexError::Version(face.version));
        }
        let document: Document = serde_json::from_slice(config)?;
        if document.layers.len() != blobs.len() {
            return Err(invalid("it has not as many layers as blobs"));
        }
        let mut index = Self::default();
        let mut chains: Vec<ChainId> = Vec::new();
        for (layer, blob) in document.layers.into_iter().zip(blobs) {
            let below = layer.parent.map(|at| chains.get(at).copied());
            let parent = below.map(|below| below.ok_or(invalid("a layer stands on a later one")));
            let SharedLayer { diff_id, size, content, created, .. } = layer;
            let packed = Packed { diff_id, size, content };
            let layer = LayerRecord::away(parent.transpose()?, &packed, created, blob.clone());
            chains.push(layer.chain());
            index.layers.insert(layer.chain(), layer);
        }
        for step in document.steps {
            let chain = *chains.get(step.layer).ok_or(invalid("a step has no layer"))?;
            let keys: Vec<_> = step.keys.into_iter().map(CacheKey).collect();
            index.note(Step { chain, keys }, step.used);
        }
        Ok(index)
    }

    /// The index that an image's own config holds of its layers, base first, and the steps that made
    /// them.
    pub fn of_image(layers: &[LayerRecord], steps: &[Step]) -> serde_json::Value {
        let mut index = Self::default();
        for layer in layers {
            index.add_layer(
                layer,
                Descriptor::new(MediaType::ImageLayer, layer.diff_id.0, layer.size),
            );
        }
        for step in steps {
            index.add_step(step.clone(), 0);
        }
        serde_json::from_slice(&index.to_document().0).expect("what was written can be read")
    }

    /// Reads the index that an image holds in its own config.
    ///
    /// # Errors
    /// As [`SharedIndex::parse`].
    pub fn parse_image(
        index: &serde_json::Value,
        layers: &[Descriptor],
    ) -> Result<Self, SharedIndexError> {
        let count = index["layers"].as_array().map_or(0, Vec::len).min(layers.len());
        Self::parse(index.to_string().as_bytes(), &layers[..count])
    }

    /// The config and the layers of the manifest.
    pub fn to_document(&self) -> (Vec<u8>, Vec<Descriptor>) {
        let mut places: HashMap<ChainId, usize> = HashMap::new();
        let (mut layers, mut blobs) = (Vec::new(), Vec::new());
        for known in self.steps.values() {
            for layer in self.above(known.step.chain, |chain| places.contains_key(&chain)) {
                places.insert(layer.chain(), layers.len());
                blobs.extend(layer.blob.clone());
                layers.push(layer);
            }
        }
        let placed = |layer: &LayerRecord| SharedLayer {
            parent: layer.parent.map(|parent| places[&parent]),
            diff_id: layer.diff_id,
            size: layer.size,
            content: layer.content,
            created: layer.created.clone(),
        };
        let steps = self.steps.values().map(|known| SharedStep {
            layer: places[&known.step.chain],
            keys: known.step.keys.iter().map(|key| key.0).collect(),
            used: known.used,
        });
        let document = Document {
            version: VERSION,
            layers: layers.into_iter().map(placed).collect(),
            steps: steps.collect(),
        };
        (serde_json::to_vec(&document).expect("plain strings serialize"), blobs)
    }

    /// The step that a key leads to.
    pub fn find(&self, key: CacheKey) -> Option<&Step> {
        let definitions = self.by_key.get(&key)?;
        // What several steps have made leads to the same of them on all machines.
        let definition = definitions.get(&key.0).or_else(|| definitions.first())?;
        self.steps.get(definition).map(|known| &known.step)
    }

    /// Whether it knows no step.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether the index knows a layer on what is below it.
    pub fn has_layer(&self, chain: ChainId) -> bool {
        self.layers.contains_key(&chain)
    }

    /// The layer at the top of a chain.
    pub fn layer(&self, chain: ChainId) -> Option<&LayerRecord> {
        self.layers.get(&chain)
    }

    /// The layers of a chain, lowest first, that stand above those that are `known`.
    pub fn above(&self, chain: ChainId, known: impl Fn(ChainId) -> bool) -> Vec<&LayerRecord> {
        let get = |chain: ChainId| self.layers.get(&chain).filter(|_| !known(chain));
        let below = |layer: &&LayerRecord| layer.parent.and_then(get);
        let mut layers: Vec<_> = std::iter::successors(get(chain), below).collect();
        layers.reverse();
        layers
    }

    /// Adds a layer that others can have as `blob`, if it is known what it stands on.
    pub fn add_layer(&mut self, layer: &LayerRecord, blob: Descriptor) {
        if layer.parent.is_none_or(|parent| self.has_layer(parent)) {
            self.layers.entry(layer.chain()).or_insert_with(|| layer.elsewhere(blob));
        }
    }

    /// Adds a step whose layers are known, used on a day.
    pub fn add_step(&mut self, step: Step, used: u32) {
        if self.has_layer(step.chain) {
            self.note(step, used);
        }
    }

    fn note(&mut self, step: Step, used: u32) {
        let Some(definition) = step.keys.first().map(|key| key.0) else { return };
        let mut noted = KnownStep { step, used };
        if let Some(known) = self.steps.remove(&definition) {
            noted.used = used.max(known.used);
            match noted.step.chain.cmp(&known.step.chain) {
                // Machines may have come to one result by different ways.
                Ordering::Equal => noted.step.keys.extend(&known.step.keys),
                // Of two results of one step, all machines keep the same.
                Ordering::Greater => noted.step = known.step.clone(),
                Ordering::Less => {}
            }
            for key in known.step.keys {
                self.by_key.entry(key).or_default().remove(&definition);
            }
        }
        noted.step.keys.sort_unstable_by_key(|key| (key.0 != definition, key.0));
        noted.step.keys.dedup();
        for key in &noted.step.keys {
            self.by_key.entry(*key).or_default().insert(definition);
        }
        self.steps.insert(definition, noted);
    }

    /// Adds all that another index knows.
    pub fn merge(&mut self, other: &Self) {
        for known in other.steps.values() {
            self.take(other, known);
        }
    }

    /// Forgets the steps that were not used for longest, until the document is small enough.
    pub fn prune(&mut self) {
        let mut newest: Vec<_> = self.steps.iter().map(|(key, step)| (step.used, *key)).collect();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        let mut kept = Self::default();
        for (_, key) in newest.into_iter().take(MAX_STEPS) {
            let known = &self.steps[&key];
            let new = self.above(known.step.chain, |chain| kept.has_layer(chain)).len();
            if kept.layers.len() + new > MAX_LAYERS {
                break;
            }
            kept.take(self, known);
        }
        *self = kept;
    }

    /// Adds a step of another index, with its layers.
    fn take(&mut self, other: &Self, known: &KnownStep) {
        for layer in other.above(known.step.chain, |chain| self.has_layer(chain)) {
            self.layers.insert(layer.chain(), layer.clone());
        }
        self.note(known.step.clone(), known.used);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::{MAX_DOCUMENT_BYTES, Manifest};

    fn add(index: &mut SharedIndex, parent: Option<ChainId>, name: &[u8]) -> ChainId {
        let blob = Descriptor::of(MediaType::ImageLayerGzip, name);
        let layer = LayerRecord::of_image(parent, DiffId(blob.digest), blob.clone());
        index.add_layer(&layer, blob);
        layer.chain()
    }

    fn key(name: u8) -> CacheKey {
        CacheKey(Digest::of(&[b'k', name]))
    }

    /// An index of chains, each with the keys of a step.
    fn index(steps: &[(Vec<u8>, Vec<u8>, u32)]) -> SharedIndex {
        let mut index = SharedIndex::default();
        for (names, keys, used) in steps {
            let mut chain = None;
            for name in names {
                chain = Some(add(&mut index, chain, &[*name]));
            }
            let keys = keys.iter().map(|name| key(*name)).collect();
            if let Some(chain) = chain {
                index.add_step(Step { chain, keys }, *used);
            }
        }
        index
    }

    fn steps() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>, u32)>> {
        let names = prop::collection::vec(0_u8..3, 1..4);
        let keys = prop::collection::vec(0_u8..6, 1..4);
        prop::collection::vec((names, keys, 0_u32..3), 0..6)
    }

    proptest! {
        #[test]
        fn merging_is_the_same_in_any_order(a in steps(), b in steps(), c in steps()) {
            let (a, b, c) = (index(&a), index(&b), index(&c));
            let merged = |all: [&SharedIndex; 4]| {
                let mut merged = SharedIndex::default();
                for index in all {
                    merged.merge(index);
                }
                merged.to_document()
            };
            prop_assert_eq!(merged([&a, &b, &c, &a]), merged([&c, &b, &b, &a]));
        }

        #[test]
        fn a_document_is_read_as_it_was_written(a in steps()) {
            let mut index = index(&a);
            index.prune();
            let (config, blobs) = index.to_document();
            let read = SharedIndex::parse(&config, &blobs).expect("valid");
            prop_assert_eq!(&read.to_document(), &(config, blobs));
            for name in 0..6 {
                prop_assert_eq!(read.find(key(name)), index.find(key(name)));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(SharedIndex::parse(&bytes, &[]));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |config: &str, blobs: usize, message: &str| {
            let blob = Descriptor::of(MediaType::ImageLayerGzip, b"x");
            let found = SharedIndex::parse(config.as_bytes(), &vec![blob; blobs]);
            assert_eq!(found.map(drop).map_err(|err| err.to_string()), Err(message.to_owned()));
        };
        let digest = Digest::of(b"x");
        let layer = format!(r#""diffId":"{digest}","size":1,"content":"{digest}""#);
        check("[]", 0, "it is no cache of mica");
        check(r#"{"version":2}"#, 0, "it has version 2; this mica knows version 1");
        let text = r#"{"version":1,"layers":[],"steps":[]}"#;
        check(text, 1, "it contradicts itself: it has not as many layers as blobs");
        let text = format!(r#"{{"version":1,"layers":[{{"parent":0,{layer}}}],"steps":[]}}"#);
        check(&text, 1, "it contradicts itself: a layer stands on a later one");
        let text = r#"{"version":1,"layers":[],"steps":[{"layer":0,"keys":[]}]}"#;
        check(text, 0, "it contradicts itself: a step has no layer");
    }

    #[test]
    fn the_oldest_steps_are_forgotten_first() {
        let mut index = SharedIndex::default();
        let most = u32::try_from(MAX_STEPS).expect("small");
        for number in 0..most + 10 {
            let chain = add(&mut index, None, &number.to_le_bytes());
            let key = CacheKey(Digest::of(&number.to_le_bytes()));
            index.add_step(Step { chain, keys: vec![key; 3] }, number);
        }
        index.prune();
        let known = |number: u32| index.find(CacheKey(Digest::of(&number.to_le_bytes()))).is_some();
        assert!(!known(9) && known(10) && known(most + 9));
        let (config, blobs) = index.to_document();
        let manifest = Manifest::new(blobs[0].clone(), blobs);
        let limit = usize::try_from(MAX_DOCUMENT_BYTES).expect("small");
        assert!(config.len() < limit && manifest.bytes().len() < limit);
    }
}
