//! What went wrong with the node's network and what was mended, as metrics.

use netsetup::Event;
use netsetup::plan::What;
use netsetup::report::Problem;

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
}

impl Counts {
    /// Counts what the reconciler reports, and logs it.
    pub(super) fn note(&self, event: &Event) {
        match event {
            Event::SetUp(report) => {
                report.notes.iter().for_each(|note| tracing::warn!("{note}"));
            }
            Event::Repaired { what, .. } => {
                let shown: Vec<_> = what.iter().map(|what| what.as_str()).collect();
                tracing::warn!(what = shown.join(" "), "repaired the node's network");
                what.iter().for_each(|what| self.repair(*what));
            }
            Event::Failed { problems, .. } => self.problems(problems),
            Event::Blind(error) => tracing::warn!(
                %error,
                "the kernel does not tell of changes; the node's network is looked at each interval only"
            ),
        }
    }

    /// Counts and logs problems.
    pub(super) fn problems(&self, problems: &[Problem]) {
        for problem in problems {
            self.error(problem.errortype);
            tracing::error!(errortype = problem.errortype, "{}", problem.message);
        }
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
