//! Whether a firewall of this node drops queries of pods.

use std::net::{IpAddr, SocketAddr};

use netsetup::firewall::{Decision, Packet, follow};

use super::super::facts::Facts;
use super::super::finding::Finding;
use super::super::procfs;

/// The tables of the legacy iptables modules, which nftables does not show.
const LEGACY: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// Follows a query to each address, over UDP and TCP, through the rules of nftables.
pub fn firewall(facts: &Facts) -> Finding {
    let mut targets: Vec<SocketAddr> = facts.setup.listening.clone();
    targets.retain(|address| !address.ip().is_loopback() && !address.ip().is_unspecified());
    for ip in facts.addresses() {
        let target = SocketAddr::new(ip, facts.serve.dns_port);
        if !targets.contains(&target) && !ip.is_loopback() && !ip.is_unspecified() {
            targets.push(target);
        }
    }
    if targets.is_empty() {
        return Finding::skipped("no address is known at which pods ask");
    }
    let mut found = Vec::new();
    for target in targets.iter().take(MAX_TARGETS) {
        for tcp in [false, true] {
            found.push(one(target.ip(), target.port(), tcp));
        }
    }
    let finding = Finding::worst(found, "no address is known");
    let legacy = LEGACY
        .iter()
        .any(|file| procfs::read(file, 4_096).is_some_and(|text| text.contains("filter")));
    match (finding.verdict, legacy) {
        (super::super::finding::Verdict::Ok, true) => Finding::ok(
            "nftables lets queries through; there are rules of the legacy iptables modules too (iptables-legacy -L INPUT), \
             which are not looked at",
        ),
        (super::super::finding::Verdict::Ok, false) => {
            Finding::ok("no rule of nftables drops queries")
        }
        _ => finding,
    }
}

/// The most addresses that are followed.
const MAX_TARGETS: usize = 8;

fn one(to: IpAddr, port: u16, tcp: bool) -> Finding {
    let transport = if tcp { "TCP" } else { "UDP" };
    let cure = format!(
        "accept {} port {port} to {to} in that chain: an accept of another table does not overrule a drop",
        transport.to_lowercase()
    );
    match follow(Packet { to, tcp, port }) {
        Ok(Decision::Accepted) => Finding::ok(format!("{to} over {transport}")),
        Ok(Decision::Dropped(chain)) => Finding::problem(
            format!(
                "the chain {chain} drops queries to {to} over {transport} that come from other interfaces than lo"
            ),
            cure,
        ),
        Ok(Decision::Unclear(chain)) => Finding::warning(
            format!(
                "the chain {chain} drops queries to {to} over {transport}, unless a rule for some interface or set accepts them"
            ),
            cure,
        ),
        Ok(Decision::MayDrop(chain)) => Finding::warning(
            format!(
                "the chain {chain} has a rule for ports that may drop queries to {to} over {transport}: by a set, for some \
                 clients or interfaces, or beyond a limit"
            ),
            "`nft list ruleset` shows it: see that it does not mean the queries of pods",
        ),
        Err(error) if error.raw_os_error() == Some(nix::libc::EPERM) => Finding::skipped(
            "the rules cannot be read without CAP_NET_ADMIN: run this as root, or in the pod",
        ),
        Err(error) => Finding::skipped(format!("the rules of nftables cannot be read: {error}")),
    }
}
