//! A sandbox that follows a script, for tests of whatever runs things.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{CancelToken, ExecSpec, ExitStatus, Output, Sandbox, SandboxError, Stream};

/// What the fake does instead of running: may write to the upper directory as a command would.
type Act = Box<dyn FnMut(&ExecSpec, Output<'_>) -> Result<ExitStatus, SandboxError> + Send>;

/// Answers each run with the next act of a script and remembers what it was asked.
///
/// Beyond the script, everything succeeds without a word.
#[derive(Default)]
pub struct FakeSandbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    script: VecDeque<Act>,
    seen: Vec<ExecSpec>,
}

impl FakeSandbox {
    /// Makes a sandbox in which everything succeeds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an act to the script.
    #[must_use]
    pub fn then(
        self,
        act: impl FnMut(&ExecSpec, Output<'_>) -> Result<ExitStatus, SandboxError> + Send + 'static,
    ) -> Self {
        self.state().script.push_back(Box::new(act));
        self
    }

    /// Appends a run that prints `text` and returns `code`.
    #[must_use]
    pub fn then_prints(self, text: &str, code: u8) -> Self {
        let text = text.to_owned();
        self.then(move |_, output| {
            output(Stream::Stdout, text.as_bytes());
            Ok(ExitStatus::Code(code))
        })
    }

    /// Returns everything that was to be run so far, in order.
    pub fn seen(&self) -> Vec<ExecSpec> {
        self.state().seen.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for FakeSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeSandbox").field("seen", &self.seen().len()).finish_non_exhaustive()
    }
}

impl Sandbox for FakeSandbox {
    fn run(
        &self,
        spec: &ExecSpec,
        output: Output<'_>,
        cancel: &CancelToken,
    ) -> Result<ExitStatus, SandboxError> {
        if cancel.is_cancelled() {
            return Err(SandboxError::Cancelled);
        }
        let act = {
            let mut state = self.state();
            state.seen.push(spec.clone());
            state.script.pop_front()
        };
        act.map_or(Ok(ExitStatus::Code(0)), |mut act| act(spec, output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Overlay;

    #[test]
    fn follows_its_script() {
        let sandbox = FakeSandbox::new().then_prints("one", 3);
        let spec = ExecSpec::new(Overlay::directory("/"), ["true"]);
        let cancel = CancelToken::new().unwrap();
        let mut heard = Vec::new();
        let mut output = |_: Stream, bytes: &[u8]| heard.extend_from_slice(bytes);
        let first = sandbox.run(&spec, &mut output, &cancel).unwrap();
        let second = sandbox.run(&spec, &mut output, &cancel).unwrap();
        assert_eq!((first, second), (ExitStatus::Code(3), ExitStatus::Code(0)));
        assert_eq!((heard.as_slice(), sandbox.seen().len()), (&b"one"[..], 2));
        cancel.cancel();
        let third = sandbox.run(&spec, &mut |_, _| {}, &cancel);
        assert!(matches!(third, Err(SandboxError::Cancelled)));
    }
}
