//! The server ends in every way that there is, while clients ask: what they notice of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tests::client::{Client, Question};
use tests::cluster::Cluster;
use tests::load::{Load, Questions};
use tests::poll::{pause, until, wait_for};
use tests::process::{self, Nodens, Ready, Setup};
use tests::upstream::Upstream;

const SOON: Duration = Duration::from_secs(30);
/// Queries a second, and those of them over TCP.
const RATE: (u64, u64) = (1_000, 100);
/// Names that are cached.
const HOT: u64 = 50;
/// Datagrams that two workers take at a time.
const BATCHES: usize = 2 * 32;
const COREFILE: &str = "hosts.test.:@port@ {
    bind @address@
    hosts {
        192.0.2.10 a.hosts.test
    }
    ready 127.0.0.1:@ready@
    prometheus 127.0.0.1:@metrics@
}
test.:@port@ {
    bind @address@
    forward . @upstream@
    cache 300
}
";

/// Instances at one address that find each other.
struct Site {
    folder: TempDir,
    address: SocketAddr,
    upstream: Upstream,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let records: String = (0..HOT).map(|n| format!("n{n} IN A 192.0.2.1\n")).collect();
        let zone = "$ORIGIN test.\n$TTL 300\n@ IN SOA ns.test. admin.test. 1 3600 600 86400 60\n";
        let upstream = Upstream::with_zone(&format!("{zone}{records}"));
        let address = SocketAddr::from(([127, 0, 0, 1], tests::ports::one()));
        Self { folder, address, upstream }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("nodens.sock")
    }

    fn setup(&self) -> Setup {
        self.setup_with(COREFILE)
    }

    fn setup_with(&self, corefile: &str) -> Setup {
        Setup::new(corefile)
            .word("port", self.address.port())
            .word("address", self.address.ip())
            .word("upstream", self.upstream.address())
            .arguments(&["--workers", "2", "--socket", self.socket().to_str().unwrap()])
            .ready(Ready::AnswerAt(self.address))
    }

    /// An instance that others can find.
    fn start(&self) -> Nodens {
        self.setup().start()
    }

    fn client(&self) -> Client {
        Client::new(self.address).within(Duration::from_secs(2))
    }

    /// Half of what is known itself, half of what is cached.
    fn load(&self) -> Load {
        let known = Question::new("a.hosts.test.", RecordType::A).to_bytes();
        let cached: Vec<Vec<u8>> = (0..HOT)
            .map(|n| Question::new(&format!("n{n}.test."), RecordType::A).to_bytes())
            .collect();
        let questions: Questions = Arc::new(move |n| match n % 2 {
            0 => known.clone(),
            _ => cached[(n / 2 % HOT) as usize].clone(),
        });
        Load::start(self.address, RATE.0, RATE.1, questions)
    }

    /// Asks for everything once, so that the cache has it.
    fn warm_up(&self) {
        for n in 0..HOT {
            assert!(self.client().ask(&format!("n{n}.test."), RecordType::A).is_ok());
        }
    }

    /// Queries that have reached the upstream.
    fn misses(&self) -> usize {
        self.upstream.seen().iter().filter(|seen| seen.name.starts_with('n')).count()
    }
}

fn restarts(nodens: &Nodens) -> f64 {
    nodens.metrics().sum("nodens_supervisor_restarts_total", &[])
}

/// Waits until another server process than `old` serves.
fn wait_for_next(nodens: &Nodens, old: u32) {
    wait_for("another server", SOON, || nodens.server() != old && nodens.server() != nodens.pid());
}

#[test]
fn a_killed_server_is_back_at_once_with_sockets_and_cache() {
    let site = Site::new();
    let mut nodens = site.start();
    site.warm_up();
    // What is kept is written once a second.
    let log = "the server was started again: it was ended by SIGKILL";
    let kept =
        || process::run(&["status", "--socket", site.socket().to_str().unwrap()]).0.success();
    wait_for("the control socket", SOON, kept);
    pause(Duration::from_millis(1_500));
    let load = site.load();
    let kills = 3;
    for n in 1..=kills {
        pause(Duration::from_millis(700));
        let old = nodens.server();
        nodens.signal_server(Signal::SIGKILL);
        wait_for_next(&nodens, old);
        wait_for("its metrics", SOON, || {
            nodens.get(nodens.ports().metrics, "/metrics").is_some()
                && restarts(&nodens) == f64::from(n)
        });
    }
    pause(Duration::from_millis(300));
    let report = load.stop();
    nodens.wait_for_log(log, SOON);
    let udp = report.lost.iter().filter(|(_, what)| what.contains("UDP")).count();
    println!("{} asked, {} lost, {udp} of them over UDP", report.asked, report.lost.len());
    // What the process had in hand goes with it: at most one batch of each worker, which holds many only if the load was late and
    // sent many at once, and what the connections have.
    assert!(report.asked > 1_000 && udp <= BATCHES * kills as usize, "{:?}", report.lost);
    assert!(report.lost.len() - udp <= 10 * kills as usize, "{:?}", report.lost);
    let mut sent: Vec<Instant> = report.lost.iter().map(|(at, _)| *at).collect();
    sent.sort_unstable();
    // Nothing is lost while no process serves: what is lost at a kill was all sent just before it.
    let bursts: Vec<&[Instant]> =
        sent.chunk_by(|a, b| *b - *a < Duration::from_millis(300)).collect();
    assert!(bursts.len() <= kills as usize, "{:?}", report.lost);
    let lasted = bursts.iter().map(|burst| *burst.last().unwrap() - *burst.first().unwrap()).max();
    assert!(lasted.unwrap_or_default() < Duration::from_millis(100), "{:?}", report.lost);
    assert_eq!(site.misses(), HOT as usize, "the cache is there again");
    nodens.stop(SOON);
}

