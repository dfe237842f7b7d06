//! What the name of a query may have been made of: by the search list of the Pod that asks, or, of a client that is unknown, by the
//! domains of the cluster, which most Pods have.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::clients::{Clients, first_address};
use crate::clock::CoarseInstant;
use crate::cluster::index::Index;
use crate::cluster::object::{NodePod, ObjectId, PodOwner};
use crate::search_list::{MAX_DOMAINS, SearchList, each_domain_of_pod, ndots_of_pod};
use crate::wire::name::Labels;
use crate::wire::{Name, NameRef};

/// The search lists of clients, by the configuration that runs.
pub struct Lists {
    /// The kubelet's cluster domain, and what is known below it.
    pub cluster: Option<(Name, Arc<Index>)>,
    /// The Pods of this node.
    pub clients: Arc<Clients>,
    /// Whether they are watched.
    pub watches_pods: bool,
    /// Where the Pods of all nodes may be known (`pods verified`).
    pub of_all_nodes: Vec<Arc<Index>>,
    /// The list of the node's resolv.conf.
    pub of_node: SearchList,
}

/// Who asks, and where the name can be cut.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// The first address of the Pod, or the one that asks.
    pub client: IpAddr,
    /// The Pod; `None`: the client is unknown, or shares the node's addresses.
    pub who: Option<Who>,
    /// Where the domains begin that may have been appended, the longest domain first.
    pub cuts: SmallVec<[Cut; 4]>,
}

/// A place in a name where a resolver may have appended a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// Octets before the domain; never 0.
    pub at: usize,
    /// The domain is the cluster's or below it.
    pub in_cluster: bool,
}

/// The Pod that a query came from. To make or clone one allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Its name.
    pub id: ObjectId,
    /// What controls it.
    pub owner: Option<PodOwner>,
    /// Its `ndots`; `None` if only its name is known.
    pub ndots: Option<u8>,
}

impl Lists {
    /// What is said of the rows where nothing is known of the cluster.
    pub const UNKNOWN: &str =
        "no server block has `kubernetes`, so search lists are not known, and nothing can be told";

    /// What holds for all that is told by these lists, for people.
    pub fn note(&self) -> Option<String> {
        let Some((zone, _)) = &self.cluster else { return Some(Self::UNKNOWN.to_owned()) };
        let of_cluster = format!(
            "no Pods are watched (`pods node`): every client is taken for a Pod with the domains NAMESPACE.svc.{zone} svc.{zone} {zone}",
            zone = zone.to_string().trim_end_matches('.')
        );
        (!self.watches_pods).then_some(of_cluster)
    }

    /// Who asked from an address at that time, and where a name in lower case can be cut.
    pub fn asked(&self, address: IpAddr, at: CoarseInstant, name: NameRef<'_>) -> Asked {
        let of_pod = |pod: &NodePod| Asked {
            client: first_address(pod, address),
            who: Some(self.who_is(pod)),
            cuts: self.cuts_of_pod(pod, name),
        };
        self.clients.pod_of_query(address, at, of_pod).unwrap_or_else(|| Asked {
            client: address,
            who: self.by_name(address),
            cuts: self.cuts_of_cluster(name).unwrap_or_default(),
        })
    }

    /// The Pod that asked from an address at that time.
    pub fn who(&self, address: IpAddr, at: CoarseInstant) -> Option<Who> {
        let known = self.clients.pod_of_query(address, at, |pod| self.who_is(pod));
        known.or_else(|| self.by_name(address))
    }

    fn who_is(&self, pod: &NodePod) -> Who {
        Who {
            id: pod.id.clone(),
            owner: pod.owner.clone(),
            ndots: Some(ndots_of_pod(&pod.dns, &self.of_node)),
        }
    }

    /// The Pod of another node with an address. Of this node's Pods it is known who had it.
    fn by_name(&self, address: IpAddr) -> Option<Who> {
        if self.clients.has(address) {
            return None;
        }
        let id = self.of_all_nodes.iter().find_map(|index| index.pod_at(address))?;
        Some(Who { id, owner: None, ndots: None })
    }

