//! Hands over what was built: names it, writes it, and tells about it.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::outputs::{Archive, ArchiveTo, Compressed, Destination, Output, Pushed, Stored};
use crate::builder::BuildError;
use crate::cli::{CliError, push, ui};
use crate::export::{self, ExportError, Options, rootfs};
use crate::layer;
use crate::oci::{Descriptor, Digest, MediaTypes, Platform, Reference};
use crate::registry::Registries;
use crate::store::{Image, Store};

/// What outputs are made with.
pub(super) struct Delivery<'a> {
    pub(super) store: &'a Store,
    pub(super) registries: &'a Registries,
    pub(super) image: &'a Image,
    /// Seconds since 1970.
    pub(super) epoch: Option<i64>,
    pub(super) platform: &'a Platform,
    /// Whether a tag that a registry never moves is left where it is.
    pub(super) forgives_immutable: bool,
    /// Whether to stop.
    pub(super) stop: export::Stop<'a>,
}

/// What has become of a build.
#[derive(Default)]
pub(super) struct Delivered {
    /// What is said about it.
    pub(super) said: Vec<String>,
    /// Of the first image: what `--metadata-file` holds.
    metadata: Option<Value>,
    /// That of the manifest, in a registry if it was pushed, else in an archive.
    digest: Option<Digest>,
}

impl Delivered {
    /// The JSON of `--metadata-file`.
    pub(super) fn metadata(&self) -> String {
        let metadata = self.metadata.clone().unwrap_or_else(|| json!({}));
        format!("{metadata:#}")
    }

    fn image(&mut self, delivery: &Delivery<'_>, descriptor: &Descriptor, names: &[Reference]) {
        if self.metadata.is_some() {
            return;
        }
        let mut descriptor = descriptor.clone();
        descriptor.platform = Some(delivery.image.config.platform());
        let mut metadata = json!({
            "containerimage.config.digest": delivery.image.id(),
            "containerimage.descriptor": descriptor,
            "containerimage.digest": descriptor.digest,
        });
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            metadata["image.name"] = names.join(",").into();
        }
        self.metadata = Some(metadata);
    }
}

