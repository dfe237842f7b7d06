//! DNS over TCP (RFC 7766): pipelined queries, answers in whatever order they are ready, bounded in every direction.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::answer::{Handled, Later, answer};
use super::listener::Listener;
use super::sockets::TCP_BACKLOG;
use super::worker::{Worker, drained};
use crate::chain::Local;
use crate::clock::CoarseInstant;
use crate::descriptors;
use crate::request::{Origin, Transport};
use crate::wire::write_u16;

/// Connections of all clients together.
pub const MAX_CONNECTIONS: usize = 4_096;
/// Connections of one address: more than a pod's resolvers keep, fewer than would starve the others.
pub const MAX_PER_CLIENT: usize = 256;
/// Queries of one connection that may wait at once; then it is not read until one is answered.
const MAX_IN_FLIGHT: usize = 128;
/// How long a session still takes queries once the server drains: those that were on their way.
const LAST_QUERIES: Duration = Duration::from_millis(50);
/// Octets read at once.
const READ_LEN: usize = 8_192;
/// Octets of answers that are gathered before they are written.
const FLUSH_AT: usize = 64 << 10;

/// How many connections there are, by client.
#[derive(Default)]
pub struct Connections {
    by_client: Mutex<HashMap<IpAddr, usize>>,
}

impl Connections {
    fn open(self: &Arc<Self>, client: IpAddr) -> Option<Connection> {
        let mut clients = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = clients.values().sum();
        let mine = clients.get(&client).copied().unwrap_or(0);
        if all >= MAX_CONNECTIONS.min(descriptors::for_clients()) || mine >= MAX_PER_CLIENT {
            return None;
        }
        *clients.entry(client).or_default() += 1;
        Some(Connection { all: Arc::clone(self), client })
    }

