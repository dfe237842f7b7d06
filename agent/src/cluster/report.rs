//! A store's numbers for `/metrics`.

use std::sync::{Arc, Weak};

use super::Sink;
use super::object::Kind;
use super::status::{
    EventType, Histogram, PROGRAMMING_BUCKETS, READ_DELAY_BUCKETS, REQUEST_BUCKETS, Status,
};
use crate::metrics::{Family, Scrape, Source, names};

/// What a store tells of itself. One for each store, for as long as it runs, however many configurations show it: thereby a
/// reload takes no counter back. It does not keep what the store knows in memory.
pub struct Report {
    status: Arc<Status>,
    sink: Weak<dyn Sink>,
}

impl Report {
    pub(super) fn new(status: Arc<Status>, sink: &Arc<dyn Sink>) -> Self {
        Self { status, sink: Arc::downgrade(sink) }
    }

    /// Where the objects come from, in the Corefile's words.
    pub fn source(&self) -> &str {
        self.status.source()
    }

    /// How fresh it all is.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// How many objects of `kind` are known.
    pub fn objects(&self, kind: Kind) -> usize {
        self.sink.upgrade().map_or(0, |sink| sink.count(kind))
    }

    fn collect_kind(&self, kind: Kind, out: &mut Scrape) {
        let state = self.status.kind(kind);
        let labels = [kind.name()];
        // Who a client is, and where this node is, makes no answer stale.
        if let Some(age) = self.status.kind_age(kind).filter(|_| !kind.is_of_node()) {
            out.gauge_greatest(&names::KUBERNETES_STORE_AGE, &labels, age.as_secs_f64());
        }
        out.gauge(&names::KUBERNETES_OBJECTS, &labels, self.objects(kind) as f64);
        // Of several clusters the one that is behind counts.
        out.gauge_least(&names::KUBERNETES_SYNCED, &labels, f64::from(u8::from(state.is_synced())));
        for event in EventType::ALL {
            let labels = [kind.name(), event.label()];
            out.count(&names::KUBERNETES_EVENTS, &labels, state.events(event));
        }
        out.count(&names::KUBERNETES_RELISTS, &labels, state.relists());
        out.count(&names::KUBERNETES_WATCH_ERRORS, &labels, state.errors());
        out.count(&names::KUBERNETES_SKIPPED_OBJECTS, &labels, state.skipped());
    }

    fn collect_requests(&self, out: &mut Scrape) {
        /// Lists and watches are all that is asked.
        const METHOD: &str = "GET";
        let host = self.status.host();
        if host.is_empty() {
            return;
        }
        for (code, count) in self.status.requests() {
            // As client-go says where there was no response.
            let code = code.map_or("<error>".to_owned(), |code| code.to_string());
            out.count(&names::KUBERNETES_REQUESTS, &[METHOD, &code, host], count);
        }
        let labels = [METHOD, host];
        let took = &self.status.request_duration;
        histogram(out, &names::KUBERNETES_REQUEST_DURATION, &labels, &REQUEST_BUCKETS, took);
        let waited = &self.status.limiter_duration;
        let family = &names::KUBERNETES_RATE_LIMITER_DURATION;
        histogram(out, family, &labels, &REQUEST_BUCKETS, waited);
        let delays = &self.status.read_delay;
        let family = &names::KUBERNETES_READ_DELAY;
        histogram(out, family, &[], &READ_DELAY_BUCKETS, delays);
    }
}

impl Source for Report {
    fn collect(&self, out: &mut Scrape) {
        for kind in self.status.wanted() {
            self.collect_kind(kind, out);
        }
        if let Some(zone) = self.sink.upgrade().and_then(|sink| sink.zone()) {
            out.gauge_greatest(&names::KUBERNETES_NODE_ZONE, &[&*zone], 1.0);
        }
        out.count(&names::KUBERNETES_RECEIVED_BYTES, &[], self.status.received_bytes());
        let from_snapshot = u8::from(self.status.is_snapshot_in_use());
        out.gauge_greatest(&names::KUBERNETES_SNAPSHOT_IN_USE, &[], f64::from(from_snapshot));
        let family = &names::KUBERNETES_PROGRAMMING_DURATION;
        let labels = ["headless_with_selector"];
        histogram(out, family, &labels, &PROGRAMMING_BUCKETS, &self.status.programming);
        self.collect_requests(out);
    }
}

fn histogram<const N: usize>(
    out: &mut Scrape,
    family: &'static Family,
    labels: &[&str],
    bounds: &'static [f64; N],
    of: &Histogram<N>,
) {
    let counts = of.buckets().into_iter().map(|(_, count)| count).collect();
    out.histogram(family, labels, bounds, counts, of.sum());
}
