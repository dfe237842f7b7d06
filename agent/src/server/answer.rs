//! One packet to one reply: at once, or later. Knows no sockets, so that tests and fuzzers can drive it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::chain::{Chain, Local, Miss};
use crate::in_hand;
use crate::request::{
    Answer, OVERFLOW, Origin, Outcome, OwnedRequest, Plugin, Request, Transport, ede,
};
use crate::server::Dispatch;
use crate::server::search;
use crate::wire::query::write_rejection;
use crate::wire::{Class, Owner, Query, Rcode, RecordType, Reject, Reply, Section, flags};

/// The opcode of the questions of `server::liveness` (RFC 1035 section 4.1.1).
const STATUS: u8 = 2;

/// What becomes of a packet.
#[allow(
    clippy::large_enum_variant,
    reason = "it is matched by the caller at once, and never stored"
)]
pub enum Disposition<'p> {
    /// The reply stands at the end of the buffer.
    Reply,
    /// Nothing is sent.
    Drop,
    /// The query waits. Beside it the request once more, as it was read from the packet.
    Pending(PendingReply, Request<'p>),
}

/// The reply that is owed to a query that waits.
pub struct PendingReply {
    request: OwnedRequest,
    chain: Arc<Chain>,
    /// The handler that has returned `Wait`.
    number: usize,
    /// When the query was received, as far as its latency is measured.
    begun: Option<Instant>,
    /// It is counted: as answered, or as dropped.
    is_counted: AtomicBool,
}

/// Answers one packet into the end of `out`, or returns what else becomes of it. Allocates only for
/// [`Disposition::Pending`].
pub fn answer<'p>(
    packet: &'p [u8],
    origin: Origin,
    dispatch: &Arc<Dispatch>,
    local: &mut Local,
    out: &mut Vec<u8>,
) -> Disposition<'p> {
    local.tally.receive(origin.transport);
    let disposition = judge(packet, origin, dispatch, local, out);
    local.tally.close();
    disposition
}

/// As [`answer`], for a message that is received and not counted in any other way. Each way out of here counts it once.
fn judge<'p>(
    packet: &'p [u8],
    origin: Origin,
    dispatch: &Arc<Dispatch>,
    local: &mut Local,
    out: &mut Vec<u8>,
) -> Disposition<'p> {
    let _in_hand = in_hand::begin(packet);
    let query = match Query::parse(packet) {
        Ok(query) => query,
        Err(Reject::Silent) => {
            local.tally.malformed.add(1);
            return Disposition::Drop;
        }
        Err(Reject::Answer(rcode)) => {
            write_rejection(out, packet, rcode);
            // Our own come from the address that they go to; with this opcode a client asks nothing, or floods.
            let client = origin.client.ip().to_canonical();
            let is_own = client.is_loopback() || client == origin.local.ip().to_canonical();
            let is_probe = is_own && packet.get(2).is_some_and(|octet| (octet >> 3) & 15 == STATUS);
            if is_probe { &local.tally.probes } else { &local.tally.rejected }.add(1);
            return Disposition::Reply;
        }
    };
    let request = Request { query, origin };
    if local.refused.as_ref().is_some_and(|refused| {
        refused.contains(request.query.name(), request.query.qtype(), origin.received)
    }) {
        refuse(&request, dispatch, (ede::OTHER, "this question has ended the server before"), out);
        return Disposition::Reply;
    }
    let Some(chain) = dispatch.find(&request) else {
        let why = match dispatch.has_zone_of(request.query.name()) {
            true => (ede::PROHIBITED, "this query fits no view of its zone"),
            false => (ede::NOT_AUTHORITATIVE, "no zone of this server has this name"),
        };
        refuse(&request, dispatch, why, out);
        return Disposition::Reply;
    };
    let start = out.len();
    let mut reply = Reply::begin(out, &request.query, origin.transport == Transport::Tcp);
    if let Some(limit) = chain.max_udp {
        reply.lower_limit(limit);
    }
    let served = match by_the_server(chain, &request, &mut reply) {
        Some(outcome) => Ok(outcome),
        None => {
            let served = chain.serve(&request, &mut reply, local);
            match &chain.autopath {
                None => served,
                Some(autopath) => {
                    let by = (&**chain, &**autopath);
                    search::in_place(by, dispatch, &request, served, &mut reply, local)
                }
            }
        }
    };
    match served {
        Ok(outcome) => {
            let outcome = if reply.overflowed() {
                overflow(chain, &request, outcome, &mut reply)
            } else {
                outcome
            };
            let len = reply.finish(chain.nsid.as_deref());
            finished(chain, &request, &outcome, out.get(start..start + len).unwrap_or(&[]), 0);
            if outcome.silent {
                out.truncate(start);
                return Disposition::Drop;
            }
            Disposition::Reply
        }
        Err(number) => {
            out.truncate(start);
            let owned = OwnedRequest::new(&request, Arc::clone(dispatch));
            let chain = Arc::clone(chain);
            let is_counted = AtomicBool::new(false);
            let pending = PendingReply { request: owned, chain, number, begun: None, is_counted };
            Disposition::Pending(pending, request)
        }
    }
}

