//! What `--secret` gives to RUN steps. Values are read when a step asks for them and kept nowhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::BuildError;
use crate::snapshot::SnapshotError;

/// More is no secret: as BuildKit.
const MAX_BYTES: u64 = 500 << 10;

/// Where the value of a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// A file.
    File(PathBuf),
    /// A value that the caller has, from its environment.
    Value(Vec<u8>),
}

/// The secrets of a build, by ID.
#[derive(Default)]
pub struct Secrets(BTreeMap<String, Secret>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromIterator<(String, Secret)> for Secrets {
    fn from_iter<I: IntoIterator<Item = (String, Secret)>>(secrets: I) -> Self {
        Self(secrets.into_iter().collect())
    }
}

impl Secrets {
    /// The value of a secret; `None` for one that was not given.
    pub(super) fn read(&self, id: &str) -> Result<Option<Vec<u8>>, BuildError> {
        let path = match self.0.get(id) {
            None => return Ok(None),
            Some(Secret::Value(value)) => return Ok(Some(value.clone())),
            Some(Secret::File(path)) => path,
        };
        let failed = |source| {
            let (action, path) = ("read the secret's file", path.clone());
            BuildError::from(SnapshotError::Io { action, path, source })
        };
        let mut value = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut value).map_err(failed)?;
        if value.len() as u64 > MAX_BYTES {
            let why = "it has more than 500 KiB, and is no secret";
            return Err(failed(std::io::Error::other(why)));
        }
        Ok(Some(value))
    }
}
