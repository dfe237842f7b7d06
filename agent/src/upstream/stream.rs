//! Connections to one upstream, over TCP or TLS: reused, pipelined, bounded (RFC 7766 section 6.2, RFC 7858 section 3.4).
//!
//! A connection takes queries from the moment it is opened: they wait in its queue while it is being set up, and whatever
//! has gathered leaves in one write. Answers may come in any order.
//!
//! When a connection ends, its unanswered queries end with [`UpstreamError::Lost`] and are to be sent over another one
//! (RFC 7766 section 6.2.4). An upstream that closes connections after so many answers has a limit, which is learnt
//! ([`Peer`]): no more queries than that are written to a connection, and more connections are opened.
//!
//! A connection over which nothing comes while queries wait, as behind a firewall that has forgotten it, is given no new
//! query after a try's time, and is closed after [`MAX_TRY`]: TCP itself would take a quarter of an hour to find out.
//!
//! [`Peer`]: crate::upstream::session::Peer

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::clock::CoarseInstant;
use crate::upstream::UpstreamError;
use crate::upstream::counters::Counters;
use crate::upstream::dial::{Dialed, Dialer};
use crate::upstream::question::Question;
use crate::upstream::rtt::MAX_TRY;
use crate::upstream::session::Session;
use crate::upstream::table::{MAX_IN_FLIGHT, SlotId, Table};

/// Queries in flight on one connection before another is opened, if there may be one more.
const PIPELINE: usize = 64;
/// Connections of one upstream and worker.
const MAX_CONNECTIONS: usize = 4;
/// The same, for an upstream that takes fewer than [`PIPELINE`] queries over a connection.
const MAX_LIMITED_CONNECTIONS: usize = 16;
/// Bytes gathered into one write.
const WRITE: usize = 16 * 1_024;
/// Bytes read at once, and what a read buffer may keep while it is empty.
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
    /// Takes no new queries when it has been silent for so long with queries out: a try's time, so that the next try of
    /// a query goes over another connection.
    pub silence: Duration,
}

/// The connections of one upstream and worker.
#[derive(Default)]
pub struct Pool {
    connections: Vec<Arc<Connection>>,
}

/// One connection with the queries that are in flight on it.
pub struct Connection {
    session: Arc<Session>,
    queue: mpsc::Sender<Vec<u8>>,
    task: AbortHandle,
    born: Instant,
    /// Queries that were put into the queue. Those above the upstream's limit are not written.
    taken: AtomicUsize,
}

impl Pool {
    /// Sends a query over the least busy connection, or over a new one. `max_connections`: at most so many are kept; 0: no
    /// such limit. Has to be called within the worker's runtime.
    pub fn start(
        &mut self,
        dialer: &Arc<Dialer>,
        question: &Question,
        lifetime: Lifetime,
        max_connections: usize,
        counters: &Arc<Counters>,
    ) -> Result<(Arc<Connection>, SlotId), UpstreamError> {
        let now = CoarseInstant::now();
        self.connections.retain(|connection| connection.is_usable(lifetime));
        let limit = match dialer.peer().query_limit() {
            0..PIPELINE => MAX_LIMITED_CONNECTIONS,
            _ => MAX_CONNECTIONS,
        };
        let limit = if max_connections == 0 { limit } else { max_connections.min(limit) };
        // If one has fallen silent, others that have been idle since may be as dead. Silent ones may answer yet; they are too
        // few to count, for each is closed after `MAX_TRY`.
        let silent =
            |connection: &Arc<Connection>| connection.session.silent_for(lifetime.silence, now);
        for connection in &self.connections {
            if let Some(since) = silent(connection) {
                connection.session.note_silence(since, now);
            }
        }
        if let Some(since) = self.connections.iter().filter_map(silent).min() {
            self.connections.retain(|connection| !connection.session.is_doubtful(since));
        }
        let live = || self.connections.iter().filter(|connection| silent(connection).is_none());
        let may_open = live().count() < limit;
        let least = live()
            .filter(|connection| connection.has_room())
            .min_by_key(|connection| connection.session.table.len());
        let connection = match least {
            Some(least) if least.session.table.len() < PIPELINE || !may_open => Arc::clone(least),
            _ if may_open => {
                counters.stream_misses.add(1);
                let connection = Connection::open(dialer, lifetime, counters);
                self.connections.push(Arc::clone(&connection));
                let place = connection.start(question)?;
                return Ok((connection, place));
            }
            // All have taken what the upstream answers: it waits for the end of one and is lost then, without having been
            // sent.
            _ => {
                let least = live().min_by_key(|connection| connection.session.table.len());
                Arc::clone(least.ok_or(UpstreamError::TooMany)?)
            }
        };
        counters.stream_hits.add(1);
        let place = connection.start(question)?;
        Ok((connection, place))
    }

