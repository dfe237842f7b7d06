//! Lean objects as octets, and back. A string that many objects name is written once and then by number.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use smallvec::{Array, SmallVec};

use super::SnapshotError;
use crate::cluster::decode::{
    MAX_ADDRESSES, MAX_ENDPOINTS, MAX_PORTS, MAX_SEARCHES, is_label, is_object_name,
};
use crate::cluster::interner::Interner;
use crate::cluster::object::{
    DnsPolicy, Endpoint, EndpointSlice, Namespace, NodePod, Object, ObjectId, Pod, PodDns, Port,
    Protocol, Service, ServiceKind, Text,
};
use crate::wire::{Name, NameRef};

/// A string that is not in the table and does not enter it, a new entry, or (from 2 on) an entry.
const ONCE: u64 = 0;
const NEW: u64 = 1;
const FIRST: u64 = 2;

/// The object tags; 0 ends the objects.
const END: u8 = 0;
const SERVICE: u8 = 1;
const SLICE: u8 = 2;
const NAMESPACE: u8 = 3;
const POD: u8 = 4;
const IMPORT: u8 = 5;
const NODE_POD: u8 = 6;
/// No object: the version of this node's Pods, before everything else.
const NODE_VERSION: u8 = 7;

/// Writes objects, and sums up what it wrote.
pub(super) struct Encoder<W> {
    to: W,
    out: Vec<u8>,
    sum: crc32fast::Hasher,
    table: HashMap<Text, u64, foldhash::fast::RandomState>,
    written: u64,
    /// The first error; nothing is written after it.
    error: Option<io::Error>,
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(to: W) -> Self {
        Self {
            to,
            out: Vec::new(),
            sum: Default::default(),
            table: HashMap::default(),
            written: 0,
            error: None,
        }
    }

    pub(super) fn raw(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
        if self.out.len() >= FLUSH {
            self.flush();
        }
    }

