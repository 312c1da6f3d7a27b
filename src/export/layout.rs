//! An OCI image layout: blobs, and an index that leads to them. It is written into an archive or into a
//! folder.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::layers::{self, LayerBytes};
use super::output::write_named;
use super::{ExportError, Options, Stop, Stoppable, write_file};
use crate::layer::HashBeside;
use crate::oci::{Descriptor, DiffId, Digest, MAX_DOCUMENT_BYTES, Manifest, Reference};
use crate::store::{Image, Store};

/// The content of `oci-layout`.
pub(super) const VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// What annotates a whole name, and what its tag.
const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where the files of a layout go.
pub(super) trait Layout {
    /// Writes a small file.
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError>;

    /// Writes a file of so many bytes, which `fill` gives.
    fn large_file(
        &mut self,
        name: &str,
        size: u64,
        fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(), ExportError>;

    /// Writes a blob that `fill` gives, unless it turns out that it is there, and says what it is.
    fn blob(
        &mut self,
        store: &Store,
        is_there: &dyn Fn(Digest) -> bool,
        fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(Digest, u64), ExportError>;
}

/// Writes the blobs of images, those that they share once, and gives their manifests.
pub(super) fn write_images(
    store: &Store,
    images: &[(Vec<Reference>, Image)],
    options: &Options<'_>,
    layout: &mut dyn Layout,
) -> Result<Vec<Manifest>, ExportError> {
    let mut written: BTreeSet<Digest> = BTreeSet::new();
    let mut compressed: HashMap<DiffId, Descriptor> = HashMap::new();
    let mut manifests = Vec::new();
    for (_, image) in images {
        let mut descriptors = Vec::new();
        for layer in layers::plan(store, image, options)? {
            let mut descriptor = layer.descriptor.clone();
            if layer.changes {
                descriptor = match compressed.get(&layer.diff_id) {
                    Some(known) => known.clone(),
                    None => {
                        let is_there = |digest| written.contains(&digest);
                        compress(store, &layer, options, layout, &is_there)?
                    }
                };
                compressed.insert(layer.diff_id, descriptor.clone());
                written.insert(descriptor.digest);
            } else if written.insert(descriptor.digest) {
                let name = blob_name(descriptor.digest);
                layout.large_file(&name, descriptor.size, &mut |out| layer.write(store, out))?;
            }
            descriptors.push(descriptor);
        }
        let manifest = image.manifest.with(descriptors, options.words, &options.annotations);
        let config = store.read_document(image.manifest.config())?;
        for (digest, bytes) in
            [(image.id(), config.as_slice()), (manifest.descriptor().digest, manifest.bytes())]
        {
            if written.insert(digest) {
                layout.file(&blob_name(digest), bytes)?;
            }
        }
        manifests.push(manifest);
    }
    Ok(manifests)
}

/// Writes a layer in the compression that it gets, and gives its descriptor.
fn compress(
    store: &Store,
    layer: &LayerBytes,
    options: &Options<'_>,
    layout: &mut dyn Layout,
    is_there: &dyn Fn(Digest) -> bool,
) -> Result<Descriptor, ExportError> {
    let mut fill = |out: &mut dyn Write| layer.write_changed(store, options, out);
    let (digest, size) = layout.blob(store, is_there, &mut fill)?;
    Ok(Descriptor::new(layers::media_type_of(options.compression), digest, size))
}

/// One entry of `index.json` for each name, or one without a name.
pub(super) fn index_entries(
    manifest: &Descriptor,
    names: &[Reference],
    options: &Options<'_>,
) -> Vec<Descriptor> {
    let mut unnamed = manifest.clone();
    unnamed.annotations.extend(options.descriptor_annotations.clone());
    if names.is_empty() {
        return vec![unnamed];
    }
    let named = |name: &Reference| {
        let mut entry = unnamed.clone();
        entry.annotations.insert(NAME.into(), name.to_string());
        let tag = name.tag().unwrap_or_default().to_owned();
        entry.annotations.insert(REF_NAME.into(), tag);
        entry
    };
    names.iter().map(named).collect()
}

pub(super) fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Writes an image into a folder that is an OCI image layout or becomes one, and gives the descriptor
/// of its manifest. What the folder holds stays, but for the names that the image has now. An image
/// without a name is `latest`, for whoever asks the layout for its image.
///
/// # Errors
/// [`ExportError`]. The index comes last, so that a layout that was whole before still is.
pub fn save_folder(
    store: &Store,
    names: &[Reference],
    image: &Image,
    options: &Options<'_>,
    folder: &Path,
) -> Result<Descriptor, ExportError> {
    let mut layout = LayoutFolder::new(folder, options.stop);
    layout.create()?;
    let images = [(names.to_vec(), image.clone())];
    let manifests = write_images(store, &images, options, &mut layout)?;
    let descriptor = manifests[0].descriptor();
    let mut entries = index_entries(&descriptor, names, options);
    if names.is_empty() {
        entries[0].annotations.insert(REF_NAME.into(), "latest".into());
    }
    let _lock = layout.lock()?;
    layout.add_to_index(&entries)?;
    Ok(descriptor)
}

/// A folder that is a layout, or becomes one.
pub(crate) struct LayoutFolder<'a> {
    path: &'a Path,
    stop: Stop<'a>,
}

impl<'a> LayoutFolder<'a> {
    pub(crate) fn new(path: &'a Path, stop: Stop<'a>) -> Self {
        Self { path, stop }
    }

