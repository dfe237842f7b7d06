//! The checks of a cluster, from any machine with a kubeconfig. Each list is fetched once, when the first check needs it.

pub mod api;
mod labels;
pub mod nodes;
pub mod policies;
pub mod services;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::OnceCell;

use super::finding::Finding;
use crate::args::Doctor;
use crate::cluster::{Api, RequestError, Source};

/// For each request. Several follow each other within the deadline of a check.
const PATIENCE: Duration = Duration::from_secs(5);
/// Objects in a page of a list, and pages that are fetched: more than the 150,000 pods that Kubernetes supports.
const PAGE: usize = 500;
const MAX_PAGES: usize = 400;

/// What is listed, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// Services.
    Services,
    /// EndpointSlices.
    Slices,
    /// Pods.
    Pods,
    /// Nodes.
    Nodes,
    /// ConfigMaps of kube-system.
    ConfigMaps,
    /// NetworkPolicies.
    NetworkPolicies,
    /// Cilium's redirect policies.
    RedirectPolicies,
}

impl List {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Services,
        Self::Slices,
        Self::Pods,
        Self::Nodes,
        Self::ConfigMaps,
        Self::NetworkPolicies,
        Self::RedirectPolicies,
    ];

    fn path(self) -> &'static str {
        match self {
            Self::Services => "/api/v1/services",
            Self::Slices => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Pods => "/api/v1/pods",
            Self::Nodes => "/api/v1/nodes",
            Self::ConfigMaps => "/api/v1/namespaces/kube-system/configmaps",
            Self::NetworkPolicies => "/apis/networking.k8s.io/v1/networkpolicies",
            Self::RedirectPolicies => "/apis/cilium.io/v2/ciliumlocalredirectpolicies",
        }
    }

    /// The resource, as `kubectl auth can-i list` takes it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Slices => "endpointslices.discovery.k8s.io",
            Self::Pods => "pods",
            Self::Nodes => "nodes",
            Self::ConfigMaps => "configmaps -n kube-system",
            Self::NetworkPolicies => "networkpolicies.networking.k8s.io",
            Self::RedirectPolicies => "ciliumlocalredirectpolicies.cilium.io",
        }
    }
}

/// A list, or why there is none.
type Listed = OnceCell<Result<Vec<Value>, RequestError>>;

/// A cluster, as far as it concerns the checks.
pub struct Cluster {
    /// Its API server.
    pub api: Api,
    lists: [Listed; List::ALL.len()],
}

impl Cluster {
    /// Reads the credentials. Nothing is sent yet.
    ///
    /// # Errors
    /// There are none, or they cannot be used.
    pub async fn connect(args: &Doctor) -> Result<Self, String> {
        let source = source(args)?;
        let api = Api::new(source, PATIENCE).await.map_err(|error| error.to_string())?;
        Ok(Self { api, lists: Default::default() })
    }

    /// Every object of a list, or the first [`MAX_PAGES`] pages.
    ///
    /// # Errors
    /// A sentence for the finding of a check that needs it.
    pub async fn list(&self, list: List) -> Result<&[Value], Finding> {
        match self.fetched(list).await {
            Ok(items) => Ok(items),
            Err(error) => Err(Finding::skipped(format!("no {}: {error}", list.resource()))),
        }
    }

    /// The same with the server's error.
    pub async fn fetched(&self, list: List) -> Result<&[Value], &RequestError> {
        let at = List::ALL.iter().position(|one| *one == list).unwrap_or_default();
        let Some(cell) = self.lists.get(at) else { return Ok(&[]) };
        cell.get_or_init(|| self.fetch(list)).await.as_deref()
    }

    async fn fetch(&self, list: List) -> Result<Vec<Value>, RequestError> {
        let mut items = Vec::new();
        let mut next = String::new();
        for _ in 0..MAX_PAGES {
            let path = format!("{}?limit={PAGE}{next}", list.path());
            let mut page = self.api.get(&path).await?.body;
            if let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) {
                items.extend(found.into_iter().map(trimmed));
            }
            match text(&page, "/metadata/continue") {
                "" => break,
                token => next = format!("&continue={}", percent(token)),
            }
        }
        Ok(items)
    }

    /// The pods of Nodens.
    pub async fn instances(&self) -> Result<Vec<&Value>, Finding> {
        let pods = self.list(List::Pods).await?;
        Ok(pods.iter().filter(|pod| is_nodens(pod)).collect())
    }

    /// The addresses of `-localip` of all instances, with the ClusterIP of kube-dns in the place of its variable.
    pub async fn addresses(&self) -> Result<Vec<std::net::IpAddr>, Finding> {
        let instances = self.instances().await?;
        let cluster_ip = self.dns_address().await;
        let mut found = Vec::new();
        for pod in instances {
            for value in flags(&words(pod), "localip") {
                for ip in value.split(',') {
                    let ip = match ip {
                        "$(KUBE_DNS_SERVICE_HOST)" => cluster_ip,
                        text => text.parse().ok(),
                    };
                    found.extend(ip.filter(|ip| !found.contains(ip)));
                }
            }
        }
        Ok(found)
    }

    /// The ClusterIP of the DNS Service.
    pub async fn dns_address(&self) -> Option<std::net::IpAddr> {
        let services = self.list(List::Services).await.ok()?;
        let service = services.iter().find(|service| is_dns(service))?;
        text(service, "/spec/clusterIP").parse().ok()
    }
}

