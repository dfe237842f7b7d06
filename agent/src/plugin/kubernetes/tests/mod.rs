//! The handler without an API server: objects are made, or read from the recorded cluster, and the upstream is a handler with
//! the recorded zone.

mod costs;
mod nearby;
mod recorded;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::chain::Chain;
use crate::clock::CoarseInstant;
use crate::cluster::index::Settings;
use crate::cluster::object::{
    self, Distribution, Endpoint, EndpointSlice, Event, Namespace, Object, ObjectId, Place, Pod,
    Port, Protocol, Service, ServiceKind,
};
use crate::plugin::scope::Zones;
use crate::request::{Origin, Transport};
use crate::server::Dispatch;
use crate::wire::query::write_query;
use crate::wire::{Message, NameBuf, Owner, RecordType, Section};

/// A name as the tests write it.
fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn id(namespace: &str, name: &str) -> ObjectId {
    ObjectId { namespace: namespace.into(), name: name.into() }
}

fn data(file: &str) -> String {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/conformance/");
    std::fs::read_to_string(format!("{dir}{file}")).unwrap()
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn ports(value: &Value) -> Vec<Port> {
    let port = |port: &Value| Port {
        name: port["name"].as_str().unwrap_or("").into(),
        protocol: match port["protocol"].as_str() {
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
        number: port["port"].as_u64().unwrap() as u16,
    };
    value.as_array().into_iter().flatten().map(port).collect()
}

/// A lean object of a recorded one; `None` for what has no names.
fn lean(item: &Value) -> Option<Object> {
    let meta = &item["metadata"];
    let of = |field: &str| object::Text::from(meta[field].as_str().unwrap_or(""));
    let id = ObjectId { namespace: of("namespace"), name: of("name") };
    let spec = &item["spec"];
    Some(match item["kind"].as_str()? {
        "Namespace" => Object::Namespace(Namespace { name: id.name }),
        "Service" => {
            let addresses: Vec<IpAddr> =
                strings(&spec["clusterIPs"]).filter_map(|ip| ip.parse().ok()).collect();
            let kind = match spec["externalName"].as_str() {
                Some(target) => ServiceKind::ExternalName(name(target)),
                None if addresses.is_empty() => ServiceKind::Headless,
                None => ServiceKind::ClusterIp(addresses.into()),
            };
            Object::Service(Service {
                id,
                kind,
                ports: ports(&spec["ports"]).into(),
                publish_not_ready: false,
                distribution: Distribution::All,
                version: 0,
            })
        }
        "EndpointSlice" if item["addressType"] == "FQDN" => return None,
        "EndpointSlice" => {
            let endpoint = |endpoint: &Value| Endpoint {
                addresses: strings(&endpoint["addresses"]).map(|ip| ip.parse().unwrap()).collect(),
                hostname: endpoint["hostname"].as_str().map(Into::into),
                pod: endpoint["targetRef"]["name"].as_str().map(Into::into),
                ready: endpoint["conditions"]["ready"].as_bool().unwrap_or(true),
                place: Place::default(),
            };
            Object::EndpointSlice(EndpointSlice {
                id,
                service: meta["labels"]["kubernetes.io/service-name"].as_str()?.into(),
                imported: false,
                cluster: None,
                ports: ports(&item["ports"]).into(),
                endpoints: item["endpoints"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(endpoint)
                    .collect(),
                triggered_at: None,
                version: 0,
            })
        }
        "Pod" => {
            let status = &item["status"];
            if matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")) {
                return None;
            }
            let address = status["podIP"].as_str()?.parse().unwrap();
            Object::Pod(Pod { id, addresses: [address].into_iter().collect() })
        }
        kind => panic!("{kind}"),
    })
}

fn recorded_index(exposed: &Exposed, endpoint_pods: bool) -> Arc<Index> {
    let index = Index::new(Settings { endpoint_pods, ..Settings::default() });
    let cluster: Value = serde_json::from_str(&data("cluster.json")).unwrap();
    for object in cluster["items"].as_array().unwrap().iter().filter_map(lean) {
        let namespace = match &object {
            Object::Namespace(namespace) => namespace.name.clone(),
            object => object.id().namespace,
        };
        // As the source does with `namespaces`.
        if !matches!(exposed, Exposed::Listed(names) if !names.contains(&namespace)) {
            index.apply(Event::Apply(object));
        }
    }
    for kind in Kind::ALL {
        // Everything stays: no list began.
        index.apply(Event::InitDone(kind));
    }
    Arc::new(index)
}

/// The recording's upstream: authoritative for everything.
struct Upstream;

impl Handler for Upstream {
    fn plugin(&self) -> Plugin {
        Plugin::Forward
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, _: &mut Local) -> Step {
        let qtype = request.query.qtype();
        reply.set_flags(flags::AA, true);
        let known: &[(RecordType, &[u8])] = match request.query.name().to_string().as_str() {
            "www.example.com." => &[
                (RecordType::A, &[192, 0, 2, 53]),
                (RecordType::A, &[192, 0, 2, 153]),
                (RecordType::AAAA, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53]),
            ],
            "ext.example.net." => &[(RecordType::A, &[192, 0, 2, 54])],
            "99.99.99.10.in-addr.arpa." => {
                &[(RecordType::PTR, b"\x0cupstream-ptr\x07example\x03com\0")]
            }
            _ => &[],
        };
        for (_, rdata) in known.iter().filter(|(rtype, _)| *rtype == qtype) {
            reply.record(Section::Answer, Owner::Question, qtype, 3600, rdata);
        }
        let ns = b"\x02ns\x07example\x03com\0";
        if known.iter().any(|(rtype, _)| *rtype == qtype) {
            reply.record(Section::Authority, Owner::Name(NameRef::ROOT), RecordType::NS, 3600, ns);
            return Step::Done(Outcome::new(Plugin::Forward, Rcode::NOERROR));
        }
        let mut soa = ns.to_vec();
        soa.extend_from_slice(b"\x05admin\x07example\x03com\0");
        for number in [1u32, 3600, 600, 86400, 60] {
            soa.extend_from_slice(&number.to_be_bytes());
        }
        reply.record(Section::Authority, Owner::Name(NameRef::ROOT), RecordType::SOA, 60, &soa);
        reply.set_rcode(if known.is_empty() { Rcode::NXDOMAIN } else { Rcode::NOERROR });
        Step::Done(Outcome::new(Plugin::Forward, reply.rcode()))
    }

    fn resolve<'a>(&'a self, request: &'a OwnedRequest, _: Next<'a>) -> Resolving<'a> {
        Box::pin(async move {
            let view = request.view().unwrap();
            Answer::written(&view, |reply| match self.serve(&view, reply, &mut Local::new(0)) {
                Step::Done(outcome) => outcome,
                step => panic!("{step:?}"),
            })
        })
    }
}

