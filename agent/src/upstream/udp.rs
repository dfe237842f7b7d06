//! Datagrams to one upstream: a few connected sockets for each worker, each with a port of its own that the kernel draws.
//!
//! A connected socket hears its upstream only, learns at once that nobody listens there (ICMP), and spares the kernel the
//! look-up of the route. The sockets of the pool are renewed all the time, so that an attacker who has found out a port
//! has little time to use it; with [`SourcePort::Fresh`] each query has a port of its own ([`fresh`]).

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recv, recvmmsg, send, sendmmsg};
use smallvec::SmallVec;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::AbortHandle;

use crate::clock::CoarseInstant;
use crate::upstream::UpstreamError;
use crate::upstream::counters::Counters;
use crate::upstream::fresh::{self, Idle};
use crate::upstream::question::{Question, Unexpected};
use crate::upstream::random;
use crate::upstream::table::{FLUSH, SlotId, Table};

/// Sockets of one upstream and worker. Three bits more to guess, and still few enough that answers arrive in batches.
pub const POOL: usize = 8;
/// A socket is renewed after so many queries...
const MAX_QUERIES: u32 = 2_000;
/// ... or after so many milliseconds, give or take a half.
const MAX_AGE_MS: u64 = 20_000;
/// Datagrams taken in one system call.
const BATCH: usize = 32;
/// Room for one datagram. We announce 1,232; some upstreams send more all the same.
const DATAGRAM: usize = 4_096;
/// A socket that reports so many errors in a row without a datagram between is given up.
const MAX_ERRORS: u32 = 64;

/// What wakes the reader: datagrams, and errors, which an ICMP message leaves without a datagram.
const INTERESTS: [Interest; 2] = [Interest::ERROR, Interest::READABLE];

/// Where the source ports of queries come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SourcePort {
    /// A pool of random ports that is renewed all the time.
    #[default]
    Pool,
    /// A new random port for every query, at about half as much again.
    Fresh,
}

/// The sockets of one upstream and worker.
pub struct Pool {
    to: SocketAddr,
    sockets: SmallVec<[Entry; POOL]>,
    /// Index into `sockets` of the one that is used until what is queued has been sent.
    turn: usize,
    /// The number of the batch that `turn` was drawn for.
    batch: u64,
    /// For queries with ports of their own.
    idle: Arc<Idle<Socket>>,
}

struct Entry {
    socket: Arc<Socket>,
    queries: u32,
    until: CoarseInstant,
}

/// One connected socket with the queries that are in flight on it.
pub struct Socket {
    io: Arc<Io>,
    reader: AbortHandle,
}

struct Io {
    socket: UdpSocket,
    table: Table,
    counters: Arc<Counters>,
    /// Its reader has ended, or nothing can be sent: its route or its source address may be gone. Never false again.
    closed: AtomicBool,
    /// Keeps it between queries that have ports of their own. `None`: it is one of a pool's.
    idle: Option<Weak<Idle<Socket>>>,
}

impl Pool {
    /// A pool without sockets yet.
    pub fn new(to: SocketAddr) -> Self {
        Self { to, sockets: SmallVec::new(), turn: 0, batch: 0, idle: Arc::default() }
    }

    /// Sends a query from one of the pool's ports, drawn at random.
    pub fn start(
        &mut self,
        question: &Question,
        random_case: bool,
        ports: SourcePort,
        counters: &Arc<Counters>,
    ) -> Result<(Arc<Socket>, SlotId), UpstreamError> {
        let socket = match ports {
            SourcePort::Pool => self.socket(counters)?,
            SourcePort::Fresh => self.fresh(counters)?,
        };
        let slot = socket.queue(question, random_case)?;
        Ok((socket, slot))
    }

    /// A socket with a port that no query has had, as far as chance goes.
    fn fresh(&self, counters: &Arc<Counters>) -> Result<Arc<Socket>, UpstreamError> {
        if let Some(socket) = self.idle.take()
            && fresh::connect(&socket.io.socket, self.to).is_ok()
        {
            counters.udp_hits.add(1);
            return Ok(socket);
        }
        counters.udp_misses.add(1);
        Socket::open(self.to, counters, Some(&self.idle))
    }

