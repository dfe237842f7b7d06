//! The most frequent keys of a stream in bounded memory: space-saving (Metwally, Agrawal, El Abbadi, 2005), of which the least
//! frequent keys are let go of by many at once, so that a key costs one look-up.

use hashbrown::HashMap;

/// A sketch that never misses a key with more than its share of the stream: one of as many parts as it keeps keys. Of each key it
/// may keep something else beside its count.
pub struct Heavy<B = ()> {
    keep: usize,
    counts: HashMap<Box<[u8]>, Count<B>, foldhash::fast::RandomState>,
    /// What a key that is not there may have had at most.
    floor: u64,
}

struct Count<B> {
    sum: u64,
    /// How much of it the key may not have had.
    error: u64,
    beside: B,
}

/// What is kept of a key beside its count. It begins empty, also for a key that was let go of.
pub trait Beside: Default {
    /// Adds what an older sketch has of the same key.
    fn join(&mut self, older: &Self);
}

impl Beside for () {
    fn join(&mut self, (): &Self) {}
}

impl<B: Beside> Heavy<B> {
    /// Keeps `keep` keys at least, and twice as many at most.
    pub fn new(keep: usize) -> Self {
        Self { keep, counts: HashMap::default(), floor: 0 }
    }

    /// Adds `weight` to a key. Returns what is kept beside its count.
    pub fn add(&mut self, key: &[u8], weight: u64) -> &mut B {
        if !self.counts.contains_key(key) && self.counts.len() >= 2 * self.keep {
            self.prune();
        }
        let floor = self.floor;
        let new = || Count { sum: floor, error: floor, beside: B::default() };
        let count = self.counts.entry_ref(key).or_insert_with(new);
        count.sum += weight;
        &mut count.beside
    }

    /// What is kept beside the count of a key that is there.
    pub fn beside(&mut self, key: &[u8]) -> Option<&mut B> {
        self.counts.get_mut(key).map(|count| &mut count.beside)
    }

    /// Whether a key is there.
    pub fn has(&self, key: &[u8]) -> bool {
        self.counts.contains_key(key)
    }

    /// What each key had at least, and what is beside it; those of this sketch and of an older one are added up.
    pub fn merged_with<'a>(
        &'a self,
        older: Option<&'a Self>,
        rows: usize,
    ) -> Vec<(&'a [u8], u64, B)> {
        let mut sums: HashMap<&[u8], (u64, B)> = HashMap::new();
        for (key, count) in std::iter::once(self).chain(older).flat_map(|heavy| &heavy.counts) {
            let (sum, beside) = sums.entry(&**key).or_default();
            *sum += count.sum - count.error;
            beside.join(&count.beside);
        }
        let mut sums: Vec<_> =
            sums.into_iter().map(|(key, (sum, beside))| (key, sum, beside)).collect();
        sums.retain(|(_, sum, _)| *sum > 0);
        sums.sort_unstable_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
        sums.truncate(rows);
        sums
    }

    /// As [`Heavy::merged_with`], of the counts alone.
    pub fn merged<'a>(&'a self, older: Option<&'a Self>, rows: usize) -> Vec<(&'a [u8], u64)> {
        self.merged_with(older, rows).into_iter().map(|(key, sum, _)| (key, sum)).collect()
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

    impl Beside for u64 {
        fn join(&mut self, older: &Self) {
            *self += older;
        }
    }

    #[test]
    fn the_frequent_are_found_among_many_that_come_once() {
        let mut heavy: Heavy = Heavy::new(64);
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
        let (mut one, mut other): (Heavy, Heavy) = (Heavy::new(8), Heavy::new(8));
        for key in [b"a", b"b", b"a"] {
            one.add(key, 2);
            other.add(key, 1);
        }
        assert_eq!(one.merged(Some(&other), 9), [(&b"a"[..], 6), (b"b", 3)]);
    }

    #[test]
    fn what_is_beside_a_count_goes_with_it() {
        let (mut one, mut other) = (Heavy::<u64>::new(2), Heavy::<u64>::new(2));
        for heavy in [&mut one, &mut other] {
            heavy.add(b"a", 5);
            *heavy.beside(b"a").unwrap() += 3;
        }
        assert_eq!(one.merged_with(Some(&other), 9), [(&b"a"[..], 10, 6)]);
        // Keys without a count are let go of first, and are shown nowhere.
        for key in [b"b", b"c", b"d", b"e"] {
            one.add(key, 0);
        }
        assert!(one.has(b"a") && !one.has(b"b") && one.beside(b"z").is_none());
        assert_eq!(one.merged(None, 9), [(&b"a"[..], 5)]);
    }
}
