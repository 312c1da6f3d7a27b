//! Packing and unpacking together, and archives of strangers.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::testing::{Host, Tar, owner};
use super::*;
use crate::snapshot::{Handle, Kind, Metadata, Timestamp, Upper, View};

fn text(view: &View, path: &str) -> Option<String> {
    let entry = view.lookup(Path::new(path)).unwrap()?;
    let mut text = String::new();
    view.open_file(&entry).unwrap().read_to_string(&mut text).unwrap();
    Some(text)
}

fn stat(view: &View, path: &str) -> Option<Metadata> {
    view.lookup(Path::new(path)).unwrap().map(|entry| entry.metadata().clone())
}

/// Applies layers, and looks what files they made. An error must be one that `expected` allows.
fn contained(tars: &[Tar], files: &[(&str, Option<&str>)]) {
    let host = Host::new();
    let view = host.apply(tars).unwrap();
    for (path, content) in files {
        assert_eq!(text(&view, path).as_deref(), *content, "{path}");
    }
    host.check_canary();
}

fn refused(tars: &[Tar]) -> LayerError {
    let host = Host::new();
    let error = host.apply(tars).unwrap_err();
    host.check_canary();
    error
}

fn tar() -> Tar {
    Tar::default()
}

#[test]
fn names_stay_below_the_root() {
    contained(&[tar().file("../../canary/pwned", "x")], &[("canary/pwned", Some("x"))]);
    contained(
        &[tar().file("/abs", "x").file("./a//./b", "y")],
        &[("abs", Some("x")), ("a/b", Some("y"))],
    );
    let out = Tar::symlink(tar(), "x", "../../../../canary");
    contained(&[out.clone().file("x/pwned", "x")], &[("canary/pwned", Some("x"))]);
    contained(&[out, tar().file("x/pwned", "x")], &[("canary/pwned", Some("x"))]);
    let chain = tar().symlink("a", ".").symlink("b", "a/..").symlink("c", "b/../canary");
    contained(&[chain.file("c/pwned", "x")], &[("canary/pwned", Some("x"))]);
    contained(
        &[tar().file("./a", "x").records(&[("path", "../../x/long")]).file("b", "y")],
        &[("a", Some("x")), ("x/long", Some("y"))],
    );
}

#[test]
fn entries_replace_links_instead_of_following_them() {
    let host = Host::new();
    let secret = host.dir.path().join("canary/secret");
    let secret = secret.to_str().unwrap();
    let folder = host.dir.path().join("canary");
    let folder = folder.to_str().unwrap();
    if secret.len() > 99 {
        println!("skipped: the temporary folder's name is too long for a tar header");
        return;
    }
    let tars = [tar()
        .symlink("f", secret)
        .file("f", "new")
        .symlink("d", folder)
        .dir("d")
        .symlink("t", secret)
        .symlink("s", secret)
        .hard_link("h", "s")
        .file("h", "new")
        .symlink("gone", folder)
        .file("gone/.wh.secret", "")
        .file("gone/.wh..wh..opq", "")];
    let view = host.apply(&tars).unwrap();
    assert_eq!(text(&view, "f").as_deref(), Some("new"));
    assert_eq!(stat(&view, "d").unwrap().kind, Kind::Directory);
    assert_eq!(stat(&view, "s").unwrap().kind, Kind::Symlink);
    host.check_canary();
    let hosts_file = tar().hard_link("leak", secret);
    let error = Host::new().apply(&[hosts_file]).unwrap_err();
    assert!(matches!(error, LayerError::Refused { reason: Refusal::MissingTarget, .. }));
}

#[test]
fn no_name_links_to_itself() {
    let below = tar().dir("d").file("d/f", "x").symlink("l", "d");
    for tar in [tar().file("f", "x").hard_link("./f", "f"), below.hard_link("l/f", "d/f")] {
        let error = refused(&[tar]);
        assert!(matches!(error, LayerError::Refused { reason: Refusal::MissingTarget, .. }));
    }
}

