//! The first level of the cache: the few thousand answers that a worker has served recently, for itself alone. A look-up takes
//! about 10 ns, one in the shared store a few hundred.

use std::sync::Arc;

use super::entry::Entry;
use super::store::Store;

/// What a node asks for over and over fits many times, and the table takes 64 KiB a worker.
const SETS: usize = 1_024;
/// Entries whose hashes share a set. With one for each of 4,096 hashes, one look-up in eight for 1,000 names went to the store.
const WAYS: usize = 4;
/// The longest entry that is held, in octets with overhead: an answer of a usual datagram. It bounds what a worker can
/// hold on to after the store has let go of it: 6 MiB, and in practice next to nothing.
const MAX_WEIGHT: u64 = 1_536;
/// How firmly a much-asked entry holds its slot against others that want it.
const MAX_CREDIT: u8 = 3;
/// After so many hits one is recorded in the store, so that its eviction knows what is used; before that, at each power of two.
const TOUCH_EVERY: u16 = 128;

/// A set-associative table from a question's hash to its entry. Worker-local, so it needs no lock; the store's generation
/// says when all that it holds is void.
#[derive(Default)]
pub struct WorkerCache {
    sets: Vec<Set>,
    generation: u64,
}

/// One line of the processor's cache.
#[derive(Default)]
#[repr(align(64))]
struct Set([Slot; WAYS]);

const _: () = assert!(size_of::<Set>() == 64);

#[derive(Default)]
struct Slot {
    entry: Option<Arc<Entry>>,
    /// The upper half of the hash; the lower half chooses the set.
    tag: u32,
    hits: u16,
    credit: u8,
}

impl Slot {
    fn holds(&self, hash: u64) -> bool {
        self.tag == tag(hash) && self.entry.is_some()
    }
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

impl WorkerCache {
    /// An empty one; the table is made when the first entry comes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The entry under `hash`, which the caller checks to be the one that it wants. Every so often the store is told.
    pub fn find(&mut self, store: &Store, hash: u64) -> Option<&Arc<Entry>> {
        if self.generation != store.generation() {
            self.sets.clear();
            return None;
        }
        let set = self.sets.get_mut(hash as usize % SETS)?;
        let slot = set.0.iter_mut().find(|slot| slot.holds(hash))?;
        // The store has a newer one: that is to be found, and offered here.
        if slot.entry.as_ref().is_some_and(|entry| entry.is_replaced()) {
            slot.entry = None;
            return None;
        }
        slot.hits = slot.hits.wrapping_add(1);
        slot.credit = MAX_CREDIT;
        if slot.hits.is_multiple_of(TOUCH_EVERY)
            || (slot.hits < TOUCH_EVERY && slot.hits.is_power_of_two())
        {
            store.touch(hash);
        }
        slot.entry.as_ref()
    }

    /// Offers an entry that the store has just given out. One that is asked for more often keeps its slot for a while.
    pub fn offer(&mut self, store: &Store, hash: u64, entry: &Arc<Entry>) {
        if entry.weight() > MAX_WEIGHT {
            return;
        }
        if self.generation != store.generation() {
            self.sets.clear();
            self.generation = store.generation();
        }
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, Set::default);
        }
        let Some(Set(slots)) = self.sets.get_mut(hash as usize % SETS) else { return };
        // Its own slot, else a free one, else the one that is asked for least.
        let rank = |slot: &&mut Slot| match slot.entry {
            _ if slot.holds(hash) => (0, 0),
            None => (1, 0),
            Some(_) => (2, slot.credit),
        };
        let Some(slot) = slots.iter_mut().min_by_key(rank) else { return };
        if !slot.holds(hash) && slot.entry.is_some() && slot.credit > 0 {
            slot.credit -= 1;
            return;
        }
        *slot = Slot { entry: Some(Arc::clone(entry)), tag: tag(hash), hits: 0, credit: 1 };
    }

    /// Lets go of everything.
    pub fn clear(&mut self) {
        self.sets = Vec::new();
    }
}
