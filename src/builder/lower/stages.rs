//! [`Stages`]: the Dockerfile's statements by stage, and which stages a target needs.

use std::collections::{BTreeMap, HashMap};

use super::Inputs;
use super::checks::FromSite;
use super::outline::{self, GlobalArg, StageOutline};
use super::scope::{BuildArgs, Scope};
use crate::lint::Checks;
use crate::oci::Platform;
use crate::parser::{
    Diagnostic, FromImage, Instruction, Mount, MountKey, Span, Statement, Word, nearest,
};

/// One FROM and what follows it.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    /// The name behind AS, in lower case.
    pub(super) name: Option<String>,
    /// The FROM instruction.
    pub(super) from: &'a FromImage,
    pub(super) statement: &'a Statement,
    pub(super) span: Span,
    /// What FROM names, with variables expanded.
    pub(super) base: String,
    /// The value of `--platform`.
    pub(super) platform: Option<Platform>,
    /// The statements behind FROM.
    pub(super) statements: &'a [Statement],
    /// What its FROM uses.
    pub(super) outline: StageOutline,
}

impl Stage<'_> {
    /// What its own text copies or mounts from.
    pub(super) fn froms(&self) -> Vec<&Word> {
        let mut froms = Vec::new();
        for statement in self.statements {
            match &statement.instruction {
                Instruction::Copy(copy) => froms.extend(&copy.from),
                Instruction::Run(run) => froms.extend(run.mounts.iter().filter_map(mount_from)),
                _ => {}
            }
        }
        froms
    }
}

/// What the `from` of a mount names.
pub(super) fn mount_from(mount: &Mount) -> Option<&Word> {
    mount.options.iter().rfind(|option| option.key == MountKey::From)?.value.as_ref()
}

/// All stages of a Dockerfile, in its order.
#[derive(Debug)]
pub(super) struct Stages<'a> {
    pub(super) all: Vec<Stage<'a>>,
    /// What stands before the first FROM, and what BuildKit sets by itself.
    pub(super) globals: Scope,
    /// The ARGs before the first FROM.
    pub(super) global_args: BTreeMap<String, GlobalArg>,
    /// The index of the stage to build.
    pub(super) target: usize,
    /// The indices of the stages of each name, in order.
    named: HashMap<String, Vec<usize>>,
}

