//! Removals, crashes, tear-down, privileges.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use netsetup::privileges::{Capability, drop_capabilities};
use nix::sys::signal::Signal;
use tests::client::Client;
use tests::poll;
use tests::process::Setup;

use super::world::{Pod, ask_all, kind, kube_proxy, link_index, on_a_node, sh, snapshot};
use super::{setup, started, tests_deadline};

/// Between two questions of the load, so that it does not take the whole processor from what it is to test.
const PAUSE: Duration = Duration::from_millis(1);
/// When a question of the load counts as lost.
const LOST: Duration = Duration::from_millis(300);

/// Back within a second, as promised; a machine that emulates its processor takes longer for everything.
fn mending() -> Duration {
    Duration::from_secs(if kind() == "ifb" { 1 } else { 5 })
}

/// What is removed, by which command, and whether it is back.
type Removal = (&'static str, &'static str, fn() -> bool);

/// Link, address and table, each removed while a pod asks without end.
pub fn what_is_removed_is_back_within_a_second() {
    on_a_node(|| {
        kube_proxy();
        let pod = Pod::start(1);
        let nodens = started(&[]);
        let (stop, stopped) = channel::<()>();
        let answered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answered);
        let load = std::thread::spawn(move || {
            pod.run(move || {
                let client = Client::new("169.254.20.10:53".parse().unwrap()).within(LOST);
                while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                    // Some are lost while the address is away; that is what is tested.
                    let answer = client.ask("load.example.", RecordType::A);
                    count.fetch_add(usize::from(answer.is_ok()), Relaxed);
                }
            });
        });
        let is_answered = || {
            let before = answered.load(Relaxed);
            poll::wait_for("answers", tests_deadline(), || answered.load(Relaxed) > before + 10);
        };
        let removals: [Removal; 3] = [
            ("link", "ip link del nodelocaldns", || has_address("169.254.20.10")),
            ("address", "ip addr del 10.96.0.10/32 dev nodelocaldns", || has_address("10.96.0.10")),
            ("notrack", "nft delete table inet nodens", || {
                sh("nft list tables").contains("table inet nodens")
            }),
        ];
        for (what, remove, is_back) in removals {
            let before = nodens.metrics().sum("nodens_netsetup_repairs_total", &[("what", what)]);
            is_answered();
            sh(remove);
            let begun = Instant::now();
            poll::wait_for(what, tests_deadline(), is_back);
            let time = begun.elapsed();
            println!("{what} was back after {time:?}");
            assert!(time <= mending(), "{what} was back after {time:?}");
            nodens.wait_for_metrics(what, tests_deadline(), |metrics| {
                metrics.sum("nodens_netsetup_repairs_total", &[("what", what)]) > before
            });
            ask_all("the node", &["169.254.20.10", "10.96.0.10"]);
        }
        is_answered();
        drop(stop);
        load.join().unwrap();
        let errors = nodens.metrics().sum("coredns_nodecache_setup_errors_total", &[]);
        assert_eq!(errors, 0.0);
    });
}

/// `kill -9` leaves everything, the next start takes it over as it is, SIGTERM takes it away.
pub fn a_crash_is_adopted_and_a_stop_leaves_nothing() {
    on_a_node(|| {
        kube_proxy();
        let _pod = Pod::start(1);
        let before = snapshot();
        let mut nodens = started(&[]);
        let index = link_index();
        assert!(index.is_some());
        nodens.signal(Signal::SIGKILL);
        nodens.wait_exit(tests_deadline());
        assert_eq!(link_index(), index);
        assert!(sh("nft list table inet nodens").contains("notrack"));

        let mut nodens = setup(&[]).start();
        ask_all("the node", &["169.254.20.10", "fd00::10"]);
        assert_eq!(link_index(), index, "the link was made anew");
        let log = nodens.stop_for_log(tests_deadline());
        assert!(!log.contains("create"), "{log}");
        assert_eq!(snapshot(), before, "something is left; log:\n{log}");

        let mut nodens = started(&["-skipteardown"]);
        nodens.stop(tests_deadline());
        assert!(link_index().is_some());
        let (status, out, err) = nodens_net("teardown");
        assert!(status && out.contains("delete link nodelocaldns"), "{out}{err}");
        assert_eq!(snapshot(), before);
    });
}

/// A server that crashes while one of its addresses is not there serves the others, and that one when it is back.
pub fn a_crash_while_an_address_is_away_is_no_outage() {
    on_a_node(|| {
        sh("ip addr add 10.9.9.9/32 dev lo");
        let corefile = ".:@dns@ {\n    bind 127.0.0.1 10.9.9.9\n    whoami\n    prometheus 10.9.9.9:@metrics@\n}\n";
        let mut nodens = Setup::new(corefile).start();
        let is_answered = |ip: &str, patience: Duration| {
            let at = SocketAddr::new(ip.parse().unwrap(), nodens.dns().port());
            Client::new(at).within(patience).ask("crash.example.", RecordType::A).is_ok()
        };
        assert!(is_answered("10.9.9.9", tests_deadline()));
        sh("ip addr del 10.9.9.9/32 dev lo");
        for _ in 0..2 {
            let old = nodens.server();
            nodens.signal_server(Signal::SIGKILL);
            poll::wait_for("another server", tests_deadline(), || {
                ![old, nodens.pid()].contains(&nodens.server())
            });
            assert!(is_answered("127.0.0.1", tests_deadline()), "{}", nodens.log());
        }
        sh("ip addr add 10.9.9.9/32 dev lo");
        assert!(is_answered("10.9.9.9", tests_deadline()), "{}", nodens.log());
        nodens.stop(tests_deadline());
    });
}

