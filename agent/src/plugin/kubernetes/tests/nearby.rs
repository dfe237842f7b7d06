//! `zonal` and `topology` over an index of three zones.

use super::*;
use crate::plugin::kubernetes::Topology;

/// Headless `db`, with these endpoints: last octet, zone, node. This node is `here`, in zone `eu-1a`.
fn index(distribution: Distribution, endpoints: &[(u8, &str, &str)]) -> Arc<Index> {
    let node = Some("here".into());
    let index = Index::new(Settings { places: true, node, ..Settings::default() });
    let ports = [Port { name: "sql".into(), protocol: Protocol::Tcp, number: 5_432 }];
    index.apply(Event::Apply(Object::Namespace(Namespace { name: "prod".into() })));
    let zone = Some("eu-1a".into());
    index.apply(Event::Apply(Object::Node(object::Node { name: "here".into(), zone })));
    for (name, kind) in [
        ("db", ServiceKind::Headless),
        ("vip", ServiceKind::ClusterIp([IpAddr::from([10, 96, 0, 1])].into_iter().collect())),
    ] {
        index.apply(Event::Apply(Object::Service(Service {
            id: id("prod", name),
            kind,
            ports: ports.iter().cloned().collect(),
            publish_not_ready: false,
            distribution,
            version: 0,
        })));
    }
    let endpoint = |&(last, zone, node): &(u8, &str, &str)| Endpoint {
        addresses: [IpAddr::from([10, 0, 0, last])].into_iter().collect(),
        hostname: None,
        pod: None,
        ready: true,
        place: Place { zone: (!zone.is_empty()).then(|| zone.into()), node: Some(node.into()) },
    };
    index.apply(Event::Apply(Object::EndpointSlice(EndpointSlice {
        id: id("prod", "db-1"),
        service: "db".into(),
        imported: false,
        cluster: None,
        ports: ports.iter().cloned().collect(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        triggered_at: None,
        version: 0,
    })));
    synced(index)
}

const THREE: [(u8, &str, &str); 5] = [
    (1, "eu-1a", "far"),
    (2, "eu-1b", "far"),
    (3, "eu-1a", "here"),
    (4, "a.b", "far"),
    (5, "", "x"),
];

/// The addresses' last octets, in the order of the answer.
fn octets(server: &Server, name: &str) -> (Rcode, Vec<u8>) {
    let message = server.ask(name, RecordType::A);
    let layout = message.layout();
    let last = layout
        .section(Section::Answer)
        .filter_map(|record| record.rdata(message.as_bytes()).last().copied());
    (message.rcode(), last.collect())
}

fn sorted((rcode, mut octets): (Rcode, Vec<u8>)) -> (Rcode, Vec<u8>) {
    octets.sort_unstable();
    (rcode, octets)
}

#[test]
fn zonal_names_have_the_endpoints_of_the_zone() {
    let view = View { zonal: true, ..recorded_view(30) };
    let server = Server::new(view, index(Distribution::All, &THREE));
    let ask = |name: &str| sorted(octets(&server, &format!("{name}.prod.svc.cluster.local")));
    let found = |all: &[u8]| (Rcode::NOERROR, all.to_vec());
    assert_eq!(ask("db"), found(&[1, 2, 3, 4, 5]));
    assert_eq!(ask("eu-1a.pin._zone.db"), found(&[1, 3]));
    assert_eq!(ask("EU-1b.prefer._zone.db"), found(&[2]));
    assert_eq!(ask("a.b.pin._zone.db"), found(&[4]));
    // A zone that nobody carries: nothing, or all.
    assert_eq!(ask("eu-1c.pin._zone.db"), found(&[]));
    assert_eq!(ask("b.pin._zone.db"), found(&[]));
    assert_eq!(ask("one.two.three.four.five.six.pin._zone.db"), found(&[]));
    assert_eq!(ask("eu-1c.prefer._zone.db"), found(&[1, 2, 3, 4, 5]));
    // What lies between exists.
    assert_eq!(ask("_zone.db"), found(&[]));
    assert_eq!(ask("pin._zone.db"), found(&[]));
    for wrong in [
        "eu-1a.near._zone.db",
        "eu-1a.pin._zone.vip",
        "eu-1a.pin._zone.no-such",
        "eu-1a.pin.zone.db",
        "near._zone.db",
        "_zone.vip",
    ] {
        assert_eq!(ask(wrong), (Rcode::NXDOMAIN, Vec::new()), "{wrong}");
    }
    let name = "eu-1a.pin._zone.db.prod.svc.cluster.local";
    let message = server.ask(name, RecordType::SRV);
    let answers: Vec<String> = records(&message, Section::Answer).into_iter().collect();
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!(
        answers.iter().all(|record| record.contains(" SRV ")
            && record.contains("5432 10-0-0-")
            && record.ends_with(".db.prod.svc.cluster.local.")),
        "{answers:?}"
    );
    assert_eq!(records(&message, Section::Additional).len(), 2);
    let message = server.ask(name, RecordType::MX);
    assert_eq!((message.rcode(), records(&message, Section::Answer).len()), (Rcode::NOERROR, 0));
    // Without the option it is a name that is too long.
    let server = Server::new(recorded_view(30), index(Distribution::All, &THREE));
    for name in [name, "_zone.db.prod.svc.cluster.local"] {
        assert_eq!(octets(&server, name).0, Rcode::NXDOMAIN);
    }
}

#[test]
fn topology_leads_to_the_node_or_the_zone() {
    let name = "db.prod.svc.cluster.local";
    let ask = |of, (only, all), endpoints: &[(u8, &str, &str)], name: &str| {
        let view = View { topology: Some(Topology { only, all }), ..recorded_view(30) };
        octets(&Server::new(view, index(of, endpoints)), name).1
    };
    let (prefer, require) = ((false, false), (true, false));
    let sorted = |mut all: Vec<u8>| {
        all.sort_unstable();
        all
    };
    // Not asked for.
    assert_eq!(ask(Distribution::All, require, &THREE, name).len(), 5);
    assert_eq!(sorted(ask(Distribution::All, (true, true), &THREE, name)), [1, 3]);
    for port in ["", "_sql._tcp."] {
        let name = &format!("{port}{name}");
        assert_eq!(sorted(ask(Distribution::SameZone, require, &THREE, name)), [1, 3]);
        assert_eq!(ask(Distribution::SameNode, require, &THREE, name), [3]);
        let found = ask(Distribution::SameZone, prefer, &THREE, name);
        assert_eq!(sorted(found[..2].to_vec()), [1, 3]);
        assert_eq!(sorted(found[2..].to_vec()), [2, 4, 5]);
        let found = ask(Distribution::SameNode, prefer, &THREE, name);
        assert_eq!((found[0], sorted(found)), (3, vec![1, 2, 3, 4, 5]));
        // No endpoint on the node, then none in the zone.
        assert_eq!(ask(Distribution::SameNode, require, &THREE[..2], name), [1]);
        assert_eq!(sorted(ask(Distribution::SameNode, require, &THREE[3..], name)), [4, 5]);
    }
    // The name of one endpoint is that endpoint's, wherever it is.
    assert_eq!(ask(Distribution::SameZone, require, &THREE, &format!("10-0-0-2.{name}")), [2]);
}

#[test]
fn srv_records_of_near_endpoints_come_first_and_none_twice() {
    for only in [false, true] {
        let view = View { topology: Some(Topology { only, all: false }), ..recorded_view(30) };
        let server = Server::new(view, index(Distribution::SameZone, &THREE));
        let message = server.ask("_sql._tcp.db.prod.svc.cluster.local", RecordType::SRV);
        let layout = message.layout();
        let targets: Vec<u8> = layout
            .section(Section::Answer)
            .filter_map(|record| record.rdata(message.as_bytes()).get(14).map(|digit| digit - b'0'))
            .collect();
        let mut near = targets[..2].to_vec();
        near.sort_unstable();
        assert_eq!(near, [1, 3], "{targets:?}");
        let mut all = targets;
        all.sort_unstable();
        assert_eq!(all, if only { vec![1, 3] } else { vec![1, 2, 3, 4, 5] });
    }
}
