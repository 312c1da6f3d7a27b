//! `--cache-from` and `--cache-to`, in the grammar of buildx.

use std::path::PathBuf;
use std::thread;

use super::csv;
use super::fields::{Fields, wrong};
use super::outputs::Compressed;
use crate::builder::BuildArgs;
use crate::cache::{CacheKey, SharedCache, Step};
use crate::cli::CliError;
use crate::export::{Options, Stop};
use crate::import::Pick;
use crate::oci::Reference;
use crate::parser;
use crate::registry::Registries;
use crate::shared::{Exporter, Folder, Importer, Mode, Place, Tag, with_causes};
use crate::store::Store;

/// So many layers are on their way to a place at once.
const WORKERS: usize = 4;

const FROM: &str = "--cache-from";
const TO: &str = "--cache-to";

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct CacheFlags {
    from: Vec<Location>,
    to: Vec<Export>,
    /// Whether the image's config holds the keys of its layers.
    pub(super) inline: bool,
}

#[derive(Debug)]
enum Location {
    Registry(Reference),
    Folder(PathBuf, Pick),
}

#[derive(Debug)]
struct Export {
    location: Location,
    mode: Mode,
    compressed: Compressed,
}

/// Reads both flags, and the build argument that means `--cache-to type=inline`.
pub(super) fn parse(
    from: &[String],
    to: &[String],
    build_args: &BuildArgs,
) -> Result<CacheFlags, CliError> {
    let inline = build_args.get("BUILDKIT_INLINE_CACHE");
    let inline = inline.and_then(|text| parser::boolean(text)).unwrap_or(false);
    let mut flags = CacheFlags { inline, ..CacheFlags::default() };
    for text in from {
        for mut fields in fields_of(FROM, text)? {
            let location = match fields.take("type").as_deref() {
                Some("registry") => registry(&mut fields)?,
                Some("local") => folder(&mut fields, "src")?,
                other => return Err(unknown(&fields, other)),
            };
            fields.end()?;
            flags.from.push(location);
        }
    }
    for text in to {
        for mut fields in fields_of(TO, text)? {
            let mode = match fields.take("mode").as_deref() {
                None | Some("min") => Mode::Min,
                Some("max") => Mode::Max,
                Some(_) => return Err(fields.wrong("`mode` is min or max")),
            };
            // What fails here never fails a build; and there is one form of the documents.
            for key in ["ignore-error", "image-manifest", "oci-mediatypes"] {
                fields.take_bool(key)?;
            }
            let location = match fields.take("type").as_deref() {
                Some("registry") => Some(registry(&mut fields)?),
                Some("local") => Some(folder(&mut fields, "dest")?),
                Some("inline") => None,
                other => return Err(unknown(&fields, other)),
            };
            match location {
                Some(location) => {
                    let compressed = fields.compressed()?;
                    flags.to.push(Export { location, mode, compressed });
                }
                None if mode == Mode::Max => {
                    return Err(fields.wrong("an image holds the steps of its own layers only"));
                }
                None => flags.inline = true,
            }
            fields.end()?;
        }
    }
    Ok(flags)
}

/// The fields of a flag; without a single `=` it is a list of names in registries.
fn fields_of<'a>(flag: &'static str, text: &'a str) -> Result<Vec<Fields<'a>>, CliError> {
    let fields = csv::fields(text).map_err(|why| wrong(flag, text, why))?;
    if fields.iter().any(|field| field.contains('=')) {
        return Ok(vec![Fields::of(flag, text, fields)?]);
    }
    let named = |name: String| {
        Fields::of(flag, text, vec!["type=registry".to_owned(), format!("ref={name}")])
    };
    fields.into_iter().map(named).collect()
}

fn registry(fields: &mut Fields<'_>) -> Result<Location, CliError> {
    if fields.take_bool("registry.insecure")? == Some(true) {
        let why = "`registry.insecure` is for a daemon's settings: use `--tls-verify=false`";
        return Err(fields.wrong(why));
    }
    let name = fields.take("ref").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| fields.wrong("`ref` is required: the name of the cache"))?;
    let name = name.parse::<Reference>().map_err(|err| fields.wrong(&err.to_string()))?;
    Ok(Location::Registry(name))
}

