//! Names beyond the conformance record, through the real binary: endpoints on their way out, objects that are called as
//! parts of names are, protocols, very large Services, and what options do to names.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType::{self, A, AAAA, CNAME, PTR, SRV};
use serde_json::{Value, json};
use tests::api::Fault;
use tests::client::Question;
use tests::cluster::{Cluster, service};
use tests::poll::wait_for;
use tests::process::{self, Nodens, Ready};

const SOON: Duration = Duration::from_secs(60);

/// The code, and the data of the type asked for, sorted.
fn ask(nodens: &Nodens, name: &str, kind: RecordType) -> (String, Vec<String>) {
    let answer = nodens.client().ask(name, kind).unwrap();
    let mut data = answer.data(kind);
    data.sort_unstable();
    (answer.normal.rcode.clone(), data)
}

fn data(records: &[&str]) -> (String, Vec<String>) {
    ("NOERROR".into(), records.iter().map(|&record| record.to_owned()).collect())
}

fn denied() -> (String, Vec<String>) {
    ("NXDOMAIN".into(), Vec::new())
}

fn headless(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}})
}

fn slice(namespace: &str, service: &str, name: &str, endpoints: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service,
            "service.kubernetes.io/headless": ""}},
        "endpoints": endpoints, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]})
}

fn endpoint(address: &str, conditions: Value) -> Value {
    json!({"addresses": [address], "conditions": conditions})
}

#[test]
fn endpoints_count_while_they_are_ready() {
    let cluster = Cluster::default();
    let put = |object| cluster.server.put(object);
    let terminating =
        |serving: bool| json!({"ready": false, "serving": serving, "terminating": true});
    put(headless("default", "life"));
    put(slice(
        "default",
        "life",
        "life-1",
        json!([
            endpoint("10.5.0.1", json!({"ready": true, "serving": true, "terminating": false})),
            endpoint("10.5.0.2", json!({})),
            {"addresses": ["10.5.0.3"]},
            endpoint("10.5.0.4", terminating(true)),
            endpoint("10.5.0.5", terminating(false)),
            endpoint("10.5.0.6", json!({"ready": false, "serving": true})),
        ]),
    ));
    // The controller says so of every endpoint where publishNotReadyAddresses is set, of those that terminate too.
    let published = json!({"ready": true, "serving": false, "terminating": true});
    put(headless("default", "published"));
    put(slice("default", "published", "published-1", json!([endpoint("10.5.1.1", published)])));
    put(service("leaving", "10.96.200.1"));
    put(slice("default", "leaving", "leaving-1", json!([endpoint("10.5.2.1", terminating(true))])));
    let nodens = cluster.start("");
    let life = "life.default.svc.cluster.local.";
    assert_eq!(ask(&nodens, life, A), data(&["10.5.0.1", "10.5.0.2", "10.5.0.3"]));
    assert_eq!(ask(&nodens, &format!("10-5-0-4.{life}"), A), denied());
    assert_eq!(ask(&nodens, "4.0.5.10.in-addr.arpa.", PTR), denied());
    assert_eq!(ask(&nodens, "published.default.svc.cluster.local.", A), data(&["10.5.1.1"]));
    let leaving = "leaving.default.svc.cluster.local.";
    assert_eq!(ask(&nodens, leaving, A), data(&["10.96.200.1"]));
    assert_eq!(ask(&nodens, &format!("10-5-2-1.{leaving}"), A), denied());
    // The last one begins to terminate: nobody else takes its place.
    put(slice("default", "life", "life-1", json!([endpoint("10.5.0.1", terminating(true))])));
    wait_for("the end", SOON, || ask(&nodens, life, A) == denied());
    assert_eq!(ask(&nodens, &format!("_http._tcp.{life}"), SRV), denied());
    let nodens = cluster.start("ignore empty_service");
    assert_eq!(ask(&nodens, leaving, A), denied());
}

