//! What outlives a reload: everything that workers and configurations share, in one place.

use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use crate::budget::{Allowance, Budget, Governed};
use crate::clients::Clients;
use crate::cluster::index::Index;
use crate::cluster::{Clusters, WatchThread};
use crate::conditions::Conditions;
use crate::history::History;
use crate::logging;
use crate::metrics::Metrics;
use crate::observe::readers::Observed;
use crate::plugin::cache::store::Store;
use crate::plugin::cache::{self, config::Size};
use crate::plugin::forward::UpstreamPlaces;
use crate::plugin::limit::Buckets;
use crate::plugin::loop_::guard::LoopGuard;
use crate::server::tls::certificates::KnownCertificates;
use crate::server::worker::MAX_FORWARDED;
use crate::upstream::names::Names;
use crate::upstream::registry::HealthRegistry;

/// One for the process.
pub struct Shared {
    /// The number of workers, which answer queries.
    pub workers: usize,
    /// What /metrics shows.
    pub metrics: Arc<Metrics>,
    /// What can be wrong, and what is.
    pub conditions: Arc<Conditions>,
    /// The last minutes of what is counted.
    pub history: Arc<History>,
    /// How the log is written.
    pub log_format: logging::Format,
    /// Whether a panic is logged with its stack (`errors { stacktrace }`).
    pub stacktrace: Arc<AtomicBool>,
    /// What may be taken of the memory.
    pub budget: Arc<Budget>,
    /// The cached answers of all server blocks. Replaced when its size in the Corefile changes.
    pub cache: ArcSwap<Store>,
    /// For how many seconds it keeps answers that have expired.
    pub stale: AtomicU32,
    /// For how many seconds it keeps those that may be last good ones (`stale_on_denial`).
    pub last_good: AtomicU32,
    /// Which upstreams are down, which loop, and how long each takes.
    pub health_registry: Arc<HealthRegistry>,
    /// What the names of upstreams resolve to.
    pub names: Names,
    /// The certificates of listeners.
    pub certificates: KnownCertificates,
    /// Places of all queries that are forwarded.
    pub upstream_places: Arc<UpstreamPlaces>,
    /// The rates of clients (`limit`), which outlive a reload.
    pub limits: OnceLock<Arc<Buckets>>,
    /// Recognises our own queries when upstreams send them back (`loop`).
    pub loops: Arc<LoopGuard>,
    /// Queries as they are answered, for those who look.
    pub observed: Arc<Observed>,
    /// The clusters that are watched; directives with equal settings share one.
    pub clusters: Clusters<Index>,
    /// The thread that watches them.
    pub watching: WatchThread,
    /// Who a client is.
    pub clients: Arc<Clients>,
}

impl Shared {
    /// What a process with so many workers begins with: nothing is cached, watched or governed yet.
    pub fn new(workers: usize) -> Self {
        let clients = Arc::<Clients>::default();
        Self {
            workers,
            metrics: Metrics::new(),
            conditions: Arc::default(),
            history: Arc::default(),
            log_format: logging::Format::Text,
            stacktrace: Arc::default(),
            budget: Arc::default(),
            cache: ArcSwap::from_pointee(Store::new(cache::Config::budget([]))),
            stale: AtomicU32::new(0),
            last_good: AtomicU32::new(0),
            health_registry: Arc::default(),
            names: Names::default(),
            certificates: KnownCertificates::default(),
            upstream_places: UpstreamPlaces::new(MAX_FORWARDED, Arc::clone(&clients)),
            limits: OnceLock::new(),
            loops: Arc::default(),
            observed: Observed::new(workers),
            clusters: Clusters::default(),
            watching: WatchThread::default(),
            clients,
        }
    }

    /// The cache's store of this size, with the entries of the present one.
    pub fn cache_of(&self, size: Size) -> Arc<Store> {
        let store = self.cache.load_full();
        if store.size() == size {
            return store;
        }
        let resized = store.resized(size);
        resized.keep_to(&self.budget.allowance());
        Arc::new(resized)
    }
}

/// The cache.
impl Governed for Shared {
    fn apply(&self, allowance: &Allowance) {
        self.cache.load_full().keep_to(allowance);
    }
}
