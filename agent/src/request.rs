//! What travels with a query through the chain, and what it ends in.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::clock::CoarseInstant;
pub use crate::config::Plugin;
use crate::server::Dispatch;
use crate::wire::reply::Ttl;
use crate::wire::{Message, Query, Rcode, Reject, Reply, flags};

/// How a query came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A stream.
    Tcp,
}

impl Transport {
    /// As in CoreDNS's metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Where a query came from and who took it.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The client: on a node, the pod itself.
    pub client: SocketAddr,
    /// The address that was asked.
    pub local: SocketAddr,
    /// How it came.
    pub transport: Transport,
    /// Which worker took it: 0 up to the number of workers.
    pub worker: usize,
    /// When the batch that held it was received.
    pub received: CoarseInstant,
}

/// A query on its way, borrowed from the receive buffer.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The question.
    pub query: Query<'a>,
    /// Where it came from.
    pub origin: Origin,
}

/// A query that has to wait: its own copy of the packet, and the way back into the chain for names that it leads to.
#[derive(Clone)]
pub struct OwnedRequest {
    packet: Box<[u8]>,
    /// Where it came from.
    pub origin: Origin,
    /// Who answers the names that an answer leads to (the target of an ExternalName Service).
    pub dispatch: Arc<Dispatch>,
    /// EDNS options that go upstream with it, as the data of an OPT record: those of `rewrite edns0`.
    pub options: Option<Arc<[u8]>>,
    /// How many times the query has been sent round the chain on behalf of another; bounded by [`MAX_DEPTH`].
    pub depth: u8,
}

/// An answer may lead to another name so often: the length of CNAME chain that CoreDNS follows too.
pub const MAX_DEPTH: u8 = 7;

impl OwnedRequest {
    /// Copies a request's packet.
    pub fn new(request: &Request<'_>, dispatch: Arc<Dispatch>) -> Self {
        Self {
            packet: request.query.packet().into(),
            origin: request.origin,
            dispatch,
            options: None,
            depth: 0,
        }
    }

    /// A question of our own on behalf of `self`, one level deeper; `packet` is a query in wire form.
    pub fn inner(&self, packet: Vec<u8>) -> Self {
        Self {
            packet: packet.into_boxed_slice(),
            origin: self.origin,
            dispatch: Arc::clone(&self.dispatch),
            options: self.options.clone(),
            depth: self.depth + 1,
        }
    }

    /// The same with RD set: a question of our own, whoever was the occasion for it.
    pub fn recursive(&self) -> Self {
        let mut other = self.clone();
        if let Some(octet) = other.packet.get_mut(2) {
            *octet |= (flags::RD >> 8) as u8;
        }
        other
    }

    /// The query, read again from the packet (25 ns); an error only if the packet was never a query.
    pub fn view(&self) -> Result<Request<'_>, Reject> {
        Ok(Request { query: Query::parse(&self.packet)?, origin: self.origin })
    }
}

/// What the cache had to do with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheUse {
    /// Not asked.
    Not,
    /// Answered from the positive side (`success`).
    Success,
    /// Answered from the negative side (`denial`).
    Denial,
    /// Asked in vain.
    Miss,
    /// Answered with records that had expired (RFC 8767).
    Stale,
}

/// What a query ended in. Metrics, logs and tests read this, and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The response code.
    pub rcode: Rcode,
    /// Who answered.
    pub plugin: Plugin,
    /// What the cache had to do with it.
    pub cache: CacheUse,
    /// True where the client gets silence (`acl drop`).
    pub silent: bool,
}

impl Outcome {
    /// An answer by `plugin`.
    pub fn new(plugin: Plugin, rcode: Rcode) -> Self {
        Self { rcode, plugin, cache: CacheUse::Not, silent: false }
    }

    /// The same, with what the cache had to do with it.
    pub fn with_cache(self, cache: CacheUse) -> Self {
        Self { cache, ..self }
    }

    /// Silence, by `plugin`.
    pub fn silence(plugin: Plugin) -> Self {
        Self { silent: true, ..Self::new(plugin, Rcode::REFUSED) }
    }
}

/// What a plugin says to a query in the receive loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The reply is written.
    Done(Outcome),
    /// Not mine, or falling through: the reply is as it was.
    Next,
    /// Mine, but I have to wait for somebody: ask again in a task, by `Chain::resolve`. The reply is as it was.
    Wait,
}

/// What a query that had to wait ended in. Shared by all who asked the same.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The answer, question included.
    pub message: Arc<Message>,
    /// What becomes of its times to live when it is sent.
    pub ttl: Ttl,
    /// What to record.
    pub outcome: Outcome,
    /// What `errors` writes, where something went wrong.
    pub error: Option<Arc<str>>,
    /// A failure that may be another upstream's success when the question comes again: not to be kept.
    pub is_passing: bool,
}

impl Answer {
    /// An answer with its message.
    pub fn new(message: Arc<Message>, outcome: Outcome) -> Self {
        Self { message, ttl: Ttl::Keep, outcome, error: None, is_passing: false }
    }

    /// An answer that `write` writes into a reply of its own to `request`.
    pub fn written(request: &Request<'_>, write: impl FnOnce(&mut Reply<'_>) -> Outcome) -> Self {
        let mut buf = Vec::with_capacity(512);
        let mut reply = Reply::begin(&mut buf, &request.query, true);
        let outcome = write(&mut reply);
        reply.finish(None);
        Self::new(Arc::new(Message::from_written(buf)), outcome)
    }

    /// What a packet that was never a query comes to; nobody sends such.
    pub fn unreadable() -> Self {
        let message = Arc::new(Message::from_written(Vec::new()));
        Self::new(message, Outcome::new(Plugin::Server, Rcode::SERVFAIL))
    }

    /// A failure by `plugin`: `rcode`, an extended error for the client (RFC 8914), and a sentence for the log.
    pub fn failure(
        request: &Request<'_>,
        plugin: Plugin,
        rcode: Rcode,
        ede: u16,
        error: &str,
    ) -> Self {
        let answer = Self::written(request, |reply| {
            reply.set_rcode(rcode);
            reply.extended_error(ede, error);
            Outcome::new(plugin, rcode)
        });
        Self { error: Some(error.into()), ..answer }
    }
}

/// Extended error codes that we send (RFC 8914 section 4).
pub mod ede {
    /// Other error.
    pub const OTHER: u16 = 0;
    /// Stale answer.
    pub const STALE_ANSWER: u16 = 3;
    /// Cached error.
    pub const CACHED_ERROR: u16 = 13;
    /// Not ready.
    pub const NOT_READY: u16 = 14;
    /// Blocked.
    pub const BLOCKED: u16 = 15;
    /// Filtered.
    pub const FILTERED: u16 = 17;
    /// Prohibited.
    pub const PROHIBITED: u16 = 18;
    /// Stale NXDOMAIN answer.
    pub const STALE_NXDOMAIN: u16 = 19;
    /// No reachable authority.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// Network error.
    pub const NETWORK_ERROR: u16 = 23;
}
