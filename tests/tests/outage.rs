//! The API server in every state of disrepair: what is known stays known, and all is caught up without a restart.

#[path = "outage/snapshots.rs"]
mod snapshots;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodens::cluster::object::Kind;
use nodens::cluster::{Endpoints, Pods, SnapshotSpec, Source, Spec, Store, Timing, Wanted};
use nodens::handover::Inherited;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::api::credentials::Identity;
use tests::api::{ApiServer, Fault, Garbage, GoneStyle, Options, Policy, Protobuf, RequestRecord};
use tests::poll::{pause, wait_for};
use tests::sink::{MapSink, objects_of};
use tokio::runtime::Runtime;

/// Longer than any of these takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A minute of patience in a second.
const QUICK: Timing = Timing {
    watch: Duration::from_secs(1),
    grace: Duration::from_millis(300),
    connect: Duration::from_secs(1),
    read: Duration::from_millis(700),
    backoff_first: Duration::from_millis(20),
    backoff_most: Duration::from_millis(300),
    refused: Duration::from_millis(200),
};

/// A server, and a store that watches it.
struct Watched {
    server: ApiServer,
    folder: TempDir,
    runtime: Runtime,
    sink: Arc<MapSink>,
    store: Option<Arc<Store<MapSink>>>,
}

impl Watched {
    /// With the recorded cluster, and watched from the start.
    fn new() -> Self {
        Self::with(Options::default(), |_| {})
    }

