//! Drives a query from within a task, for a handler that needs the answer before it can write its own.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use smallvec::SmallVec;

use super::Forward;
use super::outcome::Finished;
use super::query::ForwardQuery;
use crate::clock::CoarseInstant;
use crate::upstream::Send;
use crate::upstream::event::{AttemptId, Event};
use crate::upstream::rtt::MAX_TRY;
use crate::upstream::{InFlight, Question, Received, Upstream, UpstreamError};

/// Awaits the end of a query. Has to run on the runtime of `worker`.
pub(super) async fn drive(forward: &Forward, worker: usize, mut query: ForwardQuery) -> Finished {
    let cx = || forward.cx(worker, CoarseInstant::now());
    let mut in_flight: SmallVec<[(AttemptId, InFlight); 2]> = SmallVec::new();
    loop {
        while let Some(Send { attempt, upstream, transport }) = query.poll_send() {
            match upstream.ask(worker, query.question(), transport) {
                Ok(sent) => in_flight.push((attempt, sent)),
                Err(error) => query.handle(&mut cx(), Event::Failed { attempt, error }),
            }
        }
        if let Some(finished) = query.finish() {
            return finished;
        }
        match next(&mut in_flight, query.poll_timeout()).await {
            None => query.handle(&mut cx(), Event::Timeout),
            Some((attempt, Ok(received))) => {
                let Received { bytes, oversize, round_trip } = received;
                let message = Cow::Owned(bytes);
                let event = Event::Response { attempt, message, oversize, round_trip };
                query.handle(&mut cx(), event);
            }
            Some((attempt, Err(error))) => {
                query.handle(&mut cx(), Event::Failed { attempt, error })
            }
        }
    }
}

/// Sends a question to an upstream that is down, only to find out if it answers.
pub(super) async fn try_out(
    forward: Arc<Forward>,
    worker: usize,
    upstream: Arc<Upstream>,
    question: Question,
) {
    let Ok(sent) = upstream.ask(worker, &question, upstream.first_transport()) else { return };
    if let Ok(Ok(_)) = tokio::time::timeout(MAX_TRY, sent).await {
        forward.answered(&upstream, CoarseInstant::now());
    }
}

/// What ends first; `None` at `due`.
async fn next(
    in_flight: &mut SmallVec<[(AttemptId, InFlight); 2]>,
    due: CoarseInstant,
) -> Option<(AttemptId, Result<Received, UpstreamError>)> {
    // The coarse clock may be one of its steps behind.
    let left = due.millis_since(CoarseInstant::now()) + 1;
    let mut timer = pin!(tokio::time::sleep(Duration::from_millis(left)));
    poll_fn(|context| {
        for (at, (attempt, sent)) in in_flight.iter().enumerate() {
            if let Poll::Ready(result) = sent.poll_answer(context) {
                let attempt = *attempt;
                in_flight.remove(at);
                return Poll::Ready(Some((attempt, result)));
            }
        }
        timer.as_mut().poll(context).map(|()| None)
    })
    .await
}
