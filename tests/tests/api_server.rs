//! The real binary beside API servers that lag, restart, forget and refuse: what it asks for, and what it answers meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nodens::cluster::Interner;
use nodens::cluster::decode::Encoding;
use nodens::cluster::object::Kind;
use serde_json::json;
use tests::api::credentials::Identity;
use tests::api::generate::Shape;
use tests::api::{Fault, Garbage, GoneStyle, Options, Protobuf, Resource, Scope, StreamingLists};
use tests::client::Question;
use tests::cluster::Cluster;
use tests::poll::{pause, until, wait_for};
use tests::process::Nodens;
use tests::upstream::Upstream;
use tests::zone::Zone;

/// Longer than any of these takes on a busy machine.
const SOON: Duration = Duration::from_secs(60);

fn addresses(nodens: &Nodens, name: &str) -> Vec<String> {
    let name = format!("{name}.default.svc.cluster.local.");
    nodens.client().ask(&name, RecordType::A).map(|a| a.data(RecordType::A)).unwrap_or_default()
}

#[track_caller]
fn wait_for_address(nodens: &Nodens, name: &str, ip: &str) {
    wait_for(&format!("{name} at {ip}"), SOON, || addresses(nodens, name) == [ip]);
}

fn sum(nodens: &Nodens, name: &str) -> f64 {
    nodens.metrics().sum(name, &[])
}

/// Q24. A list from a watch cache that lags behind must not bring back what was true before.
#[test]
fn a_relist_never_goes_back_in_time() {
    for (fault, gone) in [
        (Fault::Garbage(Garbage::Json), GoneStyle::Event),
        (Fault::CutAfter { bytes: 10 }, GoneStyle::Event),
        (Fault::Status { code: 418, retry_after: None }, GoneStyle::Event),
        (Fault::Gone, GoneStyle::Event),
        (Fault::Gone, GoneStyle::Http),
    ] {
        {
            let mut options = Options::default();
            options.behaviour.gone = gone;
            // A list that came by a watch would end by the fault, too.
            options.behaviour.streaming_lists = StreamingLists::Refused;
            // A sign of life that can be cut off.
            options.behaviour.bookmark_interval = Duration::from_millis(50);
            let cluster = Cluster::with(options);
            cluster.put_service("turns", "10.96.200.1");
            let nodens = cluster.start("");
            wait_for_address(&nodens, "turns", "10.96.200.1");
            cluster.server.store().mark();
            cluster.put_service("turns", "10.96.200.2");
            wait_for_address(&nodens, "turns", "10.96.200.2");
            cluster.server.clear_requests();
            cluster.server.store().lag(true);
            cluster.server.inject_for(Scope::watches().of("services"), fault);
            cluster.server.cut();
            let listed = || !cluster.server.requests_of("list", "services").is_empty();
            let mut seen = vec![];
            wait_for(&format!("a list after {fault:?}"), SOON, || {
                seen.extend(addresses(&nodens, "turns"));
                listed()
            });
            let end = Instant::now() + Duration::from_secs(2);
            while Instant::now() < end {
                seen.extend(addresses(&nodens, "turns"));
                pause(Duration::from_millis(20));
            }
            seen.dedup();
            assert_eq!(seen, ["10.96.200.2"], "{fault:?}");
            for list in cluster.server.requests_of("list", "services") {
                assert_ne!(list.parameter("resourceVersion"), "0", "{fault:?}");
            }
            cluster.server.store().lag(false);
            cluster.server.heal();
            cluster.put_service("turns", "10.96.200.3");
            wait_for_address(&nodens, "turns", "10.96.200.3");
        }
    }
}

/// A server that was restored from a backup has smaller versions than those that are known.
#[test]
fn a_restored_server_is_followed() {
    let cluster = Cluster::default();
    cluster.put_service("turns", "10.96.200.1");
    let nodens = cluster.start("");
    wait_for_address(&nodens, "turns", "10.96.200.1");
    for _ in 0..50 {
        cluster.put_service("counts", "10.96.200.9");
    }
    wait_for_address(&nodens, "counts", "10.96.200.9");
    cluster.server.store().rewind(20);
    cluster.put_service("turns", "10.96.200.2");
    cluster.server.inject_for(Scope::watches(), Fault::Gone);
    cluster.server.cut();
    wait_for_address(&nodens, "turns", "10.96.200.2");
    cluster.server.heal();
    cluster.put_service("turns", "10.96.200.3");
    wait_for_address(&nodens, "turns", "10.96.200.3");
}

