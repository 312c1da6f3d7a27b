//! The property that holds layers together: packing what was unpacked from a packed directory gives
//! the same bytes.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::testing::{Host, Tar};
use super::{Options, apply, pack, pack_view};
use crate::snapshot::{Attributes, Handle, Kind, Result, Timestamp, Upper, UpperDir, View};

/// One change of a layer; those that are impossible where they come change nothing.
#[derive(Debug, Clone)]
enum Change {
    Directory,
    File(Vec<u8>),
    Symlink(PathBuf),
    HardLink(PathBuf),
    Fifo,
    Whiteout,
    Opaque,
}

fn name() -> impl Strategy<Value = OsString> {
    prop_oneof![
        "[a-e]{1,2}".prop_map(OsString::from),
        "[\u{e0}-\u{ff}]{1,3}".prop_map(OsString::from),
        "[ \\-\\.=\n]x{90,120}".prop_map(OsString::from),
        Just(OsStr::from_bytes(b"caf\xe9").to_owned()),
    ]
}

fn path() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec(name(), 1..5).prop_map(|names| names.iter().collect())
}

/// One of few, so that layers have much to do with one another.
fn common_path() -> impl Strategy<Value = PathBuf> {
    let name = "[a-c]".prop_map(OsString::from);
    prop::collection::vec(name, 1..4).prop_map(|names| names.iter().collect())
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Directory),
        prop::collection::vec(any::<u8>(), 0..1200).prop_map(Change::File),
        path().prop_map(Change::Symlink),
        path().prop_map(Change::HardLink),
        Just(Change::Fifo),
        Just(Change::Whiteout),
        Just(Change::Opaque),
    ]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let secs = prop_oneof![0..2_000_000_000_i64, -1_000_000..0_i64, Just(10_000_000_000)];
    (0..0o1000_u32, secs).prop_map(|(mode, secs)| Attributes {
        // The tests' user must be able to go on writing in a directory.
        mode: mode | 0o700,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Timestamp::from_secs(secs),
        xattrs: Vec::new(),
    })
}

fn make(upper: &Upper, path: &Path, change: &Change, attributes: &Attributes) -> Result<()> {
    let parent = |path: &Path| -> Result<UpperDir> {
        upper.directory(path.parent().unwrap_or(Path::new("")), attributes)
    };
    let name = path.file_name().unwrap_or_default();
    let dir = parent(path)?;
    match change {
        Change::Directory => dir.child_with(name, attributes).map(|_| ()),
        Change::File(content) => {
            let new = dir.create_file(name, attributes)?;
            new.file().write_all(content).unwrap();
            new.finish()
        }
        Change::Symlink(target) => dir.symlink(name, target, attributes),
        Change::HardLink(target) => {
            dir.hard_link(name, &parent(target)?, target.file_name().unwrap_or_default())
        }
        Change::Fifo => dir.node(name, Kind::Fifo, (0, 0), attributes),
        Change::Whiteout => dir.whiteout(name),
        Change::Opaque => dir.make_opaque(),
    }
}

fn fresh() -> (tempfile::TempDir, Handle, Upper) {
    fresh_on(&View::new(Vec::new()).unwrap())
}

fn fresh_on(lowers: &View) -> (tempfile::TempDir, Handle, Upper) {
    let dir = tempfile::tempdir().unwrap();
    let handle = Handle::open(dir.path()).unwrap();
    let upper = Upper::new(handle.try_clone().unwrap(), lowers).unwrap();
    (dir, handle, upper)
}

/// All files of layers on top of one another, the topmost first.
fn files(layers: &[&tempfile::TempDir]) -> Vec<u8> {
    let view = View::open(layers.iter().map(|layer| layer.path())).unwrap();
    let mut tar = Vec::new();
    pack_view(&view, None, &mut tar).unwrap();
    tar
}

/// An entry of a tar, most often one of a few names, so that layers get into each other's way.
fn entry() -> impl Strategy<Value = (u8, String, String)> {
    let name = "[ab](/[ab]){0,3}";
    let kind = prop_oneof![4 => Just(b'5'), 4 => Just(b'0'), 1 => Just(b'2'), 1 => Just(b'1'), 1 => Just(b'w')];
    (kind, name, name)
}

