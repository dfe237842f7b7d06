//! Listeners over TLS: connections are accepted and hands are shaken on threads of their own, so that a flood of handshakes takes no
//! time from the workers; then a worker has the connection, and serves it as one over TCP ([`super::tcp`]) or HTTP
//! (`super::https`).
//!
//! ```text
//! thread `tls`   accept -> place and octets of the client -> handshake (time-out `read`) -> Parked
//! worker         Parked -> Session (tls://) or HTTP (https://)
//! ```

pub mod listeners;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Dispatch;
use super::listener::Listener;
use super::tcp::{Accept, Connections, accept_last};
use super::tls::certificates::Certificates;
use super::tls::stream::{CONNECTION, TlsStream};
use super::tls::{Scheme, Secured};
use super::worker::{LAST_QUERIES, Phase, drained};
use crate::admission::Permit;
use crate::metrics::{Scrape, names};

/// Who answers at an encrypted address, and how it is reached.
#[derive(Clone)]
pub struct Encrypted {
    /// What is spoken.
    pub scheme: Scheme,
    /// What clients are shown.
    pub certificates: Arc<Certificates>,
    /// Who answers.
    pub dispatch: Arc<Dispatch>,
}

/// What became of handshakes, of all listeners.
#[derive(Default)]
pub struct Handshakes {
    full: AtomicU64,
    resumed: AtomicU64,
    failed: AtomicU64,
}

impl Handshakes {
    /// Hands them in.
    pub fn collect(&self, out: &mut Scrape) {
        let all = [("full", &self.full), ("resumed", &self.resumed), ("failed", &self.failed)];
        all.iter().for_each(|(result, count)| {
            out.count(&names::TLS_HANDSHAKES, &[*result], count.load(Relaxed));
        });
    }

    fn note(&self, shaken: Option<&TlsStream>) {
        let count = match shaken {
            Some(stream) if stream.is_resumed() => &self.resumed,
            Some(_) => &self.full,
            None => &self.failed,
        };
        count.fetch_add(1, Relaxed);
    }
}

/// Who accepts at one address.
pub(super) struct Accepting {
    pub(super) listener: Arc<Listener>,
    pub(super) connections: Arc<Connections>,
    pub(super) handshakes: Arc<Handshakes>,
    /// Gives a connection to a worker.
    pub(super) give: Box<dyn Fn(Secured) + Send + Sync>,
}

impl Accepting {
    /// Accepts connections until `phase` changes. To be spawned on the runtime of handshakes.
    pub(super) async fn serve(
        self: Arc<Self>,
        socket: OwnedFd,
        mut phase: watch::Receiver<Phase>,
    ) -> io::Result<()> {
        let socket = TcpListener::from_std(socket.into())?;
        let mut accept = Accept::new(&socket, self.listener.address);
        let begun = phase.clone();
        let phase = loop {
            tokio::select! {
                (stream, client) = accept.next() => self.begin(stream, client, &begun),
                phase = drained(&mut phase) => break phase,
            }
        };
        match phase {
            Phase::HandedOver(_) => Ok(()),
            _ => accept_last(socket, |stream, client| self.begin(stream, client, &begun)),
        }
    }

    fn begin(
        self: &Arc<Self>,
        stream: TcpStream,
        client: SocketAddr,
        phase: &watch::Receiver<Phase>,
    ) {
        let ip = client.ip().to_canonical();
        let place = match self.connections.open(ip) {
            Some(place) => Ok(place),
            None => match self.connections.may_wait(ip) {
                Some(waiting) => Err(waiting),
                None => return self.connections.count_refused(),
            },
        };
        let (this, mut phase) = (Arc::clone(self), phase.clone());
        let shaken = async move {
            let place = match place {
                Ok(place) => Some(place),
                Err(waiting) => this.connections.admit(ip, waiting).await,
            };
            let octets = this.connections.bytes(ip, CONNECTION);
            let (Some(place), Some(octets)) = (place, octets) else {
                return this.connections.count_refused();
            };
            this.shake_hands(stream, client, place, octets).await;
        };
        tokio::spawn(async move {
            let too_late = async {
                drained(&mut phase).await;
                tokio::time::sleep(LAST_QUERIES).await;
            };
            tokio::select! {
                () = shaken => {}
                () = too_late => {}
            }
        });
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        place: Permit,
        octets: Permit,
    ) {
        let Some(encryption) = &self.listener.encryption else { return };
        let config = encryption.certificates.load().current();
        let patience = self.listener.dispatch.load().timeouts().read;
        let _ = stream.set_nodelay(true);
        let shaken = match timeout(patience, TlsStream::accept(stream, config, octets)).await {
            Ok(shaken) => shaken,
            Err(late) => Err(late.into()),
        };
        self.handshakes.note(shaken.as_ref().ok());
        match shaken.and_then(TlsStream::park) {
            Ok(connection) => (self.give)(Secured { connection, client, place }),
            Err(error) => tracing::debug!(%error, %client, "no TLS handshake"),
        }
    }
}