/// What answers in a test.
struct Server {
    chain: Arc<Chain>,
    dispatch: Arc<Dispatch>,
}

impl Server {
    fn new(view: View, index: Arc<Index>) -> Self {
        let handlers: Vec<Arc<dyn Handler>> =
            vec![Arc::new(Kubernetes::new(view, index)), Arc::new(Upstream)];
        let chain = Arc::new(Chain::new(Name::root(), "dns://:53".into(), handlers, 1));
        Self { dispatch: Arc::new(Dispatch::new(vec![Arc::clone(&chain)])), chain }
    }

    /// Asks by TCP, so that nothing is cut off.
    fn ask(&self, text: &str, qtype: RecordType) -> Arc<Message> {
        let mut packet = Vec::new();
        let mut asked = NameBuf::new();
        asked.push_text(text).unwrap();
        write_query(
            &mut packet,
            1,
            flags::RD,
            asked.as_name(),
            qtype,
            Class::IN,
            Some((4096, false)),
        );
        let query = crate::wire::Query::parse(&packet).unwrap();
        let local = "127.0.0.1:53".parse().unwrap();
        let origin = Origin {
            client: local,
            local,
            transport: Transport::Tcp,
            worker: 0,
            received: CoarseInstant::now(),
        };
        let request = OwnedRequest::new(&Request { query, origin }, Arc::clone(&self.dispatch));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.chain.resolve(&request)).message
    }
}