    /// The socket whose turn it is.
    fn socket(&mut self, counters: &Arc<Counters>) -> Result<Arc<Socket>, UpstreamError> {
        let now = CoarseInstant::now();
        // Drawn anew for each batch, so that its queries go out in one call: nobody outside knows it any better for that.
        let batch = Flush::batch();
        if self.batch != batch {
            (self.batch, self.turn) = (batch, random::below(POOL));
        }
        let worn = self.sockets.get(self.turn).is_none_or(|entry| entry.is_worn(now));
        if worn {
            // Ages differ, so that the ports of a pool do not change all at once.
            let age = MAX_AGE_MS / 2 + random::below(MAX_AGE_MS as usize) as u64;
            let entry = Entry {
                socket: Socket::open(self.to, counters, None)?,
                queries: 0,
                until: now.plus_millis(age),
            };
            counters.udp_misses.add(1);
            match self.sockets.get_mut(self.turn) {
                Some(old) => *old = entry,
                None => {
                    self.turn = self.sockets.len();
                    self.sockets.push(entry);
                }
            }
        } else {
            counters.udp_hits.add(1);
        }
        let entry = self.sockets.get_mut(self.turn).ok_or(UpstreamError::Lost)?;
        entry.queries += 1;
        Ok(Arc::clone(&entry.socket))
    }

    /// Sockets that are open, but for those that are under way with one query.
    pub fn len(&self) -> usize {
        self.sockets.len() + self.idle.count()
    }

    /// True before the first query.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Entry {
    fn is_worn(&self, now: CoarseInstant) -> bool {
        self.queries >= MAX_QUERIES || self.until <= now || self.socket.io.closed.load(Relaxed)
    }
}

impl Socket {
    /// Opens and connects a socket. Has to be called within the worker's runtime.
    fn open(
        to: SocketAddr,
        counters: &Arc<Counters>,
        idle: Option<&Arc<Idle<Socket>>>,
    ) -> Result<Arc<Self>, UpstreamError> {
        let socket = fresh::open(to)
            .and_then(|socket| fresh::connect(&socket, to).map(|()| socket))
            .and_then(UdpSocket::from_std)
            .map_err(|error| UpstreamError::io("opening a socket", &error))?;
        let io = Arc::new(Io {
            socket,
            table: Table::new(),
            counters: Arc::clone(counters),
            closed: AtomicBool::new(false),
            idle: idle.map(Arc::downgrade),
        });
        let reader = tokio::spawn(Io::read(Reader(Arc::clone(&io)))).abort_handle();
        Ok(Arc::new(Self { io, reader }))
    }

    /// Sends a query together with those of the other tasks that are ready now. An upstream that sleeps is woken by the
    /// first of them only: that wake-up is the dearest part of sending, and ours to pay.
    fn queue(&self, question: &Question, random_case: bool) -> Result<SlotId, UpstreamError> {
        match self.io.table.queue(question, random_case) {
            Some((slot, true)) => {
                Flush::soon(&self.io);
                Ok(slot)
            }
            Some((slot, false)) => Ok(slot),
            None => Err(UpstreamError::TooMany),
        }
    }

    /// Keeps the socket for the next query, if it has a port of its own and its query is over: without that port, and
    /// without anything that was sent to it. Has to be called within the worker's runtime.
    pub(super) fn recycle(self: &Arc<Self>) {
        let Some(idle) = &self.io.idle else { return };
        if !self.io.closed.load(Relaxed)
            && let Some(idle) = idle.upgrade()
            && fresh::dissolve(&self.io.socket).is_ok()
            && self.io.is_empty()
        {
            Idle::keep(&idle, Arc::clone(self));
        }
    }

