//! What travels with a query through the chain, and what it ends in.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::clock::CoarseInstant;
pub use crate::config::Plugin;
use crate::redact;
use crate::trace::Trace;
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
    /// What answers the names that an answer leads to, such as the target of an ExternalName Service.
    pub blocks: Arc<dyn ServerBlocks>,
    /// EDNS options that go upstream with it, as the data of an OPT record: those of `rewrite edns0`.
    pub options: Option<Arc<[u8]>>,
    /// How many times the query has been sent round the chain on behalf of another; bounded by [`MAX_DEPTH`].
    pub depth: u8,
    /// What is noted of it on its way: it is a dry run then, and changes nothing.
    pub trace: Option<Arc<Trace>>,
}

/// A future that brings an answer.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// All server blocks behind the address that a query came to.
pub trait ServerBlocks: Send + Sync {
    /// Resolves a query by the block that serves its name. `None` if none does.
    fn resolve<'a>(&'a self, request: &'a OwnedRequest) -> Option<Resolving<'a>>;
}

/// An answer may lead to another name so often: the length of CNAME chain that CoreDNS follows too.
pub const MAX_DEPTH: u8 = 7;

impl OwnedRequest {
    /// The query, as it was received.
    pub fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// Copies a request's packet.
    pub fn new<B: ServerBlocks + 'static>(request: &Request<'_>, blocks: Arc<B>) -> Self {
        Self {
            packet: request.query.packet().into(),
            origin: request.origin,
            blocks,
            options: None,
            depth: 0,
            trace: None,
        }
    }

    /// A question of our own on behalf of `self`, one level deeper; `packet` is a query in wire form.
    pub fn inner(&self, packet: Vec<u8>) -> Self {
        Self { depth: self.depth + 1, ..self.with_packet(packet) }
    }

    /// Another packet for the handlers behind the one that has the query: no further way round the chain.
    pub fn with_packet(&self, packet: Vec<u8>) -> Self {
        Self {
            packet: packet.into_boxed_slice(),
            origin: self.origin,
            blocks: Arc::clone(&self.blocks),
            options: self.options.clone(),
            depth: self.depth,
            trace: self.trace.clone(),
        }
    }

    /// The same with RD set: a question of our own, whoever was the occasion for it.
    pub fn recursive(&self) -> Self {
        let mut other = self.clone();
        if let Some(octet) = other.packet.get_mut(2) {
            *octet |= (flags::RD >> 8) as u8;
        }
        // No client waits for it since then.
        other.origin.received = CoarseInstant::now();
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

/// What a query that had to wait ended in. Shared by all who asked the same, so it depends on none of them: times to live
/// are within the cache's bounds from where it came in, AD tells of the data, and the writer of the reply decides what each
/// client gets of the flags.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The answer, question included. With TC it is not the whole answer: see [`Answer::as_failure`].
    pub message: Arc<Message>,
    /// What to record.
    pub outcome: Outcome,
    /// What `errors` writes, where something went wrong.
    pub error: Option<Arc<str>>,
    /// A failure that may be another upstream's success when the question comes again: not to be kept.
    pub is_passing: bool,
}

impl Answer {
    /// An answer of an upstream, which vouches for it by AD: AD stays.
    pub fn new(message: Arc<Message>, outcome: Outcome) -> Self {
        Self { message, outcome, error: None, is_passing: false }
    }

    /// An answer that `write` writes into a reply of its own to `request`. Without AD: what is made here is not signed.
    pub fn written(request: &Request<'_>, write: impl FnOnce(&mut Reply<'_>) -> Outcome) -> Self {
        Self::stored(request, |reply| {
            let outcome = write(reply);
            reply.set_flags(flags::AD, false);
            outcome
        })
    }

    /// An answer of an upstream that was kept, and that `write` copies. AD stays.
    pub fn stored(request: &Request<'_>, write: impl FnOnce(&mut Reply<'_>) -> Outcome) -> Self {
        let mut buf = Vec::with_capacity(512);
        let mut reply = Reply::begin(&mut buf, &request.query, true);
        let outcome = write(&mut reply);
        Self::finished(reply, outcome).into_answer(buf)
    }

    /// The answer with a reply that `edit` has changed, without changing what its data say: flags, sections left out.
    pub fn edited(self, request: &Request<'_>, edit: impl FnOnce(&mut Reply<'_>)) -> Self {
        let mut buf = Vec::with_capacity(self.message.as_bytes().len() + 64);
        let mut reply = Reply::begin(&mut buf, &request.query, true);
        reply.copy(&self.message);
        edit(&mut reply);
        let outcome = Outcome { rcode: reply.rcode(), ..self.outcome };
        let edited = Self::finished(reply, outcome).into_answer(buf);
        let error = edited.error.or(self.error);
        Self { error, is_passing: self.is_passing, ..edited }
    }

    /// The answer that a whole reply is.
    pub fn finished(mut reply: Reply<'_>, outcome: Outcome) -> Finished {
        let overflowed = reply.overflowed();
        if overflowed {
            reply.reset();
            reply.set_flags(flags::TC, true);
        }
        reply.finish(None);
        Finished { outcome, overflowed }
    }

    /// What a truncated answer is worth to those who cannot ask for the whole: a client over TCP, and a handler that makes its
    /// own answer of it. Over TCP a truncated message is no answer (RFC 2181 section 9).
    pub fn as_failure(&self, request: &Request<'_>) -> Self {
        let error = self.error.as_deref().unwrap_or("the upstream's answer is truncated");
        let (plugin, code) = (self.outcome.plugin, ede::NO_REACHABLE_AUTHORITY);
        let answer = Self::failure(request, plugin, Rcode::SERVFAIL, code, error);
        let outcome = answer.outcome.with_cache(self.outcome.cache);
        Self { outcome, is_passing: true, ..answer }
    }

    /// The answer, or the failure that it is if it is truncated.
    pub fn complete(self, request: &Request<'_>) -> Self {
        if self.message.truncated() { self.as_failure(request) } else { self }
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
            reply.extended_error(ede, &redact::for_clients(error));
            Outcome::new(plugin, rcode)
        });
        Self { error: Some(error.into()), ..answer }
    }
}

/// Why an answer is not sent that exists.
pub const OVERFLOW: &str = "the answer does not fit into the 65535 octets of a message";

/// A reply that is finished, on its way to become an [`Answer`] with the octets that it was written to.
pub struct Finished {
    outcome: Outcome,
    overflowed: bool,
}

impl Finished {
    /// The answer, of the octets that the reply was written to. One that did not fit is truncated and empty.
    pub fn into_answer(self, octets: Vec<u8>) -> Answer {
        let answer = Answer::new(Arc::new(Message::from_written(octets)), self.outcome);
        Answer { error: self.overflowed.then(|| OVERFLOW.into()), ..answer }
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
    /// Not authoritative.
    pub const NOT_AUTHORITATIVE: u16 = 20;
    /// No reachable authority.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// Network error.
    pub const NETWORK_ERROR: u16 = 23;
}
