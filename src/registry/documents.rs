//! Manifests and indexes: small, typed, and hashed before anybody believes them.

use std::io::Read;

use super::auth::Access;
use super::client::{Call, Repository, Target};
use super::error::RegistryError;
use crate::http::Response;
use crate::oci::{Descriptor, Digest, MAX_DOCUMENT_BYTES, MediaType};

/// All that an image's name may stand for.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// How often a document is asked for that breaks off.
const ATTEMPTS: u32 = 3;

/// A manifest or an index as the registry has it.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its type, and what its bytes are.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Repository<'_> {
    /// Which manifest or index a tag stands for; `None` where the registry does not have it, or does
    /// not say.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn head(&self, tag_or_digest: &str) -> Result<Option<Descriptor>, RegistryError> {
        let call = self.manifest_call("HEAD", tag_or_digest);
        let found = self.read(&call, true, |response| {
            let response = self.success(&call, response)?;
            let digest = response.header("docker-content-digest");
            let digest = digest.and_then(|text| text.parse::<Digest>().ok());
            let size = response.header("content-length").and_then(|text| text.parse().ok());
            let media_type = media_type(&response);
            Ok(digest.zip(size).map(|(digest, size)| Descriptor::new(media_type, digest, size)))
        });
        match found {
            Err(RegistryError::NotFound { .. }) => Ok(None),
            found => found,
        }
    }

    /// Reads a manifest or index, by its tag or digest.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn document(&self, tag_or_digest: &str) -> Result<Document, RegistryError> {
        let call = self.manifest_call("GET", tag_or_digest);
        let expected: Option<Digest> = tag_or_digest.parse().ok();
        let mut attempt = 1;
        loop {
            let read = self.read(&call, true, |response| {
                read_document(&call.what, self.success(&call, response)?, expected)
            });
            match read {
                Err(RegistryError::Broken { .. })
                    if attempt < ATTEMPTS && !self.registries.is_cancelled() =>
                {
                    std::thread::sleep(self.registries.limits().pause * attempt);
                    attempt += 1;
                }
                read => return read,
            }
        }
    }

    fn manifest_call(&self, method: &'static str, tag_or_digest: &str) -> Call<'static> {
        let joint = if tag_or_digest.contains(':') { '@' } else { ':' };
        let what = format!("`{self}{joint}{tag_or_digest}`");
        let target = Target::Repository(format!("manifests/{tag_or_digest}"));
        Call::new(method, target, Access::Pull, &what).header("Accept", ACCEPT)
    }
}

fn media_type(response: &Response) -> MediaType {
    let text = response.header("content-type").unwrap_or_default();
    MediaType::from(text.split(';').next().unwrap_or_default().trim())
}

fn read_document(
    what: &str,
    response: Response,
    expected: Option<Digest>,
) -> Result<Document, RegistryError> {
    let wrong = |reason: String| RegistryError::Wrong { what: what.to_owned(), reason };
    let said_digest = response.header("docker-content-digest").map(str::to_owned);
    let said_type = media_type(&response);
    let mut bytes = Vec::new();
    let mut body = response.into_body().take(MAX_DOCUMENT_BYTES + 1);
    if let Err(err) = body.read_to_end(&mut bytes) {
        let (got, size) = (bytes.len() as u64, bytes.len() as u64);
        let (what, reason) = (what.to_owned(), err.to_string());
        return Err(RegistryError::Broken { what, times: 1, got, size, reason });
    }
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(wrong("it has more than the 4 MiB that a manifest may have".to_owned()));
    }
    let found = Digest::of(&bytes);
    // A digest that we cannot compute says nothing; one that we can has to be right.
    let said_digest = said_digest.and_then(|text| text.parse::<Digest>().ok());
    if let Some(expected) = [expected, said_digest].into_iter().flatten().find(|d| *d != found) {
        return Err(RegistryError::Digest { what: what.to_owned(), expected, found });
    }
    let media_type = match Descriptor::new(said_type.clone(), found, 0) {
        typed if typed.is_manifest() || typed.is_index() => said_type,
        _ => own_type(&bytes).ok_or_else(|| {
            let shown: String =
                said_type.to_string().chars().take(80).flat_map(char::escape_debug).collect();
            wrong(format!("it is no manifest but `{shown}`"))
        })?,
    };
    Ok(Document { descriptor: Descriptor::of(media_type, &bytes), bytes })
}

/// The whole of a small answer that has no digest: a list.
pub(super) fn read_small(what: &str, response: Response) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    let read = response.into_body().take(MAX_DOCUMENT_BYTES).read_to_end(&mut bytes);
    read.map_err(|err| RegistryError::Wrong { what: what.to_owned(), reason: err.to_string() })?;
    Ok(bytes)
}

/// What a document says itself that it is: some servers know no types.
fn own_type(bytes: &[u8]) -> Option<MediaType> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Face {
        media_type: MediaType,
    }
    let face: Face = serde_json::from_slice(bytes).ok()?;
    let typed = Descriptor::new(face.media_type, Digest::of(b""), 0);
    (typed.is_manifest() || typed.is_index()).then_some(typed.media_type)
}
