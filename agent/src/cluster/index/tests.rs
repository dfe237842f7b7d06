//! The index beside a model that keeps whole objects and looks at all of them for every question.

mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::address::{Prefix, Reason};
use super::*;
use crate::cluster::object::{
    Endpoint, EndpointSlice, Namespace, Node, Object, ObjectId, Place, Pod, Port, Protocol,
    Service, ServiceKind,
};

fn id(namespace: &str, name: &str) -> ObjectId {
    ObjectId { namespace: namespace.into(), name: name.into() }
}

fn wire(service: &str, namespace: &str) -> Vec<u8> {
    group::Key::new(namespace, service, false).wire().to_vec()
}

/// Service and import, name and namespace.
fn every_group() -> impl Iterator<Item = (bool, &'static str, &'static str)> {
    let names = |imported| {
        ["n0", "n1"].into_iter().flat_map(move |n| ["s0", "s1", "s2"].map(|s| (imported, n, s)))
    };
    names(false).chain(names(true))
}

/// Few names and few addresses, so that objects get in each other's way.
fn service() -> impl Strategy<Value = Object> {
    let kind = prop_oneof![
        3 => Just(ServiceKind::Headless),
        2 => prop::collection::vec(address(), 1..3).prop_map(|ips| ServiceKind::ClusterIp(ips.into())),
        1 => Just(ServiceKind::ExternalName("example.com".parse().unwrap())),
        1 => Just(ServiceKind::ExternalName("192.0.2.1".parse().unwrap())),
    ];
    let distribution = prop_oneof![
        Just(Distribution::All),
        Just(Distribution::SameZone),
        Just(Distribution::SameNode)
    ];
    (0..3u8, 0..2u8, kind, any::<bool>(), distribution, ports(), imported()).prop_map(
        |(name, space, kind, publish_not_ready, distribution, ports, imported)| {
            let id = id(&format!("n{space}"), &format!("s{name}"));
            let ports = ports.into();
            let service = Service { id, kind, ports, publish_not_ready, distribution, version: 0 };
            if imported { Object::ServiceImport(service) } else { Object::Service(service) }
        },
    )
}

fn imported() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.2)
}

fn ports() -> impl Strategy<Value = Vec<Port>> {
    let port = (0..3u8, 80..83u16).prop_map(|(name, number)| Port {
        name: ["", "http", "dns"][usize::from(name)].into(),
        protocol: Protocol::Tcp,
        number,
    });
    prop::collection::vec(port, 0..3)
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        3 => (0..8u8).prop_map(|last| IpAddr::from([10, 0, last / 4, last])),
        1 => (0..4u16).prop_map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])),
    ]
}

fn slice() -> impl Strategy<Value = Object> {
    let endpoint = (0..8u8, 0..4u8, 0..4u8, 0..5u8, 0..6u8);
    let endpoints = prop::collection::vec(endpoint, 0..6);
    (0..4u8, 0..3u8, 0..2u8, any::<bool>(), endpoints, ports(), imported()).prop_map(
        |(name, service, space, v6, rows, ports, imported)| {
            let endpoint = |(last, hostname, pod, ready, place): (u8, u8, u8, u8, u8)| Endpoint {
                addresses: [if v6 {
                    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)])
                } else {
                    IpAddr::from([10, 0, last / 4, last])
                }]
                .into_iter()
                .collect(),
                hostname: (hostname > 1).then(|| format!("h{hostname}").into()),
                pod: (pod > 0).then(|| format!("p{pod}").into()),
                ready: ready > 0,
                place: Place {
                    zone: (place > 1).then(|| format!("z{}", place / 2).into()),
                    node: Some(["here", "there"][usize::from(place % 2)].into()),
                },
            };
            Object::EndpointSlice(EndpointSlice {
                id: id(&format!("n{space}"), &format!("e{name}")),
                service: format!("s{service}").into(),
                imported,
                cluster: (imported && name > 1).then(|| format!("c{name}").into()),
                ports: ports.into(),
                endpoints: rows.into_iter().map(endpoint).collect(),
                triggered_at: None,
                version: 0,
            })
        },
    )
}

