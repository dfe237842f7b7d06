//! How long an upstream usually takes, from its own answers.
//!
//! The mean and its deviation as TCP keeps them (RFC 6298 section 2), and an estimate of the 95th percentile that moves up
//! by much when an answer is later and down by little when it is not. Updates of several workers may be lost to each
//! other; that makes an estimate a little older, not wrong.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// A try is given up for the next upstream no sooner than this: names that are slow to resolve are not the upstream's fault.
pub const MIN_TRY: Duration = Duration::from_millis(250);
/// ... and no later than this, as in CoreDNS.
pub const MAX_TRY: Duration = Duration::from_secs(2);
/// A second upstream is not asked sooner than this, however quick the first one usually is.
pub const MIN_HEDGE: Duration = Duration::from_millis(20);
/// Before the first answer.
const UNKNOWN_TRY: Duration = Duration::from_secs(1);
/// Before the first answer.
const UNKNOWN_HEDGE: Duration = Duration::from_millis(250);

/// The estimates for one upstream.
#[derive(Default)]
pub struct RoundTrips {
    // Microseconds; 0: no answer yet.
    mean: AtomicU32,
    deviation: AtomicU32,
    p95: AtomicU32,
}

impl RoundTrips {
    /// Goes on from the estimates for the same upstream under another configuration.
    pub fn take_over(&self, other: &Self) {
        for (mine, theirs) in [
            (&self.mean, &other.mean),
            (&self.deviation, &other.deviation),
            (&self.p95, &other.p95),
        ] {
            mine.store(theirs.load(Relaxed), Relaxed);
        }
    }

    /// Mean, deviation and 95th percentile in microseconds; 0: unknown.
    pub fn get(&self) -> [u32; 3] {
        [&self.mean, &self.deviation, &self.p95].map(|value| value.load(Relaxed))
    }

    /// Sets what [`RoundTrips::get`] returns.
    pub fn set(&self, values: [u32; 3]) {
        let mine = [&self.mean, &self.deviation, &self.p95];
        mine.iter().zip(values).for_each(|(mine, value)| mine.store(value, Relaxed));
    }

    /// Takes one answer into account.
    pub fn record(&self, took: Duration) {
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let mean = self.mean.load(Relaxed);
        if mean == 0 {
            self.mean.store(took, Relaxed);
            self.deviation.store(took / 2, Relaxed);
            self.p95.store(took.saturating_mul(2), Relaxed);
            return;
        }
        let deviation = self.deviation.load(Relaxed);
        self.deviation.store(deviation - deviation / 4 + mean.abs_diff(took) / 4, Relaxed);
        self.mean.store((mean - mean / 8).saturating_add(took / 8).max(1), Relaxed);
        let p95 = self.p95.load(Relaxed);
        // 19 steps down undo one step up: at the 95th percentile both balance.
        let step = (p95 / 8).max(20);
        let next =
            if took > p95 { p95.saturating_add(step) } else { p95.saturating_sub(step / 19 + 1) };
        self.p95.store(next.max(1), Relaxed);
    }

    /// The smoothed round trip; `None` before the first answer.
    pub fn mean(&self) -> Option<Duration> {
        match self.mean.load(Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros.into())),
        }
    }

    /// When a try is given up: mean and four deviations, within [`MIN_TRY`] and [`MAX_TRY`].
    pub fn try_timeout(&self) -> Duration {
        let Some(mean) = self.mean() else { return UNKNOWN_TRY };
        let slack = Duration::from_micros(self.deviation.load(Relaxed).into()) * 4;
        (mean + slack).clamp(MIN_TRY, MAX_TRY)
    }

    /// When a second upstream is worth asking: past the usual time of this one.
    pub fn hedge_after(&self) -> Duration {
        if self.mean().is_none() {
            return UNKNOWN_HEDGE;
        }
        Duration::from_micros(self.p95.load(Relaxed).into()).clamp(MIN_HEDGE, MAX_TRY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimates_follow_what_is_measured() {
        let trips = RoundTrips::default();
        assert_eq!((trips.mean(), trips.try_timeout()), (None, UNKNOWN_TRY));
        for n in 0..10_000u64 {
            // One in ten takes 100 ms, the others 10 ms.
            trips.record(Duration::from_millis(if n.is_multiple_of(10) { 100 } else { 10 }));
        }
        let mean = trips.mean().unwrap().as_millis();
        assert!((10..35).contains(&mean), "{mean}");
        assert!(trips.hedge_after() > Duration::from_millis(60), "{:?}", trips.hedge_after());
        assert!(trips.try_timeout() <= MAX_TRY && trips.try_timeout() >= MIN_TRY);
        for _ in 0..10_000 {
            trips.record(Duration::from_micros(300));
        }
        assert_eq!((trips.try_timeout(), trips.hedge_after()), (MIN_TRY, MIN_HEDGE));
    }
}
