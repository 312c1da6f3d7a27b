//! The vocabulary of the OCI image specification. Nothing here does I/O.

mod digest;

pub use digest::{ChainId, DiffId, Digest, DigestError, HashingReader, HashingWriter};
