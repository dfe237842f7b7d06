//! A crash while the Corefile is not the configuration that runs: the node is served as before, and the file is treated as in
//! a reload.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::client::{Client, Connection, Question};
use tests::poll::wait_for;
use tests::process::{self, Nodens, Setup};

const SOON: Duration = Duration::from_secs(20);
const COREFILE: &str = "hosts.test.:@dns@ {
    bind 127.0.0.1
    hosts {
        192.0.2.1 a.hosts.test
    }
    prometheus 127.0.0.1:@metrics@
}
";
const KEPT: &str = "is not used but the configuration that ran before";

fn start(corefile: &str) -> Nodens {
    let nodens = Setup::new(corefile).start();
    // From then on the supervisor knows that it has served.
    nodens.wait_for_log("serving version=", SOON);
    nodens
}

fn command(nodens: &Nodens, words: &[&str]) -> (bool, String) {
    let socket = nodens.folder().join("nodens.sock").display().to_string();
    let (status, out, error) = process::run(&[words, &["--socket", &socket]].concat());
    (status.success(), out + &error)
}

fn status(nodens: &Nodens) -> Value {
    serde_json::from_str(&command(nodens, &["status", "-o", "json"]).1).unwrap_or_default()
}

/// Waits until the status says that the file is not loaded, and why.
#[track_caller]
fn wait_for_refusal(nodens: &Nodens, reason: &str) {
    wait_for(reason, SOON, || {
        let status = status(nodens);
        status["refused_configuration"].as_str().is_some_and(|text| text.contains(reason))
    });
}

/// Kills the server and waits for the next one.
fn crash(nodens: &Nodens) {
    let old = nodens.server();
    nodens.signal_server(Signal::SIGKILL);
    wait_for("another server", SOON, || ![old, nodens.pid()].contains(&nodens.server()));
}

/// The address of `a.hosts.test.`. A query waits for a server that starts.
#[track_caller]
fn address(nodens: &Nodens) -> Ipv4Addr {
    let client = Client::new(nodens.dns()).within(SOON);
    let answer = client.udp(&Question::new("a.hosts.test.", RecordType::A)).unwrap();
    match answer.message.answers.first().map(|record| &record.data) {
        Some(hickory_proto::rr::RData::A(address)) => address.0,
        other => panic!("{other:?}; log:\n{}", nodens.log()),
    }
}

