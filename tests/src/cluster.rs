//! A small cluster for scenarios: the recorded objects in a test API server, the real binary that watches them, a client
//! that never stops asking, and the comparison of what is answered with what the server has, object by object.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{ApiServer, Options, Resource};
use crate::client::{Client, Question};
use crate::normal;
use crate::poll;
use crate::process::{Nodens, Ready, Setup};
use crate::upstream::Upstream;
use crate::zone::Zone;

/// How long a client waits for the answer to a single query before the query counts as lost.
const LOST: Duration = Duration::from_secs(3);
/// Examples of failures that a tally keeps.
const EXAMPLES: usize = 10;

/// An API server with the recorded cluster, an upstream, and a folder for what outlives a process.
pub struct Cluster {
    /// The API server.
    pub server: ApiServer,
    /// Where other names go; it knows none but `example.org.`.
    pub upstream: Upstream,
    folder: TempDir,
}

/// A question, and what the server's objects say to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// With the final dot.
    pub name: String,
    /// The type.
    pub kind: RecordType,
    /// The code.
    pub rcode: &'static str,
    /// The data of all records of the type, sorted.
    pub data: Vec<String>,
}

/// A client that asks for known names all the time.
pub struct Asker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tally>,
}

/// What a client has seen.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Queries.
    pub asked: u64,
    /// Answers that say something else than the objects.
    pub wrong: u64,
    /// SERVFAIL.
    pub servfail: u64,
    /// Queries without an answer.
    pub lost: u64,
    /// The longest wait for an answer.
    pub slowest: Duration,
    /// The first failures, in words.
    pub examples: Vec<String>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::with(Options::default())
    }
}

impl Cluster {
    /// With an API server that behaves so.
    ///
    /// # Panics
    /// When something cannot be started.
    #[must_use]
    pub fn with(options: Options) -> Self {
        let server = ApiServer::with(options);
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no folder: {error}"));
        let cluster = Self { server, upstream: Upstream::start(foreign()), folder };
        cluster.load();
        cluster.write_kubeconfig();
        cluster
    }

    /// Puts the recorded objects into the server, as new versions of what is there.
    ///
    /// # Panics
    /// When the record cannot be read.
    pub fn load(&self) {
        let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/data/conformance/cluster.json");
        self.server.load_file(Path::new(recorded)).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Writes the kubeconfig that the binary uses, with the newest token.
    pub fn write_kubeconfig(&self) {
        self.server.write_kubeconfig(&self.path("kubeconfig"));
    }

    /// A path in the folder that outlives the process.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A set-up with these lines in the `kubernetes` block; `@data@` is the lasting folder.
    #[must_use]
    pub fn setup(&self, options: &str) -> Setup {
        let corefile = format!(
            ".:@dns@ {{
    bind 127.0.0.1
    ready 127.0.0.1:@ready@
    prometheus 127.0.0.1:@metrics@
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {}
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        {options}
    }}
    forward . {}
}}
",
            self.path("kubeconfig").display(),
            self.upstream.address()
        );
        Setup::new(&corefile)
            .word("data", self.folder.path().display())
            .arguments(&["--socket", "@folder@/nodens.sock"])
    }

    /// Runs the binary with these options, and waits until it is ready.
    #[must_use]
    #[track_caller]
    pub fn start(&self, options: &str) -> Nodens {
        self.setup(options).start()
    }

    /// Runs the binary, and waits until it answers anything at all.
    #[must_use]
    #[track_caller]
    pub fn start_unready(&self, options: &str) -> Nodens {
        self.setup(options).ready(Ready::Answer).start()
    }

    /// Creates or changes a Service of the namespace `default`.
    pub fn put_service(&self, name: &str, ip: &str) {
        self.server.put(service(name, ip));
    }

    /// Deletes a Service of the namespace `default`.
    pub fn delete_service(&self, name: &str) {
        self.server.delete("services", "default", name);
    }

    /// Everything that the server's objects say.
    #[must_use]
    pub fn known(&self) -> Vec<Known> {
        known(&self.server)
    }

    /// Waits until every answer is what the server's objects say.
    ///
    /// # Panics
    /// When it is not in time; the differences are in the message.
    #[track_caller]
    pub fn wait_level(&self, nodens: &Nodens, what: &str, deadline: Duration) {
        let mut differences = Vec::new();
        let client = nodens.client();
        let level = poll::until(deadline, || {
            // The longest look first: what differs usually goes on differing.
            differences = self.known().iter().filter_map(|known| known.check(&client)).collect();
            differences.is_empty()
        });
        assert!(
            level,
            "{what}: {} differences after {deadline:?}: {differences:#?}",
            differences.len()
        );
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Known {
    /// A difference between this and what is answered, in words.
    #[must_use]
    pub fn check(&self, client: &Client) -> Option<String> {
        match client.ask(&self.name, self.kind) {
            Err(error) => Some(format!("{} {}: {error}", self.name, self.kind)),
            Ok(answer) => self.differs(&answer.normal.rcode, answer.data(self.kind)),
        }
    }

    fn differs(&self, rcode: &str, mut data: Vec<String>) -> Option<String> {
        data.sort_unstable();
        let same = rcode == self.rcode && data == self.data;
        (!same).then(|| {
            let Self { name, kind, rcode: wanted, data: records } = self;
            format!("{name} {kind}: {rcode} {data:?}, wanted {wanted} {records:?}")
        })
    }
}

impl Asker {
    /// Asks for `known`, one after the other and over again, so many times a second.
    ///
    /// # Panics
    /// When there is nothing to ask, or no socket.
    #[must_use]
    pub fn start(server: SocketAddr, known: Vec<Known>, rate: u32) -> Self {
        assert!(!known.is_empty(), "nothing to ask for");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let client = Client::new(server).within(LOST);
            let mut tally = Tally::default();
            let begun = Instant::now();
            for known in known.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                tally.ask(&client, known);
                let due = begun + Duration::from_secs(1) * tally.asked as u32 / rate;
                // Sleeps of less than a millisecond cost more than they space out.
                if let Some(early) = due.checked_duration_since(Instant::now())
                    && early > Duration::from_millis(1)
                {
                    poll::pause(early);
                }
            }
            tally
        });
        Self { stop, thread }
    }

    /// Stops, and says what was seen.
    ///
    /// # Panics
    /// When the thread did.
    #[must_use]
    pub fn finish(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| panic!("the asking thread panicked"))
    }

    /// Stops, and insists that every answer came and was right.
    ///
    /// # Panics
    /// When one was not.
    #[track_caller]
    pub fn finish_flawless(self) -> Tally {
        let tally = self.finish();
        assert!(tally.is_flawless() && tally.asked > 0, "{tally:#?}");
        tally
    }
}

