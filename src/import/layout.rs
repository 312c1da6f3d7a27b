//! The images of an archive that is an OCI image layout.

use std::collections::HashMap;

use serde::Deserialize;

use super::ImportError;
use super::members::Archive;
use crate::oci::{
    Descriptor, Digest, ImageConfig, Index, Manifest, MediaType, Platform, Reference,
};
use crate::store::StoreError;

/// How deep indexes lead to indexes: `index.json`, then one for several platforms, and some air.
const MAX_DEPTH: usize = 4;

/// What annotates a whole name, and what only a tag or whatever the writer liked.
const NAME: &str = "io.containerd.image.name";
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where the documents of a layout are read.
pub(super) trait Documents {
    /// A file by its name; `None` where there is none.
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImportError>;

    /// The blob of a descriptor that points to a document, once it has been found to be it.
    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImportError>;
}

impl Documents for Archive {
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImportError> {
        Self::document(self, name)
    }

    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImportError> {
        self.document_blob(descriptor)
    }
}

/// An image of an archive.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) manifest: Manifest,
    pub(super) names: Vec<Reference>,
}

/// The images that `index.json` leads to, for the platform that mica runs on.
pub(super) fn images(archive: &Archive, index: &[u8]) -> Result<Vec<Found>, ImportError> {
    check_version(archive)?;
    let index = Index::parse(index, &MediaType::ImageIndex)?;
    let platform = Platform::host();
    let mut search = Search::new(archive, &platform);
    let mut names: Vec<Vec<Reference>> = Vec::new();
    for descriptor in &index.manifests {
        if let Some(at) = search.manifest(descriptor)? {
            names.resize(search.found.len(), Vec::new());
            names[at].extend(name(descriptor)?);
        }
    }
    if search.found.is_empty() {
        return Err(ImportError::NoImage(platform.to_string()));
    }
    let found = search.found.into_iter().zip(names);
    Ok(found.map(|(manifest, names)| Found { manifest, names }).collect())
}

pub(super) fn check_version(documents: &impl Documents) -> Result<(), ImportError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let name = "oci-layout";
    let Some(bytes) = documents.document(name)? else { return Ok(()) };
    let layout: Layout =
        serde_json::from_slice(&bytes).map_err(|source| ImportError::Json { name, source })?;
    match layout.image_layout_version.as_str() {
        "1.0.0" => Ok(()),
        other => Err(ImportError::LayoutVersion(other.chars().take(20).collect())),
    }
}

/// Looks for manifests. A document is read once, however many descriptors lead to it.
pub(super) struct Search<'a, D> {
    documents: &'a D,
    platform: &'a Platform,
    /// The manifests that were found.
    pub(super) found: Vec<Manifest>,
    /// Which of them a digest leads to, with a size and a media type.
    known: HashMap<(Digest, u64, String), Option<usize>>,
}

impl<'a, D: Documents> Search<'a, D> {
    pub(super) fn new(documents: &'a D, platform: &'a Platform) -> Self {
        Self { documents, platform, found: Vec::new(), known: HashMap::new() }
    }

    /// Which manifest a descriptor leads to; `None` where there is none for the platform.
    pub(super) fn manifest(&mut self, at: &Descriptor) -> Result<Option<usize>, ImportError> {
        self.within(at, MAX_DEPTH)
    }

    fn within(&mut self, at: &Descriptor, depth: usize) -> Result<Option<usize>, ImportError> {
        if !is_for(at, self.platform) {
            return Ok(None);
        }
        let key = (at.digest, at.size, at.media_type.to_string());
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let below = depth.checked_sub(1).ok_or(ImportError::TooDeep(MAX_DEPTH))?;
        let bytes = self.documents.read(at)?;
        let found = if at.is_manifest() {
            self.found.push(Manifest::parse(bytes, &at.media_type)?);
            Some(self.found.len() - 1)
        } else {
            let index = Index::parse(&bytes, &at.media_type)?;
            match index.manifests.iter().find(|entry| is_for(entry, self.platform)) {
                Some(next) => self.within(next, below)?,
                None => None,
            }
        };
        self.known.insert(key, found);
        Ok(found)
    }
}

/// Attestations have an unknown platform, and what has none is for everybody.
fn is_for(descriptor: &Descriptor, platform: &Platform) -> bool {
    let of = descriptor.platform.as_ref();
    of.is_none_or(|of| of.os == platform.os && of.architecture == platform.architecture)
        && (descriptor.is_manifest() || descriptor.is_index())
}

/// The name that annotates an image. A `ref.name` that is only a tag is no name.
fn name(descriptor: &Descriptor) -> Result<Option<Reference>, ImportError> {
    if let Some(name) = descriptor.annotations.get(NAME) {
        return Ok(Some(name.parse()?));
    }
    let Some(name) = descriptor.annotations.get(REF_NAME) else { return Ok(None) };
    let reference: Reference = match name.parse() {
        Ok(reference) => reference,
        // A tag may look like no name at all.
        Err(_) if !name.contains(['/', ':']) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    Ok(name.contains(['/', ':']).then_some(reference))
}

/// The config of an image and its bytes. All layers are there, and what is said of them can be true.
pub(super) fn check(
    archive: &Archive,
    manifest: &Manifest,
) -> Result<(ImageConfig, Vec<u8>), ImportError> {
    let bytes = archive.document_blob(manifest.config())?;
    let config = ImageConfig::parse(&bytes)?;
    let wrong = crate::oci::validate(manifest, &config);
    if !wrong.is_empty() {
        return Err(StoreError::Invalid(wrong).into());
    }
    for (layer, diff_id) in manifest.layers().iter().zip(&config.rootfs.diff_ids) {
        archive.blob(layer)?;
        // A plain tar's digest is its diff ID; others are held against it when they are unpacked.
        if layer.media_type == MediaType::ImageLayer && layer.digest != diff_id.0 {
            let what = "a layer of the archive".to_owned();
            let (expected, found) = (diff_id.0, layer.digest);
            return Err(StoreError::DigestMismatch { what, expected, found }.into());
        }
    }
    Ok((config, bytes))
}
