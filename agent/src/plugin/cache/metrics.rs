//! What the cache counts itself. Hits, misses and stale answers are counted with the query's outcome.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Cache, Store};
use crate::metrics::{Scrape, Source, names};

/// The caches of the running configuration, for `/metrics`.
pub struct CacheMetrics {
    store: Arc<Store>,
    caches: Vec<([Arc<str>; 2], Cache)>,
}

impl CacheMetrics {
    /// Of `caches`, each with its labels `server` and `view`.
    pub fn new(store: Arc<Store>, caches: Vec<([Arc<str>; 2], Cache)>) -> Self {
        Self { store, caches }
    }
}

impl Source for CacheMetrics {
    fn collect(&self, out: &mut Scrape) {
        for ([server, view], cache) in &self.caches {
            let zones = cache.zones_label();
            let stats = cache.stats();
            for (denial, side) in [(false, "success"), (true, "denial")] {
                let labels = [server.as_ref(), side, &zones, view.as_ref()];
                out.gauge(&names::CACHE_ENTRIES, &labels, stats.entries(denial) as f64);
                out.count(&names::CACHE_EVICTIONS, &labels, stats.evictions(denial));
            }
            let labels = [server.as_ref(), &zones, view.as_ref()];
            out.count(&names::CACHE_PREFETCH, &labels, stats.prefetches.load(Relaxed));
            out.count(&names::CACHE_DROPS, &labels, stats.drops.load(Relaxed));
            let overflow = stats.turned_away.load(Relaxed);
            out.count(&names::NODENS_CACHE_OVERFLOW, &labels, overflow);
            let not_admitted = stats.not_admitted.load(Relaxed);
            out.count(&names::NODENS_CACHE_TURNED_AWAY, &labels, not_admitted);
            let overruled = stats.overruled.load(Relaxed);
            out.count(&names::CACHE_DENIALS_OVERRULED, &labels, overruled);
        }
        out.gauge(&names::NODENS_CACHE_BYTES, &[], self.store.weight() as f64);
        out.gauge(&names::NODENS_CACHE_LIMIT_BYTES, &[], self.store.limit() as f64);
    }
}

impl Cache {
    /// The `zones` label: the zones with commas between them, as in CoreDNS.
    pub fn zones_label(&self) -> String {
        let zones: Vec<String> = self.config().zones.iter().map(ToString::to_string).collect();
        zones.join(",")
    }
}
