//! What we keep of a Kubernetes object: the fields that names are made of, and nothing else.
//!
//! A full Service takes 8.8 kB in memory, a lean one a few hundred octets. Every string that comes from outside was
//! checked where it was decoded: it is a DNS label or a name in wire form, or the object was refused.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::wire::Name;

/// The kinds that are watched.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Kind {
    /// v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// v1 Namespace.
    Namespace,
    /// v1 Pod.
    Pod,
    /// multicluster.x-k8s.io/v1alpha1 ServiceImport.
    ServiceImport,
    /// discovery.k8s.io/v1 EndpointSlice, as one of a ServiceImport. Such a slice may be a Service's too, and is watched
    /// twice then.
    ImportedSlice,
    /// v1 Pod, of the node that this process runs on: a client.
    NodePod,
    /// v1 Node, the one that this process runs on: where it is.
    Node,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Namespace,
        Self::Pod,
        Self::ServiceImport,
        Self::ImportedSlice,
        Self::NodePod,
        Self::Node,
    ];

    /// The kind as it is written in YAML and in metrics; in YAML an imported slice is an EndpointSlice, and a
    /// node's Pod a Pod.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::ServiceImport => "ServiceImport",
            Self::ImportedSlice => "ImportedEndpointSlice",
            Self::NodePod => "NodePod",
            Self::Node => "Node",
        }
    }

    /// Whether it tells of this node: no name depends on it, and it is watched in all namespaces.
    pub fn is_of_node(self) -> bool {
        matches!(self, Self::NodePod | Self::Node)
    }
}

/// One of something for each kind.
#[derive(Debug)]
pub struct PerKind<T>([T; Kind::ALL.len()]);

impl<T> PerKind<T> {
    /// What `of` gives for each kind.
    pub fn new(of: impl FnMut(Kind) -> T) -> Self {
        Self(Kind::ALL.map(of))
    }

    /// That of one kind.
    pub fn of(&self, kind: Kind) -> &T {
        let [service, slice, namespace, pod, import, imported, client, node] = &self.0;
        match kind {
            Kind::Service => service,
            Kind::EndpointSlice => slice,
            Kind::Namespace => namespace,
            Kind::Pod => pod,
            Kind::ServiceImport => import,
            Kind::ImportedSlice => imported,
            Kind::NodePod => client,
            Kind::Node => node,
        }
    }

    /// That of one kind, to be changed.
    pub fn of_mut(&mut self, kind: Kind) -> &mut T {
        let [service, slice, namespace, pod, import, imported, client, node] = &mut self.0;
        match kind {
            Kind::Service => service,
            Kind::EndpointSlice => slice,
            Kind::Namespace => namespace,
            Kind::Pod => pod,
            Kind::ServiceImport => import,
            Kind::ImportedSlice => imported,
            Kind::NodePod => client,
            Kind::Node => node,
        }
    }
}

impl<T: Default> Default for PerKind<T> {
    fn default() -> Self {
        Self::new(|_| T::default())
    }
}

/// A lower-case DNS label or object name, shared: the same namespace is kept once.
pub type Text = Arc<str>;

/// Who an object is. `namespace` is empty for a Namespace and a Node.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ObjectId {
    /// The namespace that it lives in.
    pub namespace: Text,
    /// Its name within the namespace.
    pub name: Text,
}

/// `namespace/name`.
impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol of a port; only these have names in DNS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The label without its underscore: `tcp`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of a Service or of an EndpointSlice.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Port {
    /// Its name in lower case; empty where it has none.
    pub name: Text,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

/// What a Service resolves to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServiceKind {
    /// One virtual address for each family.
    ClusterIp(SmallVec<[IpAddr; 2]>),
    /// `clusterIP: None`: its endpoints' addresses.
    Headless,
    /// Another name.
    ExternalName(Name),
}

/// A Service. A ServiceImport is one too: `ClusterSetIP` is [`ServiceKind::ClusterIp`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Who it is.
    pub id: ObjectId,
    /// What it resolves to.
    pub kind: ServiceKind,
    /// Its ports.
    pub ports: SmallVec<[Port; 2]>,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `trafficDistribution`, where it is kept where endpoints are.
    pub distribution: Distribution,
    /// Its `resourceVersion`; 0 if it is not known, as in a snapshot and in a folder.
    pub version: u64,
}

/// `trafficDistribution`: which endpoints clients are to be led to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Distribution {
    /// All.
    #[default]
    All,
    /// Those of the client's zone: `PreferSameZone`, and `PreferClose`, as it was called first.
    SameZone,
    /// Those of the client's node, or else of its zone: `PreferSameNode`.
    SameNode,
}

/// Where an endpoint is, as far as that is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// `zone`, in lower case.
    pub zone: Option<Text>,
    /// `nodeName`.
    pub node: Option<Text>,
}

/// One endpoint of a slice. It counts if it is ready, as the DNS specification says; one that is `serving` while it
/// terminates is not ready.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its addresses, all of the slice's family. Kubernetes says that they mean the same; all are published.
    pub addresses: SmallVec<[IpAddr; 1]>,
    /// `hostname`, in lower case.
    pub hostname: Option<Text>,
    /// The Pod that it is, where `targetRef` names one.
    pub pod: Option<Text>,
    /// `conditions.ready`; absent means true.
    pub ready: bool,
    /// Where it is.
    pub place: Place,
}

