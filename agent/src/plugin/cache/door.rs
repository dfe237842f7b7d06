//! Who is let into a full cache: what was asked for before.
//!
//! moka weighs a newcomer against what it would have to give up for it, and turns away what was asked for only once. To find
//! that out it takes the newcomer in first, which costs more than all the rest of a forwarded query together. Under a flood of
//! names that nobody asks for twice, this table of a few bits a name says the same for the price of one look.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Octets of budget for each place: about four places for each answer that fits.
const BUDGET_PER_PLACE: u64 = 128;
/// Places at most: 2 MiB.
const MAX_PLACES: u64 = 1 << 20;

/// Remembers the names that came to the door of a full cache of late. Shared by the workers; a remark that is lost between two
/// of them costs one more query.
pub struct Door {
    seen: OnceLock<Box<[AtomicU16]>>,
    places: usize,
}

impl Door {
    /// For a cache of `limit` octets. The table is made when it is needed first.
    pub fn new(limit: u64) -> Self {
        let places = (limit / BUDGET_PER_PLACE).clamp(1_024, MAX_PLACES).next_power_of_two();
        Self { seen: OnceLock::new(), places: places as usize }
    }

    /// True where this hash was here before, and nobody has taken its place since.
    pub fn knows(&self, hash: u64) -> bool {
        let seen = self.seen.get_or_init(|| (0..self.places).map(|_| AtomicU16::new(0)).collect());
        let Some(place) = seen.get(self.place(hash)) else { return false };
        place.load(Relaxed) == mark(hash) || {
            place.store(mark(hash), Relaxed);
            false
        }
    }

    /// Takes note of a hash, where notes are taken at all by now.
    pub fn remark(&self, hash: u64) {
        if let Some(place) = self.seen.get().and_then(|seen| seen.get(self.place(hash))) {
            place.store(mark(hash), Relaxed);
        }
    }

    fn place(&self, hash: u64) -> usize {
        hash as usize & (self.places - 1)
    }
}

/// Other bits than those of the place; 0 is nobody.
fn mark(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_time_is_known_until_the_place_is_taken() {
        let door = Door::new(1 << 20);
        let hash = 0x1234_5678_9abc_def0;
        assert!(!door.knows(hash) && door.knows(hash));
        assert!(!door.knows(hash ^ (1 << 60)), "another name in the same place");
        assert!(!door.knows(hash));
        door.remark(hash ^ (1 << 60));
        assert!(door.knows(hash ^ (1 << 60)));
        let known = (0..4_000u64).filter(|n| door.knows(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        assert!(known.count() < 10);
    }
}
