//! What the index costs: nanoseconds a query, microseconds an event, octets an endpoint.
//!
//! `cargo bench -p nodens --bench index`; with `-- near` it keeps where endpoints are, in three zones, and answers with those of
//! one (`topology require`, `zonal`). The cluster is the one of the targets: 10,000 Services, a fifth of them headless, and
//! 150,000 endpoints; beside it two large headless Services.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use nodens::chain::{Handler, Local};
use nodens::clock::CoarseInstant;
use nodens::cluster::index::{Index, Settings};
use nodens::cluster::object::{
    Distribution, Endpoint, EndpointSlice, Event, Kind, Namespace, Node, Object, ObjectId, Place,
    Port, Protocol, Service, ServiceKind, Text,
};
use nodens::plugin::kubernetes::{Kubernetes, Pods, Topology, View};
use nodens::plugin::scope::{Fallthrough, Zones};
use nodens::request::{Origin, Request, Transport};
use nodens::wire::query::write_query;
use nodens::wire::{Class, Name, Query, RecordType, Reply};

/// Counts what is allocated.
struct Counting;

static OCTETS: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator unchanged; the counters are beside it.
#[allow(unsafe_code, reason = "an allocator can be counted only by store_health in front of it")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = OCTETS.fetch_add(layout.size() as isize, Relaxed) + layout.size() as isize;
        PEAK.fetch_max(now, Relaxed);
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        OCTETS.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 15;

fn id(namespace: &Text, name: String) -> ObjectId {
    ObjectId { namespace: namespace.clone(), name: name.into() }
}

fn ports() -> [Port; 1] {
    [Port { name: "http".into(), protocol: Protocol::Tcp, number: 80 }]
}

fn service(namespace: &Text, name: String, kind: ServiceKind) -> Event {
    let ports = ports().into_iter().collect();
    Event::Apply(Object::Service(Service {
        id: id(namespace, name),
        kind,
        ports,
        publish_not_ready: false,
        // Without the setting it has no effect.
        distribution: Distribution::SameZone,
        version: 0,
    }))
}

/// A slice of `count` endpoints; `hostnames` as those of a StatefulSet.
fn slice(
    namespace: &Text,
    service: &str,
    number: usize,
    first: u32,
    count: usize,
    hostnames: bool,
) -> Event {
    let zones = ["eu-1a", "eu-1b", "eu-1c"].map(Text::from);
    let endpoint = |n: usize| Endpoint {
        addresses: [IpAddr::from((first + n as u32).to_be_bytes())].into_iter().collect(),
        hostname: hostnames.then(|| format!("{service}-{}", number * 100 + n).into()),
        pod: Some(format!("{service}-5d4f8c7b9-{n:05}").into()),
        ready: true,
        place: Place { zone: Some(zones[n % zones.len()].clone()), node: None },
    };
    Event::Apply(Object::EndpointSlice(EndpointSlice {
        id: id(namespace, format!("{service}-{number:05}")),
        service: service.into(),
        imported: false,
        cluster: None,
        ports: ports().into_iter().collect(),
        endpoints: (0..count).map(endpoint).collect(),
        triggered_at: None,
        version: 0,
    }))
}

fn load(index: &Index) {
    let address = |n: usize| IpAddr::from((0x0a60_0000 + n as u32).to_be_bytes());
    for n in 0..SERVICES {
        let namespace: Text = format!("team-{}", n / 100).into();
        if n % 100 == 0 {
            index.apply(Event::Apply(Object::Namespace(Namespace { name: namespace.clone() })));
        }
        let kind = if n % 5 == 0 {
            ServiceKind::Headless
        } else {
            ServiceKind::ClusterIp([address(n)].into_iter().collect())
        };
        index.apply(service(&namespace, format!("service-{n}"), kind));
        let first = 0x0a80_0000 + (n * ENDPOINTS) as u32;
        index.apply(slice(&namespace, &format!("service-{n}"), 0, first, ENDPOINTS, false));
    }
}

fn relist(index: &Index) {
    for kind in [Kind::Namespace, Kind::Service, Kind::EndpointSlice] {
        index.apply(Event::Init(kind));
    }
    load(index);
    large(index, false);
    large(index, true);
    for kind in [Kind::Namespace, Kind::Service, Kind::EndpointSlice] {
        index.apply(Event::InitDone(kind));
    }
}

/// 5,000 endpoints in 50 slices.
fn large(index: &Index, hostnames: bool) {
    let namespace: Text = "large".into();
    let name = if hostnames { "stateful" } else { "plain" };
    index.apply(service(&namespace, name.to_owned(), ServiceKind::Headless));
    for number in 0..50 {
        let first = 0x0b00_0000 + u32::from(hostnames) * 0x10000 + number as u32 * 100;
        index.apply(slice(&namespace, name, number, first, 100, hostnames));
    }
}

