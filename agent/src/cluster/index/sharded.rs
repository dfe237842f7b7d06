//! A set that is copied at the cost of what changes in it.
//!
//! Its entries lie in shards of a few dozen, by hash, each behind an [`Arc`]. A copy shares all shards with the original; a
//! change to the copy copies one shard. Readers of the original see nothing of it.

use std::sync::Arc;

/// Entries for each shard, on average, before their number is doubled.
const FULL: usize = 32;

/// The set.
#[derive(Clone, Debug)]
pub struct Sharded<T> {
    /// None, or a power of two.
    shards: Vec<Arc<Vec<Slot<T>>>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Slot<T> {
    hash: u64,
    value: T,
}

impl<T> Default for Sharded<T> {
    fn default() -> Self {
        Self { shards: Vec::new(), len: 0 }
    }
}

impl<T: Clone> Sharded<T> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry of this hash that `is` accepts.
    pub fn find(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&T> {
        let shard = self.shards.get(self.place(hash))?;
        let slot = shard.iter().find(|slot| slot.hash == hash && is(&slot.value))?;
        Some(&slot.value)
    }

    /// All entries, each once. `start` chooses the first: every entry comes first for some `start`.
    pub fn iter_from(&self, start: usize) -> impl Iterator<Item = &T> {
        let count = self.shards.len().max(1);
        let (first, within) = (start % count, start / count);
        let (before, from) = self.shards.split_at(first.min(self.shards.len()));
        let shard = from.first().map_or(&[][..], |shard| shard.as_slice());
        let (head, tail) = shard.split_at(within.checked_rem(shard.len()).unwrap_or(0));
        let others = from.iter().skip(1).chain(before).flat_map(|shard| shard.iter());
        tail.iter().chain(others).chain(head).map(|slot| &slot.value)
    }

    /// Changes the entry of this hash that `is` accepts, or what `new` makes if there is none. `change` returns whether the
    /// entry stays.
    pub(super) fn change(
        &mut self,
        hash: u64,
        is: impl Fn(&T) -> bool,
        new: impl FnOnce() -> Option<T>,
        change: impl FnOnce(&mut T) -> bool,
    ) {
        if self.len >= self.shards.len() * FULL {
            self.grow();
        }
        let place = self.place(hash);
        let Some(shard) = self.shards.get_mut(place).map(Arc::make_mut) else { return };
        let known = shard.iter().position(|slot| slot.hash == hash && is(&slot.value));
        let at = match known {
            Some(at) => at,
            None => {
                let Some(value) = new() else { return };
                shard.push(Slot { hash, value });
                self.len += 1;
                shard.len() - 1
            }
        };
        if shard.get_mut(at).is_some_and(|slot| !change(&mut slot.value)) {
            shard.swap_remove(at);
            self.len -= 1;
        }
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.shards);
        let mut shards = vec![Vec::new(); (old.len() * 2).max(1)];
        for slot in old.iter().flat_map(|shard| shard.iter()) {
            if let Some(shard) = shards.get_mut(place(slot.hash, old.len() * 2)) {
                shard.push(slot.clone());
            }
        }
        self.shards = shards.into_iter().map(Arc::new).collect();
    }

    fn place(&self, hash: u64) -> usize {
        place(hash, self.shards.len())
    }
}

/// The shard of a hash among `count`, a power of two.
fn place(hash: u64, count: usize) -> usize {
    // Once more mixed: not every bit of a fast hash depends on every bit of the key.
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & count.saturating_sub(1)
}

/// An entry that several slices have.
#[derive(Clone, Debug)]
pub struct Counted<T> {
    /// What they have.
    pub value: T,
    count: u32,
}

impl<T> Counted<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value, count: 0 }
    }

    /// Counts one more, or one less; returns how many there are now.
    pub(super) fn step(&mut self, more: bool) -> u32 {
        self.count = if more { self.count + 1 } else { self.count.saturating_sub(1) };
        self.count
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn hash(value: u32) -> u64 {
        u64::from(value).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn set(values: impl IntoIterator<Item = u32>) -> Sharded<u32> {
        let mut set = Sharded::default();
        for value in values {
            set.change(hash(value), |known| *known == value, || Some(value), |_| true);
        }
        set
    }

    #[test]
    fn a_copy_changes_alone() {
        let old = set(0..1_000);
        let mut new = old.clone();
        for value in 0..500 {
            new.change(hash(value), |known| *known == value, || None, |_| false);
        }
        new.change(hash(7), |known| *known == 7, || None, |_| panic!("it is gone"));
        assert_eq!((old.len(), new.len()), (1_000, 500));
        for value in 0..1_000 {
            let is = |known: &u32| *known == value;
            assert!(old.find(hash(value), is).is_some());
            assert_eq!(new.find(hash(value), is).is_some(), value >= 500);
        }
        assert!(Sharded::<u32>::default().find(1, |_| true).is_none());
    }

    #[test]
    fn every_walk_sees_each_entry_once_and_any_may_come_first() {
        for size in [0, 1, 20, 300] {
            let set = set(0..size);
            let mut first: BTreeSet<u32> = BTreeSet::new();
            for start in 0..20_000 {
                first.extend(set.iter_from(start).next());
                if start < 50 {
                    let seen: BTreeSet<u32> = set.iter_from(start).copied().collect();
                    assert_eq!(seen.len(), size as usize);
                    assert_eq!(set.iter_from(start).count(), size as usize);
                }
            }
            assert_eq!(first.len(), size as usize);
        }
    }
}
