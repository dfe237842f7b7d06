//! Endpoints nearby, through the binary: a cluster of three zones, whose endpoints come and go.

use std::time::Duration;

use hickory_proto::rr::{RData, Record, RecordType};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::api::{Fault, Scope};
use tests::cluster::Cluster;
use tests::poll::wait_for;
use tests::process::{Nodens, run};

const SOON: Duration = Duration::from_secs(20);
const DB: &str = "db.shop.svc.cluster.local.";

fn node(name: &str, zone: &str) -> Value {
    let labels = json!({"topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {}, "status": {}})
}

fn headless(name: &str, distribution: Option<&str>) -> Value {
    let mut spec = json!({"clusterIP": "None", "clusterIPs": ["None"], "type": "ClusterIP",
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]});
    if let Some(distribution) = distribution {
        spec["trafficDistribution"] = distribution.into();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

/// A slice of `service` with these endpoints: address, zone, node.
fn slice(service: &str, name: &str, endpoints: &[(&str, &str, &str)]) -> Value {
    let endpoint = |(ip, zone, node): &(&str, &str, &str)| json!({"addresses": [ip], "conditions": {"ready": true}, "nodeName": node, "zone": zone});
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    let labels =
        json!({"kubernetes.io/service-name": service, "service.kubernetes.io/headless": ""});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// Three zones: two endpoints in the first, one of them on this node, one in the second.
fn cluster(distribution: Option<&str>) -> Cluster {
    let cluster = Cluster::default();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    cluster.server.put(namespace);
    for (name, zone) in [("node-1", "eu-1a"), ("node-2", "eu-1b"), ("node-3", "eu-1c")] {
        cluster.server.put(node(name, zone));
    }
    cluster.server.put(headless("db", distribution));
    let all = [
        ("10.9.0.1", "eu-1a", "node-1"),
        ("10.9.0.2", "eu-1a", "node-9"),
        ("10.9.0.3", "eu-1b", "node-2"),
    ];
    cluster.server.put(slice("db", "db-1", &all));
    cluster
}

fn start(cluster: &Cluster, options: &str, node: &str) -> Nodens {
    cluster.setup(options).environment("NODE_NAME", node).start()
}

/// The last octets of the addresses, in the answer's order.
fn ask(nodens: &Nodens, name: &str) -> Vec<u8> {
    let Ok(answer) = nodens.client().ask(name, RecordType::A) else { return Vec::new() };
    let last = |record: &Record| match &record.data {
        RData::A(address) => address.0.octets()[3],
        other => panic!("{other}"),
    };
    answer.message.answers.iter().map(last).collect()
}

fn sorted(mut all: Vec<u8>) -> Vec<u8> {
    all.sort_unstable();
    all
}

#[track_caller]
fn wait_for_answer(nodens: &Nodens, name: &str, wanted: &[u8]) {
    wait_for(&format!("{name} to be {wanted:?}"), SOON, || sorted(ask(nodens, name)) == wanted);
}

#[test]
fn the_answer_follows_endpoints_that_come_and_go() {
    let cluster = cluster(Some("PreferSameNode"));
    let nodens = start(&cluster, "topology require", "node-1");
    wait_for_answer(&nodens, DB, &[1]);
    assert_eq!(ask(&nodens, "_sql._tcp.db.shop.svc.cluster.local."), [1]);
    // Only the own Node is asked for.
    for verb in ["list", "watch"] {
        let asked = cluster.server.requests_of(verb, "nodes");
        let is_own = |field: &String| field == "metadata.name=node-1";
        assert!(!asked.is_empty());
        assert!(asked.iter().all(|request| request.query.get("fieldSelector").is_some_and(is_own)));
    }
    nodens.wait_for_metrics("the zone", SOON, |metrics| {
        metrics.sum("nodens_kubernetes_node_zone", &[("zone", "eu-1a")]) == 1.0
    });
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let (_, said, _) = run(&["explain", DB, "--socket", &socket]);
    assert!(said.contains("1 of its 3 ready endpoints answer"), "{said}");

    // That of the node goes, then those of the zone; then one comes back.
    let rest = [("10.9.0.2", "eu-1a", "node-9"), ("10.9.0.3", "eu-1b", "node-2")];
    cluster.server.put(slice("db", "db-1", &rest));
    wait_for_answer(&nodens, DB, &[2]);
    cluster.server.put(slice("db", "db-1", &rest[1..]));
    wait_for_answer(&nodens, DB, &[3]);
    cluster.server.put(slice("db", "db-2", &[("10.9.0.4", "eu-1a", "node-1")]));
    wait_for_answer(&nodens, DB, &[4]);
    // The operator takes it back, and the Node moves.
    cluster.server.put(headless("db", None));
    wait_for_answer(&nodens, DB, &[3, 4]);
    cluster.server.put(headless("db", Some("PreferClose")));
    wait_for_answer(&nodens, DB, &[4]);
    cluster.server.put(node("node-1", "eu-1b"));
    wait_for_answer(&nodens, DB, &[3]);

    // What is known survives a crash while the API server is away.
    cluster.server.refuse();
    tests::poll::pause(Duration::from_millis(1_500));
    let old = nodens.server();
    nodens.signal_server(Signal::SIGKILL);
    wait_for("another server", SOON, || ![old, nodens.pid()].contains(&nodens.server()));
    wait_for_answer(&nodens, DB, &[3]);
}

#[test]
fn near_endpoints_come_first_and_zones_have_names() {
    let cluster = cluster(Some("PreferSameZone"));
    let options = "topology prefer\nzonal\nsnapshot @data@";
    let mut nodens = start(&cluster, options, "node-2");
    let check = |nodens: &Nodens| {
        wait_for_answer(nodens, DB, &[1, 2, 3]);
        for _ in 0..10 {
            assert_eq!(ask(nodens, DB)[0], 3);
        }
        for (name, wanted) in [
            ("eu-1a.pin._zone.", &[1, 2][..]),
            ("EU-1B.prefer._zone.", &[3]),
            ("eu-1c.pin._zone.", &[]),
            ("eu-1c.prefer._zone.", &[1, 2, 3]),
        ] {
            assert_eq!(sorted(ask(nodens, &format!("{name}{DB}"))), wanted, "{name}");
        }
    };
    wait_for("the zone", SOON, || ask(&nodens, DB).first() == Some(&3));
    check(&nodens);
    // From the snapshot, while nobody can be asked.
    nodens.stop(SOON);
    cluster.server.refuse();
    let nodens = start(&cluster, options, "node-2");
    check(&nodens);
}

#[test]
fn without_the_right_or_a_zone_all_endpoints_answer() {
    let cluster = cluster(Some("PreferSameZone"));
    for scope in [Scope::lists(), Scope::watches()] {
        cluster.server.inject_for(scope.of("nodes"), Fault::Forbidden);
    }
    let nodens = start(&cluster, "topology require", "node-1");
    nodens.wait_for_log("nodes", SOON);
    assert_eq!(sorted(ask(&nodens, DB)), [1, 2, 3]);
    let socket = nodens.folder().join("nodens.sock").to_string_lossy().into_owned();
    let (_, said, _) = run(&["explain", DB, "--socket", &socket]);
    assert!(said.contains("unknown zone"), "{said}");
}

#[test]
fn without_the_options_nothing_is_watched_and_nothing_is_different() {
    let cluster = cluster(Some("PreferSameNode"));
    let nodens = start(&cluster, "", "node-1");
    assert_eq!(sorted(ask(&nodens, DB)), [1, 2, 3]);
    let answer = nodens.client().ask(&format!("eu-1a.pin._zone.{DB}"), RecordType::A).unwrap();
    assert_eq!(answer.normal.rcode, "NXDOMAIN");
    assert!(cluster.server.requests_of("list", "nodes").is_empty());
}