struct Bench {
    kubernetes: Kubernetes,
    local: Local,
    origin: Origin,
    buf: Vec<u8>,
}

impl Bench {
    /// Nanoseconds a query, the packet's parsing and the reply's writing included; the reply's octets; allocations.
    fn query(
        &mut self,
        what: &str,
        name: &str,
        qtype: RecordType,
        transport: Transport,
        rounds: u32,
    ) {
        let mut packet = Vec::new();
        let name = Name::from_text(name).unwrap();
        write_query(&mut packet, 1, 0x100, name.as_ref(), qtype, Class::IN, Some((1232, false)));
        self.origin.transport = transport;
        let answer = |bench: &mut Self| {
            bench.buf.clear();
            let query = Query::parse(black_box(&packet)).unwrap();
            let mut reply = Reply::begin(&mut bench.buf, &query, transport == Transport::Tcp);
            let request = Request { query, origin: bench.origin };
            black_box(bench.kubernetes.serve(&request, &mut reply, &mut bench.local));
            reply.finish(None)
        };
        let octets = answer(self);
        let before = ALLOCATIONS.load(Relaxed);
        let mut best = f64::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            for _ in 0..rounds {
                black_box(answer(self));
            }
            best = best.min(start.elapsed().as_nanos() as f64 / f64::from(rounds));
        }
        let allocations = ALLOCATIONS.load(Relaxed) - before;
        println!("{what:<44} {best:>10.0} ns {octets:>7} octets {allocations:>4} allocations");
    }

    /// The same over many names, so that they are not all in the processor's cache.
    fn spread(&mut self) {
        let packets: Vec<Vec<u8>> = (0..SERVICES)
            .filter(|n| n % 5 != 0)
            .map(|n| {
                let mut packet = Vec::new();
                let n = n * 7_919 % SERVICES;
                let name = format!("service-{n}.team-{}.svc.cluster.local", n / 100);
                let name = Name::from_text(&name).unwrap();
                write_query(
                    &mut packet,
                    1,
                    0x100,
                    name.as_ref(),
                    RecordType::A,
                    Class::IN,
                    Some((1232, false)),
                );
                packet
            })
            .collect();
        let start = Instant::now();
        const ROUNDS: usize = 50;
        for packet in (0..ROUNDS).flat_map(|_| &packets) {
            self.buf.clear();
            let query = Query::parse(packet).unwrap();
            let mut reply = Reply::begin(&mut self.buf, &query, false);
            let request = Request { query, origin: self.origin };
            black_box(self.kubernetes.serve(&request, &mut reply, &mut self.local));
            black_box(reply.finish(None));
        }
        let each = start.elapsed().as_nanos() as f64 / (ROUNDS * packets.len()) as f64;
        println!("{:<44} {each:>10.0} ns", "A, ClusterIP, 8,000 names in turn");
    }
}

fn events(what: &str, rounds: u32, mut event: impl FnMut(u32) -> Event, index: &Index) {
    let events: Vec<Event> = (0..rounds).map(&mut event).collect();
    let start = Instant::now();
    events.into_iter().for_each(|event| index.apply(event));
    println!(
        "{what:<44} {:>10.1} us",
        start.elapsed().as_nanos() as f64 / f64::from(rounds) / 1_000.0
    );
}

