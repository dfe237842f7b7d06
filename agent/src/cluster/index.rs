//! What is known of the cluster, kept as it is asked for.
//!
//! One task at a time applies what a source says ([`Index::apply`]); readers on every worker look up names and addresses
//! and never wait for it. Each Service with its slices is one immutable [`Group`] behind a hash table of small
//! copy-on-write shards ([`table`]); a change makes a new group and swaps one pointer.
//!
//! | module | what |
//! |---|---|
//! | [`table`] | the hash table that is read without waiting |
//! | [`slice`] | an EndpointSlice, packed: four octets for an endpoint without a name |
//! | [`group`] | a Service, its slices, and its addresses as they are answered |
//! | [`records`] | sets of address records, changed at the cost of what changes |
//! | [`nearby`] | a headless Service's endpoints by where they are |
//! | [`targets`] | endpoints merged over slices that may repeat each other |
//! | [`change`] | what the change of one slice means for its Service |
//! | [`sharded`] | a set that is copied at the cost of what changes in it |
//! | [`label`] | labels that are made of addresses |
//! | [`address`] | from addresses back to names |
//! | [`clients`] | from addresses to the Pods of this node |
//! | [`writer`] | what only the writer knows: who every object is, mark and sweep |
//! | [`shared`] | what many objects have in common, once |
//! | [`objects`] | the objects read back, for the snapshot |

pub mod address;
mod clients;
pub mod group;
pub mod label;
pub mod nearby;
pub mod records;
pub mod sharded;
pub mod slice;
pub mod targets;

mod change;
mod objects;
mod settings;
mod shared;
mod table;
mod writer;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;

use self::address::{Addresses, Prefix, Reason};
use self::clients::Clients;
use self::group::{Group, Key};
use self::label::Label;
pub use self::settings::Settings;
use self::slice::Slice;
use self::table::Table;
use self::targets::{Hasher, Target, Targets};
pub use self::writer::Seen;
use self::writer::Writer;
use super::object::{Distribution, Event, Kind, NodePod, Text};
use crate::clock::CoarseInstant;
use crate::wire::NameBuf;

/// How much is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Objects of each kind, in the order of [`Kind::ALL`].
    pub objects: [usize; Kind::ALL.len()],
    /// Ready endpoint addresses.
    pub endpoints: usize,
}

/// The index. One serves every `kubernetes` directive that watches the same source.
pub struct Index {
    settings: Settings,
    hasher: Hasher,
    groups: Table<Arc<Group>>,
    addresses: Addresses,
    namespaces: Table<Text>,
    pods: Table<Arc<Pod>>,
    clients: Clients,
    /// That of this node.
    zone: ArcSwapOption<Text>,
    synced: AtomicU8,
    changed: AtomicU32,
    changes: AtomicU64,
    // Seconds since 1970 when the coarse clock stood at zero, so that a jump of the wall clock moves no serial back.
    epoch: u64,
    objects: [AtomicUsize; Kind::ALL.len()],
    endpoints: AtomicUsize,
    writer: Mutex<Writer>,
}

/// A Pod, by its first address.
#[derive(Debug, PartialEq, Eq)]
struct Pod {
    address: IpAddr,
    namespace: Text,
    name: Box<str>,
}

