//! Registries: where they are, who we are to them, what they have, and what they get.
//!
//! [`Registries`] knows settings, credentials, tokens and connections. A [`Repository`] is asked for
//! manifests and blobs, of its mirrors first; `request` is the way to everything else. Nothing that a
//! registry says is believed: what has a digest is hashed, what has a length is counted.

mod auth;
mod blob;
pub mod challenge;
mod client;
pub mod credentials;
mod documents;
mod error;
mod pull;
pub mod push;
mod search;
pub mod settings;
mod tags;

pub use auth::Access;
pub use blob::BlobReader;
pub use client::{Call, Registries, Repository, Target};
pub use documents::Document;
pub use error::{RegistryError, Said};
pub use pull::Found;
pub use search::Match;
