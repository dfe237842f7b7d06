//! `multicluster`: ServiceImports and their slices through the real binary, named as KEP-1645 has it.

use std::collections::BTreeSet;
use std::time::Duration;

use hickory_proto::rr::RecordType::{self, A, AAAA, PTR, SRV, TXT};
use serde_json::{Value, json};
use tests::api::{Options, Policy};
use tests::cluster::Cluster;
use tests::poll::wait_for;
use tests::process::{self, Nodens, Setup};

const SOON: Duration = Duration::from_secs(60);
const V6: &str = "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.9.d.f.ip6.arpa.";

fn with(multicluster: bool) -> Cluster {
    let mut options = Options::default();
    options.behaviour.multicluster = multicluster;
    Cluster::with(options)
}

fn setup(cluster: &Cluster, more: &str) -> Setup {
    let corefile = format!(
        ".:@dns@ {{
    bind 127.0.0.1
    ready 127.0.0.1:@ready@
    prometheus 127.0.0.1:@metrics@
    kubernetes clusterset.local cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {}
        multicluster clusterset.local
        {more}
    }}
}}
",
        cluster.path("kubeconfig").display()
    );
    Setup::new(&corefile)
        .word("data", cluster.path("").display())
        .arguments(&["--socket", "@folder@/nodens.sock"])
}

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

fn import(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceImport",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn slice(name: &str, labels: Value, endpoints: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
}

fn of_import(service: &str, cluster: &str) -> Value {
    json!({"multicluster.kubernetes.io/service-name": service, "multicluster.kubernetes.io/source-cluster": cluster})
}

fn fill(cluster: &Cluster) {
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let put = |object| cluster.server.put(object);
    let ips = json!(["10.98.0.1", "fd98::a"]);
    put(import("shop", json!({"type": "ClusterSetIP", "ips": ips, "ports": ports})));
    put(import("pets", json!({"type": "Headless", "ports": ports})));
    put(slice("shop-east", of_import("shop", "east"), json!([{"addresses": ["10.7.0.9"]}])));
    let pet = |host: &str, address: &str| json!({"hostname": host, "addresses": [address]});
    let east = json!([pet("pet-0", "10.7.0.1"), {"addresses": ["10.7.0.2"]},
        {"addresses": ["10.7.0.3"], "conditions": {"ready": false}}]);
    put(slice("pets-east", of_import("pets", "east"), east));
    // The clusters' networks overlap, and so do their hosts' names.
    let west = json!([pet("pet-0", "10.8.0.1"), pet("pet-1", "10.7.0.2")]);
    let mut both = of_import("pets", "West");
    both["kubernetes.io/service-name"] = json!("derived-pets");
    put(slice("pets-west", both, west));
    put(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "derived-pets", "namespace": "default"},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 8080}]}}),
    );
}

