//! Set-up, adoption, refusal and tear-down against the real kernel, compared with what `ip` and
//! `nft` see.

use std::net::{TcpListener, UdpSocket};
use std::thread;

use crate::support::*;
use netsetup::privileges::{Capability, Privileges, drop_capabilities};
use netsetup::{Kernel, LinkKind, Mode, Outcome};

const ALL: [&str; 4] = ["10.96.0.10/32", "169.254.20.10/32", "fd00::10/128", "fd00::11/128"];

#[test]
fn sets_up_everything_and_leaves_nothing() {
    in_netns(|| async {
        let before = snapshot();
        let desired = desired(Mode::On);
        let kernel = Kernel::connect().unwrap();

        let report = kernel.apply(&desired).await;
        assert_ok(&report);
        let link = ip_link("nodelocaldns").expect("the link");
        assert_eq!(link["ifalias"], "nodens node-local DNS");
        assert_eq!(link["linkinfo"]["info_kind"], kind().as_str());
        let flags = link["flags"].as_array().unwrap();
        assert!(flags.contains(&"UP".into()) && flags.contains(&"NOARP".into()), "{flags:?}");
        assert_eq!(ip_addresses("nodelocaldns"), ALL);
        for address in &desired.addresses {
            UdpSocket::bind((*address, 53))
                .unwrap_or_else(|e| panic!("{address} is not usable at once: {e}"));
            TcpListener::bind((*address, 53)).unwrap();
        }
        let rules = sh("nft list table inet nodens");
        assert!(
            rules.contains("type filter hook prerouting priority raw; policy accept;"),
            "{rules}"
        );
        assert!(rules.contains("type filter hook output priority raw; policy accept;"), "{rules}");
        let rule = "ip daddr 169.254.20.10 udp dport 53 counter packets 0 bytes 0 notrack comment \"nodens: DNS is not tracked\"";
        assert_eq!(rules.matches(rule).count(), 2, "{rules}");
        for part in [
            "ip6 saddr fd00::11 tcp sport 53",
            "ip saddr 10.96.0.10 tcp sport 8080",
            "ip6 daddr fd00::10 udp dport 53",
        ] {
            assert!(rules.contains(part), "{part}: {rules}");
        }

        let again = kernel.apply(&desired).await;
        assert!(again.steps.is_empty() && again.is_ok(), "{again}");
        assert_eq!(again.to_string(), "nothing to do\n");

        let report = kernel.teardown(&desired).await;
        assert_ok(&report);
        assert_eq!(report.steps.len(), 2, "{report}");
        assert_eq!(snapshot(), before);
        assert!(kernel.teardown(&desired).await.steps.is_empty());
    });
}

