//! The one cache of the process: moka behind a small type, a budget in bytes, and the flights that are under way.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;

use super::config::Size;
use super::doorkeeper::Doorkeeper;
use super::entry::{BlockStats, Entry, Key, Kind, bits};
use super::membership::MembershipFilter;
use super::single_flight::SingleFlight;
use crate::budget::Allowance;
use crate::clock::CoarseInstant;
use crate::wire::RecordType;

/// Entries of which moka can be told at a time: as many as a worker's own cache holds.
const TOUCHED: usize = 4_096;

/// All kept answers of all server blocks.
///
/// The key is a 64-bit hash of block, name, type and bits, with a seed of the process that nobody outside knows; what is
/// found is compared in full ([`Entry::answers`]). Two questions with one hash would take turns in one place, and with
/// 100,000 answers the odds of any such pair are one in 3.7 thousand million; a wrong answer cannot come of it. In
/// return an entry needs no second copy of its name.
pub struct Store {
    /// Replaced by one of another size when the budget changes.
    cache: ArcSwap<Kept>,
    seed: foldhash::fast::RandomState,
    generation: AtomicU64,
    all_stats: RwLock<Vec<Arc<BlockStats>>>,
    flights: Arc<SingleFlight>,
    doorkeeper: Doorkeeper,
    membership: MembershipFilter,
    /// Held by who walks all entries and changes what is kept: one at a time.
    sweeping: Mutex<()>,
    size: Size,
    /// Octets that may be held now; at most those of the size.
    limit: AtomicU64,
    /// Hashes of entries that were used and of which moka is still to be told; zero where there is none.
    touched: Box<[AtomicU64]>,
    /// Entries that were inserted so far.
    changes: AtomicU64,
    /// Those of which moka was told last.
    recent: Mutex<Vec<u64>>,
}

type Kept = moka::sync::Cache<u64, Arc<Entry>, BuildHasherDefault<Identity>>;

fn kept(limit: u64) -> Kept {
    moka::sync::Cache::builder()
        .max_capacity(limit)
        .weigher(|_: &u64, entry: &Arc<Entry>| u32::try_from(entry.weight()).unwrap_or(u32::MAX))
        .build_with_hasher(BuildHasherDefault::default())
}

impl Store {
    /// An empty store of this size.
    pub fn new(size: impl Into<Size>) -> Self {
        let size = size.into();
        let limit = size.bytes;
        let seed = foldhash::fast::RandomState::default();
        // No two stores share a generation, so that a worker's own cache never takes one's entries for another's.
        let generation = AtomicU64::new(seed.hash_one(0u8) | 1);
        Self {
            cache: ArcSwap::from_pointee(kept(limit)),
            seed,
            generation,
            all_stats: RwLock::new(Vec::new()),
            flights: Arc::default(),
            doorkeeper: Doorkeeper::new(limit),
            membership: MembershipFilter::new(limit),
            sweeping: Mutex::default(),
            size,
            limit: AtomicU64::new(limit),
            touched: (0..TOUCHED).map(|_| AtomicU64::new(0)).collect(),
            changes: AtomicU64::new(0),
            recent: Mutex::default(),
        }
    }

    /// A store of another size with the same entries, as far as they fit.
    pub fn resized(&self, size: impl Into<Size>) -> Self {
        let other = Self::new(size);
        *other.write_all_stats() = self.read_all_stats().clone();
        for entry in self.iter() {
            let hash = other.hash_of(&entry);
            other.insert(hash, entry);
        }
        other
    }

