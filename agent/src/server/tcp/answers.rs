//! The answers of queries that waited, on their way to the session that they came through.

use tokio::sync::mpsc;

use crate::admission::Permit;
use crate::server::send_queue::OwedReply;
use crate::wire::write_u16;

/// The answer to a query that waited. Its bytes are charged until it is written.
pub(super) enum Answer {
    /// A frame; empty if nothing is to be sent.
    Frame(Vec<u8>, #[allow(dead_code, reason = "held for its drop")] Option<Permit>),
    /// The client's budget has no place for it.
    OverBudget,
}

/// The answer that is owed to a session: sent when this is dropped, empty if there is no reply, so that the session gets one
/// for each query.
pub(super) struct Owed {
    answer: Option<Answer>,
    sender: mpsc::Sender<Answer>,
    /// Of the query's bytes; it grows by those of the answer.
    permit: Option<Permit>,
}

impl Owed {
    /// `permit` is that of the query's bytes.
    pub(super) fn new(sender: mpsc::Sender<Answer>, permit: Permit) -> Self {
        Self { answer: Some(Answer::Frame(Vec::new(), None)), sender, permit: Some(permit) }
    }
}

impl OwedReply for Owed {
    fn send(mut self: Box<Self>, write: &mut dyn FnMut(&mut Vec<u8>) -> bool) {
        let mut frame = vec![0, 0];
        if !write(&mut frame) {
            return;
        }
        let len = frame.len() - 2;
        write_u16(&mut frame, 0, len as u16);
        let Some(mut permit) = self.permit.take() else { return };
        self.answer = Some(match permit.grow(frame.capacity()) {
            true => Answer::Frame(frame, Some(permit)),
            false => Answer::OverBudget,
        });
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            // The channel holds as many as a session lets wait. If the session has gone, the answer is not needed.
            let _ = self.sender.try_send(answer);
        }
    }
}
