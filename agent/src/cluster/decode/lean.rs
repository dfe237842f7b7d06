//! From the fields of an object, in whichever encoding they came, to the lean object or the reason why there is none.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::check::{address, excerpt, label, millis, object_name};
use super::{
    InvalidObject, MAX_ADDRESSES, MAX_ENDPOINTS, MAX_LABEL_KEY, MAX_LABEL_PART, MAX_PLACE,
    MAX_POD_LABELS, MAX_PORTS, MAX_SEARCHES, is_object_name, raw,
};
use crate::cluster::interner::Interner;
use crate::cluster::object::{
    Distribution, DnsPolicy, Endpoint, EndpointSlice, Namespace, Node, NodePod, Object, ObjectId,
    Place, Pod, PodDns, PodOwner, Port, Protocol, Service, ServiceKind, Text,
};
use crate::wire::Name;

/// An object as it was read. The encodings differ in how they fill it, and in nothing else.
pub(super) trait Raw<'a> {
    /// Who it is.
    fn head(&self) -> raw::Head<'_>;

    /// The lean object, or `None` for one without a name in DNS.
    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, InvalidObject>;
}

pub(super) fn identity(
    head: &raw::Head<'_>,
    interner: &Interner,
) -> Result<ObjectId, InvalidObject> {
    let mut lower = String::new();
    let namespace = match head.namespace {
        None | Some("") => interner.intern(""),
        Some(text) => interner.intern(label("metadata.namespace", text, &mut lower)?),
    };
    let name = head.name.unwrap_or_default();
    Ok(ObjectId {
        namespace,
        // Many objects share a namespace, none a name.
        name: object_name("metadata.name", name, &mut lower)?.into(),
    })
}

impl<'a> Raw<'a> for raw::Bare<'a> {
    fn head(&self) -> raw::Head<'_> {
        self.metadata.as_ref().map(raw::Meta::head).unwrap_or_default()
    }

    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, InvalidObject> {
        let mut lower = String::new();
        let name = interner.intern(label("metadata.name", &id.name, &mut lower)?);
        Ok(Some(Object::Namespace(Namespace { name })))
    }
}

impl<'a> Raw<'a> for raw::Service<'a> {
    fn head(&self) -> raw::Head<'_> {
        self.metadata.as_ref().map(raw::Meta::head).unwrap_or_default()
    }

    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, InvalidObject> {
        named_service(&id)?;
        let Some(spec) = &self.spec else { return Err(InvalidObject::Missing("spec")) };
        let kind = match spec.kind.as_deref().unwrap_or("ClusterIP") {
            "ExternalName" => {
                let name = spec.external_name.as_deref().unwrap_or_default();
                if name.parse::<IpAddr>().is_ok() {
                    // Kubernetes lets it pass, but a CNAME cannot point at it; CoreDNS has no such name either.
                    return Ok(None);
                }
                ServiceKind::ExternalName(target(name)?)
            }
            "ClusterIP" | "NodePort" | "LoadBalancer" => {
                let one = spec.cluster_ip.as_deref().unwrap_or_default();
                let all = spec.cluster_ips.as_deref().unwrap_or_default();
                if one == "None" || all.first().is_some_and(|ip| &**ip == "None") {
                    ServiceKind::Headless
                } else if all.is_empty() && one.is_empty() {
                    // Between being created and being given an address.
                    return Ok(None);
                } else if all.is_empty() {
                    ServiceKind::ClusterIp(SmallVec::from_iter([address("spec.clusterIP", one)?]))
                } else {
                    ServiceKind::ClusterIp(addresses(
                        "spec.clusterIPs",
                        all.iter().map(|ip| &**ip),
                    )?)
                }
            }
            other => return Err(InvalidObject::Type(excerpt(other))),
        };
        let ports = ports(self.spec.as_ref().and_then(|spec| spec.ports.as_deref()), interner)?;
        let publish_not_ready = spec.publish_not_ready_addresses.unwrap_or(false);
        let distribution = match spec.traffic_distribution.as_deref() {
            Some("PreferSameZone" | "PreferClose") if interner.keeps_places() => {
                Distribution::SameZone
            }
            Some("PreferSameNode") if interner.keeps_places() => Distribution::SameNode,
            _ => Distribution::All,
        };
        Ok(Some(Object::Service(Service {
            id,
            kind,
            ports,
            publish_not_ready,
            distribution,
            version: 0,
        })))
    }
}

