//! RUN: from the instruction to a [`RunOp`].

use super::config::in_shell;
use super::scope;
use super::state::State;
use super::{Lowering, Site};
use crate::builder::BuildError;
use crate::builder::graph::{Op, RunOp};
use crate::parser::{Command, Diagnostic, Run, Script, Word};

/// Where here-documents that are scripts of their own lie while they run, as in BuildKit.
const PIPES: &str = "/dev/pipes/";

/// Where programs look for the socket of their agent.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

impl Lowering<'_> {
    pub(super) fn run(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        run: &Run,
    ) -> Result<(), BuildError> {
        if let Some(device) = run.devices.first() {
            let message = "`RUN --device` is not supported";
            return Err(Diagnostic::error("unsupported", device.span, message).into());
        }
        let (argv, script) = command(state, &run.command);
        let network = self.network(run.network.as_ref())?;
        let insecure = self.insecure(run.security.as_ref())?;
        let mounts = self.mounts(state, site, run)?;
        // Each step keeps all variables.
        state.scope.budget.take(state.scope.size_bytes(), site.span())?;
        let prefix = state.scope.history_prefix();
        let created_by = format!("RUN {prefix}{} # buildkit", argv.join(" "));
        let mut env = state.scope.environment();
        if let Some(agent) = mounts.iter().find(|mount| mount.is_ssh())
            && state.scope.get(AGENT_VARIABLE).is_none()
        {
            env.push(format!("{AGENT_VARIABLE}={}", agent.target));
        }
        let op = RunOp {
            argv,
            env,
            hidden_env: scope::proxies(&self.options.build_args),
            // As it is written: a folder that `..` leads back out of is made where it is missing.
            cwd: state.working_dir().to_owned(),
            user: state.config.config.user.clone(),
            network,
            insecure,
            hosts: self.options.hosts.clone(),
            hostname: self.hostname(),
            mounts,
            script,
            shm_size: self.options.shm_size,
            ulimits: self.options.ulimits.clone(),
        };
        state.note(created_by, true);
        Ok(self.add_step(state, site, Op::Run(op))?)
    }

    fn hostname(&self) -> String {
        let given = self.options.build_args.get("BUILDKIT_SANDBOX_HOSTNAME");
        given.filter(|name| !name.is_empty()).map_or("buildkitsandbox", String::as_str).to_owned()
    }

    /// Whether the step has a network.
    fn network(&self, word: Option<&Word>) -> Result<bool, Diagnostic> {
        let Some(word) = word else { return Ok(self.options.network) };
        // The parser knows the modes.
        match word.text.as_str() {
            "none" => Ok(false),
            "host" if self.options.host_network => Ok(true),
            "host" => self.allowed("network.host", word).map(|()| true),
            _ => Ok(self.options.network),
        }
    }

    fn insecure(&self, word: Option<&Word>) -> Result<bool, Diagnostic> {
        let Some(word) = word else { return Ok(false) };
        match word.text.as_str() {
            "insecure" => self.allowed("security.insecure", word).map(|()| true),
            _ => Ok(false),
        }
    }

    fn allowed(&self, entitlement: &str, word: &Word) -> Result<(), Diagnostic> {
        if self.options.allow.contains(entitlement) {
            return Ok(());
        }
        let message = format!("the entitlement {entitlement} is not allowed");
        Err(Diagnostic::error("entitlement", word.span, message)
            .with_hint(format!("if you trust this Dockerfile, build with `--allow {entitlement}`")))
    }
}

/// The arguments of a RUN, and the script that they name where it is one.
fn command(state: &State, command: &Command) -> (Vec<String>, Option<(String, String)>) {
    match command {
        Command::Exec(words) => (words.iter().map(|word| word.text.clone()).collect(), None),
        Command::Shell(text) => match text.script() {
            Script::Text(text) => (in_shell(state, text), None),
            Script::File { name, content } => {
                let path = format!("{PIPES}{name}");
                (in_shell(state, path.clone()), Some((path, content)))
            }
        },
    }
}