/// K1, K5. However long the outage was, all kinds are back within seconds of the first answer.
#[test]
fn an_outage_ends_for_all_kinds_at_once() {
    for forgotten in [false, true] {
        let cluster = Cluster::default();
        let nodens = cluster.start("");
        cluster.server.refuse();
        // Pauses that doubled would have grown to 13 s and more.
        pause(Duration::from_secs(25));
        cluster.put_service("new", "10.96.200.1");
        cluster
            .server
            .put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fresh"}}));
        if forgotten {
            cluster.server.store().compact();
        }
        cluster.server.clear_requests();
        let back = Instant::now();
        cluster.server.heal();
        wait_for_address(&nodens, "new", "10.96.200.1");
        for resource in ["services", "endpointslices", "namespaces"] {
            let verb = if forgotten { "list" } else { "watch" };
            let first = || cluster.server.requests_of(verb, resource).first().map(|r| r.at);
            wait_for(resource, SOON, || first().is_some());
            let after = first().unwrap().saturating_duration_since(back);
            assert!(after < Duration::from_secs(6), "{resource} after {after:?}");
        }
        cluster.wait_level(&nodens, "what happened meanwhile", SOON);
        let lists = cluster.server.requests_of("list", "services").len();
        assert_eq!(lists, usize::from(forgotten), "nothing is listed twice");
    }
}

/// K2. An API server that has just started refuses everyone until it has read its rules.
#[test]
fn a_passing_403_is_no_missing_role() {
    let cluster = Cluster::default();
    let mut nodens = cluster.start("");
    cluster.server.inject(Fault::Forbidden);
    cluster.server.cut();
    nodens.wait_for_log("403", SOON);
    wait_for("several refusals", SOON, || {
        sum(&nodens, "nodens_kubernetes_watch_errors_total") >= 8.0
    });
    cluster.put_service("new", "10.96.200.1");
    cluster.server.heal();
    wait_for_address(&nodens, "new", "10.96.200.1");
    let log = nodens.stop_for_log(SOON);
    assert!(!log.contains("needs an RBAC rule"), "{log}");
}

/// A start with a snapshot that the server remembers lists nothing.
#[test]
fn a_start_continues_from_the_snapshot() {
    for forgotten in [false, true] {
        let cluster = Cluster::default();
        cluster.put_service("goes", "10.96.200.1");
        let mut nodens = cluster.start("snapshot @data@/snapshot");
        cluster.wait_level(&nodens, "the first lists", SOON);
        nodens.stop(SOON);
        drop(nodens);
        cluster.delete_service("goes");
        cluster.put_service("new", "10.96.200.2");
        if forgotten {
            cluster.server.store().compact();
        }
        cluster.server.clear_requests();
        let nodens = cluster.start("snapshot @data@/snapshot");
        wait_for_address(&nodens, "new", "10.96.200.2");
        cluster.wait_level(&nodens, "what happened meanwhile", SOON);
        nodens.wait_for_log("the snapshot of the last run is no longer in use", SOON);
        let lists = cluster.server.requests().iter().filter(|r| r.verb == "list").count();
        if forgotten {
            assert!(lists >= 1);
        } else {
            assert_eq!(lists, 0);
            assert_eq!(sum(&nodens, "nodens_kubernetes_relists_total"), 0.0);
            let bytes = sum(&nodens, "nodens_kubernetes_received_bytes_total");
            assert!(bytes < 64_000.0, "{bytes} octets");
        }
    }
}

