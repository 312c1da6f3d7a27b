//! Reading blobs, never without verifying them.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use super::{Store, StoreError};
use crate::oci::{Descriptor, Digest, HashingReader, MAX_DOCUMENT_BYTES};
use crate::snapshot::open_regular;

impl Store {
    /// Where the blob of `digest` lies, or would.
    pub(super) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.hex())
    }

    /// Whether the store has the blob.
    pub fn has_blob(&self, digest: Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Opens a blob, and fetches it where it is missing. The bytes are not verified yet: use [`Verified`].
    ///
    /// # Errors
    /// As [`Store::fetch`].
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<Verified<File>, StoreError> {
        let path = self.blob_path(descriptor.digest);
        let mut opened = open_regular(&path);
        if opened.as_ref().is_err_and(|err| err.kind() == io::ErrorKind::NotFound) {
            self.fetch(std::slice::from_ref(descriptor), &|_, _| {})?;
            opened = open_regular(&path);
        }
        let file = opened.map_err(StoreError::io("open", &path))?;
        Ok(Verified::new(file, descriptor))
    }

    /// Reads a manifest, index or config.
    ///
    /// # Errors
    /// As [`Store::open_blob`]; [`StoreError::TooLarge`], and what [`Verified::finish`] finds.
    pub fn read_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, StoreError> {
        let size = descriptor.size;
        if size > MAX_DOCUMENT_BYTES {
            return Err(StoreError::TooLarge { what: descriptor.digest.to_string(), size });
        }
        let mut blob = self.open_blob(descriptor)?;
        let mut bytes = Vec::new();
        let path = self.blob_path(descriptor.digest);
        blob.read_to_end(&mut bytes).map_err(StoreError::io("read", &path))?;
        blob.finish()?;
        Ok(bytes)
    }
}

/// A reader that gives at most a blob's bytes and knows in the end whether they were the blob's.
#[derive(Debug)]
pub struct Verified<R> {
    inner: HashingReader<io::Take<R>>,
    digest: Digest,
    size: u64,
}

impl<R: Read> Verified<R> {
    /// Holds what `inner` gives against `descriptor`.
    pub fn new(inner: R, descriptor: &Descriptor) -> Self {
        // One byte more than there should be, so that a blob that goes on is found out.
        let limit = descriptor.size.saturating_add(1);
        Self {
            inner: HashingReader::new(inner.take(limit)),
            digest: descriptor.digest,
            size: descriptor.size,
        }
    }

    /// Reads to the end and says whether all bytes were right.
    ///
    /// # Errors
    /// [`StoreError::SizeMismatch`], [`StoreError::DigestMismatch`], [`StoreError::Io`].
    pub fn finish(mut self) -> Result<(), StoreError> {
        let what = format!("the blob {}", self.digest);
        io::copy(&mut self.inner, &mut io::sink())
            .map_err(StoreError::io("read", &PathBuf::from(self.digest.to_string())))?;
        let (digest, found) = self.inner.finish();
        if found != self.size {
            return Err(StoreError::SizeMismatch { what, expected: self.size, found });
        }
        if digest != self.digest {
            let expected = self.digest;
            return Err(StoreError::DigestMismatch { what, expected, found: digest });
        }
        Ok(())
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}
