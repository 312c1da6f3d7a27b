//! What runs steps where nothing can: it says why.

use super::isolation::Declined;
use super::{CancelToken, ExecSpec, ExitStatus, Output, Sandbox, SandboxError};

/// Refuses every step with the reasons for which no mode of isolation works.
#[derive(Debug)]
pub(super) struct NoSandbox {
    reason: String,
}

impl NoSandbox {
    pub(super) fn new(declined: &[Declined]) -> Self {
        let reasons: Vec<String> =
            declined.iter().map(|it| format!("{}: {}", it.what, it.error)).collect();
        Self { reason: reasons.join("; ") }
    }
}

impl Sandbox for NoSandbox {
    fn run(
        &self,
        _spec: &ExecSpec,
        _output: Output<'_>,
        _cancel: &CancelToken,
    ) -> Result<ExitStatus, SandboxError> {
        Err(SandboxError::NoIsolation { reason: self.reason.clone() })
    }
}
