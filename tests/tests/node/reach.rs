//! Who reaches what, and whether the kernel keeps an entry for it.

use std::collections::HashSet;
use std::net::UdpSocket;

use super::world::{CLUSTER, LOCAL, Pod, everybody_asks, kube_proxy, on_a_node, sh, tracked};
use super::{started, tests_deadline};

const ALL: [&str; 4] = [LOCAL[0], LOCAL[1], CLUSTER[0], CLUSTER[1]];

/// Two pods and the node, UDP and TCP, IPv4 and IPv6, local addresses and a ClusterIP that kube-proxy translates.
pub fn everybody_reaches_every_address() {
    on_a_node(|| {
        kube_proxy();
        let pods = [Pod::start(1), Pod::start(2)];
        let mut nodens = started(&[]);
        everybody_asks(&pods, &ALL);
        nodens.stop(tests_deadline());
    });
}

/// The control first: with the same traffic and without rules, every flow has an entry.
pub fn connections_are_tracked_only_without_the_rules() {
    on_a_node(|| {
        kube_proxy();
        let pods = [Pod::start(1), Pod::start(2)];
        let mut nodens = started(&["--notrack=off"]);
        everybody_asks(&pods, &LOCAL);
        let found = tracked();
        assert!(LOCAL.iter().all(|address| found.contains(*address)), "without rules: {found:?}");
        nodens.stop(tests_deadline());

        let mut nodens = started(&[]);
        sh("conntrack -F 2>/dev/null; conntrack -F -f ipv6 2>/dev/null || true");
        everybody_asks(&pods, &ALL);
        assert_eq!(tracked(), HashSet::new(), "with rules");
        nodens.stop(tests_deadline());

        // The mode that looks for itself comes to the same end. A kernel that cannot list its hooks shows that connections
        // are tracked by tracking one.
        pods[0]
            .run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "10.244.1.1:9").unwrap());
        let mut nodens = started(&["--notrack=auto"]);
        sh("conntrack -F 2>/dev/null; conntrack -F -f ipv6 2>/dev/null || true");
        everybody_asks(&pods, &ALL);
        assert_eq!(tracked(), HashSet::new(), "with rules by auto");
        nodens.stop(tests_deadline());
    });
}
