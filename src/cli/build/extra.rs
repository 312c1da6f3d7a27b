//! [`Extra`]: what a build can be asked for, and what none of Docker's flags asks for.

use std::fs;
use std::path::PathBuf;

use super::outputs::Compressed;
use crate::cli::CliError;
use crate::oci::{Digest, Reference};
use crate::registry::settings::Overrides;

/// What is asked for beside the flags of `mica build`.
#[derive(Debug, Default)]
pub(in crate::cli) struct Extra {
    /// An archive of this machine that is the context.
    pub(in crate::cli) archive: Option<PathBuf>,
    /// The folder of the context, if it is an archive, that stands for all of it.
    pub(in crate::cli) below: Option<PathBuf>,
    /// What counts more than settings.
    pub(in crate::cli) registries: Overrides,
    /// Steps that were made before this are done anew.
    pub(in crate::cli) cache_since: Option<jiff::Timestamp>,
    /// Whether a tag that a registry never moves is left where it is.
    pub(in crate::cli) forgives_immutable: bool,
    /// Where the image's digest is to stand.
    pub(in crate::cli) digests: Option<DigestFiles>,
}

/// Files that get the digest of the image's manifest.
#[derive(Debug)]
pub(in crate::cli) struct DigestFiles {
    pub(in crate::cli) files: Vec<(PathBuf, DigestForm)>,
    /// How layers would be compressed if the image were pushed.
    pub(in crate::cli) compressed: Compressed,
}

/// What stands in such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum DigestForm {
    /// The digest alone.
    Bare,
    /// A line `REPOSITORY@DIGEST` for each name.
    Repository,
    /// A line `REPOSITORY:TAG@DIGEST` for each name.
    Tag,
}

impl DigestFiles {
    /// Writes them, for an image with these names. Folders on the way are made.
    pub(super) fn write(&self, names: &[Reference], digest: Digest) -> Result<(), CliError> {
        for (path, form) in &self.files {
            let failed = |source| CliError::Write { path: path.clone(), source };
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                fs::create_dir_all(folder).map_err(failed)?;
            }
            fs::write(path, form.text(names, digest)).map_err(failed)?;
        }
        Ok(())
    }
}

impl DigestForm {
    fn text(self, names: &[Reference], digest: Digest) -> String {
        let line = |name: &Reference| {
            let (host, path) = (name.domain(), name.path());
            let host = if host == "docker.io" { "index.docker.io" } else { host };
            let tag = name.tag().filter(|_| self == Self::Tag);
            let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
            format!("{host}/{path}{tag}@{digest}\n")
        };
        match self {
            Self::Bare => digest.to_string(),
            Self::Repository | Self::Tag => names.iter().map(line).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let names = ["app", "r.example:5000/team/app:1"].map(|name| name.parse().expect("a name"));
        let digest = Digest::of(b"");
        let check = |form: DigestForm, expected: &str| {
            assert_eq!(form.text(&names, digest), expected.replace('D', &digest.to_string()));
        };
        check(DigestForm::Bare, "D");
        check(DigestForm::Repository, "index.docker.io/library/app@D\nr.example:5000/team/app@D\n");
        check(
            DigestForm::Tag,
            "index.docker.io/library/app:latest@D\nr.example:5000/team/app:1@D\n",
        );
    }
}
