//! RUN: a command in the sandbox, on an overlay of which the new layer is the upper directory.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Work;
use super::copy::copy_tree;
use super::make_dir::{open, open_upper};
use crate::builder::BuildError;
use crate::builder::graph::{MountKind, RunMount, RunOp, Sharing, Tree};
use crate::builder::progress::Event;
use crate::builder::redact::{self, Redactor};
use crate::cache::KeyHasher;
use crate::mount::Overlay;
use crate::runtime::{
    ExecSpec, ExitStatus, Network, Resource, SandboxError, SandboxMount, Security, Stdin, Stream,
    Ulimit,
};
use crate::snapshot::{Attributes, View};
use crate::ssh::Forward;
use crate::store::StagedLayer;

/// The name of an agent's socket in its folder.
const SOCKET: &str = "agent";

pub(super) fn execute(work: &Work<'_>, op: &RunOp, staged: &StagedLayer) -> Result<(), BuildError> {
    let mut held = Held::default();
    let spec = spec(work, op, staged, &mut held)?;
    let show = |bytes: &[u8]| {
        work.services.progress.event(&Event::Output { vertex: work.id, bytes });
    };
    let redactor = Redactor::new(held.secrets.iter().map(Vec::as_slice));
    let [mut stdout, mut stderr] = [redact::Held::default(), redact::Held::default()];
    let mut output = |stream, bytes: &[u8]| {
        if redactor.is_empty() {
            return show(bytes);
        }
        let held = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
        match redactor.pass(held, bytes) {
            shown if shown.is_empty() => {}
            shown => show(&shown),
        }
    };
    let ended = work.services.sandbox.run(&spec, &mut output, work.services.cancel);
    for rest in [stdout.finish(), stderr.finish()].iter().filter(|rest| !rest.is_empty()) {
        show(rest);
    }
    let step = || work.vertex.name.clone();
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(_) | Err(SandboxError::Cancelled) if work.services.cancel.is_cancelled() => {
            Err(BuildError::Cancelled)
        }
        Ok(status) => Err(BuildError::Run { step: step(), status }),
        Err(err) => match err.exit_code() {
            // The command's own fault, as a shell would tell it.
            code @ (126 | 127) => {
                let text = err.to_string();
                show(format!("{text}\n").as_bytes());
                Err(BuildError::Run { step: step(), status: ExitStatus::Code(code) })
            }
            _ => Err(BuildError::Sandbox { step: step(), source: err }),
        },
    }
}

/// What has to live as long as the step runs.
#[derive(Default)]
struct Held {
    layers: Vec<StagedLayer>,
    locks: Vec<File>,
    agents: Vec<Forward>,
    env: Vec<(OsString, OsString)>,
    /// Values that are not to be shown.
    secrets: Vec<Vec<u8>>,
}

fn spec(
    work: &Work<'_>,
    op: &RunOp,
    staged: &StagedLayer,
    held: &mut Held,
) -> Result<ExecSpec, BuildError> {
    let rootfs = Overlay::writable(work.root.dirs()?, staged.fs(), staged.work());
    let mut mounts = Vec::new();
    for mount in &op.mounts {
        mounts.extend(sandbox_mount(work, mount, held)?);
    }
    keep_last_on_each_path(&mut mounts);
    // As BuildKit: what is mounted deeper is not hidden by what is mounted above it.
    mounts.sort_by_key(|mount| mount.target().components().count());
    if let Some((path, text)) = &op.script {
        mounts.push(SandboxMount::File {
            content: text.clone().into_bytes(),
            target: path.into(),
            mode: 0o755,
            uid: 0,
            gid: 0,
        });
    }
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (OsString::from(name), OsString::from(value))
    };
    let ulimits = op.ulimits.iter().filter_map(|(name, soft, hard)| {
        let resource = Resource::from_name(name)?;
        let limit = |value: u64| (value != u64::MAX).then_some(value);
        Some(Ulimit { resource, soft: limit(*soft), hard: limit(*hard) })
    });
    Ok(ExecSpec {
        rootfs,
        mounts,
        argv: op.argv.iter().map(OsString::from).collect(),
        env: environment(op.env.iter().chain(&op.hidden_env).map(pair).chain(held.env.drain(..))),
        cwd: PathBuf::from(&op.cwd),
        user: work.step_user(&op.user)?,
        network: if op.network { Network::Host } else { Network::None },
        hosts: op.hosts.clone(),
        hostname: op.hostname.clone(),
        ulimits: ulimits.collect(),
        shm_size: op.shm_size,
        security: if op.insecure { Security::Insecure } else { Security::Sandbox },
        terminal: false,
        stdin: Stdin::Null,
    })
}

