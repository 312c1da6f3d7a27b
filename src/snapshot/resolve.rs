//! Paths as the programs in an image see them: symbolic links followed, but never out of the root.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use super::{Entry, Kind, Result, SnapshotError, View};

/// The kernel's own limit on symbolic links in one path (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Where a path leads to.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The path from the root, without links, `.` and `..`; what does not exist is kept as written.
    pub path: PathBuf,
    /// What is there, if anything.
    pub entry: Option<Entry>,
}

#[derive(Debug)]
enum Step {
    Name(OsString),
    Up,
    Root,
}

impl View {
    /// What is at `path`. Links on the way are followed inside the root, and `..` ends there; a
    /// link at the end is not followed. `None` if there is nothing, or a part of the way is missing
    /// or no directory.
    pub fn lookup(&self, path: &Path) -> Result<Option<Entry>> {
        let mut resolver = Resolver::new(self, path, false);
        resolver.run()?;
        Ok(resolver.found)
    }

    /// Where `path` leads to if links are followed at its end too. A part that does not exist, and
    /// what follows it, is kept as written, which is what a destination needs.
    pub fn resolve(&self, path: &Path) -> Result<Resolved> {
        self.resolve_without(path, &|_| false)
    }

    /// The same, as if the links that are `hidden` were not there.
    pub fn resolve_without(
        &self,
        path: &Path,
        hidden: &dyn Fn(&Entry) -> bool,
    ) -> Result<Resolved> {
        let mut resolver = Resolver { hidden, ..Resolver::new(self, path, true) };
        resolver.run()?;
        Ok(Resolved { path: resolver.names.iter().collect(), entry: resolver.found })
    }
}

/// Only two merged directories are open at a time, whatever the length of the path: on `..` the way
/// from the root is gone again, which is rare.
struct Resolver<'a> {
    view: &'a View,
    asked: &'a Path,
    follow_last: bool,
    hidden: &'a dyn Fn(&Entry) -> bool,
    steps: VecDeque<Step>,
    links: usize,
    /// Where we are: plain names from the root.
    names: Vec<OsString>,
    /// What is there.
    found: Option<Entry>,
}

impl<'a> Resolver<'a> {
    fn new(view: &'a View, asked: &'a Path, follow_last: bool) -> Self {
        let found = Some(view.root());
        let mut resolver = Self {
            view,
            asked,
            follow_last,
            hidden: &|_| false,
            steps: VecDeque::new(),
            links: 0,
            names: Vec::new(),
            found,
        };
        resolver.queue(asked);
        resolver
    }

    /// Puts the steps of `path` in front of what is left to do.
    fn queue(&mut self, path: &Path) {
        for component in path.components().rev() {
            self.steps.push_front(match component {
                Component::Normal(name) => Step::Name(name.to_owned()),
                Component::ParentDir => Step::Up,
                Component::RootDir | Component::Prefix(_) => Step::Root,
                Component::CurDir => continue,
            });
        }
    }

    fn run(&mut self) -> Result<()> {
        while let Some(step) = self.steps.pop_front() {
            match step {
                Step::Root => {
                    self.names.clear();
                    self.found = Some(self.view.root());
                }
                Step::Up => {
                    self.names.pop();
                    self.found = self.walk_again()?;
                }
                Step::Name(name) => self.enter(name)?,
            }
        }
        Ok(())
    }

    fn enter(&mut self, name: OsString) -> Result<()> {
        let child = match &self.found {
            Some(dir) if dir.is_dir() => self.view.child(dir, &name)?,
            _ => None,
        };
        let is_last = self.steps.is_empty();
        match child {
            Some(link) if link.kind() == Kind::Symlink && (self.follow_last || !is_last) => {
                if (self.hidden)(&link) {
                    self.names.push(name);
                    self.found = None;
                    return Ok(());
                }
                self.links += 1;
                if self.links > MAX_LINKS {
                    return Err(SnapshotError::TooManyLinks { path: self.asked.to_owned() });
                }
                let target = self.view.read_link(&link)?;
                self.queue(&target);
            }
            child => {
                self.names.push(name);
                self.found = child;
            }
        }
        Ok(())
    }

    /// What is at `names`, which hold no link.
    fn walk_again(&self) -> Result<Option<Entry>> {
        let mut entry = self.view.root();
        for name in &self.names {
            if !entry.is_dir() {
                return Ok(None);
            }
            match self.view.child(&entry, OsStr::new(name))? {
                Some(child) => entry = child,
                None => return Ok(None),
            }
        }
        Ok(Some(entry))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::Handle;
    use super::*;

    fn links() -> (tempfile::TempDir, View) {
        let host = tempfile::tempdir().unwrap();
        let root = host.path();
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        fs::write(root.join("usr/lib/os-release"), "x").unwrap();
        for (target, name) in [
            ("usr/lib", "lib"),
            ("/usr/lib/os-release", "release"),
            ("../../../../../..", "usr/up"),
            ("b", "a"),
            ("a", "b"),
            ("../../missing/x", "usr/dangling"),
        ] {
            symlink(target, root.join(name)).unwrap();
        }
        let view = View::plain(Handle::open(root).unwrap()).unwrap();
        (host, view)
    }

    #[test]
    fn resolves_inside_the_root() {
        let (_host, view) = links();
        let check = |path: &str, expected: &str, exists: bool| {
            let resolved = view.resolve(Path::new(path)).unwrap();
            assert_eq!(resolved.path, Path::new(expected), "{path}");
            assert_eq!(resolved.entry.is_some(), exists, "{path}");
            if let Some(entry) = resolved.entry {
                assert_eq!(entry.path(), Path::new(expected), "{path}");
            }
        };
        check("", "", true);
        check("/", "", true);
        check("../..", "", true);
        check("/lib/./os-release", "usr/lib/os-release", true);
        check("release", "usr/lib/os-release", true);
        check("usr/up/etc", "etc", false);
        check("lib/../lib", "usr/lib", true);
        check("usr/dangling/y", "missing/x/y", false);
        check("usr/dangling/../../lib", "usr/lib", true);
        check("release/below", "usr/lib/os-release/below", false);
        let tangled = view.resolve(Path::new("a/x"));
        assert!(matches!(tangled, Err(SnapshotError::TooManyLinks { .. })));
    }

    #[test]
    fn lookup_keeps_the_last_link() {
        let (_host, view) = links();
        let kind = |path: &str| view.lookup(Path::new(path)).unwrap().map(|entry| entry.kind());
        assert_eq!(kind("release"), Some(Kind::Symlink));
        assert_eq!(kind("a"), Some(Kind::Symlink));
        assert_eq!(kind("lib/os-release"), Some(Kind::File));
        assert_eq!(kind("lib/none"), None);
        assert_eq!(kind("release/none"), None);
    }
}
