//! What clients notice while the server is handed over, killed, stopped or reloaded: an open loop asks at a fixed rate, each query
//! once with two seconds of patience, a tenth over TCP. `docs/benchmark.md` has the figures.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};
use serde_json::json;
use tests::api::certificates::{Authority, Pair};
use tests::api::generate::Shape;
use tests::bench::ping::come_first;
use tests::client::{Client, Question};
use tests::cluster::Cluster;
use tests::load::{Load, Questions, Report};
use tests::poll::{pause, wait_for};
use tests::process::{Nodens, Ready, Setup};
use tests::tls::TlsClient;
use tests::upstream::{Act, Upstream};

const USAGE: &str =
    "usage: bench-life [-r RATE] [-n HANDOVERS] [-k KILLS] [-s STOPS] [-l RELOADS] [-f SECONDS] [--other BINARY] [--big]
  -r N     queries a second (default 20000)
  -n N     hand-overs in a row (default 100)
  -k N     `kill -9` of the server (default 20)
  -s N     SIGSTOP of the server (default 3)
  -l N     reloads (default 20)
  -f S     seconds of each flood by one client, while another asks 1,000 queries a second (default 5)
  --other  a second build, which takes turns with this one
  --big    a cluster of 10,000 Services and 150,000 endpoints";

const SOON: Duration = Duration::from_secs(60);
const HOT: u64 = 500;
/// Who floods, and who is not to notice.
const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// Queries a second of the neighbour.
const MODEST: u64 = 1_000;
/// Connections that the greedy client holds at most.
const CONNECTIONS: usize = 4_000;
/// TLS handshakes a second of the greedy client.
const HANDSHAKES: u64 = 1_000;
/// The name in the server's certificate.
const NAME: &str = "dns.test";
const COREFILE: &str = "test.:@port@ tls://test.:@dns2@ {
    bind 127.0.0.1
    tls cert.pem key.pem
    forward . @upstream@
    cache 300
    prometheus 127.0.0.1:@metrics@
}
cluster.local.:@port@ {
    bind 127.0.0.1
    kubernetes cluster.local {
        kubeconfig @kubeconfig@
    }
}
";

struct Arguments {
    rate: u64,
    handovers: usize,
    kills: usize,
    stops: usize,
    reloads: usize,
    flood: Duration,
    other: Option<PathBuf>,
    is_big: bool,
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut found = Arguments {
        rate: 20_000,
        handovers: 100,
        kills: 20,
        stops: 3,
        reloads: 20,
        flood: Duration::from_secs(5),
        other: None,
        is_big: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--big" {
            found.is_big = true;
            continue;
        }
        let value = words.next().context(USAGE)?;
        match word.as_str() {
            "-r" => found.rate = value.parse()?,
            "-n" => found.handovers = value.parse()?,
            "-k" => found.kills = value.parse()?,
            "-s" => found.stops = value.parse()?,
            "-l" => found.reloads = value.parse()?,
            "-f" => found.flood = Duration::from_secs(value.parse()?),
            "--other" => found.other = Some(value.into()),
            _ => anyhow::bail!(USAGE),
        }
    }
    Ok(found)
}

struct Site {
    cluster: Cluster,
    authority: Authority,
    pair: Pair,
    upstream: Upstream,
    address: SocketAddr,
    folder: tempfile::TempDir,
    rate: u64,
}

impl Site {
    fn setup(&self) -> Setup {
        let socket = self.folder.path().join("nodens.sock");
        Setup::new(COREFILE)
            .word("port", self.address.port())
            .word("upstream", self.upstream.address())
            .word("kubeconfig", self.cluster.path("kubeconfig").display())
            .file("cert.pem", &self.pair.certificate)
            .file("key.pem", &self.pair.key)
            .arguments(&["--socket", &socket.to_string_lossy()])
            .ready(Ready::AnswerAt(self.address))
    }

    fn load(&self) -> Load {
        Load::start(self.address, self.rate, self.rate / 10, questions())
    }

    fn client(&self) -> TlsClient {
        TlsClient::new(self.authority.pem(), None, &["dot"])
    }

