//! What a forward hands in when it is scraped.

use super::Forward;
use crate::metrics::cells::DURATION_BUCKETS;
use crate::metrics::{Scrape, Source, names};
use crate::upstream::Upstream;
use crate::upstream::counters::{Counters, RCODES};
use crate::upstream::question::Unexpected;

/// The `proxy_name` label: which plugin talks to upstreams.
const PROXY: &str = "forward";

impl Source for Forward {
    fn collect(&self, out: &mut Scrape) {
        out.count(&names::FORWARD_HEALTHCHECK_BROKEN, &[], self.broken.value());
        out.count(&names::FORWARD_MAX_CONCURRENT_REJECTS, &[], self.limits.rejected.value());
        out.count(&names::FORWARD_SHARE_REJECTS, &[], self.limits.share_rejected.value());
        for upstream in &self.set.load().upstreams {
            collect(upstream, out);
            if self.context.loops.is_some() {
                let looping = f64::from(u8::from(upstream.health.is_looping()));
                out.gauge_greatest(&names::LOOP_UPSTREAM, &[upstream.label()], looping);
            }
        }
    }
}

fn collect(upstream: &Upstream, out: &mut Scrape) {
    let to: &str = upstream.label();
    let sum = |count: &dyn Fn(&Counters) -> u64| upstream.all_counters().map(count).sum::<u64>();
    for (code, rcode) in RCODES.iter().map(|code| code.name()).chain([None]).enumerate() {
        let durations =
            || upstream.all_counters().filter_map(|counters| counters.durations.get(code));
        let mut counts: Vec<u64> = (0..DURATION_BUCKETS.len())
            .map(|bucket| {
                durations().filter_map(|d| d.buckets.get(bucket)).map(|cell| cell.value()).sum()
            })
            .collect();
        counts.push(durations().map(|d| d.over.value()).sum());
        if counts.iter().all(|&count| count == 0) {
            continue;
        }
        let seconds = durations().map(|d| d.sum.value()).sum::<u64>() as f64 / 1e6;
        let labels = [PROXY, to, rcode.unwrap_or("other")];
        out.histogram(&names::PROXY_REQUEST_DURATION, &labels, &DURATION_BUCKETS, counts, seconds);
    }
    let failures = upstream.probe_failures.load(std::sync::atomic::Ordering::Relaxed);
    // A probe fails for want of an answer: there is no code to tell.
    out.count(&names::PROXY_HEALTHCHECK_FAILURES, &[PROXY, to, ""], failures);
    let stream = upstream.target().scheme.stream_label();
    for (proto, hits, misses) in [
        ("udp", sum(&|c| c.udp_hits.value()), sum(&|c| c.udp_misses.value())),
        (stream, sum(&|c| c.stream_hits.value()), sum(&|c| c.stream_misses.value())),
    ] {
        out.count(&names::PROXY_CONN_CACHE_HITS, &[PROXY, to, proto], hits);
        out.count(&names::PROXY_CONN_CACHE_MISSES, &[PROXY, to, proto], misses);
    }
    for why in Unexpected::ALL {
        let count = sum(&|counters| counters.unexpected_count(why));
        out.count(&names::FORWARD_UNEXPECTED_ANSWERS, &[to, why.label()], count);
    }
    out.count(&names::FORWARD_TIMEOUTS, &[to], sum(&|c| c.timeouts.value()));
    out.count(&names::FORWARD_ERRORS, &[to], sum(&|c| c.errors.value()));
    out.count(&names::FORWARD_HEDGES, &[to], sum(&|c| c.hedges.value()));
    out.count(&names::FORWARD_TRUNCATED, &[to], sum(&|c| c.truncated.value()));
    // Several server blocks may name one upstream: it is up if none of them has set it aside.
    let up = !upstream.health.is_down() && !upstream.health.is_looping();
    out.gauge_least(&names::FORWARD_UPSTREAM_UP, &[to], f64::from(u8::from(up)));
}
