//! Random and damaged packets from clients and upstreams at once, while good queries go on.
//!
//! 10 s; `NODENS_HOSTILE_SECONDS=60` for the full run, `NODENS_HOSTILE_SEED` for other bytes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use socket2::{Domain, Socket, Type};
use tests::client::{Client, Question};
use tests::mutate::{Random, answer_to, mutate};
use tests::poll;
use tests::process::Setup;
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(15);

/// Connections that only keep a place: more than one client may have.
const SLOWLORIS: usize = 300;

/// What memory may grow by, octets: the cache's budget, the tasks that wait for an upstream that lies, and sockets.
const GROWTH: u64 = 64 << 20;

/// Open files that may be left: a few sockets to the upstream.
const OPEN_FILES: usize = 64;

const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    errors {
        consolidate 1s .*
    }
    hosts {
        192.0.2.80 intranet.example
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        objects @folder@/objects
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    forward . @upstream@
    cache 30 {
        size 4Mi
    }
    loadbalance
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
}
";

const ZONE: &str = "$ORIGIN test.\n$TTL 1\n@ 1 IN SOA ns.test. admin.test. 1 3600 600 86400 1\ngood IN A 192.0.2.1\n";

const NAMES: [&str; 9] = [
    "web.shop.svc.cluster.local.",
    "db.shop.svc.cluster.local.",
    "db-0.db.shop.svc.cluster.local.",
    "intranet.shop.svc.cluster.local.",
    "_http._tcp.web.shop.svc.cluster.local.",
    "nobody.shop.svc.cluster.local.",
    "34.12.96.10.in-addr.arpa.",
    "intranet.example.",
    "bad.test.",
];

const TYPES: [RecordType; 8] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::SRV,
    RecordType::PTR,
    RecordType::ANY,
    RecordType::TXT,
    RecordType::AXFR,
    RecordType::SOA,
];

/// What the attackers did.
#[derive(Default)]
struct Sent {
    over: AtomicBool,
    datagrams: AtomicU64,
    replies: AtomicU64,
    connections: AtomicU64,
}

impl Sent {
    fn goes_on(&self) -> bool {
        !self.over.load(Relaxed)
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A packet: a good one, a damaged one, or noise, of any length that UDP can carry.
fn packet(random: &mut Random) -> Vec<u8> {
    let mut bytes = Question::new(random.pick::<&str>(&NAMES), *random.pick(&TYPES)).to_bytes();
    match random.below(20) {
        0 => {
            let room = random.below(600);
            random.bytes(room)
        }
        1 => Vec::new(),
        2 => {
            bytes.resize(60_000 + random.below(5_000), 0xc0);
            bytes
        }
        3 => bytes,
        4 => {
            // Another class: NONE, ANY, CHAOS, Hesiod.
            let end = bytes.len() - 11;
            bytes[end - 1] = *random.pick(&[254, 255, 3, 4]);
            bytes
        }
        _ => {
            mutate(random, &mut bytes);
            bytes
        }
    }
}

fn datagrams(server: SocketAddr, seed: u64, sent: &Sent) {
    let mut random = Random::new(seed);
    let mut buffer = vec![0; 65_535];
    while sent.goes_on() {
        let Ok(socket) = UdpSocket::bind("127.0.0.66:0") else { continue };
        let _ = (socket.connect(server), socket.set_nonblocking(true));
        for _ in 0..200 {
            for _ in 0..16 {
                let _ = socket.send(&packet(&mut random));
                sent.datagrams.fetch_add(1, Relaxed);
            }
            while socket.recv(&mut buffer).is_ok() {
                sent.replies.fetch_add(1, Relaxed);
            }
            poll::pause(Duration::from_millis(1));
        }
    }
}

fn connect(server: SocketAddr, last: u8) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into()).ok()?;
    socket.connect(&server.into()).ok()?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_millis(20))).ok()?;
    stream.set_write_timeout(Some(Duration::from_millis(200))).ok()?;
    Some(stream)
}

