//! Calls about whose a file is, and who a process is.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, OFlags, Stat, fstat};
use rustix::io::Errno;

use super::identities::Identities;
use super::identity::{Identity, Ids};
use super::record::{self, Note};
use super::tracee::{Tracee, Unanswered};
use super::{Answer, Asked, Call};

const AT_SYMLINK_NOFOLLOW: u32 = nix::libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
const AT_EMPTY_PATH: u32 = nix::libc::AT_EMPTY_PATH.cast_unsigned();
/// `NGROUPS_MAX`.
const MOST_GROUPS: u32 = 65536;

/// `chown` and its kin.
pub(super) fn change(
    mut tracee: Tracee<'_>,
    asked: &Asked<'_>,
    identities: &mut Identities,
) -> Result<Answer, Unanswered> {
    let current = nix::libc::AT_FDCWD;
    let (directory, path_at, ids_at, flags) = match asked.call {
        Call::Fchownat => (asked.descriptor(0), 1, 2, asked.number(4)),
        Call::Lchown => (current, 0, 1, AT_SYMLINK_NOFOLLOW),
        Call::Fchown => (asked.descriptor(0), 0, 1, AT_EMPTY_PATH),
        _ => (current, 0, 1, 0),
    };
    let path = match asked.call {
        Call::Fchown => Path::new("").to_owned(),
        _ => tracee.path_at(asked.arguments[path_at])?,
    };
    let wanted = (asked.id(ids_at), asked.id(ids_at + 1));
    let by_descriptor = path.as_os_str().is_empty() && flags & AT_EMPTY_PATH != 0;
    let found = if by_descriptor {
        tracee.descriptor(directory)
    } else {
        let follow = flags & AT_SYMLINK_NOFOLLOW == 0;
        let flags = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        tracee.resolve(directory, &path, flags)
    };
    let file = match found {
        Ok(file) => file,
        // `/dev/stdout` and the like lead through links that only the process can follow, to what is
        // in no layer.
        Err(_) if is_of_the_system(&path) => return Ok(Answer::Value(0)),
        Err(error) => return Err(error),
    };
    let change = Change { wanted, identity: identities.of(tracee.tid), stat: fstat(&file)? };
    match FileType::from_raw_mode(change.stat.st_mode) {
        FileType::RegularFile | FileType::Directory => change.of_file(&file),
        _ if by_descriptor => Ok(Answer::Value(0)),
        _ => {
            let (dir, name) = tracee.resolve_parent(directory, &path)?;
            Ok(change.of_name(&dir, name))
        }
    }
}

/// A change of owner that is wanted of something that was found.
struct Change {
    wanted: (Option<u32>, Option<u32>),
    identity: Identity,
    stat: Stat,
}

impl Change {
    /// The new owner, if whoever asks may give it away.
    fn of(&self, (uid, gid): (u32, u32)) -> Result<(u32, u32), Errno> {
        let (user, group) = self.wanted;
        let identity = &self.identity;
        let stays = user.is_none_or(|it| it == uid);
        let fits = group.is_none_or(|it| it == gid || identity.is_in_group(it));
        if identity.is_privileged() || (identity.user.fs == uid && stays && fits) {
            Ok((user.unwrap_or(uid), group.unwrap_or(gid)))
        } else {
            Err(Errno::PERM)
        }
    }

    /// Of a link, pipe or socket, which its directory has to remember.
    fn of_name(&self, dir: &OwnedFd, name: &OsStr) -> Answer {
        let noted = record::read_link(dir, name);
        match self.of(noted.unwrap_or((self.stat.st_uid, self.stat.st_gid))) {
            Err(errno) => Answer::Fails(errno),
            Ok((uid, gid)) => {
                // No room is no reason to stop a build.
                let _noted_where_possible = record::write_link(dir, name, uid, gid);
                if (uid, gid) == (0, 0) { Answer::Continue } else { Answer::Value(0) }
            }
        }
    }

    fn of_file(&self, file: &OwnedFd) -> Result<Answer, Unanswered> {
        let (noted, stat) = (record::read(file), &self.stat);
        let now = noted.map_or((stat.st_uid, stat.st_gid), |it| (it.uid, it.gid));
        let (uid, gid) = match self.of(now) {
            Ok(new) => new,
            Err(errno) => return Ok(Answer::Fails(errno)),
        };
        let stand_in = noted.filter(Note::is_stand_in);
        if (uid, gid) == (stat.st_uid, stat.st_gid) && stand_in.is_none() {
            record::remove(file)?;
            return Ok(Answer::Continue);
        }
        let mode = stand_in.map_or(stat.st_mode, |it| it.mode);
        let device = stand_in.map_or((0, 0), |it| it.device);
        match record::write(file, Note { mode, uid, gid, device }) {
            Ok(()) => {}
            // Of a file system that is no part of a layer.
            Err(Errno::OPNOTSUPP) => return Ok(Answer::Value(0)),
            Err(errno) => return Ok(Answer::Fails(errno)),
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            record::take_privileges(file, stat.st_mode);
        }
        Ok(Answer::Value(0))
    }
}

