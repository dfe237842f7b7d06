//! The real binary and an API server in trouble, as clients, probes and scrapers see it.

#[path = "store_scenarios/reloads.rs"]
mod reloads;
#[path = "store_scenarios/snapshots.rs"]
mod snapshots;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::api::{Fault, Options, Policy};
use tests::cluster::{Asker, Cluster};
use tests::poll::{until_some, wait_for};
use tests::process::{self, Nodens, Ready};
use tests::upstream::Upstream;

/// Longer than any of these takes on a busy machine; pauses of the watches grow to 30 s.
const SOON: Duration = Duration::from_secs(60);

/// Queries a second while things go wrong.
const RATE: u32 = 200;

const KINDS: [&str; 3] = ["Service", "EndpointSlice", "Namespace"];

fn a(nodens: &Nodens, name: &str) -> (String, Vec<String>) {
    asked(nodens, name, RecordType::A)
}

fn asked(nodens: &Nodens, name: &str, kind: RecordType) -> (String, Vec<String>) {
    let answer = nodens.client().ask(name, kind).unwrap();
    (answer.normal.rcode.clone(), answer.data(kind))
}

fn no_error(data: &str) -> (String, Vec<String>) {
    ("NOERROR".into(), vec![data.into()])
}

#[track_caller]
fn wait_for_answer(nodens: &Nodens, name: &str, wanted: &(String, Vec<String>)) {
    wait_for(&format!("{name}: {wanted:?}"), SOON, || a(nodens, name) == *wanted);
}

fn sum(nodens: &Nodens, name: &str, labels: &[(&str, &str)]) -> f64 {
    nodens.metrics().sum(name, labels)
}

fn count(nodens: &Nodens, name: &str, kind: &str) -> u64 {
    sum(nodens, name, &[("kind", kind)]) as u64
}

fn errors(nodens: &Nodens) -> u64 {
    sum(nodens, "nodens_kubernetes_watch_errors_total", &[]) as u64
}

#[track_caller]
fn wait_errors(nodens: &Nodens, more: u64) {
    let before = errors(nodens);
    wait_for("watch errors", SOON, || errors(nodens) >= before + more);
}

fn relists(nodens: &Nodens) -> [u64; 3] {
    KINDS.map(|kind| count(nodens, "nodens_kubernetes_relists_total", kind))
}

fn ready(nodens: &Nodens) -> (u16, String) {
    let reply = nodens.get(nodens.ports().ready, "/ready").unwrap();
    (reply.status, reply.body)
}

fn details(nodens: &Nodens) -> Value {
    let reply = nodens.get(nodens.ports().ready, "/ready?verbose").unwrap();
    serde_json::from_str::<Value>(&reply.body).unwrap()["details"].take()
}

fn status(nodens: &Nodens) -> String {
    let socket = nodens.folder().join("nodens.sock");
    let (status, out, err) = process::run(&["status", "--socket", &socket.to_string_lossy()]);
    assert!(status.success(), "{err}");
    out
}

/// Asks for everything that the objects say now, until it is finished.
fn asker(cluster: &Cluster, nodens: &Nodens) -> Asker {
    Asker::start(nodens.dns(), cluster.known(), RATE)
}

