//! What went wrong with the node's network and what was mended, as metrics.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use netsetup::Event;
use netsetup::plan::What;
use netsetup::report::Problem;

use crate::conditions::{Found, Watched, table};
use crate::metrics::{Counter, Scrape, Source, names};

/// The values of `errortype` that NodeLocal DNSCache has; all of them begin at zero, so that rates and alerts begin well.
/// `iptables_lock` stays there: nothing here waits for that lock.
const ERROR_TYPES: [&str; 5] =
    ["iptables", "iptables_lock", "interface_add", "interface_check", "configmap"];

/// The counters of the node's network.
#[derive(Debug, Default)]
pub struct Counts {
    errors: [Counter; ERROR_TYPES.len()],
    repairs: [Counter; What::ALL.len()],
    /// What is wrong now, a line for each.
    broken: Mutex<Vec<String>>,
    /// The kernel does not tell of changes, or nothing is looked at any more.
    blind: AtomicBool,
}

impl Counts {
    /// Counts what the reconciler reports, and logs it.
    pub(super) fn note(&self, event: &Event) {
        match event {
            Event::SetUp(report) => {
                self.set_broken(&[]);
                report.notes.iter().for_each(|note| tracing::warn!("{note}"));
            }
            Event::Sound => self.set_broken(&[]),
            Event::Repaired { what, .. } => {
                self.set_broken(&[]);
                let shown: Vec<_> = what.iter().map(|what| what.as_str()).collect();
                tracing::warn!(what = shown.join(" "), "repaired the node's network");
                what.iter().for_each(|what| self.repair(*what));
            }
            Event::Failed { problems, .. } => self.problems(problems),
            Event::Blind(error) => {
                self.blind.store(true, Relaxed);
                tracing::warn!(
                    %error,
                    "the kernel does not tell of changes; the node's network is looked at each interval only"
                );
            }
        }
    }

    /// Counts and logs problems.
    pub(super) fn problems(&self, problems: &[Problem]) {
        self.set_broken(problems);
        for problem in problems {
            self.error(problem.errortype);
            tracing::error!(errortype = problem.errortype, "{}", problem.message);
        }
    }

    /// The network is not looked at any more.
    pub(super) fn unwatched(&self) {
        self.blind.store(true, Relaxed);
    }

    fn set_broken(&self, problems: &[Problem]) {
        let lines = problems.iter().map(|problem| problem.message.clone()).collect();
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = lines;
    }

    /// What is wrong with the network now, a line for each.
    pub fn broken(&self) -> Vec<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Repairs of everything since the start.
    pub fn repaired(&self) -> u64 {
        self.repairs.iter().map(Counter::value).sum()
    }

    /// Counts an error.
    pub(super) fn error(&self, errortype: &str) {
        let known = ERROR_TYPES.iter().zip(&self.errors).find(|(name, _)| **name == errortype);
        debug_assert!(known.is_some(), "{errortype}");
        if let Some((_, counter)) = known {
            counter.add(1);
        }
    }

    fn repair(&self, what: What) {
        let known = What::ALL.iter().zip(&self.repairs).find(|(kind, _)| **kind == what);
        if let Some((_, counter)) = known {
            counter.add(1);
        }
    }
}

impl Watched for Counts {
    fn look(&self, found: &mut Found) {
        for line in self.broken() {
            found.add(&table::NETWORK_BROKEN, line);
        }
        if self.blind.load(Relaxed) {
            found.add(&table::NETWORK_UNWATCHED, "the kernel's messages cannot be read");
        }
    }
}

impl Source for Counts {
    fn collect(&self, out: &mut Scrape) {
        for (errortype, counter) in ERROR_TYPES.iter().zip(&self.errors) {
            out.count(&names::NODECACHE_SETUP_ERRORS, &[errortype], counter.value());
        }
        for (what, counter) in What::ALL.iter().zip(&self.repairs) {
            out.count(&names::NETSETUP_REPAIRS, &[what.as_str()], counter.value());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metrics::{Format, Metrics};

    #[test]
    fn everything_begins_at_zero_and_counts() {
        let counts = Arc::new(Counts::default());
        let metrics = Metrics::new();
        metrics.register(Arc::clone(&counts) as Arc<dyn Source>);
        counts.error("configmap");
        counts.note(&Event::Repaired {
            what: vec![What::Link, What::Address],
            report: netsetup::Report::default(),
        });
        let text = metrics.text(Format::Prometheus);
        for line in [
            "coredns_nodecache_setup_errors_total{errortype=\"configmap\"} 1",
            "coredns_nodecache_setup_errors_total{errortype=\"iptables_lock\"} 0",
            "nodens_netsetup_repairs_total{what=\"link\"} 1",
            "nodens_netsetup_repairs_total{what=\"notrack\"} 0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