fn is_of_the_system(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.starts_with(b"/dev/") || bytes.starts_with(b"/proc/")
}

/// Calls about who the process is.
pub(super) fn identity(
    tracee: &Tracee<'_>,
    asked: &Asked<'_>,
    identities: &mut Identities,
) -> Result<Answer, Unanswered> {
    let mut it = identities.of(tracee.tid);
    let value = |id: u32| Ok(Answer::Value(id.into()));
    match asked.call {
        Call::Getuid => return value(it.user.real),
        Call::Geteuid => return value(it.user.effective),
        Call::Getgid => return value(it.group.real),
        Call::Getegid => return value(it.group.effective),
        Call::Getresuid => return Ok(tell(tracee, asked, it.user)),
        Call::Getresgid => return Ok(tell(tracee, asked, it.group)),
        Call::Getgroups => return Ok(tell_groups(tracee, asked, &it.groups)),
        _ => {}
    }
    let changed = match asked.call {
        Call::Setgroups => read_groups(tracee, asked, it.is_privileged()).map(|groups| {
            it.groups = groups;
            0
        }),
        _ => change_ids(&mut it, asked),
    };
    let returned = match changed {
        Ok(returned) => returned,
        Err(errno) => return Ok(Answer::Fails(errno)),
    };
    identities.set(tracee.tid, it);
    Ok(Answer::Value(returned))
}

fn change_ids(it: &mut Identity, asked: &Asked<'_>) -> Result<i64, Errno> {
    let privileged = it.is_privileged();
    let id = |index| asked.id(index);
    match asked.call {
        Call::Setuid => it.user.set(privileged, id(0).ok_or(Errno::INVAL)?)?,
        Call::Setgid => it.group.set(privileged, id(0).ok_or(Errno::INVAL)?)?,
        Call::Setreuid => it.user.set_pair(privileged, id(0), id(1))?,
        Call::Setregid => it.group.set_pair(privileged, id(0), id(1))?,
        Call::Setresuid => it.user.set_three(privileged, [id(0), id(1), id(2)])?,
        Call::Setresgid => it.group.set_three(privileged, [id(0), id(1), id(2)])?,
        Call::Setfsuid => return Ok(it.user.set_fs(privileged, id(0)).into()),
        Call::Setfsgid => return Ok(it.group.set_fs(privileged, id(0)).into()),
        _ => return Err(Errno::NOSYS),
    }
    Ok(0)
}

fn tell(tracee: &Tracee<'_>, asked: &Asked<'_>, ids: Ids) -> Answer {
    for (address, id) in asked.arguments.iter().zip([ids.real, ids.effective, ids.saved]) {
        if tracee.write(*address, &asked.width.encode(&[id])).is_err() {
            return Answer::Fails(Errno::FAULT);
        }
    }
    Answer::Value(0)
}

fn tell_groups(tracee: &Tracee<'_>, asked: &Asked<'_>, groups: &[u32]) -> Answer {
    let room = asked.number(0) as usize;
    if room != 0 {
        if room < groups.len() {
            return Answer::Fails(Errno::INVAL);
        }
        let bytes = asked.width.encode(groups);
        if !bytes.is_empty() && tracee.write(asked.arguments[1], &bytes).is_err() {
            return Answer::Fails(Errno::FAULT);
        }
    }
    Answer::Value(i64::try_from(groups.len()).unwrap_or(i64::MAX))
}

fn read_groups(
    tracee: &Tracee<'_>,
    asked: &Asked<'_>,
    privileged: bool,
) -> Result<Vec<u32>, Errno> {
    if !privileged {
        return Err(Errno::PERM);
    }
    let count = asked.number(0);
    if count > MOST_GROUPS {
        return Err(Errno::INVAL);
    }
    let mut bytes = vec![0; count as usize * asked.width.bytes()];
    if !bytes.is_empty() {
        tracee.read(asked.arguments[1], &mut bytes).map_err(|Unanswered| Errno::FAULT)?;
    }
    let group = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    Ok(bytes.chunks(asked.width.bytes()).map(group).collect())
}
