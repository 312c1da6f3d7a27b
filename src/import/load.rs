//! `mica load`: images out of an archive of `docker save`, or of an OCI layout.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;

use serde::Deserialize;

use super::layout::Found;
use super::members::{Archive, is_inside};
use super::{ImportError, layout};
use crate::layer::Format;
use crate::oci::{ChainId, Descriptor, DiffId, Digest, Manifest, MediaType, Reference};
use crate::snapshot::Escaped;
use crate::store::{Image, LayerRecord, SealedLayer, StagedBlob, Store};

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
pub fn load(store: &Store, input: impl Read + Send) -> Result<Vec<Loaded>, ImportError> {
    let archive = Archive::read(store, input)?;
    let docker = docker_manifest(&archive)?;
    let mut made = Vec::new();
    let found = match archive.document("index.json")? {
        Some(index) => with_docker_names(layout::images(&archive, &index)?, docker.as_deref())?,
        None => docker_images(store, &archive, docker.ok_or(ImportError::NoIndex)?, &mut made)?,
    };
    let mut images = Vec::new();
    let mut needed = HashSet::new();
    let mut layers = Vec::new();
    for Found { manifest, names } in found {
        let config = layout::check(&archive, &manifest)?;
        unpack(store, &archive, &manifest, &config.rootfs.diff_ids, &mut layers)?;
        needed.insert(manifest.descriptor().digest);
        needed.insert(manifest.config().digest);
        needed.extend(manifest.layers().iter().map(|layer| layer.digest));
        images.push((Image { manifest, config }, names));
    }
    let blobs = archive.into_blobs().chain(made);
    store.publish(blobs.filter(|blob| needed.contains(&blob.digest)).collect(), layers)?;
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

/// Unpacks the layers that the store has no directories for, so that a build can start at once.
fn unpack(
    store: &Store,
    archive: &Archive,
    manifest: &Manifest,
    diff_ids: &[DiffId],
    layers: &mut Vec<SealedLayer>,
) -> Result<(), ImportError> {
    let mut parent = None;
    let mut below = Vec::new();
    for (descriptor, diff_id) in manifest.layers().iter().zip(diff_ids) {
        let chain = ChainId::extend(parent, *diff_id);
        let staged = layers.iter().find(|layer| layer.record().chain() == chain);
        let known = store.layer(chain)?;
        let dir = match (staged, known) {
            (Some(staged), _) => store.layer_dir(staged.record())?,
            (None, Some(known)) if !known.is_away() => store.layer_dir(&known)?,
            (None, known) => {
                let unknown = || LayerRecord::of_image(parent, *diff_id, descriptor.clone());
                let blob = archive.blob(descriptor)?;
                let blob = File::open(blob.path()).map_err(ImportError::Read)?;
                let sealed = store.stage_unpacked(blob, known.unwrap_or_else(unknown), &below)?;
                let dir = store.layer_dir(sealed.record())?;
                layers.push(sealed);
                dir
            }
        };
        below.insert(0, dir);
        parent = Some(chain);
    }
    Ok(())
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
    store: &Store,
    archive: &Archive,
    docker: Vec<DockerImage>,
    made: &mut Vec<StagedBlob>,
) -> Result<Vec<Found>, ImportError> {
    let mut found = Vec::new();
    for image in docker {
        let config = member(archive, &image.config)?;
        let config = Descriptor::new(MediaType::ImageConfig, config.digest, config.size);
        let mut layers = Vec::new();
        for name in image.layers.iter().flatten() {
            let blob = member(archive, name)?;
            let media_type = match Format::sniff(&Archive::start(blob)?) {
                Format::Gzip => MediaType::ImageLayerGzip,
                Format::Zstd => MediaType::ImageLayerZstd,
                _ => MediaType::ImageLayer,
            };
            layers.push(Descriptor::new(media_type, blob.digest, blob.size));
        }
        let manifest = Manifest::new(config, layers);
        made.push(store.stage_bytes(manifest.bytes())?);
        found.push(Found { manifest, names: image.names()? });
    }
    Ok(found)
}

fn member<'a>(archive: &'a Archive, name: &str) -> Result<&'a StagedBlob, ImportError> {
    let found = archive.find(name).filter(|_| is_inside(name));
    found.ok_or_else(|| ImportError::Missing(Escaped(name.as_bytes()).to_string()))
}
