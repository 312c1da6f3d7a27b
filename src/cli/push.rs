//! `push`: images into registries.

use super::args::{CompressionArg, PushArgs};
use super::{CliError, Context, ui};
use crate::export::Options;
use crate::layer::Compression;
use crate::oci::{Descriptor, Digest, Reference};
use crate::registry::Registries;
use crate::registry::push::{Outcome, Push};
use crate::store::{Image, Named, Store, StoreError};

pub(super) fn push(context: &Context, args: &PushArgs) -> Result<(), CliError> {
    let repositories: Vec<Wanted> = args
        .names
        .iter()
        .map(|name| Wanted::parse(name, args.all_tags))
        .collect::<Result<_, _>>()?;
    let cancel = super::signals::cancel_token()?;
    let registries = super::pull::registries(args.tls_verify, &cancel);
    let store = context.open_fetching_store(&registries)?;
    let options = Options { stop: &|| cancel.is_cancelled(), ..compression(args)? };
    for wanted in &repositories {
        let target = Target { store: &store, registries: &registries, name: &wanted.reference };
        push_all(&target, wanted, &options, args.quiet)
            .map_err(super::signals::unless_cancelled(&cancel))?;
    }
    Ok(())
}

/// What becomes of layers on their way.
fn compression(args: &PushArgs) -> Result<Options<'static>, CliError> {
    let compression = match args.compression {
        CompressionArg::Gzip => Compression::Gzip,
        CompressionArg::Zstd => Compression::Zstd,
        CompressionArg::Uncompressed => Compression::None,
    };
    let (level, levels) = (args.compression_level, compression.levels());
    if level.is_some_and(|level| !levels.contains(&level)) {
        let reason = format!("`--compression-level` is a number from 0 to {}", levels.end());
        return Err(CliError::Usage(reason));
    }
    Ok(Options { compression, level, force: args.force_compression, ..Options::oci() })
}

/// Pushes what one name of the command line stands for.
fn push_all(
    target: &Target<'_>,
    wanted: &Wanted,
    options: &Options<'_>,
    quiet: bool,
) -> Result<(), CliError> {
    let images = wanted.images(target.store)?;
    let say = |text: &str| {
        if !quiet {
            ui::say(text);
        }
    };
    say(&format!(
        "The push refers to repository [{}]",
        target.registries.repository(&wanted.reference)
    ));
    for (image, tags) in images {
        let pushed = target.push(&image, &tags, options, &say)?;
        for tag in tags {
            if quiet {
                ui::line(&format!("{}:{tag}", wanted.reference.familiar_repository()))?;
            } else {
                ui::line(&format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size))?;
            }
        }
    }
    Ok(())
}

/// A repository that images are pushed to.
pub(super) struct Target<'a> {
    pub(super) store: &'a Store,
    pub(super) registries: &'a Registries,
    /// A name in it.
    pub(super) name: &'a Reference,
}

impl Target<'_> {
    /// Pushes an image under these tags, and says what becomes of its blobs.
    pub(super) fn push(
        &self,
        image: &Image,
        tags: &[String],
        options: &Options<'_>,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<Descriptor, CliError> {
        let repository = self.registries.repository(self.name);
        let progress = |digest: Digest, outcome: Outcome| {
            let text = match outcome {
                Outcome::Exists => "Already exists",
                Outcome::Mounted => "Mounted from another repository",
                Outcome::Pushed => "Pushed",
            };
            say(&format!("{}: {text}", digest.short()));
        };
        let push =
            Push { store: self.store, options, repository: &repository, progress: &progress };
        push.push(image, tags).map_err(|source| {
            let repository = self.name.familiar_repository();
            let name = match tags {
                [tag] => format!("{repository}:{tag}"),
                _ => repository,
            };
            CliError::Push { name, source: Box::new(source) }
        })
    }
}

/// One name of the command line.
struct Wanted {
    reference: Reference,
    all_tags: bool,
}

impl Wanted {
    fn parse(text: &str, all_tags: bool) -> Result<Self, CliError> {
        let reference: Reference = text.parse()?;
        if reference.digest().is_some() {
            let reason =
                format!("cannot push `{}`: it has a digest, name a tag", reference.familiar());
            return Err(CliError::Usage(reason));
        }
        let has_tag = text.rsplit('/').next().is_some_and(|last| last.contains(':'));
        if all_tags && has_tag {
            let reason = format!(
                "`{}` has a tag, which `--all-tags` leaves no room for",
                reference.familiar()
            );
            return Err(CliError::Usage(reason));
        }
        Ok(Self { reference, all_tags })
    }

    fn shown(&self) -> String {
        if self.all_tags { self.reference.familiar_repository() } else { self.reference.familiar() }
    }

    /// The images to push, each with its tags.
    fn images(&self, store: &Store) -> Result<Vec<(Image, Vec<String>)>, StoreError> {
        let mut found: Vec<(Named, Vec<String>)> = Vec::new();
        let named: Vec<Named> = if self.all_tags {
            store.names()?
        } else {
            store.resolve(&self.reference)?.into_iter().collect()
        };
        for named in named {
            let Some(reference) = named.reference() else { continue };
            let is_same = (reference.domain(), reference.path())
                == (self.reference.domain(), self.reference.path());
            let Some(tag) = reference.tag().filter(|_| is_same) else { continue };
            match found.iter_mut().find(|(other, _)| other.manifest == named.manifest) {
                Some((_, tags)) => tags.push(tag.to_owned()),
                None => {
                    let tags = vec![tag.to_owned()];
                    found.push((named, tags));
                }
            }
        }
        if found.is_empty() {
            return Err(StoreError::NoImage(self.shown()));
        }
        let images = found.into_iter();
        images.map(|(named, tags)| Ok((store.image(&named.manifest)?, tags))).collect()
    }
}