/// As BuildKit: of several mounts on one path, the last one counts.
fn keep_last_on_each_path(mounts: &mut Vec<SandboxMount>) {
    let mut taken = HashSet::new();
    mounts.reverse();
    mounts.retain(|mount| taken.insert(mount.target().clone()));
    mounts.reverse();
}

/// The variables without those that a later one of the same name replaces.
fn environment(pairs: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    let mut places = HashMap::new();
    for (name, value) in pairs {
        let place = *places.entry(name.clone()).or_insert(env.len());
        match env.get_mut(place) {
            Some((_, old)) => *old = value,
            None => env.push((name, value)),
        }
    }
    env
}

fn sandbox_mount(
    work: &Work<'_>,
    mount: &RunMount,
    held: &mut Held,
) -> Result<Option<SandboxMount>, BuildError> {
    let target = PathBuf::from(&mount.target);
    Ok(match &mount.kind {
        MountKind::Bind { from, source, writable } => {
            let (tree, path) = bind_source(work, *from, source, *writable, held)?;
            Some(SandboxMount::Bind { source: tree, path, target, read_only: !writable })
        }
        MountKind::Cache { id, sharing, from, source, writable, owner } => {
            let dir = cache_dir(work, id, *sharing, (*from, source), *owner, held)?;
            // Without anything to fill it with, `source` is a part of the cache itself.
            let part = if *from == Tree::Scratch { source.trim_start_matches('/') } else { "" };
            let (source, path) = (Overlay::directory(dir), PathBuf::from(part));
            Some(SandboxMount::Bind { source, path, target, read_only: !writable })
        }
        MountKind::Tmpfs { size, writable } => {
            Some(SandboxMount::Tmpfs { target, size: *size, mode: 0o1777, read_only: !writable })
        }
        MountKind::Secret { id, required, env, file, owner: (mode, uid, gid) } => {
            let Some(content) = work.services.secrets.read(id)? else {
                if *required {
                    return Err(BuildError::NoSecret(id.clone()));
                }
                // As BuildKit: no file, but a variable.
                held.env.extend(env.iter().map(|name| (name.into(), OsString::new())));
                return Ok(None);
            };
            held.secrets.push(content.clone());
            if let Some(name) = env {
                held.env.push((name.into(), OsString::from_vec(content.clone())));
            }
            let (mode, uid, gid) = (*mode, *uid, *gid);
            file.then_some(SandboxMount::File { content, target, mode, uid, gid })
        }
        MountKind::Ssh { id, required, owner } => {
            let Some(agent) = work.services.ssh.socket(id) else {
                return if *required { Err(BuildError::NoSsh(id.clone())) } else { Ok(None) };
            };
            // Its folder is mica's alone: nobody on the host reaches the socket, whoever owns it.
            let layer = work.services.store.stage_layer()?;
            let dir = layer.fs();
            held.layers.push(layer);
            let forward = Forward::listen(&dir, SOCKET, *owner, agent);
            held.agents.push(forward.map_err(|source| BuildError::Ssh { id: id.clone(), source })?);
            let source = Overlay::directory(dir);
            Some(SandboxMount::Bind { source, path: SOCKET.into(), target, read_only: true })
        }
    })
}

