//! Ctrl-C and its kin end a build in order.

use nix::sys::signal::{SigSet, Signal};

use super::CliError;
use crate::runtime::CancelToken;

/// A token that is cancelled by SIGINT, SIGTERM and SIGHUP, at the second of them with force.
///
/// To be called while the process has one thread: the signals are blocked for all later ones, so that
/// the one that waits for them gets them.
pub(super) fn cancel_token() -> Result<CancelToken, CliError> {
    let failed = |source: std::io::Error| CliError::Read { path: "signals".into(), source };
    let token = CancelToken::new().map_err(failed)?;
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().map_err(|errno| failed(errno.into()))?;
    let cancelled = token.clone();
    let wait = move || {
        while signals.wait().is_ok() {
            cancelled.cancel();
        }
    };
    std::thread::Builder::new().spawn(wait).map_err(CliError::Threads)?;
    Ok(token)
}

/// What failed because somebody asked to stop says just that.
pub(super) fn unless_cancelled(cancel: &CancelToken) -> impl Fn(CliError) -> CliError + '_ {
    |err| if cancel.is_cancelled() { CliError::Cancelled } else { err }
}