fn frame(message: &[u8]) -> Vec<u8> {
    let mut framed = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    framed.extend(message);
    framed
}

fn streams(server: SocketAddr, seed: u64, sent: &Sent) {
    let mut random = Random::new(seed);
    while sent.goes_on() {
        let Some(mut stream) = connect(server, 67) else { continue };
        sent.connections.fetch_add(1, Relaxed);
        let bytes = match random.below(7) {
            0 => (0..50).flat_map(|_| frame(&packet(&mut random))).collect(),
            1 => {
                let room = random.below(3_000);
                random.bytes(room)
            }
            2 => vec![0; 2 * (1 + random.below(500))],
            3 => [&[0xff, 0xff][..], &random.bytes(4_000)].concat(),
            4 => [&[0, 40][..], &random.bytes(3)].concat(),
            5 => Vec::new(),
            // Many good queries, of whose answers none is read.
            _ => {
                let query = frame(&Question::new(NAMES[1], RecordType::A).to_bytes());
                query.repeat(500)
            }
        };
        let _ = stream.write_all(&bytes);
        if random.one_in(2) {
            let _ = stream.read(&mut [0; 2_048]);
        }
        if random.one_in(2) {
            // A reset instead of an end.
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        drop(stream);
        poll::pause(Duration::from_millis(2));
    }
}

/// Holds as many connections as it gets, an octet at a time on each.
fn slowly(server: SocketAddr, sent: &Sent) {
    let mut held: Vec<TcpStream> = Vec::new();
    while sent.goes_on() {
        if held.len() < SLOWLORIS {
            held.extend((0..20).filter_map(|_| connect(server, 68)));
        }
        held.retain_mut(|stream| stream.write_all(&[0]).is_ok());
        poll::pause(Duration::from_millis(50));
    }
}

/// How good queries went.
#[derive(Default)]
struct Good {
    times: Vec<Duration>,
    wrong: Vec<String>,
}

fn good(server: SocketAddr, sent: &Sent) -> Good {
    let client = Client::new(server);
    let mut good = Good::default();
    let mut n = 0u32;
    while sent.goes_on() {
        n += 1;
        let fresh = format!("good-{n}.test.");
        let (name, wanted) = match n % 4 {
            0 => ("web.shop.svc.cluster.local.", "10.96.12.34"),
            1 => ("intranet.example.", "192.0.2.80"),
            2 => ("good.test.", "192.0.2.1"),
            _ => (fresh.as_str(), "NXDOMAIN"),
        };
        let question = Question::new(name, RecordType::A);
        let begun = Instant::now();
        let answer = if n % 10 < 8 { client.udp(&question) } else { client.tcp(&question) };
        good.times.push(begun.elapsed());
        let got = match &answer {
            Ok(answer) if wanted == "NXDOMAIN" => answer.normal.rcode.clone(),
            Ok(answer) => answer.data(RecordType::A).join(" "),
            Err(error) => error.to_string(),
        };
        if got != wanted {
            good.wrong.push(format!("{name}: {got} {:?}", answer.map(|a| a.normal.rcode)));
        }
        poll::pause(Duration::from_millis(3));
    }
    good
}

fn lying_upstream(seed: u64) -> Upstream {
    let upstream = Upstream::with_zone(ZONE);
    let random = Mutex::new(Random::new(seed));
    upstream.on_query(move |seen| {
        if seen.name.starts_with("good") {
            return Act::Answer;
        }
        let mut random = random.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match random.below(24) {
            0 => Act::Drop,
            1 => Act::Close,
            2 => Act::Truncate,
            3 => Act::WrongId,
            4 => Act::WrongQuestion,
            5 => Act::WrongPort,
            6 => Act::Raw(random.bytes(40)),
            n => {
                let mut bytes = answer_to(&mut random, &seen.bytes);
                if n > 8 {
                    let id: Vec<u8> = bytes[..2].to_vec();
                    mutate(&mut random, &mut bytes);
                    if let Some(place) = bytes.get_mut(..2) {
                        place.copy_from_slice(&id);
                    }
                }
                Act::Raw(bytes)
            }
        }
    });
    upstream
}

#[test]
fn garbage_changes_nothing() {
    let time = Duration::from_secs(number("NODENS_HOSTILE_SECONDS", 10));
    let seed = number("NODENS_HOSTILE_SEED", 1);
    let upstream = lying_upstream(seed);
    let mut setup = Setup::new(COREFILE).word("upstream", upstream.address());
    for (name, text) in [
        ("web", include_str!("../../manifests/demo/objects/web.yaml")),
        ("db", include_str!("../../manifests/demo/objects/db.yaml")),
        ("kubernetes", include_str!("../../manifests/demo/objects/kubernetes.yaml")),
        ("namespaces", include_str!("../../manifests/demo/objects/namespaces.yaml")),
    ] {
        setup = setup.file(format!("objects/{name}.yaml"), text);
    }
    let mut nodens = setup.start();
    let server = nodens.dns();
    let (started, files, sent) = (nodens.resident(), nodens.open_files(), Sent::default());
    let mut early = 0;
    let good = std::thread::scope(|scope| {
        let sent = &sent;
        scope.spawn(move || datagrams(server, seed + 1, sent));
        scope.spawn(move || streams(server, seed + 2, sent));
        scope.spawn(move || slowly(server, sent));
        let good = scope.spawn(move || good(server, sent));
        let end = Instant::now() + time;
        while Instant::now() < end {
            poll::pause(Duration::from_millis(100));
            if early == 0 && Instant::now() + time / 2 > end {
                early = nodens.resident();
            }
            // What it has seen would fill this process's memory.
            upstream.forget();
            if !nodens.is_running() {
                break;
            }
        }
        sent.over.store(true, Relaxed);
        good.join().unwrap()
    });
    assert!(nodens.is_running(), "it is gone:\n{}", nodens.log());
    let (last, peak) = (nodens.resident(), nodens.peak_resident());
    let mut times = good.times.clone();
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 1_000).copied().unwrap_or_default();
    println!(
        "{} s, seed {seed}: {} datagrams, {} replies, {} connections and {SLOWLORIS} held",
        time.as_secs(),
        sent.datagrams.load(Relaxed),
        sent.replies.load(Relaxed),
        sent.connections.load(Relaxed),
    );
    println!(
        "good queries: {}, wrong {}, p50 {:?}, p99 {:?}, longest {:?}",
        times.len(),
        good.wrong.len(),
        at(500),
        at(990),
        times.last()
    );
    let mib = |octets: u64| format!("{:.1} MiB", octets as f64 / f64::from(1 << 20));
    println!(
        "resident: {} at the start, {} half way, {} at the end, {} at most",
        mib(started),
        mib(early),
        mib(last),
        mib(peak)
    );

    let metrics = nodens.metrics();
    assert!(metrics.sum("coredns_panics_total", &[]) < 1.0, "panics:\n{}", nodens.log());
    assert!(
        good.wrong.is_empty(),
        "{} of {}: {:?}",
        good.wrong.len(),
        times.len(),
        &good.wrong[..good.wrong.len().min(10)]
    );
    assert!(times.len() > 50 && sent.replies.load(Relaxed) > 1_000);
    assert!(peak < started + GROWTH, "memory has grown");
    assert!(last < early + GROWTH / 2, "memory goes on growing");
    // Connections and sockets of the attack go as well.
    let closed = poll::until(SOON, || nodens.open_files() < files + OPEN_FILES);
    println!("open files: {files} before, {} after", nodens.open_files());
    assert!(closed, "files stay open");
    let log = nodens.stop_for_log(SOON);
    assert!(!log.contains("panicked"), "{log}");
}
