//! What only the writer knows: every object by its id, which list last held it, and port lists that many share.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::{HashMap, HashTable};

use super::address::{Counts, Reason};
use super::change::Difference;
use super::clients::ClientWriter;
use super::group::{Group, Key};
use super::shared::Shared;
use super::slice::Slice;
use super::{Index, Pod, bit};
use crate::clock::CoarseInstant;
use crate::cluster::object::{
    EndpointSlice, Event, Kind, NodePod, Object, ObjectId, PerKind, Pod as PodObject, Service, Text,
};

/// The writer's state.
#[derive(Default)]
pub(super) struct Writer {
    services: HashTable<Known<Arc<Key>>>,
    slices: HashTable<Known<(Arc<Slice>, Arc<Key>)>>,
    namespaces: HashMap<Text, u32>,
    pods: HashTable<Known<Arc<Pod>>>,
    pub(super) clients: ClientWriter,
    shared: Shared,
    counts: Counts,
    // The list that is going on, or was last; objects that an older one held last are gone when it is done.
    lists: PerKind<u32>,
    // Which one last held the Node, while it is known.
    node_list: Option<u32>,
}

/// An object, and the list that last held it.
struct Known<T> {
    object: T,
    list: u32,
    seen: Seen,
}

/// Which version of an object is known, and since when it has been as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its `resourceVersion`; 0 if that is not known.
    pub version: u64,
    /// Seconds of [`CoarseInstant`] at which it was last taken in with a change.
    changed: u32,
}

impl Seen {
    fn now(version: u64) -> Self {
        Self { version, changed: seconds(CoarseInstant::now()) }
    }

    /// For how many seconds it has been as it is.
    pub fn unchanged_for(self) -> u32 {
        seconds(CoarseInstant::now()).saturating_sub(self.changed)
    }
}

fn seconds(at: CoarseInstant) -> u32 {
    (at.as_millis() / 1_000) as u32
}

impl Writer {
    /// Takes in one event; true where an answer may have changed.
    pub(super) fn apply(&mut self, index: &Index, event: Event) -> bool {
        match event {
            Event::Apply(Object::Service(service)) => self.put_service(index, &service, false),
            Event::Apply(Object::ServiceImport(service)) => self.put_service(index, &service, true),
            Event::Apply(Object::EndpointSlice(slice)) => self.put_slice(index, &slice),
            Event::Apply(Object::Namespace(namespace)) => self.put_namespace(index, namespace.name),
            Event::Apply(Object::Pod(pod)) => self.put_pod(index, &pod),
            Event::Apply(Object::NodePod(pod)) => self.put_client(index, pod),
            Event::Apply(Object::Node(node)) => self.put_node(index, node.zone),
            Event::Delete(kind, id) => self.delete(index, kind, &id),
            Event::Init(kind) => {
                *self.list_of(kind) += 1;
                if kind == Kind::NodePod {
                    self.clients.set_listing(true);
                }
                false
            }
            Event::InitDone(kind) => {
                let swept = self.sweep(index, kind);
                if kind == Kind::NodePod {
                    self.clients.set_listing(false);
                }
                let before = index.synced.fetch_or(bit(kind), Ordering::AcqRel);
                swept || before & bit(kind) == 0
            }
        }
    }

    /// What is known of a Service's version; `key` is its name as in a question.
    pub(super) fn seen_service(&self, index: &Index, key: &[u8], imported: bool) -> Option<Seen> {
        let is = |known: &Known<Arc<Key>>| {
            known.object.wire() == key && known.object.imported == imported
        };
        self.services.find(index.hash_of(key, imported), is).map(|known| known.seen)
    }

    /// What is known of a slice's version.
    pub(super) fn seen_slice(&self, index: &Index, slice: &Slice, key: &Key) -> Option<Seen> {
        let is = |known: &Known<(Arc<Slice>, Arc<Key>)>| {
            *known.object.1 == *key && known.object.0.name == slice.name
        };
        self.slices.find(slice_hash(index, key.namespace(), &slice.name), is).map(|k| k.seen)
    }

    fn list_of(&mut self, kind: Kind) -> &mut u32 {
        self.lists.of_mut(kind)
    }

    /// Whether the Node is known.
    pub(super) fn knows_node(&self) -> bool {
        self.node_list.is_some()
    }

