//! Trees removed, however deep and whatever their modes.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{self as sys, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::Handle;

struct Level {
    name: OsString,
    id: (u64, u64),
    names: Vec<OsString>,
}

/// Removes the file or tree `name` in `dir`, like `rm -rf`; what is not there is no error.
///
/// It holds three handles and no recursion, so that trees deeper than `PATH_MAX` or the stack go too,
/// and gives itself the right to list and empty directories that lack it. Links are never followed.
/// After an error, some of the tree may be gone.
pub fn remove_tree(dir: &Handle, name: &OsStr) -> io::Result<()> {
    if unlink(dir, name)? {
        return Ok(());
    }
    let mut current = open(dir, name)?;
    let mut levels = vec![level(&current, name)?];
    while let Some(top) = levels.last_mut() {
        if let Some(name) = top.names.pop() {
            if !unlink(&current, &name)? {
                current = open(&current, &name)?;
                levels.push(level(&current, &name)?);
            }
            continue;
        }
        let name = std::mem::take(&mut top.name);
        levels.pop();
        let parent = match levels.last() {
            None => {
                sys::unlinkat(dir, &name, AtFlags::REMOVEDIR)?;
                break;
            }
            Some(level) => {
                let parent = current.directory(OsStr::new(".."))?;
                if id(&parent)? != level.id {
                    return Err(io::Error::other("a directory was moved while it was removed"));
                }
                parent
            }
        };
        sys::unlinkat(&parent, &name, AtFlags::REMOVEDIR)?;
        current = parent;
    }
    Ok(())
}

/// Removes what is no directory; `false` if it is one.
fn unlink(dir: &Handle, name: &OsStr) -> io::Result<bool> {
    match sys::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn open(dir: &Handle, name: &OsStr) -> io::Result<Handle> {
    match dir.directory(name) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = sys::openat(dir, name, flags, Mode::empty())?;
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            sys::chmodat(sys::CWD, path, Mode::RWXU, AtFlags::empty())?;
            dir.directory(name)
        }
        result => result,
    }
}

fn level(dir: &Handle, name: &OsStr) -> io::Result<Level> {
    let stat = sys::fstat(dir.as_fd())?;
    if !Mode::from_raw_mode(stat.st_mode).contains(Mode::RWXU) {
        sys::fchmod(dir.as_fd(), Mode::RWXU)?;
    }
    Ok(Level { name: name.to_owned(), id: (stat.st_dev, stat.st_ino), names: dir.names()? })
}

fn id(dir: &Handle) -> io::Result<(u64, u64)> {
    let stat = sys::fstat(dir.as_fd())?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn removes_deep_and_forbidden_trees_but_not_what_links_lead_to() {
        let host = tempfile::tempdir().unwrap();
        fs::create_dir(host.path().join("keep")).unwrap();
        fs::write(host.path().join("keep/file"), "x").unwrap();
        let root = Handle::open(host.path()).unwrap();
        sys::mkdirat(&root, "tree", Mode::RWXU).unwrap();
        let mut dir = root.directory(OsStr::new("tree")).unwrap();
        for _ in 0..2100 {
            sys::mkdirat(&dir, "dir", Mode::RWXU).unwrap();
            dir = dir.directory(OsStr::new("dir")).unwrap();
        }
        let tree = host.path().join("tree");
        symlink("../keep", tree.join("link")).unwrap();
        fs::create_dir_all(tree.join("locked/in")).unwrap();
        fs::write(tree.join("locked/in/file"), "x").unwrap();
        fs::set_permissions(tree.join("locked/in"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(tree.join("locked"), fs::Permissions::from_mode(0o555)).unwrap();
        remove_tree(&root, OsStr::new("tree")).unwrap();
        remove_tree(&root, OsStr::new("tree")).unwrap();
        assert!(!tree.exists());
        assert!(host.path().join("keep/file").exists());
    }
}
