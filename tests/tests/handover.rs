//! One instance takes over from another at the same address, as in a rolling update with surge: clients notice nothing.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use tests::client::{Client, Question};
use tests::poll;
use tests::process::{Nodens, Setup};
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(20);
/// How often the instance is exchanged.
const TURNS: usize = 4;
/// How long the queries take for which an instance that is to end still waits.
const SLOW: Duration = Duration::from_millis(400);
/// How many those are, each from a port of its own, so that every socket has some.
const WAITING: usize = 8;
/// The threads of an instance that answer, each with listeners of its own.
const WORKERS: usize = 2;
const ZONE: &str = "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\n";
const COREFILE: &str = "example.test.:@port@ {
    bind @address@
    template IN A {
        answer \"{{ .Name }} 60 IN A 192.0.2.1\"
    }
    ready 127.0.0.1:@ready@
}
test.:@port@ {
    bind @address@
    forward . @upstream@
    cache 30
}
";

fn start(address: SocketAddr, upstream: &Upstream) -> Nodens {
    Setup::new(COREFILE)
        .word("port", address.port())
        .word("address", address.ip())
        .word("upstream", upstream.address())
        .arguments(&["--workers", &WORKERS.to_string()])
        .start()
}

/// Ends the clients, also where the test fails.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn no_query_is_lost_when_instances_change() {
    for address in ["127.0.0.1", "0.0.0.0", "::"] {
        let address = SocketAddr::new(address.parse().unwrap(), tests::ports::one());
        if address.is_ipv6() && UdpSocket::bind((address.ip(), 0)).is_err() {
            println!("skipped {address}: no IPv6 here");
            continue;
        }
        change(address);
    }
}

fn change(address: SocketAddr) {
    let slow: String = (0..TURNS * WAITING).map(|n| format!("slow{n} IN A 192.0.2.2\n")).collect();
    let upstream = Upstream::with_zone(&format!("{ZONE}{slow}"));
    upstream.on_query(|_| Act::Delay(SLOW, Box::new(Act::Answer)));
    // Over IPv4, at the socket for both families, too.
    let server =
        Client::new(([127, 0, 0, 1], address.port()).into()).within(Duration::from_secs(5));
    let mut now = start(address, &upstream);
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ask = |tcp: bool| {
        let mut lost = Vec::new();
        while !stop.load(Relaxed) {
            // Each from a port of its own, so that all sockets of both instances have their share.
            let question = Question::new("a.example.test.", RecordType::A);
            let mut answer = if tcp { server.tcp(&question) } else { server.udp(&question) };
            // Whoever is about to connect when a listener closes is reset by the kernel, and tries again: each worker has one.
            for _ in 0..WORKERS {
                if tcp && answer.is_err() {
                    answer = server.tcp(&question);
                }
            }
            asked.fetch_add(1, Relaxed);
            match answer {
                Ok(answer) if answer.data(RecordType::A) == ["192.0.2.1"] => {}
                other => lost.push(format!("tcp {tcp}: {other:?}")),
            }
        }
        lost
    };
    let lost = std::thread::scope(|scope| {
        let stop = Stop(&stop);
        let clients = [false, false, false, true].map(|tcp| scope.spawn(move || ask(tcp)));
        for turn in 0..TURNS {
            // While they wait for their answers, the old instance's sockets stay open.
            let waiting: Vec<_> = (turn * WAITING..(turn + 1) * WAITING)
                .map(|n| {
                    let question = Question::new(&format!("slow{n}.test."), RecordType::A);
                    scope.spawn(move || server.udp(&question))
                })
                .collect();
            let next = start(address, &upstream);
            poll::wait_for("the upstream to be asked", SOON, || {
                upstream.seen().iter().filter(|seen| seen.name.starts_with("slow")).count()
                    >= (turn + 1) * WAITING
            });
            std::mem::replace(&mut now, next).stop(SOON);
            for answer in waiting {
                assert_eq!(answer.join().unwrap().unwrap().data(RecordType::A), ["192.0.2.2"]);
            }
        }
        drop(stop);
        clients.map(|client| client.join().unwrap()).concat()
    });
    let asked = asked.load(Relaxed);
    println!("{address}: {asked} queries while {TURNS} instances changed, {} lost", lost.len());
    assert!(asked > 200 && lost.is_empty(), "{address}: {asked} queries, lost: {lost:#?}");
}