/// The name at `at` in the case in which it stands there, and where it ends.
fn expand(bytes: &[u8], at: usize) -> (String, usize) {
    let (_, end) = NameBuf::expand(bytes, at).unwrap();
    let (mut text, mut at) = (String::new(), at);
    loop {
        let len = usize::from(bytes[at]);
        match len {
            0 if text.is_empty() => return (".".to_owned(), end),
            0 => return (text, end),
            0xc0.. => at = (len & 0x3f) << 8 | usize::from(bytes[at + 1]),
            _ => {
                text.push_str(std::str::from_utf8(&bytes[at + 1..at + 1 + len]).unwrap());
                text.push('.');
                at += len + 1;
            }
        }
    }
}

/// The records of a section as the record writes them.
fn records(message: &Message, section: Section) -> BTreeSet<String> {
    let bytes = message.as_bytes();
    let text = |record: &crate::wire::RecordAt| {
        let rdata = record.rdata(bytes);
        let at = usize::from(record.ttl_at) + 6;
        let word = |at: usize| u16::from_be_bytes(rdata[at..at + 2].try_into().unwrap());
        let data = match record.rtype {
            RecordType::A => Ipv4Addr::from(<[u8; 4]>::try_from(rdata).unwrap()).to_string(),
            RecordType::AAAA => Ipv6Addr::from(<[u8; 16]>::try_from(rdata).unwrap()).to_string(),
            RecordType::SRV => {
                format!("{} {} {} {}", word(0), word(2), word(4), expand(bytes, at + 6).0)
            }
            RecordType::TXT => format!("\"{}\"", String::from_utf8_lossy(&rdata[1..])),
            RecordType::SOA => {
                let (mname, next) = expand(bytes, at);
                let (rname, next) = expand(bytes, next);
                let times: Vec<String> = bytes[next + 4..next + 20]
                    .chunks(4)
                    .map(|n| u32::from_be_bytes(n.try_into().unwrap()).to_string())
                    .collect();
                format!("{} {} SERIAL {}", mname, rname, times.join(" "))
            }
            _ => expand(bytes, at).0,
        };
        format!("{} {} {} {data}", expand(bytes, record.start.into()).0, record.ttl, record.rtype)
    };
    message.layout().section(section).map(text).collect()
}

fn recorded_view(ttl: u32) -> View {
    View {
        zones: vec![name("cluster.local")],
        reverse_zones: vec![name("in-addr.arpa"), name("ip6.arpa")],
        ttl,
        pods: Pods::Insecure,
        endpoints: true,
        rotate: true,
        ..View::default()
    }
}

fn variant(variant: &str) -> View {
    let reverse = Fallthrough::Within(Zones::new(vec![name("in-addr.arpa"), name("ip6.arpa")]));
    match variant {
        "insecure" => View { fallthrough: reverse, ..recorded_view(30) },
        "verified" => View { pods: Pods::Verified, ..recorded_view(5) },
        "namespaces" => View {
            pods: Pods::Disabled,
            exposed: Exposed::Listed(vec!["default".into(), "team-a".into(), "kube-system".into()]),
            fallthrough: reverse,
            ..recorded_view(60)
        },
        "ignore_empty" => {
            View { ignore_empty: true, fallthrough: Fallthrough::All, ..recorded_view(0) }
        }
        _ => View { endpoints: false, ..recorded_view(30) },
    }
}

