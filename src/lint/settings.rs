//! [`Settings`]: what of the findings is to be told, as `# check=` has it.

use std::collections::BTreeSet;

use super::Rule;
use crate::parser::boolean;

/// Rules that a setting names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Selection {
    All,
    Named(BTreeSet<String>),
}

impl Default for Selection {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl Selection {
    fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Self::All,
            names => Self::Named(names.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    fn has(&self, rule: Rule) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(rule.name()),
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let names = match self {
            Self::All => None,
            Self::Named(names) => Some(names),
        };
        names.into_iter().flatten().map(String::as_str)
    }
}

/// What is told: `skip=A,B;error=true;experimental=C`, in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    skip: Selection,
    experimental: Selection,
    /// Whether a finding refuses the build.
    pub error: bool,
}

impl Settings {
    /// Reads the value of a `check` directive, up to its first blank as in BuildKit.
    ///
    /// # Errors
    /// What is wrong with it, in BuildKit's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut settings = Self::default();
        let Some(text) = text.split_whitespace().next() else { return Ok(settings) };
        for option in text.splitn(3, ';') {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name.trim() {
                _ if !option.contains('=') => {
                    return Err(format!("invalid check option {option:?}"));
                }
                "skip" => settings.skip = Selection::parse(value),
                "experimental" => settings.experimental = Selection::parse(value),
                "error" => {
                    settings.error = boolean(value.trim()).ok_or_else(|| {
                        format!(
                            "failed to parse check option {option:?}: {value:?} is neither true \
                             nor false"
                        )
                    })?;
                }
                other => return Err(format!("invalid check option {other:?}")),
            }
        }
        Ok(settings)
    }

    /// Whether findings of a rule are told.
    pub fn tells(&self, rule: Rule) -> bool {
        // As BuildKit: an experimental rule that is asked for cannot be skipped.
        if rule.is_experimental() { self.experimental.has(rule) } else { !self.skip.has(rule) }
    }

    /// Names that are no rule's.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &str> {
        let names = self.skip.names().chain(self.experimental.names());
        names.filter(|name| !name.is_empty() && Rule::named(name).is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told() {
        use Rule::{CopyIgnoredFile, MaintainerDeprecated, StageNameCasing};
        let check = |text: &str, told: &[Rule], error: bool| {
            let settings = Settings::parse(text).expect(text);
            let rules = [StageNameCasing, MaintainerDeprecated, CopyIgnoredFile];
            let found: Vec<Rule> = rules.into_iter().filter(|rule| settings.tells(*rule)).collect();
            assert_eq!((found.as_slice(), settings.error), (told, error), "{text}");
        };
        check("", &[StageNameCasing, MaintainerDeprecated], false);
        check("skip=StageNameCasing", &[MaintainerDeprecated], false);
        check("skip=stagenamecasing", &[StageNameCasing, MaintainerDeprecated], false);
        check("skip=StageNameCasing,MaintainerDeprecated;error=1", &[], true);
        check("skip=StageNameCasing, MaintainerDeprecated", &[MaintainerDeprecated], false);
        check("skip=all;experimental=all", &[CopyIgnoredFile], false);
        check("error=true;experimental=CopyIgnoredFile;skip=all", &[CopyIgnoredFile], true);
    }

    #[test]
    fn what_is_no_setting() {
        for text in ["x", "foo=bar", "skip=A;", "error=maybe", "skip=A;error=0;error=0;skip=B"] {
            assert!(Settings::parse(text).is_err(), "{text}");
        }
    }
}
