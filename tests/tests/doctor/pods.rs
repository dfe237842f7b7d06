//! The kubelet's settings, from the files of a node.

use std::fs;
use std::path::Path;

use tests::doctor::Findings;
use tests::ports;

/// A node with these files, and a Nodens at 169.254.20.10 for `cluster.local`.
fn examined(files: &[(&str, &str)]) -> Findings {
    let node = tempfile::tempdir().unwrap();
    for (path, text) in files {
        write(node.path(), path, text);
    }
    let corefile = format!(
        ".:{} {{\n    bind 169.254.20.10\n    kubernetes cluster.local {{\n        objects {}\n    }}\n}}\n",
        ports::one(),
        node.path().display()
    );
    write(node.path(), "Corefile", &corefile);
    let (root, conf) = (node.path().to_string_lossy(), node.path().join("Corefile"));
    let conf = conf.to_string_lossy();
    Findings::of(&[
        "pods",
        "node",
        "--root",
        &root,
        "--socket",
        "/nonexistent/nodens.sock",
        "-conf",
        &conf,
        "-localip",
        "169.254.20.10",
    ])
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

const KUBELET: &str = "var/lib/kubelet/config.yaml";

#[test]
fn a_kubelet_that_leads_to_nodens() {
    let found = examined(&[
        (
            KUBELET,
            "clusterDNS: [169.254.20.10]\nclusterDomain: cluster.local\nresolvConf: /run/real.conf\n",
        ),
        ("run/real.conf", "nameserver 192.0.2.53\nsearch corp.example\n"),
        ("etc/cni/net.d/10-flannel.conflist", "{}"),
    ]);
    for id in [
        "kubelet-cluster-dns",
        "kubelet-cluster-domain",
        "kubelet-resolv-conf",
        "search-list",
        "cni",
    ] {
        found.demand(id, "ok", "");
    }
}

#[test]
fn one_that_leads_elsewhere() {
    let found = examined(&[(KUBELET, "clusterDNS: [10.96.0.10]\nclusterDomain: corp.internal\n")]);
    found.demand("kubelet-cluster-dns", "problem", "10.96.0.10: pods do not ask Nodens");
    found.demand(
        "kubelet-cluster-domain",
        "problem",
        "clusterDomain is corp.internal, and `kubernetes` serves cluster.local.",
    );
    found.demand("kubelet-resolv-conf", "problem", "cannot be read");
    let found = examined(&[(KUBELET, "clusterDNS: [10.96.0.10, 169.254.20.10]\n")]);
    found.demand("kubelet-cluster-dns", "warning", "is not the first");
    found.demand("kubelet-cluster-domain", "ok", "both have cluster.local");
    let found = examined(&[(KUBELET, "kind: KubeletConfiguration\n")]);
    found.demand("kubelet-cluster-dns", "problem", "has no clusterDNS");
}

#[test]
fn a_resolv_conf_that_leads_to_the_pod_itself_or_in_a_circle() {
    let kubelet = (KUBELET, "clusterDNS: [169.254.20.10]\n");
    let found = examined(&[kubelet, ("etc/resolv.conf", "nameserver 127.0.0.53\n")]);
    found.demand(
        "kubelet-resolv-conf",
        "problem",
        "names 127.0.0.53, which in a pod is the pod itself",
    );
    let found = examined(&[kubelet, ("etc/resolv.conf", "nameserver 169.254.20.10\n")]);
    found.demand("kubelet-resolv-conf", "problem", "which is Nodens");
}

#[test]
fn search_lists_that_multiply_queries() {
    let kubelet = (KUBELET, "clusterDNS: [169.254.20.10]\n");
    let list = "nameserver 192.0.2.53\nsearch a.example b.example c.example\n";
    let found = examined(&[kubelet, ("etc/resolv.conf", list)]);
    found.demand("search-list", "warning", "14 queries for each short name outside");
}

/// Without a pod network: a node that starts, and one that does not get any further.
#[test]
fn a_node_without_a_pod_network() {
    let found = examined(&[(KUBELET, "{}\n"), ("etc/cni/net.d/.keep", "")]);
    found.demand("cni", "warning", "may only be starting");
    let node = tempfile::tempdir().unwrap();
    write(node.path(), KUBELET, "{}\n");
    let folder = node.path().join("etc/cni/net.d");
    fs::create_dir_all(&folder).unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7_200);
    fs::File::open(&folder).unwrap().set_modified(long_ago).unwrap();
    let root = node.path().to_string_lossy();
    let found = Findings::of(&[
        "node",
        "--root",
        &root,
        "--socket",
        "/nonexistent/nodens.sock",
        "-conf",
        "/dev/null",
    ]);
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let up: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    // A machine that has only started cannot have waited for long.
    if up > 300.0 {
        found.demand("cni", "problem", "no configuration of a pod network");
    }
}