impl Tally {
    /// Whether all was as it should be.
    #[must_use]
    pub fn is_flawless(&self) -> bool {
        (self.wrong, self.servfail, self.lost) == (0, 0, 0)
    }

    fn ask(&mut self, client: &Client, known: &Known) {
        self.asked += 1;
        let began = Instant::now();
        let answer = client.udp(&Question::new(&known.name, known.kind));
        self.slowest = self.slowest.max(began.elapsed());
        let example = match answer {
            Err(error) => {
                self.lost += 1;
                Some(format!("{} {}: {error}", known.name, known.kind))
            }
            Ok(answer) => {
                let difference = known.differs(&answer.normal.rcode, answer.data(known.kind));
                if difference.is_some() {
                    let failed = answer.normal.rcode == "SERVFAIL";
                    *(if failed { &mut self.servfail } else { &mut self.wrong }) += 1;
                }
                difference
            }
        };
        self.examples.extend(example.filter(|_| self.examples.len() < EXAMPLES));
    }
}

/// What a server's objects say, object by object: Services by name and address, Namespaces, and what has no name.
#[must_use]
pub fn known(server: &ApiServer) -> Vec<Known> {
    let values = |resource| server.store().values(Resource::named(resource));
    let mut endpoints: BTreeMap<(String, String), BTreeSet<IpAddr>> = BTreeMap::new();
    for slice in values("endpointslices") {
        let owner = text(&slice["metadata"]["labels"]["kubernetes.io/service-name"]);
        let key = (text(&slice["metadata"]["namespace"]), owner);
        if slice["addressType"] != "FQDN" {
            endpoints.entry(key).or_default().extend(ready_addresses(&slice));
        }
    }
    let mut out = Vec::new();
    let mut owners: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for service in values("services") {
        let key = (text(&service["metadata"]["namespace"]), text(&service["metadata"]["name"]));
        let name = format!("{}.{}.svc.cluster.local.", key.1, key.0);
        if service["spec"]["type"] == "ExternalName" {
            let target = text(&service["spec"]["externalName"]);
            if target.parse::<IpAddr>().is_err() {
                let target = format!("{}.", target.trim_end_matches('.').to_lowercase());
                let (kind, data) = (RecordType::CNAME, vec![target]);
                out.push(Known { name, kind, rcode: "NOERROR", data });
            }
            continue;
        }
        let own = cluster_ips(&service["spec"]);
        for &ip in &own {
            owners.entry(ip).or_default().push(name.clone());
        }
        let found = if own.is_empty() { endpoints.remove(&key).unwrap_or_default() } else { own };
        let rcode = if found.is_empty() { "NXDOMAIN" } else { "NOERROR" };
        for (kind, v4) in [(RecordType::A, true), (RecordType::AAAA, false)] {
            let data = found.iter().filter(|ip| ip.is_ipv4() == v4).map(ToString::to_string);
            let mut data: Vec<String> = data.collect();
            data.sort_unstable();
            out.push(Known { name: name.clone(), kind, rcode, data });
        }
    }
    for (ip, mut names) in owners {
        names.sort_unstable();
        let name = normal::text(&ip.into());
        out.push(Known { name, kind: RecordType::PTR, rcode: "NOERROR", data: names });
    }
    for namespace in values("namespaces") {
        let name = format!("{}.svc.cluster.local.", text(&namespace["metadata"]["name"]));
        out.push(Known { name, kind: RecordType::A, rcode: "NOERROR", data: Vec::new() });
    }
    out
}

/// A Service of the namespace `default` with this address.
#[must_use]
pub fn service(name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip]}})
}

fn ready_addresses(slice: &Value) -> Vec<IpAddr> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    let addresses =
        ready.flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten());
    addresses.filter_map(|address| address.as_str()?.parse().ok()).collect()
}

fn cluster_ips(spec: &Value) -> BTreeSet<IpAddr> {
    let several = spec["clusterIPs"].as_array().into_iter().flatten();
    several.chain([&spec["clusterIP"]]).filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn foreign() -> Zone {
    Zone::parse(
        "$ORIGIN .\n$TTL 60\n. IN SOA ns.test. admin.test. 1 3600 600 86400 60\nexample.org. IN A 192.0.2.7\n",
    )
    .unwrap_or_else(|error| panic!("{error:#}"))
}
