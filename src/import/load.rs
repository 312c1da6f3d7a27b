//! `mica load`: images out of an archive of `docker save`, or of an OCI layout.

use std::fs::File;

use serde::Deserialize;

use super::layers::Staged;
use super::layout::Found;
use super::members::{Archive, Place, is_inside};
use super::{ImportError, layout};
use crate::layer::Format;
use crate::oci::{Descriptor, Digest, ImageConfig, Manifest, MediaType, Platform, Reference};
use crate::snapshot::Escaped;
use crate::store::{Image, Store};

/// An image that was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// Its ID.
    pub id: Digest,
    /// The names that the archive gives it.
    pub names: Vec<Reference>,
}

/// Loads all images of an archive, plain or compressed.
///
/// # Errors
/// [`ImportError`]; the store is then as it was.
pub fn load(store: &Store, input: File) -> Result<Vec<Loaded>, ImportError> {
    let mut archive = Archive::open(store, input)?;
    let docker = docker_manifest(&archive)?;
    let found = match archive.document("index.json")? {
        Some(index) => with_docker_names(layout::images(&archive, &index)?, docker.as_deref())?,
        None => docker_images(&mut archive, docker.ok_or(ImportError::NoIndex)?)?,
    };
    let mut images = Vec::new();
    let mut staged = Staged::default();
    for Found { manifest, names } in found {
        let (config, bytes) = layout::check(&archive, &manifest)?;
        staged.add_layers(store, &archive, &manifest, &config.rootfs.diff_ids)?;
        staged.blobs.push(store.stage_bytes(&bytes)?);
        staged.blobs.push(store.stage_bytes(manifest.bytes())?);
        images.push((Image { manifest, config }, names));
    }
    // What it was put into is not to be flushed.
    drop(archive);
    store.publish(staged.blobs, staged.layers)?;
    let mut loaded = Vec::new();
    for (image, names) in images {
        if names.is_empty() {
            store.keep_unnamed(&image)?;
        }
        for name in &names {
            store.tag(name, &image)?;
        }
        loaded.push(Loaded { id: image.id(), names });
    }
    Ok(loaded)
}

/// One image of Docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

fn docker_manifest(archive: &Archive) -> Result<Option<Vec<DockerImage>>, ImportError> {
    let name = "manifest.json";
    let Some(bytes) = archive.document(name)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| ImportError::Json { name, source })
}

impl DockerImage {
    fn names(&self) -> Result<Vec<Reference>, ImportError> {
        let tags = self.repo_tags.iter().flatten();
        tags.map(|tag| tag.parse().map_err(ImportError::Name)).collect()
    }
}

/// Adds Docker's names to the images of a layout that are the same.
fn with_docker_names(
    mut found: Vec<Found>,
    docker: Option<&[DockerImage]>,
) -> Result<Vec<Found>, ImportError> {
    for image in docker.unwrap_or_default() {
        let hex = image.config.rsplit('/').next().unwrap_or_default();
        let hex = hex.strip_suffix(".json").unwrap_or(hex);
        let same = |found: &&mut Found| found.manifest.config().digest.hex() == hex;
        if let Some(found) = found.iter_mut().find(same) {
            for name in image.names()? {
                if !found.names.contains(&name) {
                    found.names.push(name);
                }
            }
        }
    }
    Ok(found)
}

/// The images of an archive that has only Docker's `manifest.json`: their manifests are made here.
fn docker_images(
    archive: &mut Archive,
    docker: Vec<DockerImage>,
) -> Result<Vec<Found>, ImportError> {
    if docker.is_empty() {
        return Err(ImportError::NoImage(Platform::host().to_string()));
    }
    let mut found = Vec::new();
    for image in docker {
        let place = member(archive, &image.config)?;
        let bytes = archive.document(&image.config)?.unwrap_or_default();
        let config = Descriptor::of(MediaType::ImageConfig, &bytes);
        archive.name(config.digest, place);
        let diff_ids = ImageConfig::parse(&bytes)?.rootfs.diff_ids;
        let mut layers = Vec::new();
        for (index, name) in image.layers.iter().flatten().enumerate() {
            let place = member(archive, name)?;
            let (media_type, digest) = match (archive.format(place)?, diff_ids.get(index)) {
                (Format::Gzip, _) => (MediaType::ImageLayerGzip, archive.hash(place)?),
                (Format::Zstd, _) => (MediaType::ImageLayerZstd, archive.hash(place)?),
                // Whether it is this one is seen when it is unpacked.
                (_, Some(diff_id)) => (MediaType::ImageLayer, diff_id.0),
                (_, None) => (MediaType::ImageLayer, archive.hash(place)?),
            };
            archive.name(digest, place);
            layers.push(Descriptor::new(media_type, digest, place.size));
        }
        found.push(Found { manifest: Manifest::new(config, layers), names: image.names()? });
    }
    Ok(found)
}

fn member(archive: &Archive, name: &str) -> Result<Place, ImportError> {
    let found = archive.find(name).filter(|_| is_inside(name));
    found.ok_or_else(|| ImportError::Missing(Escaped(name.as_bytes()).to_string()))
}
