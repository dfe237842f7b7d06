//! What kube-proxy, NetworkPolicies and Cilium do to queries.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use super::super::finding::{Finding, few};
use super::labels::selects;
use super::{Cluster, List, items, name, text};

fn config<'a>(maps: &'a [Value], named: &str) -> Option<&'a Value> {
    maps.iter().find(|map| text(map, "/metadata/name") == named)
}

/// Whether instances take a ClusterIP over.
async fn takeover(cluster: &Cluster) -> Result<bool, Finding> {
    let addresses = cluster.addresses().await?;
    let service = cluster.dns_address().await;
    Ok(service.is_some_and(|ip| addresses.contains(&ip)))
}

/// Whether kube-proxy's mode, by its ConfigMap, goes with ours.
pub async fn proxy_mode(cluster: Arc<Cluster>) -> Finding {
    let maps = match cluster.list(List::ConfigMaps).await {
        Ok(maps) => maps,
        Err(skipped) => return skipped,
    };
    let Some(map) = config(maps, "kube-proxy") else {
        return Finding::skipped("kube-system has no ConfigMap kube-proxy");
    };
    let settings = map.pointer("/data/config.conf").and_then(Value::as_str).unwrap_or_default();
    let settings: Value = serde_yaml_ng::from_str(settings).unwrap_or_default();
    let mode = match text(&settings, "/mode") {
        "" => "iptables",
        mode => mode,
    };
    match takeover(&cluster).await {
        Err(skipped) => skipped,
        Ok(true) if mode == "ipvs" => Finding::problem(
            "kube-proxy is in IPVS mode and owns every ClusterIP, and instances take one over",
            "use the overlay link-local and point kubelets' clusterDNS at its address, or run kube-proxy in nftables mode",
        ),
        Ok(true) => {
            Finding::ok(format!("kube-proxy's mode is {mode}, and a ClusterIP is taken over"))
        }
        Ok(false) => {
            Finding::ok(format!("kube-proxy's mode is {mode}; no ClusterIP is taken over"))
        }
    }
}

/// Whether pods under a NetworkPolicy that lets them reach DNS may reach Nodens' addresses too.
pub async fn network_policies(cluster: Arc<Cluster>) -> Finding {
    let (policies, addresses) =
        match (cluster.list(List::NetworkPolicies).await, cluster.addresses().await) {
            (Ok(policies), Ok(addresses)) => (policies, addresses),
            (Err(skipped), _) | (_, Err(skipped)) => return skipped,
        };
    // A ClusterIP that is taken over is allowed by what allows the Service's pods, in engines that look before translation.
    let service = cluster.dns_address().await;
    let local: Vec<IpAddr> = addresses.into_iter().filter(|ip| Some(*ip) != service).collect();
    if local.is_empty() {
        return Finding::skipped("no instance has an address of its own (-localip)");
    }
    let egress: Vec<&Value> = policies.iter().filter(|policy| restricts(policy)).collect();
    let mut found = Vec::new();
    for policy in &egress {
        let namespace = text(policy, "/metadata/namespace");
        // Policies add up: another one that is for the same pods may allow it.
        let others = egress.iter().filter(|other| {
            let chosen = other.pointer("/spec/podSelector");
            let labels = policy.pointer("/spec/podSelector/matchLabels");
            text(other, "/metadata/namespace") == namespace
                && (chosen == policy.pointer("/spec/podSelector") || selects(chosen, labels))
        });
        let allowing: Vec<&&Value> = others.collect();
        let missing: Vec<String> = local
            .iter()
            .filter(|ip| !allowing.iter().any(|policy| allows(policy, **ip)))
            .map(ToString::to_string)
            .collect();
        if missing.is_empty() {
            continue;
        }
        let missing = few(missing);
        let cure = format!(
            "add to its egress: to an ipBlock of {missing} at port 53, UDP and TCP (docs/network.md; manifests/examples has it)"
        );
        found.push(match items(policy, "/spec/egress").any(mentions_dns) {
            true => Finding::problem(
                format!("{} lets pods reach other DNS servers, but not {missing}", name(policy)),
                cure,
            ),
            false => Finding::warning(
                format!("{} lets pods reach no DNS server at {missing}", name(policy)),
                cure,
            ),
        });
    }
    if found.is_empty() {
        return Finding::ok(format!(
            "{} policies restrict egress, and all let pods reach {}",
            egress.len(),
            few(local.iter().map(ToString::to_string))
        ));
    }
    Finding::worst(found, "")
}