#[test]
fn an_outage_is_survived_and_caught_up_with() {
    let cluster = Cluster::default();
    for (name, ip) in [("changes", "10.96.200.1"), ("goes", "10.96.200.2")] {
        cluster.put_service(name, ip);
    }
    let nodens = cluster.start("");
    cluster.wait_level(&nodens, "the first lists", SOON);
    for kind in KINDS {
        assert_eq!(count(&nodens, "nodens_kubernetes_synced", kind), 1);
        assert!(count(&nodens, "nodens_kubernetes_objects", kind) >= 9);
    }
    assert_eq!(ready(&nodens), (200, "OK".into()));
    let asker = asker(&cluster, &nodens);
    cluster.server.refuse();
    cluster.put_service("changes", "10.96.200.9");
    cluster.put_service("comes", "10.96.200.3");
    cluster.delete_service("goes");
    wait_errors(&nodens, 3);
    wait_for("age", SOON, || {
        sum(&nodens, "nodens_kubernetes_store_age_seconds", &[("kind", "Service")]) > 1.0
    });
    // The first error is that the connection was cut; then there is nobody to connect to.
    wait_for("the refusal to be told", SOON, || {
        let detail = details(&nodens)["kubernetes"][0].take();
        detail["state"].as_str().unwrap().contains("answered from what is known")
            && detail["last_error"].as_str().unwrap().contains("cannot reach the API server")
    });
    // Nothing is known to be too old: whoever did not set max_staleness is served.
    assert_eq!(ready(&nodens).0, 200);
    asker.finish_flawless();
    cluster.server.heal();
    wait_for_answer(&nodens, "changes.default.svc.cluster.local.", &no_error("10.96.200.9"));
    cluster.wait_level(&nodens, "what happened meanwhile", SOON);
    assert_eq!(relists(&nodens), [1, 1, 1], "the watches went on from where they were");
    // Each kind has its own watch, and they come back one after the other.
    wait_for("all watches", SOON, || status(&nodens).contains("up to date"));
    assert!(status(&nodens).starts_with("OK"), "{}", status(&nodens));
}

#[test]
fn what_scrapers_see_is_complete() {
    let cluster = Cluster::default();
    let nodens = cluster.start("max_staleness 1h");
    cluster.put_service("new", "10.96.200.1");
    let mut slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "db-new", "namespace": "default",
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"},
            "labels": {"kubernetes.io/service-name": "db", "service.kubernetes.io/headless": ""}},
        "endpoints": [{"addresses": ["10.1.9.9"], "conditions": {"ready": true}}], "ports": []});
    cluster.server.put(slice.clone());
    wait_for_answer(&nodens, "new.default.svc.cluster.local.", &no_error("10.96.200.1"));
    cluster.wait_level(&nodens, "the slice", SOON);
    slice["endpoints"] = json!([]);
    cluster.server.put(slice);
    cluster.server.delete("services", "default", "new");
    cluster.wait_level(&nodens, "the end", SOON);
    let metrics = nodens.metrics();
    let host = format!("127.0.0.1:{}", cluster.server.port());
    let event = |kind| {
        metrics.sum("nodens_kubernetes_events_total", &[("kind", "Service"), ("type", kind)])
    };
    assert!(event("added") >= 1.0 && event("deleted") >= 1.0, "{:#?}", metrics.map());
    for (name, labels) in [
        ("nodens_kubernetes_received_bytes_total", vec![]),
        (
            "coredns_kubernetes_rest_client_requests_total",
            vec![("code", "200"), ("host", &*host), ("method", "GET")],
        ),
        (
            "coredns_kubernetes_rest_client_request_duration_seconds_count",
            vec![("verb", "GET"), ("host", &*host)],
        ),
        (
            "coredns_kubernetes_rest_client_rate_limiter_duration_seconds_count",
            vec![("verb", "GET")],
        ),
        (
            "coredns_kubernetes_dns_programming_duration_seconds_count",
            vec![("service_kind", "headless_with_selector")],
        ),
    ] {
        assert!(metrics.sum(name, &labels) >= 1.0, "{name} {labels:?}");
    }
    for zero in [
        "nodens_kubernetes_snapshot_in_use",
        "nodens_kubernetes_stale",
        "nodens_waiting_queries",
        "nodens_waiting_overflow_total",
        "nodens_unsent_replies_total",
        "nodens_tcp_connections",
    ] {
        assert!(metrics.has(zero, &[]) && metrics.sum(zero, &[]) == 0.0, "{zero}");
    }
    let _open = nodens.client().connect().unwrap();
    nodens
        .wait_for_metrics("the connection", SOON, |m| m.sum("nodens_tcp_connections", &[]) == 1.0);
    let upstream = &details(&nodens)["forward"][0]["upstreams"][0];
    assert_eq!(upstream["to"], cluster.upstream.address().to_string());
    assert_eq!(upstream["state"], "not asked yet");
}

