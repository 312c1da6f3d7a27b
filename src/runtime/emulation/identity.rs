//! Who a process takes itself for, where the kernel knows one id only.
//!
//! The rules are those of the kernel (`setresuid(2)` and its kin), with root's capabilities going by
//! the effective user. They are for show: what a process may really do, the kernel decides by the one
//! id that is there.

use rustix::io::Errno;

/// Real, effective, saved and file system id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
    pub(super) fs: u32,
}

impl Ids {
    fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, fs: id }
    }

    fn has(self, id: u32) -> bool {
        id == self.real || id == self.effective || id == self.saved
    }

    /// `setuid`, `setgid`.
    pub(super) fn set(&mut self, privileged: bool, id: u32) -> Result<(), Errno> {
        if privileged {
            *self = Self::all(id);
        } else if id == self.real || id == self.saved {
            (self.effective, self.fs) = (id, id);
        } else {
            return Err(Errno::PERM);
        }
        Ok(())
    }

    /// `setreuid`, `setregid`; `None` changes nothing.
    pub(super) fn set_pair(
        &mut self,
        privileged: bool,
        real: Option<u32>,
        effective: Option<u32>,
    ) -> Result<(), Errno> {
        let real_allowed = |id| id == self.real || id == self.effective;
        let refused =
            real.is_some_and(|id| !real_allowed(id)) || effective.is_some_and(|id| !self.has(id));
        if refused && !privileged {
            return Err(Errno::PERM);
        }
        let before = self.real;
        self.real = real.unwrap_or(self.real);
        self.effective = effective.unwrap_or(self.effective);
        if real.is_some() || effective.is_some_and(|id| id != before) {
            self.saved = self.effective;
        }
        self.fs = self.effective;
        Ok(())
    }

    /// `setresuid`, `setresgid`; `None` changes nothing.
    pub(super) fn set_three(
        &mut self,
        privileged: bool,
        [real, effective, saved]: [Option<u32>; 3],
    ) -> Result<(), Errno> {
        if !privileged && [real, effective, saved].into_iter().flatten().any(|id| !self.has(id)) {
            return Err(Errno::PERM);
        }
        self.real = real.unwrap_or(self.real);
        self.effective = effective.unwrap_or(self.effective);
        self.saved = saved.unwrap_or(self.saved);
        self.fs = self.effective;
        Ok(())
    }

    /// `setfsuid`, `setfsgid`: returns what it was; never fails.
    pub(super) fn set_fs(&mut self, privileged: bool, id: Option<u32>) -> u32 {
        let before = self.fs;
        if let Some(id) = id.filter(|id| privileged || self.has(*id) || *id == before) {
            self.fs = id;
        }
        before
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Identity {
    pub(super) user: Ids,
    pub(super) group: Ids,
    pub(super) groups: Vec<u32>,
}

impl Identity {
    pub(super) fn is_privileged(&self) -> bool {
        self.user.effective == 0
    }

    /// Whether it makes files as root's.
    pub(super) fn makes_roots(&self) -> bool {
        (self.user.fs, self.group.fs) == (0, 0)
    }

    pub(super) fn is_in_group(&self, group: u32) -> bool {
        group == self.group.fs || self.groups.contains(&group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(real: u32, effective: u32, saved: u32) -> Ids {
        Ids { real, effective, saved, fs: effective }
    }

    #[test]
    fn root_can_become_anybody_and_nobody_can_go_back() {
        let mut it = Ids::default();
        it.set(true, 1000).unwrap();
        assert_eq!(it, ids(1000, 1000, 1000));
        assert_eq!(it.set(false, 0), Err(Errno::PERM));
        assert_eq!(it.set_three(false, [None, Some(0), None]), Err(Errno::PERM));
        assert_eq!(it.set_pair(false, Some(0), None), Err(Errno::PERM));
        assert_eq!(it, ids(1000, 1000, 1000));
    }

    #[test]
    fn a_saved_id_is_the_way_back() {
        let mut it = Ids::default();
        it.set_three(true, [None, Some(7), None]).unwrap();
        assert_eq!(it, ids(0, 7, 0));
        it.set(false, 0).unwrap();
        assert_eq!(it, ids(0, 0, 0));
        it.set_pair(true, Some(5), Some(6)).unwrap();
        assert_eq!(it, ids(5, 6, 6));
        it.set_pair(false, Some(6), Some(5)).unwrap();
        assert_eq!(it, ids(6, 5, 5));
    }

    #[test]
    fn a_file_system_id_is_told_and_never_refused() {
        let mut it = Ids::default();
        assert_eq!(it.set_fs(true, Some(9)), 0);
        assert_eq!(it.set_fs(true, None), 9);
        assert_eq!((it.fs, it.effective), (9, 0));
        let mut it = ids(5, 5, 5);
        assert_eq!((it.set_fs(false, Some(0)), it.fs), (5, 5));
    }
}