/// An object without what no check looks at, which is most of it.
fn trimmed(mut object: Value) -> Value {
    for (part, names) in
        [("/metadata", &["managedFields", "annotations"][..]), ("/spec", &["volumes"][..])]
    {
        if let Some(part) = object.pointer_mut(part).and_then(Value::as_object_mut) {
            names.iter().for_each(|name| drop(part.remove(*name)));
        }
    }
    object
}

/// Where the cluster is: what the flags name, then what kubectl would use, then the pod's own account.
fn source(args: &Doctor) -> Result<Source, String> {
    let context = args.context.clone();
    if let Some(file) = args.kubeconfig.clone() {
        return Ok(Source::Kubeconfig { file, context });
    }
    let named = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
    // kubectl merges several; the first is the one that is written to.
    let named = named.and_then(|value| std::env::split_paths(&value).next());
    if let Some(file) = named {
        return Ok(Source::Kubeconfig { file, context });
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    if let Some(file) = home.filter(|file| file.exists()) {
        return Ok(Source::Kubeconfig { file, context });
    }
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Ok(Source::InCluster);
    }
    Err("there is no kubeconfig: name one with --kubeconfig, or in KUBECONFIG".to_owned())
}

/// Text of an object by JSON pointer; empty if there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of an array by JSON pointer.
pub fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// `namespace/name`, or the name of what has no namespace.
pub fn name(object: &Value) -> String {
    match text(object, "/metadata/namespace") {
        "" => text(object, "/metadata/name").to_owned(),
        namespace => format!("{namespace}/{}", text(object, "/metadata/name")),
    }
}

/// A label of an object.
pub fn label<'a>(object: &'a Value, name: &str) -> &'a str {
    let labels = object.pointer("/metadata/labels");
    labels.and_then(|labels| labels.get(name)?.as_str()).unwrap_or_default()
}

/// Whether a Service is that of cluster DNS.
pub fn is_dns(service: &Value) -> bool {
    let of_system = text(service, "/metadata/namespace") == "kube-system";
    let is_named = matches!(
        text(service, "/metadata/name"),
        "kube-dns" | "coredns" | "rke2-coredns-rke2-coredns"
    );
    of_system && is_named && text(service, "/spec/clusterIP") != "None"
}

/// Whether a pod runs Nodens, by its labels or by its image.
fn is_nodens(pod: &Value) -> bool {
    let named = ["k8s-app", "app.kubernetes.io/name"].iter().any(|key| label(pod, key) == "nodens");
    named || items(pod, "/spec/containers").any(|container| image(container).ends_with("nodens"))
}

/// The image of a container without registry, tag and digest.
fn image(container: &Value) -> &str {
    let image = text(container, "/image").split('@').next().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

/// The command lines of a pod's containers.
fn words(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for container in items(pod, "/spec/containers") {
        for list in ["/command", "/args"] {
            found
                .extend(items(container, list).filter_map(|word| word.as_str().map(str::to_owned)));
        }
    }
    found
}

/// The values of `-NAME=VALUE` and of `-NAME VALUE`, as NodeLocal DNSCache's manifest has it, with one dash or two.
fn flags<'a>(words: &'a [String], name: &str) -> Vec<&'a str> {
    let mut words = words.iter();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let bare = word.strip_prefix('-').map(|word| word.strip_prefix('-').unwrap_or(word));
        match bare.and_then(|bare| bare.strip_prefix(name)) {
            Some("") => found.extend(words.next().map(String::as_str)),
            Some(rest) => found.extend(rest.strip_prefix('=')),
            None => {}
        }
    }
    found
}

/// Percent-encodes all but unreserved characters (RFC 3986 section 2.3).
fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for octet in text.bytes() {
        match octet {
            b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(octet)),
            octet if octet.is_ascii_alphanumeric() => encoded.push(char::from(octet)),
            octet => encoded.push_str(&format!("%{octet:02X}")),
        }
    }
    encoded
}
