//! The store under a big cluster: 10,000 Services, a fifth of them headless, 150,000 endpoints. Memory with relists, start with and
//! without a snapshot, and what a thousand changes a second cost; and the Pods of the node. `docs/benchmark.md` has the method.

mod pods;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::api::generate::Shape;
use tests::api::{ApiServer, Fault};
use tests::bench::account::{Account, peak, resident, used_by_threads};
use tests::bench::contestant::{LOAD_CPU, SERVER_CPU, programs};
use tests::bench::latency::Latencies;
use tests::bench::ping::{END, Pings, ping};
use tests::bench::questions::{Questions, question};
use tests::bench::spawn::{Running, pin};
use tests::metrics::Metrics;
use tests::poll::{pause, until};

const USAGE: &str = "usage: bench-store [-p PART] [-t SECONDS] [-e EVENTS] [-o FILE]
  -p P  one part only: memory, snapshot, bytes, changes or pods
  -t S  seconds of each part that has changes (default 4)
  -e N  changes a second (default 1000)
  -o F  appends the figures as JSON lines to F (default target/bench/store.jsonl)";

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 3, 30), 5_453);
/// Where Nodens serves its metrics.
const METRICS: &str = "127.0.3.30:9153";
/// One change in so many is waited for, or fewer.
const PROBE_EVERY: u32 = 5;
/// How often each start is measured, and each turn of changes.
const ROUNDS: usize = 5;
/// How long queries are asked with changes, and then without.
const PHASE: Duration = Duration::from_millis(300);
/// The worker threads of Nodens, which answer.
const WORKERS: &str = "dns-";
/// How long anything may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

struct Bench {
    api: ApiServer,
    shape: Shape,
    folder: tempfile::TempDir,
    account: Arc<Account>,
    seconds: f64,
    events: u32,
    out: PathBuf,
    part: Option<String>,
    rows: Vec<Row>,
    /// Every change brings an address that has never been there.
    generation: AtomicU32,
}

/// One line of the table.
struct Row {
    what: &'static str,
    target: &'static str,
    measured: String,
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "-h" || word == "--help") {
        println!("{USAGE}");
        return Ok(());
    }
    let mut bench = Bench::new(words.into_iter())?;
    if bench.has("memory") {
        let start = "start to first complete answer";
        bench.memory("all", ["peak resident memory with two relists", start])?;
        let same = "the same, `endpoints headless`";
        bench.memory("headless", [same, same])?;
    }
    if bench.has("snapshot") {
        bench.snapshot()?;
    }
    if bench.has("bytes") {
        bench.bytes(bench.shape.services, "octets for a change in a slice of 15")?;
        let shape = Shape { services: 100, headless: 20, endpoints: 10_000, namespaces: 10 };
        bench.replace(shape);
        bench.bytes(100, "the same, in a slice of 100")?;
        bench.replace(Shape::default());
    }
    if bench.has("changes") {
        bench.changes()?;
    }
    if bench.has("pods") {
        bench.pods()?;
    }
    println!("| | target | Nodens |\n|---|---|---|");
    for Row { what, target, measured } in &bench.rows {
        println!("| {what} | {target} | {measured} |");
    }
    Ok(())
}

