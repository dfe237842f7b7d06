//! What the workers hand in when they are scraped.

use std::sync::Arc;

use super::handshake::listeners::AllEncrypted;
use super::tcp::Connections;
use super::worker::Worker;
use crate::metrics::cells::{Cell, Histogram, QUEUE_BUCKETS, Tally};
use crate::metrics::{AnsweredBy, Scrape, Source, names};

/// The workers' own numbers. Those of queries are counted by chain.
pub struct PoolMetrics {
    pub(super) workers: Vec<Arc<Worker>>,
    pub(super) connections: Arc<Connections>,
    pub(super) encrypted: Arc<AllEncrypted>,
}

impl Source for PoolMetrics {
    fn collect(&self, out: &mut Scrape) {
        let sum = |count: &dyn Fn(&Worker) -> u64| self.workers.iter().map(|w| count(w)).sum();
        let tally = |count: &dyn Fn(&Tally) -> &Cell| sum(&|worker| count(&worker.tally).value());
        out.count(&names::RECEIVED, &["udp"], tally(&|tally| &tally.received[0]));
        out.count(&names::RECEIVED, &["tcp"], tally(&|tally| &tally.received[1]));
        // The blocks add theirs.
        AnsweredBy::ALL.iter().for_each(|by| out.count(&names::ANSWERED, &[by.label()], 0));
        let server = AnsweredBy::Server.label();
        out.count(&names::ANSWERED, &[server], tally(&|tally| &tally.rejected));
        out.count(&names::ANSWERED, &[AnsweredBy::Probe.label()], tally(&|tally| &tally.probes));
        out.count(&names::DROPPED, &["malformed"], tally(&|tally| &tally.malformed));
        out.count(&names::DROPPED, &["panic"], tally(&|tally| &tally.panicked));
        out.count(&names::DROPPED, &["overflow"], sum(&Worker::overflowed));
        out.count(&names::DROPPED, &["lost"], 0);
        let queues = self.workers.iter().map(|worker| &worker.tally.queue);
        let (counts, nanos) = Histogram::total(queues);
        out.histogram(&names::UDP_QUEUE, &[], &QUEUE_BUCKETS, counts, nanos as f64 / 1e9);
        let waiting: usize = self.workers.iter().map(|worker| worker.waiting()).sum();
        out.gauge(&names::WAITING_QUERIES, &[], waiting as f64);
        out.count(&names::WAITING_OVERFLOW, &[], sum(&Worker::overflowed));
        out.count(&names::UNSENT_REPLIES, &[], sum(&Worker::unsent_replies));
        out.gauge(&names::TCP_CONNECTIONS, &[], self.connections.count() as f64);
        out.gauge(&names::TCP_BUFFER_BYTES, &[], self.connections.buffered() as f64);
        out.count(&names::TCP_REFUSED, &[], self.connections.refused());
        self.encrypted.collect(out);
    }
}
