//! Upstreams that lead back: dnsmasq pointed at us, and two nodes pointed at one another. Cluster names are asked for all the
//! time, and none may be missed.

use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use tests::client::Answer;
use tests::peers::meanwhile::{OBJECTS, cluster_names};
use tests::peers::{have, note, servers};
use tests::poll::wait_for;
use tests::process::{Nodens, Setup};
use tests::upstream::Upstream;

/// A looping upstream is probed every 10 s.
const MENDED: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(5);

const COREFILE: &str = ".:@dns@ {
    bind 127.0.0.1
    prometheus 127.0.0.1:@metrics@
    ready 127.0.0.1:@ready@
    kubernetes cluster.local {
        objects @folder@/objects
    }
    forward . @folder@/resolv.conf
    loop
}
";

const ZONE: &str = "$ORIGIN test.\n$TTL 1\n@ 1 IN SOA ns.test. admin.test. 1 3600 600 86400 1\nwww IN A 192.0.2.1\n";

fn nodens(server: std::net::SocketAddr) -> Nodens {
    let setup = Setup::new(COREFILE).file("objects/web.yaml", OBJECTS);
    setup.file("resolv.conf", &nameserver(server)).start()
}

fn nameserver(server: std::net::SocketAddr) -> String {
    format!("nameserver {server}\n")
}

fn ask(nodens: &Nodens) -> Answer {
    nodens.client().ask("www.test.", RecordType::A).unwrap()
}

fn works(nodens: &Nodens) -> bool {
    ask(nodens).data(RecordType::A) == ["192.0.2.1"]
}

/// The loop is told by the log, the metric, `/ready` and the answers, and the process goes on.
#[track_caller]
fn is_told(nodens: &Nodens, upstream: std::net::SocketAddr) {
    let label = upstream.to_string();
    nodens.wait_for_log(&format!("a loop: this server -> {label}"), SOON);
    let metrics = nodens.metrics();
    assert_eq!(metrics.sum("nodens_loop_upstream", &[("upstream", &label)]), 1.0);
    assert_eq!(metrics.sum("nodens_forward_upstream_up", &[("to", &label)]), 0.0);
    let ready = nodens.get(nodens.ports().ready, "/ready?verbose").unwrap();
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains(&format!("forwarding loops: {label}")), "{}", ready.body);
    assert!(ready.body.contains("set aside: its queries come back here"), "{}", ready.body);
    let begun = Instant::now();
    let answer = ask(nodens);
    assert_eq!(answer.normal.rcode, "SERVFAIL");
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert!(text.contains("queries to every upstream come back here"), "{text:?}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}: not at once", begun.elapsed());
}

/// After the cure.
#[track_caller]
fn is_mended(nodens: &Nodens, upstream: std::net::SocketAddr) {
    wait_for("the upstream is in use again", MENDED, || works(nodens));
    let label = upstream.to_string();
    assert_eq!(nodens.metrics().sum("nodens_loop_upstream", &[("upstream", &label)]), 0.0);
    assert_eq!(nodens.get(nodens.ports().ready, "/ready").unwrap().status, 200);
}

#[test]
fn loops_through_dnsmasq_are_found_and_forgotten() {
    if !have(&["dnsmasq"]) {
        return;
    }
    let good = Upstream::with_zone(ZONE);
    let dnsmasq = servers::dnsmasq(good.address());
    let to = dnsmasq.address();
    let mut nodens = nodens(good.address());
    assert!(works(&nodens));
    let asked = cluster_names(&[nodens.dns()], || {
        // All is well with dnsmasq in between, and then it is turned round.
        nodens.write_file("resolv.conf", &nameserver(to));
        nodens.wait_for_log("the new upstreams are in use", SOON);
        assert!(works(&nodens));
        servers::point_dnsmasq(&dnsmasq, nodens.dns());
        let begun = Instant::now();
        nodens.log().wait_for_line_while(
            "a loop in the traffic",
            SOON,
            || drop(ask(&nodens)),
            |line| line.contains("a loop: this server"),
        );
        let seen = begun.elapsed();
        is_told(&nodens, to);
        servers::point_dnsmasq(&dnsmasq, good.address());
        let begun = Instant::now();
        is_mended(&nodens, to);
        note(&format!(
            "loop through dnsmasq: set aside after {seen:.1?}, in use again {:.1?} after the cure",
            begun.elapsed()
        ));
    });
    let log = nodens.stop_for_log(SOON);
    assert_eq!(log.matches("a loop: this server").count(), 1, "one line for one loop:\n{log}");
    note(&format!("loop through dnsmasq: {asked} cluster names asked meanwhile, all answered"));
}

/// One of the two finds the loop and ends it by that; to the other it is then an upstream that answers SERVFAIL.
#[test]
fn loops_of_two_nodes_are_found_and_forgotten() {
    let good = Upstream::with_zone(ZONE);
    let one = nodens(good.address());
    let other = nodens(one.dns());
    assert!(works(&other));
    let asked = cluster_names(&[one.dns(), other.dns()], || {
        let begun = Instant::now();
        one.write_file("resolv.conf", &nameserver(other.dns()));
        let found = |nodens: &Nodens, upstream: &Nodens| {
            let label = upstream.dns().to_string();
            nodens.metrics().sum("nodens_loop_upstream", &[("upstream", &label)]) > 0.0
        };
        wait_for("one has found the loop", SOON, || {
            ask(&one);
            found(&one, &other) || found(&other, &one)
        });
        let seen = begun.elapsed();
        let (finder, behind) = if found(&one, &other) { (&one, &other) } else { (&other, &one) };
        is_told(finder, behind.dns());
        assert_eq!(ask(behind).normal.rcode, "SERVFAIL");
        let requests = || {
            let count = |nodens: &Nodens| {
                nodens.metrics().sum("coredns_dns_requests_total", &[("zone", ".")])
            };
            count(&one) + count(&other)
        };
        let before = requests();
        (0..50).for_each(|_| assert_eq!(ask(behind).normal.rcode, "SERVFAIL"));
        let each = (requests() - before) / 50.0;
        assert!(each < 4.0, "{each} queries for one");

        one.write_file("resolv.conf", &nameserver(good.address()));
        let cured = Instant::now();
        wait_for("the upstreams are in use again", MENDED, || works(&one) && works(&other));
        note(&format!(
            "loop of two nodes: set aside after {seen:.1?}, {each} queries in all for one meanwhile, in use again {:.1?} after \
             the cure",
            cured.elapsed()
        ));
    });
    note(&format!("loop of two nodes: {asked} cluster names asked meanwhile, all answered"));
}
