//! A small cluster for scenarios: the recorded objects in a test API server, the real binary that watches them, a client
//! that never stops asking, and the comparison of what is answered with what the server has, object by object.

mod known;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{ApiServer, Options};
use crate::client::Client;
use crate::poll;
use crate::process::{Nodens, Ready, Setup};
use crate::upstream::Upstream;
use crate::zone::Zone;

pub use self::known::{Known, known};

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
        // Part of the program: tests also run where the sources are not.
        let recorded = include_str!("../data/conformance/cluster.json");
        let objects = serde_json::from_str(recorded);
        self.server.load(objects.unwrap_or_else(|error| panic!("cluster.json: {error}")));
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

    /// A set-up with these lines in the `kubernetes` block; `@data@` is the lasting folder. Without `pods` among them
    /// it is `pods insecure`.
    #[must_use]
    pub fn setup(&self, options: &str) -> Setup {
        let pods = if options.contains("pods ") { "" } else { "pods insecure" };
        let corefile = format!(
            ".:@dns@ {{
    bind 127.0.0.1
    ready 127.0.0.1:@ready@
    prometheus 127.0.0.1:@metrics@
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {}
        {pods}
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
            // The last difference first: it usually persists.
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

    /// Stops, and returns what was seen.
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
        let answer = client.ask(&known.name, known.kind);
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

/// A Service of the namespace `default` with this address.
#[must_use]
pub fn service(name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip]}})
}

fn foreign() -> Zone {
    Zone::parse(
        "$ORIGIN .\n$TTL 60\n. IN SOA ns.test. admin.test. 1 3600 600 86400 60\nexample.org. IN A 192.0.2.7\n",
    )
    .unwrap_or_else(|error| panic!("{error:#}"))
}
