//! Views and uppers together: what is written through one is seen through the other.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;

use super::*;

/// Layer directories in a temporary folder, made bottom first.
struct Stack {
    host: tempfile::TempDir,
    layers: Vec<std::path::PathBuf>,
}

impl Stack {
    fn new() -> Self {
        Self { host: tempfile::tempdir().unwrap(), layers: Vec::new() }
    }

    /// Makes one more layer with `change`.
    fn layer(&mut self, change: impl FnOnce(&Upper)) -> &mut Self {
        let lowers = self.view();
        let path = self.host.path().join(self.layers.len().to_string());
        std::fs::create_dir(&path).unwrap();
        let upper = Upper::new(Handle::open(&path).unwrap(), &lowers).unwrap();
        change(&upper);
        upper.finish().unwrap();
        self.layers.push(path);
        self
    }

    fn view(&self) -> View {
        View::open(self.layers.iter().rev()).unwrap()
    }

    /// All that the stack shows, as lines: `NAME/` of directories, `NAME=CONTENT` of files.
    fn shows(&self) -> Vec<String> {
        listing(&self.view())
    }
}

fn listing(view: &View) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![view.root()];
    while let Some(dir) = left.pop() {
        for entry in view.read_dir(&dir).unwrap() {
            let path = entry.path().display();
            match entry.kind() {
                Kind::Directory => {
                    lines.push(format!("{path}/"));
                    left.push(entry);
                }
                Kind::File => {
                    let mut text = String::new();
                    view.open_file(&entry).unwrap().read_to_string(&mut text).unwrap();
                    lines.push(format!("{path}={text}"));
                }
                Kind::Symlink => {
                    lines.push(format!("{path}->{}", view.read_link(&entry).unwrap().display()));
                }
                kind => lines.push(format!("{path} {kind}")),
            }
        }
    }
    lines.sort();
    lines
}

fn mine(mode: u32, secs: i64) -> Attributes {
    Attributes {
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Timestamp::from_secs(secs),
        xattrs: Vec::new(),
    }
}

fn dir(upper: &Upper, path: &str) -> UpperDir {
    upper.directory(Path::new(path), &mine(0o755, 100)).unwrap()
}

fn write(dir: &UpperDir, name: &str, text: &str) {
    let attributes = mine(0o644, 200);
    let new = dir.create_file(OsStr::new(name), &attributes).unwrap();
    new.file().write_all(text.as_bytes()).unwrap();
    new.finish().unwrap();
}

#[test]
fn merges_layers() {
    let mut stack = Stack::new();
    stack.layer(|upper| {
        write(&dir(upper, "etc"), "passwd", "1");
        write(&dir(upper, "etc/apt"), "sources", "1");
        write(&dir(upper, "var/cache"), "old", "1");
    });
    stack.layer(|upper| {
        write(&dir(upper, "etc"), "passwd", "2");
        dir(upper, "etc").remove(OsStr::new("apt")).unwrap();
        dir(upper, "var/cache").make_opaque().unwrap();
        write(&dir(upper, "var/cache"), "new", "2");
    });
    let expected = ["etc/", "etc/passwd=2", "var/", "var/cache/", "var/cache/new=2"];
    assert_eq!(stack.shows(), expected);
    // A directory in place of a whiteout does not bring back what the whiteout hid.
    stack.layer(|upper| write(&dir(upper, "etc/apt"), "list", "3"));
    stack.layer(|upper| {
        dir(upper, "etc").remove(OsStr::new("apt")).unwrap();
        write(&dir(upper, "etc/apt"), "list2", "4");
    });
    let shows = stack.shows();
    assert!(shows.contains(&"etc/apt/list2=4".to_owned()), "{shows:?}");
    assert!(!shows.iter().any(|line| line.contains("list=")), "{shows:?}");
}

#[test]
fn a_plain_view_shows_the_directory_as_it_is() {
    let mut stack = Stack::new();
    stack.layer(|upper| write(&dir(upper, "a/b"), "f", "1"));
    stack.layer(|upper| {
        upper.root().whiteout(OsStr::new("a")).unwrap();
        write(&dir(upper, "c/d"), "f", "2");
    });
    let plain = View::plain(Handle::open(&stack.layers[1]).unwrap()).unwrap();
    assert_eq!(listing(&plain), ["a character device", "c/", "c/d/", "c/d/f=2"]);
    assert_eq!(stack.shows(), ["c/", "c/d/", "c/d/f=2"]);
}