    /// Keeps to an allowance: entries that were used in the last minute or two stay rather than others. Walks all entries if
    /// that is another limit than before.
    pub fn keep_to(&self, allowance: &Allowance) {
        let limit = allowance.cache(self.size.bytes, self.size.is_written);
        if limit == self.limit() {
            return;
        }
        let _one_at_a_time = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        let (old, new) = (self.cache.load_full(), kept(limit));
        let mut entries: Vec<_> = old.iter().map(|(hash, entry)| (*hash, entry)).collect();
        entries.sort_by_key(|(_, entry)| !entry.is_used());
        let mut held = 0;
        entries.retain(|(_, entry)| {
            held += entry.weight();
            held <= limit
        });
        for (hash, entry) in &entries {
            new.insert(*hash, Arc::clone(entry));
        }
        self.limit.store(limit, Relaxed);
        self.cache.store(Arc::new(new));
        // What was removed meanwhile is not to come back by this.
        let cache = self.cache.load();
        let removed = entries.iter().filter(|(_, entry)| entry.is_replaced());
        removed.for_each(|(hash, _)| drop(cache.remove(hash)));
        cache.run_pending_tasks();
    }

    /// The stats of a block: the one it had before, where the block was known.
    pub fn stats(&self, block: u64) -> Arc<BlockStats> {
        let mut all_stats = self.write_all_stats();
        if let Some(stats) = all_stats.iter().find(|stats| stats.block == block) {
            return Arc::clone(stats);
        }
        let stats = Arc::new(BlockStats::new(block));
        all_stats.push(Arc::clone(&stats));
        stats
    }

    /// The hash of a question of a block.
    pub fn hash(&self, stats: &BlockStats, key: &Key<'_>) -> u64 {
        let mut hasher = self.seed.build_hasher();
        hasher.write(key.name.as_bytes());
        hasher.write_u64(stats.block ^ (u64::from(key.qtype.0) << 8 | u64::from(key.bits)));
        hasher.finish()
    }

    /// The entry under a hash, which the caller checks to be the one that it wants.
    pub fn get(&self, hash: u64) -> Option<Arc<Entry>> {
        // By look-ups that find nothing moka knows which new entries are wanted; `admits` makes up for those left out here.
        let entry =
            if self.membership.may_contain(hash) { self.cache.load().get(&hash) } else { None }?;
        entry.set_used();
        Some(entry)
    }

    /// Notes that an entry was used. Workers do so within a hit, where moka's own book-keeping would be an allocation now and
    /// then: [`Store::maintain`] tells it.
    pub fn touch(&self, hash: u64) {
        if let Some(slot) = self.touched.get(hash as usize % TOUCHED) {
            slot.store(hash, Relaxed);
        }
    }

    /// Tells moka which entries were used since the last time. For a task that does so every second: often enough for what is
    /// hot to stay, whatever flood of other names comes.
    pub fn maintain(&self) {
        let mut recent = Vec::new();
        for slot in &self.touched {
            // Most are empty: a load leaves their line where it is.
            if slot.load(Relaxed) != 0 {
                let hash = slot.swap(0, Relaxed);
                if let Some(entry) = self.cache.load().get(&hash) {
                    entry.set_used();
                }
                recent.push(hash);
            }
        }
        if !recent.is_empty() {
            *self.recent.lock().unwrap_or_else(PoisonError::into_inner) = recent;
        }
    }

