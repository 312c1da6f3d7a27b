//! Images: a manifest, a config, and the names that stand for them.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::oci::{
    ChainId, Descriptor, Digest, ImageConfig, MAX_DOCUMENT_BYTES, Manifest, MediaType, Reference,
    validate,
};
use crate::snapshot::read_regular;

/// An image of the store, all its documents read and verified.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest. Its digest is the image's digest.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
}

impl Image {
    /// The digest of the config: Docker's image ID.
    pub fn id(&self) -> Digest {
        self.manifest.config().digest
    }

    /// The chain of all its layers; `None` for an image without layers.
    pub fn chain(&self) -> Option<ChainId> {
        ChainId::of(&self.config.rootfs.diff_ids)
    }
}

/// A name and the image that it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The canonical name, with domain and tag.
    pub name: String,
    /// Points to the manifest.
    pub manifest: Descriptor,
    /// The image ID, kept here so that a list needs no manifests.
    pub id: Digest,
    /// The digest of the index that the name stands for in its registry, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
}

impl Store {
    /// Reads an image.
    ///
    /// # Errors
    /// [`StoreError::Invalid`], and as [`Store::read_document`].
    pub fn image(&self, manifest: &Descriptor) -> Result<Image, StoreError> {
        let bytes = self.read_document(manifest)?;
        let manifest = Manifest::parse(bytes, &manifest.media_type)?;
        let config = ImageConfig::parse(&self.read_document(manifest.config())?)?;
        let image = Image { manifest, config };
        match validate(&image.manifest, &image.config) {
            found if found.is_empty() => Ok(image),
            found => Err(StoreError::Invalid(found)),
        }
    }

    /// Finds an image by name (`app:1`, `app@sha256:…`) or by its ID or the beginning of that.
    ///
    /// # Errors
    /// [`StoreError::NoImage`], [`StoreError::AmbiguousId`]; as [`Store::names`].
    pub fn find(&self, text: &str) -> Result<Named, StoreError> {
        if let Ok(reference) = text.parse::<Reference>()
            && let Some(named) = self.resolve(&reference)?
        {
            return Ok(named);
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let mut found: Option<Named> = None;
        if hex.len() >= 4 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            for named in self.names()? {
                if !named.id.hex().starts_with(hex) {
                    continue;
                }
                match &found {
                    Some(first) if first.id != named.id => {
                        return Err(StoreError::AmbiguousId(text.to_owned()));
                    }
                    Some(_) => {}
                    None => found = Some(named),
                }
            }
        }
        found.ok_or_else(|| {
            StoreError::NoImage(text.chars().take(200).flat_map(char::escape_debug).collect())
        })
    }

    /// The image that a name stands for.
    ///
    /// # Errors
    /// As [`Store::names`].
    pub fn resolve(&self, reference: &Reference) -> Result<Option<Named>, StoreError> {
        let path = self.ref_path(&reference.to_string());
        match read_regular(&path) {
            Ok(bytes) => return parse_named(path, &bytes).map(Some),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(StoreError::io("read", &path)(err)),
        }
        let Some(digest) = reference.digest() else { return Ok(None) };
        let repository = format!("{}/{}", reference.domain(), reference.path());
        let matches = |named: &Named| {
            named.has_digest(digest)
                && named.name.strip_prefix(&repository).is_some_and(|rest| rest.starts_with(':'))
        };
        Ok(self.names()?.into_iter().find(matches))
    }

