//! One blob on its way into a registry (distribution specification, "Pushing blobs").

use std::time::{Duration, Instant};

use super::PushError;
use super::content::{Content, Hashed, stream};
use crate::http::{Body, HttpError, Response, Url};
use crate::oci::Digest;
use crate::registry::auth::Access;
use crate::registry::client::{Call, Repository, Target};
use crate::registry::error::RegistryError;

/// How often an upload may fail without having come any further, and in all.
const MAX_FAILURES: u32 = 5;
const MAX_ALL_FAILURES: u32 = 50;
/// How long to wait after the first failure, after any, and at most because the registry says so.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// An upload that the registry knows of.
pub(super) struct Session {
    url: Url,
    /// How many bytes the registry has.
    offset: u64,
    /// Whether `offset` is only what we believe.
    unsure: bool,
}

/// Why an attempt did not come to its end.
enum Fault {
    /// The same may go well in a moment, or when the registry says.
    Passing(Box<PushError>, Option<Duration>),
    /// The registry does not know the upload any more, or has other bytes than we sent.
    Lost(Box<PushError>),
    /// It stays so.
    Final(Box<PushError>),
}

/// Uploads one blob to one repository.
pub(super) struct Uploader<'a> {
    pub(super) repository: &'a Repository<'a>,
    /// The blob, for messages.
    pub(super) what: &'a str,
    pub(super) cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Uploader<'_> {
    /// Whether the repository has a blob.
    pub(super) fn has(&self, digest: Digest) -> Result<bool, PushError> {
        let call = self.call("HEAD", Target::Repository(format!("blobs/{digest}")));
        let response = self.repository.request(&call)?;
        if response.status == 404 {
            return Ok(false);
        }
        self.repository.success(&call, response)?;
        Ok(true)
    }

    /// Asks for a blob of another repository; where that is not to be, what comes is an upload.
    pub(super) fn mount(&self, digest: Digest, from: &str) -> Result<Option<Session>, PushError> {
        let target = Target::Repository(format!("blobs/uploads/?mount={digest}&from={from}"));
        let mut call = self.call("POST", target);
        call.access = Access::Mount(from);
        call.body = Body::Bytes(&[]);
        match self.repository.request(&call) {
            Ok(response) if response.status == 201 => Ok(None),
            Ok(response) if response.status == 202 => self.session(&response, 0).map(Some),
            // The other repository is not for us, or the registry does not do it.
            _ => self.start().map(Some),
        }
    }

    /// Uploads a content whatever comes in between, within a budget of failures.
    pub(super) fn upload(
        &self,
        content: &dyn Content,
        session: Option<Session>,
    ) -> Result<Hashed, PushError> {
        let mut session = session;
        let (mut failures, mut all, mut reached) = (0, 0, 0);
        let mut pause = FIRST_PAUSE;
        loop {
            if (self.cancelled)() {
                return Err(PushError::Cancelled);
            }
            let (err, wait) = match self.attempt(content, &mut session) {
                Ok(hashed) => return Ok(hashed),
                Err(Fault::Final(err)) => {
                    self.abandon(session);
                    return Err(*err);
                }
                Err(Fault::Lost(err)) => {
                    session = None;
                    (err, None)
                }
                Err(Fault::Passing(err, wait)) => (err, wait),
            };
            let offset = session.as_ref().map_or(0, |session| session.offset);
            if offset > reached {
                (reached, failures, pause) = (offset, 0, FIRST_PAUSE);
            }
            failures += 1;
            all += 1;
            if failures >= MAX_FAILURES || all >= MAX_ALL_FAILURES {
                self.abandon(session);
                return Err(*err);
            }
            self.sleep(wait.unwrap_or(pause).min(LONGEST_WAIT));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Uploads the few bytes of a document at once; where that does not work, as anything else.
    pub(super) fn upload_document(
        &self,
        content: &dyn Content,
        bytes: &[u8],
        session: Option<Session>,
    ) -> Result<(), PushError> {
        if let Ok(session) = session.map_or_else(|| self.start(), Ok) {
            let url = session.url.with_query("digest", &Digest::of(bytes).to_string());
            let mut call = self
                .call("PUT", Target::Url(url))
                .header("content-type", "application/octet-stream");
            call.body = Body::Bytes(bytes);
            let answer = self.repository.request(&call);
            if answer.is_ok_and(|response| (200..300).contains(&response.status)) {
                return Ok(());
            }
        }
        self.upload(content, None).map(drop)
    }

    fn attempt(
        &self,
        content: &dyn Content,
        session: &mut Option<Session>,
    ) -> Result<Hashed, Fault> {
        let current = match session {
            Some(session) => session,
            None => session.insert(self.start().map_err(fault)?),
        };
        if current.unsure {
            self.ask(current)?;
        }
        let hashed = self.send(content, current)?;
        self.commit(current, hashed)?;
        Ok(hashed)
    }

    fn start(&self) -> Result<Session, PushError> {
        let mut call = self.call("POST", Target::Repository("blobs/uploads/".to_owned()));
        call.body = Body::Bytes(&[]);
        let response = self.repository.success(&call, self.repository.request(&call)?)?;
        self.session(&response, 0)
    }

    /// What a response says of where an upload goes on.
    fn session(&self, response: &Response, offset: u64) -> Result<Session, PushError> {
        let location = response.header("location");
        let url = location.ok_or("it does not say where to upload to");
        let url = url.and_then(|location| response.url.join(location)).map_err(|reason| {
            let what = format!("the answer to the upload of {}", self.what);
            RegistryError::Wrong { what, reason: reason.to_owned() }
        })?;
        Ok(Session { url, offset, unsure: false })
    }

    /// Sends what the registry does not have yet.
    fn send(&self, content: &dyn Content, session: &mut Session) -> Result<Hashed, Fault> {
        let offset = session.offset;
        let length = content.length().map(|length| length.saturating_sub(offset));
        let (response, hashed) = stream(content, offset, |open| {
            let mut call = self
                .call("PATCH", Target::Url(session.url.clone()))
                .header("content-type", "application/octet-stream");
            call.body = Body::Stream { length, open };
            if let Some(length) = length.filter(|length| offset > 0 && *length > 0) {
                let range = format!("{offset}-{}", offset + length - 1);
                call = call.header("content-range", range);
            }
            self.repository.request(&call)
        });
        // Until the registry says so, nobody knows what of it has arrived.
        session.unsure = true;
        if let Some(Err(err)) = hashed {
            return Err(Fault::Final(Box::new(err.into())));
        }
        let response = response.map_err(|err| fault(err.into()))?;
        match (response.status, hashed) {
            (200..=204, Some(Ok(hashed))) => {
                let next =
                    self.session(&response, hashed.size).map_err(|err| Fault::Final(err.into()))?;
                let has = response.header("range").and_then(end_of_range);
                *session = next;
                if has.is_some_and(|has| has != hashed.size) || hashed.size < offset {
                    session.unsure = true;
                    return Err(Fault::Passing(self.mismatch(has, hashed.size).into(), None));
                }
                Ok(hashed)
            }
            (200..=204, _) => Err(Fault::Lost(self.mismatch(None, 0).into())),
            _ => Err(self.status(response)),
        }
    }

    /// Asks how far an upload has come.
    fn ask(&self, session: &mut Session) -> Result<(), Fault> {
        let call = self.call("GET", Target::Url(session.url.clone()));
        let response = self.repository.request(&call).map_err(|err| fault(err.into()))?;
        if !matches!(response.status, 200..=204) {
            return Err(self.status(response));
        }
        let has = response.header("range").and_then(end_of_range).unwrap_or(0);
        *session = match response.header("location") {
            Some(_) => self.session(&response, has).map_err(|err| Fault::Final(err.into()))?,
            None => Session { url: session.url.clone(), offset: has, unsure: false },
        };
        Ok(())
    }

    /// Says what the uploaded bytes are.
    fn commit(&self, session: &mut Session, hashed: Hashed) -> Result<(), Fault> {
        let url = session.url.with_query("digest", &hashed.digest.to_string());
        // Whatever comes: only a registry that knows the upload still can say what became of it.
        session.unsure = true;
        let mut call = self.call("PUT", Target::Url(url));
        call.body = Body::Bytes(&[]);
        let response = self.repository.request(&call).map_err(|err| fault(err.into()))?;
        match response.status {
            200..=204 => Ok(()),
            // An answer that got lost may have been to a commit that went well.
            404 if self.has(hashed.digest).map_err(fault)? => Ok(()),
            // What arrived is not what was sent: it is sent once more, from the start.
            400 => Err(Fault::Lost(self.refusal(response).into())),
            _ => Err(self.status(response)),
        }
    }

    /// What a status in the midst of an upload means.
    fn status(&self, response: Response) -> Fault {
        let status = response.status;
        let wait = response.header("retry-after").and_then(|text| text.trim().parse().ok());
        let err = self.refusal(response).into();
        match status {
            404 => Fault::Lost(err),
            408 | 416 | 429 | 500..=599 => Fault::Passing(err, wait.map(Duration::from_secs)),
            _ => Fault::Final(err),
        }
    }

    fn mismatch(&self, has: Option<u64>, sent: u64) -> PushError {
        let has = has.map_or_else(|| "some".to_owned(), |has| has.to_string());
        let reason = format!("it has {has} of the {sent} bytes that were sent");
        let what = format!("the answer to the upload of {}", self.what);
        RegistryError::Wrong { what, reason }.into()
    }

    /// Tells the registry that nothing more will come, so that it need not keep what it has.
    pub(super) fn abandon(&self, session: Option<Session>) {
        if let Some(session) = session {
            // It forgets by itself as well, some day.
            drop(self.repository.request(&self.call("DELETE", Target::Url(session.url))));
        }
    }

    fn call(&self, method: &'static str, target: Target) -> Call<'static> {
        Call::new(method, target, Access::Push, self.what)
    }

    /// An answer that is no success.
    fn refusal(&self, response: Response) -> PushError {
        let call = self.call("PATCH", Target::Registry(String::new()));
        match self.repository.success(&call, response) {
            Err(err) => err.into(),
            Ok(_) => self.mismatch(None, 0),
        }
    }

    fn sleep(&self, time: Duration) {
        let end = Instant::now() + time;
        while !(self.cancelled)() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// What an error without a status means for an upload.
fn fault(err: PushError) -> Fault {
    match err {
        PushError::Registry(RegistryError::Http(
            HttpError::Transport { .. } | HttpError::Body { .. },
        )) => Fault::Passing(err.into(), None),
        PushError::Registry(RegistryError::Refused { status: 408 | 429 | 500..=599, .. }) => {
            Fault::Passing(err.into(), None)
        }
        err => Fault::Final(err.into()),
    }
}

/// How many bytes `0-41`, or `bytes=0-41`, stands for. An upload of which nothing is there has `0-0`
/// as well as one of a single byte: to believe in too few of them costs one byte.
fn end_of_range(text: &str) -> Option<u64> {
    let range = text.trim().strip_prefix("bytes=").unwrap_or(text.trim());
    let (start, end) = range.split_once('-')?;
    let end: u64 = end.parse().ok()?;
    (start == "0").then(|| if end == 0 { 0 } else { end.saturating_add(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, bytes) in [
            ("0-41", Some(42)),
            ("bytes=0-41", Some(42)),
            ("0-0", Some(0)),
            ("0--1", None),
            ("5-41", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(end_of_range(text), bytes, "{text}");
        }
    }
}
