//! The short way of a query: a datagram to the first upstream of the order, and its answer back. Nearly all go this way,
//! and none of them needs a task. Whatever else happens (no answer in the usual time, an error, a truncated answer), the
//! query goes on as a task, from the point that it has reached.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Forward;
use super::choose::{Fitness, order};
use super::query::{Asking, First};
use crate::clock::CoarseInstant;
use crate::request::{Answer, OwnedRequest, Request};
use crate::upstream::question::Unexpected;
use crate::upstream::table::{Answered, Errand};
use crate::upstream::{Flight, Question, Received, Upstream};
use crate::wire::{Message, Rcode, read_u16};

/// One query on its short way.
pub struct Trip {
    forward: Arc<Forward>,
    upstream: Arc<Upstream>,
    worker: usize,
    identity: u64,
    pub(super) begun: CoarseInstant,
    due: Duration,
    pub(super) late_before: u64,
}

/// What a trip has come to where it could not end: what the task begins with.
pub struct Left {
    trip: Trip,
    first: First,
}

impl Trip {
    /// A trip for a query, where the short way is open to it. Sends nothing yet.
    pub fn begin(forward: &Arc<Forward>, request: &Request<'_>) -> Option<Self> {
        let config = &forward.config;
        if !config.next.is_empty() || config.next_on_nodata {
            return None;
        }
        let set = forward.set.load();
        // Nothing is counted and nobody's turn is taken for a query that the task will begin with.
        let limit = config.max_concurrent.unwrap_or(usize::MAX);
        let is_open = set.upstreams.iter().all(|upstream| upstream.takes_errands());
        if !is_open || forward.in_flight.load(Relaxed) >= limit {
            return None;
        }
        let identity = forward.identify.question(&request.query);
        let (mut order, fitness) = order(&set.upstreams, config.policy, &forward.turn);
        forward.failures.put_last(identity, &mut order, |at| {
            set.upstreams.get(usize::from(at)).map(|upstream| &**upstream)
        });
        let upstream = set.upstreams.get(usize::from(*order.first()?))?;
        if fitness != Fitness::Good {
            return None;
        }
        forward.look_out(request.origin.client.ip(), identity);
        let usual = &upstream.round_trips;
        let due = match order.len() {
            1 => usual.try_timeout(),
            _ => usual.hedge_after().min(usual.try_timeout()),
        };
        let worker = request.origin.worker;
        forward.earn_hedge(worker);
        let in_flight = forward.in_flight.fetch_add(1, Relaxed);
        let trip = Self {
            forward: Arc::clone(forward),
            upstream: Arc::clone(upstream),
            worker,
            identity,
            begun: CoarseInstant::now(),
            due,
            late_before: upstream.counters(worker).unexpected_count(Unexpected::Late),
        };
        // The task says what becomes of one too many.
        (in_flight < limit).then_some(trip)
    }

    /// What sends the errand that will hold this trip, with its question.
    pub fn sender(&self) -> impl FnOnce(&Question, Box<dyn Errand>) + use<> {
        let (upstream, worker) = (Arc::clone(&self.upstream), self.worker);
        let due = self.begun.plus_millis(self.due.as_millis() as u64 + 1);
        move |question, errand| upstream.send_off(worker, question, errand, due)
    }

    /// The answer, where it is one to be passed on as it is.
    pub fn ended(&self, answered: &Answered<'_>) -> Option<Message> {
        // A bare header, a datagram that is cut off or too short: rare enough for the task.
        if answered.cut_off || read_u16(answered.octets, 4) != Some(1) {
            return None;
        }
        let message = Message::from_received(answered.octets.to_vec()).ok()?;
        let rcode = message.rcode();
        let other = message.truncated()
            || matches!(rcode, Rcode::SERVFAIL | Rcode::FORMERR | Rcode::NOTIMP | Rcode::BADVERS)
            || self.forward.config.failover.contains(&rcode);
        if other {
            return None;
        }
        self.upstream.round_trips.record(answered.round_trip);
        if self.upstream.health.succeeded() {
            tracing::info!(upstream = %self.upstream.label(), "the upstream answers again");
        }
        self.upstream.counters(self.worker).answered(rcode, answered.round_trip);
        Some(message)
    }

    /// What is left to do with an answer that [`Trip::ended`] does not take.
    pub fn left_with(self, answered: &Answered<'_>) -> Left {
        let received = Received {
            bytes: answered.octets.to_vec(),
            cut_off: answered.cut_off,
            round_trip: answered.round_trip,
        };
        let upstream = Arc::clone(&self.upstream);
        Left { trip: self, first: First::Received(upstream, received) }
    }

    /// What is left to do without an answer.
    pub fn left(self, flight: Option<Flight>) -> Left {
        let upstream = Arc::clone(&self.upstream);
        let first = match flight {
            Some(flight) => First::Flight(upstream, flight),
            None => First::Nothing,
        };
        Left { trip: self, first }
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        self.forward.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Left {
    /// Goes on until there is an answer, or none to be had.
    pub async fn resume(self, request: &OwnedRequest) -> Answer {
        let Ok(view) = request.view() else { return Answer::unreadable() };
        let Self { trip, first } = self;
        let set = trip.forward.set.load_full();
        let question = Question::of_query(&view.query);
        let asking = Asking::new(&trip.forward, &set, trip.worker, question, trip.identity);
        let ended = asking.run_from(&trip, first).await;
        trip.forward.conclude(&view, &set, trip.identity, ended)
    }
}
