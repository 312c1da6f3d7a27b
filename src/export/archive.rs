//! Archives: an OCI image layout as a tar, with or without Docker's `manifest.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde_json::json;

use super::ExportError;
use super::layers::{self, LayerBytes};
use crate::oci::{Descriptor, Digest, Index, Manifest, Reference};
use crate::store::{Image, Store};

/// Which readers an archive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `docker load`, and everything that reads OCI layouts: what `docker save` writes since
    /// Docker 25. Layers are written as the store has them.
    Docker,
    /// An OCI layout alone. Layers that are plain tars are compressed.
    Oci,
}

/// Writes images, each with its names, as one archive. Equal images give equal bytes.
///
/// # Errors
/// [`ExportError`]; what was written to `out` by then is not a whole archive.
pub fn save(
    store: &Store,
    images: &[(Vec<Reference>, Image)],
    format: Format,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let mut archive = Archive { out: tar::Builder::new(out), written: BTreeSet::new() };
    let mut index = Vec::new();
    let mut docker = Vec::new();
    archive.folder("blobs/")?;
    archive.folder("blobs/sha256/")?;
    for (names, image) in images {
        let layers = layers::of(store, image, format == Format::Oci)?;
        let descriptors: Vec<_> = layers.iter().map(|layer| layer.descriptor.clone()).collect();
        for layer in &layers {
            archive.layer(store, layer)?;
        }
        archive.blob(image.id(), &store.read_document(image.manifest.config())?)?;
        let manifest = if descriptors == image.manifest.layers() {
            image.manifest.clone()
        } else {
            Manifest::new(image.manifest.config().clone(), descriptors)
        };
        archive.blob(manifest.descriptor().digest, manifest.bytes())?;
        index.extend(index_entries(&manifest.descriptor(), names));
        docker.push((names, manifest));
    }
    archive.file("index.json", &Index::new(index).to_bytes())?;
    if format == Format::Docker {
        archive.file("manifest.json", &docker_manifest(&docker))?;
    }
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    if format == Format::Docker {
        archive.file("repositories", &docker_repositories(&docker))?;
    }
    archive.out.finish().map_err(write_failed)
}

/// One entry of `index.json` for each name, or one without a name.
fn index_entries(manifest: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![manifest.clone()];
    }
    let named = |name: &Reference| {
        let mut entry = manifest.clone();
        entry.annotations.insert("io.containerd.image.name".into(), name.to_string());
        let tag = name.tag().unwrap_or_default().to_owned();
        entry.annotations.insert("org.opencontainers.image.ref.name".into(), tag);
        entry
    };
    names.iter().map(named).collect()
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn docker_manifest(images: &[(&Vec<Reference>, Manifest)]) -> Vec<u8> {
    let entry = |(names, manifest): &(&Vec<Reference>, Manifest)| {
        let layers = manifest.layers();
        json!({
            "Config": blob_name(manifest.config().digest),
            "RepoTags": names.iter().map(Reference::familiar).collect::<Vec<_>>(),
            "Layers": layers.iter().map(|layer| blob_name(layer.digest)).collect::<Vec<_>>(),
            "LayerSources": layers
                .iter()
                .map(|layer| (layer.digest.to_string(), json!(layer)))
                .collect::<BTreeMap<_, _>>(),
        })
    };
    json!(images.iter().map(entry).collect::<Vec<_>>()).to_string().into_bytes()
}

/// The file that Docker read before it had `manifest.json`; some tools still do.
fn docker_repositories(images: &[(&Vec<Reference>, Manifest)]) -> Vec<u8> {
    let mut repositories: BTreeMap<String, BTreeMap<&str, String>> = BTreeMap::new();
    for (names, manifest) in images {
        let Some(top) = manifest.layers().last() else { continue };
        for name in *names {
            let tags = repositories.entry(name.familiar_repository()).or_default();
            tags.insert(name.tag().unwrap_or_default(), top.digest.hex());
        }
    }
    json!(repositories).to_string().into_bytes()
}

struct Archive<'a> {
    out: tar::Builder<&'a mut dyn Write>,
    /// Blobs that images share are written once.
    written: BTreeSet<Digest>,
}

impl Archive<'_> {
    fn folder(&mut self, name: &str) -> Result<(), ExportError> {
        let mut header = header(0, 0o755);
        header.set_entry_type(tar::EntryType::Directory);
        self.append(header, name, io::empty())
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.append(header(bytes.len() as u64, 0o644), name, bytes)
    }

    fn blob(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), ExportError> {
        if self.written.insert(digest) { self.file(&blob_name(digest), bytes) } else { Ok(()) }
    }

    fn append(
        &mut self,
        mut header: tar::Header,
        name: &str,
        bytes: impl io::Read,
    ) -> Result<(), ExportError> {
        self.out.append_data(&mut header, name, bytes).map_err(write_failed)
    }

    fn layer(&mut self, store: &Store, layer: &LayerBytes) -> Result<(), ExportError> {
        if !self.written.insert(layer.descriptor.digest) {
            return Ok(());
        }
        let size = layer.descriptor.size;
        let mut header = header(size, 0o644);
        header.set_path(blob_name(layer.descriptor.digest)).map_err(write_failed)?;
        header.set_cksum();
        // Not through `append_data`: the layer writes itself, nobody reads it.
        let out = self.out.get_mut();
        out.write_all(header.as_bytes()).map_err(write_failed)?;
        let mut counted = Counted { out, count: 0 };
        layer.write(store, &mut counted)?;
        if counted.count != size {
            return Err(ExportError::Changed);
        }
        let padding = size.next_multiple_of(512) - size;
        let zeros = [0; 512];
        let zeros = &zeros[..usize::try_from(padding).unwrap_or_default()];
        self.out.get_mut().write_all(zeros).map_err(write_failed)
    }
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    count: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn write_failed(source: io::Error) -> ExportError {
    ExportError::Write { path: "the archive".into(), source }
}
