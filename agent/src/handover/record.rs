//! What became of hand-overs, for metrics and `nodens status`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::metrics::{Counter, Scrape, Source, names};

/// The hand-overs of this process, and how often its supervisor has started the server again.
#[derive(Default)]
pub struct Record {
    failed: Counter,
    last_failure: Mutex<Option<String>>,
    restarts: u64,
}

impl Record {
    /// For a process that was started after so many others under one supervisor.
    pub fn new(restarts: u64) -> Arc<Self> {
        Arc::new(Self { restarts, ..Self::default() })
    }

    /// Another instance was to take over and did not.
    pub fn failed(&self, why: &str) {
        self.failed.add(1);
        *self.lock() = Some(why.to_owned());
    }

    /// How often that has happened, and why the last time.
    pub fn failures(&self) -> (u64, Option<String>) {
        (self.failed.value(), self.lock().clone())
    }

    /// How often the supervisor has started the server again.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Record {
    fn collect(&self, out: &mut Scrape) {
        out.count(&names::HANDOVER_FAILURES, &[], self.failed.value());
        out.count(&names::RESTARTS, &[], self.restarts);
    }
}
