//! Octets as lean objects: what [`super::codec`] writes, read with every bound.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::{Array, SmallVec};

use super::SnapshotError;
use super::codec::{
    END, FIRST, IMPORT, NAMESPACE, NEAR_SERVICE, NEW, NODE, NODE_POD, NODE_VERSION, ONCE,
    OWN_VERSION, OWNED_POD, PLACED_SLICE, POD, SERVICE, SLICE,
};
use crate::cluster::decode::{
    MAX_ADDRESSES, MAX_ENDPOINTS, MAX_LABEL_KEY, MAX_LABEL_PART, MAX_PLACE, MAX_POD_LABELS,
    MAX_PORTS, MAX_SEARCHES, is_label, is_object_name,
};
use crate::cluster::interner::Interner;
use crate::cluster::object::{
    Distribution, DnsPolicy, Endpoint, EndpointSlice, Kind, Namespace, Node, NodePod, Object,
    ObjectId, Place, Pod, PodDns, PodOwner, Port, Protocol, Service, ServiceKind, Text,
};
use crate::wire::{Name, NameRef};

fn bare_endpoint(octets: [u8; 4]) -> Endpoint {
    let addresses = SmallVec::from_buf([IpAddr::from(octets)]);
    Endpoint { addresses, hostname: None, pod: None, ready: true, place: Place::default() }
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

    /// The version of this node's Pods or of the Node, if one is written next.
    pub(super) fn version(&mut self) -> Result<Option<(Kind, u64)>> {
        let kind = match self.rest.first() {
            Some(&NODE_VERSION) => Kind::NodePod,
            Some(&OWN_VERSION) => Kind::Node,
            _ => return Ok(None),
        };
        self.octet()?;
        self.array().map(|version| Some((kind, u64::from_be_bytes(version))))
    }

    fn object(&mut self) -> Result<Option<Object>> {
        Ok(Some(match self.octet()? {
            END => return Ok(None),
            SERVICE => Object::Service(self.service()?),
            NEAR_SERVICE => {
                let service = self.service()?;
                Object::Service(Service { distribution: self.distribution()?, ..service })
            }
            IMPORT => Object::ServiceImport(self.service()?),
            SLICE => Object::EndpointSlice(self.slice(false)?),
            PLACED_SLICE => Object::EndpointSlice(self.slice(true)?),
            NAMESPACE => Object::Namespace(Namespace { name: self.label()? }),
            POD => {
                let id = ObjectId { namespace: self.label()?, name: self.object_name()? };
                Object::Pod(Pod { id, addresses: self.addresses()? })
            }
            NODE_POD => Object::NodePod(self.node_pod()?),
            OWNED_POD => {
                let pod = self.node_pod()?;
                Object::NodePod(NodePod { owner: self.owner()?, labels: self.labels()?, ..pod })
            }
            NODE => {
                Object::Node(Node { name: self.object_name()?, zone: self.optional(Self::place)? })
            }
            _ => return Err(SnapshotError::Malformed("kind of object")),
        }))
    }

    fn node_pod(&mut self) -> Result<NodePod> {
        Ok(NodePod {
            id: ObjectId { namespace: self.label()?, name: self.object_name()? },
            addresses: self.addresses()?,
            host_network: self.flag()?,
            created: self.number()?,
            dns: self.dns()?,
            owner: None,
            labels: Box::default(),
        })
    }

    fn owner(&mut self) -> Result<Option<PodOwner>> {
        let is_kind = |text: &str| text.len() <= MAX_LABEL_PART;
        let kind = if self.flag()? { Some(self.text(is_kind, "kind of owner")?) } else { None };
        let name = self.optional(Self::object_name)?;
        Ok(kind.zip(name).map(|(kind, name)| PodOwner { kind, name }))
    }

    fn labels(&mut self) -> Result<Box<[(Text, Text)]>> {
        let count = self.count(MAX_POD_LABELS, "number of labels")?;
        let part = |text: &str| text.len() <= MAX_LABEL_PART;
        let key = |text: &str| text.len() <= MAX_LABEL_KEY;
        (0..count).map(|_| Ok((self.text(key, "label")?, self.text(part, "label")?))).collect()
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
        Ok(Service {
            id,
            kind,
            ports: self.ports()?,
            publish_not_ready: self.flag()?,
            distribution: Distribution::All,
            version: 0,
        })
    }

    fn distribution(&mut self) -> Result<Distribution> {
        match self.octet()? {
            1 => Ok(Distribution::SameZone),
            2 => Ok(Distribution::SameNode),
            _ => Err(SnapshotError::Malformed("distribution")),
        }
    }

    /// A zone or a node.
    fn place(&mut self) -> Result<Text> {
        self.text(|text| (1..=MAX_PLACE).contains(&text.len()), "place")
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

    fn slice(&mut self, has_places: bool) -> Result<EndpointSlice> {
        let id = ObjectId { namespace: self.label()?, name: self.object_name()? };
        let service = self.label()?;
        let imported = self.flag()?;
        let cluster = self.optional(Self::label)?;
        let ports = self.ports()?;
        let count = self.count(MAX_SINGLE_ENDPOINTS, "number of endpoints")?;
        let is_bare = self.flag()?;
        let mut places = Vec::new();
        for _ in 0..if has_places { count } else { 0 } {
            let zone = self.optional(Self::place)?;
            places.push(Place { zone, node: self.optional(Self::place)? });
        }
        let mut endpoints: Vec<Endpoint> = if is_bare {
            let (addresses, _) = self.take(count * 4)?.as_chunks::<4>();
            addresses.iter().map(|&octets| bare_endpoint(octets)).collect()
        } else {
            (0..count).map(|_| self.endpoint()).collect::<Result<_>>()?
        };
        for (endpoint, place) in endpoints.iter_mut().zip(places) {
            endpoint.place = place;
        }
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
            place: Place::default(),
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
