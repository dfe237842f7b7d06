//! The log of requests, which tests inspect: what was asked, by whom, and how it was answered.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// One request.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// When its head had been read.
    pub at: Instant,
    /// `get`, `list` or `watch`; else the HTTP method in lower case.
    pub verb: String,
    /// Plural name of the resource; the path where there is none.
    pub resource: String,
    /// Namespace in the path.
    pub namespace: Option<String>,
    /// The query's parameters, decoded.
    pub query: BTreeMap<String, String>,
    /// `User-Agent`.
    pub user_agent: String,
    /// `Accept`.
    pub accept: String,
    /// True if the client accepts gzip.
    pub gzip: bool,
    /// True over HTTP/2.
    pub http2: bool,
    /// Which connection it came over, by number.
    pub connection: u64,
    /// The answer's status; 0 while, and if, none was sent.
    pub status: u16,
}

impl RequestRecord {
    /// A query parameter; empty if it was not given.
    #[must_use]
    pub fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

/// Every request since the start or the last clearing.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Vec<RequestRecord>>);

impl Log {
    /// Adds a request and returns its place for [`Log::answered`].
    pub(crate) fn begin(&self, record: RequestRecord) -> usize {
        let mut log = self.lock();
        log.push(record);
        log.len() - 1
    }

    pub(crate) fn answered(&self, place: usize, status: u16) {
        if let Some(record) = self.lock().get_mut(place) {
            record.status = status;
        }
    }

    pub(crate) fn all(&self) -> Vec<RequestRecord> {
        self.lock().clone()
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RequestRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
