//! The counters of the hot path. Each worker has a set of its own for each server block and is the only one to write it, so
//! that counting is a load, an add and a store; a scrape sums them up.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::request::{CacheUse, Outcome, Plugin, Request, Transport};
use crate::wire::RecordType;

/// Values of the `type` label, as in CoreDNS; the last stands for every other type.
pub const TYPES: [&str; 19] = [
    "A", "AAAA", "MX", "SOA", "CNAME", "PTR", "TXT", "NS", "SRV", "DS", "DNSKEY", "RRSIG", "NSEC",
    "NSEC3", "HTTPS", "IXFR", "AXFR", "ANY", "other",
];

/// Upper bounds of the duration histogram, in seconds: CoreDNS's `ExponentialBuckets(0.00025, 2, 16)`.
pub const DURATION_BUCKETS: [f64; 16] = [
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024,
    2.048, 4.096, 8.192,
];

/// Upper bounds of the size histograms, in octets, as in CoreDNS.
pub const SIZE_BUCKETS: [f64; 14] = [
    0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16e3, 32e3, 48e3, 64e3,
];

/// Upper bounds of the time in a socket's queue, in seconds: from a wake-up to a tenth of a second, in which a queue overflows.
pub const QUEUE_BUCKETS: [f64; 12] =
    [25e-6, 5e-5, 1e-4, 2.5e-4, 5e-4, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1];

/// Response codes that are counted apart; the last slot stands for every other.
pub const RCODES: usize = 25;

/// A number that one worker writes and others read.
#[derive(Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `n`. Only the owner may: two writers would lose counts.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// What it holds.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts of values by size. The last count is for what exceeds every bound.
pub struct Histogram<const N: usize> {
    /// Counts, not summed up.
    pub buckets: [Cell; N],
    /// Values above the last bound.
    pub over: Cell,
    /// The sum of all values, in the unit that was added.
    pub sum: Cell,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Cell::default()),
            over: Cell::default(),
            sum: Cell::default(),
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts `value` in `bucket`, or above the last where there is no such bucket. Only the owner may.
    pub fn add(&self, bucket: usize, value: u64) {
        self.buckets.get(bucket).unwrap_or(&self.over).add(1);
        self.sum.add(value);
    }

    /// Adds up several: how many values are in each bucket and above the last, and the sum of all values.
    pub fn total<'a>(all: impl Iterator<Item = &'a Self>) -> (Vec<u64>, u64) {
        let mut counts = vec![0; N + 1];
        let mut sum = 0;
        for histogram in all {
            let cells = histogram.buckets.iter().chain([&histogram.over]);
            counts.iter_mut().zip(cells).for_each(|(count, cell)| *count += cell.value());
            sum += histogram.sum.value();
        }
        (counts, sum)
    }
}

/// What is counted of one transport's queries.
#[derive(Default)]
pub struct ProtoCells {
    /// `coredns_dns_requests_total` by family (IPv4, IPv6) and [`TYPES`].
    pub requests: [[Cell; TYPES.len()]; 2],
    /// `coredns_dns_request_size_bytes`.
    pub request_size: Histogram<{ SIZE_BUCKETS.len() }>,
    /// `coredns_dns_response_size_bytes`.
    pub response_size: Histogram<{ SIZE_BUCKETS.len() }>,
}

/// What one worker counts of all messages, whatever server block they belong to. With what the blocks count it adds up: each
/// message that is received is answered, dropped, or waits.
#[derive(Default)]
pub struct Tally {
    /// `nodens_received_total`: UDP, TCP.
    pub received: [Cell; 2],
    /// Replies that no server block has made: FORMERR and the like.
    pub rejected: Cell,
    /// Replies to STATUS queries: those by which the server asks itself whether it answers.
    pub probes: Cell,
    /// Messages that are no query, or a response: they get no reply.
    pub malformed: Cell,
    /// Messages over which a bug was caught before any block had counted them.
    pub panicked: Cell,
    /// `nodens_udp_queue_seconds`, of a sample; the sum is in nanoseconds.
    pub queue: Histogram<{ QUEUE_BUCKETS.len() }>,
    /// A message is received and not counted in any other way yet.
    open: AtomicBool,
}

impl Tally {
    /// A message is received.
    pub fn receive(&self, transport: Transport) {
        let [udp, tcp] = &self.received;
        match transport {
            Transport::Udp => udp.add(1),
            Transport::Tcp => tcp.add(1),
        }
        self.open.store(true, Relaxed);
    }

    /// A query of the sample was in a socket's queue for so long.
    pub fn waited(&self, time: Duration) {
        let bucket = QUEUE_BUCKETS.iter().position(|&bound| time.as_secs_f64() <= bound);
        self.queue.add(bucket.unwrap_or(QUEUE_BUCKETS.len()), time.as_nanos() as u64);
    }

    /// It is counted: by a block, or by a query that waits.
    pub fn close(&self) {
        self.open.store(false, Relaxed);
    }

