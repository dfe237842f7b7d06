//! Admission control: a bounded number of places, shared fairly by key (a client's address, a group of upstreams).
//!
//! The rule is the dynamic threshold of shared-memory switches (Choudhury and Hahne, 1998): a key is given a place only
//! while it holds less than [`ALPHA`] times the places that are free. A lone greedy key gets 8/9 of the places, two get
//! 8/17 each, and so on; the rest stays free for keys that hold less. Nothing is taken away from a key, and a key that
//! asks for little is never refused while a place is free. Up to a limit of 8 a lone key gets every place.
//!
//! Keys are not stored. They are hashed with a seed of the process into [`COUNTERS`] counters, so that two keys can share
//! a counter and then count as one: with 100 keys that hold places, one newcomer in 40 shares with one of them.
//! A client's key is its whole address, in IPv6 too: all pods of a node come from one /64.
//!
//! Acquiring and giving back are a few atomic operations: no lock, no allocation. They are meant for what misses, connects
//! or grows; a hit has no need of them.

use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A key may hold so many times the places that are free.
pub const ALPHA: usize = 8;

/// Counters of one [`Shares`], 32 KiB. A power of two.
pub const COUNTERS: usize = 4_096;

/// A bounded number of places. A place is a query, a connection or a byte.
pub struct Shares {
    limit: AtomicUsize,
    /// Places that are held; above `limit` only after that was lowered.
    used: AtomicUsize,
    /// Places that are held, by hash of the key. While an acquisition is decided its counter is ahead of `used`.
    held: Box<[AtomicUsize]>,
    hasher: foldhash::quality::RandomState,
}

/// Places that one key holds. They are given back when it is dropped.
pub struct Permit {
    shares: Arc<Shares>,
    /// Index into `Shares::held`, below [`COUNTERS`].
    counter: usize,
    amount: usize,
}

impl Shares {
    /// `limit` places, all of them free.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            held: (0..COUNTERS).map(|_| AtomicUsize::new(0)).collect(),
            hasher: foldhash::quality::RandomState::default(),
        })
    }

    /// Takes `amount` places for `key`; all of them or none. An amount of zero always succeeds: a permit that can grow.
    ///
    /// It is refused when fewer are free, or when `key` holds its share.
    pub fn try_acquire(self: &Arc<Self>, key: impl Hash, amount: usize) -> Option<Permit> {
        let counter = self.hasher.hash_one(key) as usize % COUNTERS;
        self.take(counter, amount).then(|| Permit { shares: Arc::clone(self), counter, amount })
    }

    /// Places that `key` holds, with those of keys that share its counter.
    pub fn held(&self, key: impl Hash) -> usize {
        let counter = self.hasher.hash_one(key) as usize % COUNTERS;
        self.held.get(counter).map_or(0, |held| held.load(Relaxed))
    }

    /// Places that are held.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// All places, held or free.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Makes it so many places. Those that are held beyond are not taken away; none is given until they are back.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    fn take(&self, counter: usize, amount: usize) -> bool {
        if amount == 0 {
            return true;
        }
        let Some(counter) = self.held.get(counter) else { return false };
        // First its counter, then the sum: of two that race for one key's last place, the first to count gets it.
        let held = counter.fetch_add(amount, Relaxed).saturating_add(amount);
        let taken = self.used.fetch_update(Relaxed, Relaxed, |used| {
            let after = used.checked_add(amount)?;
            (within_share(held, self.limit().checked_sub(after)?)).then_some(after)
        });
        if taken.is_err() {
            counter.fetch_sub(amount, Relaxed);
        }
        taken.is_ok()
    }

    fn give_back(&self, counter: usize, amount: usize) {
        if let Some(counter) = self.held.get(counter) {
            self.used.fetch_sub(amount, Relaxed);
            counter.fetch_sub(amount, Relaxed);
        }
    }
}

