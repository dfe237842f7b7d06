//! What is asked of the API server for each kind: path, selectors, and the rights that it takes.

use std::fmt::Write;
use std::time::Duration;

use super::decode::Encoding;
use super::object::Kind;
use super::spec::{Endpoints, Wanted};

/// Objects in a page of a list. Servers may ignore it if they answer from their watch cache.
const PAGE: usize = 500;

/// The list and watch requests of one kind.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    path: String,
    /// `&labelSelector=...&fieldSelector=...`, encoded.
    selectors: String,
    rule: String,
    encoding: Encoding,
    gzip: bool,
}

/// Which state of the cluster a list may show (`resourceVersionMatch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResourceVersionMatch {
    /// Any that the server has at hand: its watch cache, which costs it least (`resourceVersion=0`). Only for the first
    /// list, since another server may be behind the one that was read before.
    Any,
    /// This one or a later one. The server answers from its watch cache once that has come so far.
    NotOlderThan(u64),
    /// What etcd has: for when the cache cannot be watched from the version that it lists, or the known version is from
    /// the future of an etcd that was restored.
    MostRecent,
}

/// A request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    /// Path and query.
    pub(super) url: String,
    /// The preferred encoding of the response.
    pub(super) encoding: Encoding,
    /// True if the response may be compressed. API servers compress lists, never watches.
    pub(super) gzip: bool,
}

impl Requests {
    pub(super) fn new(kind: Kind, wanted: &Wanted) -> Self {
        let (group, resource) = resource(kind);
        let prefix = match group.split_once('/') {
            None => format!("/api/{group}"),
            Some(_) => format!("/apis/{group}"),
        };
        // One namespace is asked for alone: the server sends less, and a Role suffices.
        let single = match wanted.namespaces.as_slice() {
            [one] => Some(one),
            _ => None,
        };
        let path = match single {
            Some(namespace) if !is_of_all(kind) => {
                format!("{prefix}/namespaces/{namespace}/{resource}")
            }
            _ => format!("{prefix}/{resource}"),
        };
        let mut labels = Vec::new();
        let mut fields = Vec::new();
        match kind {
            Kind::Namespace => {
                labels.extend(wanted.namespace_labels.clone());
                fields.extend(single.map(|namespace| format!("metadata.name={namespace}")));
            }
            Kind::Service => labels.extend(wanted.labels.clone()),
            Kind::EndpointSlice => {
                labels.extend(wanted.labels.clone());
                if wanted.endpoints == Endpoints::Headless {
                    labels.push("service.kubernetes.io/headless".into());
                }
            }
            Kind::ImportedSlice => {
                labels.extend(wanted.labels.clone());
                labels.push("multicluster.kubernetes.io/service-name".into());
            }
            Kind::Pod => {
                labels.extend(wanted.labels.clone());
                // As in CoreDNS: what has finished has no address of its own any more.
                fields.push(
                    "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown".into(),
                );
            }
            Kind::NodePod => {
                // An API server that knows who may ask for what lets a node's agent see no others (`AuthorizeWithSelectors`).
                let node = wanted.node.as_deref().unwrap_or_default();
                fields.push(format!(
                    "spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed"
                ));
            }
            Kind::Node => {
                let node = wanted.topology.as_deref().unwrap_or_default();
                fields.push(format!("metadata.name={node}"));
            }
            Kind::ServiceImport => {}
        }
        let mut selectors = String::new();
        for (name, values) in [("labelSelector", labels), ("fieldSelector", fields)] {
            if !values.is_empty() {
                let _ = write!(selectors, "&{name}={}", encode(&values.join(",")));
            }
        }
        let api_group = group.split_once('/').map_or("", |(group, _)| group);
        let place = single
            .filter(|_| !is_of_all(kind))
            .map_or(String::new(), |n| format!(" in namespace {n}"));
        let rule = format!(
            "verbs [list, watch] on resource {resource} of API group \"{api_group}\"{place}"
        );
        // Custom resources have no protobuf form.
        let custom = kind == Kind::ServiceImport;
        let encoding = if custom { Encoding::Json } else { Encoding::Protobuf };
        Self { path, selectors, rule, encoding, gzip: true }
    }

    /// One page of a list; `next` is the token of a page after the first.
    pub(super) fn list(&self, from: ResourceVersionMatch, next: Option<&str>) -> Ask {
        let mut url = match (next, from) {
            // The token knows the version.
            (Some(token), _) => format!("{}?limit={PAGE}&continue={}", self.path, encode(token)),
            (None, ResourceVersionMatch::Any) => {
                format!("{}?limit={PAGE}&resourceVersion=0", self.path)
            }
            (None, ResourceVersionMatch::MostRecent) => format!("{}?limit={PAGE}", self.path),
            // With a limit, servers before 1.34 would read it from etcd.
            (None, ResourceVersionMatch::NotOlderThan(version)) => {
                format!("{}?resourceVersion={version}&resourceVersionMatch=NotOlderThan", self.path)
            }
        };
        url.push_str(&self.selectors);
        Ask { url, encoding: self.encoding, gzip: self.gzip }
    }

