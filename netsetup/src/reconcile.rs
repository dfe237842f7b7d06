//! Keeps the network in the desired state: each interval, and at once when the kernel reports a change
//! of something that Nodens owns.

mod watch;

use std::time::Duration;

use tokio::sync::watch as latest;
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::Error;
use crate::kernel::Kernel;
use crate::plan::What;
use crate::report::{Problem, Report};
use crate::spec::Desired;

/// What a round of the reconciler found.
#[derive(Debug)]
pub enum Event {
    /// The desired state, at the start or since it changed, is there: made, or adopted.
    SetUp(Report),
    /// Something had gone and is back; counted in `nodens_netsetup_repairs_total{what}`.
    Repaired {
        /// The kinds of thing that were mended, each once.
        what: Vec<What>,
        /// What was done.
        report: Report,
    },
    /// Something is not as desired; each problem is counted in
    /// `coredns_nodecache_setup_errors_total{errortype}`. Comes again with every try.
    Failed {
        /// What is wrong.
        problems: Vec<Problem>,
        /// What was done.
        report: Report,
    },
    /// After a failure everything is as desired again, and nothing had to be mended.
    Sound,
    /// The kernel cannot be watched; from now on only the interval counts.
    Blind(Error),
}

/// Mends the network for as long as it runs.
#[derive(Debug)]
pub struct Reconciler {
    desired: latest::Receiver<Desired>,
    interval: Duration,
}

impl Reconciler {
    /// Keeps what is in `desired`, now and whenever it changes, looking each `interval` even if
    /// nothing is heard.
    pub fn new(desired: latest::Receiver<Desired>, interval: Duration) -> Self {
        Self { desired, interval: interval.max(SETTLE) }
    }

    /// Runs until nobody can change what is desired any more; then nothing is under way. If it is dropped instead, what
    /// it was about to write may still be written.
    ///
    /// # Errors
    ///
    /// There is no netlink at all.
    pub async fn run(mut self, mut report_event: impl FnMut(Event)) -> Result<(), Error> {
        let kernel = Kernel::connect()?;
        let mut watch = match watch::Watch::open() {
            Ok(watch) => Some(watch),
            Err(error) => {
                report_event(Event::Blind(error));
                None
            }
        };
        let mut fulfilled = None;
        let mut has_failed = false;
        while self.desired.has_changed().is_ok() {
            let desired = self.desired.borrow_and_update().clone();
            let report = kernel.apply(&desired).await;
            let failed = !report.is_ok();
            if let Some(watch) = &mut watch {
                watch.follow(&desired);
            }
            // Reaching a desired state for the first time is no repair.
            let new = fulfilled.as_ref() != Some(&desired);
            if let Some(event) = event(report, new, has_failed) {
                report_event(event);
            }
            has_failed = failed;
            if !failed {
                fulfilled = Some(desired.clone());
            }
            let done = Instant::now();
            let pause = if failed { self.interval.min(RETRY) } else { self.interval };
            tokio::select! {
                () = sleep_until(done + pause) => {}
                _ = self.desired.changed() => {}
                () = heard(&mut watch, &desired) => {
                    // One change is followed by others, and a fight with other software over an
                    // address must not spin.
                    tokio::select! {
                        () = sleep_until((Instant::now() + SETTLE).max(done + GAP)) => {}
                        _ = self.desired.changed() => {}
                    }
                    if let Some(watch) = &mut watch {
                        // What is queued by now is covered by the next round.
                        while timeout(Duration::ZERO, watch.changed(&desired)).await.is_ok() {}
                    }
                }
            }
        }
        Ok(())
    }
}

async fn heard(watch: &mut Option<watch::Watch>, desired: &Desired) {
    match watch {
        Some(watch) => watch.changed(desired).await,
        None => std::future::pending().await,
    }
}

fn event(report: Report, new: bool, has_failed: bool) -> Option<Event> {
    let problems = report.problems();
    if !problems.is_empty() {
        Some(Event::Failed { problems, report })
    } else if new {
        Some(Event::SetUp(report))
    } else if report.changed() {
        Some(Event::Repaired { what: report.mended(), report })
    } else {
        has_failed.then_some(Event::Sound)
    }
}

/// How long to wait for the rest after the first notification.
const SETTLE: Duration = Duration::from_millis(50);
/// The least time between two rounds that notifications cause: "back within a second" with time to
/// spare.
const GAP: Duration = Duration::from_millis(250);
/// When to try again after a failure that no notification ends (no driver yet, no permission).
const RETRY: Duration = Duration::from_secs(5);