#[test]
fn copied_up_directories_keep_mode_and_time() {
    let mut stack = Stack::new();
    stack.layer(|upper| {
        upper.directory(Path::new("opt/app"), &mine(0o750, 42)).unwrap();
    });
    stack.layer(|upper| write(&dir(upper, "opt/app"), "file", "x"));
    let view = View::open([&stack.layers[1]]).unwrap();
    let app = view.lookup(Path::new("opt/app")).unwrap().unwrap();
    assert_eq!((app.metadata().mode, app.metadata().mtime), (0o750, Timestamp::from_secs(42)));
    let file = view.lookup(Path::new("opt/app/file")).unwrap().unwrap();
    assert_eq!((file.metadata().mode, file.metadata().mtime.secs), (0o644, 200));
}

#[test]
fn replaces_files_but_not_directories() {
    let mut stack = Stack::new();
    stack.layer(|upper| {
        let root = upper.root();
        dir(upper, "d");
        write(&root, "f", "1");
        root.symlink(OsStr::new("l"), Path::new("d"), &mine(0o777, 1)).unwrap();
    });
    stack.layer(|upper| {
        let (root, attributes) = (upper.root(), mine(0o644, 1));
        let refused = root.create_file(OsStr::new("d"), &attributes);
        assert!(matches!(refused, Err(SnapshotError::IsADirectory { .. })));
        let refused = root.child(OsStr::new("f"), &attributes);
        assert!(matches!(refused, Err(SnapshotError::NotADirectory { kind: Kind::File, .. })));
        let refused = root.child(OsStr::new("l"), &attributes);
        assert!(matches!(refused, Err(SnapshotError::NotADirectory { kind: Kind::Symlink, .. })));
        for name in ["", ".", "..", "a/b", "a\0b"] {
            let refused = root.lookup(OsStr::new(name));
            assert!(matches!(refused, Err(SnapshotError::InvalidName { .. })), "{name:?}");
        }
        // Through the link, inside the root.
        write(&dir(upper, "/l/../l/sub"), "x", "2");
        write(&root, "f", "2");
        write(&root, "l", "file now");
        root.hard_link(OsStr::new("h"), &root, OsStr::new("f")).unwrap();
        root.hard_link(OsStr::new("h"), &root, OsStr::new("f")).unwrap();
        root.node(OsStr::new("p"), Kind::Fifo, (0, 0), &attributes).unwrap();
        root.node(OsStr::new("n"), Kind::CharDevice, (1, 3), &attributes).unwrap();
        let whiteout = root.node(OsStr::new("w"), Kind::CharDevice, (0, 0), &attributes);
        assert!(whiteout.is_err());
    });
    let expected = [
        "d/",
        "d/sub/",
        "d/sub/x=2",
        "f=2",
        "h=2",
        "l=file now",
        "n character device",
        "p named pipe",
    ];
    assert_eq!(stack.shows(), expected);
    let view = stack.view();
    let null = view.lookup(Path::new("n")).unwrap().unwrap();
    assert_eq!(null.metadata().rdev, (1, 3));
    assert!(view.open_file(&view.lookup(Path::new("p")).unwrap().unwrap()).is_err());
}

#[test]
fn hard_links_to_lower_files_are_copied_up() {
    let mut stack = Stack::new();
    stack.layer(|upper| write(&dir(upper, "a"), "f", "content"));
    stack.layer(|upper| {
        let from = dir(upper, "a");
        upper.root().hard_link(OsStr::new("g"), &from, OsStr::new("f")).unwrap();
        let missing = upper.root().hard_link(OsStr::new("g"), &from, OsStr::new("none"));
        assert_eq!(missing.unwrap_err().errno(), Some(2));
    });
    assert_eq!(stack.shows(), ["a/", "a/f=content", "g=content"]);
    let top = View::open([&stack.layers[1]]).unwrap();
    assert_eq!(listing(&top), ["a/", "a/f=content", "g=content"]);
    assert_eq!(top.lookup(Path::new("g")).unwrap().unwrap().metadata().nlink, 2);
}

