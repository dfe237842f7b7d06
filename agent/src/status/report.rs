//! The status as JSON. `docs/status.md` is its schema, and a test holds them together.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value, json};

use super::{Network, Running, Status};
use crate::admin;
use crate::conditions::{Holding, verdict};
use crate::detail::Detail;
use crate::history::{Level, Span, Total};
use crate::version;

/// Grows when a field changes its meaning or goes; new ones do not count.
const SCHEMA: u32 = 1;
/// Rates are those of so many seconds.
const MINUTE: u64 = 60;

/// Everything of a server that runs.
pub(super) fn report(status: &Status, running: &Running) -> Value {
    let parts = &status.parts;
    let shared = &parts.shared;
    let holding = shared.conditions.now();
    let waits = parts.readiness.waits();
    let (failed, why) = parts.handovers.failures();
    let span = shared.history.before(shared.history.sample(&shared.metrics), MINUTE);
    let mut details = admin::gather(running.details.iter());
    let mut taken = |name: &str| details.get_mut(name).map_or(json!([]), Value::take);
    let (sources, forwards) = (taken("kubernetes"), taken("forward"));
    json!({
        "schema": SCHEMA,
        "state": verdict(&holding),
        "conditions": holding.iter().map(Holding::to_json).collect::<Vec<_>>(),
        "version": version::VERSION,
        "revision": version::revision(),
        "build": version::build(),
        "pid": std::process::id(),
        "uptime_seconds": status.begun.elapsed().as_secs(),
        "workers": shared.workers,
        "addresses": running.listeners.keys().map(ToString::to_string).collect::<Vec<_>>(),
        "encrypted": running.encrypted,
        "ready": waits.is_empty(),
        "waiting": waits,
        "stalled": parts.readiness.trouble(),
        "configuration": configuration(status),
        "refused_configuration": parts.config.problem(),
        "sources": sources,
        "upstreams": upstreams(status, &forwards, &span),
        "forwards": forwards,
        "blocks": running.blocks,
        "cache": cache(status, &span),
        "clients": clients(&span),
        "network": network(&parts.network),
        "supervisor": parts.supervisor.as_ref().map(|_| std::os::unix::process::parent_id()),
        "can_hand_over": status.can_hand_over.load(Relaxed),
        "restarts": parts.handovers.restarts(),
        "failed_takeovers": failed,
        "last_failed_takeover": why,
        "memory": shared.budget.to_json(),
        "last_minute": rates(&span),
    })
}

fn configuration(status: &Status) -> Value {
    let mut value = status.parts.config.detail();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("file".to_owned(), status.parts.file.display().to_string().into());
    }
    value
}

fn rates(span: &Span) -> Value {
    let rate = |total| rounded(span.rate(total), 10.0);
    let sum =
        |totals: &[Total]| rounded(totals.iter().map(|total| span.rate(*total)).sum::<f64>(), 10.0);
    let known = [Total::NoError, Total::NxDomain, Total::ServFail, Total::Refused];
    let other =
        span.rate(Total::Responses) - known.map(|total| span.rate(total)).iter().sum::<f64>();
    let millis = |part| span.quantile(part).map(|seconds| rounded(seconds * 1e3, 100.0));
    json!({
        "seconds": rounded(span.seconds(), 10.0),
        // Our own questions to ourselves do not count.
        "queries_per_second": rounded(
            (span.rate(Total::ReceivedUdp) + span.rate(Total::ReceivedTcp)
                - span.rate(Total::FromProbe)).max(0.0),
            10.0,
        ),
        "udp_per_second": rounded((span.rate(Total::ReceivedUdp) - span.rate(Total::FromProbe)).max(0.0), 10.0),
        "tcp_per_second": rate(Total::ReceivedTcp),
        "answered_per_second": {
            "store": rate(Total::FromStore),
            "configured": rate(Total::FromConfigured),
            "cache": rate(Total::FromCache),
            "stale": rate(Total::FromStale),
            "upstream": rate(Total::FromUpstream),
            "server": rate(Total::FromServer),
        },
        "dropped_per_second": sum(&[Total::Dropped]),
        "rcodes_per_second": {
            "NOERROR": rate(Total::NoError),
            "NXDOMAIN": rate(Total::NxDomain),
            "SERVFAIL": rate(Total::ServFail),
            "REFUSED": rate(Total::Refused),
            "other": rounded(other.max(0.0), 10.0),
        },
        "latency_ms": { "p50": millis(0.5), "p90": millis(0.9), "p99": millis(0.99) },
        "cache_hit_percent": hit_percent(span),
    })
}