#[test]
fn an_expired_token_is_replaced() {
    let cluster = Cluster::default();
    let nodens = cluster.start("");
    let asker = asker(&cluster, &nodens);
    cluster.server.rotate_token(true);
    cluster.server.cut();
    nodens.wait_for_log("401", SOON);
    wait_errors(&nodens, 3);
    assert!(details(&nodens)["kubernetes"][0]["last_error"].as_str().unwrap().contains("401"));
    asker.finish_flawless();
    cluster.put_service("new", "10.96.200.1");
    cluster.write_kubeconfig();
    cluster.wait_level(&nodens, "the new token", SOON);
}

#[test]
fn a_forgotten_version_is_listed_anew_beside_what_is_known() {
    let cluster = Cluster::default();
    cluster.put_service("goes", "10.96.200.2");
    let nodens = cluster.start("");
    cluster.wait_level(&nodens, "the first lists", SOON);
    let known = cluster.known().into_iter().filter(|known| {
        !known.name.starts_with("goes.") && !known.name.starts_with("2.200.96.10.")
    });
    let asker = Asker::start(nodens.dns(), known.collect(), RATE);
    cluster.server.inject(Fault::Gone);
    wait_errors(&nodens, 3);
    cluster.server.heal();
    cluster.server.refuse();
    cluster.put_service("new", "10.96.200.1");
    cluster.delete_service("goes");
    cluster.server.store().compact();
    cluster.server.heal();
    cluster.wait_level(&nodens, "everything listed again", SOON);
    assert!(relists(&nodens)[0] >= 2, "{:?}", relists(&nodens));
    asker.finish_flawless();
}

#[test]
fn lists_that_are_cut_off_take_nothing_away() {
    let cluster = Cluster::default();
    let nodens = cluster.start("");
    cluster.wait_level(&nodens, "the first lists", SOON);
    let asker = asker(&cluster, &nodens);
    // Everything has changed, and nothing but a list can tell; and no list comes to its end.
    cluster.server.inject(Fault::CutAfter { bytes: 3_000 });
    cluster.load();
    cluster.server.store().compact();
    cluster.server.cut();
    wait_errors(&nodens, 4);
    asker.finish_flawless();
    cluster.put_service("new", "10.96.200.1");
    cluster.server.heal();
    cluster.wait_level(&nodens, "a whole list", SOON);
}

