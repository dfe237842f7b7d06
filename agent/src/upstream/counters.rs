//! What is counted of one upstream, for each worker apart.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::metrics::cells::{Cell, DURATION_BUCKETS, Histogram, duration_bucket};
use crate::upstream::question::Unexpected;
use crate::wire::Rcode;

/// Response codes whose durations are counted apart; the last stands for all others.
pub const RCODES: [Rcode; 6] = [
    Rcode::NOERROR,
    Rcode::NXDOMAIN,
    Rcode::SERVFAIL,
    Rcode::REFUSED,
    Rcode::FORMERR,
    Rcode::NOTIMP,
];

/// One worker's counters for one upstream. Only that worker adds to the cells; anybody may add to the rest.
#[derive(Default)]
pub struct Counters {
    /// `coredns_proxy_request_duration_seconds` by [`RCODES`], and one more for all other codes; sums in microseconds.
    pub durations: [Histogram<{ DURATION_BUCKETS.len() }>; RCODES.len() + 1],
    /// `coredns_proxy_conn_cache_hits_total{proto="udp"}`.
    pub udp_hits: Cell,
    /// `coredns_proxy_conn_cache_misses_total{proto="udp"}`.
    pub udp_misses: Cell,
    /// `coredns_proxy_conn_cache_hits_total` of streams: `tcp`, `tcp-tls`, `https`, `quic`.
    pub stream_hits: Cell,
    /// `coredns_proxy_conn_cache_misses_total` of streams.
    pub stream_misses: Cell,
    /// `nodens_forward_timeouts_total`: tries that had no answer in time.
    pub timeouts: Cell,
    /// `nodens_forward_errors_total`: tries that failed otherwise.
    pub errors: Cell,
    /// `nodens_forward_hedges_total`: second tries because this upstream was later than usual.
    pub hedges: Cell,
    /// `nodens_forward_truncated_total`: answers over UDP that were asked for again over TCP.
    pub truncated: Cell,
    unexpected: [AtomicU64; Unexpected::ALL.len()],
}

impl Counters {
    /// Counts an answer.
    pub fn answered(&self, rcode: Rcode, took: Duration) {
        let code = RCODES.iter().position(|&known| known == rcode).unwrap_or(RCODES.len());
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(durations) = self.durations.get(code) {
            durations.add(duration_bucket(micros), micros);
        }
    }

    /// Counts what came from the upstream's address and answers nothing.
    pub fn unexpected(&self, why: Unexpected) {
        if let Some(count) = self.unexpected.get(why as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// `nodens_forward_unexpected_answers_total{reason}`.
    pub fn unexpected_count(&self, why: Unexpected) -> u64 {
        self.unexpected.get(why as usize).map_or(0, |count| count.load(Relaxed))
    }
}