fn hit_percent(span: &Span) -> Option<f64> {
    let (hits, misses) = (span.increase(Total::CacheHits), span.increase(Total::CacheMisses));
    percent(hits, hits + misses)
}

fn cache(status: &Status, span: &Span) -> Value {
    let store = status.parts.shared.cache.load();
    json!({
        "entries": span.to.level(Level::CacheEntries),
        "bytes": store.weight(),
        "limit_bytes": store.limit(),
        "hit_percent": hit_percent(span),
    })
}

fn clients(span: &Span) -> Value {
    json!({
        "waiting": span.to.level(Level::Waiting),
        "tcp_connections": span.to.level(Level::TcpConnections),
        "limited": span.increase(Total::Limited),
        "tcp_refused": span.increase(Total::TcpRefused),
        "dropped": span.increase(Total::Overflow),
    })
}

fn network(network: &Network) -> Value {
    if network.link.is_none() && network.addresses.is_empty() {
        return Value::Null;
    }
    json!({
        "interface": network.link,
        "addresses": network.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "broken": network.counts.broken(),
        "repairs": network.counts.repaired(),
    })
}

/// Each upstream once, however many forwards ask it: set aside if one of them has set it aside.
fn upstreams(status: &Status, forwards: &Value, span: &Span) -> Value {
    let history = &status.parts.shared.history;
    let counted: BTreeMap<_, _> = span
        .upstreams()
        .filter_map(|totals| Some((history.upstream(totals.number)?, totals)))
        .collect();
    // Of more upstreams than are counted none has a known part of all.
    let told = forwards.as_array().into_iter().flatten();
    let told = told.flat_map(|forward| forward["upstreams"].as_array().into_iter().flatten());
    let all_are_counted =
        told.filter_map(|told| told["to"].as_str()).all(|to| counted.contains_key(to));
    let all: u64 = if all_are_counted { counted.values().map(|t| t.answers).sum() } else { 0 };
    let mut found: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for forward in forwards.as_array().into_iter().flatten() {
        for told in forward["upstreams"].as_array().into_iter().flatten() {
            let (Some(to), Some(fields)) = (told["to"].as_str(), told.as_object()) else {
                continue;
            };
            let known = found.entry(to.to_owned()).or_insert_with(|| {
                let mut fields = fields.clone();
                let totals = counted.get(to);
                let per_second = |count: u64| rounded(count as f64 / span.seconds(), 10.0);
                let share = totals.and_then(|totals| percent(totals.answers, all));
                let answers = totals.map(|totals| per_second(totals.answers));
                let failures = totals.map(|totals| per_second(totals.failures));
                fields.insert("share_percent".to_owned(), share.into());
                fields.insert("answers_per_second".to_owned(), answers.into());
                fields.insert("failures_per_second".to_owned(), failures.into());
                fields.insert("from".to_owned(), json!([]));
                fields
            });
            // Set aside by one counts, and so does an answer to one.
            let state = told["state"].as_str().unwrap_or_default();
            let is_new = known.get("state").is_some_and(|known| known == "not asked yet");
            if state.starts_with("set aside") || is_new {
                known.insert("state".to_owned(), state.into());
            }
            if let Some(Value::Array(from)) = known.get_mut("from") {
                let more = forward["from"].as_array().into_iter().flatten();
                let more: Vec<_> = more.filter(|zone| !from.contains(zone)).cloned().collect();
                from.extend(more);
            }
        }
    }
    found.into_values().map(Value::Object).collect()
}

/// One decimal; `None` without any.
fn percent(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| rounded(100.0 * part as f64 / all as f64, 10.0))
}

fn rounded(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}
