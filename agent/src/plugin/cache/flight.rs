//! One question on its way at a time: whoever asks what is already being asked waits for that answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::entry::Key;
use crate::request::Answer;

/// Locks, each over its share of the flights; many more than workers, so that two seldom meet.
const SHARDS: usize = 64;
/// How many landed flights each shard remembers, for those who set out just before one landed.
const LANDED: usize = 8;

/// Who may wait in one flight: a quarter of all that may wait in the process (`server::worker`), so that one question cannot
/// keep all others out.
pub const MAX_FOLLOWERS: usize = 2_048;

/// The flights of the process.
pub struct Flights {
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Default)]
struct Shard {
    flights: HashTable<Flight>,
    landed: [u64; LANDED],
    next: usize,
}

struct Flight {
    hash: u64,
    question: Question,
    followers: Vec<oneshot::Sender<Answer>>,
}

/// The question in full: a hash alone must never give one client the answer to another's question.
#[derive(PartialEq, Eq)]
struct Question {
    block: u64,
    qtype: u16,
    bits: u8,
    recursion: bool,
    name: SmallVec<[u8; 64]>,
}

/// The part that a query plays in a flight.
pub enum Part {
    /// Ask, and tell the others. `landed`: the same question was answered a moment ago, so look again first.
    Lead {
        /// To be landed with the answer; dropped without one, the followers set out anew.
        leader: Leader,
        /// Whether an answer may have come in meanwhile.
        landed: bool,
    },
    /// Wait. An error: the leader gave up; join again.
    Follow(oneshot::Receiver<Answer>),
    /// Too many wait already: refuse.
    Full,
    /// Another question has the same hash: ask alone.
    Alone,
}

/// The one that asks for all.
pub struct Leader {
    flights: Arc<Flights>,
    hash: u64,
    landed: bool,
}

impl Question {
    fn new(block: u64, key: &Key<'_>, recursion: bool) -> Self {
        let name = SmallVec::from_slice(key.name.as_bytes());
        Self { block, qtype: key.qtype.0, bits: key.bits, recursion, name }
    }
}

impl Flights {
    /// None under way.
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Joins the flight of a question or begins it. Queries that do not want recursion have flights of their own: their
    /// answers are others.
    pub fn join(self: &Arc<Self>, hash: u64, block: u64, key: &Key<'_>, recursion: bool) -> Part {
        let hash = if recursion { hash } else { !hash };
        let question = Question::new(block, key, recursion);
        let mut shard = self.shard(hash);
        if let Some(flight) = shard.flights.find_mut(hash, |flight| flight.hash == hash) {
            if flight.question != question {
                return Part::Alone;
            }
            if flight.followers.len() >= MAX_FOLLOWERS {
                return Part::Full;
            }
            let (sender, receiver) = oneshot::channel();
            flight.followers.push(sender);
            return Part::Follow(receiver);
        }
        let landed = shard.landed.contains(&hash);
        shard.flights.insert_unique(
            hash,
            Flight { hash, question, followers: Vec::new() },
            |flight| flight.hash,
        );
        Part::Lead { leader: Leader { flights: Arc::clone(self), hash, landed: false }, landed }
    }

    /// Begins the flight of a question, unless it is under way or has landed a moment ago.
    pub fn lead(
        self: &Arc<Self>,
        hash: u64,
        block: u64,
        key: &Key<'_>,
        recursion: bool,
    ) -> Option<Leader> {
        let hash = if recursion { hash } else { !hash };
        let mut shard = self.shard(hash);
        let taken = shard.flights.find(hash, |flight| flight.hash == hash).is_some();
        if taken || shard.landed.contains(&hash) {
            return None;
        }
        let question = Question::new(block, key, recursion);
        let flight = Flight { hash, question, followers: Vec::new() };
        shard.flights.insert_unique(hash, flight, |flight| flight.hash);
        Some(Leader { flights: Arc::clone(self), hash, landed: false })
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).flights.len()).sum()
    }

    /// True where none is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The table uses the low bits, so the shard is chosen by others.
        let index = (hash >> 40) as usize % self.shards.len();
        #[allow(
            clippy::indexing_slicing,
            reason = "the index was reduced to the length in the line above"
        )]
        lock(&self.shards[index])
    }

    fn remove(&self, hash: u64, landed: bool) -> Vec<oneshot::Sender<Answer>> {
        let mut shard = self.shard(hash);
        if landed {
            let next = shard.next;
            if let Some(slot) = shard.landed.get_mut(next) {
                *slot = hash;
            }
            shard.next = (next + 1) % LANDED;
        }
        match shard.flights.find_entry(hash, |flight| flight.hash == hash) {
            Ok(entry) => entry.remove().0.followers,
            Err(_) => Vec::new(),
        }
    }
}

impl Default for Flights {
    fn default() -> Self {
        Self::new()
    }
}

impl Leader {
    /// Ends the flight and gives everyone the answer.
    pub fn land(mut self, answer: &Answer) {
        for follower in self.flights.remove(self.hash, true) {
            // A follower that has gone needs no answer.
            let _ = follower.send(answer.clone());
        }
        // Nothing is left to do when the leader goes.
        self.landed = true;
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // The senders go, and with them the followers' wait.
        if !self.landed {
            drop(self.flights.remove(self.hash, false));
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
