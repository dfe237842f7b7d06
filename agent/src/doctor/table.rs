//! The one list of checks. `docs/doctor.md` has a line for each; a test compares them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Serialize;

use super::facts::Facts;
use super::finding::Finding;
use super::fleet::{self, Cluster};
use super::node::{
    api, config, firewall, instances, lookups, machine, network, pods, server, upstreams,
};
use crate::args::Category;

/// What is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// This node.
    Node,
    /// The cluster, by its API server.
    Cluster,
}

/// One check.
pub struct Check {
    /// Its name.
    pub id: &'static str,
    /// What it is about.
    pub category: Category,
    /// What it asks.
    pub title: &'static str,
    run: Run,
}

enum Run {
    Node(fn(Arc<Facts>) -> BoxFuture<'static, Finding>),
    Cluster(fn(Arc<Cluster>) -> BoxFuture<'static, Finding>),
}

impl Check {
    /// Where it is made.
    pub fn scope(&self) -> Scope {
        match self.run {
            Run::Node(_) => Scope::Node,
            Run::Cluster(_) => Scope::Cluster,
        }
    }

    /// Its section of the manual.
    pub fn anchor(&self) -> String {
        format!("docs/doctor.md#{}", self.category.name())
    }

    /// Starts a check of a node.
    pub fn of_node(&self, facts: Arc<Facts>) -> Option<BoxFuture<'static, Finding>> {
        match self.run {
            Run::Node(run) => Some(run(facts)),
            Run::Cluster(_) => None,
        }
    }

    /// Starts a check of a cluster.
    pub fn of_cluster(&self, cluster: Arc<Cluster>) -> Option<BoxFuture<'static, Finding>> {
        match self.run {
            Run::Cluster(run) => Some(run(cluster)),
            Run::Node(_) => None,
        }
    }
}

/// What may block, on a thread for that.
async fn blocking(facts: Arc<Facts>, check: fn(&Facts) -> Finding) -> Finding {
    let done = tokio::task::spawn_blocking(move || check(&facts)).await;
    done.unwrap_or_else(|error| {
        Finding::warning(
            format!("the check has failed itself: {error}"),
            "report it with the output of `nodens doctor -o json`",
        )
    })
}

macro_rules! checks {
    ($($kind:ident $id:literal $category:ident $title:literal $function:path;)*) => {
        /// Every check, by category.
        pub static ALL: &[Check] = &[$(Check {
            id: $id,
            category: Category::$category,
            title: $title,
            run: checks!(@$kind $function),
        },)*];
    };
    (@look $function:path) => { Run::Node(|facts| Box::pin(blocking(facts, $function))) };
    (@ask $function:path) => { Run::Node(|facts| Box::pin($function(facts))) };
    (@cluster $function:path) => { Run::Cluster(|cluster| Box::pin($function(cluster))) };
}

