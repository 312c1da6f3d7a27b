//! `logout`: who we are to registries.
//!
//! It works outside of mica's namespaces: a credential helper may ask the user's session for secrets,
//! which knows the user by the id that it has there.

use super::args::LogoutArgs;
use super::{CliError, ui};
use crate::registry::credentials::{Credentials, host_of, key_of};

/// Docker Hub, where nobody names a server.
const DEFAULT_SERVER: &str = "docker.io";

pub(super) fn logout(args: &LogoutArgs) -> Result<(), CliError> {
    let host = host_of(args.server.as_deref().unwrap_or(DEFAULT_SERVER));
    ui::line(&format!("Removing login credentials for {}", ui::plain(&key_of(host))))?;
    Ok(Credentials::of_environment().remove(host)?)
}