    /// A bug was caught: counts the message, unless it is counted already.
    pub fn caught(&self) {
        if self.open.swap(false, Relaxed) {
            self.panicked.add(1);
        }
    }
}

/// One worker's counters for one server block.
#[derive(Default)]
pub struct Cells {
    /// UDP, TCP.
    pub proto: [ProtoCells; 2],
    /// `coredns_dns_request_duration_seconds`; the sum is in microseconds.
    pub duration: Histogram<{ DURATION_BUCKETS.len() }>,
    /// `coredns_dns_do_requests_total`.
    pub dnssec_ok: Cell,
    /// `coredns_dns_responses_total` by plugin and response code.
    pub responses: [[Cell; RCODES]; Plugin::ALL.len()],
    /// Queries that a plugin has left without a reply (`acl`, `limit`), by plugin.
    pub silent: [Cell; Plugin::ALL.len()],
    /// Queries that waited and got no reply, since their client or the server was about to go, or by a bug: the second.
    pub lost: [Cell; 2],
    /// `coredns_autopath_success_total`.
    pub searched: Cell,
    /// `coredns_cache_hits_total{type="success"}`.
    pub cache_success: Cell,
    /// `coredns_cache_hits_total{type="denial"}`.
    pub cache_denial: Cell,
    /// `coredns_cache_misses_total`.
    pub cache_misses: Cell,
    /// `coredns_cache_served_stale_total`.
    pub cache_stale: Cell,
}

impl Cells {
    /// Records a finished query: the only place where one is counted. `micros` is the time it took; zero for one that was
    /// answered within its batch.
    pub fn record(&self, request: &Request<'_>, outcome: &Outcome, reply_len: usize, micros: u64) {
        let proto = match request.origin.transport {
            Transport::Udp => &self.proto[0],
            Transport::Tcp => &self.proto[1],
        };
        let family = match request.origin.client.ip() {
            IpAddr::V4(_) => &proto.requests[0],
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => &proto.requests[0],
            IpAddr::V6(_) => &proto.requests[1],
        };
        if let Some(cell) = family.get(type_index(request.query.qtype())) {
            cell.add(1);
        }
        let size = request.query.packet().len();
        proto.request_size.add(size_bucket(size), size as u64);
        if request.query.dnssec_ok() {
            self.dnssec_ok.add(1);
        }
        match outcome.cache {
            CacheUse::Not => {}
            CacheUse::Success => self.cache_success.add(1),
            CacheUse::Denial => self.cache_denial.add(1),
            CacheUse::Miss => self.cache_misses.add(1),
            CacheUse::Stale => self.cache_stale.add(1),
        }
        self.duration.add(duration_bucket(micros), micros);
        if outcome.silent {
            if let Some(cell) = self.silent.get(outcome.plugin as usize) {
                cell.add(1);
            }
            return;
        }
        proto.response_size.add(size_bucket(reply_len), reply_len as u64);
        let rcode = usize::from(outcome.rcode.0).min(RCODES - 1);
        if let Some(cell) =
            self.responses.get(outcome.plugin as usize).and_then(|codes| codes.get(rcode))
        {
            cell.add(1);
        }
    }
}

fn type_index(qtype: RecordType) -> usize {
    match qtype.0 {
        1 => 0,
        28 => 1,
        15 => 2,
        6 => 3,
        5 => 4,
        12 => 5,
        16 => 6,
        2 => 7,
        33 => 8,
        43 => 9,
        48 => 10,
        46 => 11,
        47 => 12,
        50 => 13,
        65 => 14,
        251 => 15,
        252 => 16,
        255 => 17,
        _ => 18,
    }
}

fn size_bucket(size: usize) -> usize {
    SIZE_BUCKETS.iter().position(|&bound| size as f64 <= bound).unwrap_or(SIZE_BUCKETS.len())
}

/// The place of a duration in [`DURATION_BUCKETS`]; their number for one above the last.
pub fn duration_bucket(micros: u64) -> usize {
    // Each bound is twice the one before, from 250 us on.
    let steps = micros.div_ceil(250).max(1);
    (u64::BITS - (steps - 1).leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_buckets_of_their_bounds() {
        for micros in [0, 1, 250, 251, 500, 501, 1_000, 8_192_000, 8_192_001, u64::MAX / 2] {
            let expected =
                DURATION_BUCKETS.iter().position(|&b| micros as f64 <= b * 1e6).unwrap_or(16);
            assert_eq!(duration_bucket(micros).min(16), expected, "{micros}");
        }
    }

    #[test]
    fn sizes_fall_into_the_buckets_of_their_bounds() {
        assert_eq!(
            (size_bucket(0), size_bucket(1), size_bucket(100), size_bucket(101)),
            (0, 1, 1, 2)
        );
        assert_eq!(size_bucket(65_000), SIZE_BUCKETS.len());
    }
}
