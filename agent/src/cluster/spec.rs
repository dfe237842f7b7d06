//! Which cluster is watched, how it is reached, and how much of it is wanted.
//!
//! A [`Spec`] is plain data without a string that still has to be understood: two `kubernetes` blocks with equal ones share
//! a store.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::object::{Kind, Text};

/// All that decides what a store holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    /// Where the objects come from.
    pub source: Source,
    /// Which objects.
    pub wanted: Wanted,
    /// Where what is known is kept for the next start, if anywhere.
    pub snapshot: Option<SnapshotSpec>,
    /// How patient the watches are.
    pub timing: Timing,
    /// How much is asked of the API server.
    pub limits: Limits,
}

impl Spec {
    /// Everything that names need from `source`, without a snapshot.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            wanted: Wanted::default(),
            snapshot: None,
            timing: Timing::default(),
            limits: Limits::default(),
        }
    }
}

/// Where the objects come from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// The API server of the cluster that this process is a pod of: address from `KUBERNETES_SERVICE_HOST` and
    /// `KUBERNETES_SERVICE_PORT`, never by name, since we are who answers for names.
    InCluster,
    /// `kubeconfig FILE [CONTEXT]`.
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// The context; `None` for the file's current one.
        context: Option<String>,
    },
    /// `endpoint URL`.
    Endpoint {
        /// `http` or `https`.
        url: String,
        /// `tls CERT KEY CA`.
        tls: Option<Tls>,
    },
    /// `objects DIR`: YAML and JSON files.
    Folder(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InCluster => f.write_str("in-cluster"),
            Self::Kubeconfig { file, context: None } => write!(f, "kubeconfig {}", file.display()),
            Self::Kubeconfig { file, context: Some(context) } => {
                write!(f, "kubeconfig {} {context}", file.display())
            }
            Self::Endpoint { url, .. } => write!(f, "endpoint {url}"),
            Self::Folder(dir) => write!(f, "objects {}", dir.display()),
        }
    }
}

/// `tls CERT KEY CA`: PEM files.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tls {
    /// The client certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Who signed the server's certificate; `None` for the system's authorities.
    pub ca: Option<PathBuf>,
}

/// Which objects are watched. Services and Namespaces always are.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Wanted {
    /// EndpointSlices.
    pub endpoints: Endpoints,
    /// `endpoint_pod_names`: the names of the Pods behind endpoints are kept.
    pub endpoint_pods: bool,
    /// Pods.
    pub pods: Pods,
    /// ServiceImports and their EndpointSlices, for `multicluster`.
    pub imports: bool,
    /// `labels`: a label selector for Services, EndpointSlices and Pods.
    pub labels: Option<String>,
    /// `namespace_labels`: a label selector for Namespaces.
    pub namespace_labels: Option<String>,
    /// `namespaces`: only these; empty for all. Sorted, lower case.
    pub namespaces: Vec<Text>,
    /// `pods node`: the Pods of the node of this name are watched, as clients.
    pub node: Option<Text>,
    /// `zonal`: the zones of endpoints are kept.
    pub zones: bool,
    /// `topology`: the Node of this name is watched, and it is kept which endpoints are on it, and in which zones all are.
    pub topology: Option<Text>,
}

/// As it would be derived, but for what is not there of the last ones: the text names memory and snapshots, and releases that
/// do not know these have to find them.
impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("Wanted");
        all.field("endpoints", &self.endpoints)
            .field("endpoint_pods", &self.endpoint_pods)
            .field("pods", &self.pods)
            .field("imports", &self.imports)
            .field("labels", &self.labels)
            .field("namespace_labels", &self.namespace_labels)
            .field("namespaces", &self.namespaces);
        if let Some(node) = &self.node {
            all.field("node", node);
        }
        if self.zones {
            all.field("zones", &true);
        }
        if let Some(node) = &self.topology {
            all.field("topology", node);
        }
        all.finish()
    }
}

