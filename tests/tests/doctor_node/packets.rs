//! Connection tracking that is full, and fragments that get lost.

use std::net::UdpSocket;

use tests::doctor::Findings;
use tests::poll::wait_for;
use tests::upstream::Upstream;
use tests::zone::Zone;

use super::world::{Pod, on_a_node, sh};
use super::{SOON, wanted};

/// A flow for each entry that the table may have: the limit is the machine's, the count the namespace's.
#[test]
fn doctor_connection_tracking_that_is_full() {
    on_a_node(|| {
        let most: usize =
            sh("cat /proc/sys/net/netfilter/nf_conntrack_max").trim().parse().unwrap();
        wanted(&[]).demand("conntrack", "ok", "");
        sh("nft add table ip t; nft 'add chain ip t c { type filter hook output priority 0; }'
            nft add rule ip t c ct state invalid counter");
        let count = || {
            sh("cat /proc/sys/net/netfilter/nf_conntrack_count").trim().parse::<usize>().unwrap()
        };
        let mut host = 1;
        while count() * 100 < most * 85 {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            host += 1;
            assert!(host < 250, "the table does not fill: {} of {most}", count());
            for port in 1_024..60_000u16 {
                let _ = socket.send_to(&[], (format!("127.0.1.{host}").as_str(), port));
                if port % 4_096 == 0 && count() * 100 >= most * 96 {
                    break;
                }
            }
        }
        let found = wanted(&[]);
        let full = found.has("conntrack", "problem", "is full")
            || found.has("conntrack", "warning", "nearly full");
        assert!(full, "{:#}", found.check("conntrack"));
    });
}

/// A resolver whose answer takes several packets, and a node that drops all but the first of them.
#[test]
fn doctor_fragments_that_are_dropped() {
    on_a_node(|| {
        let pod = Pod::start(1);
        let text: String = (0..20).map(|n| format!("big.example. IN TXT \"{n:0200}\"\n")).collect();
        let zone = format!(
            "$ORIGIN .\n$TTL 60\n. IN SOA ns.test. admin.test. 1 3600 600 86400 60\n. IN NS a.root.test.\nbig.example. IN A 192.0.2.1\n{}",
            text.lines().take(15).collect::<Vec<_>>().join("\n")
        );
        let upstream = pod.run(move || {
            Upstream::start_at(Zone::parse(&zone).unwrap(), "10.244.1.2:53".parse().unwrap())
                .unwrap()
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Corefile");
        std::fs::write(
            &path,
            format!(".:53 {{\n    bind 127.0.0.1\n    forward . {}\n}}\n", upstream.address()),
        )
        .unwrap();
        let path = path.to_string_lossy();
        let examined = || {
            Findings::of(&[
                "upstreams",
                "--outside-name",
                "big.example",
                "--socket",
                "/nonexistent/nodens.sock",
                "-conf",
                &path,
            ])
        };
        examined().demand("upstream-fragments", "ok", "octets over UDP arrive");
        sh("nft add table ip lossy; nft 'add chain ip lossy c { type filter hook prerouting priority -450; }'
            nft 'add rule ip lossy c ip frag-off & 0x1fff != 0 drop'");
        examined().demand("upstream-fragments", "warning", "in fragments over UDP it does not");
        // The first ones wait for the others, and are counted when they are given up.
        sh("echo 1 > /proc/sys/net/ipv4/ipfrag_time");
        for _ in 0..3 {
            examined().demand("upstream-fragments", "warning", "");
        }
        wait_for("the kernel's count", SOON, || {
            wanted(&[]).has("reassembly", "warning", "could not be put together")
        });
    });
}