    /// A client that wants little. Its thread comes before others, so that what it measures is the server's and not how busy this
    /// machine is with the flood.
    fn neighbour(&self) -> Load {
        let (address, questions) = (self.address, questions());
        let first = std::thread::spawn(move || {
            come_first();
            Load::start_from(NEIGHBOUR, address, MODEST, MODEST / 10, questions)
        });
        first.join().unwrap_or_else(|_| panic!("no thread"))
    }

    fn warm_up(&self) {
        let client = Client::new(self.address).within(Duration::from_secs(2));
        for n in 0..HOT {
            let _ = client.ask(&format!("n{n}.test."), RecordType::A);
        }
    }

    /// Queries for hot names that have reached the upstream.
    fn misses(&self) -> usize {
        self.upstream.seen().iter().filter(|seen| seen.name.starts_with('n')).count()
    }
}

/// Of ten queries four are cached names, four are cluster names, two are new names.
fn questions() -> Questions {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let call = CALLS.fetch_add(1, Relaxed);
    let cached: Vec<Vec<u8>> = (0..HOT).map(|n| wire(&format!("n{n}.test."))).collect();
    let known = wire("kubernetes.default.svc.cluster.local.");
    Arc::new(move |n| match n % 10 {
        0..4 => cached[(n / 10 * 4 + n % 10) as usize % cached.len()].clone(),
        4..8 => known.clone(),
        _ => wire(&format!("u{n}-{call}.wild.test.")),
    })
}

fn wire(name: &str) -> Vec<u8> {
    Question::new(name, RecordType::A).to_bytes()
}

/// A client that opens connections without end, each with a few octets, and lets none of them go.
struct Connections {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Connections {
    fn start(server: SocketAddr, octets: &'static [u8]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut held, mut opened) = (Vec::new(), 0);
            while !stopped.load(Relaxed) {
                if let Ok(mut stream) = connect(server) {
                    let _ = stream.write_all(octets);
                    let _ = stream.set_nonblocking(true);
                    held.push(stream);
                    opened += 1;
                }
                if held.len() >= CONNECTIONS || opened % 64 == 0 {
                    // Those that the server has closed make room.
                    held.retain_mut(|stream| !matches!(stream.read(&mut [0; 512]), Ok(0)));
                    pause(Duration::from_millis(1));
                }
                held.truncate(CONNECTIONS);
            }
            opened
        });
        Self { stop, thread }
    }

    fn stop(self) -> anyhow::Result<usize> {
        self.stop.store(true, Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the flood has failed"))
    }
}

/// A client that makes TLS connections at a rate, each for one query.
struct Handshakes {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Handshakes {
    fn start(client: &TlsClient, server: SocketAddr) -> Self {
        const THREADS: u64 = 4;
        let stop = Arc::new(AtomicBool::new(false));
        let each = Duration::from_secs(1) / (HANDSHAKES / THREADS) as u32;
        let thread = |_| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            let question = Question::new("n1.test.", RecordType::A);
            std::thread::spawn(move || {
                let (begun, mut made) = (Instant::now(), 0);
                while !stop.load(Relaxed) {
                    // With the answer come the tickets for the next connection.
                    let asked = client.connect(server, NAME).and_then(|mut c| c.ask(&question));
                    made += u64::from(asked.is_ok());
                    pause((begun + each * made as u32).saturating_duration_since(Instant::now()));
                }
                made
            })
        };
        Self { threads: (0..THREADS).map(thread).collect(), stop }
    }

    fn stop(self) -> anyhow::Result<u64> {
        self.stop.store(true, Relaxed);
        let made = self.threads.into_iter().map(JoinHandle::join);
        made.sum::<Result<_, _>>().map_err(|_| anyhow::anyhow!("the flood has failed"))
    }
}

