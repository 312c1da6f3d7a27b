//! `RUN --mount`: from the options to a [`RunMount`].

use super::config::absolute;
use super::state::State;
use super::{Lowering, Place, Site};
use crate::builder::BuildError;
use crate::builder::graph::{MountKind, RunMount, Sharing, Tree};
use crate::parser::{self, Diagnostic, Mount, MountSpec, MountType, Run, Span};

/// Permissions of a secret's file, BuildKit's default.
const SECRET_MODE: u32 = 0o400;
/// Permissions of a cache's folder, BuildKit's default.
const CACHE_MODE: u32 = 0o755;

impl Lowering<'_> {
    pub(super) fn mounts(
        &mut self,
        state: &State,
        site: Site<'_>,
        run: &Run,
    ) -> Result<Vec<RunMount>, BuildError> {
        run.mounts.iter().map(|mount| self.mount(state, site.place, mount)).collect()
    }

    fn mount(
        &mut self,
        state: &State,
        place: Place,
        mount: &Mount,
    ) -> Result<RunMount, BuildError> {
        let escape = self.escape;
        let spec = mount.resolve(&mut |word| state.scope.expand(word, escape))?;
        let span = mount.word.span;
        let source = absolute("/", spec.source.as_deref().unwrap_or("/"));
        let kind = match spec.kind {
            MountType::Bind => MountKind::Bind {
                from: self.mount_tree(&spec, Tree::Context(0), place, span)?,
                source,
                writable: !spec.read_only,
            },
            MountType::Cache => MountKind::Cache {
                id: spec.id.clone().unwrap_or_else(|| target(state, &spec)),
                sharing: match spec.sharing.unwrap_or_default() {
                    parser::Sharing::Shared => Sharing::Shared,
                    parser::Sharing::Private => Sharing::Private,
                    parser::Sharing::Locked => Sharing::Locked,
                },
                from: self.mount_tree(&spec, Tree::Scratch, place, span)?,
                source,
                writable: !spec.read_only,
                owner: owner(&spec, CACHE_MODE),
            },
            MountType::Tmpfs => MountKind::Tmpfs { size: spec.size_bytes },
            MountType::Secret => return Ok(secret(state, &spec)),
            MountType::Ssh => {
                let message = "`RUN --mount=type=ssh` is not supported yet";
                return Err(Diagnostic::error("unsupported", span, message).into());
            }
        };
        if spec.target.as_deref().unwrap_or_default().is_empty() {
            let message = format!("a `{}` mount needs a target", spec.kind.name());
            return Err(Diagnostic::error("invalid-mount", span, message)
                .with_hint("add `target=/path`")
                .into());
        }
        Ok(RunMount { target: target(state, &spec), kind })
    }

    fn mount_tree(
        &mut self,
        spec: &MountSpec,
        default: Tree,
        place: Place,
        span: Span,
    ) -> Result<Tree, BuildError> {
        match spec.from.as_deref() {
            Some(from) if !from.is_empty() => self.tree(from, place, span),
            _ => Ok(default),
        }
    }
}

fn target(state: &State, spec: &MountSpec) -> String {
    absolute(state.working_dir(), spec.target.as_deref().unwrap_or_default())
}

fn owner(spec: &MountSpec, mode: u32) -> (u32, u32, u32) {
    (spec.mode.unwrap_or(mode), spec.uid.unwrap_or(0), spec.gid.unwrap_or(0))
}

/// A secret is known by `id`, else by `source`, else by the last part of its target.
fn secret(state: &State, spec: &MountSpec) -> RunMount {
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let own_target = given(&spec.target);
    let last = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
    let id = given(&spec.id)
        .or_else(|| given(&spec.source))
        .or_else(|| own_target.as_ref().map(last))
        .unwrap_or_default();
    let path = match &own_target {
        Some(_) => target(state, spec),
        None => absolute("/run/secrets", &last(&id)),
    };
    let kind = MountKind::Secret {
        id,
        required: spec.required,
        env: given(&spec.env),
        file: own_target.is_some() || spec.env.is_none(),
        owner: owner(spec, SECRET_MODE),
    };
    RunMount { target: path, kind }
}
