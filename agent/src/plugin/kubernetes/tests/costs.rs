//! What the biggest legal objects cost. The index merges what slices repeat, so that a question costs what its answer holds,
//! and a change what it changes. Times are of the processor, of this thread alone: a loaded machine does not count.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::*;
use crate::plugin::kubernetes::Topology;

/// Slices of the biggest Services here.
const SLICES: usize = 300;
/// Endpoints of each.
const ENDPOINTS: usize = 100;
/// The most that one answer may cost. One of 64 KiB costs a tenth of it, in the profile of the tests; when rows were compared
/// with each other, such Services took seconds.
const ANSWER: Duration = Duration::from_millis(15);
/// The most that one change may cost, on average.
const CHANGE: Duration = Duration::from_millis(3);
/// What it costs to make a hundred endpoints, which is no code of the index, on the machine for which these bounds are.
const ENDPOINTS_MADE: Duration = Duration::from_micros(25);

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// How many times as slow as that machine the processor is at this moment; 1 if it is faster.
fn slowness() -> f64 {
    let began = now();
    for _ in 0..SLICES {
        let made: Vec<_> = (0..ENDPOINTS).map(|n| endpoint(address(n), "some")).collect();
        std::hint::black_box(made);
    }
    let each = (now() - began) / SLICES as u32;
    (each.as_secs_f64() / ENDPOINTS_MADE.as_secs_f64()).max(1.0)
}

fn address(n: usize) -> IpAddr {
    IpAddr::from((0x0a00_0000 + n as u32).to_be_bytes())
}

fn endpoint(address: IpAddr, hostname: &str) -> Endpoint {
    Endpoint {
        addresses: [address].into_iter().collect(),
        hostname: (!hostname.is_empty()).then(|| hostname.into()),
        pod: None,
        ready: true,
        place: Place::default(),
    }
}

fn http(number: u16) -> Port {
    Port { name: "http".into(), protocol: Protocol::Tcp, number }
}

/// The Service `big`, its kind and the slices of one Service.
struct Big {
    kind: ServiceKind,
    /// By slice and place in it.
    endpoint: fn(usize, usize) -> Endpoint,
    ports: fn(usize) -> Vec<Port>,
    /// In how many groups each endpoint is: where places are kept, in that of its zone as well.
    parts: u32,
}

impl Big {
    fn slice(&self, number: usize) -> Event {
        Event::Apply(Object::EndpointSlice(EndpointSlice {
            id: id("default", &format!("big-{number}")),
            service: "big".into(),
            imported: false,
            cluster: None,
            ports: (self.ports)(number).into(),
            endpoints: (0..ENDPOINTS).map(|n| (self.endpoint)(number, n)).collect(),
            triggered_at: None,
            version: 0,
        }))
    }

    /// The index, after a bounded time for each change. What else runs on the machine's caches costs time too, so that the least
    /// of three attempts counts.
    fn index(&self) -> Arc<Index> {
        let mut each = Duration::MAX;
        for _ in 0..3 {
            let before = slowness();
            let (index, cost) = self.changed();
            let slowness = before.max(slowness());
            println!("a change: {cost:?}, the processor is {slowness:.1} times as slow");
            let cost = cost.div_f64(slowness);
            each = each.min(cost);
            if each < CHANGE * self.parts {
                return synced(index);
            }
        }
        panic!("a change costs {each:?}");
    }

    /// The index, and what a change has cost.
    fn changed(&self) -> (Index, Duration) {
        let node = Some("here".into());
        let index = Index::new(Settings { places: self.parts > 1, node, ..Settings::default() });
        index.apply(Event::Apply(Object::Namespace(Namespace { name: "default".into() })));
        let zone = Some("z0".into());
        index.apply(Event::Apply(Object::Node(object::Node { name: "here".into(), zone })));
        index.apply(Event::Apply(Object::Service(Service {
            id: id("default", "big"),
            kind: self.kind.clone(),
            ports: (self.ports)(0).into(),
            publish_not_ready: false,
            distribution: Distribution::SameNode,
            version: 0,
        })));
        let objects: Vec<_> = (0..SLICES).map(|number| self.slice(number)).collect();
        let began = now();
        objects.into_iter().for_each(|event| index.apply(event));
        // A few of them change again and again.
        for round in 0..SLICES {
            let mut event = self.slice(SLICES - 1 - round % 10);
            if let Event::Apply(Object::EndpointSlice(slice)) = &mut event {
                slice.endpoints.truncate(ENDPOINTS - round / 10 % 2);
            }
            index.apply(event);
        }
        let each = (now() - began) / (2 * SLICES as u32);
        (index, each)
    }
}

