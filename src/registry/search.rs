//! What a registry has, by a word: its search where it offers one, else its catalog.

use serde::Deserialize;

use super::auth::{Access, Form};
use super::client::{Call, Repository, Target};
use super::documents::read_small;
use super::error::RegistryError;
use crate::http::{HttpError, Url};

/// Where Docker Hub answers searches, which is not where its images are.
const DOCKER_HUB_SEARCH: &str = "https://index.docker.io";

/// How many names of a catalog are asked for at once, and how often at most.
const PAGE: usize = 1000;
const MAX_PAGES: usize = 100;

/// A repository that was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// As it can be pulled.
    pub name: String,
    /// What its owner says of it; empty where the registry knows none.
    pub description: String,
    /// How many people like it.
    pub stars: u64,
    /// Whether the registry itself vouches for it.
    pub is_official: bool,
}

impl Repository<'_> {
    /// The repositories that `term` finds in the registry that this one is in: at most `limit` of
    /// them, in the order that the registry has them in.
    ///
    /// # Errors
    /// [`RegistryError::NoSearch`] where the registry offers neither a search nor a catalog.
    pub fn search(&self, term: &str, limit: usize) -> Result<Vec<Match>, RegistryError> {
        match by_search(self, term, limit)? {
            Some(found) => Ok(found),
            None => by_catalog(self, term, limit),
        }
    }
}

/// Asks the search that Docker Hub has, and whoever does as it does. `None` where there is none.
fn by_search(
    registry: &Repository<'_>,
    term: &str,
    limit: usize,
) -> Result<Option<Vec<Match>>, RegistryError> {
    #[derive(Deserialize)]
    struct Answer {
        results: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        name: String,
        #[serde(default)]
        description: Option<String>,
        #[serde(default)]
        star_count: u64,
        #[serde(default)]
        is_official: bool,
    }
    let mut form = Form::default();
    form.add("q", term);
    form.add("n", &limit.to_string());
    let path = format!("v1/search?{}", form.0);
    let is_hub = registry.host() == "docker.io";
    let target = if is_hub {
        let text = format!("{DOCKER_HUB_SEARCH}/{path}");
        Target::Url(Url::parse(&text).map_err(|reason| HttpError::Url { url: text, reason })?)
    } else {
        Target::Host(path)
    };
    let what = format!("the search of `{}`", registry.host());
    let call = Call::new("GET", target, Access::Nothing, &what);
    let response = match registry.request(&call) {
        // Who has no search may well want to see somebody before he says so.
        Err(RegistryError::Denied { .. }) if !is_hub => return Ok(None),
        response => response?,
    };
    if !is_hub && response.status != 200 {
        return Ok(None);
    }
    let body = read_small(&what, registry.success(&call, response)?)?;
    let Ok(answer) = serde_json::from_slice::<Answer>(&body) else {
        // A page for people, for example.
        let reason = "its answer is no list of images".to_owned();
        return if is_hub { Err(RegistryError::Wrong { what, reason }) } else { Ok(None) };
    };
    let found = answer.results.into_iter().take(limit).map(|one| Match {
        name: one.name,
        description: one.description.unwrap_or_default(),
        stars: one.star_count,
        is_official: one.is_official,
    });
    Ok(Some(found.collect()))
}

/// Reads the catalog page by page, until enough is found.
fn by_catalog(
    registry: &Repository<'_>,
    term: &str,
    limit: usize,
) -> Result<Vec<Match>, RegistryError> {
    #[derive(Deserialize)]
    struct Page {
        repositories: Option<Vec<String>>,
    }
    let what = format!("the catalog of `{}`", registry.host());
    let mut target = Target::Registry(format!("_catalog?n={PAGE}"));
    let mut found = Vec::new();
    for _ in 0..MAX_PAGES {
        let call = Call::new("GET", target, Access::Catalog, &what);
        let response = registry.request(&call)?;
        if matches!(response.status, 404 | 405 | 501) {
            return Err(RegistryError::NoSearch { host: registry.host().to_owned() });
        }
        let response = registry.success(&call, response)?;
        let next = response.headers("link").find_map(next_page).map(|link| response.url.join(link));
        let body = read_small(&what, response)?;
        let wrong =
            |reason: &str| RegistryError::Wrong { what: what.clone(), reason: reason.to_owned() };
        let page: Page = serde_json::from_slice(&body)
            .map_err(|_| wrong("its answer is no list of repositories"))?;
        let names = page.repositories.unwrap_or_default();
        let is_empty = names.is_empty();
        let matching = names.into_iter().filter(|name| name.contains(term));
        found.extend(
            matching.take(limit - found.len()).map(|name| Match {
                name: format!("{}/{name}", registry.host()),
                ..Match::default()
            }),
        );
        match next {
            Some(next) if found.len() < limit && !is_empty => {
                target = Target::Url(next.map_err(wrong)?);
            }
            _ => break,
        }
    }
    Ok(found)
}

/// Where the next page is, by a `Link` header (RFC 8288).
fn next_page(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let (_, behind) = rest.split_once('<')?;
        let (target, parameters) = behind.split_once('>')?;
        // The next link begins behind a comma, which may stand in a link as well.
        let end = parameters.find(",<").or_else(|| parameters.find(", <"));
        let own = &parameters[..end.unwrap_or(parameters.len())];
        let is_next = own.split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel")
                && value.split_ascii_whitespace().any(|kind| kind.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target);
        }
        rest = parameters;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn links() {
        let check = |header: &str, expected: Option<&str>| {
            assert_eq!(next_page(header), expected, "{header}");
        };
        check("</v2/_catalog?last=a&n=2>; rel=\"next\"", Some("/v2/_catalog?last=a&n=2"));
        check("<https://h/x>;rel=next", Some("https://h/x"));
        check("</a>; rel=\"prev\", </b,c>; title=x; REL=\"last Next\"", Some("/b,c"));
        for nothing in ["", "<", "<>", "/x; rel=next", "</x>", "</x>; rel=nextish", ">;rel=next<"] {
            check(nothing, None);
        }
    }

    proptest! {
        #[test]
        fn links_of_any_kind(header in r#"([<>;,=" a-zé]|rel=next|rel="next"){0,30}"#) {
            if let Some(target) = next_page(&header) {
                let link = format!("<{target}>");
                prop_assert!(header.contains(&link));
            }
        }
    }
}