    pub(super) fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.out.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.out.push(n as u8);
    }

    pub(super) fn bytes(&mut self, octets: &[u8]) {
        self.number(octets.len() as u64);
        self.raw(octets);
    }

    pub(super) fn object(&mut self, object: &Object) {
        match object {
            Object::Service(service) => self.service(SERVICE, service),
            Object::ServiceImport(service) => self.service(IMPORT, service),
            Object::EndpointSlice(slice) => self.slice(slice),
            Object::Namespace(namespace) => {
                self.out.push(NAMESPACE);
                self.shared(&namespace.name);
            }
            Object::Pod(pod) => {
                self.out.push(POD);
                self.shared(&pod.id.namespace);
                self.once(&pod.id.name);
                self.addresses(&pod.addresses);
            }
            Object::NodePod(pod) => {
                self.out.push(NODE_POD);
                self.shared(&pod.id.namespace);
                self.once(&pod.id.name);
                self.addresses(&pod.addresses);
                self.out.push(u8::from(pod.host_network));
                self.number(pod.created);
                self.out.push(pod.dns.policy as u8);
                self.number(pod.dns.searches.len() as u64);
                pod.dns.searches.iter().for_each(|name| self.raw(name.as_bytes()));
                self.raw(&[u8::from(pod.dns.ndots.is_some()), pod.dns.ndots.unwrap_or(0)]);
            }
        }
    }

    /// The version of this node's Pods; to be written first, if they are watched.
    pub(super) fn node_version(&mut self, version: u64) {
        self.out.push(NODE_VERSION);
        self.raw(&version.to_be_bytes());
    }

    /// Ends the objects and adds the sum. Returns the octets written.
    pub(super) fn finish(mut self) -> io::Result<(W, u64)> {
        self.out.push(END);
        self.flush();
        let sum = self.sum.clone().finalize();
        self.out.extend_from_slice(&sum.to_be_bytes());
        self.flush();
        match self.error {
            None => Ok((self.to, self.written)),
            Some(error) => Err(error),
        }
    }

    fn flush(&mut self) {
        self.sum.update(&self.out);
        self.written += self.out.len() as u64;
        if self.error.is_none() {
            self.error = self.to.write_all(&self.out).err();
        }
        self.out.clear();
    }

    fn shared(&mut self, text: &Text) {
        if let Some(&index) = self.table.get(text) {
            return self.number(index);
        }
        self.table.insert(text.clone(), FIRST + self.table.len() as u64);
        self.number(NEW);
        self.bytes(text.as_bytes());
    }

    fn once(&mut self, text: &str) {
        self.number(ONCE);
        self.bytes(text.as_bytes());
    }

    /// Zero for none, else the string.
    fn optional(&mut self, text: Option<&Text>) {
        self.out.push(u8::from(text.is_some()));
        if let Some(text) = text {
            self.shared(text);
        }
    }

    fn service(&mut self, tag: u8, service: &Service) {
        self.out.push(tag);
        self.shared(&service.id.namespace);
        self.shared(&service.id.name);
        match &service.kind {
            ServiceKind::ClusterIp(addresses) => {
                self.out.push(0);
                self.addresses(addresses);
            }
            ServiceKind::Headless => self.out.push(1),
            ServiceKind::ExternalName(name) => {
                self.out.push(2);
                self.raw(name.as_bytes());
            }
        }
        self.ports(&service.ports);
        self.out.push(u8::from(service.publish_not_ready));
    }

    fn slice(&mut self, slice: &EndpointSlice) {
        self.out.push(SLICE);
        self.shared(&slice.id.namespace);
        self.once(&slice.id.name);
        self.shared(&slice.service);
        self.out.push(u8::from(slice.imported));
        self.optional(slice.cluster.as_ref());
        self.ports(&slice.ports);
        self.number(slice.endpoints.len() as u64);
        let bare = |endpoint: &Endpoint| match endpoint.addresses.as_slice() {
            [IpAddr::V4(ip)] if is_bare(endpoint) => Some(ip.octets()),
            _ => None,
        };
        let bares: Option<Vec<_>> = slice.endpoints.iter().map(bare).collect();
        self.out.push(u8::from(bares.is_some()));
        if let Some(addresses) = bares {
            return self.raw(addresses.as_flattened());
        }
        for endpoint in &slice.endpoints {
            self.addresses(&endpoint.addresses);
            self.optional(endpoint.hostname.as_ref());
            self.out.push(u8::from(endpoint.pod.is_some()));
            if let Some(pod) = &endpoint.pod {
                self.once(pod);
            }
            self.out.push(u8::from(endpoint.ready));
        }
    }

    fn ports(&mut self, ports: &[Port]) {
        self.number(ports.len() as u64);
        for port in ports {
            self.shared(&port.name);
            self.out.push(port.protocol as u8);
            self.raw(&port.number.to_be_bytes());
        }
    }

    fn addresses(&mut self, addresses: &[IpAddr]) {
        self.number(addresses.len() as u64);
        for address in addresses {
            match address {
                IpAddr::V4(ip) => {
                    self.out.push(4);
                    self.raw(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    self.out.push(6);
                    self.raw(&ip.octets());
                }
            }
        }
    }
}

const FLUSH: usize = 64 << 10;

/// True for an endpoint of which only its addresses are to be known: almost every one.
fn is_bare(endpoint: &Endpoint) -> bool {
    endpoint.ready && endpoint.hostname.is_none() && endpoint.pod.is_none()
}

fn bare_endpoint(octets: [u8; 4]) -> Endpoint {
    let addresses = SmallVec::from_buf([IpAddr::from(octets)]);
    Endpoint { addresses, hostname: None, pod: None, ready: true }
}

/// The index gives an endpoint of several addresses back as several.
const MAX_SINGLE_ENDPOINTS: usize = MAX_ENDPOINTS * MAX_ADDRESSES;

