//! One miss: the reply that is owed, and all that is needed to bring it about.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::answer::PendingReply;
use super::send_queue::ReplyPath;
use super::worker::{PendingPermit, Worker};
use crate::chain::{self, MissFlight, MissQuery};
use crate::clock::CoarseInstant;
use crate::upstream::InFlight;
use crate::upstream::Send;
use crate::upstream::event::{AttemptId, Event, PendingId, Receiver};

/// A miss that is resolved in place. Dropped before its reply is sent, it gives up its flight and its queries.
pub(super) struct Miss {
    query: Box<dyn MissQuery>,
    /// The tries that are out.
    in_flight: SmallVec<[(AttemptId, InFlight); 2]>,
    /// `None` without a cache in the chain.
    flight: Option<Box<dyn MissFlight>>,
    reply: PendingReply,
    path: ReplyPath,
    permit: PendingPermit,
}

impl Miss {
    /// `None` if no query is among the parts.
    pub(super) fn new(
        reply: PendingReply,
        permit: PendingPermit,
        path: ReplyPath,
        parts: chain::Miss,
    ) -> Option<Self> {
        let chain::Miss { flight, query } = parts;
        Some(Self { query: query?, in_flight: SmallVec::new(), flight, reply, path, permit })
    }

    pub(super) fn worker(&self) -> &Arc<Worker> {
        self.permit.worker()
    }

    /// The query, as it was received.
    pub(super) fn packet(&self) -> &[u8] {
        self.reply.request().packet()
    }

    /// When it is to hear of a time-out.
    pub(super) fn due(&self) -> CoarseInstant {
        self.query.poll_timeout()
    }

    /// Takes an event and does what the query wants then. At the end the reply is sent, and nothing is left. `deliver` is
    /// called with the events of what is sent.
    pub(super) fn advance(
        mut self,
        id: PendingId,
        deliver: fn(PendingId, Event<'_>, Instant),
        event: Option<Event<'_>>,
        at: Instant,
    ) -> Option<Self> {
        let now = CoarseInstant::now();
        if let Some(event) = event {
            if let Event::Response { attempt, .. } | Event::Failed { attempt, .. } = &event {
                self.in_flight.retain(|(sent, _)| sent != attempt);
            }
            self.query.handle(now, event);
        }
        let worker = self.worker().number;
        while let Some(Send { attempt, upstream, transport }) = self.query.poll_send() {
            match upstream.ask(worker, self.query.question(), transport) {
                Ok(sent) => {
                    sent.receive_in_place(Receiver { deliver, query: id, attempt });
                    self.in_flight.push((attempt, sent));
                }
                Err(error) => self.query.handle(now, Event::Failed { attempt, error }),
            }
        }
        if !self.query.is_finished() {
            return Some(self);
        }
        self.finish(at);
        None
    }

    fn finish(self, at: Instant) {
        let Self { mut query, in_flight, flight, reply, path, permit } = self;
        drop(in_flight);
        let Ok(request) = reply.request().view() else { return };
        let Some(answer) = query.finish(&request) else { return };
        let answer = match flight {
            Some(flight) => flight.complete(&request, answer),
            None => answer,
        };
        let client = reply.origin().client;
        path.send(permit.worker(), client, |out| reply.write(&request, &answer, at, out));
    }
}
