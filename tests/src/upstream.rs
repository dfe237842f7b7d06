//! A scripted DNS server on an ephemeral port, UDP and TCP: answers from a zone, or misbehaves as a test wants.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use crate::zone::Zone;
use crate::{normal, poll};

/// What a UDP client without EDNS can take; RFC 1035 4.2.1.
const PLAIN_PAYLOAD: usize = 512;

/// The transport of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// A query that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// The name in lower case, with the final dot; empty for what is no query.
    pub name: String,
    /// The type; `ZERO` for what is no query.
    pub kind: RecordType,
    /// How it came.
    pub transport: Transport,
    /// From where.
    pub from: SocketAddr,
    /// As it came.
    pub bytes: Vec<u8>,
}

/// What to do with a query.
#[derive(Debug, Clone)]
pub enum Act {
    /// Answer from the zone.
    Answer,
    /// Do something later; other queries are not held up.
    Delay(Duration, Box<Act>),
    /// Say nothing; over TCP leave the connection open.
    Drop,
    /// Over TCP close the connection; over UDP the same as [`Act::Drop`].
    Close,
    /// An empty answer with TC over UDP; over TCP the answer.
    Truncate,
    /// The answer with another id.
    WrongId,
    /// The answer to another name.
    WrongQuestion,
    /// Over UDP the answer from another port, which the client must not take.
    WrongPort,
    /// This response code and nothing else.
    Rcode(ResponseCode),
    /// FORMERR if the query has EDNS, without an OPT: a server that knows no EDNS.
    NoEdns,
    /// The answer with the question's case folded, as some servers do.
    FoldCase,
    /// These bytes, in which the first two are replaced by the query's id if they are zero.
    Raw(Vec<u8>),
}

type Hook = Box<dyn Fn(&Seen) -> Act + Send>;

/// A running upstream; stops when dropped.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

struct Shared {
    zone: Mutex<Zone>,
    hook: Mutex<Hook>,
    seen: Mutex<Vec<Seen>>,
    stop: AtomicBool,
    recursion: AtomicBool,
    validation: AtomicBool,
}

