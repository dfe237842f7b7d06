//! Upstreams that are dead or fail, and more queries than are allowed, seen by clients.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tests::peers::ask::{Ask, Asker};
use tests::peers::content::Content;
use tests::peers::{note, zone};
use tests::poll::{self, wait_for};
use tests::process::{Nodens, Setup};
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(10);

const FORWARDING: &str = ".:@dns@ {
    bind 127.0.0.1
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
    @cache@
    forward . @to@ {
        @options@
    }
}
";

/// How long an upstream takes to answer: that of a resolver nearby, and more than this machine's noise.
const USUAL: Duration = Duration::from_millis(20);
/// Clients that ask at the same time, and how many misses each has.
const CLIENTS: usize = 8;
const MISSES: usize = 75;
/// How often a comparison of percentiles may be tried on a machine that does other things too.
const TRIES: usize = 4;
/// Names that are cached when all upstreams die.
const CACHED: usize = 400;
/// Queries in flight at most.
const LIMIT: usize = 1_000;

fn upstream() -> Upstream {
    let names: String = (0..CACHED).map(|n| format!("n{n} IN A 192.0.2.1\n")).collect();
    Upstream::with_zone(&format!(
        "$ORIGIN test.\n$TTL 1\n@ 1 IN SOA ns.test. admin.test. 1 3600 600 86400 1\n{names}"
    ))
}

fn upstreams<const N: usize>() -> [Upstream; N] {
    std::array::from_fn(|_| upstream())
}

fn nodens(upstreams: &[Upstream], cache: &str, options: &str) -> Nodens {
    let to: Vec<String> = upstreams.iter().map(|up| up.address().to_string()).collect();
    let corefile = FORWARDING.replace("@cache@", cache).replace("@options@", options);
    Setup::new(&corefile).word("to", to.join(" ")).start()
}

/// Asks different names from several clients at once, each until `enough`; returns all durations in order.
fn misses(server: SocketAddr, tag: &str, enough: impl Fn(usize) -> bool + Sync) -> Vec<Duration> {
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (all, enough) = (&all, &enough);
            scope.spawn(move || {
                let mut asker = Asker::new(server).unwrap();
                let mut n = 0;
                while !enough(n) {
                    let begun = Instant::now();
                    asker.udp(&Ask::new(&format!("{tag}-{client}-{n}.test."), zone::A)).unwrap();
                    all.lock().unwrap().push(begun.elapsed());
                    n += 1;
                }
            });
        }
    });
    let mut all = all.into_inner().unwrap();
    all.sort();
    all
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 99 / 100]
}

/// 99th percentiles of misses: with three healthy upstreams, and from one second after one of them fell silent or was gone.
fn one_of_three_dead(policy: &str, gone: bool) -> (Duration, Duration, Duration) {
    let mut ups = Vec::from(upstreams::<3>());
    for up in &ups {
        up.always(Act::Delay(USUAL, Box::new(Act::Answer)));
    }
    let nodens = nodens(&ups, "", &format!("policy {policy}"));
    misses(nodens.dns(), "warm", |n| n >= 20);
    let healthy = p99(&misses(nodens.dns(), "healthy", |n| n >= MISSES));
    let killed = Instant::now();
    if gone {
        drop(ups.pop());
    } else {
        ups[2].always(Act::Drop);
    }
    let first = misses(nodens.dns(), "first", |_| killed.elapsed() >= Duration::from_secs(1));
    let dead = p99(&misses(nodens.dns(), "dead", |n| n >= MISSES));
    (healthy, p99(&first), dead)
}

#[test]
fn outage_of_one_of_three_is_not_felt_after_a_second() {
    for (policy, gone) in [("random", false), ("fastest", false), ("round_robin", true)] {
        let good = (0..TRIES).any(|_| {
            let (healthy, first, dead) = one_of_three_dead(policy, gone);
            let ratio = dead.as_secs_f64() / healthy.as_secs_f64();
            note(&format!(
                "{policy}, one of three {}: p99 of misses {healthy:.1?} healthy, {first:.1?} in the first second, \
                 {dead:.1?} after it: {ratio:.2}",
                if gone { "gone" } else { "silent" }
            ));
            ratio < 1.5
        });
        assert!(good, "{policy}: p99 is 1.5 times that of healthy upstreams in {TRIES} tries");
    }
}

/// All names that were cached are answered, with the stale TTL, whatever has become of the upstreams.
#[test]
fn outage_of_all_leaves_every_cached_name() {
    for mode in ["immediate", "verify 100ms"] {
        let mut ups = Vec::from(upstreams::<2>());
        let cache = format!("cache {{\n success 9984 1 0\n serve_stale 1h {mode}\n }}");
        let nodens = nodens(&ups, &cache, "");
        let names: Vec<Ask> =
            (0..CACHED).map(|n| Ask::new(&format!("n{n}.test."), zone::A)).collect();
        let mut asker = Asker::new(nodens.dns()).unwrap();
        for ask in &names {
            assert_eq!(Content::of(&asker.udp(ask).unwrap()).unwrap().sections[0].len(), 1);
        }
        let kept = Instant::now();
        // Once silent, once gone: the first has to be waited for, the second is an error at once.
        for gone in [false, true] {
            if gone {
                ups.clear();
            }
            ups.iter().for_each(|up| up.always(Act::Drop));
            wait_for("the end of all TTLs", SOON, || kept.elapsed() > Duration::from_millis(2_100));
            let begun = Instant::now();
            let answered = stale_answers(nodens.dns(), &names);
            note(&format!(
                "all upstreams {}, serve_stale {mode}: {answered} of {CACHED} cached names answered in {:.1?}",
                if gone { "gone" } else { "silent" },
                begun.elapsed()
            ));
            assert_eq!(answered, CACHED);
        }
    }
}