fn main() {
    let near = std::env::args().any(|argument| argument == "near");
    let before = OCTETS.load(Relaxed);
    let index = Arc::new(Index::new(Settings { places: near, ..Settings::default() }));
    let empty = OCTETS.load(Relaxed) - before;
    let start = Instant::now();
    relist(&index);
    let took = start.elapsed();
    let full = OCTETS.load(Relaxed) - before;
    PEAK.store(OCTETS.load(Relaxed), Relaxed);
    let start = Instant::now();
    relist(&index);
    let again = start.elapsed();
    let known = index.statistics();
    println!(
        "{} Services, {} slices, {} endpoints",
        known.objects[0], known.objects[1], known.endpoints
    );
    println!(
        "empty {} kB, full {} kB: {} octets an endpoint",
        empty / 1000,
        full / 1000,
        (full - empty) / known.endpoints as isize
    );
    println!(
        "list {took:.0?}, the same again {again:.0?}, {} kB more at its peak\n",
        (PEAK.load(Relaxed) - before - full) / 1000
    );

    let name = |text: &str| Name::from_text(text).unwrap();
    let view = View {
        zones: vec![name("cluster.local")],
        reverse_zones: vec![name("in-addr.arpa"), name("ip6.arpa")],
        ttl: 30,
        pods: Pods::Insecure,
        endpoints: true,
        rotate: true,
        fallthrough: Fallthrough::Within(Zones::new(vec![name("in-addr.arpa"), name("ip6.arpa")])),
        ..View::default()
    };
    let (zone, node) = (Some("eu-1a".into()), Text::from("node"));
    index.apply(Event::Apply(Object::Node(Node { name: node, zone })));
    let view =
        View { zonal: near, topology: near.then_some(Topology { only: true, all: false }), ..view };
    let local = "127.0.0.1:53".parse().unwrap();
    let origin = Origin {
        client: local,
        local,
        transport: Transport::Udp,
        worker: 0,
        received: CoarseInstant::now(),
    };
    let kubernetes = Kubernetes::new(view, Arc::clone(&index));
    let mut bench =
        Bench { kubernetes, local: Local::new(0), origin, buf: Vec::with_capacity(70_000) };
    let (udp, tcp) = (Transport::Udp, Transport::Tcp);
    use RecordType as T;
    bench.query("parse, foreign name", "www.example.com", T::A, udp, 1_000_000);
    bench.query("A, ClusterIP", "service-1.team-0.svc.cluster.local", T::A, udp, 1_000_000);
    bench.spread();
    bench.query(
        "AAAA, ClusterIP: NODATA",
        "service-1.team-0.svc.cluster.local",
        T::AAAA,
        udp,
        1_000_000,
    );
    bench.query("NXDOMAIN", "www.example.com.team-0.svc.cluster.local", T::A, udp, 1_000_000);
    bench.query(
        "A, headless, 15 endpoints",
        "service-5.team-0.svc.cluster.local",
        T::A,
        udp,
        300_000,
    );
    let zonal = "eu-1a.pin._zone.service-5.team-0.svc.cluster.local";
    bench.query(if near { "A, zonal" } else { "NXDOMAIN, too long" }, zonal, T::A, udp, 300_000);
    bench.query(
        "SRV, ClusterIP",
        "_http._tcp.service-1.team-0.svc.cluster.local",
        T::SRV,
        udp,
        300_000,
    );
    bench.query(
        "SRV, headless, 15 endpoints",
        "_http._tcp.service-5.team-0.svc.cluster.local",
        T::SRV,
        udp,
        30_000,
    );
    bench.query(
        "A, endpoint",
        "10-128-0-75.service-5.team-0.svc.cluster.local",
        T::A,
        udp,
        300_000,
    );
    bench.query("PTR, ClusterIP", "1.0.96.10.in-addr.arpa", T::PTR, udp, 300_000);
    bench.query("PTR, endpoint", "80.0.128.10.in-addr.arpa", T::PTR, udp, 300_000);
    bench.query("A, 5,000 endpoints, UDP", "plain.large.svc.cluster.local", T::A, udp, 100_000);
    bench.query("A, 5,000 endpoints, TCP", "plain.large.svc.cluster.local", T::A, tcp, 10_000);
    bench.query("SRV, 5,000 endpoints, UDP", "plain.large.svc.cluster.local", T::SRV, udp, 3_000);
    bench.query("SRV, 5,000 endpoints, TCP", "plain.large.svc.cluster.local", T::SRV, tcp, 100);
    bench.query(
        "SRV, 5,000 hostnames, UDP",
        "stateful.large.svc.cluster.local",
        T::SRV,
        udp,
        3_000,
    );
    bench.query("SRV, 5,000 hostnames, TCP", "stateful.large.svc.cluster.local", T::SRV, tcp, 100);
    bench.query(
        "A, one of 5,000 hostnames",
        "stateful-4711.large.svc.cluster.local",
        T::A,
        udp,
        1_000,
    );
    bench.query(
        "A, one of 5,000 hostnames, in full",
        "stateful-4711.stateful.large.svc.cluster.local",
        T::A,
        udp,
        30_000,
    );
    println!();

    let namespace: Text = "team-0".into();
    let ten = |n: u32| slice(&namespace, "service-5", 0, 0x0c00_0000 + n % 1_000, 10, false);
    events("slice of 10, each address new", 10_000, ten, &index);
    let namespace: Text = "large".into();
    let thousands = |n: u32| {
        slice(
            &namespace,
            "plain",
            (n % 50) as usize,
            0x0b00_0000 + n % 50 * 100,
            99 + (n / 50 % 2) as usize,
            false,
        )
    };
    events("slice of 100, one address, of 5,000 in all", 5_000, thousands, &index);
    let same = |n: u32| {
        slice(&namespace, "plain", (n % 50) as usize, 0x0b00_0000 + n % 50 * 100, 100, false)
    };
    events("slice of 100 that says the same again", 5_000, same, &index);
    let namespace: Text = "team-1".into();
    let moved = |n: u32| {
        let address = IpAddr::from((0x0d00_0000 + n).to_be_bytes());
        service(
            &namespace,
            "service-101".to_owned(),
            ServiceKind::ClusterIp([address].into_iter().collect()),
        )
    };
    events("Service with another ClusterIP", 10_000, moved, &index);
}
