//! The nodes of the cluster, and the Nodens of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use serde_json::Value;

use super::super::finding::{Finding, few};
use super::{Cluster, List, items, label, name, text};

/// Something that ended longer ago has healed.
const RECENT: Duration = Duration::from_secs(3_600);
/// A node that is not ready for a shorter time only starts.
const STARTING: Duration = Duration::from_secs(300);
/// Nodes whose kubelets are asked, and how many at a time: within the deadline even if each round has one that is silent.
const MAX_KUBELETS: usize = 640;
const AT_A_TIME: usize = 128;

fn is_ready(object: &Value) -> bool {
    items(object, "/status/conditions").any(|condition| {
        text(condition, "/type") == "Ready" && text(condition, "/status") == "True"
    })
}

/// Nodes that run containers of Linux, and DaemonSets.
fn real(nodes: &[Value]) -> impl Iterator<Item = &Value> {
    nodes.iter().filter(|node| {
        label(node, "kubernetes.io/os") != "windows"
            && label(node, "type") != "virtual-kubelet"
            && label(node, "eks.amazonaws.com/compute-type") != "fargate"
    })
}

/// Whether a node has joined so lately that it may only be starting.
fn is_new(node: &Value) -> bool {
    age(text(node, "/metadata/creationTimestamp")).is_some_and(|age| age < STARTING)
}

/// Whether each node has a Nodens that is ready.
pub async fn coverage(cluster: Arc<Cluster>) -> Finding {
    let (nodes, instances) = match (cluster.list(List::Nodes).await, cluster.instances().await) {
        (Ok(nodes), Ok(instances)) => (nodes, instances),
        (Err(skipped), _) | (_, Err(skipped)) => return skipped,
    };
    if instances.is_empty() {
        return Finding::problem(
            "no pod of Nodens in the cluster (label k8s-app=nodens, or an image of that name)",
            "apply an overlay of manifests/, or install the chart; with systemd on the nodes this check does not apply",
        );
    }
    let ready: BTreeSet<&str> = instances
        .iter()
        .filter(|pod| is_ready(pod))
        .map(|pod| text(pod, "/spec/nodeName"))
        .collect();
    let all = real(nodes).count();
    let missing = real(nodes).filter(|node| !ready.contains(text(node, "/metadata/name")));
    let (new, old): (Vec<&Value>, Vec<&Value>) = missing.partition(|node| is_new(node));
    if old.is_empty() && !new.is_empty() {
        let named = few(new.iter().map(|node| name(node)));
        return Finding::warning(
            format!(
                "{} of {all} nodes are new and have none that is ready yet: {named}",
                new.len()
            ),
            "see whether it is so again in 5 minutes",
        );
    }
    let without: Vec<String> = old
        .iter()
        .map(|node| text(node, "/metadata/name"))
        .map(|node| match instances.iter().find(|pod| text(pod, "/spec/nodeName") == node) {
            Some(pod) => format!("{node} ({} is not ready)", name(pod)),
            None => format!("{node} (no pod)"),
        })
        .collect();
    match without.is_empty() {
        true => Finding::ok(format!("all {all} nodes have one")),
        false => Finding::problem(
            format!("{} of {all} nodes have none that is ready: {}", without.len(), few(without)),
            "kubectl -n kube-system describe pod shows why: taints, resources, or /ready; pods of such a node have no DNS if its \
             kubelet points at Nodens",
        ),
    }
}

/// Whether all run the same image.
pub async fn versions(cluster: Arc<Cluster>) -> Finding {
    let instances = match cluster.instances().await {
        Ok(instances) => instances,
        Err(skipped) => return skipped,
    };
    let mut images: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in &instances {
        let container =
            items(pod, "/spec/containers").find(|one| text(one, "/image").contains("nodens"));
        let container = container.or_else(|| items(pod, "/spec/containers").next());
        let image = container.map_or("", |container| text(container, "/image"));
        images.entry(image.to_owned()).or_default().push(text(pod, "/spec/nodeName").to_owned());
    }
    match images.len() {
        0 => Finding::skipped("no pod of Nodens"),
        1 => Finding::ok(format!("all {} run {}", instances.len(), few(images.into_keys()))),
        _ => {
            let told =
                images.into_iter().map(|(image, nodes)| format!("{image} on {}", few(nodes)));
            Finding::warning(
                told.collect::<Vec<_>>().join("; "),
                "a roll-out is under way, or has stopped: kubectl -n kube-system rollout status daemonset/nodens",
            )
        }
    }
}

/// Whether an instance was killed, or is started again and again. What has healed long ago does not count.
pub async fn kills(cluster: Arc<Cluster>) -> Finding {
    let instances = match cluster.instances().await {
        Ok(instances) => instances,
        Err(skipped) => return skipped,
    };
    let mut found = Vec::new();
    for pod in &instances {
        for status in items(pod, "/status/containerStatuses") {
            let who = format!("{} on {}", name(pod), text(pod, "/spec/nodeName"));
            let waiting = text(status, "/state/waiting/reason");
            let ended = "/lastState/terminated";
            let reason = text(status, &format!("{ended}/reason"));
            let is_recent = is_recent(text(status, &format!("{ended}/finishedAt")));
            let count = status.get("restartCount").and_then(Value::as_u64).unwrap_or(0);
            found.push(match (waiting, reason, is_recent) {
                ("CrashLoopBackOff" | "ImagePullBackOff" | "ErrImagePull", _, _) => Finding::problem(
                    format!("{who}: {waiting} ({reason})"),
                    "kubectl -n kube-system logs --previous shows the last words of the container",
                ),
                (_, "OOMKilled", true) => Finding::problem(
                    format!("{who} was killed for its memory, {count} restarts"),
                    "raise resources.limits.memory, or make the cache smaller",
                ),
                (_, reason, true) if count > 0 => Finding::warning(
                    format!("{who} ended within the last hour ({reason}), {count} restarts"),
                    "kubectl -n kube-system logs --previous shows its last words",
                ),
                _ => Finding::ok(format!("{who}: no end within the last hour")),
            });
        }
    }
    match found.iter().all(|finding| finding.cure.is_empty()) && !found.is_empty() {
        true => Finding::ok(format!("none of {} ended within the last hour", found.len())),
        false => Finding::worst(found, "no pod of Nodens"),
    }
}

