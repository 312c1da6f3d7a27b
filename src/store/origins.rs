//! [`Origin`]: where a blob can be had that the store need not have itself.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::{Store, StoreError};
use crate::oci::{Descriptor, Digest};

/// A repository that has a blob, as `registry/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// So many are remembered for a blob.
const MAX_ORIGINS: usize = 8;

impl Origin {
    /// The repository of this name.
    pub fn new(repository: &str) -> Self {
        Self(repository.to_owned())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Store {
    /// Notes that a repository has these blobs. It is durable with the next [`Store::publish`] that
    /// publishes something.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn note_origin(&self, blobs: &[Descriptor], origin: &Origin) -> Result<(), StoreError> {
        let dir = self.path().join("origins");
        fs::create_dir_all(&dir).map_err(StoreError::io("make the folder", &dir))?;
        for blob in blobs {
            let mut known = self.origins(blob.digest)?;
            if known.first() == Some(origin) {
                continue;
            }
            // What was seen last is asked first.
            known.retain(|other| other != origin);
            known.insert(0, origin.clone());
            known.truncate(MAX_ORIGINS);
            let text: String = known.iter().flat_map(|origin| [&origin.0, "\n"]).collect();
            let (path, new) = (self.origin_path(blob.digest), self.new_scratch("origin"));
            fs::write(&new, text).map_err(StoreError::io("write", &new))?;
            fs::rename(&new, &path).map_err(StoreError::io("replace", &path))?;
        }
        Ok(())
    }

    /// The repositories that are known to have a blob, the last one seen first.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn origins(&self, blob: Digest) -> Result<Vec<Origin>, StoreError> {
        let path = self.origin_path(blob);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().map(Origin::new).collect()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(err) => Err(StoreError::io("read", &path)(err)),
        }
    }

    /// Whether the store has a blob, or knows where to get it.
    pub fn can_have_blob(&self, blob: Digest) -> bool {
        self.has_blob(blob) || self.origin_path(blob).exists()
    }

    fn origin_path(&self, blob: Digest) -> PathBuf {
        self.path().join("origins").join(blob.hex())
    }
}
