//! The names that follow the first of a list, for every policy.

use super::*;
use crate::cluster::object::{ObjectId, PodDns};

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn names(texts: &[&str]) -> Box<[Name]> {
    texts.iter().map(|text| name(text)).collect()
}

fn asked(name: &Name) -> Asked<'_> {
    Asked { name: name.as_ref(), written: name.as_ref() }
}

fn pod(dns: PodDns) -> NodePod {
    let id = ObjectId { namespace: "shop".into(), name: "web".into() };
    NodePod {
        id,
        addresses: Default::default(),
        host_network: false,
        created: 0,
        dns,
        owner: None,
        labels: Box::default(),
    }
}

/// What follows; `None` if the name is no first one.
fn after(pod: &NodePod, text: &str) -> Option<String> {
    let of_node =
        SearchList { domains: names(&["corp.test", "svc.cluster.local"]), ndots: Some(1) };
    let mut all = Vec::new();
    let mut visit = |name: NameRef<'_>| {
        all.push(name.to_string());
        true
    };
    let cluster = name("cluster.local");
    let is_service = |name: &[u8], namespace: &[u8]| (name, namespace) == (b"db", b"shop");
    let lists = (&cluster, &of_node);
    let is_first = of_pod(pod, lists, asked(&name(text)), &is_service, &mut visit);
    is_first.then(|| all.join(" "))
}

#[test]
fn a_pod_has_the_list_that_the_kubelet_gives_it() {
    let cluster = pod(PodDns::default());
    assert_eq!(
        after(&cluster, "github.com.shop.svc.cluster.local").unwrap(),
        "github.com.svc.cluster.local. github.com.cluster.local. github.com.corp.test. \
         github.com.svc.cluster.local. github.com."
    );
    // Five dots are tried as they are first; four are not.
    assert!(after(&cluster, "a.b.c.d.e.f.shop.svc.cluster.local").is_none());
    assert!(after(&cluster, "a.b.c.d.e.shop.svc.cluster.local").is_some());
    for other in ["github.com.other.svc.cluster.local", "shop.svc.cluster.local", "github.com."] {
        assert!(after(&cluster, other).is_none(), "{other}");
    }
    let two = pod(PodDns { searches: names(&["x.test"]), ndots: Some(2), ..PodDns::default() });
    assert!(after(&two, "a.b.c.shop.svc.cluster.local").is_none());
    assert!(after(&two, "a.b.shop.svc.cluster.local").unwrap().ends_with(" a.b.x.test. a.b."));
    let of_node = pod(PodDns { policy: DnsPolicy::Node, ..PodDns::default() });
    assert_eq!(after(&of_node, "a.corp.test").unwrap(), "a.svc.cluster.local.");
    assert!(after(&of_node, "a.b.corp.test").is_none());
    let own = PodDns { policy: DnsPolicy::Own, searches: names(&["x.test"]), ndots: None };
    assert_eq!(after(&pod(own), "a.x.test").unwrap(), "");
    assert!(
        after(&pod(PodDns { policy: DnsPolicy::Own, ..PodDns::default() }), "a.x.test").is_none()
    );
}

#[test]
fn a_name_of_a_later_domain_below_the_first_is_no_first_one() {
    let below = PodDns { searches: names(&["db.shop.svc.cluster.local"]), ..PodDns::default() };
    let with = pod(below);
    assert!(after(&with, "db-0.prod.shop.svc.cluster.local").is_some());
    assert!(after(&with, "db-0.db.shop.svc.cluster.local").is_none());
    let list = names(&["corp.test", "eu.corp.test"]);
    let name = name("www.eu.corp.test");
    let mut walk = Walk::new(asked(&name), None);
    list.iter().for_each(|domain| walk.look_at(domain.as_ref()));
    let mut visit = |name: NameRef<'_>| -> bool { panic!("{name}") };
    list.iter().for_each(|domain| walk.domain(domain.as_ref(), &mut visit));
    assert!(!walk.end(&mut visit));
}

#[test]
fn names_of_the_own_namespace_lead_nowhere_else() {
    let plain = pod(PodDns::default());
    for own in ["db-0.db", "_tcp.db", "a.b.db"] {
        assert!(after(&plain, &format!("{own}.shop.svc.cluster.local")).is_none(), "{own}");
    }
    assert!(after(&plain, "db.prod.shop.svc.cluster.local").is_some());
    let absent = after(&plain, "absent.shop.svc.cluster.local").unwrap();
    assert!(absent.contains("absent.corp.test.") && !absent.ends_with(" absent."), "{absent}");
}

#[test]
fn a_walk_ends_where_a_name_is_found_and_skips_what_is_too_long() {
    let long = format!("{}.shop.svc.cluster.local", vec!["x".repeat(60); 3].join("."));
    let with =
        PodDns { searches: names(&[&vec!["y".repeat(60); 2].join(".")]), ..PodDns::default() };
    let followed = after(&pod(with), &long).unwrap();
    assert!(
        !followed.contains('y')
            && followed.ends_with(&format!(" {}.", vec!["x".repeat(60); 3].join(".")))
    );
    let mut seen = 0;
    let mut visit = |_: NameRef<'_>| {
        seen += 1;
        seen < 2
    };
    let none = SearchList::default();
    let first = name("a.shop.svc.cluster.local");
    let (pod, cluster) = (pod(PodDns::default()), name("cluster.local"));
    assert!(of_pod(&pod, (&cluster, &none), asked(&first), &|_, _| false, &mut visit));
    assert_eq!(seen, 2);
}