impl Upstream {
    /// Starts a server for a zone, on 127.0.0.1.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(zone: Zone) -> Self {
        Self::start_at(zone, "127.0.0.1:0".parse().unwrap_or_else(|_| unreachable!()))
            .unwrap_or_else(|error| panic!("cannot start the test upstream: {error}"))
    }

    /// Starts a server for a master file.
    ///
    /// # Panics
    /// When the file is bad or the server cannot be started.
    #[must_use]
    pub fn with_zone(text: &str) -> Self {
        Self::start(Zone::parse(text).unwrap_or_else(|error| panic!("{error:#}")))
    }

    /// Starts a server at an address; port 0 is any.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start_at(zone: Zone, address: SocketAddr) -> io::Result<Self> {
        let (udp, tcp) = bind_both(address)?;
        let address = udp.local_addr()?;
        let shared = Arc::new(Shared {
            zone: Mutex::new(zone),
            hook: Mutex::new(Box::new(|_| Act::Answer)),
            seen: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
            recursion: AtomicBool::new(false),
            validation: AtomicBool::new(false),
        });
        let (for_udp, for_tcp) = (shared.clone(), shared.clone());
        let threads = vec![
            std::thread::Builder::new()
                .name("upstream-udp".into())
                .spawn(move || serve_udp(&for_udp, udp))?,
            std::thread::Builder::new()
                .name("upstream-tcp".into())
                .spawn(move || serve_tcp(&for_tcp, &tcp))?,
        ];
        Ok(Self { address, shared, threads })
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Decides from now on what happens to each query.
    pub fn on_query(&self, hook: impl Fn(&Seen) -> Act + Send + 'static) {
        *lock(&self.shared.hook) = Box::new(hook);
    }

    /// Does the same with every query from now on.
    pub fn always(&self, act: Act) {
        self.on_query(move |_| act.clone());
    }

    /// Changes the zone.
    pub fn change(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut lock(&self.shared.zone));
    }

    /// Sets RA on answers from now on, as a resolver does.
    pub fn offer_recursion(&self) {
        self.shared.recursion.store(true, Ordering::Relaxed);
    }

    /// Sets AD from now on for who asks with AD or DO, as a validating resolver does.
    pub fn validate(&self) {
        self.shared.validation.store(true, Ordering::Relaxed);
    }

    /// Every query so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// How many queries came in all.
    #[must_use]
    pub fn total(&self) -> usize {
        lock(&self.shared.seen).len()
    }

    /// How many queries came for this name and type, over any transport.
    #[must_use]
    pub fn count(&self, name: &str, kind: RecordType) -> usize {
        let name = name.to_ascii_lowercase();
        lock(&self.shared.seen).iter().filter(|s| s.name == name && s.kind == kind).count()
    }

    /// How many queries came over this transport.
    #[must_use]
    pub fn count_over(&self, transport: Transport) -> usize {
        lock(&self.shared.seen).iter().filter(|s| s.transport == transport).count()
    }

    /// Forgets the queries so far.
    pub fn forget(&self) {
        lock(&self.shared.seen).clear();
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Records a query and asks the hook about it.
    fn arrived(
        &self,
        bytes: &[u8],
        transport: Transport,
        from: SocketAddr,
    ) -> (Option<Message>, Act) {
        let message = Message::from_vec(bytes).ok();
        let query = message.as_ref().and_then(|m| m.queries.first());
        let seen = Seen {
            at: Instant::now(),
            name: query.map(|q| normal::text(&q.name).to_ascii_lowercase()).unwrap_or_default(),
            kind: query.map_or(RecordType::ZERO, |q| q.query_type),
            transport,
            from,
            bytes: bytes.to_vec(),
        };
        let act = lock(&self.hook)(&seen);
        lock(&self.seen).push(seen);
        (message, act)
    }

    /// The bytes that an act sends, if it sends any.
    fn reply(&self, request: &Message, transport: Transport, act: &Act) -> Option<Vec<u8>> {
        let mut response = lock(&self.zone).answer(request);
        response.metadata.recursion_available = self.recursion.load(Ordering::Relaxed);
        let wants_ad = request.metadata.authentic_data
            || request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        response.metadata.authentic_data = wants_ad && self.validation.load(Ordering::Relaxed);
        if let Some(edns) = &request.edns {
            let mut echoed = Edns::new();
            echoed.set_max_payload(1232).set_dnssec_ok(edns.flags().dnssec_ok);
            response.set_edns(echoed);
        }
        match act {
            Act::Drop | Act::Close | Act::Delay(..) => return None,
            Act::Answer | Act::WrongPort => {}
            Act::Truncate => {
                if transport == Transport::Udp {
                    response = response.truncate();
                }
            }
            Act::WrongId => response.metadata.id ^= 0x5555,
            Act::WrongQuestion => {
                let other = Name::from_ascii("wrong.example.").unwrap_or_default();
                for query in &mut response.queries {
                    *query = Query::query(other.clone(), query.query_type);
                }
                for record in &mut response.answers {
                    record.name = other.clone();
                }
            }
            Act::Rcode(code) => {
                response = only(*code, response);
            }
            Act::NoEdns => {
                if request.edns.is_some() {
                    response = only(ResponseCode::FormErr, response);
                    response.edns = None;
                }
            }
            Act::FoldCase => {
                for query in &mut response.queries {
                    query.name = query.name.to_lowercase();
                }
            }
            Act::Raw(bytes) => {
                let mut bytes = bytes.clone();
                if let Some(id) = bytes.get_mut(..2).filter(|id| **id == [0, 0]) {
                    id.copy_from_slice(&request.metadata.id.to_be_bytes());
                }
                return Some(bytes);
            }
        }
        let bytes = response.to_vec().ok()?;
        let limit = request
            .edns
            .as_ref()
            .map_or(PLAIN_PAYLOAD, |e| usize::from(e.max_payload()).max(PLAIN_PAYLOAD));
        if transport == Transport::Udp && bytes.len() > limit {
            return response.truncate().to_vec().ok();
        }
        Some(bytes)
    }
}

