//! The cache in a chain with an upstream that says what it is told, and a clock that stands still until it is moved.

mod flights;
mod flood;
mod keeping;
mod properties;
mod stale;

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::chain::Chain;
use crate::request::{Origin, Transport};
use crate::server::Dispatch;
use crate::wire::query::write_query;
use crate::wire::{Layout, Message, Name, Owner, Section};

thread_local! {
    static NOW: Cell<CoarseInstant> = const { Cell::new(CoarseInstant::from_millis(1_000_000)) };
}

fn now() -> CoarseInstant {
    NOW.get()
}

fn advance(millis: u64) {
    NOW.set(now().plus_millis(millis));
}

/// One record of the upstream's answer: section, owner, type, time to live, data.
type Record = (Section, &'static str, RecordType, u32, Vec<u8>);

/// What the upstream says.
#[derive(Clone, Default)]
struct Says {
    rcode: Option<Rcode>,
    records: Vec<Record>,
    flags: u16,
    /// Answers this question instead of the one asked.
    instead: Option<&'static str>,
    /// Waits for this before it answers.
    gate: Option<Arc<tokio::sync::Semaphore>>,
}

#[derive(Default)]
struct Upstream {
    says: Mutex<Says>,
    asked: AtomicUsize,
    /// Of them with RD.
    recursive: AtomicUsize,
}

impl Handler for Upstream {
    fn plugin(&self) -> Plugin {
        Plugin::Forward
    }

    fn serve(&self, _: &Request<'_>, _: &mut Reply<'_>, _: &mut Local) -> Step {
        Step::Wait
    }

    fn resolve<'a>(&'a self, request: &'a OwnedRequest, _: Next<'a>) -> Resolving<'a> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let says = self.says.lock().unwrap().clone();
            if let Some(gate) = &says.gate {
                gate.acquire().await.unwrap().forget();
            }
            let view = request.view().unwrap();
            let recursive = usize::from(view.query.recursion_desired());
            self.recursive.fetch_add(recursive, Ordering::SeqCst);
            let rcode = says.rcode.unwrap_or(Rcode::NOERROR);
            let write = |reply: &mut Reply<'_>| {
                reply.set_rcode(rcode);
                reply.set_flags(flags::RA | says.flags, true);
                for (section, owner, rtype, ttl, rdata) in &says.records {
                    let name = Name::from_text(owner).unwrap();
                    let owner = match name.as_ref() == view.query.name() {
                        true => Owner::Question,
                        false => Owner::Name(name.as_ref()),
                    };
                    reply.record(*section, owner, *rtype, *ttl, rdata);
                }
                Outcome::new(Plugin::Forward, rcode)
            };
            match says.instead {
                None => Answer::stored(&view, write),
                Some(name) => {
                    let packet = query(name, view.query.qtype(), 0);
                    let other =
                        Request { query: Query::parse(&packet).unwrap(), origin: view.origin };
                    Answer::stored(&other, write)
                }
            }
        })
    }
}

struct Rig {
    upstream: Arc<Upstream>,
    cache: Cache,
    dispatch: Arc<Dispatch>,
    local: Local,
}

/// What a client got.
struct Got {
    bytes: Vec<u8>,
    layout: Layout,
    outcome: Outcome,
    waited: bool,
}

impl Got {
    fn ttls(&self) -> Vec<u32> {
        self.layout.records.iter().map(|record| record.ttl).collect()
    }

    /// The last octet of each record's data.
    fn lasts(&self) -> Vec<u8> {
        self.layout
            .records
            .iter()
            .map(|record| *record.rdata(&self.bytes).last().unwrap())
            .collect()
    }

    /// The codes of the extended errors.
    fn extended_errors(&self) -> Vec<u16> {
        let Some(edns) = self.layout.edns else { return Vec::new() };
        let mut options = &self.bytes[usize::from(edns.options)..usize::from(edns.end)];
        let mut codes = Vec::new();
        while let [code_high, code_low, len_high, len_low, rest @ ..] = options {
            assert_eq!((*code_high, *code_low), (0, 15));
            let len = usize::from(u16::from_be_bytes([*len_high, *len_low]));
            codes.push(u16::from_be_bytes([rest[0], rest[1]]));
            options = &rest[len..];
        }
        codes
    }
}