#[test]
fn a_namespace_full_of_bad_objects_harms_nobody() {
    let cluster = Cluster::default();
    let mut nodens = cluster.start("");
    cluster.wait_level(&nodens, "the first lists", SOON);
    let asker = asker(&cluster, &nodens);
    let put = |name: &str, spec: Value| {
        cluster.server.put(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "bad"}, "spec": spec}))
    };
    for n in 0..10 {
        put(&format!("ip-{n}"), json!({"clusterIP": format!("10.96.0.{}", 256 + n)}));
        put(&format!("type-{n}"), json!({"clusterIP": {"a": n}}));
        put(&format!("port-{n}"), json!({"clusterIP": "None", "ports": [{"port": 70_000 + n}]}));
    }
    let slice = |name: &str, more: Value| {
        let mut value = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "bad", "labels": {"kubernetes.io/service-name": "web"}}});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        cluster.server.put(value);
    };
    slice("addresses", json!({"endpoints": [{"addresses": ["10.1.2.3.4"]}], "ports": []}));
    slice("endpoints", json!({"endpoints": "all", "ports": []}));
    let mut huge = tests::cluster::service("huge", "10.96.200.9");
    huge["metadata"]["annotations"] = json!({"text": "x".repeat(1 << 20)});
    cluster.server.put(huge);
    cluster.put_service("good", "10.96.200.1");
    wait_for_answer(&nodens, "good.default.svc.cluster.local.", &no_error("10.96.200.1"));
    wait_for_answer(&nodens, "huge.default.svc.cluster.local.", &no_error("10.96.200.9"));
    let skipped = |kind| count(&nodens, "nodens_kubernetes_skipped_objects_total", kind);
    wait_for("all of them", SOON, || (skipped("Service"), skipped("EndpointSlice")) == (30, 2));
    // They come again with the next list: counted, but the log has named them.
    cluster.server.refuse();
    cluster.put_service("better", "10.96.200.2");
    cluster.server.store().compact();
    cluster.server.heal();
    wait_for_answer(&nodens, "better.default.svc.cluster.local.", &no_error("10.96.200.2"));
    wait_for("all of them again", SOON, || skipped("Service") >= 60);
    assert_eq!(a(&nodens, "ip-1.bad.svc.cluster.local.").0, "NXDOMAIN");
    asker.finish_flawless();
    let log = nodens.stop_for_log(SOON);
    for n in 0..10 {
        for name in [format!("ip-{n}"), format!("type-{n}"), format!("port-{n}")] {
            let named = log.lines().filter(|line| line.contains(&format!("\"{name}\"")));
            assert_eq!(named.count(), 1, "{name} in\n{log}");
        }
    }
}

#[test]
fn a_missing_role_is_named() {
    let cluster = Cluster::default();
    let allowed = Policy::default().allow("", &["services", "namespaces"], &["list", "watch"]);
    cluster.server.configure(|behaviour| behaviour.policy = Some(allowed));
    let nodens = cluster.start_unready("startup_timeout 500ms");
    nodens.wait_for_log("the account needs an RBAC rule for this kind", SOON);
    wait_for("the other kinds", SOON, || {
        ready(&nodens).1.contains("waiting for the first list of EndpointSlices (EndpointSlices: ")
    });
    let (code, body) = ready(&nodens);
    assert!(code == 503 && body.contains("403"), "{body}");
    // What does not depend on it is answered.
    wait_for_answer(&nodens, "web.default.svc.cluster.local.", &no_error("10.96.87.191"));
    assert_eq!(a(&nodens, "db.default.svc.cluster.local.").0, "SERVFAIL");
    println!("{body}{}", status(&nodens));
}

#[test]
fn names_are_answered_for_as_long_as_it_takes() {
    let mut options = Options::default();
    options.behaviour.bookmark_interval = Duration::from_millis(100);
    let cluster = Cluster::with(options);
    let nodens = cluster.start("max_staleness 2s");
    cluster.wait_level(&nodens, "the first lists", SOON);
    let asker = asker(&cluster, &nodens);
    assert_eq!(sum(&nodens, "nodens_kubernetes_stale", &[]), 0.0);
    cluster.server.refuse();
    wait_for("max_staleness", SOON, || ready(&nodens).0 == 503);
    let (_, body) = ready(&nodens);
    assert!(
        body.starts_with("kubernetes: nothing was heard of the API server for ")
            && body.contains("max_staleness is 2 s")
            && body.contains("cannot reach the API server"),
        "{body}"
    );
    assert_eq!(sum(&nodens, "nodens_kubernetes_stale", &[]), 1.0);
    for kind in KINDS {
        assert!(sum(&nodens, "nodens_kubernetes_store_age_seconds", &[("kind", kind)]) > 1.0);
    }
    asker.finish_flawless();
    cluster.server.heal();
    wait_for("the API server", SOON, || ready(&nodens).0 == 200);
    assert_eq!(sum(&nodens, "nodens_kubernetes_stale", &[]), 0.0);
}

