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
}

impl Call {
    pub(in crate::runtime) fn needed_for(self, emulation: Emulation) -> bool {
        match emulation {
            Emulation::Nothing => false,
            Emulation::Devices => matches!(self, Self::Mknod | Self::Mknodat),
            Emulation::Owners => true,
        }
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
        )
    }

    /// The argument and the bits in it without which the call is none of mica's business.
    pub(in crate::runtime) fn condition(self) -> Option<(u32, u32)> {
        const O_CREAT: u32 = nix::libc::O_CREAT.cast_unsigned();
        match self {
            Self::Open => Some((1, O_CREAT)),
            Self::Openat => Some((2, O_CREAT)),
            _ => None,
        }
    }
}
