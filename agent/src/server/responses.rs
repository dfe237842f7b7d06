//! What became of requests over HTTPS.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;

use crate::metrics::{Scrape, names};

/// The status codes that are given.
const STATUSES: [StatusCode; 10] = [
    StatusCode::OK,
    StatusCode::BAD_REQUEST,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::SERVICE_UNAVAILABLE,
];

/// The responses of one listener.
#[derive(Default)]
pub struct Responses([AtomicU64; STATUSES.len()]);

impl Responses {
    /// Counts one.
    pub(super) fn note(&self, status: StatusCode) {
        let at = STATUSES.iter().position(|known| *known == status);
        if let Some(count) = at.and_then(|at| self.0.get(at)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Hands them in; `server` is the label of the listener.
    pub fn collect(&self, server: &str, out: &mut Scrape) {
        for (status, count) in STATUSES.iter().zip(&self.0) {
            let count = count.load(Relaxed);
            if count > 0 || *status == StatusCode::OK {
                out.count(&names::HTTPS_RESPONSES, &[server, status.as_str()], count);
            }
        }
    }
}
