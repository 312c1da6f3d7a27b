//! [`Outline`]: what a build can be given, by what its Dockerfile declares and uses.

use std::collections::{BTreeMap, BTreeSet};

use super::state::State;
use super::{Lowering, Site};
use crate::lint::{described, extent};
use crate::parser::{MountType, Run, Span, Statement};

/// What a target can be given: everything that its stages use, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target's name.
    pub name: Option<String>,
    /// What the comment above its FROM says.
    pub description: Option<String>,
    /// The build arguments.
    pub args: Vec<OutlineArg>,
    /// The secrets.
    pub secrets: Vec<OutlineMount>,
    /// The agents.
    pub ssh: Vec<OutlineMount>,
    /// The caches.
    pub caches: Vec<OutlineMount>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// What the comment above its ARG says.
    pub description: Option<String>,
    /// What it is unless something else is given; `None` for nothing.
    pub value: Option<String>,
    /// Its ARG.
    pub extent: Span,
}

/// Something that a RUN mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineMount {
    /// Its id.
    pub name: String,
    /// Whether a build without it fails.
    pub required: bool,
    /// The RUN.
    pub extent: Span,
}

/// What one stage declares and uses.
#[derive(Debug, Clone, Default)]
pub(super) struct StageOutline {
    /// Where a name comes twice, the later one counts.
    args: Vec<OutlineArg>,
    /// Names of global ARGs that it uses without a value of its own.
    used: BTreeSet<String>,
    /// The same for mounts.
    mounts: Vec<(MountType, OutlineMount)>,
}

impl StageOutline {
    pub(super) fn uses(&mut self, names: impl IntoIterator<Item = String>) {
        self.used.extend(names);
    }

    pub(super) fn declares(&mut self, arg: OutlineArg) {
        self.args.push(arg);
    }
}

/// A global ARG, and the names that its default asks for.
#[derive(Debug, Clone)]
pub(super) struct GlobalArg {
    pub(super) arg: OutlineArg,
    pub(super) needs: Vec<String>,
}

/// The entry for an ARG of a statement.
pub(super) fn arg(statement: &Statement, name: &str, value: Option<&str>) -> OutlineArg {
    OutlineArg {
        name: name.to_owned(),
        description: described(&statement.comments, name).map(str::to_owned),
        value: value.map(str::to_owned),
        extent: extent(statement),
    }
}

impl Lowering<'_> {
    /// Notes what a RUN mounts.
    pub(super) fn outline_mounts(&mut self, state: &State, site: Site<'_>, run: &Run) {
        for mount in &run.mounts {
            let escape = self.escape;
            let expand = &mut |word: &_| Ok(state.scope.peek(word, escape).unwrap_or_default());
            let Ok(spec) = mount.resolve(expand) else { continue };
            let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
            let last = |path: String| path.rsplit('/').next().unwrap_or_default().to_owned();
            let name = match spec.kind {
                MountType::Secret => given(&spec.id)
                    .or_else(|| given(&spec.source))
                    .or_else(|| given(&spec.target).map(last)),
                MountType::Ssh => Some(given(&spec.id).unwrap_or_else(|| "default".to_owned())),
                MountType::Cache => given(&spec.id).or_else(|| given(&spec.target)),
                MountType::Bind | MountType::Tmpfs => None,
            };
            let Some(name) = name else { continue };
            let extent = site.place.trigger_of.unwrap_or_else(|| extent(site.statement));
            let found = OutlineMount { name, required: spec.required, extent };
            self.outlines[site.place.stage].mounts.push((spec.kind, found));
        }
    }

    /// What the target can be given.
    pub(super) fn outline(&self) -> Outline {
        let target = &self.stages.all[self.stages.target];
        let comments = &target.statement.comments;
        let mut outline = Outline { name: target.name.clone(), ..Outline::default() };
        outline.description =
            target.name.as_deref().and_then(|name| described(comments, name)).map(str::to_owned);
        let mut args = BTreeMap::new();
        let mut mounts = BTreeMap::new();
        for stage in self.reachable() {
            let own = &self.outlines[stage];
            for arg in own.args.iter().rev() {
                args.entry(arg.name.clone()).or_insert_with(|| arg.clone());
            }
            self.add_globals(&own.used, &mut args);
            for (kind, mount) in own.mounts.iter().rev() {
                mounts.entry((*kind, &mount.name)).or_insert(mount);
            }
        }
        outline.args = args.into_values().collect();
        outline.args.sort_by_key(|arg| arg.extent.start);
        let of = |wanted: MountType| {
            let found = mounts.iter().filter(|((kind, _), _)| *kind == wanted);
            let mut found: Vec<OutlineMount> = found.map(|(_, mount)| (*mount).clone()).collect();
            found.sort_by_key(|mount| mount.extent.start);
            found
        };
        (outline.secrets, outline.ssh, outline.caches) =
            (of(MountType::Secret), of(MountType::Ssh), of(MountType::Cache));
        outline
    }

    /// Adds the global ARGs of these names, and those that their defaults need.
    fn add_globals(&self, names: &BTreeSet<String>, args: &mut BTreeMap<String, OutlineArg>) {
        let mut asked: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = asked.pop() {
            if !seen.insert(name) {
                continue;
            }
            let Some(global) = self.stages.global_args.get(name) else { continue };
            asked.extend(global.needs.iter().map(String::as_str));
            args.entry(name.to_owned()).or_insert_with(|| global.arg.clone());
        }
    }

    /// The target and the stages that it needs, those that it needs most directly first.
    fn reachable(&self) -> Vec<usize> {
        let mut reachable = vec![self.stages.target];
        let mut seen = BTreeSet::from([self.stages.target]);
        let mut next = 0;
        while let Some(stage) = reachable.get(next).copied() {
            next += 1;
            for other in self.visible_needs(stage) {
                if seen.insert(other) {
                    reachable.push(other);
                }
            }
        }
        reachable
    }
}
