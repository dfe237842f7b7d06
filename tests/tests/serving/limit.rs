//! `limit`: each client's rate, over all workers, over both transports, and across a reload.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use tests::client::Question;
use tests::poll;
use tests::ports;
use tests::process::{Nodens, Setup};
use tests::upstream::{Act, Upstream};

use super::{SILENCE, SOON, chaos, rcode};

/// Queries at once; the rate is so low that hardly one comes on top in the time of the test.
const BURST: usize = 40;

const COREFILE: &str = "example.test.:@dns@ {
    bind 127.0.0.1
    limit 1 40 {
        @action@
        except 127.0.0.9
    }
    whoami
    prometheus 127.0.0.1:@metrics@
    health 127.0.0.1:@health@
    ready 127.0.0.1:@ready@
}
";

fn start(action: &str) -> Nodens {
    Setup::new(COREFILE).word("action", action).arguments(&["--workers", "4"]).start()
}

/// Sends `count` queries from `address`, each from a port of its own, so that all workers get some. Returns the response
/// codes that have come back.
fn flood(nodens: &Nodens, address: &str, count: usize) -> Vec<u8> {
    let query = Question::new("a.example.test.", RecordType::A).to_bytes();
    let sockets: Vec<UdpSocket> =
        (0..count).map(|_| UdpSocket::bind((address, 0)).unwrap()).collect();
    for socket in &sockets {
        socket.send_to(&query, nodens.dns()).unwrap();
    }
    let mut reply = [0; 512];
    // All are answered by the time that the first wait is over, if they are at all.
    let mut patience = SILENCE;
    let mut received = |socket: &UdpSocket| {
        socket.set_read_timeout(Some(patience)).unwrap();
        let len = socket.recv(&mut reply).ok();
        patience = if len.is_none() { Duration::from_millis(1) } else { patience };
        len.map(|len| rcode(&reply[..len]))
    };
    sockets.iter().filter_map(&mut received).collect()
}

fn count(nodens: &Nodens, action: &str) -> usize {
    let labels = [("zone", "example.test."), ("action", action)];
    nodens.metrics().sum("nodens_limit_requests_total", &labels) as usize
}

#[track_caller]
fn assert_limited(answered: usize) {
    assert!((BURST..BURST + 10).contains(&answered), "{answered} answers");
}

#[test]
fn what_exceeds_the_limit_of_a_client_is_dropped() {
    let nodens = start("drop");
    assert_limited(flood(&nodens, "127.0.0.2", 200).len());
    assert_eq!(flood(&nodens, "127.0.0.3", BURST), vec![0; BURST], "another client");
    assert_eq!(flood(&nodens, "127.0.0.9", 200), vec![0; 200], "a client without a limit");
    let dropped = count(&nodens, "drop");
    assert!((150..=200 - BURST).contains(&dropped), "{dropped}");
    assert_eq!(count(&nodens, "refuse"), 0);

    // Over TCP the connection stays, without an answer; the next queries of it are judged like any.
    flood(&nodens, "127.0.0.1", 2 * BURST);
    let client = nodens.client().within(SILENCE);
    let mut connection = client.connect().unwrap();
    connection.send(&Question::new("a.example.test.", RecordType::A).to_bytes()).unwrap();
    assert!(connection.receive().is_err(), "neither an answer nor an end");
    connection.send(&chaos("version.bind.").to_bytes()).unwrap();
    assert!(connection.receive().unwrap().is_some(), "class CHAOS has no limit");
    assert_eq!(nodens.get(nodens.ports().health, "/health").unwrap().status, 200);
}

#[test]
fn a_reload_keeps_what_clients_have_used() {
    let nodens = start("refuse");
    let codes = flood(&nodens, "127.0.0.2", 200);
    assert_eq!(codes.len(), 200);
    assert_limited(codes.iter().filter(|code| **code == 0).count());
    let before = count(&nodens, "refuse");
    assert!((150..=200 - BURST).contains(&before), "{before}");
    let refused = nodens.client();
    flood(&nodens, "127.0.0.1", 2 * BURST);
    let over_tcp = refused.tcp(&Question::new("a.example.test.", RecordType::A)).unwrap();
    assert_eq!(over_tcp.normal.rcode, "REFUSED");

    nodens.write_corefile(&COREFILE.replace("    whoami", "    whoami\n    bufsize 1400"));
    nodens.signal(Signal::SIGHUP);
    nodens.wait_for_log("reloaded the configuration", SOON);
    let codes = flood(&nodens, "127.0.0.2", 100);
    let good = codes.iter().filter(|code| **code == 0).count();
    assert!(codes.len() == 100 && good < 10, "{good} of {}", codes.len());
    poll::wait_for("the count to go on", SOON, || count(&nodens, "refuse") >= before + 90);
}

/// Without any limit, names that get no answer take no more than a share of an upstream's places.
#[test]
fn upstreams_are_shared_by_client() {
    let zone = "$ORIGIN test.\n$TTL 60\n@ IN SOA ns admin 1 60 60 60 60\n";
    let upstream = Upstream::with_zone(zone);
    upstream.on_query(|seen| if seen.name.starts_with("tar") { Act::Drop } else { Act::Answer });
    let corefile =
        ".:@dns@ {\n bind 127.0.0.1\n forward . @to@\n prometheus 127.0.0.1:@metrics@\n}\n";
    let nodens = Setup::new(corefile).word("to", upstream.address()).start();
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let socket = UdpSocket::bind("127.0.0.3:0").unwrap();
            for n in (0..).take_while(|_| !stop.load(Relaxed)) {
                let query = Question::new(&format!("tar{n}.test."), RecordType::A).to_bytes();
                let _ = socket.send_to(&query, nodens.dns());
                sent.fetch_add(1, Relaxed);
                // It is the upstream's places that are to be short, and not the kernel's queue.
                let is_full = || ports::queued(nodens.dns().port()) > 64 << 10;
                if n % 40 == 39 {
                    poll::pause(Duration::from_millis(10));
                    while is_full() && !stop.load(Relaxed) {
                        poll::pause(Duration::from_millis(2));
                    }
                }
            }
        });
        // Until more of them wait than the upstream gets places.
        let has_flooded = poll::until(3 * SOON, || sent.load(Relaxed) > 7_000);
        let ask = |n: usize| nodens.client().ask(&format!("n{n}.good.test."), RecordType::A);
        let wrong: Vec<String> = (0..200)
            .filter_map(|n| match ask(n) {
                Ok(answer) if answer.normal.rcode == "NXDOMAIN" => None,
                other => Some(format!("{n}: {other:?}")),
            })
            .collect();
        // First, since the flood would go on for ever.
        stop.store(true, Relaxed);
        assert!(has_flooded && wrong.is_empty(), "{wrong:?}");
    });
    assert!(nodens.metrics().sum("nodens_forward_share_rejects_total", &[]) > 0.0);
}
