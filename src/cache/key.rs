//! [`CacheKey`] and the encoding that it is a hash of.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::oci::Digest;

/// Changed whenever equal fields could mean something else than before: old records are then no
/// longer found.
const VERSION: &str = "mica step 2";

/// The hash of everything that a step's result depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey(pub Digest);

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Hashes named fields. Each is written as the length of its name, its name, the length of its value
/// and its value (lengths as 8 bytes, little-endian), so that no two lists of fields are encoded
/// alike.
#[derive(Debug, Clone)]
pub struct KeyHasher(Sha256);

impl KeyHasher {
    /// A hasher for what `kind` names.
    pub fn new(kind: &str) -> Self {
        let mut hasher = Self(Sha256::new());
        hasher.field("version", VERSION);
        hasher.field("kind", kind);
        hasher
    }

    /// Adds a field.
    pub fn field(&mut self, name: &str, value: impl AsRef<[u8]>) {
        for bytes in [name.as_bytes(), value.as_ref()] {
            self.0.update((bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }
    }

    /// Adds a field with several values, in their order.
    pub fn list<T: AsRef<[u8]>>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        let mut count = 0_u64;
        for value in values {
            self.field(name, value);
            count += 1;
        }
        self.field(name, count.to_le_bytes());
    }

    /// Adds a number.
    pub fn number(&mut self, name: &str, value: u64) {
        self.field(name, value.to_le_bytes());
    }

    /// Adds a digest.
    pub fn digest(&mut self, name: &str, value: Digest) {
        self.field(name, value.as_bytes());
    }

    /// The key of all fields.
    pub fn finish(self) -> CacheKey {
        CacheKey(Digest::finish(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(fields: &[(String, Vec<u8>)]) -> CacheKey {
        let mut hasher = KeyHasher::new("test");
        for (name, value) in fields {
            hasher.field(name, value);
        }
        hasher.finish()
    }

    proptest! {
        #[test]
        fn equal_keys_mean_equal_fields(
            a in prop::collection::vec(("[ab]{0,2}", prop::collection::vec(0_u8..3, 0..3)), 0..3),
            b in prop::collection::vec(("[ab]{0,2}", prop::collection::vec(0_u8..3, 0..3)), 0..3),
        ) {
            prop_assert_eq!(key(&a) == key(&b), a == b);
        }
    }

    #[test]
    fn a_list_is_not_its_concatenation() {
        let list = |values: &[&str]| {
            let mut hasher = KeyHasher::new("test");
            hasher.list("x", values);
            hasher.finish()
        };
        assert_ne!(list(&["ab", "c"]), list(&["a", "bc"]));
        assert_ne!(list(&[]), list(&[""]));
    }
}
