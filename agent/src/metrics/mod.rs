//! Every metric, by name, in one folder. Names and labels that CoreDNS and NodeLocal DNSCache have are theirs, so that
//! dashboards and alerts go on working; ours begin with `nodens_`.
//!
//! | module | what |
//! |---|---|
//! | [`names`] | the list of all families: name, labels, help |
//! | [`cells`] | the counters of the hot path, one set for each worker and server block |
//! | [`value`] | counters, gauges and histograms that many threads write |
//! | [`scrape`] | how numbers are handed in: the trait [`Source`] |
//! | [`text`] | how they are printed: the Prometheus text format, and which of the two is asked for |
//! | `openmetrics` | the OpenMetrics text format, by `prometheus-client` |
//!
//! Who has metrics implements [`Source`] and is put into [`Metrics`]: with [`Metrics::register`] for the life of the process,
//! with [`Metrics::replace`] for that of a configuration.

pub mod cells;
mod chains;
mod common;
pub mod names;
mod openmetrics;
mod process;
pub mod scrape;
pub mod text;
pub mod value;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use chains::{AnsweredBy, Enabled, Handlers};
pub use common::{Common, SetupError};
pub use scrape::{Family, Kind, Scrape, Source};
pub use text::Format;
pub use value::{Counter, Gauge, Histogram};

/// What is exposed. One for the process, shared.
pub struct Metrics {
    common: Arc<Common>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// For the life of the process.
    lasting: Vec<Arc<dyn Source>>,
    /// Those of the running configuration.
    current: Vec<Arc<dyn Source>>,
    /// Those of configurations before, which queries on their way may still count in.
    leaving: Vec<Arc<dyn Source>>,
    /// The totals of those that are gone.
    past: Scrape,
}

impl Metrics {
    /// Those of the process itself; everything else is added.
    pub fn new() -> Arc<Self> {
        let common = Arc::new(Common::default());
        let lasting: Vec<Arc<dyn Source>> =
            vec![Arc::clone(&common) as _, Arc::new(process::Process)];
        Arc::new(Self { common, state: Mutex::new(State { lasting, ..State::default() }) })
    }

    /// What is counted for the process as a whole.
    pub fn common(&self) -> &Common {
        &self.common
    }

    /// Adds a source for the life of the process.
    pub fn register(&self, source: Arc<dyn Source>) {
        self.state().lasting.push(source);
    }

    /// Puts the sources of a new configuration in the place of those of the last one. Sources that are in both go on; of the
    /// others the counters and histograms are kept, so that nothing that is exposed goes backwards, and the gauges are dropped.
    pub fn replace(&self, sources: Vec<Arc<dyn Source>>) {
        let mut state = self.state();
        let state = &mut *state;
        for old in std::mem::replace(&mut state.current, sources) {
            if !state.current.iter().any(|new| same(new, &old)) {
                state.leaving.push(old);
            }
        }
        // One that comes back counts as current again.
        state.leaving.retain(|left| !state.current.iter().any(|new| same(new, left)));
        state.settle();
    }

    /// All metrics as text.
    pub fn text(&self, format: Format) -> String {
        text::write(self.gather(), format)
    }

