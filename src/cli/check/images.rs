//! [`LazyStore`]: the store, opened when a Dockerfile names an image, and only where there is one.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::builder::{BuildError, Images};
use crate::cli::store_root;
use crate::oci::{Platform, Reference};
use crate::runtime::isolation::{self, Request};
use crate::store::{Image, Store};

/// Images for checks. One that cannot be had is not known, whatever the reason: a check works where
/// no build does.
pub(in crate::cli) struct LazyStore {
    root: Option<PathBuf>,
    store: OnceLock<Option<Store>>,
}

impl LazyStore {
    /// The store at `root`, or where it usually is.
    pub(in crate::cli) fn new(root: Option<PathBuf>) -> Self {
        Self { root, store: OnceLock::new() }
    }

    fn open(&self) -> Option<Store> {
        let by_root = rustix::process::geteuid().is_root();
        let path = store_root(self.root.clone(), by_root).ok()?;
        if !path.exists() {
            return None;
        }
        // A check has no threads yet, which this needs.
        isolation::enter(Request::Auto).ok()?;
        Store::open(&path).ok()
    }
}

impl Images for LazyStore {
    fn image(&self, name: &Reference, platform: &Platform) -> Result<Option<Image>, BuildError> {
        let store = self.store.get_or_init(|| self.open());
        Ok(store.as_ref().and_then(|store| Images::image(store, name, platform).ok().flatten()))
    }
}
