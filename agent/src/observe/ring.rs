//! What the workers write: for each a ring of words that only it writes and only one reader at a time reads.
//!
//! A record that does not fit any more is dropped and counted. No record waits, and none is ever written in part.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::record::{HEAD, Record, words};
use crate::request::{Outcome, Request};

/// Words of a ring: 128 KiB, some 1,500 records. At 200 looks a second that is 300,000 queries a second of one worker.
const WORDS: usize = 1 << 14;
/// Of so many milliseconds a sample is made of its own: about an eighth of a second.
const WINDOW_BITS: u32 = 7;
/// So many queries of a window are all in the sample.
const ALL_OF: u32 = 32;
/// Beyond them one in this many, up to [`FEW_FROM`].
const SOME: u16 = 16;
/// From so many queries of a window on, one in [`FEW`].
const FEW_FROM: u32 = 512;
const FEW: u16 = 256;

/// The rings of all workers.
pub struct Taps {
    /// A client wants every query.
    all: AtomicBool,
    rings: Box<[Ring]>,
}

/// The ring of one worker. Each on cache lines of its own.
#[repr(align(128))]
struct Ring {
    words: Box<[AtomicU64]>,
    /// Words that were written since the start. Only the worker stores it.
    written: AtomicU64,
    /// Words that were read since the start. Only the reader stores it.
    read: AtomicU64,
    /// Records that found no room. Only the worker stores it.
    dropped: AtomicU64,
    /// Of queries that were answered at once.
    hits: Sampler,
    /// Of queries that waited.
    misses: Sampler,
}

/// Chooses queries for the sample. Only the worker stores into it.
struct Sampler {
    window: AtomicU64,
    seen: AtomicU64,
    random: AtomicU64,
}

impl Taps {
    /// Rings for so many workers.
    pub fn new(workers: usize) -> Self {
        let rings = (0..workers).map(|number| Ring::new(number as u64)).collect();
        Self { all: AtomicBool::new(false), rings }
    }

    /// Writes a finished query into its worker's ring, if it is in the sample or a client wants every query. To be called on the
    /// worker's thread. `size` is the reply's, `micros` the time that the query waited.
    pub fn record(&self, request: &Request<'_>, outcome: &Outcome, size: usize, micros: u64) {
        let Some(ring) = self.rings.get(request.origin.worker) else { return };
        let sampler = if micros == 0 { &ring.hits } else { &ring.misses };
        let weight = sampler.weight(request.origin.received.as_millis());
        if weight > 0 || self.all.load(Relaxed) {
            let (head, name) = words(request, outcome, size, micros, weight);
            ring.push(head, name);
        }
    }

    /// Whether every query is written, or a sample.
    pub(super) fn set_all(&self, all: bool) {
        self.all.store(all, Relaxed);
    }

    /// Calls `each` with the records that were written since the last call. Two calls at a time would each get some of them.
    pub(super) fn drain(&self, mut each: impl FnMut(&Record)) {
        let mut record = Record::default();
        for ring in &self.rings {
            ring.drain(&mut record, &mut each);
        }
    }

    /// Records that found no room.
    pub(super) fn dropped(&self) -> u64 {
        self.rings.iter().map(|ring| ring.dropped.load(Relaxed)).sum()
    }
}

impl Ring {
    fn new(seed: u64) -> Self {
        Self {
            words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            hits: Sampler::new(seed * 2),
            misses: Sampler::new(seed * 2 + 1),
        }
    }

    fn word(&self, at: u64) -> Option<&AtomicU64> {
        self.words.get(at as usize % WORDS)
    }

    fn push(&self, head: [u64; HEAD], name: &[u8]) {
        let begin = self.written.load(Relaxed);
        let needed = (HEAD + name.len().div_ceil(8)) as u64;
        // What is read before this is free: the reader has done with it.
        let read = self.read.load(Acquire);
        if begin + needed > read + WORDS as u64 {
            self.dropped.store(self.dropped.load(Relaxed) + 1, Relaxed);
            return;
        }
        let of_name = name.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            u64::from_le_bytes(word)
        });
        for (at, value) in (begin..).zip(head.into_iter().chain(of_name)) {
            if let Some(word) = self.word(at) {
                word.store(value, Relaxed);
            }
        }
        // A reader that sees this number sees the words before it.
        self.written.store(begin + needed, Release);
    }

    fn drain(&self, record: &mut Record, each: &mut impl FnMut(&Record)) {
        let end = self.written.load(Acquire);
        let mut at = self.read.load(Relaxed);
        let mut next = || {
            let word = self.word(at).map_or(0, |word| word.load(Relaxed));
            at += 1;
            word
        };
        let mut left = end.saturating_sub(self.read.load(Relaxed)) as usize;
        while left >= HEAD {
            let head = std::array::from_fn(|_| next());
            let of_name = record.set_head(head);
            (0..of_name).for_each(|number| record.set_name_word(number, next()));
            each(record);
            left = left.saturating_sub(HEAD + of_name);
        }
        self.read.store(end, Release);
    }
}

