//! Rules of nftables, as hardened images, ufw and firewalld write them.

use super::wanted;
use super::world::{on_a_node, sh};

fn rules(text: &str) {
    sh(&format!("nft flush ruleset; nft -f - <<'END'\n{text}\nEND"));
}

const LOCAL: [&str; 1] = ["-localip=169.254.20.10"];

#[test]
fn doctor_rules_that_drop_queries() {
    on_a_node(|| {
        wanted(&LOCAL).demand("firewall", "ok", "no rule of nftables drops");
        // As on a hardened image: what is established, and what comes over lo.
        rules("table inet filter { chain input { type filter hook input priority 0; policy drop; iif lo accept;
            ct state established,related accept; ct state invalid drop; tcp dport 22 accept; ip daddr 10.0.0.0/8 accept; }\n}");
        wanted(&LOCAL).demand(
            "firewall",
            "problem",
            "the chain inet filter input drops queries to 169.254.20.10 over UDP",
        );
        rules("table inet filter { chain input { type filter hook input priority 0; policy drop; iifname lo accept
            ct state established,related accept; meta l4proto { tcp, udp } th dport 53 accept; }\n}");
        // A set is not looked into.
        wanted(&LOCAL).demand(
            "firewall",
            "warning",
            "unless a rule for some interface or set accepts them",
        );
        rules("table inet filter { chain input { type filter hook input priority 0; policy drop; iifname lo accept
            udp dport 53 accept; tcp dport 53 accept; }\n}");
        wanted(&LOCAL).demand("firewall", "ok", "");
        rules(
            "table ip filter { chain INPUT { type filter hook input priority 0; policy drop;
            ip daddr 169.254.0.0/16 accept; }\n}",
        );
        wanted(&LOCAL).demand("firewall", "ok", "");
        rules(
            "table ip filter { chain INPUT { type filter hook input priority 0; policy drop;
            ip daddr 169.254.16.0/20 accept; }\n}",
        );
        wanted(&LOCAL).demand("firewall", "ok", "");
        rules(
            "table ip filter { chain DNS { ip daddr 169.254.20.10 udp dport 53 drop; }
            chain INPUT { type filter hook input priority 0; policy accept; jump DNS; }\n}",
        );
        wanted(&LOCAL).demand(
            "firewall",
            "problem",
            "the chain ip filter INPUT drops queries to 169.254.20.10 over UDP",
        );
        rules(
            "table ip filter { chain DNS { ip daddr 169.254.20.11 udp dport 53 drop; return; }
            chain INPUT { type filter hook input priority 0; policy accept; jump DNS; }\n}",
        );
        wanted(&LOCAL).demand("firewall", "ok", "");
        rules(
            "table ip raw { chain PRE { type filter hook prerouting priority raw; tcp dport 53 reject with tcp reset; }\n}",
        );
        wanted(&LOCAL).demand("firewall", "problem", "over TCP");
        // Another family is not concerned.
        rules(
            "table ip6 filter { chain INPUT { type filter hook input priority 0; policy drop; }\n}",
        );
        wanted(&LOCAL).demand("firewall", "ok", "");
    });
}
