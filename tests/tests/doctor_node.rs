//! `nodens doctor` on a node: findings that take root and a network of their own. Each node is a network namespace, each pod
//! another.
//!
//! Needs root, says SKIPPED without it, and fails instead where CI=true or NODENS_REQUIRE_ROOT=1.

#[path = "doctor_node/containers.rs"]
mod containers;
#[path = "doctor_node/firewall.rs"]
mod firewall;
#[path = "doctor_node/packets.rs"]
mod packets;
#[expect(dead_code, reason = "shared with `netns`, which uses all of it")]
#[path = "node/world.rs"]
mod world;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use tests::doctor::Findings;
use tests::poll::wait_for;
use tests::process::{Nodens, Ready, Setup};

use self::world::{kind, on_a_node, sh};

const SOON: Duration = Duration::from_secs(20);

/// A server at the link-local address, with these flags beside.
fn start(arguments: &[&str]) -> Nodens {
    setup("169.254.20.10", arguments).start()
}

fn setup(address: &str, arguments: &[&str]) -> Setup {
    let at = format!("{address}:53").parse().unwrap();
    Setup::new(".:53 {\n    bind @address@\n    whoami\n}\n")
        .word("address", address)
        .arguments(&[
            &format!("-localip={address}"),
            &format!("--link-kind={}", kind()),
            "--socket=@folder@/nodens.sock",
            "-metrics-listen-address=127.0.0.1:0",
        ])
        .arguments(arguments)
        .ready(Ready::AnswerAt(at))
}

/// What a node without a server is told that wants this.
fn wanted(arguments: &[&str]) -> Findings {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Corefile");
    std::fs::write(&path, ".:53 {\n    bind 169.254.20.10\n    whoami\n}\n").unwrap();
    let path = path.to_string_lossy();
    let mut all = vec!["network", "--socket", "/nonexistent/nodens.sock", "-conf", &*path];
    all.extend(arguments);
    Findings::of(&all)
}

const TAKEOVER: [&str; 2] = ["-localip=169.254.20.10,10.96.0.10", "--clusterip=10.96.0.10"];

#[test]
fn doctor_a_healthy_link_and_one_whose_address_is_gone() {
    on_a_node(|| {
        let nodens = start(&["--reconcile=false", "-skipteardown"]);
        let found = Findings::of_server(&nodens, &["network", "server"]);
        found.demand("link", "ok", "nodelocaldns has 169.254.20.10");
        found.demand("port", "ok", "Nodens has");
        found.demand("firewall", "ok", "");
        assert_eq!(found.all("problem"), [""; 0]);
        sh("ip addr del 169.254.20.10/32 dev nodelocaldns");
        Findings::of_server(&nodens, &["network"]).demand("link", "problem", "missing: ");
    });
}

/// kube-proxy tells its mode at its own port, and leaves a link.
#[test]
fn doctor_kube_proxy_in_ipvs_mode() {
    on_a_node(|| {
        wanted(&TAKEOVER).demand("kube-proxy", "ok", "does not tell its mode");
        sh("ip link add kube-ipvs0 type ifb");
        wanted(&TAKEOVER).demand("kube-proxy", "problem", "kube-ipvs0 is there");
        wanted(&["-localip=169.254.20.10"]).demand(
            "kube-proxy",
            "ok",
            "no ClusterIP is taken over",
        );
        let proxy = TcpListener::bind("127.0.0.1:10249").unwrap();
        let modes = ["ipvs", "nftables"];
        std::thread::spawn(move || {
            for (stream, mode) in proxy.incoming().flatten().zip(modes) {
                let mut stream = stream;
                let _ = stream.read(&mut [0; 1_024]);
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{mode}").as_bytes());
            }
        });
        wanted(&TAKEOVER).demand("kube-proxy", "problem", "kube-proxy runs in IPVS mode");
        wanted(&TAKEOVER).demand(
            "kube-proxy",
            "warning",
            "mode is nftables, but the link kube-ipvs0 is there",
        );
    });
}

#[test]
fn doctor_cilium_before_our_link() {
    on_a_node(|| {
        wanted(&TAKEOVER).demand("cilium", "skipped", "no link of Cilium");
        sh("ip link add cilium_host type ifb");
        wanted(&TAKEOVER).demand("cilium", "warning", "ClusterIPs never reach our link");
        let node = tempfile::tempdir().unwrap();
        let maps = node.path().join("sys/fs/bpf/tc/globals");
        std::fs::create_dir_all(&maps).unwrap();
        std::fs::write(maps.join("cilium_lb4_services_v2"), "").unwrap();
        let root = node.path().to_string_lossy().into_owned();
        let mut arguments = TAKEOVER.to_vec();
        arguments.extend(["--root", &root]);
        wanted(&arguments).demand("cilium", "problem", "before our link");
        wanted(&["-localip=169.254.20.10"]).demand("cilium", "ok", "no ClusterIP");
    });
}

/// Two instances that want different addresses on one link, and that do not know of each other.
#[test]
fn doctor_instances_that_want_different_addresses() {
    on_a_node(|| {
        let first = start(&["-skipteardown"]);
        let second = setup("169.254.20.11", &["-skipteardown"]).ready(Ready::No).start();
        wait_for("the second", SOON, || {
            let found = Findings::of_server(&first, &["network"]);
            found.has("instances", "problem", "want different addresses on nodelocaldns")
        });
        drop(second);
    });
}

/// Two instances at one address that do not hand over to each other.
#[test]
fn doctor_instances_that_share_an_address() {
    on_a_node(|| {
        let first = start(&["--reconcile=false", "-skipteardown"]);
        let second = start(&["--reconcile=false", "-skipteardown"]);
        let found = Findings::of_server(&first, &["network"]);
        found.demand("instances", "warning", "both have sockets at 169.254.20.10:53");
        drop(second);
    });
}