impl Permit {
    /// Takes `amount` more places, all of them or none, by the rule of [`Shares::try_acquire`].
    #[must_use]
    pub fn grow(&mut self, amount: usize) -> bool {
        let grown = self.shares.take(self.counter, amount);
        if grown {
            self.amount += amount;
        }
        grown
    }

    /// Gives back `amount` places, or all that it holds if these are fewer.
    pub fn shrink(&mut self, amount: usize) {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        self.shares.give_back(self.counter, amount);
    }

    /// Places that this permit holds.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Places that its key holds, with all of its permits.
    pub fn held_by_key(&self) -> usize {
        self.shares.held.get(self.counter).map_or(0, |held| held.load(Relaxed))
    }

    /// True if its key holds more than it would be given now, since others have come. What is idle can be given up then.
    pub fn is_over_share(&self) -> bool {
        let free = self.shares.limit().saturating_sub(self.shares.used());
        !within_share(self.held_by_key(), free)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shares.give_back(self.counter, self.amount);
    }
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").field("limit", &self.limit()).field("used", &self.used()).finish()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("amount", &self.amount).finish_non_exhaustive()
    }
}

/// True if a key may hold `held` places when `free` others are left. The last place of `held` was free before it was given,
/// hence the one more: places that are taken at once are judged as if they were taken one by one.
fn within_share(held: usize, free: usize) -> bool {
    held <= ALPHA.saturating_mul(free.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::IpAddr;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// Takes single places for `key` until it is refused.
    fn flood(shares: &Arc<Shares>, key: u32) -> Vec<Permit> {
        std::iter::from_fn(|| shares.try_acquire(key, 1)).collect()
    }

    /// `count` keys, no two of which share a counter.
    fn distinct_keys(shares: &Shares, count: usize) -> Vec<u32> {
        let mut seen = std::collections::HashSet::new();
        let distinct = |key: &u32| seen.insert(shares.hasher.hash_one(key) as usize % COUNTERS);
        (0..).filter(distinct).take(count).collect()
    }

    #[test]
    fn a_lone_key_gets_every_place_of_a_small_limit_and_eight_ninths_of_a_large_one() {
        for limit in 0..=8 {
            assert_eq!(flood(&Shares::new(limit), 1).len(), limit);
        }
        assert_eq!(flood(&Shares::new(1_000), 1).len(), 889);
        assert_eq!(flood(&Shares::new(8_192), 1).len(), 7_282);
    }

    #[test]
    fn a_newcomer_gets_in_beside_a_flooder() {
        let shares = Shares::new(1_000);
        let keys = distinct_keys(&shares, 101);
        let flooder = flood(&shares, keys[0]);
        let newcomers: Vec<_> =
            keys[1..].iter().map(|key| shares.try_acquire(key, 1).unwrap()).collect();
        // What is held stays, and nothing comes on top of it.
        assert!(flooder[0].is_over_share() && !newcomers[0].is_over_share());
        assert!(shares.try_acquire(keys[0], 1).is_none());
        assert_eq!(flooder[0].held_by_key(), 889);
        assert_eq!(shares.used(), 989);
    }

    #[test]
    fn two_flooders_share() {
        let shares = Shares::new(1_000);
        let keys = distinct_keys(&shares, 2);
        let (mut one, mut two) = (Vec::new(), Vec::new());
        loop {
            let (more_one, more_two) =
                (shares.try_acquire(keys[0], 1), shares.try_acquire(keys[1], 1));
            if more_one.is_none() && more_two.is_none() {
                break;
            }
            one.extend(more_one);
            two.extend(more_two);
        }
        assert!(one.len().abs_diff(two.len()) <= 1, "{} {}", one.len(), two.len());
        assert!((938..=946).contains(&shares.used()), "{}", shares.used());
        // A second flooder that comes late gets what the first gives back, until they are even.
        drop(two);
        let mut two = flood(&shares, keys[1]);
        while one.pop().is_some() && one.len() > two.len() {
            two.extend(flood(&shares, keys[1]));
        }
        assert!(one.len().abs_diff(two.len()) <= 8, "{} {}", one.len(), two.len());
    }

    #[test]
    fn many_taken_at_once_are_as_many_as_one_by_one() {
        let shares = Shares::new(1_000);
        assert!(shares.try_acquire(1, 890).is_none());
        let mut permit = shares.try_acquire(1, 889).unwrap();
        assert!(!permit.grow(1));
        permit.shrink(100);
        assert!(permit.grow(100) && !permit.grow(1));
        permit.shrink(usize::MAX);
        assert_eq!((permit.amount(), shares.used()), (0, 0));
        assert!(!permit.grow(usize::MAX) && !permit.grow(usize::MAX - 1) && permit.grow(0));
        assert_eq!(shares.used(), 0);
    }

    #[test]
    fn a_limit_that_is_lowered_takes_nothing_away() {
        let shares = Shares::new(100);
        let held = flood(&shares, 1);
        shares.set_limit(10);
        assert!(shares.try_acquire(2, 1).is_none() && held[0].is_over_share());
        assert_eq!((shares.used(), shares.limit()), (held.len(), 10));
        drop(held);
        assert_eq!(flood(&shares, 1).len(), 9);
        shares.set_limit(100);
        assert_eq!(flood(&shares, 1).len(), 89);
    }

    #[test]
    fn an_address_is_one_key_in_either_family() {
        let shares = Shares::new(8);
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let _one = shares.try_acquire(address, 1).unwrap();
        let two = shares.try_acquire(address, 1).unwrap();
        assert_eq!(two.held_by_key(), 2);
    }

    #[test]
    fn threads_never_pass_the_limit_and_give_everything_back() {
        let shares = Shares::new(64);
        thread::scope(|scope| {
            for key in 0..4_u32 {
                let shares = &shares;
                scope.spawn(move || {
                    for round in 0..5_000 {
                        let mut permit = shares.try_acquire(key % 3, round % 9);
                        if let Some(permit) = &mut permit {
                            let _ = permit.grow(round % 5);
                            permit.shrink(round % 3);
                        }
                        assert!(shares.used() <= shares.limit());
                    }
                });
            }
        });
        assert_eq!(shares.used(), 0);
        assert!(shares.held.iter().all(|held| held.load(Relaxed) == 0));
    }

    proptest! {
        #[test]
        fn it_follows_its_model(
            limit in 0_usize..400,
            steps in prop::collection::vec((0_usize..6, 0_usize..4, 0_usize..60), 0..200),
        ) {
            let shares = Shares::new(limit);
            let keys = distinct_keys(&shares, 6);
            let mut permits: Vec<(usize, Permit)> = Vec::new();
            let mut model: HashMap<usize, usize> = HashMap::new();
            for (key, step, amount) in steps {
                let used: usize = model.values().sum();
                let held = model.get(&key).copied().unwrap_or(0);
                let one_by_one =
                    (0..amount).all(|n| used + n < limit && held + n < ALPHA * (limit - used - n));
                match step {
                    0 | 1 => {
                        let permit = shares.try_acquire(keys[key], amount);
                        prop_assert_eq!(permit.is_some(), one_by_one);
                        if let Some(permit) = permit {
                            *model.entry(key).or_default() += amount;
                            permits.push((key, permit));
                        }
                    }
                    2 => {
                        if let Some((key, mut permit)) = permits.pop() {
                            let amount = amount.min(permit.amount());
                            permit.shrink(amount);
                            *model.entry(key).or_default() -= amount;
                            permits.insert(0, (key, permit));
                        }
                    }
                    _ => {
                        if let Some((key, permit)) = permits.pop() {
                            *model.entry(key).or_default() -= permit.amount();
                        }
                    }
                }
                prop_assert_eq!(shares.used(), model.values().sum::<usize>());
                prop_assert!(shares.used() <= limit);
            }
            drop(permits);
            prop_assert_eq!(shares.used(), 0);
        }
    }
}
