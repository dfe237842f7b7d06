//! The upstreams of one query: in which order they are asked, and which of them can still be.

use std::sync::Arc;

use smallvec::SmallVec;

use super::select::{Availability, Order, order};
use super::{Forward, Set};
use crate::clock::CoarseInstant;
use crate::upstream::Upstream;

/// The upstreams of one query.
pub(super) struct Candidates {
    /// The upstreams when the query began, or a newer set.
    set: Arc<Set>,
    /// Places in `set` in the order of the policy, those that have failed at the question last.
    order: Order,
    /// Index into `order` of the next upstream; counts on past its end.
    cursor: usize,
    /// Places in `set` whose answers are truncated, and that are not asked over UDP again.
    truncated: SmallVec<[u16; 4]>,
}

impl Candidates {
    /// Those of `set`, not in order yet.
    pub(super) fn new(set: Arc<Set>) -> Self {
        Self { set, order: Order::new(), cursor: 0, truncated: SmallVec::new() }
    }

    /// Puts them in order for a question. Takes one turn of `round_robin`.
    pub(super) fn put_in_order(
        &mut self,
        forward: &Forward,
        identity: u64,
        now: CoarseInstant,
        random: fn(usize) -> usize,
    ) -> Availability {
        let upstreams = &self.set.upstreams;
        let policy = forward.config.policy;
        let (order, availability) = order(upstreams, policy, &forward.turn, random);
        self.order = order;
        forward.failures.put_last(identity, now, &mut self.order, |place| {
            upstreams.get(usize::from(place)).map(|upstream| &**upstream)
        });
        self.cursor = 0;
        availability
    }

    /// Turns to the upstreams that have replaced those of the query. False if they have not.
    pub(super) fn take_up(&mut self, current: &Arc<Set>) -> bool {
        let is_new = !Arc::ptr_eq(current, &self.set);
        if is_new {
            *self = Self::new(Arc::clone(current));
        }
        is_new
    }

    /// The next one to ask, with its place: one that is up, if there is one.
    pub(super) fn next(&mut self) -> Option<(u16, Arc<Upstream>)> {
        let len = self.order.len();
        let at = |step: usize| {
            let place = *self.order.get((self.cursor + step).checked_rem(len)?)?;
            let upstream = self.set.upstreams.get(usize::from(place))?;
            (!self.truncated.contains(&place)).then_some((place, upstream))
        };
        let up = (0..len).find(|step| at(*step).is_some_and(|(_, up)| !up.health.is_down()));
        let step = up.or_else(|| (0..len).find(|step| at(*step).is_some()))?;
        let (place, upstream) = at(step)?;
        let upstream = Arc::clone(upstream);
        self.cursor += step + 1;
        Some((place, upstream))
    }

    /// Once a second, one that is down and that the query does not ask: it is to get the question beside the usual one, so
    /// that real queries bring it back even if it does not answer probes.
    pub(super) fn begin_trial(&self, now: CoarseInstant) -> Option<Arc<Upstream>> {
        let is_asked = self.cursor > 0;
        let mut places = self.set.upstreams.iter().zip(0u16..);
        let (down, _) = places.find(|(upstream, place)| {
            let health = &upstream.health;
            health.is_down()
                && !health.is_looping()
                && !(is_asked && self.order.contains(place))
                && health.try_begin_trial(now)
        })?;
        Some(Arc::clone(down))
    }

    /// The upstream truncates its answers to this question.
    pub(super) fn mark_truncated(&mut self, place: u16) {
        self.truncated.push(place);
    }

    /// True if none is left to be asked over UDP.
    pub(super) fn are_all_truncated(&self) -> bool {
        self.order.iter().all(|place| self.truncated.contains(place))
    }

    /// True while one of them is up.
    pub(super) fn is_any_up(&self) -> bool {
        self.order.iter().any(|&place| {
            self.set.upstreams.get(usize::from(place)).is_some_and(|up| !up.health.is_down())
        })
    }

    /// True while one can be asked that has not failed at the question.
    pub(super) fn is_any_open(&self, has_failed: impl Fn(&Upstream) -> bool) -> bool {
        let mut upstreams = self.set.upstreams.iter();
        upstreams.any(|upstream| upstream.health.is_available() && !has_failed(upstream))
    }

    /// How many can be asked.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Why there are none.
    pub(super) fn problem(&self) -> Arc<str> {
        Arc::clone(&self.set.problem)
    }
}
