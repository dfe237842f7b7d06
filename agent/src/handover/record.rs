//! What became of hand-overs, for metrics and `nodens status`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::conditions::{Found, Watched, table};
use crate::metrics::{Counter, Scrape, Source, names};

/// A failed hand-over and a crash count as something that is wrong for so long.
const RECENT: Duration = Duration::from_secs(900);

/// The hand-overs of this process, and how often its supervisor has started the server again.
pub struct Record {
    failed: Counter,
    last_failure: Mutex<Option<(Instant, String)>>,
    restarts: u64,
    /// How the process before this one ended; empty if there was none.
    why: String,
    begun: Instant,
}

impl Record {
    /// For a process that was started after so many others under one supervisor, the last of which ended like this.
    pub fn new(restarts: u64, why: &str) -> Arc<Self> {
        let (failed, last_failure, begun) = (Counter::new(), Mutex::default(), Instant::now());
        Arc::new(Self { failed, last_failure, restarts, why: why.to_owned(), begun })
    }

    /// Another instance was to take over and did not.
    pub fn failed(&self, why: &str) {
        self.failed.add(1);
        *self.lock() = Some((Instant::now(), why.to_owned()));
    }

    /// How often that has happened, and why the last time.
    pub fn failures(&self) -> (u64, Option<String>) {
        (self.failed.value(), self.lock().as_ref().map(|(_, why)| why.clone()))
    }

    /// How often the supervisor has started the server again.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for Record {
    fn look(&self, found: &mut Found) {
        let since = self.begun.elapsed();
        if self.restarts > 0 && since < RECENT {
            let evidence =
                format!("started again {} times; the last time: {}", self.restarts, self.why);
            found.add_since(&table::CRASHED, evidence, since);
        }
        if let Some((at, why)) = &*self.lock()
            && at.elapsed() < RECENT
        {
            found.add_since(&table::TAKEOVER_FAILED, why.as_str(), at.elapsed());
        }
    }
}

impl Source for Record {
    fn collect(&self, out: &mut Scrape) {
        out.count(&names::HANDOVER_FAILURES, &[], self.failed.value());
        out.count(&names::RESTARTS, &[], self.restarts);
    }
}
