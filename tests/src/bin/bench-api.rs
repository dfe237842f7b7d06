//! What many agents together cost the API server: N real processes before one test API server. They start, start again from
//! their snapshots, live through a failure of the API server, and see changes. `docs/scale.md` has the figures.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde_json::json;
use tests::api::generate::Shape;
use tests::api::{ApiServer, RequestRecord};
use tests::bench::account::Account;
use tests::bench::contestant::{LOAD_CPU, SERVER_CPU, programs};
use tests::bench::questions::question;
use tests::bench::spawn::{Running, pin};
use tests::metrics::Metrics;
use tests::poll::{pause, until};

const USAGE: &str =
    "usage: bench-api [-n AGENTS] [-s SERVICES] [-e all|headless] [-d SECONDS]... [-t TIMES]
  -n N  agents, each a process (default 20)
  -s N  Services, a fifth of them headless, with 15 endpoints each (default 10000)
  -e E  which endpoints they watch (default headless)
  -d S  how long the API server is away; may be given several times (default 5)
  -t N  how often each is done, with versions known and forgotten (default 3)";

/// How long anything may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(120);

struct Bench {
    api: ApiServer,
    shape: Shape,
    folder: tempfile::TempDir,
    account: Arc<Account>,
    endpoints: String,
    agents: Vec<Agent>,
    changes: u32,
}

struct Agent {
    process: Running,
    address: Ipv4Addr,
    socket: UdpSocket,
}

fn main() -> anyhow::Result<()> {
    let (mut count, mut services, mut endpoints) = (20, 10_000, "headless".to_owned());
    let (mut outages, mut times) = (Vec::new(), 3);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| USAGE.to_owned());
        match word.as_str() {
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(());
            }
            "-n" => count = value()?.parse().context("-n")?,
            "-s" => services = value()?.parse().context("-s")?,
            "-e" => endpoints = value()?,
            "-d" => outages.push(value()?.parse().context("-d")?),
            "-t" => times = value()?.parse().context("-t")?,
            _ => bail!("{USAGE}"),
        }
    }
    if outages.is_empty() {
        outages.push(5);
    }
    pin(LOAD_CPU)?;
    let mut bench = Bench::new(services, endpoints)?;
    println!("| {count} agents, `endpoints {}` | all | of each |\n|---|---|---|", bench.endpoints);
    let first = bench.starts(count, "without snapshots")?;
    bench.stop()?;
    bench.starts(count, "with fresh snapshots")?;
    bench.steady(Duration::from_secs(20))?;
    bench.change_all()?;
    for seconds in outages {
        for forgotten in [false, true] {
            bench.outage(Duration::from_secs(seconds), forgotten, times)?;
        }
    }
    println!("\nModel: the bytes of a start, times nodes\n\n| nodes | bytes |\n|---|---|");
    for nodes in [500.0, 5_000.0, 15_000.0] {
        println!("| {nodes} | {:.2} GB |", first as f64 / count as f64 * nodes / 1e9);
    }
    Ok(())
}

impl Bench {
    fn new(services: usize, endpoints: String) -> anyhow::Result<Self> {
        let api = ApiServer::start();
        let shape = Shape {
            services,
            headless: services / 5,
            endpoints: services * 15,
            namespaces: (services / 100).max(1),
        };
        shape.fill(api.store());
        let folder = tempfile::tempdir()?;
        api.write_kubeconfig(&folder.path().join("kubeconfig"));
        let account = Arc::new(Account::open("api"));
        Ok(Self { api, shape, folder, account, endpoints, agents: Vec::new(), changes: 0 })
    }

