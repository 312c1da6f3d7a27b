//! The system call filter: Docker's default profile for the default capabilities.
//!
//! A call is allowed, or fails with EPERM; one that the profile's authors could not know fails with
//! ENOSYS, so that libraries fall back to what they used before. 32-bit programs on `x86_64` have
//! the same rules by their own numbers, as under Docker; x32 is not spoken.
//!
//! The filter is a decision tree over ranges of numbers, some 300 instructions where a comparison
//! for each call would take 1500, so it loads in a tenth of the time. It is made here and not with
//! seccompiler, which kills programs of the second architecture and insists on `no_new_privs`.

mod table;

use nix::libc::{self, sock_filter};

use super::emulation::{Call, Condition};
use super::isolation::Emulation;

const ALLOW: Decision = Decision::Return(libc::SECCOMP_RET_ALLOW);
const DENY: Decision = Decision::Return(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
/// mica answers.
const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
const UNKNOWN: Decision = Decision::Return(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);

/// Address families from 0 on that a socket may have: no kernel crypto (38), no vsock (40), nothing
/// that only old networks spoke.
const FAMILIES: &[(u32, u32)] =
    &[(0, 11), (13, 18), (21, 22), (24, 24), (26, 33), (35, 36), (39, 39), (41, 45)];
/// Calls that read, change or take from other processes.
const LOOKING_INTO_OTHERS: &[&str] =
    &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"];
/// What `personality` may be set to: Linux, 32 bit, without random addresses, both; or asked.
const PERSONALITIES: &[(u32, u32)] =
    &[(0, 0), (8, 8), (0x20000, 0x20000), (0x20008, 0x20008), (u32::MAX, u32::MAX)];
/// Flags of `clone` that make namespaces.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;
/// The last call that the profile knows, the same on all architectures since 424.
const LAST_KNOWN: u32 = 466;

/// `struct seccomp_data`: where the number, the architecture and the first argument's low half are.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENT_AT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };
const ARGUMENT_BYTES: u32 = 8;

/// What happens to a call, once its number is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// This, whatever its arguments.
    Return(u32),
    /// Allowed if the first argument is in one of these ranges.
    Argument(&'static [(u32, u32)]),
    /// Allowed if the first argument has none of these bits.
    Without(u32),
    /// Told to mica if an argument is as it says, else allowed.
    Told(Condition),
}

/// What a filter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// Docker's default profile.
    Default,
    /// The same where processes outside have the same ids and numbers: without what looks into others.
    Shared,
    /// Everything is allowed: only calls that mica answers are of interest.
    Open,
}

/// An architecture: its number for the kernel, its column in the table, and its conditional calls.
struct Architecture {
    audit: u32,
    column: usize,
    clone: u32,
    personality: u32,
    socket: u32,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[Architecture] = &[
    Architecture { audit: 0xc000_003e, column: 0, clone: 56, personality: 135, socket: 41 },
    Architecture { audit: 0x4000_0003, column: 1, clone: 120, personality: 136, socket: 359 },
];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[Architecture] =
    &[Architecture { audit: 0xc000_00b7, column: 2, clone: 220, personality: 92, socket: 198 }];

/// Returns the names and numbers of all calls that the profile knows, with the kernel's number of
/// their architecture.
pub(super) fn numbers() -> impl Iterator<Item = (&'static str, u32, u32)> {
    ARCHITECTURES.iter().flat_map(|architecture| {
        table::ALLOWED.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?;
            Some((name, architecture.audit, words.nth(architecture.column)?.parse().ok()?))
        })
    })
}

/// Returns the filter. With an [`Emulation`], it needs somebody who answers.
pub(super) fn program(profile: Profile, emulation: Emulation) -> Vec<sock_filter> {
    let mut program = vec![load(ARCHITECTURE_AT)];
    for architecture in ARCHITECTURES {
        let mut body = vec![load(NUMBER_AT)];
        body.extend(tree(&decisions(architecture, profile, emulation)));
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        program.push(jump(libc::BPF_JEQ, architecture.audit, 1, 0));
        program.push(jump(libc::BPF_JA, length, 0, 0));
        program.extend(body);
    }
    program.extend(leaf(if profile == Profile::Open { ALLOW } else { DENY }));
    program
}

/// Returns where each decision begins, in ascending order from 0.
fn decisions(
    architecture: &Architecture,
    profile: Profile,
    emulation: Emulation,
) -> Vec<(u32, Decision)> {
    let mut calls: Vec<(u32, Decision)> = numbers()
        .filter(|(_, audit, _)| *audit == architecture.audit)
        .filter(|(name, ..)| profile != Profile::Shared || !LOOKING_INTO_OTHERS.contains(name))
        .map(|(name, _, number)| (number, told(name, emulation)))
        .collect();
    if profile == Profile::Open {
        calls.sort_unstable_by_key(|(number, _)| *number);
        let starts = calls.into_iter().flat_map(|call| [call, (call.0 + 1, ALLOW)]);
        return merge(std::iter::once((0, ALLOW)).chain(starts).collect());
    }
    calls.push((architecture.clone, Decision::Without(NAMESPACE_FLAGS)));
    calls.push((architecture.personality, Decision::Argument(PERSONALITIES)));
    calls.push((architecture.socket, Decision::Argument(FAMILIES)));
    // Its flags are behind a pointer, where no filter can look; libraries go back to clone.
    calls.push((435, UNKNOWN));
    calls.sort_unstable_by_key(|(number, _)| *number);
    let mut starts = vec![(0, DENY)];
    for (number, decision) in calls {
        starts.push((number, decision));
        starts.push((number + 1, DENY));
    }
    starts.push((LAST_KNOWN + 1, UNKNOWN));
    merge(starts)
}

