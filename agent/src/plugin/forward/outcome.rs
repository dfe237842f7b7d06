//! What a query to the upstreams ends in.

use std::sync::Arc;

use super::Forward;
use crate::request::{Answer, Outcome, Plugin, Request, ede};
use crate::upstream::{Upstream, UpstreamError};
use crate::wire::{Message, Rcode};

/// Before the error that kept the whole answer from coming.
const TRUNCATED: &str = "the answer is truncated, and no upstream has sent the whole one";

/// The end of a query.
pub(super) struct Finished {
    pub result: Result<Message, Failure>,
    /// Why the answer is only a truncated one.
    pub error: Option<Failure>,
    /// A failure that the next query for the same question may not meet: not to be cached.
    pub is_transient: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// `max_concurrent`, or the client's share of it.
    #[error("max_concurrent: too many queries are being forwarded")]
    MaxConcurrent,
    /// The share of this group of upstreams among all queries that wait.
    #[error("too many queries wait for these upstreams")]
    Share,
    /// No upstream at all.
    #[error("there is no upstream to forward to: {0}")]
    NoUpstream(Arc<str>),
    /// All of them lead back here.
    #[error("queries to every upstream come back here: see the log for the loop and its cure")]
    AllLoop,
    /// All of them are down, and `failfast_all_unhealthy_upstreams` is set.
    #[error("every upstream is down")]
    AllDown,
    /// The last of several errors.
    #[error("{upstream}: {error}")]
    Upstream {
        /// Whose.
        upstream: Arc<str>,
        /// Which.
        error: UpstreamError,
    },
}

impl Failure {
    pub(super) fn upstream(upstream: &Upstream, error: UpstreamError) -> Self {
        Self::Upstream { upstream: Arc::clone(upstream.label()), error }
    }

    fn ede(&self) -> u16 {
        match self {
            Self::Upstream { .. } | Self::AllDown => ede::NO_REACHABLE_AUTHORITY,
            Self::NoUpstream(_) | Self::AllLoop => ede::NETWORK_ERROR,
            Self::MaxConcurrent | Self::Share => ede::OTHER,
        }
    }

    fn rcode(&self) -> Rcode {
        if *self == Self::MaxConcurrent { Rcode::REFUSED } else { Rcode::SERVFAIL }
    }

    /// No upstream has failed at the question itself: it was not asked, or its answer could not be read.
    fn is_transient(&self) -> bool {
        match self {
            Self::Upstream { error, .. } => {
                matches!(error, UpstreamError::Malformed(_) | UpstreamError::TooMany)
            }
            _ => true,
        }
    }
}

impl Finished {
    pub(super) fn answered(message: Message) -> Self {
        Self { result: Ok(message), error: None, is_transient: false }
    }

    /// No upstream sends the whole answer.
    pub(super) fn truncated(message: Message, error: Option<Failure>) -> Self {
        Self { result: Ok(message), error, is_transient: true }
    }

    pub(super) fn failed(failure: Failure) -> Self {
        Self { is_transient: failure.is_transient(), result: Err(failure), error: None }
    }

    /// The upstream's answer, if there is one.
    pub(super) fn message(&self) -> Option<&Message> {
        self.result.as_ref().ok()
    }

    /// The answer to `request`.
    pub(super) fn into_answer(self, forward: &Forward, request: &Request<'_>) -> Answer {
        let Self { result, error, is_transient } = self;
        let answer = match result {
            Ok(message) => {
                let outcome = Outcome::new(Plugin::Forward, message.rcode());
                let error = error.map(|error| format!("{TRUNCATED}: {error}").into());
                Answer { error, ..Answer::new(Arc::new(message), outcome) }
            }
            Err(failure) => {
                let (rcode, code) = (failure.rcode(), failure.ede());
                let text = failure.to_string();
                let answer = Answer::failure(request, Plugin::Forward, rcode, code, &text);
                match failure {
                    Failure::MaxConcurrent => forward.rejected.add(1),
                    Failure::Share => {
                        forward.share_rejected.add(1);
                        // One line in the log for each would be a flood of its own.
                        return Answer { error: None, is_passing: true, ..answer };
                    }
                    _ => {}
                }
                answer
            }
        };
        Answer { is_passing: is_transient, ..answer }
    }
}
