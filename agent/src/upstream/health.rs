//! Whether an upstream answers, judged by the traffic itself.
//!
//! A try without an answer counts as a failure; any answer, a late one included, wipes the failures out. An upstream that
//! answers some names slowly is thereby never taken for dead, and one that is dead is found within a few tries.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::clock::CoarseInstant;

/// The state of one upstream.
#[derive(Default)]
pub struct Health {
    failures: AtomicU32,
    down: AtomicBool,
    doubted: AtomicBool,
    looping: AtomicBool,
}

impl Health {
    /// Goes on from what is known of the same upstream under another configuration; loops are looked into apart.
    pub fn take_over(&self, other: &Self) {
        self.failures.store(other.failures(), Relaxed);
        self.down.store(other.is_down(), Relaxed);
    }

    /// An answer came. True where it had been down until now.
    pub fn succeeded(&self) -> bool {
        // Loads first: on the usual way nothing is written, and the workers share the line.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.doubted.load(Relaxed) {
            self.doubted.store(false, Relaxed);
        }
        self.down.load(Relaxed) && self.down.swap(false, Relaxed)
    }

    /// A try failed. True where that makes it down; with `max_fails` 0 it never is.
    pub fn failed(&self, max_fails: u32) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        max_fails != 0 && failures >= max_fails && !self.down.swap(true, Relaxed)
    }

    /// It was so late that another was asked: no failure, but a reason for a probe until its next answer.
    pub fn doubt(&self) {
        self.doubted.store(true, Relaxed);
    }

    /// True where it was late, and has not answered since.
    pub fn is_doubted(&self) -> bool {
        self.doubted.load(Relaxed)
    }

    /// True while it does not answer.
    pub fn is_down(&self) -> bool {
        self.down.load(Relaxed)
    }

    /// Says whether queries to it come back to us. True where that is news.
    pub fn set_looping(&self, looping: bool) -> bool {
        self.looping.swap(looping, Relaxed) != looping
    }

    /// True while queries to it come back to us: it is not asked, whatever else happens.
    pub fn is_looping(&self) -> bool {
        self.looping.load(Relaxed)
    }

    /// True where it is asked: it answers, and does not loop.
    pub fn is_fit(&self) -> bool {
        !self.is_down() && !self.is_looping()
    }

    /// Failures since the last answer.
    pub fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }
}

/// At most one in so many milliseconds; shared by all who would do the same.
#[derive(Default)]
pub struct Throttle(std::sync::atomic::AtomicU64);

impl Throttle {
    /// True for the first caller, and for the first in each span of `millis`.
    pub fn now(&self, millis: u64) -> bool {
        let now = CoarseInstant::now().as_millis().max(1);
        let last = self.0.load(Relaxed);
        (last == 0 || now.saturating_sub(last) >= millis)
            && self.0.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_make_it_down_and_an_answer_brings_it_back() {
        let health = Health::default();
        assert!(!health.failed(2) && !health.is_down());
        assert!(!health.succeeded());
        assert!(!health.failed(2) && health.failed(2) && health.is_down());
        assert!(!health.failed(2), "already known");
        assert!(health.succeeded() && !health.is_down() && health.failures() == 0);
        for _ in 0..100 {
            assert!(!health.failed(0));
        }
        assert!(!health.is_down());
        health.doubt();
        assert!(health.is_doubted() && !health.succeeded() && !health.is_doubted());
        assert!(health.set_looping(true) && !health.set_looping(true) && health.is_looping());
    }

    #[test]
    fn seldom_is_once() {
        let seldom = Throttle::default();
        assert!(seldom.now(60_000) && !seldom.now(60_000));
    }
}
