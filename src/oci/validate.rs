//! All invariants of an image in one place.

use super::{ImageConfig, Manifest};

/// The most layers that an image may have: so many, Linux lays on one another (`OVL_MAX_STACK`).
pub const MAX_LAYERS: usize = 500;

/// One thing about an image that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// `rootfs.type` is something else than `layers`.
    #[error("the config's rootfs.type is `{0}`, not `layers`")]
    RootFsType(String),
    /// Manifest and config disagree on the number of layers.
    #[error("the manifest has {layers} layers, the config has {diff_ids} diff_ids")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Their digests in the config.
        diff_ids: usize,
    },
    /// More layers than a root file system can be made of.
    #[error("it has {0} layers, more than the {MAX_LAYERS} that an image may have")]
    TooManyLayers(usize),
    /// A layer that mica cannot unpack.
    #[error("layer {index} has the media type `{media_type}`, which is no layer of files")]
    LayerType {
        /// Counted from 0 at the base.
        index: usize,
        /// As the manifest has it.
        media_type: String,
    },
    /// An environment variable that no process can have.
    #[error("the config's environment has an entry with a NUL byte")]
    EnvNul,
    /// Built for something that mica cannot run.
    #[error("the config's operating system is `{0}`, not `linux`")]
    Os(String),
}

/// Everything that is wrong with the image of `manifest` and `config`; empty for a good one.
pub fn validate(manifest: &Manifest, config: &ImageConfig) -> Vec<Invalid> {
    let mut found = Vec::new();
    if config.rootfs.kind != "layers" {
        found.push(Invalid::RootFsType(super::reference::shortened(&config.rootfs.kind)));
    }
    if config.os != "linux" {
        found.push(Invalid::Os(super::reference::shortened(&config.os)));
    }
    let (layers, diff_ids) = (manifest.layers().len(), config.rootfs.diff_ids.len());
    if layers != diff_ids {
        found.push(Invalid::LayerCount { layers, diff_ids });
    }
    if layers > MAX_LAYERS {
        found.push(Invalid::TooManyLayers(layers));
    }
    for (index, layer) in manifest.layers().iter().enumerate() {
        if !layer.is_layer() && !layer.is_foreign_layer() {
            let media_type = super::reference::shortened(layer.media_type.as_ref());
            found.push(Invalid::LayerType { index, media_type });
        }
    }
    if config.config.env.iter().any(|entry| entry.contains('\0')) {
        found.push(Invalid::EnvNul);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::{Descriptor, DiffId, Digest, MediaType, Platform};
    use super::*;

    #[test]
    fn names_everything_at_once() {
        let config_descriptor = Descriptor::of(MediaType::ImageConfig, b"");
        let layer = Descriptor::of(MediaType::from("application/x-firmware"), b"");
        let manifest = Manifest::new(config_descriptor, vec![layer]);
        let mut config = ImageConfig::scratch(&Platform::host());
        config.rootfs.kind = "directory".into();
        config.rootfs.diff_ids = vec![DiffId(Digest::of(b"")); 2];
        config.config.env = vec!["A=\0".into()];
        assert_eq!(validate(&manifest, &config).len(), 4);
    }

    #[test]
    fn there_is_an_end_to_layers() {
        let layer = Descriptor::of(MediaType::ImageLayer, b"");
        let mut config = ImageConfig::scratch(&Platform::host());
        for (count, expected) in [
            (MAX_LAYERS, Vec::new()),
            (MAX_LAYERS + 1, vec![Invalid::TooManyLayers(MAX_LAYERS + 1)]),
        ] {
            config.rootfs.diff_ids = vec![DiffId(layer.digest); count];
            let config_descriptor = Descriptor::of(MediaType::ImageConfig, b"");
            let manifest = Manifest::new(config_descriptor, vec![layer.clone(); count]);
            assert_eq!(validate(&manifest, &config), expected);
        }
    }

    #[test]
    fn a_good_image_passes() {
        let layer = Descriptor::of(MediaType::ImageLayer, b"");
        let manifest =
            Manifest::new(Descriptor::of(MediaType::ImageConfig, b""), vec![layer.clone()]);
        let mut config = ImageConfig::scratch(&Platform::host());
        config.rootfs.diff_ids = vec![DiffId(layer.digest)];
        assert_eq!(validate(&manifest, &config), []);
    }
}
