//! Which system calls mica answers in a step's stead.

use super::super::isolation::Emulation;

macro_rules! calls {
    ($($variant:ident $($name:literal)*,)*) => {
        /// A system call that mica may have to answer; variants that differ in nothing but the width
        /// of an id are one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(in crate::runtime) enum Call {
            $($variant,)*
        }

        impl Call {
            /// Finds a call by the name that the kernel's tables have for it.
            pub(in crate::runtime) fn named(name: &str) -> Option<Self> {
                Some(match name {
                    $($($name)|* => Self::$variant,)*
                    _ => return None,
                })
            }
        }
    };
}

calls! {
    Mknod "mknod",
    Mknodat "mknodat",
    Chown "chown" "chown32",
    Lchown "lchown" "lchown32",
    Fchown "fchown" "fchown32",
    Fchownat "fchownat",
    Getuid "getuid" "getuid32",
    Geteuid "geteuid" "geteuid32",
    Getgid "getgid" "getgid32",
    Getegid "getegid" "getegid32",
    Getresuid "getresuid" "getresuid32",
    Getresgid "getresgid" "getresgid32",
    Getgroups "getgroups" "getgroups32",
    Setuid "setuid" "setuid32",
    Setgid "setgid" "setgid32",
    Setreuid "setreuid" "setreuid32",
    Setregid "setregid" "setregid32",
    Setresuid "setresuid" "setresuid32",
    Setresgid "setresgid" "setresgid32",
    Setfsuid "setfsuid" "setfsuid32",
    Setfsgid "setfsgid" "setfsgid32",
    Setgroups "setgroups" "setgroups32",
    Open "open",
    Openat "openat",
    Creat "creat",
    Mkdir "mkdir",
    Mkdirat "mkdirat",
    Symlink "symlink",
    Symlinkat "symlinkat",
    Readlink "readlink",
    Readlinkat "readlinkat",
    Stat "stat",
    Lstat "lstat",
    Newfstatat "newfstatat",
    Statx "statx",
    Access "access",
    Faccessat "faccessat" "faccessat2",
    Kill "kill" "tkill" "rt_sigqueueinfo" "pidfd_open" "prlimit64",
    KillThread "tgkill" "rt_tgsigqueueinfo",
    Fcntl "fcntl" "fcntl64",
}

impl Call {
    pub(in crate::runtime) fn needed_for(self, emulation: Emulation) -> bool {
        match emulation {
            Emulation::Nothing => false,
            Emulation::Devices => self.makes_devices(),
            Emulation::Processes => {
                self.makes_devices()
                    || self.asks()
                    || self.aims_at_processes()
                    || matches!(self, Self::Open | Self::Openat)
            }
            Emulation::Owners => !self.asks() && !self.aims_at_processes(),
        }
    }

    fn makes_devices(self) -> bool {
        matches!(self, Self::Mknod | Self::Mknodat)
    }

    /// Whether an argument is the number of a process.
    pub(super) fn aims_at_processes(self) -> bool {
        matches!(self, Self::Kill | Self::KillThread | Self::Fcntl)
    }

    /// Whether the call asks what is at a path, and changes nothing.
    fn asks(self) -> bool {
        self.fills_structure()
            || matches!(
                self,
                Self::Readlink | Self::Readlinkat | Self::Statx | Self::Access | Self::Faccessat
            )
    }

    /// Whether the answer has a form that differs between architectures.
    pub(in crate::runtime) fn fills_structure(self) -> bool {
        matches!(self, Self::Stat | Self::Lstat | Self::Newfstatat)
    }

    /// Whether the oldest variant of the call has ids of 16 bits.
    pub(in crate::runtime) fn has_old_ids(self) -> bool {
        !matches!(
            self,
            Self::Fchownat
                | Self::Mknod
                | Self::Mknodat
                | Self::Open
                | Self::Openat
                | Self::Creat
                | Self::Mkdir
                | Self::Mkdirat
                | Self::Symlink
                | Self::Symlinkat
        ) && !self.asks()
            && !self.aims_at_processes()
    }

    /// What of an argument makes the call mica's business, where not every such call is.
    pub(in crate::runtime) fn condition(self, emulation: Emulation) -> Option<Condition> {
        const O_CREAT: u32 = nix::libc::O_CREAT.cast_unsigned();
        const AT_EMPTY_PATH: u32 = nix::libc::AT_EMPTY_PATH.cast_unsigned();
        let (argument, bits, set) = match (self, emulation) {
            (Self::Open, Emulation::Owners) => (1, O_CREAT, true),
            (Self::Openat, Emulation::Owners) => (2, O_CREAT, true),
            (Self::Newfstatat, _) => (3, AT_EMPTY_PATH, false),
            (Self::Statx, _) => (2, AT_EMPTY_PATH, false),
            // 0 is the caller.
            (Self::Kill | Self::KillThread, _) => (0, u32::MAX, true),
            // F_SETOWN, and a few more.
            (Self::Fcntl, _) => (1, nix::libc::F_SETOWN.cast_unsigned(), true),
            _ => return None,
        };
        Some(Condition { argument, bits, set })
    }
}

/// A call is of interest if any of these bits of an argument is set; or if none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime) struct Condition {
    pub(in crate::runtime) argument: u32,
    pub(in crate::runtime) bits: u32,
    pub(in crate::runtime) set: bool,
}
