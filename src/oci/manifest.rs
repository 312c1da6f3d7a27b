//! [`Manifest`] and [`Index`], each together with the exact bytes that were hashed.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Descriptor, Digest, MediaType, MediaTypes};

/// The most bytes of a manifest, an index or a config: registries allow no more than this either.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Why bytes are not the document that they should be.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The bytes are not JSON of the right shape.
    #[error("{what} is not valid: {source}")]
    Json {
        /// `manifest`, `index` or `image config`.
        what: &'static str,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// One document that can be read as a manifest and as an index (CVE-2021-41190).
    #[error("{what} has both `layers` and `manifests`, so it is ambiguous")]
    Ambiguous {
        /// What it was to be.
        what: &'static str,
    },
    /// The document's own media type is another than its descriptor's.
    #[error("{what} says that it is `{found}`")]
    MediaType {
        /// What it was to be.
        what: &'static str,
        /// The media type in the document.
        found: String,
    },
    /// A schema version other than 2.
    #[error("{what} has schema version {found}, not 2")]
    SchemaVersion {
        /// What it was to be.
        what: &'static str,
        /// The number in the document.
        found: u32,
    },
}

/// An image manifest (image spec, "Image Manifest"), or Docker's "schema 2" one.
#[derive(Debug, Clone)]
pub struct Manifest {
    bytes: Vec<u8>,
    media_type: MediaType,
    body: ManifestBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestBody {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<MediaType>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// An OCI manifest of `config` and `layers`, base first.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        let media_type = MediaType::ImageManifest;
        let body = ManifestBody {
            schema_version: 2,
            media_type: Some(media_type.clone()),
            config,
            layers,
            annotations: BTreeMap::new(),
        };
        let bytes = serde_json::to_vec(&body).expect("a manifest of plain strings serializes");
        Self { bytes, media_type, body }
    }

    /// The manifest of the same image with these `layers` and with `annotations` beside those that it
    /// has, in the `words` of OCI or Docker; `None` keeps each type as it is. What changes nothing
    /// keeps the bytes, and so the digest.
    #[must_use]
    pub fn with(
        &self,
        layers: Vec<Descriptor>,
        words: Option<MediaTypes>,
        annotations: &BTreeMap<String, String>,
    ) -> Self {
        let mut body = self.body.clone();
        body.layers = layers;
        body.annotations.extend(annotations.clone());
        let mut media_type = self.media_type.clone();
        if let Some(words) = words {
            let of_words = |descriptor: Descriptor| descriptor.in_words_of(words);
            body.config = of_words(body.config);
            body.layers = body.layers.into_iter().map(of_words).collect();
            media_type = of_words(Descriptor::of(media_type, b"")).media_type;
        }
        if body == self.body && media_type == self.media_type {
            return self.clone();
        }
        body.media_type = Some(media_type.clone());
        let bytes = serde_json::to_vec(&body).expect("a manifest of plain strings serializes");
        Self { bytes, media_type, body }
    }

    /// Reads a manifest to which a descriptor of `media_type` points.
    ///
    /// # Errors
    /// Everything that [`DocumentError`] names.
    pub fn parse(bytes: Vec<u8>, media_type: &MediaType) -> Result<Self, DocumentError> {
        let what = "manifest";
        let body: ManifestBody = document(&bytes, what, media_type)?;
        Ok(Self { bytes, media_type: media_type.clone(), body })
    }

    /// The bytes that the digest is of.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A descriptor that points to this manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(self.media_type.clone(), &self.bytes)
    }

    /// The image config's descriptor. Its digest is the image ID.
    pub fn config(&self) -> &Descriptor {
        &self.body.config
    }

    /// Free text by key.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.body.annotations
    }

    /// The layers' descriptors, base first.
    pub fn layers(&self) -> &[Descriptor] {
        &self.body.layers
    }
}

