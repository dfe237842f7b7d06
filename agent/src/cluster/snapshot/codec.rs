//! Lean objects as octets. A string that many objects name is written once and then by number.

use std::io::{self, Write};
use std::net::IpAddr;

use hashbrown::HashMap;

use crate::cluster::object::{
    Distribution, Endpoint, EndpointSlice, Kind, Object, Place, Port, Service, ServiceKind, Text,
};

/// A string that is not in the table and does not enter it, a new entry, or (from 2 on) an entry.
pub(super) const ONCE: u64 = 0;
pub(super) const NEW: u64 = 1;
pub(super) const FIRST: u64 = 2;

/// The object tags; 0 ends the objects.
pub(super) const END: u8 = 0;
pub(super) const SERVICE: u8 = 1;
pub(super) const SLICE: u8 = 2;
pub(super) const NAMESPACE: u8 = 3;
pub(super) const POD: u8 = 4;
pub(super) const IMPORT: u8 = 5;
pub(super) const NODE_POD: u8 = 6;
/// No object: the version of this node's Pods, before everything else.
pub(super) const NODE_VERSION: u8 = 7;
/// As [`SLICE`] and [`SERVICE`], of a store that keeps where endpoints are; no other has these and what follows.
pub(super) const PLACED_SLICE: u8 = 8;
pub(super) const NEAR_SERVICE: u8 = 9;
pub(super) const NODE: u8 = 10;
/// As [`NODE_VERSION`], of the Node itself.
pub(super) const OWN_VERSION: u8 = 11;
/// As [`NODE_POD`], of one that has an owner or labels that are kept.
pub(super) const OWNED_POD: u8 = 12;

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
            Object::Service(service) if service.distribution != Distribution::All => {
                self.service(NEAR_SERVICE, service);
                self.out.push(service.distribution as u8);
            }
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
                let is_owned = pod.owner.is_some() || !pod.labels.is_empty();
                self.out.push(if is_owned { OWNED_POD } else { NODE_POD });
                self.shared(&pod.id.namespace);
                self.once(&pod.id.name);
                self.addresses(&pod.addresses);
                self.out.push(u8::from(pod.host_network));
                self.number(pod.created);
                self.out.push(pod.dns.policy as u8);
                self.number(pod.dns.searches.len() as u64);
                pod.dns.searches.iter().for_each(|name| self.raw(name.as_bytes()));
                self.raw(&[u8::from(pod.dns.ndots.is_some()), pod.dns.ndots.unwrap_or(0)]);
                if is_owned {
                    self.optional(pod.owner.as_ref().map(|owner| &owner.kind));
                    self.optional(pod.owner.as_ref().map(|owner| &owner.name));
                    self.number(pod.labels.len() as u64);
                    for (key, value) in &pod.labels {
                        self.shared(key);
                        self.shared(value);
                    }
                }
            }
            Object::Node(node) => {
                self.out.push(NODE);
                self.once(&node.name);
                self.optional(node.zone.as_ref());
            }
        }
    }

    /// The version of this node's Pods, or of the Node; to be written first, if they are watched.
    pub(super) fn version(&mut self, kind: Kind, version: u64) {
        self.out.push(if kind == Kind::Node { OWN_VERSION } else { NODE_VERSION });
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
        let is_placed = |endpoint: &Endpoint| endpoint.place != Place::default();
        let has_places = slice.endpoints.iter().any(is_placed);
        self.out.push(if has_places { PLACED_SLICE } else { SLICE });
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
        if has_places {
            for Endpoint { place, .. } in &slice.endpoints {
                self.optional(place.zone.as_ref());
                self.optional(place.node.as_ref());
            }
        }
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
