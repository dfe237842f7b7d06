//! Timers for queries, as coarse as they may be: a worker looks every few milliseconds who is due, and only while somebody
//! waits. A query that is answered in time, as nearly all are, then costs no timer of the runtime's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::clock::CoarseInstant;

/// How often a worker looks.
const SWEEP: Duration = Duration::from_millis(10);

/// The alarms of one worker.
#[derive(Default)]
pub struct Alarms {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    // A waker stays in its place when it is set again.
    set: Vec<Option<(CoarseInstant, Waker)>>,
    free: Vec<usize>,
    armed: usize,
    sweeping: bool,
}

/// An alarm of one query. Dropping it switches it off.
pub struct Alarm {
    alarms: Arc<Alarms>,
    place: Option<usize>,
    at: CoarseInstant,
}

impl Alarm {
    /// An alarm that is not set.
    pub fn new(alarms: &Arc<Alarms>) -> Self {
        Self { alarms: Arc::clone(alarms), place: None, at: CoarseInstant::default() }
    }

    /// Wakes `waker` at `at`, or some milliseconds later. Has to be called within the worker's runtime.
    pub fn set(&mut self, at: CoarseInstant, waker: &Waker) {
        let mut guard = self.alarms.lock();
        let inner = &mut *guard;
        let place = match self.place {
            Some(place) => place,
            None => {
                inner.armed += 1;
                inner.free.pop().unwrap_or_else(|| {
                    inner.set.push(None);
                    inner.set.len() - 1
                })
            }
        };
        self.place = Some(place);
        self.at = at;
        match inner.set.get_mut(place) {
            Some(Some((due, old))) => {
                *due = at;
                old.clone_from(waker);
            }
            Some(none) => *none = Some((at, waker.clone())),
            None => {}
        }
        let start = !inner.sweeping;
        inner.sweeping = true;
        drop(guard);
        if start {
            tokio::spawn(sweep(Arc::clone(&self.alarms)));
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let mut guard = self.alarms.lock();
        let inner = &mut *guard;
        if let Some(set) = inner.set.get_mut(place) {
            *set = None;
        }
        inner.free.push(place);
        inner.armed -= 1;
    }
}

impl Alarms {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wakers that are due; `None` where nobody waits any more.
    fn due(&self, now: CoarseInstant) -> Option<Vec<Waker>> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if inner.armed == 0 {
            inner.sweeping = false;
            return None;
        }
        let mut due = Vec::new();
        for (at, waker) in inner.set.iter_mut().flatten() {
            if *at <= now {
                // Whoever is woken sets it again or is done.
                *at = CoarseInstant::from_millis(u64::MAX);
                due.push(waker.clone());
            }
        }
        Some(due)
    }
}

async fn sweep(alarms: Arc<Alarms>) {
    let mut sweeping = Sweeping { alarms, ended: false };
    let mut interval = tokio::time::interval(SWEEP);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval.tick().await;
    loop {
        interval.tick().await;
        match sweeping.alarms.due(CoarseInstant::now()) {
            Some(due) => due.into_iter().for_each(Waker::wake),
            None => break,
        }
    }
    // `due` has said so, and another sweep may have begun since.
    sweeping.ended = true;
}

/// Says that nobody sweeps any more where the sweep ends with its runtime: whoever sets an alarm later begins another.
struct Sweeping {
    alarms: Arc<Alarms>,
    ended: bool,
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        if !self.ended {
            self.alarms.lock().sweeping = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn an_alarm_wakes_and_the_sweep_ends_with_the_last_one() {
        let alarms = Arc::new(Alarms::default());
        let mut alarm = Alarm::new(&alarms);
        let never = Alarm::new(&alarms);
        let at = CoarseInstant::now().plus_millis(30);
        poll_fn(|context| {
            if CoarseInstant::now() >= at {
                return Poll::Ready(());
            }
            alarm.set(at, context.waker());
            Poll::Pending
        })
        .await;
        drop((alarm, never));
        let deadline = CoarseInstant::now().plus_millis(2_000);
        while alarms.lock().sweeping {
            assert!(CoarseInstant::now() < deadline);
            tokio::task::yield_now().await;
            tokio::time::sleep(SWEEP).await;
        }
    }
}
