//! `mica pull`, and images of registries for the other commands.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::args::{PullArgs, PullPolicy};
use super::{CliError, Context, ui};
use crate::builder::{BuildError, Images};
use crate::http::Limits;
use crate::oci::{Descriptor, Platform, Reference};
use crate::registry::credentials::Credentials;
use crate::registry::settings::{Overrides, Settings};
use crate::registry::{Found, Registries, RegistryError};
use crate::runtime::CancelToken;
use crate::store::{Fetched, Image, Named, Store};

/// The registries, as settings and credentials have them. Neither is read before one is needed.
pub(super) fn registries(tls_verify: Option<bool>, cancel: &CancelToken) -> Arc<Registries> {
    registries_with(tls_verify, Overrides::default(), cancel)
}

/// The same, with what counts more than settings.
pub(super) fn registries_with(
    tls_verify: Option<bool>,
    overrides: Overrides,
    cancel: &CancelToken,
) -> Arc<Registries> {
    let cancel = cancel.clone();
    let settings = move || Ok(Settings::load()?.overridden(&overrides).tls_verify(tls_verify));
    let cancelled = move || cancel.is_cancelled();
    let credentials = Credentials::of_environment();
    Arc::new(Registries::new(settings, credentials, Limits::default(), cancelled))
}

impl Context {
    /// The store, which fetches what is missing of its images.
    pub(super) fn open_fetching_store(
        &self,
        registries: &Arc<Registries>,
    ) -> Result<Store, CliError> {
        let source: Arc<Registries> = Arc::clone(registries);
        Ok(self.open_store()?.with_source(source))
    }
}

/// `mica pull`: an image with all its layers, unpacked.
pub(super) fn pull(context: &Context, args: &PullArgs) -> Result<(), CliError> {
    let cancel = super::signals::cancel_token()?;
    let registries = registries(args.tls_verify, &cancel);
    let store = context.open_fetching_store(&registries)?;
    let name: Reference = args.name.parse()?;
    let platform = platform(args.platform.as_deref())?;
    let before = store.resolve(&name)?;
    if !args.quiet
        && let Some(tag) = name.tag().filter(|_| name.digest().is_none())
    {
        ui::line(&format!("{tag}: Pulling from {}", name.path()))?;
    }
    let get = || -> Result<Found, CliError> {
        let found = registries.find(&store, &name, &platform)?;
        fetch(&store, &registries, &name, &found, args.quiet)?;
        Ok(found)
    };
    let found = get().map_err(super::signals::unless_cancelled(&cancel))?;
    if !args.quiet {
        let is_old = before.is_some_and(|old| old.id == found.image.id());
        let status = if is_old { "Image is up to date for" } else { "Downloaded newer image for" };
        ui::line(&format!("Digest: {}", found.digest))?;
        ui::line(&format!("Status: {status} {}", name.familiar()))?;
    }
    ui::line(&name.to_string())
}

/// Gets all layers of an image, and then names it.
fn fetch(
    store: &Store,
    registries: &Registries,
    name: &Reference,
    found: &Found,
    quiet: bool,
) -> Result<(), CliError> {
    registries.keep_documents(store, name, found)?;
    let watch = |blob: &Descriptor, what: Fetched| {
        if !quiet {
            say_fetched(blob, what);
        }
    };
    store.unpack(&found.image, &watch)?;
    store.tag_found(name, &found.image, found.digest)?;
    Ok(())
}

/// A line for each blob, as `docker pull` has them.
pub(super) fn say_fetched(blob: &Descriptor, what: Fetched) {
    let done = match what {
        Fetched::Started => "Pulling",
        Fetched::Done => "Pull complete",
    };
    ui::say(&format!("{}: {done} ({})", blob.digest.short(), ui::size(blob.size)));
}

/// The platform of `--platform`; the host's for none.
pub(super) fn platform(text: Option<&str>) -> Result<Platform, CliError> {
    let Some(text) = text else { return Ok(Platform::host()) };
    Platform::parse(text)
        .ok_or_else(|| CliError::Usage(format!("`{}` is not a platform", text.escape_debug())))
}

/// Finds the images that a Dockerfile names: in the store, else in their registries. Of those only
/// the manifests and configs are read, and they get their names: layers come when a step reads them.
pub(super) struct Puller<'a> {
    store: &'a Store,
    registries: &'a Registries,
    policy: PullPolicy,
    /// What was found: a name stands for one image throughout a build.
    known: Mutex<HashMap<(Reference, Platform), Image>>,
}

impl<'a> Puller<'a> {
    pub(super) fn new(store: &'a Store, registries: &'a Registries, policy: PullPolicy) -> Self {
        Self { store, registries, policy, known: Mutex::default() }
    }

    /// The image of a name, by the policy; `None` where only the store may be asked and lacks it.
    pub(super) fn find(
        &self,
        name: &Reference,
        platform: &Platform,
    ) -> Result<Option<Image>, CliError> {
        let stored = self.store.resolve(name)?;
        let image = stored.as_ref().map(|named| self.store.image(&named.manifest)).transpose()?;
        let fits = image.as_ref().is_some_and(|image| serves(&image.config.platform(), platform));
        let suffices = match self.policy {
            PullPolicy::Never => true,
            PullPolicy::Missing => fits,
            PullPolicy::Always => fits && self.is_current(name, stored.as_ref())?,
        };
        if suffices {
            return Ok(image);
        }
        match self.registries.find(self.store, name, platform) {
            Ok(found) => {
                self.registries.keep(self.store, name, &found)?;
                Ok(Some(found.image))
            }
            // An image of another platform, made or loaded here, is better than none.
            Err(err) if self.policy == PullPolicy::Missing && is_elsewhere(&err) => match image {
                Some(image) => Ok(Some(image)),
                None => Err(err.into()),
            },
            Err(err) => Err(err.into()),
        }
    }

    /// Whether the registry has nothing else for a name than the store. One small question tells.
    fn is_current(&self, name: &Reference, stored: Option<&Named>) -> Result<bool, CliError> {
        let Some(stored) = stored else { return Ok(false) };
        if name.digest().is_some() {
            return Ok(true);
        }
        let tag = name.tag().unwrap_or("latest");
        let found = self.registries.repository(name).head(tag)?;
        Ok(found.is_some_and(|found| stored.has_digest(found.digest)))
    }
}

/// Whether the registry does not have the image, or cannot say.
fn is_elsewhere(err: &RegistryError) -> bool {
    err.is_absence() || matches!(err, RegistryError::Http(_) | RegistryError::NoPlatform { .. })
}

fn serves(found: &Platform, wanted: &Platform) -> bool {
    (&found.os, &found.architecture) == (&wanted.os, &wanted.architecture)
        && (wanted.variant.is_empty() || found.variant == wanted.variant)
}

impl Images for Puller<'_> {
    fn image(&self, name: &Reference, platform: &Platform) -> Result<Option<Image>, BuildError> {
        let key = (name.clone(), platform.clone());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = known.get(&key) {
            return Ok(Some(image.clone()));
        }
        let found = self.find(name, platform).map_err(|err| match err {
            CliError::Store(err) => BuildError::Store(err),
            err => BuildError::Image { source: Box::new(err), near: None },
        })?;
        if let Some(image) = &found {
            known.insert(key, image.clone());
        }
        Ok(found)
    }
}
