//! `search`: what a registry has.

use serde_json::json;

use super::args::{ListFormat, SearchArgs};
use super::{CliError, ui};
use crate::oci::Reference;
use crate::parser::boolean;
use crate::registry::Match;
use crate::runtime::CancelToken;

/// How much of a description is shown, in characters.
const DESCRIPTION: usize = 45;

/// The most that Docker Hub shows.
const MAX_LIMIT: usize = 100;

pub(super) fn search(args: &SearchArgs) -> Result<(), CliError> {
    let (host, term) = split(&args.term)?;
    if !(1..=MAX_LIMIT).contains(&args.limit) {
        return Err(CliError::Usage(format!("`--limit` is a number from 1 to {MAX_LIMIT}")));
    }
    let filters = args.filter.iter().map(|text| Filter::parse(text));
    let filters: Vec<Filter> = filters.collect::<Result<_, _>>()?;
    // Whoever interrupts it ends it at once: there is nothing to put in order.
    let cancel = CancelToken::new().map_err(CliError::Stdout)?;
    let registries = super::pull::registries(args.tls_verify, &cancel);
    // Any repository will do: the question is about the registry alone.
    let any: Reference = format!("{host}/image").parse()?;
    let mut found = registries.repository(&any).search(term, args.limit)?;
    found.retain(|one| filters.iter().all(|filter| filter.lets_pass(one)));
    for one in &mut found {
        one.description = one.description.split_whitespace().collect::<Vec<_>>().join(" ");
        let cut = one.description.char_indices().nth(DESCRIPTION - 1).filter(|_| !args.no_trunc);
        if let Some((at, _)) = cut.filter(|_| one.description.chars().count() > DESCRIPTION) {
            one.description.truncate(at);
            one.description.push('…');
        }
    }
    show(&found, args.format)
}

fn show(found: &[Match], format: ListFormat) -> Result<(), CliError> {
    match format {
        ListFormat::Json => ui::data(|out| {
            found.iter().try_for_each(|one| {
                let line = json!({
                    "Description": one.description, "IsOfficial": one.is_official.to_string(),
                    "Name": one.name, "StarCount": one.stars.to_string(),
                });
                writeln!(out, "{line}")
            })
        }),
        ListFormat::Table => {
            let mut rows =
                vec![["NAME", "DESCRIPTION", "STARS", "OFFICIAL"].map(str::to_owned).to_vec()];
            rows.extend(found.iter().map(|one| {
                let official = if one.is_official { "[OK]" } else { "" };
                let (name, description) = (one.name.clone(), one.description.clone());
                vec![name, description, one.stars.to_string(), official.to_owned()]
            }));
            ui::data(|out| write!(out, "{}", ui::table(&rows)))
        }
    }
}

/// The registry and what is looked for in it, by the rules of images' names.
fn split(text: &str) -> Result<(&str, &str), CliError> {
    if text.contains("://") {
        return Err(CliError::Usage(format!("`{}` begins with a scheme", text.escape_debug())));
    }
    let is_host = |first: &str| first == "localhost" || first.contains(['.', ':']);
    match text.split_once('/') {
        Some((host, term)) if is_host(host) => Ok((host, term)),
        Some(("library", term)) => Ok(("docker.io", term)),
        _ if text.is_empty() => Err(CliError::Usage("nothing to search for".to_owned())),
        _ => Ok(("docker.io", text)),
    }
}

/// What is shown of what is found.
#[derive(Debug, PartialEq, Eq)]
enum Filter {
    Stars(u64),
    Official(bool),
}

impl Filter {
    fn parse(text: &str) -> Result<Self, CliError> {
        let parsed = match text.split_once('=') {
            Some(("stars", number)) => number.parse().ok().map(Self::Stars),
            Some(("is-official", value)) => boolean(value).map(Self::Official),
            _ => None,
        };
        let wrong = || {
            let text = text.escape_debug();
            CliError::Usage(format!("`--filter` is `stars=N` or `is-official=BOOL`, not `{text}`"))
        };
        parsed.ok_or_else(wrong)
    }

    fn lets_pass(&self, one: &Match) -> bool {
        match self {
            Self::Stars(least) => one.stars >= *least,
            Self::Official(wanted) => one.is_official == *wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms() {
        let check = |text: &str, expected: (&str, &str)| {
            assert_eq!(split(text).expect(text), expected, "{text}");
        };
        check("busybox", ("docker.io", "busybox"));
        check("library/busybox", ("docker.io", "busybox"));
        check("team/app", ("docker.io", "team/app"));
        check("localhost/app", ("localhost", "app"));
        check("r.example/team/app", ("r.example", "team/app"));
        check("r:5000/", ("r:5000", ""));
        assert!(split("").is_err() && split("https://r.example/x").is_err());
    }
}
