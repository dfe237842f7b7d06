//! Everything that is known below one `<service>.<namespace>`: the Service, its slices, and its record sets as they are
//! answered.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::change::{Change, Difference, are_alike, rows_of, step};
use super::label::Label;
use super::nearby::{Nearby, Step};
use super::records::{
    A_LEN, AAAA_LEN, Records, address_at, addresses_in, octets, of_family, patch,
};
use super::sharded::{Counted, Sharded};
use super::slice::{Ports, Slice, octets_v4, octets_v6};
use super::targets::{Hasher, Targets};
use crate::cluster::object::{self, Distribution, Text};
use crate::wire::{Name, name::Labels};

/// The name of a Service within the zone's `svc`, kept once and pointed to.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    // Service and namespace as labels in wire form: exactly the octets that stand in a question.
    wire: Box<[u8]>,
    /// True for a ServiceImport and its slices.
    pub imported: bool,
}

impl Key {
    pub(super) fn new(namespace: &str, service: &str, imported: bool) -> Self {
        let mut wire = Vec::with_capacity(namespace.len() + service.len() + 2);
        for label in [service, namespace] {
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        Self { wire: wire.into(), imported }
    }

    /// Service and namespace as labels in wire form, without a final zero.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The Service's label.
    pub fn service(&self) -> &[u8] {
        Labels::of_prefix(&self.wire).next().unwrap_or(&[])
    }

    /// The namespace's label.
    pub fn namespace(&self) -> &[u8] {
        Labels::of_prefix(&self.wire).nth(1).unwrap_or(&[])
    }
}

/// What a Service resolves to.
#[derive(Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Virtual addresses; an endpoint is named only below them.
    ClusterIp,
    /// The addresses of its endpoints.
    Headless,
    /// Another name.
    ExternalName(Name),
    /// An ExternalName that is an address: no name in DNS at all.
    Unnamed(Name),
}

/// The Service itself, without name and addresses: most are like many others, and those share one.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// What it resolves to.
    pub kind: Kind,
    /// Its ports.
    pub ports: Ports,
    /// `publishNotReadyAddresses`; kept for whoever reads the objects back, the slices say already who is ready.
    pub publish_not_ready: bool,
    /// Which endpoints clients are to be led to, where the index keeps places.
    pub distribution: Distribution,
}

/// A Service with what belongs to it. Immutable: a change makes a new one.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub key: Arc<Key>,
    /// The Service; `None` while only slices are known.
    pub service: Option<Arc<Service>>,
    /// Its slices.
    pub slices: SmallVec<[Arc<Slice>; 1]>,
    /// What the slices have together.
    merged: Merged,
    /// Rows over all slices: ready addresses, those that several slices have counted each time.
    rows: u32,
    /// A records of the Service's own name, [`A_LEN`] octets each.
    pub a: Records,
    /// AAAA records of the Service's own name, [`AAAA_LEN`] octets each.
    pub aaaa: Records,
    /// Its endpoints by where they are, of a headless Service where the index keeps places.
    nearby: Option<Box<Nearby<Self>>>,
}

/// What the slices of a Service have together, so that no reader compares them.
#[derive(Debug)]
enum Merged {
    /// There is one slice at most. It repeats no name and no address, or all of its names are addresses.
    No,
    /// All names are addresses, and all slices have the same ports and cluster: a reader needs only the addresses, each once.
    /// The writer counts how many slices have each.
    Addresses(Arc<Sharded<Counted<IpAddr>>>),
    /// Anything else. It stays so until there are no slices, so that a change never has to merge all of them again.
    Targets(Arc<Targets>),
}

impl Service {
    pub(super) fn new(service: &object::Service, ports: Ports) -> Self {
        let object::Service { publish_not_ready, distribution, .. } = *service;
        Self { kind: kind(service), ports, publish_not_ready, distribution }
    }
}

impl Group {
    pub(super) fn new(key: Arc<Key>) -> Self {
        Self {
            key,
            service: None,
            slices: SmallVec::new(),
            merged: Merged::No,
            rows: 0,
            a: Records::new(),
            aaaa: Records::new(),
            nearby: None,
        }
    }