impl<'a> Raw<'a> for raw::ServiceImport<'a> {
    fn head(&self) -> raw::Head<'_> {
        self.metadata.as_ref().map(raw::Meta::head).unwrap_or_default()
    }

    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, InvalidObject> {
        named_service(&id)?;
        let Some(spec) = &self.spec else { return Err(InvalidObject::Missing("spec")) };
        let ips = spec.ips.as_deref().unwrap_or_default();
        let kind = match spec.kind.as_deref().unwrap_or("ClusterSetIP") {
            "Headless" => ServiceKind::Headless,
            "ClusterSetIP" if ips.is_empty() => return Ok(None),
            "ClusterSetIP" => {
                ServiceKind::ClusterIp(addresses("spec.ips", ips.iter().map(|ip| &**ip))?)
            }
            other => return Err(InvalidObject::Type(excerpt(other))),
        };
        let ports = ports(spec.ports.as_deref(), interner)?;
        Ok(Some(Object::ServiceImport(Service {
            id,
            kind,
            ports,
            publish_not_ready: false,
            distribution: Distribution::All,
            version: 0,
        })))
    }
}

impl<'a> Raw<'a> for raw::EndpointSlice<'a> {
    fn head(&self) -> raw::Head<'_> {
        self.metadata.as_ref().map(raw::Meta::head).unwrap_or_default()
    }

    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, InvalidObject> {
        let labels = self.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        // A slice of no Service has no name.
        let Some(service) = labels.and_then(|labels| labels.service.as_deref()) else {
            return Ok(None);
        };
        let mut lower = String::new();
        let service = label("label kubernetes.io/service-name", service, &mut lower)?.into();
        slice(self, SliceOf { id, service, imported: false, cluster: None }, interner)
    }
}

impl<'a> Raw<'a> for raw::ImportedSlice<'a> {
    fn head(&self) -> raw::Head<'_> {
        self.0.metadata.as_ref().map(raw::Meta::head).unwrap_or_default()
    }

    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, InvalidObject> {
        const SERVICE: &str = "label multicluster.kubernetes.io/service-name";
        const CLUSTER: &str = "label multicluster.kubernetes.io/source-cluster";
        let labels = self.0.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        let Some(service) = labels.and_then(|labels| labels.import.as_deref()) else {
            return Ok(None);
        };
        let mut lower = String::new();
        let service = label(SERVICE, service, &mut lower)?.into();
        let cluster = match labels.and_then(|labels| labels.cluster.as_deref()) {
            None | Some("") => None,
            Some(text) => Some(interner.intern(label(CLUSTER, text, &mut lower)?)),
        };
        slice(&self.0, SliceOf { id, service, imported: true, cluster }, interner)
    }
}

impl<'a> Raw<'a> for raw::Pod<'a> {
    fn head(&self) -> raw::Head<'_> {
        self.metadata.as_ref().map(raw::Meta::head).unwrap_or_default()
    }

    fn lean(&self, id: ObjectId, _: &Interner) -> Result<Option<Object>, InvalidObject> {
        namespaced(&id)?;
        let Some(status) = &self.status else { return Ok(None) };
        // As in CoreDNS: a Pod on its way out has no name any more, and a finished one's address may be another's by now.
        let leaving = self.metadata.as_ref().is_some_and(|meta| meta.deletion_timestamp.is_some());
        if leaving || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed" | "Unknown")) {
            return Ok(None);
        }
        let addresses = pod_addresses(status)?;
        Ok((!addresses.is_empty()).then_some(Object::Pod(Pod { id, addresses })))
    }
}