fn check(nodens: &Nodens) {
    // A ClusterSetIP.
    let shop = "shop.default.svc.clusterset.local.";
    assert_eq!(ask(nodens, shop, A), data(&["10.98.0.1"]));
    assert_eq!(ask(nodens, shop, AAAA), data(&["fd98::a"]));
    let srv = nodens.client().ask(&format!("_http._tcp.{shop}"), SRV).unwrap();
    assert_eq!(srv.data(SRV), [format!("0 50 80 {shop}")]);
    assert_eq!(srv.normal.additional.len(), 2, "{:?}", srv.normal);
    assert_eq!(ask(nodens, &format!("_tcp.{shop}"), A), data(&[]));
    // KEP-1645, section 2.3.4: nobody chooses a cluster behind it.
    for label in ["east", "10-7-0-9.east", "10-7-0-9", "_http._udp"] {
        assert_eq!(ask(nodens, &format!("{label}.{shop}"), A), denied(), "{label}");
    }
    // It is no Service of this cluster.
    assert_eq!(ask(nodens, "shop.default.svc.cluster.local.", A), denied());
    assert_eq!(ask(nodens, "web.default.svc.clusterset.local.", A), denied());
    assert_eq!(ask(nodens, "web.default.svc.cluster.local.", A).0, "NOERROR");

    // Headless: all clusters together, each endpoint below its own.
    let pets = "pets.default.svc.clusterset.local.";
    assert_eq!(ask(nodens, pets, A), data(&["10.7.0.1", "10.7.0.2", "10.8.0.1"]));
    assert_eq!(ask(nodens, pets, AAAA), data(&[]));
    let name = |label: &str| format!("{label}.{pets}");
    for (label, address) in [
        ("pet-0.east", "10.7.0.1"),
        ("pet-0.west", "10.8.0.1"),
        ("pet-1.west", "10.7.0.2"),
        ("10-7-0-2.east", "10.7.0.2"),
        ("PET-0.WEST", "10.8.0.1"),
    ] {
        assert_eq!(ask(nodens, &name(label), A), data(&[address]), "{label}");
        assert_eq!(ask(nodens, &name(label), AAAA), data(&[]), "{label}");
    }
    let lone = nodens.client().ask(&name("pet-0.west"), SRV).unwrap();
    assert_eq!(lone.data(SRV), [format!("0 100 8080 {}", name("pet-0.west"))]);
    assert!(lone.normal.additional[0].ends_with(" A 10.8.0.1"), "{:?}", lone.normal);
    for label in ["pet-1.east", "10-7-0-2.west", "pet-0.north", "pet-0", "10-7-0-3.east", "north"] {
        assert_eq!(ask(nodens, &name(label), A), denied(), "{label}");
    }
    // Something is below them, so that they exist (RFC 8020), without a record (KEP-1645, section 2.4.4).
    for label in ["east", "west", "_tcp"] {
        assert_eq!(ask(nodens, &name(label), A), data(&[]), "{label}");
    }
    let mut targets: Vec<String> =
        ["10-7-0-2.east", "pet-0.east", "pet-0.west", "pet-1.west"].map(name).into();
    for label in ["", "_http._tcp.", "_http.tcp."] {
        let srv = nodens.client().ask(&format!("{label}{pets}"), SRV).unwrap();
        let mut found: Vec<String> = srv.data(SRV);
        found.sort_unstable();
        targets.sort_unstable();
        let wanted: Vec<_> = targets.iter().map(|name| format!("0 25 8080 {name}")).collect();
        assert_eq!(found, wanted, "{label}");
        let mut glue: Vec<_> =
            srv.normal.additional.iter().map(|r| r.split(' ').next().unwrap().to_owned()).collect();
        glue.sort_unstable();
        assert_eq!(glue, targets, "{label}");
    }

    // A slice may be a Service's and an import's.
    let derived = "derived-pets.default.svc.cluster.local.";
    assert_eq!(ask(nodens, derived, A), data(&["10.7.0.2", "10.8.0.1"]));
    assert_eq!(ask(nodens, &format!("pet-1.{derived}"), A), data(&["10.7.0.2"]));

    // Names of addresses: what has none in the cluster has one in the set of clusters.
    assert_eq!(ask(nodens, "1.0.98.10.in-addr.arpa.", PTR), data(&[shop]));
    assert_eq!(ask(nodens, V6, PTR), data(&[shop]));
    assert_eq!(ask(nodens, "1.0.7.10.in-addr.arpa.", PTR), data(&[&name("pet-0.east")]));
    let own = format!("pet-0.{derived}");
    assert_eq!(ask(nodens, "1.0.8.10.in-addr.arpa.", PTR), data(&[&own]));
    let kubernetes = "kubernetes.default.svc.cluster.local.";
    assert_eq!(ask(nodens, "1.0.96.10.in-addr.arpa.", PTR), data(&[kubernetes]));

    // The zone itself.
    assert_eq!(ask(nodens, "dns-version.clusterset.local.", TXT), data(&["\"1.0.0\""]));
    assert_eq!(ask(nodens, "dns-version.cluster.local.", TXT), data(&["\"1.1.0\""]));
    assert_eq!(ask(nodens, "default.svc.clusterset.local.", A), data(&[]));
    assert_eq!(ask(nodens, "nowhere.svc.clusterset.local.", A), denied());
    assert_eq!(ask(nodens, "10-1-0-10.default.pod.clusterset.local.", A), denied());
}

#[test]
fn imports_are_named_as_the_specification_has_it() {
    let cluster = with(true);
    fill(&cluster);
    let mut nodens = setup(&cluster, "snapshot @data@/snapshot").start();
    check(&nodens);
    // Changes arrive: a cluster that leaves takes its names along.
    cluster.server.delete("endpointslices", "default", "pets-west");
    let pets = "pets.default.svc.clusterset.local.";
    wait_for("the end of west", SOON, || ask(&nodens, pets, A) == data(&["10.7.0.1", "10.7.0.2"]));
    wait_for("the Service's too", SOON, || {
        ask(&nodens, "derived-pets.default.svc.cluster.local.", A) == denied()
    });
    assert_eq!(ask(&nodens, &format!("west.{pets}"), A), denied());
    cluster.server.delete("serviceimports", "default", "shop");
    wait_for("the end of the import", SOON, || {
        ask(&nodens, "shop.default.svc.clusterset.local.", A) == denied()
    });
    assert_eq!(ask(&nodens, V6, PTR), denied());
    fill(&cluster);
    wait_for("all of it", SOON, || {
        ask(&nodens, "shop.default.svc.clusterset.local.", A) == data(&["10.98.0.1"])
            && ask(&nodens, pets, A).1.len() == 3
            && ask(&nodens, "derived-pets.default.svc.cluster.local.", A).1.len() == 2
    });
    check(&nodens);
    // A restart without an API server knows the clusters, too.
    nodens.stop(SOON);
    cluster.server.refuse();
    let nodens = setup(&cluster, "snapshot @data@/snapshot").start();
    check(&nodens);
}

