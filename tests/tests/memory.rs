//! The memory budget under a real limit of a control group: a flood that fills all that clients can fill does not get the
//! server killed, and names that are known are answered as before. A limit that changes takes effect while the server runs.
//!
//! Needs root and a control group that may have children with a memory limit, of version 1 or 2; says SKIPPED without one.
//! `NODENS_MEMORY_SECONDS` (8) makes each flood longer, `NODENS_MEMORY_RATE` (4,000 names a second) faster or slower.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::client::Question;
use tests::poll::{self, pause};
use tests::process::{Nodens, Setup};

const SOON: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

/// Unique names a second: enough to turn the cache over, few enough for a build without optimisation.
const FLOOD: u64 = 4_000;
/// Names that a client asks for all the time, once and without a second try.
const HOT: usize = 20;
const HOT_RATE: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(2);
/// Octets of an answer's data.
const ANSWER: usize = 250;
/// Clients that hoard TCP connections, and how many each.
const HOARDERS: u8 = 12;
const HOARD: usize = 120;

const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    forward . @upstream@
    cache 3600
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
}
";

/// A control group of its own, removed when dropped.
struct Group {
    folder: PathBuf,
    is_v1: bool,
}

impl Group {
    /// With this limit; `None` where this machine does not let us have one.
    fn new(limit: u64) -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let v1 = Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes");
        let is_v1 = v1.exists();
        let root = if is_v1 { v1.parent().unwrap() } else { Path::new("/sys/fs/cgroup") };
        if !is_v1 {
            // It may be given to children already.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        let number = NUMBER.fetch_add(1, Relaxed);
        let folder = root.join(format!("nodens-test-{}-{number}", std::process::id()));
        fs::create_dir(&folder).ok()?;
        let group = Self { folder, is_v1 };
        let file = if is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(group.folder.join(file), limit.to_string()).ok()?;
        Some(group)
    }

    /// As [`Group::new`]; says that the test is skipped.
    fn or_skip(limit: u64) -> Option<Self> {
        let group = Self::new(limit);
        if group.is_none() {
            let text = "\n*** SKIPPED: no control group with a memory limit can be made here ***";
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        group
    }

    fn limit(&self, limit: u64) {
        let file = if self.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(self.folder.join(file), limit.to_string()).unwrap();
    }

    fn number(&self, file: &str, field: &str) -> u64 {
        let text = fs::read_to_string(self.folder.join(file)).unwrap();
        let line = text.lines().find(|line| field.is_empty() || line.starts_with(field)).unwrap();
        line.split(' ').next_back().unwrap().parse().unwrap()
    }

    /// The most that was in use, in octets; version 2 has known it since Linux 5.19.
    fn peak(&self) -> u64 {
        let file = if self.is_v1 { "memory.max_usage_in_bytes" } else { "memory.peak" };
        if self.folder.join(file).exists() { self.number(file, "") } else { 0 }
    }

    fn kills(&self) -> u64 {
        match self.is_v1 {
            true => self.number("memory.oom_control", "oom_kill "),
            false => self.number("memory.events", "oom_kill "),
        }
    }

    fn start(&self, upstream: SocketAddr) -> Nodens {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.folder.display());
        Setup::new(COREFILE)
            .word("upstream", upstream)
            .wrapper(&["sh", "-c", &enter, "sh"])
            .arguments(&["--socket", "@folder@/socket"])
            .start()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is busy for as long as the process in it takes to end.
        poll::until(SOON, || fs::remove_dir(&self.folder).is_ok());
    }
}

/// How often the upstreams were asked for `hot`.
static HOT_ASKED: AtomicUsize = AtomicUsize::new(0);

/// Tells the threads of a test to end, also when it fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// An upstream that answers every name with a TXT record, but never those that begin with `dead`.
fn upstream(ended: Arc<AtomicBool>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    thread::spawn(move || {
        let mut query = [0; 1_024];
        while !ended.load(Relaxed) {
            let Ok((len, from)) = socket.recv_from(&mut query) else { continue };
            let query = &query[..len];
            if query[13..].starts_with(b"dead") {
                continue;
            }
            if query[12..].starts_with(b"\x03hot") {
                HOT_ASKED.fetch_add(1, Relaxed);
            }
            let name = 12 + query[12..].iter().position(|&octet| octet == 0).unwrap();
            let mut reply = query[..name + 5].to_vec();
            reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            reply.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 14, 16, 0, ANSWER as u8 + 1, ANSWER as u8]);
            reply.extend([b'x'; ANSWER]);
            let _ = socket.send_to(&reply, from);
        }
    });
    address
}

