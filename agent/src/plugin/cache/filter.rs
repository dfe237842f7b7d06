//! What is surely not in the cache, for the price of one look.
//!
//! moka makes a note of each look-up that finds nothing, and its look-up itself is dear beside what else a forwarded query
//! costs. Most names that are not there are known not to be by this table: a bit for each place, set when an answer is kept.
//! It is small enough to stay in a processor's cache. What has gone since the last sweep is still thought to be there, which
//! costs the look-up. What another thread keeps in the instant in which a sweep begins may not be found again: then it is asked
//! for once more, as if it had been evicted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Octets of budget for each place: about seven places for each answer that fits.
const BUDGET_PER_PLACE: u64 = 64;
/// Places at most: 256 KiB.
const MAX_PLACES: u64 = 1 << 21;

/// Remembers what was kept since the last sweep began.
pub struct Filter {
    tables: [Box<[AtomicU64]>; 2],
    // How many sweeps have begun and how many have ended, together: odd while one is under way. Then both tables count, the
    // new one while it is being filled and the old one.
    sweeps: AtomicUsize,
}

impl Filter {
    /// For a cache of `limit` octets.
    pub fn new(limit: u64) -> Self {
        let places = (limit / BUDGET_PER_PLACE).clamp(1_024, MAX_PLACES).next_power_of_two();
        let table = || (0..places / 64).map(|_| AtomicU64::new(0)).collect();
        Self { tables: [table(), table()], sweeps: AtomicUsize::new(0) }
    }

    /// False where nothing is kept under this hash.
    pub fn may_have(&self, hash: u64) -> bool {
        let sweeps = self.sweeps.load(Relaxed);
        let (new, old) = self.tables(sweeps);
        is_set(new, hash) || (!sweeps.is_multiple_of(2) && is_set(old, hash))
    }

    /// Notes that something is kept under this hash.
    pub fn note(&self, hash: u64) {
        let (new, _) = self.tables(self.sweeps.load(Relaxed));
        if let Some(word) = new.get(index(new, hash)) {
            word.fetch_or(bit(hash), Relaxed);
        }
    }

    /// Begins to forget what has gone: [`Filter::note`] has to be called for all that is kept, and then [`Filter::swept`]. For
    /// one thread at a time.
    pub fn sweep(&self) {
        let (_, unused) = self.tables(self.sweeps.load(Relaxed));
        unused.iter().for_each(|word| word.store(0, Relaxed));
        self.sweeps.fetch_add(1, Relaxed);
    }

    /// All that is kept has been noted.
    pub fn swept(&self) {
        self.sweeps.fetch_add(1, Relaxed);
    }

    /// The table that is written to, and the other one.
    fn tables(&self, sweeps: usize) -> (&[AtomicU64], &[AtomicU64]) {
        let [even, odd] = &self.tables;
        if sweeps.div_ceil(2).is_multiple_of(2) { (even, odd) } else { (odd, even) }
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
    fn what_is_noted_is_there_until_a_sweep_does_not_find_it() {
        let filter = Filter::new(1 << 20);
        let (stays, goes, comes) = (1 << 40 | 1, 1 << 40 | 2, 1 << 40 | 3);
        assert!(!filter.may_have(stays));
        filter.note(stays);
        filter.note(goes);
        for _ in 0..9 {
            filter.sweep();
            assert!(filter.may_have(stays), "while it is being looked for");
            filter.note(comes);
            filter.note(stays);
            filter.swept();
            assert!(filter.may_have(stays) && filter.may_have(comes));
            assert!(!filter.may_have(goes));
        }
    }
}
