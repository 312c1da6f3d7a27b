//! Files that a URL gives, kept with what the server says of them.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{FetchError, Fetcher, make_dir, write_small};
use crate::http::{HttpError, Request, Response, Url, parse_date};
use crate::oci::Digest;

/// How often a file is begun again that breaks off.
const ATTEMPTS: u32 = 3;
/// A file that changed so many seconds before it was sent may have changed again since.
const RACY_SECONDS: i64 = 2;

/// A file that a URL gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// What it holds.
    pub digest: Digest,
    /// When the server says that it changed, in seconds since 1970.
    pub modified: Option<i64>,
    /// Where it lies, with mode 0600 and that time, or 1970. It never changes.
    pub path: PathBuf,
}

/// What is kept of a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    etag: Option<String>,
    /// `Last-Modified`, where it can be asked for again.
    validator: Option<String>,
    modified: Option<i64>,
    digest: Digest,
}

impl Fetcher<'_> {
    /// What a URL gives now. The server is asked; what did not change is not sent again.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn download(&self, url: &Url) -> Result<Download, FetchError> {
        self.get(url, None)
    }

    /// The bytes of this digest from a URL. Nobody is asked where they are here already.
    ///
    /// # Errors
    /// [`FetchError::Digest`] where the URL gives others; nothing of them is kept.
    pub fn download_exactly(&self, url: &Url, digest: Digest) -> Result<Download, FetchError> {
        let place = self.place(url)?;
        match place.known() {
            Some(known) if known.digest == digest => Ok(place.download(&known)),
            _ => self.get(url, Some(digest)),
        }
    }

    fn place(&self, url: &Url) -> Result<Place, FetchError> {
        let dir = self.dir.join("http");
        make_dir(&dir)?;
        let mut name = url.to_string();
        if let Some((user, password)) = url.credentials() {
            name.push_str(&format!("\0{user}\0{password}"));
        }
        Ok(Place { dir, name: Digest::of(name.as_bytes()).hex() })
    }

    fn get(&self, url: &Url, expected: Option<Digest>) -> Result<Download, FetchError> {
        let place = self.place(url)?;
        let known = place.known();
        let mut attempt = 1;
        loop {
            let response = self.ask(url, known.as_ref())?;
            let unchanged = known.as_ref().filter(|known| known.still_holds(&response));
            if let Some(known) = unchanged {
                return match expected {
                    Some(expected) if expected != known.digest => {
                        Err(mismatch(url, expected, known.digest))
                    }
                    _ => Ok(place.download(known)),
                };
            }
            if !(200..300).contains(&response.status) {
                return Err(FetchError::Status { url: url.to_string(), status: response.status });
            }
            match self.receive(url, response, &place, expected) {
                Err(FetchError::Body { .. }) if attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    fn ask(&self, url: &Url, known: Option<&Record>) -> Result<Response, FetchError> {
        let mut request = Request::get(url.clone());
        let host = url.host();
        let token = self.secret(&format!("HTTP_AUTH_TOKEN_{host}"))?;
        let header = match token {
            Some(token) => Some(format!("Bearer {token}")),
            None => self.secret(&format!("HTTP_AUTH_HEADER_{host}"))?,
        };
        if let Some(header) = header {
            request = request.header("Authorization", header);
        }
        if let Some(etag) = known.and_then(|known| known.etag.as_deref()) {
            request = request.header("If-None-Match", etag);
        } else if let Some(date) = known.and_then(|known| known.validator.as_deref()) {
            request = request.header("If-Modified-Since", date);
        }
        self.client.send(&request).map_err(|err| match err {
            HttpError::Cancelled => FetchError::Cancelled,
            err => err.into(),
        })
    }

    /// Reads a body into a file and hashes it on the way.
    fn receive(
        &self,
        url: &Url,
        response: Response,
        place: &Place,
        expected: Option<Digest>,
    ) -> Result<Download, FetchError> {
        let scratch = self.fresh("http")?;
        let failed = |action| FetchError::io(action, &scratch);
        let mut record = Record::of(&response);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&scratch);
        let mut file = file.map_err(failed("write"))?;
        let read = self.copy(url, response.into_body().as_mut(), &mut file, &scratch);
        let digest = read.inspect_err(|_| drop(fs::remove_file(&scratch)))?;
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            drop(fs::remove_file(&scratch));
            return Err(mismatch(url, expected, digest));
        }
        record.digest = digest;
        let seconds = u64::try_from(record.modified.unwrap_or_default()).unwrap_or_default();
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        let times = FileTimes::new().set_modified(time).set_accessed(time);
        file.set_times(times).map_err(failed("set the time of"))?;
        let path = place.body(&record);
        fs::rename(&scratch, &path).map_err(FetchError::io("write", &path))?;
        let bytes = serde_json::to_vec(&record).expect("plain texts serialize");
        write_small(&place.record(), &scratch, &bytes)?;
        place.forget_others(&path);
        Ok(place.download(&record))
    }

    fn copy(
        &self,
        url: &Url,
        body: &mut dyn Read,
        file: &mut File,
        path: &Path,
    ) -> Result<Digest, FetchError> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 128 << 10];
        loop {
            let read = body.read(&mut buffer);
            if self.cancelled.is() {
                return Err(FetchError::Cancelled);
            }
            match read {
                Ok(0) => return Ok(Digest::finish(hasher)),
                Ok(read) => {
                    hasher.update(&buffer[..read]);
                    file.write_all(&buffer[..read]).map_err(FetchError::io("write", path))?;
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(FetchError::Body { url: url.to_string(), source }),
            }
        }
    }
}