    fn put_service(&mut self, index: &Index, service: &Service, imported: bool) -> bool {
        let kind = if imported { Kind::ServiceImport } else { Kind::Service };
        let list = *self.list_of(kind);
        let key = Key::new(&service.id.namespace, &service.id.name, imported);
        let hash = index.hash_of(key.wire(), imported);
        let group = index.groups.read(hash, |group| *group.key == key, Arc::clone);
        if group.as_ref().is_some_and(|group| group.says(service)) {
            if let Some(known) = self.services.find_mut(hash, |known| *known.object == key) {
                known.list = list;
                known.seen.version = service.version;
            }
            return false;
        }
        let group = group.unwrap_or_else(|| Arc::new(Group::new(Arc::new(key))));
        match self.services.find_mut(hash, |known| known.object == group.key) {
            Some(known) => {
                known.list = list;
                known.seen = Seen::now(service.version);
            }
            None => {
                let seen = Seen::now(service.version);
                let known = Known { object: Arc::clone(&group.key), list, seen };
                self.services.insert_unique(hash, known, |known| {
                    index.hash_of(known.object.wire(), known.object.imported)
                });
                count(index, kind, 1);
            }
        }
        let shape = self.shared.shape(service);
        let new = group.with_service(&index.hasher, Some(service), Some(shape));
        self.publish(index, &group, new, None);
        true
    }

    fn put_slice(&mut self, index: &Index, slice: &EndpointSlice) -> bool {
        let kind = if slice.imported { Kind::ImportedSlice } else { Kind::EndpointSlice };
        let list = *self.list_of(kind);
        let ports = self.shared.ports(&slice.ports);
        let packed = Arc::new(Slice::pack(slice, ports, &index.settings));
        let hash = slice_hash(index, slice.id.namespace.as_bytes(), &slice.id.name);
        let is = |known: &Known<(Arc<Slice>, Arc<Key>)>| {
            is_slice(&known.object, &slice.id, slice.imported)
        };
        let belongs = |key: &Key| key.service() == slice.service.as_bytes();
        let mut moved = None;
        match self.slices.find_mut(hash, is) {
            Some(known) => {
                known.list = list;
                known.seen.version = slice.version;
                if belongs(&known.object.1) {
                    if known.object.0 == packed {
                        return false;
                    }
                    known.seen = Seen::now(slice.version);
                    known.object.0 = Arc::clone(&packed);
                } else {
                    let key = key_of(index, slice);
                    known.seen = Seen::now(slice.version);
                    moved = Some(std::mem::replace(&mut known.object, (Arc::clone(&packed), key)));
                }
            }
            None => {
                let object = (Arc::clone(&packed), key_of(index, slice));
                let known = Known { object, list, seen: Seen::now(slice.version) };
                self.slices.insert_unique(hash, known, |known| {
                    slice_hash(index, known.object.1.namespace(), &known.object.0.name)
                });
                count(index, kind, 1);
            }
        }
        if let Some((_, key)) = moved {
            self.change_slice(index, &key, &slice.id.name, None);
        }
        let key = self.slices.find(hash, is).map(|known| Arc::clone(&known.object.1));
        if let Some(key) = key {
            self.change_slice(index, &key, &slice.id.name, Some(packed));
        }
        true
    }

    fn put_namespace(&mut self, index: &Index, name: Text) -> bool {
        let list = *self.list_of(Kind::Namespace);
        if self.namespaces.insert(name.clone(), list).is_some() {
            return false;
        }
        index.namespaces.put(index.hash(name.as_bytes()), |known| *known == name, name.clone());
        count(index, Kind::Namespace, 1);
        if index.settings.known_namespaces {
            let counts = &mut self.counts;
            index.addresses_of(&name, |address, reason, key| {
                index.addresses.add(counts, address, reason, key);
            });
        }
        true
    }

    fn put_pod(&mut self, index: &Index, pod: &PodObject) -> bool {
        let list = *self.list_of(Kind::Pod);
        let hash = index.hash((pod.id.namespace.as_bytes(), pod.id.name.as_bytes()));
        let Some(&address) = pod.addresses.first() else {
            return self.delete(index, Kind::Pod, &pod.id);
        };
        let new = Arc::new(Pod {
            address,
            namespace: pod.id.namespace.clone(),
            name: (&*pod.id.name).into(),
        });
        let old = match self.pods.find_mut(hash, |known| is_pod(&known.object, &pod.id)) {
            Some(known) => {
                known.list = list;
                if known.object == new {
                    return false;
                }
                Some(std::mem::replace(&mut known.object, Arc::clone(&new)))
            }
            None => {
                let known = Known { object: Arc::clone(&new), list, seen: Seen::now(0) };
                self.pods.insert_unique(hash, known, |known| pod_hash(index, &known.object));
                count(index, Kind::Pod, 1);
                None
            }
        };
        if let Some(old) = old {
            index.pods.remove(index.hash(old.address), |pod| *pod == old);
        }
        index.pods.put(index.hash(address), |pod| *pod == new, Arc::clone(&new));
        true
    }

