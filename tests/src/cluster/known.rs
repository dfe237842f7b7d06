//! What a server's objects say in DNS, object by object: worked out from their JSON, without any of the agent's code.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::rr::RecordType;
use serde_json::Value;

use crate::api::{ApiServer, Resource};
use crate::client::Client;
use crate::normal;

const ZONE: &str = "cluster.local.";

/// A question, and what the server's objects say to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// With the final dot.
    pub name: String,
    /// The type.
    pub kind: RecordType,
    /// The code.
    pub rcode: &'static str,
    /// The data of all records of the type, sorted; of SRV records port and target only.
    pub data: Vec<String>,
}

/// A slice, as far as names depend on it.
struct Slice {
    ports: Vec<Port>,
    /// Label and address of each ready endpoint.
    rows: Vec<(String, IpAddr)>,
}

struct Port {
    name: String,
    protocol: String,
    number: u64,
}

type Owner = (String, String);

impl Known {
    fn new(name: String, kind: RecordType, data: impl IntoIterator<Item = String>) -> Self {
        let data: BTreeSet<String> = data.into_iter().collect();
        Self { name, kind, rcode: "NOERROR", data: data.into_iter().collect() }
    }

    fn absent(name: String, kind: RecordType) -> Self {
        Self { name, kind, rcode: "NXDOMAIN", data: Vec::new() }
    }

    /// A difference between this and what is answered, in words.
    #[must_use]
    pub fn check(&self, client: &Client) -> Option<String> {
        match client.ask(&self.name, self.kind) {
            Err(error) => Some(format!("{} {}: {error}", self.name, self.kind)),
            Ok(answer) => self.differs(&answer.normal.rcode, answer.data(self.kind)),
        }
    }

    pub(super) fn differs(&self, rcode: &str, mut data: Vec<String>) -> Option<String> {
        if self.kind == RecordType::SRV {
            for record in &mut data {
                *record = record.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
            }
        }
        data.sort_unstable();
        let same = rcode == self.rcode && data == self.data;
        (!same).then(|| {
            let Self { name, kind, rcode: wanted, data: records } = self;
            format!("{name} {kind}: {rcode} {data:?}, wanted {wanted} {records:?}")
        })
    }
}

/// What a server's objects say: Services, their ports and their endpoints by name and by address, Namespaces, Pods, and
/// what has no name.
#[must_use]
pub fn known(server: &ApiServer) -> Vec<Known> {
    let values = |resource| server.store().values(Resource::named(resource));
    let mut slices: BTreeMap<Owner, Vec<Slice>> = BTreeMap::new();
    for slice in values("endpointslices") {
        let owner = text(&slice["metadata"]["labels"]["kubernetes.io/service-name"]);
        if slice["addressType"] != "FQDN" && !owner.is_empty() {
            let key = (text(&slice["metadata"]["namespace"]), owner);
            slices.entry(key).or_default().push(Slice::read(&slice));
        }
    }
    let mut out = Vec::new();
    let mut owners: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    for service in values("services") {
        let key = (text(&service["metadata"]["namespace"]), text(&service["metadata"]["name"]));
        let name = service_name(&key);
        let of = slices.get(&key).map_or(&[][..], Vec::as_slice);
        let spec = &service["spec"];
        let own = cluster_ips(spec);
        if spec["type"] == "ExternalName" {
            let target = text(&spec["externalName"]);
            if target.parse::<IpAddr>().is_err() {
                let target = format!("{}.", target.trim_end_matches('.').to_lowercase());
                out.push(Known::new(name, RecordType::CNAME, [target]));
            }
        } else if own.is_empty() {
            headless(&name, of, &mut out);
        } else {
            for &ip in &own {
                owners.entry(ip).or_default().insert(name.clone());
            }
            cluster_ip(&name, &own, &ports(&spec["ports"]), &mut out);
            endpoints(&name, of, &mut out);
        }
    }
    let mut rows: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    for (key, slices) in &slices {
        for (label, ip) in slices.iter().flat_map(|slice| &slice.rows) {
            rows.entry(*ip).or_default().insert(format!("{label}.{}", service_name(key)));
        }
    }
    rows.retain(|ip, _| !owners.contains_key(ip));
    for (ip, names) in owners.into_iter().chain(rows) {
        out.push(Known::new(normal::text(&ip.into()), RecordType::PTR, names));
    }
    let namespaces: BTreeSet<String> =
        values("namespaces").iter().map(|namespace| text(&namespace["metadata"]["name"])).collect();
    for namespace in &namespaces {
        out.push(Known::new(format!("{namespace}.svc.{ZONE}"), RecordType::A, []));
    }
    for pod in values("pods") {
        out.extend(self::pod(&pod).filter(|(namespace, _)| namespaces.contains(namespace)).map(
            |(namespace, ip)| {
                let kind = if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA };
                Known::new(format!("{}.{namespace}.pod.{ZONE}", dashed(ip)), kind, [ip.to_string()])
            },
        ));
    }
    out
}

