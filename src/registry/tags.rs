//! The tags of a repository: which there are, and away with them.

use serde::Deserialize;

use super::auth::Access;
use super::client::{Call, Repository, Target};
use super::documents::read_small;
use super::error::RegistryError;

/// So many tags are asked for at once, and so often.
const PAGE: usize = 1000;
const MAX_PAGES: usize = 100;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Repository<'_> {
    /// The tags that begin with `prefix` (distribution specification, "Listing Tags"); none where the
    /// registry does not have the repository.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn tags(&self, prefix: &str) -> Result<Vec<String>, RegistryError> {
        let mut found = Vec::new();
        // Tags come sorted, so those before the prefix need not come at all.
        let mut last = prefix.to_owned();
        for _ in 0..MAX_PAGES {
            let tags = self.page(&last)?;
            let more = tags.len() >= PAGE;
            let Some(end) = tags.last().cloned().filter(|end| *end != last) else { break };
            let is_behind = !end.starts_with(prefix) && end.as_str() > prefix;
            found.extend(tags.into_iter().filter(|tag| tag.starts_with(prefix)));
            if !more || is_behind {
                break;
            }
            last = end;
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn page(&self, last: &str) -> Result<Vec<String>, RegistryError> {
        let what = format!("the tags of `{self}`");
        let target = Target::Repository(format!("tags/list?n={PAGE}&last={last}"));
        let call = Call::new("GET", target, Access::Pull, &what);
        let response = match self.success(&call, self.request(&call)?) {
            Err(RegistryError::NotFound { .. }) => return Ok(Vec::new()),
            answer => answer?,
        };
        let bytes = read_small(&what, response)?;
        let page: Page = serde_json::from_slice(&bytes)
            .map_err(|err| RegistryError::Wrong { what, reason: err.to_string() })?;
        Ok(page.tags.unwrap_or_default())
    }

    /// Takes a tag away, with its manifest where the registry takes away nothing less; false where it
    /// does neither.
    ///
    /// # Errors
    /// [`RegistryError`], if there was no answer.
    pub fn delete_tag(&self, tag: &str) -> Result<bool, RegistryError> {
        if self.delete(tag)? {
            return Ok(true);
        }
        match self.head(tag)? {
            Some(manifest) => self.delete(&manifest.digest.to_string()),
            None => Ok(true),
        }
    }

    fn delete(&self, tag_or_digest: &str) -> Result<bool, RegistryError> {
        let target = Target::Repository(format!("manifests/{tag_or_digest}"));
        let what = format!("the manifest {tag_or_digest} of `{self}`");
        let call = Call::new("DELETE", target, Access::Delete, &what);
        Ok(matches!(self.request(&call)?.status, 200..=299))
    }
}