/// Reads objects. Total: any octets give objects or an error.
pub(super) struct Decoder<'a, 'i> {
    rest: &'a [u8],
    interner: &'i Interner,
    table: Vec<Text>,
}

type Result<T> = std::result::Result<T, SnapshotError>;

impl<'a, 'i> Decoder<'a, 'i> {
    pub(super) fn new(rest: &'a [u8], interner: &'i Interner) -> Self {
        Self { rest, interner, table: Vec::new() }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(SnapshotError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn octet(&mut self) -> Result<u8> {
        self.take(1)?.first().copied().ok_or(SnapshotError::Truncated)
    }

    pub(super) fn number(&mut self) -> Result<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let octet = self.octet()?;
            n |= u64::from(octet & 0x7f) << shift;
            if octet < 0x80 {
                return Ok(n);
            }
        }
        Err(SnapshotError::Malformed("number"))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.number()?;
        self.take(usize::try_from(len).map_err(|_| SnapshotError::Truncated)?)
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next object; `None` after the last, which has to be the end of it all.
    pub(super) fn next(&mut self) -> Option<Result<Object>> {
        match self.object() {
            Ok(Some(object)) => Some(Ok(object)),
            Ok(None) if self.is_empty() => None,
            Ok(None) => Some(Err(SnapshotError::Malformed("end"))),
            Err(error) => Some(Err(error)),
        }
    }

    /// The version of this node's Pods, if one is written.
    pub(super) fn node_version(&mut self) -> Result<Option<u64>> {
        if self.rest.first() != Some(&NODE_VERSION) {
            return Ok(None);
        }
        self.octet()?;
        self.array().map(|version| Some(u64::from_be_bytes(version)))
    }

    fn object(&mut self) -> Result<Option<Object>> {
        Ok(Some(match self.octet()? {
            END => return Ok(None),
            SERVICE => Object::Service(self.service()?),
            IMPORT => Object::ServiceImport(self.service()?),
            SLICE => Object::EndpointSlice(self.slice()?),
            NAMESPACE => Object::Namespace(Namespace { name: self.label()? }),
            POD => {
                let id = ObjectId { namespace: self.label()?, name: self.object_name()? };
                Object::Pod(Pod { id, addresses: self.addresses()? })
            }
            NODE_POD => Object::NodePod(NodePod {
                id: ObjectId { namespace: self.label()?, name: self.object_name()? },
                addresses: self.addresses()?,
                host_network: self.flag()?,
                created: self.number()?,
                dns: self.dns()?,
            }),
            _ => return Err(SnapshotError::Malformed("kind of object")),
        }))
    }

    fn text(&mut self, fits: fn(&str) -> bool, what: &'static str) -> Result<Text> {
        let text = match self.number()? {
            kind @ (ONCE | NEW) => {
                let text = std::str::from_utf8(self.bytes()?)
                    .map_err(|_| SnapshotError::Malformed(what))?;
                // The table is the file's own; the interner is shared with what comes from the API server.
                let text = if kind == ONCE { Text::from(text) } else { self.interner.intern(text) };
                if kind == NEW {
                    self.table.push(text.clone());
                }
                text
            }
            index => {
                let index =
                    usize::try_from(index - FIRST).map_err(|_| SnapshotError::Malformed(what))?;
                self.table.get(index).cloned().ok_or(SnapshotError::Malformed(what))?
            }
        };
        if fits(&text) { Ok(text) } else { Err(SnapshotError::Malformed(what)) }
    }

    fn label(&mut self) -> Result<Text> {
        self.text(is_label, "label")
    }

    fn object_name(&mut self) -> Result<Text> {
        self.text(is_object_name, "object name")
    }

    fn flag(&mut self) -> Result<bool> {
        match self.octet()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(SnapshotError::Malformed("flag")),
        }
    }

