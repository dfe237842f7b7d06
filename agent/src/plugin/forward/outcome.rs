//! What a query to the upstreams ends in.

use std::sync::Arc;

use super::failure::Failure;
use super::limits::Limits;
use crate::request::{Answer, Outcome, Plugin, Request};
use crate::wire::Message;

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