    /// Clients are no part of any answer: false.
    fn put_client(&mut self, index: &Index, pod: NodePod) -> bool {
        let list = *self.list_of(Kind::NodePod);
        if self.clients.put(&index.clients, pod, list) {
            count(index, Kind::NodePod, 1);
        }
        false
    }

    fn put_node(&mut self, index: &Index, zone: Option<Text>) -> bool {
        let list = *self.list_of(Kind::Node);
        if self.node_list.replace(list).is_none() {
            count(index, Kind::Node, 1);
        }
        let is_new = index.zone() != zone;
        index.zone.store(zone.map(Arc::new));
        is_new
    }

    fn forget_node(&mut self, index: &Index) -> bool {
        let is_known = self.node_list.take().is_some();
        if is_known {
            count(index, Kind::Node, -1);
            index.zone.store(None);
        }
        is_known
    }

    fn delete(&mut self, index: &Index, kind: Kind, id: &ObjectId) -> bool {
        match kind {
            Kind::Service | Kind::ServiceImport => {
                let key = Key::new(&id.namespace, &id.name, kind == Kind::ServiceImport);
                let hash = index.hash_of(key.wire(), key.imported);
                let Ok(entry) = self.services.find_entry(hash, |known| *known.object == key) else {
                    return false;
                };
                let (known, _) = entry.remove();
                self.forget_service(index, &known.object);
            }
            Kind::EndpointSlice | Kind::ImportedSlice => {
                let imported = kind == Kind::ImportedSlice;
                let hash = slice_hash(index, id.namespace.as_bytes(), &id.name);
                let is = |known: &Known<_>| is_slice(&known.object, id, imported);
                let Ok(entry) = self.slices.find_entry(hash, is) else { return false };
                let (Known { object: (slice, key), .. }, _) = entry.remove();
                self.forget_slice(index, &slice, &key);
            }
            Kind::Namespace => {
                if self.namespaces.remove(&id.name).is_none() {
                    return false;
                }
                forget_namespace(index, &mut self.counts, &id.name);
            }
            Kind::Pod => {
                let hash = index.hash((id.namespace.as_bytes(), id.name.as_bytes()));
                let Ok(entry) = self.pods.find_entry(hash, |known| is_pod(&known.object, id))
                else {
                    return false;
                };
                let (known, _) = entry.remove();
                forget_pod(index, &known.object);
            }
            Kind::NodePod => {
                if self.clients.delete(&index.clients, id) {
                    count(index, Kind::NodePod, -1);
                }
                return false;
            }
            Kind::Node => return self.forget_node(index),
        }
        true
    }

    /// Forgets what the list that ends did not hold; true where there was any.
    fn sweep(&mut self, index: &Index, kind: Kind) -> bool {
        let list = *self.list_of(kind);
        let mut swept = 0;
        match kind {
            Kind::Service | Kind::ServiceImport => {
                let imported = kind == Kind::ServiceImport;
                let old = |known: &mut Known<Arc<Key>>| {
                    known.object.imported == imported && known.list != list
                };
                let gone: Vec<_> = self.services.extract_if(old).collect();
                swept = gone.len();
                gone.iter().for_each(|known| self.forget_service(index, &known.object));
            }
            Kind::EndpointSlice | Kind::ImportedSlice => {
                let imported = kind == Kind::ImportedSlice;
                let old = |known: &mut Known<(Arc<Slice>, Arc<Key>)>| {
                    known.object.1.imported == imported && known.list != list
                };
                let gone: Vec<_> = self.slices.extract_if(old).collect();
                swept = gone.len();
                gone.iter()
                    .for_each(|known| self.forget_slice(index, &known.object.0, &known.object.1));
            }
            Kind::Namespace => self.namespaces.retain(|name, seen| {
                let stays = *seen == list;
                if !stays {
                    forget_namespace(index, &mut self.counts, name);
                    swept += 1;
                }
                stays
            }),
            Kind::Pod => self.pods.retain(|known| {
                let stays = known.list == list;
                if !stays {
                    forget_pod(index, &known.object);
                    swept += 1;
                }
                stays
            }),
            Kind::NodePod => {
                let gone = self.clients.sweep(&index.clients, list);
                count(index, kind, -(gone as isize));
            }
            Kind::Node if self.node_list.is_some_and(|held| held != list) => {
                swept += usize::from(self.forget_node(index));
            }
            Kind::Node => {}
        }
        self.shared.sweep();
        swept > 0
    }

