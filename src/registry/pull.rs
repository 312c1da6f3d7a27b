//! From an image's name to its manifest and config. Its layers come when somebody reads them.

use std::io::Read;

use super::client::{Registries, Repository};
use super::documents::Document;
use super::error::RegistryError;
use crate::oci::{
    Descriptor, Digest, DocumentError, ImageConfig, Index, Manifest, Platform, Reference, validate,
};
use crate::store::{BlobSource, Image, Origin, Store, StoreError, WantedBlob};

/// Indexes may hold indexes, but not for ever.
const MAX_NESTING: usize = 4;

/// An image that a registry has.
#[derive(Debug, Clone)]
pub struct Found {
    /// What the name stands for: the digest of an index, or of the manifest itself.
    pub digest: Digest,
    /// The image.
    pub image: Image,
    config: Vec<u8>,
}

impl Registries {
    /// Asks the registry for the image that a name stands for, and reads its manifest and config.
    /// What the store has of them is not asked for again.
    ///
    /// # Errors
    /// [`RegistryError`]; [`RegistryError::NoPlatform`] where there is none for `platform`.
    pub fn find(
        &self,
        store: &Store,
        name: &Reference,
        platform: &Platform,
    ) -> Result<Found, RegistryError> {
        let repository = self.repository(name);
        let asked = match (name.digest(), name.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let mut document = repository.document(&asked)?;
        let digest = document.descriptor.digest;
        let familiar = name.familiar();
        for _ in 0..=MAX_NESTING {
            let what = || format!("`{repository}@{}`", document.descriptor.digest);
            let failed = |source| RegistryError::Document { what: what(), source };
            let media_type = &document.descriptor.media_type;
            if !document.descriptor.is_index() {
                let manifest = Manifest::parse(document.bytes, media_type).map_err(failed)?;
                return read_image(store, &repository, &familiar, digest, manifest);
            }
            let index = Index::parse(&document.bytes, media_type).map_err(failed)?;
            let chosen = choose(&index, &familiar, platform)?;
            document = document_of(store, &repository, chosen)?;
        }
        let reason = format!("its indexes are nested more than {MAX_NESTING} times");
        Err(RegistryError::Wrong { what: format!("`{familiar}`"), reason })
    }

    /// Puts what was found into the store under its name, and notes where its layers can be had.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep(&self, store: &Store, name: &Reference, found: &Found) -> Result<(), StoreError> {
        self.keep_documents(store, name, found)?;
        store.tag_found(name, &found.image, found.digest)
    }

    /// The same, but for the name: it is given once all layers are there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep_documents(
        &self,
        store: &Store,
        name: &Reference,
        found: &Found,
    ) -> Result<(), StoreError> {
        let manifest = &found.image.manifest;
        let origin = Origin::new(&self.repository(name).to_string());
        store.note_origin(manifest.layers(), &origin)?;
        let blobs = [manifest.bytes(), &found.config].map(|bytes| store.stage_bytes(bytes));
        store.publish(blobs.into_iter().collect::<Result<_, _>>()?, Vec::new())
    }
}

/// The manifest or index that another index points to; out of the store where it has it.
fn document_of(
    store: &Store,
    repository: &Repository<'_>,
    descriptor: &Descriptor,
) -> Result<Document, RegistryError> {
    if store.has_blob(descriptor.digest)
        && let Ok(bytes) = store.read_document(descriptor)
    {
        return Ok(Document { descriptor: descriptor.clone(), bytes });
    }
    let document = repository.document(&descriptor.digest.to_string())?;
    if document.descriptor.media_type != descriptor.media_type {
        let what = format!("`{repository}@{}`", descriptor.digest);
        let reason = "its index says that it is of another type".to_owned();
        return Err(RegistryError::Wrong { what, reason });
    }
    let (expected, size) = (descriptor.size, document.descriptor.size);
    if size != expected {
        let what = format!("`{repository}@{}`", descriptor.digest);
        let reason = format!("it has {size} bytes, its index says {expected}");
        return Err(RegistryError::Wrong { what, reason });
    }
    Ok(document)
}

fn read_image(
    store: &Store,
    repository: &Repository<'_>,
    familiar: &str,
    digest: Digest,
    manifest: Manifest,
) -> Result<Found, RegistryError> {
    let descriptor = manifest.config();
    if !descriptor.is_image_config() {
        let media_type = descriptor.media_type.to_string();
        let media_type = media_type.chars().take(80).flat_map(char::escape_debug).collect();
        return Err(RegistryError::NotAnImage { name: familiar.to_owned(), media_type });
    }
    let bytes = match store.has_blob(descriptor.digest).then(|| store.read_document(descriptor)) {
        Some(Ok(bytes)) => bytes,
        _ => repository.small_blob(descriptor)?,
    };
    let what = || format!("the config of `{familiar}`");
    let failed = |source: DocumentError| RegistryError::Document { what: what(), source };
    let config = ImageConfig::parse(&bytes).map_err(failed)?;
    let found = validate(&manifest, &config);
    if !found.is_empty() {
        return Err(RegistryError::Invalid { name: familiar.to_owned(), found });
    }
    Ok(Found { digest, image: Image { manifest, config }, config: bytes })
}

