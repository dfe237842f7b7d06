//! Services without endpoints, and the Corefile in its ConfigMap.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::super::finding::{Finding, few};
use super::labels::difference;
use super::{Cluster, List, is_dns, items, name, text};
use crate::corefile;
use crate::plan::{Machine, Plan};

/// How many of a Service's endpoints are ready, and how many there are, by namespace and name.
fn counts(slices: &[Value]) -> BTreeMap<(String, String), (usize, usize)> {
    let mut counts: BTreeMap<(String, String), (usize, usize)> = BTreeMap::new();
    for slice in slices {
        let service = super::label(slice, "kubernetes.io/service-name").to_owned();
        let count =
            counts.entry((text(slice, "/metadata/namespace").to_owned(), service)).or_default();
        for endpoint in items(slice, "/endpoints") {
            let addresses = items(endpoint, "/addresses").count();
            // Not told means ready.
            let ready =
                endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
            count.1 += addresses;
            count.0 += if ready { addresses } else { 0 };
        }
    }
    counts
}

fn key(service: &Value) -> (String, String) {
    (text(service, "/metadata/namespace").to_owned(), text(service, "/metadata/name").to_owned())
}

/// Whether cluster DNS has endpoints: what `fallback`, other nodes and clients without Nodens ask.
pub async fn dns(cluster: Arc<Cluster>) -> Finding {
    let (services, slices) =
        match (cluster.list(List::Services).await, cluster.list(List::Slices).await) {
            (Ok(services), Ok(slices)) => (services, slices),
            (Err(skipped), _) | (_, Err(skipped)) => return skipped,
        };
    let Some(service) = services.iter().find(|service| is_dns(service)) else {
        return Finding::warning(
            "kube-system has no Service kube-dns",
            "if cluster DNS has another name there, set clusterDNS.service of the chart to it",
        );
    };
    let (ready, all) = counts(slices).get(&key(service)).copied().unwrap_or_default();
    let named = name(service);
    if ready > 0 {
        return Finding::ok(format!(
            "{named} at {} has {ready} endpoints that are ready",
            text(service, "/spec/clusterIP")
        ));
    }
    let pods = cluster.list(List::Pods).await.unwrap_or_default();
    Finding::problem(
        format!("{named} has no endpoint that is ready ({all} in all): {}", why(service, pods)),
        "mend CoreDNS' pods or the Service's selector: pods on nodes without Nodens have no DNS",
    )
}

/// Which Services have no endpoint that is ready, with the selector beside the labels of the nearest pods.
pub async fn empty(cluster: Arc<Cluster>) -> Finding {
    let lists = tokio::join!(
        cluster.list(List::Services),
        cluster.list(List::Slices),
        cluster.list(List::Pods)
    );
    let (services, slices, pods) = match lists {
        (Ok(services), Ok(slices), Ok(pods)) => (services, slices, pods),
        (Err(skipped), _, _) | (_, Err(skipped), _) | (_, _, Err(skipped)) => return skipped,
    };
    let counts = counts(slices);
    let mut found = Vec::new();
    let mut examined = 0;
    for service in services {
        let selector = service.pointer("/spec/selector").and_then(Value::as_object);
        if selector.is_none_or(|selector| selector.is_empty()) || is_dns(service) {
            continue;
        }
        examined += 1;
        if counts.get(&key(service)).is_some_and(|(ready, _)| *ready > 0) {
            continue;
        }
        found.push(Finding::warning(
            format!("{}: {}", name(service), why(service, pods)),
            "correct selector or labels, or make the pods ready; a headless Service without endpoints is NXDOMAIN",
        ));
    }
    if found.is_empty() {
        return Finding::ok(format!(
            "all {examined} Services with a selector have endpoints that are ready"
        ));
    }
    Finding::worst(found, "")
}

/// Why a Service with a selector has no endpoint that is ready.
fn why(service: &Value, pods: &[Value]) -> String {
    let namespace = text(service, "/metadata/namespace");
    let Some(selector) = service.pointer("/spec/selector").and_then(Value::as_object) else {
        return "it has no selector".to_owned();
    };
    let wanted = few(selector
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())));
    let of_namespace: Vec<&Value> =
        pods.iter().filter(|pod| text(pod, "/metadata/namespace") == namespace).collect();
    let labels = |pod: &Value| pod.pointer("/metadata/labels").cloned();
    let matching: Vec<&&Value> = of_namespace
        .iter()
        .filter(|pod| difference(selector, labels(pod).as_ref()).is_empty())
        .collect();
    if !matching.is_empty() {
        let waiting: BTreeSet<String> = matching.iter().filter_map(|pod| unready(pod)).collect();
        return format!(
            "selector {wanted} matches {} pods, none is ready ({})",
            matching.len(),
            few(waiting)
        );
    }
    if of_namespace.is_empty() {
        return format!("selector {wanted}: namespace {namespace} has no pods");
    }
    // The pod that differs least, if it has anything in common.
    let nearest = of_namespace
        .iter()
        .map(|pod| (difference(selector, labels(pod).as_ref()), *pod))
        .min_by_key(|(differ, _)| differ.len());
    let mut told = format!("selector {wanted} matches 0 of {} pods", of_namespace.len());
    if let Some((differ, pod)) = nearest {
        let near =
            differ.len() < selector.len() || differ.iter().any(|one| !one.ends_with("is missing"));
        if near {
            told.push_str(&format!(
                "; the nearest is {}: {}",
                text(pod, "/metadata/name"),
                few(differ)
            ));
        }
    }
    told
}

/// Why a pod is not ready, in a word.
fn unready(pod: &Value) -> Option<String> {
    let mut waiting = items(pod, "/status/containerStatuses")
        .map(|status| text(status, "/state/waiting/reason"))
        .filter(|reason| !reason.is_empty());
    if let Some(reason) = waiting.next() {
        return Some(reason.to_owned());
    }
    let phase = text(pod, "/status/phase");
    Some(if phase.is_empty() { "no status yet".to_owned() } else { phase.to_owned() })
}

/// Whether the Corefiles of Nodens' ConfigMaps would be taken.
pub async fn corefiles(cluster: Arc<Cluster>) -> Finding {
    let maps = match cluster.list(List::ConfigMaps).await {
        Ok(maps) => maps,
        Err(skipped) => return skipped,
    };
    let mut found = Vec::new();
    for map in maps {
        let named = text(map, "/metadata/name");
        let is_ours = super::label(map, "k8s-app") == "nodens" || named.starts_with("nodens");
        let Some(corefile) =
            map.pointer("/data/Corefile").and_then(Value::as_str).filter(|_| is_ours)
        else {
            continue;
        };
        // What its environment says is known on the node only.
        let (file, diagnostics) =
            corefile::parse(Path::new(named), corefile, &|_| Some("127.0.0.1".to_owned()));
        let plan = Plan::new(file, diagnostics, 53, &Machine::default());
        let errors: Vec<String> = plan
            .diagnostics
            .iter()
            .filter(|found| found.severity.to_string() == "error")
            .map(|found| found.to_string().trim().to_owned())
            .collect();
        found.push(match errors.is_empty() {
            true => Finding::ok(format!("{named}: no mistake")),
            false => Finding::problem(
                few(errors),
                "correct the ConfigMap: what runs stays, and an instance that starts fails",
            ),
        });
    }
    Finding::worst(found, "kube-system has no ConfigMap of Nodens with a Corefile")
}
