//! From an object as the API writes it to the lean [`Object`], checked.
//!
//! A string that is kept is a DNS label or an object name, in lower case; an address parses; a list has a bounded length.
//! What breaks a rule is one bad object: it is skipped, and the others are not touched. What is in order but has no name in
//! DNS (a Pod without an address, a slice of address type FQDN) is passed over without a word.

mod check;
mod raw;

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Deserialize;
use smallvec::SmallVec;

use self::check::{address, excerpt, label, object_name};
use super::interner::Interner;
use super::object::{
    Endpoint, EndpointSlice, Kind, Namespace, Object, ObjectId, Pod, Port, Protocol, Service,
    ServiceKind, Text,
};
use super::status::EventType;
use crate::wire::Name;

/// Endpoints of a slice that are read, as the API server's own validation limits them.
pub const MAX_ENDPOINTS: usize = 1_000;
/// Addresses of an endpoint, likewise.
pub const MAX_ADDRESSES: usize = 100;
/// Ports of a Service or slice. The API server allows 20,000 to a slice; 1,024 SRV records do not fit into any message.
pub const MAX_PORTS: usize = 1_024;

/// Why an object cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadObject {
    /// Not JSON, or a field has the wrong type.
    #[error("does not read: {0}")]
    Malformed(String),
    /// A field that must be there is missing or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A string is too long.
    #[error("{field} is longer than {max} characters")]
    Long {
        /// The field.
        field: &'static str,
        /// The longest that is taken.
        max: usize,
    },
    /// A list is too long.
    #[error("{field} has more than {max} entries")]
    Many {
        /// The field.
        field: &'static str,
        /// The most that are taken.
        max: usize,
    },
    /// A string holds characters that no DNS label has.
    #[error("{field} `{text}` is not a DNS label")]
    NotALabel {
        /// The field.
        field: &'static str,
        /// Its beginning.
        text: String,
    },
    /// A string is not an IP address.
    #[error("{field} `{text}` is not an IP address")]
    NotAnAddress {
        /// The field.
        field: &'static str,
        /// Its beginning.
        text: String,
    },
    /// A target that is not a DNS name.
    #[error("spec.externalName `{0}` is not a DNS name")]
    NotAName(String),
    /// A port outside of 1 to 65535.
    #[error("port {0} is not between 1 and 65535")]
    Port(i64),
    /// A protocol that has no name in DNS.
    #[error("protocol `{0}` is none of TCP, UDP, SCTP")]
    Protocol(String),
    /// A type that we do not know.
    #[error("type `{0}` is unknown")]
    Type(String),
}

/// What became of an object.
#[derive(Debug)]
pub enum Fate {
    /// It is served.
    Serve(Object),
    /// It is in order, but has no name in DNS.
    Pass,
    /// It is skipped.
    Skip(BadObject),
}

/// An object that was read, and what the watch needs to know of it.
#[derive(Debug)]
pub struct Decoded {
    /// Who it is; `None` where not even that can be read.
    pub id: Option<ObjectId>,
    /// Its version, to go on from.
    pub resource_version: Option<String>,
    /// True for the bookmark that ends the list part of a streaming list.
    pub initial_events_end: bool,
    /// True for an EndpointSlice with the label of headless Services.
    pub headless: bool,
    /// What became of it.
    pub fate: Fate,
}

/// Reads one object of a known kind from JSON. Total: any octets give an answer.
pub fn decode(kind: Kind, json: &[u8], interner: &Interner) -> Decoded {
    let json = &*text(json);
    match kind {
        Kind::Service => read::<raw::Service<'_>>(json, interner),
        Kind::EndpointSlice => read::<raw::EndpointSlice<'_>>(json, interner),
        Kind::Namespace => read::<raw::Bare<'_>>(json, interner),
        Kind::Pod => read::<raw::Pod<'_>>(json, interner),
        Kind::ServiceImport => read::<raw::ServiceImport<'_>>(json, interner),
        Kind::ImportedSlice => read::<raw::ImportedSlice<'_>>(json, interner),
    }
}

/// True for a DNS label in lower case: what decoded Services, namespaces, hostnames and ports are named by.
pub fn is_label(text: &str) -> bool {
    label("", text, &mut String::new()).is_ok_and(|lower| lower == text)
}

/// True for an object name in lower case.
pub fn is_object_name(text: &str) -> bool {
    object_name("", text, &mut String::new()).is_ok_and(|lower| lower == text)
}

/// What a line of a watch says.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one lives at a time, on the stack, and is an event as a rule"
)]
pub enum Line {
    /// An object, or a bookmark.
    Event(EventType, Decoded),
    /// The server ends the watch.
    Error {
        /// As of HTTP; 410 means that the version to go on from is gone.
        code: u16,
        /// The server's words.
        message: String,
    },
    /// No event at all.
    Garbage(String),
}