    /// A watch that continues from `version`.
    pub(super) fn watch(&self, version: u64, lasting: Duration) -> Ask {
        let seconds = lasting.as_secs().max(1);
        let url = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}{}",
            self.path, self.selectors
        );
        Ask { url, encoding: self.encoding, gzip: false }
    }

    /// Asks for a plainer response from now on: in JSON, and then without compression. False if there is no plainer one.
    pub(super) fn fall_back(&mut self) -> bool {
        let plainest = (self.encoding, self.gzip) == (Encoding::Json, false);
        self.gzip &= self.encoding == Encoding::Protobuf;
        self.encoding = Encoding::Json;
        !plainest
    }

    /// Path and selectors, without a limit or a version.
    pub(super) fn path(&self) -> String {
        match self.selectors.strip_prefix('&') {
            Some(selectors) => format!("{}?{selectors}", self.path),
            None => self.path.clone(),
        }
    }

    /// The RBAC rule that these requests need.
    pub(super) fn rule(&self) -> &str {
        &self.rule
    }
}

/// Whether objects of that kind are asked for in all namespaces, whichever are served.
fn is_of_all(kind: Kind) -> bool {
    kind == Kind::Namespace || kind.is_of_node()
}

/// Group with version, and the plural.
fn resource(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Service => ("v1", "services"),
        Kind::EndpointSlice | Kind::ImportedSlice => ("discovery.k8s.io/v1", "endpointslices"),
        Kind::Namespace => ("v1", "namespaces"),
        Kind::Pod | Kind::NodePod => ("v1", "pods"),
        Kind::Node => ("v1", "nodes"),
        Kind::ServiceImport => ("multicluster.x-k8s.io/v1alpha1", "serviceimports"),
    }
}

/// Percent-encodes all but unreserved characters (RFC 3986 section 2.3).
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(octet));
        } else {
            let _ = write!(encoded, "%{octet:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::object::Text;

    fn wanted() -> Wanted {
        Wanted {
            endpoints: Endpoints::Headless,
            node: Some(Text::from("node-1")),
            ..Wanted::default()
        }
    }

    #[test]
    fn lists_come_from_the_watch_cache() {
        let requests = Requests::new(Kind::Service, &wanted());
        let list = |from, next| requests.list(from, next).url;
        assert_eq!(
            list(ResourceVersionMatch::Any, None),
            "/api/v1/services?limit=500&resourceVersion=0"
        );
        assert_eq!(
            list(ResourceVersionMatch::NotOlderThan(7), None),
            "/api/v1/services?resourceVersion=7&resourceVersionMatch=NotOlderThan"
        );
        assert_eq!(list(ResourceVersionMatch::MostRecent, None), "/api/v1/services?limit=500");
        assert_eq!(
            list(ResourceVersionMatch::Any, Some("a+b")),
            "/api/v1/services?limit=500&continue=a%2Bb"
        );
    }

    #[test]
    fn only_lists_are_compressed_and_only_built_in_kinds_are_in_protobuf() {
        let mut services = Requests::new(Kind::Service, &wanted());
        let list = services.list(ResourceVersionMatch::Any, None);
        assert!(list.gzip && list.encoding == Encoding::Protobuf);
        assert!(!services.watch(7, Duration::from_secs(60)).gzip);
        let imports = Requests::new(Kind::ServiceImport, &wanted());
        assert_eq!(imports.watch(7, Duration::from_secs(60)).encoding, Encoding::Json);
        for gzip in [true, false] {
            assert!(services.fall_back());
            let list = services.list(ResourceVersionMatch::Any, None);
            assert_eq!((list.encoding, list.gzip), (Encoding::Json, gzip));
        }
        assert!(!services.fall_back());
    }

    #[test]
    fn headless_slices_are_selected_by_their_label() {
        let requests = Requests::new(Kind::EndpointSlice, &wanted());
        assert_eq!(
            requests.watch(7, Duration::from_secs(90)).url,
            "/apis/discovery.k8s.io/v1/endpointslices?watch=true&allowWatchBookmarks=true&timeoutSeconds=90\
             &resourceVersion=7&labelSelector=service.kubernetes.io%2Fheadless"
        );
        let imports = Requests::new(Kind::ImportedSlice, &Wanted { imports: true, ..wanted() });
        assert!(
            imports
                .list(ResourceVersionMatch::Any, None)
                .url
                .ends_with("&labelSelector=multicluster.kubernetes.io%2Fservice-name")
        );
        assert_eq!(
            requests.rule(),
            "verbs [list, watch] on resource endpointslices of API group \"discovery.k8s.io\""
        );
    }

    #[test]
    fn pods_of_a_node_are_selected_by_field() {
        let wanted = Wanted { namespaces: vec!["shop".into()], ..wanted() };
        let requests = Requests::new(Kind::NodePod, &wanted);
        let url = requests.list(ResourceVersionMatch::Any, None).url;
        let selector = "&fieldSelector=spec.nodeName%3Dnode-1%2Cstatus.phase%21%3DSucceeded%2C";
        assert!(url.starts_with("/api/v1/pods?") && url.contains(selector), "{url}");
    }

    #[test]
    fn one_namespace_is_selected_by_its_path() {
        let one = Wanted { namespaces: vec!["shop".into()], ..Wanted::default() };
        let list = |kind, wanted: &Wanted| {
            Requests::new(kind, wanted).list(ResourceVersionMatch::MostRecent, None).url
        };
        assert_eq!(list(Kind::Service, &one), "/api/v1/namespaces/shop/services?limit=500");
        assert_eq!(
            Requests::new(Kind::Service, &one).rule(),
            "verbs [list, watch] on resource services of API group \"\" in namespace shop"
        );
        assert_eq!(
            list(Kind::Namespace, &one),
            "/api/v1/namespaces?limit=500&fieldSelector=metadata.name%3Dshop"
        );
        let two = Wanted { namespaces: vec!["a".into(), "b".into()], ..Wanted::default() };
        assert_eq!(list(Kind::Service, &two), "/api/v1/services?limit=500");
    }
}
