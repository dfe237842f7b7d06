//! DNS over TCP (RFC 7766): accepts connections within their limits, and gives each a [`session`].

mod answers;
mod buffer;
mod kept;
mod limits;
mod session;
mod stream;
mod turns;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use self::kept::Kept;
pub use self::limits::{Connections, IDLE_WHEN_SCARCE, MAX_BYTES, MAX_CONNECTIONS, MAX_PER_CLIENT};
use self::session::Session;
pub use self::session::Shared;
use self::stream::Stream;
use super::sockets::TCP_BACKLOG;
use super::tls::Secured;
use super::worker::{Phase, drained};

/// While no connection can be accepted, that is logged so often.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Takes connections off a listening socket.
pub(super) struct Accept<'s> {
    socket: &'s TcpListener,
    address: SocketAddr,
    told: Option<Instant>,
}

impl<'s> Accept<'s> {
    /// Those of `socket`, which listens at `address`.
    pub(super) fn new(socket: &'s TcpListener, address: SocketAddr) -> Self {
        Self { socket, address, told: None }
    }

    /// The next connection.
    pub(super) async fn next(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    // Out of descriptors, mostly: the connection stays in the queue, so wait before trying again.
                    if self.told.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
                        tracing::warn!(%error, address = %self.address, "cannot accept a TCP connection");
                        self.told = Some(Instant::now());
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Accepts connections until `phase` changes.
pub(super) async fn serve(
    socket: OwnedFd,
    shared: Arc<Shared>,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let socket = TcpListener::from_std(socket.into())?;
    let address = shared.listener.address;
    let sessions = phase.clone();
    let mut accept = Accept::new(&socket, address);
    let phase = loop {
        tokio::select! {
            (stream, client) = accept.next() => begin(stream, client, None, &shared, &sessions),
            phase = drained(&mut phase) => break phase,
        }
    };
    if matches!(phase, Phase::HandedOver(_)) {
        return Ok(());
    }
    accept_last(socket, |stream, client| begin(stream, client, None, &shared, &sessions))
}

/// Takes the connections that wait yet: they would be reset when the socket closes.
pub(super) fn accept_last(
    socket: TcpListener,
    mut take: impl FnMut(TcpStream, SocketAddr),
) -> io::Result<()> {
    let socket = socket.into_std()?;
    for _ in 0..TCP_BACKLOG {
        match socket.accept() {
            Ok((stream, client)) => {
                if stream.set_nonblocking(true).is_ok()
                    && let Ok(stream) = TcpStream::from_std(stream)
                {
                    take(stream, client);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => break,
        }
    }
    Ok(())
}

/// Serves a connection that another process has accepted.
/// `kept`: the name under which the supervisor has it.
pub(super) fn adopt(
    connection: OwnedFd,
    kept: Option<String>,
    shared: &Arc<Shared>,
    phase: &watch::Receiver<Phase>,
) {
    let kept = kept.and_then(|name| shared.connections.keeping.keep_on(name));
    let stream = std::net::TcpStream::from(connection);
    let adopted = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
    match adopted.and_then(|stream| stream.peer_addr().map(|client| (stream, client))) {
        Ok((stream, client)) => begin(stream, client, kept, shared, phase),
        // The client has closed it meanwhile.
        Err(error) => tracing::debug!(%error, "a connection was not taken over"),
    }
}

/// Spawns a session for a connection. Over the limits it is closed at once, so that the client can turn to its next server.
fn begin(
    stream: TcpStream,
    client: SocketAddr,
    kept: Option<Kept>,
    shared: &Arc<Shared>,
    phase: &watch::Receiver<Phase>,
) {
    let _ = stream.set_nodelay(true);
    let stream = Stream::Plain(stream);
    let phase = phase.clone();
    let ip = client.ip().to_canonical();
    if let Some(place) = shared.connections.open(ip) {
        if let Some(session) = Session::new(stream, client, place, kept, shared) {
            tokio::spawn(run(session, client, shared.listener.address, phase));
        }
        return;
    }
    let Some(waiting) = shared.connections.may_wait(ip) else {
        return shared.connections.count_refused();
    };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let Some(place) = shared.connections.admit(ip, waiting).await else {
            return shared.connections.count_refused();
        };
        if let Some(session) = Session::new(stream, client, place, kept, &shared) {
            run(session, client, shared.listener.address, phase).await;
        }
    });
}

/// Spawns a session for a connection within TLS, whose handshake is done.
pub(super) fn secured(
    Secured { connection, client, place }: Secured,
    shared: &Arc<Shared>,
    phase: &watch::Receiver<Phase>,
) {
    // It fails if the runtime has no place for the socket; then the connection is closed.
    let Ok(stream) = connection.resume() else { return };
    let stream = Stream::Tls(Box::new(stream));
    if let Some(session) = Session::new(stream, client, place, None, shared) {
        tokio::spawn(run(session, client, shared.listener.address, phase.clone()));
    }
}

async fn run(
    session: Session,
    client: SocketAddr,
    address: SocketAddr,
    phase: watch::Receiver<Phase>,
) {
    match session.run(phase).await {
        Ok(None) => {}
        Ok(Some((stream, pass_on))) => {
            // It has left the runtime's events, which is all that can fail here.
            if let Ok(stream) = stream.into_std() {
                pass_on(address, stream.into());
            }
        }
        Err(error) => tracing::trace!(%error, %client, "connection ended"),
    }
}