/// Reads one line of a watch. Total: any octets give an answer.
pub fn decode_line(kind: Kind, json: &[u8], interner: &Interner) -> Line {
    let json = &*text(json);
    match kind {
        Kind::Service => read_line::<raw::Service<'_>>(json, interner),
        Kind::EndpointSlice => read_line::<raw::EndpointSlice<'_>>(json, interner),
        Kind::Namespace => read_line::<raw::Bare<'_>>(json, interner),
        Kind::Pod => read_line::<raw::Pod<'_>>(json, interner),
        Kind::ServiceImport => read_line::<raw::ServiceImport<'_>>(json, interner),
        Kind::ImportedSlice => read_line::<raw::ImportedSlice<'_>>(json, interner),
    }
}

/// What a list says of itself.
pub fn decode_list_metadata(json: &[u8]) -> ListMetadata {
    let json = text(json);
    let raw: raw::ListMeta<'_> = serde_json::from_str(&json).unwrap_or_default();
    let owned = |text: Option<raw::Str<'_>>| {
        text.filter(|text| !text.is_empty()).map(|text| text.to_owned())
    };
    ListMetadata { resource_version: owned(raw.resource_version), next: owned(raw.next) }
}

/// The `metadata` of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListMetadata {
    /// The version that the list shows.
    pub resource_version: Option<String>,
    /// The token to go on with, where more pages follow.
    pub next: Option<String>,
}

/// One kind of raw object.
trait Raw<'a>: Deserialize<'a> {
    fn metadata(&self) -> Option<&raw::Meta<'a>>;

    /// The lean object, or `None` for one without a name in DNS.
    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, BadObject>;
}

/// JSON as text: checked at once, its strings need not be checked one by one. What is no UTF-8 anywhere is replaced, as in
/// Go.
fn text(json: &[u8]) -> Cow<'_, str> {
    str::from_utf8(json).map_or_else(|_| String::from_utf8_lossy(json), Cow::Borrowed)
}

fn read<'a, R: Raw<'a>>(json: &'a str, interner: &Interner) -> Decoded {
    match serde_json::from_str::<R>(json) {
        Ok(raw) => judge(&raw, interner),
        Err(error) => {
            // A field of the wrong type somewhere: who it is may still be read.
            let bare = serde_json::from_str::<raw::Bare<'_>>(json).unwrap_or_default();
            let mut decoded = judge(&bare, interner);
            decoded.fate = Fate::Skip(BadObject::Malformed(error.to_string()));
            decoded
        }
    }
}

fn read_line<'a, R: Raw<'a>>(json: &'a str, interner: &Interner) -> Line {
    let (event, decoded) = match serde_json::from_str::<raw::Line<'_, R>>(json) {
        Ok(line) => (line.event, judge(&line.object, interner)),
        Err(error) => match serde_json::from_str::<raw::Line<'_, raw::Bare<'_>>>(json) {
            Err(_) => return Line::Garbage(error.to_string()),
            Ok(line) => {
                let mut decoded = judge(&line.object, interner);
                decoded.fate = Fate::Skip(BadObject::Malformed(error.to_string()));
                (line.event, decoded)
            }
        },
    };
    match &*event {
        "ADDED" => Line::Event(EventType::Added, decoded),
        "MODIFIED" => Line::Event(EventType::Modified, decoded),
        "DELETED" => Line::Event(EventType::Deleted, decoded),
        "BOOKMARK" => Line::Event(EventType::Bookmark, decoded),
        "ERROR" => match serde_json::from_str::<raw::Line<'_, raw::Status<'_>>>(json) {
            Ok(line) => Line::Error {
                code: line.object.code.unwrap_or_default(),
                message: line
                    .object
                    .message
                    .as_deref()
                    .unwrap_or("no reason given")
                    .chars()
                    .take(500)
                    .collect(),
            },
            Err(error) => Line::Garbage(error.to_string()),
        },
        other => Line::Garbage(format!("unknown event type `{}`", excerpt(other))),
    }
}

fn judge<'a, R: Raw<'a>>(raw: &R, interner: &Interner) -> Decoded {
    let empty = raw::Meta::default();
    let meta = raw.metadata().unwrap_or(&empty);
    let annotations = meta.annotations.as_ref();
    let mut decoded = Decoded {
        id: None,
        resource_version: meta
            .resource_version
            .as_deref()
            .filter(|v| !v.is_empty())
            .map(str::to_owned),
        initial_events_end: annotations.and_then(|a| a.initial_events_end.as_deref())
            == Some("true"),
        headless: meta.labels.as_ref().is_some_and(|labels| labels.headless.is_some()),
        fate: Fate::Pass,
    };
    let id = match identity(meta, interner) {
        Ok(id) => id,
        Err(bad) => {
            decoded.fate = Fate::Skip(bad);
            return decoded;
        }
    };
    decoded.fate = match raw.lean(id.clone(), interner) {
        Ok(Some(object)) => Fate::Serve(object),
        Ok(None) => Fate::Pass,
        Err(bad) => Fate::Skip(bad),
    };
    decoded.id = Some(id);
    decoded
}

