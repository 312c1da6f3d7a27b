//! [`Folder`]: a cache in a folder, which is an OCI image layout.

use std::fs::File;
use std::path::PathBuf;

use super::{Place, SharedError, config_type};
use crate::cache::SharedIndex;
use crate::export::{LayoutFolder, Options, layers};
use crate::import::{self, ImportError, Pick};
use crate::oci::{Descriptor, Manifest};
use crate::store::{LayerRecord, Store};

/// A cache in a folder.
pub struct Folder<'a> {
    store: &'a Store,
    path: PathBuf,
    pick: Pick,
    options: Options<'a>,
}

impl std::fmt::Debug for Folder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<'a> Folder<'a> {
    /// The cache in the folder at `path`; layers that are put there are compressed as `options` say.
    pub fn new(store: &'a Store, path: PathBuf, pick: Pick, options: Options<'a>) -> Self {
        Self { store, path, pick, options }
    }

    fn layout(&self) -> LayoutFolder<'_> {
        LayoutFolder::new(&self.path, self.options.stop)
    }

    fn documents(&self) -> Result<Option<(Manifest, Vec<u8>)>, SharedError> {
        match import::documents(&self.path, &self.pick) {
            // There is no cache yet, or none of this tag.
            Err(ImportError::NoLayout | ImportError::NoTag(_)) => Ok(None),
            found => Ok(Some(found?)),
        }
    }

    fn index_of(&self, found: Option<&(Manifest, Vec<u8>)>) -> Result<SharedIndex, SharedError> {
        let Some((manifest, config)) = found else { return Ok(SharedIndex::default()) };
        SharedIndex::parse(config, manifest.layers())
            .map_err(|source| SharedError::Index { place: self.name(), source })
    }
}

impl Place for Folder<'_> {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn read(&self) -> Result<SharedIndex, SharedError> {
        self.index_of(self.documents()?.as_ref())
    }

    /// The folder may be gone tomorrow: what the store relies on is copied.
    fn offer(&self, layers: &[LayerRecord]) -> Result<(), SharedError> {
        let mut staged = Vec::new();
        for blob in layers.iter().filter_map(|layer| layer.blob.as_ref()) {
            if !self.store.has_blob(blob.digest) {
                let path = self.layout().blob_path(blob.digest);
                let failed =
                    |source| SharedError::Io { action: "open", path: path.clone(), source };
                let file = File::open(&path).map_err(failed)?;
                staged.push(self.store.stage_expected(blob, file)?);
            }
        }
        Ok(self.store.publish(staged, Vec::new())?)
    }

    fn put(&self, layer: &LayerRecord) -> Result<Descriptor, SharedError> {
        let mut layout = self.layout();
        layout.create()?;
        let layer = layers::single(self.store, layer, &self.options);
        Ok(layout.layer(self.store, &layer, &self.options)?)
    }

    fn add(&self, index: &SharedIndex) -> Result<bool, SharedError> {
        let mut layout = self.layout();
        layout.create()?;
        let _lock = layout.lock()?;
        let found = self.documents()?;
        let known = self.index_of(found.as_ref())?;
        let mut merged = known.clone();
        merged.merge(index);
        merged.prune();
        let (config, layers) = merged.to_document();
        if found.is_some() && (&config, &layers) == (&known.to_document().0, &known.to_document().1)
        {
            return Ok(false);
        }
        let manifest = Manifest::new(Descriptor::of(config_type(), &config), layers);
        let tag = match &self.pick {
            Pick::Tag(tag) => tag.as_str(),
            Pick::Digest(_) => "latest",
        };
        layout.document(&manifest, &config, tag)?;
        if let Some((old, _)) = found {
            layout.forget(&[old.descriptor().digest, old.config().digest]);
        }
        Ok(true)
    }
}
