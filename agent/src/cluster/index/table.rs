//! A hash table that is read without waiting and written by one at a time.
//!
//! It consists of many small shards, each an immutable array behind one pointer. A writer copies the shard that it
//! changes, a few entries, and swaps the pointer; a reader sees the old array or the new one, and neither knows of the
//! other. Values are cheap to clone: a pointer, or a few octets.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use smallvec::SmallVec;

/// One value with its hash, so that most strangers are passed over without a look at them.
#[derive(Clone)]
struct Slot<E> {
    hash: u64,
    value: E,
}

/// The entries whose hashes begin alike.
type Shard<E> = SmallVec<[Slot<E>; 3]>;

/// The table. Several entries may have the same hash, and even be equal: it is a bag.
pub(super) struct Table<E> {
    shards: Box<[ArcSwapOption<Shard<E>>]>,
    shift: u32,
}

impl<E: Clone> Table<E> {
    /// An empty table of 2 to the power of `bits` shards, eight octets each.
    pub(super) fn new(bits: u32) -> Self {
        let count = 1usize << bits.clamp(1, 24);
        let shards: Vec<_> = (0..count).map(|_| ArcSwapOption::const_empty()).collect();
        Self { shift: 64 - count.trailing_zeros(), shards: shards.into_boxed_slice() }
    }

    /// Calls `read` with the first entry of this hash that `is` accepts. Never waits, never allocates.
    pub(super) fn read<R>(
        &self,
        hash: u64,
        is: impl Fn(&E) -> bool,
        read: impl FnOnce(&E) -> R,
    ) -> Option<R> {
        let shard = self.shard(hash)?.load();
        let slot = shard.as_ref()?.iter().find(|slot| slot.hash == hash && is(&slot.value))?;
        Some(read(&slot.value))
    }

    /// Calls `visit` with every entry of this hash, until it says that it has seen enough by returning false.
    pub(super) fn each(&self, hash: u64, mut visit: impl FnMut(&E) -> bool) {
        let Some(shard) = self.shard(hash).map(|shard| shard.load()) else { return };
        let Some(shard) = shard.as_ref() else { return };
        let _ = shard.iter().filter(|slot| slot.hash == hash).all(|slot| visit(&slot.value));
    }

    /// Puts `value` in the place of the first entry that `is` accepts, or adds it.
    pub(super) fn put(&self, hash: u64, is: impl Fn(&E) -> bool, value: E) {
        self.change(hash, |shard| {
            match shard.iter_mut().find(|slot| slot.hash == hash && is(&slot.value)) {
                Some(slot) => slot.value = value,
                None => {
                    shard.reserve_exact(1);
                    shard.push(Slot { hash, value });
                }
            }
        });
    }

    /// Takes out the first entry that `is` accepts.
    pub(super) fn remove(&self, hash: u64, is: impl Fn(&E) -> bool) {
        self.change(hash, |shard| {
            if let Some(at) = shard.iter().position(|slot| slot.hash == hash && is(&slot.value)) {
                shard.remove(at);
                shard.shrink_to_fit();
            }
        });
    }

    /// Every entry, shard by shard as each is when its turn comes.
    pub(super) fn all(&self) -> impl Iterator<Item = E> + '_ {
        self.shards.iter().flat_map(|shard| {
            let entries: Vec<E> = shard
                .load()
                .as_ref()
                .map(|s| s.iter().map(|slot| slot.value.clone()).collect())
                .unwrap_or_default();
            entries
        })
    }

    fn shard(&self, hash: u64) -> Option<&ArcSwapOption<Shard<E>>> {
        self.shards.get((hash >> self.shift) as usize)
    }

    // Callers hold the index's writer lock, so that no other change gets lost between load and store.
    fn change(&self, hash: u64, change: impl FnOnce(&mut Shard<E>)) {
        let Some(place) = self.shard(hash) else { return };
        let mut shard = place.load().as_ref().map(|shard| Shard::clone(shard)).unwrap_or_default();
        change(&mut shard);
        place.store((!shard.is_empty()).then(|| Arc::new(shard)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_and_go() {
        let table: Table<(u64, char)> = Table::new(4);
        let find = |key: u64| table.read(key << 58, |e| e.0 == key, |e| e.1);
        for key in 0..60 {
            table.put(key << 58, |e| e.0 == key, (key, 'a'));
        }
        table.put(7 << 58, |e| e.0 == 7, (7, 'b'));
        assert_eq!((find(7), find(8), find(61)), (Some('b'), Some('a'), None));
        assert_eq!(table.all().count(), 60);
        table.remove(7 << 58, |e| e.0 == 7);
        assert_eq!((find(7), table.all().count()), (None, 59));
    }
}
