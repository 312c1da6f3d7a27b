//! One image out of a folder that is an OCI image layout.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::ImportError;
use super::layout::{self, Documents, Search};
use crate::oci::{
    Descriptor, Digest, ImageConfig, Index, MAX_DOCUMENT_BYTES, Manifest, MediaType, Platform,
    validate,
};
use crate::store::{Image, Store, StoreError};

/// Which image of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// The one with this tag; any, where there is only one.
    Tag(String),
    /// The one with this digest.
    Digest(Digest),
}

/// Copies an image of the layout at `path` into the store, every blob verified, without giving it a
/// name there.
///
/// # Errors
/// [`ImportError`]; the store is then as it was.
pub fn layout(
    store: &Store,
    path: &Path,
    pick: &Pick,
    platform: &Platform,
) -> Result<Image, ImportError> {
    let folder = Folder { path };
    let (manifest, config_bytes) = folder.documents(pick, platform)?;
    let config = ImageConfig::parse(&config_bytes)?;
    let wrong = validate(&manifest, &config);
    if !wrong.is_empty() {
        return Err(StoreError::Invalid(wrong).into());
    }
    let mut blobs = vec![store.stage_bytes(&config_bytes)?, store.stage_bytes(manifest.bytes())?];
    for layer in manifest.layers().iter().filter(|layer| !store.has_blob(layer.digest)) {
        blobs.push(store.stage_expected(layer, folder.blob(layer)?)?);
    }
    store.publish(blobs, Vec::new())?;
    Ok(Image { manifest, config })
}

/// A manifest of the layout at `path` and its config, whatever that is.
///
/// # Errors
/// [`ImportError`].
pub fn documents(path: &Path, pick: &Pick) -> Result<(Manifest, Vec<u8>), ImportError> {
    Folder { path }.documents(pick, &Platform::host())
}

struct Folder<'a> {
    path: &'a Path,
}

impl Folder<'_> {
    fn documents(
        &self,
        pick: &Pick,
        platform: &Platform,
    ) -> Result<(Manifest, Vec<u8>), ImportError> {
        layout::check_version(self)?;
        let index = self.document("index.json")?.ok_or(ImportError::NoLayout)?;
        let index = Index::parse(&index, &MediaType::ImageIndex)?;
        let descriptor = self.pick(index, pick)?;
        let mut search = Search::new(self, platform);
        let at = search.manifest(&descriptor)?;
        let at = at.ok_or_else(|| ImportError::NoImage(platform.to_string()))?;
        let manifest = search.found.swap_remove(at);
        let config = self.read(manifest.config())?;
        Ok((manifest, config))
    }

    /// A file of the layout, if it is there; a pipe nobody writes to must not make us wait.
    fn open(&self, name: &str) -> Result<Option<File>, ImportError> {
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        match OpenOptions::new().read(true).custom_flags(flags).open(self.path.join(name)) {
            Ok(file) if file.metadata().map_err(ImportError::Read)?.is_file() => Ok(Some(file)),
            Ok(_) => Err(ImportError::Missing(name.to_owned())),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(ImportError::Read(err)),
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<File, ImportError> {
        let name = format!("blobs/sha256/{}", descriptor.digest.hex());
        self.open(&name)?.ok_or(ImportError::Missing(name))
    }

    fn pick(&self, index: Index, pick: &Pick) -> Result<Descriptor, ImportError> {
        match pick {
            Pick::Tag(tag) => {
                let is_it = |entry: &Descriptor| {
                    entry.annotations.get(layout::REF_NAME).is_some_and(|name| name == tag)
                };
                let only = (index.manifests.len() == 1).then(|| index.manifests[0].clone());
                let found = index.manifests.into_iter().find(is_it).or(only);
                found.ok_or_else(|| ImportError::NoTag(tag.chars().take(200).collect()))
            }
            Pick::Digest(digest) => {
                let is_it = |entry: &Descriptor| entry.digest == *digest;
                match index.manifests.into_iter().find(is_it) {
                    Some(entry) => Ok(entry),
                    None => self.describe(*digest),
                }
            }
        }
    }

    /// A descriptor for a manifest or index that the index does not list.
    fn describe(&self, digest: Digest) -> Result<Descriptor, ImportError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Face {
            media_type: Option<MediaType>,
        }
        let mut descriptor = Descriptor::new(MediaType::ImageManifest, digest, 0);
        descriptor.size = self.blob(&descriptor)?.metadata().map_err(ImportError::Read)?.len();
        let bytes = self.read(&descriptor)?;
        let face: Face = serde_json::from_slice(&bytes)
            .map_err(|source| ImportError::Json { name: "manifest", source })?;
        descriptor.media_type = face.media_type.unwrap_or(MediaType::ImageManifest);
        Ok(descriptor)
    }
}

impl Documents for Folder<'_> {
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImportError> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes).map_err(ImportError::Read)?;
        let size = bytes.len() as u64;
        if size > MAX_DOCUMENT_BYTES {
            return Err(StoreError::TooLarge { what: name.to_owned(), size }.into());
        }
        Ok(Some(bytes))
    }

    fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImportError> {
        if descriptor.size > MAX_DOCUMENT_BYTES {
            let (what, size) = (descriptor.digest.to_string(), descriptor.size);
            return Err(StoreError::TooLarge { what, size }.into());
        }
        let mut bytes = Vec::new();
        let mut blob = crate::store::Verified::new(self.blob(descriptor)?, descriptor);
        blob.read_to_end(&mut bytes).map_err(ImportError::Read)?;
        blob.finish()?;
        Ok(bytes)
    }
}
