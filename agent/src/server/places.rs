//! What clients can fill, as the memory budget sees it.

use std::sync::Arc;

use super::tcp::Connections;
use super::worker::{MAX_FORWARDED, MAX_PENDING, MIN_PENDING};
use crate::admission::Shares;
use crate::budget::{Allowance, Governed};
use crate::clients::ClientShares;

/// The places of queries that wait, and of TCP connections.
pub struct Places {
    pub(super) pending: ClientShares,
    /// Those of queries for groups of upstreams.
    pub(super) forwarded: Arc<Shares>,
    pub(super) connections: Arc<Connections>,
}

impl Governed for Places {
    fn apply(&self, allowance: &Allowance) {
        self.pending.all().set_limit(allowance.waiting(MAX_PENDING, MIN_PENDING));
        self.forwarded.set_limit(allowance.waiting(MAX_FORWARDED, MIN_PENDING));
        self.connections.keep_to(allowance);
    }
}
