//! Datagrams to one upstream: a few connected sockets for each worker, each with a port of its own that the kernel draws.
//!
//! A connected socket hears its upstream only, learns at once that nobody listens there (ICMP), and spares the kernel the
//! look-up of the route. The sockets of the pool are renewed all the time, so that an attacker who has found out a port
//! has little time to use it; with [`SourcePort::Fresh`] each query has a socket of its own.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, send};
use smallvec::SmallVec;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

use crate::clock::Tick;
use crate::upstream::UpstreamError;
use crate::upstream::counters::Counters;
use crate::upstream::question::Question;
use crate::upstream::random;
use crate::upstream::table::{Place, Table};

/// Sockets of one upstream and worker. Three bits more to guess, and still few enough that answers arrive in batches.
pub const POOL: usize = 8;
/// A socket is renewed after so many queries...
const MAX_QUERIES: u32 = 2_000;
/// ... or after so many milliseconds, give or take a half.
const MAX_AGE_MS: u64 = 20_000;
/// Datagrams taken in one system call.
const BATCH: usize = 16;
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
    /// A new random port for every query, at about twice the cost.
    Fresh,
}

/// The sockets of one upstream and worker.
pub struct Pool {
    to: SocketAddr,
    sockets: SmallVec<[Entry; POOL]>,
}

struct Entry {
    socket: Arc<Socket>,
    queries: u32,
    until: Tick,
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
    // Nobody reads any more.
    closed: AtomicBool,
}

impl Pool {
    /// A pool without sockets yet.
    pub fn new(to: SocketAddr) -> Self {
        Self { to, sockets: SmallVec::new() }
    }

    /// Sends a query from one of the pool's ports, drawn at random.
    pub fn start(
        &mut self,
        question: &Question,
        random_case: bool,
        ports: SourcePort,
        counters: &Arc<Counters>,
    ) -> Result<(Arc<Socket>, Place), UpstreamError> {
        if ports == SourcePort::Fresh {
            let socket = Socket::open(self.to, counters)?;
            counters.udp_misses.add(1);
            return socket.start(question, random_case).map(|place| (socket, place));
        }
        let now = Tick::now();
        let index = random::below(POOL);
        let worn = self.sockets.get(index).is_none_or(|entry| entry.is_worn(now));
        if worn {
            // Ages differ, so that the ports of a pool do not change all at once.
            let age = MAX_AGE_MS / 2 + random::below(MAX_AGE_MS as usize) as u64;
            let entry = Entry {
                socket: Socket::open(self.to, counters)?,
                queries: 0,
                until: now.plus_millis(age),
            };
            counters.udp_misses.add(1);
            match self.sockets.get_mut(index) {
                Some(old) => *old = entry,
                None => self.sockets.push(entry),
            }
        } else {
            counters.udp_hits.add(1);
        }
        let last = self.sockets.len().saturating_sub(1);
        let Some(entry) = self.sockets.get_mut(index.min(last)) else {
            return Err(UpstreamError::Lost);
        };
        entry.queries += 1;
        let socket = Arc::clone(&entry.socket);
        match socket.start(question, random_case) {
            Ok(place) => Ok((socket, place)),
            Err(error) => {
                // Its route or its source address may be gone: the next query opens another.
                entry.queries = MAX_QUERIES;
                Err(error)
            }
        }
    }

    /// Sockets that are open.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// True before the first query.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

impl Entry {
    fn is_worn(&self, now: Tick) -> bool {
        self.queries >= MAX_QUERIES || self.until <= now || self.socket.io.closed.load(Relaxed)
    }
}

impl Socket {
    /// Opens a socket on a port that the kernel draws from its ephemeral range, which keeps clear of the ports that the
    /// node has given to others. Has to be called within the worker's runtime.
    fn open(to: SocketAddr, counters: &Arc<Counters>) -> Result<Arc<Self>, UpstreamError> {
        let socket = connect(to).map_err(|error| UpstreamError::io("opening a socket", &error))?;
        let io = Arc::new(Io {
            socket,
            table: Table::new(),
            counters: Arc::clone(counters),
            closed: AtomicBool::new(false),
        });
        let reader = tokio::spawn(Io::read(Arc::clone(&io))).abort_handle();
        Ok(Arc::new(Self { io, reader }))
    }

    fn start(&self, question: &Question, random_case: bool) -> Result<Place, UpstreamError> {
        let started = self.io.table.start(question, random_case, |message| {
            // Straight to the kernel: tokio would have to be told first that a new socket can be written to.
            match send(self.io.socket.as_raw_fd(), message, MsgFlags::MSG_DONTWAIT) {
                // A full send buffer is a datagram lost on the way: the time-out deals with it.
                Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(()),
                Err(error) => Err(io::Error::from(error)),
            }
        });
        match started {
            Some(Ok(place)) => Ok(place),
            Some(Err(error)) => Err(UpstreamError::io("sending", &error)),
            None => Err(UpstreamError::TooMany),
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
    async fn read(self: Arc<Self>) {
        self.receive_all().await;
        // The next query opens another socket; those that are out would never be heard of.
        self.closed.store(true, Relaxed);
        self.table.fail_all(&UpstreamError::Lost);
    }

    /// Receives until the socket is good for nothing.
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

    /// Receives until there is nothing more. False where the socket is good for nothing.
    fn drain(&self, interest: Interest, errors: &mut u32) -> bool {
        loop {
            match self.socket.try_io(interest, || self.receive(errors)) {
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
                .map(|(chunk, &(len, cut_off))| (chunk.get(..len).unwrap_or(chunk), cut_off));
            self.table.deliver(messages, |why| self.counters.unexpected(why));
            *errors = 0;
            if lengths.len() < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        })
    }
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

fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