fn query(name: &str) -> Vec<u8> {
    Question::new(name, RecordType::TXT).without_edns().to_bytes()
}

/// Calls `each` at this rate until `ended`.
fn steadily(rate: u64, ended: &AtomicBool, mut each: impl FnMut(u64)) {
    let (begun, mut done) = (Instant::now(), 0);
    while !ended.load(Relaxed) {
        let due = begun.elapsed().as_millis() as u64 * rate / 1_000;
        (done..due).for_each(&mut each);
        done = due;
        pause(Duration::from_millis(2));
    }
}

/// Queries for names that nobody asks for twice, from many clients; of every eight one is for a dead name.
fn flood(server: SocketAddr, ended: &AtomicBool) {
    let clients: Vec<UdpSocket> =
        (1..=16).map(|n| UdpSocket::bind((Ipv4Addr::new(127, 0, 1, n), 0)).unwrap()).collect();
    let mut reply = [0; 1_024];
    let padding = format!("{}.{}", "p".repeat(60), "q".repeat(60));
    steadily(from_environment("NODENS_MEMORY_RATE", FLOOD), ended, |number| {
        let client = &clients[number as usize % clients.len()];
        let kind = if number % 8 == 0 { "dead" } else { "n" };
        let _ = client.send_to(&query(&format!("{kind}{number}.{padding}.test.")), server);
        client.set_nonblocking(true).unwrap();
        while client.recv(&mut reply).is_ok() {}
    });
}

/// Clients that open as many connections as they can and leave a long query unfinished on each.
fn hoard(server: SocketAddr, ended: &AtomicBool) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let mut held: Vec<TcpStream> = Vec::new();
    let half = [&[0xff, 0xff][..], &[0; 40_000]].concat();
    while !ended.load(Relaxed) {
        held.clear();
        for n in 1..=HOARDERS {
            for _ in 0..HOARD {
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
                        .unwrap();
                let from = SocketAddr::from((Ipv4Addr::new(127, 0, 2, n), 0));
                socket.bind(&from.into()).unwrap();
                if socket.connect(&server.into()).is_err() {
                    continue;
                }
                let mut stream = TcpStream::from(socket);
                stream.set_nonblocking(true).unwrap();
                let _ = stream.write(&half);
                held.push(stream);
            }
            if ended.load(Relaxed) {
                return;
            }
        }
        poll::until(Duration::from_secs(2), || ended.load(Relaxed));
        held.iter_mut().for_each(|stream| drop(stream.read(&mut [0; 16])));
    }
}

/// What came of the names that are known.
#[derive(Debug, Default)]
struct Hot {
    asked: usize,
    lost: usize,
    longest: Duration,
}