/// A Service with addresses of its own.
fn cluster_ip(name: &str, own: &BTreeSet<IpAddr>, ports: &[Port], out: &mut Vec<Known>) {
    addresses(name, own, out);
    let srv = |number: u64| format!("{number} {name}");
    let all = ports.iter().map(|port| srv(port.number));
    out.push(Known::new(name.to_owned(), RecordType::SRV, all));
    for port in ports.iter().filter(|port| !port.name.is_empty()) {
        let same = ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        let data = same.map(|port| srv(port.number));
        out.push(Known::new(port.below(name), RecordType::SRV, data));
        addresses(&port.below(name), own, out);
    }
}

fn headless(name: &str, slices: &[Slice], out: &mut Vec<Known>) {
    let found: BTreeSet<IpAddr> =
        slices.iter().flat_map(|slice| &slice.rows).map(|(_, ip)| *ip).collect();
    if found.is_empty() {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
            out.push(Known::absent(name.to_owned(), kind));
        }
        return;
    }
    addresses(name, &found, out);
    let srv = |chosen: &dyn Fn(&Port) -> bool| {
        let of = |slice: &Slice| {
            let ports: Vec<u64> =
                slice.ports.iter().filter(|port| chosen(port)).map(|port| port.number).collect();
            let records = slice.rows.iter().flat_map(move |(label, _)| {
                let target = format!("{label}.{name}");
                ports.clone().into_iter().map(move |number| format!("{number} {target}"))
            });
            records.collect::<Vec<_>>()
        };
        slices.iter().flat_map(of).collect::<BTreeSet<_>>()
    };
    out.push(Known::new(name.to_owned(), RecordType::SRV, srv(&|_| true)));
    let with_rows = slices.iter().filter(|slice| !slice.rows.is_empty());
    for port in with_rows.flat_map(|slice| &slice.ports).filter(|port| !port.name.is_empty()) {
        let same = |p: &Port| p.name == port.name && p.protocol == port.protocol;
        out.push(Known::new(port.below(name), RecordType::SRV, srv(&same)));
        let of = slices.iter().filter(|slice| slice.ports.iter().any(same));
        let found = of.flat_map(|slice| &slice.rows).map(|(_, ip)| *ip).collect();
        addresses(&port.below(name), &found, out);
    }
    endpoints(name, slices, out);
}

/// Each endpoint by its own name.
fn endpoints(name: &str, slices: &[Slice], out: &mut Vec<Known>) {
    let mut labels: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
    for (label, ip) in slices.iter().flat_map(|slice| &slice.rows) {
        labels.entry(label).or_default().insert(*ip);
    }
    for (label, found) in labels {
        addresses(&format!("{label}.{name}"), &found, out);
    }
}

fn addresses(name: &str, found: &BTreeSet<IpAddr>, out: &mut Vec<Known>) {
    for (kind, v4) in [(RecordType::A, true), (RecordType::AAAA, false)] {
        let data = found.iter().filter(|ip| ip.is_ipv4() == v4).map(ToString::to_string);
        out.push(Known::new(name.to_owned(), kind, data));
    }
}

impl Slice {
    fn read(slice: &Value) -> Self {
        let mut rows = Vec::new();
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] == false {
                continue;
            }
            let hostname = text(&endpoint["hostname"]).to_lowercase();
            for address in endpoint["addresses"].as_array().into_iter().flatten() {
                let Ok(ip) = text(address).parse() else { continue };
                let label = if hostname.is_empty() { dashed(ip) } else { hostname.clone() };
                rows.push((label, ip));
            }
        }
        Self { ports: ports(&slice["ports"]), rows }
    }
}

impl Port {
    fn below(&self, name: &str) -> String {
        format!("_{}._{}.{name}", self.name, self.protocol)
    }
}

fn ports(value: &Value) -> Vec<Port> {
    let ports = value.as_array().into_iter().flatten();
    let read = |port: &Value| {
        Some(Port {
            name: text(&port["name"]).to_lowercase(),
            protocol: port["protocol"].as_str().unwrap_or("TCP").to_lowercase(),
            number: port["port"].as_u64()?,
        })
    };
    ports.filter_map(read).collect()
}

/// Namespace and first address of a Pod that has one of its own.
fn pod(pod: &Value) -> Option<(String, IpAddr)> {
    let status = &pod["status"];
    let done = matches!(status["phase"].as_str(), Some("Succeeded" | "Failed" | "Unknown"));
    if done || !pod["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let first = &status["podIPs"][0]["ip"];
    let ip = first.as_str().or(status["podIP"].as_str())?.parse().ok()?;
    Some((text(&pod["metadata"]["namespace"]), ip))
}

fn cluster_ips(spec: &Value) -> BTreeSet<IpAddr> {
    let several = spec["clusterIPs"].as_array().into_iter().flatten();
    several.chain([&spec["clusterIP"]]).filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

fn service_name((namespace, service): &Owner) -> String {
    format!("{service}.{namespace}.svc.{ZONE}")
}

/// An address as a label; one that would end in a dash gets a zero.
fn dashed(ip: IpAddr) -> String {
    let text = ip.to_string().replace(['.', ':'], "-");
    if text.ends_with('-') { text + "0" } else { text }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
