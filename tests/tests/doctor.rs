//! `nodens doctor`: each finding is made for real and found. What needs root or a network of its own: `doctor_node.rs`.

#[path = "doctor/api.rs"]
mod api;
#[path = "doctor/config.rs"]
mod config;
#[path = "doctor/fleet.rs"]
mod fleet;
#[path = "doctor/lookups.rs"]
mod lookups;
#[path = "doctor/machine.rs"]
mod machine;
#[path = "doctor/pods.rs"]
mod pods;
#[path = "doctor/server.rs"]
mod server;
#[path = "doctor/upstreams.rs"]
mod upstreams;

use std::time::Duration;

use tests::cluster::Cluster;
use tests::doctor::{BOUND, Findings};
use tests::process;
use tests::upstream::Upstream;

/// Longer than any of these takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A root zone, as every resolver has one.
const ROOT: &str = "$ORIGIN .\n$TTL 60\n. IN SOA ns.test. admin.test. 1 3600 600 86400 60\n. IN NS a.root.test.\n\
    www.example. IN A 192.0.2.1\n";

/// A resolver that knows the root.
fn resolver() -> Upstream {
    let upstream = Upstream::with_zone(ROOT);
    upstream.offer_recursion();
    upstream
}

/// Everything at once on a healthy node: nothing is wrong, and it is done in time.
#[test]
fn a_healthy_node_has_no_problem() {
    let cluster = Cluster::default();
    cluster.upstream.change(|zone| *zone = tests::zone::Zone::parse(ROOT).unwrap());
    let nodens = cluster.start("snapshot @data@/snapshots");
    let found = Findings::of_server(&nodens, &[]);
    assert_eq!(found.all("problem"), [""; 0], "{:#}", found.value);
    assert_eq!((found.status, &found.value["worst"] == "problem"), (0, false));
    assert!(found.took < BOUND, "{:?}", found.took);
    assert!(found.value["checks"].as_array().unwrap().len() >= 30);
    for id in [
        "server-answers",
        "server-store",
        "corefile-valid",
        "api-answers",
        "api-rights",
        "port",
        "instances",
    ] {
        found.demand(id, "ok", "");
    }
    for id in ["lookup-udp", "lookup-tcp", "lookup-search", "lookup-api", "lookup-upstreams"] {
        found.demand(id, "ok", "");
    }
    for id in [
        "upstream-udp",
        "upstream-tcp",
        "upstream-edns",
        "upstream-truncation",
        "descriptors",
        "clock",
    ] {
        found.demand(id, "ok", "");
    }
}

/// People read it: a line for each check, the cure below, a last line with the counts; categories can be chosen.
#[test]
fn it_is_told_in_text() {
    let (status, out, _) = process::run(&[
        "doctor",
        "server",
        "--socket",
        "/nonexistent/nodens.sock",
        "-conf",
        "/dev/null",
    ]);
    assert_eq!(status.code(), Some(1));
    assert!(
        out.starts_with("PROBLEM: server-answers\n\nserver\n  PROBLEM  server-answers"),
        "{out}"
    );
    assert!(out.contains("cure: start the server"), "{out}");
    assert!(out.contains("see docs/doctor.md#server"), "{out}");
    assert!(out.lines().last().unwrap().contains(": 1 problem, 0 warnings"), "{out}");
    assert!(!out.contains("upstream-udp"), "{out}");
}

/// What cannot be examined at all has a status of its own.
#[test]
fn what_cannot_be_examined_is_told_apart() {
    for arguments in [
        &["doctor", "nonsense"][..],
        &["doctor", "--cluster", "--kubeconfig", "/nonexistent/kubeconfig"],
        &["doctor", "--cluster", "upstreams"],
        &["doctor", "nodes"],
    ] {
        let (status, out, err) = process::run(arguments);
        assert_eq!(status.code(), Some(2), "{arguments:?}: {out}{err}");
        assert!(!err.is_empty());
    }
}
