//! What the tests of this module work with: archives that no well-behaved writer makes, and a host.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::{Below, Options, Result, apply, apply_early, pack, pack_framed};
use crate::oci::Digest;
use crate::snapshot::{Handle, Upper, View};

/// A tar in the making, of entries that no well-behaved writer would make.
#[derive(Clone, Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

impl Tar {
    pub(super) fn header(
        mut self,
        kind: u8,
        name: &[u8],
        size: u64,
        change: impl FnOnce(&mut [u8]),
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o755);
        let (uid, gid) = owner();
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_size(size);
        header.set_entry_type(tar::EntryType::new(kind));
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        change(header.as_mut_bytes());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    pub(super) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, content: &str) -> Self {
        self.header(b'0', name.as_bytes(), content.len() as u64, |_| {}).data(content.as_bytes())
    }

    pub(super) fn dir(self, name: &str) -> Self {
        self.header(b'5', name.as_bytes(), 0, |_| {})
    }

    pub(super) fn link(self, kind: u8, name: &str, target: &str) -> Self {
        self.header(kind, name.as_bytes(), 0, |header| {
            header[157..157 + target.len()].copy_from_slice(target.as_bytes());
        })
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.link(b'2', name, target)
    }

    pub(super) fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(b'1', name, target)
    }

    pub(super) fn pax(self, records: &[u8]) -> Self {
        self.header(b'x', b"pax", records.len() as u64, |_| {}).data(records)
    }

    pub(super) fn records(self, records: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let digits = (rest + rest.to_string().len()).to_string().len();
            let length = rest + digits;
            writeln!(text, "{length} {key}={value}").unwrap();
        }
        self.pax(text.as_bytes())
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// Who runs the tests, and may own files without being root.
pub(super) fn owner() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// A host folder with a secret beside the root file system, which no archive may touch.
pub(super) struct Host {
    pub(super) dir: tempfile::TempDir,
}

impl Host {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("canary")).unwrap();
        fs::write(dir.path().join("canary/secret"), "secret").unwrap();
        Self { dir }
    }

    pub(super) fn layer(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// Applies layers one on the other; the merged result, or the first error.
    pub(super) fn apply(&self, tars: &[Tar]) -> Result<View> {
        let mut layers: Vec<PathBuf> = Vec::new();
        for (index, tar) in tars.iter().enumerate() {
            let path = self.layer(&format!("{index}"));
            let lowers = View::open(layers.iter().rev()).unwrap();
            let upper = Upper::new(Handle::open(&path).unwrap(), &lowers).unwrap();
            let tar = tar.clone().end();
            let applied = apply(&tar[..], &upper, Options::LAYER);
            self.check_early(&tar, index, &lowers, applied.is_ok().then_some(&path));
            applied?;
            layers.push(path);
        }
        Ok(View::open(layers.iter().rev()).unwrap())
    }

    /// Unpacks a layer without looking at what is below it: that comes to the same directory, and with
    /// the frame to the same tar.
    fn check_early(&self, tar: &[u8], index: usize, lowers: &View, expected: Option<&PathBuf>) {
        let unpack = |number: usize, below| {
            let path = self.layer(&format!("{}", 1000 * number + index));
            let dir = Handle::open(&path).unwrap();
            let mut frame = Vec::new();
            let early = apply_early(tar, &dir, below, Some(&mut frame));
            (early, dir, frame)
        };
        let wait = || Ok(lowers.clone());
        let (mut early, mut dir, mut frame) = unpack(1, Below::Later(&wait));
        if early.as_ref().is_ok_and(|early| !early.holds_on(lowers).unwrap()) {
            (early, dir, frame) = unpack(2, Below::Known(lowers));
        }
        assert_eq!(early.is_ok(), expected.is_some(), "{early:?}");
        let (Ok(early), Some(expected)) = (early, expected) else { return };
        let packed = |dir: &Handle| {
            let mut tar = Vec::new();
            // Names that begin with `.wh.` cannot be packed, whoever has unpacked them.
            pack(dir, &mut tar).ok().map(|_| tar)
        };
        assert!(packed(&dir) == packed(&Handle::open(expected).unwrap()));
        if early.framed {
            let mut again = Vec::new();
            let found = pack_framed(&frame[..], &dir, &mut again).unwrap();
            assert!(again == tar);
            assert_eq!(found.diff_id.0, Digest::of(tar));
        }
    }

    pub(super) fn check_canary(&self) {
        let canary = self.dir.path().join("canary");
        let names: Vec<_> =
            fs::read_dir(&canary).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read_to_string(canary.join("secret")).unwrap(), "secret");
        let metadata = Handle::open(&canary).unwrap().stat(OsStr::new("secret")).unwrap().unwrap();
        assert_eq!(metadata.nlink, 1);
        let siblings = fs::read_dir(self.dir.path()).unwrap();
        let strange: Vec<_> = siblings
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "canary" && name.parse::<u32>().is_err())
            .collect();
        assert!(strange.is_empty(), "{strange:?}");
    }
}