#[test]
fn firewalls_that_drop_what_they_do_not_accept_are_noted() {
    in_netns(|| async {
        sh("nft add table ip filter; nft add table inet open
            nft 'add chain ip filter INPUT { type filter hook input priority 0; policy drop; }'
            nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'
            nft 'add chain inet open input { type filter hook input priority 0; policy accept; }'");
        let kernel = Kernel::connect().unwrap();
        let report = kernel.apply(&desired(Mode::On)).await;
        assert_ok(&report);
        let notes: Vec<_> =
            report.notes.iter().filter(|note| note.contains("policy drop")).collect();
        assert_eq!(notes.len(), 1, "{report}");
        assert!(notes[0].contains("chain ip filter INPUT has policy drop"), "{report}");
    });
}

#[test]
fn mends_what_a_crash_or_a_person_left() {
    in_netns(|| async {
        let desired = desired(Mode::On);
        let kernel = Kernel::connect().unwrap();
        assert_ok(&kernel.apply(&desired).await);
        for damage in [
            "ip link del nodelocaldns",
            "ip link set nodelocaldns down",
            "ip link set nodelocaldns alias ''",
            "ip link set nodelocaldns arp on",
            "ip addr del 169.254.20.10/32 dev nodelocaldns; ip addr del fd00::11/128 dev nodelocaldns",
            "ip addr add 192.0.2.99/32 dev nodelocaldns",
            "nft delete table inet nodens",
            "nft flush chain inet nodens output",
            "nft add table inet nodens '{ flags dormant; }'",
            "nft add chain inet nodens extra",
            "nft insert rule inet nodens prerouting accept",
            // Before Linux 6.2 only a link that is down can be renamed.
            "ip link set nodelocaldns down; ip link set nodelocaldns name other",
        ] {
            sh(damage);
            let report = kernel.apply(&desired).await;
            assert!(report.is_ok() && report.changed(), "{damage}: {report}");
            assert_eq!(ip_addresses("nodelocaldns"), ALL, "{damage}");
            assert!(kernel.apply(&desired).await.steps.is_empty(), "{damage}");
        }
        assert!(ip_link("other").is_none(), "our stray under another name goes");
        // An address with a network behind it is somebody's and stays.
        sh("ip addr add 192.0.2.1/24 dev nodelocaldns");
        assert!(kernel.apply(&desired).await.steps.is_empty());
    });
}

#[test]
fn adopts_the_link_of_nodelocal_dnscache() {
    in_netns(|| async {
        let kind = kind();
        // As node-cache makes it: no alias, never set up, two addresses.
        sh(&format!(
            "ip link add nodelocaldns type {kind}; ip addr add 169.254.20.10/32 dev nodelocaldns; ip addr add 10.96.0.99/32 dev \
             nodelocaldns"
        ));
        let index = ip_link("nodelocaldns").unwrap()["ifindex"].clone();
        let desired = desired(Mode::Off);
        let kernel = Kernel::connect().unwrap();
        assert_ok(&kernel.apply(&desired).await);
        let link = ip_link("nodelocaldns").unwrap();
        assert_eq!(link["ifindex"], index, "the very same link, so that open sockets go on");
        assert_eq!(link["ifalias"], "nodens node-local DNS");
        assert_eq!(ip_addresses("nodelocaldns"), ALL);
    });
}

#[test]
fn refuses_the_links_of_others_and_touches_nothing() {
    in_netns(|| async {
        let desired = desired(Mode::On);
        let kernel = Kernel::connect().unwrap();
        for make in [
            "ip link add nodelocaldns type bridge",
            &format!(
                "ip link add nodelocaldns type {}; ip link set nodelocaldns alias vips",
                kind()
            ),
            &format!(
                "ip link add nodelocaldns type {}; ip addr add 192.0.2.1/24 dev nodelocaldns",
                kind()
            ),
        ] {
            sh(make);
            let before = snapshot();
            let report = kernel.apply(&desired).await;
            let problems = report.problems();
            assert_eq!(problems.len(), 1, "{report}");
            assert!(problems[0].message.contains("does not belong to Nodens"), "{report}");
            assert_eq!(problems[0].errortype, "interface_add");
            assert!(kernel.teardown(&desired).await.steps.is_empty());
            assert_eq!(snapshot(), before, "{make}");
            sh("ip link del nodelocaldns");
        }
    });
}

#[test]
fn refuses_cluster_ips_beside_ipvs() {
    in_netns(|| async {
        sh(&format!(
            "ip link add kube-ipvs0 type {}; ip addr add 10.96.0.10/32 dev kube-ipvs0",
            kind()
        ));
        let mut desired = desired(Mode::Off);
        let kernel = Kernel::connect().unwrap();
        let report = kernel.apply(&desired).await;
        assert!(report.to_string().contains("IPVS"), "{report}");
        assert!(ip_link("nodelocaldns").is_none());
        desired.addresses.remove(1);
        assert_ok(&kernel.apply(&desired).await);
    });
}

#[test]
fn leaves_other_tables_alone() {
    in_netns(|| async {
        sh(
            "nft add table inet kube-proxy; nft add chain inet kube-proxy nodens; nft add table ip nodens",
        );
        let before = snapshot();
        let mut desired = desired(Mode::On);
        let kernel = Kernel::connect().unwrap();
        assert_ok(&kernel.apply(&desired).await);
        assert!(kernel.apply(&desired).await.steps.is_empty());
        desired.notrack.mode = Mode::Off;
        assert_ok(&kernel.apply(&desired).await);
        assert_eq!(snapshot().1, before.1);
    });
}

#[test]
fn explains_a_missing_driver_and_falls_back_by_choice() {
    in_netns(|| async {
        let mut desired = desired(Mode::Off);
        let link = desired.link.as_mut().unwrap();
        link.kind = LinkKind::Dummy;
        let kernel = Kernel::connect().unwrap();
        let report = kernel.apply(&desired).await;
        if report.is_ok() {
            return; // a kernel with dummy, such as the guest's
        }
        assert!(report.to_string().contains("modprobe dummy"), "{report}");
        let skipped = report
            .steps
            .iter()
            .filter(|step| matches!(step.outcome, Outcome::Skipped { .. }))
            .count();
        assert_eq!(skipped, 4, "{report}");
        assert_eq!(report.problems().len(), 1, "one cause, one problem: {report}");

        desired.link.as_mut().unwrap().fallback = Some(LinkKind::Ifb);
        assert_ok(&kernel.apply(&desired).await);
        assert_eq!(ip_link("nodelocaldns").unwrap()["linkinfo"]["info_kind"], "ifb");
        assert!(kernel.apply(&desired).await.steps.is_empty());
    });
}

#[test]
fn explains_that_ipv6_is_off() {
    in_netns(|| async {
        for scope in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
        }
        let desired = desired(Mode::Off);
        let kernel = Kernel::connect().unwrap();
        let report = kernel.apply(&desired).await;
        assert_eq!(report.problems().len(), 2, "{report}");
        assert!(report.to_string().contains("disable_ipv6"), "{report}");
        assert_eq!(ip_addresses("nodelocaldns"), ALL[..2], "IPv4 works all the same");
        assert_ok(&kernel.teardown(&desired).await);
    });
}