    /// The queries in flight.
    pub fn table(&self) -> &Table {
        &self.io.table
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Io {
    /// Sends what is queued.
    fn flush(&self) {
        let fd = self.socket.as_raw_fd();
        let sent = self.table.flush(|messages| {
            let slices: SmallVec<[[IoSlice<'_>; 1]; FLUSH]> =
                messages.iter().map(|message| [IoSlice::new(message)]).collect();
            let sent = match slices.as_slice() {
                [[one]] => send(fd, one, MsgFlags::MSG_DONTWAIT).map(|_| 1),
                all => SEND_HEADERS.with_borrow_mut(|headers| {
                    let to: [Option<()>; FLUSH] = [None; FLUSH];
                    let to = to.get(..all.len()).unwrap_or(&to);
                    sendmmsg(fd, headers, all, to, [], MsgFlags::MSG_DONTWAIT).map(Iterator::count)
                }),
            };
            match sent {
                Ok(sent) => Ok(sent),
                // A full send buffer is a datagram lost on the way: the time-out deals with it.
                Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(0),
                Err(error) => Err(UpstreamError::io("sending", &error.into())),
            }
        });
        if !sent {
            self.closed.store(true, Relaxed);
        }
    }

    async fn read(reader: Reader) {
        reader.0.receive_all().await;
    }

    /// Receives until the socket can no longer be used.
    async fn receive_all(&self) {
        let mut errors = 0;
        while self.socket.ready(INTERESTS[0].add(INTERESTS[1])).await.is_ok() {
            // One after the other: tokio takes back the readiness of one interest at a time.
            for interest in INTERESTS {
                if !self.drain(interest, &mut errors) {
                    return;
                }
            }
        }
    }

    /// Receives until there is nothing more. False if the socket can no longer be used.
    fn drain(&self, interest: Interest, errors: &mut u32) -> bool {
        loop {
            let result = self.socket.try_io(interest, || match &self.idle {
                None => self.receive(errors),
                Some(_) => self.receive_one(errors),
            });
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    self.table.fail_all(&UpstreamError::io("receiving", &error));
                    *errors += 1;
                    if *errors >= MAX_ERRORS {
                        return false;
                    }
                }
            }
        }
    }

    /// Takes a batch. A batch that is not full has emptied the socket: that is reported as `WouldBlock`, which makes tokio
    /// wait for the kernel's next edge, without another system call to find out the same.
    fn receive(&self, errors: &mut u32) -> io::Result<()> {
        BUFFERS.with_borrow_mut(|buffers| {
            let Buffers { headers, octets } = buffers;
            let mut chunks = octets.chunks_exact_mut(DATAGRAM);
            let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
                std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
            let fd = self.socket.as_raw_fd();
            let received = recvmmsg(fd, headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
            let lengths: SmallVec<[(usize, bool); BATCH]> = received
                .map(|message| (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC)))
                .collect();
            let messages = octets
                .chunks_exact(DATAGRAM)
                .zip(&lengths)
                .map(|(chunk, &(len, oversize))| (chunk.get(..len).unwrap_or(chunk), oversize));
            self.table.deliver(messages, |why| self.counters.unexpected(why));
            *errors = 0;
            if lengths.len() < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        })
    }

    /// Takes one datagram. The waiter of its query gives the query's port up with [`Socket::recycle`].
    fn receive_one(&self, errors: &mut u32) -> io::Result<()> {
        BUFFERS.with_borrow_mut(|buffers| {
            let buffer = buffers.octets.get_mut(..DATAGRAM).unwrap_or_default();
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            let len = recv(self.socket.as_raw_fd(), buffer, flags)?;
            let message = (buffer.get(..len).unwrap_or(buffer), len > DATAGRAM);
            *errors = 0;
            let unexpected = |why| self.counters.unexpected(why);
            match self.table.deliver(std::iter::once(message), unexpected) {
                0 => Ok(()),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            }
        })
    }

    /// Throws away what is queued. True if nothing is left, errors neither.
    fn is_empty(&self) -> bool {
        for _ in 0..BATCH {
            match recv(self.socket.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return true,
                Err(_) => {}
                Ok(_) => self.counters.unexpected(Unexpected::Late),
            }
        }
        false
    }
}

/// The reader of a socket. When it ends, however it ends, the socket takes no more queries and those that are out fail.
struct Reader(Arc<Io>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.closed.store(true, Relaxed);
        self.0.table.fail_all(&UpstreamError::Lost);
    }
}

/// Sends what is queued on this thread when it is dropped: at the end of a task of its own, or with the runtime.
struct Flush;

impl Flush {
    /// The number of the batch that what is queued now will be sent with; never 0.
    fn batch() -> u64 {
        BATCHES.get()
    }

