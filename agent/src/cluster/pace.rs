//! When a kind is asked for: what its own failures and the other kinds' successes mean for the next attempt.
//!
//! It sends nothing: the watcher does, and in tests a model of a whole cluster's agents.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::recovery::{Failure, Next, Recovery, Situation};
use super::server_view::ServerView;

/// The pace of one kind.
pub(super) struct Pace {
    view: Arc<ServerView>,
    pub(super) recovery: Recovery,
    /// How often the server had recovered when this kind was answered last, or began to ask.
    recoveries: u64,
}

impl Pace {
    pub(super) fn new(view: Arc<ServerView>, recovery: Recovery) -> Self {
        Self { view, recovery, recoveries: 0 }
    }

    /// An attempt begins.
    pub(super) fn begin(&mut self) {
        self.recoveries = self.view.recoveries();
    }

    /// A response with status 200 has begun, which is news for all kinds.
    pub(super) fn answered(&mut self) {
        self.view.note_answer();
        self.recoveries = self.view.recoveries();
        self.recovery.answered();
    }

    /// Decides how to continue after a failure.
    pub(super) fn decide(&mut self, failure: &Failure, now: Situation) -> Next {
        let next = self.recovery.next(failure, now);
        if matches!(next, Next::ServerFailed(_)) {
            self.view.note_failure();
        }
        next
    }

    /// Waits as was decided, or until another kind gets through.
    pub(super) async fn wait(&mut self, next: Next) {
        let alone: Duration = next.pause();
        match next {
            Next::After(_) | Next::Absent(_) | Next::Plainer(_) => sleep(alone).await,
            Next::OnceAnswered(_) | Next::ServerFailed(_) => {
                if self.view.pause(alone, self.recoveries).await {
                    sleep(self.recovery.woken()).await;
                }
            }
        }
    }
}
