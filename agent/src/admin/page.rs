//! The page for people: one file that asks nothing but this server for anything, with the data that it draws.

use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, StatusCode};
use ring::digest::{SHA256, digest};
use serde_json::Value;

const FRAME: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// Who knows what the page shows.
pub trait Tells: Send + Sync {
    /// What `nodens status -o json` prints.
    fn status(&self) -> Value;
    /// The last minutes, as the page draws them.
    fn history(&self) -> Value;
}

/// An answer is given again for so long, so that the cost of being asked has a bound.
const FRESH: Duration = Duration::from_secs(1);

/// Who is asked: none until the server serves.
#[derive(Default)]
pub(super) struct Teller {
    tells: OnceLock<Arc<dyn Tells>>,
    status: Mutex<Option<Told>>,
    history: Mutex<Option<Told>>,
}

/// What was told, and when.
struct Told {
    at: Instant,
    json: Bytes,
}

impl Teller {
    /// Asks `tells` from now on; the first one stays.
    pub(super) fn set(&self, tells: Arc<dyn Tells>) {
        let _ = self.tells.set(tells);
    }

    /// What is told of this path, as JSON; `None` before the server serves.
    pub(super) fn json(&self, path: &str) -> Option<Bytes> {
        let tells = self.tells.get()?;
        let is_history = path == "/history.json";
        let last = if is_history { &self.history } else { &self.status };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = last.as_ref().filter(|told| told.at.elapsed() < FRESH) {
            return Some(told.json.clone());
        }
        let value = if is_history { tells.history() } else { tells.status() };
        let told = last.insert(Told { at: Instant::now(), json: format!("{value}\n").into() });
        Some(told.json.clone())
    }
}

struct Page {
    html: Bytes,
    policy: HeaderValue,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let html = FRAME.replace("@style@", STYLE).replace("@script@", SCRIPT);
    // Nothing runs but what is written here, and nothing is asked but this server. The icon is empty.
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    let policy = HeaderValue::try_from(policy);
    let closed = || HeaderValue::from_static("default-src 'none'");
    Page { html: html.into(), policy: policy.unwrap_or_else(|_| closed()) }
});

/// A source of a Content Security Policy, level 2: what has this hash.
fn hash(text: &str) -> String {
    use base64::Engine as _;
    let hash = digest(&SHA256, text.as_bytes());
    format!("sha256-{}", base64::engine::general_purpose::STANDARD.encode(hash))
}

/// The page.
pub(super) fn html() -> Bytes {
    PAGE.html.clone()
}

/// The headers of everything that a browser gets.
pub(super) fn protect(headers: &mut HeaderMap) {
    headers.insert(CONTENT_SECURITY_POLICY, PAGE.policy.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let opener = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(opener, HeaderValue::from_static("same-origin"));
}

/// What a page that is asked too early answers.
pub(super) const STARTING: (StatusCode, &str) =
    (StatusCode::SERVICE_UNAVAILABLE, "the server is starting\n");
