//! Archives: an OCI image layout as a tar, with or without Docker's `manifest.json`.

use std::collections::BTreeMap;
use std::io::{self, Seek, Write};

use serde_json::json;

use super::layers;
use super::layout::{self, Layout};
use super::{ExportError, Options, Output, Stoppable};
use crate::layer::HashBeside;
use crate::oci::{Descriptor, Digest, Index, Manifest, Reference};
use crate::store::{Image, Store};

/// What a tar consists of.
const BLOCK_BYTES: usize = 512;

/// Compressed layers of up to this size are kept in memory until their header can be written.
const IN_MEMORY_BYTES: usize = 8 << 20;

/// Writes images, each with its names, as one archive, and gives the descriptors of the manifests in
/// it. Equal images give equal bytes.
///
/// # Errors
/// [`ExportError`]; what was written to `out` by then is not a whole archive.
pub fn save(
    store: &Store,
    images: &[(Vec<Reference>, Image)],
    options: &Options<'_>,
    out: &mut dyn Output,
) -> Result<Vec<Descriptor>, ExportError> {
    let out = Stoppable { out, stop: options.stop };
    let mut archive = Archive { out: tar::Builder::new(out) };
    let mut docker = Vec::new();
    let mut index = Vec::new();
    archive.folder("blobs/")?;
    archive.folder("blobs/sha256/")?;
    let manifests = layout::write_images(store, images, options, &mut archive)?;
    let mut descriptors = Vec::new();
    for ((names, _), manifest) in images.iter().zip(manifests) {
        descriptors.push(manifest.descriptor());
        index.extend(layout::index_entries(&manifest.descriptor(), names, options));
        docker.push((names, manifest));
    }
    archive.file("index.json", &Index::new(index).to_bytes())?;
    if options.docker_files {
        archive.file("manifest.json", &docker_manifest(&docker))?;
    }
    archive.file("oci-layout", layout::VERSION)?;
    if options.docker_files {
        archive.file("repositories", &docker_repositories(&docker))?;
    }
    archive.out.finish().map_err(write_failed)?;
    Ok(descriptors)
}

fn docker_manifest(images: &[(&Vec<Reference>, Manifest)]) -> Vec<u8> {
    let entry = |(names, manifest): &(&Vec<Reference>, Manifest)| {
        let layers = manifest.layers();
        json!({
            "Config": layout::blob_name(manifest.config().digest),
            "RepoTags": names.iter().map(Reference::familiar).collect::<Vec<_>>(),
            "Layers": layers.iter().map(|layer| layout::blob_name(layer.digest)).collect::<Vec<_>>(),
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

struct Archive<'a, 'b> {
    out: tar::Builder<Stoppable<'a, &'b mut dyn Output>>,
}

impl Archive<'_, '_> {
    fn folder(&mut self, name: &str) -> Result<(), ExportError> {
        let mut header = header(0, 0o755);
        header.set_entry_type(tar::EntryType::Directory);
        self.append(header, name, io::empty())
    }

    /// Fills up the last block of a file.
    fn pad(&mut self, size: u64) -> Result<(), ExportError> {
        let padding = size.wrapping_neg() % BLOCK_BYTES as u64;
        let zeros = &[0; BLOCK_BYTES][..usize::try_from(padding).unwrap_or_default()];
        self.out.get_mut().write_all(zeros).map_err(write_failed)
    }

    /// The same as [`Layout::blob`] where one cannot go back: a large one waits on the disk, a small one
    /// in memory.
    fn blob_in_stream(
        &mut self,
        store: &Store,
        is_there: &dyn Fn(Digest) -> bool,
        fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(Digest, u64), ExportError> {
        let folder = store.scratch("");
        let mut hashed = HashBeside::new(tempfile::spooled_tempfile_in(IN_MEMORY_BYTES, folder));
        fill(&mut hashed)?;
        let (mut blob, digest, size) = hashed.into_inner().map_err(write_failed)?;
        if !is_there(digest) {
            blob.rewind().map_err(write_failed)?;
            self.large_file(&layout::blob_name(digest), size, &mut |out| {
                io::copy(&mut blob, out).map(drop).map_err(write_failed)
            })?;
        }
        Ok((digest, size))
    }

    fn append(
        &mut self,
        mut header: tar::Header,
        name: &str,
        bytes: impl io::Read,
    ) -> Result<(), ExportError> {
        self.out.append_data(&mut header, name, bytes).map_err(write_failed)
    }
}

impl Layout for Archive<'_, '_> {
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.append(header(bytes.len() as u64, 0o644), name, bytes)
    }

    fn large_file(
        &mut self,
        name: &str,
        size: u64,
        fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        // Not through `append_data`: the layer writes itself, nobody reads it.
        let out = self.out.get_mut();
        out.write_all(header_of(name, size)?.as_bytes()).map_err(write_failed)?;
        layers::counted(out, size, fill)?;
        self.pad(size)
    }

    fn blob(
        &mut self,
        store: &Store,
        is_there: &dyn Fn(Digest) -> bool,
        fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(Digest, u64), ExportError> {
        let Some(start) = self.out.get_mut().out.file().map(|file| file.position()) else {
            return self.blob_in_stream(store, is_there, fill);
        };
        let out = self.out.get_mut();
        // What the header says is known behind the content.
        out.write_all(&[0; BLOCK_BYTES]).map_err(write_failed)?;
        let mut hashed = HashBeside::new(out);
        fill(&mut hashed)?;
        let (digest, size) = hashed.finish().map_err(write_failed)?;
        self.pad(size)?;
        let header = header_of(&layout::blob_name(digest), size)?;
        if let Some(file) = self.out.get_mut().out.file() {
            let result = if is_there(digest) {
                file.take_back(start)
            } else {
                file.write_over(start, header.as_bytes())
            };
            result.map_err(write_failed)?;
        }
        Ok((digest, size))
    }
}

fn header_of(name: &str, size: u64) -> Result<tar::Header, ExportError> {
    let mut header = header(size, 0o644);
    header.set_path(name).map_err(write_failed)?;
    header.set_cksum();
    Ok(header)
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