fn numbered(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

#[test]
fn a_file_with_errors_does_no_harm_after_a_crash() {
    let mut nodens = start(COREFILE);
    assert_eq!(address(&nodens), numbered(1));
    nodens.write_corefile(&COREFILE.replace("hosts {", "hsots {"));
    assert!(!command(&nodens, &["reload"]).0);
    // Again and again, since what was kept is kept on.
    for _ in 0..3 {
        crash(&nodens);
        assert_eq!(address(&nodens), numbered(1), "{}", nodens.log());
        wait_for_refusal(&nodens, "it has 1 error: ");
        nodens.wait_for_metrics("the refusal", SOON, |metrics| {
            metrics.sum("nodens_config_refused_since_timestamp_seconds", &[]) > 1.7e9
                && metrics.sum("coredns_reload_failed_total", &[]) == 1.0
        });
    }
    let line = nodens.wait_for_log(KEPT, SOON);
    assert!(line.contains("WARN") && line.contains("hsots"), "{line}");

    // A file that is gone is one with an error.
    std::fs::remove_file(nodens.folder().join("Corefile")).unwrap();
    crash(&nodens);
    assert_eq!(address(&nodens), numbered(1));
    wait_for_refusal(&nodens, "cannot be read");

    // Mended, it counts; and from then on it is what a crash begins with.
    let mended = COREFILE.replace("192.0.2.1 ", "192.0.2.2 ");
    nodens.write_corefile(&mended);
    assert!(command(&nodens, &["reload"]).0);
    assert_eq!(address(&nodens), numbered(2));
    nodens.write_corefile("nonsense");
    crash(&nodens);
    assert_eq!(address(&nodens), numbered(2));
    nodens.stop(SOON);
}

#[test]
fn what_is_held_back_is_held_back_after_a_crash() {
    let mut nodens = start(COREFILE);
    assert_eq!(address(&nodens), numbered(1));
    nodens.write_corefile(&COREFILE.replace("bind 127.0.0.1", "bind 127.0.0.3"));
    let (applied, said) = command(&nodens, &["reload"]);
    assert!(!applied && said.contains("held back"), "{said}");
    let elsewhere = SocketAddr::from(([127, 0, 0, 3], nodens.ports().dns));
    let question = Question::new("a.hosts.test.", RecordType::A);
    for _ in 0..2 {
        crash(&nodens);
        assert_eq!(address(&nodens), numbered(1));
        wait_for_refusal(&nodens, "which it does not listen on");
        nodens.wait_for_metrics("that it is held back", SOON, |metrics| {
            metrics.sum("nodens_config_held_back_since_timestamp_seconds", &[]) > 1.7e9
        });
        let client = Client::new(elsewhere).within(Duration::from_millis(100));
        assert!(client.udp(&question).is_err());
    }
    // Meant, it goes through, crash or not.
    assert!(command(&nodens, &["reload", "--force"]).0);
    crash(&nodens);
    let client = Client::new(elsewhere).within(SOON);
    assert_eq!(client.udp(&question).unwrap().normal.rcode, "NOERROR");
    nodens.stop(SOON);
}

#[test]
fn a_file_that_was_not_read_yet_is_read_after_a_crash() {
    let mut nodens = start(COREFILE);
    assert_eq!(address(&nodens), numbered(1));
    nodens.write_corefile(&COREFILE.replace("192.0.2.1 ", "192.0.2.2 "));
    crash(&nodens);
    wait_for("the changed file", SOON, || address(&nodens) == numbered(2));
    let line = nodens.wait_for_log(KEPT, SOON);
    assert!(line.contains("it has changed"), "{line}");
    assert_eq!(status(&nodens)["refused_configuration"], Value::Null);
    nodens.stop(SOON);
}

#[test]
fn a_first_start_reads_the_file_alone() {
    let mut nodens = start(COREFILE);
    nodens.write_corefile(&COREFILE.replace("192.0.2.1 ", "192.0.2.2 "));
    // Another instance takes over: what its predecessor ran is not its own.
    assert!(command(&nodens, &["upgrade"]).0, "{}", nodens.log());
    assert_eq!(address(&nodens), numbered(2));
    let ended = nodens.wait_exit(SOON);
    // The new one is no child of this test.
    let server = status(&nodens)["pid"].as_u64().unwrap();
    let text = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    let parent = text.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    let supervisor = Pid::from_raw(parent.parse().unwrap());
    kill(supervisor, Signal::SIGTERM).unwrap();
    wait_for("the end of the new one", SOON, || kill(supervisor, None).is_err());
    let log = nodens.complete_log();
    assert!(ended.success() && !log.contains(KEPT), "{log}");
}

#[test]
fn a_connection_that_lasts_outlives_crashes() {
    let mut nodens = start(COREFILE);
    let question = Question::new("a.hosts.test.", RecordType::A).to_bytes();
    let mut connection = Client::new(nodens.dns()).within(SOON).connect().unwrap();
    let ask = |connection: &mut Connection, id: u8| {
        let mut query = question.clone();
        query[1] = id;
        connection.send(&query).unwrap();
        let reply = connection.receive().unwrap().expect("an answer");
        assert_eq!((reply[1], reply[3] & 0xf, reply[7]), (id, 0, 1));
    };
    for id in 0..3 {
        ask(&mut connection, id);
    }
    for round in 1..4 {
        // Part of a query is there, and the rest comes to the next process.
        let mut query = question.clone();
        query[1] = round * 10;
        let frame = [&(query.len() as u16).to_be_bytes()[..], &query].concat();
        let (begin, rest) = frame.split_at(usize::from(round) * 5);
        connection.send_raw(begin).unwrap();
        crash(&nodens);
        connection.send_raw(rest).unwrap();
        let reply = connection.receive().unwrap().expect("an answer");
        assert_eq!((reply[1], reply[7]), (round * 10, 1), "{}", nodens.log());
        ask(&mut connection, round * 10 + 1);
    }
    // One that ends is not kept open by the supervisor.
    nodens.write_corefile(
        &COREFILE.replace("@metrics@\n", "@metrics@\n    timeouts {\n        idle 1s\n    }\n"),
    );
    wait_for("a reload", SOON, || command(&nodens, &["reload"]).0);
    ask(&mut connection, 100);
    assert!(connection.receive().unwrap().is_none(), "it is closed when it has been idle");
    nodens.stop(SOON);
}

#[test]
fn many_queries_of_a_connection_are_answered_across_a_crash() {
    let mut nodens = start(COREFILE);
    let question = Question::new("a.hosts.test.", RecordType::A).to_bytes();
    let query = |id: u16| {
        let mut query = question.clone();
        query[..2].copy_from_slice(&id.to_be_bytes());
        query
    };
    let mut connection = Client::new(nodens.dns()).within(SOON).connect().unwrap();
    for id in 0..3 {
        connection.send(&query(id)).unwrap();
        connection.receive().unwrap().expect("an answer");
    }
    let old = nodens.server();
    nodens.freeze_server();
    // More than one turn takes, and than the buffer of a turn holds.
    for id in 3..400 {
        connection.send(&query(id)).unwrap();
    }
    nodens.signal_server(Signal::SIGKILL);
    wait_for("another server", SOON, || ![old, nodens.pid()].contains(&nodens.server()));
    let mut answered = std::collections::BTreeSet::new();
    while answered.len() < 397 {
        let reply = connection.receive().unwrap().expect("an answer");
        answered.insert(u16::from_be_bytes([reply[0], reply[1]]));
    }
    assert_eq!((answered.first(), answered.last()), (Some(&3), Some(&399)));
    nodens.stop(SOON);
}
