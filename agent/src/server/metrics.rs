//! What the workers hand in when they are scraped.

use std::sync::Arc;

use super::tcp::Connections;
use super::worker::Worker;
use crate::metrics::{Scrape, Source, names};

/// The workers' own numbers. Those of queries are counted by chain.
pub struct PoolMetrics {
    pub(super) workers: Vec<Arc<Worker>>,
    pub(super) connections: Arc<Connections>,
}

impl Source for PoolMetrics {
    fn collect(&self, out: &mut Scrape) {
        let sum = |count: &dyn Fn(&Worker) -> u64| self.workers.iter().map(|w| count(w)).sum();
        let waiting: usize = self.workers.iter().map(|worker| worker.waiting()).sum();
        out.gauge(&names::WAITING_QUERIES, &[], waiting as f64);
        out.count(&names::WAITING_OVERFLOW, &[], sum(&Worker::overflowed));
        out.count(&names::UNSENT_REPLIES, &[], sum(&Worker::unsent_replies));
        out.gauge(&names::TCP_CONNECTIONS, &[], self.connections.count() as f64);
        out.gauge(&names::TCP_BUFFER_BYTES, &[], self.connections.buffered() as f64);
        out.count(&names::TCP_REFUSED, &[], self.connections.refused());
    }
}
