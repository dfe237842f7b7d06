//! Connections to one upstream, over TCP or TLS: reused, pipelined, bounded (RFC 7766 section 6.2, RFC 7858 section 3.4).
//!
//! A connection takes queries from the moment it is asked for: they wait in its queue while it is being set up, and whatever
//! has gathered leaves in one write. Answers may come in any order.
//!
//! A connection over which nothing comes while queries wait, as behind a firewall that has forgotten it, is closed after
//! [`MAX_TRY`], and with it ends whatever waits: TCP itself would take a quarter of an hour to find out.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::clock::CoarseInstant;
use crate::upstream::UpstreamError;
use crate::upstream::counters::Counters;
use crate::upstream::dial::{Dialed, Dialer};
use crate::upstream::question::Question;
use crate::upstream::rtt::MAX_TRY;
use crate::upstream::table::{MAX_IN_FLIGHT, Place, Table};

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
    queue: mpsc::Sender<Vec<u8>>,
    task: AbortHandle,
    born: Instant,
}

pub(super) struct Shared {
    pub(super) table: Table,
    closed: AtomicBool,
    // An answer has come over it: its end is then the end of a good connection, not a refusal.
    pub(super) proven: AtomicBool,
    // Since when, in milliseconds of `CoarseInstant`, queries have been out without anything read; 0: none is.
    silent_since: AtomicU64,
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
            silent_since: AtomicU64::new(0),
            counters: Arc::clone(counters),
        });
        // Queries that are given up stay in the queue, so that the bound of the table is none for the queue.
        let (queue, waiting) = mpsc::channel(MAX_IN_FLIGHT);
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
            self.queue.try_send(framed).map_err(|error| match error {
                TrySendError::Full(_) => UpstreamError::TooMany,
                TrySendError::Closed(_) => UpstreamError::Lost,
            })
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

    /// A query goes out.
    pub(super) fn asked(&self) {
        if self.silent_since.load(Ordering::Relaxed) == 0 {
            self.silent_since.store(CoarseInstant::now().as_millis().max(1), Ordering::Relaxed);
        }
    }

    /// Something has come, and has been handed over.
    pub(super) fn heard(&self) {
        let since = if self.table.is_empty() { 0 } else { CoarseInstant::now().as_millis().max(1) };
        self.silent_since.store(since, Ordering::Relaxed);
    }

    /// Ends when queries have been out for [`MAX_TRY`] and nothing has come since. Those that were given up count as
    /// well: with other upstreams to ask, none may be left waiting here.
    async fn stalled(&self) {
        loop {
            let pause = match self.silent_since.load(Ordering::Relaxed) {
                0 => MAX_TRY / 2,
                since => {
                    let silent =
                        CoarseInstant::now().millis_since(CoarseInstant::from_millis(since));
                    let Some(left) = MAX_TRY.checked_sub(Duration::from_millis(silent)) else {
                        return;
                    };
                    left + Duration::from_millis(1)
                }
            };
            sleep(pause).await;
        }
    }
}

async fn run(
    shared: Arc<Shared>,
    dialer: Arc<Dialer>,
    lifetime: Lifetime,
    queue: mpsc::Receiver<Vec<u8>>,
) {
    let ended = match timeout(lifetime.connect, dialer.dial()).await {
        Err(_) => {
            UpstreamError::Connect(format!("no connection within {:?}", lifetime.connect).into())
        }
        Ok(Err(error)) => error,
        Ok(Ok(dialed)) => tokio::select! {
            ended = carry(&shared, dialed, lifetime.idle, queue) => ended,
            () = shared.stalled() => UpstreamError::Timeout(MAX_TRY),
        },
    };
    shared.closed.store(true, Ordering::Release);
    // The end of a connection that has worked says nothing of the upstream: whoever waits tries again on another.
    let ended = if shared.proven.load(Ordering::Relaxed) { UpstreamError::Lost } else { ended };
    shared.table.fail_all(&ended);
}

async fn carry(
    shared: &Shared,
    dialed: Dialed,
    idle: Duration,
    queue: mpsc::Receiver<Vec<u8>>,
) -> UpstreamError {
    match dialed {
        Dialed::Tcp(stream) => frames(shared, stream, idle, queue).await,
        Dialed::Tls(stream) => frames(shared, *stream, idle, queue).await,
        Dialed::Exchange(exchange) => exchange.run(shared, idle, queue).await,
    }
}