    fn with(options: Options, change: impl FnOnce(&mut Spec)) -> Self {
        let server = ApiServer::with(options);
        let folder = tempfile::tempdir().unwrap();
        server.write_kubeconfig(&folder.path().join("kubeconfig"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut watched = Self { server, folder, runtime, sink: Arc::default(), store: None };
        watched.load();
        let mut spec = watched.spec();
        change(&mut spec);
        watched.start(spec);
        watched
    }

    /// Puts the recorded cluster into the server, as new versions of what is there.
    fn load(&self) {
        let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/data/conformance/cluster.json");
        self.server.load_file(Path::new(recorded)).unwrap();
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn spec(&self) -> Spec {
        let mut spec = Spec::new(Source::Kubeconfig { file: self.kubeconfig(), context: None });
        spec.timing = QUICK;
        // All that objects may hold is kept, so that they can be compared.
        spec.wanted = Wanted { pods: Pods::All, endpoint_pods: true, ..Wanted::default() };
        spec
    }

    /// Starts anew, with an empty sink.
    fn start(&mut self, spec: Spec) {
        self.store = None;
        self.sink = Arc::default();
        self.store = Some(
            Store::start(spec, self.sink.clone(), self.runtime.handle(), &Inherited::default())
                .unwrap(),
        );
    }

    fn store(&self) -> &Store<MapSink> {
        self.store.as_ref().unwrap()
    }

    /// Waits until the sink knows exactly what the server has.
    #[track_caller]
    fn wait_level(&self, what: &str) {
        let kinds: Vec<Kind> = self.store().status().wanted().collect();
        wait_for(what, SOON, || {
            let status = self.store().status();
            status.is_synced()
                && status.is_live()
                && self.sink.objects() == objects_of(&self.server, &kinds)
        });
    }

    /// From here on nothing may be lost.
    fn guarded(self) -> Self {
        self.wait_level("the first sync");
        self.sink.guard();
        self
    }

    fn errors(&self) -> u64 {
        self.store().status().wanted().map(|kind| self.store().status().kind(kind).errors()).sum()
    }

    #[track_caller]
    fn wait_errors(&self, more: u64) {
        let before = self.errors();
        wait_for("errors", SOON, || self.errors() >= before + more);
    }

    #[track_caller]
    fn assert_nothing_lost(&self) {
        assert_eq!(self.sink.lost(), []);
    }

    fn put_service(&self, name: &str, ip: &str) {
        self.server.put(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"}, "spec": {"clusterIP": ip}}));
    }
}

#[test]
fn a_cluster_is_listed_and_followed() {
    let watched = Watched::new().guarded();
    watched.put_service("new", "10.96.200.1");
    watched.wait_level("a new Service");
    watched.put_service("new", "10.96.200.2");
    watched.wait_level("a changed Service");
    assert!(watched.server.delete("services", "default", "new"));
    watched.wait_level("a deleted Service");
    watched.assert_nothing_lost();
    assert_eq!(watched.errors(), 0);

    let requests = watched.server.requests();
    let verbs: BTreeSet<_> = requests.iter().map(|request| request.verb.as_str()).collect();
    assert!(verbs.is_subset(&BTreeSet::from(["list", "watch"])), "{verbs:?}");
    let agent = concat!("nodens/", env!("CARGO_PKG_VERSION"));
    assert!(requests.iter().all(|request| request.user_agent == agent));
    let first = &watched.server.requests_of("list", "services")[0];
    assert_eq!(first.parameter("resourceVersion"), "0");
    assert!(first.gzip && first.accept.starts_with("application/vnd.kubernetes.protobuf, "));
    assert!(requests.iter().all(|request| request.parameter("sendInitialEvents").is_empty()));
    let status = watched.store().status();
    assert!(status.received_bytes() > 10_000);
    assert_eq!(status.host(), format!("127.0.0.1:{}", watched.server.port()));
    assert!(status.requests().iter().any(|&(code, count)| code == Some(200) && count >= 4));
    assert!(status.age().unwrap() < SOON);
}

#[test]
fn every_encoding_comes_to_the_same() {
    for protobuf in [Protobuf::Supported, Protobuf::Absent, Protobuf::Refused] {
        for gzip in [true, false] {
            let mut options = Options::default();
            (options.behaviour.protobuf, options.behaviour.gzip) = (protobuf, gzip);
            options.behaviour.bookmark_interval = Duration::from_millis(200);
            let watched = Watched::with(options, |_| {}).guarded();
            watched.put_service("new", "10.96.200.1");
            watched.wait_level("a new Service");
            watched.assert_nothing_lost();
            let answered = |request: &RequestRecord| request.status == 200;
            let lists = watched.server.requests_of("list", "services");
            assert_eq!(lists.iter().filter(|list| answered(list)).count(), 1, "{protobuf:?}");
            let refused = lists.iter().filter(|list| list.status == 406).count();
            assert_eq!(refused, usize::from(protobuf == Protobuf::Refused), "{protobuf:?}");
        }
    }
}

#[test]
fn one_connection_is_enough_for_all_kinds() {
    for http2 in [true, false] {
        let mut options = Options::default();
        options.behaviour.http2 = http2;
        let watched = Watched::with(options, |_| {}).guarded();
        wait_for("several watches of each kind", SOON, || {
            watched.server.requests_of("watch", "services").len() >= 3
        });
        let requests = watched.server.requests();
        assert!(requests.iter().all(|request| request.http2 == http2));
        // The first requests may each have begun a connection before it was known that one serves them all.
        let watches = requests.iter().filter(|request| request.verb == "watch").skip(4);
        let connections: BTreeSet<u64> = watches.map(|request| request.connection).collect();
        assert!(!http2 || connections.len() == 1, "{connections:?}");
    }
}

#[test]
fn watches_go_on_where_they_ended() {
    let watched = Watched::new().guarded();
    wait_for("several watches", SOON, || {
        watched.server.requests_of("watch", "services").len() >= 4
    });
    watched.put_service("new", "10.96.200.1");
    watched.wait_level("a new Service");
    for kind in watched.store().status().wanted() {
        assert_eq!(watched.store().status().kind(kind).relists(), 1, "{kind:?}");
    }
    assert_eq!(watched.errors(), 0);
}

#[test]
fn a_refused_connection_changes_nothing() {
    let watched = Watched::new().guarded();
    watched.server.refuse();
    watched.wait_errors(8);
    assert!(!watched.store().status().is_live());
    let (_, error) = watched.store().status().last_error().unwrap();
    assert!(error.starts_with("cannot reach the API server: "), "{error}");
    watched.put_service("new", "10.96.200.1");
    watched.server.heal();
    watched.wait_level("what happened meanwhile");
    watched.assert_nothing_lost();
}

#[test]
fn silence_is_noticed() {
    for fault in [Fault::Stall, Fault::StallConnections, Fault::HangWatches] {
        let watched = Watched::new().guarded();
        watched.server.inject(fault);
        if fault == Fault::StallConnections {
            watched.server.cut();
        }
        watched.wait_errors(4);
        watched.put_service("new", "10.96.200.1");
        watched.server.heal();
        watched.wait_level(&format!("the end of {fault:?}"));
        watched.assert_nothing_lost();
    }
}

#[test]
fn a_list_that_is_cut_off_is_no_list() {
    for protobuf in [Protobuf::Supported, Protobuf::Absent] {
        let mut options = Options::default();
        options.behaviour.protobuf = protobuf;
        let watched = Watched::with(options, |_| {}).guarded();
        // Lists in JSON are more than twice as long.
        let last = if protobuf == Protobuf::Supported { 4_000 } else { 15_000 };
        for bytes in [0, 100, 2_000, last] {
            // Everything has changed and the versions that are known are forgotten, so that all has to be listed again.
            let down = Fault::Status { code: 500, retry_after: None };
            watched.server.inject(down);
            watched.server.cut();
            watched.wait_errors(8);
            watched.load();
            watched.server.store().compact();
            watched.server.inject(Fault::CutAfter { bytes });
            watched.server.withdraw(down);
            let errors = || watched.store().status().kind(Kind::EndpointSlice).errors();
            let before = errors();
            wait_for(
                &format!("lists that are cut off after {bytes} octets ({protobuf:?})"),
                SOON,
                || errors() >= before + 4,
            );
            watched.put_service("new", &format!("10.96.200.{}", bytes % 250 + 1));
            watched.server.heal();
            watched.wait_level(&format!("the end of cuts after {bytes} octets"));
            watched.assert_nothing_lost();
        }
    }
}

#[test]
fn forgotten_versions_are_no_reason_to_forget() {
    for gone in [GoneStyle::Event, GoneStyle::Http] {
        let mut options = Options::default();
        options.behaviour.gone = gone;
        let watched = Watched::with(options, |_| {}).guarded();
        watched.server.inject(Fault::Gone);
        watched.wait_errors(12);
        watched.put_service("new", "10.96.200.1");
        watched.server.heal();
        watched.wait_level("the end of the storm");
        watched.assert_nothing_lost();
        // And once for real: the history is gone while nobody watches.
        watched.server.refuse();
        watched.put_service("newer", "10.96.200.2");
        assert!(watched.server.delete("services", "default", "new"));
        watched.server.store().compact();
        watched.server.heal();
        watched.wait_level("a list after compaction");
        watched.assert_nothing_lost();
    }
}

#[test]
fn retry_after_is_obeyed() {
    for code in [429, 503] {
        let watched = Watched::new().guarded();
        watched.server.inject(Fault::Status { code, retry_after: Some(2) });
        watched.server.cut();
        wait_for("the refusals", SOON, || watched.errors() >= 8);
        watched.server.clear_requests();
        let began = Instant::now();
        // Each of the four kinds asks at most every two seconds.
        wait_for("four seconds", SOON, || began.elapsed() > Duration::from_secs(4));
        let asked = watched.server.requests().len();
        assert!((1..=4 * 3).contains(&asked), "{asked} requests in 4 s");
        watched.put_service("new", "10.96.200.1");
        watched.server.heal();
        watched.wait_level("the end of the refusals");
        watched.assert_nothing_lost();
    }
}

#[test]
fn new_credentials_are_taken_up() {
    let watched = Watched::new().guarded();
    watched.server.rotate_token(true);
    watched.server.cut();
    watched.wait_errors(8);
    let (_, error) = watched.store().status().last_error().unwrap();
    assert!(error.contains("401"), "{error}");
    watched.put_service("new", "10.96.200.1");
    watched.server.write_kubeconfig(&watched.kubeconfig());
    watched.wait_level("the new token");
    // A new authority: no 401 tells of it, but the file does.
    watched.server.rotate_authority();
    watched.server.cut();
    watched.wait_errors(4);
    watched.put_service("newer", "10.96.200.2");
    watched.server.write_kubeconfig(&watched.kubeconfig());
    watched.wait_level("the new authority");
    watched.assert_nothing_lost();
}

#[test]
fn every_kind_of_credentials_works() {
    let mut watched = Watched::new();
    let token = watched.folder.path().join("token");
    std::fs::write(&token, watched.server.token()).unwrap();
    let credential = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": watched.server.token()}});
    let exec = Identity::Exec("echo".into(), vec![credential.to_string()]);
    for identity in [Identity::TokenFile(token), exec] {
        watched.server.write_kubeconfig_as(&watched.kubeconfig(), &identity);
        watched.start(watched.spec());
        watched.wait_level(&format!("{identity:?}"));
    }
    watched.server.write_kubeconfig_with_certificate(&watched.kubeconfig());
    watched.start(watched.spec());
    watched.wait_level("a client certificate");
}

#[test]
fn a_missing_role_is_named_and_the_others_go_on() {
    let allowed =
        Policy::default().allow("", &["services", "namespaces", "pods"], &["list", "watch"]);
    let watched = Watched::new().guarded();
    watched.server.configure(|behaviour| behaviour.policy = Some(allowed.clone()));
    watched.server.cut();
    wait_for("the refusal", SOON, || {
        watched.store().status().kind(Kind::EndpointSlice).errors() >= 3
    });
    wait_for("the others", SOON, || watched.store().status().kind(Kind::Service).is_live());
    let (kind, error) = watched.store().status().last_error().unwrap();
    assert!(kind == Kind::EndpointSlice && error.contains("403"), "{kind:?}: {error}");
    watched.put_service("new", "10.96.200.1");
    let all = allowed.allow("discovery.k8s.io", &["endpointslices"], &["list", "watch"]);
    watched.server.configure(|behaviour| behaviour.policy = Some(all));
    watched.wait_level("the role");
    watched.assert_nothing_lost();
}

#[test]
fn garbage_is_survived() {
    for garbage in
        [Garbage::Json, Garbage::Truncated, Garbage::WrongKind, Garbage::Html, Garbage::Http]
    {
        let watched = Watched::new().guarded();
        watched.server.inject(Fault::Garbage(garbage));
        watched.server.cut();
        watched.wait_errors(16);
        watched.put_service("new", "10.96.200.1");
        watched.server.heal();
        watched.wait_level(&format!("the end of {garbage:?}"));
        watched.assert_nothing_lost();
    }
}

#[test]
fn a_slow_server_is_waited_for() {
    let watched =
        Watched::with(Options::default(), |spec| spec.timing.watch = Duration::from_secs(20))
            .guarded();
    watched.server.inject(Fault::Slow { bytes_per_second: 60_000 });
    watched.server.store().compact();
    watched.server.cut();
    watched.put_service("new", "10.96.200.1");
    watched.wait_level("a slow list");
    watched.assert_nothing_lost();
}

#[test]
fn bad_objects_are_skipped_one_by_one() {
    let watched = Watched::new().guarded();
    let bad = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec});
    watched.server.put(bad("bad-ip", json!({"clusterIP": "10.96.0.256"})));
    watched.server.put(bad("bad-type", json!({"clusterIP": {"a": 1}})));
    watched.server.put(bad("bad-port", json!({"clusterIP": "None", "ports": [{"port": 70000}]})));
    let mut huge = bad("huge", json!({"clusterIP": "10.96.200.9"}));
    huge["metadata"]["annotations"] = json!({"text": "x".repeat(1 << 20)});
    watched.server.put(huge);
    watched.put_service("new", "10.96.200.1");
    watched.wait_level("the good ones");
    assert!(watched.sink.has(Kind::Service, "default", "huge"));
    assert!(!watched.sink.has(Kind::Service, "default", "bad-ip"));
    assert_eq!(watched.store().status().kind(Kind::Service).skipped(), 3);
    // One that turns bad is as one that is bad from the start.
    watched.server.put(bad("new", json!({"clusterIP": "ten"})));
    watched.wait_level("one that turned bad");
    assert!(!watched.sink.has(Kind::Service, "default", "new"));
    watched.assert_nothing_lost();
}

#[test]
fn only_what_is_wanted_is_asked_for() {
    let mut watched = Watched::new();
    let mut spec = watched.spec();
    spec.wanted = Wanted {
        endpoints: Endpoints::Headless,
        node: Some("worker-1".into()),
        namespaces: vec!["default".into()],
        ..Wanted::default()
    };
    watched.wait_level("the first sync");
    watched.server.clear_requests();
    watched.start(spec.clone());
    wait_for("the sync", SOON, || watched.store().status().is_synced());
    let slices = &watched.server.requests_of("list", "endpointslices")[0];
    assert_eq!(slices.parameter("labelSelector"), "service.kubernetes.io/headless");
    assert_eq!(slices.namespace.as_deref(), Some("default"));
    let pods = &watched.server.requests_of("list", "pods")[0];
    assert!(pods.parameter("fieldSelector").starts_with("spec.nodeName=worker-1,"));
    // Clients are of any namespace.
    assert_eq!(pods.namespace, None);
    let foreign = |(_, id): &(Kind, nodens::cluster::object::ObjectId)| {
        !id.namespace.is_empty() && &*id.namespace != "default"
    };
    assert!(!watched.sink.objects().keys().any(foreign));

    // Several namespaces: all are watched, and the others' objects dropped.
    spec.wanted.namespaces = vec!["default".into(), "prod".into()];
    spec.wanted.endpoints = Endpoints::None;
    watched.start(spec);
    wait_for("the sync", SOON, || watched.store().status().is_synced());
    let namespaces: BTreeSet<_> =
        watched.sink.objects().keys().map(|(_, id)| id.namespace.to_string()).collect();
    assert_eq!(namespaces, BTreeSet::from([String::new(), "default".into(), "prod".into()]));
    assert_eq!(
        watched.sink.objects().keys().filter(|(kind, _)| *kind == Kind::EndpointSlice).count(),
        0
    );
}

#[test]
fn imports_are_optional_and_their_absence_no_error_for_ever() {
    let mut options = Options::default();
    options.behaviour.multicluster = false;
    let watched = Watched::with(options, |spec| spec.wanted.imports = true);
    wait_for("the sync", SOON, || watched.store().status().is_synced());
    watched.server.configure(|behaviour| behaviour.multicluster = true);
    watched.server.put(json!({"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceImport",
        "metadata": {"name": "web", "namespace": "default"}, "spec": {"type": "ClusterSetIP", "ips": ["10.97.0.1"]}}));
    watched.wait_level("the import");
    assert!(watched.sink.has(Kind::ServiceImport, "default", "web"));
}