    /// Hashes of the entries that were used since [`Store::tend`] was called before last.
    pub fn recently_used(&self) -> HashSet<u64> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let touched = self.touched.iter().map(|slot| slot.load(Relaxed)).filter(|hash| *hash != 0);
        touched.chain(recent.iter().copied()).collect()
    }

    /// The entry under a hash, for one who walks the store.
    pub fn peek(&self, hash: u64) -> Option<Arc<Entry>> {
        self.cache.load().get(&hash)
    }

    /// False where an answer would not stay, so that it need not be taken in: the cache is full, and nobody has asked for it
    /// before.
    pub fn admits(&self, hash: u64) -> bool {
        let (cache, limit) = (self.cache.load(), self.limit());
        let held = cache.weighted_size();
        // A few large answers' room may be left.
        let full = held >= limit - limit / 16;
        if full && !self.doorkeeper.admits(hash) {
            return false;
        }
        // The looks that `get` did not take to moka: one, or two of what the doorkeeper admits. Below half of its budget moka does
        // not count them.
        for _ in 0..usize::from(held >= limit / 2) + usize::from(full) {
            let _ = cache.get(&hash);
        }
        true
    }

    /// Lets the answer to a question in whose old one has ended.
    pub fn expects(&self, hash: u64) {
        self.doorkeeper.record(hash);
    }

    /// Keeps an entry; whether it stays is decided by how often it and others are asked for.
    pub fn insert(&self, hash: u64, entry: Arc<Entry>) {
        self.changes.fetch_add(1, Relaxed);
        self.membership.insert(hash);
        self.cache.load().insert(hash, entry);
    }

    /// Removes what is under a hash. Workers may still answer from it until [`Store::advance`].
    pub fn remove(&self, hash: u64) {
        if let Some(entry) = self.cache.load().remove(&hash) {
            entry.set_replaced();
        }
    }

    /// Removes all entries that `doomed` says, and makes the workers forget what they hold. Returns how many went.
    pub fn remove_if(&self, doomed: impl Fn(&Entry) -> bool) -> usize {
        let mut removed = 0;
        let _one_at_a_time = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        for (hash, entry) in &**self.cache.load() {
            if doomed(&entry) {
                self.remove(*hash);
                removed += 1;
            }
        }
        if removed > 0 {
            self.advance();
        }
        removed
    }

    /// Removes everything of blocks that are no longer served.
    pub fn retain_blocks(&self, blocks: &[u64]) {
        self.write_all_stats().retain(|stats| blocks.contains(&stats.block));
        self.remove_if(|entry| !blocks.contains(&entry.stats().block));
    }

    /// Removes what was stale for longer than `stale` seconds, what may be a last good answer for longer than `last_good`, and
    /// serves nobody any more. For a task that runs now and
    /// then: without it such entries stay until their room is wanted.
    pub fn sweep(&self, now: CoarseInstant, stale: u32, last_good: u32) -> usize {
        let mut removed = 0;
        let _one_at_a_time = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        self.membership.begin_rebuild();
        for (hash, entry) in &**self.cache.load() {
            // A failure is of no use after its end, whatever the stale time is.
            let stale = match entry.kind() {
                Kind::Failure => 0,
                Kind::NxDomain => stale,
                Kind::Success | Kind::NoData => stale.max(last_good),
            };
            if entry.is_stale_within(now, stale) {
                self.membership.insert(*hash);
                entry.age();
            } else {
                self.remove(*hash);
                removed += 1;
            }
        }
        self.membership.end_rebuild();
        self.cache.load().run_pending_tasks();
        removed
    }

    /// Changes whenever an entry is inserted.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Every entry, in no order, fresh or not.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Entry>> + use<> {
        let entries: Vec<_> = self.cache.load().iter().map(|(_, entry)| entry).collect();
        entries.into_iter()
    }

    /// Where an entry belongs in this store.
    pub fn hash_of(&self, entry: &Entry) -> u64 {
        let of = entry.bits();
        let qtype = if of & bits::CUT != 0 { RecordType(0) } else { entry.qtype() };
        self.hash(entry.stats(), &Key { name: entry.name(), qtype, bits: of })
    }

    /// Octets held by entries, their overhead included.
    pub fn weight(&self) -> u64 {
        self.read_all_stats().iter().map(|stats| stats.bytes()).sum()
    }

    /// What each block holds and has done.
    pub fn all_stats(&self) -> Vec<Arc<BlockStats>> {
        self.read_all_stats().clone()
    }

    /// The size that it was made with.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Octets that may be held now.
    pub fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Changes whenever workers have to forget what they hold.
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Makes the workers forget what they hold.
    pub fn advance(&self) {
        self.generation.fetch_add(2, Relaxed);
    }

    /// The questions that are being asked right now.
    pub fn flights(&self) -> &Arc<SingleFlight> {
        &self.flights
    }

    /// Does what moka has put off: evictions above all. For whoever wants to read exact figures.
    pub fn settle(&self) {
        self.cache.load().run_pending_tasks();
    }

    fn read_all_stats(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<BlockStats>>> {
        self.all_stats.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all_stats(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Arc<BlockStats>>> {
        self.all_stats.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes", self.weight(), self.limit())
    }
}

/// Hands on a key that is a hash already.
#[derive(Default)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