#[test]
fn the_last_entry_of_a_file_says_what_it_is() {
    let late = |header: &mut [u8]| {
        header[157..158].copy_from_slice(b"a");
        header[100..108].copy_from_slice(b"0004711\0");
        header[136..148].copy_from_slice(b"00000000007\0");
    };
    let host = Host::new();
    let view = host.apply(&[tar().file("a", "x").header(b'1', b"b", 0, late)]).unwrap();
    let found = stat(&view, "a").unwrap();
    assert_eq!((found.mode, found.mtime), (0o4711, Timestamp::from_secs(7)));
    assert_eq!(stat(&view, "b").unwrap().ino, found.ino);
}

#[test]
fn the_root_stays_a_directory() {
    for tar in
        [tar().symlink("./", "canary"), tar().file(".", ""), tar().header(b'0', b"", 0, |_| {})]
    {
        contained(&[tar.file("a", "x")], &[("a", Some("x"))]);
    }
    let locked =
        tar().header(b'5', b"./", 0, |header| header[100..107].copy_from_slice(b"0000000"));
    contained(&[locked.file("a", "x")], &[("a", Some("x"))]);
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let base = tar().file("d/keep", "1").file("d/gone", "1").file("e/old", "1").file("f", "1");
    let top = tar()
        .file("d/.wh.gone", "")
        .file("e/new", "2")
        .file("e/.wh..wh..opq", "")
        .file(".wh.f", "")
        .file("f", "2")
        .file(".wh.none", "")
        .file(".wh..wh.plnk/x", "")
        .file(".wh..wh.aufs", "");
    contained(
        &[base.clone(), top],
        &[
            ("d/keep", Some("1")),
            ("d/gone", None),
            ("e/old", None),
            ("e/new", Some("2")),
            ("f", Some("2")),
            (".wh..wh.aufs", None),
            (".wh..wh.plnk/x", None),
        ],
    );
    // A whiteout and a directory of the same name, in both orders, hide what was in it.
    for top in [
        tar().file(".wh.d", "").dir("d").file("d/n", "2"),
        tar().dir("d").file("d/n", "2").file(".wh.d", ""),
    ] {
        contained(&[base.clone(), top], &[("d/keep", None), ("d/n", Some("2"))]);
    }
    // What came up for a link is no file of the layer's own, and could not be told from one.
    for (link, gone) in [("f", ".wh.f"), ("d/keep", ".wh.d"), ("d/keep", "d/.wh..wh..opq")] {
        let top = tar().hard_link("h", link).file(gone, "");
        let error = refused(&[base.clone(), top]);
        assert!(
            matches!(error, LayerError::Refused { reason: Refusal::LinkedAndGone, .. }),
            "{error}"
        );
    }
    // Nor is there anything to link to once the root hides it, whenever what is below is looked at.
    refused(&[base.clone(), tar().file(".wh..wh..opq", "").hard_link("h", "d/keep")]);
    let own = tar().file("f", "2").hard_link("h", "f").file(".wh.f", "");
    contained(&[base.clone(), own], &[("f", Some("2")), ("h", Some("2"))]);
    for name in [".wh.", ".wh..", ".wh...", "d/.wh..", ".wh.d/x"] {
        let error = refused(&[base.clone(), tar().file(name, "")]);
        assert!(matches!(error, LayerError::Refused { reason: Refusal::Whiteout, .. }), "{name}");
    }
}

#[test]
fn kinds_replace_one_another() {
    let base = tar().file("a/x", "1").file("b", "1").symlink("c", "a");
    let top = tar().file("a", "2").file("b/x", "2");
    let error = refused(&[base.clone(), top]);
    assert!(matches!(error, LayerError::Unpack { .. }), "{error}");
    let top = tar().file("a", "2").dir("b").file("b/x", "2").dir("c").file("c/y", "2");
    contained(
        &[base, top.file("a", "3")],
        &[("a", Some("3")), ("b/x", Some("2")), ("c/y", Some("2")), ("c/x", None)],
    );
    contained(
        &[tar().dir("d").file("d/x", "1").symlink("d", "e").file("d/x", "2")],
        &[("e/x", Some("2"))],
    );
    assert!(matches!(
        refused(&[tar().symlink("a", "b").symlink("b", "a").file("a/x", "")]),
        LayerError::Unpack { .. }
    ));
}

