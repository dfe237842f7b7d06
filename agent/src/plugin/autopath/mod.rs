//! `autopath [ZONE...] @kubernetes|RESOLV-CONF`: the first query of a search list is answered with what the whole list would
//! come to.
//!
//! A resolver appends the domains of its list to a name, one after the other, until a name exists. Here it is known which list a
//! client has: where the first name does not exist, the names that would follow are looked up at once, and the answer is an alias
//! from the name that was asked for to the one that was found. If none exists, the first denial stands, and the client goes through
//! its list itself, to the same end.
//!
//! This module knows the lists; `server::search` looks the names up.

mod config;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use self::config::Config;
use crate::clients::Clients;
use crate::cluster::object::{DnsPolicy, NodePod};
use crate::request::Request;
use crate::wire::{Class, Name, NameBuf, NameRef, RecordType};

/// Domains of a list that count, as the API server's validation and the kubelet limit them.
const MAX_DOMAINS: usize = 32;
/// `ndots` of a Pod whose policy is the cluster's.
const CLUSTER_NDOTS: u8 = 5;

/// What a resolver tries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchList {
    /// The domains in their order.
    pub domains: Box<[Name]>,
    /// A name with so many dots is tried as it is before the list; `None`: whatever its dots.
    pub ndots: Option<u8>,
}

/// An `autopath` line, ready to be used.
#[derive(Debug)]
pub struct Autopath {
    zones: Vec<Name>,
    source: Source,
    successes: AtomicU64,
}

/// Where the lists come from.
#[derive(Debug)]
enum Source {
    /// All clients have this one.
    Fixed(SearchList),
    /// The Pods of this node, each with its own.
    Pods {
        clients: Arc<Clients>,
        /// The kubelet's cluster domain.
        cluster: Name,
        /// The list of the node's resolv.conf.
        of_node: SearchList,
    },
}

impl Autopath {
    /// How often a later name than the first was found (`coredns_autopath_success_total`).
    pub fn successes(&self) -> u64 {
        self.successes.load(Relaxed)
    }

    /// Counts an answer with a later name than the first.
    pub fn count(&self) {
        self.successes.fetch_add(1, Relaxed);
    }

    /// Calls `visit` with each name that the client would try after this one, in their order, until it returns false. True if the
    /// query is the first of a search list; then `visit` was called at least once. Allocates nothing.
    pub fn each_after(
        &self,
        request: &Request<'_>,
        visit: &mut dyn FnMut(NameRef<'_>) -> bool,
    ) -> bool {
        let query = &request.query;
        // Names that are looked up by other types are seldom searched for, and then by the client.
        let is_address = matches!(query.qtype(), RecordType::A | RecordType::AAAA);
        if !is_address || query.qclass() != Class::IN || !self.is_within_zones(query.name()) {
            return false;
        }
        match &self.source {
            Source::Fixed(list) => {
                let mut walk = Walk::new(query.name(), list.ndots, list.domains.iter());
                list.domains.iter().for_each(|domain| walk.domain(domain.as_ref(), visit));
                walk.end(visit)
            }
            Source::Pods { clients, cluster, of_node } => {
                let address = request.origin.client.ip();
                let is_service =
                    |name: &[u8], namespace: &[u8]| clients.has_service(name, namespace);
                let of_pod = |pod: &NodePod| {
                    let lists = (cluster, of_node);
                    of_pod(pod, lists, query.name(), &is_service, visit)
                };
                clients.pod(address, of_pod).unwrap_or(false)
            }
        }
    }

    fn is_within_zones(&self, name: NameRef<'_>) -> bool {
        self.zones.iter().any(|zone| name.is_within(zone.as_ref()))
    }
}

/// As [`Autopath::each_after`], for a Pod: its list is made as the kubelet makes it.
fn of_pod(
    pod: &NodePod,
    (cluster, of_node): (&Name, &SearchList),
    name: NameRef<'_>,
    is_service: &dyn Fn(&[u8], &[u8]) -> bool,
    visit: &mut dyn FnMut(NameRef<'_>) -> bool,
) -> bool {
    let ndots = match pod.dns.policy {
        DnsPolicy::Cluster => CLUSTER_NDOTS,
        DnsPolicy::Node => of_node.ndots.unwrap_or(1),
        DnsPolicy::Own => 1,
    };
    let inherited: &[Name] = match pod.dns.policy {
        DnsPolicy::Own => &[],
        DnsPolicy::Cluster | DnsPolicy::Node => &of_node.domains,
    };
    let others = || inherited.iter().chain(&*pod.dns.searches);
    let mut walk = Walk::new(name, Some(pod.dns.ndots.unwrap_or(ndots)), others());
    if pod.dns.policy == DnsPolicy::Cluster {
        let mut services = NameBuf::new();
        let mut own = NameBuf::new();
        let made =
            own.push_label(pod.id.namespace.as_bytes()).and_then(|()| own.push_label(b"svc"));
        let made = made.and_then(|()| own.push_name(cluster.as_ref()));
        let made = made.and_then(|()| services.push_label(b"svc"));
        if made.and_then(|()| services.push_name(cluster.as_ref())).is_err() {
            return false;
        }
        walk.domain(own.as_name(), visit);
        walk.leave_own_names(|label| is_service(label, pod.id.namespace.as_bytes()));
        walk.domain(services.as_name(), visit);
        walk.domain(cluster.as_ref(), visit);
    }
    others().for_each(|domain| walk.domain(domain.as_ref(), visit));
    walk.end(visit)
}

/// One name on its way through a list.
struct Walk<'a> {
    name: NameRef<'a>,
    ndots: Option<u8>,
    /// Labels of the longest domain of the list that the name is below.
    longest: usize,
    /// Labels of the name as it was written, once the first domain is known to be appended to it.
    written: Option<usize>,
    domains: usize,
    /// It is the first of a list, and somebody wants the next one.
    goes_on: bool,
}

impl<'a> Walk<'a> {
    /// `domains`: those that may be below the first.
    fn new<'d>(
        name: NameRef<'a>,
        ndots: Option<u8>,
        domains: impl Iterator<Item = &'d Name>,
    ) -> Self {
        let labels = name.label_count();
        let of = domains.filter(|domain| name.is_within(domain.as_ref()));
        let counts = of.map(|domain| domain.as_ref().label_count());
        let longest = counts.filter(|count| *count < labels).max().unwrap_or(0);
        Self { name, ndots, longest, written: None, domains: 0, goes_on: true }
    }