/// Not an errno, but what is missing and where to add it.
pub fn without_the_capability_the_error_explains() {
    on_a_node(|| {
        let explained = std::thread::scope(|scope| {
            let without = scope.spawn(|| {
                let keep = [Capability::NetBindService];
                drop_capabilities(&keep, &keep).unwrap();
                let mut nodens = setup(&[]).spawn();
                let status = nodens.wait_exit(tests_deadline());
                assert!(!status.success());
                nodens.complete_log()
            });
            without.join().unwrap()
        });
        assert!(
            explained.contains("lacks CAP_NET_ADMIN") && explained.contains("securityContext"),
            "{explained}"
        );
        assert_eq!(link_index(), None);
    });
}

/// kube-proxy in IPVS mode owns the ClusterIPs; taking one is refused, and nothing is touched.
pub fn an_ipvs_node_is_told_why() {
    on_a_node(|| {
        sh(&format!(
            "ip link add kube-ipvs0 type {}; ip addr add 10.96.0.10/32 dev kube-ipvs0",
            kind()
        ));
        let before = snapshot();
        let mut nodens = setup(&[]).spawn();
        assert!(!nodens.wait_exit(tests_deadline()).success());
        let log = nodens.complete_log();
        assert!(log.contains("kube-proxy runs in IPVS mode"), "{log}");
        assert_eq!(snapshot(), before);
    });
}

/// IPv6 is switched off and one of the addresses is of IPv6: the start fails, and takes the link away that it has made. One
/// that was there before stays, since another instance may use it.
pub fn a_failed_set_up_leaves_nothing() {
    on_a_node(|| {
        sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
        let before = snapshot();
        let mut nodens = setup(&[]).spawn();
        assert!(!nodens.wait_exit(tests_deadline()).success());
        let log = nodens.complete_log();
        assert!(log.contains("fd00::10"), "{log}");
        assert_eq!(snapshot(), before, "something is left; log:\n{log}");

        let (made, _, said) = nodens_net("apply");
        assert!(made, "{said}");
        let link = link_index();
        assert!(link.is_some());
        let mut nodens = setup(&[]).spawn();
        assert!(!nodens.wait_exit(tests_deadline()).success());
        assert_eq!(link_index(), link, "the link was there before; log:\n{}", nodens.log());
    });
}

/// What each thread may do: two capabilities; one and another user where nothing is mended.
pub fn privileges_are_given_away() {
    on_a_node(|| {
        let threads = |pid: u32, field: &str| -> Vec<String> {
            let mut values: Vec<String> = fs::read_dir(format!("/proc/{pid}/task"))
                .unwrap()
                .map(|entry| fs::read_to_string(entry.unwrap().path().join("status")).unwrap())
                .map(|text| {
                    text.lines().find_map(|l| l.strip_prefix(field)).unwrap().trim().to_owned()
                })
                .collect();
            values.sort();
            values.dedup();
            values
        };
        // The thread that writes the log has none.
        let none = "0000000000000000";
        let mut nodens = started(&[]);
        assert_eq!(threads(nodens.server(), "CapEff:"), [none, "0000000000001400"]);
        assert_eq!(threads(nodens.server(), "CapBnd:"), ["0000000000001400"]);
        assert_eq!(threads(nodens.server(), "NoNewPrivs:"), ["1"]);
        nodens.stop(tests_deadline());

        let nodens = setup(&["--user=65532", "--reconcile=false", "-skipteardown"]).start();
        assert_eq!(threads(nodens.server(), "Uid:"), ["65532\t65532\t65532\t65532"]);
        let effective = threads(nodens.server(), "CapEff:");
        // The thread that writes the log needs nothing and has nothing.
        assert!(
            effective.iter().all(|caps| caps == "0000000000000400" || caps == "0000000000000000"),
            "{effective:?}"
        );
        assert_eq!(threads(nodens.server(), "CapBnd:"), ["0000000000000400"]);
        ask_all("the node", &["169.254.20.10", "fd00::10"]);
        drop(nodens);

        // Without a change of user, too: no thread keeps the right to change the network.
        let nodens = setup(&["--reconcile=false", "-skipteardown"]).start();
        for field in ["CapEff:", "CapPrm:"] {
            assert_eq!(threads(nodens.server(), field), [none, "0000000000000400"]);
        }
        assert_eq!(threads(nodens.server(), "CapBnd:"), ["0000000000000400"]);
        ask_all("the node", &["169.254.20.10", "fd00::10"]);
    });
}

fn nodens_net(action: &str) -> (bool, String, String) {
    let kind = format!("--link-kind={}", kind());
    let (status, out, err) =
        tests::process::run(&["net", action, &kind, "-localip", "169.254.20.10"]);
    (status.success(), out, err)
}

/// Whether an interface of the calling thread's node has the address. Without a process, which are slow to start where the
/// processor is emulated.
fn has_address(address: &str) -> bool {
    let wanted: IpAddr = address.parse().unwrap();
    nix::ifaddrs::getifaddrs().unwrap().filter_map(|entry| entry.address).any(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))) == Some(wanted)
    })
}