fn mismatch(url: &Url, expected: Digest, found: Digest) -> FetchError {
    FetchError::Digest { url: url.to_string(), expected, found }
}

impl Record {
    fn of(response: &Response) -> Self {
        let header = |name| response.header(name).map(str::to_owned);
        let modified = response.header("last-modified").and_then(parse_date);
        let sent = response.header("date").and_then(parse_date);
        // A time alone tells two states of a file apart only where there is time between them.
        let is_old = sent.zip(modified).is_some_and(|(sent, time)| sent - time >= RACY_SECONDS);
        Self {
            etag: header("etag"),
            validator: header("last-modified").filter(|_| is_old),
            modified,
            digest: Digest::of(b""),
        }
    }

    /// Whether a response means what is kept: some servers send all of it although they were told.
    fn still_holds(&self, response: &Response) -> bool {
        let plain = |etag: &str| etag.trim_start_matches("W/").to_owned();
        let etag = response.header("etag").map(plain);
        match response.status {
            304 => etag.is_none_or(|etag| self.etag.as_deref().map(plain) == Some(etag)),
            200 => etag.is_some() && etag == self.etag.as_deref().map(plain),
            _ => false,
        }
    }
}

/// Where the file of one URL is kept.
struct Place {
    dir: PathBuf,
    name: String,
}

impl Place {
    fn record(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// The name tells all about the file, so that one that steps use never changes.
    fn body(&self, record: &Record) -> PathBuf {
        let (digest, time) = (record.digest.hex(), record.modified.unwrap_or_default());
        self.dir.join(format!("{}-{digest}-{time}", self.name))
    }

    /// What is kept, if it is whole.
    fn known(&self) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(self.record()).ok()?).ok()?;
        self.body(&record).is_file().then_some(record)
    }

    fn download(&self, record: &Record) -> Download {
        let path = self.body(record);
        Download { digest: record.digest, modified: record.modified, path }
    }

    /// Removes what the URL gave before. What cannot be removed takes room and does no harm.
    fn forget_others(&self, path: &Path) {
        let prefix = format!("{}-", self.name);
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let other = entry.path();
            if entry.file_name().to_string_lossy().starts_with(&prefix) && other != path {
                drop(fs::remove_file(other));
            }
        }
    }
}