    /// The next domain of the list. One that was there before changes nothing: its name does not exist, as is known by then.
    fn domain(&mut self, domain: NameRef<'_>, visit: &mut dyn FnMut(NameRef<'_>) -> bool) {
        self.domains += 1;
        if !self.goes_on || self.domains > MAX_DOMAINS {
            return;
        }
        if self.domains == 1 {
            self.begin(domain);
        } else {
            self.visit(domain, visit);
        }
    }

    /// The name is the first of the list if it ends in the first domain, and what stands before was not tried as it is. One that
    /// ends in a later domain, below the first, is that one's.
    fn begin(&mut self, domain: NameRef<'_>) {
        let labels = self.name.label_count().saturating_sub(domain.label_count());
        let is_later = self.longest > domain.label_count();
        let is_first = labels > 0 && self.name.is_within(domain) && !is_later;
        let is_tried = self.ndots.is_some_and(|ndots| labels > usize::from(ndots));
        self.goes_on = is_first && !is_tried;
        self.written = self.goes_on.then_some(labels);
    }

    /// A name below a Service of the namespace is asked for as it is, too: its denial is to be no other name's answer.
    fn leave_own_names(&mut self, is_service: impl FnOnce(&[u8]) -> bool) {
        let Some(labels) = self.written else { return };
        let last = self.name.labels().nth(labels - 1).unwrap_or_default();
        if labels > 1 && is_service(last) {
            (self.goes_on, self.written) = (false, None);
        }
    }

    fn visit(&mut self, domain: NameRef<'_>, visit: &mut dyn FnMut(NameRef<'_>) -> bool) {
        let Some(labels) = self.written else { return };
        let mut name = NameBuf::new();
        let written = self.name.labels().take(labels).try_for_each(|label| name.push_label(label));
        // One that is too long with its domain is skipped, as resolvers do.
        if written.and_then(|()| name.push_name(domain)).is_ok() {
            self.goes_on = visit(name.as_name());
        }
    }

    /// The name as it was written, which comes last. One label is a Service that does not exist, as a rule, and no host of the
    /// world: the denial of the first name says so at once.
    fn end(mut self, visit: &mut dyn FnMut(NameRef<'_>) -> bool) -> bool {
        if self.goes_on && self.written.is_some_and(|labels| labels > 1) {
            self.visit(NameRef::ROOT, visit);
        }
        self.written.is_some()
    }
}

#[cfg(test)]
mod tests;