#[test]
fn objects_may_be_called_as_parts_of_names_are() {
    let cluster = Cluster::default();
    let words = ["svc", "pod", "dns", "ns", "tcp", "udp", "dns-version", "cluster", "local"];
    for (n, namespace) in words.iter().enumerate() {
        cluster
            .server
            .put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
        for (m, name) in words.iter().enumerate() {
            let mut object = service(name, &format!("10.96.{}.{}", 210 + n, 1 + m));
            object["metadata"]["namespace"] = json!(namespace);
            object["spec"]["ports"] = json!([{"name": "svc", "port": 80}]);
            cluster.server.put(object);
        }
        // One whose endpoints and ports are called so as well.
        cluster.server.put(headless(namespace, "set"));
        let hosts = words.iter().enumerate();
        let hosts = hosts.map(
            |(m, host)| json!({"hostname": host, "addresses": [format!("10.6.{n}.{}", 1 + m)]}),
        );
        let mut of_set = slice(namespace, "set", "set-1", hosts.collect());
        of_set["ports"] = json!([{"name": "tcp", "port": 7, "protocol": "UDP"}]);
        cluster.server.put(of_set);
    }
    let nodens = cluster.start("");
    cluster.wait_level(&nodens, "all of them", SOON);
    let all = cluster.known();
    assert!(
        all.iter().any(
            |known| known.name == "svc.svc.svc.cluster.local." && known.data == ["10.96.210.1"]
        )
    );
    assert!(
        all.iter().any(|known| known.name == "pod.set.pod.svc.cluster.local." && known.kind == A)
    );
    assert!(
        all.iter()
            .any(|known| known.name == "_tcp._udp.set.svc.svc.cluster.local." && known.kind == SRV)
    );
    assert_eq!(ask(&nodens, "10-6-1-2.svc.pod.cluster.local.", A), data(&["10.6.1.2"]));
    assert_eq!(ask(&nodens, "SVC.Svc.sVc.cluster.local.", A), data(&["10.96.210.1"]));
    println!("{} questions", all.len());
}

#[test]
fn sctp_has_names() {
    let cluster = Cluster::default();
    let port = json!([{"name": "diameter", "port": 3868, "protocol": "SCTP"}]);
    let mut own = service("hss", "10.96.200.1");
    own["spec"]["ports"] = port.clone();
    cluster.server.put(own);
    cluster.server.put(headless("default", "mme"));
    let mut of_mme = slice("default", "mme", "mme-1", json!([{"addresses": ["10.5.0.1"]}]));
    of_mme["ports"] = port;
    cluster.server.put(of_mme);
    let nodens = cluster.start("");
    for (service, target) in [("hss", "hss"), ("mme", "10-5-0-1.mme")] {
        let name = format!("_diameter._sctp.{service}.default.svc.cluster.local.");
        let wanted = format!("0 100 3868 {target}.default.svc.cluster.local.");
        assert_eq!(ask(&nodens, &name, SRV), data(&[&wanted]));
        assert_eq!(ask(&nodens, &name.replace("sctp", "tcp"), SRV), denied());
        assert_eq!(ask(&nodens, &name.replace("_diameter.", ""), A), data(&[]));
    }
}

#[test]
fn slices_of_names_are_passed_over() {
    let cluster = Cluster::default();
    let fqdn = |service: &str| {
        let mut slice = slice(
            "default",
            service,
            &format!("{service}-fqdn"),
            json!([{"addresses": ["a.example.org"]}]),
        );
        slice["addressType"] = json!("FQDN");
        slice
    };
    for service in ["named", "mixed"] {
        cluster.server.put(headless("default", service));
        cluster.server.put(fqdn(service));
    }
    cluster.server.put(slice("default", "mixed", "mixed-1", json!([{"addresses": ["10.5.0.1"]}])));
    let nodens = cluster.start("");
    for kind in [A, AAAA, CNAME, SRV] {
        assert_eq!(ask(&nodens, "named.default.svc.cluster.local.", kind), denied());
    }
    let mixed = nodens.client().ask("mixed.default.svc.cluster.local.", A).unwrap();
    assert_eq!(mixed.normal.answer.len(), 1, "{:?}", mixed.normal);
    assert_eq!(nodens.metrics().sum("nodens_kubernetes_skipped_objects_total", &[]), 0.0);
}

