//! What all watches of one cluster know together of its API server: whether it answers.
//!
//! Each kind has a watch and pauses of its own. But if one of them gets through after a failure, the cause of the others'
//! pauses is gone as well: they try at once.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// The view of one API server. Shared by the watches of all kinds.
pub(super) struct ServerView {
    /// `Some` with the time of the first failure while requests fail.
    failing: Mutex<Option<Instant>>,
    /// Grows each time that the server answers again.
    recoveries: watch::Sender<u64>,
}

impl Default for ServerView {
    fn default() -> Self {
        Self { failing: Mutex::default(), recoveries: watch::Sender::new(0) }
    }
}

impl ServerView {
    /// A request has failed in a way that concerns every kind.
    pub(super) fn note_failure(&self) {
        self.lock().get_or_insert_with(Instant::now);
    }

    /// A response with status 200 has begun.
    pub(super) fn note_answer(&self) {
        if self.lock().take().is_some() {
            self.recoveries.send_modify(|count| *count += 1);
        }
    }

    /// How often the server has recovered; to be read before a request, for [`ServerView::pause`] after it.
    pub(super) fn recoveries(&self) -> u64 {
        *self.recoveries.borrow()
    }

    /// Waits for `pause`, or until the server has answered another kind since `seen` was read. Returns true in that case.
    pub(super) async fn pause(&self, pause: Duration, seen: u64) -> bool {
        let mut recoveries = self.recoveries.subscribe();
        tokio::select! {
            () = sleep(pause) => false,
            recovered = recoveries.wait_for(|&count| count != seen) => recovered.is_ok(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.failing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_gets_through_wakes_the_others() {
        let view = ServerView::default();
        view.note_failure();
        let begun = Instant::now();
        let (woken, slept, ()) = tokio::join!(
            view.pause(Duration::from_secs(30), 0),
            view.pause(Duration::from_secs(1), 0),
            async {
                sleep(Duration::from_secs(2)).await;
                view.note_answer();
                view.note_answer();
            }
        );
        assert!(woken && !slept);
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        // One that came between the request and the pause counts as well.
        assert!(view.pause(Duration::from_secs(1), 0).await);
        // An answer is news only after a failure.
        view.note_answer();
        assert_eq!(view.recoveries(), 1);
    }
}
