//! [`BlobReader`]: a blob as it comes, taken up again where it broke off.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::auth::Access;
use super::client::{Call, Repository, Target};
use super::error::RegistryError;
use crate::http::{HttpError, Response};
use crate::oci::{Descriptor, MAX_DOCUMENT_BYTES};

/// How often a blob may break off without having come further in between.
const ATTEMPTS: u32 = 5;

/// What counts as further.
const PROGRESS: u64 = 1 << 20;

/// Reads a blob from a registry: up to as many bytes as its descriptor says, or an error that holds a
/// [`RegistryError`]. Whether they are the right ones is for the reader to find out.
pub struct BlobReader<'a> {
    repository: Repository<'a>,
    blob: Descriptor,
    with_mirrors: bool,
    /// What is open, from `position` on.
    body: Option<Box<dyn Read + Send>>,
    position: u64,
    /// Where it broke off, and how often since it last came further.
    failed_at: u64,
    failures: u32,
}

impl std::fmt::Debug for BlobReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobReader").field("blob", &self.blob.digest).finish_non_exhaustive()
    }
}

impl<'a> Repository<'a> {
    /// Opens a blob from one of its bytes on; a layer's `urls` are never asked.
    ///
    /// # Errors
    /// [`RegistryError`], where the registry does not have it for example.
    pub fn blob(
        &self,
        blob: &Descriptor,
        from: u64,
        with_mirrors: bool,
    ) -> Result<BlobReader<'a>, RegistryError> {
        let mut reader = BlobReader {
            repository: self.clone(),
            blob: blob.clone(),
            with_mirrors,
            body: None,
            position: from,
            failed_at: from,
            failures: 0,
        };
        reader.body = Some(reader.open()?);
        Ok(reader)
    }

    /// Reads a small blob, such as a config.
    ///
    /// # Errors
    /// As [`Repository::blob`]; [`RegistryError::Digest`].
    pub fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let what = format!("the blob {} of `{self}`", blob.digest);
        if blob.size > MAX_DOCUMENT_BYTES {
            let reason = "it has more than the 4 MiB that a config may have".to_owned();
            return Err(RegistryError::Wrong { what, reason });
        }
        let mut with_mirrors = true;
        loop {
            let mut bytes = Vec::new();
            let read = self.blob(blob, 0, with_mirrors)?.read_to_end(&mut bytes);
            read.map_err(|err| from_io(&what, err))?;
            let found = crate::oci::Digest::of(&bytes);
            if found == blob.digest {
                return Ok(bytes);
            }
            if !with_mirrors {
                return Err(RegistryError::Digest { what, expected: blob.digest, found });
            }
            with_mirrors = false;
        }
    }
}