impl PendingReply {
    /// The same, begun at this moment.
    pub fn since(mut self, begun: Instant) -> Self {
        self.begun = Some(begun);
        self
    }

    /// Gives it up for want of a place, which is counted there.
    pub fn refuse(self) {
        self.is_counted.store(true, Relaxed);
    }

    /// Awaits the answer.
    pub async fn resolve(&self) -> Answer {
        match self.number {
            search::SEARCH => search::in_task(&self.chain, &self.request).await,
            number => self.chain.resume(&self.request, number).await,
        }
    }

    /// The parts of the miss, if it can be resolved in place. `request` is the view of [`PendingReply::request`].
    pub fn join_miss(&self, request: &Request<'_>) -> Option<Miss> {
        self.chain.join_miss(self.number, request)
    }

    /// Writes the reply to [`PendingReply::request`], of which `request` is the view, with an answer that came at `now` at the
    /// end of `out`. False: nothing is to be sent.
    pub fn write(
        &self,
        request: &Request<'_>,
        answer: &Answer,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        let over_tcp = request.origin.transport == Transport::Tcp;
        if over_tcp && answer.message.truncated() {
            return self.write(request, &answer.as_failure(request), now, out);
        }
        let start = out.len();
        let mut reply = Reply::begin(out, &request.query, over_tcp);
        if let Some(limit) = self.chain.max_udp {
            reply.lower_limit(limit);
        }
        reply.copy(&answer.message);
        // The answer may be one that others wait for too, who asked to be told.
        if !request.query.understands_ad() {
            reply.set_flags(flags::AD, false);
        }
        if let Some(available) = self.chain.recursion_available() {
            reply.set_flags(flags::RA, available);
        }
        self.chain.amend(0, self.number, request, &mut reply);
        if reply.overflowed() {
            out.truncate(start);
            let (plugin, code) = (answer.outcome.plugin, ede::OTHER);
            let failure = Answer::failure(request, plugin, Rcode::SERVFAIL, code, OVERFLOW);
            return self.write(request, &failure, now, out);
        }
        let len = reply.finish(self.chain.nsid.as_deref());
        let took = self.begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        let micros = took.as_micros() as u64;
        // A truncated answer makes the client come again over TCP: that is no failure yet.
        if let (Some(errors), Some(error)) = (&self.chain.errors, &answer.error)
            && !answer.message.truncated()
        {
            errors.write(request, &answer.outcome, error);
        }
        let written = out.get(start..start + len).unwrap_or(&[]);
        finished(&self.chain, request, &answer.outcome, written, micros);
        self.is_counted.store(true, Relaxed);
        if answer.outcome.silent {
            out.truncate(start);
        }
        !answer.outcome.silent
    }

    /// The query.
    pub fn request(&self) -> &OwnedRequest {
        &self.request
    }

    /// The client's address and the rest of where the query came from.
    pub fn origin(&self) -> &Origin {
        &self.request.origin
    }
}

/// A query that waited gets no reply: its client or the server is about to go, or there was a bug.
impl Drop for PendingReply {
    fn drop(&mut self) {
        if self.is_counted.load(Relaxed) {
            return;
        }
        if let Some(cells) = self.chain.cells.get(self.request.origin.worker) {
            let [gone, panicked] = &cells.lost;
            if std::thread::panicking() { panicked.add(1) } else { gone.add(1) }
        }
    }
}

