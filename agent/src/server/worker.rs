//! What the tasks of one worker thread share, and the bound of queries that wait.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::admission::Permit;
use crate::clients::ClientShares;
use crate::metrics::cells::Tally;
use crate::request::Origin;

/// Upper bound of queries that wait, of all workers together; refreshes of the cache count among them. At a few KiB each it
/// keeps their memory at tens of MiB under any load. A client that takes most of the places is held to its share. What is
/// refused is dropped unanswered and counted in `nodens_waiting_overflow_total`: an answer would make a flooding client
/// retry at once. Hits are unaffected. `max_concurrent` of `forward` is the lower limit, and answers REFUSED.
pub const MAX_PENDING: usize = 8_192;
/// Of them, so many may wait for upstreams, shared by group of upstreams. Fewer than a lone client may hold, so that the
/// queries of one client for a dead upstream do not keep out its other ones.
pub const MAX_FORWARDED: usize = MAX_PENDING / 4 * 3;

/// What is left of either at least, however small the memory limit is.
pub const MIN_PENDING: usize = 512;

/// One worker's state.
pub struct Worker {
    /// 0 up to the number of workers.
    pub number: usize,
    /// What it has received.
    pub tally: Arc<Tally>,
    waiting: AtomicUsize,
    /// The places of all workers.
    pending: ClientShares,
    overflowed: AtomicU64,
    unsent: AtomicU64,
    panics: AtomicU64,
    heartbeats: AtomicU64,
    /// Signalled by [`Worker::ping`]; its thread then counts a heartbeat.
    pinged: Notify,
    /// Only its thread writes it.
    full_batches: AtomicU64,
}

impl Worker {
    /// Worker `number`, with the places of all workers.
    pub fn new(number: usize, pending: ClientShares) -> Self {
        Self {
            number,
            tally: Arc::default(),
            waiting: AtomicUsize::new(0),
            pending,
            overflowed: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            heartbeats: AtomicU64::new(0),
            pinged: Notify::new(),
            full_batches: AtomicU64::new(0),
        }
    }

    /// A place for one more query that waits, unless there is none, or its client holds its share.
    pub(super) fn admit(self: &Arc<Self>, origin: &Origin) -> Option<PendingPermit> {
        let Some(permit) = self.pending.try_acquire(origin.client.ip(), 1) else {
            self.overflowed.fetch_add(1, Relaxed);
            return None;
        };
        self.waiting.fetch_add(1, Relaxed);
        Some(PendingPermit { worker: Arc::clone(self), _permit: permit })
    }

    /// Queries that wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Queries that were dropped because too many waited, of all clients or of theirs.
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
    pub fn heartbeats(&self) -> u64 {
        self.heartbeats.load(Relaxed)
    }

    /// Wakes its thread, which counts a heartbeat. Called by another thread, so that the worker's runtime needs no timer for
    /// it.
    pub(super) fn ping(&self) {
        self.pinged.notify_one();
    }

    /// Counts a heartbeat for every ping. Runs on the worker's thread, and ends with its runtime.
    pub(super) async fn answer_pings(&self) {
        loop {
            self.pinged.notified().await;
            self.heartbeats.fetch_add(1, Relaxed);
        }
    }

    /// Batches of queries that were full: more was waiting than one call takes.
    pub fn full_batches(&self) -> u64 {
        self.full_batches.load(Relaxed)
    }

    pub(super) fn full_batch(&self) {
        self.full_batches.store(self.full_batches.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub(super) fn unsent(&self, replies: usize) {
        if replies > 0 {
            self.unsent.fetch_add(replies as u64, Relaxed);
        }
    }

    pub(super) fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
        self.tally.caught();
    }
}

/// Queries that still wait when the server stops are given this long (CoreDNS's graceful stop).
pub const DRAIN: Duration = Duration::from_secs(5);

/// How long a connection still takes queries once the server drains: those that were on their way.
pub(super) const LAST_QUERIES: Duration = Duration::from_millis(50);

/// Takes connections of this process over into another: called with the listening address and the connection.
pub type PassOn = Arc<dyn Fn(SocketAddr, OwnedFd) + Send + Sync>;

/// What happens to the sockets of an address.
#[derive(Clone)]
pub(super) enum Phase {
    /// They are served.
    Serving,
    /// They are about to close: what is queued in them is answered first.
    Draining,
    /// Another process serves them: nothing more is taken from them. Connections go there as soon as they are idle.
    HandedOver(PassOn),
}

/// Returns once the sockets are no longer served, and what happens to them then.
pub(super) async fn drained(phase: &mut watch::Receiver<Phase>) -> Phase {
    let changed = phase.wait_for(|phase| !matches!(phase, Phase::Serving)).await;
    // A server that ends before it serves: its sockets may be another instance's.
    changed.map_or_else(|_| Phase::HandedOver(Arc::new(|_, _| {})), |phase| phase.clone())
}

/// The place of a query that waits; given back when it is dropped.
pub(super) struct PendingPermit {
    worker: Arc<Worker>,
    _permit: Permit,
}

impl PendingPermit {
    pub(super) fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        self.worker.waiting.fetch_sub(1, Relaxed);
    }
}