/// A list of thousands of objects is small, since it is in protobuf and compressed; and right in any encoding.
#[test]
fn lists_are_small() {
    let shape = Shape { services: 2_000, headless: 400, endpoints: 20_000, namespaces: 20 };
    for (protobuf, gzip, most) in [
        (Protobuf::Supported, true, 1_000_000.0),
        (Protobuf::Supported, false, 7_000_000.0),
        (Protobuf::Absent, true, 1_500_000.0),
    ] {
        let mut options = Options::default();
        (options.behaviour.protobuf, options.behaviour.gzip) = (protobuf, gzip);
        let cluster = Cluster::with(options);
        shape.fill(cluster.server.store());
        let nodens = cluster.start("");
        let last = (0..shape.services).rev().find(|i| shape.is_headless(*i)).unwrap();
        let (namespace, name) = shape.service_name(last);
        let name = format!("{name}.{namespace}.svc.cluster.local.");
        wait_for("the last Service", SOON, || {
            let answer = nodens.client().ask(&name, RecordType::A);
            answer.is_ok_and(|a| a.data(RecordType::A).len() == shape.endpoints_of(last))
        });
        let bytes = sum(&nodens, "nodens_kubernetes_received_bytes_total");
        assert!(bytes < most, "{protobuf:?} gzip {gzip}: {bytes} octets");
    }
}

/// Both encodings give the same object, or refuse it with the same words.
#[test]
fn both_encodings_are_read_alike() {
    let cluster = Cluster::default();
    let interner = Interner::default();
    let kinds = [
        (Kind::Service, "services"),
        (Kind::EndpointSlice, "endpointslices"),
        (Kind::ImportedSlice, "endpointslices"),
        (Kind::Namespace, "namespaces"),
        (Kind::Pod, "pods"),
    ];
    let odd = |metadata: serde_json::Value, spec| json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
    let meta = |name: &str| json!({"name": name, "namespace": "default"});
    for value in [
        odd(meta("bad-ip"), json!({"clusterIP": "10.96.0.256"})),
        odd(meta("bad-port"), json!({"clusterIP": "None", "ports": [{"port": 70_000}]})),
        odd(meta("negative"), json!({"clusterIP": "None", "ports": [{"port": -1}]})),
        odd(meta("sideways"), json!({"type": "Sideways"})),
        odd(meta("external"), json!({"type": "ExternalName", "externalName": "Example.ORG."})),
        odd(meta("no.label"), json!({"clusterIP": "10.96.0.1"})),
        odd(meta("pending"), json!({"type": "ClusterIP"})),
        odd(json!({"name": "nowhere"}), json!({"clusterIP": "10.96.0.1"})),
        odd(meta("not-ready"), json!({"clusterIP": "None", "publishNotReadyAddresses": true})),
    ] {
        cluster.server.put(value);
    }
    let mut compared = 0;
    for (kind, plural) in kinds {
        let resource = Resource::named(plural);
        for value in cluster.server.store().values(resource) {
            let of = |pointer| value.pointer(pointer).and_then(|v| v.as_str()).unwrap_or("");
            let (namespace, name) = (of("/metadata/namespace"), of("/metadata/name"));
            let object = cluster.server.store().object(resource, namespace, name).unwrap();
            let json = Encoding::Json.object(kind, object.json(), &interner);
            let protobuf = Encoding::Protobuf.object(kind, object.protobuf(resource), &interner);
            assert_eq!(json, protobuf, "{value}");
            compared += 1;
        }
    }
    assert!(compared > 60, "{compared} objects");
}

/// K3, K4. Every file that a kubeconfig names is read again when it is replaced, and a token file may end in a line end.
#[test]
fn files_of_a_kubeconfig_are_followed() {
    let cluster = Cluster::default();
    let folder = cluster.path("");
    let token = folder.join("token");
    let write = |name: &str, text: &str| {
        // As most tools replace a file.
        std::fs::write(folder.join("aside"), text).unwrap();
        std::fs::rename(folder.join("aside"), folder.join(name)).unwrap();
    };
    write("token", &format!("{}\n", cluster.server.token()));
    write("ca.crt", &cluster.server.ca_pem());
    let kubeconfig = cluster.path("kubeconfig");
    cluster.server.write_kubeconfig_as(&kubeconfig, &Identity::TokenFile(token));
    name_the_authority(&kubeconfig);
    let nodens = cluster.start("");
    cluster.put_service("first", "10.96.200.1");
    wait_for_address(&nodens, "first", "10.96.200.1");

    cluster.server.rotate_token(true);
    cluster.server.cut();
    nodens.wait_for_log("401", SOON);
    write("token", &format!("{}\r\n", cluster.server.token()));
    cluster.put_service("second", "10.96.200.2");
    wait_for_address(&nodens, "second", "10.96.200.2");

    cluster.server.rotate_authority();
    cluster.server.cut();
    nodens.wait_for_log("invalid peer certificate", SOON);
    write("ca.crt", &cluster.server.ca_pem());
    cluster.put_service("third", "10.96.200.3");
    wait_for_address(&nodens, "third", "10.96.200.3");
}

