//! The last minutes of what is counted: a ring of samples, from which rates are told (`nodens status`), plots are drawn (the
//! page) and conditions are judged that consist of events.
//!
//! A sample is taken of the same numbers that `/metrics` shows, every [`PERIOD`], on the control runtime. The memory is fixed:
//! [`KEPT`] samples of about 1 KiB.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::CoarseInstant;
use crate::metrics::cells::DURATION_BUCKETS;
use crate::metrics::{Family, Metrics, Scrape, names};

/// Between two samples.
pub const PERIOD: Duration = Duration::from_secs(5);
/// Samples that are kept: 15 minutes.
pub const KEPT: usize = 181;
/// Upstreams of which totals are kept; of more the first by name.
pub const MAX_UPSTREAMS: usize = 16;
/// Counts of the latency histogram: one for each bound, and one for what exceeds them.
pub const LATENCIES: usize = DURATION_BUCKETS.len() + 1;

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident: $type:ty { $($ident:ident = $family:ident [$($label:literal),*] $how:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is the family of its line, of series with these labels")]
        pub enum $name {
            $($ident,)*
        }

        impl $name {
            /// Every one, in the order of their places in a sample.
            pub const ALL: [Self; [$(stringify!($ident)),*].len()] = [$(Self::$ident),*];

            fn of(self, scrape: &Scrape) -> $type {
                match self {
                    $(Self::$ident => $how(scrape, &names::$family, &[$($label),*]) as $type,)*
                }
            }
        }
    };
}

numbers! {
    /// What only grows. Series without these labels do not count; without labels here, all do.
    Total: u64 {
        ReceivedUdp = RECEIVED ["udp"] sum,
        ReceivedTcp = RECEIVED ["tcp"] sum,
        FromStore = ANSWERED ["store"] sum,
        FromConfigured = ANSWERED ["configured"] sum,
        FromCache = ANSWERED ["cache"] sum,
        FromStale = ANSWERED ["stale"] sum,
        FromUpstream = ANSWERED ["upstream"] sum,
        FromServer = ANSWERED ["server"] sum,
        FromProbe = ANSWERED ["probe"] sum,
        Dropped = DROPPED [] sum,
        NoError = DNS_RESPONSES ["NOERROR"] sum,
        NxDomain = DNS_RESPONSES ["NXDOMAIN"] sum,
        ServFail = DNS_RESPONSES ["SERVFAIL"] sum,
        Refused = DNS_RESPONSES ["REFUSED"] sum,
        Responses = DNS_RESPONSES [] sum,
        CacheHits = CACHE_HITS [] sum,
        CacheMisses = CACHE_MISSES [] sum,
        Panics = PANICS [] sum,
        Skipped = KUBERNETES_SKIPPED_OBJECTS [] sum,
        Events = KUBERNETES_EVENTS [] sum,
        Repairs = NETSETUP_REPAIRS [] sum,
        LogDropped = LOG_DROPPED [] sum,
        Overflow = WAITING_OVERFLOW [] sum,
        ConcurrentRejects = FORWARD_MAX_CONCURRENT_REJECTS [] sum,
        ShareRejects = FORWARD_SHARE_REJECTS [] sum,
        Limited = LIMIT_REQUESTS [] sum,
        Overruled = CACHE_DENIALS_OVERRULED [] sum,
        TcpRefused = TCP_REFUSED [] sum,
        Unsent = UNSENT_REPLIES [] sum,
        HealthFailures = HEALTH_REQUEST_FAILURES [] sum,
    }
}

numbers! {
    /// What goes up and down. The sum of all series, but the greatest of ages.
    Level: f64 {
        StoreAge = KUBERNETES_STORE_AGE [] greatest,
        Waiting = WAITING_QUERIES [] sum,
        TcpConnections = TCP_CONNECTIONS [] sum,
        CacheEntries = CACHE_ENTRIES [] sum,
        CacheBytes = NODENS_CACHE_BYTES [] sum,
        CacheLimit = NODENS_CACHE_LIMIT_BYTES [] sum,
        MemoryUsed = MEMORY_USED_BYTES [] sum,
        MemoryLimit = MEMORY_LIMIT_BYTES [] sum,
        Resident = PROCESS_RESIDENT_MEMORY [] sum,
        OpenFiles = PROCESS_OPEN_FDS [] sum,
        MaxFiles = PROCESS_MAX_FDS [] sum,
    }
}