/// Asks everything that a client may ask of the Service `big`, by both transports.
fn ask_everything(index: Arc<Index>, names: &[&str]) {
    for topology in [None, Some(false), Some(true)] {
        let topology = topology.map(|only| Topology { only, all: false });
        let view = View { topology, zonal: true, ..recorded_view(30) };
        ask_everything_of(&Kubernetes::new(view, Arc::clone(&index)), names);
    }
}

fn ask_everything_of(kubernetes: &Kubernetes, names: &[&str]) {
    let mut local = Local::new(0);
    let client = "127.0.0.1:53".parse().unwrap();
    let mut most = (Duration::ZERO, String::new());
    for asked in names {
        let asked = name(asked);
        for qtype in [1u16, 28, 33, 12, 5, 16, 255].map(RecordType) {
            for transport in [Transport::Udp, Transport::Tcp] {
                let (mut packet, mut buf) = (Vec::new(), Vec::with_capacity(65_535));
                let edns = Some((1_232, false));
                write_query(&mut packet, 1, flags::RD, asked.as_ref(), qtype, Class::IN, edns);
                let query = crate::wire::Query::parse(&packet).unwrap();
                let received = CoarseInstant::now();
                let origin = Origin { client, local: client, transport, worker: 0, received };
                let began = now();
                let mut reply = Reply::begin(&mut buf, &query, transport == Transport::Tcp);
                kubernetes.serve(&Request { query, origin }, &mut reply, &mut local);
                reply.finish(None);
                let took = now() - began;
                if took > most.0 {
                    most = (took, format!("{asked} {qtype} by {transport:?}"));
                }
            }
        }
    }
    println!("an answer: {most:?}");
    assert!(most.0 < ANSWER, "{} took {:?}", most.1, most.0);
}

const NAMES: [&str; 10] = [
    "z0.pin._zone.big.default.svc.cluster.local",
    "nope.prefer._zone.big.default.svc.cluster.local",
    "big.default.svc.cluster.local",
    "_http._tcp.big.default.svc.cluster.local",
    "_other._tcp.big.default.svc.cluster.local",
    "_tcp.big.default.svc.cluster.local",
    "shared.big.default.svc.cluster.local",
    "10-0-0-1.big.default.svc.cluster.local",
    "nope.big.default.svc.cluster.local",
    "1.0.0.10.in-addr.arpa",
];

/// Names of the first half before the one that all share.
fn hostname(number: usize, n: usize, shared: &str) -> String {
    if n < ENDPOINTS / 2 { format!("a{number}-{n}") } else { shared.to_owned() }
}

/// Case Q16: the shared hostname took 18 s for one query.
#[test]
fn a_hostname_that_half_of_all_endpoints_share() {
    let big = |kind| Big {
        kind,
        endpoint: |number, n| {
            endpoint(address(number * ENDPOINTS + n), &hostname(number, n, "shared"))
        },
        parts: 1,
        ports: |_| vec![http(80)],
    };
    ask_everything(big(ServiceKind::Headless).index(), &NAMES);
    let own = ServiceKind::ClusterIp([IpAddr::from([10, 96, 0, 1])].into_iter().collect());
    ask_everything(big(own).index(), &NAMES);
}

