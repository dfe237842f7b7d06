//! DNS over TCP (RFC 7766): accepts connections within their limits, and gives each a [`session`].

mod buffer;
mod limits;
mod session;
mod turns;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub use self::limits::{Connections, MAX_BYTES, MAX_CONNECTIONS, MAX_PER_CLIENT};
use self::session::{Session, Shared};
use super::listener::Listener;
use super::sockets::TCP_BACKLOG;
use super::worker::{Worker, drained};

/// Accepts connections until `draining` turns true.
pub(super) async fn serve(
    socket: OwnedFd,
    listener: Arc<Listener>,
    worker: Arc<Worker>,
    connections: Arc<Connections>,
    mut draining: watch::Receiver<bool>,
) -> io::Result<()> {
    let socket = TcpListener::from_std(socket.into())?;
    let address = listener.address;
    let shared = Arc::new(Shared { listener, worker, connections, turns: Arc::default() });
    let sessions = draining.clone();
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, client)) => begin(stream, client, &shared, &sessions),
                Err(error) => {
                    // Out of descriptors, mostly: the connection stays in the queue, so wait before trying again.
                    tracing::warn!(%error, %address, "cannot accept a TCP connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            () = drained(&mut draining) => break,
        }
    }
    // Clients that have connected by now would be reset when the socket closes.
    let socket = socket.into_std()?;
    for _ in 0..TCP_BACKLOG {
        match socket.accept() {
            Ok((stream, client)) => {
                if stream.set_nonblocking(true).is_ok()
                    && let Ok(stream) = TcpStream::from_std(stream)
                {
                    begin(stream, client, &shared, &sessions);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => break,
        }
    }
    Ok(())
}

/// Spawns a session for a connection. Over the limits it is closed at once, so that the client can turn to its next server.
fn begin(
    stream: TcpStream,
    client: SocketAddr,
    shared: &Arc<Shared>,
    draining: &watch::Receiver<bool>,
) {
    let draining = draining.clone();
    let ip = client.ip().to_canonical();
    if let Some(place) = shared.connections.open(ip) {
        if let Some(session) = Session::new(stream, client, place, shared) {
            tokio::spawn(run(session, client, draining));
        }
        return;
    }
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let Some(place) = shared.connections.admit(ip).await else {
            return shared.connections.count_refused();
        };
        if let Some(session) = Session::new(stream, client, place, &shared) {
            run(session, client, draining).await;
        }
    });
}

async fn run(session: Session, client: SocketAddr, draining: watch::Receiver<bool>) {
    if let Err(error) = session.run(draining).await {
        tracing::trace!(%error, %client, "connection ended");
    }
}