/// The entry of an index for a platform.
fn choose<'a>(
    index: &'a Index,
    name: &str,
    wanted: &Platform,
) -> Result<&'a Descriptor, RegistryError> {
    let entries = || index.manifests.iter().filter(|entry| entry.is_manifest() || entry.is_index());
    let rank = |entry: &&Descriptor| entry.platform.as_ref().and_then(|found| rank(found, wanted));
    let best = entries().filter(|entry| rank(entry).is_some()).min_by_key(|entry| rank(entry));
    if let Some(best) = best {
        return Ok(best);
    }
    // An index of one image need not say what that is for.
    let mut unknown = entries().filter(|entry| entry.platform.is_none());
    if let (Some(only), None) = (unknown.next(), unknown.next()) {
        return Ok(only);
    }
    let mut available: Vec<Platform> = Vec::new();
    for platform in entries().filter_map(|entry| entry.platform.clone()) {
        // Attestations say that they are for `unknown/unknown`.
        if platform.os != "unknown" && !available.contains(&platform) {
            available.push(platform);
        }
    }
    let (name, wanted) = (name.to_owned(), wanted.clone());
    Err(RegistryError::NoPlatform { name, wanted, available })
}

/// How well an image for one platform serves another, 0 best; `None` where it does not. As in
/// containerd, an older variant serves a newer one.
fn rank(found: &Platform, wanted: &Platform) -> Option<u32> {
    let architecture = |platform: &Platform| Platform::parse(&platform.to_string());
    let found = architecture(found).unwrap_or_else(|| found.clone());
    if (&found.os, &found.architecture) != (&wanted.os, &wanted.architecture) {
        return None;
    }
    let (found, wanted) = (variant(&found)?, variant(wanted)?);
    wanted.checked_sub(found)
}

/// The number of a variant; where none is given, that which is usual. What is no number is its own
/// kind, and serves nothing else.
fn variant(platform: &Platform) -> Option<u32> {
    match (platform.architecture.as_str(), platform.variant.as_str()) {
        ("arm", "") => Some(7),
        ("arm64", "") => Some(8),
        (_, "") => Some(1),
        (_, variant) => variant.strip_prefix('v')?.parse().ok(),
    }
}

impl BlobSource for Registries {
    fn open<'a>(&'a self, wanted: &WantedBlob) -> std::io::Result<Box<dyn Read + Send + 'a>> {
        let mut last = None;
        let origins = wanted.origins.iter();
        for repository in origins.filter_map(|origin| self.repository_named(origin.as_str())) {
            // A mirror that gave the wrong bytes is not asked twice.
            match repository.blob(&wanted.blob, wanted.from, !wanted.again) {
                Ok(reader) => return Ok(Box::new(reader)),
                Err(err) => last = Some(err),
            }
        }
        let none = || StoreError::NoBlob(wanted.blob.digest).into();
        Err(last.unwrap_or_else(none).into_io())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::MediaType;

    fn index(platforms: &[&str]) -> Index {
        let entries = platforms.iter().map(|text| {
            let mut entry = Descriptor::of(MediaType::ImageManifest, text.as_bytes());
            let parts: Vec<&str> = text.split('/').collect();
            entry.platform = (!text.is_empty()).then(|| Platform {
                os: parts[0].into(),
                architecture: parts[1].into(),
                variant: parts.get(2).copied().unwrap_or_default().into(),
            });
            entry
        });
        Index::new(entries.collect())
    }

    #[test]
    fn platforms() {
        let check = |entries: &[&str], wanted: &str, expected: Option<&str>| {
            let index = index(entries);
            let wanted = Platform::parse(wanted).expect("a platform");
            let chosen = choose(&index, "x", &wanted).ok().map(|entry| entry.digest);
            assert_eq!(chosen, expected.map(|text| Digest::of(text.as_bytes())), "{entries:?}");
        };
        let usual =
            ["linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "unknown/unknown"];
        for (wanted, expected) in [
            ("linux/amd64", Some("linux/amd64")),
            ("linux/arm64", Some("linux/arm64/v8")),
            ("linux/arm", Some("linux/arm/v7")),
            ("linux/arm/v6", Some("linux/arm/v6")),
            ("linux/arm/v5", None),
            ("linux/s390x", None),
            ("windows/amd64", None),
        ] {
            check(&usual, wanted, expected);
        }
        check(&["linux/arm/v6"], "linux/arm/v7", Some("linux/arm/v6"));
        check(&["linux/amd64/v2", "linux/amd64"], "linux/amd64", Some("linux/amd64"));
        check(&["linux/amd64/v3"], "linux/amd64", None);
        check(&["linux/x86_64"], "linux/amd64", Some("linux/x86_64"));
        check(&[""], "linux/amd64", Some(""));
        check(&["", "linux/arm64"], "linux/amd64", Some(""));
        check(&[], "linux/amd64", None);
    }
}
