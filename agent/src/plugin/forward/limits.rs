//! What bounds the queries of a `forward`: places that clients and groups of upstreams share, and the hedge budget.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::config::{Config, To};
use super::failure::Failure;
use crate::admission::{ALPHA, Permit, Shares};
use crate::clients::{ClientShares, Clients};
use crate::metrics::Counter;

/// Of a hundred queries, so many may be sent to a second upstream because the first is late...
const HEDGES_PER_100: i32 = 3;
/// ... and so many hundreds may be saved for when they are needed all at once.
pub(super) const HEDGES_SAVED: i32 = 5;

/// The places of queries that wait for upstreams, of the whole process: shared by group of upstreams, and within a group by
/// client, so that one client with names that get no answer does not keep the others from the same upstreams.
pub struct UpstreamPlaces {
    groups: Arc<Shares>,
    /// Those of each group that some forward uses.
    by_client: Mutex<HashMap<u64, Weak<ClientShares>>>,
    clients: Arc<Clients>,
}

impl UpstreamPlaces {
    /// So many places.
    pub fn new(limit: usize, clients: Arc<Clients>) -> Arc<Self> {
        Arc::new(Self { groups: Shares::new(limit), by_client: Mutex::default(), clients })
    }

    /// All places, by group.
    pub fn groups(&self) -> &Arc<Shares> {
        &self.groups
    }

    /// The places of a group, by client: the same for all forwards to these upstreams.
    fn by_client(&self, group: u64) -> Arc<ClientShares> {
        let mut known = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shares) = known.get(&group).and_then(Weak::upgrade) {
            return shares;
        }
        let shares = Arc::new(ClientShares::new(self.of_one_group(), &self.clients));
        known.retain(|_, shares| shares.strong_count() > 0);
        known.insert(group, Arc::downgrade(&shares));
        shares
    }

    /// What a group gets at most.
    fn of_one_group(&self) -> usize {
        self.groups.limit() * ALPHA / (ALPHA + 1)
    }
}

/// The places of one group of upstreams.
struct Group {
    places: Arc<UpstreamPlaces>,
    /// Its key: forwards to the same upstreams share it, before and after a reload too.
    key: u64,
    by_client: Arc<ClientShares>,
}

impl Group {
    /// One for `client`, of the group's and of its own share of them.
    fn admit(&self, client: IpAddr) -> Result<(Permit, Permit), Failure> {
        // It follows the limit of all groups, which the budget of memory sets.
        let most = self.places.of_one_group();
        if self.by_client.all().limit() != most {
            self.by_client.all().set_limit(most);
        }
        let permits = || {
            let of_client = self.by_client.try_acquire(client, 1)?;
            Some((self.places.groups.try_acquire(self.key, 1)?, of_client))
        };
        permits().ok_or(Failure::Share)
    }
}

/// The limits of one `forward`.
pub(super) struct Limits {
    /// `None` in tests.
    group: Option<Group>,
    /// `max_concurrent`, shared by client, and an eighth of it that only several clients together can use.
    max_concurrent: Option<ClientShares>,
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
    _group: Option<(Permit, Permit)>,
    _client: Option<Permit>,
}

impl Limits {
    pub(super) fn new(
        config: &Config,
        places: Option<Arc<UpstreamPlaces>>,
        workers: usize,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        for to in &config.to {
            match to {
                To::Target(target) => target.to_string().hash(&mut hasher),
                To::Named(named) => named.hash(&mut hasher),
                To::File(path) => path.hash(&mut hasher),
            }
        }
        let clients = places.as_ref().map(|places| Arc::clone(&places.clients)).unwrap_or_default();
        Self {
            group: places.map(|places| {
                let key = hasher.finish();
                Group { by_client: places.by_client(key), key, places }
            }),
            // One client gets as many as are configured; what one key cannot hold is kept for the others.
            max_concurrent: config
                .max_concurrent
                .map(|limit| ClientShares::new(limit + limit / 8, &clients)),
            rejected: Counter::new(),
            share_rejected: Counter::new(),
            hedges: (0..workers).map(|_| AtomicI32::new(HEDGES_SAVED * 100)).collect(),
        }
    }

    /// Places for one more query of `client`.
    pub(super) fn admit(&self, client: IpAddr) -> Result<Permits, Failure> {
        Ok(Permits {
            _client: match &self.max_concurrent {
                None => None,
                Some(places) => Some(places.try_acquire(client, 1).ok_or(Failure::MaxConcurrent)?),
            },
            _group: self.group.as_ref().map(|group| group.admit(client)).transpose()?,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn group(places: &Arc<UpstreamPlaces>, key: u64) -> Group {
        Group { by_client: places.by_client(key), key, places: Arc::clone(places) }
    }

    fn flood(group: &Group, client: [u8; 4]) -> Vec<(Permit, Permit)> {
        std::iter::from_fn(|| group.admit(client.into()).ok()).collect()
    }

    #[test]
    fn a_client_leaves_room_to_the_others_of_its_upstreams_and_of_other_ones() {
        let places = UpstreamPlaces::new(1_000, Arc::default());
        // Two forwards to the same upstreams.
        let (one, same, other) = (group(&places, 1), group(&places, 1), group(&places, 2));
        let greedy = flood(&one, [10, 0, 0, 1]);
        assert!((780..=800).contains(&greedy.len()), "{}", greedy.len());
        assert!(same.admit([10, 0, 0, 1].into()).is_err());
        let modest = flood(&same, [10, 0, 0, 2]);
        assert!(modest.len() >= 80, "{}", modest.len());
        assert!(other.admit([10, 0, 0, 2].into()).is_ok());
        drop((greedy, modest));
        // The budget of memory lowers them all.
        places.groups().set_limit(100);
        assert!((70..=80).contains(&flood(&same, [10, 0, 0, 1]).len()));
    }
}