fn chosen<'a>(
    scrape: &'a Scrape,
    family: &'a Family,
    labels: &'a [&str],
) -> impl Iterator<Item = f64> + 'a {
    let has = move |series: &[Box<str>]| {
        labels.iter().all(|label| series.iter().any(|value| **value == **label))
    };
    scrape.values(family).filter(move |(series, _)| has(series)).map(|(_, value)| value)
}

fn sum(scrape: &Scrape, family: &Family, labels: &[&str]) -> f64 {
    // The sum of nothing is -0.0, which would be shown so.
    0.0 + chosen(scrape, family, labels).sum::<f64>()
}

fn greatest(scrape: &Scrape, family: &Family, labels: &[&str]) -> f64 {
    chosen(scrape, family, labels).fold(0.0, f64::max)
}

/// What is counted of one upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTotals {
    /// The place of its address in [`History::upstream`]; grows with each new one.
    pub number: u32,
    /// Answers.
    pub answers: u64,
    /// Microseconds that they took, in all.
    pub micros: u64,
    /// Tries without an answer in time, or that failed in another way.
    pub failures: u64,
}

/// All numbers of a moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When.
    pub at: CoarseInstant,
    totals: [u64; Total::ALL.len()],
    levels: [f64; Level::ALL.len()],
    /// `coredns_dns_request_duration_seconds` of all blocks: counts of each bucket by itself.
    pub latencies: [u64; LATENCIES],
    upstreams: [Option<UpstreamTotals>; MAX_UPSTREAMS],
}

impl Sample {
    /// Before anything was counted.
    fn begin(at: CoarseInstant) -> Self {
        Self {
            at,
            totals: [0; Total::ALL.len()],
            levels: [0.0; Level::ALL.len()],
            latencies: [0; LATENCIES],
            upstreams: [None; MAX_UPSTREAMS],
        }
    }

    fn of(scrape: &Scrape, at: CoarseInstant, known: &mut Upstreams) -> Self {
        let mut latencies = [0; LATENCIES];
        for (_, counts, _) in scrape.histograms(&names::DNS_REQUEST_DURATION) {
            latencies.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        Self {
            at,
            totals: Total::ALL.map(|total| total.of(scrape)),
            levels: Level::ALL.map(|level| level.of(scrape)),
            latencies,
            upstreams: known.totals(scrape),
        }
    }

    /// A total of this moment.
    pub fn total(&self, total: Total) -> u64 {
        self.totals.get(total as usize).copied().unwrap_or(0)
    }

    /// A level of this moment.
    pub fn level(&self, level: Level) -> f64 {
        self.levels.get(level as usize).copied().unwrap_or(0.0)
    }

    /// The upstreams in use.
    pub fn upstreams(&self) -> impl Iterator<Item = UpstreamTotals> + '_ {
        self.upstreams.iter().flatten().copied()
    }
}

/// What has been counted between two samples.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    from: Sample,
    /// The end.
    pub to: Sample,
}

impl Span {
    /// From one sample to a later one.
    pub fn new(from: Sample, to: Sample) -> Self {
        Self { from, to }
    }

    /// How long it is; never zero.
    pub fn seconds(&self) -> f64 {
        (self.to.at.millis_since(self.from.at).max(1)) as f64 / 1e3
    }

    /// By how much a total has grown.
    pub fn increase(&self, total: Total) -> u64 {
        self.to.total(total).saturating_sub(self.from.total(total))
    }

    /// The same in a second.
    pub fn rate(&self, total: Total) -> f64 {
        self.increase(total) as f64 / self.seconds()
    }

