//! One listening address: its socket, and its connections within limits.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::pages::Pages;
use super::respond::{State, respond};
use crate::admission::{Permit, Shares};
use crate::config::ListenAddress;

/// Connections at a time of other hosts and of pods: a few scrapers need three.
const MAX_CONNECTIONS: usize = 64;
/// ... of which one client may have so many.
const MAX_PER_CLIENT: usize = 16;
/// Connections that are kept for the node's own addresses: the kubelet's probes and the process's own.
const MAX_OWN: usize = 16;
/// From a connection's start, or its last answer, to the end of the next request's head. Idle connections end by it too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// However busy, a connection ends after this, so that a client that does not take its answer ends too; scrapers open
/// another one.
const MAX_AGE: Duration = Duration::from_secs(60);
/// Wait after a failure to accept, as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens a listening socket that others may share.
pub(super) fn open(address: ListenAddress) -> io::Result<OwnedFd> {
    match address.ip {
        Some(ip) => bind(SocketAddr::new(ip, address.port)),
        // The IPv6 socket takes IPv4 too. If the kernel has no IPv6, IPv4 is served alone.
        None => match bind((Ipv6Addr::UNSPECIFIED, address.port).into()) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                bind((Ipv4Addr::UNSPECIFIED, address.port).into())
            }
            result => result,
        },
    }
}

fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// The places of one listening address.
struct Places {
    others: Arc<Shares>,
    own: Arc<Shares>,
}

impl Places {
    fn new() -> Self {
        Self { others: Shares::new(MAX_CONNECTIONS), own: Shares::new(MAX_OWN) }
    }

    /// A place for a connection from `client` to `local`; `None`: the client has its share. A connection from the address
    /// that it goes to comes from the node itself, as the kubelet's probes do, and has places that no pod can take.
    fn admit(&self, client: IpAddr, local: IpAddr) -> Option<Permit> {
        let own = (client == local).then(|| self.own.try_acquire(client, 1)).flatten();
        own.or_else(|| {
            let place = self.others.try_acquire(client, 1)?;
            (place.held_by_key() <= MAX_PER_CLIENT).then_some(place)
        })
    }
}

/// Serves connections until it is dropped. Beyond a client's share they are closed at once.
pub(super) async fn serve(listener: TcpListener, pages: Arc<AtomicU8>, state: Arc<State>) {
    let places = Places::new();
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept an HTTP connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(local) = stream.local_addr() else { continue };
        let place = places.admit(client.ip().to_canonical(), local.ip().to_canonical());
        let Some(place) = place else { continue };
        let (pages, state) = (Arc::clone(&pages), Arc::clone(&state));
        tokio::spawn(async move {
            converse(stream, pages, state).await;
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, pages: Arc<AtomicU8>, state: Arc<State>) {
    let service = service_fn(move |request| {
        let answer = respond(&request, Pages::from_bits(pages.load(Relaxed)), &state);
        std::future::ready(Ok::<_, std::convert::Infallible>(answer))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // Errors are the client's, and it knows of them.
    let _ = tokio::time::timeout(MAX_AGE, connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_a_share_and_the_node_has_places_of_its_own() {
        let places = Places::new();
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        let node = ip(1);
        let flood =
            |client| -> Vec<Permit> { std::iter::from_fn(|| places.admit(client, node)).collect() };
        let pod = flood(ip(2));
        assert_eq!(pod.len(), MAX_PER_CLIENT);
        let more: Vec<Vec<Permit>> = (3..40).map(|n| flood(ip(n))).collect();
        assert!(more.iter().map(Vec::len).sum::<usize>() <= MAX_CONNECTIONS);
        assert!(flood(node).len() >= 14, "pods take no place of the node's");
    }
}