fn object() -> impl Strategy<Value = Object> {
    let namespace =
        (0..3u8).prop_map(|n| Object::Namespace(Namespace { name: format!("n{n}").into() }));
    let pod = (0..4u8, 0..2u8, address()).prop_map(|(name, space, address)| {
        let id = id(&format!("n{space}"), &format!("p{name}"));
        Object::Pod(Pod { id, addresses: [address].into_iter().collect() })
    });
    let node = (0..3u8).prop_map(|zone| {
        let zone = (zone > 0).then(|| format!("z{zone}").into());
        Object::Node(Node { name: "here".into(), zone })
    });
    prop_oneof![6 => service(), 8 => slice(), 2 => namespace, 2 => pod, 1 => node]
}

fn event() -> impl Strategy<Value = Event> {
    let kind = || prop::sample::select(Kind::ALL.as_slice());
    prop_oneof![
        8 => object().prop_map(Event::Apply),
        3 => object().prop_map(|object| Event::Delete(object.kind(), object.id())),
        1 => kind().prop_map(Event::Init),
        1 => kind().prop_map(Event::InitDone),
    ]
}

#[derive(Default)]
struct Model {
    objects: BTreeMap<(Kind, ObjectId), (Object, u32)>,
    lists: [u32; Kind::ALL.len()],
    settings: Settings,
}

impl Model {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Apply(object) => {
                let list = self.lists[object.kind() as usize];
                self.objects.insert((object.kind(), object.id()), (object, list));
            }
            Event::Delete(kind, id) => drop(self.objects.remove(&(kind, id))),
            Event::Init(kind) => self.lists[kind as usize] += 1,
            Event::InitDone(kind) => {
                let list = self.lists[kind as usize];
                self.objects.retain(|key, (_, seen)| key.0 != kind || *seen == list);
            }
        }
    }

    fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.objects.values().filter_map(|(object, _)| match object {
            Object::EndpointSlice(slice) => Some(slice),
            _ => None,
        })
    }

    fn service(&self, imported: bool, namespace: &str, name: &str) -> Option<&Service> {
        let kind = if imported { Kind::ServiceImport } else { Kind::Service };
        match self.objects.get(&(kind, id(namespace, name))) {
            Some((Object::Service(service) | Object::ServiceImport(service), _)) => Some(service),
            _ => None,
        }
    }

    fn ready(&self, imported: bool, namespace: &str, name: &str) -> BTreeSet<IpAddr> {
        let slices = self.slices().filter(|slice| slice.imported == imported);
        let slices =
            slices.filter(|slice| &*slice.id.namespace == namespace && &*slice.service == name);
        slices.flat_map(ready).collect()
    }

    fn owners(&self, address: IpAddr) -> BTreeSet<(bool, bool, Vec<u8>)> {
        let mut owners = BTreeSet::new();
        for (imported, namespace, name) in every_group() {
            let known = self.objects.contains_key(&(Kind::Namespace, id("", namespace)));
            if self.settings.known_namespaces && !known {
                continue;
            }
            let own = self.service(imported, namespace, name).is_some_and(
                |service| matches!(&service.kind, ServiceKind::ClusterIp(ips) if ips.contains(&address)),
            );
            if own {
                owners.insert((imported, true, wire(name, namespace)));
            }
            if self.ready(imported, namespace, name).contains(&address) {
                owners.insert((imported, false, wire(name, namespace)));
            }
        }
        owners
    }
}

fn ready(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> + '_ {
    slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.ready)
        .flat_map(|endpoint| endpoint.addresses.iter().copied())
}

fn every_address() -> impl Iterator<Item = IpAddr> {
    let v4 = (0..8u8).map(|last| IpAddr::from([10, 0, last / 4, last]));
    v4.chain((0..8u16).map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])))
}