fn only(code: ResponseCode, mut response: Message) -> Message {
    response.answers.clear();
    response.authorities.clear();
    response.additionals.clear();
    response.metadata.authoritative = false;
    response.metadata.response_code = code;
    response
}

/// Takes the wait out of an act.
fn unwrap_delay(act: Act) -> (Duration, Act) {
    match act {
        Act::Delay(wait, then) => {
            let (more, act) = unwrap_delay(*then);
            (wait + more, act)
        }
        act => (Duration::ZERO, act),
    }
}

/// Runs at once, or on a thread of its own after the wait.
fn after(wait: Duration, run: impl FnOnce() + Send + 'static) {
    if wait.is_zero() {
        run();
    } else {
        std::thread::spawn(move || {
            poll::pause(wait);
            run();
        });
    }
}

fn serve_udp(shared: &Arc<Shared>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let _ = socket.set_read_timeout(Some(Duration::from_millis(50)));
    let mut buffer = vec![0; 65_535];
    while !shared.stopped() {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let (message, act) = shared.arrived(&buffer[..length], Transport::Udp, from);
        let Some(message) = message else { continue };
        let (wait, act) = unwrap_delay(act);
        let (shared, socket) = (shared.clone(), socket.clone());
        after(wait, move || {
            let Some(bytes) = shared.reply(&message, Transport::Udp, &act) else {
                return;
            };
            if matches!(act, Act::WrongPort) {
                let ip = socket.local_addr().map(|a| a.ip());
                if let Ok(other) = ip.and_then(|ip| UdpSocket::bind((ip, 0))) {
                    let _ = other.send_to(&bytes, from);
                }
            } else {
                let _ = socket.send_to(&bytes, from);
            }
        });
    }
}

fn serve_tcp(shared: &Arc<Shared>, listener: &TcpListener) {
    let _ = listener.set_nonblocking(true);
    while !shared.stopped() {
        match listener.accept() {
            Ok((stream, from)) => {
                let shared = shared.clone();
                std::thread::spawn(move || serve_connection(&shared, &stream, from));
            }
            Err(_) => poll::pause(Duration::from_millis(2)),
        }
    }
}

fn serve_connection(shared: &Arc<Shared>, stream: &TcpStream, from: SocketAddr) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_nodelay(true);
    while let Some(bytes) = read_message(shared, stream) {
        let (message, act) = shared.arrived(&bytes, Transport::Tcp, from);
        let Some(message) = message else { return };
        if matches!(act, Act::Close) {
            return;
        }
        let (wait, act) = unwrap_delay(act);
        let Ok(writer) = stream.try_clone() else {
            return;
        };
        let shared = shared.clone();
        after(wait, move || {
            if let Some(reply) = shared.reply(&message, Transport::Tcp, &act) {
                let mut framed =
                    u16::try_from(reply.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
                framed.extend_from_slice(&reply);
                let _ = (&writer).write_all(&framed);
            }
        });
    }
}

/// Reads one message; `None` at the end of the connection or of the server.
fn read_message(shared: &Shared, stream: &TcpStream) -> Option<Vec<u8>> {
    let length: [u8; 2] = read_exactly(shared, stream, 2)?.try_into().ok()?;
    read_exactly(shared, stream, usize::from(u16::from_be_bytes(length)))
}

fn read_exactly(shared: &Shared, mut stream: &TcpStream, length: usize) -> Option<Vec<u8>> {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
    let (mut buffer, mut have) = (vec![0; length], 0);
    while have < length {
        match stream.read(&mut buffer[have..]) {
            Ok(0) => return None,
            Ok(more) => have += more,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                if shared.stopped() {
                    return None;
                }
            }
            Err(_) => return None,
        }
    }
    Some(buffer)
}

/// Binds UDP and TCP at the same port.
fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut last = io::Error::other("no port");
    for _ in 0..50 {
        let tcp = TcpListener::bind(address)?;
        match UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => return Ok((udp, tcp)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