    fn forget_service(&mut self, index: &Index, key: &Arc<Key>) {
        count(index, if key.imported { Kind::ServiceImport } else { Kind::Service }, -1);
        if let Some(group) = group_of(index, key) {
            let new = group.with_service(&index.hasher, None, None);
            self.publish(index, &group, new, None);
        }
    }

    fn forget_slice(&mut self, index: &Index, slice: &Arc<Slice>, key: &Arc<Key>) {
        let kind = if key.imported { Kind::ImportedSlice } else { Kind::EndpointSlice };
        count(index, kind, -1);
        self.change_slice(index, key, &slice.name, None);
    }

    fn change_slice(&mut self, index: &Index, key: &Arc<Key>, name: &str, new: Option<Arc<Slice>>) {
        let group = group_of(index, key).unwrap_or_else(|| Arc::new(Group::new(Arc::clone(key))));
        let (new, difference) = group.with_slice(&index.hasher, name, new);
        self.publish(index, &group, new, Some(difference));
    }

    /// Puts `new` in the place of `old`, and the addresses that this brings and takes into their place.
    fn publish(&mut self, index: &Index, old: &Group, new: Group, difference: Option<Difference>) {
        let key = Arc::clone(&new.key);
        let (mut before, mut after) = (old.cluster_ips(), new.cluster_ips());
        let endpoints = new.ready().wrapping_sub(old.ready());
        index.endpoints.fetch_add(endpoints, Ordering::Relaxed);
        // A name is there before addresses lead to it, and is gone only after they no longer do.
        let mut difference = difference.unwrap_or_default();
        if index.settings.known_namespaces && !index.has_namespace(key.namespace()) {
            before.clear();
            after.clear();
            difference = Difference::default();
        }
        let counts = &mut self.counts;
        before.iter().filter(|ip| !after.contains(ip)).for_each(|&gone| {
            index.addresses.remove(counts, gone, Reason::ClusterIp, &key);
        });
        for gone in difference.gone {
            index.addresses.remove(counts, gone, Reason::Endpoint, &key);
        }
        let hash = index.hash_of(key.wire(), key.imported);
        if new.is_empty() {
            index.groups.remove(hash, |group| group.key == key);
        } else {
            index.groups.put(hash, |group| group.key == key, Arc::new(new));
        }
        after.iter().filter(|ip| !before.contains(ip)).for_each(|&come| {
            index.addresses.add(counts, come, Reason::ClusterIp, &key);
        });
        for come in difference.come {
            index.addresses.add(counts, come, Reason::Endpoint, &key);
        }
    }
}

fn count(index: &Index, kind: Kind, by: isize) {
    if let Some(count) = index.objects.get(kind as usize) {
        count.fetch_add(by as usize, Ordering::Relaxed);
    }
}

fn group_of(index: &Index, key: &Arc<Key>) -> Option<Arc<Group>> {
    index.groups.read(
        index.hash_of(key.wire(), key.imported),
        |group| group.key == *key,
        Arc::clone,
    )
}

/// The key of a slice's Service: the one that is there already, if any.
fn key_of(index: &Index, slice: &EndpointSlice) -> Arc<Key> {
    let key = Key::new(&slice.id.namespace, &slice.service, slice.imported);
    let hash = index.hash_of(key.wire(), key.imported);
    let known = index.groups.read(hash, |group| *group.key == key, |group| Arc::clone(&group.key));
    known.unwrap_or_else(|| Arc::new(key))
}

fn slice_hash(index: &Index, namespace: &[u8], name: &str) -> u64 {
    index.hash((namespace, name.as_bytes()))
}

fn is_slice((slice, key): &(Arc<Slice>, Arc<Key>), id: &ObjectId, imported: bool) -> bool {
    key.imported == imported
        && *slice.name == *id.name
        && key.namespace() == id.namespace.as_bytes()
}

fn pod_hash(index: &Index, pod: &Pod) -> u64 {
    index.hash((pod.namespace.as_bytes(), pod.name.as_bytes()))
}

fn is_pod(pod: &Pod, id: &ObjectId) -> bool {
    *pod.name == *id.name && pod.namespace == id.namespace
}

fn forget_namespace(index: &Index, counts: &mut Counts, name: &Text) {
    count(index, Kind::Namespace, -1);
    index.namespaces.remove(index.hash(name.as_bytes()), |known| known == name);
    if index.settings.known_namespaces {
        index.addresses_of(name, |address, reason, key| {
            index.addresses.remove(counts, address, reason, key);
        });
    }
}

fn forget_pod(index: &Index, gone: &Arc<Pod>) {
    count(index, Kind::Pod, -1);
    index.pods.remove(index.hash(gone.address), |pod| pod == gone);
}
