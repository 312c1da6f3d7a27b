//! Gives up what the process must not have: the last acts before it becomes the user's command.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sys::resource::{Resource as Rlimit, getrlimit, rlim_t, setrlimit};
use nix::unistd::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::error::{During, SetupError, Step};
use super::isolation::{Emulation, Mode};
use super::seccomp::{self, Profile};
use super::spec::{ExecSpec, Network, Resource, Security, Ulimit};
use super::user::User;
use super::{chroot, sys, wire};

/// Docker's default capabilities: `00000000a80425fb`.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// Programs walk over all descriptors up to the soft limit; the kernel's own maximum takes minutes.
const OPEN_FILES: rlim_t = 1 << 20;

/// Sets limits, filter, capabilities and user, in the one order that works.
///
/// The filter is loaded while `CAP_SYS_ADMIN` is there, since it would need `no_new_privs` otherwise,
/// which `sudo` and `ping` in an image don't survive. What follows it is allowed by it.
///
/// From the filter on, the guardian may have to answer the calls of this very process: so it gets the
/// listener at once. Whoever is not there for the kernel, it knows.
pub(super) fn drop_to(
    spec: &ExecSpec,
    user: &User,
    mode: Mode,
    teller: Option<(UnixStream, Emulation)>,
) -> Result<(), SetupError> {
    set_limits(&spec.ulimits)?;
    // Keyrings are not namespaced (CVE-2016-0728). Without kernel support there is none to hide, and
    // where an outer filter denies the call, it denies the process's too.
    let _none = sys::join_new_session_keyring();
    let sandboxed = spec.security == Security::Sandbox;
    let emulation = teller.as_ref().map_or(Emulation::Nothing, |(_, emulation)| *emulation);
    let (profile, capabilities) = match (mode.has_namespaces(), sandboxed) {
        (true, true) => (Profile::Default, CAPABILITIES),
        (true, false) => (Profile::Open, CapabilitySet::all()),
        (false, _) => {
            chroot::shut_in()?;
            (Profile::Shared, CAPABILITIES - CapabilitySet::SYS_CHROOT - CapabilitySet::MKNOD)
        }
    };
    if sandboxed && mode.has_namespaces() && spec.network == Network::Host {
        // They go by the network, which is the host's: there are services that trust whoever gets there
        // (CVE-2020-15257).
        let _kernel_before_6_12 = sys::restrict(None, sys::ABSTRACT_SOCKETS);
    }
    if sandboxed || emulation != Emulation::Nothing {
        let program = seccomp::program(profile, emulation);
        let listener = sys::load_filter(&program, teller.is_some()).during(Step::Filter)?;
        if let (Some((socket, _)), Some(listener)) = (teller, listener) {
            wire::send(&socket, &0u8, Some(listener.as_fd())).during(Step::Filter)?;
        }
    }
    if sandboxed {
        limit_bounding_set(capabilities)?;
    }
    let groups: Vec<Gid> =
        std::iter::once(user.gid).chain(user.groups.iter().copied()).map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    nix::unistd::setgroups(&groups).during(Step::Identity)?;
    nix::unistd::setresgid(gid, gid, gid).during(Step::Identity)?;
    nix::unistd::setresuid(uid, uid, uid).during(Step::Identity)?;
    let held = rustix::thread::capabilities(None).during(Step::Capabilities)?;
    let kept = held.permitted & capabilities;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).during(Step::Capabilities)
}

/// What leaves the bounding set never comes back, not even through a setuid program.
fn limit_bounding_set(kept: CapabilitySet) -> Result<(), SetupError> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Beyond the last one that this kernel knows.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error).during(Step::Capabilities),
        }
    }
    Ok(())
}

fn set_limits(ulimits: &[Ulimit]) -> Result<(), SetupError> {
    let (soft, hard) = getrlimit(Rlimit::RLIMIT_NOFILE).during(Step::Limits)?;
    if soft > OPEN_FILES {
        setrlimit(Rlimit::RLIMIT_NOFILE, OPEN_FILES, hard).during(Step::Limits)?;
    }
    for limit in ulimits {
        let resource = rlimit(limit.resource);
        let value = |it: Option<u64>| it.unwrap_or(nix::libc::RLIM_INFINITY);
        let (soft, hard) = (value(limit.soft), value(limit.hard));
        if setrlimit(resource, soft, hard).is_err() {
            // More than the machine grants: as much as it does.
            let (_, most) = getrlimit(resource).during(Step::Limits)?;
            let hard = hard.min(most);
            setrlimit(resource, soft.min(hard), hard).during(Step::Limits)?;
        }
    }
    Ok(())
}

fn rlimit(resource: Resource) -> Rlimit {
    match resource {
        Resource::Core => Rlimit::RLIMIT_CORE,
        Resource::Cpu => Rlimit::RLIMIT_CPU,
        Resource::Data => Rlimit::RLIMIT_DATA,
        Resource::Fsize => Rlimit::RLIMIT_FSIZE,
        Resource::Locks => Rlimit::RLIMIT_LOCKS,
        Resource::Memlock => Rlimit::RLIMIT_MEMLOCK,
        Resource::Msgqueue => Rlimit::RLIMIT_MSGQUEUE,
        Resource::Nice => Rlimit::RLIMIT_NICE,
        Resource::Nofile => Rlimit::RLIMIT_NOFILE,
        Resource::Nproc => Rlimit::RLIMIT_NPROC,
        Resource::Rss => Rlimit::RLIMIT_RSS,
        Resource::Rtprio => Rlimit::RLIMIT_RTPRIO,
        Resource::Rttime => Rlimit::RLIMIT_RTTIME,
        Resource::Sigpending => Rlimit::RLIMIT_SIGPENDING,
        Resource::Stack => Rlimit::RLIMIT_STACK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_those_of_docker() {
        assert_eq!(CAPABILITIES.bits(), 0xa804_25fb);
    }
}