/// Headless, with `count` endpoints in slices of a hundred; nothing is synced.
fn large(count: usize) -> Index {
    let index = Index::new(Settings::default());
    let ports = [Port { name: "http".into(), protocol: Protocol::Tcp, number: 80 }];
    index.apply(Event::Apply(Object::Service(Service {
        id: id("default", "large"),
        kind: ServiceKind::Headless,
        ports: ports.iter().cloned().collect(),
        publish_not_ready: false,
        distribution: Distribution::All,
        version: 0,
    })));
    for number in 0..count.div_ceil(100) {
        let endpoint = |n: usize| Endpoint {
            addresses: [IpAddr::from((0x0a00_0000 + n as u32).to_be_bytes())].into_iter().collect(),
            hostname: None,
            pod: None,
            ready: true,
            place: Place::default(),
        };
        index.apply(Event::Apply(Object::EndpointSlice(EndpointSlice {
            id: id("default", &format!("large-{number}")),
            service: "large".into(),
            imported: false,
            cluster: None,
            ports: ports.iter().cloned().collect(),
            endpoints: (number * 100..count.min(number * 100 + 100)).map(endpoint).collect(),
            triggered_at: None,
            version: 0,
        })));
    }
    index
}

fn synced(index: Index) -> Arc<Index> {
    Kind::ALL.into_iter().for_each(|kind| index.apply(Event::InitDone(kind)));
    Arc::new(index)
}

#[test]
fn large_services_go_round_as_far_as_the_message_holds_them() {
    let kubernetes = Kubernetes::new(recorded_view(30), synced(large(5_000)));
    let mut local = Local::new(0);
    let address = "127.0.0.1:53".parse().unwrap();
    for (qtype, transport) in [
        (RecordType::A, Transport::Tcp),
        (RecordType::SRV, Transport::Tcp),
        (RecordType::A, Transport::Udp),
        (RecordType::SRV, Transport::Udp),
    ] {
        let mut packet = Vec::new();
        let asked = name("large.default.svc.cluster.local");
        write_query(
            &mut packet,
            1,
            flags::RD,
            asked.as_ref(),
            qtype,
            Class::IN,
            Some((1232, false)),
        );
        let query = crate::wire::Query::parse(&packet).unwrap();
        let origin = Origin {
            client: address,
            local: address,
            transport,
            worker: 0,
            received: CoarseInstant::now(),
        };
        let limit = if transport == Transport::Tcp { 65_535 } else { 1_232 };
        let mut seen = BTreeSet::new();
        for _ in 0..2_000 {
            let mut buf = Vec::new();
            let mut reply = Reply::begin(&mut buf, &query, transport == Transport::Tcp);
            kubernetes.serve(&Request { query, origin }, &mut reply, &mut local);
            assert_eq!(reply.truncated(), transport == Transport::Udp);
            reply.finish(None);
            assert!((limit - 100..=limit).contains(&buf.len()), "{} octets", buf.len());
            seen.extend(records(&Message::from_written(buf), Section::Answer));
            if seen.len() == 5_000 {
                break;
            }
        }
        assert_eq!(seen.len(), 5_000, "{qtype} by {transport:?}");
    }
}