fn restricts(policy: &Value) -> bool {
    let types: Vec<&str> = items(policy, "/spec/policyTypes").filter_map(Value::as_str).collect();
    // Without types it is for egress if it has rules for it.
    types.contains(&"Egress") || types.is_empty() && policy.pointer("/spec/egress").is_some()
}

/// Whether a rule is about DNS: port 53, or the pods of kube-dns.
fn mentions_dns(rule: &Value) -> bool {
    let of_port = items(rule, "/ports").any(covers);
    let of_pods = items(rule, "/to").any(|peer| {
        let labels = peer.pointer("/podSelector/matchLabels");
        labels.and_then(|labels| labels.get("k8s-app")?.as_str()) == Some("kube-dns")
    });
    of_port || of_pods
}

/// Whether a port of a rule is 53, or within whose range it is.
fn covers(port: &Value) -> bool {
    match port.get("port") {
        None => true,
        Some(Value::String(named)) => named == "dns" || named == "dns-tcp" || named == "domain",
        Some(number) => {
            let first = number.as_u64().unwrap_or_default();
            let last = port.get("endPort").and_then(Value::as_u64).unwrap_or(first);
            (first..=last).contains(&53)
        }
    }
}

/// Whether a policy lets pods reach port 53 over UDP at an address.
fn allows(policy: &Value, ip: IpAddr) -> bool {
    items(policy, "/spec/egress").any(|rule| {
        let ports: Vec<&Value> = items(rule, "/ports").collect();
        let is_udp =
            |port: &&&Value| matches!(port.get("protocol").and_then(Value::as_str), Some("UDP"));
        let to_port = ports.is_empty() || ports.iter().filter(is_udp).any(|port| covers(port));
        let peers: Vec<&Value> = items(rule, "/to").collect();
        to_port && (peers.is_empty() || peers.iter().any(|peer| holds(peer, ip)))
    })
}

fn holds(peer: &Value, ip: IpAddr) -> bool {
    let within = |text: &str| text.parse::<IpNet>().is_ok_and(|net| net.contains(&ip));
    let block = text(peer, "/ipBlock/cidr");
    let except = items(peer, "/ipBlock/except").filter_map(Value::as_str).any(within);
    within(block) && !except
}

/// Whether Cilium has the redirect policy that it needs.
pub async fn cilium(cluster: Arc<Cluster>) -> Finding {
    let maps = match cluster.list(List::ConfigMaps).await {
        Ok(maps) => maps,
        Err(skipped) => return skipped,
    };
    let Some(map) = config(maps, "cilium-config") else {
        return Finding::skipped("no Cilium (kube-system has no ConfigMap cilium-config)");
    };
    let replaces = map.pointer("/data/kube-proxy-replacement").and_then(Value::as_str);
    if !matches!(replaces, Some("true" | "strict")) {
        return Finding::ok("Cilium leaves Services to kube-proxy");
    }
    let (instances, takeover) = match (cluster.instances().await, takeover(&cluster).await) {
        (Ok(instances), Ok(takeover)) => (instances, takeover),
        (Err(skipped), _) | (_, Err(skipped)) => return skipped,
    };
    let on_node = instances
        .iter()
        .any(|pod| pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true));
    let cure = "use the overlay pod-network, with a CiliumLocalRedirectPolicy from kube-dns to the pods k8s-app=nodens \
                (docs/network.md), and enable it in Cilium (localRedirectPolicies.enabled)";
    if takeover {
        return Finding::problem(
            "Cilium replaces kube-proxy and translates ClusterIPs in the pods' sockets: the one that is taken over is never reached",
            cure,
        );
    }
    if on_node || instances.is_empty() {
        return Finding::ok(
            "Cilium replaces kube-proxy; Nodens is asked at an address of the node, not through a Service",
        );
    }
    let policies = cluster.list(List::RedirectPolicies).await.unwrap_or_default();
    let leads = policies.iter().find(|policy| {
        let backend = policy.pointer("/spec/redirectBackend/localEndpointSelector");
        instances
            .iter()
            .any(|pod| backend.is_some() && selects(backend, pod.pointer("/metadata/labels")))
    });
    match leads {
        Some(policy) => Finding::ok(format!("{} leads to the pods of Nodens", name(policy))),
        None => Finding::problem(
            "Cilium replaces kube-proxy, and no CiliumLocalRedirectPolicy leads to the pods of Nodens: pods ask CoreDNS",
            cure,
        ),
    }
}
