//! `limit`: each client's rate, over all workers, over both transports, and across a reload.

use std::net::UdpSocket;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use tests::client::Question;
use tests::poll;
use tests::process::{Nodens, Setup};

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
