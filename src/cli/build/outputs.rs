//! Where an image goes: `--output`, `--load`, `--push` and `--annotation`, in the grammar of buildx.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use super::csv;
use super::fields::{self, Fields, wrong};
use crate::cli::CliError;
use crate::cli::args::BuildArgs;
use crate::layer::Compression;
use crate::oci::{MediaTypes, Platform, Reference};

/// The flag that most of this is written with.
const FLAG: &str = "--output";

/// One thing that is to be made of a build.
#[derive(Debug)]
pub(super) enum Output {
    /// An image of the store.
    Store(Stored),
    /// An archive or a layout.
    Archive(Archive),
    /// The files, in a folder; below `linux_amd64` if `split`.
    Folder { path: PathBuf, split: bool },
    /// The files, as a tar.
    Tar(Destination),
    /// Nothing but what the cache now has.
    Nothing,
}

impl Output {
    /// Whether the files of the image are read for it.
    pub(super) fn reads_files(&self) -> bool {
        matches!(self, Self::Folder { .. } | Self::Tar(_))
    }
}

/// An image of the store.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) names: Vec<Reference>,
    pub(super) words: Option<MediaTypes>,
    pub(super) annotations: Annotations,
    /// How it goes on to the registry of its names, if it does.
    pub(super) push: Option<Pushed>,
}

/// An image of the store that is pushed.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    pub(super) compressed: Compressed,
    /// It gets no tag there.
    pub(super) by_digest: bool,
}

/// What becomes of layers that leave the store.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::cli) struct Compressed {
    pub(super) compression: Compression,
    pub(super) level: Option<u32>,
    /// Whether those that are compressed otherwise are compressed anew.
    pub(super) force: bool,
}

/// An image outside of the store.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) to: ArchiveTo,
    pub(super) names: Vec<Reference>,
    /// Whether Docker's own files are in it.
    pub(super) docker_files: bool,
    pub(super) compressed: Compressed,
    pub(super) words: MediaTypes,
    pub(super) annotations: Annotations,
}

#[derive(Debug)]
pub(super) enum ArchiveTo {
    /// One file.
    Tar(Destination),
    /// A folder that is an OCI image layout.
    Layout(PathBuf),
}

/// Where a single stream of bytes goes.
#[derive(Debug)]
pub(super) enum Destination {
    Stdout,
    File(PathBuf),
}

/// Free text about an image.
#[derive(Debug, Default, Clone)]
pub(super) struct Annotations {
    /// In its manifest.
    pub(super) manifest: BTreeMap<String, String>,
    /// In what points to its manifest.
    pub(super) descriptor: BTreeMap<String, String>,
}

/// What the command line asks for. Without `--output` that is an image in the store.
pub(super) fn parse(
    args: &BuildArgs,
    names: &[Reference],
    platform: &Platform,
) -> Result<Vec<Output>, CliError> {
    let mut annotations = Annotations::default();
    for text in &args.annotation {
        annotations.add_flag(text, platform)?;
    }
    let common = Common { names, platform, annotations };
    let mut outputs = Vec::new();
    for text in args.output.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        outputs.push(common.output(text)?);
    }
    let pushes = |output: &Output| matches!(output, Output::Store(Stored { push: Some(_), .. }));
    let is_pushed = outputs.iter().any(pushes);
    if args.load || outputs.is_empty() || args.push && !is_pushed {
        let (names, annotations) = (names.to_vec(), common.annotations.clone());
        let push = (args.push && !is_pushed).then(Pushed::default);
        outputs.push(Output::Store(Stored { names, words: None, annotations, push }));
    }
    check(&outputs, args)?;
    Ok(outputs)
}

