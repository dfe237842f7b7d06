//! Connections to one upstream, over TCP or TLS: reused, pipelined, bounded (RFC 7766 section 6.2, RFC 7858 section 3.4).
//!
//! A connection takes queries from the moment it is asked for: they wait in its queue while it is being set up, and whatever
//! has gathered leaves in one write. Answers may come in any order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::upstream::UpstreamError;
use crate::upstream::counters::Counters;
use crate::upstream::dial::{Dialed, Dialer};
use crate::upstream::question::Question;
use crate::upstream::table::{Place, Table};

/// Queries in flight on one connection before another is opened, where there may be one more.
const PIPELINE: usize = 64;
/// Connections of one upstream and worker.
const MAX_CONNECTIONS: usize = 4;
/// Octets gathered into one write.
const WRITE: usize = 16 * 1_024;
/// Octets read at once.
const READ: usize = 8 * 1_024;

/// How long connections last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// `expire`: closed after so long without a query.
    pub idle: Duration,
    /// `max_age`: takes no new queries when it is so old.
    pub age: Option<Duration>,
    /// How long setting one up may take.
    pub connect: Duration,
}

/// The connections of one upstream and worker.
#[derive(Default)]
pub struct Pool {
    connections: Vec<Arc<Connection>>,
}

/// One connection with the queries that are in flight on it.
pub struct Connection {
    shared: Arc<Shared>,
    queue: mpsc::UnboundedSender<Vec<u8>>,
    task: AbortHandle,
    born: Instant,
}

pub(super) struct Shared {
    pub(super) table: Table,
    closed: AtomicBool,
    // An answer has come over it: its end is then the end of a good connection, not a refusal.
    pub(super) proven: AtomicBool,
    pub(super) counters: Arc<Counters>,
}

impl Pool {
    /// Sends a query over the least busy connection, or over a new one. `max_idle`: at most so many are kept; 0: no such
    /// limit.
    pub fn start(
        &mut self,
        dialer: &Arc<Dialer>,
        question: &Question,
        lifetime: Lifetime,
        max_connections: usize,
        counters: &Arc<Counters>,
    ) -> Result<(Arc<Connection>, Place), UpstreamError> {
        self.connections.retain(|connection| connection.is_usable(lifetime));
        let limit = if max_connections == 0 {
            MAX_CONNECTIONS
        } else {
            max_connections.min(MAX_CONNECTIONS)
        };
        let least = self.connections.iter().min_by_key(|connection| connection.shared.table.len());
        let connection = match least {
            Some(least)
                if least.shared.table.len() < PIPELINE || self.connections.len() >= limit =>
            {
                counters.stream_hits.add(1);
                Arc::clone(least)
            }
            _ => {
                counters.stream_misses.add(1);
                let connection = Connection::open(dialer, lifetime, counters);
                self.connections.push(Arc::clone(&connection));
                connection
            }
        };
        let place = connection.start(question)?;
        Ok((connection, place))
    }

    /// Connections that are open or being set up.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }
}

impl Connection {
    /// Begins to set up a connection. Has to be called within a runtime, whose it remains.
    pub fn open(dialer: &Arc<Dialer>, lifetime: Lifetime, counters: &Arc<Counters>) -> Arc<Self> {
        let shared = Arc::new(Shared {
            table: Table::new(),
            closed: AtomicBool::new(false),
            proven: AtomicBool::new(false),
            counters: Arc::clone(counters),
        });
        let (queue, waiting) = mpsc::unbounded_channel();
        let task = tokio::spawn(run(Arc::clone(&shared), Arc::clone(dialer), lifetime, waiting))
            .abort_handle();
        Arc::new(Self { shared, queue, task, born: Instant::now() })
    }