#[test]
fn pods_name_endpoints_of_imports_too() {
    let cluster = with(true);
    let endpoints =
        json!([{"addresses": ["10.7.0.5"], "targetRef": {"kind": "Pod", "name": "pet-x7"}}]);
    cluster.server.put(import("pets", json!({"type": "Headless"})));
    cluster.server.put(slice("pets-east", of_import("pets", "east"), endpoints));
    let nodens = setup(&cluster, "endpoint_pod_names").start();
    let name = "pet-x7.east.pets.default.svc.clusterset.local.";
    assert_eq!(ask(&nodens, name, A), data(&["10.7.0.5"]));
    assert_eq!(ask(&nodens, "5.0.7.10.in-addr.arpa.", PTR), data(&[name]));
}

#[test]
fn imports_need_their_own_slices_only() {
    let cluster = with(true);
    fill(&cluster);
    let nodens = setup(&cluster, "endpoints headless").start();
    let pets = "pets.default.svc.clusterset.local.";
    assert_eq!(ask(&nodens, pets, A).1.len(), 3);
    wait_for("the watches", SOON, || {
        let asked = cluster.server.requests_of("watch", "endpointslices");
        let selectors: BTreeSet<_> =
            asked.iter().map(|request| request.parameter("labelSelector").to_owned()).collect();
        selectors
            .iter()
            .eq(["multicluster.kubernetes.io/service-name", "service.kubernetes.io/headless"])
    });
    let nodens = setup(&cluster, "noendpoints").start();
    assert_eq!(ask(&nodens, pets, A), denied());
    assert_eq!(ask(&nodens, "shop.default.svc.clusterset.local.", A), data(&["10.98.0.1"]));
}

#[test]
fn a_missing_api_group_stops_nothing() {
    let cluster = with(false);
    let mut nodens = setup(&cluster, "max_staleness 5m").start();
    nodens.wait_for_log("the API server does not know this kind", SOON);
    assert_eq!(ask(&nodens, "web.default.svc.cluster.local.", A), data(&["10.96.87.191"]));
    assert_eq!(ask(&nodens, "shop.default.svc.clusterset.local.", A), denied());
    assert_eq!(ask(&nodens, "default.svc.clusterset.local.", A), data(&[]));
    let socket = nodens.folder().join("nodens.sock");
    let (_, told, _) = process::run(&["status", "--socket", &socket.to_string_lossy()]);
    assert!(told.contains("up to date") && !told.contains("404"), "{told}");
    let errors = |m: &tests::metrics::Metrics| m.sum("nodens_kubernetes_watch_errors_total", &[]);
    assert_eq!(errors(&nodens.metrics()), 0.0);
    // Installed later on, it is found without a restart.
    cluster.server.configure(|behaviour| behaviour.multicluster = true);
    fill(&cluster);
    wait_for("the imports", Duration::from_secs(90), || {
        ask(&nodens, "shop.default.svc.clusterset.local.", A) == data(&["10.98.0.1"])
    });
    check(&nodens);
    let log = nodens.stop_for_log(SOON);
    assert!(!log.contains("watch failed"), "{log}");
}

#[test]
fn a_missing_role_for_imports_leaves_the_rest() {
    let cluster = with(true);
    fill(&cluster);
    let allowed = Policy::default()
        .allow("", &["services", "namespaces"], &["list", "watch"])
        .allow("discovery.k8s.io", &["endpointslices"], &["list", "watch"]);
    cluster.server.configure(|behaviour| behaviour.policy = Some(allowed));
    let nodens = setup(&cluster, "startup_timeout 500ms").ready(process::Ready::Answer).start();
    nodens.wait_for_log("verbs [list, watch] on resource serviceimports of API group", SOON);
    let web = "web.default.svc.cluster.local.";
    wait_for("the Services", SOON, || ask(&nodens, web, A) == data(&["10.96.87.191"]));
    assert_eq!(ask(&nodens, "shop.default.svc.cluster.local.", A), denied());
    // Nobody can say that there is no such import, nor that no import has the address.
    assert_eq!(ask(&nodens, "9.9.9.9.in-addr.arpa.", PTR).0, "SERVFAIL");
    assert_eq!(ask(&nodens, "shop.default.svc.clusterset.local.", A).0, "SERVFAIL");
    wait_for("what is waited for", SOON, || {
        let ready = nodens.get(nodens.ports().ready, "/ready").unwrap();
        ready.status == 503 && ready.body.contains("ServiceImports")
    });
}