    /// Starts all agents at once and waits until all know the last Service. Returns the octets of response bodies.
    fn starts(&mut self, count: usize, how: &str) -> anyhow::Result<u64> {
        self.api.clear_requests();
        let (begun, used) = (Instant::now(), self.account.used_before());
        for number in 0..count {
            let agent = self.start(number)?;
            self.agents.push(agent);
        }
        // What none of them can have from a snapshot.
        let took = self.change(begun)?;
        let bytes = self.received()?;
        let cpu = self.account.used_before().saturating_sub(used);
        let requests = self.api.requests();
        let lists = requests.iter().filter(|request| request.verb == "list").count();
        let each = |all: f64| all / count as f64;
        println!(
            "| start {how}: octets | {:.2} MB | {:.3} MB |",
            bytes as f64 / 1e6,
            each(bytes as f64 / 1e6)
        );
        println!("| start {how}: lists | {lists} | {:.1} |", each(lists as f64));
        println!(
            "| start {how}: CPU time of the agents | {:.2} s | {:.0} ms |",
            cpu.as_secs_f64(),
            each(cpu.as_secs_f64() * 1e3)
        );
        println!("| start {how}: a new Service is answered by the last one | {:.2} s | |", took);
        Ok(bytes)
    }

    fn start(&self, number: usize) -> anyhow::Result<Agent> {
        let address =
            Ipv4Addr::new(127, 0, 4, u8::try_from(number + 1).context("too many agents")?);
        let folder = self.folder.path().join(number.to_string());
        std::fs::create_dir_all(&folder)?;
        let corefile = format!(
            ".:5453 {{\n    bind {address}\n    errors\n    prometheus {address}:9153\n    kubernetes cluster.local in-addr.arpa {{\n        \
             kubeconfig {}\n        pods insecure\n        endpoints {}\n        snapshot {}\n    }}\n    cache 30\n}}\n",
            self.folder.path().join("kubeconfig").display(),
            self.endpoints,
            folder.join("snapshot").display(),
        );
        std::fs::write(folder.join("Corefile"), corefile)?;
        let mut command = Command::new(programs()?.join("nodens"));
        command.arg("-conf").arg(folder.join("Corefile"));
        command.arg("--socket").arg(folder.join("admin.sock"));
        let output = std::fs::File::create(folder.join("output"))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = Running::start(command, SERVER_CPU, &self.account)?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SocketAddrV4::new(address, 5_453))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(Agent { process, address, socket })
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        self.agents.iter().for_each(|agent| agent.process.signal(Signal::SIGTERM));
        for agent in &mut self.agents {
            if !until(PATIENCE, || !agent.process.is_running()) {
                bail!("an agent does not end on SIGTERM");
            }
        }
        self.agents.clear();
        Ok(())
    }

    /// Changes a headless Service's endpoint, and returns the seconds from `since` until every agent has answered it.
    fn change(&mut self, since: Instant) -> anyhow::Result<f64> {
        Ok(self.changed(since)?.last().copied().unwrap_or_default())
    }

    /// The same for each agent, in ascending order.
    fn changed(&mut self, since: Instant) -> anyhow::Result<Vec<f64>> {
        self.changes += 1;
        let last = (0..self.shape.services).rev().find(|i| self.shape.is_headless(*i)).unwrap_or(0);
        let address = self.shape.touch(self.api.store(), last, self.changes);
        let (namespace, name) = self.shape.service_name(last);
        let query = question(&format!("{name}.{namespace}.svc.cluster.local"), 1);
        let mut waiting: Vec<usize> = (0..self.agents.len()).collect();
        let mut times = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while !waiting.is_empty() {
            if Instant::now() > deadline {
                bail!("{} agents do not answer what has changed", waiting.len());
            }
            waiting.retain(|&at| {
                let knows = self.agents.get(at).is_none_or(|agent| agent.holds(&query, address));
                if knows {
                    times.push(since.elapsed().as_secs_f64());
                }
                !knows
            });
            pause(Duration::from_millis(2));
        }
        Ok(times)
    }

    /// Nothing changes for so long.
    fn steady(&mut self, length: Duration) -> anyhow::Result<()> {
        let (before, used) = (self.received()?, self.account.used_before());
        self.api.clear_requests();
        pause(length);
        let (bytes, seconds) = (self.received()? - before, length.as_secs_f64());
        let cpu = self.account.used_before().saturating_sub(used).as_secs_f64();
        let each = self.agents.len() as f64;
        let requests = self.api.requests().len() as f64 / seconds;
        println!("| nothing changes: requests a second | {requests:.2} | {:.3} |", requests / each);
        let bytes = bytes as f64 / seconds;
        println!("| nothing changes: octets a second | {bytes:.0} | {:.1} |", bytes / each);
        let cpu = cpu / seconds * 1e3;
        println!("| nothing changes: CPU time a second | {cpu:.1} ms | {:.2} ms |", cpu / each);
        Ok(())
    }

    /// One slice changes a hundred times.
    fn change_all(&mut self) -> anyhow::Result<()> {
        let before = self.received()?;
        let mut took = Vec::new();
        for _ in 0..100 {
            took.extend(self.changed(Instant::now())?);
        }
        let bytes = (self.received()? - before) as f64 / 100.0;
        let each = self.agents.len() as f64;
        println!("| a change of a slice of 15: octets | {bytes:.0} | {:.0} |", bytes / each);
        took.sort_by(f64::total_cmp);
        let (p50, p99) = (took[took.len() / 2] * 1e3, took[took.len() * 99 / 100] * 1e3);
        println!("| the same: answered, half and p99 | | {p50:.1} ms, {p99:.1} ms |");
        Ok(())
    }

    /// The API server is away for so long and comes back.
    fn outage(&mut self, length: Duration, forgotten: bool, times: usize) -> anyhow::Result<()> {
        let (mut took, mut spreads, mut lists) = (Vec::new(), Vec::new(), 0);
        for _ in 0..times {
            self.api.refuse();
            pause(length);
            if forgotten {
                self.api.store().compact();
            }
            self.api.clear_requests();
            let back = Instant::now();
            self.api.heal();
            took.extend(self.changed(back)?);
            let requests = self.api.requests();
            lists += requests.iter().filter(|request| request.verb == "list").count();
            spreads.push(spread(&requests));
            // Watches that end soon after they began are another thing.
            pause(Duration::from_secs(6));
        }
        took.sort_by(f64::total_cmp);
        let (p50, p99) = (took[took.len() / 2], took[(took.len() * 99 / 100).min(took.len() - 1)]);
        let versions = if forgotten { "forgotten" } else { "known" };
        let what = format!("away for {} s, versions {versions}", length.as_secs());
        let agents = (self.agents.len() * times) as f64;
        println!("| {what}: a change is answered, half and p99 | | {p50:.2} s, {p99:.2} s |");
        println!("| {what}: lists | {lists} | {:.2} |", lists as f64 / agents);
        let least = spreads.iter().copied().fold(f64::MAX, f64::min);
        println!("| {what}: from the first to the last agent's return, least | {least:.2} s | |");
        println!(
            "{}",
            json!({"what": "outage", "seconds": length.as_secs(), "forgotten": forgotten, "p50_s": p50, "p99_s": p99, "lists": lists})
        );
        Ok(())
    }

    /// Octets of response bodies that all agents have received.
    fn received(&self) -> anyhow::Result<u64> {
        let mut sum = 0.0;
        for agent in &self.agents {
            let address = SocketAddrV4::new(agent.address, 9_153).into();
            let page = tests::http::get(address, "/metrics", PATIENCE).context("no metrics")?;
            let metrics = Metrics::parse(&page.body);
            sum += metrics.sum("nodens_kubernetes_received_bytes_total", &[]);
        }
        Ok(sum as u64)
    }
}

impl Agent {
    /// True if the answer holds this address.
    fn holds(&self, query: &[u8], address: Ipv4Addr) -> bool {
        let mut buffer = [0; 1_500];
        let len = self.socket.send(query).and_then(|_| self.socket.recv(&mut buffer));
        let Some(answer) = len.ok().and_then(|len| buffer.get(query.len()..len)) else {
            return false;
        };
        answer.windows(4).any(|octets| octets == address.octets())
    }
}

/// Seconds between the first requests of the first connection and of the last.
fn spread(requests: &[RequestRecord]) -> f64 {
    let mut first = std::collections::BTreeMap::new();
    for request in requests {
        first.entry(request.connection).or_insert(request.at);
    }
    let times = || first.values().copied();
    let between = times().max().zip(times().min()).map(|(last, first)| last - first);
    between.unwrap_or_default().as_secs_f64()
}
