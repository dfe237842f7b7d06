//! What the kernel has, as far as it concerns us.

use std::net::IpAddr;

use serde::Serialize;

use crate::nft::Table;
use crate::spec::OWNER;

/// The link that kube-proxy in IPVS mode puts every ClusterIP on.
pub const IPVS_LINK: &str = "kube-ipvs0";

/// A snapshot of this network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// All links.
    pub links: Vec<ObservedLink>,
    /// The table `inet nodens`.
    pub table: ObservedTable,
    /// Whether connection tracking is in use.
    pub conntrack: Conntrack,
    /// Chains of nftables that drop every packet to this node which no rule of them accepts.
    pub input_drops: Vec<String>,
}

impl Observed {
    /// The link called `name`.
    pub fn link(&self, name: &str) -> Option<&ObservedLink> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The link with kube-proxy's IPVS addresses, which is there only if kube-proxy runs (or ran)
    /// in IPVS mode.
    pub fn ipvs(&self) -> Option<&ObservedLink> {
        self.link(IPVS_LINK)
    }
}

/// A link and its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObservedLink {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind (`dummy`, `veth`, ...); `None` for hardware and loopback.
    pub kind: Option<String>,
    /// Its alias.
    pub alias: Option<String>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it does no ARP.
    pub noarp: bool,
    /// Its addresses.
    pub addresses: Vec<ObservedAddress>,
}

impl ObservedLink {
    /// Whether the alias marks the link as Nodens'.
    pub fn is_ours(&self) -> bool {
        let detail = self.alias.as_deref().and_then(|alias| alias.strip_prefix(OWNER));
        detail.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }
}

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObservedAddress {
    /// The address.
    pub ip: IpAddr,
    /// The length of its prefix, in bits.
    pub prefix: u8,
    /// Whether it cannot be bound yet, or never will: duplicate-address detection runs or has
    /// failed.
    pub unusable: bool,
}

impl ObservedAddress {
    /// Whether it is a single host's: /32 or /128.
    pub fn is_host(&self) -> bool {
        self.prefix == if self.ip.is_ipv4() { 32 } else { 128 }
    }

    /// Whether it is an IPv6 link-local address that the kernel gave the link by itself.
    pub fn is_kernels(&self) -> bool {
        matches!(self.ip, IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80) && !self.is_host()
    }
}

/// The nftables table of Nodens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ObservedTable {
    /// There is none.
    #[default]
    Absent,
    /// It has these chains and rules.
    Present(Table),
    /// It cannot be read, for this reason (no permission, no nftables).
    Unknown(String),
}

/// Whether connection tracking is in use in this network namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Conntrack {
    /// Some rule or service made the kernel register its hooks.
    InUse,
    /// Packets are not tracked.
    #[default]
    Idle,
}
