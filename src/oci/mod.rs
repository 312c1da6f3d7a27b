//! The vocabulary of the OCI image specification. Nothing here does I/O.

mod config;
mod descriptor;
mod digest;
mod manifest;
mod reference;
mod validate;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use descriptor::{Descriptor, MediaType, MediaTypes, Platform};
pub use digest::{ChainId, DiffId, Digest, DigestError, HashingReader, HashingWriter};
pub use manifest::{DocumentError, Index, MAX_DOCUMENT_BYTES, Manifest};
pub use reference::{Reference, ReferenceError};
pub use validate::{Invalid, MAX_LAYERS, validate};