#[test]
fn five_thousand_endpoints_go_round() {
    let cluster = Cluster::default();
    cluster.server.put(headless("default", "huge"));
    for number in 0..50 {
        let address =
            |n: usize| json!({"addresses": [format!("10.{}.{}.{}", 60 + number / 25, number, n)]});
        let endpoints = (1..=100).map(address).collect();
        cluster.server.put(slice("default", "huge", &format!("huge-{number}"), endpoints));
    }
    let nodens = cluster.start("");
    let huge = "huge.default.svc.cluster.local.";
    for (kind, at_once) in [(A, 4_000), (SRV, 800)] {
        let question = Question::new(huge, kind).payload(1_232);
        let udp = nodens.client().udp(&question).unwrap();
        assert!(udp.is_truncated() && udp.bytes.len() <= 1_232, "{}", udp.bytes.len());
        let (mut seen, mut first) = (BTreeSet::new(), BTreeSet::new());
        let end = Instant::now() + SOON;
        let mut questions = 0;
        while seen.len() < 5_000 {
            assert!(Instant::now() < end, "{} of 5,000 {kind} in {questions} answers", seen.len());
            let answer = nodens.client().tcp(&Question::new(huge, kind)).unwrap();
            assert!(!answer.is_truncated());
            let data: Vec<String> = answer.data(kind);
            assert!(data.len() >= at_once, "{} records", data.len());
            let once: BTreeSet<_> = data.iter().cloned().collect();
            assert_eq!(once.len(), data.len(), "a record stands twice");
            first.extend(answer.message.answers.first().map(|record| record.data.to_string()));
            seen.extend(once);
            questions += 1;
        }
        println!("all 5,000 {kind} in {questions} answers over TCP");
        assert!(questions == 1 || first.len() > 1, "it begins elsewhere each time");
    }
    let one = "10-61-49-100.huge.default.svc.cluster.local.";
    assert_eq!(ask(&nodens, one, A), data(&["10.61.49.100"]));
    assert_eq!(ask(&nodens, "100.49.61.10.in-addr.arpa.", PTR), data(&[one]));
}

#[test]
fn endpoints_are_called_as_their_pods_where_that_is_a_label() {
    let cluster = Cluster::default();
    let of_pod = |address: &str, pod: &str| json!({"addresses": [address], "targetRef": {"kind": "Pod", "name": pod}});
    let mut named = of_pod("10.5.0.3", "db-2");
    named["hostname"] = json!("primary");
    let endpoints = json!([of_pod("10.5.0.1", "db-0"), of_pod("10.5.0.2", "db.1"), named]);
    cluster.server.put(headless("default", "named"));
    cluster.server.put(slice("default", "named", "named-1", endpoints));
    let by_pod = cluster.start("endpoint_pod_names");
    let by_address = cluster.start("");
    let cases = [
        ("1.0.5.10.in-addr.arpa.", "db-0", "10-5-0-1", "10.5.0.1"),
        ("2.0.5.10.in-addr.arpa.", "10-5-0-2", "10-5-0-2", "10.5.0.2"),
        ("3.0.5.10.in-addr.arpa.", "primary", "primary", "10.5.0.3"),
    ];
    for (reverse, pod, plain, address) in cases {
        for (nodens, label) in [(&by_pod, pod), (&by_address, plain)] {
            let name = format!("{label}.named.default.svc.cluster.local.");
            assert_eq!(ask(nodens, &name, A), data(&[address]));
            assert_eq!(ask(nodens, reverse, PTR), data(&[&name]));
        }
    }
    assert_eq!(ask(&by_pod, "10-5-0-1.named.default.svc.cluster.local.", A), denied());
    assert_eq!(ask(&by_address, "db-0.named.default.svc.cluster.local.", A), denied());
}

