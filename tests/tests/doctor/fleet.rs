//! `nodens doctor --cluster`: an API server with the objects of a cluster, and each thing that may be wrong in it.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tests::api::{ApiServer, Fault, Policy};
use tests::doctor::{BOUND, Findings};

/// A cluster of two nodes with everything as it should be.
struct Fleet {
    server: ApiServer,
    folder: tempfile::TempDir,
}

impl Fleet {
    fn new() -> Self {
        let server = ApiServer::start();
        for node in ["node-1", "node-2"] {
            server.put(node_object(node, "True", "KubeletReady", 86_400));
            server.put(instance(node, "registry.example/nodens:0.1.0"));
        }
        server.put(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "selector": {"k8s-app": "kube-dns"}}}));
        server.put(pod("kube-system", "coredns-1", json!({"k8s-app": "kube-dns"})));
        server.put(slice("kube-system", "kube-dns", &["10.244.0.5"]));
        server.put(config_map("kube-proxy", json!({"config.conf": "mode: iptables\n"})));
        server.put(config_map(
            "nodens",
            json!({"Corefile": ".:53 {\n    bind 169.254.20.10\n    whoami\n}\n"}),
        ));
        server.configure(|behaviour| {
            for node in ["node-1", "node-2"] {
                behaviour.configz.insert(node.to_owned(), configz(&["169.254.20.10"]));
            }
        });
        Self { server, folder: tempfile::tempdir().unwrap() }
    }

    fn examined(&self) -> Findings {
        let kubeconfig = self.folder.path().join("kubeconfig");
        self.server.write_kubeconfig(&kubeconfig);
        Findings::of(&["--cluster", "--kubeconfig", &kubeconfig.to_string_lossy()])
    }
}

fn node_object(name: &str, ready: &str, message: &str, seconds: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
        "status": {"conditions": [{"type": "Ready", "status": ready, "message": message,
            "lastTransitionTime": ago(seconds)}]}})
}

/// So many seconds ago, in the API's form.
fn ago(seconds: u64) -> String {
    let at = SystemTime::now() - Duration::from_secs(seconds);
    let at = k8s_openapi::jiff::Timestamp::try_from(at).unwrap();
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn instance(node: &str, image: &str) -> Value {
    let mut pod = pod("kube-system", &format!("nodens-{node}"), json!({"k8s-app": "nodens"}));
    pod["spec"] = json!({"nodeName": node, "hostNetwork": true, "containers": [{"name": "nodens", "image": image,
        "args": ["-conf=/etc/nodens/Corefile", "-localip=169.254.20.10"]}]});
    pod
}

fn pod(namespace: &str, name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "example/c:1"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "c", "restartCount": 0, "state": {"running": {}}}]}})
}

fn slice(namespace: &str, service: &str, ips: &[&str]) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service}},
        "endpoints": [{"addresses": ips, "conditions": {"ready": true}}]})
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "kube-system"}, "data": data})
}

fn configz(servers: &[&str]) -> Value {
    json!({"kubeletconfig": {"clusterDNS": servers, "clusterDomain": "cluster.local"}})
}

#[test]
fn a_healthy_cluster_has_no_problem() {
    let found = Fleet::new().examined();
    assert_eq!((found.all("problem"), found.all("warning")), (Vec::new(), Vec::new()));
    assert_eq!(found.status, 0);
    assert!(found.took < BOUND, "{:?}", found.took);
    for id in [
        "cluster-api",
        "cluster-rights",
        "cluster-clock",
        "dns-service",
        "empty-services",
        "corefiles",
        "coverage",
    ] {
        found.demand(id, "ok", "");
    }
    for id in ["version-skew", "kills", "kubelets", "pod-network", "proxy-mode", "network-policies"]
    {
        found.demand(id, "ok", "");
    }
    found.demand("cilium-redirect", "skipped", "no Cilium");
}

