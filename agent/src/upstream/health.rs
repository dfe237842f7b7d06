//! Whether an upstream answers, judged by the traffic itself.
//!
//! A try without an answer counts as a failure; any answer, a late one included, wipes the failures out. An upstream that
//! answers some names slowly is thereby never taken for dead, and one that is dead is found within a few tries.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::clock::CoarseInstant;

/// Between two log lines that one upstream is down.
const LOG_AGAIN_MS: u64 = 10_000;
/// Between two queries that are also sent to an upstream that is down.
const TRIAL_AGAIN_MS: u64 = 1_000;

/// The state of one upstream. Shared by the workers: what is written on the usual way is written only if it changes.
#[derive(Default)]
pub struct Health {
    failures: AtomicU32,
    down: AtomicBool,
    /// The log has a line that it is down, and none yet that it is up again.
    logged_down: AtomicBool,
    suspect: AtomicBool,
    looping: AtomicBool,
    /// Milliseconds of the coarse clock at its last answer; 0: none yet.
    last_answer: AtomicU64,
    /// The same of the last time-out that counted.
    last_timeout: AtomicU64,
    trials: Throttle,
    log_lines: Throttle,
}

impl Health {
    /// Takes over what is known of the same upstream under another configuration. Loops are not: they depend on the zone.
    pub fn take_over(&self, other: &Self) {
        self.failures.store(other.failures(), Relaxed);
        self.down.store(other.is_down(), Relaxed);
        self.logged_down.store(other.logged_down.load(Relaxed), Relaxed);
    }

    /// It was down for the process before.
    pub fn set_down(&self) {
        self.failures.store(1, Relaxed);
        self.down.store(true, Relaxed);
        self.logged_down.store(true, Relaxed);
    }

    /// An answer came. True if the log is to have a line that it is up again.
    pub fn succeeded(&self, now: CoarseInstant) -> bool {
        if self.last_answer.load(Relaxed) != now.as_millis() {
            self.last_answer.store(now.as_millis(), Relaxed);
        }
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.suspect.load(Relaxed) {
            self.suspect.store(false, Relaxed);
        }
        if !self.down.load(Relaxed) {
            return false;
        }
        self.down.store(false, Relaxed);
        self.logged_down.swap(false, Relaxed)
    }

    /// A try failed. True if that makes it down; with `max_fails` 0 it never is.
    pub fn failed(&self, max_fails: u32) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        max_fails != 0 && failures >= max_fails && !self.down.swap(true, Relaxed)
    }

    /// True if the time-out of a try counts as a failure. Tries that were out together are one: of a burst of names that are slow
    /// by themselves, the first has a probe sent, whose answer comes before the next counts.
    pub fn timeout_counts(&self, sent: CoarseInstant, now: CoarseInstant) -> bool {
        let last = self.last_timeout.load(Relaxed);
        let counts = sent.as_millis() > last;
        counts
            && self.last_timeout.compare_exchange(last, now.as_millis(), Relaxed, Relaxed).is_ok()
    }

    /// True if it is down and the log is to have a line about it: not for each time that one that comes and goes is.
    pub fn is_down_to_be_logged(&self, now: CoarseInstant) -> bool {
        self.is_down()
            && !self.logged_down.load(Relaxed)
            && self.log_lines.allows(now, LOG_AGAIN_MS)
            && !self.logged_down.swap(true, Relaxed)
    }

    /// When it last answered; the clock's start if it never has.
    pub fn last_answer(&self) -> CoarseInstant {
        CoarseInstant::from_millis(self.last_answer.load(Relaxed))
    }

    /// True, once a second, if it is down: the caller is to send it a query beside the usual upstream. Not at once: probes
    /// have begun when it went down.
    pub fn try_begin_trial(&self, now: CoarseInstant) -> bool {
        let is_first = self.trials.is_unused();
        self.is_down() && self.trials.allows(now, TRIAL_AGAIN_MS) && !is_first
    }

    /// It was so late that another was asked: no failure, but a reason for a probe until its next answer.
    pub fn suspect(&self) {
        self.suspect.store(true, Relaxed);
    }

    /// True if it was late, and has not answered since.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Relaxed)
    }

    /// True while it does not answer.
    pub fn is_down(&self) -> bool {
        self.down.load(Relaxed)
    }

    /// Records whether queries to it come back to us. True if that has changed.
    pub fn set_looping(&self, looping: bool) -> bool {
        self.looping.swap(looping, Relaxed) != looping
    }

    /// True while queries to it come back to us: it is not asked, whatever else happens.
    pub fn is_looping(&self) -> bool {
        self.looping.load(Relaxed)
    }

    /// True if it can be asked: it answers, and does not loop.
    pub fn is_available(&self) -> bool {
        !self.is_down() && !self.is_looping()
    }

    /// Failures since the last answer.
    pub fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }
}

