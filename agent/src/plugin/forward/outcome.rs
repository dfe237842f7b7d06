//! What a query to the upstreams ends in.

use std::sync::Arc;

use super::failure::Failure;
use super::limits::Limits;
use crate::request::{Answer, Outcome, Plugin, Request};
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

impl Finished {
    pub(super) fn answered(message: Message) -> Self {
        Self { result: Ok(message), error: None, is_transient: false }
    }

    pub(super) fn failed(failure: Failure) -> Self {
        Self { is_transient: failure.is_transient(), result: Err(failure), error: None }
    }

    /// The end without an answer that is whole and wanted: what there is instead, and why. `is_open`: an upstream is up that
    /// has not failed at the question.
    pub(super) fn best(fallback: Option<Message>, error: Option<Failure>, is_open: bool) -> Self {
        match (fallback, error) {
            // No upstream sends the whole answer.
            (Some(message), error) if message.truncated() => {
                Self { result: Ok(message), error, is_transient: true }
            }
            (Some(message), _) => {
                let is_transient = message.rcode() == Rcode::SERVFAIL && is_open;
                Self { is_transient, ..Self::answered(message) }
            }
            (None, error) => {
                let failed = Self::failed(error.unwrap_or(Failure::AllDown));
                Self { is_transient: failed.is_transient || is_open, ..failed }
            }
        }
    }

    /// The upstream's answer, if there is one.
    pub(super) fn message(&self) -> Option<&Message> {
        self.result.as_ref().ok()
    }

    /// The answer to `request`.
    pub(super) fn into_answer(self, limits: &Limits, request: &Request<'_>) -> Answer {
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
                    Failure::MaxConcurrent => limits.rejected.add(1),
                    Failure::Share => {
                        limits.share_rejected.add(1);
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
