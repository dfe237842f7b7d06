//! One listening address: its socket, and its connections within limits.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::{Pages, State, respond};
use crate::config::ListenAddress;

/// Connections at a time for each address: the kubelet and a few scrapers need three.
const MAX_CONNECTIONS: usize = 64;
/// From a connection's start, or its last answer, to the end of the next request's head. Idle connections end by it too, so
/// that nobody can hold all of them for long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// However busy, a connection ends after this; scrapers open another one.
const MAX_AGE: Duration = Duration::from_secs(300);
/// Wait after a failure to accept, as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens a listening socket that others may share.
pub(super) fn open(address: ListenAddress) -> io::Result<TcpListener> {
    match address.ip {
        Some(ip) => bind(SocketAddr::new(ip, address.port)),
        // The IPv6 socket takes IPv4 too; where the kernel has no IPv6, IPv4 is all there is.
        None => match bind((Ipv6Addr::UNSPECIFIED, address.port).into()) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                bind((Ipv4Addr::UNSPECIFIED, address.port).into())
            }
            result => result,
        },
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Serves connections until it is dropped.
pub(super) async fn serve(listener: TcpListener, pages: Arc<AtomicU8>, state: Arc<State>) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Nobody closes the semaphore.
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept an HTTP connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (pages, state) = (Arc::clone(&pages), Arc::clone(&state));
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = respond::respond(&request, Pages(pages.load(Relaxed)), &state);
                std::future::ready(Ok::<_, std::convert::Infallible>(answer))
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            // Whatever went wrong went wrong on the client's side, and it knows.
            let _ = tokio::time::timeout(MAX_AGE, connection).await;
            drop(permit);
        });
    }
}
