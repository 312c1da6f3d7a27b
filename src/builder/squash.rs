//! One layer of all that a build has put on its base.

use std::io;
use std::path::Path;
use std::thread;

use super::BuildError;
use super::ops::{open_layer, open_upper};
use super::snapshot::{Snapshot, with_causes};
use crate::layer;
use crate::snapshot::Upper;
use crate::store::Store;

/// A file system whose layers above the lowest `base` ones are one, which is in the store. What a
/// later layer deletes or replaces is not in it.
pub(super) fn squash(
    snapshot: &Snapshot,
    base: usize,
    store: &Store,
) -> Result<Snapshot, BuildError> {
    let own = snapshot.layers().count().saturating_sub(base);
    if own < 2 {
        return Ok(snapshot.clone());
    }
    let created = snapshot.created();
    snapshot.bring(store, &|_, _| {})?;
    let dirs = snapshot.dirs()?;
    let below = snapshot.below(own);
    let staged = store.stage_layer()?;
    let upper = open_upper(&staged, &below.view()?)?;
    for dir in dirs[..own].iter().rev() {
        add(dir, &upper)?;
    }
    drop(upper);
    let squashed = below.commit(staged, created, false);
    let sealed = squashed.top().map(|layer| layer.seal(store)).transpose()?.flatten();
    store.publish(Vec::new(), sealed.into_iter().collect())?;
    Ok(squashed)
}

/// Adds a layer to the one that is being made: what is true of its tar is true of it.
fn add(dir: &Path, upper: &Upper) -> Result<(), BuildError> {
    let packed = |err: &dyn std::error::Error| BuildError::Pack { reason: with_causes(err) };
    let (reader, writer) = io::pipe().map_err(|err| packed(&err))?;
    let layer = open_layer(dir)?;
    thread::scope(|scope| {
        let packing = scope.spawn(move || layer::pack(&layer, io::BufWriter::new(writer)));
        let applied = layer::apply(reader, upper, layer::Options::MERGED);
        let done = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Where nobody reads on, the other end has the reason.
        applied.map_err(|err| packed(&err))?;
        done.map_err(|err| packed(&err))?;
        Ok(())
    })
}
