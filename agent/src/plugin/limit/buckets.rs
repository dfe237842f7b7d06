//! The rates of clients: a table of token buckets of fixed size, shared by all workers without a lock.
//!
//! A bucket is one number, the time at which it will be full again (the "theoretical arrival time" of the generic cell rate
//! algorithm, ITU-T I.371). A client that was never seen, or not lately, has a full bucket, so that forgetting one costs
//! nobody anything: where a set of the table is full, the fullest bucket makes room.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::clock::CoarseInstant;

/// Clients that are known at a time.
pub const CAPACITY: usize = SETS * WAYS;
/// The table takes 512 KiB. A power of two.
const SETS: usize = 8_192;
/// Buckets that share a set: one line of the processor's cache.
const WAYS: usize = 8;
/// An exchange that fails so often lets the query pass: other workers have counted queries of the same client meanwhile.
const TRIES: usize = 8;

/// Times are in units of 100 ns, so that 1,000,000 queries a second are 10 units apart.
const UNITS_PER_SECOND: u64 = 10_000_000;
const UNITS_PER_MS: u64 = UNITS_PER_SECOND / 1_000;
/// Bits of a slot that hold the time, which wraps around after 325 days; the others hold a part of the client's hash.
const TIME_BITS: u32 = 48;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// The coarse clock may stand still for so long: that many queries more are taken at once.
const CLOCK_STEP: u64 = 4 * UNITS_PER_MS;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units from one token to the next.
    interval: u64,
    /// How far ahead of now a bucket's time may be when a token is taken.
    tolerance: u64,
    /// As it is written.
    qps: u32,
    burst: u32,
}

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is within the rate.
    Yes,
    /// The same, and a client was forgotten whose bucket was not full.
    Evicting,
    /// It exceeds the rate.
    No,
}

/// The table.
pub struct Buckets {
    sets: Box<[Set]>,
    hasher: foldhash::quality::RandomState,
}

/// Each slot: a tag that is not zero, and the time at which the bucket is full; zero if it is free.
#[derive(Default)]
#[repr(align(64))]
struct Set([AtomicU64; WAYS]);

impl Rate {
    /// `qps` tokens a second, up to `burst` of them at once; both at least 1.
    pub fn new(qps: u32, burst: u32) -> Self {
        let interval = UNITS_PER_SECOND / u64::from(qps.max(1));
        let tolerance = interval * u64::from(burst.saturating_sub(1)) + CLOCK_STEP;
        Self { interval, tolerance, qps, burst }
    }

    /// Queries a second.
    pub fn qps(self) -> u32 {
        self.qps
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queries = if self.qps == 1 { "query" } else { "queries" };
        write!(f, "{} {queries} a second, {} at once", self.qps, self.burst)
    }
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            sets: (0..SETS).map(|_| Set::default()).collect(),
            hasher: foldhash::quality::RandomState::default(),
        }
    }
}

impl Buckets {
    /// Whether there is a token in the bucket of `client`, which fills at `rate`.
    pub fn has(&self, client: impl Hash, rate: Rate, now: CoarseInstant) -> bool {
        let hash = self.hasher.hash_one(client);
        let tag = (hash >> TIME_BITS).max(1) << TIME_BITS;
        let now = now.as_millis().wrapping_mul(UNITS_PER_MS) & TIME_MASK;
        let Some(set) = self.sets.get(hash as usize % SETS) else { return true };
        let (_, held) = set.find(tag, now);
        held & !TIME_MASK != tag || debt(held, now) <= rate.tolerance
    }

    /// Takes a token out of the bucket of `client`, which fills at `rate`.
    pub fn take(&self, client: impl Hash, rate: Rate, now: CoarseInstant) -> Taken {
        let hash = self.hasher.hash_one(client);
        let tag = (hash >> TIME_BITS).max(1) << TIME_BITS;
        let now = now.as_millis().wrapping_mul(UNITS_PER_MS) & TIME_MASK;
        let Some(set) = self.sets.get(hash as usize % SETS) else { return Taken::Yes };
        for _ in 0..TRIES {
            let (slot, held) = set.find(tag, now);
            let is_known = held & !TIME_MASK == tag;
            let debt = if is_known { debt(held, now) } else { 0 };
            let (taken, debt) = match debt {
                // More than this rate allows: it was another one before a reload.
                debt if debt > rate.tolerance + rate.interval => {
                    (Taken::No, rate.tolerance + rate.interval)
                }
                debt if debt > rate.tolerance => return Taken::No,
                debt => (Taken::Yes, debt + rate.interval),
            };
            let new = tag | (now.wrapping_add(debt) & TIME_MASK);
            if slot.compare_exchange(held, new, Relaxed, Relaxed).is_ok() {
                let evicts = !is_known && held != 0 && self::debt(held, now) > 0;
                return if evicts { Taken::Evicting } else { taken };
            }
        }
        Taken::Yes
    }
}

impl Set {
    /// The slot with this tag and what it holds; else a free one, else that of the fullest bucket.
    fn find(&self, tag: u64, now: u64) -> (&AtomicU64, u64) {
        let Self([first, ..]) = self;
        let mut best = (first, first.load(Relaxed));
        for slot in &self.0 {
            let held = slot.load(Relaxed);
            if held & !TIME_MASK == tag {
                return (slot, held);
            }
            let is_better = best.1 != 0 && (held == 0 || debt(held, now) < debt(best.1, now));
            if is_better {
                best = (slot, held);
            }
        }
        best
    }
}