    /// Open connections.
    pub fn count(&self) -> usize {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

/// One open connection; counted until it is dropped.
struct Connection {
    all: Arc<Connections>,
    client: IpAddr,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut clients = self.all.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// Accepts connections until `draining` turns true.
pub(super) async fn serve(
    socket: OwnedFd,
    listener: Arc<Listener>,
    worker: Arc<Worker>,
    connections: Arc<Connections>,
    mut draining: watch::Receiver<bool>,
) -> io::Result<()> {
    let socket = TcpListener::from_std(socket.into())?;
    let sessions = draining.clone();
    let begin = |stream: TcpStream, client: SocketAddr| {
        // Over the limit: closed at once, so that the client can turn to its next server.
        let Some(connection) = connections.open(client.ip().to_canonical()) else { return };
        let session = Session::new(stream, client, &listener, &worker, sessions.clone());
        tokio::spawn(async move {
            let _connection = connection;
            if let Err(error) = session.run().await {
                tracing::trace!(%error, %client, "connection ended");
            }
        });
    };
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, client)) => begin(stream, client),
                Err(error) => {
                    // Out of descriptors, mostly: the connection stays in the queue, so wait before trying again.
                    tracing::warn!(%error, address = %listener.address, "cannot accept a TCP connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            () = drained(&mut draining) => break,
        }
    }
    // Who has connected by now would be reset when the socket closes.
    let socket = socket.into_std()?;
    for _ in 0..TCP_BACKLOG {
        match socket.accept() {
            Ok((stream, client)) => {
                if stream.set_nonblocking(true).is_ok()
                    && let Ok(stream) = TcpStream::from_std(stream)
                {
                    begin(stream, client);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => break,
        }
    }
    Ok(())
}

struct Session {
    stream: TcpStream,
    client: SocketAddr,
    local: SocketAddr,
    listener: Arc<Listener>,
    worker: Arc<Worker>,
    draining: watch::Receiver<bool>,
    input: Vec<u8>,
    out: Vec<u8>,
    in_flight: usize,
}

/// What a session waits for.
enum Woken {
    Read(usize),
    Answer(Vec<u8>),
    Idle,
    Drain,
}

impl Session {
    fn new(
        stream: TcpStream,
        client: SocketAddr,
        listener: &Arc<Listener>,
        worker: &Arc<Worker>,
        draining: watch::Receiver<bool>,
    ) -> Self {
        let _ = stream.set_nodelay(true);
        let local = stream.local_addr().unwrap_or(listener.address);
        Self {
            stream,
            client: SocketAddr::new(client.ip().to_canonical(), client.port()),
            local: SocketAddr::new(local.ip().to_canonical(), local.port()),
            listener: Arc::clone(listener),
            worker: Arc::clone(worker),
            draining,
            input: Vec::with_capacity(READ_LEN),
            out: Vec::with_capacity(1_024),
            in_flight: 0,
        }
    }

    async fn run(mut self) -> io::Result<()> {
        let (done, mut answers) = mpsc::channel::<Vec<u8>>(MAX_IN_FLIGHT);
        let mut end = self.draining.borrow().then(|| Instant::now() + LAST_QUERIES);
        loop {
            self.serve_all(&done).await?;
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) && self.in_flight == 0 {
                return Ok(());
            }
            let partial = !self.input.is_empty();
            let may_read = self.in_flight < MAX_IN_FLIGHT && left != Some(Duration::ZERO);
            let timeouts = self.listener.dispatch.load().timeouts();
            let patience = if partial { timeouts.read } else { timeouts.idle };
            let patience = left.map_or(patience, |left| left.min(patience));
            self.input.reserve(READ_LEN);
            let woken = tokio::select! {
                biased;
                Some(answer) = answers.recv(), if self.in_flight > 0 => Woken::Answer(answer),
                read = self.stream.read_buf(&mut self.input), if may_read => Woken::Read(read?),
                _ = tokio::time::sleep(patience), if self.in_flight == 0 => Woken::Idle,
                () = drained(&mut self.draining), if end.is_none() => Woken::Drain,
            };
            match woken {
                // The client has closed its side; what it still waits for is sent first (RFC 7766 section 6.2.4).
                Woken::Read(0) => {
                    drop(done);
                    return self.finish(answers).await;
                }
                Woken::Read(_) => {}
                Woken::Answer(answer) => {
                    self.take(answer);
                    while let Ok(answer) = answers.try_recv() {
                        self.take(answer);
                    }
                }
                Woken::Idle => return Ok(()),
                Woken::Drain => end = Some(Instant::now() + LAST_QUERIES),
            }
        }
    }

    async fn finish(mut self, mut answers: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
        while self.in_flight > 0 {
            let Some(answer) = answers.recv().await else { break };
            self.take(answer);
            self.flush().await?;
        }
        Ok(())
    }

    /// Answers every query that has come in whole, writing what gathers in between.
    async fn serve_all(&mut self, done: &mpsc::Sender<Vec<u8>>) -> io::Result<()> {
        while self.serve_frames(done) {
            self.flush().await?;
        }
        self.flush().await
    }

    fn take(&mut self, answer: Vec<u8>) {
        self.in_flight -= 1;
        self.out.extend_from_slice(&answer);
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            let patience = self.listener.dispatch.load().timeouts().write;
            timeout(patience, self.stream.write_all(&self.out)).await??;
            self.out.clear();
        }
        Ok(())
    }

    /// Answers queries that have come in whole, as far as the bounds allow. True: what was gathered has to be written
    /// before it can go on.
    fn serve_frames(&mut self, done: &mpsc::Sender<Vec<u8>>) -> bool {
        let mut at = 0;
        let received = CoarseInstant::now();
        let mut full = false;
        while self.in_flight < MAX_IN_FLIGHT {
            full = self.out.len() >= FLUSH_AT;
            if full {
                break;
            }
            let Some(len) = crate::wire::read_u16(&self.input, at).map(usize::from) else { break };
            let Some(packet) = self.input.get(at + 2..at + 2 + len) else { break };
            at += 2 + len;
            let origin = Origin {
                client: self.client,
                local: self.local,
                transport: Transport::Tcp,
                worker: self.worker.number,
                received,
            };
            let dispatch = self.listener.dispatch.load();
            let start = self.out.len();
            self.out.extend_from_slice(&[0, 0]);
            let out = &mut self.out;
            let handled = catch_unwind(AssertUnwindSafe(|| {
                Local::with(|local| answer(packet, origin, &dispatch, local, out))
            }));
            match handled {
                Ok(Handled::Reply) => {
                    let len = self.out.len() - start - 2;
                    write_u16(&mut self.out, start, len as u16);
                }
                Ok(Handled::Silence) => self.out.truncate(start),
                Ok(Handled::Later(later, _)) => {
                    self.out.truncate(start);
                    let Some(waiting) = self.worker.wait() else { continue };
                    self.in_flight += 1;
                    let owed = Owed { frame: Vec::new(), done: done.clone() };
                    tokio::spawn(async move {
                        let _waiting = waiting;
                        owed.pay(later).await;
                    });
                }
                Err(_) => {
                    self.worker.panicked();
                    self.out.truncate(start);
                }
            }
        }
        self.input.drain(..at);
        full
    }
}

/// The answer that a task owes its session: sent when it is dropped, empty where the task panicked, so that the session
/// never waits in vain.
struct Owed {
    frame: Vec<u8>,
    done: mpsc::Sender<Vec<u8>>,
}

impl Owed {
    async fn pay(mut self, later: Box<Later>) {
        let mut frame = vec![0, 0];
        if later.run(&mut frame).await {
            let len = frame.len() - 2;
            write_u16(&mut frame, 0, len as u16);
            self.frame = frame;
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        // There is room: a session lets no more wait than the channel holds. It may be gone; then nobody wants it.
        let _ = self.done.try_send(std::mem::take(&mut self.frame));
    }
}