/// What is wrong with outputs that are each right.
fn check(outputs: &[Output], args: &BuildArgs) -> Result<(), CliError> {
    let to_stdout = outputs.iter().filter(|output| output.is_stdout()).count();
    if to_stdout > 1 {
        let message = "multiple outputs configured to write to stdout";
        return Err(CliError::Usage(message.to_owned()));
    }
    if to_stdout > 0 && io::stdout().is_terminal() {
        return Err(CliError::ArchiveToTerminal);
    }
    let is_nameless = |output: &Output| match output {
        Output::Store(stored) => stored.push.is_some() && stored.names.is_empty(),
        _ => false,
    };
    if outputs.iter().any(is_nameless) {
        let message = "tag is needed when pushing to registry: give one with `--tag`";
        return Err(CliError::Usage(message.to_owned()));
    }
    let no_image = |output: &Output| matches!(output, Output::Folder { .. } | Output::Tar(_));
    if args.iidfile.is_some() && outputs.iter().any(no_image) {
        let message = "local and tar exporters are incompatible with image ID file";
        return Err(CliError::Usage(message.to_owned()));
    }
    Ok(())
}

impl Output {
    /// Whether it is written to standard output.
    pub(super) fn is_stdout(&self) -> bool {
        match self {
            Self::Tar(to) | Self::Archive(Archive { to: ArchiveTo::Tar(to), .. }) => {
                matches!(to, Destination::Stdout)
            }
            _ => false,
        }
    }

    /// Whether it is an image, rather than files.
    pub(super) fn is_image(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Archive(_))
    }
}

/// What all outputs share.
struct Common<'a> {
    /// Those of `--tag`, which come before those of an output.
    names: &'a [Reference],
    platform: &'a Platform,
    annotations: Annotations,
}

impl Common<'_> {
    fn output(&self, text: &str) -> Result<Output, CliError> {
        let fields = csv::fields(text).map_err(|why| wrong(FLAG, text, why))?;
        if let [only] = &fields[..]
            && only == text
            && !text.starts_with("type=")
        {
            if text == "-" {
                return Ok(Output::Tar(Destination::Stdout));
            }
            return Ok(Output::Folder { path: fields::folder(FLAG, text, text)?, split: false });
        }
        let mut fields = Fields::of(FLAG, text, fields)?;
        let output = match fields.take("type").as_deref() {
            None => return Err(fields.wrong("type is required for output")),
            Some("local") => {
                let path = fields.dest_folder("local")?;
                let split = fields.take_bool("platform-split")?.unwrap_or(false);
                match fields.take("mode").as_deref() {
                    None | Some("copy") => {}
                    Some(_) => {
                        return Err(fields.wrong("`mode` other than `copy` is not supported"));
                    }
                }
                Output::Folder { path, split }
            }
            Some("tar") => {
                // As BuildKit: it makes a difference only to several platforms.
                fields.take_bool("platform-split")?;
                Output::Tar(fields.dest()?.unwrap_or(Destination::Stdout))
            }
            Some("cacheonly") => Output::Nothing,
            Some("image") => self.stored(false, &mut fields)?,
            Some("registry") => self.stored(true, &mut fields)?,
            Some("docker") if !fields.has("dest") => self.stored(false, &mut fields)?,
            Some(kind @ ("oci" | "docker")) => self.archive(kind == "docker", &mut fields)?,
            Some(_) => {
                let why = "its type is none of local, tar, oci, docker, image, registry, cacheonly";
                return Err(fields.wrong(why));
            }
        };
        fields.end()?;
        Ok(output)
    }

    fn stored(&self, is_pushed: bool, fields: &mut Fields<'_>) -> Result<Output, CliError> {
        let is_pushed = fields.take_bool("push")?.unwrap_or(is_pushed);
        let by_digest = fields.take_bool("push-by-digest")?.unwrap_or(false);
        if fields.take_bool("registry.insecure")? == Some(true) {
            let why = "`registry.insecure` is for a daemon's settings: use `--tls-verify=false`";
            return Err(fields.wrong(why));
        }
        // Layers of the store always are directories; a digest always finds its image.
        for key in ["unpack", "name-canonical"] {
            fields.take_bool(key)?;
        }
        fields.take_bool("rewrite-timestamp")?;
        let push = if is_pushed {
            Some(Pushed { compressed: fields.compressed()?, by_digest })
        } else if fields.take("compression").is_some_and(|method| method != "uncompressed") {
            let why = "layers of the store are not compressed: push, or give type=oci a dest";
            return Err(fields.wrong(why));
        } else {
            None
        };
        let words = fields.take_bool("oci-mediatypes")?;
        let words = words.map(|oci| if oci { MediaTypes::Oci } else { MediaTypes::Docker });
        let names = self.names_of(fields)?;
        let annotations = self.annotations_of(fields)?;
        if fields.take_bool("store")? == Some(false) && push.is_none() {
            return Ok(Output::Nothing);
        }
        Ok(Output::Store(Stored { names, words, annotations, push }))
    }

    fn archive(&self, docker_files: bool, fields: &mut Fields<'_>) -> Result<Output, CliError> {
        let is_tar = fields.take_bool("tar")?.unwrap_or(true);
        let to = if is_tar {
            ArchiveTo::Tar(fields.dest()?.unwrap_or(Destination::Stdout))
        } else if docker_files {
            return Err(fields.wrong("`tar=false` is for type=oci"));
        } else {
            ArchiveTo::Layout(fields.dest_folder("oci")?)
        };
        fields.take_bool("rewrite-timestamp")?;
        let compressed = fields.compressed()?;
        let words = match fields.take_bool("oci-mediatypes")? {
            Some(false) => MediaTypes::Docker,
            Some(true) | None => MediaTypes::Oci,
        };
        Ok(Output::Archive(Archive {
            to,
            docker_files,
            compressed,
            words,
            names: self.names_of(fields)?,
            annotations: self.annotations_of(fields)?,
        }))
    }

    /// Those of `--tag`, if there are any, else those of `name=`.
    fn names_of(&self, fields: &mut Fields<'_>) -> Result<Vec<Reference>, CliError> {
        let own = fields.take("name").unwrap_or_default();
        let own = own.split(',').map(str::trim).filter(|name| !name.is_empty());
        let own = own.map(str::parse).collect::<Result<Vec<_>, _>>()?;
        Ok(if self.names.is_empty() { own } else { self.names.to_vec() })
    }

    fn annotations_of(&self, fields: &mut Fields<'_>) -> Result<Annotations, CliError> {
        let mut annotations = Annotations::default();
        for (key, value) in fields.take_all("annotation") {
            // `annotation[-LEVEL][[PLATFORM]].KEY`
            let (place, name) = key.split_once('.').unwrap_or((&key, ""));
            let place = place.strip_prefix("annotation").unwrap_or(place);
            let place = place.strip_prefix('-').unwrap_or(place);
            annotations
                .add(place, name, &value, self.platform)
                .map_err(|why| fields.wrong(&format!("`{}`: {why}", key.escape_debug())))?;
        }
        annotations.manifest.extend(self.annotations.manifest.clone());
        annotations.descriptor.extend(self.annotations.descriptor.clone());
        Ok(annotations)
    }
}