fn add(tar: Tar, (kind, name, target): &(u8, String, String)) -> Tar {
    match kind {
        b'5' => tar.dir(name),
        b'0' => tar.file(name, target),
        b'w' => {
            let (dir, name) = name.rsplit_once('/').unwrap_or(("", name));
            tar.file(&format!("{dir}/.wh.{}", if name == "a" { ".wh..opq" } else { name }), "")
        }
        kind => tar.link(*kind, name, target),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pack_apply_pack(changes in prop::collection::vec((path(), change(), attributes()), 0..40)) {
        let (_kept, dir, upper) = fresh();
        for (path, change, attributes) in &changes {
            let _impossible = make(&upper, path, change, attributes);
        }
        upper.finish().unwrap();
        let mut once = Vec::new();
        let packed = pack(&dir, &mut once).unwrap();

        let (_kept, dir, upper) = fresh();
        apply(&once[..], &upper, Options::LAYER).unwrap();
        let mut twice = Vec::new();
        prop_assert_eq!(packed, pack(&dir, &mut twice).unwrap());
        prop_assert!(once == twice);
    }

    /// Layers that are merged into one make the same files as they do on top of one another, whatever
    /// lies below.
    #[test]
    fn merged_layers(
        layers in prop::collection::vec(
            prop::collection::vec((common_path(), change(), attributes()), 0..12),
            1..5,
        ),
    ) {
        let mut made: Vec<tempfile::TempDir> = Vec::new();
        let mut tars = Vec::new();
        for changes in &layers {
            let lowers = View::open(made.iter().rev().map(tempfile::TempDir::path)).unwrap();
            let (kept, dir, upper) = fresh_on(&lowers);
            for (path, change, attributes) in changes {
                // No step can put another root in the place of its own.
                let is_root = path.iter().count() == 1 && matches!(change, Change::Opaque);
                if !is_root {
                    let _impossible = make(&upper, path, change, attributes);
                }
            }
            upper.finish().unwrap();
            let mut tar = Vec::new();
            pack(&dir, &mut tar).unwrap();
            tars.push(tar);
            made.push(kept);
        }
        let base = &made[0];
        let (merged, _dir, upper) = fresh_on(&View::open([base.path()]).unwrap());
        for tar in &tars[1..] {
            apply(&tar[..], &upper, Options::MERGED).unwrap();
        }
        let stack: Vec<&tempfile::TempDir> = made.iter().rev().collect();
        let names = |tar: &[u8]| -> Vec<PathBuf> {
            let mut archive = tar::Archive::new(tar);
            let entries = archive.entries().unwrap();
            entries.map(|entry| entry.unwrap().path().unwrap().into_owned()).collect()
        };
        let (found, expected) = (files(&[&merged, base]), files(&stack));
        prop_assert_eq!(names(&found), names(&expected));
        prop_assert!(found == expected);
    }

    /// Whether layers are unpacked one after another or not makes no difference; see [`Host::apply`].
    #[test]
    fn layers_at_once(layers in prop::collection::vec(prop::collection::vec(entry(), 0..12), 1..4)) {
        let host = Host::new();
        let tars: Vec<Tar> = layers
            .iter()
            .map(|entries| entries.iter().fold(Tar::default(), add))
            .collect();
        let _any = host.apply(&tars);
        host.check_canary();
    }

    /// Whatever the bytes, there is a result, and nothing beside the root has changed.
    #[test]
    fn noise_is_no_layer(mut noise in prop::collection::vec(any::<u8>(), 0..4096), honest in any::<bool>()) {
        if honest && noise.len() >= 512 {
            // With a right checksum, the fields behind it are looked at.
            noise[148..156].fill(b' ');
            let sum: u32 = noise[..512].iter().map(|byte| u32::from(*byte)).sum();
            noise[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let (_kept, _dir, upper) = fresh();
        let _any = apply(&noise[..], &upper, Options::LAYER);
    }
}