    /// True where nothing is known of it any more.
    pub(super) fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty()
    }

    /// The addresses of a ClusterIP Service, and of no other.
    pub fn cluster_ips(&self) -> SmallVec<[IpAddr; 2]> {
        let clustered =
            self.service.as_ref().is_some_and(|service| service.kind == Kind::ClusterIp);
        if clustered { addresses_in(&self.a, &self.aaaa).collect() } else { SmallVec::new() }
    }

    /// True where the Service is already known to say what `service` says.
    pub(super) fn says(&self, service: &object::Service) -> bool {
        let Some(known) = &self.service else { return false };
        let addresses_are_known = match &service.kind {
            object::ServiceKind::ClusterIp(addresses) => {
                let addresses = each_once(addresses);
                let (v4, v6) = (of_family(&addresses, octets_v4), of_family(&addresses, octets_v6));
                octets::<4>(&self.a).eq(v4) && octets::<16>(&self.aaaa).eq(v6)
            }
            _ => true,
        };
        addresses_are_known
            && known.kind == kind(service)
            && *known.ports == *service.ports
            && known.publish_not_ready == service.publish_not_ready
            && known.distribution == service.distribution
    }

    /// Ready addresses over all slices, those that several slices have counted each time.
    pub fn ready(&self) -> usize {
        self.rows as usize
    }

    /// Its endpoints by where they are; `None` where nothing is known of that.
    pub fn nearby(&self) -> Option<&Nearby<Self>> {
        self.nearby.as_deref()
    }

    /// The merged endpoints; `None` if no slice can repeat another: then [`Group::plain_ports`] are the ports of all.
    pub fn targets(&self) -> Option<&Targets> {
        if let Merged::Targets(targets) = &self.merged { Some(targets) } else { None }
    }

    /// The ports of all endpoints of a Service without [`Group::targets`].
    pub fn plain_ports(&self) -> Option<&Ports> {
        self.plain_slice().map(|slice| &slice.ports)
    }

    /// The cluster of all endpoints of a Service without [`Group::targets`].
    pub fn plain_cluster(&self) -> Option<&[u8]> {
        self.plain_slice().and_then(|slice| slice.cluster())
    }

    fn plain_slice(&self) -> Option<&Arc<Slice>> {
        self.slices.iter().find(|slice| !slice.is_empty())
    }

    /// Whether a headless Service has a ready endpoint with this address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        fn has<const LEN: usize, const N: usize>(records: &[u8], address: [u8; N]) -> bool {
            let (rows, _) = records.as_chunks::<LEN>();
            rows.binary_search_by(|row| row.last_chunk().cmp(&Some(&address))).is_ok()
        }
        match address {
            IpAddr::V4(v4) => has::<A_LEN, 4>(&self.a, v4.octets()),
            IpAddr::V6(v6) => has::<AAAA_LEN, 16>(&self.aaaa, v6.octets()),
        }
    }

    /// The endpoints of a headless Service without [`Group::targets`], each once, from some of them on.
    pub fn plain_endpoints(&self, start: usize) -> impl Iterator<Item = (Label<'_>, IpAddr)> {
        let named = self.plain_slice().filter(|slice| !slice.is_named_by_address());
        let (v4, v6) = (self.a.len() / A_LEN, self.aaaa.len() / AAAA_LEN);
        let total = named.map_or(v4 + v6, |slice| slice.len());
        let first = start.checked_rem(total).unwrap_or(0);
        (first..total).chain(0..first).filter_map(move |row| match named {
            Some(slice) => Some((slice.label(row)?, slice.address(row)?)),
            None => {
                let address = match row.checked_sub(v4) {
                    None => address_at::<4>(&self.a, row),
                    Some(row) => address_at::<16>(&self.aaaa, row),
                }?;
                Some((Label::Address(address), address))
            }
        })
    }

    /// The address of the endpoint with this label, of a Service without [`Group::targets`].
    pub fn plain_endpoint(&self, label: Label<'_>, cluster: Option<&[u8]>) -> Option<IpAddr> {
        let by_address = self.plain_slice().filter(|slice| slice.is_named_by_address());
        if let (Label::Address(address), Some(slice)) = (label, by_address)
            && self.service.as_ref().is_some_and(|service| service.kind == Kind::Headless)
        {
            // However many slices there are: their addresses are the Service's.
            return (slice.cluster() == cluster && self.has_address(address)).then_some(address);
        }
        let in_cluster = self.slices.iter().filter(|slice| slice.cluster() == cluster);
        in_cluster.into_iter().find_map(|slice| {
            if let (Label::Address(address), true) = (label, slice.is_named_by_address()) {
                return (!slice.rows_of(address).is_empty()).then_some(address);
            }
            let row = slice.rows_with(label).next()?;
            slice.address(row)
        })
    }

    /// The label of the endpoint with this address, of a Service without [`Group::targets`].
    pub fn plain_label(&self, address: IpAddr) -> Option<Label<'_>> {
        self.slices.iter().find_map(|slice| slice.label(slice.rows_of(address).next()?))
    }

    /// The same with another Service, and its record sets.
    pub(super) fn with_service(
        &self,
        hasher: &Hasher,
        service: Option<&object::Service>,
        shared: Option<Arc<Service>>,
    ) -> Self {
        let mut new = self.without_records();
        new.service = shared;
        let addresses: Vec<IpAddr> = match service.map(|service| &service.kind) {
            Some(object::ServiceKind::ClusterIp(addresses)) => each_once(addresses),
            Some(object::ServiceKind::Headless) => {
                let all = |slice: &Slice| {
                    (0..slice.len()).filter_map(|row| slice.address(row)).collect::<Vec<_>>()
                };
                let mut addresses: Vec<IpAddr> =
                    self.slices.iter().flat_map(|slice| all(slice)).collect();
                addresses.sort_unstable();
                addresses.dedup();
                addresses
            }
            _ => Vec::new(),
        };
        new.a = patch(&[], &[], &of_family(&addresses, octets_v4));
        new.aaaa = patch(&[], &[], &of_family(&addresses, octets_v6));
        for slice in &self.slices {
            new.nearby = new.nearby_after(Step { hasher, name: &slice.name, new: Some(slice) });
        }
        new
    }

    /// The same with `new` in the place of the slice of this `name`, or without it; and which addresses that changes.
    pub(super) fn with_slice(
        &self,
        hasher: &Hasher,
        name: &str,
        new: Option<Arc<Slice>>,
    ) -> (Self, Difference) {
        let mut group = self.without_records();
        let at = group.slices.iter().position(|slice| &*slice.name == name);
        let old = at.map(|at| group.slices.remove(at));
        let merged = group.merged_without(hasher, old.as_ref(), new.as_ref());
        let rows = |slice: &Option<Arc<Slice>>| slice.as_ref().map_or(0, |slice| slice.len());
        group.rows = (self.ready() + rows(&new)).saturating_sub(rows(&old)) as u32;
        let difference;
        (group.merged, difference) = merged;
        group.nearby = self.nearby_after(Step { hasher, name, new: new.as_deref() });
        if let Some(new) = new {
            group.slices.insert(at.unwrap_or(group.slices.len()), new);
        }
        if group.slices.is_empty() {
            group.merged = Merged::No;
        }
        if group.service.as_ref().is_some_and(|service| service.kind == Kind::Headless) {
            let Difference { gone, come } = &difference;
            group.a = patch(&self.a, &of_family(gone, octets_v4), &of_family(come, octets_v4));
            group.aaaa =
                patch(&self.aaaa, &of_family(gone, octets_v6), &of_family(come, octets_v6));
        } else {
            (group.a, group.aaaa) = (Records::from_slice(&self.a), Records::from_slice(&self.aaaa));
        }
        (group, difference)
    }

    /// Its endpoints by where they are, after a slice has changed.
    fn nearby_after(&self, step: Step<'_>) -> Option<Box<Nearby<Self>>> {
        let is_headless =
            self.service.as_ref().is_some_and(|service| service.kind == Kind::Headless);
        if !is_headless || self.key.imported {
            return None;
        }
        Nearby::after(self.nearby(), step, |part, slice| self.part_after(part, slice, step))
    }

    /// A part of it with `slice` in the place of the one of that name; `None`: nothing is left of it. What has not changed is
    /// not made again.
    fn part_after(
        &self,
        part: Option<&Arc<Self>>,
        slice: Option<Slice>,
        step: Step<'_>,
    ) -> Option<Arc<Self>> {
        let old = part.and_then(|part| part.slices.iter().find(|slice| &*slice.name == step.name));
        if old.map(|old| &**old) == slice.as_ref() {
            return part.map(Arc::clone);
        }
        let empty = || {
            let service = self.service.clone();
            Arc::new(Self { service, ..Self::new(Arc::clone(&self.key)) })
        };
        let part = part.map_or_else(empty, Arc::clone);
        let (part, _) = part.with_slice(step.hasher, step.name, slice.map(Arc::new));
        (!part.slices.is_empty()).then(|| Arc::new(part))
    }

    /// What the slices have together once `new` is in the place of `old`, which has been taken out of them.
    fn merged_without(
        &self,
        hasher: &Hasher,
        old: Option<&Arc<Slice>>,
        new: Option<&Arc<Slice>>,
    ) -> (Merged, Difference) {
        let change = Change::of(old.map(|slice| &**slice), new.map(|slice| &**slice));
        let all = || self.slices.iter().chain(new);
        match &self.merged {
            Merged::Targets(targets) => {
                let (targets, difference) = change.of_targets(hasher, Targets::clone(targets));
                (Merged::Targets(Arc::new(targets)), difference)
            }
            _ if !are_alike(all()) => {
                let mut targets = Targets::default();
                for slice in self.slices.iter().chain(old) {
                    rows_of(slice).for_each(|row| targets.step(hasher, &row, true));
                }
                let (targets, difference) = change.of_targets(hasher, targets);
                (Merged::Targets(Arc::new(targets)), difference)
            }
            _ if self.slices.is_empty() => (Merged::No, change.alone()),
            merged => {
                let mut addresses = match merged {
                    Merged::Addresses(addresses) => Sharded::clone(addresses),
                    _ => {
                        let mut addresses = Sharded::default();
                        let before = self.slices.iter().chain(old).flat_map(|slice| rows_of(slice));
                        before.for_each(|row| {
                            step(hasher, &mut addresses, row.address, true);
                        });
                        addresses
                    }
                };
                let difference = change.of_addresses(hasher, &mut addresses);
                (Merged::Addresses(Arc::new(addresses)), difference)
            }
        }
    }

    fn without_records(&self) -> Self {
        Self {
            key: Arc::clone(&self.key),
            service: self.service.clone(),
            slices: self.slices.clone(),
            merged: match &self.merged {
                Merged::No => Merged::No,
                Merged::Addresses(addresses) => Merged::Addresses(Arc::clone(addresses)),
                Merged::Targets(targets) => Merged::Targets(Arc::clone(targets)),
            },
            rows: self.rows,
            a: Records::new(),
            aaaa: Records::new(),
            nearby: None,
        }
    }
}

/// The Service's lower-cased text as an interned string would have it.
pub(super) fn text(label: &[u8]) -> Text {
    String::from_utf8_lossy(label).into()
}

fn kind(service: &object::Service) -> Kind {
    match &service.kind {
        object::ServiceKind::ClusterIp(_) => Kind::ClusterIp,
        object::ServiceKind::Headless => Kind::Headless,
        object::ServiceKind::ExternalName(name) => {
            let text = name.to_string();
            let address = text.trim_end_matches('.').parse::<IpAddr>();
            if address.is_ok() {
                Kind::Unnamed(name.clone())
            } else {
                Kind::ExternalName(name.clone())
            }
        }
    }
}

/// The addresses in their order without repetitions. The API server allows two; a folder may hold anything.
fn each_once(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut once: Vec<IpAddr> = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !once.contains(address) {
            once.push(*address);
        }
    }
    once
}
