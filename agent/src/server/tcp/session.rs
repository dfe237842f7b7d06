//! One TCP connection: its queries in turns, its replies in whatever order they are ready, everything bounded.
//!
//! ```text
//! wait       readable, an answer of a query that waited, too long idle, the server drains, places are scarce
//! turn       one read into the worker's buffer; queries that are whole are answered into the worker's buffer, one write
//!              a query that is not whole     -> input     charged to the client's budget
//!              replies that are not taken    -> rest      charged; nothing is read until they are
//!              a query that waits            -> pending   charged; its answer comes through `answers`
//! ```
//!
//! A connection that is idle holds no buffer. One that lasts is kept by the supervisor for the case of a crash (`kept`); its
//! queries then stay in the kernel's queue until they are served, and `input` and `rest` are empty.

mod in_queue;

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use self::in_queue::{Queued, Served};
use super::answers::{Answer, Owed};
use super::buffer::Buffer;
use super::kept::Kept;
use super::limits::{Connections, IDLE_WHEN_SCARCE};
use super::stream::Stream;
use super::turns::{Buffers, READ_LEN, Turn, Turns};
use crate::admission::Permit;
use crate::chain::Local;
use crate::clock::CoarseInstant;
use crate::plugin::settings::Timeouts;
use crate::request::{Origin, Request, Transport};
use crate::server::answer::{Disposition, PendingReply, answer};
use crate::server::listener::Listener;
use crate::server::pending;
use crate::server::send_queue::ReplyPath;
use crate::server::worker::{LAST_QUERIES, PassOn, Phase, Worker, drained};
use crate::wire::{read_u16, write_u16};

/// Queries of one connection that may wait at once; then it is not read until one is answered.
const MAX_IN_FLIGHT: usize = 128;
/// Queries that one turn answers.
const QUERIES_PER_TURN: usize = 64;
/// A turn ends when so many bytes of replies have gathered.
const OUT_PER_TURN: usize = 64 << 10;

/// What all connections of one worker and listener have in common.
pub struct Shared {
    /// The address that they were made to.
    pub listener: Arc<Listener>,
    /// Who serves them.
    pub worker: Arc<Worker>,
    /// What they may take.
    pub connections: Arc<Connections>,
    /// Who serves when.
    pub turns: Arc<Turns>,
}

impl Shared {
    /// For the connections to `listener` that `worker` serves.
    pub fn new(
        listener: &Arc<Listener>,
        worker: &Arc<Worker>,
        connections: &Arc<Connections>,
    ) -> Arc<Self> {
        Arc::new(Self {
            listener: Arc::clone(listener),
            worker: Arc::clone(worker),
            connections: Arc::clone(connections),
            turns: Arc::default(),
        })
    }
}

/// One connection.
pub struct Session {
    shared: Arc<Shared>,
    stream: Stream,
    client: SocketAddr,
    local: SocketAddr,
    place: Permit,
    /// The beginning of a query; whole queries too, while as many wait as may, or until the next turn.
    input: Buffer,
    /// Replies that the client has not taken.
    rest: Buffer,
    /// There from the first query that waits until none does.
    answers: Option<(mpsc::Sender<Answer>, mpsc::Receiver<Answer>)>,
    in_flight: usize,
    /// There while the supervisor keeps the connection. Without `kept`, `queued` says nothing.
    kept: Option<Kept>,
    /// What a kept connection has in the kernel's queue, as far as it has been looked at.
    queued: Queued,
    /// Turns that served a query.
    served: Served,
    /// When the first query that is not whole began to arrive.
    query_since: Instant,
    /// When the last whole query or the last answer came.
    idle_since: Instant,
}

/// What a session was woken by.
enum Woken {
    Readable,
    Answer(Answer),
    TooLong,
    Phase(Phase),
    Scarce,
}

/// What a turn ended with.
enum Turned {
    /// All that was there is served.
    Done,
    /// There may be more to read or to serve.
    More,
    /// The client has closed its side.
    Eof,
}