/// The tree that a bind mount shows, and the path in it. Files of a context are copied, so that
/// their owners, and what an ignore file hides, are what COPY would make of them.
fn bind_source(
    work: &Work<'_>,
    from: Tree,
    path: &str,
    writable: bool,
    held: &mut Held,
) -> Result<(Overlay, PathBuf), BuildError> {
    let source = work.inputs.source(from)?;
    let mut lowers = match from {
        Tree::Vertex(id) => {
            if source.resolve(Path::new(path))?.is_none() {
                let place = source.place.clone();
                return Err(BuildError::NotFound { path: path.into(), place, ignored: false });
            }
            work.inputs.snapshot(id).dirs()?
        }
        Tree::Scratch => Vec::new(),
        Tree::Context(_) => {
            let roots = source.select_path(path, &[])?;
            work.inputs.compare(&source, &roots);
            let layer = work.services.store.stage_layer()?;
            let upper = open_upper(&layer, &View::new(Vec::new())?)?;
            copy_tree(&source, &roots, &upper, path, work.now())?;
            let lowers = vec![layer.fs()];
            held.layers.push(layer);
            lowers
        }
    };
    if lowers.is_empty() {
        let empty = work.services.store.stage_layer()?;
        lowers.push(empty.fs());
        held.layers.push(empty);
    }
    let mut tree = Overlay { lowers, upper: None, work: None };
    if writable {
        // What is written is thrown away.
        let layer = work.services.store.stage_layer()?;
        (tree.upper, tree.work) = (Some(layer.fs()), Some(layer.work()));
        held.layers.push(layer);
    }
    Ok((tree, PathBuf::from(path.trim_start_matches('/'))))
}

/// The folder of a cache mount, locked as its sharing says until the step has ended.
fn cache_dir(
    work: &Work<'_>,
    id: &str,
    sharing: Sharing,
    (from, source): (Tree, &str),
    owner: (u32, u32, u32),
    held: &mut Held,
) -> Result<PathBuf, BuildError> {
    let mut key = KeyHasher::new("cache mount");
    key.field("id", id);
    key.list("owner", [owner.0, owner.1, owner.2].map(u32::to_le_bytes));
    let seed = work.inputs.source(from)?;
    let roots = match from {
        Tree::Scratch => Vec::new(),
        Tree::Vertex(_) | Tree::Context(_) => seed.select_path(source, &[])?,
    };
    key.digest("seed", seed.digest(&roots)?);
    let key = key.finish().0;
    let fill = |dir: &Path| {
        let view = View::new(Vec::new())?;
        let upper = crate::snapshot::Upper::new(open(dir)?, &view)?;
        copy_tree(&seed, &roots, &upper, "/", work.now())?;
        let (mode, uid, gid) = owner;
        let attributes = Attributes { mode, uid, gid, ..Attributes::default() };
        upper.root().set_attributes(&attributes).map_err(BuildError::from)
    };
    let store = work.services.store;
    let (dir, lock) = match sharing {
        Sharing::Shared => store.mount_dir(key, 0, fill).map(|dir| (dir, None))?,
        Sharing::Locked => {
            let lock = store.lock_mount(key, 0, true)?;
            (store.mount_dir(key, 0, fill)?, lock)
        }
        Sharing::Private => {
            let mut number = 0;
            loop {
                if let Some(lock) = store.lock_mount(key, number, false)? {
                    break (store.mount_dir(key, number, fill)?, Some(lock));
                }
                number += 1;
            }
        }
    };
    held.locks.extend(lock);
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_name_counts_in_the_place_of_the_first() {
        let pair = |(name, value): (&str, &str)| (name.into(), value.into());
        let given = [("A", "1"), ("B", "2"), ("A", "3"), ("C", "")];
        let expected = [("A", "3"), ("B", "2"), ("C", "")];
        assert_eq!(environment(given.into_iter().map(pair)), expected.map(pair));
    }
}
