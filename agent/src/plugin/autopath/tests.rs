//! The names that follow the first of a list, for every policy.

use super::*;
use crate::cluster::object::{ObjectId, PodDns};

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn names(texts: &[&str]) -> Box<[Name]> {
    texts.iter().map(|text| name(text)).collect()
}

fn pod(dns: PodDns) -> NodePod {
    let id = ObjectId { namespace: "shop".into(), name: "web".into() };
    NodePod { id, addresses: Default::default(), host_network: false, created: 0, dns }
}

/// What follows; `None` if the name is no first one.
fn after(pod: &NodePod, asked: &str) -> Option<String> {
    let of_node =
        SearchList { domains: names(&["corp.test", "svc.cluster.local"]), ndots: Some(1) };
    let mut all = Vec::new();
    let mut visit = |name: NameRef<'_>| {
        all.push(name.to_string());
        true
    };
    let is_first = of_pod(pod, &name("cluster.local"), &of_node, name(asked).as_ref(), &mut visit);
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
    assert_eq!(after(&of_node, "a.corp.test").unwrap(), "a.svc.cluster.local. a.");
    assert!(after(&of_node, "a.b.corp.test").is_none());
    let own = PodDns { policy: DnsPolicy::Own, searches: names(&["x.test"]), ndots: None };
    assert_eq!(after(&pod(own), "a.x.test").unwrap(), "a.");
    assert!(
        after(&pod(PodDns { policy: DnsPolicy::Own, ..PodDns::default() }), "a.x.test").is_none()
    );
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
    let asked = name("a.shop.svc.cluster.local");
    assert!(of_pod(
        &pod(PodDns::default()),
        &name("cluster.local"),
        &none,
        asked.as_ref(),
        &mut visit
    ));
    assert_eq!(seen, 2);
}