impl Index {
    /// An empty index. Nothing is synced.
    pub fn new(settings: Settings) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let epoch = now.saturating_sub(CoarseInstant::now().as_millis() / 1_000);
        Self {
            settings,
            hasher: Hasher::default(),
            groups: Table::new(13),
            addresses: Addresses::new(),
            namespaces: Table::new(8),
            pods: Table::new(12),
            clients: Clients::new(),
            zone: ArcSwapOption::empty(),
            synced: AtomicU8::new(0),
            changed: AtomicU32::new(now as u32),
            changes: AtomicU64::new(0),
            epoch,
            objects: Default::default(),
            endpoints: AtomicUsize::new(0),
            writer: Mutex::default(),
        }
    }

    /// What it was told to keep.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes in one event. Readers see the change when this returns. Events come from one task at a time; should two
    /// call at once, one waits for the other.
    pub fn apply(&self, event: Event) {
        // A writer that panicked has changed at most one table; what it left is as good as a missed event.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.apply(self, event) {
            let now = self.epoch + CoarseInstant::now().as_millis() / 1_000;
            self.changed.store(now as u32, Ordering::Release);
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// Calls `read` with what is known below a Service; `wire` is the Service's and the namespace's label in lower-cased
    /// wire form, exactly as they stand in a question.
    pub fn group<R>(
        &self,
        wire: &[u8],
        imported: bool,
        read: impl FnOnce(&Group) -> R,
    ) -> Option<R> {
        let is = |group: &Arc<Group>| group.key.imported == imported && group.key.wire() == wire;
        self.groups.read(self.hash_of(wire, imported), is, |group| read(group))
    }

    /// Versions of a Service and of its slices, each with a name, for `nodens explain`. Waits for the writer.
    pub fn versions(&self, wire: &[u8], imported: bool) -> (Option<Seen>, Vec<(String, Seen)>) {
        let of = |group: &Group| (Arc::clone(&group.key), group.slices.clone());
        let found = self.group(wire, imported, of);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let slices = found.into_iter().flat_map(|(key, slices)| {
            let seen = |slice: &Arc<Slice>| {
                let seen = writer.seen_slice(self, slice, &key)?;
                Some((slice.name.to_string(), seen))
            };
            slices.iter().filter_map(seen).collect::<Vec<_>>()
        });
        let slices = slices.collect();
        (writer.seen_service(self, wire, imported), slices)
    }

    /// True where the Namespace is known; `label` is lower-case.
    pub fn has_namespace(&self, label: &[u8]) -> bool {
        self.namespaces.read(self.hash(label), |name| name.as_bytes() == label, |_| ()).is_some()
    }

    /// True where there is a Service of that name in the namespace; both are lower-case.
    pub fn has_service(&self, name: &[u8], namespace: &[u8]) -> bool {
        let mut labels = NameBuf::new();
        let made = labels.push_label(name).and_then(|()| labels.push_label(namespace));
        // As the two labels stand in a question.
        let wire = labels.as_name().as_bytes().split_last().map_or(&[][..], |(_, wire)| wire);
        made.is_ok() && self.group(wire, false, |group| group.service.is_some()).unwrap_or(false)
    }

    /// True where a Pod of this namespace has the address as its first; `namespace` is lower-case.
    pub fn has_pod(&self, address: IpAddr, namespace: &[u8]) -> bool {
        let is = |pod: &Arc<Pod>| pod.address == address && pod.namespace.as_bytes() == namespace;
        self.pods.read(self.hash(address), is, |_| ()).is_some()
    }

    /// Calls `read` with the Pod of this node that has the address. Without a lock or an allocation.
    pub fn client<R>(&self, address: IpAddr, read: impl FnOnce(&NodePod) -> R) -> Option<R> {
        self.clients.read(address, |pod, _| read(pod))
    }

    /// As [`Index::client`], with the time since when it is known that the Pod has the address.
    pub fn client_since<R>(
        &self,
        address: IpAddr,
        read: impl FnOnce(&NodePod, CoarseInstant) -> R,
    ) -> Option<R> {
        self.clients.read(address, read)
    }

    /// The zone of this node, where it is known.
    pub fn zone(&self) -> Option<Text> {
        self.zone.load().as_deref().cloned()
    }

    /// The parts of a headless Service to which clients of this node are to be led, the nearest first; none if nothing is
    /// near, or nothing is known.
    pub fn nearest<'g>(
        &self,
        group: &'g Group,
        of: Distribution,
    ) -> impl Iterator<Item = &'g Group> + use<'g> {
        let nearby = group.nearby().filter(|_| of != Distribution::All);
        let here = nearby.filter(|_| of == Distribution::SameNode).and_then(nearby::Nearby::here);
        let zone = self.zone.load();
        let zone = nearby.zip(zone.as_deref()).and_then(|(nearby, zone)| nearby.zone(zone));
        here.into_iter().chain(zone).map(|group| &**group)
    }

    /// Calls `visit` with every Service that has the address, as its own or by a ready endpoint, until it returns false.
    pub fn owners(&self, address: IpAddr, visit: impl FnMut(Reason, &Arc<Key>) -> bool) {
        self.addresses.owners(address, visit);
    }

    /// True where some Service has an address that begins like this, and goes on: for whole addresses ask
    /// [`Index::owners`].
    pub fn has_addresses_below(&self, prefix: Prefix) -> bool {
        self.addresses.any_below(prefix)
    }

    /// The merged target of this name; for readers within [`Index::group`].
    pub fn target<'g>(
        &self,
        targets: &'g Targets,
        label: Label<'_>,
        cluster: Option<&[u8]>,
    ) -> Option<&'g Target> {
        targets.find(&self.hasher, label, cluster)
    }

    /// The merged names of this address; for readers within [`Index::group`].
    pub fn target_address<'g>(
        &self,
        targets: &'g Targets,
        address: IpAddr,
    ) -> Option<&'g targets::Address> {
        targets.address(&self.hasher, address)
    }

    /// True once every one of `kinds` has been listed completely, since the start or by a snapshot.
    pub fn synced(&self, kinds: &[Kind]) -> bool {
        let synced = self.synced.load(Ordering::Acquire);
        kinds.iter().all(|&kind| synced & bit(kind) != 0)
    }

    /// The zone's serial: the second of the latest change, or the next one once that is over. Two different states that
    /// were each there for a second never bear the same serial, and it grows over restarts.
    pub fn serial(&self, now: CoarseInstant) -> u32 {
        let changed = self.changed.load(Ordering::Acquire);
        let now = (self.epoch + now.as_millis() / 1_000) as u32;
        changed.wrapping_add(u32::from(now > changed))
    }

    /// How many events have changed an answer; where it stands still, so does everything.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// How much is known.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            objects: std::array::from_fn(|n| {
                self.objects.get(n).map_or(0, |count| count.load(Ordering::Relaxed))
            }),
            endpoints: self.endpoints.load(Ordering::Relaxed),
        }
    }

    fn hash(&self, value: impl std::hash::Hash) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, value)
    }

    fn hash_of(&self, wire: &[u8], imported: bool) -> u64 {
        let hash = self.hash(wire);
        if imported { !hash } else { hash }
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("statistics", &self.statistics()).finish_non_exhaustive()
    }
}

fn bit(kind: Kind) -> u8 {
    1 << kind as u8
}

#[cfg(test)]
mod tests;
