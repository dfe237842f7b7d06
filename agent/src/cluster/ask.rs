//! Single requests to an API server, for commands that look once: the same credentials, authorities and client as the
//! watches have, with a shorter patience.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{ACCEPT, DATE};
use http::{HeaderValue, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;

use super::client::{RequestError, build, plain, refusal};
use super::credentials::{ClientError, Stamps, settings, setup_reason};
use super::object::Kind;
use super::request::Requests;
use super::spec::{Source, Spec, Timing};
use super::status::{Histogram, READ_DELAY_BUCKETS};

/// The most that is read of one answer, in octets.
const MAX_BODY: usize = 32 << 20;

/// A client for a few requests.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
    host: String,
    patience: Duration,
    leaf: Option<Vec<u8>>,
}

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    /// The object, or null where the body was not read.
    pub body: Value,
    /// The server's clock, to the second.
    pub date: Option<SystemTime>,
}

impl Api {
    /// Reads credentials and authorities of `source`, and runs a credential plugin if there is one. Nothing is sent yet. To be
    /// called within a runtime.
    ///
    /// # Errors
    /// They cannot be used.
    pub async fn new(source: Source, patience: Duration) -> Result<Self, ClientError> {
        let settings = settings(&source, &mut Stamps::default())?;
        let url = settings.config.cluster_url.clone();
        let host = url.authority().map_or_else(String::new, ToString::to_string);
        let leaf = settings.leaf.clone();
        let timing = Timing { connect: patience, read: patience, ..Timing::default() };
        let config = settings.config.clone();
        let made = tokio::task::spawn_blocking(move || {
            build(settings, timing, Arc::new(Histogram::new(READ_DELAY_BUCKETS)))
                .map_err(|error| setup_reason(&error, &config))
        });
        let made = made.await.unwrap_or_else(|error| Err(error.to_string()));
        let client = made.map_err(|reason| ClientError::Setup { url: url.to_string(), reason })?;
        Ok(Self { client, host, patience, leaf })
    }

    /// The server's address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The client certificate in DER, if it has one.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.leaf.as_deref()
    }

    /// Gets a path with its query, as JSON.
    ///
    /// # Errors
    /// No answer, one that is no JSON, or another status than 200.
    pub async fn get(&self, path: &str) -> Result<Answer, RequestError> {
        let reply = self.send(path).await?;
        let date = date(&reply);
        let body = http_body_util::Limited::new(reply.into_body(), MAX_BODY).collect();
        let body = tokio::time::timeout(self.patience, body).await;
        let body = body.map_err(|_| RequestError::Silent(self.patience))?;
        let body = body.map_err(|error| self.unreachable(error.to_string()))?.to_bytes();
        let body = serde_json::from_slice(&body)
            .map_err(|error| self.unreachable(format!("the answer is no JSON: {error}")))?;
        Ok(Answer { body, date })
    }

    /// Asks, and reads the head of the answer only: for watches.
    ///
    /// # Errors
    /// No answer, or another status than 200.
    pub async fn head(&self, path: &str) -> Result<Answer, RequestError> {
        let reply = self.send(path).await?;
        Ok(Answer { body: Value::Null, date: date(&reply) })
    }

    async fn send(&self, path: &str) -> Result<http::Response<Body>, RequestError> {
        let request = Request::get(path)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .body(Body::empty())
            .map_err(|error| self.unreachable(error.to_string()))?;
        match tokio::time::timeout(self.patience, self.client.send(request)).await {
            Err(_) => Err(RequestError::Silent(self.patience)),
            Ok(Err(error)) => Err(self.unreachable(plain(&error))),
            Ok(Ok(reply)) if reply.status().is_success() => Ok(reply),
            Ok(Ok(reply)) => Err(refusal(reply, self.patience).await),
        }
    }

    fn unreachable(&self, reason: String) -> RequestError {
        RequestError::Unreachable { server: self.host.clone(), reason }
    }
}

impl Spec {
    /// The path, with selectors, at which objects of `kind` are listed and watched.
    pub fn path(&self, kind: Kind) -> String {
        Requests::new(kind, &self.wanted).path()
    }

    /// What of RBAC that is: the resource, its API group, and the namespace if it is only one.
    pub fn resource(&self, kind: Kind) -> String {
        let requests = Requests::new(kind, &self.wanted);
        let rule = requests.rule();
        rule.split_once(" on resource ").map_or(rule, |(_, resource)| resource).to_owned()
    }
}

/// `Date`, as RFC 9110 section 5.6.7 prefers it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(reply: &http::Response<Body>) -> Option<SystemTime> {
    parse_date(reply.headers().get(DATE)?.to_str().ok()?)
}

fn parse_date(text: &str) -> Option<SystemTime> {
    let date = k8s_openapi::jiff::fmt::rfc2822::parse(text).ok()?;
    Some(date.timestamp().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        let seconds = |text| {
            Some(parse_date(text)?.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        };
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Thu, 29 Feb 2024 12:34:56 GMT"), Some(1_709_210_096));
        for bad in ["", "Sun, 06", "Sun, 06 Foo 1994 08:49:37 GMT"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