fn identity(meta: &raw::Meta<'_>, interner: &Interner) -> Result<ObjectId, BadObject> {
    let mut lower = String::new();
    let namespace = match meta.namespace.as_deref() {
        None | Some("") => interner.intern(""),
        Some(text) => interner.intern(label("metadata.namespace", text, &mut lower)?),
    };
    let name = meta.name.as_deref().unwrap_or_default();
    Ok(ObjectId {
        namespace,
        // Many objects share a namespace, none a name.
        name: object_name("metadata.name", name, &mut lower)?.into(),
    })
}

impl<'a> Raw<'a> for raw::Bare<'a> {
    fn metadata(&self) -> Option<&raw::Meta<'a>> {
        self.metadata.as_ref()
    }

    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, BadObject> {
        let mut lower = String::new();
        let name = interner.intern(label("metadata.name", &id.name, &mut lower)?);
        Ok(Some(Object::Namespace(Namespace { name })))
    }
}

impl<'a> Raw<'a> for raw::Service<'a> {
    fn metadata(&self) -> Option<&raw::Meta<'a>> {
        self.metadata.as_ref()
    }

    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, BadObject> {
        named_service(&id)?;
        let Some(spec) = &self.spec else { return Err(BadObject::Missing("spec")) };
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
            other => return Err(BadObject::Type(excerpt(other))),
        };
        let ports = ports(self.spec.as_ref().and_then(|spec| spec.ports.as_deref()), interner)?;
        let publish_not_ready = spec.publish_not_ready_addresses.unwrap_or(false);
        Ok(Some(Object::Service(Service { id, kind, ports, publish_not_ready })))
    }
}

impl<'a> Raw<'a> for raw::ServiceImport<'a> {
    fn metadata(&self) -> Option<&raw::Meta<'a>> {
        self.metadata.as_ref()
    }

    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, BadObject> {
        named_service(&id)?;
        let Some(spec) = &self.spec else { return Err(BadObject::Missing("spec")) };
        let ips = spec.ips.as_deref().unwrap_or_default();
        let kind = match spec.kind.as_deref().unwrap_or("ClusterSetIP") {
            "Headless" => ServiceKind::Headless,
            "ClusterSetIP" if ips.is_empty() => return Ok(None),
            "ClusterSetIP" => {
                ServiceKind::ClusterIp(addresses("spec.ips", ips.iter().map(|ip| &**ip))?)
            }
            other => return Err(BadObject::Type(excerpt(other))),
        };
        let ports = ports(spec.ports.as_deref(), interner)?;
        Ok(Some(Object::ServiceImport(Service { id, kind, ports, publish_not_ready: false })))
    }
}

impl<'a> Raw<'a> for raw::EndpointSlice<'a> {
    fn metadata(&self) -> Option<&raw::Meta<'a>> {
        self.metadata.as_ref()
    }

    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, BadObject> {
        let labels = self.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        // A slice of no Service is somebody's own business.
        let Some(service) = labels.and_then(|labels| labels.service.as_deref()) else {
            return Ok(None);
        };
        let mut lower = String::new();
        let service = label("label kubernetes.io/service-name", service, &mut lower)?.into();
        slice(self, SliceOf { id, service, imported: false, cluster: None }, interner)
    }
}

impl<'a> Raw<'a> for raw::ImportedSlice<'a> {
    fn metadata(&self) -> Option<&raw::Meta<'a>> {
        self.0.metadata.as_ref()
    }

    fn lean(&self, id: ObjectId, interner: &Interner) -> Result<Option<Object>, BadObject> {
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
    fn metadata(&self) -> Option<&raw::Meta<'a>> {
        self.metadata.as_ref()
    }

    fn lean(&self, id: ObjectId, _: &Interner) -> Result<Option<Object>, BadObject> {
        namespaced(&id)?;
        let Some(status) = &self.status else { return Ok(None) };
        // As in CoreDNS: a Pod on its way out has no name any more, and a finished one's address may be another's by now.
        let leaving = self.metadata.as_ref().is_some_and(|meta| meta.deletion_timestamp.is_some());
        if leaving || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed" | "Unknown")) {
            return Ok(None);
        }
        let all = status.pod_ips.as_deref().unwrap_or_default();
        let mut ips =
            all.iter().filter_map(|ip| ip.ip.as_deref()).filter(|ip| !ip.is_empty()).peekable();
        let addresses = match (ips.peek().is_some(), status.pod_ip.as_deref()) {
            (true, _) => addresses("status.podIPs", ips)?,
            (false, None | Some("")) => return Ok(None),
            (false, Some(ip)) => SmallVec::from_iter([address("status.podIP", ip)?]),
        };
        Ok(Some(Object::Pod(Pod { id, addresses })))
    }
}

