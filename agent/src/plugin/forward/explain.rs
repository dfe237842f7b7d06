//! What a forward would do with a query, for `nodens explain`; and, if it is to, what each upstream answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::Forward;
use super::select::{Availability, order};
use crate::request::{Answer, Outcome, Plugin, Request, ede};
use crate::trace::Trace;
use crate::upstream::{Question, Received, Upstream, UpstreamError, random};
use crate::wire::{Message, Rcode};

/// How long an upstream may take that is asked for an explanation.
const ASKED: Duration = Duration::from_secs(2);
/// Upstreams that are asked and told of.
const MAX_UPSTREAMS: usize = 8;
/// What stands in the place of an answer that was not asked for.
pub const NOT_ASKED: &str = "upstreams are not asked by a dry run";

impl Forward {
    /// Notes who would be asked, and asks them if the trace says so: beside the traffic, so that nothing is learnt of them.
    pub(super) async fn explained(&self, request: &Request<'_>, trace: &Trace) -> Answer {
        let set = self.set.load_full();
        let turn = AtomicUsize::new(self.turn.load(Relaxed));
        let (order, availability) = order(&set.upstreams, self.config.policy, &turn, random::below);
        let upstreams: Vec<&Arc<Upstream>> = order
            .iter()
            .filter_map(|&place| set.upstreams.get(usize::from(place)))
            .take(MAX_UPSTREAMS)
            .collect();
        match availability {
            Availability::Some => {}
            Availability::AllDown => {
                self.note(trace, "no upstream answers; one is tried".to_owned())
            }
            Availability::AllLoop => {
                self.note(trace, "queries to all upstreams come back to this server".to_owned());
            }
            Availability::None => {
                self.note(trace, format!("there is no upstream: {}", set.problem))
            }
        }
        for upstream in set.upstreams.iter().filter(|up| up.health.is_down()).take(MAX_UPSTREAMS) {
            self.note(trace, format!("{} is set aside: it does not answer", upstream.label()));
        }
        if !trace.asks() {
            if let Some(first) = upstreams.first() {
                let mean = first.round_trips.mean().map(|mean| mean.as_secs_f64() * 1e3);
                let mean = mean.map_or(String::new(), |mean| format!(", which takes {mean:.1} ms"));
                self.note(trace, format!("would ask {}{mean}", first.label()));
            }
            return failure(request, NOT_ASKED);
        }
        let question = Question::of_query(&request.query);
        let answers = join_all(upstreams.iter().map(|upstream| ask(upstream, &question))).await;
        let mut first = None;
        for (upstream, answer) in upstreams.iter().zip(answers) {
            match answer {
                Ok((message, took)) => {
                    let cut = if message.truncated() { ", truncated" } else { "" };
                    let (rcode, took) = (message.rcode(), took.as_secs_f64() * 1e3);
                    let text = format!("{} says {rcode}{cut} in {took:.1} ms", upstream.label());
                    self.note(trace, text);
                    first.get_or_insert(message);
                }
                Err(error) => self.note(trace, format!("{}: {error}", upstream.label())),
            }
        }
        match first {
            Some(message) => {
                let outcome = Outcome::new(Plugin::Forward, message.rcode());
                Answer::new(Arc::new(message), outcome)
            }
            None => failure(request, "no upstream has answered"),
        }
    }

    fn note(&self, trace: &Trace, text: String) {
        trace.note(Plugin::Forward.name(), text);
    }
}

fn failure(request: &Request<'_>, why: &str) -> Answer {
    Answer::failure(request, Plugin::Forward, Rcode::SERVFAIL, ede::NETWORK_ERROR, why)
}

async fn ask(
    upstream: &Upstream,
    question: &Question,
) -> Result<(Message, Duration), UpstreamError> {
    let flight = upstream.ask_standalone(question)?;
    let received = timeout(ASKED, flight).await.unwrap_or(Err(UpstreamError::Timeout(ASKED)))?;
    let Received { bytes, round_trip, .. } = received;
    let message = Message::from_received(bytes)
        .map_err(|error| UpstreamError::Exchange(error.to_string().into()))?;
    Ok((message, round_trip))
}
