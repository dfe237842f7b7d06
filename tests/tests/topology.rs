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
        let requests = || cluster.server.requests_of(verb, "nodes");
        wait_for(&format!("a {verb} of nodes"), SOON, || !requests().is_empty());
        let asked = requests();
        let is_own = |field: &String| field == "metadata.name=node-1";
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
    assert!(said.contains("whose zone is not known"), "{said}");
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

/// As [`slice`], with a hostname for each endpoint and this port.
fn named_slice(
    name: &str,
    (port, number): (&str, u16),
    kind: &str,
    endpoints: &[(&str, &str, &str)],
) -> Value {
    let endpoint = |(ip, zone, hostname): &(&str, &str, &str)| json!({"addresses": [ip], "conditions": {"ready": true}, "zone": zone, "hostname": hostname});
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    let mut slice = slice("db", name, &[]);
    slice["addressType"] = kind.into();
    slice["ports"] = json!([{"name": port, "port": number, "protocol": "TCP"}]);
    slice["endpoints"] = endpoints.into();
    slice
}

/// (priority, port, first label of the target) of each record, in order.
fn srv(nodens: &Nodens, name: &str) -> Vec<(u16, u16, String)> {
    let answer = nodens.client().ask(name, RecordType::SRV).unwrap();
    let one = |record: &Record| match &record.data {
        RData::SRV(srv) => {
            let target = srv.target.to_string();
            let label = target.split('.').next().unwrap_or_default().to_owned();
            (srv.priority, srv.port, label)
        }
        other => panic!("{other}"),
    };
    answer.message.answers.iter().map(one).collect()
}

/// Near endpoints without the port or the family that is asked for are not what a client is led to.
#[test]
fn near_endpoints_have_what_is_asked_for() {
    let cluster = cluster(Some("PreferSameZone"));
    let v4 = [("10.9.0.1", "eu-1a", "one"), ("10.9.0.2", "eu-1b", "two")];
    cluster.server.put(named_slice("db-1", ("sql", 5432), "IPv4", &v4));
    let admin = [("10.9.0.3", "eu-1b", "one"), ("10.9.0.4", "eu-1c", "four")];
    cluster.server.put(named_slice("db-2", ("admin", 9000), "IPv4", &admin));
    let v6 = [("fd00::5", "eu-1b", "five")];
    cluster.server.put(named_slice("db-3", ("sql", 5432), "IPv6", &v6));
    let (sql, far) =
        ("_sql._tcp.db.shop.svc.cluster.local.", "_admin._tcp.db.shop.svc.cluster.local.");

    let require = start(&cluster, "topology require", "node-1");
    wait_for_answer(&require, DB, &[1]);
    wait_for_answer(&require, sql, &[1]);
    wait_for_answer(&require, far, &[3, 4]);
    let answer = require.client().ask(DB, RecordType::AAAA).unwrap();
    assert_eq!(answer.message.answers.len(), 1, "{answer:?}");
    assert_eq!(srv(&require, sql), [(0, 5432, "one".to_owned())]);
    let socket = require.folder().join("nodens.sock").to_string_lossy().into_owned();
    let (_, said, _) = run(&["explain", far, "--socket", &socket]);
    assert!(said.contains("none that has this is near"), "{said}");
    let answer =
        require.client().ask("_none._tcp.db.shop.svc.cluster.local.", RecordType::A).unwrap();
    assert_eq!(answer.normal.rcode, "NXDOMAIN");

    let prefer = start(&cluster, "topology prefer", "node-1");
    wait_for("the zone", SOON, || ask(&prefer, DB).first() == Some(&1));
    wait_for_answer(&prefer, DB, &[1, 2, 3, 4]);
    assert_eq!(ask(&prefer, sql), [1, 2]);
    assert_eq!(sorted(ask(&prefer, far)), [3, 4]);
    // What has the name of a near one is with it.
    let mut all = srv(&prefer, DB);
    let near: Vec<_> = all.extract_if(.., |(priority, ..)| *priority == 0).collect();
    let ports = |records: &[(u16, u16, String)]| {
        let mut of: Vec<_> = records.iter().map(|(_, port, name)| (*port, name.clone())).collect();
        of.sort();
        of
    };
    let record = |port, name: &str| (port, name.to_owned());
    assert_eq!(ports(&near), [record(5432, "one"), record(9000, "one")]);
    assert_eq!(ports(&all), [record(5432, "five"), record(5432, "two"), record(9000, "four")]);
}

/// With `loadbalance` each near endpoint is the first one as often as another.
#[test]
fn near_endpoints_take_turns() {
    for count in [2_usize, 3, 4] {
        let cluster = cluster(Some("PreferSameZone"));
        let addresses: Vec<String> = (1..=10).map(|n| format!("10.9.0.{n}")).collect();
        let zone = |at| if at < count { "eu-1a" } else { "eu-1b" };
        let all: Vec<_> =
            addresses.iter().enumerate().map(|(at, ip)| (&**ip, zone(at), "node-7")).collect();
        cluster.server.put(slice("db", "db-1", &all));
        // The block of `errors` is closed by what follows the options of `kubernetes`.
        let nodens = start(&cluster, "topology prefer\n}\nloadbalance\nerrors {", "node-1");
        wait_for_answer(&nodens, DB, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        nodens.wait_for_metrics("the zone", SOON, |metrics| {
            metrics.sum("nodens_kubernetes_node_zone", &[("zone", "eu-1a")]) == 1.0
        });
        let mut first = vec![0; 11];
        for _ in 0..count * 40 {
            first[usize::from(ask(&nodens, DB)[0])] += 1;
        }
        assert!(first[1..=count].iter().all(|&times| times >= 10), "{first:?}");
        assert_eq!(first[1..=count].iter().sum::<usize>(), count * 40, "{first:?}");
    }
}
