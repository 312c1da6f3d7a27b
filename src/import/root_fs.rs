//! `mica import`: the tar of a root file system becomes an image of one layer.

use std::io::Read;

use super::ImportError;
use crate::layer;
use crate::oci::{
    ContainerConfig, Descriptor, History, ImageConfig, MediaType, Platform, Reference,
};
use crate::snapshot::{Handle, Upper, View};
use crate::store::{Image, Store, StoreError};

/// What the image is to be, besides its files.
#[derive(Debug)]
pub struct RootFs {
    /// Its name; without one it is found by its ID.
    pub name: Option<Reference>,
    /// What its history says.
    pub message: String,
    /// How its containers start.
    pub config: ContainerConfig,
    /// When it was made (RFC 3339).
    pub created: String,
}

/// Makes an image of a tar, plain or compressed.
///
/// # Errors
/// [`ImportError`]; the store is then as it was.
pub fn root_fs(
    store: &Store,
    input: impl Read + Send,
    request: RootFs,
) -> Result<Image, ImportError> {
    let staged = store.stage_layer()?;
    let open = |path: &std::path::Path| {
        Handle::open(path).map_err(|source| StoreError::Io {
            action: "open",
            path: path.to_owned(),
            source,
        })
    };
    let dir = staged.fs();
    let (_, tar) = layer::open_archive(input).map_err(ImportError::Read)?;
    let below = View::new(Vec::new()).map_err(StoreError::from)?;
    let upper = Upper::new(open(&dir)?, &below).map_err(StoreError::from)?;
    let applied = layer::apply(tar, &upper, layer::Options::ARCHIVE)?;
    if applied.entries == 0 {
        return Err(ImportError::Empty);
    }
    drop(upper);
    let packed = layer::pack(&open(&dir)?, std::io::sink())?;
    let mut config = ImageConfig::scratch(&Platform::host());
    config.config = request.config;
    config.created = Some(request.created.clone());
    config.rootfs.diff_ids = vec![packed.diff_id];
    config.history = vec![History {
        created: Some(request.created.clone()),
        comment: Some(request.message),
        ..History::default()
    }];
    let sealed = staged.seal(None, &packed, Some(request.created))?;
    let layer = Descriptor::new(MediaType::ImageLayer, packed.diff_id.0, packed.size);
    let (image, blobs) = store.stage_image(config, vec![layer])?;
    store.publish(blobs, vec![sealed])?;
    match &request.name {
        Some(name) => store.tag(name, &image)?,
        None => store.keep_unnamed(&image)?,
    }
    Ok(image)
}