impl Annotations {
    /// `[LEVEL[PLATFORM],…:]KEY=VALUE`
    fn add_flag(&mut self, text: &str, platform: &Platform) -> Result<(), CliError> {
        let wrong = |why: &str| {
            CliError::Usage(format!("invalid annotation `{}`: {why}", text.escape_debug()))
        };
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("expected key=value"))?;
        let (levels, key) = key.split_once(':').unwrap_or(("", key));
        for level in levels.split(',') {
            self.add(level, key, value, platform).map_err(|why| wrong(&why))?;
        }
        Ok(())
    }

    /// Adds one at `LEVEL[PLATFORM]`, each of which may be left out.
    fn add(
        &mut self,
        place: &str,
        key: &str,
        value: &str,
        platform: &Platform,
    ) -> Result<(), String> {
        if key.is_empty() {
            return Err("it has no key".to_owned());
        }
        let (level, of) = match place.split_once('[') {
            Some((level, rest)) => {
                let text = rest.strip_suffix(']').ok_or("a bracket is not closed")?;
                (level, Some(Platform::parse(text).ok_or("the platform is none")?))
            }
            None => (place, None),
        };
        let all = match level {
            "" | "manifest" => &mut self.manifest,
            "manifest-descriptor" => &mut self.descriptor,
            "index" | "index-descriptor" => {
                return Err("index annotations not supported for single platform export".into());
            }
            other => return Err(format!("unknown annotation type `{}`", other.escape_debug())),
        };
        if of.is_none_or(|of| of == *platform) {
            all.insert(key.to_owned(), value.to_owned());
        }
        Ok(())
    }
}