#[test]
fn pax_headers_belong_to_the_file_behind_them() {
    let inner = tar().file("smuggled", "x").0;
    let size = [("size", &*inner.len().to_string())];
    let plain = tar().records(&size).header(b'0', b"outer", 0, |_| {}).data(&inner);
    contained(&[plain], &[("smuggled", None)]);
    let long = tar()
        .records(&size)
        .header(b'L', b"././@LongLink", 6, |_| {})
        .data(b"outer\0")
        .header(b'0', b"o", 0, |_| {})
        .data(&inner);
    let host = Host::new();
    let view = host.apply(&[long]).unwrap();
    assert_eq!(stat(&view, "outer").unwrap().size, inner.len() as u64);
    assert_eq!(text(&view, "smuggled"), None);
    let global = tar().header(b'g', b"pax", 15, |_| {}).data(b"15 path=../../x\n");
    assert!(matches!(
        refused(&[global]),
        LayerError::Malformed { reason: Malformed::PaxRecord, .. }
    ));
    let global = tar().header(b'g', b"pax", 16, |_| {}).data(b"16 path=../../x\n");
    contained(&[global.file("a", "x")], &[("a", Some("x"))]);
}

#[test]
fn malformed_archives_are_one_error() {
    let check = |tar: Tar, expected: Malformed| match refused(&[tar]) {
        LayerError::Malformed { reason, .. } => assert_eq!(reason, expected),
        other => panic!("{other}"),
    };
    let field = |range: std::ops::Range<usize>, bytes: &'static [u8]| {
        tar().header(b'0', b"x", 0, move |header| header[range].copy_from_slice(bytes))
    };
    check(
        field(124..136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\0"),
        Malformed::Number("size"),
    );
    check(field(124..136, b"\x80\0\0\0\x40\0\0\0\0\0\0\0"), Malformed::Truncated);
    check(field(108..116, b"\xff\xff\xff\xff\xff\xff\xff\xff"), Malformed::Number("owner"));
    check(field(116..124, b"\x80\0\0\0\xff\xff\xff\xff"), Malformed::Number("group"));
    check(field(108..116, b"\x80\0\0\x01\0\0\0\x05"), Malformed::Number("owner"));
    check(tar().header(b'Q', b"q", 0, |_| {}), Malformed::Type(b'Q'));
    check(tar().pax(b"12 path=a\0b\n").file("x", ""), Malformed::Nul);
    check(tar().pax(b"999999999 path=x\n").file("x", ""), Malformed::PaxRecord);
    check(tar().pax(b"13 mtime=nan\n").file("x", ""), Malformed::Number("time"));
    for kind in [b'x', b'g', b'L', b'K'] {
        let bytes = 3 << 30;
        let huge = tar().header(kind, b"huge", bytes, |_| {}).data(&[0; 512]);
        check(huge, Malformed::HeaderTooLong { bytes });
    }
    let mut flipped = tar().file("x", "");
    flipped.0[0] = b'y';
    check(flipped, Malformed::Checksum);
    let whole = tar().file("x", &"x".repeat(4096)).0;
    let host = Host::new();
    let path = host.layer("0");
    let upper = Upper::new(Handle::open(&path).unwrap(), &View::new(Vec::new()).unwrap()).unwrap();
    for length in [100, 700, 1024] {
        let result = apply(&whole[..length], &upper, Options::LAYER);
        let expected =
            LayerError::Malformed { entry: u64::from(length > 512), reason: Malformed::Truncated };
        assert_eq!(result.unwrap_err().to_string(), expected.to_string());
    }
}

