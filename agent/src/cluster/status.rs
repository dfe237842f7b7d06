//! What the watches say of themselves, for readers on any thread: how fresh the store is, and what went wrong last.
//!
//! Every number here is behind a metric, a line of `nodens status` or a readiness check.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::object::{Kind, PerKind};
use super::spec::{Source, Wanted};
use crate::clock::CoarseInstant;

/// What an event said of its object; the `type` label of `nodens_kubernetes_events_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the type of its name in the watch protocol")]
pub enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
}

impl EventType {
    /// Every type.
    pub const ALL: [Self; 4] = [Self::Added, Self::Modified, Self::Deleted, Self::Bookmark];

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
            Self::Bookmark => "bookmark",
        }
    }
}

/// The state of a whole store.
pub struct Status {
    source: String,
    /// A folder, and not an API server.
    is_folder: bool,
    node: Option<Arc<str>>,
    kinds: PerKind<KindStatus>,
    received: AtomicU64,
    host: OnceLock<String>,
    requests: Mutex<BTreeMap<Code, u64>>,
    /// `coredns_kubernetes_rest_client_request_duration_seconds`.
    pub request_duration: Histogram<{ REQUEST_BUCKETS.len() }>,
    /// `coredns_kubernetes_dns_programming_duration_seconds{service_kind="headless_with_selector"}`: the kind that CoreDNS
    /// measures, since only these Services' answers follow their endpoints.
    pub programming: Histogram<{ PROGRAMMING_BUCKETS.len() }>,
    /// `coredns_kubernetes_rest_client_rate_limiter_duration_seconds`.
    pub limiter_duration: Histogram<{ REQUEST_BUCKETS.len() }>,
    /// `nodens_kubernetes_read_delay_seconds`; shared with the connections.
    pub read_delay: Arc<Histogram<{ READ_DELAY_BUCKETS.len() }>>,
    snapshot: AtomicU64,
    /// Why the last try to write one failed.
    snapshot_error: Mutex<Option<String>>,
    synced: watch::Sender<u32>,
}

/// The HTTP status of a response, or `None` where none came.
pub type Code = Option<u16>;

/// Upper bounds of the request histogram, in seconds: Prometheus' defaults, as in CoreDNS.
pub const REQUEST_BUCKETS: [f64; 11] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds of the programming latency, in seconds: CoreDNS's `ExponentialBuckets(0.001, 2, 20)`.
pub const PROGRAMMING_BUCKETS: [f64; 20] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096,
    8.192, 16.384, 32.768, 65.536, 131.072, 262.144, 524.288,
];

/// Upper bounds of the delay of reading, in seconds: from a read at once to what servers are no longer patient with.
pub const READ_DELAY_BUCKETS: [f64; 10] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0];

impl Status {
    /// Nothing is known yet of what is `wanted` of `source`.
    pub fn new(source: &Source, wanted: &Wanted) -> Self {
        let kinds = PerKind::new(|kind| {
            let wanted = wanted.includes(kind);
            KindStatus { wanted, ..KindStatus::default() }
        });
        Self {
            source: source.to_string(),
            is_folder: matches!(source, Source::Folder(_)),
            node: wanted.node.clone(),
            kinds,
            received: AtomicU64::new(0),
            host: OnceLock::new(),
            requests: Mutex::default(),
            request_duration: Histogram::new(REQUEST_BUCKETS),
            programming: Histogram::new(PROGRAMMING_BUCKETS),
            limiter_duration: Histogram::new(REQUEST_BUCKETS),
            read_delay: Arc::new(Histogram::new(READ_DELAY_BUCKETS)),
            snapshot: AtomicU64::new(0),
            snapshot_error: Mutex::default(),
            synced: watch::Sender::new(0),
        }
    }

    /// The node whose Pods are watched, if they are.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Where the objects come from, in the Corefile's words.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// True if an API server is watched.
    pub fn is_watched(&self) -> bool {
        !self.is_folder
    }

    /// The state of one kind.
    pub fn kind(&self, kind: Kind) -> &KindStatus {
        self.kinds.of(kind)
    }

