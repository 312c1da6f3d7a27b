//! Flags of Docker that pipelines pass and that mean nothing here, or that cannot mean here what they
//! mean there. `docs/docker-flags.md` is the list for people.

use clap::Args;

use crate::cli::{CliError, ui};

/// Flags that are taken for Docker's sake.
#[derive(Debug, Args)]
pub(in crate::cli) struct DockerFlags {
    /// There are no intermediate containers to keep.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rm: Option<String>,
    /// As `--rm`.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    force_rm: Option<String>,
    /// The context goes nowhere.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    compress: Option<String>,
    /// What is fetched is held against digests, not against signatures.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_content_trust: Option<String>,
    /// There is one builder.
    #[arg(long, hide = true)]
    builder: Option<String>,
    /// There is no daemon's log.
    #[arg(short = 'D', long, hide = true)]
    debug: bool,

    #[arg(short, long, hide = true)]
    memory: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    #[arg(short, long, hide = true)]
    cpu_shares: Option<String>,
    #[arg(long, hide = true)]
    cpu_period: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    #[arg(long, hide = true)]
    cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    cpuset_mems: Option<String>,

    #[arg(long, hide = true)]
    cgroup_parent: Option<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    /// Make one layer of all that the build puts on its base
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "BOOL")]
    pub(in crate::cli) squash: Option<String>,
    #[arg(long, hide = true)]
    provenance: Option<String>,
    #[arg(long, hide = true)]
    sbom: Option<String>,
    #[arg(long, hide = true)]
    attest: Vec<String>,
}

impl DockerFlags {
    /// Warns of flags that are left out of account, and refuses those without which the image or the
    /// step would not be what was asked for.
    pub(super) fn check(&self) -> Result<(), CliError> {
        for (flag, why) in self.refused() {
            if let Some(why) = why {
                return Err(CliError::Unsupported { flag, why });
            }
        }
        for (flag, given) in self.ignored() {
            if given {
                ui::say(&format!("warning: `{flag}` is ignored: the image does not depend on it"));
            }
        }
        Ok(())
    }

    fn ignored(&self) -> [(&'static str, bool); 7] {
        [
            ("--memory", self.memory.is_some()),
            ("--memory-swap", self.memory_swap.is_some()),
            ("--cpu-shares", self.cpu_shares.is_some()),
            ("--cpu-period", self.cpu_period.is_some()),
            ("--cpu-quota", self.cpu_quota.is_some()),
            ("--cpuset-cpus", self.cpuset_cpus.is_some()),
            ("--cpuset-mems", self.cpuset_mems.is_some()),
        ]
    }

    /// Whether the build's layers become one.
    pub(super) fn squashes(&self) -> bool {
        self.squash.as_deref().is_some_and(wants)
    }

    /// What is refused, and why if it was given.
    fn refused(&self) -> [(&'static str, Option<&'static str>); 5] {
        let because = |given: bool, why| given.then_some(why);
        let attestations = "mica makes no attestations";
        let attested = self.attest.iter().any(|text| !is_disabled(text));
        let cgroup = "steps run in the control group of mica: start mica in the one that you mean";
        [
            ("--cgroup-parent", because(self.cgroup_parent.is_some(), cgroup)),
            (
                "--security-opt",
                because(!self.security_opt.is_empty(), "steps are held as the Dockerfile says"),
            ),
            ("--provenance", because(self.provenance.as_deref().is_some_and(wants), attestations)),
            ("--sbom", because(self.sbom.as_deref().is_some_and(wants), attestations)),
            ("--attest", because(attested, attestations)),
        ]
    }
}

/// Whether a value is anything but a Go `false`.
fn wants(value: &str) -> bool {
    !matches!(value, "0" | "f" | "F" | "false" | "FALSE" | "False")
}

/// Whether an attestation is one that is not wanted.
fn is_disabled(text: &str) -> bool {
    text.split(',').any(|field| field.strip_prefix("disabled=").is_some_and(wants))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: DockerFlags,
    }

    #[track_caller]
    fn check(args: &[&str], refused: Option<&str>) {
        let line = Line::try_parse_from(["build"].iter().chain(args)).expect("known flags");
        let found = line.flags.refused().into_iter().find(|(_, why)| why.is_some());
        assert_eq!(found.map(|(flag, _)| flag), refused, "{args:?}");
    }

    #[test]
    fn what_changes_nothing_is_taken() {
        check(&["--rm", "--force-rm=false", "--compress", "--disable-content-trust", "-D"], None);
        check(&["-m", "1g", "--memory-swap", "-1", "-c", "5", "--cpu-quota", "-1"], None);
        check(&["--provenance=false", "--sbom", "false", "--squash"], None);
        check(&["--attest", "type=sbom,disabled=true", "--builder", "x"], None);
    }

    #[test]
    fn what_would_be_missed_is_refused() {
        for (flag, value) in [
            ("--provenance", Some("mode=max")),
            ("--sbom", Some("true")),
            ("--attest", Some("type=sbom")),
            ("--cgroup-parent", Some("x")),
            ("--security-opt", Some("seccomp=unconfined")),
        ] {
            let args: Vec<&str> = std::iter::once(flag).chain(value).collect();
            check(&args, Some(flag));
        }
    }
}