impl Rig {
    fn new(options: &str) -> Self {
        Self::with_store(options, Arc::new(Store::new(4 << 20)), false)
    }

    fn with_store(options: &str, store: Arc<Store>, rotates: bool) -> Self {
        let text = format!(". {{\n cache {options}\n}}");
        let (file, mut diagnostics) = crate::corefile::parse("Corefile", &text, &|_| None);
        let config =
            Config::parse(&file.blocks[0].directives[0], &[Name::root()], &mut diagnostics);
        assert!(diagnostics.is_empty(), "{diagnostics}");
        let cache = Cache::new(config, store, 7, rotates).with_clock(now);
        let upstream = Arc::new(Upstream::default());
        let handlers: Vec<Arc<dyn Handler>> = vec![Arc::new(cache.clone()), upstream.clone()];
        let chain = Arc::new(Chain::new(Name::root(), "dns://:53".into(), handlers, 1));
        let dispatch = Arc::new(Dispatch::new(vec![chain]));
        Self { upstream, cache, dispatch, local: Local::new(0) }
    }

    fn says(&self, says: Says) {
        *self.upstream.says.lock().unwrap() = says;
    }

    fn asked(&self) -> usize {
        self.upstream.asked.load(Ordering::SeqCst)
    }

    async fn ask(&mut self, name: &str) -> Got {
        self.ask_packet(&query(name, RecordType::A, flags::RD)).await
    }

    async fn ask_packet(&mut self, packet: &[u8]) -> Got {
        let request = Request { query: Query::parse(packet).unwrap(), origin: origin() };
        let chain = Arc::clone(&self.dispatch.chains()[0]);
        let mut bytes = Vec::new();
        let mut reply = Reply::begin(&mut bytes, &request.query, false);
        let served = chain.serve(&request, &mut reply, &mut self.local);
        let (outcome, waited) = match served {
            Ok(outcome) => {
                reply.finish(None);
                (outcome, false)
            }
            Err(number) => {
                bytes.clear();
                let owned = OwnedRequest::new(&request, Arc::clone(&self.dispatch));
                let answer = chain.resume(&owned, number).await;
                let mut reply = Reply::begin(&mut bytes, &request.query, false);
                reply.copy(&answer.message);
                reply.finish(None);
                (answer.outcome, true)
            }
        };
        Got { layout: Layout::parse(&bytes).unwrap(), bytes, outcome, waited }
    }
}

fn origin() -> Origin {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 5300));
    Origin {
        client: address,
        local: address,
        transport: Transport::Udp,
        worker: 0,
        received: now(),
    }
}

fn query(name: &str, qtype: RecordType, word: u16) -> Vec<u8> {
    query_with(name, qtype, word, Some((1232, false)))
}

fn query_with(name: &str, qtype: RecordType, word: u16, edns: Option<(u16, bool)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let name = Name::from_text(name).unwrap();
    write_query(&mut bytes, 99, word, name.as_ref(), qtype, Class::IN, edns);
    bytes
}

fn a(owner: &'static str, ttl: u32, last: u8) -> Record {
    (Section::Answer, owner, RecordType::A, ttl, vec![192, 0, 2, last])
}

fn cname(owner: &'static str, ttl: u32, to: &str) -> Record {
    (
        Section::Answer,
        owner,
        RecordType::CNAME,
        ttl,
        Name::from_text(to).unwrap().as_bytes().to_vec(),
    )
}

fn soa(ttl: u32, minimum: u32) -> Record {
    let mut rdata = b"\x02ns\0\x04mail\0".to_vec();
    for number in [1, 2, 3, 4, minimum] {
        rdata.extend_from_slice(&u32::to_be_bytes(number));
    }
    (Section::Authority, "example.org", RecordType::SOA, ttl, rdata)
}

fn answers(records: Vec<Record>) -> Says {
    Says { records, ..Says::default() }
}

fn denies(rcode: Rcode, records: Vec<Record>) -> Says {
    Says { rcode: Some(rcode), records, ..Says::default() }
}

fn fails() -> Says {
    denies(Rcode::SERVFAIL, Vec::new())
}

/// Lets the tasks that were begun run until nothing moves.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
