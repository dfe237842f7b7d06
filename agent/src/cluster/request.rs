//! What is asked of the API server for each kind: path, selectors, and the rights that it takes.

use std::fmt::Write;
use std::time::Duration;

use super::object::Kind;
use super::spec::{Endpoints, Pods, Wanted};

/// Objects in a page of a list. The server ignores it where it answers from its watch cache.
const PAGE: usize = 500;

/// The list and watch requests of one kind.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    path: String,
    /// `&labelSelector=...&fieldSelector=...`, encoded.
    selectors: String,
    rule: String,
}

/// From which state of the cluster a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Whatever the server has at hand: its watch cache, which costs it least (`resourceVersion=0`).
    Any,
    /// What etcd has: for when the cache turned out to be too old to be watched from.
    Latest,
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
            Some(namespace) if kind != Kind::Namespace => {
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
                if let Pods::Node(node) = &wanted.pods {
                    fields.push(format!("spec.nodeName={node}"));
                }
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
            .filter(|_| kind != Kind::Namespace)
            .map_or(String::new(), |n| format!(" in namespace {n}"));
        let rule = format!(
            "verbs [list, watch] on resource {resource} of API group \"{api_group}\"{place}"
        );
        Self { path, selectors, rule }
    }

    /// One page of a list.
    pub(super) fn list(&self, freshness: Freshness, next: Option<&str>) -> String {
        let mut url = format!("{}?limit={PAGE}", self.path);
        match (next, freshness) {
            // The token knows the version.
            (Some(token), _) => {
                let _ = write!(url, "&continue={}", encode(token));
            }
            (None, Freshness::Any) => url.push_str("&resourceVersion=0"),
            (None, Freshness::Latest) => {}
        }
        url.push_str(&self.selectors);
        url
    }

    /// A watch that goes on from `version`.
    pub(super) fn watch(&self, version: &str, lasting: Duration) -> String {
        let mut url = self.watch_for(lasting);
        let _ = write!(url, "&resourceVersion={}", encode(version));
        url
    }

    /// A watch that begins with all objects (a streaming list, KEP-3157).
    pub(super) fn streaming_list(&self, freshness: Freshness, lasting: Duration) -> String {
        let mut url = self.watch_for(lasting);
        url.push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
        if freshness == Freshness::Any {
            url.push_str("&resourceVersion=0");
        }
        url
    }

    /// The RBAC rule that these requests need, for whoever has to write it.
    pub(super) fn rule(&self) -> &str {
        &self.rule
    }

    fn watch_for(&self, lasting: Duration) -> String {
        let seconds = lasting.as_secs().max(1);
        format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}{}",
            self.path, self.selectors
        )
    }
}

/// Group with version, and the plural.
fn resource(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Service => ("v1", "services"),
        Kind::EndpointSlice | Kind::ImportedSlice => ("discovery.k8s.io/v1", "endpointslices"),
        Kind::Namespace => ("v1", "namespaces"),
        Kind::Pod => ("v1", "pods"),
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
            pods: Pods::Node(Text::from("node-1")),
            ..Wanted::default()
        }
    }

    #[test]
    fn lists_come_from_the_watch_cache() {
        let requests = Requests::new(Kind::Service, &wanted());
        assert_eq!(
            requests.list(Freshness::Any, None),
            "/api/v1/services?limit=500&resourceVersion=0"
        );
        assert_eq!(requests.list(Freshness::Latest, None), "/api/v1/services?limit=500");
        assert_eq!(
            requests.list(Freshness::Any, Some("a+b")),
            "/api/v1/services?limit=500&continue=a%2Bb"
        );
    }

    #[test]
    fn headless_slices_are_selected_by_their_label() {
        let requests = Requests::new(Kind::EndpointSlice, &wanted());
        assert_eq!(
            requests.watch("7", Duration::from_secs(90)),
            "/apis/discovery.k8s.io/v1/endpointslices?watch=true&allowWatchBookmarks=true&timeoutSeconds=90\
             &labelSelector=service.kubernetes.io%2Fheadless&resourceVersion=7"
        );
        let imports = Requests::new(Kind::ImportedSlice, &Wanted { imports: true, ..wanted() });
        assert!(
            imports
                .list(Freshness::Any, None)
                .ends_with("&labelSelector=multicluster.kubernetes.io%2Fservice-name")
        );
    }

    #[test]
    fn pods_are_those_of_the_node() {
        let url = Requests::new(Kind::Pod, &wanted())
            .streaming_list(Freshness::Any, Duration::from_secs(60));
        assert!(url.contains("&fieldSelector=status.phase%21%3DSucceeded%2C"), "{url}");
        assert!(url.contains("%2Cspec.nodeName%3Dnode-1&sendInitialEvents=true"), "{url}");
    }

    #[test]
    fn one_namespace_is_asked_for_alone() {
        let one = Wanted { namespaces: vec!["shop".into()], ..Wanted::default() };
        let services = Requests::new(Kind::Service, &one);
        assert_eq!(
            services.list(Freshness::Latest, None),
            "/api/v1/namespaces/shop/services?limit=500"
        );
        assert_eq!(
            services.rule(),
            "verbs [list, watch] on resource services of API group \"\" in namespace shop"
        );
        let namespaces = Requests::new(Kind::Namespace, &one);
        assert_eq!(
            namespaces.list(Freshness::Latest, None),
            "/api/v1/namespaces?limit=500&fieldSelector=metadata.name%3Dshop"
        );
        let two = Wanted { namespaces: vec!["a".into(), "b".into()], ..Wanted::default() };
        assert_eq!(
            Requests::new(Kind::Service, &two).list(Freshness::Latest, None),
            "/api/v1/services?limit=500"
        );
    }
}