impl<'a> Raw<'a> for raw::NodePod<'a> {
    fn head(&self) -> raw::Head<'_> {
        self.metadata.as_ref().map(raw::PodMeta::head).unwrap_or_default()
    }

    /// A Pod that is being deleted asks until its end; one that has ended has no address any more.
    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, InvalidObject> {
        namespaced(&id)?;
        let Some(status) = &self.status else { return Ok(None) };
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return Ok(None);
        }
        let meta = self.metadata.as_ref();
        let created = meta.and_then(|meta| meta.creation_timestamp.as_ref());
        let spec = self.spec.as_ref();
        Ok(Some(Object::NodePod(NodePod {
            id: ObjectId { namespace: interner.intern(&id.namespace), ..id },
            addresses: pod_addresses(status)?,
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
            created: created.map_or(0, |created| created.0),
            dns: spec.map(pod_dns).unwrap_or_default(),
            owner: meta.and_then(|meta| pod_owner(meta, interner)),
            labels: meta.map(|meta| pod_labels(meta, interner)).unwrap_or_default(),
        })))
    }
}

impl<'a> Raw<'a> for raw::Node<'a> {
    fn head(&self) -> raw::Head<'_> {
        self.0.metadata.as_ref().map(raw::Meta::head).unwrap_or_default()
    }

    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, InvalidObject> {
        let labels = self.0.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        let zone = labels.and_then(|labels| labels.zone.as_deref());
        let zone = zone.and_then(|zone| place(zone, interner));
        Ok(Some(Object::Node(Node { name: id.name, zone })))
    }
}

/// A zone or a node, in lower case; `None` for a text that is none, of which no more is said: it changes no other name.
fn place(text: &str, interner: &Interner) -> Option<Text> {
    let fits = (1..=MAX_PLACE).contains(&text.len());
    (fits && interner.keeps_places()).then(|| interner.intern(&text.to_ascii_lowercase()))
}

/// What controls a Pod. The ReplicaSets of a Deployment are named by it and the hash of their Pods' template.
fn pod_owner(meta: &raw::PodMeta<'_>, interner: &Interner) -> Option<PodOwner> {
    let mut owners = meta.owner_references.as_deref()?.iter();
    let owner = owners.find(|owner| owner.controller == Some(true))?;
    let (kind, name) = (owner.kind.as_deref()?, owner.name.as_deref()?);
    let hash = meta.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    let deployment = (kind == "ReplicaSet").then(|| name.strip_suffix(hash?)?.strip_suffix('-'));
    let (kind, name) = deployment.flatten().map_or((kind, name), |name| ("Deployment", name));
    let is_kind = kind.len() <= MAX_LABEL_PART && kind.bytes().all(|o| o.is_ascii_alphanumeric());
    (is_kind && is_object_name(name))
        .then(|| PodOwner { kind: interner.intern(kind), name: interner.intern(name) })
}

/// The labels of a Pod. One that the API server would not let pass is none.
fn pod_labels(meta: &raw::PodMeta<'_>, interner: &Interner) -> Box<[(Text, Text)]> {
    let Some(labels) = &meta.labels else { return Box::default() };
    let fits =
        |(key, value): &(&str, &str)| key.len() <= MAX_LABEL_KEY && value.len() <= MAX_LABEL_PART;
    // Of one that comes twice the later one counts, as in Go.
    let mut kept: Vec<(&str, &str)> = labels.iter().rev().filter(fits).collect();
    kept.sort_by_key(|(key, _)| *key);
    kept.dedup_by_key(|(key, _)| *key);
    kept.truncate(MAX_POD_LABELS);
    kept.into_iter().map(|(key, value)| (interner.intern(key), interner.intern(value))).collect()
}