/// An EndpointSlice of address type IPv4 or IPv6.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointSlice {
    /// Who it is.
    pub id: ObjectId,
    /// The Service that it belongs to: the label `kubernetes.io/service-name`, or, for an import,
    /// `multicluster.kubernetes.io/service-name`.
    pub service: Text,
    /// True where this is the slice as one of a ServiceImport.
    pub imported: bool,
    /// The cluster that it comes from, of an import: `multicluster.kubernetes.io/source-cluster`.
    pub cluster: Option<Text>,
    /// Its ports, which all endpoints share.
    pub ports: SmallVec<[Port; 2]>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// `endpoints.kubernetes.io/last-change-trigger-time`, milliseconds since 1970, for the programming latency.
    pub triggered_at: Option<u64>,
    /// Its `resourceVersion`; 0 if it is not known, as in a snapshot and in a folder.
    pub version: u64,
}

/// A Namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// Its name.
    pub name: Text,
}

/// A Pod with an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Who it is.
    pub id: ObjectId,
    /// Its addresses.
    pub addresses: SmallVec<[IpAddr; 2]>,
}

/// A Pod of this node, as a client. It may have no address yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodePod {
    /// Who it is.
    pub id: ObjectId,
    /// Its addresses, those of the node for one with `hostNetwork`.
    pub addresses: SmallVec<[IpAddr; 2]>,
    /// `hostNetwork`: it shares the node's addresses.
    pub host_network: bool,
    /// `creationTimestamp`, seconds since 1970; 0 if it has none.
    pub created: u64,
    /// How its names are looked up.
    pub dns: PodDns,
    /// What controls it; `None` for one that was made by hand.
    pub owner: Option<PodOwner>,
    /// Its labels by name, each once.
    pub labels: Box<[(Text, Text)]>,
}

/// What a Pod belongs to: a StatefulSet, a DaemonSet, a Job, and for the ReplicaSets of a Deployment that one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodOwner {
    /// Its kind, as the API writes it.
    pub kind: Text,
    /// Its name, in the namespace of the Pod.
    pub name: Text,
}

impl std::fmt::Display for PodOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// The node that this process runs on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name.
    pub name: Text,
    /// Its label `topology.kubernetes.io/zone`, in lower case.
    pub zone: Option<Text>,
}

/// What a Pod says of its resolver, as far as it decides which names are tried.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PodDns {
    /// `dnsPolicy`.
    pub policy: DnsPolicy,
    /// `dnsConfig.searches`.
    pub searches: Box<[Name]>,
    /// `ndots` of `dnsConfig.options`.
    pub ndots: Option<u8>,
}

/// `dnsPolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DnsPolicy {
    /// `ClusterFirst` of a Pod with a network of its own, and `ClusterFirstWithHostNet`: the cluster's domains, and the node's
    /// behind them.
    #[default]
    Cluster,
    /// `Default`, and `ClusterFirst` of a Pod in the node's network: the node's.
    Node,
    /// `None`: only what `dnsConfig` says.
    Own,
}

/// A lean object.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is the kind of its name")]
pub enum Object {
    Service(Service),
    EndpointSlice(EndpointSlice),
    Namespace(Namespace),
    Pod(Pod),
    ServiceImport(Service),
    NodePod(NodePod),
    Node(Node),
}

impl Object {
    /// The same, of this `resourceVersion`, as far as it is kept of this kind.
    #[must_use]
    pub fn of_version(mut self, version: u64) -> Self {
        match &mut self {
            Self::Service(service) | Self::ServiceImport(service) => service.version = version,
            Self::EndpointSlice(slice) => slice.version = version,
            Self::Namespace(_) | Self::Pod(_) | Self::NodePod(_) | Self::Node(_) => {}
        }
        self
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(slice) if slice.imported => Kind::ImportedSlice,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(_) => Kind::Pod,
            Self::ServiceImport(_) => Kind::ServiceImport,
            Self::NodePod(_) => Kind::NodePod,
            Self::Node(_) => Kind::Node,
        }
    }

    /// Who it is.
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Service(service) | Self::ServiceImport(service) => service.id.clone(),
            Self::EndpointSlice(slice) => slice.id.clone(),
            Self::Namespace(namespace) => {
                ObjectId { namespace: Text::from(""), name: namespace.name.clone() }
            }
            Self::Pod(pod) => pod.id.clone(),
            Self::NodePod(pod) => pod.id.clone(),
            Self::Node(node) => ObjectId { namespace: Text::from(""), name: node.name.clone() },
        }
    }
}

/// What a source tells the index.
#[derive(Clone, Debug)]
pub enum Event {
    /// The object is there, new or changed.
    Apply(Object),
    /// The object is gone.
    Delete(Kind, ObjectId),
    /// A list of all objects of this kind begins, as `Init` of kube-rs. Those that are not applied before [`Event::InitDone`] are gone then;
    /// until then everything known stays.
    Init(Kind),
    /// The list is complete.
    InitDone(Kind),
}