impl Session {
    /// A session over `stream`, for which `place` was acquired. `None`: the connection is gone already.
    pub fn new(
        stream: Stream,
        client: SocketAddr,
        place: Permit,
        kept: Option<Kept>,
        shared: &Arc<Shared>,
    ) -> Option<Self> {
        let local = stream.local_addr().unwrap_or(shared.listener.address);
        let ip = client.ip().to_canonical();
        let buffer = || shared.connections.bytes(ip, 0).map(Buffer::new);
        let now = Instant::now();
        let served = match kept.is_some() || !stream.can_move() {
            true => Served::Enough,
            false => Served::Nothing,
        };
        Some(Self {
            client: SocketAddr::new(ip, client.port()),
            local: SocketAddr::new(local.ip().to_canonical(), local.port()),
            place,
            input: buffer()?,
            rest: buffer()?,
            shared: Arc::clone(shared),
            stream,
            answers: None,
            in_flight: 0,
            served,
            kept,
            queued: Queued::default(),
            query_since: now,
            idle_since: now,
        })
    }

    /// Serves the connection until it ends. If it is to be passed on, it is returned once nothing of it is in this process:
    /// no query, no part of one, no reply.
    pub async fn run(
        mut self,
        phase: watch::Receiver<Phase>,
    ) -> io::Result<Option<(TcpStream, PassOn)>> {
        let ended = self.serve_until_end(phase).await;
        let kept = self.kept.take();
        if kept.is_some() && !matches!(ended, Ok(Some(_))) {
            // The supervisor has it open, too, and the client is not to wait for that. It may have ended it itself.
            let _ = SockRef::from(&self.stream).shutdown(Shutdown::Both);
        }
        self.stream.close();
        let pass_on = ended?;
        Ok(match self.stream {
            Stream::Plain(stream) => pass_on.map(|pass_on| (stream, pass_on)),
            // The client makes another connection, to the process that serves now.
            Stream::Tls(_) => None,
        })
    }

    async fn serve_until_end(
        &mut self,
        mut phase: watch::Receiver<Phase>,
    ) -> io::Result<Option<PassOn>> {
        let mut end: Option<Instant> = None;
        let mut successor = None;
        loop {
            self.flush().await?;
            if let Some(pass_on) = successor.take_if(|_| self.is_idle()) {
                return Ok(Some(pass_on));
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let may_read = self.in_flight < MAX_IN_FLIGHT && left != Some(Duration::ZERO);
            let woken = if may_read && self.has_query() {
                Woken::Readable
            } else if left == Some(Duration::ZERO) && self.in_flight == 0 {
                return Ok(None);
            } else {
                let may_change = end.is_none() && successor.is_none();
                self.wait(may_read, left, &mut phase, may_change).await?
            };
            match woken {
                Woken::Readable => {
                    let turn = self.shared.turns.acquire(self.client.ip()).await;
                    let turned = match self.kept {
                        Some(_) => self.take_turn_in_queue(&turn)?,
                        None => self.take_turn(&turn)?,
                    };
                    // Within TLS more may have come than was decrypted, and no event tells it.
                    let more = matches!(turned, Turned::More) || !self.stream.can_move();
                    turn.end(more).await;
                    if matches!(turned, Turned::Eof) {
                        return self.finish().await.map(|()| None);
                    }
                }
                Woken::Answer(answer) => self.send(answer).await?,
                Woken::TooLong => return self.finish().await.map(|()| None),
                Woken::Phase(Phase::HandedOver(pass_on)) => successor = Some(pass_on),
                Woken::Phase(_) => end = Some(Instant::now() + LAST_QUERIES),
                Woken::Scarce if self.gives_up() => {
                    self.shared.connections.count_refused();
                    return Ok(None);
                }
                Woken::Scarce => {}
            }
        }
    }

    async fn wait(
        &mut self,
        may_read: bool,
        left: Option<Duration>,
        phase: &mut watch::Receiver<Phase>,
        may_change: bool,
    ) -> io::Result<Woken> {
        let is_idle = self.is_idle();
        let patience = self.patience().into_iter().chain(left).min();
        let Self { answers, stream, shared, .. } = self;
        let answered = async {
            match answers {
                Some((_, answers)) => answers.recv().await,
                None => std::future::pending().await,
            }
        };
        let too_long = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(answer) = answered => Ok(Woken::Answer(answer)),
            ready = stream.readable(), if may_read => ready.map(|()| Woken::Readable),
            () = too_long => Ok(Woken::TooLong),
            phase = drained(phase), if may_change => Ok(Woken::Phase(phase)),
            () = shared.connections.scarce(), if is_idle => Ok(Woken::Scarce),
        }
    }

