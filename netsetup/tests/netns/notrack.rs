//! The rules do what they are for: connection tracking sees no DNS. Always with the control that it
//! does without them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::support::*;
use netsetup::observed::Conntrack;
use netsetup::{Kernel, Mode};

/// A rule that makes the kernel track connections, as kube-proxy's do.
const KUBE_PROXY: &str = "nft add table inet kp; nft 'add chain inet kp in { type filter hook input priority 0; }'; \
                          nft 'add rule inet kp in ct state established counter'";

#[test]
fn dns_is_not_tracked_with_the_rules_and_is_without() {
    in_netns(|| async {
        sh(KUBE_PROXY);
        // The last packets of a connection that was not tracked shall not begin an entry once the rules are gone.
        sh("echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose");
        let mut desired = desired(Mode::Off);
        let kernel = Kernel::connect().unwrap();
        assert_ok(&kernel.apply(&desired).await);
        for &address in &desired.addresses {
            query(address);
        }
        assert_eq!(tracked(), 8, "the control: UDP and TCP to four addresses");

        flush();
        desired.notrack.mode = Mode::On;
        assert_ok(&kernel.apply(&desired).await);
        for &address in &desired.addresses {
            query(address);
        }
        assert_eq!(tracked(), 0, "{}", sh("nft list ruleset"));
        let rules = sh("nft list table inet nodens");
        assert!(rules.contains("counter packets 1 bytes"), "the rules count: {rules}");

        desired.notrack.mode = Mode::Off;
        assert_ok(&kernel.apply(&desired).await);
        query(desired.addresses[0]);
        assert_eq!(tracked(), 2, "tracked again once they are gone");
    });
}

#[test]
fn auto_writes_rules_only_where_connections_are_tracked() {
    in_netns(|| async {
        let desired = desired(Mode::Auto);
        let kernel = Kernel::connect().unwrap();
        assert_ok(&kernel.apply(&desired).await);
        assert_eq!(kernel.observe().await.unwrap().conntrack, Conntrack::Idle);
        assert!(!sh("nft list tables").contains("nodens"));
        sh(KUBE_PROXY);
        if sh("nft list hooks ip 2>/dev/null || true").contains("conntrack") {
            // The kernel lists its hooks, so that nothing has to be said on the node first.
            assert_eq!(kernel.observe().await.unwrap().conntrack, Conntrack::InUse);
        }
        query(desired.addresses[0]);
        assert_eq!(kernel.observe().await.unwrap().conntrack, Conntrack::InUse);
        let report = kernel.apply(&desired).await;
        assert!(report.is_ok() && report.steps.len() == 1, "{report}");
        flush();
        assert!(
            kernel.apply(&desired).await.steps.is_empty(),
            "rules that are there stay, whatever the load"
        );
    });
}

/// A query and a response over UDP, then over TCP, from another address of the node.
fn query(server: IpAddr) {
    let server = SocketAddr::new(server, 53);
    let udp = UdpSocket::bind(server).unwrap();
    let tcp = TcpListener::bind(server).unwrap();
    let serving = thread::spawn(move || {
        let mut buffer = [0; 64];
        let (length, client) = udp.recv_from(&mut buffer).unwrap();
        udp.send_to(&buffer[..length], client).unwrap();
        let (mut stream, _) = tcp.accept().unwrap();
        stream.read_exact(&mut buffer[..5]).unwrap();
        stream.write_all(&buffer[..5]).unwrap();
    });
    let mut buffer = [0; 64];
    let client = UdpSocket::bind(SocketAddr::new(
        if server.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
        },
        0,
    ))
    .unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client.send_to(b"query", server).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 5);
    let mut client = TcpStream::connect(server).unwrap();
    client.write_all(b"query").unwrap();
    client.read_exact(&mut buffer[..5]).unwrap();
    serving.join().unwrap();
}

/// The entries for port 53 in this namespace.
fn tracked() -> usize {
    let entries = fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
    entries.lines().filter(|line| line.contains("dport=53 ")).count()
}

fn flush() {
    sh("conntrack -F 2>/dev/null");
}
