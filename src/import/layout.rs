//! The images of an archive that is an OCI image layout.

use serde::Deserialize;

use super::ImportError;
use super::members::Archive;
use crate::oci::{Descriptor, ImageConfig, Index, Manifest, MediaType, Platform, Reference};
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
    let mut found: Vec<Found> = Vec::new();
    let mut skipped = false;
    for descriptor in &index.manifests {
        let Some(manifest) = manifest(archive, descriptor, &Platform::host())? else {
            skipped = true;
            continue;
        };
        let names = name(descriptor)?;
        let same = |known: &&mut Found| known.manifest.bytes() == manifest.bytes();
        match found.iter_mut().find(same) {
            Some(known) => known.names.extend(names),
            None => found.push(Found { manifest, names: names.into_iter().collect() }),
        }
    }
    if found.is_empty() && (skipped || index.manifests.is_empty()) {
        return Err(ImportError::NoImage(Platform::host().to_string()));
    }
    Ok(found)
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

/// The manifest that a descriptor leads to; `None` where there is none for this platform.
pub(super) fn manifest(
    documents: &impl Documents,
    descriptor: &Descriptor,
    platform: &Platform,
) -> Result<Option<Manifest>, ImportError> {
    let mut descriptor = descriptor.clone();
    for _ in 0..MAX_DEPTH {
        if !is_for(&descriptor, platform) {
            return Ok(None);
        }
        let bytes = documents.read(&descriptor)?;
        if descriptor.is_manifest() {
            return Ok(Some(Manifest::parse(bytes, &descriptor.media_type)?));
        }
        let index = Index::parse(&bytes, &descriptor.media_type)?;
        match index.manifests.into_iter().find(|entry| is_for(entry, platform)) {
            Some(next) => descriptor = next,
            None => return Ok(None),
        }
    }
    Err(ImportError::TooDeep(MAX_DEPTH))
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
