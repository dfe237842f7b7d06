//! One request to one response.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::page::{self, Teller};
use super::pages::Pages;
use super::readiness::Readiness;
use crate::conditions::{Conditions, Holding, verdict};
use crate::metrics::{Format, Metrics};

const TEXT: &str = "text/plain; charset=utf-8";

/// What the pages are made of.
pub(super) struct State {
    pub(super) metrics: Arc<Metrics>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) conditions: Arc<Conditions>,
    pub(super) teller: Teller,
}

/// Answers a request to an address that serves `pages`. Never waits.
pub(super) fn respond<B>(
    request: &Request<B>,
    pages: Pages,
    state: &State,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let page = match path {
        "/metrics" => Pages::METRICS,
        "/health" => Pages::HEALTH,
        "/ready" => Pages::READY,
        "/" | "/status.json" | "/history.json" => Pages::PAGE,
        _ => return respond_with(StatusCode::NOT_FOUND, TEXT, "not found\n"),
    };
    if !pages.has(page) {
        return respond_with(StatusCode::NOT_FOUND, TEXT, format!("this address serves {pages}\n"));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response =
            respond_with(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match page {
        Pages::METRICS => {
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            let format = Format::accepted(accept.unwrap_or(""));
            respond_with(StatusCode::OK, format.content_type(), state.metrics.text(format))
        }
        // Readiness is another question: a restart brings neither API server nor upstreams back.
        Pages::HEALTH => match state.readiness.trouble() {
            None => respond_with(StatusCode::OK, TEXT, "OK"),
            Some(why) => respond_with(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        Pages::PAGE => for_people(path, state),
        _ => ready(request, state),
    }
}

/// The page, or the data that it draws.
fn for_people(path: &str, state: &State) -> Response<Full<Bytes>> {
    let mut response = match path {
        "/" => respond_with(StatusCode::OK, "text/html; charset=utf-8", page::html()),
        _ => match state.teller.json(path) {
            Some(json) => respond_with(StatusCode::OK, "application/json", json),
            None => respond_with(page::STARTING.0, TEXT, page::STARTING.1),
        },
    };
    page::protect(response.headers_mut());
    response
}

fn ready<B>(request: &Request<B>, state: &State) -> Response<Full<Bytes>> {
    let waits = state.readiness.waits();
    let status = if waits.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let wants_json = request
        .headers()
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json"));
    let verbose =
        request.uri().query().is_some_and(|query| query.split('&').any(|word| word == "verbose"));
    if wants_json || verbose {
        let holding = state.conditions.now();
        let body = serde_json::json!({
            "state": verdict(&holding),
            "conditions": holding.iter().map(Holding::to_json).collect::<Vec<_>>(),
            "ready": waits.is_empty(),
            "waits_for": waits,
            "details": state.readiness.details(),
        });
        return respond_with(status, "application/json", format!("{body:#}\n"));
    }
    if waits.is_empty() {
        return respond_with(status, TEXT, "OK");
    }
    let mut body = waits.join("\n");
    body.push('\n');
    respond_with(status, TEXT, body)
}

fn respond_with(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
