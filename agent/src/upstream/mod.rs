//! Talking out: one query to one upstream, over whatever it speaks.
//!
//! ```text
//! plugin::forward   which upstream, when the next one, when enough
//!  -> Upstream      the sockets and connections of this worker, health, round trips, counters
//!      -> udp       a pool of connected sockets with random ports      -> TC: over a stream again
//!      -> stream    pipelined connections: TCP, TLS (own framing), HTTPS and QUIC (hickory's transports)
//!          -> dial  how one is set up
//!      -> table     the queries in flight: checks id, question and letter case
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`address`] | `tls://9.9.9.9%dns.quad9.net:853` as a type |
//! | [`resolv_conf`] | the servers of a resolv.conf |
//! | [`follow`] | the file that is followed when it changes, 127.0.0.53 seen through |
//! | [`own`] | addresses that are ours, and therefore nobody's upstream |
//! | [`question`] | what is asked, and whether an answer is one to it |
//! | [`health`], [`rtt`] | what the traffic says of an upstream |
//! | [`registry`] | what of that outlives a reload |
//! | [`error`], [`event`] | what a query ends in, and who hears of it |
//! | [`fresh`] | a port of its own for each query |
//! | [`random`] | ids that nobody can guess |
//!
//! Sockets, connections and counters are per worker: only its thread uses them, so that no lock is ever waited for. Health
//! and round trips are shared, as atomics.

pub mod address;
pub mod counters;
pub mod dial;
pub mod error;
pub mod event;
pub mod exchange;
pub mod follow;
pub mod fresh;
pub mod health;
pub mod names;
pub mod own;
pub mod question;
pub mod random;
pub mod registry;
pub mod resolv_conf;
pub mod rtt;
pub mod session;
pub mod stream;
pub mod table;
pub mod tls;
pub mod udp;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

pub use address::{Scheme, Target};
pub use error::{Received, UpstreamError};
pub use own::OwnAddresses;
pub use question::Question;
pub use udp::SourcePort;

use counters::Counters;
use dial::Dialer;
use event::{AttemptId, Receiver};
use health::Health;
use rtt::RoundTrips;
use stream::{Connection, Lifetime};
use table::SlotId;

/// How all upstreams of a forward are spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportConfig {
    /// `force_tcp`: plain upstreams over TCP only.
    pub force_tcp: bool,
    /// `source_port`.
    pub source_port: SourcePort,
    /// `case_randomization`.
    pub random_case: bool,
    /// `expire`.
    pub expire: Duration,
    /// `max_age`.
    pub max_age: Option<Duration>,
    /// `max_idle_conns`: connections of one upstream and worker; 0: the built-in bound.
    pub max_connections: usize,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            force_tcp: false,
            source_port: SourcePort::Pool,
            random_case: false,
            // CoreDNS's default.
            expire: Duration::from_secs(10),
            max_age: None,
            max_connections: 0,
        }
    }
}

/// What a query is sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A connection, of the kind that the upstream's scheme says.
    Stream,
}

/// One upstream with all that is known of it.
pub struct Upstream {
    target: Target,
    label: Arc<str>,
    dialer: Arc<Dialer>,
    transport: TransportConfig,
    per_worker: Box<[PerWorker]>,
    /// What its answers say of it.
    pub health: Health,
    /// How long it takes.
    pub round_trips: RoundTrips,
    /// `coredns_proxy_healthcheck_failures_total`.
    pub probe_failures: AtomicU64,
}

/// What one worker has of an upstream.
struct PerWorker {
    /// Only the worker's thread takes the lock.
    pools: Mutex<(udp::Pool, stream::Pool)>,
    counters: Arc<Counters>,
}

/// One query to send to one upstream.
#[derive(Debug)]
pub struct Send {
    /// The try that it is.
    pub attempt: AttemptId,
    /// To whom.
    pub upstream: Arc<Upstream>,
    /// Over what.
    pub transport: Transport,
}

/// A query that is out. Dropping it gives the query up.
pub struct InFlight {
    connection: Carrier,
    slot: SlotId,
}

enum Carrier {
    Udp(Arc<udp::Socket>),
    Stream(Arc<Connection>),
}