    /// Sends what is queued on `io` once the tasks that are ready now have run.
    fn soon(io: &Arc<Io>) {
        let first = UNSENT.with_borrow_mut(|unsent| {
            unsent.push(Arc::clone(io));
            unsent.len() == 1
        });
        if first {
            let flush = Self;
            // A task of a runtime with several threads would run on another one, where nothing is queued.
            match Handle::current().runtime_flavor() {
                RuntimeFlavor::CurrentThread => drop(tokio::spawn(async move { drop(flush) })),
                _ => drop(flush),
            }
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let _ = BATCHES.try_with(|batches| batches.set(batches.get() + 1));
        for io in UNSENT.try_with(RefCell::take).unwrap_or_default() {
            io.flush();
        }
    }
}

thread_local! {
    static BATCHES: Cell<u64> = const { Cell::new(1) };
    /// The sockets of this worker that have something to send.
    static UNSENT: RefCell<Vec<Arc<Io>>> = const { RefCell::new(Vec::new()) };
    static SEND_HEADERS: RefCell<MultiHeaders<()>> =
        RefCell::new(MultiHeaders::preallocate(FLUSH, None));
}

/// What the sockets of a worker receive into: one set for each thread, whatever the number of sockets.
struct Buffers {
    headers: MultiHeaders<()>,
    octets: Box<[u8]>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers {
        headers: MultiHeaders::preallocate(BATCH, None),
        octets: vec![0; BATCH * DATAGRAM].into_boxed_slice(),
    });
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::upstream::event::{AttemptId, Event, PendingId, Receiver};
    use crate::wire::{Name, RecordType};

    fn breaks(_: PendingId, _: Event<'_>, _: Instant) {
        panic!("a bug");
    }

    #[tokio::test]
    async fn a_reader_that_panics_leaves_no_query_waiting_and_no_socket_in_use() {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut pool = Pool::new(upstream.local_addr().unwrap());
        let counters = Arc::new(Counters::default());
        let name = Name::from_text("www.example.com").unwrap();
        let question = Question::new(name.as_ref(), RecordType::A, true);
        let mut start = || pool.start(&question, false, SourcePort::Pool, &counters).unwrap();
        let ((socket, broken), (same, waiting)) = (start(), start());
        assert!(Arc::ptr_eq(&socket, &same) && !socket.io.closed.load(Relaxed));
        let now = CoarseInstant::now();
        assert!(pool.sockets.iter().all(|entry| !entry.is_worn(now)));
        let query = PendingId { index: 0, generation: 1 };
        let receiver = Receiver { deliver: breaks, query, attempt: AttemptId(0) };
        socket.table().receive_in_place(broken, receiver);
        // The queries are sent in order. The first one is its own answer, with QR.
        let mut message = [0; 512];
        let (len, from) = upstream.recv_from(&mut message).await.unwrap();
        message[2] |= 0x80;
        upstream.send_to(&message[..len], from).await.unwrap();
        let ended = poll_fn(|context| socket.table().poll(waiting, context));
        let ended = tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
        assert_eq!(ended, Err(UpstreamError::Lost));
        assert!(socket.io.closed.load(Relaxed));
        assert!(pool.sockets.iter().all(|entry| entry.is_worn(now)));
    }
}