    /// The kinds that are watched.
    pub fn wanted(&self) -> impl Iterator<Item = Kind> + '_ {
        Kind::ALL.into_iter().filter(|&kind| self.kind(kind).wanted)
    }

    /// Those without which answers may be wrong. Who a client is, and where this node is, makes none wrong.
    pub fn needed(&self) -> impl Iterator<Item = Kind> + '_ {
        self.wanted().filter(|&kind| !kind.is_of_node())
    }

    /// True once every kind has been listed completely, or a watch continues from the version of a snapshot.
    pub fn is_synced(&self) -> bool {
        self.needed().all(|kind| self.kind(kind).synced.load(Relaxed))
    }

    /// True if answers can be given: everything was listed, or a snapshot was loaded.
    pub fn is_known(&self) -> bool {
        self.snapshot_time().is_some() || self.is_synced()
    }

    /// True while every watch is established.
    pub fn is_live(&self) -> bool {
        self.needed().all(|kind| self.kind(kind).is_live())
    }

    /// How long ago the least recently heard kind was heard of; `None` where one never was.
    pub fn age(&self) -> Option<Duration> {
        self.needed()
            .map(|kind| self.kind_age(kind))
            .try_fold(Duration::ZERO, |age, kind| Some(age.max(kind?)))
    }

    /// `nodens_kubernetes_store_age_seconds{kind}`: the time since the last event or bookmark, or since the snapshot was
    /// written; `None` where nothing is known.
    pub fn kind_age(&self, kind: Kind) -> Option<Duration> {
        match self.kind(kind).heard.load(Relaxed) {
            0 => self
                .snapshot_time()
                .map(|at| SystemTime::now().duration_since(at).unwrap_or_default()),
            at => Some(Duration::from_millis(
                CoarseInstant::now().millis_since(CoarseInstant::from_millis(at)),
            )),
        }
    }

    /// When the snapshot was written that was loaded at start; `None` without one.
    pub fn snapshot_time(&self) -> Option<SystemTime> {
        match self.snapshot.load(Relaxed) {
            0 => None,
            at => Some(UNIX_EPOCH + Duration::from_millis(at)),
        }
    }

    /// The last error of any kind that is not live, with its kind.
    pub fn last_error(&self) -> Option<(Kind, String)> {
        self.wanted()
            .filter(|&kind| !self.kind(kind).is_live())
            .find_map(|kind| Some((kind, self.kind(kind).last_error()?)))
    }

    /// `nodens_kubernetes_received_bytes_total`: octets of response bodies.
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// The `host` label of the REST client's metrics; empty until the first request.
    pub fn host(&self) -> &str {
        self.host.get().map_or("", String::as_str)
    }

    /// `coredns_kubernetes_rest_client_requests_total` by code; the method is always GET.
    pub fn requests(&self) -> Vec<(Code, u64)> {
        lock(&self.requests).iter().map(|(&code, &count)| (code, count)).collect()
    }

    /// Waits until every kind has been listed, or `timeout` has passed; returns [`Self::is_synced`].
    pub async fn wait_synced(&self, timeout: Duration) -> bool {
        let all = self.needed().fold(0, |mask, kind| mask | bit(kind));
        let mut synced = self.synced.subscribe();
        tokio::time::timeout(timeout, synced.wait_for(|&mask| mask & all == all))
            .await
            .is_ok_and(|r| r.is_ok())
    }

    /// True while answers come from the snapshot of the last run, at least for some kind: until everything was listed.
    pub fn is_snapshot_in_use(&self) -> bool {
        self.snapshot_time().is_some() && !self.is_synced()
    }

    /// Why the snapshot cannot be written; `None` if it was, or is not wanted.
    pub fn snapshot_error(&self) -> Option<String> {
        lock(&self.snapshot_error).clone()
    }

    pub(super) fn note_snapshot_error(&self, error: Option<String>) {
        *lock(&self.snapshot_error) = error;
    }

    pub(super) fn note_received(&self, octets: usize) {
        self.received.fetch_add(octets as u64, Relaxed);
    }

    pub(super) fn note_host(&self, host: &str) {
        self.host.get_or_init(|| host.to_owned());
    }

    pub(super) fn note_request(&self, code: Code, took: Duration) {
        *lock(&self.requests).entry(code).or_default() += 1;
        self.request_duration.observe(took);
    }

    pub(super) fn note_snapshot(&self, millis: u64) {
        self.snapshot.store(millis.max(1), Relaxed);
    }

    pub(super) fn note_synced(&self, kind: Kind) {
        self.kind(kind).synced.store(true, Relaxed);
        self.synced.send_modify(|mask| *mask |= bit(kind));
    }
}

fn bit(kind: Kind) -> u32 {
    1 << kind as u32
}

/// The state of one kind's watch.
#[derive(Default)]
pub struct KindStatus {
    wanted: bool,
    synced: AtomicBool,
    live: AtomicBool,
    /// [`CoarseInstant`] in milliseconds; 0 for never.
    heard: AtomicU64,
    events: [AtomicU64; EventType::ALL.len()],
    relists: AtomicU64,
    errors: AtomicU64,
    skipped: AtomicU64,
    /// Grows with every change that was given to the sink.
    changes: AtomicU64,
    /// The version that the sink has come to, 0 for none. Never ahead of the sink: it is set after the event was applied.
    version: AtomicU64,
    last_error: Mutex<Option<String>>,
    /// That was the server's word on our credentials or rights.
    refused: AtomicBool,
}

