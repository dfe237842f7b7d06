//! The endpoints of a Service merged over its slices: each name once, with its addresses and its ports.
//!
//! Slices may repeat each other, within themselves too: an address in two slices while an endpoint moves between them, a
//! hostname with an address of each family, or anything else that a client of the API writes. What repeats is found here, by
//! the writer, so that a reader never compares rows. A change costs as much as the rows that differ; a read as much as it
//! answers. Kept only for Services that may have repetitions (see [`super::group::Group`]).

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::label::Label;
use super::sharded::{Counted, Sharded};
use super::slice::{Ports, Slice};

/// The index's hasher, keyed at random, since clients of the API choose the names.
pub(super) type Hasher = foldhash::fast::RandomState;

/// The merged endpoints.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    names: Sharded<Arc<Target>>,
    addresses: ByFamily<Arc<Address>>,
    ports: PortLists,
    /// What has each list of ports. Empty until there are two lists, and then as long as `ports`.
    lists: Vec<Arc<OfPorts>>,
}

/// Addresses, or what has them, by family: a question is for one of them.
#[derive(Clone, Debug)]
pub struct ByFamily<T> {
    v4: Sharded<T>,
    v6: Sharded<T>,
}

impl<T> Default for ByFamily<T> {
    fn default() -> Self {
        Self { v4: Sharded::default(), v6: Sharded::default() }
    }
}

impl<T: Clone> ByFamily<T> {
    /// Those of one family.
    pub fn of(&self, is_v6: bool) -> &Sharded<T> {
        if is_v6 { &self.v6 } else { &self.v4 }
    }

    fn of_mut(&mut self, is_v6: bool) -> &mut Sharded<T> {
        if is_v6 { &mut self.v6 } else { &mut self.v4 }
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// What has one list of ports.
#[derive(Clone, Debug)]
pub struct OfPorts {
    /// The list.
    pub ports: Ports,
    names: Sharded<Counted<Arc<Named>>>,
    addresses: ByFamily<Counted<IpAddr>>,
}

impl OfPorts {
    /// How many names have it.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True if none has it.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether an address of this family has it.
    pub fn has_family(&self, is_v6: bool) -> bool {
        !self.addresses.of(is_v6).is_empty()
    }

    /// The names that have it: labels and clusters, from some of them on.
    pub fn names_from(&self, start: usize) -> impl Iterator<Item = (Label<'_>, Option<&[u8]>)> {
        self.names.iter_from(start).map(|name| (name.value.label(), name.value.cluster.as_deref()))
    }

    /// The addresses of one family that have it, from some of them on.
    pub fn addresses_from(&self, is_v6: bool, start: usize) -> impl Iterator<Item = IpAddr> {
        self.addresses.of(is_v6).iter_from(start).map(|address| address.value)
    }

    fn step(&mut self, hasher: &Hasher, name: &Arc<Named>, address: IpAddr, more: bool) {
        self.names.change(
            hasher.hash_one((name.label(), name.cluster.as_deref())),
            |known| known.value == *name,
            || more.then(|| Counted::new(Arc::clone(name))),
            |known| known.step(more) > 0,
        );
        self.addresses.of_mut(address.is_ipv6()).change(
            hasher.hash_one(address),
            |known| known.value == address,
            || more.then(|| Counted::new(address)),
            |known| known.step(more) > 0,
        );
    }
}

/// One name with all that it has.
#[derive(Clone, Debug)]
pub struct Target {
    name: Arc<Named>,
    /// Its addresses.
    pub addresses: ByFamily<WithPorts<IpAddr>>,
    /// The ports of its slices.
    pub ports: PortLists,
}

/// Something that slices have, with their ports.
#[derive(Clone, Debug)]
pub struct WithPorts<T> {
    /// What they have.
    pub value: T,
    /// The ports of these slices.
    pub ports: PortLists,
}

/// One address with all that it has.
#[derive(Clone, Debug)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    names: Sharded<Counted<Arc<Named>>>,
    /// The ports of its slices.
    pub ports: PortLists,
}

/// The name of an endpoint below its Service.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    own: Option<Box<[u8]>>,
    /// What the name is made of if it is not its own.
    address: IpAddr,
    cluster: Option<Box<[u8]>>,
}