#[test]
fn sparse_files_have_holes() {
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "s"),
        ("GNU.sparse.realsize", "4000"),
    ];
    let new = |map: &[u8]| {
        tar().records(&records).header(b'0', b"x", 1024, |_| {}).data(map).data(&[b'd'; 512])
    };
    let host = Host::new();
    let view = host.apply(&[new(b"2\n1000\n512\n4000\n0\n")]).unwrap();
    let content = text(&view, "s").unwrap();
    assert_eq!(content.len(), 4000);
    assert_eq!(content.trim_matches('\0'), "d".repeat(512));
    for map in [
        &b"2\n9223372036854775807\n512\n0\n99999999999\n"[..],
        b"1\n0\n100\n",
        b"99999999999999999999",
        b"1\n-1\n5\n",
    ] {
        let error = refused(&[new(map)]);
        let reason = Malformed::SparseMap;
        assert!(matches!(error, LayerError::Malformed { reason: r, .. } if r == reason), "{map:?}");
    }
    let old = tar().header(b'S', b"old", 512, |header| {
        header[257..265].copy_from_slice(b"ustar  \0");
        header[386..398].copy_from_slice(b"00000001000\0");
        header[398..410].copy_from_slice(b"00000001000\0");
        header[483..495].copy_from_slice(b"00000003000\0");
    });
    let host = Host::new();
    let view = host.apply(&[old.data(&[b'd'; 512])]).unwrap();
    let content = text(&view, "old").unwrap();
    assert_eq!((content.len(), content.trim_matches('\0').len()), (0o3000, 512));
}

#[test]
fn devices_and_private_marks() {
    let zero = tar().header(b'3', b"null", 0, |_| {});
    assert!(matches!(refused(&[zero]), LayerError::Refused { reason: Refusal::DeviceZero, .. }));
    let null = tar().header(b'3', b"null", 0, |header| {
        header[329..336].copy_from_slice(b"0000001");
        header[337..344].copy_from_slice(b"0000003");
    });
    let marks = [
        ("SCHILY.xattr.user.overlay.opaque", "y"),
        ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        ("SCHILY.xattr.user.mica.stat", "20666 0 0 1:1"),
        ("SCHILY.xattr.user.x", "abcd"),
    ];
    let lower = tar().file("d/keep", "x");
    let host = Host::new();
    let view = host.apply(&[lower, null.records(&marks).dir("d")]).unwrap();
    assert_eq!(text(&view, "d/keep").as_deref(), Some("x"));
    let null = stat(&view, "null").unwrap();
    assert_eq!((null.kind, null.rdev), (Kind::CharDevice, (1, 3)));
    let d = view.lookup(Path::new("d")).unwrap().unwrap();
    assert_eq!(view.xattrs(&d).unwrap(), [("user.x".into(), b"abcd".to_vec())]);
}

#[test]
fn an_archive_has_no_whiteouts_and_may_be_given_away() {
    let host = Host::new();
    let path = host.layer("0");
    let upper = Upper::new(Handle::open(&path).unwrap(), &View::new(Vec::new()).unwrap()).unwrap();
    for name in [".wh.t", "d/.wh..wh..opq", ".wh.d/x"] {
        let result = apply(&tar().file(name, "").end()[..], &upper, Options::ARCHIVE);
        let reason = Refusal::Unrepresentable;
        assert!(
            matches!(result, Err(LayerError::Refused { reason: r, .. }) if r == reason),
            "{name}"
        );
    }
    for name in ["../up", "..", "a/../../up"] {
        let error = apply(&tar().file(name, "").end()[..], &upper, Options::ARCHIVE).unwrap_err();
        let reason = Refusal::Outside;
        assert!(matches!(error, LayerError::Refused { reason: r, .. } if r == reason), "{name}");
    }
    let below = upper
        .below(
            &upper
                .directory(
                    Path::new("opt"),
                    &crate::snapshot::Attributes {
                        mode: 0o755,
                        uid: owner().0,
                        gid: owner().1,
                        ..Default::default()
                    },
                )
                .unwrap(),
        )
        .unwrap();
    let archive = tar().symlink("abs", "/in").file("abs/f", "x").file("a/../up", "y");
    let options = Options { owner: Some((4321, 1234)), mode: Some(0o640), ..Options::ARCHIVE };
    match apply(&archive.end()[..], &below, options) {
        Err(LayerError::Unpack {
            source: crate::snapshot::SnapshotError::Owner { .. }, ..
        }) => {
            println!("skipped: this user cannot give links away");
            return;
        }
        result => assert_eq!(result.unwrap(), Applied { entries: 3, bytes: 2 }),
    }
    assert_eq!(text(upper.view(), "opt/in/f").as_deref(), Some("x"));
    let up = stat(upper.view(), "opt/up").unwrap();
    assert_eq!((up.uid, up.gid, up.mode), (4321, 1234, 0o640));
}

