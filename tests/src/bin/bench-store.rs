//! The store under a big cluster: 10,000 Services, a fifth of them headless, 150,000 endpoints. Memory with relists, start with and
//! without a snapshot, and what a thousand changes a second cost. `docs/benchmark.md` has the method.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::api::generate::Shape;
use tests::api::{ApiServer, Fault};
use tests::bench::account::{Account, peak, resident};
use tests::bench::contestant::{LOAD_CPU, SERVER_CPU, programs};
use tests::bench::latency::Latencies;
use tests::bench::questions::question;
use tests::bench::spawn::Running;
use tests::poll::{pause, until};

const USAGE: &str = "usage: bench-store [-t SECONDS] [-e EVENTS] [-o FILE]
  -t S  seconds of each part that has changes (default 10)
  -e N  changes a second (default 1000)
  -o F  appends the figures as JSON lines to F (default target/bench/store.jsonl)";

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 3, 30), 5_453);
/// Queries a second while the p99 of answers is measured.
const RATE: &str = "5000";
/// Every so many changes one is waited for.
const PROBE_EVERY: u32 = 25;
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
    /// Every change brings an address that has never been there.
    generation: AtomicU32,
}

fn main() -> anyhow::Result<()> {
    let mut bench = Bench::new(std::env::args().skip(1))?;
    for endpoints in ["all", "headless"] {
        bench.memory(endpoints)?;
    }
    bench.snapshot()?;
    bench.changes()
}

impl Bench {
    fn new(mut words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let (mut seconds, mut events) = (10.0, 1_000);
        let mut out = PathBuf::from("target/bench/store.jsonl");
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| USAGE.to_owned());
            match word.as_str() {
                "-t" => seconds = value()?.parse().context("-t")?,
                "-e" => events = value()?.parse().context("-e")?,
                "-o" => out = value()?.into(),
                _ => bail!("{USAGE}"),
            }
        }
        if let Some(parent) = out.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // Everything here, the API server's threads too, stays off the processor of what is measured.
        let mut cpus = CpuSet::new();
        cpus.set(LOAD_CPU)?;
        sched_setaffinity(Pid::from_raw(0), &cpus)?;
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
            generation: AtomicU32::new(1),
        })
    }

    /// Peak memory with two relists, and the start from nothing.
    fn memory(&mut self, endpoints: &str) -> anyhow::Result<()> {
        let (nodens, start) = self.start(&format!("endpoints {endpoints}"))?;
        // The first changes of a cluster make room for more of them.
        self.settle()?;
        let (first, first_peak) = (resident(nodens.id()), peak(nodens.id()));
        for _ in 0..2 {
            self.api.inject(Fault::Gone);
            self.api.cut();
            pause(Duration::from_millis(500));
            self.api.heal();
            self.settle()?;
        }
        self.report(json!({
            "what": "memory", "endpoints": endpoints, "start_ms": millis(start),
            "first_list_mib": mib(first), "first_list_peak_mib": mib(first_peak),
            "after_two_relists_mib": mib(resident(nodens.id())), "peak_mib": mib(peak(nodens.id())),
        }))
    }

    /// Start from a snapshot, while the API server refuses.
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
        self.api.refuse();
        let mut starts = Vec::new();
        for _ in 0..5 {
            starts.push(millis(self.start(&options)?.1));
        }
        self.api.heal();
        starts.sort_by(f64::total_cmp);
        self.report(json!({"what": "snapshot", "start_ms": starts[2], "octets": octets}))
    }

    /// What changes cost, how soon they are answered, and what they do to queries meanwhile.
    fn changes(&mut self) -> anyhow::Result<()> {
        let (nodens, _) = self.start("endpoints all")?;
        self.settle()?;
        let idle = self.load(|| Ok(()))?;
        let (used, begun) = (nodens.used(), Instant::now());
        self.stream(false)?;
        let share = (nodens.used() - used).as_secs_f64() / begun.elapsed().as_secs_f64();
        let latencies = self.stream(true)?;
        let mut calm = vec![idle];
        let mut busy = Vec::new();
        for _ in 0..3 {
            busy.push(self.load(|| self.stream(false).map(drop))?);
            calm.push(self.load(|| Ok(()))?);
        }
        let p99 = |turns: &[Value]| {
            let mut all: Vec<f64> = turns.iter().filter_map(|t| t["p99_us"].as_f64()).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or(0.0)
        };
        self.report(json!({
            "what": "changes", "a_second": self.events, "cpu_percent_of_a_core": share * 100.0,
            "probes": latencies.count(),
            "to_answer_p50_ms": millis(latencies.percentile(0.5)),
            "to_answer_p99_ms": millis(latencies.percentile(0.99)),
            "queries_p99_us_calm": p99(&calm), "queries_p99_us_with_changes": p99(&busy),
            "peak_mib": mib(peak(nodens.id())),
        }))
    }

    /// Starts Nodens and waits until it knows the last Service and the last headless one with all its endpoints.
    fn start(&self, options: &str) -> anyhow::Result<(Running, Duration)> {
        let folder = self.folder.path();
        let corefile = folder.join("Corefile");
        let text = format!(
            ".:{} {{\n    bind {}\n    errors\n    kubernetes cluster.local in-addr.arpa {{\n        kubeconfig {}\n        \
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
                bail!("no complete answer; nodens said:\n{}", read(&folder.join("output")));
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

    /// Changes endpoints at the set rate for the set time; `probe`: waits for some of them to be answered.
    fn stream(&self, probe: bool) -> anyhow::Result<Latencies> {
        let begun = Instant::now();
        let (asker, mut latencies) = (Asker::new()?, Latencies::default());
        let step = Duration::from_secs(1) / self.events.max(1);
        let mut waiting: Option<(Instant, String, Ipv4Addr)> = None;
        for number in 0..(self.seconds * f64::from(self.events)) as u32 {
            let due = begun + step * number;
            while Instant::now() < due {
                match &waiting {
                    Some((since, name, address)) => {
                        if asker.holds(name, &[*address]) {
                            latencies.add(since.elapsed().as_nanos() as u64);
                            waiting = None;
                        }
                    }
                    None => pause(due.saturating_duration_since(Instant::now())),
                }
            }
            let service = number as usize * 7 % self.shape.services;
            let address = self.touch(service);
            let wanted = probe && number >= PROBE_EVERY && self.shape.is_headless(service);
            if wanted && waiting.is_none() && number.is_multiple_of(PROBE_EVERY) {
                waiting = Some((Instant::now(), self.name(service), address));
            }
        }
        Ok(latencies)
    }

    /// Asks for names of the cluster at a steady rate while `work` is done, in a program of its own.
    fn load(&self, work: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<Value> {
        let mut command = Command::new(programs()?.join("bench-load"));
        let seconds = self.seconds.to_string();
        command.args(["--server", &SERVER.to_string(), "--workload", "store"]);
        command.args(["--seconds", &seconds, "--rate", RATE]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn()?;
        work()?;
        let out = child.wait_with_output()?;
        Ok(serde_json::from_slice(&out.stdout)?)
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

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mib(octets: u64) -> f64 {
    octets as f64 / f64::from(1 << 20)
}