/// What happens to a call that the profile allows: mica may have to answer it.
fn told(name: &str, emulation: Emulation) -> Decision {
    match Call::named(name).filter(|call| call.needed_for(emulation)) {
        None => ALLOW,
        Some(call) => match call.condition(emulation) {
            None => Decision::Return(NOTIFY),
            Some(condition) => Decision::Told(condition),
        },
    }
}

/// Drops what doesn't begin anything new: of several for one number, the last one counts.
fn merge(starts: Vec<(u32, Decision)>) -> Vec<(u32, Decision)> {
    let mut merged: Vec<(u32, Decision)> = Vec::with_capacity(starts.len());
    for (number, decision) in starts {
        if merged.last().is_some_and(|(last, _)| *last == number) {
            merged.pop();
        }
        if merged.last().is_none_or(|(_, before)| *before != decision) {
            merged.push((number, decision));
        }
    }
    merged
}

/// Compiles a binary search for the accumulator's value.
fn tree(starts: &[(u32, Decision)]) -> Vec<sock_filter> {
    match starts {
        [] => leaf(DENY),
        [(_, decision)] => leaf(*decision),
        _ => {
            let (below, above) = starts.split_at(starts.len() / 2);
            let below = tree(below);
            // A conditional jump reaches 255 instructions; an unconditional one, any number.
            let mut code = if let Ok(length) = u8::try_from(below.len()) {
                vec![jump(libc::BPF_JGE, above[0].0, length, 0)]
            } else {
                let length = u32::try_from(below.len()).unwrap_or(u32::MAX);
                let over = jump(libc::BPF_JA, length, 0, 0);
                vec![jump(libc::BPF_JGE, above[0].0, 0, 1), over]
            };
            code.extend(below);
            code.extend(tree(above));
            code
        }
    }
}

fn leaf(decision: Decision) -> Vec<sock_filter> {
    match decision {
        Decision::Return(value) => vec![statement(libc::BPF_RET | libc::BPF_K, value)],
        Decision::Argument(ranges) => {
            let mut starts = vec![(0, DENY)];
            for &(first, last) in ranges {
                starts.push((first, ALLOW));
                starts.extend(last.checked_add(1).map(|next| (next, DENY)));
            }
            let mut code = vec![load(ARGUMENT_AT)];
            code.extend(tree(&merge(starts)));
            code
        }
        Decision::Without(bits) => {
            let mut code = vec![load(ARGUMENT_AT), jump(libc::BPF_JSET, bits, 0, 1)];
            code.extend(leaf(DENY));
            code.extend(leaf(ALLOW));
            code
        }
        Decision::Told(Condition { argument, bits, set }) => {
            let at = ARGUMENT_AT + argument * ARGUMENT_BYTES;
            let (yes, no) = if set { (0, 1) } else { (1, 0) };
            let mut code = vec![load(at), jump(libc::BPF_JSET, bits, yes, no)];
            code.extend(leaf(Decision::Return(NOTIFY)));
            code.extend(leaf(ALLOW));
            code
        }
    }
}

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt: 0, jf: 0, k }
}