/// One client that asks for known names at a steady rate, each once.
fn ask_hot(server: SocketAddr, ended: &AtomicBool) -> Hot {
    let socket = UdpSocket::bind("127.0.0.9:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut hot = Hot::default();
    let mut reply = [0; 1_024];
    steadily(HOT_RATE, ended, |number| {
        let mut packet = query(&format!("hot{}.test.", number as usize % HOT));
        packet[..2].copy_from_slice(&(number as u16).to_be_bytes());
        let begun = Instant::now();
        socket.send_to(&packet, server).unwrap();
        hot.asked += 1;
        loop {
            match socket.recv(&mut reply) {
                Ok(_) if reply[..2] != packet[..2] => {}
                Ok(_) => break assert_eq!(reply[3] & 15, 0, "a response code"),
                Err(_) => break hot.lost += 1,
            }
        }
        hot.longest = hot.longest.max(begun.elapsed());
    });
    hot
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn seconds() -> Duration {
    Duration::from_secs(from_environment("NODENS_MEMORY_SECONDS", 8))
}

fn survives(limit: u64) {
    let Some(group) = Group::or_skip(limit) else { return };
    let ended = Arc::new(AtomicBool::new(false));
    let mut nodens = group.start(upstream(Arc::clone(&ended)));
    let server = nodens.dns();
    let idle = group.peak();
    for n in 0..HOT {
        nodens.client().udp(&Question::new(&format!("hot{n}.test."), RecordType::TXT)).unwrap();
    }
    let most_shed = AtomicU64::new(0);
    let hot = thread::scope(|scope| {
        let _ended = Ends(&ended);
        scope.spawn(|| flood(server, &ended));
        scope.spawn(|| hoard(server, &ended));
        let hot = scope.spawn(|| ask_hot(server, &ended));
        let begun = Instant::now();
        while begun.elapsed() < seconds() && nodens.is_running() {
            pause(Duration::from_millis(500));
            if let Some(page) = nodens.get(nodens.ports().metrics, "/metrics") {
                let shed =
                    tests::metrics::Metrics::parse(&page.body).sum("nodens_memory_shed", &[]);
                most_shed.fetch_max(shed as u64, Relaxed);
            }
        }
        ended.store(true, Relaxed);
        hot.join().unwrap()
    });
    let metrics = nodens.metrics();
    let sum = |name: &str| metrics.sum(name, &[]) as u64;
    println!(
        "limit {} MiB: idle {} MiB, peak {} MiB, cache {} of {} KiB, {} evicted or turned away, {} connections refused, \
         {} queries dropped, shed {}, {hot:?}",
        limit / MIB,
        idle / MIB,
        group.peak() / MIB,
        sum("nodens_cache_bytes") >> 10,
        sum("nodens_cache_limit_bytes") >> 10,
        sum("coredns_cache_evictions_total") + sum("nodens_cache_turned_away_total"),
        sum("nodens_tcp_refused_total"),
        sum("nodens_waiting_overflow_total"),
        most_shed.load(Relaxed),
    );
    assert!(nodens.is_running() && group.kills() == 0, "killed {} times", group.kills());
    assert_eq!(sum("nodens_memory_limit_bytes"), limit);
    assert!(hot.asked > 500 && hot.lost == 0, "{hot:?}");
    assert!(sum("nodens_cache_bytes") <= limit / 6 + limit / 60);
}

#[test]
fn memory_a_flood_does_not_get_a_server_of_64_mib_killed() {
    survives(64 * MIB);
}

#[test]
fn memory_a_flood_does_not_get_a_server_of_192_mib_killed() {
    survives(192 * MIB);
}

#[test]
fn memory_a_limit_that_changes_takes_effect() {
    let Some(group) = Group::or_skip(1_024 * MIB) else { return };
    let ended = Arc::new(AtomicBool::new(false));
    let nodens = group.start(upstream(Arc::clone(&ended)));
    let is = |name: &str, wanted: f64| {
        nodens.wait_for_metrics(&format!("{name} {wanted}"), SOON, |metrics| {
            metrics.sum(name, &[]) == wanted
        })
    };
    is("nodens_memory_limit_bytes", 1_024.0 * MIB as f64);
    is("nodens_cache_limit_bytes", 32.0 * MIB as f64);
    group.limit(96 * MIB);
    is("nodens_memory_limit_bytes", 96.0 * MIB as f64);
    is("nodens_cache_limit_bytes", 16.0 * MIB as f64);
    nodens.wait_for_log("the memory limit has changed", SOON);

    // The cache is full, and memory is short: what is used stays.
    let client = nodens.client();
    let hot = || client.udp(&Question::new("hot.test.", RecordType::TXT)).unwrap();
    hot();
    let server = nodens.dns();
    let (stop, flooding) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let (_stop, _flooding) = (Ends(&stop), Ends(&flooding));
        let flood = scope.spawn(|| flood(server, &flooding));
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                hot();
                pause(Duration::from_millis(20));
            }
        });
        nodens.wait_for_metrics("a full cache", SOON, |metrics| {
            metrics.sum("nodens_cache_bytes", &[]) > 12.0 * MIB as f64
        });
        // What is still in its queues takes memory, too.
        flooding.store(true, Relaxed);
        flood.join().unwrap();
        nodens.wait_for_metrics("the last answers", SOON, |metrics| {
            metrics.sum("nodens_waiting_queries", &[]) == 0.0
        });
        let used = nodens.metrics().sum("nodens_memory_used_bytes", &[]) as u64;
        group.limit(used * 100 / 83);
        nodens.wait_for_metrics("the cache to shrink", SOON, |metrics| {
            metrics.sum("nodens_memory_shed", &[("what", "cache")]) == 1.0
                && metrics.sum("nodens_cache_bytes", &[]) <= 8.0 * MIB as f64
        });
        hot();
        assert_eq!(HOT_ASKED.load(Relaxed), 1, "it was kept");
        group.limit(1_024 * MIB);
        nodens.wait_for_metrics("all to be as before", Duration::from_secs(120), |metrics| {
            metrics.sum("nodens_memory_shed", &[]) == 0.0
                && metrics.sum("nodens_cache_limit_bytes", &[]) == 32.0 * MIB as f64
        });
        stop.store(true, Relaxed);
    });
    nodens.wait_for_log("memory is no longer short", SOON);
    ended.store(true, Relaxed);
    assert_eq!(group.kills(), 0);
}