    /// All names, sorted.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`].
    pub fn names(&self) -> Result<Vec<Named>, StoreError> {
        let dir = self.path().join("refs");
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).map_err(StoreError::io("read", &dir))? {
            let path = entry.map_err(StoreError::io("read", &dir))?.path();
            match read_regular(&path) {
                Ok(bytes) => names.push(parse_named(path, &bytes)?),
                // Removed since the folder was read.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(StoreError::io("read", &path)(err)),
            }
        }
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    /// Lets a name stand for an image, in place of what it stood for before.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn tag(&self, reference: &Reference, image: &Image) -> Result<(), StoreError> {
        self.write_ref(reference.to_string(), image, None)
    }

    /// The same for an image that was found in a registry: `digest` is what the name stands for there.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn tag_found(
        &self,
        reference: &Reference,
        image: &Image,
        digest: Digest,
    ) -> Result<(), StoreError> {
        let index = (digest != image.manifest.descriptor().digest).then_some(digest);
        self.write_ref(reference.to_string(), image, index)
    }

    /// Keeps an image that has no name. It is found by its ID.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn keep_unnamed(&self, image: &Image) -> Result<(), StoreError> {
        self.write_ref(unnamed(image), image, None)
    }

    /// Gives many names at the price of one. An image without names is kept without.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn tag_all(&self, images: &[(Image, Vec<Reference>)]) -> Result<(), StoreError> {
        let mut records = Vec::new();
        for (image, names) in images {
            if names.is_empty() {
                records.extend(self.new_ref(unnamed(image), image, None));
            }
            for name in names {
                records.extend(self.new_ref(name.to_string(), image, None));
            }
        }
        self.replace_all(records)
    }

    fn write_ref(
        &self,
        name: String,
        image: &Image,
        index: Option<Digest>,
    ) -> Result<(), StoreError> {
        self.replace_all(self.new_ref(name, image, index).into_iter().collect())
    }

    /// The file that lets a name stand for an image; `None` where it does.
    fn new_ref(
        &self,
        name: String,
        image: &Image,
        index: Option<Digest>,
    ) -> Option<(PathBuf, Vec<u8>)> {
        let path = self.ref_path(&name);
        let named = Named { name, manifest: image.manifest.descriptor(), id: image.id(), index };
        let bytes = serde_json::to_vec(&named).expect("a name of plain strings serializes");
        let is_there = read_regular(&path).is_ok_and(|old| old == bytes);
        (!is_there).then_some((path, bytes))
    }

    /// Takes a name away; false where there was none.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn untag(&self, name: &str) -> Result<bool, StoreError> {
        let path = self.ref_path(name);
        match fs::remove_file(&path) {
            Ok(()) => super::publish::sync_dir(&self.path().join("refs")).map(|()| true),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(err) => Err(StoreError::io("remove", &path)(err)),
        }
    }

    /// Stages the documents of an image that was made here.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for one that nobody would read, [`StoreError::Io`].
    pub fn stage_image(
        &self,
        config: ImageConfig,
        layers: Vec<Descriptor>,
    ) -> Result<(Image, Vec<super::StagedBlob>), StoreError> {
        let config_bytes = config.to_bytes();
        let descriptor = Descriptor::of(MediaType::ImageConfig, &config_bytes);
        let manifest = Manifest::new(descriptor, layers);
        let image = Image { manifest, config };
        for (what, bytes) in [("config", &config_bytes[..]), ("manifest", image.manifest.bytes())] {
            let (what, size) = (format!("the image's {what}"), bytes.len() as u64);
            if size > MAX_DOCUMENT_BYTES {
                return Err(StoreError::TooLarge { what, size });
            }
        }
        let blobs =
            if self.has_blob(image.manifest.descriptor().digest) && self.has_blob(image.id()) {
                Vec::new()
            } else {
                vec![self.stage_bytes(&config_bytes)?, self.stage_bytes(image.manifest.bytes())?]
            };
        Ok((image, blobs))
    }

    /// Adds another manifest of an image: one that says the same of the same layers.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn with_manifest(&self, image: &Image, manifest: Manifest) -> Result<Image, StoreError> {
        if !self.has_blob(manifest.descriptor().digest) {
            self.publish(vec![self.stage_bytes(manifest.bytes())?], Vec::new())?;
        }
        Ok(Image { manifest, config: image.config.clone() })
    }

    /// Names can be longer than file names and hold slashes: the file is named by their hash.
    fn ref_path(&self, name: &str) -> PathBuf {
        self.path().join("refs").join(Digest::of(name.as_bytes()).hex())
    }
}

/// What begins the name of an image that has none. No reference can look so.
const UNNAMED: &str = "<none>@";

fn unnamed(image: &Image) -> String {
    format!("{UNNAMED}{}", image.id())
}

impl Named {
    /// Whether this is the digest of what the name stands for, here or in its registry.
    pub fn has_digest(&self, digest: Digest) -> bool {
        self.manifest.digest == digest || self.index == Some(digest)
    }

    /// The name, unless the image has none.
    pub fn reference(&self) -> Option<Reference> {
        self.name.parse().ok()
    }
}

pub(super) fn parse_named(path: PathBuf, bytes: &[u8]) -> Result<Named, StoreError> {
    serde_json::from_slice(bytes)
        .map_err(|err| StoreError::Damaged { path, reason: err.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Platform;

    #[test]
    fn an_image_that_nobody_would_read_is_not_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let mut config = ImageConfig::scratch(&Platform::host());
        assert!(store.stage_image(config.clone(), Vec::new()).is_ok());
        config.author = Some("a".repeat(4 << 20));
        let staged = store.stage_image(config, Vec::new());
        assert!(matches!(staged, Err(StoreError::TooLarge { .. })));
    }
}
