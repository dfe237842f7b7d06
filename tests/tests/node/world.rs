//! A node and its pods as network namespaces: each a thread that has one, veth pairs between them.

use std::any::Any;
use std::collections::HashSet;
use std::env;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, gettid};
use serde_json::Value;
use tests::client::{Answer, AskError, Client, Question};

/// The link-local addresses and the two ClusterIPs that are taken over.
pub const LOCAL: [&str; 2] = ["169.254.20.10", "fd00::10"];
/// The addresses of the Service kube-dns.
pub const CLUSTER: [&str; 2] = ["10.96.0.10", "fd01::a"];

/// How long a question may take, on a machine that emulates its processor.
const PATIENCE: Duration = Duration::from_secs(5);

/// A pod: a namespace whose only way out leads to the node.
pub struct Pod {
    number: usize,
    work: Sender<Box<dyn FnOnce() + Send>>,
}

/// Runs a test as the node: on a thread with a network namespace of its own. Without root it says SKIPPED and passes,
/// unless CI=true or NODENS_REQUIRE_ROOT=1.
pub fn on_a_node(test: impl FnOnce() + Send + 'static) {
    if !Uid::effective().is_root() {
        let is = |name, value| env::var(name).is_ok_and(|v| v == value);
        let demanded = is("CI", "true") || is("NODENS_REQUIRE_ROOT", "1");
        assert!(!demanded, "this test needs root and may not be skipped here");
        let name = thread::current().name().unwrap_or_default().to_owned();
        // Not eprintln!, which the test harness swallows.
        let _ = writeln!(std::io::stderr(), "\n*** SKIPPED {name}: needs root ***");
        return;
    }
    let node = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        sh("ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
        test();
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The kind of link to test with: `ifb`, which most kernels have, or `dummy` in the guest.
pub fn kind() -> String {
    env::var("NODENS_TEST_LINK_KIND").unwrap_or_else(|_| "ifb".into())
}

impl Pod {
    /// Starts a pod on the calling thread's node.
    pub fn start(number: usize) -> Self {
        let (work, todo) = channel::<Box<dyn FnOnce() + Send>>();
        let (tell, started) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(gettid()).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        let pod = Self { number, work };
        let thread = started.recv().unwrap();
        let n = number;
        sh(&format!(
            "ip link add pod{n} type veth peer name eth0 netns {thread}
             ip addr add 10.244.{n}.1/24 dev pod{n}; ip addr add fd10:{n}::1/64 dev pod{n} nodad
             ip link set pod{n} up"
        ));
        pod.run(move || {
            sh(&format!(
                "ip link set lo up; ip addr add 10.244.{n}.2/24 dev eth0; ip link set eth0 up
                 ip addr add fd10:{n}::2/64 dev eth0 nodad
                 ip route add default via 10.244.{n}.1; ip -6 route add default via fd10:{n}::1"
            ));
        });
        pod
    }

    /// Runs something in the pod.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, done) = channel();
        let job = move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let _ = tell.send(result);
        };
        self.work.send(Box::new(job)).unwrap();
        match done.recv() {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => std::panic::resume_unwind(panic as Box<dyn Any + Send>),
            Err(_) => panic!("pod {} is gone", self.number),
        }
    }
}

/// Asks over UDP or TCP from where the calling thread is.
pub fn ask(address: &str, name: &str, tcp: bool) -> Result<Answer, AskError> {
    let ip: IpAddr = address.parse().unwrap();
    let client = Client::new(SocketAddr::new(ip, 53)).within(PATIENCE);
    let question = Question::new(name, RecordType::A);
    if tcp { client.tcp(&question) } else { client.udp(&question) }
}

/// Asks each address over UDP and TCP; every one has to answer.
pub fn ask_all(who: &str, addresses: &[&str]) {
    for address in addresses {
        for tcp in [false, true] {
            let answer = ask(address, "reach.example.", tcp);
            assert!(answer.is_ok(), "{who} asks {address}, TCP {tcp}: {answer:?}");
        }
    }
}

/// Two pods and the node itself ask.
pub fn everybody_asks(pods: &[Pod], addresses: &'static [&'static str]) {
    for pod in pods {
        let who = format!("pod {}", pod.number);
        pod.run(move || ask_all(&who, addresses));
    }
    ask_all("the node", addresses);
}

/// What kube-proxy does to a node, as far as it concerns us: connections are tracked, and the ClusterIPs are translated to a
/// backend, here one that nobody listens at.
pub fn kube_proxy() {
    sh("nft -f - <<'END'
table inet kube-proxy {
    chain tracked { type filter hook prerouting priority filter; ct state invalid counter; }
    chain tracked-out { type filter hook output priority filter; ct state invalid counter; }
    chain services { type nat hook prerouting priority dstnat;
        ip daddr 10.96.0.10 meta l4proto { udp, tcp } th dport 53 counter dnat ip to 127.0.0.1:9
        ip6 daddr fd01::a meta l4proto { udp, tcp } th dport 53 counter dnat ip6 to [::1]:9
    }
    chain services-out { type nat hook output priority -100;
        ip daddr 10.96.0.10 meta l4proto { udp, tcp } th dport 53 counter dnat ip to 127.0.0.1:9
        ip6 daddr fd01::a meta l4proto { udp, tcp } th dport 53 counter dnat ip6 to [::1]:9
    }
}
END");
}

/// The destinations of the tracked flows that have to do with port 53.
pub fn tracked() -> HashSet<String> {
    sh("conntrack -L 2>/dev/null; conntrack -L -f ipv6 2>/dev/null")
        .lines()
        .filter(|line| line.contains("dport=53 "))
        .filter_map(|line| line.split_once("dst=")?.1.split(' ').next().map(str::to_owned))
        .collect()
}

/// Everything that a tear-down has to leave as it was.
pub fn snapshot() -> (Value, Value) {
    let rules: Value = serde_json::from_str(&sh("nft -s -j list ruleset")).unwrap();
    (serde_json::from_str(&sh("ip -j addr")).unwrap(), rules)
}

/// The number of the link that carries the addresses; `None` if there is none.
pub fn link_index() -> Option<u64> {
    let links: Vec<Value> = serde_json::from_str(&sh("ip -j addr")).unwrap();
    links.iter().find(|link| link["ifname"] == "nodelocaldns")?["ifindex"].as_u64()
}

/// Runs a shell script from where the calling thread is; it has to succeed.
pub fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
