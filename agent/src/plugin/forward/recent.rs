//! What is remembered of questions for some seconds, in bounded memory: how often one is asked, and which upstreams have
//! failed at it.
//!
//! Both are tables of fixed size in which a new question takes the place of an old one: what is forgotten too soon costs a
//! try more, and a flood of names costs no memory.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::select::Order;
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
pub(super) struct QuestionHasher(foldhash::fast::RandomState);

impl QuestionHasher {
    /// Of a client's question: name, type, and the flags by which upstreams answer otherwise.
    pub(super) fn question(&self, query: &Query<'_>) -> u64 {
        let bits = (query.dnssec_ok(), query.checking_disabled(), query.recursion_desired());
        self.0.hash_one((query.name().as_bytes(), query.qtype().0, bits))
    }
}

/// Marks of questions: 32 bits of the hash, the second in 16 bits, a count in 16 bits.
struct Table(Box<[AtomicU64]>);

impl Table {
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

    /// True if the mark was set at `second` or up to `span` seconds before.
    fn is_set(&self, hash: u64, second: u32, span: u32) -> bool {
        let held = self.slot(hash).map_or(0, |slot| slot.load(Relaxed));
        let age = (second as u16).wrapping_sub((held >> 16) as u16);
        held & 0xffff != 0 && held >> 32 == hash >> 32 && u32::from(age) <= span
    }
}

fn head(hash: u64, second: u32) -> u64 {
    hash >> 32 << 32 | u64::from(second as u16) << 16
}

/// How often questions are asked that reach this forward. Hits of the cache do not, nor do queries that join a flight.
pub(super) struct RateTable(Table);

impl RateTable {
    pub(super) fn new() -> Self {
        Self(Table::new(WATCHED))
    }

    /// Counts a question; true if it looks like one that goes round.
    pub(super) fn is_suspicious(&self, question: u64, now: CoarseInstant) -> bool {
        self.0.add(question, second(now)) == MANY
    }
}

/// Which upstreams have failed at which questions in the last seconds (RFC 9520): by time-out, error or SERVFAIL.
pub(super) struct RecentFailures {
    table: Table,
    hasher: foldhash::fast::RandomState,
    /// The second of the last failure; while there is none nothing is looked up.
    last: AtomicU32,
}

impl RecentFailures {
    pub(super) fn new() -> Self {
        Self {
            table: Table::new(FAILURES),
            hasher: foldhash::fast::RandomState::default(),
            last: AtomicU32::new(0),
        }
    }

    /// Remembers that `upstream` has failed at `question`.
    pub(super) fn note(&self, question: u64, upstream: &Upstream, now: CoarseInstant) {
        let now = second(now);
        self.table.set(self.key(question, upstream), now);
        self.last.store(now.max(1), Relaxed);
    }

    /// Puts the upstreams last that have failed at this question.
    pub(super) fn put_last<'u>(
        &self,
        question: u64,
        now: CoarseInstant,
        order: &mut Order,
        upstream: impl Fn(u16) -> Option<&'u Upstream>,
    ) {
        if order.len() < 2 || !self.is_any(now) {
            return;
        }
        // Stable: within either half the policy's order stays.
        order.sort_by_key(|&at| upstream(at).is_some_and(|up| self.has_failed(question, up, now)));
    }

    /// Whether `upstream` has failed at `question` within the last seconds.
    pub(super) fn has_failed(
        &self,
        question: u64,
        upstream: &Upstream,
        now: CoarseInstant,
    ) -> bool {
        self.is_any(now) && self.table.is_set(self.key(question, upstream), second(now), FAILED_FOR)
    }

    fn is_any(&self, now: CoarseInstant) -> bool {
        let last = self.last.load(Relaxed);
        last != 0 && second(now).saturating_sub(last) <= FAILED_FOR
    }

    fn key(&self, question: u64, upstream: &Upstream) -> u64 {
        self.hasher.hash_one((question, &**upstream.label()))
    }
}

fn second(now: CoarseInstant) -> u32 {
    (now.as_millis() / 1_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::upstream::{Target, TransportConfig};

    const NOW: CoarseInstant = CoarseInstant::from_millis(7_000_000);

    #[test]
    fn many_of_the_same_question_are_suspicious_once() {
        let rates = RateTable::new();
        let suspicious = (0..4 * MANY).filter(|_| rates.is_suspicious(77, NOW)).count();
        assert_eq!(suspicious, 1);
        assert!(!(0..100_000u64).any(|n| rates.is_suspicious(n << 32, NOW)));
    }

    #[test]
    fn table_are_for_a_question_and_a_while() {
        let table = Table::new(16);
        let hash = 0xdead_beef_0000_0003;
        table.set(hash, 65_534);
        assert!(table.is_set(hash, 65_534, 5) && table.is_set(hash, 65_539, 5));
        assert!(!table.is_set(hash, 65_540, 5) && !table.is_set(hash ^ 1 << 40, 65_534, 5));
        assert!(!table.is_set(hash + 1, 65_534, 5));
        assert_eq!((table.add(5, 9), table.add(5, 9), table.add(5, 10)), (1, 2, 1));
    }

    #[test]
    fn who_has_failed_at_a_question_is_asked_last_for_it() {
        let upstream = |last| {
            let target = Target::plain(([192, 0, 2, last], 53).into());
            Upstream::new(target, TransportConfig::default(), None, 1).unwrap()
        };
        let upstreams = [upstream(1), upstream(2), upstream(3)];
        let failures = RecentFailures::new();
        let order = |question| {
            let mut order = Order::from_slice(&[0, 1, 2]);
            failures.put_last(question, NOW, &mut order, |at| upstreams.get(usize::from(at)));
            order.to_vec()
        };
        assert_eq!(order(7), [0, 1, 2]);
        failures.note(7, &upstreams[0], NOW);
        assert_eq!((order(7), order(8)), (vec![1, 2, 0], vec![0, 1, 2]));
        failures.note(7, &upstreams[1], NOW);
        assert_eq!(order(7), [2, 0, 1]);
        assert!(failures.has_failed(7, &upstreams[0], NOW));
        assert!(!failures.has_failed(7, &upstreams[2], NOW));
    }
}
