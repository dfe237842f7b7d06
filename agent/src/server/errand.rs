//! A miss without a task: nearly all are one datagram to an upstream and its answer back. What the answer's receiver needs
//! to end such a query travels with it; whatever else happens, it goes on as a task from where it stands.
//!
//! ```text
//! serve    cache says Wait, forward comes next, nobody asks the same     -> Errand, sent with its batch
//! answered message read, kept by the cache's rules, reply written        -> Outbox, sent with its batch
//! goes_on  late, an error, a truncated answer, ...                       -> a task: hedging, other upstreams, TCP
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::answer::Later;
use super::outbox::{Back, Outbox};
use super::worker::Waiting;
use crate::plugin::cache::Lead;
use crate::plugin::forward::trip::{Left, Trip};
use crate::request::{Answer, Outcome, Plugin, Request};
use crate::upstream::table::{self, Answered};
use crate::upstream::{Flight, Question};

/// A query on its short way.
struct Errand {
    later: Box<Later>,
    waiting: Waiting,
    back: Back,
    lead: Lead,
    trip: Trip,
}

/// Sends a query that has to wait on its way: the short one where it can, else a task. `request` is what `later` has to answer.
pub(super) fn set_out(later: Box<Later>, request: &Request<'_>, waiting: Waiting, back: Back) {
    let begin = || {
        let forward = later.forward(request)?;
        let lead = later.cache()?.set_out(request)?;
        let trip = Trip::begin(forward, request)?;
        Some((lead, trip, Question::of_query(&request.query)))
    };
    let Some((lead, trip, question)) = begin() else {
        tokio::spawn(async move {
            let mut out = Vec::with_capacity(512);
            let client = later.origin().client;
            if later.run(&mut out).await {
                Outbox::push(back, waiting.worker(), client, |octets| octets.extend(&out));
            }
        });
        return;
    };
    let send = trip.sender();
    send(&question, Box::new(Errand { later, waiting, back, lead, trip }));
}

impl table::Errand for Errand {
    fn answered(self: Box<Self>, answered: Answered<'_>) {
        let worker = Arc::clone(self.waiting.worker());
        // A bug in one answer must not end the socket's reader.
        if catch_unwind(AssertUnwindSafe(|| self.end(answered))).is_err() {
            worker.panicked();
        }
    }

    fn goes_on(self: Box<Self>, flight: Option<Flight>) {
        let Self { later, waiting, back, lead, trip } = *self;
        spawn(later, waiting, back, lead, trip.left(flight));
    }
}

impl Errand {
    fn end(self, answered: Answered<'_>) {
        let Self { later, waiting, back, lead, trip } = self;
        let Some(message) = trip.ended(&answered) else {
            return spawn(later, waiting, back, lead, trip.left_with(&answered));
        };
        let outcome = Outcome::new(Plugin::Forward, message.rcode());
        land(&later, &waiting, back, lead, Answer::new(Arc::new(message), outcome), answered.at);
    }
}

fn spawn(later: Box<Later>, waiting: Waiting, back: Back, lead: Lead, left: Left) {
    tokio::spawn(async move {
        let answer = left.resume(later.request()).await;
        land(&later, &waiting, back, lead, answer, Instant::now());
    });
}

/// Keeps the answer, gives it to all who wait for it, and sends the reply.
fn land(later: &Later, waiting: &Waiting, back: Back, lead: Lead, answer: Answer, now: Instant) {
    let (Some(cache), Ok(view)) = (later.cache(), later.request().view()) else { return };
    let answer = cache.land(later.request(), &view, lead, answer);
    let client = later.origin().client;
    Outbox::push(back, waiting.worker(), client, |octets| {
        later.write(&view, &answer, now, octets);
    });
}