    /// Whether an application may have meant the name as it is: it has the form of a Service's in a namespace that exists, or is
    /// below the name of a Service that does, as a Pod's that is not ready. Its denial is then no search list's fault.
    pub fn may_be_meant(&self, name: NameRef<'_>) -> bool {
        let Some((zone, index)) = &self.cluster else { return false };
        let Some(prefix) = name.relative_to(zone.as_ref()) else { return false };
        let labels: SmallVec<[&[u8]; 8]> = Labels::of_prefix(prefix).collect();
        match labels.as_slice() {
            [_, namespace, b"svc" | b"pod"] => index.has_namespace(namespace),
            [_, .., service, namespace, b"svc"] => index.has_service(service, namespace),
            _ => false,
        }
    }

    fn cuts_of_pod(&self, pod: &NodePod, name: NameRef<'_>) -> SmallVec<[Cut; 4]> {
        let mut cuts = SmallVec::new();
        let Some((zone, _)) = &self.cluster else { return cuts };
        let zone = zone.as_ref();
        let mut seen = 0;
        let visit = |domain: NameRef<'_>| {
            seen += 1;
            let at = name.prefix_len(domain).unwrap_or(0);
            if at > 0 && seen <= MAX_DOMAINS && !domain.is_root() {
                cuts.push(Cut { at, in_cluster: domain.is_within(zone) });
            }
        };
        // A cluster's domain that is too long for names has none.
        let _ = each_domain_of_pod(&pod.id.namespace, &pod.dns, zone, &self.of_node, visit);
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }

    /// By the domains `NAMESPACE.svc.ZONE` of a namespace that exists, `svc.ZONE` and `ZONE`.
    fn cuts_of_cluster(&self, name: NameRef<'_>) -> Option<SmallVec<[Cut; 4]>> {
        let (zone, index) = self.cluster.as_ref()?;
        let before = name.prefix_len(zone.as_ref())?;
        let prefix = name.as_bytes().get(..before)?;
        let labels: SmallVec<[&[u8]; 8]> = Labels::of_prefix(prefix).collect();
        let mut cuts = SmallVec::new();
        let mut push = |at| cuts.push(Cut { at, in_cluster: true });
        let len = |label: &[u8]| label.len() + 1;
        if let [above @ .., b"svc"] = labels.as_slice() {
            let services = before - len(b"svc");
            if let [_, .., namespace] = above
                && index.has_namespace(namespace)
            {
                push(services - len(namespace));
            }
            if services > 0 {
                push(services);
            }
        }
        if before > 0 {
            push(before);
        }
        Some(cuts)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cluster::index::Settings;
    use crate::cluster::object::{
        Distribution, DnsPolicy, Event, Namespace, Object, ObjectId, PodDns, Service, ServiceKind,
    };

    pub(in crate::observe) const POD: &str = "10.0.0.7";
    /// After all that tests do.
    pub(in crate::observe) const LATER: CoarseInstant = CoarseInstant::from_millis(1 << 47);

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    /// With the Pod `shop/web` of this resolver at [`POD`], the Service `db` of its namespace, and a node in `corp.example`.
    pub(in crate::observe) fn lists(dns: PodDns) -> Lists {
        let index = Arc::new(Index::new(Settings::default()));
        for name in ["shop", "other"] {
            index.apply(Event::Apply(Object::Namespace(Namespace { name: name.into() })));
        }
        let id = |name: &str| ObjectId { namespace: "shop".into(), name: name.into() };
        index.apply(Event::Apply(Object::Service(Service {
            id: id("db"),
            kind: ServiceKind::Headless,
            ports: SmallVec::new(),
            publish_not_ready: false,
            distribution: Distribution::All,
            version: 1,
        })));
        index.apply(Event::Apply(Object::NodePod(NodePod {
            id: id("web"),
            addresses: [POD.parse().unwrap()].into_iter().collect(),
            host_network: false,
            created: 1,
            dns,
            owner: None,
            labels: Box::default(),
        })));
        let clients = Arc::new(Clients::default());
        clients.follow(Some(Arc::clone(&index)));
        let of_node = SearchList { domains: [name("corp.example")].into(), ndots: Some(1) };
        Lists {
            cluster: Some((name("cluster.local"), index)),
            clients,
            watches_pods: true,
            of_all_nodes: Vec::new(),
            of_node,
        }
    }

    /// What stands before the domains that may have been appended.
    fn written(lists: &Lists, from: &str, text: &str) -> Vec<String> {
        let name = name(text);
        let asked = lists.asked(from.parse().unwrap(), LATER, name.as_ref());
        let text = |cut: &Cut| {
            let wire = [&name.as_bytes()[..cut.at], &[0]].concat();
            NameRef::parse(&wire).unwrap().to_string()
        };
        asked.cuts.iter().map(text).collect()
    }

    #[test]
    fn a_pod_has_its_own_list() {
        let cluster = lists(PodDns::default());
        for (asked, wanted) in [
            ("example.com.shop.svc.cluster.local", &["example.com.", "example.com.shop."][..]),
            ("example.com.other.svc.cluster.local", &["example.com.other."]),
            ("example.com.corp.example", &["example.com."]),
            ("shop.svc.cluster.local", &["shop."]),
            ("example.com", &[]),
        ] {
            let found = written(&cluster, POD, asked);
            assert!(
                found.iter().zip(wanted).all(|(one, other)| one == other),
                "{asked}: {found:?}"
            );
            assert_eq!(found.is_empty(), wanted.is_empty(), "{asked}: {found:?}");
        }
        let own = PodDns { policy: DnsPolicy::Own, searches: [name("x.test")].into(), ndots: None };
        let own = lists(own);
        assert_eq!(written(&own, POD, "a.b.x.test"), ["a.b."]);
        assert!(written(&own, POD, "a.shop.svc.cluster.local").is_empty());
        assert_eq!(own.who(POD.parse().unwrap(), LATER).unwrap().ndots, Some(1));
        assert_eq!(cluster.who(POD.parse().unwrap(), LATER).unwrap().id.to_string(), "shop/web");
        // What was asked before the Pod was known may have been another's.
        assert!(cluster.who(POD.parse().unwrap(), CoarseInstant::from_millis(1)).is_none());
    }

    #[test]
    fn others_have_the_domains_of_the_cluster() {
        let lists = lists(PodDns::default());
        let cuts = |asked: &str| written(&lists, "10.9.9.9", asked);
        let in_other = cuts("example.com.other.svc.cluster.local");
        assert_eq!(in_other, ["example.com.", "example.com.other.", "example.com.other.svc."]);
        assert_eq!(cuts("example.com.svc.cluster.local")[0], "example.com.");
        assert_eq!(cuts("example.com.cluster.local"), ["example.com."]);
        assert_eq!(cuts("svc.cluster.local"), ["svc."]);
        assert!(cuts("cluster.local").is_empty() && cuts("a.corp.example").is_empty());
        assert!(lists.who("10.9.9.9".parse().unwrap(), LATER).is_none());
    }

    #[test]
    fn what_an_application_may_have_meant_is_known() {
        let lists = lists(PodDns::default());
        for (asked, wanted) in [
            ("web.shop.svc.cluster.local", true),
            ("1-2-3-4.shop.pod.cluster.local", true),
            ("db-0.db.shop.svc.cluster.local", true),
            ("_sql._tcp.db.shop.svc.cluster.local", true),
            ("example.com.shop.svc.cluster.local", false),
            ("example.com.svc.cluster.local", false),
            ("example.com.cluster.local", false),
            ("shop.svc.cluster.local", false),
            ("example.com", false),
        ] {
            assert_eq!(lists.may_be_meant(name(asked).as_ref()), wanted, "{asked}");
        }
    }
}