impl<'a> Stages<'a> {
    /// Splits a Dockerfile at its FROMs.
    pub(super) fn of(inputs: &Inputs<'a>, checks: &mut Checks) -> Result<Self, Diagnostic> {
        let statements = &inputs.dockerfile.statements;
        let starts: Vec<usize> = (0..statements.len())
            .filter(|index| matches!(statements[*index].instruction, Instruction::From(_)))
            .collect();
        let before = starts.first().copied().unwrap_or(statements.len());
        let escape = inputs.dockerfile.escape;
        let froms = starts.iter().filter_map(|start| from_at(&statements[*start]));
        check_defaults(inputs, &statements[..before], froms, checks);
        let globals = globals(inputs, &statements[..before], &inputs.options.build_args)?;
        let mut all = Vec::new();
        for (number, &start) in starts.iter().enumerate() {
            let Some((statement, from)) = from_at(&statements[start]) else { continue };
            let site = FromSite { statement, from, globals: &globals, escape };
            for finding in site.findings() {
                checks.report(finding);
            }
            let end = starts.get(number + 1).copied().unwrap_or(statements.len());
            all.push(Stage {
                name: from.alias.as_ref().map(|alias| alias.text.to_lowercase()),
                from,
                statement,
                span: statement.span,
                base: base_name(from, &globals, escape)?,
                platform: stage_platform(from, &globals, escape)?,
                statements: &statements[start + 1..end],
                outline: site.outline(),
            });
        }
        if all.is_empty() {
            let span = statements.first().map_or_else(Span::default, |first| first.span);
            return Err(Diagnostic::error("no-stage", span, "no build stage in the Dockerfile")
                .with_hint("begin with `FROM scratch` or the name of an image"));
        }
        let mut named: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, stage) in all.iter().enumerate() {
            if let Some(name) = &stage.name {
                named.entry(name.clone()).or_default().push(index);
            }
        }
        let global_args = global_args(inputs, &statements[..before], &globals);
        let mut stages = Self { all, globals, global_args, target: 0, named };
        stages.target = stages.find_target(inputs.options.target.as_deref())?;
        Ok(stages)
    }

    fn find_target(&self, target: Option<&str>) -> Result<usize, Diagnostic> {
        let Some(target) = target else { return Ok(self.all.len() - 1) };
        self.find(target, self.all.len()).ok_or_else(|| {
            let names: Vec<&str> = self.all.iter().filter_map(|s| s.name.as_deref()).collect();
            let message = format!("target stage `{}` could not be found", target.escape_debug());
            let diagnostic = Diagnostic::error("no-target", Span::default(), message);
            if let Some(near) = self.nearest(target, self.all.len()) {
                return diagnostic.with_hint(format!("did you mean `{near}`?"));
            }
            match names.as_slice() {
                [] => diagnostic.with_hint("no stage has a name; name one with `FROM … AS name`"),
                names => {
                    let first = names[..names.len().min(20)].join(", ");
                    let more = if names.len() > 20 { ", …" } else { "" };
                    diagnostic.with_hint(format!("there are: {first}{more}"))
                }
            }
        })
    }

    /// Refuses stages that need one another, and numbers that no stage has; `is_context` tells which
    /// names mean no stage.
    pub(super) fn check_order(&self, is_context: impl Fn(&str) -> bool) -> Result<(), Diagnostic> {
        let mut needs = Vec::new();
        for (index, stage) in self.all.iter().enumerate() {
            let mut of_stage = Vec::new();
            of_stage.extend(self.find_base(&stage.base, index).map(|base| (base, stage.span)));
            for from in stage.froms().into_iter().filter(|from| !is_context(&from.text)) {
                let found = match from.text.parse() {
                    Ok(number) if number < self.all.len() => Some(number),
                    Ok(number) => {
                        let message =
                            format!("invalid stage index {number}: there is no such stage");
                        return Err(Diagnostic::error("from", from.span, message));
                    }
                    Err(_) => self.find(&from.text, usize::MAX),
                };
                of_stage.extend(found.map(|other| (other, from.span)));
            }
            needs.push(of_stage);
        }
        match find_cycle(&needs) {
            None => Ok(()),
            Some((stage, span)) => {
                let name = self.all[stage].name.clone().unwrap_or(format!("stage-{stage}"));
                let message = format!("circular dependency detected on stage: {name}");
                Err(Diagnostic::error("from", span, message))
            }
        }
    }

    /// The stage before `before` that a FROM means. BuildKit keeps names in lower case and does not
    /// look for others: what FROM names in upper case is an image to it.
    pub(super) fn find_base(&self, name: &str, before: usize) -> Option<usize> {
        self.find(name, before).filter(|_| name == name.to_lowercase())
    }

    /// How many stages start from each.
    pub(super) fn starts(&self) -> Vec<usize> {
        let mut starts = vec![0; self.all.len()];
        for (index, stage) in self.all.iter().enumerate() {
            if let Some(base) = self.find_base(&stage.base, index) {
                starts[base] += 1;
            }
        }
        starts
    }

    /// The last stage of this name before the stage `before`. Case does not count.
    pub(super) fn find(&self, name: &str, before: usize) -> Option<usize> {
        let indices = self.named.get(&name.to_lowercase())?;
        let earlier = indices.partition_point(|index| *index < before);
        indices[..earlier].last().copied()
    }

    /// The name of the stage before `before` that was probably meant by `name`.
    pub(super) fn nearest(&self, name: &str, before: usize) -> Option<&str> {
        // A long list is no help, and would take its time.
        let earlier = self.all[..before.min(self.all.len())].iter().rev().take(1000);
        nearest(name, &earlier.filter_map(|stage| stage.name.as_deref()).collect::<Vec<_>>())
    }
}

/// A stage that needs itself, and where it or one on the way names a stage that comes too late.
fn find_cycle(needs: &[Vec<(usize, Span)>]) -> Option<(usize, Span)> {
    let mut is_done = vec![false; needs.len()];
    let mut is_on_way = vec![false; needs.len()];
    for start in 0..needs.len() {
        // The way from `start`: each stage with how many of its needs were looked at.
        let mut way = vec![(start, 0)];
        while let Some((stage, next)) = way.last_mut() {
            let stage = *stage;
            is_on_way[stage] = true;
            match needs[stage].get(*next).filter(|_| !is_done[stage]) {
                None => {
                    is_done[stage] = true;
                    is_on_way[stage] = false;
                    way.pop();
                }
                Some((other, _)) => {
                    *next += 1;
                    if is_on_way[*other] {
                        let first = way.iter().position(|(stage, _)| stage == other).unwrap_or(0);
                        let needs =
                            way[first..].iter().map(|(from, next)| (from, &needs[*from][next - 1]));
                        let mut late = needs.filter(|(from, (to, _))| to >= *from);
                        return late.next().map(|(_, (_, span))| (*other, *span));
                    }
                    way.push((*other, 0));
                }
            }
        }
    }
    None
}