fn namespaced(id: &ObjectId) -> Result<(), BadObject> {
    if id.namespace.is_empty() { Err(BadObject::Missing("metadata.namespace")) } else { Ok(()) }
}

/// A Service's name is a label of the names that are answered; other objects' may have dots.
fn named_service(id: &ObjectId) -> Result<(), BadObject> {
    namespaced(id)?;
    label("metadata.name", &id.name, &mut String::new()).map(drop)
}

fn addresses<'a>(
    field: &'static str,
    texts: impl Iterator<Item = &'a str>,
) -> Result<SmallVec<[IpAddr; 2]>, BadObject> {
    let mut addresses = SmallVec::new();
    for text in texts {
        if addresses.len() >= MAX_ADDRESSES {
            return Err(BadObject::Many { field, max: MAX_ADDRESSES });
        }
        addresses.push(address(field, text)?);
    }
    Ok(addresses)
}

fn target(text: &str) -> Result<Name, BadObject> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    if !bare.bytes().all(|o| o.is_ascii_alphanumeric() || matches!(o, b'-' | b'_' | b'.')) {
        return Err(BadObject::NotAName(excerpt(text)));
    }
    if bare.is_empty() {
        return Err(BadObject::Missing("spec.externalName"));
    }
    Name::from_text(bare).map_err(|_| BadObject::NotAName(excerpt(text)))
}

/// Whose a slice is.
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
) -> Result<Option<Object>, BadObject> {
    let SliceOf { id, service, imported, cluster } = of;
    namespaced(&id)?;
    let ipv6 = match raw.address_type.as_deref() {
        Some("IPv4") => false,
        Some("IPv6") => true,
        Some("FQDN") => return Ok(None),
        Some(other) => return Err(BadObject::Type(excerpt(other))),
        None => return Err(BadObject::Missing("addressType")),
    };
    let endpoints = raw.endpoints.as_deref().unwrap_or_default();
    if endpoints.len() > MAX_ENDPOINTS {
        return Err(BadObject::Many { field: "endpoints", max: MAX_ENDPOINTS });
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
    })))
}

fn ports(
    raw: Option<&[raw::Port<'_>]>,
    interner: &Interner,
) -> Result<SmallVec<[Port; 2]>, BadObject> {
    let raw = raw.unwrap_or_default();
    if raw.len() > MAX_PORTS {
        return Err(BadObject::Many { field: "ports", max: MAX_PORTS });
    }
    let mut lower = String::new();
    let mut ports = SmallVec::with_capacity(raw.len());
    for port in raw {
        // A slice's port without a number means every port: nothing that an SRV record could say.
        let Some(number) = port.port else { continue };
        let number =
            u16::try_from(number).ok().filter(|&n| n != 0).ok_or(BadObject::Port(number))?;
        let name = match port.name.as_deref() {
            None | Some("") => interner.intern(""),
            Some(text) => interner.intern(label("port name", text, &mut lower)?),
        };
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            other => return Err(BadObject::Protocol(excerpt(other))),
        };
        ports.push(Port { name, protocol, number });
    }
    Ok(ports)
}

fn endpoint(
    raw: &raw::Endpoint<'_>,
    ipv6: bool,
    interner: &Interner,
) -> Result<Endpoint, BadObject> {
    const FIELD: &str = "endpoints[].addresses";
    let mut lower = String::new();
    let mut addresses = SmallVec::new();
    for text in raw.addresses.as_deref().unwrap_or_default() {
        let address = address(FIELD, text)?;
        if address.is_ipv6() != ipv6 {
            return Err(BadObject::NotAnAddress {
                field: "endpoints[].addresses of the slice's addressType",
                text: excerpt(text),
            });
        }
        if addresses.len() >= MAX_ADDRESSES {
            return Err(BadObject::Many { field: FIELD, max: MAX_ADDRESSES });
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
                Some(Text::from(object_name("endpoints[].targetRef.name", text, &mut lower)?))
            }
        },
        _ => None,
    };
    Ok(Endpoint {
        addresses,
        hostname,
        pod,
        // The DNS specification publishes ready endpoints. One that still serves while it terminates is not ready (KEP-1672),
        // and whoever asks now is better off elsewhere; CoreDNS does the same.
        ready: raw.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true),
    })
}

/// Milliseconds since 1970 of an RFC 3339 time.
fn millis(text: &str) -> Option<u64> {
    let time: k8s_openapi::jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

#[cfg(test)]
pub(crate) mod tests;