/// Labels and clusters, each with its addresses and the numbers of its ports.
type Names = BTreeMap<(Vec<u8>, Option<Vec<u8>>), (BTreeSet<IpAddr>, BTreeSet<u16>)>;

fn text(label: Label<'_>) -> Vec<u8> {
    label.text(&mut label::LabelBuf::new()).to_vec()
}

/// What has each list of ports, beside what the slices with these ports have.
fn compare_lists(group: &Group, targets: &Targets) {
    let lists = targets.ports().iter().count();
    assert!(targets.lists().len() == lists || targets.lists().is_empty() && lists <= 1);
    for list in targets.lists() {
        let slices = group.slices.iter().filter(|slice| Arc::ptr_eq(&slice.ports, &list.ports));
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for (slice, row) in slices.flat_map(|slice| (0..slice.len()).map(move |row| (slice, row))) {
            names.insert((text(slice.label(row).unwrap()), slice.cluster()));
            addresses.extend(slice.address(row));
        }
        assert_eq!(list.len(), names.len());
        let found = list.names_from(1).map(|(label, cluster)| (text(label), cluster));
        assert_eq!(found.collect::<BTreeSet<_>>(), names);
        let found = [false, true].into_iter().flat_map(|is_v6| list.addresses_from(is_v6, 1));
        assert_eq!(found.collect::<BTreeSet<_>>(), addresses);
    }
}

/// What readers see of the endpoints of a Service beside what its slices have.
fn compare_endpoints(index: &Index, group: &Group) {
    let mut expected = Names::new();
    for slice in &group.slices {
        for row in 0..slice.len() {
            let name = (text(slice.label(row).unwrap()), slice.cluster().map(Into::into));
            let (addresses, ports) = expected.entry(name).or_default();
            addresses.extend(slice.address(row));
            ports.extend(slice.ports.iter().map(|port| port.number));
        }
    }
    let rows: usize = group.slices.iter().map(|slice| slice.len()).sum();
    assert_eq!(group.ready(), rows);
    let mut found = Names::new();
    if let Some(targets) = group.targets() {
        for target in targets.iter_from(rows / 2) {
            let families = [false, true].map(|is_v6| target.addresses.of(is_v6));
            let addresses: Vec<IpAddr> =
                families.iter().flat_map(|family| family.iter_from(1)).map(|a| a.value).collect();
            let ports = target.ports.iter().flat_map(|(list, _)| list.iter());
            let has = (addresses.iter().copied().collect(), ports.map(|p| p.number).collect());
            assert_eq!(addresses.len(), families.iter().map(|family| family.len()).sum::<usize>());
            let name = (text(target.label()), target.cluster().map(Into::into));
            assert!(found.insert(name, has).is_none(), "a name comes twice");
            let same = index.target(targets, target.label(), target.cluster()).unwrap();
            assert_eq!(same.label(), target.label());
        }
        let by_address: BTreeSet<_> = [false, true]
            .into_iter()
            .flat_map(|is_v6| targets.addresses_from(is_v6, 1))
            .flat_map(|known| known.names().map(|(label, _)| (known.address, text(label))))
            .collect();
        let expected = expected.iter().flat_map(|((label, _), (addresses, _))| {
            addresses.iter().map(|address| (*address, label.clone()))
        });
        assert_eq!(by_address, expected.collect());
        let counted: usize = targets.ports().iter().map(|(_, rows)| rows).sum();
        assert_eq!(counted, rows);
        compare_lists(group, targets);
    } else {
        let ports: BTreeSet<u16> =
            group.plain_ports().iter().flat_map(|list| list.iter()).map(|p| p.number).collect();
        let cluster: Option<Vec<u8>> = group.plain_cluster().map(Into::into);
        for ((label, of), (addresses, of_slices)) in &expected {
            assert_eq!((addresses.len(), of_slices, of), (1, &ports, &cluster));
            let label = Label::read(label);
            let address = group.plain_endpoint(label, of.as_deref());
            assert_eq!(address.as_ref(), addresses.first());
            assert_eq!(group.plain_label(address.unwrap()), Some(label));
        }
        if group.service.as_ref().is_none_or(|service| service.kind != group::Kind::Headless) {
            return;
        }
        for (label, address) in group.plain_endpoints(rows / 2) {
            let has = ([address].into_iter().collect(), ports.clone());
            let before = found.insert((text(label), cluster.clone()), has);
            assert!(before.is_none(), "a name comes twice");
        }
    }
    assert_eq!(found, expected);
}

