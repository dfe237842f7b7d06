//! Single flight: of queries for the same question that come at the same time one, the leader, is resolved, and the others
//! follow it and get its answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::entry::Key;
use crate::request::Answer;

/// Locks, each over its share of the flights; many more than workers, so that two seldom meet.
const SHARDS: usize = 64;
/// How many completed flights each shard remembers: a query that found nothing in the store just before one was completed
/// looks again.
const RECENT: usize = 8;

/// Followers of one flight: a quarter of all queries that may wait in the process (`server::worker`), so that one question
/// cannot keep all others out.
pub const MAX_FOLLOWERS: usize = 2_048;

/// The flights of the process.
pub struct SingleFlight {
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Default)]
struct Shard {
    flights: HashTable<Flight>,
    recent: [u64; RECENT],
    /// Index into `recent` of the one to overwrite.
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

/// The part of a query in a flight.
pub enum Join {
    /// To be resolved. `is_recent`: the same question was answered a moment ago, so look again first.
    Leader {
        /// To be completed with the answer.
        guard: FlightGuard,
        /// Whether an answer may have come in meanwhile.
        is_recent: bool,
    },
    /// To wait. An error: the leader gave up; join again.
    Follower(oneshot::Receiver<Answer>),
    /// Too many follow already: refuse.
    Overloaded,
    /// Another question has the same hash: resolve without a flight.
    Collision,
}

/// The leader's hold on its flight. Dropped without [`FlightGuard::complete`], the followers join anew.
pub struct FlightGuard {
    flights: Arc<SingleFlight>,
    hash: u64,
    is_complete: bool,
}

impl Question {
    fn new(block: u64, key: &Key<'_>, recursion: bool) -> Self {
        let name = SmallVec::from_slice(key.name.as_bytes());
        Self { block, qtype: key.qtype.0, bits: key.bits, recursion, name }
    }
}

impl SingleFlight {
    /// Without flights.
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Joins the flight of a question or begins it. Queries that do not want recursion have flights of their own: their
    /// answers are others.
    pub fn join(self: &Arc<Self>, hash: u64, block: u64, key: &Key<'_>, recursion: bool) -> Join {
        let hash = if recursion { hash } else { !hash };
        let question = Question::new(block, key, recursion);
        let mut shard = self.shard(hash);
        if let Some(flight) = shard.flights.find_mut(hash, |flight| flight.hash == hash) {
            if flight.question != question {
                return Join::Collision;
            }
            if flight.followers.len() >= MAX_FOLLOWERS {
                return Join::Overloaded;
            }
            let (sender, receiver) = oneshot::channel();
            flight.followers.push(sender);
            return Join::Follower(receiver);
        }
        let is_recent = shard.recent.contains(&hash);
        shard.flights.insert_unique(
            hash,
            Flight { hash, question, followers: Vec::new() },
            |flight| flight.hash,
        );
        Join::Leader { guard: self.guard(hash), is_recent }
    }

    /// Begins the flight of a question, unless there is one or one was completed a moment ago.
    pub fn try_lead(
        self: &Arc<Self>,
        hash: u64,
        block: u64,
        key: &Key<'_>,
        recursion: bool,
    ) -> Option<FlightGuard> {
        let hash = if recursion { hash } else { !hash };
        let mut shard = self.shard(hash);
        let taken = shard.flights.find(hash, |flight| flight.hash == hash).is_some();
        if taken || shard.recent.contains(&hash) {
            return None;
        }
        let question = Question::new(block, key, recursion);
        let flight = Flight { hash, question, followers: Vec::new() };
        shard.flights.insert_unique(hash, flight, |flight| flight.hash);
        Some(self.guard(hash))
    }

    fn guard(self: &Arc<Self>, hash: u64) -> FlightGuard {
        FlightGuard { flights: Arc::clone(self), hash, is_complete: false }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).flights.len()).sum()
    }

    /// True if there is none.
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

    fn remove(&self, hash: u64, is_complete: bool) -> Vec<oneshot::Sender<Answer>> {
        let mut shard = self.shard(hash);
        if is_complete {
            let next = shard.next;
            if let Some(slot) = shard.recent.get_mut(next) {
                *slot = hash;
            }
            shard.next = (next + 1) % RECENT;
        }
        match shard.flights.find_entry(hash, |flight| flight.hash == hash) {
            Ok(entry) => entry.remove().0.followers,
            Err(_) => Vec::new(),
        }
    }
}

impl Default for SingleFlight {
    fn default() -> Self {
        Self::new()
    }
}

impl FlightGuard {
    /// Ends the flight and gives all followers the answer.
    pub fn complete(mut self, answer: &Answer) {
        for follower in self.flights.remove(self.hash, true) {
            // A follower that has gone needs no answer.
            let _ = follower.send(answer.clone());
        }
        // Nothing is left to do when the guard is dropped.
        self.is_complete = true;
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        // With the senders the followers' wait ends.
        if !self.is_complete {
            drop(self.flights.remove(self.hash, false));
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
