//! Checks of a Dockerfile: what builds, though likely not as meant.
//!
//! A [`Rule`] is data: a name, a description, a section of `docs/checks.md`. What the syntax tree alone
//! shows is found here ([`Checks::new`]); what takes variables, stages or base images to know is found
//! where those are resolved, and handed to [`Checks::report`]. That is the one place that decides by
//! the settings (`# check=…`, or the build argument that overrides it) what is told.
//!
//! The rules, their texts, their order and the lines that they name are BuildKit's; behind them come
//! a few of mica's own, for accidents that build.

mod fix;
mod own;
mod rules;
mod settings;
mod syntax;

pub use fix::fix;
pub use rules::Rule;
pub use settings::Settings;

use crate::parser::{Comment, Diagnostic, Instruction, Parsed, Source, Span, Statement};

/// The build argument that takes the place of `# check=`.
pub const OVERRIDE: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// How many findings are kept: a large file could have some for each of its words.
const MAX_FINDINGS: usize = 1000;

/// One thing that a rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// What is the matter here, in one line.
    pub message: String,
    /// The part that is to blame.
    pub span: Span,
    /// What BuildKit names the lines of: the whole instruction with its heredocs.
    pub extent: Span,
}

impl Finding {
    /// A finding about a whole statement.
    pub fn of(rule: Rule, statement: &Statement, message: impl Into<String>) -> Self {
        Self::at(rule, statement.span, statement, message)
    }

    /// A finding about a part of a statement.
    pub fn at(rule: Rule, span: Span, of: &Statement, message: impl Into<String>) -> Self {
        Self { rule, message: message.into(), span, extent: extent(of) }
    }
}

/// The description of `name` in the comments above an instruction: `# name text`.
pub fn described<'a>(comments: &'a [Comment], name: &str) -> Option<&'a str> {
    let behind = |comment: &'a Comment| comment.text.strip_prefix(name)?.strip_prefix(' ');
    comments.iter().find_map(behind)
}

/// A statement with its heredocs, the lines of their names included.
pub fn extent(statement: &Statement) -> Span {
    let heredocs = |sources: &[Source]| {
        let bodies = sources.iter().filter_map(|source| match source {
            Source::Heredoc(_, heredoc) => Some(heredoc.span),
            Source::Path(_) => None,
        });
        bodies.fold(statement.span, Span::to)
    };
    let mut instruction = &statement.instruction;
    if let Instruction::Onbuild(onbuild) = instruction
        && let Some(nested) = &onbuild.instruction
    {
        instruction = nested;
    }
    match instruction {
        Instruction::Copy(copy) => heredocs(&copy.sources),
        Instruction::Add(add) => heredocs(&add.sources),
        Instruction::Run(run) => match &run.command {
            crate::parser::Command::Shell(text) => {
                text.heredocs.iter().map(|heredoc| heredoc.span).fold(statement.span, Span::to)
            }
            crate::parser::Command::Exec(_) => statement.span,
        },
        _ => statement.span,
    }
}

/// What was found, and what of it is told.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    settings: Settings,
    /// Settings of single instructions, by what they hold for.
    own: Vec<(Span, Settings)>,
    found: Vec<Finding>,
}

impl Checks {
    /// Reads the settings, and finds what the syntax tree shows. `given` are settings that take the
    /// place of the file's own.
    ///
    /// # Errors
    /// Settings that cannot be read.
    pub fn new(parsed: &Parsed, given: Option<&str>) -> Result<Self, Box<Diagnostic>> {
        let directive = parsed.dockerfile.directive("check");
        let (text, span) = match (given, directive) {
            (Some(given), _) => (given, Span::default()),
            (None, Some(directive)) => (directive.value.as_str(), directive.value_span),
            (None, None) => ("", Span::default()),
        };
        let settings = Settings::parse(text).map_err(|reason| {
            let message = format!("failed to parse check options: {reason}");
            Diagnostic::error("check", span, message)
                .with_hint("write it as `skip=RuleA,RuleB;error=true;experimental=RuleC`")
        })?;
        let own = parsed.dockerfile.statements.iter().filter_map(own_settings).collect();
        let mut checks = Self { settings, own, found: Vec::new() };
        let unknown: Vec<String> = checks.settings.unknown().map(str::to_owned).collect();
        for name in unknown {
            let message = format!("no check has the name '{name}'");
            checks.report(Finding { rule: Rule::UnknownCheck, message, span, extent: span });
        }
        for finding in syntax::findings(parsed) {
            checks.report(finding);
        }
        Ok(checks)
    }

    /// Takes a finding, if the settings want it told.
    pub fn report(&mut self, finding: Finding) {
        let own = self.own.iter().find(|(span, _)| *span == finding.extent);
        let tells = match own {
            Some((_, own)) if finding.rule.is_experimental() => {
                own.tells(finding.rule) || self.settings.tells(finding.rule)
            }
            Some((_, own)) => own.tells(finding.rule) && self.settings.tells(finding.rule),
            None => self.settings.tells(finding.rule),
        };
        if tells && self.found.len() < MAX_FINDINGS {
            self.found.push(finding);
        }
    }

    /// What is told, in BuildKit's order: by the phase that found it.
    pub fn found(&self) -> &[Finding] {
        &self.found
    }

    /// Why the build is refused, where `error=true` is set and something was found.
    pub fn violation(&self) -> Option<String> {
        if !self.settings.error || self.found.is_empty() {
            return None;
        }
        let mut names: Vec<&str> = self.found.iter().map(|finding| finding.rule.name()).collect();
        names.sort_unstable();
        names.dedup();
        Some(format!("lint violation found for rules: {}", names.join(", ")))
    }
}

/// The settings in a `# check=` comment right above an instruction; one that cannot be read counts
/// for nothing there.
fn own_settings(statement: &Statement) -> Option<(Span, Settings)> {
    let text = statement.comments.iter().find_map(|comment| {
        let (name, value) = comment.text.split_once('=')?;
        name.trim().eq_ignore_ascii_case("check").then(|| value.trim())
    })?;
    Some((extent(statement), Settings::parse(text).ok()?))
}
