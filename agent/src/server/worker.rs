//! What the tasks of one worker thread share, and its bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Notify, watch};

/// Queries that may wait at once, of all workers together. Each costs a few kilobytes, so that they stay below some tens of
/// megabytes whatever comes; beyond it new misses get no answer, and hits go on. `max_concurrent` of `forward` bounds them
/// with an answer, and earlier.
pub const MAX_WAITING: usize = 8_192;

/// One worker's state.
#[derive(Default)]
pub struct Worker {
    /// 0 up to the number of workers.
    pub number: usize,
    waiting: AtomicUsize,
    all_waiting: Arc<AtomicUsize>,
    overflowed: AtomicU64,
    unsent: AtomicU64,
    panics: AtomicU64,
    beats: AtomicU64,
    /// Signalled by [`Worker::ping`]; its thread then counts a beat.
    pinged: Notify,
}

impl Worker {
    /// Worker `number`; `all_waiting` counts the queries that wait, of all workers.
    pub fn new(number: usize, all_waiting: Arc<AtomicUsize>) -> Self {
        Self { number, all_waiting, ..Self::default() }
    }

    /// Lets one more query wait, unless too many do.
    pub(super) fn wait(self: &Arc<Self>) -> Option<Waiting> {
        if self.all_waiting.fetch_add(1, Relaxed) >= MAX_WAITING {
            self.all_waiting.fetch_sub(1, Relaxed);
            self.overflowed.fetch_add(1, Relaxed);
            return None;
        }
        self.waiting.fetch_add(1, Relaxed);
        Some(Waiting { worker: Arc::clone(self) })
    }

    /// Queries that wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Queries that were dropped because too many waited.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Relaxed)
    }

    /// Replies that the kernel refused to send.
    pub fn unsent_replies(&self) -> u64 {
        self.unsent.load(Relaxed)
    }

    /// Panics that were caught.
    pub fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    /// How often its thread has answered [`Worker::ping`].
    pub fn beats(&self) -> u64 {
        self.beats.load(Relaxed)
    }

    /// Wakes its thread, which counts a beat. Called by another thread, so that the worker's runtime needs no timer for it.
    pub(super) fn ping(&self) {
        self.pinged.notify_one();
    }

    /// Counts a beat for every ping. Runs on the worker's thread, and ends with its runtime.
    pub(super) async fn answer_pings(&self) {
        loop {
            self.pinged.notified().await;
            self.beats.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn unsent(&self, replies: usize) {
        if replies > 0 {
            self.unsent.fetch_add(replies as u64, Relaxed);
        }
    }

    pub(super) fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }
}

/// Returns once the server drains, or is gone.
pub(super) async fn drained(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|draining| *draining).await;
}

/// A query that waits; counted until it is dropped.
pub(super) struct Waiting {
    worker: Arc<Worker>,
}

impl Waiting {
    pub(super) fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.worker.waiting.fetch_sub(1, Relaxed);
        self.worker.all_waiting.fetch_sub(1, Relaxed);
    }
}
