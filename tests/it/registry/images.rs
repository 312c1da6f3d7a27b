//! Images that are in a registry without anybody having pushed them.

use mica::oci::{Descriptor, Digest, MediaType};
use serde_json::json;

use super::Registry;

/// An image in a registry.
pub(crate) struct Pushed {
    /// What its manifest's digest is.
    pub(crate) digest: Digest,
    pub(crate) manifest: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

impl Registry {
    /// Puts an image into a repository, with one plain layer for each of `files`: its name and text.
    pub(crate) fn push(&self, repository: &str, tag: &str, files: &[(&str, &str)]) -> Pushed {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for (name, text) in files {
            let tar = tar_of(name, text.as_bytes());
            diff_ids.push(Digest::of(&tar).to_string());
            layers.push(self.put_blob(repository, MediaType::ImageLayer, tar));
        }
        self.image(repository, tag, layers, &json!({ "Cmd": ["/bin/true"] }), &diff_ids)
    }

    /// Puts an image of these layers into a repository.
    pub(crate) fn image(
        &self,
        repository: &str,
        tag: &str,
        layers: Vec<Descriptor>,
        config: &serde_json::Value,
        diff_ids: &[String],
    ) -> Pushed {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": vec![json!({ "created_by": "test" }); diff_ids.len()],
        });
        let config = self.put_blob(repository, MediaType::ImageConfig, config.to_string().into());
        let media_type = MediaType::ImageManifest;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers,
        });
        let manifest = self.document(repository, tag, media_type, manifest.to_string());
        Pushed { digest: manifest.digest, manifest, layers }
    }

    /// Puts an index of these manifests into a repository.
    pub(crate) fn index(
        &self,
        repository: &str,
        tag: &str,
        manifests: &[Descriptor],
    ) -> Descriptor {
        let media_type = MediaType::ImageIndex;
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        self.document(repository, tag, media_type, index.to_string())
    }

    /// Puts a manifest or index into a repository.
    pub(crate) fn document(
        &self,
        repository: &str,
        tag: &str,
        media_type: MediaType,
        text: String,
    ) -> Descriptor {
        let descriptor = Descriptor::of(media_type, text.as_bytes());
        let value = (descriptor.media_type.as_ref().to_owned(), text.into_bytes());
        for name in [tag.to_owned(), descriptor.digest.to_string()] {
            self.lock().manifests.insert((repository.to_owned(), name), value.clone());
        }
        descriptor
    }

    /// Puts a blob into a repository.
    pub(crate) fn put_blob(
        &self,
        repository: &str,
        media_type: MediaType,
        bytes: Vec<u8>,
    ) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        let (mut state, digest) = (self.lock(), descriptor.digest.to_string());
        state.links.insert((repository.to_owned(), digest.clone()));
        state.blobs.insert(digest, bytes);
        drop(state);
        descriptor
    }
}

/// Where a registry has a blob.
pub(crate) fn blob_path(repository: &str, blob: &Descriptor) -> String {
    format!("/v2/{repository}/blobs/{}", blob.digest)
}

/// A layer of one file.
pub(crate) fn tar_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, name, bytes).expect("a tar");
    tar.into_inner().expect("a tar")
}