fn jump(kind: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { jt, jf, ..statement(libc::BPF_JMP | libc::BPF_K | kind, k) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn judge(program: &[sock_filter], audit: u32, number: u32, argument: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            let kind = u32::from(step.code) & 0xf0;
            match u32::from(step.code) & 7 {
                libc::BPF_LD => {
                    accumulator = match step.k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => audit,
                        at if (ARGUMENT_AT..64).contains(&at) => argument,
                        other => panic!("loads {other}"),
                    }
                }
                libc::BPF_RET => return step.k,
                libc::BPF_JMP if kind == libc::BPF_JA => at += step.k as usize,
                libc::BPF_JMP => {
                    let holds = match kind {
                        libc::BPF_JEQ => accumulator == step.k,
                        libc::BPF_JGE => accumulator >= step.k,
                        libc::BPF_JSET => accumulator & step.k != 0,
                        other => panic!("jumps by {other}"),
                    };
                    at += usize::from(if holds { step.jt } else { step.jf });
                }
                other => panic!("instruction {other}"),
            }
        }
    }

    fn value(decision: Decision) -> u32 {
        let Decision::Return(value) = decision else { panic!("{decision:?}") };
        value
    }

    #[test]
    fn every_row_of_the_table_reads_back() {
        let program = program(Profile::Default, Emulation::Nothing);
        assert!(program.len() < 600, "{}", program.len());
        assert_eq!(table::ALLOWED.lines().count(), 364);
        for architecture in ARCHITECTURES {
            let mut allowed = vec![false; 600];
            for line in table::ALLOWED.lines() {
                if let Ok(number) = line.split(' ').nth(1 + architecture.column).unwrap().parse() {
                    let number: usize = number;
                    allowed[number] = true;
                }
            }
            for conditional in [architecture.clone, architecture.personality, architecture.socket] {
                assert!(!allowed[conditional as usize]);
                allowed[conditional as usize] = true;
            }
            for (number, allowed) in (0u32..).zip(allowed) {
                let expected = match number {
                    435 | 467.. => UNKNOWN,
                    _ if allowed => ALLOW,
                    _ => DENY,
                };
                let found = judge(&program, architecture.audit, number, 0);
                assert_eq!(found, value(expected), "call {number}");
            }
        }
    }

    #[test]
    fn arguments_decide() {
        let program = program(Profile::Default, Emulation::Nothing);
        let Some(it) = ARCHITECTURES.first() else { return };
        let check = |number: u32, argument: u32, expected: Decision| {
            let found = judge(&program, it.audit, number, argument);
            assert_eq!(found, value(expected), "call {number} with {argument:#x}");
        };
        for family in 0..60 {
            let allowed = FAMILIES.iter().any(|&(first, last)| (first..=last).contains(&family));
            check(it.socket, family, if allowed { ALLOW } else { DENY });
        }
        check(it.socket, 38, DENY);
        check(it.socket, 40, DENY);
        for personality in [0, 8, 0x20000, 0x20008, u32::MAX] {
            check(it.personality, personality, ALLOW);
        }
        for personality in [1, 7, 9, 0x20001, 0x40000, u32::MAX - 1] {
            check(it.personality, personality, DENY);
        }
        check(it.clone, 0x0120_0011, ALLOW);
        check(it.clone, 0x003d_0f00, ALLOW);
        for bit in [0x20000, 0x2000_0000, 0x1000_0000, 0x4000_0000, 0x0200_0000] {
            check(it.clone, bit, DENY);
        }
    }

    #[test]
    fn calls_are_told_where_mica_answers_them() {
        let number = |wanted: &str, it: &Architecture| {
            let found = numbers().find(|(name, audit, _)| *name == wanted && *audit == it.audit);
            found.map(|(.., number)| number)
        };
        let check = |emulation, name: &str, argument, expected: u32| {
            for profile in [Profile::Default, Profile::Open] {
                let program = program(profile, emulation);
                for it in ARCHITECTURES {
                    let Some(number) = number(name, it) else { continue };
                    let found = judge(&program, it.audit, number, argument);
                    assert_eq!(found, expected, "{name} {argument:#x} {profile:?} {emulation:?}");
                }
            }
        };
        let allow = value(ALLOW);
        for name in ["mknod", "mknodat"] {
            check(Emulation::Nothing, name, 0, allow);
            check(Emulation::Devices, name, 0, NOTIFY);
            check(Emulation::Owners, name, 0, NOTIFY);
        }
        for name in ["chown32", "fchownat", "setresuid", "getgroups", "mkdir"] {
            check(Emulation::Devices, name, 0, allow);
            check(Emulation::Owners, name, 0, NOTIFY);
        }
        for name in ["kill", "tgkill", "prlimit64", "pidfd_open"] {
            check(Emulation::Processes, name, 0, allow);
            check(Emulation::Processes, name, u32::MAX, NOTIFY);
            check(Emulation::Owners, name, u32::MAX, allow);
        }
        check(Emulation::Processes, "mknod", 0, NOTIFY);
        check(Emulation::Processes, "fcntl", 8, NOTIFY);
        check(Emulation::Processes, "fcntl", 4, allow);
        check(Emulation::Owners, "openat", 0, allow);
        check(Emulation::Owners, "openat", 0o101, NOTIFY);
        check(Emulation::Owners, "read", u32::MAX, allow);
        for name in ["mknodat", "openat", "readlinkat", "faccessat2"] {
            check(Emulation::Processes, name, 0, NOTIFY);
        }
        for name in ["newfstatat", "statx"] {
            check(Emulation::Processes, name, 0, NOTIFY);
            check(Emulation::Processes, name, 0x1000, allow);
            check(Emulation::Owners, name, 0, allow);
        }
        check(Emulation::Processes, "fchownat", 0, allow);
        let open = program(Profile::Open, Emulation::Owners);
        for it in ARCHITECTURES {
            assert_eq!(judge(&open, it.audit, it.clone, 0x1000_0000), allow);
        }
        assert_eq!(judge(&open, 0x1234, 0, 0), allow);
    }

    #[test]
    fn strangers_are_refused() {
        let program = program(Profile::Default, Emulation::Nothing);
        assert_eq!(judge(&program, 0x1234, 0, 0), value(DENY));
        #[cfg(target_arch = "x86_64")]
        assert_eq!(judge(&program, 0xc000_003e, 0x4000_0000, 0), value(UNKNOWN));
    }
}
