//! The nftables table `inet nodens`: what it should hold, and how it is compared with what the
//! kernel holds.
//!
//! Both sides are a [`Table`]. The desired one comes from a [`NotrackSpec`], the other is decoded
//! from the kernel's dump, so that any change (a rule deleted, edited, added; the table made
//! dormant) shows as inequality and the table is then replaced whole, in one transaction. Counters
//! are no part of the comparison.
//!
//! For each local address and port, over UDP and TCP:
//!
//! * `prerouting`: queries from pods (to the address);
//! * `output`: queries from the node itself (to the address) and all responses (from the address).
//!
//! Health checks come from the node itself, so they need only `output`. The response to a client on
//! the node passes `prerouting` as well, on its way through `lo`, but stays untracked from `output`
//! on.

mod expr;
mod wire;

use std::net::IpAddr;

use serde::Serialize;

pub(crate) use expr::Expr;
pub(crate) use wire::{Base, Origin, decode_base, decode_expressions, dump_chain};
pub(crate) use wire::{Request, dump_chains, dump_every_chain, dump_rules, get_table};
pub(crate) use wire::{
    decode_chain, decode_input_drop, decode_rule, decode_table, remove, replace,
};

use crate::spec::NotrackSpec;

/// The table's name; its family is `inet`.
pub const TABLE: &str = "nodens";

/// The comment of every rule.
pub const COMMENT: &str = "nodens: DNS is not tracked";

/// A table, decoded or desired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Whether it was switched off without being deleted.
    pub dormant: bool,
    /// Its chains, in order of name.
    pub chains: Vec<Chain>,
}

impl Table {
    /// The table for `spec`, whatever its mode.
    pub fn notrack(spec: &NotrackSpec) -> Self {
        let mut output = Chain::base("output", Hook::Output);
        let mut prerouting = Chain::base("prerouting", Hook::Prerouting);
        for &address in &spec.addresses {
            for &port in &spec.ports {
                for transport in [Transport::Udp, Transport::Tcp] {
                    let to = Rule::notrack(address, transport, Side::Destination, port);
                    prerouting.rules.push(to.clone());
                    output.rules.push(to);
                    output.rules.push(Rule::notrack(address, transport, Side::Source, port));
                }
            }
            if let Some(port) = spec.health_port {
                output.rules.push(Rule::notrack(address, Transport::Tcp, Side::Destination, port));
                output.rules.push(Rule::notrack(address, Transport::Tcp, Side::Source, port));
            }
        }
        Self { dormant: false, chains: vec![output, prerouting] }
    }

    /// How many rules it has, over all chains.
    pub fn rules(&self) -> usize {
        self.chains.iter().map(|chain| chain.rules.len()).sum()
    }
}

/// A chain of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets enter it; `None` if nothing leads to it but other chains.
    pub hook: Option<(Hook, i32)>,
    /// Whether packets that no rule decides are accepted.
    pub accepts: bool,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain at `hook` with the priority called `raw`, which is before connection tracking sees a
    /// packet (-200).
    fn base(name: &str, hook: Hook) -> Self {
        Self { name: name.into(), hook: Some((hook, RAW)), accepts: true, rules: Vec::new() }
    }
}

/// Where in the kernel's path a chain sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// Packets that come in.
    Prerouting,
    /// Packets made on the node.
    Output,
    /// Somewhere that we never put a chain.
    Other(u32),
}

/// A rule of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    pub(crate) exprs: Vec<Expr>,
    comment: Option<String>,
}

impl Rule {
    fn notrack(address: IpAddr, transport: Transport, side: Side, port: u16) -> Self {
        // The offsets of the addresses in RFC 791's and RFC 8200's headers, and of the ports in
        // those of UDP and TCP.
        let (family, octets, offset) = match (address, side) {
            (IpAddr::V4(ip), Side::Source) => (libc::NFPROTO_IPV4, ip.octets().to_vec(), 12),
            (IpAddr::V4(ip), Side::Destination) => (libc::NFPROTO_IPV4, ip.octets().to_vec(), 16),
            (IpAddr::V6(ip), Side::Source) => (libc::NFPROTO_IPV6, ip.octets().to_vec(), 8),
            (IpAddr::V6(ip), Side::Destination) => (libc::NFPROTO_IPV6, ip.octets().to_vec(), 24),
        };
        let port_offset = if side == Side::Source { 0 } else { 2 };
        // The order is that of `nft add rule inet t c ip daddr A udp dport P counter notrack`, so
        // that `nft list` shows it so.
        let exprs = vec![
            Expr::NfProto,
            Expr::Equals(vec![family as u8]),
            Expr::Network { offset, len: octets.len() as u32 },
            Expr::Equals(octets),
            Expr::L4Proto,
            Expr::Equals(vec![transport as u8]),
            Expr::Transport { offset: port_offset, len: 2 },
            Expr::Equals(port.to_be_bytes().to_vec()),
            Expr::Counter,
            Expr::Notrack,
        ];
        Self { exprs, comment: Some(COMMENT.into()) }
    }
}

#[derive(Clone, Copy)]
enum Transport {
    Udp = libc::IPPROTO_UDP as isize,
    Tcp = libc::IPPROTO_TCP as isize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// `NF_IP_PRI_RAW`.
const RAW: i32 = -300;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Mode;

    fn spec() -> NotrackSpec {
        NotrackSpec {
            mode: Mode::On,
            addresses: vec!["169.254.20.10".parse().unwrap(), "fd00::10".parse().unwrap()],
            ports: vec![53],
            health_port: Some(8080),
        }
    }

    #[test]
    fn rules_per_address() {
        let table = Table::notrack(&spec());
        // As many as NodeLocal DNSCache has in iptables' raw table: 2 + 4 + 2, for each address.
        assert_eq!(table.rules(), 16);
        assert_eq!(table.chains[0].rules.len(), 12);
        assert_eq!(table.chains[1].rules.len(), 4);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let table = Table::notrack(&spec());
        let mut read = Table { dormant: false, chains: Vec::new() };
        for request in replace(&table) {
            wire::absorb(&mut read, request);
        }
        read.chains.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(read, table);
    }
}