fn from_at(statement: &Statement) -> Option<(&Statement, &FromImage)> {
    match &statement.instruction {
        Instruction::From(from) => Some((statement, from)),
        _ => None,
    }
}

/// Tells which FROMs name nothing as long as no build argument is given.
fn check_defaults<'a>(
    inputs: &Inputs<'_>,
    args: &[Statement],
    froms: impl Iterator<Item = (&'a Statement, &'a FromImage)>,
    checks: &mut Checks,
) {
    let escape = inputs.dockerfile.escape;
    let Ok(globals) = globals(inputs, args, &BuildArgs::new()) else { return };
    for (statement, from) in froms {
        let site = FromSite { statement, from, globals: &globals, escape };
        if let Some(finding) = site.default_name() {
            checks.report(finding);
        }
    }
}

/// The ARGs before the first FROM, with what their defaults ask for.
fn global_args(
    inputs: &Inputs<'_>,
    statements: &[Statement],
    globals: &Scope,
) -> BTreeMap<String, GlobalArg> {
    let mut args = BTreeMap::new();
    for statement in statements {
        let Instruction::Arg(arguments) = &statement.instruction else { continue };
        for argument in arguments {
            let name = &argument.name.text;
            let given = inputs.options.build_args.contains_key(name);
            let default = argument.default.as_ref();
            let value = globals.get(name).filter(|_| given || default.is_some());
            let needs = default.filter(|_| !given).map(|word| {
                globals.asks(word, inputs.dockerfile.escape).into_iter().collect::<Vec<_>>()
            });
            let arg = outline::arg(statement, name, value);
            let needs = needs.unwrap_or_default();
            args.insert(name.clone(), GlobalArg { arg, needs });
        }
    }
    args
}

/// The variables before the first FROM, ARGs having the values of `build_args` or their defaults.
fn globals(
    inputs: &Inputs<'_>,
    statements: &[Statement],
    build_args: &BuildArgs,
) -> Result<Scope, Diagnostic> {
    let (options, escape) = (inputs.options, inputs.dockerfile.escape);
    let stage = options.target.as_deref().unwrap_or("default");
    let mut scope = Scope::automatic(&options.platform, stage, &options.build_args);
    for statement in statements {
        let Instruction::Arg(arguments) = &statement.instruction else {
            let message = "no build stage in current context: only ARG may stand before FROM";
            return Err(Diagnostic::error("no-stage", statement.span, message));
        };
        for argument in arguments {
            let name = scope.expand(&argument.name, escape)?;
            let default = match &argument.default {
                Some(word) => Some(scope.expand(word, escape)?),
                None => None,
            };
            let value = build_args.get(&name).cloned().or(default);
            let known = scope.get(&name).map(str::to_owned);
            scope.declare(&name, value.or(known).as_deref());
        }
    }
    Ok(scope)
}

fn base_name(from: &FromImage, globals: &Scope, escape: char) -> Result<String, Diagnostic> {
    let name = globals.expand(&from.image, escape)?;
    if name.is_empty() {
        let message = "base name should not be blank: `FROM` names nothing";
        let error = Diagnostic::error("no-base", from.image.span, message);
        let name = from.image.text.trim_matches(['$', '{', '}', '"']);
        return Err(match globals.nearest(name) {
            Some(near) => error.with_hint(format!("did you mean `${near}`?")),
            None => error.with_hint("give the ARG a default, or a value with `--build-arg`"),
        });
    }
    Ok(name)
}

fn stage_platform(
    from: &FromImage,
    globals: &Scope,
    escape: char,
) -> Result<Option<Platform>, Diagnostic> {
    let Some(word) = &from.platform else { return Ok(None) };
    let text = globals.expand(word, escape)?;
    if text.is_empty() && word.text.is_empty() {
        return Ok(None);
    }
    Platform::parse(&text).map(Some).ok_or_else(|| {
        let message = match text.as_str() {
            "" => "the platform is empty".to_owned(),
            text => format!("`{}` is not a platform", text.escape_debug()),
        };
        Diagnostic::error("platform", word.span, message).with_hint("write it as `linux/amd64`")
    })
}