    /// Connections that are open or being set up.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }
}

impl Connection {
    /// Begins to set up a connection. Has to be called within a runtime, whose it remains.
    pub fn open(dialer: &Arc<Dialer>, lifetime: Lifetime, counters: &Arc<Counters>) -> Arc<Self> {
        let session = Arc::new(Session::new(dialer.peer(), counters, CoarseInstant::now()));
        // Queries that are given up stay in the queue, so that the bound of the table is none for the queue.
        let (queue, waiting) = mpsc::channel(MAX_IN_FLIGHT);
        let task = tokio::spawn(run(Arc::clone(&session), Arc::clone(dialer), lifetime, waiting))
            .abort_handle();
        Arc::new(Self { session, queue, task, born: Instant::now(), taken: AtomicUsize::new(0) })
    }

    /// Puts a query into the connection's queue.
    pub fn start(&self, question: &Question) -> Result<SlotId, UpstreamError> {
        let started = self.session.table.start(question, false, |message| {
            let mut framed = Vec::with_capacity(message.len() + 2);
            framed.extend_from_slice(&(message.len() as u16).to_be_bytes());
            framed.extend_from_slice(message);
            self.queue.try_send(framed).map_err(|error| match error {
                TrySendError::Full(_) => UpstreamError::TooMany,
                TrySendError::Closed(_) => UpstreamError::Lost,
            })
        });
        let place = started.ok_or(UpstreamError::TooMany)??;
        self.session.queued(CoarseInstant::now());
        self.taken.fetch_add(1, Relaxed);
        // If it has ended since it was chosen, `fail_all` may have been called before the query was there.
        if self.session.is_closed() {
            self.session.table.release(place);
            return Err(UpstreamError::Lost);
        }
        Ok(place)
    }

    /// The queries in flight.
    pub fn table(&self) -> &Table {
        &self.session.table
    }

    /// True if the upstream's limit leaves room for one more query.
    fn has_room(&self) -> bool {
        self.taken.load(Relaxed) < self.session.query_limit()
    }

