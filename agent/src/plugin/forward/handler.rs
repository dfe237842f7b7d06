//! The place of a `forward` in a chain.

use std::sync::Arc;

use super::Forward;
use super::drive::{drive, try_out};
use super::outcome::Finished;
use super::query::{Cx, ForwardQuery};
use crate::chain::{Handler, JoinMiss, Local, Miss, MissQuery, Next, Resolving};
use crate::clock::CoarseInstant;
use crate::request::{Answer, OwnedRequest, Plugin, Request, Step};
use crate::upstream::Send;
use crate::upstream::event::Event;
use crate::upstream::{Question, random};
use crate::wire::{Message, Rcode, Reply, Section};

/// The handler of a [`Forward`] in a chain.
pub struct Forwarding(pub Arc<Forward>);

/// A query that is driven in place.
struct InPlace {
    forward: Arc<Forward>,
    worker: usize,
    query: ForwardQuery,
}

impl Handler for Forwarding {
    fn plugin(&self) -> Plugin {
        Plugin::Forward
    }

    fn serve(&self, request: &Request<'_>, _reply: &mut Reply<'_>, _local: &mut Local) -> Step {
        if self.0.takes(request.query.name()) { Step::Wait } else { Step::Next }
    }

    fn resolve<'a>(&'a self, request: &'a OwnedRequest, next: Next<'a>) -> Resolving<'a> {
        Box::pin(self.0.answer(request, next))
    }

    fn bypasses(&self, request: &Request<'_>) -> bool {
        !self.0.takes(request.query.name())
    }

    fn join_miss(&self, request: &Request<'_>, miss: &mut Miss) -> JoinMiss {
        let forward = &self.0;
        if !forward.takes(request.query.name()) {
            return JoinMiss::Bypass;
        }
        if !forward.config.next.is_empty() || forward.config.next_on_nodata {
            return JoinMiss::Task;
        }
        let query = forward.start(request, None);
        let worker = request.origin.worker;
        miss.query = Some(Box::new(InPlace { forward: Arc::clone(forward), worker, query }));
        JoinMiss::Complete
    }

    fn not_ready(&self) -> Option<String> {
        let set = self.0.set.load();
        let looping: Vec<_> = set
            .upstreams
            .iter()
            .filter(|up| up.health.is_looping())
            .map(|up| &**up.label())
            .collect();
        // While some still answer, it is no reason to be taken out of service.
        let all = !looping.is_empty() && looping.len() == set.upstreams.len();
        all.then(|| format!("forwarding loops: {}", looping.join(", ")))
    }
}

impl MissQuery for InPlace {
    fn handle(&mut self, now: CoarseInstant, event: Event<'_>) {
        let Self { forward, worker, query } = self;
        query.handle(&mut forward.cx(*worker, now), event);
    }

    fn poll_send(&mut self) -> Option<Send> {
        self.query.poll_send()
    }

    fn question(&self) -> &Question {
        self.query.question()
    }

    fn poll_timeout(&self) -> CoarseInstant {
        self.query.poll_timeout()
    }

    fn is_finished(&self) -> bool {
        self.query.is_finished()
    }

    fn finish(&mut self, request: &Request<'_>) -> Option<Answer> {
        Some(self.query.finish()?.into_answer(&self.forward.limits, request))
    }
}

impl Forward {
    pub(super) fn cx(&self, worker: usize, now: CoarseInstant) -> Cx<'_> {
        Cx { now, worker, random: random::below, forward: self }
    }

    fn start(self: &Arc<Self>, request: &Request<'_>, options: Option<&[u8]>) -> ForwardQuery {
        let question = Question::of_query(&request.query);
        let question = match options {
            Some(options) => question.with_options(options),
            None => question,
        };
        let identity = self.hasher.question(&request.query);
        let worker = request.origin.worker;
        let mut cx = self.cx(worker, CoarseInstant::now());
        let client = request.origin.client.ip();
        let mut query = ForwardQuery::start(&mut cx, client, question, identity)
            .received_at(request.origin.received);
        if let Some(upstream) = query.take_trial() {
            tokio::spawn(try_out(Arc::clone(self), worker, upstream, query.question().clone()));
        }
        query
    }

    async fn answer<'a>(self: &'a Arc<Self>, request: &'a OwnedRequest, next: Next<'a>) -> Answer {
        let Ok(view) = request.view() else { return Answer::unreadable() };
        if let Some(trace) = &request.trace {
            return self.explained(&view, trace).await;
        }
        let query = self.start(&view, request.options.as_deref());
        let finished = drive(self, request.origin.worker, query).await;
        if self.passes_on(&finished) {
            let answer = next.resolve(request).await;
            // Only another `forward` is asked; that the end of the chain refuses is no answer.
            if answer.outcome.plugin == Plugin::Forward {
                return answer;
            }
        }
        finished.into_answer(&self.limits, &view)
    }

    /// `next` and `next_on_nodata`.
    fn passes_on(&self, finished: &Finished) -> bool {
        let is_nodata = |message: &Message| {
            message.rcode() == Rcode::NOERROR
                && message.layout().section(Section::Answer).next().is_none()
        };
        let config = &self.config;
        finished.message().is_some_and(|message| {
            config.next.contains(&message.rcode()) || config.next_on_nodata && is_nodata(message)
        })
    }
}