fn compare(index: &Index, model: &Model) {
    for group in index.groups.all() {
        compare_endpoints(index, &group);
    }
    let node = model.objects.values().find_map(|(object, _)| match object {
        Object::Node(node) => node.zone.clone(),
        _ => None,
    });
    assert_eq!(index.zone(), node);
    for (imported, namespace, name) in every_group() {
        let service = model.service(imported, namespace, name);
        let expected: BTreeSet<IpAddr> = match service.map(|service| &service.kind) {
            Some(ServiceKind::ClusterIp(ips)) => ips.iter().copied().collect(),
            Some(ServiceKind::Headless) => model.ready(imported, namespace, name),
            _ => BTreeSet::new(),
        };
        let found = index.group(&wire(name, namespace), imported, |group| {
            assert_eq!(group.service.is_some(), service.is_some());
            let all: Vec<IpAddr> = records::addresses_in(&group.a, &group.aaaa).collect();
            let set: BTreeSet<IpAddr> = all.iter().copied().collect();
            let headless =
                group.service.as_ref().is_some_and(|service| service.kind == group::Kind::Headless);
            assert!(!headless || all.len() == set.len(), "an address stands twice");
            set
        });
        assert_eq!(found.unwrap_or_default(), expected, "{name}.{namespace}");
        places::compare(index, model, (imported, namespace, name));
    }
    let owned: Vec<_> = every_address().map(|address| (address, model.owners(address))).collect();
    for (address, expected) in &owned {
        let address = *address;
        let mut owners = BTreeSet::new();
        index.owners(address, |reason, key| {
            owners.insert((key.imported, reason == Reason::ClusterIp, key.wire().to_vec()))
        });
        assert_eq!(owners, *expected, "{address}");
        for namespace in ["n0", "n1"] {
            let known = model.objects.values().any(|(object, _)| {
                matches!(object, Object::Pod(pod) if pod.addresses[0] == address && &*pod.id.namespace == namespace)
            });
            assert_eq!(index.has_pod(address, namespace.as_bytes()), known);
        }
    }
    let below = |net: u8| {
        owned.iter().any(|(ip, owners)| {
            matches!(ip, IpAddr::V4(v4) if v4.octets()[2] == net) && !owners.is_empty()
        })
    };
    for net in 0..3 {
        assert_eq!(index.has_addresses_below(Prefix::of([10, 0, net, 0].into(), 3)), below(net));
    }
    let v6_known = owned.iter().any(|(ip, owners)| ip.is_ipv6() && !owners.is_empty());
    for steps in 1..32 {
        let net = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(index.has_addresses_below(Prefix::of(net, steps)), v6_known);
    }
    let v4_known = owned.iter().any(|(ip, owners)| ip.is_ipv4() && !owners.is_empty());
    assert_eq!(index.has_addresses_below(Prefix::of([10, 0, 0, 0].into(), 1)), v4_known);
    for namespace in ["n0", "n1", "n2"] {
        let known = model.objects.contains_key(&(Kind::Namespace, id("", namespace)));
        assert_eq!(index.has_namespace(namespace.as_bytes()), known);
    }
    let statistics = index.statistics();
    for kind in Kind::ALL {
        let count = model.objects.keys().filter(|key| key.0 == kind).count();
        assert_eq!(statistics.objects[kind as usize], count, "{kind:?}");
    }
    let endpoints: usize = model.slices().map(|slice| ready(slice).count()).sum();
    assert_eq!(statistics.endpoints, endpoints);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_events_leave_what_the_model_has(
        events in prop::collection::vec(event(), 0..60),
        known_namespaces in any::<bool>(),
        places in any::<bool>(),
    ) {
        let node = Some("here".into());
        let settings = Settings { endpoint_pods: true, known_namespaces, places, node };
        let index = Index::new(settings.clone());
        let mut model = Model { settings: settings.clone(), ..Model::default() };
        for event in events {
            index.apply(event.clone());
            model.apply(event);
        }
        compare(&index, &model);
        // What is read back makes the same index again.
        let again = Index::new(settings.clone());
        index.objects().for_each(|object| again.apply(Event::Apply(object)));
        compare(&again, &model);
    }
}

