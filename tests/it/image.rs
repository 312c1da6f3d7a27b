//! An image as its archive shows it: configuration, layers, and the files that they make.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};

use serde_json::Value;

/// An image read from an OCI archive, every digest verified.
#[derive(Debug)]
pub(crate) struct SavedImage {
    pub(crate) config: Value,
    /// Base first.
    pub(crate) layers: Vec<BTreeMap<String, File>>,
}

/// A file of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) kind: tar::EntryType,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) bytes: Vec<u8>,
    pub(crate) link: Option<String>,
    pub(crate) mtime: u64,
}

impl SavedImage {
    pub(crate) fn read(archive: &[u8]) -> Self {
        let members = members(archive);
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a digest");
            let hex = digest.strip_prefix("sha256:").expect("SHA-256");
            let bytes = &members[&format!("blobs/sha256/{hex}")];
            assert_eq!(bytes.len() as u64, descriptor["size"], "the size of {digest}");
            assert_eq!(mica::oci::Digest::of(bytes).to_string(), digest);
            bytes
        };
        let index = json(&members["index.json"]);
        let manifest = json(blob(&index["manifests"][0]));
        let config = json(blob(&manifest["config"]));
        let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("diff IDs");
        let descriptors = manifest["layers"].as_array().expect("layers");
        assert_eq!(diff_ids.len(), descriptors.len(), "{config}");
        let mut layers = Vec::new();
        for (descriptor, diff_id) in descriptors.iter().zip(diff_ids) {
            let tar = unpacked(blob(descriptor));
            assert_eq!(mica::oci::Digest::of(&tar).to_string(), *diff_id);
            layers.push(layer(&tar));
        }
        let history = config["history"].as_array().expect("a history");
        let filled = history.iter().filter(|entry| entry["empty_layer"] != true).count();
        assert_eq!(filled, layers.len(), "the history of {config}");
        Self { config, layers }
    }

    /// The value of `config.NAME`.
    pub(crate) fn config(&self, name: &str) -> &Value {
        &self.config["config"][name]
    }

    /// A variable of the image's environment.
    pub(crate) fn env(&self, name: &str) -> Option<&str> {
        let all = self.config("Env").as_array()?;
        all.iter().find_map(|pair| pair.as_str()?.strip_prefix(name)?.strip_prefix('='))
    }

    /// What the layers make together.
    pub(crate) fn files(&self) -> BTreeMap<String, File> {
        let mut files: BTreeMap<String, File> = BTreeMap::new();
        for layer in &self.layers {
            for path in layer.keys() {
                let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
                let below = if folder.is_empty() { String::new() } else { format!("{folder}/") };
                if name == ".wh..wh..opq" {
                    files.retain(|path, _| !path.starts_with(&below));
                } else if let Some(gone) = name.strip_prefix(".wh.") {
                    let gone = format!("{below}{gone}");
                    let inside = format!("{gone}/");
                    files.retain(|path, _| *path != gone && !path.starts_with(&inside));
                } else if layer[path].kind != tar::EntryType::Directory {
                    // What takes the place of a directory ends what is in it.
                    let inside = format!("{path}/");
                    files.retain(|path, _| !path.starts_with(&inside));
                }
            }
            let added = layer.iter().filter(|(path, _)| {
                !path.rsplit('/').next().is_some_and(|name| name.starts_with(".wh."))
            });
            files.extend(added.map(|(path, file)| (path.clone(), file.clone())));
        }
        files
    }

    /// A file of the image.
    #[track_caller]
    pub(crate) fn file(&self, path: &str) -> File {
        let mut files = self.files();
        let all: Vec<String> = files.keys().filter(|p| !p.starts_with("bin/")).cloned().collect();
        assert!(files.contains_key(path), "no `{path}` among {all:?}");
        files.remove(path).expect("it is there")
    }

    /// A file's text.
    #[track_caller]
    pub(crate) fn text(&self, path: &str) -> String {
        String::from_utf8(self.file(path).bytes).expect("UTF-8")
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.files().contains_key(path)
    }

    /// The paths of the topmost layer.
    pub(crate) fn top(&self) -> Vec<&str> {
        self.layers.last().expect("a layer").keys().map(String::as_str).collect()
    }
}

/// The files of a tar, in its own words.
pub(crate) fn members(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    layer(archive).into_iter().map(|(path, file)| (path, file.bytes)).collect()
}

/// The entries of a tar by their names.
pub(crate) fn layer(bytes: &[u8]) -> BTreeMap<String, File> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let path = normal(&entry.path().expect("a path"));
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its bytes");
        let header = entry.header();
        let link = entry.link_name().expect("a target");
        let file = File {
            kind: header.entry_type(),
            mode: header.mode().expect("a mode"),
            owner: (header.uid().expect("a user"), header.gid().expect("a group")),
            link: link.map(|link| link.to_str().expect("UTF-8").to_owned()),
            mtime: header.mtime().expect("a time"),
            bytes,
        };
        assert_eq!(files.insert(path.clone(), file), None, "`{path}` comes twice");
    }
    files
}

fn normal(path: &Path) -> String {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_str().expect("UTF-8")),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Layers may be compressed or not.
fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    match bytes {
        [0x1f, 0x8b, ..] => {
            flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut tar).expect("gzip");
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => tar = zstd::decode_all(bytes).expect("zstd"),
        _ => tar.extend(bytes),
    }
    tar
}