impl KindStatus {
    /// True if this kind is watched.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// True once it has been listed completely, or its watch continues from the version of a snapshot.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Relaxed)
    }

    /// True while its watch is established: a change would be heard of. Of a kind that the server does not know, and
    /// that may be missing, while it says so.
    pub fn is_live(&self) -> bool {
        self.live.load(Relaxed)
    }

    /// `nodens_kubernetes_events_total`.
    pub fn events(&self, event: EventType) -> u64 {
        self.events.get(event as usize).map_or(0, |count| count.load(Relaxed))
    }

    /// `nodens_kubernetes_relists_total`: complete lists, the first included.
    pub fn relists(&self) -> u64 {
        self.relists.load(Relaxed)
    }

    /// `nodens_kubernetes_watch_errors_total`: lists and watches that failed.
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// `nodens_kubernetes_skipped_objects_total`.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Relaxed)
    }

    /// What went wrong last, until the watch is live again.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    /// True if the last error was the server's word on our credentials (401) or rights (403).
    pub fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// A number that differs whenever something may have changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// The version from which a watch continues without a gap; `None` before the first list.
    pub(super) fn version(&self) -> Option<u64> {
        Some(self.version.load(Acquire)).filter(|&version| version > 0)
    }

    pub(super) fn note_version(&self, version: u64) {
        self.version.store(version, Release);
    }

    pub(super) fn note_heard(&self) {
        self.heard.store(CoarseInstant::now().as_millis().max(1), Relaxed);
    }

    pub(super) fn note_live(&self, live: bool) {
        self.live.store(live, Relaxed);
        if live {
            *lock(&self.last_error) = None;
        }
    }

    pub(super) fn note_event(&self, event: EventType) {
        if let Some(count) = self.events.get(event as usize) {
            count.fetch_add(1, Relaxed);
        }
        self.note_heard();
    }

    pub(super) fn note_change(&self) {
        self.changes.fetch_add(1, Relaxed);
    }

    pub(super) fn note_relist(&self) {
        self.relists.fetch_add(1, Relaxed);
        self.note_heard();
    }

    pub(super) fn note_skipped(&self) {
        self.skipped.fetch_add(1, Relaxed);
    }

    pub(super) fn note_error(&self, error: String, is_refused: bool) {
        self.refused.store(is_refused, Relaxed);
        self.errors.fetch_add(1, Relaxed);
        self.note_live(false);
        *lock(&self.last_error) = Some(error);
    }
}

/// Counts of durations, added to by several tasks.
pub struct Histogram<const N: usize> {
    bounds: [f64; N],
    counts: [AtomicU64; N],
    over: AtomicU64,
    sum_micros: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    pub(super) fn new(bounds: [f64; N]) -> Self {
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        Self { bounds, counts, over: AtomicU64::new(0), sum_micros: AtomicU64::new(0) }
    }

    /// Adds one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.iter().zip(&self.counts).find(|(bound, _)| seconds <= **bound);
        bucket.map_or(&self.over, |(_, count)| count).fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(duration.as_micros() as u64, Relaxed);
    }

    /// Upper bounds in seconds with their counts, not summed up; the last stands for everything above.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounded = self
            .bounds
            .iter()
            .zip(&self.counts)
            .map(|(&bound, count)| (bound, count.load(Relaxed)));
        bounded.chain([(f64::MAX, self.over.load(Relaxed))]).collect()
    }

    /// The sum of all durations, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum_micros.load(Relaxed) as f64 / 1e6
    }

    /// How many durations there were.
    pub fn count(&self) -> u64 {
        self.buckets().iter().map(|&(_, count)| count).sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole at any moment.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_when_every_wanted_kind_is_synced() {
        let status = Status::new(&Source::InCluster, &Wanted::default());
        assert!(!status.wait_synced(Duration::from_secs(5)).await);
        for kind in [Kind::Service, Kind::EndpointSlice] {
            status.note_synced(kind);
        }
        assert!(!status.is_synced());
        assert!(!status.wait_synced(Duration::from_secs(5)).await);
        status.note_synced(Kind::Namespace);
        assert!(status.wait_synced(Duration::from_secs(5)).await);
        assert!(status.is_synced() && status.is_known());
    }

    #[test]
    fn age_is_that_of_the_oldest_kind() {
        let status = Status::new(&Source::InCluster, &Wanted::default());
        status.kind(Kind::Service).note_heard();
        assert_eq!(status.age(), None);
        status.note_snapshot(1);
        assert!(status.age() > Some(Duration::from_secs(1 << 30)));
        status.kind(Kind::Namespace).note_heard();
        status.kind(Kind::EndpointSlice).note_heard();
        assert!(status.age() < Some(Duration::from_secs(5)));
    }

    #[test]
    fn durations_are_counted_by_their_bounds() {
        let histogram = Histogram::new(REQUEST_BUCKETS);
        for millis in [1, 5, 6, 20_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let counts: Vec<u64> = histogram.buckets().into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(histogram.count(), 4);
    }
}
