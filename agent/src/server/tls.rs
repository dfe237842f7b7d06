//! TLS on the side of the server: certificates, streams, and how a listener is encrypted. [`super::handshake`] makes connections of
//! it.

pub mod certificates;
pub mod files;
pub mod scheme;
pub mod stream;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use self::certificates::Certificates;
pub use self::scheme::Scheme;
use self::stream::Parked;
use super::responses::Responses;
use crate::admission::Permit;

/// How a listener is encrypted.
pub struct Encryption {
    /// What is spoken.
    pub scheme: Scheme,
    /// What clients are shown. Replaced by a reload.
    pub certificates: ArcSwap<Arc<Certificates>>,
    /// What became of requests over HTTPS.
    pub responses: Responses,
}

impl Encryption {
    /// Of a listener that begins.
    pub fn new(scheme: Scheme, certificates: Arc<Certificates>) -> Self {
        let certificates = ArcSwap::from_pointee(certificates);
        Self { scheme, certificates, responses: Responses::default() }
    }
}

/// A connection that a worker is to serve.
pub(super) struct Secured {
    pub(super) connection: Parked,
    pub(super) client: SocketAddr,
    /// Among all connections.
    pub(super) place: Permit,
}