impl Wanted {
    /// True where objects of `kind` are watched.
    pub fn includes(&self, kind: Kind) -> bool {
        match kind {
            Kind::Service | Kind::Namespace => true,
            Kind::EndpointSlice => self.endpoints != Endpoints::None,
            Kind::Pod => self.pods != Pods::None,
            Kind::ServiceImport => self.imports,
            Kind::ImportedSlice => self.imports && self.endpoints != Endpoints::None,
            Kind::NodePod => self.node.is_some(),
            Kind::Node => self.topology.is_some(),
        }
    }

    /// Whether it is kept where endpoints are.
    pub fn keeps_places(&self) -> bool {
        self.zones || self.topology.is_some()
    }

    /// The kinds that are watched.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        Kind::ALL.into_iter().filter(|&kind| self.includes(kind))
    }

    /// True where objects of that namespace are wanted; `namespace` is empty for objects that have none.
    pub fn exposes(&self, namespace: &str) -> bool {
        self.namespaces.is_empty()
            || namespace.is_empty()
            || self.namespaces.iter().any(|n| &**n == namespace)
    }
}

/// `endpoints all|headless|none`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Endpoints {
    /// Every EndpointSlice.
    #[default]
    All,
    /// Those with the label `service.kubernetes.io/headless`, which the EndpointSlice controller sets, and those of
    /// ServiceImports.
    Headless,
    /// None at all.
    None,
}

/// Which Pods are watched.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Pods {
    /// None at all.
    #[default]
    None,
    /// Every Pod that may have an address (`pods verified`).
    All,
}

/// `snapshot DIR`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotSpec {
    /// The folder; made where it is missing.
    pub dir: PathBuf,
    /// The least time between two writes.
    pub every: Duration,
}

impl SnapshotSpec {
    /// Default time between two writes: a restart of the node loses a minute of changes at most, and a busy cluster costs
    /// the disk a few megabytes a minute.
    pub const EVERY: Duration = Duration::from_secs(60);

    /// A snapshot in `dir`, written at most every [`Self::EVERY`].
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, every: Self::EVERY }
    }
}

/// How patient the watches are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Timing {
    /// How long a watch may last, as the server is told; each gets a random time between this and twice this, so that the
    /// nodes of a cluster do not renew at once. Load balancers drop idle connections after 4 minutes and more.
    pub watch: Duration,
    /// How much longer than agreed a silent watch may be before it is given up.
    pub grace: Duration,
    /// The longest wait for a connection.
    pub connect: Duration,
    /// The longest wait for the head of a response, and for the next octets of a list.
    pub read: Duration,
    /// The first pause after a failure.
    pub backoff_first: Duration,
    /// The longest pause after failures; it doubles until then. Some random part is added to each.
    pub backoff_most: Duration,
    /// The pause after the server refused what only an operator can grant.
    pub refused: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            watch: Duration::from_secs(60),
            grace: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            read: Duration::from_secs(30),
            // client-go's reflector begins and ends its pauses at these.
            backoff_first: Duration::from_millis(800),
            backoff_most: Duration::from_secs(30),
            refused: Duration::from_secs(30),
        }
    }
}

/// How much is asked of the API server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// `apiserver_qps`: requests in a thousand seconds, on average.
    pub millis_qps: u32,
    /// `apiserver_burst`: requests at once after a pause.
    pub burst: u32,
    /// `apiserver_max_inflight`: requests that are under way at once; 0 for any number. A list is under way until it has
    /// been read, a watch until the server has accepted it.
    pub inflight: u32,
}

impl Default for Limits {
    /// Twice client-go's defaults, which are meant for one kind at a time: six kinds that continue, learn that their versions
    /// are forgotten, list and watch again send 24 requests.
    fn default() -> Self {
        Self { millis_qps: 10_000, burst: 20, inflight: 0 }
    }
}
