//! A listening address and who answers there.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Dispatch;
use super::tls::Encryption;

/// One address, shared by all workers. A reload swaps the dispatch under the open sockets.
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// Who answers, read once for each batch.
    pub dispatch: ArcSwap<Arc<Dispatch>>,
    /// `None` for plain DNS, over UDP and TCP.
    pub encryption: Option<Encryption>,
}

impl Listener {
    /// A listener on `address`.
    pub fn new(
        address: SocketAddr,
        dispatch: Arc<Dispatch>,
        encryption: Option<Encryption>,
    ) -> Self {
        Self { address, dispatch: ArcSwap::from_pointee(dispatch), encryption }
    }
}
