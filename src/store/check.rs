//! Verifying what is on disk, and removing what is broken.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::gc::names_in;
use super::image::parse_named;
use super::layers::parse_record;
use super::{LayerRecord, Store, StoreError, remove};
use crate::layer;
use crate::oci::{ChainId, Digest, HashingReader, MAX_DOCUMENT_BYTES};
use crate::snapshot::{Handle, Upper, View, open_regular};

/// Something in the store that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which file or folder.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

/// What is done about findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// They are told.
    Nothing,
    /// Broken blobs and layers are removed too, so that the next build or load makes them anew, and
    /// records that have lost the name itself. A name that has lost its image stays, and is told.
    Remove,
}

impl Store {
    /// Reads everything and compares it with what it should be.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the store's folders themselves cannot be read.
    pub fn check(&mut self, repair: Repair) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        self.check_blobs(&mut findings)?;
        self.check_layers(&mut findings)?;
        if repair == Repair::Remove {
            for finding in &findings {
                remove(&finding.path)?;
            }
        }
        // Names come last: only now it is known what they have lost.
        self.check_names(repair, &mut findings)?;
        Ok(findings)
    }

    fn check_blobs(&self, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
        let dir = self.path().join("blobs/sha256");
        for name in names_in(&dir)? {
            let path = dir.join(&name);
            let found = open_regular(&path).and_then(hash);
            let problem = match (found, Digest::from_hex(&name)) {
                (Ok(found), Ok(expected)) if found == expected => continue,
                (Ok(found), _) => format!("the blob's bytes have the digest {found}"),
                (Err(err), _) => format!("the blob cannot be read: {err}"),
            };
            findings.push(Finding { path, problem });
        }
        Ok(())
    }

    fn check_layers(&self, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
        let dir = self.path().join("chains");
        for name in names_in(&dir)? {
            let path = dir.join(&name);
            let bytes = match read_small(&path) {
                Ok(bytes) => bytes,
                Err(err) => {
                    let problem = format!("the record cannot be read: {err}");
                    findings.push(Finding { path, problem });
                    continue;
                }
            };
            let record = match parse_record(&path, &bytes) {
                Ok(record) if record.chain().0.hex() == name => record,
                Ok(_) => {
                    let problem = "the record belongs to another chain".to_owned();
                    findings.push(Finding { path, problem });
                    continue;
                }
                Err(err) => {
                    findings.push(Finding { path, problem: err.to_string() });
                    continue;
                }
            };
            if let Err(problem) = self.check_layer(&record) {
                findings.push(Finding { path, problem });
            }
        }
        Ok(())
    }

    /// A layer that was made here packs to its diff ID again. Another one is compared with what its tar
    /// unpacks to: its blob, or what its files and its frame are together. That has the frame's word for
    /// all but the bytes of files, and so tells nothing of modes, owners, and files that it does not know.
    fn check_layer(&self, record: &LayerRecord) -> Result<(), String> {
        let text = |err: &dyn std::error::Error| err.to_string();
        if let Some(blob) = record.blob.as_ref().filter(|_| record.is_away()) {
            let known = self.can_have_blob(blob.digest);
            return if known { Ok(()) } else { Err("nobody is known to have its blob".to_owned()) };
        }
        let changed = |found| format!("the layer's files have changed: they pack to {found}");
        let dir = self.layer_dir(record).map_err(|err| text(&err))?;
        let packed = pack(&dir).map_err(|err| text(&err))?;
        if packed.diff_id == record.diff_id {
            return Ok(());
        }
        let Some(blob) = &record.blob else { return Err(changed(packed.diff_id)) };
        let again = if self.has_tar(record) {
            let path = self.new_scratch("tar");
            let tar = File::create_new(&path).map_err(|err| text(&err))?;
            let framed = self.write_tar(record, &tar).map_err(|err| text(&err))?;
            if framed.diff_id != record.diff_id {
                return Err(changed(framed.diff_id));
            }
            let tar = File::open(&path).map_err(|err| text(&err))?;
            let again = self.unpacked_again(record, tar);
            fs::remove_file(&path).map_err(|err| text(&err))?;
            again
        } else if self.has_blob(blob.digest) {
            self.open_blob(blob).and_then(|blob| self.unpacked_again(record, blob))
        } else {
            return Ok(());
        };
        if again.map_err(|err| text(&err))? == packed.content {
            return Ok(());
        }
        Err("the layer's files are not those of its tar".to_owned())
    }

    fn unpacked_again(
        &self,
        record: &LayerRecord,
        tar: impl Read + Send,
    ) -> Result<Digest, StoreError> {
        let below = match record.parent {
            Some(parent) => self.bring(parent, &|_, _| {})?,
            None => Vec::new(),
        };
        let staged = self.stage_layer()?;
        let dir = staged.fs();
        let handle = Handle::open(&dir).map_err(StoreError::io("open", &dir))?;
        let below: Vec<PathBuf> =
            below.iter().map(|record| self.layer_dir(record)).collect::<Result<_, _>>()?;
        let lowers = View::open(below)?;
        let upper = Upper::new(handle, &lowers)?;
        let failed = |source| StoreError::Layer { layer: record.diff_id.0, source };
        let (_, tar) =
            layer::open_archive(tar).map_err(StoreError::io("read a blob of", self.path()))?;
        layer::apply(tar, &upper, layer::Options::LAYER).map_err(failed)?;
        pack(&dir).map(|packed| packed.content).map_err(failed)
    }

    fn check_names(&self, repair: Repair, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
        let dir = self.path().join("refs");
        for name in names_in(&dir)? {
            let path = dir.join(&name);
            let read = read_small(&path).map_err(StoreError::io("read", &path));
            let problem = match read.and_then(|bytes| parse_named(path.clone(), &bytes)) {
                Err(err) => {
                    if repair == Repair::Remove {
                        remove(&path)?;
                    }
                    format!("the name is lost: {err}")
                }
                Ok(named) => match self.image(&named.manifest).and_then(|i| self.check_image(&i)) {
                    Ok(()) => continue,
                    Err(err) => format!("the image `{}` cannot be used: {err}", named.name),
                },
            };
            findings.push(Finding { path, problem });
        }
        Ok(())
    }

    /// Whether every layer of an image is there, as a blob or as files, or can be fetched.
    fn check_image(&self, image: &super::Image) -> Result<(), StoreError> {
        let diff_ids = &image.config.rootfs.diff_ids;
        for (index, descriptor) in image.manifest.layers().iter().enumerate() {
            let Some(chain) = ChainId::of(&diff_ids[..=index]) else { continue };
            if !self.can_have_blob(descriptor.digest) && self.layer(chain)?.is_none() {
                return Err(StoreError::NoLayer(chain));
            }
        }
        Ok(())
    }
}

/// Reads a record, which has a few hundred bytes.
fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(MAX_DOCUMENT_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn hash(file: File) -> io::Result<Digest> {
    let mut reader = HashingReader::new(file);
    io::copy(&mut reader, &mut io::sink())?;
    Ok(reader.finish().0)
}

fn pack(dir: &Path) -> Result<layer::Packed, layer::LayerError> {
    let handle = Handle::open(dir).map_err(layer::LayerError::read)?;
    layer::pack(&handle, io::sink())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_lost_its_name_is_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut store = Store::open(&dir.path().join("store")).expect("a store");
        let path = store.path().join("refs").join(Digest::of(b"name").hex());
        fs::write(&path, "garbled").expect("written");
        for _ in 0..2 {
            assert!(store.names().is_err());
            assert_eq!(store.check(Repair::Nothing).expect("checked").len(), 1);
            assert!(store.names().is_err());
            assert_eq!(store.check(Repair::Remove).expect("checked").len(), 1);
            assert_eq!(store.names().expect("no names"), []);
            fs::create_dir(&path).expect("a folder");
        }
    }
}
