//! Whether queries can be answered as they should, and if not, what is missing.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use crate::chain::Chain;
use crate::conditions::{Found, Watched, table};
use crate::detail::{Detail, Monitor};
use crate::metrics::{Scrape, Source, names};
use crate::server::Liveness;

/// What `/ready` answers from: the handlers of the running configuration, and the process's own state.
#[derive(Default)]
pub struct Readiness {
    running: ArcSwapOption<Running>,
    stopping: AtomicBool,
    /// With `monitor until-ready`: everything was ready once.
    latched: AtomicBool,
    liveness: OnceLock<Arc<Liveness>>,
}

struct Running {
    chains: Vec<Arc<Chain>>,
    details: Vec<Arc<dyn Detail>>,
    monitor: Monitor,
}

impl Readiness {
    /// Asks these chains from now on. Call it once the configuration is served.
    pub fn set_running(
        &self,
        chains: Vec<Arc<Chain>>,
        details: Vec<Arc<dyn Detail>>,
        monitor: Monitor,
    ) {
        self.latched.store(false, Relaxed);
        self.running.store(Some(Arc::new(Running { chains, details, monitor })));
    }

    /// Says that the process is about to end (lameduck); nothing takes it back.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Goes by this liveness from now on; the first one stays.
    pub fn set_liveness(&self, liveness: Arc<Liveness>) {
        let _ = self.liveness.set(liveness);
    }

    /// Why the process is as good as dead; `None`: it is not.
    pub fn trouble(&self) -> Option<String> {
        self.liveness.get()?.trouble()
    }

    /// What is missing, a line for each; empty if everything is ready.
    pub fn waits(&self) -> Vec<String> {
        if self.stopping.load(Relaxed) {
            return vec!["the server is about to stop".to_owned()];
        }
        let Some(running) = self.running.load_full() else {
            return vec!["the server is starting".to_owned()];
        };
        if let Some(trouble) = self.trouble() {
            return vec![trouble];
        }
        if self.latched.load(Relaxed) {
            return Vec::new();
        }
        let mut waits: Vec<String> = Vec::new();
        for handler in running.chains.iter().flat_map(|chain| chain.handlers()) {
            if let Some(wait) = handler.not_ready() {
                let line = format!("{}: {wait}", handler.plugin().name());
                // The zones of a block share its handlers.
                if !waits.contains(&line) {
                    waits.push(line);
                }
            }
        }
        if waits.is_empty() && running.monitor == Monitor::UntilReady {
            self.latched.store(true, Relaxed);
        }
        waits
    }

    /// The details of all parts; those of one name are a list.
    pub(super) fn details(&self) -> serde_json::Value {
        gather(self.running.load().iter().flat_map(|running| &running.details))
    }
}

impl Watched for Readiness {
    fn look(&self, found: &mut Found) {
        if let Some(trouble) = self.trouble() {
            found.add(&table::STALLED, trouble);
            return;
        }
        self.waits().into_iter().for_each(|wait| found.add(&table::NOT_READY, wait));
    }
}

impl Source for Readiness {
    fn collect(&self, out: &mut Scrape) {
        out.gauge(&names::READY, &[], if self.waits().is_empty() { 1.0 } else { 0.0 });
    }
}

/// The details of all of these by name; each name has a list, since there may be several.
pub fn gather<'a>(details: impl Iterator<Item = &'a Arc<dyn Detail>>) -> serde_json::Value {
    let mut all = serde_json::Map::new();
    for detail in details {
        let list = all.entry(detail.name()).or_insert_with(|| serde_json::Value::Array(Vec::new()));
        if let serde_json::Value::Array(list) = list {
            list.push(detail.detail());
        }
    }
    all.into()
}