impl Sampler {
    fn new(seed: u64) -> Self {
        let random = AtomicU64::new(seed);
        Self { window: AtomicU64::new(0), seen: AtomicU64::new(0), random }
    }

    /// How many queries this one stands for; 0 if it is not in the sample. Each query's expectation is 1.
    fn weight(&self, millis: u64) -> u16 {
        let window = millis >> WINDOW_BITS;
        let mut seen = self.seen.load(Relaxed);
        // A query that waited was received before others were that did not.
        if window > self.window.load(Relaxed) {
            self.window.store(window, Relaxed);
            seen = 0;
        }
        self.seen.store(seen + 1, Relaxed);
        if seen < u64::from(ALL_OF) {
            return 1;
        }
        // Knuth's linear congruential generator, of which the high bits are good enough to choose by.
        let random = self.random.load(Relaxed);
        let random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random.store(random, Relaxed);
        let of = if seen < u64::from(FEW_FROM) { SOME } else { FEW };
        // Both are powers of two: a division would cost more than all else here.
        if (random >> 40) & u64::from(of - 1) == 0 { of } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn name(number: u64) -> Vec<u8> {
        // Names of every length up to 63 and more, so that they wrap round the ring's end in every way.
        let len = (number % 60 + 1) as u8;
        let label = vec![b'a' + (number % 26) as u8; usize::from(len)];
        [&[len][..], &label, &[0]].concat()
    }

    fn head(number: u64, name: &[u8]) -> [u64; HEAD] {
        [(name.len() as u64) << 8, number, 0, 0, 0]
    }

    #[test]
    fn records_come_out_whole_and_in_order_while_others_are_written() {
        const MANY: u64 = 200_000;
        let ring = Ring::new(0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..MANY {
                    let name = name(number);
                    ring.push(head(number, &name), &name);
                }
                done.store(true, Release);
            });
            let (mut record, mut seen, mut next) = (Record::default(), 0, 0);
            loop {
                let last = done.load(Acquire);
                ring.drain(&mut record, &mut |record| {
                    let number = record.at.as_millis();
                    assert!(number >= next, "{number} after {next}");
                    assert_eq!(record.name_bytes(), name(number));
                    (seen, next) = (seen + 1, number + 1);
                });
                if last {
                    break;
                }
            }
            assert_eq!(seen + ring.dropped.load(Relaxed), MANY);
        });
    }

    #[test]
    fn a_full_ring_drops_and_counts() {
        let ring = Ring::new(0);
        let name = name(20);
        for number in 0..10_000 {
            ring.push(head(number, &name), &name);
        }
        let mut seen = 0;
        ring.drain(&mut Record::default(), &mut |_| seen += 1);
        assert_eq!(seen, (WORDS / (HEAD + name.len().div_ceil(8))) as u64);
        assert_eq!(ring.dropped.load(Relaxed), 10_000 - seen);
        ring.push(head(7, &name), &name);
        ring.drain(&mut Record::default(), &mut |record| assert_eq!(record.at.as_millis(), 7));
    }

    #[test]
    fn a_sample_stands_for_all_queries() {
        for a_window in [10_u64, 100, 1_000, 40_000] {
            let sampler = Sampler::new(1);
            let (mut sum, mut taken) = (0, 0);
            for window in 1..=50_u64 {
                for _ in 0..a_window {
                    let weight = u64::from(sampler.weight(window << WINDOW_BITS));
                    sum += weight;
                    taken += u64::from(weight > 0);
                }
            }
            let all = a_window * 50;
            assert!(sum.abs_diff(all) * 10 <= all, "{a_window}: {sum} of {all}");
            assert!(taken <= 50 * (32 + 60 + a_window / 200), "{a_window}: {taken}");
        }
    }
}