/// An index of manifests (image spec, "Image Index").
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<MediaType>,
    /// What the index lists, in its order.
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// An OCI index of `manifests`.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: Some(MediaType::ImageIndex), manifests }
    }

    /// Reads an index to which a descriptor of `media_type` points.
    ///
    /// # Errors
    /// Everything that [`DocumentError`] names.
    pub fn parse(bytes: &[u8], media_type: &MediaType) -> Result<Self, DocumentError> {
        document(bytes, "index", media_type)
    }

    /// The JSON of this index.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an index of plain strings serializes")
    }
}

/// Reads a document and holds it against what its descriptor says of it.
fn document<T: DeserializeOwned>(
    bytes: &[u8],
    what: &'static str,
    media_type: &MediaType,
) -> Result<T, DocumentError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Face {
        schema_version: u32,
        media_type: Option<MediaType>,
        layers: Option<serde::de::IgnoredAny>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let json = |source| DocumentError::Json { what, source };
    let face: Face = serde_json::from_slice(bytes).map_err(json)?;
    if face.layers.is_some() && face.manifests.is_some() {
        return Err(DocumentError::Ambiguous { what });
    }
    if face.schema_version != 2 {
        return Err(DocumentError::SchemaVersion { what, found: face.schema_version });
    }
    match face.media_type {
        Some(found) if found != *media_type => {
            let found = crate::oci::reference::shortened(found.as_ref());
            Err(DocumentError::MediaType { what, found })
        }
        _ => serde_json::from_slice(bytes).map_err(json),
    }
}

/// The digest that names a document of these bytes.
impl From<&Manifest> for Digest {
    fn from(manifest: &Manifest) -> Self {
        Self::of(&manifest.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: MediaType) -> Descriptor {
        Descriptor::of(media_type, b"x")
    }

    #[test]
    fn parse_keeps_the_bytes() {
        let made = Manifest::new(
            descriptor(MediaType::ImageConfig),
            vec![descriptor(MediaType::ImageLayer)],
        );
        let text = format!(" {}", String::from_utf8_lossy(made.bytes()));
        let read =
            Manifest::parse(text.clone().into_bytes(), &MediaType::ImageManifest).expect("valid");
        assert_eq!(read.bytes(), text.as_bytes());
        assert_ne!(read.descriptor().digest, made.descriptor().digest);
        assert_eq!(read.layers(), made.layers());
    }

    #[test]
    fn other_words_and_annotations_are_another_manifest() {
        let made = Manifest::new(
            descriptor(MediaType::ImageConfig),
            vec![descriptor(MediaType::ImageLayerGzip)],
        );
        let none = BTreeMap::new();
        let same = made.with(made.layers().to_vec(), Some(MediaTypes::Oci), &none);
        assert_eq!(same.bytes(), made.bytes());
        let docker = made.with(made.layers().to_vec(), Some(MediaTypes::Docker), &none);
        assert!(docker.descriptor().media_type.to_string().contains("vnd.docker"));
        assert!(!String::from_utf8_lossy(docker.bytes()).contains("vnd.oci"));
        let back = docker.with(docker.layers().to_vec(), Some(MediaTypes::Oci), &none);
        assert_eq!(back.bytes(), made.bytes());
        let annotated = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let annotated = made.with(made.layers().to_vec(), None, &annotated);
        let again = annotated.with(made.layers().to_vec(), None, &none);
        assert_eq!(again.bytes(), annotated.bytes());
        assert_ne!(again.bytes(), made.bytes());
    }

    #[test]
    fn refuses_what_is_two_things_at_once() {
        let text = r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#;
        let err = Index::parse(text.as_bytes(), &MediaType::ImageIndex).expect_err("ambiguous");
        assert!(matches!(err, DocumentError::Ambiguous { .. }));
        let text = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        let err = Manifest::parse(text.into(), &MediaType::ImageManifest).expect_err("disagrees");
        assert!(matches!(err, DocumentError::MediaType { .. }));
    }

    #[test]
    fn refuses_deep_nesting_without_a_deep_stack() {
        let text = format!(r#"{{"schemaVersion":2,"manifests":{}"#, "[".repeat(200_000));
        assert!(Index::parse(text.as_bytes(), &MediaType::ImageIndex).is_err());
    }
}