fn folder(fields: &mut Fields<'_>, key: &str) -> Result<Location, CliError> {
    let path = fields.take(key).filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| fields.wrong(&format!("`{key}` is required: a folder")))?;
    let digest = fields.take("digest").map(|digest| {
        let digest = digest.parse().map_err(|_| fields.wrong("`digest` is no digest"))?;
        Ok::<_, CliError>(Pick::Digest(digest))
    });
    let tag = fields.take("tag").unwrap_or_else(|| "latest".to_owned());
    Ok(Location::Folder(path.into(), digest.transpose()?.unwrap_or(Pick::Tag(tag))))
}

fn unknown(fields: &Fields<'_>, kind: Option<&str>) -> CliError {
    match kind {
        Some("gha" | "s3" | "azblob") => {
            fields.wrong("mica keeps a shared cache in a registry or in a folder")
        }
        Some(_) => fields.wrong("`type` is registry, local or inline"),
        None => fields.wrong("`type` is required"),
    }
}

/// Where shared caches are, while a build goes on.
pub(super) struct Places<'a> {
    store: &'a Store,
    from: Vec<Box<dyn Place + 'a>>,
    to: Vec<(Box<dyn Place + 'a>, Mode)>,
}

impl CacheFlags {
    /// The places that were asked for.
    pub(super) fn places<'a>(
        &'a self,
        store: &'a Store,
        registries: &'a Registries,
        stop: Stop<'a>,
    ) -> Places<'a> {
        let open = |location: &Location, compressed: Compressed| -> Box<dyn Place + 'a> {
            let Compressed { compression, level, force } = compressed;
            let options = Options { compression, level, force, stop, ..Options::oci() };
            match location {
                Location::Registry(name) => {
                    Box::new(Tag::new(store, registries, name.clone(), options))
                }
                Location::Folder(path, pick) => {
                    Box::new(Folder::new(store, path.clone(), pick.clone(), options))
                }
            }
        };
        Places {
            store,
            from: self.from.iter().map(|from| open(from, Compressed::default())).collect(),
            to: self.to.iter().map(|to| (open(&to.location, to.compressed), to.mode)).collect(),
        }
    }
}

impl Places<'_> {
    /// Builds with what is in these places, and brings there what was built. `warn` is told what
    /// failed of that; what became of it is added to `said`.
    pub(super) fn during<T, E>(
        &self,
        warn: &(dyn Fn(&str) + Sync),
        said: &mut Vec<String>,
        build: impl FnOnce(Option<&dyn SharedCache>) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.from.is_empty() && self.to.is_empty() {
            return build(None);
        }
        let today = u32::try_from(jiff::Timestamp::now().as_second() / (24 * 60 * 60));
        let today = today.unwrap_or(0);
        let places = self.to.iter();
        let exporters = places
            .map(|(place, mode)| Exporter::new(self.store, place.as_ref(), *mode, today))
            .collect();
        let importer = Importer::new(self.store, self.from.iter().map(AsRef::as_ref), warn);
        let shared = Shared { importer, exporters };
        let result = thread::scope(|scope| {
            for exporter in &shared.exporters {
                for _ in 0..WORKERS {
                    scope.spawn(|| exporter.work());
                }
            }
            let result = build(Some(&shared));
            shared.exporters.iter().for_each(|exporter| exporter.close(result.is_ok()));
            result
        })?;
        for exporter in shared.exporters {
            let place = exporter.place();
            match exporter.finish() {
                Ok(Some(layers)) => {
                    said.push(format!("exported the cache to {place} ({layers} new layers)"));
                }
                Ok(None) => said.push(format!("the cache of {place} has it all")),
                Err(err) => {
                    let why = with_causes(&err);
                    warn(&format!("cannot export the cache to {place}: {why}"));
                }
            }
        }
        Ok(result)
    }
}

struct Shared<'a> {
    importer: Importer<'a>,
    exporters: Vec<Exporter<'a>>,
}

impl SharedCache for Shared<'_> {
    fn find(&self, key: CacheKey) -> Option<Step> {
        self.importer.find(key)
    }

    fn done(&self, step: &Step, in_image: bool) {
        self.exporters.iter().for_each(|exporter| exporter.done(step, in_image));
    }
}
