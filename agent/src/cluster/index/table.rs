//! A hash table that is read without waiting and written by one at a time.
//!
//! It consists of many small shards, each an immutable array behind one pointer. A writer copies the shard that it
//! changes, a few entries, and swaps the pointer; a reader sees the old array or the new one, and neither knows of the
//! other. Values are cheap to clone: a pointer, or a few octets.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use smallvec::SmallVec;

/// What a table keeps of an entry's hash beside it: all of it, so that most strangers are passed over without a look at
/// them; or, as `()`, nothing, where a look costs no more.
pub(super) trait Tag: Copy + Eq {
    /// The tag of this hash.
    fn of(hash: u64) -> Self;
}

impl Tag for u64 {
    fn of(hash: u64) -> Self {
        hash
    }
}

impl Tag for () {
    fn of(_: u64) -> Self {}
}

#[derive(Clone)]
struct Slot<E, T> {
    tag: T,
    value: E,
}

/// The entries whose hashes begin alike; the first `N` stand within.
type Shard<E, T, const N: usize> = SmallVec<[Slot<E, T>; N]>;

/// The table. Several entries may have the same hash, and even be equal: it is a bag. With `()` for `T` the closures meet
/// entries of other hashes, too.
pub(super) struct Table<E, T = u64, const N: usize = 2> {
    shards: Box<[ArcSwapOption<Shard<E, T, N>>]>,
    shift: u32,
}

impl<E: Clone, T: Tag, const N: usize> Table<E, T, N> {
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
        let (shard, tag) = (self.shard(hash)?.load(), T::of(hash));
        let slot = shard.as_ref()?.iter().find(|slot| slot.tag == tag && is(&slot.value))?;
        Some(read(&slot.value))
    }

    /// Calls `visit` with every entry of this hash, until it says that it has seen enough by returning false.
    pub(super) fn each(&self, hash: u64, mut visit: impl FnMut(&E) -> bool) {
        let Some(shard) = self.shard(hash).map(|shard| shard.load()) else { return };
        let Some(shard) = shard.as_ref() else { return };
        let tag = T::of(hash);
        let _ = shard.iter().filter(|slot| slot.tag == tag).all(|slot| visit(&slot.value));
    }

    /// Puts `value` in the place of the first entry that `is` accepts, or adds it.
    pub(super) fn put(&self, hash: u64, mut is: impl FnMut(&E) -> bool, value: E) {
        let tag = T::of(hash);
        self.change(hash, |old| {
            let at = old.iter().position(|slot| slot.tag == tag && is(&slot.value));
            let mut shard = Shard::with_capacity(old.len() + usize::from(at.is_none()));
            shard.extend(old.iter().cloned());
            let slot = Slot { tag, value };
            match at.and_then(|at| shard.get_mut(at)) {
                Some(known) => *known = slot,
                None => shard.push(slot),
            }
            Some(shard)
        });
    }

    /// Takes out the first entry that `is` accepts.
    pub(super) fn remove(&self, hash: u64, mut is: impl FnMut(&E) -> bool) {
        let tag = T::of(hash);
        self.change(hash, |old| {
            let at = old.iter().position(|slot| slot.tag == tag && is(&slot.value))?;
            let mut shard = Shard::with_capacity(old.len() - 1);
            let others = old.iter().enumerate().filter(|(place, _)| *place != at);
            shard.extend(others.map(|(_, slot)| slot.clone()));
            Some(shard)
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

    fn shard(&self, hash: u64) -> Option<&ArcSwapOption<Shard<E, T, N>>> {
        self.shards.get((hash >> self.shift) as usize)
    }

    // `change` returns the new shard, or `None` where the old one stays. Callers hold the index's writer lock, so that no
    // other change gets lost between load and store.
    fn change(&self, hash: u64, change: impl FnOnce(&[Slot<E, T>]) -> Option<Shard<E, T, N>>) {
        let Some(place) = self.shard(hash) else { return };
        let old = place.load();
        let new = change(old.as_ref().map_or(&[], |shard| shard.as_slice()));
        let Some(shard) = new else { return };
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