impl BlobReader<'_> {
    /// Opens the blob from `position` on.
    fn open(&self) -> Result<Box<dyn Read + Send>, RegistryError> {
        let target = Target::Repository(format!("blobs/{}", self.blob.digest));
        let mut call = Call::new("GET", target, Access::Pull, &self.what());
        if self.position > 0 {
            call = call.header("Range", format!("bytes={}-", self.position));
        }
        self.repository.read(&call, self.with_mirrors, |response| {
            self.body_of(self.repository.success(&call, response)?)
        })
    }

    /// The body of an answer, from `position` on.
    fn body_of(&self, response: Response) -> Result<Box<dyn Read + Send>, RegistryError> {
        let wrong = |reason: String| RegistryError::Wrong { what: self.what(), reason };
        let begins_at = match response.status {
            206 => range_start(response.header("content-range"))
                .filter(|start| *start == self.position)
                .ok_or_else(|| wrong("it is another part than was asked for".to_owned()))?,
            _ => 0,
        };
        let length = response.header("content-length").and_then(|text| text.parse::<u64>().ok());
        let expected = self.blob.size - begins_at;
        if let Some(length) = length.filter(|length| *length != expected) {
            let size = self.blob.size;
            return Err(wrong(format!("it has {} bytes, not {size}", begins_at + length)));
        }
        let mut body = response.into_body();
        // A server that knows no ranges sends all of it again.
        let again = self.position - begins_at;
        let skipped = io::copy(&mut body.by_ref().take(again), &mut io::sink());
        match skipped {
            Ok(skipped) if skipped == again => Ok(body),
            Ok(_) => Err(self.broken("it ends too soon".to_owned())),
            Err(err) => Err(self.broken(err.to_string())),
        }
    }

    fn what(&self) -> String {
        format!("the blob {} of `{}`", self.blob.digest, self.repository)
    }

    fn broken(&self, reason: String) -> RegistryError {
        let (got, size) = (self.position, self.blob.size);
        RegistryError::Broken { what: self.what(), times: self.failures, got, size, reason }
    }

    /// Counts a failure, and waits a little. Fails where there were too many.
    fn pause(&mut self, reason: String) -> Result<(), RegistryError> {
        if self.position >= self.failed_at + PROGRESS {
            self.failures = 0;
        }
        self.failed_at = self.position;
        self.failures += 1;
        if self.failures >= ATTEMPTS {
            return Err(self.broken(reason));
        }
        let registries = self.repository.registries;
        // Several blobs that broke off together need not come back together.
        let spread = 100 + u32::from(self.blob.digest.as_bytes()[0]) % 50;
        let wait = registries.limits().pause * (1 << (self.failures - 1)) * spread / 100;
        let end = Instant::now() + wait;
        while Instant::now() < end {
            if registries.is_cancelled() {
                return Err(HttpError::Cancelled.into());
            }
            std::thread::sleep(Duration::from_millis(20).min(wait));
        }
        Ok(())
    }

    fn read_on(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        loop {
            let left = self.blob.size - self.position;
            if left == 0 {
                return self.end().map(|()| 0);
            }
            let mut body = match self.body.take() {
                Some(body) => body,
                None => match self.open() {
                    Ok(body) => body,
                    Err(
                        err @ (RegistryError::Broken { .. }
                        | RegistryError::Http(HttpError::Transport { .. })),
                    ) => {
                        self.pause(err.to_string())?;
                        continue;
                    }
                    Err(err) => return Err(err),
                },
            };
            let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            match body.read(&mut buffer[..most]) {
                Ok(0) => self.pause("it ends too soon".to_owned())?,
                Ok(read) => {
                    self.position += read as u64;
                    self.body = Some(body);
                    return Ok(read);
                }
                Err(err) => self.pause(err.to_string())?,
            }
        }
    }

    /// Looks whether the server has more to say than it should.
    fn end(&mut self) -> Result<(), RegistryError> {
        let Some(mut body) = self.body.take() else { return Ok(()) };
        match body.read(&mut [0]) {
            Ok(1..) => {
                let reason = format!("it goes on after its {} bytes", self.blob.size);
                Err(RegistryError::Wrong { what: self.what(), reason })
            }
            // All that was promised is here, however the connection ends.
            _ => Ok(()),
        }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.read_on(buffer).map_err(RegistryError::into_io)
    }
}

/// What a reader's error holds.
fn from_io(what: &str, err: io::Error) -> RegistryError {
    let text = err.to_string();
    match err.downcast::<RegistryError>() {
        Ok(inner) => inner,
        Err(_) => RegistryError::Wrong { what: what.to_owned(), reason: text },
    }
}

/// The first byte of `bytes 5-9/10`.
fn range_start(header: Option<&str>) -> Option<u64> {
    let range = header?.trim().strip_prefix("bytes")?.trim_start();
    range.split('-').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let check = |text: &str, start: Option<u64>| {
            assert_eq!(range_start(Some(text)), start, "{text}");
        };
        check("bytes 5-9/10", Some(5));
        check("bytes  0-9/*", Some(0));
        check("bytes */10", None);
        check("pages 1-2/3", None);
        check("", None);
    }

    proptest::proptest! {
        #[test]
        fn ranges_of_any_kind(text in r"(bytes|)[ =]{0,2}[0-9]{0,22}[-*/]{0,2}[0-9]{0,22}|.{0,20}") {
            if let Some(start) = range_start(Some(&text)) {
                proptest::prop_assert!(text.contains(&start.to_string()), "{}", start);
            }
        }
    }
}