checks! {
    look "server-answers" Server "Does a server run, and answer at its socket?" server::answers;
    look "server-conditions" Server "Does it wait for anything?" server::conditions;
    look "server-configuration" Server "Does it run what is written?" server::configuration;
    look "server-version" Server "Is it of this program's version?" server::version;
    look "server-restarts" Server "Has it crashed, or failed to be replaced?" server::restarts;
    look "server-store" Server "Does its store follow the API server?" server::store;
    look "corefile" Config "Can the Corefile be read?" config::corefile;
    look "corefile-valid" Config "Would a start take it?" config::valid;
    look "flags" Config "Do flags and Corefile name the same addresses?" config::flags;
    look "forward-targets" Config "Is anybody left to forward to?" config::upstreams;
    look "forward-loop" Config "Do forwarded queries come back?" config::forwarding_loop;
    look "forward-stub" Config "Are upstreams stubs of this node?" config::stub;
    ask "api-answers" Api "Does the API server answer, and take the credentials?" api::answers;
    ask "api-rights" Api "May the account list and watch?" api::rights;
    ask "api-certificate" Api "Does the client certificate end soon?" api::certificate;
    look "link" Network "Are link, addresses and rules there?" network::link;
    look "link-driver" Network "Has the kernel the driver of the link?" network::driver;
    look "port" Network "Who has the port of DNS?" instances::port;
    look "instances" Network "Are instances of Nodens at odds?" instances::instances;
    look "dropped-queries" Network "Did the kernel drop queries?" instances::drops;
    look "firewall" Network "Do rules of nftables drop queries?" firewall::firewall;
    look "conntrack" Network "Is connection tracking full?" network::conntrack;
    look "reassembly" Network "Can fragments be put together?" network::fragments;
    ask "kube-proxy" Network "Does kube-proxy's mode go with ours?" network::kube_proxy;
    look "cilium" Network "Does Cilium take ClusterIPs first?" network::cilium;
    ask "lookup-udp" Lookups "Is every address answered over UDP?" lookups::udp;
    ask "lookup-tcp" Lookups "Is every address answered over TCP?" lookups::tcp;
    ask "lookup-search" Lookups "Does a short name resolve with a pod's search list?" lookups::search;
    ask "lookup-api" Lookups "Are cluster names what the API server has?" lookups::against_api;
    ask "lookup-upstreams" Lookups "Are outside names what the upstreams say?" lookups::against_upstreams;
    ask "upstream-udp" Upstreams "Does each upstream answer, and soon?" upstreams::udp;
    ask "upstream-tcp" Upstreams "Does each answer over TCP?" upstreams::tcp;
    ask "upstream-edns" Upstreams "Does each know EDNS?" upstreams::edns;
    ask "upstream-truncation" Upstreams "Does each answer in full over UDP?" upstreams::truncation;
    ask "upstream-fragments" Upstreams "Do long UDP answers arrive?" upstreams::fragments;
    ask "upstream-tls" Upstreams "Do those over TLS answer?" upstreams::tls;
    look "kubelet-cluster-dns" Pods "Does kubelet's clusterDNS lead to Nodens?" pods::cluster_dns;
    look "kubelet-cluster-domain" Pods "Is kubelet's clusterDomain the zone that is served?" pods::cluster_domain;
    look "kubelet-resolv-conf" Pods "Does kubelet's resolvConf lead anywhere?" pods::resolv_conf;
    look "pod-resolv-conf" Pods "Do running pods ask Nodens?" pods::pods;
    look "search-list" Pods "Does the search list multiply queries?" pods::search;
    ask "clock" Node "Does the clock agree with the API server's?" api::clock;
    look "clock-hardware" Node "Does the clock agree with the machine's?" machine::clock;
    look "descriptors" Node "Is the server near its limit of descriptors?" machine::descriptors;
    look "memory" Node "Is the server near its limit of memory?" machine::memory;
    look "snapshot-folder" Node "Can snapshots be written?" machine::snapshot;
    look "handover-folder" Node "Can the sockets be made?" machine::handover;
    look "cni" Node "Is there a network of pods?" machine::cni;
    cluster "cluster-api" Api "Does the API server answer, and take the credentials?" fleet::api::answers;
    cluster "cluster-rights" Api "May this account look at what is examined?" fleet::api::rights;
    cluster "cluster-clock" Api "Does this machine's clock agree with the API server's?" fleet::api::clock;
    cluster "dns-service" Services "Has the DNS Service endpoints?" fleet::services::dns;
    cluster "empty-services" Services "Which Services have no endpoints, and why?" fleet::services::empty;
    cluster "corefiles" Services "Would the Corefile of the ConfigMap be taken?" fleet::services::corefiles;
    cluster "coverage" Nodes "Has every node a Nodens that is ready?" fleet::nodes::coverage;
    cluster "version-skew" Nodes "Is Nodens of one version on all nodes?" fleet::nodes::versions;
    cluster "kills" Nodes "Was Nodens killed or restarted?" fleet::nodes::kills;
    cluster "kubelets" Nodes "Do all kubelets lead pods to Nodens?" fleet::nodes::kubelets;
    cluster "pod-network" Nodes "Has every node a network of pods?" fleet::nodes::pod_network;
    cluster "proxy-mode" Policies "Does kube-proxy's mode go with a ClusterIP that is taken over?" fleet::policies::proxy_mode;
    cluster "network-policies" Policies "Do NetworkPolicies let pods reach Nodens?" fleet::policies::network_policies;
    cluster "cilium-redirect" Policies "Does Cilium have the redirect policy that it needs?" fleet::policies::cilium;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_categories_are_together() {
        let ids: HashSet<&str> = ALL.iter().map(|check| check.id).collect();
        assert_eq!(ids.len(), ALL.len());
        let is_word =
            |id: &str| id.bytes().all(|octet| octet.is_ascii_lowercase() || octet == b'-');
        assert!(ids.iter().all(|id| is_word(id)));
        for scope in [Scope::Node, Scope::Cluster] {
            let mut seen: Vec<Category> = Vec::new();
            for check in ALL.iter().filter(|check| check.scope() == scope) {
                if seen.last() != Some(&check.category) {
                    assert!(!seen.contains(&check.category), "{}", check.id);
                    seen.push(check.category);
                }
            }
        }
        let of_node = ALL.iter().filter(|check| check.scope() == Scope::Node).count();
        assert!(of_node >= 30, "{of_node}");
    }
}