impl Delivery<'_> {
    /// The digest of the image's manifest where it went, or where it would have if it had been pushed.
    pub(super) fn digest(
        &self,
        delivered: &Delivered,
        compressed: Compressed,
    ) -> Result<Digest, CliError> {
        if let Some(digest) = delivered.digest {
            return Ok(digest);
        }
        let options = self.options(compressed, None);
        let images = [(Vec::new(), self.image.clone())];
        let saved = export::save(self.store, &images, &options, &mut io::sink())?;
        Ok(saved[0].digest)
    }

    fn options(&self, compressed: Compressed, words: Option<MediaTypes>) -> Options<'_> {
        let Compressed { compression, level, force } = compressed;
        Options { compression, level, force, words, stop: self.stop, ..Options::oci() }
    }

    /// Makes all outputs, those of the store last: whoever finds the name finds the rest too.
    pub(super) fn deliver(&self, outputs: &[Output]) -> Result<Delivered, CliError> {
        self.deliver_all(outputs).map_err(|err| {
            if !(self.stop)() {
                return err;
            }
            let source = Box::new(BuildError::Cancelled);
            CliError::Build { file: String::new(), text: String::new(), source }
        })
    }

    fn deliver_all(&self, outputs: &[Output]) -> Result<Delivered, CliError> {
        let mut delivered = Delivered::default();
        for output in outputs.iter().filter(|output| !matches!(output, Output::Store(_))) {
            match output {
                Output::Archive(archive) => self.archive(archive, &mut delivered)?,
                Output::Folder { path, split } => {
                    let sub = self.platform.to_string().replace('/', "_");
                    let sub = split.then_some(sub.as_str());
                    let view = rootfs::files_of(self.store, self.image)?;
                    let folder = rootfs::Folder { path, sub, epoch: self.epoch };
                    rootfs::folder(&view, &folder, self.stop)?;
                    delivered.said.push(format!("wrote {}", shown(path)));
                }
                Output::Tar(to) => {
                    let view = rootfs::files_of(self.store, self.image)?;
                    Self::write(to, &mut delivered, |out| {
                        let out = export::Stoppable { out, stop: self.stop };
                        layer::pack_view(&view, self.epoch, out).map_err(ExportError::from)
                    })?;
                }
                Output::Store(_) | Output::Nothing => {}
            }
        }
        for output in outputs {
            if let Output::Store(stored) = output {
                self.keep(stored, &mut delivered)?;
            }
        }
        Ok(delivered)
    }

    fn keep(&self, stored: &Stored, delivered: &mut Delivered) -> Result<(), CliError> {
        let layers = self.image.manifest.layers().to_vec();
        let annotations = &stored.annotations.manifest;
        let manifest = self.image.manifest.with(layers, stored.words, annotations);
        let mut descriptor = manifest.descriptor();
        let image = self.store.with_manifest(self.image, manifest)?;
        if stored.names.is_empty() {
            self.store.keep_unnamed(&image)?;
        }
        for name in &stored.names {
            self.store.tag(name, &image)?;
            delivered.said.push(format!("named {}", name.familiar()));
        }
        if let Some(pushed) = &stored.push {
            descriptor = self.push(&image, stored, pushed, delivered)?;
        }
        descriptor.annotations.extend(stored.annotations.descriptor.clone());
        delivered.image(self, &descriptor, &stored.names);
        Ok(())
    }

    /// Pushes an image to the repositories of its names; gives the descriptor that it has there.
    fn push(
        &self,
        image: &Image,
        stored: &Stored,
        pushed: &Pushed,
        delivered: &mut Delivered,
    ) -> Result<Descriptor, CliError> {
        let options = self.options(pushed.compressed, stored.words);
        let mut descriptor = image.manifest.descriptor();
        let mut left: Vec<&Reference> = stored.names.iter().collect();
        while let Some(first) = left.first().copied() {
            let is_same =
                |name: &&Reference| (name.domain(), name.path()) == (first.domain(), first.path());
            let (same, others): (Vec<_>, Vec<_>) = left.into_iter().partition(is_same);
            left = others;
            let tags = same.iter().filter(|_| !pushed.by_digest).filter_map(|name| name.tag());
            let tags: Vec<String> = tags.map(str::to_owned).collect();
            let target =
                push::Target { store: self.store, registries: self.registries, name: first };
            let shown = first.familiar_repository();
            descriptor = match target.push(image, &tags, &options, &|_| {}) {
                Err(err) if self.forgives_immutable && is_immutable(&err) => {
                    delivered.said.push(format!("{shown} has an immutable tag, which stays"));
                    continue;
                }
                pushed => pushed?,
            };
            delivered.digest = Some(descriptor.digest);
            if tags.is_empty() {
                delivered.said.push(format!("pushed {shown}@{}", descriptor.digest));
            }
            for tag in tags {
                delivered.said.push(format!("pushed {shown}:{tag}@{}", descriptor.digest));
            }
        }
        Ok(descriptor)
    }

    fn archive(&self, archive: &Archive, delivered: &mut Delivered) -> Result<(), CliError> {
        let options = Options {
            docker_files: archive.docker_files,
            annotations: archive.annotations.manifest.clone(),
            descriptor_annotations: archive.annotations.descriptor.clone(),
            ..self.options(archive.compressed, Some(archive.words))
        };
        let names = &archive.names;
        let mut descriptor = match &archive.to {
            ArchiveTo::Layout(path) => {
                let saved = export::save_folder(self.store, names, self.image, &options, path)?;
                delivered.said.push(format!("wrote {}", shown(path)));
                saved
            }
            ArchiveTo::Tar(to) => {
                let images = [(names.clone(), self.image.clone())];
                let mut saved = Vec::new();
                Self::write(to, delivered, |out| {
                    saved = export::save(self.store, &images, &options, out)?;
                    Ok(())
                })?;
                saved.remove(0)
            }
        };
        delivered.digest.get_or_insert(descriptor.digest);
        descriptor.annotations.extend(archive.annotations.descriptor.clone());
        delivered.image(self, &descriptor, names);
        Ok(())
    }

    /// Writes one stream of bytes to where it goes.
    fn write(
        to: &Destination,
        delivered: &mut Delivered,
        fill: impl FnOnce(&mut dyn export::Output) -> Result<(), ExportError>,
    ) -> Result<(), CliError> {
        match to {
            Destination::File(path) => {
                export::write_file(path, fill)?;
                delivered.said.push(format!("wrote {}", shown(path)));
            }
            Destination::Stdout => {
                let mut out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
                fill(&mut out)?;
                out.flush().map_err(CliError::Stdout)?;
            }
        }
        Ok(())
    }
}

/// What registries say of a tag that they never move: Google's and Amazon's.
const IMMUTABLE: [&str; 2] = [
    "The repository has enabled tag immutability",
    "cannot be overwritten because the repository is immutable",
];

fn is_immutable(err: &CliError) -> bool {
    let CliError::Push { source, .. } = err else { return false };
    let said = source.to_string();
    IMMUTABLE.iter().any(|words| said.contains(words))
}

fn shown(path: &Path) -> String {
    ui::plain(&path.display().to_string())
}