impl Named {
    fn of(row: &Row<'_>) -> Self {
        let (own, address) = match row.label {
            Label::Own(text) => (Some(text.into()), row.address),
            Label::Address(address) => (None, address),
        };
        Self { own, address, cluster: row.cluster.map(Into::into) }
    }

    fn label(&self) -> Label<'_> {
        self.own.as_deref().map_or(Label::Address(self.address), Label::Own)
    }

    fn is(&self, label: Label<'_>, cluster: Option<&[u8]>) -> bool {
        self.label() == label && self.cluster.as_deref() == cluster
    }
}

/// Distinct port lists, each with the number of rows that have it. Hardly any Service has two.
#[derive(Clone, Debug, Default)]
pub struct PortLists(SmallVec<[(Ports, u32); 1]>);

impl PortLists {
    /// The lists, each with its number of rows.
    pub fn iter(&self) -> impl Iterator<Item = (&Ports, usize)> + Clone {
        self.0.iter().map(|(ports, rows)| (ports, *rows as usize))
    }

    /// Counts one row more or less; false if there is none any more.
    fn step(&mut self, ports: &Ports, more: bool) -> bool {
        // Equal lists are kept once, so that they are the same pointer.
        match self.0.iter_mut().position(|(known, _)| Arc::ptr_eq(known, ports)) {
            Some(at) => {
                if let Some((_, rows)) = self.0.get_mut(at) {
                    *rows = if more { *rows + 1 } else { rows.saturating_sub(1) };
                    if *rows == 0 {
                        self.0.swap_remove(at);
                    }
                }
            }
            None if more => self.0.push((Arc::clone(ports), 1)),
            None => {}
        }
        !self.0.is_empty()
    }
}

/// A row of a slice, with what is the slice's.
#[derive(Clone, Copy)]
pub(super) struct Row<'s> {
    pub(super) address: IpAddr,
    label: Label<'s>,
    cluster: Option<&'s [u8]>,
    ports: &'s Ports,
}

impl<'s> Row<'s> {
    pub(super) fn of(slice: &'s Slice, row: usize) -> Option<Self> {
        let address = slice.address(row)?;
        let label = slice.label(row)?;
        Some(Self { address, label, cluster: slice.cluster(), ports: &slice.ports })
    }
}

impl Target {
    /// Its label.
    pub fn label(&self) -> Label<'_> {
        self.name.label()
    }

    /// The cluster that it is in, of an import.
    pub fn cluster(&self) -> Option<&[u8]> {
        self.name.cluster.as_deref()
    }
}

impl Address {
    /// The names that have it: labels and clusters.
    pub fn names(&self) -> impl Iterator<Item = (Label<'_>, Option<&[u8]>)> {
        self.names.iter_from(0).map(|name| (name.value.label(), name.value.cluster.as_deref()))
    }
}

impl Targets {
    /// How many rows of slices have each list of ports.
    pub fn ports(&self) -> &PortLists {
        &self.ports
    }

    /// The target of this name.
    pub(super) fn find(
        &self,
        hasher: &Hasher,
        label: Label<'_>,
        cluster: Option<&[u8]>,
    ) -> Option<&Target> {
        let hash = hasher.hash_one((label, cluster));
        self.names.find(hash, |target| target.name.is(label, cluster)).map(|target| &**target)
    }

    /// All targets, from some of them on.
    pub fn iter_from(&self, start: usize) -> impl Iterator<Item = &Target> {
        self.names.iter_from(start).map(|target| &**target)
    }

    /// The lists of ports by what has them, if there is more than one.
    pub fn lists(&self) -> &[Arc<OfPorts>] {
        &self.lists
    }

    /// What has this address.
    pub(super) fn address(&self, hasher: &Hasher, address: IpAddr) -> Option<&Address> {
        let known = self.addresses.of(address.is_ipv6());
        let is = |known: &Arc<Address>| known.address == address;
        known.find(hasher.hash_one(address), is).map(|known| &**known)
    }