#[test]
fn instances_change_places_without_a_lost_query() {
    let site = Site::new();
    let mut now = site.start();
    site.warm_up();
    let load = site.load();
    for _ in 0..4 {
        pause(Duration::from_millis(300));
        let next = site.start();
        next.wait_for_log("the previous instance has left", SOON);
        let status = now.wait_exit(SOON);
        assert!(status.success(), "{status}; log:\n{}", now.log());
        now = next;
    }
    pause(Duration::from_millis(200));
    let report = load.stop();
    println!("{} asked, {} lost", report.asked, report.lost.len());
    assert!(report.asked > 1_000 && report.lost.is_empty(), "{:?}", report.lost);
    assert_eq!(site.misses(), HOT as usize, "the cache came along");
    now.stop(SOON);
    assert!(!site.socket().exists() && !site.socket().with_extension("handover").exists());
}

#[test]
fn an_upgrade_replaces_the_running_server() {
    let site = Site::new();
    let mut nodens = site.start();
    let socket = site.socket();
    let socket = socket.to_str().unwrap();
    let load = site.load();
    let (status, out, err) = process::run(&["upgrade", "--socket", socket]);
    assert!(status.success() && out.contains("the upgrade took"), "{out}{err}");
    assert!(nodens.wait_exit(SOON).success());
    assert!(load.stop().lost.is_empty());
    // It has the same arguments, and is not a child of this test: its pidfile is its control socket.
    let (status, out, _) = process::run(&["status", "--socket", socket, "-o", "json"]);
    assert!(status.success());
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    let server = status["pid"].as_u64().unwrap();
    let supervisor = parent(server);
    // The new one cannot start: the old one says why, and serves.
    std::fs::write(nodens.folder().join("Corefile"), "nonsense {").unwrap();
    let (status, _, err) = process::run(&["upgrade", "--socket", socket]);
    assert!(!status.success() && err.contains("still serves"), "{err}");
    assert!(err.contains("Corefile:1"), "the reason: {err}");
    let (status, _, err) = process::run(&["upgrade", "--force", "--socket", socket]);
    assert!(!status.success() && err.contains("old one still serves"), "{err}");
    assert!(site.client().ask("a.hosts.test.", RecordType::A).is_ok());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), Signal::SIGTERM).unwrap();
    assert!(until(SOON, || !Path::new(&format!("/proc/{supervisor}")).exists()));
}

fn parent(pid: u64) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn a_server_that_is_stopped_is_replaced() {
    let site = Site::new();
    let mut nodens = site.start();
    // Its first sign of life.
    pause(Duration::from_millis(400));
    let old = nodens.server();
    let begun = Instant::now();
    nodens.freeze_server();
    // 2 s on a machine that does nothing else (`scripts/bench life`); here other tests run, too.
    let client = site.client().within(Duration::from_secs(5));
    let lost = client.ask("a.hosts.test.", RecordType::A);
    assert!(lost.is_ok(), "{lost:?} after {:?}", begun.elapsed());
    wait_for_next(&nodens, old);
    nodens.wait_for_log("the server makes no progress and is killed", SOON);
    nodens.stop(SOON);
}

#[test]
fn starts_that_fail_beside_a_server_harm_nothing() {
    let site = Site::new();
    let mut nodens = site.start();
    let load = site.load();
    for (corefile, arguments, said) in [
        ("nonsense {", &[][..], "never closed"),
        (COREFILE, &["--no-such-flag"][..], "no-such-flag"),
        ("test.:@port@ {\n bind 192.0.2.77\n forward . 192.0.2.1\n}", &[], "192.0.2.77"),
        (
            "test.:@port@ {\n bind @address@\n forward . /no/such/resolv.conf\n hosts {\n",
            &[],
            "Corefile",
        ),
    ] {
        let mut failed = site.setup_with(corefile).arguments(arguments).ready(Ready::No).start();
        let status = failed.wait_exit(SOON);
        let log = failed.complete_log();
        assert!(!status.success() && log.contains(said), "{status}: {log}");
    }
    let report = load.stop();
    assert!(report.lost.is_empty(), "{:?}", report.lost);
    nodens.stop(SOON);
}