#[test]
fn explains_missing_privileges_and_reports_every_failure() {
    in_netns(|| async {
        let desired = desired(Mode::On);
        assert_ok(&Kernel::connect().unwrap().apply(&desired).await);
        let before = snapshot();
        // Capabilities are a thread's, as is the namespace, which the thread inherits.
        let worker = thread::spawn(move || {
            let keep = [Capability::NetBindService];
            drop_capabilities(&keep, &keep).unwrap();
            let now = Privileges::current().unwrap();
            assert!(
                now.has(Capability::NetBindService)
                    && !now.has(Capability::NetAdmin)
                    && now.no_new_privs,
                "{now:?}"
            );
            assert_eq!(
                (now.effective, now.permitted, now.inheritable, now.bounding),
                (1 << 10, 1 << 10, 0, 1 << 10)
            );
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let kernel = Kernel::connect().unwrap();
                let report = kernel.teardown(&desired).await;
                let problems = report.problems();
                assert_eq!(problems.len(), 2, "it went on after the first: {report}");
                for problem in problems {
                    assert!(problem.message.contains("CAP_NET_ADMIN"), "{report}");
                }
                let report = kernel.apply(&desired).await;
                assert!(report.to_string().contains("CAP_NET_ADMIN"), "{report}");
            });
        });
        worker.join().unwrap();
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn the_report_is_readable_by_programs() {
    in_netns(|| async {
        let report = Kernel::connect().unwrap().apply(&desired(Mode::On)).await;
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["steps"][0]["operation"], "create_link");
        assert_eq!(json["steps"][0]["result"], "done");
        assert_eq!(json["steps"][5]["operation"], "replace_table");
        assert_eq!(json["steps"][5]["rules"], 32);
    });
}
