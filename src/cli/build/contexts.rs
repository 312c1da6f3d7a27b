//! The values of `--build-context`.

use std::path::PathBuf;

use crate::builder::{NamedContext, NamedContexts};
use crate::cli::CliError;
use crate::import::{self, Pick};
use crate::oci::{Platform, Reference};
use crate::store::Store;

/// What the names of `--build-context` stand for.
pub(super) struct Contexts {
    pub(super) names: NamedContexts,
    /// What is no image: others, or what else the main context, which is number 0, can be.
    pub(super) others: Vec<PathBuf>,
}

/// Reads `NAME=VALUE`s. An image of an OCI layout is copied into the store, without a name there, or
/// not read at all where there is no store.
pub(super) fn named(
    given: &[String],
    store: Option<&Store>,
    platform: &Platform,
) -> Result<Contexts, CliError> {
    let mut contexts = Contexts { names: NamedContexts::default(), others: Vec::new() };
    for text in given {
        let wrong = |why: &str| {
            CliError::Usage(format!("`--build-context {}`: {why}", text.escape_debug()))
        };
        let (name, value) = text.split_once('=').ok_or_else(|| wrong("write it as NAME=VALUE"))?;
        let name: Reference =
            name.parse().map_err(|err| wrong(&format!("invalid context name: {err}")))?;
        let context = match value.split_once("://") {
            Some(("docker-image", "scratch")) => NamedContext::Scratch,
            Some(("docker-image", image)) => NamedContext::Image(image.parse()?),
            Some(("oci-layout", layout)) => {
                let (path, pick) = layout_of(layout).ok_or_else(|| wrong("its digest is none"))?;
                let image = store.map(|store| import::layout(store, &path, &pick, platform));
                match image.transpose() {
                    Ok(None) => NamedContext::Unread,
                    Ok(Some(image)) => NamedContext::Stored(Box::new(image)),
                    Err(source) => {
                        return Err(CliError::Layout { path, source: Box::new(source) });
                    }
                }
            }
            _ => {
                contexts.others.push(PathBuf::from(value));
                NamedContext::Folder(contexts.others.len())
            }
        };
        contexts.names.insert(&name, context);
    }
    Ok(contexts)
}

/// `PATH[:TAG][@DIGEST]`; `None` for a digest that is none.
fn layout_of(text: &str) -> Option<(PathBuf, Pick)> {
    let (text, digest) = match text.split_once('@') {
        Some((text, digest)) => (text, Some(digest.parse().ok()?)),
        None => (text, None),
    };
    let (path, tag) = text.split_once(':').unwrap_or((text, "latest"));
    let pick = digest.map_or_else(|| Pick::Tag(tag.to_owned()), Pick::Digest);
    Some((PathBuf::from(path), pick))
}