    /// Seconds that this part (0 to 1) of the answers took at most, as Prometheus's `histogram_quantile` has it; `None` without
    /// answers.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let counts = self.to.latencies.iter().zip(&self.from.latencies);
        let counts: Vec<u64> = counts.map(|(to, from)| to.saturating_sub(*from)).collect();
        let all: u64 = counts.iter().sum();
        if all == 0 {
            return None;
        }
        let rank = part * all as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (count, bound) in counts.iter().zip(DURATION_BUCKETS) {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                return Some(lower + (bound - lower) * ((rank - below) / count));
            }
            (below, lower) = (below + count, bound);
        }
        Some(lower)
    }

    /// What was counted of each upstream that is in use, by its number.
    pub fn upstreams(&self) -> impl Iterator<Item = UpstreamTotals> + '_ {
        self.to.upstreams().map(|to| {
            let from = self.from.upstreams().find(|from| from.number == to.number);
            let from = from.unwrap_or_default();
            UpstreamTotals {
                number: to.number,
                answers: to.answers.saturating_sub(from.answers),
                micros: to.micros.saturating_sub(from.micros),
                failures: to.failures.saturating_sub(from.failures),
            }
        })
    }
}

/// The numbers of upstreams. Those that are neither in use nor in the ring are forgotten.
#[derive(Default)]
struct Upstreams {
    known: Vec<(u32, Box<str>)>,
    next: u32,
}

impl Upstreams {
    fn totals(&mut self, scrape: &Scrape) -> [Option<UpstreamTotals>; MAX_UPSTREAMS] {
        let mut all = [None; MAX_UPSTREAMS];
        let in_use =
            scrape.values(&names::FORWARD_UPSTREAM_UP).filter_map(|(labels, _)| labels.first());
        for (place, to) in all.iter_mut().zip(in_use) {
            let of = |labels: &[Box<str>]| labels.contains(to);
            let durations =
                scrape.histograms(&names::PROXY_REQUEST_DURATION).filter(|(l, ..)| of(l));
            let mut totals = UpstreamTotals { number: self.number(to), ..Default::default() };
            for (_, counts, seconds) in durations {
                totals.answers += counts.iter().sum::<u64>();
                totals.micros += (seconds * 1e6) as u64;
            }
            let failures =
                [&names::FORWARD_TIMEOUTS, &names::FORWARD_ERRORS].map(|f| sum(scrape, f, &[to]));
            totals.failures = failures.iter().sum::<f64>() as u64;
            *place = Some(totals);
        }
        all
    }

    fn number(&mut self, to: &str) -> u32 {
        if let Some((number, _)) = self.known.iter().find(|(_, known)| **known == *to) {
            return *number;
        }
        self.next += 1;
        self.known.push((self.next, to.into()));
        self.next
    }
}

/// The ring. One for the process.
#[derive(Default)]
pub struct History {
    ring: Mutex<VecDeque<Sample>>,
    upstreams: Mutex<Upstreams>,
}