#[test]
fn a_start_waits_no_longer_than_it_is_told() {
    let took = |nodens: &Nodens| {
        let line = nodens.wait_for_log("took_ms=", SOON);
        let (_, millis) = line.split_once("took_ms=").unwrap();
        millis.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let cluster = Cluster::default();
    cluster.server.inject(Fault::Stall);
    for (timeout, millis) in [("0s", 0), ("1500ms", 1_500)] {
        let nodens =
            cluster.setup(&format!("startup_timeout {timeout}")).ready(Ready::Answer).start();
        let took = took(&nodens);
        assert!((millis..millis + 5_000).contains(&took), "{timeout}: {took} ms");
        nodens.wait_for_log("serving before everything is there", SOON);
        assert_eq!(ask(&nodens, "web.default.svc.cluster.local.", A).0, "SERVFAIL");
    }
    cluster.server.heal();
    // With lists that come, it is over as soon as they are there.
    let nodens = cluster.start("startup_timeout 600s");
    assert!(took(&nodens) < 60_000);
    assert_eq!(ask(&nodens, "web.default.svc.cluster.local.", A), data(&["10.96.87.191"]));
}

#[test]
fn knobs_of_the_api_server_are_read_and_passed_over() {
    let cluster = Cluster::default();
    let nodens = cluster.start("apiserver_qps 5\napiserver_burst 10\napiserver_max_inflight 1");
    cluster.wait_level(&nodens, "everything, in spite of one request in flight", SOON);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Corefile");
    std::fs::write(
        &file,
        ".:5353 {\n    kubernetes cluster.local {\n        apiserver_qps many\n    }\n}\n",
    )
    .unwrap();
    let (status, out, err) = process::run(&["check", &file.to_string_lossy()]);
    let said = out + &err;
    assert!(!status.success() && said.contains("apiserver_qps"), "{said}");
}

#[test]
fn labels_choose_namespaces_for_names_of_addresses_too() {
    let cluster = Cluster::default();
    let namespace = |name: &str, tier: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"tier": tier}}});
    for (name, tier, net) in [("seen", "front", 41), ("backroom", "back", 42)] {
        cluster.server.put(namespace(name, tier));
        let mut own = service("own", &format!("10.{net}.0.1"));
        own["metadata"]["namespace"] = json!(name);
        cluster.server.put(own);
        cluster.server.put(headless(name, "set"));
        cluster.server.put(slice(
            name,
            "set",
            "set-1",
            json!([{"addresses": [format!("10.{net}.1.1")]}]),
        ));
    }
    let nodens = cluster.start("namespace_labels tier=front");
    let look = |net: u8, there: bool| {
        let code = |name: &str, kind| ask(&nodens, name, kind).0;
        let wanted = if there { "NOERROR" } else { "NXDOMAIN" };
        let names = [
            (format!("1.0.{net}.10.in-addr.arpa."), PTR),
            (format!("1.1.{net}.10.in-addr.arpa."), PTR),
            (format!("1.1.{net}.10.in-addr.arpa."), A),
            (format!("0.{net}.10.in-addr.arpa."), PTR),
            (format!("1.{net}.10.in-addr.arpa."), A),
            (format!("{net}.10.in-addr.arpa."), PTR),
        ];
        names.iter().all(|(name, kind)| code(name, *kind) == wanted)
    };
    assert!(look(41, true) && look(42, false));
    assert_eq!(ask(&nodens, "10.in-addr.arpa.", PTR), data(&[]));
    assert_eq!(ask(&nodens, "own.backroom.svc.cluster.local.", A), denied());
    // What is chosen may change, and with it all names of the namespace.
    cluster.server.put(namespace("backroom", "front"));
    wait_for("the namespace that came", SOON, || look(42, true));
    assert_eq!(ask(&nodens, "own.backroom.svc.cluster.local.", A), data(&["10.42.0.1"]));
    assert_eq!(
        ask(&nodens, "1.1.42.10.in-addr.arpa.", PTR),
        data(&["10-42-1-1.set.backroom.svc.cluster.local."])
    );
    cluster.server.put(namespace("seen", "back"));
    wait_for("the end of the namespace that went", SOON, || look(41, false));
    cluster.server.delete("services", "backroom", "own");
    cluster.server.delete("endpointslices", "backroom", "set-1");
    wait_for("the end of its objects", SOON, || look(42, false));
    assert_eq!(ask(&nodens, "10.in-addr.arpa.", PTR), denied());
}

#[test]
fn labels_choose_services_and_slices() {
    let cluster = Cluster::default();
    for (name, label, ip) in [("chosen", "yes", "10.96.200.1"), ("other", "no", "10.96.200.2")] {
        let mut object = service(name, ip);
        object["metadata"]["labels"] = json!({"serve": label});
        cluster.server.put(object);
    }
    let nodens = cluster.start("labels serve in (yes, maybe)");
    assert_eq!(ask(&nodens, "chosen.default.svc.cluster.local.", A), data(&["10.96.200.1"]));
    assert_eq!(ask(&nodens, "other.default.svc.cluster.local.", A), denied());
    assert_eq!(ask(&nodens, "2.200.96.10.in-addr.arpa.", PTR), denied());
    let watches = || cluster.server.requests_of("watch", "endpointslices");
    wait_for("the watch", SOON, || !watches().is_empty());
    assert_eq!(watches()[0].parameter("labelSelector"), "serve in (yes, maybe)");
}