/// What decides which names a Pod tries. A domain that is no name is one that no resolver can try.
fn pod_dns(spec: &raw::PodSpec<'_>) -> PodDns {
    let is_on_host = spec.host_network.unwrap_or(false);
    let policy = match spec.dns_policy.as_deref() {
        Some("Default") => DnsPolicy::Node,
        Some("None") => DnsPolicy::Own,
        // The kubelet takes it for Default there; ClusterFirstWithHostNet is what asks for the cluster's.
        None | Some("ClusterFirst") if is_on_host => DnsPolicy::Node,
        _ => DnsPolicy::Cluster,
    };
    let Some(config) = &spec.dns_config else { return PodDns { policy, ..PodDns::default() } };
    let searches = config.searches.as_deref().unwrap_or_default().iter().take(MAX_SEARCHES);
    let searches = searches.filter_map(|text| Name::from_text(text.trim_end_matches('.')).ok());
    let options = config.options.as_deref().unwrap_or_default();
    let ndots = options.iter().rev().find(|option| option.name.as_deref() == Some("ndots"));
    PodDns {
        policy,
        searches: searches.filter(|name| !name.as_ref().is_root()).collect(),
        ndots: ndots.and_then(|option| option.value.as_deref()?.parse().ok()),
    }
}

/// All addresses of a Pod; none before it has one.
fn pod_addresses(status: &raw::PodStatus<'_>) -> Result<SmallVec<[IpAddr; 2]>, InvalidObject> {
    let all = status.pod_ips.as_deref().unwrap_or_default();
    let mut ips =
        all.iter().filter_map(|ip| ip.ip.as_deref()).filter(|ip| !ip.is_empty()).peekable();
    match (ips.peek().is_some(), status.pod_ip.as_deref()) {
        (true, _) => addresses("status.podIPs", ips),
        (false, None | Some("")) => Ok(SmallVec::new()),
        (false, Some(ip)) => Ok(SmallVec::from_iter([address("status.podIP", ip)?])),
    }
}

fn namespaced(id: &ObjectId) -> Result<(), InvalidObject> {
    if id.namespace.is_empty() { Err(InvalidObject::Missing("metadata.namespace")) } else { Ok(()) }
}

/// A Service's name is a label of the names that are answered; other objects' may have dots.
fn named_service(id: &ObjectId) -> Result<(), InvalidObject> {
    namespaced(id)?;
    label("metadata.name", &id.name, &mut String::new()).map(drop)
}

fn addresses<'a>(
    field: &'static str,
    texts: impl Iterator<Item = &'a str>,
) -> Result<SmallVec<[IpAddr; 2]>, InvalidObject> {
    let mut addresses = SmallVec::new();
    for text in texts {
        if addresses.len() >= MAX_ADDRESSES {
            return Err(InvalidObject::Many { field, max: MAX_ADDRESSES });
        }
        addresses.push(address(field, text)?);
    }
    Ok(addresses)
}

fn target(text: &str) -> Result<Name, InvalidObject> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    if !bare.bytes().all(|o| o.is_ascii_alphanumeric() || matches!(o, b'-' | b'_' | b'.')) {
        return Err(InvalidObject::NotAName(excerpt(text)));
    }
    if bare.is_empty() {
        return Err(InvalidObject::Missing("spec.externalName"));
    }
    Name::from_text(bare).map_err(|_| InvalidObject::NotAName(excerpt(text)))
}

/// The Service that a slice belongs to.
struct SliceOf {
    id: ObjectId,
    service: Text,
    imported: bool,
    cluster: Option<Text>,
}

