//! What bounds the queries of a `forward`: places that clients and groups of upstreams share, and the hedge budget.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use super::config::{Config, To};
use super::failure::Failure;
use crate::admission::{Permit, Shares};
use crate::metrics::Counter;

/// Of a hundred queries, so many may be sent to a second upstream because the first is late...
const HEDGES_PER_100: i32 = 3;
/// ... and so many hundreds may be saved for when they are needed all at once.
pub(super) const HEDGES_SAVED: i32 = 5;

/// The limits of one `forward`.
pub(super) struct Limits {
    /// Places of all forwards of the process, shared by group of upstreams. `None` in tests.
    groups: Option<Arc<Shares>>,
    /// The key of these upstreams in `groups`: forwards to the same ones share it, before and after a reload too.
    group: u64,
    /// `max_concurrent`, shared by client, and an eighth of it that only several clients together can use.
    max_concurrent: Option<Arc<Shares>>,
    /// `coredns_forward_max_concurrent_rejects_total`.
    pub rejected: Counter,
    /// `nodens_forward_share_rejects_total`.
    pub share_rejected: Counter,
    /// For each worker, hundredths of hedges that it may still send.
    hedges: Box<[AtomicI32]>,
}

/// The places of one query.
#[derive(Default)]
pub(super) struct Permits {
    _group: Option<Permit>,
    _client: Option<Permit>,
}

impl Limits {
    pub(super) fn new(config: &Config, groups: Option<Arc<Shares>>, workers: usize) -> Self {
        let mut hasher = DefaultHasher::new();
        for to in &config.to {
            match to {
                To::Target(target) => target.to_string().hash(&mut hasher),
                To::File(path) => path.hash(&mut hasher),
            }
        }
        Self {
            groups,
            group: hasher.finish(),
            // One client gets as many as are configured; what one key cannot hold is kept for the others.
            max_concurrent: config.max_concurrent.map(|limit| Shares::new(limit + limit / 8)),
            rejected: Counter::new(),
            share_rejected: Counter::new(),
            hedges: (0..workers).map(|_| AtomicI32::new(HEDGES_SAVED * 100)).collect(),
        }
    }

    /// Places for one more query of `client`.
    pub(super) fn admit(&self, client: IpAddr) -> Result<Permits, Failure> {
        Ok(Permits {
            _client: acquire(&self.max_concurrent, client, Failure::MaxConcurrent)?,
            _group: acquire(&self.groups, self.group, Failure::Share)?,
        })
    }

    /// Takes one hedge out of the worker's budget.
    pub(super) fn spend_hedge(&self, worker: usize) -> bool {
        let Some(hedges) = self.hedges(worker) else { return false };
        let saved = hedges.load(Relaxed);
        if saved >= 100 {
            hedges.store(saved - 100, Relaxed);
        }
        saved >= 100
    }

    /// A query begins.
    pub(super) fn earn_hedge(&self, worker: usize) {
        let Some(hedges) = self.hedges(worker) else { return };
        let saved = hedges.load(Relaxed);
        if saved < HEDGES_SAVED * 100 {
            hedges.store(saved + HEDGES_PER_100, Relaxed);
        }
    }

    fn hedges(&self, worker: usize) -> Option<&AtomicI32> {
        self.hedges.get(worker.checked_rem(self.hedges.len())?)
    }
}

fn acquire(
    shares: &Option<Arc<Shares>>,
    key: impl Hash,
    failure: Failure,
) -> Result<Option<Permit>, Failure> {
    match shares {
        None => Ok(None),
        Some(shares) => shares.try_acquire(key, 1).map(Some).ok_or(failure),
    }
}