/// Whoever runs this: root sets the owner, others note it down, and both read the same.
#[test]
fn owners_survive_users_that_cannot_set_them() {
    let mut stack = Stack::new();
    let theirs = Attributes { uid: 4321, gid: 1234, ..mine(0o4755, 7) };
    stack.layer(|upper| {
        upper.root().create_file(OsStr::new("f"), &theirs).unwrap().finish().unwrap();
        upper.root().child(OsStr::new("d"), &theirs).unwrap();
        upper.root().node(OsStr::new("n"), Kind::BlockDevice, (8, 1), &theirs).unwrap();
    });
    // Copied up, they are still the same.
    stack.layer(|upper| write(&dir(upper, "d"), "x", ""));
    for name in ["f", "d", "n"] {
        let entry = stack.view().lookup(Path::new(name)).unwrap().unwrap();
        assert_eq!(Attributes::of(entry.metadata()), theirs, "{name}");
    }
    let node = stack.view().lookup(Path::new("n")).unwrap().unwrap();
    assert_eq!((node.kind(), node.metadata().rdev), (Kind::BlockDevice, (8, 1)));
    stack.layer(|upper| {
        let child = upper.root().child_with(OsStr::new("d"), &mine(0o700, 1)).unwrap();
        child.set_attributes(&mine(0o711, 1)).unwrap();
    });
    let d = stack.view().lookup(Path::new("d")).unwrap().unwrap();
    assert_eq!(Attributes::of(d.metadata()), mine(0o711, 1));
}

/// A folder of a user whose files are to be readable for a group hands its list down.
#[test]
fn access_lists_of_the_host_stay_out() {
    let mut list = vec![2, 0, 0, 0];
    for (tag, permissions, id) in [
        (1_u16, 7_u16, u32::MAX),
        (2, 7, 4321),
        (4, 0, u32::MAX),
        (16, 7, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        list.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    let mut stack = Stack::new();
    let flags = rustix::fs::XattrFlags::empty();
    let xattr = "system.posix_acl_default";
    if rustix::fs::setxattr(stack.host.path(), xattr, &list, flags).is_err() {
        println!("skipped: this file system has no access lists");
        return;
    }
    stack.layer(|upper| write(&dir(upper, "d"), "f", ""));
    let view = stack.view();
    for (path, mode) in [("d", 0o755), ("d/f", 0o644)] {
        let entry = view.lookup(Path::new(path)).unwrap().unwrap();
        assert_eq!((entry.metadata().mode, view.xattrs(&entry).unwrap()), (mode, Vec::new()));
    }
}

#[test]
fn private_marks_are_no_attributes() {
    let mut stack = Stack::new();
    let attributes = Attributes {
        xattrs: vec![
            ("user.kept".into(), b"1".to_vec()),
            ("user.overlay.opaque".into(), b"y".to_vec()),
            ("user.mica.stat".into(), b"20666 0 0 1:1".to_vec()),
        ],
        ..mine(0o644, 1)
    };
    stack.layer(|upper| {
        upper.root().create_file(OsStr::new("f"), &attributes).unwrap().finish().unwrap();
    });
    let view = stack.view();
    let file = view.lookup(Path::new("f")).unwrap().unwrap();
    assert_eq!(file.kind(), Kind::File);
    assert_eq!(view.xattrs(&file).unwrap(), [("user.kept".into(), b"1".to_vec())]);
}

#[test]
fn many_threads_share_an_upper() {
    let mut stack = Stack::new();
    stack.layer(|upper| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for file in 0..50 {
                        let name = format!("{thread}-{file}");
                        write(&dir(upper, &format!("a/b/{}", file % 5)), &name, &name);
                    }
                });
            }
        });
    });
    assert_eq!(stack.shows().len(), 200 + 7);
    let view = stack.view();
    let b = view.lookup(Path::new("a/b")).unwrap().unwrap();
    assert_eq!(b.metadata().mtime, Timestamp::from_secs(100));
}
