//! From the files and the config to an image in the store.

use super::lower::Lowered;
use super::snapshot::Snapshot;
use super::{BuildError, BuildRequest, Services};
use crate::cache::{SharedIndex, Step};
use crate::oci::{Descriptor, History, MediaType};
use crate::store::Image;

/// Writes the image of a build.
pub(super) fn assemble(
    lowered: Lowered,
    snapshot: &Snapshot,
    steps: &[Step],
    request: &BuildRequest,
    services: &Services<'_>,
) -> Result<Image, BuildError> {
    let Lowered { mut config, base_layers, base_history, .. } = lowered;
    let mut layers = base_layers;
    let base = layers.len();
    let mut records = match snapshot.chain()? {
        Some(chain) => services.store.layers_of(chain)?,
        None => Vec::new(),
    };
    records.reverse();
    if !steps.is_empty() {
        let index = SharedIndex::of_image(&records, steps);
        config.extra.insert(SharedIndex::MEMBER.to_owned(), index);
    }
    let mut created = Vec::new();
    config.rootfs.diff_ids.truncate(base);
    // What the store says counts: of two steps that made the same layer, one has given it its time.
    for record in records.into_iter().skip(base) {
        config.rootfs.diff_ids.push(record.diff_id);
        layers.push(Descriptor::new(MediaType::ImageLayer, record.diff_id.0, record.size));
        created.push(record.created);
    }
    // An instruction without a layer was done when the layer before it was; the first ones, when
    // the base was made.
    let (old, new) = config.history.split_at_mut(base_history);
    merge_history(new, created.len());
    let mut last = old.iter().rev().find_map(|entry| entry.created.clone());
    let first = || match request.epoch {
        Some(epoch) => jiff::Timestamp::from_second(epoch).unwrap_or_default().to_string(),
        None => jiff::Timestamp::UNIX_EPOCH.to_string(),
    };
    let mut times = created.into_iter();
    for entry in new {
        if !entry.empty_layer
            && let Some(time) = times.next()
        {
            last = time;
        }
        entry.created = Some(last.clone().unwrap_or_else(first));
    }
    config.created = Some(last.unwrap_or_else(first));
    let store = services.store;
    let (image, blobs) = store.stage_image(config, layers)?;
    store.publish(blobs, Vec::new())?;
    Ok(image)
}

/// Of the instructions whose layers were made one, the last has it.
fn merge_history(entries: &mut [History], layers: usize) {
    let count = entries.iter().filter(|entry| !entry.empty_layer).count();
    let mut surplus = count.saturating_sub(layers);
    for entry in entries {
        if surplus > 0 && !entry.empty_layer {
            entry.empty_layer = true;
            surplus -= 1;
        }
    }
}