/// Replaces the authority in a kubeconfig by the name of a file beside it.
fn name_the_authority(kubeconfig: &Path) {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let lines = text.lines().map(|line| match line.split_once("certificate-authority-data:") {
        Some((before, _)) => format!("{before}certificate-authority: ca.crt\n"),
        None => format!("{line}\n"),
    });
    std::fs::write(kubeconfig, lines.collect::<String>()).unwrap();
}

/// Answers that may be too old say so to those who understand it.
#[test]
fn old_answers_are_marked() {
    let cluster = Cluster::default();
    cluster.put_service("old", "10.96.200.1");
    let nodens = cluster.start("max_staleness 2s");
    wait_for_address(&nodens, "old", "10.96.200.1");
    let code = |name: &str| {
        let name = format!("{name}.default.svc.cluster.local.");
        let question = Question::new(&name, RecordType::A);
        let answer = nodens.client().udp(&question).unwrap();
        // Option 15, its length, and the code.
        let is =
            |code: u8| answer.bytes.windows(6).any(|o| o[..2] == [0, 15] && o[4..] == [0, code]);
        [3, 19].into_iter().find(|&code| is(code))
    };
    cluster.server.refuse();
    assert!(until(SOON, || code("old") == Some(3)));
    assert_eq!(code("missing"), Some(19));
    cluster.server.heal();
    assert!(until(SOON, || code("old").is_none() && code("missing").is_none()));
}

/// With `endpoints headless`, what only a watch of all EndpointSlices knows is asked of the fallback.
#[test]
fn the_fallback_knows_what_is_not_watched() {
    let cluster = Cluster::default();
    cluster.put_service("plain", "10.96.200.1");
    let zone = "$ORIGIN .\n$TTL 60\n. IN SOA ns.test. admin.test. 1 3600 600 86400 60\n\
                10-1-2-3.plain.default.svc.cluster.local. IN A 10.1.2.3\n\
                3.2.1.10.in-addr.arpa. IN PTR 10-1-2-3.plain.default.svc.cluster.local.\n";
    let fallback = Upstream::start(Zone::parse(zone).unwrap());
    let endpoint = "10-1-2-3.plain.default.svc.cluster.local.";
    let ask = |nodens: &Nodens, name: &str, kind| {
        let answer = nodens.client().ask(name, kind).unwrap();
        (answer.normal.rcode.clone(), answer.data(kind))
    };
    let nodens = cluster.start(&format!("endpoints headless\n fallback {}", fallback.address()));
    wait_for_address(&nodens, "plain", "10.96.200.1");
    let good = |data: &str| ("NOERROR".to_owned(), vec![data.to_owned()]);
    assert_eq!(ask(&nodens, endpoint, RecordType::A), good("10.1.2.3"));
    assert_eq!(ask(&nodens, "3.2.1.10.in-addr.arpa.", RecordType::PTR), good(endpoint));
    let before = fallback.total();
    // What is watched is answered here, whether it exists or not.
    wait_for_address(&nodens, "plain", "10.96.200.1");
    for name in ["missing", "a.missing", "_http._tcp.missing"] {
        let name = format!("{name}.default.svc.cluster.local.");
        assert_eq!(ask(&nodens, &name, RecordType::A).0, "NXDOMAIN", "{name}");
    }
    assert_eq!(fallback.total(), before);
    drop(nodens);
    // Without a fallback it does not exist.
    let nodens = cluster.start("endpoints headless");
    wait_for_address(&nodens, "plain", "10.96.200.1");
    assert_eq!(ask(&nodens, endpoint, RecordType::A).0, "NXDOMAIN");
}
