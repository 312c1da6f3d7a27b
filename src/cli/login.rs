//! `login`, `logout`: who we are to registries.
//!
//! They work outside of mica's namespaces: a credential helper may ask the user's session for secrets,
//! which knows the user by the id that it has there.

use std::io::{self, IsTerminal, Read};

use rustix::termios::{self, LocalModes, OptionalActions};

use super::args::{LoginArgs, LogoutArgs};
use super::{CliError, ui};
use crate::http::Limits;
use crate::oci::Reference;
use crate::registry::credentials::{Credential, Credentials, Kept, host_of, key_of};
use crate::registry::settings::Settings;
use crate::registry::{Access, Call, Registries, Target};

/// Docker Hub, where nobody names a server.
const DEFAULT_SERVER: &str = "docker.io";

/// The most bytes of a password.
const MAX_PASSWORD_BYTES: u64 = 64 << 10;

pub(super) fn login(args: &LoginArgs) -> Result<(), CliError> {
    let host = host_of(args.server.as_deref().unwrap_or(DEFAULT_SERVER));
    let name: Result<Reference, _> = format!("{host}/image").parse();
    if !name.is_ok_and(|name| name.domain() == host) {
        return Err(CliError::Usage(format!(
            "`{}` is not the host of a registry",
            host.escape_debug()
        )));
    }
    if args.password.is_some() {
        ui::say("warning: `--password` can be seen by all processes; use `--password-stdin`");
    }
    let credentials = Credentials::of_environment();
    let asks_nobody = args.username.is_none() && args.password.is_none();
    if asks_nobody && let Some(known) = credentials.get(host)? {
        ui::say("Authenticating with existing credentials...");
        if verify(host, &known, args).is_ok() {
            return ui::line("Login Succeeded");
        }
        ui::say("They are not valid any more.");
    }
    let user = match &args.username {
        Some(user) => user.clone(),
        None => prompt("Username: ", false)?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => password_of_stdin()?,
        None => prompt("Password: ", true)?,
    };
    if user.is_empty() || password.is_empty() {
        let what = if user.is_empty() { "user name" } else { "password" };
        return Err(CliError::Usage(format!("the {what} is empty")));
    }
    let credential = Credential::Basic { user: user.clone(), password };
    verify(host, &credential, args)?;
    if let Kept::File(path) = credentials.keep(host, &user, &credential)? {
        let path = path.display();
        ui::say(&format!(
            "warning: your credentials are stored unencrypted in `{path}`\n\
             hint: a credential helper keeps them better: \
             https://docs.docker.com/go/credential-store/"
        ));
    }
    ui::line("Login Succeeded")
}

pub(super) fn logout(args: &LogoutArgs) -> Result<(), CliError> {
    let host = host_of(args.server.as_deref().unwrap_or(DEFAULT_SERVER));
    ui::line(&format!("Removing login credentials for {}", ui::plain(&key_of(host))))?;
    Ok(Credentials::of_environment().remove(host)?)
}

/// Asks the registry whether it knows us.
fn verify(host: &str, credential: &Credential, args: &LoginArgs) -> Result<(), CliError> {
    let failed = |source| CliError::Login { host: host.to_owned(), source: Box::new(source) };
    let tls_verify = args.tls_verify;
    let settings = move || Ok(Settings::load()?.tls_verify(tls_verify));
    let credentials = Credentials::only(host, credential.clone());
    let registries = Registries::new(settings, credentials, Limits::default(), || false);
    // Any repository will do: the question is about the registry alone.
    let registry = registries.repository(&format!("{host}/image").parse()?);
    let target = Target::Registry(String::new());
    let what = format!("the registry `{host}`");
    let call = Call::new("GET", target, Access::Nothing, &what);
    let response = registry.request(&call).map_err(failed)?;
    registry.success(&call, response).map(drop).map_err(failed)
}

fn password_of_stdin() -> Result<String, CliError> {
    let mut text = String::new();
    let read = io::stdin().lock().take(MAX_PASSWORD_BYTES).read_to_string(&mut text);
    read.map_err(|source| CliError::Read { path: "standard input".into(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks the person at the terminal.
fn prompt(question: &str, is_secret: bool) -> Result<String, CliError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(CliError::NoTerminal);
    }
    let failed = |source| CliError::Read { path: "the terminal".into(), source };
    ui::ask(question);
    let _hidden = is_secret.then(|| Hidden::new(&stdin)).transpose().map_err(failed)?;
    // Ctrl-C would leave the terminal as it is now.
    let answered = super::signals::cancel_token()?.wait_to_read(&stdin).map_err(failed)?;
    let mut text = String::new();
    if answered {
        stdin.read_line(&mut text).map_err(failed)?;
    }
    if is_secret || !answered {
        // Return was not shown either.
        ui::say("");
    }
    if !answered {
        return Err(CliError::Cancelled);
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed, until this goes.
struct Hidden<'a> {
    stdin: &'a io::Stdin,
    before: termios::Termios,
}

impl<'a> Hidden<'a> {
    fn new(stdin: &'a io::Stdin) -> io::Result<Self> {
        let before = termios::tcgetattr(stdin)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(stdin, OptionalActions::Flush, &hidden)?;
        Ok(Self { stdin, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // A terminal that went away needs no echo.
        let _gone = termios::tcsetattr(self.stdin, OptionalActions::Flush, &self.before);
    }
}
