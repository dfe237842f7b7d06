//! The limits of requests to the API server: a token bucket for their rate, and how many may be under way.
//!
//! All kinds of a cluster share them. With three kinds, an outage takes two requests a second and its end nine at once,
//! which the bucket lets through; it is there for what should not happen.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use super::spec::Limits;

/// The limits of one store's requests.
pub(super) struct Limiter {
    limits: Limits,
    bucket: Mutex<Bucket>,
    /// `None` without a limit.
    places: Option<Arc<Semaphore>>,
}

struct Bucket {
    /// Below zero, so many requests wait.
    tokens: f64,
    /// When `tokens` was right.
    at: Instant,
}

/// A place among the requests that are under way; given back when it is dropped.
#[derive(Default)]
pub(super) struct Place(
    #[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>,
);

impl Limiter {
    pub(super) fn new(limits: Limits) -> Self {
        let places = (limits.inflight > 0).then(|| {
            Arc::new(Semaphore::new((limits.inflight as usize).min(Semaphore::MAX_PERMITS)))
        });
        let bucket = Mutex::new(Bucket { tokens: f64::from(limits.burst), at: Instant::now() });
        Self { limits, bucket, places }
    }

    /// Waits until a request may be sent. Requests are let through in the order in which they come.
    pub(super) async fn admit(&self) -> Place {
        sleep(self.reserve()).await;
        let Some(places) = &self.places else { return Place::default() };
        // It is never closed.
        Place(Arc::clone(places).acquire_owned().await.ok())
    }

    /// Takes a token, or one of the future; returns how long that takes to come.
    fn reserve(&self) -> Duration {
        let rate = f64::from(self.limits.millis_qps) / 1_000.0;
        if rate <= 0.0 {
            return Duration::ZERO;
        }
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let come = now.saturating_duration_since(bucket.at).as_secs_f64() * rate;
        bucket.tokens = (bucket.tokens + come).min(f64::from(self.limits.burst)) - 1.0;
        bucket.at = now;
        Duration::from_secs_f64((-bucket.tokens / rate).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn took(limiter: &Limiter) -> Duration {
        let begun = Instant::now();
        drop(limiter.admit().await);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_through_and_then_the_rate_holds() {
        let limiter = Limiter::new(Limits { millis_qps: 2_500, burst: 3, inflight: 0 });
        for _ in 0..3 {
            assert_eq!(took(&limiter).await, Duration::ZERO);
        }
        for _ in 0..3 {
            let took = took(&limiter).await;
            assert!((399..402).contains(&took.as_millis()), "{took:?}");
        }
        tokio::time::advance(Duration::from_secs(60)).await;
        let begun = Instant::now();
        for _ in 0..5 {
            took(&limiter).await;
        }
        assert!((799..803).contains(&begun.elapsed().as_millis()), "no more than a burst is saved");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_requests_share_the_rate() {
        let limiter = Limiter::new(Limits { millis_qps: 1_000, burst: 1, inflight: 0 });
        let [a, b, c] = [limiter.reserve(), limiter.reserve(), limiter.reserve()];
        assert_eq!([a, b, c].map(|wait| wait.as_secs()), [0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_under_way_at_once() {
        let limiter = Limiter::new(Limits { inflight: 2, ..Limits::default() });
        let held = (limiter.admit().await, limiter.admit().await);
        let third = tokio::time::timeout(Duration::from_secs(9), limiter.admit());
        assert!(third.await.is_err());
        drop(held);
        assert_eq!(took(&limiter).await, Duration::ZERO);
    }
}