    /// All addresses of one family, from some of them on.
    pub fn addresses_from(&self, is_v6: bool, start: usize) -> impl Iterator<Item = &Address> {
        self.addresses.of(is_v6).iter_from(start).map(|address| &**address)
    }

    /// Adds a row, or takes one away that was added before.
    pub(super) fn step(&mut self, hasher: &Hasher, row: &Row<'_>, more: bool) {
        let name = self.step_name(hasher, row, more);
        if let Some(name) = name {
            self.step_address(hasher, row, &name, more);
            self.step_list(hasher, row, &name, more);
        }
    }

    fn step_name(&mut self, hasher: &Hasher, row: &Row<'_>, more: bool) -> Option<Arc<Named>> {
        let mut name = None;
        self.names.change(
            hasher.hash_one((row.label, row.cluster)),
            |target| target.name.is(row.label, row.cluster),
            || {
                let (addresses, ports) = Default::default();
                more.then(|| Arc::new(Target { name: Arc::new(Named::of(row)), addresses, ports }))
            },
            |target| {
                let target = Arc::make_mut(target);
                target.ports.step(row.ports, more);
                target.addresses.of_mut(row.address.is_ipv6()).change(
                    hasher.hash_one(row.address),
                    |known| known.value == row.address,
                    || more.then(|| WithPorts { value: row.address, ports: PortLists::default() }),
                    |known| known.ports.step(row.ports, more),
                );
                name = Some(Arc::clone(&target.name));
                !target.addresses.is_empty()
            },
        );
        name
    }

    fn step_address(&mut self, hasher: &Hasher, row: &Row<'_>, name: &Arc<Named>, more: bool) {
        self.addresses.of_mut(row.address.is_ipv6()).change(
            hasher.hash_one(row.address),
            |known| known.address == row.address,
            || {
                let (names, ports) = Default::default();
                more.then(|| Arc::new(Address { address: row.address, names, ports }))
            },
            |known| {
                let known = Arc::make_mut(known);
                known.ports.step(row.ports, more);
                known.names.change(
                    hasher.hash_one((row.label, row.cluster)),
                    |other| other.value == *name,
                    || more.then(|| Counted::new(Arc::clone(name))),
                    |other| other.step(more) > 0,
                );
                !known.names.is_empty()
            },
        );
    }

    fn step_list(&mut self, hasher: &Hasher, row: &Row<'_>, name: &Arc<Named>, more: bool) {
        self.ports.step(row.ports, more);
        if self.lists.is_empty() && self.ports.0.len() > 1 {
            // The first row of a second list: the others are counted now, with this one.
            return self.split(hasher);
        }
        if self.lists.is_empty() {
            return;
        }
        let at = self.lists.iter().position(|list| Arc::ptr_eq(&list.ports, row.ports));
        if at.is_none() && more {
            let (names, addresses) = Default::default();
            self.lists.push(Arc::new(OfPorts { ports: Arc::clone(row.ports), names, addresses }));
        }
        let at = at.unwrap_or(self.lists.len().saturating_sub(1));
        if let Some(list) = self.lists.get_mut(at).map(Arc::make_mut) {
            list.step(hasher, name, row.address, more);
            if list.is_empty() {
                self.lists.swap_remove(at);
            }
        }
    }

    fn split(&mut self, hasher: &Hasher) {
        let new = |(ports, _): (&Ports, usize)| {
            let (names, addresses) = Default::default();
            OfPorts { ports: Arc::clone(ports), names, addresses }
        };
        let mut lists: Vec<OfPorts> = self.ports.iter().map(new).collect();
        for target in self.names.iter_from(0) {
            let families = [&target.addresses.v4, &target.addresses.v6];
            for known in families.into_iter().flat_map(|family| family.iter_from(0)) {
                for (ports, rows) in known.ports.iter() {
                    let list = lists.iter_mut().find(|list| Arc::ptr_eq(&list.ports, ports));
                    let Some(list) = list else { continue };
                    (0..rows).for_each(|_| list.step(hasher, &target.name, known.value, true));
                }
            }
        }
        self.lists = lists.into_iter().map(Arc::new).collect();
    }
}