#[test]
fn an_address_that_half_of_all_endpoints_share() {
    let big = Big {
        kind: ServiceKind::Headless,
        endpoint: |number, n| {
            let own = address(number * ENDPOINTS + n + 2);
            endpoint(if n < ENDPOINTS / 2 { own } else { address(1) }, &format!("h{number}-{n}"))
        },
        parts: 1,
        ports: |_| vec![http(80)],
    };
    ask_everything(big.index(), &NAMES);
}

#[test]
fn the_same_endpoints_in_every_slice() {
    for ports in [|_| vec![http(80)], |number| vec![http(80), http(1_000 + number as u16)]] {
        let endpoint = |_, n| endpoint(address(n), "");
        ask_everything(
            Big { kind: ServiceKind::Headless, endpoint, ports, parts: 1 }.index(),
            &NAMES,
        );
        let endpoint = |_, n| self::endpoint(address(n), "shared");
        ask_everything(
            Big { kind: ServiceKind::Headless, endpoint, ports, parts: 1 }.index(),
            &NAMES,
        );
    }
}

/// Every slice has another list of ports, and one of them the port that is asked for.
#[test]
fn a_list_of_ports_for_each_slice() {
    let big = Big {
        kind: ServiceKind::Headless,
        endpoint: |number, n| endpoint(address(number * ENDPOINTS + n), ""),
        parts: 1,
        ports: |number| {
            let name = if number == SLICES / 2 { "http" } else { "else" };
            let number = 1_000 + number as u16;
            vec![Port { name: name.into(), protocol: Protocol::Tcp, number }]
        },
    };
    ask_everything(big.index(), &NAMES);
}

#[test]
fn as_many_ports_as_are_read() {
    let big = Big {
        kind: ServiceKind::Headless,
        endpoint: |number, n| endpoint(address(number * ENDPOINTS + n), &format!("h{}", n % 10)),
        parts: 1,
        ports: |_| {
            let port = |n: u16| Port {
                name: format!("p{n}").into(),
                protocol: Protocol::Udp,
                number: n / 2 + 1,
            };
            (0..1_024).map(port).collect()
        },
    };
    ask_everything(big.index(), &NAMES);
}

#[test]
fn many_services_with_one_address() {
    let index = Index::new(Settings::default());
    index.apply(Event::Apply(Object::Namespace(Namespace { name: "default".into() })));
    let began = now();
    let count = 2_000;
    for number in 0..count {
        index.apply(Event::Apply(Object::EndpointSlice(EndpointSlice {
            id: id("default", &format!("slice-{number}")),
            service: format!("service-{number}").into(),
            imported: false,
            cluster: None,
            ports: vec![http(80)].into(),
            endpoints: vec![endpoint(address(1), "")],
            triggered_at: None,
            version: 0,
        })));
    }
    let each = (now() - began) / count;
    println!("a change: {each:?}");
    assert!(each < CHANGE, "a change costs {each:?}");
    ask_everything(synced(index), &["1.0.0.10.in-addr.arpa", "0.0.10.in-addr.arpa"]);
}

/// Half of all endpoints are near, so that there are as many to pass over.
#[test]
fn half_of_all_endpoints_are_near() {
    for two_lists in [false, true] {
        let big = Big {
            kind: ServiceKind::Headless,
            endpoint: |number, n| Endpoint {
                place: in_zone(n % 2),
                ..endpoint(address(number * ENDPOINTS + n), "")
            },
            parts: 2,
            ports: if two_lists {
                |number| vec![http(80 + number as u16 % 2)]
            } else {
                |_| vec![http(80)]
            },
        };
        ask_everything(big.index(), &NAMES);
    }
}

/// A client of the API may name as many zones as there are endpoints.
#[test]
fn a_zone_for_each_endpoint() {
    let big = Big {
        kind: ServiceKind::Headless,
        endpoint: |number, n| Endpoint {
            place: in_zone(number * ENDPOINTS + n),
            ..endpoint(address(number * ENDPOINTS + n), "")
        },
        ports: |_| vec![http(80)],
        parts: 2,
    };
    ask_everything(big.index(), &NAMES);
}

fn in_zone(number: usize) -> Place {
    Place { zone: Some(format!("z{number}").into()), node: None }
}
