//! The points of the page's plots, of the last minutes of what is counted: `/history.json`.
//!
//! Each point is of the time between two samples; what was not measured then is null.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::clock::CoarseInstant;
use crate::history::{History, KEPT, Level, PERIOD, Span, Total};

/// Lines that are rates: their names, and what is counted.
type Rates<'a> = &'a [(&'static str, Total)];

const SOURCES: Rates<'_> = &[
    ("store", Total::FromStore),
    ("configured", Total::FromConfigured),
    ("cache", Total::FromCache),
    ("stale", Total::FromStale),
    ("upstream", Total::FromUpstream),
    ("server", Total::FromServer),
    ("dropped", Total::Dropped),
];
const RCODES: Rates<'_> = &[
    ("NOERROR", Total::NoError),
    ("NXDOMAIN", Total::NxDomain),
    ("SERVFAIL", Total::ServFail),
    ("REFUSED", Total::Refused),
];
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
const MEMORY: [(&str, Level); 4] = [
    ("resident", Level::Resident),
    ("limit", Level::MemoryLimit),
    ("cache", Level::CacheBytes),
    ("cache limit", Level::CacheLimit),
];

/// All points, the oldest first, with their ages. Seconds, octets, parts of one, and queries in a second.
pub fn points(history: &History) -> Value {
    let samples = history.samples();
    let later = samples.iter().skip(1);
    let spans: Vec<Span> =
        samples.iter().zip(later).map(|(from, to)| Span::new(*from, *to)).collect();
    let now = CoarseInstant::now();
    let age = |span: &Span| Some(now.millis_since(span.to.at) as f64 / 1e3);
    let quantiles = QUANTILES.map(|(name, part)| (name, line(&spans, |span| span.quantile(part))));
    json!({
        "period_seconds": PERIOD.as_secs(),
        "span_seconds": PERIOD.as_secs() * (KEPT as u64 - 1),
        "age_seconds": line(&spans, age),
        "series": {
            "sources": rates(&spans, SOURCES),
            "rcodes": rcodes(&spans),
            "latency": named(quantiles),
            "hit_rate": named([("cache", line(&spans, hit_rate))]),
            "upstreams": round_trips(history, &spans),
            "store_age": levels(&spans, &[("oldest kind", Level::StoreAge)]),
            "memory": levels(&spans, &MEMORY),
        },
    })
}

fn named<'a>(lines: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    lines.into_iter().map(|(name, line)| (name.to_owned(), line)).collect::<Map<_, _>>().into()
}

fn line(spans: &[Span], of: impl Fn(&Span) -> Option<f64>) -> Value {
    spans.iter().map(|span| point(of(span))).collect()
}

/// A number with four digits, which is more than a plot shows.
fn point(value: Option<f64>) -> Value {
    match value {
        None => Value::Null,
        Some(value) if value == 0.0 || !value.is_finite() => 0.into(),
        Some(value) => {
            let short: f64 = format!("{value:.3e}").parse().unwrap_or(value);
            if short.fract() == 0.0 && short.abs() < 1e15 {
                (short as i64).into()
            } else {
                short.into()
            }
        }
    }
}

/// Lines that were never above zero are left out, so that the others can be told apart.
fn rates(spans: &[Span], lines: Rates<'_>) -> Value {
    let seen = lines.iter().filter(|(_, total)| spans.iter().any(|span| span.increase(*total) > 0));
    named(seen.map(|(name, total)| (*name, line(spans, |span| Some(span.rate(*total))))))
}

fn rcodes(spans: &[Span]) -> Value {
    let others = |span: &Span| -> u64 {
        let known: u64 = RCODES.iter().map(|(_, total)| span.increase(*total)).sum();
        span.increase(Total::Responses).saturating_sub(known)
    };
    let mut all = rates(spans, RCODES);
    if spans.iter().any(|span| others(span) > 0)
        && let Value::Object(lines) = &mut all
    {
        let rate = |span: &Span| Some(others(span) as f64 / span.seconds());
        lines.insert("others".to_owned(), line(spans, rate));
    }
    all
}

fn levels(spans: &[Span], lines: &[(&'static str, Level)]) -> Value {
    let seen =
        lines.iter().filter(|(_, level)| spans.iter().any(|span| span.to.level(*level) > 0.0));
    named(seen.map(|(name, level)| (*name, line(spans, |span| Some(span.to.level(*level))))))
}

/// The part of the cache's look-ups that found something; unknown without any.
fn hit_rate(span: &Span) -> Option<f64> {
    let hits = span.increase(Total::CacheHits);
    let all = hits + span.increase(Total::CacheMisses);
    (all > 0).then(|| hits as f64 / all as f64)
}

/// The mean round trip of each upstream; unknown where it gave no answer.
fn round_trips(history: &History, spans: &[Span]) -> Value {
    let mut lines: BTreeMap<u32, Vec<Option<f64>>> = BTreeMap::new();
    for (place, span) in spans.iter().enumerate() {
        for one in span.upstreams().filter(|one| one.answers > 0) {
            let line = lines.entry(one.number).or_insert_with(|| vec![None; spans.len()]);
            if let Some(point) = line.get_mut(place) {
                *point = Some(one.micros as f64 / 1e6 / one.answers as f64);
            }
        }
    }
    let line = |(number, points): (u32, Vec<Option<f64>>)| -> Option<(String, Value)> {
        let to = history.upstream(number)?;
        Some((to.into(), points.into_iter().map(point).collect()))
    };
    lines.into_iter().filter_map(line).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_short() {
        assert_eq!(point(None), Value::Null);
        assert_eq!(point(Some(0.0)), json!(0));
        assert_eq!(point(Some(0.000_123_456)), json!(0.000_123_5));
        assert_eq!(point(Some(123_456_789.0)), json!(123_500_000));
        assert_eq!(point(Some(f64::NAN)), json!(0));
    }

    #[test]
    fn before_the_first_samples_there_are_no_points() {
        let all = points(&History::default());
        assert_eq!((&all["age_seconds"], &all["span_seconds"]), (&json!([]), &json!(900)));
        assert_eq!(all["series"]["latency"], json!({ "p50": [], "p90": [], "p99": [] }));
    }
}