#[test]
fn an_older_instance_that_hangs_is_named() {
    let site = Site::new();
    let old = site.start();
    old.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    let mut new = site.setup().ready(Ready::No).start();
    new.wait_for_log(
        "does not answer: queries that the kernel gives to its sockets are lost",
        SOON,
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let status = || {
        let socket = site.socket();
        process::run(&["status", "--socket", socket.to_str().unwrap()]).1
    };
    wait_for("the status to say so", SOON, || status().contains("does not answer"));
    drop(old);
    wait_for("the status to forget it", SOON, || {
        let status = status();
        !status.is_empty() && !status.contains("does not answer")
    });
    new.stop(SOON);
}

#[test]
fn the_server_ends_with_its_supervisor_and_says_what_it_says() {
    let site = Site::new();
    let mut nodens = site.start();
    let server = nodens.server();
    assert_ne!(server, nodens.pid());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(nodens.pid() as i32), Signal::SIGKILL)
        .unwrap();
    nodens.wait_exit(SOON);
    assert!(until(SOON, || !Path::new(&format!("/proc/{server}")).exists()), "it is alone");
    // A first start that fails is the end of both.
    let mut failed = site.setup_with("nonsense {").ready(Ready::No).start();
    assert_eq!(failed.wait_exit(SOON).code(), Some(1));
    // One process, if that is wanted.
    let mut one = site.setup().arguments(&["--no-supervisor"]).start();
    assert_eq!(one.server(), one.pid());
    one.stop(SOON);
}

/// The process 1 of a container of its own: `unshare` is its parent, and it the child of that.
fn in_container(setup: Setup) -> Nodens {
    setup.wrapper(&["unshare", "--pid", "--fork", "--kill-child"]).start()
}

fn to_supervisor(container: &Nodens, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(container.server() as i32);
    nix::sys::signal::kill(pid, signal).unwrap();
}

#[test]
fn a_container_that_was_taken_over_from_serves_again_when_the_next_one_ends() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a process namespace needs root");
        return;
    }
    let site = Site::new();
    let mut old = in_container(site.setup());
    site.warm_up();
    let socket = site.socket();
    let probe = |what: &str| process::run(&["probe", what, "--socket", socket.to_str().unwrap()]).0;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let load = site.load();
        let mut new = in_container(site.setup());
        new.wait_for_log("the previous instance has left", SOON);
        old.wait_for_log("this one waits for the end of its container", SOON);
        assert!(old.is_running() && probe("alive").success());
        pause(Duration::from_millis(200));
        to_supervisor(&new, signal);
        new.wait_exit(SOON);
        pause(Duration::from_millis(500));
        let report = load.stop();
        let udp = report.lost.iter().filter(|(_, what)| what.contains("UDP")).count();
        println!("{signal}: {} asked, {} lost, {udp} over UDP", report.asked, report.lost.len());
        let most = if signal == Signal::SIGTERM { 0 } else { 5 };
        assert!(udp <= most, "{:?}", report.lost);
        wait_for("the old one", SOON, || probe("ready").success());
    }
    to_supervisor(&old, Signal::SIGTERM);
    assert!(old.wait_exit(SOON).success());
    assert!(!socket.with_extension("handed-over").exists());
}

fn at_one_port(cluster: &Cluster, port: u16, socket: &Path) -> Setup {
    let setup = cluster.setup("").corefile(|text| text.replace("@dns@", &port.to_string()));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let setup = setup.arguments(&["--socket", socket.to_str().unwrap()]);
    setup.ready(Ready::AnswerAt(address))
}

#[test]
fn nothing_is_listed_again_by_the_next_process() {
    let cluster = Cluster::default();
    cluster.put_service("turns", "10.96.200.1");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nodens.sock");
    let port = tests::ports::one();
    let mut first = at_one_port(&cluster, port, &socket).start();
    let address = |name: &str| {
        let name = format!("{name}.default.svc.cluster.local.");
        let client = Client::new(SocketAddr::from(([127, 0, 0, 1], port)));
        client.ask(&name, RecordType::A).map(|a| a.data(RecordType::A)).unwrap_or_default()
    };
    wait_for("the Service", SOON, || address("turns") == ["10.96.200.1"]);
    pause(Duration::from_millis(1_500));
    cluster.server.clear_requests();
    let old = first.server();
    first.signal_server(Signal::SIGKILL);
    wait_for_next(&first, old);
    wait_for("the Service again", SOON, || address("turns") == ["10.96.200.1"]);
    let second = at_one_port(&cluster, port, &socket).start();
    assert!(first.wait_exit(SOON).success());
    assert_eq!(address("turns"), ["10.96.200.1"]);
    cluster.put_service("turns", "10.96.200.2");
    wait_for("the change", SOON, || address("turns") == ["10.96.200.2"]);
    let lists = cluster.server.requests().into_iter().filter(|request| request.verb == "list");
    assert_eq!(lists.count(), 0, "{}", second.log());
}
