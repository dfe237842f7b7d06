//! Documents as their kinds, with nothing left over: what a cluster would refuse, or silently drop, is an error here.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Parses a document as what its `apiVersion` and `kind` say.
///
/// # Errors
/// An unknown kind, a field that the kind does not have, a value of another type.
pub fn parse(document: &Value) -> anyhow::Result<()> {
    let text = |field: &str| document[field].as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let check: fn(&Value) -> anyhow::Result<()> = match (version.as_str(), kind.as_str()) {
        ("apps/v1", "DaemonSet") => whole::<DaemonSet>,
        ("apps/v1", "Deployment") => whole::<Deployment>,
        ("v1", "ConfigMap") => whole::<ConfigMap>,
        ("v1", "Namespace") => whole::<Namespace>,
        ("v1", "Pod") => whole::<Pod>,
        ("v1", "Service") => whole::<Service>,
        ("v1", "ServiceAccount") => whole::<ServiceAccount>,
        ("networking.k8s.io/v1", "NetworkPolicy") => whole::<NetworkPolicy>,
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => whole::<ClusterRole>,
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => whole::<ClusterRoleBinding>,
        ("monitoring.coreos.com/v1", "ServiceMonitor") => whole::<Custom<MonitorSpec>>,
        ("monitoring.coreos.com/v1", "PodMonitor") => whole::<Custom<PodMonitorSpec>>,
        ("monitoring.coreos.com/v1", "PrometheusRule") => whole::<Custom<RuleSpec>>,
        ("cilium.io/v2", "CiliumLocalRedirectPolicy") => whole::<Custom<RedirectSpec>>,
        ("cilium.io/v2", "CiliumNetworkPolicy") => whole::<Custom<CiliumPolicySpec>>,
        ("security.openshift.io/v1", "SecurityContextConstraints") => whole::<Constraints>,
        ("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration") => whole::<Kubelet>,
        ("v1", "Config") => whole::<Kubeconfig>,
        _ => bail!("{version} {kind}: no such kind is known here"),
    };
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    check(document).with_context(|| format!("{kind} {name}"))
}

/// There and back: what is missing afterwards was no field of the type. Types that refuse unknown fields do so before.
fn whole<T: DeserializeOwned + Serialize>(document: &Value) -> anyhow::Result<()> {
    let typed: T = serde_json::from_value(document.clone())?;
    let mut lost = Vec::new();
    compare(document, &serde_json::to_value(typed)?, "", &mut lost);
    if !lost.is_empty() {
        bail!("no such field, or another value than written: {}", lost.join(", "));
    }
    Ok(())
}

fn compare(written: &Value, read: &Value, place: &str, lost: &mut Vec<String>) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (name, value) in written {
                let place = format!("{place}/{name}");
                match read.get(name) {
                    Some(back) => compare(value, back, &place, lost),
                    None => lost.push(place),
                }
            }
        }
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => {
            for (number, (value, back)) in written.iter().zip(read).enumerate() {
                compare(value, back, &format!("{place}/{number}"), lost);
            }
        }
        _ if written == read => {}
        _ => lost.push(place.to_owned()),
    }
}

/// A custom resource.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Custom<S> {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: S,
}

/// OpenShift's SecurityContextConstraints.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Constraints {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    priority: Option<i32>,
    users: Vec<String>,
    allow_host_network: bool,
    allow_host_dir_volume_plugin: bool,
    allow_privileged_container: bool,
    allow_privilege_escalation: bool,
    #[serde(rename = "allowHostIPC")]
    allow_host_ipc: bool,
    #[serde(rename = "allowHostPID")]
    allow_host_pid: bool,
    allow_host_ports: bool,
    read_only_root_filesystem: bool,
    allowed_capabilities: Vec<String>,
    required_drop_capabilities: Vec<String>,
    default_add_capabilities: Option<Vec<String>>,
    volumes: Vec<String>,
    run_as_user: Strategy,
    fs_group: Strategy,
    supplemental_groups: Strategy,
    se_linux_context: Strategy,
    seccomp_profiles: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strategy {
    r#type: String,
}

/// Of Prometheus' operator: what a ServiceMonitor scrapes.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MonitorSpec {
    selector: LabelSelector,
    endpoints: Vec<Endpoint>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodMonitorSpec {
    selector: LabelSelector,
    pod_metrics_endpoints: Vec<Endpoint>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Endpoint {
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port_number: Option<u16>,
    path: String,
    interval: String,
    #[serde(default)]
    relabelings: Vec<Relabeling>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Relabeling {
    action: String,
    source_labels: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
    target_label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replacement: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSpec {
    groups: Vec<RuleGroup>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleGroup {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    rules: Vec<Rule>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<String>,
    expr: String,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pending: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_firing_for: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RedirectSpec {
    redirect_frontend: Frontend,
    redirect_backend: Backend,
    #[serde(skip_serializing_if = "Option::is_none")]
    skip_redirect_from_backend: Option<bool>,
}

/// One of the two matchers, never both.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Frontend {
    ServiceMatcher(ServiceMatcher),
    AddressMatcher(AddressMatcher),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceMatcher {
    service_name: String,
    namespace: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    to_ports: Vec<RedirectPort>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AddressMatcher {
    ip: String,
    to_ports: Vec<RedirectPort>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Backend {
    local_endpoint_selector: LabelSelector,
    to_ports: Vec<RedirectPort>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RedirectPort {
    /// A string in this resource.
    port: String,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CiliumPolicySpec {
    endpoint_selector: LabelSelector,
    egress: Vec<CiliumEgress>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CiliumEgress {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    to_endpoints: Vec<LabelSelector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    to_entities: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "toCIDR")]
    to_cidr: Vec<String>,
    to_ports: Vec<CiliumPorts>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CiliumPorts {
    ports: Vec<RedirectPort>,
}

/// What the drop-ins set; the kubelet has many more.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kubelet {
    api_version: String,
    kind: String,
    #[serde(rename = "clusterDNS", default, skip_serializing_if = "Vec::is_empty")]
    cluster_dns: Vec<std::net::IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolv_conf: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Kubeconfig {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    clusters: Vec<Value>,
    users: Vec<Value>,
    contexts: Vec<Value>,
    current_context: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_in_the_type_is_an_error() {
        let mut account =
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "a" } });
        parse(&account).unwrap();
        account["metadata"]["nmae"] = json!("b");
        let error = format!("{:#}", parse(&account).unwrap_err());
        assert!(error.contains("/metadata/nmae"), "{error}");
        let service = json!({ "apiVersion": "v1", "kind": "Service", "spec": { "ports": [{ "port": "53" }] } });
        assert!(parse(&service).is_err());
        assert!(parse(&json!({ "apiVersion": "v1", "kind": "Banana" })).is_err());
    }
}