    /// How long the client may still take. `None`: what is awaited is not its doing.
    fn patience(&self) -> Option<Duration> {
        let Timeouts { read, idle, .. } = self.shared.listener.dispatch.load().timeouts();
        if self.has_part() && !self.has_query() {
            // For the whole query, however its bytes trickle in.
            return Some(read.saturating_sub(self.query_since.elapsed()));
        }
        self.is_idle().then(|| idle.saturating_sub(self.idle_since.elapsed()))
    }

    fn is_idle(&self) -> bool {
        self.in_flight == 0 && !self.has_part()
    }

    /// True if something has come that is not served.
    fn has_part(&self) -> bool {
        !self.input.is_empty() || self.queued.len > 0
    }

    /// True if a new client has more need of its place.
    fn gives_up(&self) -> bool {
        self.is_idle()
            && (self.place.is_over_share() || self.idle_since.elapsed() >= IDLE_WHEN_SCARCE)
    }

    /// True if a whole query has come that is not served.
    fn has_query(&self) -> bool {
        self.queued.has_query || frame(self.input.as_slice(), 0).is_some()
    }

    /// Reads once, unless a whole query is there already, answers what is whole, and writes what the client takes.
    fn take_turn(&mut self, turn: &Turn) -> io::Result<Turned> {
        turn.with_buffers(|Buffers { read, out }| {
            let mut len = 0;
            if !self.has_query() {
                len = match self.stream.read(&mut read[..], RecvFlags::empty()) {
                    Ok(0) => return Ok(Turned::Eof),
                    Ok(len) => len,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(Turned::Done);
                    }
                    Err(error) => return Err(error),
                };
            }
            let fresh = read.get(..len).unwrap_or(&[]);
            let mut begins = self.input.is_empty();
            let used = if begins {
                let used = self.serve(fresh, out)?;
                self.keep(fresh.get(used..).unwrap_or(&[]))?;
                used
            } else {
                self.keep(fresh)?;
                let input = self.input.take();
                let served = self.serve(&input, out);
                let used = *served.as_ref().unwrap_or(&0);
                self.input.put_back(input, used);
                served?
            };
            begins |= used > 0;
            if begins {
                self.query_since = Instant::now();
            }
            if used > 0 {
                self.idle_since = self.query_since;
            }
            self.write(out)?;
            self.keep_if_it_lasts(used > 0);
            let more = self.has_query() || len == READ_LEN;
            Ok(if more { Turned::More } else { Turned::Done })
        })
    }

    /// Writes what the socket takes at once, and keeps the rest.
    fn write(&mut self, out: &[u8]) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let written = match self.stream.try_write(out) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if self.rest.push(out.get(written..).unwrap_or(&[])) { Ok(()) } else { self.over_budget() }
    }

    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() || self.input.push(bytes) { Ok(()) } else { self.over_budget() }
    }

    fn over_budget<T>(&self) -> io::Result<T> {
        self.shared.connections.count_refused();
        Err(io::Error::new(io::ErrorKind::OutOfMemory, "the client has its share of the buffers"))
    }

    /// Answers the queries at the start of `bytes` that are whole, as far as the bounds allow. Returns how many bytes they
    /// are.
    fn serve(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let mut at = 0;
        let received = CoarseInstant::now();
        let shared = Arc::clone(&self.shared);
        let dispatch = shared.listener.dispatch.load();
        for _ in 0..QUERIES_PER_TURN {
            if self.in_flight >= MAX_IN_FLIGHT || out.len() >= OUT_PER_TURN {
                break;
            }
            let Some(packet) = frame(bytes, at) else { break };
            at += packet.len() + 2;
            let origin = Origin {
                client: self.client,
                local: self.local,
                transport: Transport::Tcp,
                worker: shared.worker.number,
                received,
            };
            let start = out.len();
            out.extend_from_slice(&[0, 0]);
            let handled = catch_unwind(AssertUnwindSafe(|| {
                Local::with(|local| answer(packet, origin, &dispatch, local, out))
            }));
            match handled {
                Ok(Disposition::Reply) => {
                    let len = out.len() - start - 2;
                    write_u16(out, start, len as u16);
                    continue;
                }
                Ok(Disposition::Drop) => {}
                Ok(Disposition::Pending(reply, request)) => {
                    self.wait_for(reply, &request, packet.len())?;
                }
                Err(_) => shared.worker.panicked(),
            }
            out.truncate(start);
        }
        Ok(at)
    }

    /// Lets a query wait. Its reply comes through `answers`.
    fn wait_for(
        &mut self,
        reply: PendingReply,
        request: &Request<'_>,
        len: usize,
    ) -> io::Result<()> {
        let Some(place) = self.shared.worker.admit(&request.origin) else {
            reply.refuse();
            return Ok(());
        };
        let Some(permit) = self.shared.connections.bytes(self.client.ip(), len) else {
            return self.over_budget();
        };
        let (sender, _) = self.answers.get_or_insert_with(|| mpsc::channel(MAX_IN_FLIGHT));
        let owed = Owed::new(sender.clone(), permit);
        self.in_flight += 1;
        let path = ReplyPath::Tcp(Box::new(owed));
        pending::resolve(reply.since(Instant::now()), request, place, path);
        Ok(())
    }

    /// Writes an answer, and with it those that have come meanwhile.
    async fn send(&mut self, first: Answer) -> io::Result<()> {
        let mut out = Vec::new();
        let mut permits = Vec::new();
        let mut next = Some(first);
        while let Some(answer) = next {
            self.in_flight -= 1;
            match answer {
                Answer::Frame(frame, permit) => {
                    if out.is_empty() {
                        out = frame
                    } else {
                        out.extend_from_slice(&frame)
                    }
                    permits.extend(permit);
                }
                Answer::OverBudget => return self.over_budget(),
            }
            let answers = self.answers.as_mut().filter(|_| out.len() < OUT_PER_TURN);
            next = answers.and_then(|(_, answers)| answers.try_recv().ok());
        }
        if self.in_flight == 0 {
            self.answers = None;
        }
        self.idle_since = Instant::now();
        let written = match self.stream.try_write(&out) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if let Some(rest) = out.get(written..).filter(|rest| !rest.is_empty()) {
            self.leave_to_crash()?;
            let patience = self.shared.listener.dispatch.load().timeouts().write;
            timeout(patience, self.stream.write_all(rest)).await??;
        }
        Ok(())
    }

    /// Writes what the client has not taken.
    async fn flush(&mut self) -> io::Result<()> {
        if !self.rest.is_empty() || self.stream.has_unsent() {
            let patience = self.shared.listener.dispatch.load().timeouts().write;
            timeout(patience, self.stream.write_all(self.rest.as_slice())).await??;
            self.rest.consume(usize::MAX);
        }
        Ok(())
    }

    /// Sends what is still to come (RFC 7766 section 6.2.4) before the connection ends.
    async fn finish(&mut self) -> io::Result<()> {
        self.flush().await?;
        while self.in_flight > 0 {
            let Some((_, answers)) = &mut self.answers else { break };
            let Some(answer) = answers.recv().await else { break };
            self.send(answer).await?;
        }
        Ok(())
    }
}

/// The message at `at`, if it is there as a whole.
fn frame(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let len = usize::from(read_u16(bytes, at)?);
    bytes.get(at + 2..at + 2 + len)
}