#[test]
fn trees_deeper_than_anything_needs_are_refused() {
    let deep = format!("{}f", "d/".repeat(1900));
    let error = refused(&[tar().records(&[("path", &deep)]).file("x", "deep")]);
    assert!(matches!(error, LayerError::Refused { reason: Refusal::TooDeep, .. }), "{error}");
}

#[test]
fn paths_that_no_call_takes_are_refused() {
    let folders = format!("{}/", "d".repeat(255)).repeat(15);
    let longest = format!("{folders}{}", "f".repeat(255));
    contained(&[tar().records(&[("path", &longest)]).file("x", "y")], &[(&longest, Some("y"))]);
    let longer = format!("{folders}e/{}", "f".repeat(254));
    let error = refused(&[tar().records(&[("path", &longer)]).file("x", "y")]);
    assert!(matches!(error, LayerError::Refused { reason: Refusal::TooLong, .. }), "{error}");
}

#[test]
fn deep_trees_and_long_names() {
    let deep = format!("{}f", "d/".repeat(511));
    let host = Host::new();
    let archive = tar().records(&[("path", &deep)]).file("x", "deep").end();
    let path = host.layer("0");
    let handle = Handle::open(&path).unwrap();
    let upper = Upper::new(handle.try_clone().unwrap(), &View::new(Vec::new()).unwrap()).unwrap();
    apply(&archive[..], &upper, Options::LAYER).unwrap();
    assert_eq!(text(upper.view(), &deep).as_deref(), Some("deep"));
    pack(&handle, io::sink()).unwrap();
    clamp_times(&handle, 0).unwrap();
    crate::snapshot::remove_tree(&handle, OsStr::new("d")).unwrap();
    let long = tar().records(&[("path", &"n".repeat(300))]).file("x", "");
    assert!(matches!(refused(&[long]), LayerError::Unpack { .. }));
}

#[test]
fn a_known_tree_gives_known_bytes() {
    let host = Host::new();
    let path = host.layer("0");
    let handle = Handle::open(&path).unwrap();
    let upper = Upper::new(handle.try_clone().unwrap(), &View::new(Vec::new()).unwrap()).unwrap();
    let archive = tar()
        .dir("b/")
        .file("b/caf\u{e9}", "latte")
        .file("b/.wh.gone", "")
        .file("b/.wh..wh..opq", "")
        .file("a", "1")
        .hard_link("c", "a")
        .symlink("l", "b/../a");
    apply(&archive.end()[..], &upper, Options::LAYER).unwrap();
    let mut bytes = Vec::new();
    let packed = pack(&handle, &mut bytes).unwrap();
    assert_eq!(packed, pack(&handle, io::sink()).unwrap());
    assert_eq!(packed.size, bytes.len() as u64);
    assert_eq!(packed.diff_id.0, crate::oci::Digest::of(&bytes));
    let mut names = Vec::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let entry = entry.unwrap();
        let link = entry.link_name_bytes().map(|link| String::from_utf8(link.to_vec()).unwrap());
        let name = String::from_utf8(entry.path_bytes().to_vec()).unwrap();
        names.push(format!("{name} {}", link.unwrap_or_default()));
    }
    let expected =
        ["a ", "b/ ", "b/.wh..wh..opq ", "b/caf\u{e9} ", "b/.wh.gone ", "c a", "l b/../a"];
    assert_eq!(names, expected);
    // Times are no content.
    clamp_times(&handle, -1).unwrap();
    let clamped = pack(&handle, io::sink()).unwrap();
    assert_eq!(clamped.content, packed.content);
    assert_ne!(clamped.diff_id, packed.diff_id);
    fs::write(path.join("a"), "2").unwrap();
    assert_ne!(pack(&handle, io::sink()).unwrap().content, packed.content);
}

#[test]
fn names_that_mean_deletions_cannot_be_packed() {
    let host = Host::new();
    let path = host.layer("0");
    fs::write(path.join(".wh.x"), "").unwrap();
    let result = pack(&Handle::open(&path).unwrap(), io::sink());
    let reason = Refusal::Unrepresentable;
    assert!(matches!(result, Err(LayerError::Refused { reason: r, .. }) if r == reason));
}