    fn is_usable(&self, lifetime: Lifetime) -> bool {
        !self.session.is_closed() && lifetime.age.is_none_or(|age| self.born.elapsed() < age)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sets a connection up and carries its queries until it ends.
async fn run(
    session: Arc<Session>,
    dialer: Arc<Dialer>,
    lifetime: Lifetime,
    queue: mpsc::Receiver<Vec<u8>>,
) {
    let ended = match timeout(lifetime.connect, dialer.dial()).await {
        Err(_) => {
            UpstreamError::Connect(format!("no connection within {:?}", lifetime.connect).into())
        }
        Ok(Err(error)) => error,
        Ok(Ok(dialed)) => {
            session.connected(CoarseInstant::now());
            tokio::select! {
                ended = carry(&session, dialed, lifetime.idle, queue) => ended,
                () = session.stalled() => UpstreamError::Timeout(MAX_TRY),
            }
        }
    };
    session.close();
    // The end of a connection that has worked is no failure of the upstream.
    let ended = if session.has_worked() { UpstreamError::Lost } else { ended };
    session.table.fail_all(&ended);
}

async fn carry(
    session: &Session,
    dialed: Dialed,
    idle: Duration,
    queue: mpsc::Receiver<Vec<u8>>,
) -> UpstreamError {
    match dialed {
        Dialed::Tcp(stream) => frames(session, stream, idle, queue).await,
        Dialed::Tls(stream) => frames(session, *stream, idle, queue).await,
        Dialed::Exchange(exchange) => exchange.run(session, idle, queue).await,
    }
}

/// Moves length-prefixed messages both ways (RFC 1035 section 4.2.2) until the stream ends, fails or idles too long.
async fn frames<S: AsyncRead + AsyncWrite>(
    session: &Session,
    stream: S,
    idle: Duration,
    queue: mpsc::Receiver<Vec<u8>>,
) -> UpstreamError {
    let (reader, writer) = tokio::io::split(stream);
    let result = tokio::select! {
        // Answers that have come with the end of the stream are delivered, even if writing has failed meanwhile.
        biased;
        read = read_frames(session, reader, idle) => read,
        written = write_frames(session, writer, queue) => written,
    };
    match result {
        Ok(Ended::ByUs) => UpstreamError::Lost,
        Ok(Ended::ByPeer) => {
            session.ended_by_peer(CoarseInstant::now());
            UpstreamError::Io("the connection was closed without an answer".into())
        }
        Err(error) => {
            session.ended_by_peer(CoarseInstant::now());
            UpstreamError::io("talking over a stream", &error)
        }
    }
}

/// Whose decision the end of a stream was.
enum Ended {
    ByUs,
    ByPeer,
}

async fn write_frames<W: AsyncWrite + Unpin>(
    session: &Session,
    mut writer: W,
    mut queue: mpsc::Receiver<Vec<u8>>,
) -> io::Result<Ended> {
    let mut out = Vec::new();
    loop {
        // If the limit stands, `read_frames` ends the connection once these are answered.
        session.room().await;
        let Some(first) = queue.recv().await else { return Ok(Ended::ByUs) };
        out.clear();
        out.extend_from_slice(&first);
        session.sent();
        while out.len() < WRITE
            && session.may_send()
            && let Ok(more) = queue.try_recv()
        {
            out.extend_from_slice(&more);
            session.sent();
        }
        // An upstream that reads no more, though it still answers what it has read.
        let written = timeout(MAX_TRY, async {
            writer.write_all(&out).await?;
            writer.flush().await
        });
        match written.await.map_err(|_| io::ErrorKind::TimedOut)? {
            Ok(()) => {}
            // What the upstream has sent before it closed is still to be read, and reading finds the end too.
            Err(_) => return std::future::pending().await,
        }
    }
}

async fn read_frames<R: AsyncRead + Unpin>(
    session: &Session,
    mut reader: R,
    idle: Duration,
) -> io::Result<Ended> {
    let mut buf = Vec::new();
    loop {
        match timeout(idle, reader.read_buf(&mut buf)).await {
            // Idle, and no query is in flight: `expire`. Queries that wait have deadlines of their own.
            Err(_) if session.table.is_empty() => return Ok(Ended::ByUs),
            Err(_) => continue,
            Ok(read) => {
                if read? == 0 {
                    return Ok(Ended::ByPeer);
                }
            }
        }
        let mut at = 0;
        while let Some(message) = frame(&buf, at) {
            session.deliver(message);
            at += message.len() + 2;
        }
        buf.drain(..at);
        if buf.is_empty() && buf.capacity() > READ {
            buf = Vec::new();
        }
        session.heard(CoarseInstant::now());
        if session.is_used_up() {
            return Ok(Ended::ByUs);
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
        let lifetime = Lifetime { idle: minute, age: None, connect: MAX_TRY, silence: MAX_TRY };
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
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(begun.elapsed() >= MAX_TRY - Duration::from_millis(100), "{:?}", begun.elapsed());
        assert_eq!(ended(waiting).await, Err(UpstreamError::Lost));
    }
}
