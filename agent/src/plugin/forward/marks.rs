//! What is remembered of questions for some seconds, in bounded memory: how often one is asked, and who has failed at it.
//!
//! Both are tables of fixed size in which a new question takes the place of an old one: what is forgotten too soon costs a
//! try more, and a flood of names costs no memory.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::choose::Order;
use crate::clock::CoarseInstant;
use crate::upstream::Upstream;
use crate::wire::Query;

/// Questions whose rate is watched at a time.
const WATCHED: usize = 256;
/// So often within a second, the same question looks like one that goes round: between a client and an upstream that send
/// it to one another it comes as fast as the network allows. A client that is merely busy asks what is not cached less often.
const MANY: u32 = 50;
/// Failures that are remembered: 32 KiB for each forward.
const FAILURES: usize = 4_096;
/// How long an upstream is asked last for a question at which it has failed, seconds. RFC 9520 section 3.2 wants 1 s to 5 min;
/// the cache's `servfail` is as long.
const FAILED_FOR: u32 = 5;

/// The identity of a question: a hash under a seed of this process, so that nobody outside can choose two that collide.
#[derive(Default)]
pub(super) struct Identify(foldhash::fast::RandomState);

impl Identify {
    /// Of a client's question: name, type, and the flags by which upstreams answer otherwise.
    pub(super) fn question(&self, query: &Query<'_>) -> u64 {
        let bits = (query.dnssec_ok(), query.checking_disabled(), query.recursion_desired());
        self.0.hash_one((query.name().as_bytes(), query.qtype().0, bits))
    }
}

/// A table of marks: 32 bits of the hash, the second in 16 bits, a count in 16 bits.
struct Marks(Box<[AtomicU64]>);

impl Marks {
    fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| AtomicU64::new(0)).collect())
    }

    fn slot(&self, hash: u64) -> Option<&AtomicU64> {
        self.0.get(hash as usize % self.0.len())
    }

    /// Counts the question within this second. Updates of several workers may be lost to each other.
    fn add(&self, hash: u64, second: u32) -> u32 {
        let Some(slot) = self.slot(hash) else { return 0 };
        let (held, head) = (slot.load(Relaxed), head(hash, second));
        let count = if held & !0xffff == head { (held & 0xffff) + 1 } else { 1 };
        slot.store(head | count.min(0xffff), Relaxed);
        count as u32
    }

    fn set(&self, hash: u64, second: u32) {
        if let Some(slot) = self.slot(hash) {
            slot.store(head(hash, second) | 1, Relaxed);
        }
    }

    /// True where the mark was set at `second` or up to `span` seconds before.
    fn is_set(&self, hash: u64, second: u32, span: u32) -> bool {
        let held = self.slot(hash).map_or(0, |slot| slot.load(Relaxed));
        let age = (second as u16).wrapping_sub((held >> 16) as u16);
        held & 0xffff != 0 && held >> 32 == hash >> 32 && u32::from(age) <= span
    }
}

fn head(hash: u64, second: u32) -> u64 {
    hash >> 32 << 32 | u64::from(second as u16) << 16
}

/// How often questions are asked that get as far as this forward: the cache's hits do not, nor do those who wait for an
/// answer that is on its way.
pub(super) struct Rates(Marks);

impl Rates {
    pub(super) fn new() -> Self {
        Self(Marks::new(WATCHED))
    }

    /// Counts a question; true where it looks like one that goes round.
    pub(super) fn is_suspicious(&self, question: u64) -> bool {
        self.0.add(question, now()) == MANY
    }
}

/// Who has failed at what of late (RFC 9520): by time-out, error or SERVFAIL.
pub(super) struct Failures {
    marks: Marks,
    identify: foldhash::fast::RandomState,
    // The second of the last failure, so that while there is none nothing is looked up.
    last: AtomicU32,
}

impl Failures {
    pub(super) fn new() -> Self {
        Self {
            marks: Marks::new(FAILURES),
            identify: foldhash::fast::RandomState::default(),
            last: AtomicU32::new(0),
        }
    }

    /// Remembers that `upstream` has failed at `question`.
    pub(super) fn note(&self, question: u64, upstream: &Upstream) {
        let now = now();
        self.marks.set(self.key(question, upstream), now);
        self.last.store(now.max(1), Relaxed);
    }

    /// Puts the upstreams last that have failed at this question.
    pub(super) fn put_last<'u>(
        &self,
        question: u64,
        order: &mut Order,
        upstream: impl Fn(u16) -> Option<&'u Upstream>,
    ) {
        if order.len() < 2 || !self.is_any() {
            return;
        }
        // Stable: within either half the policy's order stays.
        order.sort_by_key(|&at| upstream(at).is_some_and(|up| self.has_failed(question, up)));
    }

    /// Whether `upstream` has failed at `question` within the last seconds.
    pub(super) fn has_failed(&self, question: u64, upstream: &Upstream) -> bool {
        self.is_any() && self.marks.is_set(self.key(question, upstream), now(), FAILED_FOR)
    }

    fn is_any(&self) -> bool {
        let last = self.last.load(Relaxed);
        last != 0 && now().saturating_sub(last) <= FAILED_FOR
    }

    fn key(&self, question: u64, upstream: &Upstream) -> u64 {
        self.identify.hash_one((question, &**upstream.label()))
    }
}

fn now() -> u32 {
    (CoarseInstant::now().as_millis() / 1_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Target, TransportConfig};

    #[test]
    fn many_of_the_same_question_are_suspicious_once() {
        let rates = Rates::new();
        // Two seconds at most pass in between, so that one of them sees enough.
        let suspicious = (0..4 * MANY).filter(|_| rates.is_suspicious(77)).count();
        assert!((1..=3).contains(&suspicious), "{suspicious}");
        assert!(!(0..100_000u64).any(|n| rates.is_suspicious(n << 32)));
    }

    #[test]
    fn marks_are_for_a_question_and_a_while() {
        let marks = Marks::new(16);
        let hash = 0xdead_beef_0000_0003;
        marks.set(hash, 65_534);
        assert!(marks.is_set(hash, 65_534, 5) && marks.is_set(hash, 65_539, 5));
        assert!(!marks.is_set(hash, 65_540, 5) && !marks.is_set(hash ^ 1 << 40, 65_534, 5));
        assert!(!marks.is_set(hash + 1, 65_534, 5));
        assert_eq!((marks.add(5, 9), marks.add(5, 9), marks.add(5, 10)), (1, 2, 1));
    }

    #[test]
    fn who_has_failed_at_a_question_is_asked_last_for_it() {
        let upstream = |last| {
            let target = Target::plain(([192, 0, 2, last], 53).into());
            Upstream::new(target, TransportConfig::default(), None, 1).unwrap()
        };
        let upstreams = [upstream(1), upstream(2), upstream(3)];
        let failures = Failures::new();
        let order = |question| {
            let mut order = Order::from_slice(&[0, 1, 2]);
            failures.put_last(question, &mut order, |at| upstreams.get(usize::from(at)));
            order.to_vec()
        };
        assert_eq!(order(7), [0, 1, 2]);
        failures.note(7, &upstreams[0]);
        assert_eq!((order(7), order(8)), (vec![1, 2, 0], vec![0, 1, 2]));
        failures.note(7, &upstreams[1]);
        assert_eq!(order(7), [2, 0, 1]);
        assert!(failures.has_failed(7, &upstreams[0]) && !failures.has_failed(7, &upstreams[2]));
    }
}
