//! `images`, `tag`, `rmi`, `inspect`, `history`: what is in the store.

use serde_json::json;

use super::args::{HistoryArgs, ImageNames, ImagesArgs, ListFormat, RmiArgs, TagArgs};
use super::{CliError, Context, ui};
use crate::cache::StepCache;
use crate::oci::{Digest, Reference};
use crate::store::{Image, Named, Store, StoreError};

pub(super) fn images(context: &Context, args: &ImagesArgs) -> Result<(), CliError> {
    let store = context.open_store()?;
    let wanted = |named: &Named| {
        args.name.as_ref().is_none_or(|name| {
            let reference: Result<Reference, _> = name.parse();
            let found = named.reference();
            match (reference, found) {
                (Ok(wanted), Some(found)) => {
                    found == wanted
                        || !name.contains([':', '@'])
                            && found.familiar_repository() == wanted.familiar_repository()
                }
                _ => false,
            }
        })
    };
    let names: Vec<Named> = store.names()?.into_iter().filter(wanted).collect();
    let show = |id: Digest| if args.no_trunc { id.to_string() } else { id.short() };
    if args.quiet {
        let mut ids: Vec<String> = names.iter().map(|named| show(named.id)).collect();
        ids.dedup();
        return ui::data(|out| ids.iter().try_for_each(|id| writeln!(out, "{id}")));
    }
    let rows = names.iter().map(|named| row(&store, named)).collect::<Result<Vec<_>, _>>()?;
    match args.format {
        ListFormat::Json => ui::data(|out| {
            rows.iter().try_for_each(|row| {
                let line = json!({
                    "Repository": row.repository, "Tag": row.tag, "ID": row.id.to_string(),
                    "Created": row.created, "Size": row.size,
                });
                writeln!(out, "{line}")
            })
        }),
        ListFormat::Table => {
            let head = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
            let mut table = vec![head.map(str::to_owned).to_vec()];
            let now = jiff::Timestamp::now();
            table.extend(rows.into_iter().map(|row| {
                let created = ui::ago(&row.created, now);
                vec![row.repository, row.tag, show(row.id), created, ui::size(row.size)]
            }));
            ui::data(|out| write!(out, "{}", ui::table(&table)))
        }
    }
}

struct Row {
    repository: String,
    tag: String,
    id: Digest,
    created: String,
    size: u64,
}

fn row(store: &Store, named: &Named) -> Result<Row, CliError> {
    let image = store.image(&named.manifest)?;
    let reference = named.reference();
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "<none>".to_owned());
    Ok(Row {
        repository: or_none(reference.as_ref().map(Reference::familiar_repository)),
        tag: or_none(reference.and_then(|r| r.tag().map(str::to_owned))),
        id: named.id,
        created: image.config.created.clone().unwrap_or_default(),
        size: image.manifest.layers().iter().map(|layer| layer.size).sum(),
    })
}

pub(super) fn tag(context: &Context, args: &TagArgs) -> Result<(), CliError> {
    let store = context.open_store()?;
    let target: Reference = args.target.parse()?;
    let image = store.image(&store.find(&args.source)?.manifest)?;
    Ok(store.tag(&target, &image)?)
}

pub(super) fn rmi(context: &Context, args: &RmiArgs) -> Result<(), CliError> {
    let mut store = context.open_store()?;
    for text in &args.images {
        let found = store.find(text)?;
        let same: Vec<Named> =
            store.names()?.into_iter().filter(|named| named.id == found.id).collect();
        let by_name = text.parse().is_ok_and(|name: Reference| name.to_string() == found.name);
        let gone: Vec<&Named> = match same.as_slice() {
            all if !by_name && all.len() > 1 && !args.force => {
                return Err(CliError::SeveralNames { id: found.id.short(), count: all.len() });
            }
            all if by_name => all.iter().filter(|named| named.name == found.name).collect(),
            all => all.iter().collect(),
        };
        for named in &gone {
            store.untag(&named.name)?;
            if let Some(reference) = named.reference() {
                ui::line(&format!("Untagged: {}", reference.familiar()))?;
            }
        }
        if gone.len() == same.len() {
            ui::line(&format!("Deleted: {}", found.id))?;
        }
    }
    let cached = StepCache::new(&store.path().join("cache")).chains();
    if store.collect(cached)?.is_none() {
        ui::say("note: another mica is at work; the space is freed by the next `mica rmi`");
    }
    Ok(())
}

pub(super) fn inspect(context: &Context, args: &ImageNames) -> Result<(), CliError> {
    let store = context.open_store()?;
    let describe = |text: &String| {
        let named = store.find(text)?;
        let image = store.image(&named.manifest)?;
        let names: Vec<Named> = store.names()?;
        Ok(describe(&image, names.iter().filter(|other| other.id == named.id)))
    };
    let all = args.images.iter().map(describe).collect::<Result<Vec<_>, StoreError>>()?;
    let text = serde_json::to_string_pretty(&all).map_err(std::io::Error::from);
    ui::line(&text.map_err(CliError::Stdout)?)
}

/// What `docker inspect` shows of an image, as far as an image without a daemon has it.
fn describe<'a>(image: &Image, names: impl Iterator<Item = &'a Named>) -> serde_json::Value {
    let config = &image.config;
    let tags: Vec<String> =
        names.filter_map(Named::reference).map(|name| name.familiar()).collect();
    json!({
        "Id": image.id(),
        "Digest": image.manifest.descriptor().digest,
        "RepoTags": tags,
        "Created": config.created,
        "Author": config.author,
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": image.manifest.layers().iter().map(|layer| layer.size).sum::<u64>(),
        "Config": config.config,
        "RootFS": { "Type": config.rootfs.kind, "Layers": config.rootfs.diff_ids },
        "Layers": image.manifest.layers(),
    })
}

pub(super) fn history(context: &Context, args: &HistoryArgs) -> Result<(), CliError> {
    let store = context.open_store()?;
    let image = store.image(&store.find(&args.image)?.manifest)?;
    let mut layers = image.manifest.layers().iter();
    let mut rows = Vec::new();
    for entry in &image.config.history {
        let layer = if entry.empty_layer { None } else { layers.next() };
        rows.push((entry, layer.map_or(0, |layer| layer.size)));
    }
    rows.reverse();
    if args.format == ListFormat::Json {
        return ui::data(|out| {
            rows.iter().try_for_each(|(entry, size)| {
                let line = json!({
                    "Created": entry.created, "CreatedBy": entry.created_by,
                    "Comment": entry.comment, "Size": size,
                });
                writeln!(out, "{line}")
            })
        });
    }
    let now = jiff::Timestamp::now();
    let mut table = vec![["CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned).to_vec()];
    table.extend(rows.into_iter().map(|(entry, size)| {
        let created = ui::ago(entry.created.as_deref().unwrap_or_default(), now);
        let by = entry.created_by.as_deref().unwrap_or_default();
        let shown = if args.no_trunc || by.chars().count() <= 45 {
            by.to_owned()
        } else {
            by.chars().take(44).chain(['…']).collect()
        };
        vec![created, shown, ui::size(size), entry.comment.clone().unwrap_or_default()]
    }));
    ui::data(|out| write!(out, "{}", ui::table(&table)))
}
