//! The doorkeeper of a full cache, as in TinyLFU: an answer is admitted when its question comes for the second time.
//!
//! moka compares a new entry with those that it would evict for it, and rejects what was queried only once. To find that out
//! it inserts the entry first, which costs more than all the rest of a forwarded query. Under a flood of names that are queried
//! once, this table of a few bits for each name decides the same with one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Octets of budget for each place: about four places for each answer that fits.
const BUDGET_PER_PLACE: u64 = 128;
/// Places at most: 2 MiB.
const MAX_PLACES: u64 = 1 << 20;

/// Remembers the questions that a full cache has recently not admitted. Shared by the workers; a record that is lost between
/// two of them costs one more query.
pub struct Doorkeeper {
    seen: OnceLock<Box<[AtomicU16]>>,
    places: usize,
}

impl Doorkeeper {
    /// For a cache of `limit` octets. The table is made when it is needed first.
    pub fn new(limit: u64) -> Self {
        let places = (limit / BUDGET_PER_PLACE).clamp(1_024, MAX_PLACES).next_power_of_two();
        Self { seen: OnceLock::new(), places: places as usize }
    }

    /// True if this hash was recorded before and no other has replaced it since. Records it.
    pub fn admits(&self, hash: u64) -> bool {
        let seen = self.seen.get_or_init(|| (0..self.places).map(|_| AtomicU16::new(0)).collect());
        let Some(place) = seen.get(self.place(hash)) else { return false };
        place.load(Relaxed) == mark(hash) || {
            place.store(mark(hash), Relaxed);
            false
        }
    }

    /// Records a hash. Does nothing before the cache was full for the first time.
    pub fn record(&self, hash: u64) {
        if let Some(place) = self.seen.get().and_then(|seen| seen.get(self.place(hash))) {
            place.store(mark(hash), Relaxed);
        }
    }

    fn place(&self, hash: u64) -> usize {
        hash as usize & (self.places - 1)
    }
}

/// Other bits than those of the place; 0: none.
fn mark(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_time_is_known_until_the_place_is_taken() {
        let door = Doorkeeper::new(1 << 20);
        let hash = 0x1234_5678_9abc_def0;
        assert!(!door.admits(hash) && door.admits(hash));
        assert!(!door.admits(hash ^ (1 << 60)), "another name in the same place");
        assert!(!door.admits(hash));
        door.record(hash ^ (1 << 60));
        assert!(door.admits(hash ^ (1 << 60)));
        let known = (0..4_000u64).filter(|n| door.admits(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        assert!(known.count() < 10);
    }
}