/// How many names have a stale answer; asked by several clients at once.
fn stale_answers(server: SocketAddr, names: &[Ask]) -> usize {
    std::thread::scope(|scope| {
        let clients: Vec<_> = names
            .chunks(names.len().div_ceil(40))
            .map(|names| {
                scope.spawn(move || {
                    let mut asker = Asker::new(server).unwrap();
                    let is_stale = |ask: &&Ask| {
                        let content = Content::of(&asker.udp(ask).unwrap()).unwrap();
                        let ttl = content.ttls().next();
                        content.rcode == 0 && content.sections[0].len() == 1 && ttl <= Some(30)
                    };
                    names.iter().filter(is_stale).count()
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    })
}

#[test]
fn failures_are_passed_over_and_the_last_is_told() {
    let ups = upstreams::<3>();
    let [servfail, nxdomain, good] = &ups;
    servfail.always(Act::Rcode(ResponseCode::ServFail));
    nxdomain.always(Act::Rcode(ResponseCode::NXDomain));
    let nodens = nodens(&ups, "", "policy sequential\n failover SERVFAIL NXDOMAIN");
    let client = nodens.client();
    for n in 0..100 {
        let name = format!("n{n}.test.");
        let answer = client.ask(&name, RecordType::A).unwrap();
        assert_eq!(answer.data(RecordType::A), ["192.0.2.1"]);
        for up in &ups {
            assert_eq!(up.count(&name, RecordType::A), 1, "{name} at {up:?}");
        }
    }
    // Nobody knows better: what the last one said. Another name: who has failed at one is asked last for it.
    good.always(Act::Rcode(ResponseCode::NXDomain));
    let answer = client.ask("n100.test.", RecordType::A).unwrap();
    assert_eq!(answer.normal.rcode, "NXDOMAIN");
}

/// One query too many is REFUSED at once, and what waits takes little memory.
#[test]
fn too_many_queries_are_refused_in_bounded_memory() {
    let ups = upstreams::<1>();
    let nodens = nodens(&ups, "", &format!("max_concurrent {LIMIT}"));
    let mut asker = Asker::new(nodens.dns()).unwrap();
    asker.udp(&Ask::new("n1.test.", zone::A)).unwrap();
    ups[0].always(Act::Drop);
    let before = nodens.resident();
    let begun = Instant::now();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let packet = |n: usize| Ask::new(&format!("wait{n}.test."), zone::A).packet(n as u16);
    // In parts, which no receive buffer is too small for.
    for part in 0..LIMIT / 100 {
        for n in part * 100..(part + 1) * 100 {
            socket.send_to(&packet(n), nodens.dns()).unwrap();
        }
        wait_for("the upstream hears of them", SOON, || ups[0].total() > (part + 1) * 100);
    }
    let waiting = nodens.resident().saturating_sub(before);
    let (mut more, mut refused, mut slowest, mut buffer) = (0, 0, Duration::ZERO, [0; 512]);
    // As long as none of the first has been given up.
    for part in (0..30).take_while(|_| begun.elapsed() < Duration::from_millis(1_500)) {
        let sent = Instant::now();
        for n in 0..100 {
            socket.send_to(&packet(LIMIT + part * 100 + n), nodens.dns()).unwrap();
        }
        for _ in 0..100 {
            let length = socket.recv(&mut buffer).unwrap();
            refused += usize::from(Content::of(&buffer[..length]).unwrap().rcode == 5);
            slowest = slowest.max(sent.elapsed());
        }
        more += 100;
    }
    let after = nodens.resident().saturating_sub(before);
    assert!(more > 0, "the first are given up by now, after {:?}", begun.elapsed());
    note(&format!(
        "max_concurrent {LIMIT}: {refused} of {more} more REFUSED, the slowest of 100 at once after {slowest:.1?}; {} octets for \
         each that waits, {} KiB more in all",
        waiting / LIMIT as u64,
        after >> 10
    ));
    assert_eq!(refused, more);
    let rejects = nodens.metrics().sum("coredns_forward_max_concurrent_rejects_total", &[]);
    assert_eq!(rejects, more as f64);
    assert!(waiting < LIMIT as u64 * (16 << 10), "{waiting} octets for {LIMIT} queries");
    assert!(after < waiting + (4 << 20), "{after} octets");
    // The first are SERVFAIL when their time is over, and their places are free again.
    ups[0].always(Act::Answer);
    let client = nodens.client();
    let works = || client.ask("n1.test.", RecordType::A).is_ok_and(|a| a.normal.rcode == "NOERROR");
    assert!(poll::until(SOON, works), "it does not recover");
}
