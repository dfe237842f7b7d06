//! What it costs to write queries down for those who look: nanoseconds of a worker for each query in the sample of `nodens top` and
//! for each query that somebody observes, and of the reader for each of them. `cargo bench -p nodens --bench observe`.

#![allow(clippy::print_stdout, reason = "figures are what it is for")]

use std::hint::black_box;
use std::net::Ipv4Addr;

use nix::time::{ClockId, clock_gettime};
use nodens::clock::CoarseInstant;
use nodens::observe::filter::{Filter, Matcher};
use nodens::observe::readers::Observed;
use nodens::request::{CacheUse, Origin, Outcome, Plugin, Request, Transport};
use nodens::wire::query::write_query;
use nodens::wire::{Class, Name, Query, Rcode, RecordType};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Queries of one look: 5 ms at 50,000 a second.
const LOOK: usize = 250;
const LOOKS: usize = 4_000;

fn main() {
    let observed = Observed::new(1);
    let packets: Vec<Vec<u8>> = (0..LOOK).map(packet).collect();
    let requests: Vec<Request<'_>> = packets.iter().filter_map(|packet| request(packet)).collect();
    let outcome = Outcome::new(Plugin::Cache, Rcode::NOERROR).with_cache(CacheUse::Success);
    let record = |look: usize| {
        // 50,000 a second pass in 5 ms each.
        let received = CoarseInstant::from_millis(look as u64 * 5);
        for request in &requests {
            let origin = Origin { received, ..request.origin };
            let request = Request { origin, ..*request };
            observed.taps().record(black_box(&request), &outcome, 60, 0);
        }
    };
    let (mut writing, mut gathering) = (0, 0);
    for look in 1..=LOOKS {
        writing += timed(|| record(look));
        // Once a second.
        if look % 200 == 0 {
            gathering += timed(|| observed.gather());
        }
    }
    print("sample, worker", writing);
    print("sample, gathering", gathering);

    let Ok(mut frames) = observed.observe(Matcher::new(&Filter::default()).unwrap_or_default())
    else {
        return;
    };
    // A reader of its own drains as well: what is left for the one that is measured here is most of it.
    let (mut writing, mut reading) = (0, 0);
    for look in LOOKS + 1..=2 * LOOKS {
        writing += timed(|| record(look));
        reading += timed(|| observed.gather());
        while let Ok(frame) = frames.try_recv() {
            black_box(frame);
        }
    }
    print("observed, worker", writing);
    print("observed, reader", reading);
}

fn print(what: &str, nanos: u64) {
    println!("{what:<18} {:7.1} ns for each query", nanos as f64 / (LOOK * LOOKS) as f64);
}

fn packet(number: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    let name = format!("h{:07}.hot.example.org", number * 7_919 % 1_000);
    if let Ok(name) = Name::from_text(&name) {
        write_query(&mut packet, 7, 0x100, name.as_ref(), RecordType::A, Class::IN, None);
    }
    packet
}

fn request(packet: &[u8]) -> Option<Request<'_>> {
    let origin = Origin {
        client: (Ipv4Addr::new(10, 0, 0, 9), 5_353).into(),
        local: (Ipv4Addr::LOCALHOST, 53).into(),
        transport: Transport::Udp,
        worker: 0,
        received: CoarseInstant::now(),
    };
    Some(Request { query: Query::parse(packet).ok()?, origin })
}

/// CPU time of this thread, nanoseconds.
fn timed(work: impl FnOnce()) -> u64 {
    let begun = cpu();
    work();
    cpu() - begun
}

fn cpu() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0, |at| at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64)
}
