//! Whose the links, pipes and sockets of a directory are meant to be.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The value of the xattr [`Owners::XATTR`] of a directory: `UID GID NAME` and a NUL byte for each entry
/// that belongs to somebody whom its maker could not give it to, and that can have no xattr itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Owners(Vec<u8>);

impl Owners {
    /// The xattr that holds the list.
    pub(crate) const XATTR: &str = "user.mica.links";

    pub(crate) fn decode(value: Vec<u8>) -> Self {
        Self(value)
    }

    pub(crate) fn encode(&self) -> &[u8] {
        &self.0
    }

    /// User and group of `name`, if it is listed. What is malformed lists nothing.
    pub(crate) fn of(&self, name: &OsStr) -> Option<(u32, u32)> {
        entries(&self.0).find(|(_, it, _)| *it == name.as_bytes()).map(|(.., owner)| owner)
    }

    /// Lists `name`, or for `None` takes it off the list; says whether that changed anything.
    pub(crate) fn set(&mut self, name: &OsStr, owner: Option<(u32, u32)>) -> bool {
        let mut list = Vec::with_capacity(self.0.len() + name.len() + 24);
        for (whole, ..) in entries(&self.0).filter(|(_, it, _)| *it != name.as_bytes()) {
            list.extend_from_slice(whole);
            list.push(0);
        }
        if let Some((uid, gid)) = owner {
            list.extend_from_slice(format!("{uid} {gid} ").as_bytes());
            list.extend_from_slice(name.as_bytes());
            list.push(0);
        }
        let changed = list != self.0;
        self.0 = list;
        changed
    }
}

/// The entries of a list: all of it, its name, its owner.
fn entries(list: &[u8]) -> impl Iterator<Item = (&[u8], &[u8], (u32, u32))> {
    list.split(|byte| *byte == 0).filter_map(|whole| {
        let mut words = whole.splitn(3, |byte| *byte == b' ');
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
        let owner = (number()?, number()?);
        Some((whole, words.next()?, owner))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_forgets() {
        let mut owners = Owners::default();
        assert!(owners.set(OsStr::new("a b"), Some((7, 8))));
        assert!(owners.set(OsStr::new("c"), Some((1, 0))));
        assert!(!owners.set(OsStr::new("missing"), None));
        assert_eq!(owners.encode(), b"7 8 a b\x001 0 c\x00");
        assert_eq!(owners.of(OsStr::new("a b")), Some((7, 8)));
        assert_eq!(owners.of(OsStr::new("a")), None);
        assert!(owners.set(OsStr::new("a b"), None));
        assert_eq!(owners.encode(), b"1 0 c\x00");
        assert_eq!(Owners::decode(b"nonsense\x00-1 2 x".to_vec()).of(OsStr::new("x")), None);
    }
}