#[test]
fn a_relist_never_empties_the_index() {
    let index = Index::new(Settings::default());
    let service = |name: &str, last: u8| {
        let kind = ServiceKind::ClusterIp([IpAddr::from([10, 96, 0, last])].into_iter().collect());
        Event::Apply(Object::Service(Service {
            id: id("default", name),
            kind,
            ports: [].into_iter().collect(),
            publish_not_ready: false,
            distribution: Distribution::All,
            version: 0,
        }))
    };
    let known = |name: &str| index.group(&wire(name, "default"), false, |_| ()).is_some();
    index.apply(service("old", 1));
    index.apply(service("kept", 2));
    assert!(!index.synced(&[Kind::Service]));
    index.apply(Event::InitDone(Kind::Service));
    let changes = index.changes();
    index.apply(Event::Init(Kind::Service));
    index.apply(service("kept", 2));
    assert!(known("old") && known("kept") && index.synced(&[Kind::Service]));
    assert_eq!(index.changes(), changes, "the same again is no change");
    index.apply(Event::InitDone(Kind::Service));
    assert!(!known("old") && known("kept"));
    assert_eq!(index.changes(), changes + 1);
}

#[test]
fn the_serial_grows_with_changes_and_time_only() {
    let index = Index::new(Settings::default());
    let now = CoarseInstant::now();
    let serial = index.serial(now);
    assert_eq!(index.serial(now), serial);
    let later = now.plus_millis(5_000);
    assert_eq!(index.serial(later), index.serial(later.plus_millis(60_000)));
    assert!(index.serial(later) - serial <= 1);
}

#[test]
fn readers_see_whole_sets_while_a_writer_writes() {
    let index = Arc::new(Index::new(Settings::default()));
    index.apply(Event::Apply(Object::Service(Service {
        id: id("n", "s"),
        kind: ServiceKind::Headless,
        ports: [].into_iter().collect(),
        publish_not_ready: false,
        distribution: Distribution::All,
        version: 0,
    })));
    // Every state has all of 64 addresses below one of two networks.
    let state = |net: u8| {
        let endpoint = |last: u8| Endpoint {
            addresses: [IpAddr::from([10, net, 0, last])].into_iter().collect(),
            hostname: None,
            pod: None,
            ready: true,
            place: Place::default(),
        };
        Event::Apply(Object::EndpointSlice(EndpointSlice {
            id: id("n", "e"),
            service: "s".into(),
            imported: false,
            cluster: None,
            ports: [].into_iter().collect(),
            endpoints: (0..64).map(endpoint).collect(),
            triggered_at: None,
            version: 0,
        }))
    };
    index.apply(state(0));
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = {
        let (index, done) = (Arc::clone(&index), Arc::clone(&done));
        std::thread::spawn(move || {
            let key = wire("s", "n");
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) || reads == 0 {
                let nets = index.group(&key, false, |group| {
                    let nets: BTreeSet<u8> =
                        group.a.chunks(records::A_LEN).map(|record| record[13]).collect();
                    (group.a.len() / records::A_LEN, nets.len())
                });
                assert_eq!(nets, Some((64, 1)));
                reads += 1;
            }
        })
    };
    for n in 0..2_000u16 {
        index.apply(state((n % 2) as u8));
    }
    done.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}