#[test]
fn an_api_server_that_is_away_or_refuses() {
    let fleet = Fleet::new();
    fleet.server.refuse();
    fleet.examined().demand("cluster-api", "problem", "Connection refused");
    fleet.server.heal();
    fleet.server.inject(Fault::Unauthorized);
    fleet.examined().demand("cluster-api", "problem", "401");
    fleet.server.heal();
    let policy = Policy::default().allow("", &["services", "pods"], &["list"]);
    fleet.server.configure(|behaviour| behaviour.policy = Some(policy));
    let found = fleet.examined();
    found.demand("cluster-rights", "warning", "list endpointslices.discovery.k8s.io");
    found.demand("coverage", "skipped", "no nodes");
    fleet.server.configure(|behaviour| (behaviour.policy, behaviour.ahead) = (None, 7_200));
    fleet.examined().demand("cluster-clock", "problem", "s behind");
}

/// The selector beside the labels of the nearest pod, and pods that are not ready.
#[test]
fn services_without_endpoints() {
    let fleet = Fleet::new();
    let service = |name: &str, app: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIP": "10.96.5.5", "selector": {"app": app, "tier": "front"}}})
    };
    fleet.server.put(service("web", "web"));
    fleet.server.put(pod("shop", "web-1", json!({"app": "wbe", "tier": "front"})));
    let found = fleet.examined();
    found.demand(
        "empty-services",
        "warning",
        "shop/web: selector app=web; tier=front matches 0 of 1 pods",
    );
    found.demand("empty-services", "warning", "the nearest is web-1: label app is wbe, not web");
    let mut waiting = pod("shop", "web-2", json!({"app": "web", "tier": "front"}));
    waiting["status"]["containerStatuses"] =
        json!([{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]);
    fleet.server.put(waiting);
    fleet.examined().demand(
        "empty-services",
        "warning",
        "matches 1 pods, none is ready (ImagePullBackOff)",
    );
    fleet.server.put(slice("shop", "web", &["10.244.0.9"]));
    fleet.examined().demand("empty-services", "ok", "");
    fleet.server.delete("endpointslices", "kube-system", "kube-dns-1");
    fleet.examined().demand(
        "dns-service",
        "problem",
        "kube-system/kube-dns has no endpoint that is ready",
    );
}

#[test]
fn a_corefile_that_an_instance_could_not_start_with() {
    let fleet = Fleet::new();
    fleet
        .server
        .put(config_map("nodens", json!({"Corefile": ".:53 {\n    forwrad . 192.0.2.1\n}\n"})));
    fleet.examined().demand("corefiles", "problem", "nodens:2: there is no directive \"forwrad\"");
}

#[test]
fn nodes_without_nodens_and_of_two_versions() {
    let fleet = Fleet::new();
    fleet.server.put(instance("node-2", "registry.example/nodens:0.2.0"));
    fleet.examined().demand(
        "version-skew",
        "warning",
        "nodens:0.1.0 on node-1; registry.example/nodens:0.2.0 on node-2",
    );
    fleet.server.put(node_object("node-3", "True", "", 86_400));
    fleet.examined().demand(
        "coverage",
        "problem",
        "1 of 3 nodes have none that is ready: node-3 (no pod)",
    );
}

/// An end an hour ago has healed.
#[test]
fn instances_that_were_killed() {
    let fleet = Fleet::new();
    let killed = |seconds: u64| {
        let mut pod = instance("node-1", "registry.example/nodens:0.1.0");
        pod["status"]["containerStatuses"] = json!([{"restartCount": 3, "state": {"running": {}},
            "lastState": {"terminated": {"reason": "OOMKilled", "finishedAt": ago(seconds)}}}]);
        pod
    };
    fleet.server.put(killed(60));
    fleet.examined().demand("kills", "problem", "was killed for its memory, 3 restarts");
    fleet.server.put(killed(7_200));
    fleet.examined().demand("kills", "ok", "");
}