fn age(time: &str) -> Option<Duration> {
    let time: k8s_openapi::jiff::Timestamp = time.parse().ok()?;
    SystemTime::now().duration_since(time.into()).ok()
}

fn is_recent(time: &str) -> bool {
    age(time).is_some_and(|age| age < RECENT)
}

/// Whether kubelets point pods at Nodens, as they tell themselves (`configz`).
pub async fn kubelets(cluster: Arc<Cluster>) -> Finding {
    let (nodes, addresses) = match (cluster.list(List::Nodes).await, cluster.addresses().await) {
        (Ok(nodes), Ok(addresses)) => (nodes, addresses),
        (Err(skipped), _) | (_, Err(skipped)) => return skipped,
    };
    if addresses.is_empty() {
        return Finding::skipped("no instance has -localip: pods ask the DNS Service");
    }
    let names: Vec<&str> =
        real(nodes).map(|node| text(node, "/metadata/name")).take(MAX_KUBELETS).collect();
    let mut found = Vec::new();
    for some in names.chunks(AT_A_TIME) {
        let asked = some.iter().map(|node| kubelet(&cluster, node, &addresses));
        found.extend(join_all(asked).await);
    }
    let more = real(nodes).count().saturating_sub(MAX_KUBELETS);
    if more > 0 {
        found.push(Finding::warning(
            format!("{more} further nodes were not asked"),
            "run `nodens doctor pods` on them",
        ));
    }
    Finding::worst(found, "no node")
}

async fn kubelet(cluster: &Cluster, node: &str, ours: &[IpAddr]) -> Finding {
    let path = format!("/api/v1/nodes/{node}/proxy/configz");
    let settings = match cluster.api.get(&path).await {
        Ok(answer) => answer.body,
        Err(error) => {
            return Finding::skipped(format!(
                "{node}: kubelet's settings cannot be read (nodes/proxy): {error}"
            ));
        }
    };
    let settings = settings.get("kubeletconfig").cloned().unwrap_or_default();
    let servers: Vec<String> =
        items(&settings, "/clusterDNS").filter_map(|ip| ip.as_str().map(str::to_owned)).collect();
    let is_ours = |text: &String| text.parse().is_ok_and(|ip: IpAddr| ours.contains(&ip));
    if servers.first().is_some_and(is_ours) {
        return Finding::ok(format!("{node}: {}", few(servers)));
    }
    let evidence = format!("{node}: clusterDNS is {}", few(servers.iter().cloned()));
    let cure = format!("set it to {} (docs/kubelet.md)", few(ours.iter().map(ToString::to_string)));
    match servers.iter().any(is_ours) {
        true => Finding::warning(format!("{evidence}: Nodens is not the first"), cure),
        false => Finding::problem(format!("{evidence}: its pods do not ask Nodens"), cure),
    }
}

/// Whether every node has a network of pods; one that only starts is told apart by time.
pub async fn pod_network(cluster: Arc<Cluster>) -> Finding {
    let nodes = match cluster.list(List::Nodes).await {
        Ok(nodes) => nodes,
        Err(skipped) => return skipped,
    };
    let mut found = Vec::new();
    for node in real(nodes) {
        let named = name(node);
        let bad = items(node, "/status/conditions").find(|condition| {
            let (kind, status) = (text(condition, "/type"), text(condition, "/status"));
            kind == "Ready" && status != "True" || kind == "NetworkUnavailable" && status == "True"
        });
        let Some(bad) = bad else {
            found.push(Finding::ok(named));
            continue;
        };
        let since = age(text(bad, "/lastTransitionTime")).unwrap_or_default();
        let message = text(bad, "/message");
        let of_network = text(bad, "/type") == "NetworkUnavailable"
            || message.contains("cni")
            || message.contains("CNI");
        let evidence =
            format!("{named}: {} for {} s: {message}", text(bad, "/type"), since.as_secs());
        found.push(match (of_network, since < STARTING) {
            (true, true) => Finding::warning(
                format!("{evidence} (it may only be starting)"),
                "wait for the pods of the CNI plugin",
            ),
            (true, false) => Finding::problem(
                evidence,
                "look at the pods of the CNI plugin on that node: no pod can start before",
            ),
            (false, _) => Finding::warning(evidence, "kubectl describe node shows the conditions"),
        });
    }
    let count = found.len();
    match found.iter().all(|finding| finding.cure.is_empty()) && count > 0 {
        true => Finding::ok(format!("all {count} nodes have one")),
        false => Finding::worst(found, "no node"),
    }
}