    fn optional(&mut self, read: fn(&mut Self) -> Result<Text>) -> Result<Option<Text>> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    fn count(&mut self, most: usize, what: &'static str) -> Result<usize> {
        usize::try_from(self.number()?)
            .ok()
            .filter(|&n| n <= most)
            .ok_or(SnapshotError::Malformed(what))
    }

    fn service(&mut self) -> Result<Service> {
        let id = ObjectId { namespace: self.label()?, name: self.label()? };
        let kind = match self.octet()? {
            0 => ServiceKind::ClusterIp(self.addresses()?),
            1 => ServiceKind::Headless,
            2 => ServiceKind::ExternalName(self.name()?),
            _ => return Err(SnapshotError::Malformed("kind of Service")),
        };
        Ok(Service { id, kind, ports: self.ports()?, publish_not_ready: self.flag()?, version: 0 })
    }

    fn dns(&mut self) -> Result<PodDns> {
        let policy = match self.octet()? {
            0 => DnsPolicy::Cluster,
            1 => DnsPolicy::Node,
            2 => DnsPolicy::Own,
            _ => return Err(SnapshotError::Malformed("policy")),
        };
        let count = self.count(MAX_SEARCHES, "number of domains")?;
        let searches = (0..count).map(|_| self.name()).collect::<Result<_>>()?;
        let (is_set, ndots) = (self.flag()?, self.octet()?);
        Ok(PodDns { policy, searches, ndots: is_set.then_some(ndots) })
    }

    fn name(&mut self) -> Result<Name> {
        let name = NameRef::parse(self.rest).map_err(|_| SnapshotError::Malformed("name"))?;
        self.take(name.len())?;
        Ok(name.to_name())
    }

    fn slice(&mut self) -> Result<EndpointSlice> {
        let id = ObjectId { namespace: self.label()?, name: self.object_name()? };
        let service = self.label()?;
        let imported = self.flag()?;
        let cluster = self.optional(Self::label)?;
        let ports = self.ports()?;
        let count = self.count(MAX_SINGLE_ENDPOINTS, "number of endpoints")?;
        let endpoints = if self.flag()? {
            let (addresses, _) = self.take(count * 4)?.as_chunks::<4>();
            addresses.iter().map(|&octets| bare_endpoint(octets)).collect()
        } else {
            (0..count).map(|_| self.endpoint()).collect::<Result<_>>()?
        };
        Ok(EndpointSlice {
            id,
            service,
            imported,
            cluster,
            ports,
            endpoints,
            triggered_at: None,
            version: 0,
        })
    }

    fn endpoint(&mut self) -> Result<Endpoint> {
        Ok(Endpoint {
            addresses: self.addresses()?,
            hostname: self.optional(Self::label)?,
            pod: self.optional(Self::object_name)?,
            ready: self.flag()?,
        })
    }

    fn ports(&mut self) -> Result<SmallVec<[Port; 2]>> {
        let count = self.count(MAX_PORTS, "number of ports")?;
        (0..count)
            .map(|_| {
                let name = self.text(|text| text.is_empty() || is_label(text), "port name")?;
                let protocol = match self.octet()? {
                    0 => Protocol::Tcp,
                    1 => Protocol::Udp,
                    2 => Protocol::Sctp,
                    _ => return Err(SnapshotError::Malformed("protocol")),
                };
                let number = u16::from_be_bytes(self.array()?);
                Ok(Port { name, protocol, number })
            })
            .collect()
    }

    fn addresses<A: Array<Item = IpAddr>>(&mut self) -> Result<SmallVec<A>> {
        let count = self.count(MAX_ADDRESSES, "number of addresses")?;
        (0..count)
            .map(|_| match self.octet()? {
                4 => Ok(Ipv4Addr::from(self.array::<4>()?).into()),
                6 => Ok(Ipv6Addr::from(self.array::<16>()?).into()),
                _ => Err(SnapshotError::Malformed("address family")),
            })
            .collect()
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| SnapshotError::Truncated)
    }
}
