//! The most frequent keys of a stream in bounded memory: space-saving (Metwally, Agrawal, El Abbadi, 2005), of which the least
//! frequent keys are let go of by many at once, so that a key costs one look-up.

use std::collections::HashMap;

/// A sketch that never misses a key with more than its share of the stream: one of as many parts as it keeps keys.
pub struct Heavy {
    keep: usize,
    counts: HashMap<Box<[u8]>, Count, foldhash::fast::RandomState>,
    /// What a key that is not there may have had at most.
    floor: u64,
}

#[derive(Clone, Copy)]
struct Count {
    sum: u64,
    /// How much of it the key may not have had.
    error: u64,
}

impl Heavy {
    /// Keeps `keep` keys at least, and twice as many at most.
    pub fn new(keep: usize) -> Self {
        Self { keep, counts: HashMap::default(), floor: 0 }
    }

    /// Adds `weight` to a key.
    pub fn add(&mut self, key: &[u8], weight: u64) {
        if let Some(count) = self.counts.get_mut(key) {
            count.sum += weight;
            return;
        }
        if self.counts.len() >= 2 * self.keep {
            self.prune();
        }
        let count = Count { sum: self.floor + weight, error: self.floor };
        self.counts.insert(key.into(), count);
    }

    /// What each key had at least; those of two sketches are added up.
    pub fn merged<'a>(&'a self, other: Option<&'a Self>, rows: usize) -> Vec<(&'a [u8], u64)> {
        let mut sums: HashMap<&[u8], u64> = HashMap::new();
        for (key, count) in std::iter::once(self).chain(other).flat_map(|heavy| &heavy.counts) {
            *sums.entry(key).or_default() += count.sum - count.error;
        }
        let mut sums: Vec<_> = sums.into_iter().filter(|(_, sum)| *sum > 0).collect();
        sums.sort_unstable_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
        sums.truncate(rows);
        sums
    }

    fn prune(&mut self) {
        let mut sums: Vec<u64> = self.counts.values().map(|count| count.sum).collect();
        if self.keep == 0 || sums.len() <= self.keep {
            return;
        }
        let (_, bar, _) = sums.select_nth_unstable_by(self.keep, |one, other| other.cmp(one));
        let bar = *bar;
        self.counts.retain(|_, count| count.sum > bar);
        self.floor = self.floor.max(bar);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frequent_are_found_among_many_that_come_once() {
        let mut heavy = Heavy::new(64);
        for number in 0..50_000_u32 {
            heavy.add(&number.to_be_bytes(), 1);
            if number % 10 == 0 {
                heavy.add(b"often", 1);
            }
            if number % 20 == 0 {
                heavy.add(b"at times", 1);
            }
            assert!(heavy.counts.len() <= 128);
        }
        let top = heavy.merged(None, 2);
        assert_eq!(
            top.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
            [&b"often"[..], b"at times"]
        );
        assert!((4_900..=5_000).contains(&top[0].1), "{}", top[0].1);
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let (mut one, mut other) = (Heavy::new(8), Heavy::new(8));
        for key in [b"a", b"b", b"a"] {
            one.add(key, 2);
            other.add(key, 1);
        }
        assert_eq!(one.merged(Some(&other), 9), [(&b"a"[..], 6), (b"b", 3)]);
    }
}
