//! [`Overrides`]: what a command line says of registries.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::files::{Host, Mirror, Registry};
use super::{ClientCertificate, Settings};

/// What is said of registries for one command. Registries are named as in images; what is wrong with
/// a name or a mirror is told in words.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    registries: BTreeMap<String, Registry>,
    insecure_but: Option<BTreeSet<String>>,
    only_mirrors: bool,
}

impl Overrides {
    /// Certificates of this registry are not verified, and plain HTTP is a way out.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn insecure(&mut self, host: &str) -> Result<(), String> {
        self.registry(host)?.insecure = true;
        Ok(())
    }

    /// So it is for all registries but these.
    pub fn insecure_but(&mut self, others: impl IntoIterator<Item = String>) {
        self.insecure_but = Some(others.into_iter().collect());
    }

    /// A mirror of a registry, which is asked behind those that were given before. A path in it is the
    /// first part of the names of repositories there.
    ///
    /// # Errors
    /// What is wrong with the name or the mirror.
    pub fn mirror(&mut self, host: &str, mirror: &str) -> Result<(), String> {
        let mirror = Mirror::try_from(mirror.to_owned())?.path_in_names();
        self.registry(host)?.mirrors.push(mirror);
        Ok(())
    }

    /// A registry that has mirrors is never asked for an image itself.
    pub fn only_mirrors(&mut self) {
        self.only_mirrors = true;
    }

    /// A certificate that is also trusted for this registry.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn certificate(&mut self, host: &str, ca: PathBuf) -> Result<(), String> {
        self.registry(host)?.ca = Some(ca);
        Ok(())
    }

    /// What this registry is shown.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn client(&mut self, host: &str, client: ClientCertificate) -> Result<(), String> {
        self.registry(host)?.client = Some(client);
        Ok(())
    }

    fn registry(&mut self, host: &str) -> Result<&mut Registry, String> {
        Ok(self.registries.entry(Host::try_from(host.to_owned())?.0).or_default())
    }

    pub(super) fn apply(&self, settings: &mut Settings) {
        for (host, said) in &self.registries {
            let set = settings.registries.entry(host.clone()).or_default();
            set.insecure |= said.insecure;
            if !said.mirrors.is_empty() {
                set.mirrors.clone_from(&said.mirrors);
            }
            set.ca = said.ca.clone().or(set.ca.take());
            set.client = said.client.clone().or(set.client.take());
        }
        settings.insecure_but.clone_from(&self.insecure_but);
        settings.only_mirrors = self.only_mirrors;
    }
}