impl History {
    /// Takes a sample of `metrics` every [`PERIOD`], for ever.
    pub async fn keep(self: Arc<Self>, metrics: Arc<Metrics>) {
        // All counts begin at zero: what came before the first sample, as the first lists, is recent too.
        self.push(Sample::begin(CoarseInstant::now()));
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + PERIOD, PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.push(self.sample(&metrics));
        }
    }

    /// The numbers of this moment, which are not kept.
    pub fn sample(&self, metrics: &Metrics) -> Sample {
        // Gathered without a lock of ours: conditions, which are gathered too, look into the ring.
        let scrape = metrics.gather();
        Sample::of(&scrape, CoarseInstant::now(), &mut lock(&self.upstreams))
    }

    fn push(&self, sample: Sample) {
        let mut ring = lock(&self.ring);
        if ring.capacity() < KEPT {
            ring.reserve_exact(KEPT);
        }
        if ring.len() >= KEPT {
            ring.pop_front();
        }
        ring.push_back(sample);
        let is_used = |number: u32| {
            ring.iter().any(|sample| sample.upstreams().any(|totals| totals.number == number))
        };
        lock(&self.upstreams).known.retain(|(number, _)| is_used(*number));
    }

    /// What was counted in the last `seconds` before `to`, or since the first sample.
    pub fn before(&self, to: Sample, seconds: u64) -> Span {
        let begin = to.at.as_millis().saturating_sub(seconds * 1_000);
        let ring = lock(&self.ring);
        // The latest that is old enough; the samples are some milliseconds early or late.
        let is_old = |sample: &&Sample| sample.at.as_millis() <= begin + 500;
        let from = ring.iter().rev().find(is_old).or_else(|| ring.front());
        Span::new(from.copied().unwrap_or(to), to)
    }

    /// The same before the last sample that is kept; `None` before the first.
    pub fn last(&self, seconds: u64) -> Option<Span> {
        let to = lock(&self.ring).back().copied()?;
        Some(self.before(to, seconds))
    }

    /// All samples that are kept, the oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        lock(&self.ring).iter().copied().collect()
    }

    /// The address of an upstream by [`UpstreamTotals::number`].
    pub fn upstream(&self, number: u32) -> Option<Box<str>> {
        let upstreams = lock(&self.upstreams);
        upstreams.known.iter().find(|(known, _)| *known == number).map(|(_, to)| to.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Source;

    /// Numbers that grow with a clock of its own.
    #[derive(Default)]
    struct Growing(std::sync::atomic::AtomicU64);

    impl Source for Growing {
        fn collect(&self, out: &mut Scrape) {
            let n = self.0.load(std::sync::atomic::Ordering::Relaxed);
            out.count(&names::ANSWERED, &["cache"], 10 * n);
            out.count(&names::ANSWERED, &["store"], n);
            out.gauge_greatest(&names::KUBERNETES_STORE_AGE, &["Service"], n as f64);
            out.gauge_greatest(&names::KUBERNETES_STORE_AGE, &["Namespace"], 1.0);
            let labels = ["dns://:53", ".", ""];
            let counts = vec![9 * n, 0, n];
            out.histogram(&names::DNS_REQUEST_DURATION, &labels, &DURATION_BUCKETS, counts, 0.0);
            for to in ["192.0.2.1:53", "192.0.2.2:53"] {
                out.gauge_least(&names::FORWARD_UPSTREAM_UP, &[to], 1.0);
                out.count(&names::FORWARD_TIMEOUTS, &[to], n);
            }
            let labels = ["forward", "192.0.2.2:53", "NOERROR"];
            let seconds = 0.002 * n as f64;
            out.histogram(
                &names::PROXY_REQUEST_DURATION,
                &labels,
                &DURATION_BUCKETS,
                vec![n],
                seconds,
            );
        }
    }

    fn run(samples: u64) -> History {
        let (history, metrics, growing) =
            (History::default(), Metrics::new(), Arc::<Growing>::default());
        metrics.register(Arc::clone(&growing) as _);
        for n in 0..samples {
            growing.0.store(n, std::sync::atomic::Ordering::Relaxed);
            let sample = history.sample(&metrics);
            history.push(Sample { at: CoarseInstant::from_millis(100_000 + n * 5_000), ..sample });
        }
        history
    }

    #[test]
    fn rates_are_those_of_the_time_that_is_asked_for() {
        let history = run(40);
        let minute = history.last(60).unwrap();
        assert_eq!((minute.seconds(), minute.increase(Total::FromCache)), (60.0, 120));
        assert_eq!((minute.rate(Total::FromStore), minute.rate(Total::FromStale)), (0.2, 0.0));
        assert_eq!(minute.to.level(Level::StoreAge), 39.0);
        assert_eq!(history.last(3_600).unwrap().seconds(), 195.0);
        assert!(History::default().last(60).is_none());
        // Nine of ten are in the first bucket, and the last in the third.
        assert_eq!(minute.quantile(0.45), Some(0.000_125));
        assert!(minute.quantile(0.99).is_some_and(|p99| p99 > 0.0009 && p99 < 0.001));
        assert_eq!(Span::new(minute.to, minute.to).quantile(0.5), None);
        let upstreams: Vec<_> = minute
            .upstreams()
            .map(|t| (history.upstream(t.number).unwrap(), t.answers, t.micros, t.failures))
            .collect();
        let wanted = [("192.0.2.1:53".into(), 0, 0, 12), ("192.0.2.2:53".into(), 12, 24_000, 12)];
        assert_eq!(upstreams, wanted);
    }

    #[test]
    fn the_ring_is_bounded() {
        let history = run(KEPT as u64 + 50);
        assert_eq!(history.samples().len(), KEPT);
        assert_eq!(history.last(900).unwrap().seconds(), 900.0);
        let bytes = size_of::<Sample>() * lock(&history.ring).capacity();
        assert!(bytes < 256 << 10, "{bytes} bytes");
        assert_eq!(lock(&history.upstreams).known.len(), 2);
    }
}