fn finished(chain: &Chain, request: &Request<'_>, outcome: &Outcome, reply: &[u8], micros: u64) {
    if let Some(taps) = &chain.taps {
        taps.record(request, outcome, reply.len(), micros);
    }
    for tap in &chain.dnstap {
        tap.write(request, outcome, reply, micros);
    }
    // A bug in the log is one in the answer: it is counted once.
    if let Some(log) = &chain.log
        && log.wants(request, outcome)
    {
        log.write(request, outcome, reply, micros);
    }
    if let Some(cells) = chain.cells.get(request.origin.worker) {
        cells.record(request, outcome, reply.len(), micros);
    }
}

/// What the server answers itself, whatever the handlers: unknown EDNS versions (RFC 6891 section 6.1.3), and class CHAOS,
/// where only its identity is known (RFC 4892).
fn by_the_server(chain: &Chain, request: &Request<'_>, reply: &mut Reply<'_>) -> Option<Outcome> {
    let query = &request.query;
    if query.edns().is_some_and(|edns| edns.version != 0) {
        reply.set_rcode(Rcode::BADVERS);
        return Some(Outcome::new(Plugin::Server, Rcode::BADVERS));
    }
    if query.qclass() == Class::CHAOS {
        return Some(chaos(chain, request, reply));
    }
    None
}

fn chaos(chain: &Chain, request: &Request<'_>, reply: &mut Reply<'_>) -> Outcome {
    let identity = &chain.identity;
    let query = &request.query;
    let wanted = matches!(query.qtype(), RecordType::TXT | RecordType::ANY);
    let texts: &[Box<str>] = match query.name().as_bytes() {
        b"\x07version\x04bind\0" | b"\x07version\x06server\0" if wanted => {
            std::slice::from_ref(&identity.version)
        }
        b"\x08hostname\x04bind\0" | b"\x02id\x06server\0" if wanted => {
            std::slice::from_ref(&identity.hostname)
        }
        b"\x07authors\x04bind\0" if wanted => &identity.authors,
        _ => &[],
    };
    for text in texts {
        let text = text.as_bytes().get(..text.len().min(255)).unwrap_or(&[]);
        let mut rdata = [0u8; 256];
        rdata[0] = text.len() as u8;
        rdata.iter_mut().skip(1).zip(text).for_each(|(to, from)| *to = *from);
        let rdata = rdata.get(..=text.len()).unwrap_or(&[]);
        reply.record_of(Section::Answer, Owner::Question, RecordType::TXT, Class::CHAOS, 0, rdata);
    }
    if texts.is_empty() {
        reply.set_rcode(Rcode::REFUSED);
    }
    Outcome::new(Plugin::Chaos, reply.rcode())
}

/// SERVFAIL in place of an answer that TCP cannot carry.
fn overflow(
    chain: &Chain,
    request: &Request<'_>,
    outcome: Outcome,
    reply: &mut Reply<'_>,
) -> Outcome {
    reply.reset();
    reply.set_rcode(Rcode::SERVFAIL);
    reply.extended_error(ede::OTHER, OVERFLOW);
    let outcome = Outcome { rcode: Rcode::SERVFAIL, ..outcome };
    if let Some(errors) = &chain.errors {
        errors.write(request, &outcome, OVERFLOW);
    }
    outcome
}

/// REFUSED to what no server block is to answer, with the reason as an extended error (RFC 8914); BADVERS to an unknown
/// version of EDNS (RFC 6891 section 6.1.3).
fn refuse(request: &Request<'_>, dispatch: &Dispatch, why: (u16, &str), out: &mut Vec<u8>) {
    let start = out.len();
    let mut reply = Reply::begin(out, &request.query, request.origin.transport == Transport::Tcp);
    match request.query.edns() {
        Some(edns) if edns.version != 0 => reply.set_rcode(Rcode::BADVERS),
        Some(_) => {
            reply.set_rcode(Rcode::REFUSED);
            reply.extended_error(why.0, why.1);
        }
        None => reply.set_rcode(Rcode::REFUSED),
    }
    let outcome = Outcome::new(Plugin::Server, reply.rcode());
    let len = reply.finish(None);
    let written = out.get(start..start + len).unwrap_or(&[]);
    finished(dispatch.outside(), request, &outcome, written, 0);
}