/// Moves length-prefixed messages both ways (RFC 1035 section 4.2.2) until the stream ends, fails or idles too long.
async fn frames<S: AsyncRead + AsyncWrite>(
    shared: &Shared,
    stream: S,
    idle: Duration,
    queue: mpsc::Receiver<Vec<u8>>,
) -> UpstreamError {
    let (reader, writer) = tokio::io::split(stream);
    let result = tokio::select! {
        read = read_frames(shared, reader, idle) => read,
        written = write_frames(shared, writer, queue) => written,
    };
    match result {
        Ok(()) => UpstreamError::Lost,
        Err(error) => UpstreamError::io("talking over a stream", &error),
    }
}

async fn write_frames<W: AsyncWrite + Unpin>(
    shared: &Shared,
    mut writer: W,
    mut queue: mpsc::Receiver<Vec<u8>>,
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
        shared.asked();
        // An upstream that reads no more, though it still answers what it has read.
        let written = timeout(MAX_TRY, async {
            writer.write_all(&out).await?;
            writer.flush().await
        });
        written.await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
    Ok(())
}

async fn read_frames<R: AsyncRead + Unpin>(
    shared: &Shared,
    mut reader: R,
    idle: Duration,
) -> io::Result<()> {
    let mut buf = Vec::with_capacity(READ);
    let mut heard = false;
    loop {
        let mut at = 0;
        while let Some(message) = frame(&buf, at) {
            shared.deliver(message);
            at += message.len() + 2;
        }
        buf.drain(..at);
        if std::mem::take(&mut heard) {
            shared.heard();
        }
        match timeout(idle, reader.read_buf(&mut buf)).await {
            // Idle, and nobody waits: `expire`. Queries that do wait have deadlines of their own.
            Err(_) if shared.table.is_empty() => return Ok(()),
            Err(_) => {}
            Ok(read) => {
                if read? == 0 {
                    return Ok(());
                }
                heard = true;
            }
        }
    }
}

fn frame(buf: &[u8], at: usize) -> Option<&[u8]> {
    let len = usize::from(crate::wire::read_u16(buf, at)?);
    buf.get(at + 2..at + 2 + len)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::TcpListener;

    use super::*;
    use crate::upstream::Target;
    use crate::wire::{Name, RecordType};

    /// It answers one query, and from then on swallows what comes, as a path whose firewall has forgotten it.
    #[tokio::test]
    async fn a_connection_that_falls_silent_is_closed_in_spite_of_traffic() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::plain(listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buf = [0; 512];
            let len = stream.read(&mut buf).await.unwrap();
            // QR: the query is its own answer.
            buf[4] |= 0x80;
            stream.write_all(&buf[..len]).await.unwrap();
            while stream.read(&mut buf).await.is_ok_and(|len| len > 0) {}
        });
        let dialer = Arc::new(Dialer::new(&target, None).unwrap());
        let minute = Duration::from_secs(60);
        let lifetime = Lifetime { idle: minute, age: None, connect: MAX_TRY };
        let connection = Connection::open(&dialer, lifetime, &Arc::default());
        let name = Name::from_text("one.example").unwrap();
        let question = Question::new(name.as_ref(), RecordType::A, true);
        let ended = |place| {
            let table = connection.table();
            poll_fn(move |context| table.poll(place, context))
        };
        let answered = connection.start(&question).unwrap();
        ended(answered).await.unwrap();
        connection.table().release(answered);
        let begun = Instant::now();
        let waiting = connection.start(&question).unwrap();
        while connection.is_usable(lifetime) {
            assert!(begun.elapsed() < Duration::from_secs(20));
            if let Ok(place) = connection.start(&question) {
                connection.table().release(place);
            }
            sleep(Duration::from_millis(20)).await;
        }
        assert!(begun.elapsed() >= MAX_TRY - Duration::from_millis(100), "{:?}", begun.elapsed());
        assert_eq!(ended(waiting).await, Err(UpstreamError::Lost));
    }
}