impl Bench {
    fn new(mut words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let (mut seconds, mut events) = (4.0, 1_000);
        let mut out = PathBuf::from("target/bench/store.jsonl");
        let mut part = None;
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| USAGE.to_owned());
            match word.as_str() {
                "-t" => seconds = value()?.parse().context("-t")?,
                "-e" => events = value()?.parse().context("-e")?,
                "-p" => part = Some(value()?),
                "-o" => out = value()?.into(),
                _ => bail!("{USAGE}"),
            }
        }
        if let Some(parent) = out.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // Everything here, the API server's threads too, stays off the processor of what is measured.
        pin(LOAD_CPU)?;
        let api = ApiServer::start();
        let shape = Shape::default();
        shape.fill(api.store());
        let folder = tempfile::tempdir()?;
        api.write_kubeconfig(&folder.path().join("kubeconfig"));
        let account = Arc::new(Account::open("store"));
        Ok(Self {
            api,
            shape,
            folder,
            account,
            seconds,
            events,
            out,
            part,
            rows: Vec::new(),
            generation: AtomicU32::new(1),
        })
    }

    fn has(&self, part: &str) -> bool {
        self.part.as_ref().is_none_or(|only| only == part)
    }

    /// Peak memory with two relists, and the start from nothing.
    fn memory(
        &mut self,
        endpoints: &str,
        [memory, start]: [&'static str; 2],
    ) -> anyhow::Result<()> {
        let options = format!("endpoints {endpoints}");
        let mut starts = Vec::new();
        for _ in 1..ROUNDS {
            starts.push(millis(self.start(&options)?.1));
        }
        let (nodens, last) = self.start(&options)?;
        starts.push(millis(last));
        let (used, received) = (nodens.used(), received_bytes()?);
        let all = endpoints == "all";
        let (bytes, cpu) = if all { ("4.8 MB", "250 ms") } else { ("1.8 MB", "") };
        self.row("octets of the first lists", bytes, format!("{:.2} MB", received as f64 / 1e6));
        self.row("CPU time of the start", cpu, format!("{:.0} ms", millis(used)));
        // The first changes of a cluster grow tables for more of them.
        self.settle()?;
        let (first, first_peak) = (resident(nodens.id()), peak(nodens.id()));
        for _ in 0..2 {
            self.api.inject(Fault::Gone);
            self.api.cut();
            pause(Duration::from_millis(500));
            self.api.heal();
            self.settle()?;
        }
        let (most, took) = (mib(peak(nodens.id())), median(starts));
        self.row(memory, if all { "28 MiB" } else { "20 MiB" }, format!("{most:.1} MiB"));
        self.row(start, if all { "1.2 s" } else { "" }, format!("{:.2} s", took / 1e3));
        self.report(json!({
            "what": "memory", "endpoints": endpoints, "start_ms": took,
            "first_list_mib": mib(first), "first_list_peak_mib": mib(first_peak),
            "start_cpu_ms": millis(used), "start_bytes": received,
            "after_two_relists_mib": mib(resident(nodens.id())), "peak_mib": most,
        }))
    }

    /// Start from a snapshot while the API server refuses.
    fn snapshot(&mut self) -> anyhow::Result<()> {
        let options = format!("snapshot {}", self.folder.path().join("snapshot").display());
        let (mut nodens, _) = self.start(&options)?;
        nodens.signal(Signal::SIGTERM);
        if !until(PATIENCE, || !nodens.is_running()) {
            bail!("nodens does not end on SIGTERM");
        }
        drop(nodens);
        let octets: u64 = std::fs::read_dir(self.folder.path().join("snapshot"))?
            .flatten()
            .filter_map(|entry| Some(entry.metadata().ok()?.len()))
            .sum();
        // With an API server that remembers its version.
        self.api.clear_requests();
        let (resumed, _) = self.start(&options)?;
        self.settle()?;
        let (lists, received) = (self.lists(), received_bytes()?);
        self.row(
            "lists, and octets, of a start with a fresh snapshot",
            "0, 64 kB",
            format!("{lists}, {received}"),
        );
        drop(resumed);
        self.api.refuse();
        let mut starts = Vec::new();
        for _ in 0..2 * ROUNDS + 1 {
            starts.push(millis(self.start(&options)?.1));
        }
        self.api.heal();
        let took = median(starts);
        self.row("start from a snapshot", "100 ms", format!("{took:.0} ms"));
        self.report(json!({"what": "snapshot", "start_ms": took, "octets": octets,
            "resumed_bytes": received, "resumed_lists": lists}))
    }

    /// Puts another cluster into a new API server.
    fn replace(&mut self, shape: Shape) {
        (self.api, self.shape) = (ApiServer::start(), shape);
        self.shape.fill(self.api.store());
        self.api.write_kubeconfig(&self.folder.path().join("kubeconfig"));
    }

    /// What a change of one endpoint takes of the network.
    fn bytes(&mut self, services: usize, what: &'static str) -> anyhow::Result<()> {
        const CHANGES: usize = 1_000;
        let (_nodens, _) = self.start("endpoints all")?;
        self.settle()?;
        let before = received_bytes()?;
        (0..CHANGES).for_each(|number| {
            self.touch(number % services);
        });
        self.settle()?;
        let each = (received_bytes()? - before) / (CHANGES as u64 + 1);
        let target = if services > 100 { "1.2 kB" } else { "6 kB" };
        self.row(what, target, format!("{:.1} kB", each as f64 / 1e3));
        self.report(json!({"what": what, "octets": each}))
    }

    /// What changes cost, how soon they are answered, and what they do to queries meanwhile.
    fn changes(&mut self) -> anyhow::Result<()> {
        let (nodens, _) = self.start("endpoints all")?;
        self.settle()?;
        let (mut shares, mut latencies) = (Vec::new(), Latencies::default());
        let turn = Duration::from_secs_f64(self.seconds);
        for _ in 0..ROUNDS {
            let (used, begun) = (nodens.used(), Instant::now());
            self.stream(turn, None)?;
            shares.push((nodens.used() - used).as_secs_f64() / begun.elapsed().as_secs_f64() * 1e2);
            self.stream(turn, Some(&mut latencies))?;
        }
        let cpu = median(shares);
        let (p50, p99) = (latencies.percentile(0.5), latencies.percentile(0.99));
        let [calm, busy] = self.phases(&nodens, turn * ROUNDS as u32)?;
        self.row("CPU for 1,000 changes a second", "3 % of a core", format!("{cpu:.1} %"));
        let measured = format!("{:.1} ms (half within {:.1} ms)", millis(p99), millis(p50));
        self.row("change to changed answer, p99", "20 ms", measured);
        for (what, target, at) in [
            ("p99 of queries with changes, against without", "within 10 %", 1),
            ("the same, half of them", "", 0),
            ("a worker's CPU time for a query, likewise", "", 2),
        ] {
            let (calm, busy) = (calm[at], busy[at]);
            let more = (busy / calm - 1.0) * 1e2;
            self.row(what, target, format!("{busy:.1} us against {calm:.1} us ({more:+.0} %)"));
        }
        self.report(json!({
            "what": "changes", "a_second": self.events, "cpu_percent_of_a_core": cpu,
            "probes": latencies.count(),
            "to_answer_p50_ms": millis(p50), "to_answer_p99_ms": millis(p99),
            "queries_p50_us_calm": calm[0], "queries_p50_us_with_changes": busy[0],
            "queries_p99_us_calm": calm[1], "queries_p99_us_with_changes": busy[1],
            "worker_us_a_query_calm": calm[2], "worker_us_a_query_with_changes": busy[2],
            "peak_mib": mib(peak(nodens.id())),
        }))
    }

    /// Asks for names of the cluster, one at a time, for so long: now without changes and now with them, a fraction of a
    /// second each, so that other work on the machine falls on both alike. Returns of both p50 and p99 in microseconds, and
    /// a worker's CPU time for a query.
    fn phases(&self, nodens: &Running, length: Duration) -> anyhow::Result<[[f64; 3]; 2]> {
        let mut questions = Questions::of("store", 1).context("no workload `store`")?;
        let phase = AtomicUsize::new(0);
        let mut used = [Duration::ZERO; 2];
        let begun = Instant::now();
        let phases = std::thread::scope(|scope| {
            let asking = scope.spawn(|| ping(SERVER, &mut questions, &phase));
            let mut turn = || -> anyhow::Result<()> {
                while begun.elapsed() < length {
                    for (now, used) in used.iter_mut().enumerate() {
                        let before = used_by_threads(nodens.id(), WORKERS);
                        phase.store(now, Ordering::Relaxed);
                        if now == 0 {
                            pause(PHASE);
                        } else {
                            self.stream(PHASE, None)?;
                        }
                        *used += used_by_threads(nodens.id(), WORKERS).saturating_sub(before);
                        phase.store(END - 1, Ordering::Relaxed);
                        // What the phase has left to do is done.
                        pause(PHASE / 10);
                    }
                }
                Ok(())
            };
            let turns = turn();
            phase.store(END, Ordering::Relaxed);
            turns?;
            asking.join().map_err(|_| anyhow::anyhow!("the asker panicked"))?
        })?;
        let mut figures = [[0.0; 3]; 2];
        for ((figures, Pings { latencies, lost }), used) in figures.iter_mut().zip(phases).zip(used)
        {
            if lost * 100 > latencies.count() {
                bail!("{lost} queries were lost beside {} answers", latencies.count());
            }
            let micros = |share| latencies.percentile(share).as_secs_f64() * 1e6;
            let each = used.as_secs_f64() * 1e6 / latencies.count().max(1) as f64;
            *figures = [micros(0.5), micros(0.99), each];
        }
        Ok(figures)
    }

    fn lists(&self) -> usize {
        self.api.requests().iter().filter(|request| request.verb == "list").count()
    }

    /// Starts Nodens and waits until it knows the last Service and the last headless one with all its endpoints.
    fn start(&self, options: &str) -> anyhow::Result<(Running, Duration)> {
        let folder = self.folder.path();
        let corefile = folder.join("Corefile");
        let text = format!(
            ".:{} {{\n    bind {}\n    errors\n    prometheus {METRICS}\n    kubernetes cluster.local in-addr.arpa {{\n        kubeconfig {}\n        \
             pods insecure\n        ttl 30\n        {options}\n    }}\n    cache 30\n    loadbalance\n}}\n",
            SERVER.port(),
            SERVER.ip(),
            folder.join("kubeconfig").display(),
        );
        std::fs::write(&corefile, text)?;
        let mut command = Command::new(programs()?.join("nodens"));
        command.arg("-conf").arg(&corefile).arg("--socket").arg(folder.join("admin.sock"));
        let output = std::fs::File::create(folder.join("output"))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let running = Running::start(command, SERVER_CPU, &self.account)?;
        let asker = Asker::new()?;
        let last = self.shape.services - 1;
        let headless = (0..=last).rev().find(|i| self.shape.is_headless(*i)).unwrap_or(0);
        let plain = (0..=last).rev().find(|i| !self.shape.is_headless(*i)).unwrap_or(0);
        let complete = || {
            asker.holds(&self.name(plain), &[self.shape.cluster_ip(plain)])
                && asker.holds(&self.name(headless), &[self.shape.endpoint(headless, 1, 0)])
        };
        while !complete() {
            if running.started().elapsed() > PATIENCE {
                bail!("no complete answer; nodens printed:\n{}", read(&folder.join("output")));
            }
            pause(Duration::from_millis(1));
        }
        let time = running.started().elapsed();
        Ok((running, time))
    }

    /// Changes one Service and waits until that is answered: then a watch runs again.
    fn settle(&self) -> anyhow::Result<()> {
        let asker = Asker::new()?;
        let service = (0..self.shape.services).find(|i| self.shape.is_headless(*i)).unwrap_or(0);
        let address = self.touch(service);
        if !until(PATIENCE, || asker.holds(&self.name(service), &[address])) {
            bail!("a change is not answered: {}", read(&self.folder.path().join("output")));
        }
        // What was built aside is let go of soon after.
        pause(Duration::from_secs(1));
        Ok(())
    }

    /// Changes endpoints at the set rate for so long; `probe`: takes how long some of them took to be answered.
    fn stream(&self, length: Duration, mut probe: Option<&mut Latencies>) -> anyhow::Result<()> {
        let begun = Instant::now();
        let asker = Asker::new()?;
        let step = Duration::from_secs(1) / self.events.max(1);
        let mut waiting: Option<(Instant, String, Ipv4Addr)> = None;
        let mut next = PROBE_EVERY;
        for number in 0..(length.as_secs_f64() * f64::from(self.events)) as u32 {
            let due = begun + step * number;
            while Instant::now() < due {
                match &waiting {
                    Some((since, name, address)) => {
                        if asker.holds(name, &[*address]) {
                            let took = since.elapsed().as_nanos() as u64;
                            probe.iter_mut().for_each(|latencies| latencies.add(took));
                            waiting = None;
                        }
                    }
                    None => pause(due.saturating_duration_since(Instant::now())),
                }
            }
            let service = number as usize * 7 % self.shape.services;
            let address = self.touch(service);
            let wanted = probe.is_some() && waiting.is_none() && number >= next;
            if wanted && self.shape.is_headless(service) {
                next = number + PROBE_EVERY;
                waiting = Some((Instant::now(), self.name(service), address));
            }
        }
        Ok(())
    }

    /// Changes a Service's first endpoint and returns its new address.
    fn touch(&self, service: usize) -> Ipv4Addr {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        self.shape.touch(self.api.store(), service, generation)
    }

    fn name(&self, service: usize) -> String {
        let (namespace, name) = self.shape.service_name(service);
        format!("{name}.{namespace}.svc.cluster.local")
    }

    fn row(&mut self, what: &'static str, target: &'static str, measured: String) {
        self.rows.push(Row { what, target, measured });
    }

    fn report(&self, value: Value) -> anyhow::Result<()> {
        println!("{value:#}");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.out)?;
        Ok(std::io::Write::write_all(&mut file, format!("{value}\n").as_bytes())?)
    }
}

/// Asks and looks into the answer.
struct Asker(UdpSocket);

impl Asker {
    fn new() -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SERVER)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(Self(socket))
    }

    /// True where the answer holds all of these addresses.
    fn holds(&self, name: &str, addresses: &[Ipv4Addr]) -> bool {
        let mut buffer = [0; 1_500];
        let query = question(name, 1);
        let len = self.0.send(&query).and_then(|_| self.0.recv(&mut buffer));
        let Some(answer) = len.ok().and_then(|len| buffer.get(query.len()..len)) else {
            return false;
        };
        addresses.iter().all(|ip| answer.windows(4).any(|octets| octets == ip.octets()))
    }
}

/// Octets of response bodies that Nodens has received.
fn received_bytes() -> anyhow::Result<u64> {
    let page = tests::http::get(METRICS.parse()?, "/metrics", PATIENCE).context("no metrics")?;
    let metrics = Metrics::parse(&page.body);
    Ok(metrics.sum("nodens_kubernetes_received_bytes_total", &[]) as u64)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mib(octets: u64) -> f64 {
    octets as f64 / f64::from(1 << 20)
}
