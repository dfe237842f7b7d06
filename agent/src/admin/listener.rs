//! One listening address: its socket, and its connections within limits.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::SockaddrStorage;
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
/// Connections that are kept for those that come from the address that they go to: the kubelet's probes and the process's own.
const MAX_OWN: usize = 16;
/// Connections that are kept for the node's other addresses: loopback, and those of local interfaces.
const MAX_LOCAL: usize = 16;
/// For so long the list of local addresses is good.
const LIST_AGE: Duration = Duration::from_secs(1);
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
    local: Arc<Shares>,
    addresses: LocalAddresses,
}

/// The addresses of this machine's interfaces, as they were a moment ago.
#[derive(Default)]
struct LocalAddresses {
    list: Vec<IpAddr>,
    read_at: Option<Instant>,
}

impl LocalAddresses {
    fn contain(&mut self, address: IpAddr) -> bool {
        if address.is_loopback() {
            return true;
        }
        if self.read_at.is_none_or(|at| at.elapsed() >= LIST_AGE) {
            self.read_at = Some(Instant::now());
            // Without the list the others' places are left to them.
            let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
            self.list = interfaces.filter_map(|interface| ip(&interface.address?)).collect();
        }
        self.list.contains(&address)
    }
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

impl Places {
    fn new() -> Self {
        Self {
            others: Shares::new(MAX_CONNECTIONS),
            own: Shares::new(MAX_OWN),
            local: Shares::new(MAX_LOCAL),
            addresses: LocalAddresses::default(),
        }
    }

    /// A place for a connection from `client` to `local`; `None`: the client has its share. A connection from an address of
    /// this machine comes from the node itself, as the kubelet's probes do, and has places that no pod with an address of its
    /// own can take. Most come from the address that they go to; processes on the node that use another one have others.
    fn admit(&mut self, client: IpAddr, local: IpAddr) -> Option<Permit> {
        let reserved = if client == local {
            self.own.try_acquire(client, 1)
        } else if self.addresses.contain(client) {
            self.local.try_acquire(client, 1)
        } else {
            None
        };
        reserved.or_else(|| {
            let place = self.others.try_acquire(client, 1)?;
            (place.held_by_key() <= MAX_PER_CLIENT).then_some(place)
        })
    }
}

/// That no connection can be accepted is logged once in so long.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Serves connections until it is dropped. Beyond a client's share they are closed at once.
pub(super) async fn serve(listener: TcpListener, pages: Arc<AtomicU8>, state: Arc<State>) {
    let mut places = Places::new();
    let mut said: Option<Instant> = None;
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
                    said = Some(Instant::now());
                    tracing::warn!("cannot accept an HTTP connection: {error}");
                }
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
        let (pages, state) = (Arc::clone(&pages), Arc::clone(&state));
        async move {
            // Of requests that come at once each waits for its turn: others use the runtime too.
            tokio::task::yield_now().await;
            let answer = respond(&request, Pages::from_bits(pages.load(Relaxed)), &state);
            Ok::<_, std::convert::Infallible>(answer)
        }
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
        let mut places = Places::new();
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        let node = ip(1);
        let mut flood =
            |client| -> Vec<Permit> { std::iter::from_fn(|| places.admit(client, node)).collect() };
        let pod = flood(ip(2));
        assert_eq!(pod.len(), MAX_PER_CLIENT);
        let more: Vec<Vec<Permit>> = (3..40).map(|n| flood(ip(n))).collect();
        assert!(more.iter().map(Vec::len).sum::<usize>() <= MAX_CONNECTIONS);
        let own = flood(node);
        assert!(own.len() >= 14, "pods take no place of the node's");
        // Another process of the node, by another address of it.
        assert!(flood([127, 0, 0, 9].into()).len() >= 14);
        drop(own);
        assert!(flood(node).len() >= 14, "nor does that");
    }
}
