//! Registries: where they are and who we are to them.

pub mod credentials;
pub mod settings;
