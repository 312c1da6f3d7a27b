//! `RUN --mount`: from the options to a [`RunMount`].

use super::config::absolute;
use super::stages::mount_from;
use super::state::State;
use super::{Lowering, Place, Site};
use crate::builder::BuildError;
use crate::builder::graph::{MountKind, RunMount, Sharing, Tree};
use crate::parser::{self, Diagnostic, Mount, MountSpec, MountType, Run, Span};

/// Permissions of a secret's file, BuildKit's default.
const SECRET_MODE: u32 = 0o400;
/// Permissions of an agent's socket, BuildKit's default.
const SSH_MODE: u32 = 0o600;
/// Permissions of a cache's folder, BuildKit's default.
const CACHE_MODE: u32 = 0o755;

impl Lowering<'_> {
    pub(super) fn mounts(
        &mut self,
        state: &State,
        site: Site<'_>,
        run: &Run,
    ) -> Result<Vec<RunMount>, BuildError> {
        let mut mounts = Vec::new();
        for mount in &run.mounts {
            let agents = mounts.iter().filter(|it: &&RunMount| it.is_ssh()).count();
            mounts.push(self.mount(state, site.place, mount, agents)?);
        }
        Ok(mounts)
    }

    fn mount(
        &mut self,
        state: &State,
        place: Place,
        mount: &Mount,
        agents: usize,
    ) -> Result<RunMount, BuildError> {
        let escape = self.escape;
        let spec = mount.resolve(&mut |word| state.scope.expand(word, escape))?;
        let span = mount.word.span;
        let from_span = mount_from(mount).map_or(span, |word| word.span);
        let mount = match spec.kind {
            MountType::Secret => secret(state, &spec),
            MountType::Ssh => ssh(state, &spec, agents),
            MountType::Bind | MountType::Cache | MountType::Tmpfs => {
                let kind = self.folder(place, &spec, from_span)?;
                RunMount { target: target(state, &spec), kind }
            }
        };
        if mount.target == "/" {
            let message = "invalid mount target `/`";
            return Err(Diagnostic::error("invalid-mount", span, message)
                .with_hint("add `target=/path`: a mount cannot hide the whole image")
                .into());
        }
        Ok(mount)
    }

    fn folder(
        &mut self,
        place: Place,
        spec: &MountSpec,
        span: Span,
    ) -> Result<MountKind, BuildError> {
        let source = absolute("/", spec.source.as_deref().unwrap_or("/"));
        Ok(match spec.kind {
            MountType::Cache => MountKind::Cache {
                id: self.cache_id(spec),
                sharing: match spec.sharing.unwrap_or_default() {
                    parser::Sharing::Shared => Sharing::Shared,
                    parser::Sharing::Private => Sharing::Private,
                    parser::Sharing::Locked => Sharing::Locked,
                },
                from: self.mount_tree(spec, Tree::Scratch, place, span)?,
                source,
                writable: !spec.read_only,
                owner: owner(spec, CACHE_MODE),
            },
            MountType::Tmpfs => MountKind::Tmpfs {
                // As Docker: nothing is no limit.
                size: spec.size_bytes.filter(|size| *size > 0),
                writable: !spec.read_only,
            },
            _ => MountKind::Bind {
                from: self.mount_tree(spec, Tree::Context(0), place, span)?,
                source,
                writable: !spec.read_only,
            },
        })
    }

    /// The id of a cache, apart from those of other namespaces.
    fn cache_id(&self, spec: &MountSpec) -> String {
        // As BuildKit: the target as it is written, wherever WORKDIR is.
        let written = spec.target.as_deref().unwrap_or_default();
        let clean = absolute("/", written);
        let target = if written.starts_with('/') { &clean } else { clean.trim_start_matches('/') };
        let id = given(spec.id.as_ref()).unwrap_or_else(|| target.to_owned());
        match given(self.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS")) {
            Some(namespace) => format!("{namespace}/{id}"),
            None => id,
        }
    }

    fn mount_tree(
        &mut self,
        spec: &MountSpec,
        default: Tree,
        place: Place,
        span: Span,
    ) -> Result<Tree, BuildError> {
        let Some(from) = given(spec.from.as_ref()) else { return Ok(default) };
        // As BuildKit: unlike COPY's, it is no number.
        if from.parse::<usize>().is_ok() {
            if let Some(context) = self.options.named_contexts.get(&from) {
                return self.tree_of_context(&from, context, place.stage, span);
            }
            let message = format!("`from={from}`: a mount names a stage, not its number");
            return Err(Diagnostic::error("from", span, message)
                .with_hint("give the stage a name: `FROM … AS name`")
                .into());
        }
        self.tree(&from, place, span)
    }
}

/// A value that is there and not empty.
fn given(value: Option<&String>) -> Option<String> {
    value.filter(|value| !value.is_empty()).cloned()
}

fn target(state: &State, spec: &MountSpec) -> String {
    absolute(state.working_dir(), spec.target.as_deref().unwrap_or_default())
}

fn owner(spec: &MountSpec, mode: u32) -> (u32, u32, u32) {
    (spec.mode.unwrap_or(mode) & 0o7777, spec.uid.unwrap_or(0), spec.gid.unwrap_or(0))
}

/// A secret is known by `id`, else by `source`, else by the last part of its target.
fn secret(state: &State, spec: &MountSpec) -> RunMount {
    let own_target = given(spec.target.as_ref());
    let last = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
    let id = given(spec.id.as_ref())
        .or_else(|| given(spec.source.as_ref()))
        .or_else(|| own_target.as_ref().map(last))
        .unwrap_or_default();
    let path = match &own_target {
        Some(_) => target(state, spec),
        None => absolute("/run/secrets", &last(&id)),
    };
    let kind = MountKind::Secret {
        id,
        required: spec.required,
        env: given(spec.env.as_ref()),
        file: own_target.is_some() || spec.env.is_none(),
        owner: owner(spec, SECRET_MODE),
    };
    RunMount { target: path, kind }
}

/// An agent is known by its id alone. Sockets without a target are numbered.
fn ssh(state: &State, spec: &MountSpec, agents: usize) -> RunMount {
    let kind = MountKind::Ssh {
        id: given(spec.id.as_ref()).unwrap_or_else(|| "default".to_owned()),
        required: spec.required,
        owner: owner(spec, SSH_MODE),
    };
    let target = match given(spec.target.as_ref()) {
        Some(_) => target(state, spec),
        None => format!("/run/buildkit/ssh_agent.{agents}"),
    };
    RunMount { target, kind }
}
