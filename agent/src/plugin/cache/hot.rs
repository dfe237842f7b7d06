//! Each worker's own few thousand hottest answers: found in about 10 ns, where the shared store takes a few hundred.

use std::sync::Arc;

use super::entry::Entry;
use super::store::Store;

/// Slots: what a node asks for over and over fits many times, and the table takes 96 KiB a worker.
const SLOTS: usize = 4_096;
/// The longest entry that is held, in octets with overhead: an answer of a usual datagram. It bounds what a worker can
/// hold on to after the store has let go of it: 6 MiB, and in practice next to nothing.
const MAX_WEIGHT: u64 = 1_536;
/// How firmly a much-asked entry holds its slot against others that want it.
const MAX_CREDIT: u8 = 3;
/// After so many hits the store is told of one, so that it knows what is hot; before that, at each power of two.
const TOUCH_EVERY: u32 = 128;

/// A direct-mapped table from a question's hash to its entry. Worker-local, so it needs no lock; the store's generation
/// says when all that it holds is void.
#[derive(Default)]
pub struct HotSet {
    slots: Vec<Slot>,
    generation: u64,
}

#[derive(Default)]
struct Slot {
    hash: u64,
    entry: Option<Arc<Entry>>,
    hits: u32,
    credit: u8,
}

impl HotSet {
    /// An empty one; the table is made when the first entry comes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The entry under `hash`, which the caller checks to be the one that it wants. Every so often the store is told.
    pub fn find(&mut self, store: &Store, hash: u64) -> Option<&Arc<Entry>> {
        if self.generation != store.generation() {
            self.slots.clear();
            return None;
        }
        let slot = self.slots.get_mut(hash as usize % SLOTS)?;
        if slot.hash != hash {
            return None;
        }
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
            self.slots.clear();
            self.generation = store.generation();
        }
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, Slot::default);
        }
        let Some(slot) = self.slots.get_mut(hash as usize % SLOTS) else { return };
        if slot.hash != hash && slot.entry.is_some() && slot.credit > 0 {
            slot.credit -= 1;
            return;
        }
        *slot = Slot { hash, entry: Some(Arc::clone(entry)), hits: 0, credit: 1 };
    }

    /// Lets go of everything.
    pub fn clear(&mut self) {
        self.slots = Vec::new();
    }
}