impl Upstream {
    /// An upstream for so many workers; opens nothing yet.
    pub fn new(
        target: Target,
        transport: TransportConfig,
        tls: Option<&Arc<rustls::ClientConfig>>,
        workers: usize,
    ) -> Result<Self, UpstreamError> {
        let per_worker = || PerWorker {
            pools: Mutex::new((udp::Pool::new(target.address), stream::Pool::default())),
            counters: Arc::new(Counters::default()),
        };
        Ok(Self {
            label: target.to_string().into(),
            dialer: Arc::new(Dialer::new(&target, tls)?),
            transport,
            per_worker: (0..workers.max(1)).map(|_| per_worker()).collect(),
            health: Health::default(),
            round_trips: RoundTrips::default(),
            probe_failures: AtomicU64::new(0),
            target,
        })
    }

    /// Where it is and how it is spoken to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The `to` label of metrics, and its name in logs.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// What it is asked over first.
    pub fn first_transport(&self) -> Transport {
        if self.target.scheme == Scheme::Plain && !self.transport.force_tcp {
            Transport::Udp
        } else {
            Transport::Stream
        }
    }

    /// Sends a query on behalf of `worker`, whose runtime has to be the current one. What is returned waits for the answer.
    pub fn ask(
        &self,
        worker: usize,
        question: &Question,
        transport: Transport,
    ) -> Result<InFlight, UpstreamError> {
        let PerWorker { pools, counters } = self.per_worker(worker);
        let mut pools = pools.lock().unwrap_or_else(PoisonError::into_inner);
        match transport {
            Transport::Udp => {
                let TransportConfig { random_case, source_port, .. } = self.transport;
                let (socket, slot) = pools.0.start(question, random_case, source_port, counters)?;
                Ok(InFlight { connection: Carrier::Udp(socket), slot })
            }
            Transport::Stream => {
                let limit = self.transport.max_connections;
                let (connection, slot) =
                    pools.1.start(&self.dialer, question, self.lifetime(), limit, counters)?;
                Ok(InFlight { connection: Carrier::Stream(connection), slot })
            }
        }
    }

    /// Sends a query over a socket or connection of its own, as probes do: they run in another runtime than the workers.
    pub fn ask_standalone(&self, question: &Question) -> Result<InFlight, UpstreamError> {
        let counters = Arc::new(Counters::default());
        match self.first_transport() {
            Transport::Udp => {
                let mut pool = udp::Pool::new(self.target.address);
                let (socket, slot) = pool.start(question, false, SourcePort::Fresh, &counters)?;
                Ok(InFlight { connection: Carrier::Udp(socket), slot })
            }
            Transport::Stream => {
                let connection = Connection::open(&self.dialer, self.lifetime(), &counters);
                let slot = connection.start(question)?;
                Ok(InFlight { connection: Carrier::Stream(connection), slot })
            }
        }
    }

    /// One worker's counters.
    pub fn counters(&self, worker: usize) -> &Counters {
        &self.per_worker(worker).counters
    }

    /// All workers' counters.
    pub fn all_counters(&self) -> impl Iterator<Item = &Counters> {
        self.per_worker.iter().map(|per_worker| &*per_worker.counters)
    }

    /// Counts a probe that failed.
    pub fn probe_failed(&self) {
        self.probe_failures.fetch_add(1, Relaxed);
    }

    fn lifetime(&self) -> Lifetime {
        Lifetime {
            idle: self.transport.expire,
            age: self.transport.max_age,
            connect: rtt::MAX_TRY,
            // Somewhat less, for the clock is coarse and the estimate moves.
            silence: self.round_trips.try_timeout() * 3 / 4,
        }
    }

    #[expect(clippy::indexing_slicing, reason = "there is at least one worker, by construction")]
    fn per_worker(&self, worker: usize) -> &PerWorker {
        &self.per_worker[worker % self.per_worker.len()]
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.label)
    }
}

impl InFlight {
    /// Has the end of the query delivered in place. To be called right after it was sent, and not if it is polled.
    pub fn receive_in_place(&self, receiver: Receiver) {
        self.table().receive_in_place(self.slot, receiver);
    }

    /// What has become of the query.
    pub fn poll_answer(&self, context: &mut Context<'_>) -> Poll<Result<Received, UpstreamError>> {
        self.table().poll(self.slot, context)
    }

    fn table(&self) -> &table::Table {
        match &self.connection {
            Carrier::Udp(socket) => socket.table(),
            Carrier::Stream(connection) => connection.table(),
        }
    }
}

impl Future for InFlight {
    type Output = Result<Received, UpstreamError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_answer(context)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let is_answered = self.table().release(self.slot);
        if is_answered && let Carrier::Udp(socket) = &self.connection {
            socket.recycle();
        }
    }
}
