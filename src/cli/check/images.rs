//! [`LazyStore`]: the store, opened when a Dockerfile names an image, and only where there is one.

use std::cell::OnceCell;
use std::path::PathBuf;

use crate::builder::Images;
use crate::cli::store_root;
use crate::oci::Reference;
use crate::runtime::isolation::{self, Mode, Request};
use crate::store::{Image, Store, StoreError};

/// Images for checks. One that cannot be had is not known, whatever the reason: a check works where
/// no build does.
pub(in crate::cli) struct LazyStore {
    root: Option<PathBuf>,
    store: OnceCell<Option<Store>>,
}

impl LazyStore {
    /// The store at `root`, or where it usually is.
    pub(in crate::cli) fn new(root: Option<PathBuf>) -> Self {
        Self { root, store: OnceCell::new() }
    }

    fn open(&self) -> Option<Store> {
        let is_root = rustix::process::geteuid().is_root();
        let likely = if is_root { Mode::Root } else { Mode::UserNamespace { ids: 0 } };
        let path = store_root(self.root.clone(), &likely).ok()?;
        if !path.exists() {
            return None;
        }
        // A check has no threads yet, which this needs.
        let mode = isolation::enter(Request::Auto).ok()?;
        Store::open(&store_root(self.root.clone(), &mode).ok()?).ok()
    }
}

impl Images for LazyStore {
    fn image(&self, name: &Reference) -> Result<Option<Image>, StoreError> {
        let store = self.store.get_or_init(|| self.open());
        Ok(store.as_ref().and_then(|store| Images::image(store, name).ok().flatten()))
    }
}