#[test]
fn a_fallback_is_asked_until_the_first_lists_are_there() {
    let cluster = Cluster::default();
    let dns = Upstream::with_zone(
        "$ORIGIN cluster.local.\n$TTL 5\n@ IN SOA ns.dns hostmaster 1 7200 1800 86400 5\nweb.default.svc IN A 10.96.87.191\n",
    );
    cluster.server.refuse();
    let nodens = cluster
        .setup("fallback @fallback@")
        .word("fallback", dns.address())
        .ready(Ready::Answer)
        .start();
    let web = "web.default.svc.cluster.local.";
    assert_eq!(a(&nodens, web), no_error("10.96.87.191"));
    assert_eq!(a(&nodens, "nobody.default.svc.cluster.local.").0, "NXDOMAIN");
    // Names of addresses go there as well, not to the upstream of everything else.
    let address = "1.0.96.10.in-addr.arpa.";
    assert_eq!(asked(&nodens, address, RecordType::PTR).0, "NXDOMAIN");
    assert_eq!(dns.count(address, RecordType::PTR), 1);
    assert_eq!(cluster.upstream.count(address, RecordType::PTR), 0);
    assert_eq!(dns.count(web, RecordType::A), 1);
    assert_eq!(cluster.upstream.count(web, RecordType::A), 0);
    // It is who answers, but we are not there yet.
    let (code, body) = ready(&nodens);
    assert!(code == 503 && body.contains("waiting for the first list of Services"), "{body}");
    cluster.server.heal();
    wait_for("the first lists", SOON, || ready(&nodens).0 == 200);
    cluster.wait_level(&nodens, "the first lists", SOON);
    // From now on never again.
    dns.forget();
    cluster.server.refuse();
    wait_errors(&nodens, 3);
    cluster.wait_level(&nodens, "what is known", SOON);
    assert_eq!(a(&nodens, "nobody.default.svc.cluster.local.").0, "NXDOMAIN");
    assert_eq!(dns.total(), 0, "{:?}", dns.seen());
}

#[test]
fn nothing_leaks_before_the_first_lists() {
    let cluster = Cluster::default();
    cluster.server.refuse();
    let nodens = cluster.start_unready("startup_timeout 100ms");
    let unknown = [
        ("web.default.svc.cluster.local.", RecordType::A),
        ("1.0.96.10.in-addr.arpa.", RecordType::PTR),
        ("8.8.8.8.in-addr.arpa.", RecordType::PTR),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.d.f.ip6.arpa.",
            RecordType::PTR,
        ),
    ];
    for (name, kind) in unknown {
        let answer = nodens.client().ask(name, kind).unwrap();
        assert_eq!(answer.normal.rcode, "SERVFAIL", "{name}");
        // EDE 14, Not Ready, with its text (RFC 8914).
        let text = b"\x00\x0ethe cluster's objects have not been listed yet";
        assert!(
            answer.bytes.windows(text.len()).any(|w| w == text),
            "{name}: {:?}",
            answer.message
        );
        assert_eq!(cluster.upstream.count(name, kind), 0, "{name}");
    }
    assert_eq!(a(&nodens, "example.org."), no_error("192.0.2.7"));
    let (code, body) = ready(&nodens);
    assert!(
        code == 503
            && body.contains(
                "kubernetes: waiting for the first list of Services, Namespaces, EndpointSlices"
            ),
        "{body}"
    );
    cluster.server.heal();
    wait_for("the first lists", SOON, || ready(&nodens).0 == 200);
    let owner = until_some(SOON, || {
        let answer = asked(&nodens, "1.0.96.10.in-addr.arpa.", RecordType::PTR);
        (answer.0 == "NOERROR").then_some(answer.1)
    });
    assert_eq!(owner.unwrap(), ["kubernetes.default.svc.cluster.local."]);
    assert_eq!(asked(&nodens, "8.8.8.8.in-addr.arpa.", RecordType::PTR).0, "NXDOMAIN");
    assert_eq!(cluster.upstream.count("8.8.8.8.in-addr.arpa.", RecordType::PTR), 1);
}
