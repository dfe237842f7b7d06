//! What happens to a query that is being resolved, and who is to hear of it.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::upstream::UpstreamError;

/// One try of one query. Its query gives it its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptId(pub u16);

/// A query that is driven in place by its worker. Of two that are given one index after the other, the generations differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingId {
    /// The place among the worker's queries.
    pub index: u32,
    /// How often the place was used.
    pub generation: u32,
}

/// Takes the events of one try in place: it is called where they happen, on the thread of the worker that began the try,
/// with no lock held.
#[derive(Clone, Copy, Debug)]
pub struct Receiver {
    /// The driver, with the moment of the event.
    pub deliver: fn(PendingId, Event<'_>, Instant),
    /// The query.
    pub query: PendingId,
    /// The try.
    pub attempt: AttemptId,
}

/// What happens to a query.
#[derive(Debug)]
pub enum Event<'m> {
    /// The response to a try: id and question are checked, nothing else.
    Response {
        /// Which try.
        attempt: AttemptId,
        /// The whole message.
        message: Cow<'m, [u8]>,
        /// The datagram was longer than the buffer for it.
        oversize: bool,
        /// From sending to receiving.
        round_trip: Duration,
    },
    /// A try has failed, or could not be sent.
    Failed {
        /// Which try.
        attempt: AttemptId,
        /// Why.
        error: UpstreamError,
    },
    /// The moment that the query has set has come.
    Timeout,
}