#[test]
fn nothing_is_denied_before_the_lists_are_complete() {
    let view = View { fallthrough: Fallthrough::All, ..recorded_view(30) };
    let index = Arc::new(large(3));
    let server = Server::new(view.clone(), Arc::clone(&index));
    let names = [
        "nope.default.svc.cluster.local",
        "large.default.svc.cluster.local",
        "9.9.9.9.in-addr.arpa",
    ];
    for name in names {
        assert_eq!(server.ask(name, RecordType::A).rcode(), Rcode::SERVFAIL, "{name}");
    }
    assert_eq!(server.ask("cluster.local", RecordType::SOA).rcode(), Rcode::NOERROR);
    let waits = Kubernetes::new(view.clone(), Arc::clone(&index)).not_ready();
    assert_eq!(
        waits.unwrap(),
        "waiting for the first list of Services, Namespaces, EndpointSlices"
    );
    // Whoever answers until then answers everything that is not known.
    let fallback =
        Kubernetes::new(view.clone(), Arc::clone(&index)).with_fallback(Arc::new(Upstream));
    let chain = Chain::new(Name::root(), "dns://:53".into(), vec![Arc::new(fallback)], 1);
    let chain = Arc::new(chain);
    let forwarding = Server { dispatch: Arc::new(Dispatch::new(vec![Arc::clone(&chain)])), chain };
    assert_eq!(forwarding.ask(names[0], RecordType::A).rcode(), Rcode::NXDOMAIN);
    for kind in Kind::ALL {
        index.apply(Event::InitDone(kind));
    }
    assert_eq!(server.ask(names[0], RecordType::A).rcode(), Rcode::NXDOMAIN);
    assert_eq!(records(&server.ask(names[1], RecordType::A), Section::Answer).len(), 3);
    assert_eq!(Kubernetes::new(view, index).not_ready(), None);
}

#[test]
fn external_names_in_a_circle_end() {
    let index = Index::new(Settings::default());
    for (from, to) in [("a", "b"), ("b", "a")] {
        let target = name(&format!("{to}.default.svc.cluster.local"));
        index.apply(Event::Apply(Object::Service(Service {
            id: id("default", from),
            kind: ServiceKind::ExternalName(target),
            ports: [].into_iter().collect(),
            publish_not_ready: false,
            distribution: Distribution::All,
            version: 0,
        })));
    }
    let server = Server::new(recorded_view(30), synced(index));
    assert_eq!(server.ask("a.default.svc.cluster.local", RecordType::A).rcode(), Rcode::SERVFAIL);
}

#[test]
fn our_own_addresses_are_the_name_server() {
    let own = vec!["169.254.20.10".parse().unwrap(), "127.0.0.1".parse().unwrap()];
    let server = Server::new(View { own, ..recorded_view(30) }, synced(large(1)));
    let message = server.ask("cluster.local", RecordType::NS);
    assert_eq!(
        records(&message, Section::Answer).first().unwrap(),
        "cluster.local. 30 NS ns.dns.cluster.local."
    );
    let glue = records(&message, Section::Additional);
    assert_eq!(glue.into_iter().collect::<Vec<_>>(), ["ns.dns.cluster.local. 30 A 169.254.20.10"]);
    let message = server.ask("ns.dns.cluster.local", RecordType::A);
    assert_eq!(records(&message, Section::Answer).len(), 1);
}

proptest::proptest! {
    #[test]
    fn any_name_of_any_type_is_answered(
        labels in proptest::collection::vec("[a-z_0-9-]{1,12}|svc|pod|default|large|_tcp|_http|10-0-0-1|kubernetes|web|dns", 0..7),
        octets in proptest::collection::vec(0u8.., 0..4),
        qtype in proptest::sample::select(vec![1u16, 2, 5, 6, 12, 16, 28, 33, 255]),
        zone in proptest::sample::select(vec!["cluster.local", "in-addr.arpa", "ip6.arpa"]),
    ) {
        let index = INDEX.get_or_init(|| recorded_index(&Exposed::All, false));
        let server = Server::new(recorded_view(30), Arc::clone(index));
        let mut text: String = labels.iter().map(|label| format!("{label}.")).collect();
        octets.iter().for_each(|octet| text.push_str(&format!("\\{octet:03}.")));
        let message = server.ask(&format!("{text}{zone}"), RecordType(qtype));
        proptest::prop_assert!(matches!(message.rcode(), Rcode::NOERROR | Rcode::NXDOMAIN));
    }
}

static INDEX: std::sync::OnceLock<Arc<Index>> = std::sync::OnceLock::new();