    /// All samples of this moment: what a scrape shows.
    pub fn gather(&self) -> Scrape {
        let mut state = self.state();
        state.settle();
        let mut out = Scrape::default();
        out.append(&state.past);
        // What is leaving keeps its counters, not its gauges.
        let mut leaving = Scrape::default();
        state.leaving.iter().for_each(|source| source.collect(&mut leaving));
        out.keep_totals(leaving);
        state.lasting.iter().chain(&state.current).for_each(|source| source.collect(&mut out));
        out
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes over the totals of the sources that are held nowhere else, and lets go of them.
    fn settle(&mut self) {
        let (gone, leaving) = std::mem::take(&mut self.leaving)
            .into_iter()
            .partition::<Vec<_>, _>(|source| Arc::strong_count(source) == 1);
        self.leaving = leaving;
        for source in gone {
            let mut totals = Scrape::default();
            source.collect(&mut totals);
            self.past.keep_totals(totals);
        }
    }
}

fn same(one: &Arc<dyn Source>, other: &Arc<dyn Source>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    struct Fixed(u64);

    impl Source for Fixed {
        fn collect(&self, out: &mut Scrape) {
            out.count(&names::PROXY_CONN_CACHE_HITS, &["forward", "192.0.2.1:53", "udp"], self.0);
            out.gauge(&names::HOSTS_ENTRIES, &[], self.0 as f64);
            out.histogram(
                &names::HEALTH_REQUEST_DURATION,
                &[],
                &[0.5, 1.0],
                vec![self.0, 1, 0],
                0.25,
            );
        }
    }

    const HITS: &str = "coredns_proxy_conn_cache_hits_total{proxy_name=\"forward\",to=\"192.0.2.1:53\",proto=\"udp\"}";

    #[test]
    fn sources_with_the_same_series_are_added_up_under_one_head() {
        let metrics = Metrics::new();
        metrics.replace(vec![Arc::new(Fixed(2)), Arc::new(Fixed(3))]);
        let text = metrics.text(Format::Prometheus);
        assert!(text.contains(&format!("\n{HITS} 5\n")), "{text}");
        assert!(text.contains("\ncoredns_hosts_entries 5\n"), "{text}");
        assert!(
            text.contains("coredns_health_request_duration_seconds_bucket{le=\"1\"} 7\n"),
            "{text}"
        );
        assert!(
            text.contains("coredns_health_request_duration_seconds_bucket{le=\"+Inf\"} 7\n"),
            "{text}"
        );
        assert_eq!(
            text.matches("# TYPE coredns_proxy_conn_cache_hits_total counter\n").count(),
            1,
            "{text}"
        );
        assert!(!text.contains("EOF"));
        let open = metrics.text(Format::OpenMetrics);
        assert!(open.contains("# TYPE coredns_proxy_conn_cache_hits counter\n"), "{open}");
        assert!(
            open.contains("coredns_health_request_duration_seconds_bucket{le=\"1.0\"} 7\n"),
            "{open}"
        );
        assert!(open.ends_with("# EOF\n"));
    }

    #[test]
    fn nothing_goes_backwards_on_a_reload() {
        let metrics = Metrics::new();
        let in_use: Arc<dyn Source> = Arc::new(Fixed(7));
        metrics.replace(vec![Arc::clone(&in_use), Arc::new(Fixed(1))]);
        metrics.replace(vec![Arc::new(Fixed(2))]);
        assert!(metrics.text(Format::Prometheus).contains(&format!("\n{HITS} 10\n")));
        assert!(metrics.text(Format::Prometheus).contains("\ncoredns_hosts_entries 2\n"));
        drop(in_use);
        assert!(metrics.text(Format::Prometheus).contains(&format!("\n{HITS} 10\n")));
        assert!(metrics.state().leaving.is_empty());
        metrics.replace(Vec::new());
        assert!(metrics.text(Format::Prometheus).contains(&format!("\n{HITS} 10\n")));
        assert!(!metrics.text(Format::Prometheus).contains("coredns_hosts_entries"));
    }

    #[test]
    fn one_that_stays_is_not_counted_twice() {
        let metrics = Metrics::new();
        let stays: Arc<dyn Source> = Arc::new(Fixed(4));
        metrics.replace(vec![Arc::clone(&stays)]);
        metrics.replace(vec![Arc::clone(&stays)]);
        assert!(metrics.text(Format::Prometheus).contains(&format!("\n{HITS} 4\n")));
    }

    #[test]
    fn the_page_lists_every_metric() {
        let page = include_str!("../../../docs/metrics.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let mut named = HashSet::new();
        for family in names::ALL {
            assert!(named.insert(family.name), "{} twice", family.name);
            assert_eq!(
                family.name.ends_with("_total"),
                family.kind == Kind::Counter,
                "{}",
                family.name
            );
            let labels: Vec<String> =
                family.labels.iter().map(|label| format!("`{label}`")).collect();
            let row =
                format!("| `{}` | {} | {} | ", family.name, family.kind.name(), labels.join(" "));
            assert!(
                rows.iter().any(|line| line.starts_with(&row)),
                "docs/metrics.md has no line that begins\n{row}"
            );
        }
        assert_eq!(
            rows.len(),
            names::ALL.len(),
            "docs/metrics.md has a metric that the code lacks"
        );
    }
}