/// How long it takes until a bucket is full, in units.
fn debt(held: u64, now: u64) -> u64 {
    let ahead = (held & TIME_MASK).wrapping_sub(now) & TIME_MASK;
    // The upper half of the circle is the past.
    if ahead >> (TIME_BITS - 1) == 1 { 0 } else { ahead }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> CoarseInstant {
        CoarseInstant::from_millis(millis)
    }

    /// How many of `count` queries at one moment are within the rate.
    fn passed(buckets: &Buckets, client: u64, rate: Rate, millis: u64, count: usize) -> usize {
        let take = |_: &usize| buckets.take(client, rate, at(millis)) != Taken::No;
        (0..count).filter(take).count()
    }

    #[test]
    fn to_look_takes_no_token() {
        let (buckets, rate) = (Buckets::default(), Rate::new(1, 2));
        assert!((0..10).all(|_| buckets.has(7, rate, at(0))));
        assert_eq!(passed(&buckets, 7, rate, 0, 10), 2);
        assert!(!buckets.has(7, rate, at(0)) && buckets.has(8, rate, at(0)));
        assert!(buckets.has(7, rate, at(2_000)));
    }

    #[test]
    fn a_bucket_holds_its_burst_and_fills_at_its_rate() {
        let buckets = Buckets::default();
        // (queries a second, burst, [(at, asked, passed)])
        for (qps, burst, steps) in [
            (10, 20, vec![(0, 50, 20), (90, 5, 0), (100, 5, 1), (1_000, 50, 9), (60_000, 99, 20)]),
            (1, 1, vec![(0, 3, 1), (900, 1, 0), (1_000, 2, 1), (5_000, 3, 1)]),
            (100, 100, vec![(0, 500, 100), (10, 9, 1), (510, 500, 50)]),
        ] {
            let client = u64::from(qps);
            for (millis, asked, wanted) in steps {
                let rate = Rate::new(qps, burst);
                let got = passed(&buckets, client, rate, 1_000_000 + millis, asked);
                assert_eq!(got, wanted, "{qps} {burst} at {millis}");
            }
        }
    }

    #[test]
    fn a_steady_client_gets_its_rate_whatever_it_asks_for() {
        for qps in [1, 3, 7, 50, 333, 1_000, 20_000, 1_000_000] {
            let (buckets, rate) = (Buckets::default(), Rate::new(qps, qps));
            // The bucket is emptied first; then ten seconds, in steps of the clock.
            passed(&buckets, 1, rate, 0, 2 * qps as usize + 100);
            let got: usize = (1..=2_500)
                .map(|step| passed(&buckets, 1, rate, step * 4, qps as usize / 100 + 2))
                .sum();
            let wanted = f64::from(qps) * 10.0;
            assert!((got as f64 - wanted).abs() <= wanted * 0.02 + 1.0, "{qps}: {got}");
        }
    }

    #[test]
    fn time_may_wrap_and_rates_may_change() {
        let (buckets, slow, fast) = (Buckets::default(), Rate::new(1, 1_000), Rate::new(100, 100));
        let wrap = (1 << TIME_BITS) / UNITS_PER_MS;
        assert_eq!(passed(&buckets, 1, slow, wrap - 1, 2_000), 1_000);
        assert_eq!(passed(&buckets, 1, slow, wrap + 1_000, 5), 1);
        // Its debt is a thousand seconds; with the other rate it is one.
        assert_eq!(passed(&buckets, 1, fast, wrap + 1_000, 1), 0);
        assert_eq!(passed(&buckets, 1, fast, wrap + 2_020, 500), 100);
    }

    #[test]
    fn a_full_table_forgets_the_fullest_buckets_and_punishes_nobody() {
        let (buckets, rate) = (Buckets::default(), Rate::new(10, 10));
        assert_eq!(passed(&buckets, u64::MAX, rate, 5_000, 100), 10);
        let mut evicted = 0;
        for client in 0..4 * CAPACITY as u64 {
            match buckets.take(client, rate, at(5_000)) {
                Taken::No => panic!("client {client} was never seen"),
                Taken::Evicting => evicted += 1,
                Taken::Yes => {}
            }
        }
        assert!(evicted > 3 * CAPACITY - 1_000, "{evicted}");
        // The flooder's is the emptiest, and stays.
        assert_eq!(passed(&buckets, u64::MAX, rate, 5_050, 100), 0);
    }

    #[test]
    fn workers_share_a_bucket() {
        let (buckets, rate) = (Buckets::default(), Rate::new(1_000, 1_000));
        let passed: usize = std::thread::scope(|scope| {
            let worker = || scope.spawn(|| passed(&buckets, 9, rate, 77, 5_000));
            let workers: Vec<_> = (0..4).map(|_| worker()).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert!((1_000..1_020).contains(&passed), "{passed}");
    }

    proptest::proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            qps in 1_u32..5_000, burst in 1_u32..5_000,
            steps in proptest::collection::vec((0_u64..3_000, 1_usize..300), 1..40),
        ) {
            let (buckets, rate) = (Buckets::default(), Rate::new(qps, burst));
            let (mut now, mut got) = (10_000_u64, 0);
            for (wait, asked) in steps {
                now += wait;
                got += passed(&buckets, 5, rate, now, asked);
                let seconds = (now - 10_000) as f64 / 1e3 + 0.005;
                let most = f64::from(burst) + seconds * f64::from(qps) * 1.001 + 1.0;
                proptest::prop_assert!(got as f64 <= most, "{} > {}", got, most);
            }
        }
    }
}
