//! `autopath [ZONE...] @kubernetes|RESOLV-CONF`: the first query of a search list is answered with what the whole list would
//! come to.
//!
//! A resolver appends the domains of its list to a name, one after the other, until a name exists. Here it is known which list a
//! client has: where the first name does not exist, the names that would follow are looked up at once, and the answer is an alias
//! from the name that was asked for to the one that was found. If none exists, the first denial stands, and the client goes through
//! its list itself, to the same end. If one exists without addresses of that type, there is no alias: for glibc that would be the
//! end of the list, and it goes on behind a name that has neither type.
//!
//! This module knows the lists; `server::search` looks the names up.

mod config;

use std::sync::Arc;

pub use self::config::Config;
use crate::clients::Clients;
use crate::cluster::object::{DnsPolicy, NodePod};
use crate::request::Request;
use crate::search_list::{MAX_DOMAINS, SearchList, each_domain_of_pod, ndots_of_pod};
use crate::wire::{Class, Name, NameBuf, NameRef, RecordType};

/// An `autopath` line, ready to be used.
#[derive(Debug)]
pub struct Autopath {
    zones: Vec<Name>,
    source: Source,
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
    /// Calls `visit` with each name that the client would try after this one, in their order, until it returns false. True if the
    /// query is the first of a search list; then `visit` may have been called. Allocates nothing.
    pub fn each_after(
        &self,
        request: &Request<'_>,
        visit: &mut dyn FnMut(NameRef<'_>) -> bool,
    ) -> bool {
        let query = &request.query;
        let asked = Asked { name: query.name(), written: query.name_as_asked() };
        // Names that are looked up by other types are seldom searched for, and then by the client.
        let is_address = matches!(query.qtype(), RecordType::A | RecordType::AAAA);
        if !is_address || query.qclass() != Class::IN || !self.is_within_zones(query.name()) {
            return false;
        }
        match &self.source {
            Source::Fixed(list) => {
                let mut walk = Walk::new(asked, list.ndots);
                list.domains.iter().for_each(|domain| walk.look_at(domain.as_ref()));
                list.domains.iter().for_each(|domain| walk.domain(domain.as_ref(), visit));
                walk.end(visit)
            }
            Source::Pods { clients, cluster, of_node } => {
                let address = request.origin.client.ip();
                let is_service =
                    |name: &[u8], namespace: &[u8]| clients.has_service(name, namespace);
                let of_pod = |pod: &NodePod| {
                    let lists = (cluster, of_node);
                    of_pod(pod, lists, asked, &is_service, visit)
                };
                clients.pod(address, of_pod).unwrap_or(false)
            }
        }
    }

    fn is_within_zones(&self, name: NameRef<'_>) -> bool {
        self.zones.iter().any(|zone| name.is_within(zone.as_ref()))
    }
}

/// The name of a query.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// Lower-cased.
    name: NameRef<'a>,
    /// In the client's case, which aliases keep: the resolver calls it the canonical name.
    written: NameRef<'a>,
}

/// As [`Autopath::each_after`], for a Pod: its list is made as the kubelet makes it.
fn of_pod(
    pod: &NodePod,
    (cluster, of_node): (&Name, &SearchList),
    asked: Asked<'_>,
    is_service: &dyn Fn(&[u8], &[u8]) -> bool,
    visit: &mut dyn FnMut(NameRef<'_>) -> bool,
) -> bool {
    let namespace = &*pod.id.namespace;
    let each = |visit: &mut dyn FnMut(NameRef<'_>)| {
        each_domain_of_pod(namespace, &pod.dns, cluster.as_ref(), of_node, visit).is_ok()
    };
    let mut walk = Walk::new(asked, Some(ndots_of_pod(&pod.dns, of_node)));
    if !each(&mut |domain| walk.look_at(domain)) {
        return false;
    }
    each(&mut |domain| {
        walk.domain(domain, visit);
        if walk.domains == 1 && pod.dns.policy == DnsPolicy::Cluster {
            walk.leave_own_names(|label| is_service(label, namespace.as_bytes()));
        }
    });
    walk.end(visit)
}

/// One name on its way through a list.
struct Walk<'a> {
    asked: Asked<'a>,
    ndots: Option<u8>,
    /// Labels of the longest domain of the list that the name is below.
    longest: usize,
    /// Labels of the name as it was written, once the first domain is known to be appended to it.
    written: Option<usize>,
    domains: usize,
    /// It is the first of a list, and the next one is wanted.
    continues: bool,
}

impl<'a> Walk<'a> {
    fn new(asked: Asked<'a>, ndots: Option<u8>) -> Self {
        Self { asked, ndots, longest: 0, written: None, domains: 0, continues: true }
    }

    /// To be called with every domain before [`Walk::domain`].
    fn look_at(&mut self, domain: NameRef<'_>) {
        let (labels, name) = (domain.label_count(), self.asked.name);
        if labels > self.longest && labels < name.label_count() && name.is_within(domain) {
            self.longest = labels;
        }
    }

    /// The next domain of the list. One that was there before changes nothing: its name does not exist, as is known by then.
    fn domain(&mut self, domain: NameRef<'_>, visit: &mut dyn FnMut(NameRef<'_>) -> bool) {
        self.domains += 1;
        if !self.continues || self.domains > MAX_DOMAINS {
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
        let name = self.asked.name;
        let labels = name.label_count().saturating_sub(domain.label_count());
        let is_later = self.longest > domain.label_count();
        let is_first = labels > 0 && name.is_within(domain) && !is_later;
        let is_tried = self.ndots.is_some_and(|ndots| labels > usize::from(ndots));
        self.continues = is_first && !is_tried;
        self.written = self.continues.then_some(labels);
    }

    /// A name below a Service of the namespace is asked for as it is, too: its denial is to be no other name's answer.
    fn leave_own_names(&mut self, is_service: impl FnOnce(&[u8]) -> bool) {
        let Some(labels) = self.written else { return };
        let last = self.asked.name.labels().nth(labels - 1).unwrap_or_default();
        if labels > 1 && is_service(last) {
            (self.continues, self.written) = (false, None);
        }
    }

    fn visit(&mut self, domain: NameRef<'_>, visit: &mut dyn FnMut(NameRef<'_>) -> bool) {
        let Some(labels) = self.written else { return };
        let mut name = NameBuf::new();
        let mut own = self.asked.written.labels().take(labels);
        let written = own.try_for_each(|label| name.push_label(label));
        // One that is too long with its domain is skipped, as resolvers do.
        if written.and_then(|()| name.push_name(domain)).is_ok() {
            self.continues = visit(name.as_name());
        }
    }

    /// The name as it was written, which comes last. One label is a Service that does not exist, as a rule, and no host of the
    /// world: the denial of the first name says so at once.
    fn end(mut self, visit: &mut dyn FnMut(NameRef<'_>) -> bool) -> bool {
        if self.continues && self.written.is_some_and(|labels| labels > 1) {
            self.visit(NameRef::ROOT, visit);
        }
        self.written.is_some()
    }
}

#[cfg(test)]
mod tests;