fn slice(
    raw: &raw::EndpointSlice<'_>,
    of: SliceOf,
    interner: &Interner,
) -> Result<Option<Object>, InvalidObject> {
    let SliceOf { id, service, imported, cluster } = of;
    namespaced(&id)?;
    let ipv6 = match raw.address_type.as_deref() {
        Some("IPv4") => false,
        Some("IPv6") => true,
        Some("FQDN") => return Ok(None),
        Some(other) => return Err(InvalidObject::Type(excerpt(other))),
        None => return Err(InvalidObject::Missing("addressType")),
    };
    let endpoints = raw.endpoints.as_deref().unwrap_or_default();
    if endpoints.len() > MAX_ENDPOINTS {
        return Err(InvalidObject::Many { field: "endpoints", max: MAX_ENDPOINTS });
    }
    let endpoints = endpoints.iter().map(|e| endpoint(e, ipv6, interner));
    let annotations = raw.metadata.as_ref().and_then(|meta| meta.annotations.as_ref());
    Ok(Some(Object::EndpointSlice(EndpointSlice {
        id,
        service,
        imported,
        cluster,
        endpoints: endpoints.collect::<Result<_, _>>()?,
        ports: ports(raw.ports.as_deref(), interner)?,
        triggered_at: annotations.and_then(|a| a.triggered.as_deref()).and_then(millis),
        version: 0,
    })))
}

fn ports(
    raw: Option<&[raw::Port<'_>]>,
    interner: &Interner,
) -> Result<SmallVec<[Port; 2]>, InvalidObject> {
    let raw = raw.unwrap_or_default();
    if raw.len() > MAX_PORTS {
        return Err(InvalidObject::Many { field: "ports", max: MAX_PORTS });
    }
    let mut lower = String::new();
    let mut ports = SmallVec::with_capacity(raw.len());
    for port in raw {
        // A slice's port without a number means every port: nothing that an SRV record could say.
        let Some(number) = port.port else { continue };
        let number =
            u16::try_from(number).ok().filter(|&n| n != 0).ok_or(InvalidObject::Port(number))?;
        let name = match port.name.as_deref() {
            None | Some("") => interner.intern(""),
            Some(text) => interner.intern(label("port name", text, &mut lower)?),
        };
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            other => return Err(InvalidObject::Protocol(excerpt(other))),
        };
        ports.push(Port { name, protocol, number });
    }
    Ok(ports)
}

fn endpoint(
    raw: &raw::Endpoint<'_>,
    ipv6: bool,
    interner: &Interner,
) -> Result<Endpoint, InvalidObject> {
    const FIELD: &str = "endpoints[].addresses";
    let mut lower = String::new();
    let mut addresses = SmallVec::new();
    for text in raw.addresses.as_deref().unwrap_or_default() {
        let address = address(FIELD, text)?;
        if address.is_ipv6() != ipv6 {
            return Err(InvalidObject::NotAnAddress {
                field: "endpoints[].addresses of the slice's addressType",
                text: excerpt(text),
            });
        }
        if addresses.len() >= MAX_ADDRESSES {
            return Err(InvalidObject::Many { field: FIELD, max: MAX_ADDRESSES });
        }
        addresses.push(address);
    }
    let hostname = match raw.hostname.as_deref() {
        None | Some("") => None,
        // StatefulSets have the same few ordinals over and over.
        Some(text) => Some(interner.intern(label("endpoints[].hostname", text, &mut lower)?)),
    };
    let pod = match &raw.target_ref {
        Some(target) if target.kind.as_deref() == Some("Pod") => match target.name.as_deref() {
            None | Some("") => None,
            Some(text) => {
                interner.pod(object_name("endpoints[].targetRef.name", text, &mut lower)?)
            }
        },
        _ => None,
    };
    Ok(Endpoint {
        addresses,
        hostname,
        pod,
        // The DNS specification publishes ready endpoints. One that still serves while it terminates is not ready
        // (KEP-1672). CoreDNS does the same.
        ready: raw.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true),
        place: Place {
            zone: raw.zone.as_deref().and_then(|zone| place(zone, interner)),
            node: raw.node_name.as_deref().and_then(|node| place(node, interner)),
        },
    })
}
