//! One try of a query: one upstream, asked once.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::CoarseInstant;
use crate::upstream::event::AttemptId;
use crate::upstream::question::Unexpected;
use crate::upstream::{Question, Transport, Upstream};
use crate::wire::{HEADER_LEN, read_u16, write_u16};

/// A try that has no answer yet.
pub(super) struct Attempt {
    pub id: AttemptId,
    pub upstream: Arc<Upstream>,
    /// Place of the upstream in the set that it was chosen from.
    pub place: u16,
    pub transport: Transport,
    pub sent: CoarseInstant,
    /// How long it is waited for before another is sent.
    pub timeout: Duration,
    /// That time is over. An answer is still good.
    pub timed_out: bool,
    /// Late answers of the upstream when the try began: one more means that it lives.
    pub late_before: u64,
}

impl Attempt {
    /// When its time is over.
    pub(super) fn due(&self) -> CoarseInstant {
        self.sent.plus_millis(self.timeout.as_millis() as u64)
    }

    /// True if the upstream has answered anything since the try was sent: then the question is slow, and not the upstream
    /// dead.
    pub(super) fn upstream_has_answered(&self, worker: usize) -> bool {
        self.upstream.health.last_answer() > self.sent
            || late_answers(&self.upstream, worker) != self.late_before
    }

    /// The same, but for the steps of the coarse clock: an answer at the moment of sending counts.
    pub(super) fn upstream_is_busy(&self) -> bool {
        self.upstream.health.last_answer() >= self.sent
    }
}

/// How many answers of an upstream have come after their query had been given up.
pub(super) fn late_answers(upstream: &Upstream, worker: usize) -> u64 {
    upstream.counters(worker).unexpected_count(Unexpected::Late)
}

/// A bare header, as servers answer to what they cannot read, with the question that it is about.
pub(super) fn complete(answer: Cow<'_, [u8]>, question: &Question) -> Vec<u8> {
    let mut answer = answer.into_owned();
    if read_u16(&answer, 4) == Some(0) {
        answer.truncate(HEADER_LEN);
        answer.get_mut(4..HEADER_LEN).into_iter().for_each(|counts| counts.fill(0));
        write_u16(&mut answer, 4, 1);
        answer.extend_from_slice(question.octets());
    }
    answer
}
