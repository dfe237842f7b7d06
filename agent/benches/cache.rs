//! What the cache costs: nanoseconds for a hit in a worker's worker cache, a hit in the store and an answer kept, and bytes
//! for each entry. `cargo bench -p nodens --bench cache`.
//!
//! Keys and answers are those of the memory target: names of 35 octets, answers of about 120.

#![allow(clippy::print_stdout, reason = "figures are what it is for")]

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use nodens::chain::{Handler, Local};
use nodens::clock::CoarseInstant;
use nodens::plugin::cache::entry::{Entry, Key, OVERHEAD};
use nodens::plugin::cache::{Cache, Config, Store, rules, single_flight::Join};
use nodens::request::{Answer, Origin, Outcome, Plugin, Request, Step, Transport};
use nodens::wire::query::write_query;
use nodens::wire::{Class, Name, Owner, Query, Rcode, RecordType, Reply, Section, flags};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ENTRIES: usize = 100_000;
const HOT: usize = 1_000;

fn main() {
    let mut local = Local::new(0);
    let cache =
        Cache::new(Config::new(vec![Name::root()]), Arc::new(Store::new(512 << 20)), 1, false);
    let before = resident();
    let packets: Vec<Vec<u8>> = (0..ENTRIES).map(packet).collect();
    let answers: Vec<Answer> = packets.iter().map(|packet| answer(&request(packet))).collect();
    let length = answers.first().map_or(0, |answer| answer.message.as_bytes().len());
    println!("{length} octets an answer, {ENTRIES} answers");

    let kept = resident();
    let ns = timed(ENTRIES, |number| keep(&cache, &packets[number], &answers[number]));
    cache.store().settle();
    println!("kept              {ns:7.1} ns");
    let grown = resident().saturating_sub(kept) / ENTRIES as u64;
    let data = length as u64 + 2 * 4;
    println!(
        "bytes an entry    {grown:7}    (data {data}, overhead counted {OVERHEAD}, of {before} before)"
    );

    let ns = timed(ENTRIES, |number| {
        let request = request(&packets[number]);
        let question = Key { name: request.query.name(), qtype: RecordType::A, bits: 0 };
        let hash = cache.store().hash(cache.stats(), &question);
        match cache.store().flights().join(hash, 1, &question, true) {
            Join::Leader { guard, .. } => guard.complete(&answers[number]),
            Join::Follower(_) | Join::Overloaded | Join::Collision => {}
        }
    });
    println!("flight            {ns:7.1} ns");

    let ns = timed(ENTRIES, |number| {
        hit(&cache, &packets[number * 7_919 % ENTRIES], &mut Local::new(0))
    });
    println!("hit, new worker cache  {ns:7.1} ns");
    let ns =
        timed(ENTRIES * 4, |number| hit(&cache, &packets[number * 7_919 % ENTRIES], &mut local));
    println!("hit, all names    {ns:7.1} ns");
    timed(ENTRIES, |number| hit(&cache, &packets[number % HOT], &mut local));
    let ns = timed(ENTRIES * 20, |number| hit(&cache, &packets[number % HOT], &mut local));
    println!("hit, worker cache      {ns:7.1} ns");
    let ns = timed(ENTRIES * 20, |number| nothing(&packets[number % HOT]));
    println!("  of it the query {ns:7.1} ns, and the reply without records");
    let others: Vec<Vec<u8>> = (ENTRIES..2 * ENTRIES).map(packet).collect();
    let ns = timed(ENTRIES, |number| hit(&cache, &others[number], &mut local));
    println!("looked for in vain {ns:6.1} ns");
}

fn packet(number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let name = Name::from_text(&format!("name-{number:08}.bench.example.org")).expect("a name");
    let edns = Some((1_232, false));
    write_query(&mut bytes, 1, flags::RD, name.as_ref(), RecordType::A, Class::IN, edns);
    bytes
}

fn request(packet: &[u8]) -> Request<'_> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 5300));
    let received = CoarseInstant::now();
    let origin =
        Origin { client: address, local: address, transport: Transport::Udp, worker: 0, received };
    Request { query: Query::parse(packet).unwrap_or_else(|_| panic!("a query")), origin }
}

fn answer(request: &Request<'_>) -> Answer {
    Answer::written(request, |reply| {
        for last in 1..=4 {
            let address = [192, 0, 2, last];
            reply.record(Section::Answer, Owner::Question, RecordType::A, 3_600, &address);
        }
        Outcome::new(Plugin::Forward, Rcode::NOERROR)
    })
}

/// What happens to an answer that comes from upstream: judged, copied, put in the store.
fn keep(cache: &Cache, packet: &[u8], answer: &Answer) {
    let request = request(packet);
    let key = Key { name: request.query.name(), qtype: RecordType::A, bits: 0 };
    let Ok((kind, lifetime)) = rules::judge(cache.config(), &answer.message, &key) else { return };
    let stats = Arc::clone(cache.stats());
    if let Some(entry) =
        Entry::new(stats, 0, kind, &answer.message, lifetime, request.origin.received)
    {
        cache.store().insert(cache.store().hash(cache.stats(), &key), Arc::new(entry));
    }
}

fn hit(cache: &Cache, packet: &[u8], local: &mut Local) {
    thread_local!(static OUT: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) });
    OUT.with_borrow_mut(|out| {
        out.clear();
        let request = request(packet);
        let mut reply = Reply::begin(out, &request.query, false);
        if let Step::Done(outcome) = cache.serve(&request, &mut reply, local) {
            black_box(outcome);
            reply.finish(None);
        }
        black_box(out);
    });
}

fn nothing(packet: &[u8]) {
    thread_local!(static OUT: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) });
    OUT.with_borrow_mut(|out| {
        out.clear();
        let request = request(packet);
        Reply::begin(out, &request.query, false).finish(None);
        black_box(out);
    });
}

/// Nanoseconds of CPU time for each of `count` rounds, so that a busy machine does not count.
fn timed(count: usize, mut round: impl FnMut(usize)) -> f64 {
    let begun = cpu();
    for number in 0..count {
        round(number);
    }
    (cpu() - begun) / count as f64
}

/// This thread's CPU time in nanoseconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(0.0, |time| time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}

/// Resident memory of the process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4_096
}