    /// Puts a query into the connection's queue.
    pub fn start(&self, question: &Question) -> Result<Place, UpstreamError> {
        let started = self.shared.table.start(question, false, |message| {
            let mut framed = Vec::with_capacity(message.len() + 2);
            framed.extend_from_slice(&(message.len() as u16).to_be_bytes());
            framed.extend_from_slice(message);
            self.queue.send(framed).map_err(|_| UpstreamError::Lost)
        });
        let place = started.ok_or(UpstreamError::TooMany)??;
        // It may have ended between the look and the query; nobody would tell the query then.
        if self.shared.closed.load(Ordering::Acquire) {
            self.shared.table.release(place);
            return Err(UpstreamError::Lost);
        }
        Ok(place)
    }

    /// The queries in flight.
    pub fn table(&self) -> &Table {
        &self.shared.table
    }

    fn is_usable(&self, lifetime: Lifetime) -> bool {
        !self.shared.closed.load(Ordering::Acquire)
            && lifetime.age.is_none_or(|age| self.born.elapsed() < age)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// Hands one message over.
    pub(super) fn deliver(&self, message: &[u8]) {
        self.table.deliver(std::iter::once((message, false)), |why| self.counters.unexpected(why));
        self.proven.store(true, Ordering::Relaxed);
    }
}

async fn run(
    shared: Arc<Shared>,
    dialer: Arc<Dialer>,
    lifetime: Lifetime,
    queue: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    let ended = match timeout(lifetime.connect, dialer.dial()).await {
        Err(_) => {
            UpstreamError::Connect(format!("no connection within {:?}", lifetime.connect).into())
        }
        Ok(Err(error)) => error,
        Ok(Ok(Dialed::Tcp(stream))) => frames(&shared, stream, lifetime.idle, queue).await,
        Ok(Ok(Dialed::Tls(stream))) => frames(&shared, *stream, lifetime.idle, queue).await,
        Ok(Ok(Dialed::Exchange(exchange))) => exchange.run(&shared, lifetime.idle, queue).await,
    };
    shared.closed.store(true, Ordering::Release);
    // The end of a connection that has worked says nothing of the upstream: whoever waits tries again on another.
    let ended = if shared.proven.load(Ordering::Relaxed) { UpstreamError::Lost } else { ended };
    shared.table.fail_all(&ended);
}

/// Moves length-prefixed messages both ways (RFC 1035 section 4.2.2) until the stream ends, fails or idles too long.
async fn frames<S: AsyncRead + AsyncWrite>(
    shared: &Shared,
    stream: S,
    idle: Duration,
    queue: mpsc::UnboundedReceiver<Vec<u8>>,
) -> UpstreamError {
    let (reader, writer) = tokio::io::split(stream);
    let result = tokio::select! {
        read = read_frames(shared, reader, idle) => read,
        written = write_frames(writer, queue) => written,
    };
    match result {
        Ok(()) => UpstreamError::Lost,
        Err(error) => UpstreamError::io("talking over a stream", &error),
    }
}

async fn write_frames<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
) -> io::Result<()> {
    let mut out = Vec::new();
    while let Some(first) = queue.recv().await {
        out.clear();
        out.extend_from_slice(&first);
        while out.len() < WRITE
            && let Ok(more) = queue.try_recv()
        {
            out.extend_from_slice(&more);
        }
        writer.write_all(&out).await?;
        writer.flush().await?;
    }
    Ok(())
}

async fn read_frames<R: AsyncRead + Unpin>(
    shared: &Shared,
    mut reader: R,
    idle: Duration,
) -> io::Result<()> {
    let mut buf = Vec::with_capacity(READ);
    loop {
        let mut at = 0;
        while let Some(message) = frame(&buf, at) {
            shared.deliver(message);
            at += message.len() + 2;
        }
        buf.drain(..at);
        match timeout(idle, reader.read_buf(&mut buf)).await {
            // Idle, and nobody waits: `expire`. Queries that do wait have deadlines of their own.
            Err(_) if shared.table.is_empty() => return Ok(()),
            Err(_) => {}
            Ok(read) => {
                if read? == 0 {
                    return Ok(());
                }
            }
        }
    }
}

fn frame(buf: &[u8], at: usize) -> Option<&[u8]> {
    let len = usize::from(crate::wire::read_u16(buf, at)?);
    buf.get(at + 2..at + 2 + len)
}
