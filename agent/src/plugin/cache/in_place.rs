//! Misses that are resolved without a task: their flight, and its end.

use super::entry::Entry;
use super::single_flight::FlightGuard;
use super::{Cache, Question};
use crate::chain::MissFlight;
use crate::request::{Answer, Request};

impl Cache {
    /// Leads the flight of a miss if nothing matters but the answer that will come: there is no old one, and no flight to
    /// follow.
    pub(super) fn try_lead(&self, request: &Request<'_>) -> Option<InPlaceFlight> {
        let query = &request.query;
        let key = self.key(query)?;
        if self.config.nxdomain_cut {
            return None;
        }
        let hash = self.store.hash(&self.stats, &key);
        let now = request.origin.received;
        let matters = |entry: &Entry| {
            entry.is_fresh(now)
                || self.stale_for(entry, now).is_some()
                || self.may_be_last_good(entry)
        };
        if self.may_have_old() && self.find(hash, &key).is_some_and(|entry| matters(&entry)) {
            return None;
        }
        let flights = self.store.flights();
        let guard = flights.try_lead(hash, self.stats.block, &key, query.recursion_desired())?;
        Some(InPlaceFlight { cache: self.clone(), guard, hash })
    }
}

/// The flight of a miss that is resolved in place.
pub(super) struct InPlaceFlight {
    cache: Cache,
    guard: FlightGuard,
    hash: u64,
}

impl MissFlight for InPlaceFlight {
    fn complete(self: Box<Self>, request: &Request<'_>, answer: Answer) -> Answer {
        let Self { cache, guard, hash } = *self;
        let Some(key) = cache.key(&request.query) else { return answer };
        let answer = cache.keep(&Question { view: request, key: &key, hash }, None, answer);
        guard.complete(&answer);
        answer
    }
}