/// What a hit costs the server over one connection, twelve queries under way: over TCP, and within TLS.
fn streams(site: &Site, now: &Nodens, time: Duration) -> anyhow::Result<()> {
    const UNDER_WAY: usize = 12;
    let question = Question::new("n1.test.", RecordType::A);
    let measure = |what: &str, round: &mut dyn FnMut() -> anyhow::Result<()>| {
        round()?;
        let (used, begun, mut rounds) = (now.cpu(), Instant::now(), 0);
        while begun.elapsed() < time {
            round()?;
            rounds += 1;
        }
        let queries = rounds * UNDER_WAY;
        let us = (now.cpu() - used).as_secs_f64() * 1e6 / queries as f64;
        println!("{}", json!({ "event": what, "queries": queries, "us_each": us }));
        anyhow::Ok(())
    };
    let mut plain = Client::new(site.address).connect()?;
    let message = question.to_bytes();
    let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
    measure("hits over TCP", &mut || {
        plain.send_raw(&framed.repeat(UNDER_WAY))?;
        (0..UNDER_WAY).try_for_each(|_| plain.receive().map(|_| ()))?;
        Ok(())
    })?;
    let mut secure = site.client().connect(tls(now), NAME)?;
    measure("hits over TLS", &mut || {
        secure.send_raw(&framed.repeat(UNDER_WAY))?;
        (0..UNDER_WAY).try_for_each(|_| secure.receive().map(|_| ()))?;
        Ok(())
    })
}

fn tls(nodens: &Nodens) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, nodens.ports().dns2).into()
}

