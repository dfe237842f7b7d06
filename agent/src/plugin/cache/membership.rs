//! A membership filter (a Bloom filter with one hash) in front of moka: tells with one load what is not in the cache.
//!
//! moka records each look-up that finds nothing, and the look-up itself is expensive beside what else a forwarded query costs.
//! The filter is small enough to stay in a processor's cache. An entry that was removed since the last rebuild still counts as
//! present, which costs the look-up. An entry that another thread inserts in the instant in which a rebuild begins may be
//! reported absent: its question is forwarded once more, as if it had been evicted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Octets of budget for each place: about seven places for each answer that fits.
const BUDGET_PER_PLACE: u64 = 64;
/// Places at most: 256 KiB.
const MAX_PLACES: u64 = 1 << 21;

/// The hashes that were inserted since the last rebuild began.
pub struct MembershipFilter {
    tables: [Box<[AtomicU64]>; 2],
    // How many rebuilds have begun and how many have ended, together: odd while one is in progress. Then both tables count, the
    // new one while it is being filled and the old one.
    rebuilds: AtomicUsize,
}

impl MembershipFilter {
    /// For a cache of `limit` octets.
    pub fn new(limit: u64) -> Self {
        let places = (limit / BUDGET_PER_PLACE).clamp(1_024, MAX_PLACES).next_power_of_two();
        let table = || (0..places / 64).map(|_| AtomicU64::new(0)).collect();
        Self { tables: [table(), table()], rebuilds: AtomicUsize::new(0) }
    }

    /// False if no entry has this hash.
    pub fn may_contain(&self, hash: u64) -> bool {
        let rebuilds = self.rebuilds.load(Relaxed);
        let (new, old) = self.tables(rebuilds);
        is_set(new, hash) || (!rebuilds.is_multiple_of(2) && is_set(old, hash))
    }

    /// Adds a hash.
    pub fn insert(&self, hash: u64) {
        let (new, _) = self.tables(self.rebuilds.load(Relaxed));
        if let Some(word) = new.get(index(new, hash)) {
            word.fetch_or(bit(hash), Relaxed);
        }
    }

    /// Begins a rebuild without what was removed: [`MembershipFilter::insert`] has to be called for every entry, and then
    /// [`MembershipFilter::end_rebuild`]. For one thread at a time.
    pub fn begin_rebuild(&self) {
        let (_, unused) = self.tables(self.rebuilds.load(Relaxed));
        unused.iter().for_each(|word| word.store(0, Relaxed));
        self.rebuilds.fetch_add(1, Relaxed);
    }

    /// Every entry has been inserted.
    pub fn end_rebuild(&self) {
        self.rebuilds.fetch_add(1, Relaxed);
    }

    /// The table that is written to, and the other one.
    fn tables(&self, rebuilds: usize) -> (&[AtomicU64], &[AtomicU64]) {
        let [even, odd] = &self.tables;
        if rebuilds.div_ceil(2).is_multiple_of(2) { (even, odd) } else { (odd, even) }
    }
}

fn is_set(table: &[AtomicU64], hash: u64) -> bool {
    table.get(index(table, hash)).is_some_and(|word| word.load(Relaxed) & bit(hash) != 0)
}

fn index(table: &[AtomicU64], hash: u64) -> usize {
    (hash >> 6) as usize & (table.len() - 1)
}

fn bit(hash: u64) -> u64 {
    1 << (hash % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inserted_is_there_until_a_rebuild_leaves_it_out() {
        let filter = MembershipFilter::new(1 << 20);
        let (stays, goes, comes) = (1 << 40 | 1, 1 << 40 | 2, 1 << 40 | 3);
        assert!(!filter.may_contain(stays));
        filter.insert(stays);
        filter.insert(goes);
        for _ in 0..9 {
            filter.begin_rebuild();
            assert!(filter.may_contain(stays), "while it is being looked for");
            filter.insert(comes);
            filter.insert(stays);
            filter.end_rebuild();
            assert!(filter.may_contain(stays) && filter.may_contain(comes));
            assert!(!filter.may_contain(goes));
        }
    }
}
