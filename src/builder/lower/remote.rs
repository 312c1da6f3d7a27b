//! ADD from elsewhere: from a word to the vertex of its source.

use super::{Lowering, Site};
use crate::builder::BuildError;
use crate::builder::graph::{HttpOp, Op, Tree, Vertex};
use crate::fetch::{GitSource, GitUrl};
use crate::http::Url;
use crate::oci::Digest;
use crate::parser::{Diagnostic, Word};

/// The name of a file whose URL has none.
const UNNAMED: &str = "__unnamed__";

/// What a word names.
#[derive(Debug)]
pub(super) enum Named {
    /// A path of a context or a stage.
    Path,
    /// A file on a server.
    Http(Url),
    /// A git repository.
    Git(GitUrl),
}

/// What the flags of an ADD say of its remote sources.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RemoteFlags<'a> {
    /// The value of `--checksum`, and where it stands.
    pub(super) checksum: Option<(&'a str, &'a Word)>,
    /// The value of `--keep-git-dir`.
    pub(super) keep_git_dir: Option<bool>,
}

/// Tells what a source of COPY or ADD is, by BuildKit's rules.
pub(super) fn classify(text: &str, word: &Word) -> Result<Named, Diagnostic> {
    let wrong = |why: String| Diagnostic::error("add", word.span, why);
    if let Some(url) = GitUrl::parse(text).map_err(wrong)?
        && !url.looks_local
    {
        return Ok(Named::Git(url));
    }
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return Ok(Named::Path);
    }
    let url = Url::parse(text);
    url.map(Named::Http)
        .map_err(|why| wrong(format!("`{}` is no valid URL: {why}", text.escape_debug())))
}

impl Lowering<'_> {
    /// The vertex of a file on a server, and the file's name.
    pub(super) fn http_source(
        &mut self,
        url: Url,
        flags: RemoteFlags<'_>,
        (site, word): (Site<'_>, &Word),
    ) -> Result<(Tree, String), BuildError> {
        let checksum = flags.checksum.map(|(text, word)| {
            text.parse::<Digest>().map_err(|_| {
                Diagnostic::error("checksum", word.span, "invalid checksum digest format")
                    .with_hint("write it as `sha256:` and 64 hex digits")
            })
        });
        let path = url.path();
        let base = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let name = match base {
            "" | "." | ".." => UNNAMED,
            base if base.contains('\0') => UNNAMED,
            base => base,
        };
        let name = name.to_owned();
        let op = HttpOp { url, checksum: checksum.transpose()?, name: name.clone() };
        let text = format!("fetch {}", op.url);
        let known = self.graph.find(|known| matches!(known, Op::Http(known) if *known == op));
        let vertex = known.unwrap_or_else(|| self.source_vertex(Op::Http(op), text, site, word));
        Ok((Tree::Vertex(vertex), name))
    }

    /// The vertex of a git repository.
    pub(super) fn git_source(
        &mut self,
        mut url: GitUrl,
        flags: RemoteFlags<'_>,
        (site, word): (Site<'_>, &Word),
    ) -> Result<Tree, BuildError> {
        let wrong = |word: &Word, why: String| Diagnostic::error("add", word.span, why);
        if let (Some(flag), Some(query)) = (flags.keep_git_dir, url.keep_git_dir)
            && flag != query
        {
            let why = "inconsistent keep-git-dir configuration";
            return Err(wrong(word, why.to_owned()).into());
        }
        if let Some((flag, place)) = flags.checksum {
            if let Some(query) = url.checksum.as_deref().filter(|query| *query != flag) {
                let (flag, query) = (flag.escape_debug(), query.escape_debug());
                let why = format!("checksum mismatch `{flag}` != `{query}`");
                return Err(wrong(place, why).into());
            }
            url.checksum = Some(flag.to_owned());
        }
        url.keep_git_dir = url.keep_git_dir.or(flags.keep_git_dir);
        let op = GitSource::new(url);
        let text = format!("fetch {}", op.url.remote);
        let known = self.graph.find(|known| matches!(known, Op::Git(known) if **known == op));
        let vertex =
            known.unwrap_or_else(|| self.source_vertex(Op::Git(Box::new(op)), text, site, word));
        Ok(Tree::Vertex(vertex))
    }

    fn source_vertex(
        &mut self,
        op: Op,
        name: String,
        site: Site<'_>,
        word: &Word,
    ) -> crate::builder::graph::VertexId {
        // The words of a trigger are not in the Dockerfile.
        let span = site.place.trigger_of.unwrap_or(word.span);
        self.graph.add(Vertex { op, root: None, name, span: Some(span), no_cache: false })
    }
}