/// A connection from the greedy client's address.
fn connect(server: SocketAddr) -> anyhow::Result<TcpStream> {
    let SocketAddr::V4(to) = server else { anyhow::bail!("not IPv4: {server}") };
    let flags = SockFlag::SOCK_CLOEXEC;
    let made = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    let from = std::net::SocketAddrV4::new(GREEDY, 0);
    socket::bind(made.as_raw_fd(), &SockaddrIn::from(from))?;
    socket::connect(made.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(made.into())
}

/// What one client notices while another floods in this way or that.
fn floods(site: &Site, now: &Nodens, time: Duration) -> anyhow::Result<()> {
    let alone = |flood: &str, more: serde_json::Value| {
        let load = site.neighbour();
        pause(Duration::from_millis(500));
        let from = Instant::now();
        pause(time);
        show(flood, 1, &load.stop(), from, more);
    };
    alone("neighbour alone", json!({}));
    site.upstream.on_query(|seen| match seen.name.contains("tarpit") {
        true => Act::Drop,
        false => Act::Answer,
    });
    let hits = questions();
    let hits: Questions = Arc::new(move |n| hits(n / 8 * 10 + n % 8));
    let misses: Questions = Arc::new(|n| wire(&format!("u{n}.flood.wild.test.")));
    let tarpit: Questions = Arc::new(|n| wire(&format!("u{n}.tarpit.test.")));
    for (flood, rate, questions) in [
        ("flood of hits", site.rate, hits),
        ("flood of misses", site.rate / 2, misses),
        ("flood of names without an answer", site.rate / 4, tarpit),
    ] {
        let greedy = Load::start_from(GREEDY, site.address, rate, 0, questions);
        alone(flood, json!({ "a_second": rate }));
        let lost = greedy.stop().lost.len();
        println!("{}", json!({ "event": flood, "greedy_lost": lost }));
    }
    for (flood, client) in [
        // Without a store of sessions each handshake is a full one.
        ("flood of TLS handshakes", site.client().without_resumption()),
        ("flood of TLS handshakes that are resumed", site.client()),
    ] {
        let greedy = Handshakes::start(&client, tls(now));
        let used = now.cpu();
        alone(flood, json!({}));
        let used = (now.cpu() - used).as_secs_f64() / time.as_secs_f64();
        println!("{}", json!({ "event": flood, "made": greedy.stop()?, "cpu": used }));
    }
    let admin = SocketAddr::from(([127, 0, 0, 1], now.ports().metrics));
    for (flood, server, octets) in [
        ("flood of TCP connections", site.address, &b"\0\x20ab"[..]),
        ("flood of connections to the metrics", admin, &b"GET /met"[..]),
    ] {
        let greedy = Connections::start(server, octets);
        alone(flood, json!({}));
        println!("{}", json!({ "event": flood, "opened": greedy.stop()? }));
    }
    Ok(())
}

fn show(what: &str, count: usize, report: &Report, from: Instant, more: serde_json::Value) {
    let to = Instant::now();
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    let udp = report.lost.iter().filter(|(_, what)| what.contains("UDP")).count();
    let line = json!({
        "event": what,
        "times": count,
        "asked": report.asked,
        "lost": report.lost.len(),
        "lost_udp": udp,
        "p50_ms": ms(report.quantile(0.5, from, to)),
        "p99_ms": ms(report.quantile(0.99, from, to)),
        "p999_ms": ms(report.quantile(0.999, from, to)),
        "silence_ms": ms(report.silence(from, to)),
        "more": more,
    });
    println!("{line}");
    for (at, what) in report.lost.iter().take(5) {
        eprintln!(
            "  lost {:.3} s after the begin: {what}",
            at.saturating_duration_since(from).as_secs_f64()
        );
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    let records: String = (0..HOT).map(|n| format!("n{n} IN A 192.0.2.1\n")).collect();
    let zone = "$ORIGIN test.\n$TTL 300\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\n";
    let authority = Authority::new("of the bench")?;
    let site = Site {
        cluster: Cluster::default(),
        pair: authority.server(&[NAME])?,
        authority,
        upstream: Upstream::with_zone(&format!("{zone}{records}")),
        address: SocketAddr::from(([127, 0, 0, 1], tests::ports::one())),
        folder: tempfile::tempdir()?,
        rate: arguments.rate,
    };
    if arguments.is_big {
        Shape::default().fill(site.cluster.server.store());
    }
    let mut now = site.setup().start();
    site.warm_up();
    pause(Duration::from_secs(2));
    site.cluster.server.clear_requests();

    let load = site.load();
    pause(Duration::from_secs(2));
    let from = Instant::now();
    pause(Duration::from_secs(3));
    show("nothing", 1, &load.stop(), from, json!({}));

    let (load, misses) = (site.load(), site.misses());
    pause(Duration::from_millis(500));
    let from = Instant::now();
    for n in 0..arguments.handovers {
        now = hand_over(&site, now, arguments.other.as_ref().filter(|_| n % 2 == 0));
    }
    pause(Duration::from_millis(300));
    let lists =
        site.cluster.server.requests().iter().filter(|request| request.verb == "list").count();
    let more = json!({ "lists": lists, "hot_misses": site.misses() - misses });
    show("hand-over", arguments.handovers, &load.stop(), from, more);

    pause(Duration::from_secs(2));
    let (load, misses) = (site.load(), site.misses());
    pause(Duration::from_millis(500));
    let from = Instant::now();
    for _ in 0..arguments.kills {
        kill(&now, Signal::SIGKILL);
        pause(Duration::from_millis(1_200));
    }
    let more = json!({ "hot_misses": site.misses() - misses });
    show("kill -9", arguments.kills, &load.stop(), from, more);

    let load = site.load();
    pause(Duration::from_millis(500));
    let from = Instant::now();
    for _ in 0..arguments.stops {
        kill(&now, Signal::SIGSTOP);
        pause(Duration::from_millis(1_500));
    }
    show("SIGSTOP", arguments.stops, &load.stop(), from, json!({}));

    let load = site.load();
    pause(Duration::from_millis(500));
    let from = Instant::now();
    for n in 0..arguments.reloads {
        now.write_corefile(&format!("{COREFILE}# {n}\n"));
        now.signal(Signal::SIGHUP);
        pause(Duration::from_millis(200));
    }
    show("reload", arguments.reloads, &load.stop(), from, json!({}));

    if !arguments.flood.is_zero() {
        floods(&site, &now, arguments.flood)?;
        streams(&site, &now, arguments.flood)?;
    }
    now.stop(SOON);
    Ok(())
}

fn hand_over(site: &Site, mut old: Nodens, other: Option<&PathBuf>) -> Nodens {
    let setup = other.map_or_else(|| site.setup(), |path| site.setup().program(path.clone()));
    let next = setup.start();
    next.wait_for_log("the previous instance has left", SOON);
    let status = old.wait_exit(SOON);
    assert!(status.success(), "{status}; log:\n{}", old.log());
    next
}

fn kill(nodens: &Nodens, signal: Signal) {
    let old = nodens.server();
    nodens.signal_server(signal);
    wait_for("another server", SOON, || nodens.server() != old && nodens.server() != nodens.pid());
}