/// At most one in so many milliseconds, for all callers together.
#[derive(Default)]
pub struct Throttle(AtomicU64);

impl Throttle {
    fn is_unused(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    /// True for the first caller, and for the first in each span of `millis`.
    pub fn allows(&self, now: CoarseInstant, millis: u64) -> bool {
        let now = now.as_millis().max(1);
        let last = self.0.load(Relaxed);
        (last == 0 || now.saturating_sub(last) >= millis)
            && self.0.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: CoarseInstant = CoarseInstant::from_millis(50_000);

    #[test]
    fn failures_in_a_row_make_it_down_and_an_answer_brings_it_back() {
        let health = Health::default();
        assert!(!health.failed(2) && !health.is_down());
        assert!(!health.succeeded(NOW));
        assert!(!health.failed(2) && health.failed(2) && health.is_down());
        assert!(!health.failed(2), "already known");
        assert!(health.is_down_to_be_logged(NOW) && !health.is_down_to_be_logged(NOW));
        assert!(health.succeeded(NOW) && !health.is_down() && health.failures() == 0);
        assert_eq!(health.last_answer(), NOW);
        for _ in 0..100 {
            assert!(!health.failed(0));
        }
        assert!(!health.is_down());
        health.suspect();
        assert!(health.is_suspect() && !health.succeeded(NOW) && !health.is_suspect());
        assert!(health.set_looping(true) && !health.set_looping(true) && health.is_looping());
    }

    #[test]
    fn one_that_comes_and_goes_is_logged_in_pairs_and_seldom() {
        let (health, mut lines) = (Health::default(), Vec::new());
        for round in 0..2_000 {
            let now = NOW.plus_millis(round * 10);
            health.failed(1);
            if health.is_down_to_be_logged(now) {
                lines.push("down");
            }
            if health.succeeded(now) {
                lines.push("up");
            }
        }
        assert_eq!(lines, ["down", "up", "down", "up"]);
        // It stays down: that has its line in the end.
        let later = NOW.plus_millis(20_000);
        health.failed(1);
        assert!(health.is_down_to_be_logged(later.plus_millis(LOG_AGAIN_MS)));
    }

    #[test]
    fn tries_that_were_out_together_fail_once() {
        let health = Health::default();
        let later = NOW.plus_millis(250);
        assert!(health.timeout_counts(NOW, later));
        assert!(!health.timeout_counts(NOW, later) && !health.timeout_counts(later, later));
        assert!(health.timeout_counts(later.plus_millis(1), later.plus_millis(251)));
    }

    #[test]
    fn a_throttle_lets_one_through() {
        let throttle = Throttle::default();
        assert!(throttle.allows(NOW, 1_000) && !throttle.allows(NOW.plus_millis(999), 1_000));
        assert!(throttle.allows(NOW.plus_millis(1_000), 1_000));
        let health = Health::default();
        assert!(!health.try_begin_trial(NOW), "it is up");
        health.failed(1);
        assert!(!health.try_begin_trial(NOW) && !health.try_begin_trial(NOW.plus_millis(999)));
        let later = NOW.plus_millis(1_000);
        assert!(health.try_begin_trial(later) && !health.try_begin_trial(later));
    }
}