    /// Makes the folders that are missing.
    pub(crate) fn create(&self) -> Result<(), ExportError> {
        let path = self.path.join("blobs/sha256");
        fs::create_dir_all(&path).map_err(|source| ExportError::Write { path, source })
    }

    /// While it is held, whoever else changes the index waits.
    pub(crate) fn lock(&self) -> Result<File, ExportError> {
        let failed = |source| ExportError::Write { path: self.path.to_owned(), source };
        let lock = File::open(self.path).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(lock)
    }

    pub(crate) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.path.join(blob_name(digest))
    }

    /// Writes a layer where it is missing, and gives its descriptor.
    pub(crate) fn layer(
        &mut self,
        store: &Store,
        layer: &LayerBytes,
        options: &Options<'_>,
    ) -> Result<Descriptor, ExportError> {
        if layer.changes {
            return compress(store, layer, options, self, &|_| false);
        }
        let descriptor = layer.descriptor.clone();
        if !self.has_blob(descriptor.digest, descriptor.size) {
            let name = blob_name(descriptor.digest);
            self.large_file(&name, descriptor.size, &mut |out| layer.write(store, out))?;
        }
        Ok(descriptor)
    }

    fn has_blob(&self, digest: Digest, size: u64) -> bool {
        fs::metadata(self.blob_path(digest)).is_ok_and(|file| file.len() == size)
    }

    /// Writes a manifest and its config, and lets a tag stand for it. The caller holds the lock.
    pub(crate) fn document(
        &mut self,
        manifest: &Manifest,
        config: &[u8],
        tag: &str,
    ) -> Result<(), ExportError> {
        self.file(&blob_name(manifest.config().digest), config)?;
        let mut entry = manifest.descriptor();
        self.file(&blob_name(entry.digest), manifest.bytes())?;
        entry.annotations.insert(REF_NAME.into(), tag.into());
        self.add_to_index(&[entry])
    }

    /// Removes blobs that nothing leads to any more.
    pub(crate) fn forget(&self, blobs: &[Digest]) {
        for digest in blobs {
            // What stays takes a little room.
            drop(fs::remove_file(self.blob_path(*digest)));
        }
    }

    /// Adds entries to `index.json`, in place of those of the same names. What others wrote there is
    /// kept as they wrote it.
    fn add_to_index(&mut self, entries: &[Descriptor]) -> Result<(), ExportError> {
        let path = self.path.join("index.json");
        let mut index = read_index(&path)?;
        let invalid = || ExportError::NoLayout { path: self.path.to_owned() };
        let manifests = index.get_mut("manifests").and_then(Value::as_array_mut);
        let manifests = manifests.ok_or_else(invalid)?;
        for entry in entries {
            let name_of = |key: &str| entry.annotations.get(key).map(String::as_str);
            manifests.retain(|known| {
                [NAME, REF_NAME]
                    .iter()
                    .any(|key| known["annotations"][key].as_str() != name_of(key))
            });
            manifests.push(json!(entry));
        }
        self.file("oci-layout", VERSION)?;
        let bytes = index.to_string();
        self.file("index.json", bytes.as_bytes())
    }
}

impl Layout for LayoutFolder<'_> {
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        let path = self.path.join(name);
        let failed = |source| ExportError::Write { path: path.clone(), source };
        write_file(&path, |out| out.write_all(bytes).map_err(failed))
    }

    fn large_file(
        &mut self,
        name: &str,
        size: u64,
        fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let path = self.path.join(name);
        write_file(&path, |out| {
            let mut out = Stoppable { out, stop: self.stop };
            layers::counted(&mut out, size, fill)
        })
    }

    fn blob(
        &mut self,
        _: &Store,
        is_there: &dyn Fn(Digest) -> bool,
        fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(Digest, u64), ExportError> {
        let beside = self.path.join("blobs/sha256/new");
        let failed = |source| ExportError::Write { path: self.path.to_owned(), source };
        let mut written = None;
        write_named(&beside, |out| {
            let mut hashed = HashBeside::new(Stoppable { out, stop: self.stop });
            fill(&mut hashed)?;
            let (digest, size) = hashed.finish().map_err(failed)?;
            written = Some((digest, size));
            let is_new = !is_there(digest) && !self.has_blob(digest, size);
            Ok(is_new.then(|| self.blob_path(digest)))
        })?;
        written.ok_or(ExportError::Changed)
    }
}

/// The index of a layout, or that of a new one.
fn read_index(path: &Path) -> Result<Value, ExportError> {
    let failed = |source| ExportError::Write { path: path.to_owned(), source };
    let folder = || path.parent().map(PathBuf::from).unwrap_or_default();
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => {
            let limit = MAX_DOCUMENT_BYTES + 1;
            io::Read::read_to_end(&mut io::Read::take(file, limit), &mut bytes).map_err(failed)?;
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            let media_type = "application/vnd.oci.image.index.v1+json";
            return Ok(json!({"schemaVersion": 2, "mediaType": media_type, "manifests": []}));
        }
        Err(err) => return Err(failed(err)),
    }
    let parsed = (bytes.len() as u64 <= MAX_DOCUMENT_BYTES)
        .then(|| serde_json::from_slice(&bytes).ok())
        .flatten();
    parsed.ok_or_else(|| ExportError::NoLayout { path: folder() })
}
