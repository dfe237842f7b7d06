//! Where endpoints are, beside the model.

use super::*;

/// The parts of a Service by where its endpoints are.
pub(super) fn compare(index: &Index, model: &Model, of: (bool, &str, &str)) {
    let (imported, namespace, name) = of;
    let is_headless = model
        .service(imported, namespace, name)
        .is_some_and(|service| service.kind == ServiceKind::Headless);
    let has_parts = is_headless && !imported && model.settings.places;
    let slices: Vec<_> = model
        .slices()
        .filter(|slice| slice.imported == imported)
        .filter(|slice| &*slice.id.namespace == namespace && &*slice.service == name)
        .collect();
    let addresses = |is: &dyn Fn(&Place) -> bool| {
        let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        let chosen = endpoints.filter(|endpoint| endpoint.ready && is(&endpoint.place));
        let all = chosen.flat_map(|endpoint| endpoint.addresses.iter().copied());
        if has_parts { all.collect() } else { BTreeSet::new() }
    };
    let check = |part: Option<&Arc<Group>>, expected: BTreeSet<IpAddr>| {
        let Some(part) = part else { return assert!(expected.is_empty()) };
        compare_endpoints(index, part);
        let found: Vec<IpAddr> = records::addresses_in(&part.a, &part.aaaa).collect();
        assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), expected);
        assert_eq!(found.len(), expected.len());
        assert!(every_address().all(|ip| part.has_address(ip) == expected.contains(&ip)));
    };
    index.group(&wire(name, namespace), imported, |group| {
        for zone in ["z1", "z2", "z3"] {
            let part = group.nearby().and_then(|nearby| nearby.zone(zone));
            check(part, addresses(&|place| place.zone.as_deref() == Some(zone)));
        }
        let here = group.nearby().and_then(|nearby| nearby.here());
        check(here, addresses(&|place| place.node.as_deref() == Some("here")));
    });
}
