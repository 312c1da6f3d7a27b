//! `mica load`: images out of an archive of `docker save`, or of an OCI layout.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
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
    store.tag_all(&images)?;
    Ok(images.into_iter().map(|(image, names)| Loaded { id: image.id(), names }).collect())
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
    let by_config = |(at, found): (usize, &Found)| (found.manifest.config().digest.hex(), at);
    let known: HashMap<String, usize> = found.iter().enumerate().rev().map(by_config).collect();
    for image in docker.unwrap_or_default() {
        let hex = image.config.rsplit('/').next().unwrap_or_default();
        if let Some(at) = known.get(hex.strip_suffix(".json").unwrap_or(hex)) {
            found[*at].names.extend(image.names()?);
        }
    }
    for found in &mut found {
        let mut seen = HashSet::new();
        found.names.retain(|name| seen.insert(name.clone()));
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
    let mut found: Vec<Found> = Vec::new();
    let mut by_config = HashMap::new();
    for image in docker {
        let place = member(archive, &image.config)?;
        // The config says what the layers are.
        let at = match by_config.entry(place) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                found.push(docker_image(archive, place, &image)?);
                *new.insert(found.len() - 1)
            }
        };
        found[at].names.extend(image.names()?);
    }
    Ok(found)
}

fn docker_image(
    archive: &mut Archive,
    config: Place,
    image: &DockerImage,
) -> Result<Found, ImportError> {
    let bytes = archive.document(&image.config)?.unwrap_or_default();
    let descriptor = Descriptor::of(MediaType::ImageConfig, &bytes);
    archive.name(descriptor.digest, config);
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
    Ok(Found { manifest: Manifest::new(descriptor, layers), names: Vec::new() })
}

fn member(archive: &Archive, name: &str) -> Result<Place, ImportError> {
    let found = archive.find(name).filter(|_| is_inside(name));
    found.ok_or_else(|| ImportError::Missing(Escaped(name.as_bytes()).to_string()))
}
