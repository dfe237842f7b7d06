//! One instance takes over from another at the same address, as in a rolling update with surge: clients notice nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use tests::client::{Client, Question};
use tests::poll;
use tests::process::{Nodens, Setup};
use tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(20);
/// How often the instance is exchanged.
const TURNS: usize = 5;
/// How long the query that the old instance still waits for takes.
const SLOW: Duration = Duration::from_millis(500);
const ZONE: &str = "$ORIGIN test.\n$TTL 60\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\nslow IN A 192.0.2.2\n";
const COREFILE: &str = "example.test.:@port@ {
    bind 127.0.0.1
    template IN A {
        answer \"{{ .Name }} 60 IN A 192.0.2.1\"
    }
    ready 127.0.0.1:@ready@
}
test.:@port@ {
    bind 127.0.0.1
    forward . @upstream@
}
";

fn start(port: u16, upstream: &Upstream) -> Nodens {
    Setup::new(COREFILE).word("port", port).word("upstream", upstream.address()).start()
}

#[test]
fn no_query_is_lost_when_instances_change() {
    let upstream = Upstream::with_zone(ZONE);
    upstream.on_query(|_| Act::Delay(SLOW, Box::new(Act::Answer)));
    let port = tests::ports::one();
    let server = Client::new(([127, 0, 0, 1], port).into()).within(Duration::from_secs(5));
    let mut now = start(port, &upstream);
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ask = |tcp: bool| {
        let mut lost = Vec::new();
        while !stop.load(Relaxed) {
            // Each from a port of its own, so that all sockets of both instances have their share.
            let question = Question::new("a.example.test.", RecordType::A);
            let answer = if tcp { server.tcp(&question) } else { server.udp(&question) };
            asked.fetch_add(1, Relaxed);
            match answer {
                Ok(answer) if answer.data(RecordType::A) == ["192.0.2.1"] => {}
                other => lost.push(format!("tcp {tcp}: {other:?}")),
            }
        }
        lost
    };
    let lost = std::thread::scope(|scope| {
        let clients = [false, false, false, true].map(|tcp| scope.spawn(move || ask(tcp)));
        for turn in 0..TURNS {
            let next = start(port, &upstream);
            // While this one waits for its answer, the old instance's socket stays open.

            let waiting = scope.spawn({
                let question = Question::new("slow.test.", RecordType::A);
                move || server.udp(&question)
            });
            poll::wait_for("the upstream to be asked", SOON, || {
                upstream.count("slow.test.", RecordType::A) > turn
            });
            std::mem::replace(&mut now, next).stop(SOON);
            waiting.join().unwrap().unwrap();
        }
        stop.store(true, Relaxed);
        clients.map(|client| client.join().unwrap()).concat()
    });
    let asked = asked.load(Relaxed);
    println!("{asked} queries while {TURNS} instances changed, {} lost", lost.len());
    assert!(asked > 500 && lost.is_empty(), "{asked} queries, lost: {lost:#?}");
}
