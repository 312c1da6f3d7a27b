//! [`Descriptor`]: what points from one document to a blob (image spec, "Content Descriptors").

use std::collections::BTreeMap;

pub use oci_spec::image::MediaType;
use serde::{Deserialize, Serialize};

use super::Digest;

/// The type, digest and size of a blob, and what is said about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the blob's bytes.
    pub media_type: MediaType,
    /// The digest of the blob's stored bytes: compressed, where the media type says so.
    pub digest: Digest,
    /// The number of stored bytes.
    pub size: u64,
    /// The platform of an image that an index lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free text by key. Sorted, since the order is part of a document's digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The descriptor of `bytes`.
    pub fn of(media_type: MediaType, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// A descriptor without platform and annotations.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self { media_type, digest, size, platform: None, annotations: BTreeMap::new() }
    }

    /// Whether it points to an image's config.
    pub fn is_image_config(&self) -> bool {
        match &self.media_type {
            MediaType::ImageConfig => true,
            MediaType::Other(name) => name == DOCKER_CONFIG,
            _ => false,
        }
    }

    /// Whether this points to a manifest of an image, OCI's or Docker's.
    pub fn is_manifest(&self) -> bool {
        match &self.media_type {
            MediaType::ImageManifest => true,
            MediaType::Other(name) => name == DOCKER_MANIFEST,
            _ => false,
        }
    }

    /// Whether this points to an index (Docker: "manifest list").
    pub fn is_index(&self) -> bool {
        match &self.media_type {
            MediaType::ImageIndex => true,
            MediaType::Other(name) => name == DOCKER_MANIFEST_LIST,
            _ => false,
        }
    }

    /// Whether this points to a layer that mica can unpack.
    pub fn is_layer(&self) -> bool {
        match &self.media_type {
            MediaType::ImageLayer | MediaType::ImageLayerGzip | MediaType::ImageLayerZstd => true,
            MediaType::Other(name) => {
                matches!(name.as_str(), DOCKER_LAYER_GZIP | DOCKER_LAYER | DOCKER_LAYER_ZSTD)
            }
            _ => false,
        }
    }

    /// The same blob in the words of OCI or of Docker. Types that are neither stay.
    #[must_use]
    pub fn in_words_of(mut self, words: MediaTypes) -> Self {
        let pairs = [
            (MediaType::ImageManifest, DOCKER_MANIFEST),
            (MediaType::ImageConfig, DOCKER_CONFIG),
            (MediaType::ImageLayer, DOCKER_LAYER),
            (MediaType::ImageLayerGzip, DOCKER_LAYER_GZIP),
            (MediaType::ImageLayerZstd, DOCKER_LAYER_ZSTD),
        ];
        let is_this = |pair: &(MediaType, &str)| {
            self.media_type == pair.0 || self.media_type == MediaType::Other(pair.1.to_owned())
        };
        if let Some((oci, docker)) = pairs.into_iter().find(is_this) {
            self.media_type = match words {
                MediaTypes::Oci => oci,
                MediaTypes::Docker => MediaType::Other(docker.to_owned()),
            };
        }
        self
    }

    /// Whether this points to a layer that only its own URLs serve.
    pub fn is_foreign_layer(&self) -> bool {
        self.media_type.to_string().contains("nondistributable")
            || self.media_type.to_string().contains("rootfs.foreign")
    }
}

/// Whose names the types of an image's parts have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MediaTypes {
    /// Those of the image specification.
    #[default]
    Oci,
    /// Those of Docker's manifests, version 2 schema 2.
    Docker,
}

const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// What an image runs on (image spec, "platform" of an index).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The processor, by Go's `GOARCH`.
    pub architecture: String,
    /// The operating system, by Go's `GOOS`.
    pub os: String,
    /// The processor's variant, as `v7` of `arm`; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// The platform that mica itself runs on and builds for.
    pub fn host() -> Self {
        let architecture = normal_architecture(std::env::consts::ARCH);
        Self { architecture, os: "linux".into(), variant: String::new() }
    }

    /// Parses `os`, `os/architecture` or `os/architecture/variant`; what is left out is the host's.
    pub fn parse(text: &str) -> Option<Self> {
        let host = Self::host();
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &&str| {
            part.starts_with(|first: char| first.is_ascii_alphanumeric())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        if parts.len() > 3 || !parts.iter().all(plain) {
            return None;
        }
        let lower: Vec<String> = parts.iter().map(|part| part.to_ascii_lowercase()).collect();
        Some(match lower.as_slice() {
            [one] if one == "local" => host,
            [one] if matches!(one.as_str(), "linux" | "windows" | "darwin" | "freebsd") => {
                Self { os: one.clone(), ..host }
            }
            [one] => {
                let found = Self::normal(&host.os, one, "");
                if !ARCHITECTURES.contains(&found.architecture.as_str()) {
                    return None;
                }
                found
            }
            [os, arch] => Self::normal(os, arch, ""),
            [os, arch, variant, ..] => Self::normal(os, arch, variant),
            [] => return None,
        })
    }

    /// A platform by the names that Docker has for it: the usual variant goes, but for `arm`.
    fn normal(os: &str, architecture: &str, variant: &str) -> Self {
        let architecture = normal_architecture(architecture);
        let variant = match (architecture.as_str(), variant) {
            ("arm", "") => "v7",
            ("arm64", "v8") => "",
            (_, variant) => variant,
        };
        Self { os: os.to_owned(), variant: variant.to_owned(), architecture }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// What a single word can mean that is no operating system: the processors that Go knows.
const ARCHITECTURES: [&str; 12] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
    "riscv64", "s390x",
];

fn normal_architecture(name: &str) -> String {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" => "386",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let config = Descriptor::of(MediaType::ImageConfig, b"x");
        let docker = config.clone().in_words_of(MediaTypes::Docker);
        assert_eq!(docker.media_type.to_string(), DOCKER_CONFIG);
        assert_eq!(docker.clone().in_words_of(MediaTypes::Docker), docker);
        assert_eq!(docker.in_words_of(MediaTypes::Oci), config);
        let other = Descriptor::of(MediaType::Other("a/b".to_owned()), b"x");
        assert_eq!(other.clone().in_words_of(MediaTypes::Docker), other);
    }

    #[test]
    fn platforms() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(Platform::parse(text).map(|p| p.to_string()).as_deref(), expected, "{text}");
        };
        check("linux", Some(&Platform::host().to_string()));
        check("linux/amd64", Some("linux/amd64"));
        check("Linux/X86_64", Some("linux/amd64"));
        check("linux/arm64/v8", Some("linux/arm64"));
        check("linux/arm/v6", Some("linux/arm/v6"));
        check("linux/arm", Some("linux/arm/v7"));
        check("arm", Some("linux/arm/v7"));
        check("arm64", Some("linux/arm64"));
        check("mars", None);
        check("", None);
        check("a/b/c/d", None);
        check("../../x", None);
    }
}