#[test]
fn kubelets_that_lead_elsewhere() {
    let fleet = Fleet::new();
    fleet.server.configure(|behaviour| {
        behaviour.configz.insert("node-2".to_owned(), configz(&["10.96.0.10"]));
    });
    fleet.examined().demand(
        "kubelets",
        "problem",
        "node-2: clusterDNS is 10.96.0.10: its pods do not ask Nodens",
    );
}

/// A node that only starts, and one that does not get any further.
#[test]
fn nodes_without_a_pod_network() {
    let fleet = Fleet::new();
    let message = "container runtime network not ready: cni plugin not initialized";
    fleet.server.put(node_object("node-2", "False", message, 30));
    fleet.examined().demand("pod-network", "warning", "may only be starting");
    fleet.server.put(node_object("node-2", "False", message, 3_000));
    fleet.examined().demand("pod-network", "problem", "cni plugin not initialized");
}

fn takeover(fleet: &Fleet) {
    for node in ["node-1", "node-2"] {
        let mut pod = instance(node, "registry.example/nodens:0.1.0");
        pod["spec"]["containers"][0]["args"] =
            json!(["-localip=169.254.20.10,$(KUBE_DNS_SERVICE_HOST)"]);
        fleet.server.put(pod);
    }
}

#[test]
fn ipvs_and_a_cluster_ip_that_is_taken_over() {
    let fleet = Fleet::new();
    fleet.server.put(config_map("kube-proxy", json!({"config.conf": "mode: ipvs\n"})));
    fleet.examined().demand("proxy-mode", "ok", "mode is ipvs; no ClusterIP");
    takeover(&fleet);
    fleet.examined().demand("proxy-mode", "problem", "IPVS mode");
}

#[test]
fn policies_that_let_pods_reach_kube_dns_only() {
    let fleet = Fleet::new();
    let policy = |egress: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "dns", "namespace": "shop"},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": egress}})
    };
    let port = json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]);
    let kube_dns =
        json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}]);
    fleet.server.put(policy(json!([{"to": kube_dns, "ports": port}])));
    fleet.examined().demand(
        "network-policies",
        "problem",
        "shop/dns lets pods reach other DNS servers, but not 169.254.20.10",
    );
    let block = json!([{"ipBlock": {"cidr": "169.254.20.10/32"}}]);
    fleet
        .server
        .put(policy(json!([{"to": kube_dns, "ports": port}, {"to": block, "ports": port}])));
    fleet.examined().demand("network-policies", "ok", "1 policies restrict egress");
    fleet.server.put(policy(json!([])));
    fleet.examined().demand("network-policies", "warning", "no DNS server at 169.254.20.10");
}

#[test]
fn cilium_without_a_redirect_policy() {
    let fleet = Fleet::new();
    fleet.server.put(config_map("cilium-config", json!({"kube-proxy-replacement": "true"})));
    fleet.examined().demand("cilium-redirect", "ok", "at an address of the node");
    takeover(&fleet);
    fleet.examined().demand("cilium-redirect", "problem", "is never reached");
    for node in ["node-1", "node-2"] {
        let mut pod = instance(node, "registry.example/nodens:0.1.0");
        pod["spec"]["hostNetwork"] = json!(false);
        pod["spec"]["containers"][0]["args"] = json!([]);
        fleet.server.put(pod);
    }
    fleet.examined().demand("cilium-redirect", "problem", "no CiliumLocalRedirectPolicy leads");
    fleet.server.put(json!({"apiVersion": "cilium.io/v2", "kind": "CiliumLocalRedirectPolicy",
        "metadata": {"name": "dns", "namespace": "kube-system"},
        "spec": {"redirectBackend": {"localEndpointSelector": {"matchLabels": {"k8s-app": "nodens"}}}}}));
    fleet.examined().demand("cilium-redirect", "ok", "kube-system/dns leads to the pods of Nodens");
}
