//! The objects read back from the index, for the snapshot: whoever applies them to an empty index gets the same answers.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use super::Index;
use super::address::Reason;
use super::group::{Group, Key, Kind, text};
use super::records::addresses_in;
use super::slice::Slice;
use crate::cluster::object::{
    Endpoint, EndpointSlice, Namespace, Node, NodePod, Object, ObjectId, Place, Pod, PodDns,
    Service, ServiceKind, Text,
};

impl Index {
    /// Every object, each as it is when its turn comes, in no order; the writer is not held up. Endpoints that are not
    /// ready are not kept, so they are missing, and an endpoint of several addresses comes back as several.
    pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        let namespaces = self.namespaces.all().map(|name| Object::Namespace(Namespace { name }));
        let groups = self.groups.all().flat_map(|group| {
            let node = self.settings.node.as_ref();
            let slices = {
                let object =
                    |slice: &Arc<Slice>| Object::EndpointSlice(slice_object(&group, slice, node));
                group.slices.iter().map(object)
            };
            let objects: Vec<Object> = service_object(&group).into_iter().chain(slices).collect();
            objects
        });
        let pods = self.pods.all().map(|pod| {
            let id = ObjectId { namespace: pod.namespace.clone(), name: (&*pod.name).into() };
            Object::Pod(Pod { id, addresses: [pod.address].into_iter().collect() })
        });
        // Few, and held only by the writer.
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let clients: Vec<NodePod> = writer.clients.all().cloned().collect();
        let clients = clients.into_iter().map(Object::NodePod);
        let node = self.settings.node.clone().filter(|_| writer.knows_node());
        let node = node.map(|name| Object::Node(Node { name, zone: self.zone() }));
        namespaces.chain(groups).chain(pods).chain(clients).chain(node)
    }
}

impl Index {
    /// Calls `visit` with every Service and what belongs to it, in no order; the writer is not held up.
    pub fn each_service(&self, mut visit: impl FnMut(&Group)) {
        self.groups.all().filter(|group| group.service.is_some()).for_each(|group| visit(&group));
    }

    /// Calls `visit` with every Namespace that is known, in no order.
    pub fn each_namespace(&self, mut visit: impl FnMut(&str)) {
        self.namespaces.all().for_each(|name| visit(&name));
    }

    /// Calls `visit` with the addresses of a namespace's Services and of their endpoints; some several times.
    pub(super) fn addresses_of(
        &self,
        namespace: &str,
        mut visit: impl FnMut(IpAddr, Reason, &Arc<Key>),
    ) {
        for group in self.groups.all() {
            if group.key.namespace() != namespace.as_bytes() {
                continue;
            }
            for address in group.cluster_ips() {
                visit(address, Reason::ClusterIp, &group.key);
            }
            for slice in &group.slices {
                for address in (0..slice.len()).filter_map(|row| slice.address(row)) {
                    visit(address, Reason::Endpoint, &group.key);
                }
            }
        }
    }

    /// The addresses of a Pod, as far as Pods are known: all of one of this node, else its first.
    pub fn pod_addresses(&self, namespace: &str, name: &str) -> Vec<IpAddr> {
        if let Some(pod) = self.node_pod(namespace, name) {
            return pod.addresses.to_vec();
        }
        let mut pods = self.pods.all();
        let pod = pods.find(|pod| &*pod.namespace == namespace && &*pod.name == name);
        pod.map(|pod| pod.address).into_iter().collect()
    }

    /// How a Pod of this node looks names up; `None` for one that is unknown.
    pub fn pod_dns(&self, namespace: &str, name: &str) -> Option<PodDns> {
        self.node_pod(namespace, name).map(|pod| pod.dns)
    }

    /// Some Pod of this node in a namespace, with a network of its own: its name and first address. Waits for the writer.
    pub fn pod_in(&self, namespace: &str) -> Option<(Text, IpAddr)> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pods = writer.clients.all();
        let pod = pods.find(|pod| *pod.id.namespace == *namespace && !pod.host_network)?;
        Some((pod.id.name.clone(), *pod.addresses.first()?))
    }

    /// A Pod of this node. Waits for the writer.
    fn node_pod(&self, namespace: &str, name: &str) -> Option<NodePod> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pods = writer.clients.all();
        pods.find(|pod| *pod.id.namespace == *namespace && *pod.id.name == *name).cloned()
    }

    /// The Pod with this address, as far as the Pods of all nodes are known (`pods verified`).
    pub fn pod_at(&self, address: IpAddr) -> Option<ObjectId> {
        let read = |pod: &Arc<super::Pod>| ObjectId {
            namespace: text(pod.namespace.as_bytes()),
            name: (&*pod.name).into(),
        };
        self.pods.read(self.hash(address), |pod| pod.address == address, read)
    }
}

fn service_object(group: &Group) -> Option<Object> {
    let service = group.service.as_ref()?;
    let kind = match &service.kind {
        Kind::ClusterIp => ServiceKind::ClusterIp(addresses_in(&group.a, &group.aaaa).collect()),
        Kind::Headless => ServiceKind::Headless,
        Kind::ExternalName(name) | Kind::Unnamed(name) => ServiceKind::ExternalName(name.clone()),
    };
    let object = Service {
        id: ObjectId { namespace: text(group.key.namespace()), name: text(group.key.service()) },
        kind,
        ports: service.ports.iter().cloned().collect(),
        publish_not_ready: service.publish_not_ready,
        distribution: service.distribution,
        version: 0,
    };
    Some(if group.key.imported { Object::ServiceImport(object) } else { Object::Service(object) })
}

fn place(node: Option<&Text>, slice: &Slice, row: usize) -> Place {
    let place = slice.places.get(row);
    Place { zone: place.zone.cloned(), node: node.filter(|_| place.here).cloned() }
}

fn slice_object(group: &Group, slice: &Slice, node: Option<&Text>) -> EndpointSlice {
    let optional = |label: &[u8]| (!label.is_empty()).then(|| text(label));
    let endpoints = (0..slice.len()).filter_map(|row| {
        Some(Endpoint {
            addresses: [slice.address(row)?].into_iter().collect(),
            hostname: optional(slice.hostnames.get(row)),
            pod: optional(slice.pods.get(row)),
            ready: true,
            place: place(node, slice, row),
        })
    });
    EndpointSlice {
        id: ObjectId { namespace: text(group.key.namespace()), name: (&*slice.name).into() },
        service: text(group.key.service()),
        imported: group.key.imported,
        cluster: slice.cluster().map(text),
        ports: slice.ports.iter().cloned().collect(),
        endpoints: endpoints.collect(),
        triggered_at: None,
        version: 0,
    }
}
