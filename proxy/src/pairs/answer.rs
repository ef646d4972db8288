//! An answer, as it came and as named parts.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE,
    HeaderName, LOCATION, WWW_AUTHENTICATE,
};
use tokio::sync::oneshot;
use xxhash_rust::xxh64::{Xxh64, xxh64};

use super::LARGEST_BODY;
use super::body::{self, Kind};

/// Headers that are compared; all others may differ.
const COMPARED: [HeaderName; 7] = [
    CONTENT_TYPE,
    LOCATION,
    CACHE_CONTROL,
    CONTENT_LANGUAGE,
    CONTENT_DISPOSITION,
    WWW_AUTHENTICATE,
    ALLOW,
];

/// Why an answer cannot be compared.
pub(crate) type Reason = &'static str;

/// An answer as it came.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    /// Its status; 0 if there was no answer.
    status: u16,
    headers: HeaderMap,
    body: BytesMut,
    unfit: Option<Reason>,
}

impl Raw {
    /// No answer: also something that can be compared.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// Begins with a head. Only what is compared is kept of it.
    pub(crate) fn begin(status: u16, headers: &HeaderMap) -> Self {
        let mut raw = Self {
            status,
            ..Self::default()
        };
        for name in COMPARED.iter().chain([&CONTENT_ENCODING]) {
            for value in headers.get_all(name) {
                raw.headers.append(name.clone(), value.clone());
            }
        }
        if body::is_stream(&raw.headers) || status == 101 {
            raw.unfit = Some("streaming");
        }
        raw
    }

    /// Takes a piece of the body; keeps no more than is compared.
    pub(crate) fn push(&mut self, piece: &Bytes) {
        if self.unfit.is_some() {
            return;
        }
        if self.body.len().saturating_add(piece.len()) > LARGEST_BODY {
            self.body = BytesMut::new();
            self.unfit = Some("too large");
            return;
        }
        self.body.extend_from_slice(piece);
    }

    /// Bytes kept.
    pub(crate) fn len(&self) -> usize {
        self.body.len()
    }

    /// The status; 0 if there was no answer.
    pub(crate) const fn status(&self) -> u16 {
        self.status
    }

    /// Whether it goes on for as long as its sender likes.
    pub(crate) fn is_stream(&self) -> bool {
        self.unfit == Some("streaming")
    }

    /// Whether there was an answer.
    pub(crate) const fn is_answered(&self) -> bool {
        self.status != 0
    }
}

/// An answer as named parts with a digest of each, in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(super) parts: Vec<(String, u64)>,
}

impl Answer {
    /// Takes an answer apart.
    ///
    /// # Errors
    /// Why it cannot be compared.
    pub(crate) fn of(raw: &Raw) -> Result<Self, Reason> {
        if let Some(reason) = raw.unfit {
            return Err(reason);
        }
        let mut parts = vec![("status".to_owned(), u64::from(raw.status))];
        for name in COMPARED {
            let mut values = raw.headers.get_all(&name).iter().peekable();
            if values.peek().is_none() {
                continue;
            }
            let mut hash = Xxh64::new(0);
            for value in values {
                hash.update(value.as_bytes());
                hash.update(b"\n");
            }
            parts.push((format!("header.{name}"), hash.digest()));
        }
        let decoded = body::decode(&raw.headers, &raw.body)?;
        match body::kind(&raw.headers) {
            Kind::Json => match serde_json::from_slice(&decoded) {
                Ok(value) => parts.extend(body::fields(&value)),
                // An error page under the wrong name, say: compared as it is.
                Err(_) => parts.push(("body".to_owned(), xxh64(&decoded, 0))),
            },
            Kind::Other => parts.push(("body".to_owned(), xxh64(&decoded, 0))),
        }
        parts.sort();
        Ok(Self { parts })
    }

    /// The digest of a part.
    pub(crate) fn part(&self, name: &str) -> Option<u64> {
        let found = self.parts.binary_search_by(|(part, _)| (**part).cmp(name));
        found
            .ok()
            .and_then(|index| self.parts.get(index))
            .map(|(_, digest)| *digest)
    }

    /// A digest of everything but the parts that are left out.
    pub(crate) fn digest(&self, is_left_out: impl Fn(&str) -> bool) -> u64 {
        let mut hash = Xxh64::new(0);
        for (name, digest) in &self.parts {
            if !is_left_out(name) {
                hash.update(name.as_bytes());
                hash.update(&digest.to_le_bytes());
            }
        }
        hash.digest()
    }

    /// Names of the parts in which two answers differ.
    pub(crate) fn differing<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let mut names: Vec<&str> = self
            .parts
            .iter()
            .chain(&other.parts)
            .map(|(name, _)| &**name)
            .collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| self.part(name) != other.part(name));
        names
    }
}

/// The client's own answer, kept while it passes. Dropping it says that there is none.
#[derive(Debug)]
pub(crate) struct Capture {
    to: oneshot::Sender<Raw>,
    raw: Option<Raw>,
}

impl Capture {
    pub(crate) fn new() -> (Self, oneshot::Receiver<Raw>) {
        let (to, from) = oneshot::channel();
        (Self { to, raw: None }, from)
    }

    pub(crate) fn head(&mut self, status: u16, headers: &HeaderMap) {
        self.raw = Some(Raw::begin(status, headers));
    }

    pub(crate) fn piece(&mut self, piece: &Bytes) {
        if let Some(raw) = &mut self.raw {
            raw.push(piece);
        }
    }

    /// The answer has ended.
    pub(crate) fn finish(self) {
        if let Some(raw) = self.raw {
            // Nobody compares any more if the other end is gone.
            let _ = self.to.send(raw);
        }
    }
}
