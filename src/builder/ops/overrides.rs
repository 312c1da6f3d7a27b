//! [`Overrides`]: `--chown` and `--chmod`.

use super::chmod;
use crate::builder::graph::Mode;
use crate::snapshot::{Kind, Metadata};

/// What a copy has otherwise than its source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overrides<'a> {
    /// The numbers of `--chown`.
    pub(super) owner: Option<(u32, u32)>,
    /// The value of `--chmod`.
    pub(super) mode: Option<&'a Mode>,
}

impl Overrides<'_> {
    /// What a copy of a file is to be.
    pub(super) fn apply(&self, keep_owners: bool, metadata: &mut Metadata) {
        let default = if keep_owners { (metadata.uid, metadata.gid) } else { (0, 0) };
        (metadata.uid, metadata.gid) = self.owner.unwrap_or(default);
        // Links have no mode of their own.
        if metadata.kind != Kind::Symlink {
            metadata.mode = self.mode(metadata.mode, metadata.is_dir());
        }
    }

    pub(super) fn mode(&self, mode: u32, is_dir: bool) -> u32 {
        match self.mode {
            None => mode,
            Some(Mode::Octal(octal)) => *octal,
            Some(Mode::Symbolic(symbolic)) => chmod::apply(symbolic, mode, is_dir),
        }
    }
}
