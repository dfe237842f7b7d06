//! The desired state: the link, its addresses and the notrack rules.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// The link name of NodeLocal DNSCache and of the documentation; firewall rules and dashboards name
/// it.
pub const DEFAULT_LINK_NAME: &str = "nodelocaldns";

/// How the alias of every link that Nodens owns begins.
pub const OWNER: &str = "nodens";

/// Everything the node's network should have for DNS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Desired {
    /// The link that carries the addresses. `None` leaves links and addresses alone
    /// (`-setupinterface=false`).
    pub link: Option<LinkSpec>,
    /// The addresses on the link, each as /32 or /128.
    pub addresses: Vec<IpAddr>,
    /// Those of the addresses that are ClusterIPs of a Service (takeover mode). They are refused
    /// where kube-proxy runs in IPVS mode, since it owns every ClusterIP on `kube-ipvs0`.
    pub cluster_ips: Vec<IpAddr>,
    /// The rules that keep DNS out of connection tracking.
    pub notrack: NotrackSpec,
}

impl Desired {
    /// Wants `addresses` on a link called `name`, of the default kind, and no rules.
    pub fn new(name: LinkName, addresses: Vec<IpAddr>) -> Self {
        Self {
            link: Some(LinkSpec::new(name)),
            addresses,
            cluster_ips: Vec::new(),
            notrack: NotrackSpec::off(),
        }
    }
}

/// A link to make, or to adopt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkSpec {
    /// Its name.
    pub name: LinkName,
    /// Its kind.
    pub kind: LinkKind,
    /// The kind to make instead where the kernel has no driver for `kind`. Off unless chosen,
    /// because the kinds differ in what other tools think of them.
    pub fallback: Option<LinkKind>,
    /// Its MTU in bytes; the kernel's default for the kind if `None`. It does not limit what local
    /// clients send: packets to a local address never leave through the link.
    pub mtu: Option<u32>,
    /// What follows `nodens` in the alias. Two instances on one node that have different link names
    /// must differ here too, or each takes the other's link for a stray of its own.
    pub alias: String,
}

impl LinkSpec {
    /// A dummy called `name`, MTU as the kernel has it, no fall-back.
    pub fn new(name: LinkName) -> Self {
        Self {
            name,
            kind: LinkKind::Dummy,
            fallback: None,
            mtu: None,
            alias: "node-local DNS".into(),
        }
    }

    /// The whole alias as the kernel stores it.
    pub fn full_alias(&self) -> String {
        if self.alias.is_empty() { OWNER.into() } else { format!("{OWNER} {}", self.alias) }
    }
}

/// The name of a link: 1 to 15 bytes, without `/`, `:` or white space, and neither `.` nor `..`
/// (the kernel's own rule).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct LinkName(String);

impl LinkName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LinkName {
    fn default() -> Self {
        Self(DEFAULT_LINK_NAME.into())
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LinkName {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let fits = (1..=15).contains(&text.len());
        let clean = text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
        if fits && clean && text != "." && text != ".." {
            Ok(Self(text.into()))
        } else {
            Err(SpecError::LinkName(text.into()))
        }
    }
}

/// The kinds of link that can carry an address without a peer, a parent or a cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// A dummy: made for the job. Needs the kernel's `dummy` driver.
    Dummy,
    /// An intermediate functional block: has a dummy's flags. The stand-in where there is no dummy
    /// driver.
    Ifb,
    /// A bridge without ports.
    Bridge,
}

impl LinkKind {
    /// The kernel's word for the kind, which is also the name of its module.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dummy => "dummy",
            Self::Ifb => "ifb",
            Self::Bridge => "bridge",
        }
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LinkKind {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text {
            "dummy" => Ok(Self::Dummy),
            "ifb" => Ok(Self::Ifb),
            "bridge" => Ok(Self::Bridge),
            other => Err(SpecError::LinkKind(other.into())),
        }
    }
}

/// Whether the notrack rules are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Always.
    On,
    /// Never, and a table of Nodens is removed.
    Off,
    /// Only where connection tracking is in use in this network namespace. A table that is there
    /// stays, so that the rules do not come and go with the load.
    Auto,
    /// A table that is there stays as it is, and none is written.
    Keep,
}

impl FromStr for Mode {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text {
            "on" | "true" => Ok(Self::On),
            "off" | "false" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            other => Err(SpecError::Mode(other.into())),
        }
    }
}

/// The traffic that connection tracking should not see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotrackSpec {
    /// Whether at all.
    pub mode: Mode,
    /// The local addresses.
    pub addresses: Vec<IpAddr>,
    /// The DNS ports, each over UDP and TCP.
    pub ports: Vec<u16>,
    /// The TCP port of the health check, whose probes kubelet sends from the node itself.
    pub health_port: Option<u16>,
}

impl NotrackSpec {
    /// No rules.
    pub fn off() -> Self {
        Self { mode: Mode::Off, addresses: Vec::new(), ports: Vec::new(), health_port: None }
    }
}

/// Why a word is not a name, a kind or a mode.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// Not a link name.
    #[error(
        "{0:?} is not a link name: it must have 1 to 15 printable characters and no '/' or ':'"
    )]
    LinkName(String),
    /// Not a kind that is known here.
    #[error("{0:?} is not a kind of link that can be used here: one of dummy, ifb, bridge")]
    LinkKind(String),
    /// Not a mode.
    #[error("{0:?} is not a notrack mode: one of on, off, auto")]
    Mode(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names() {
        for good in ["nodelocaldns", "a", "fifteen-bytes-x", "dns.0"] {
            assert!(good.parse::<LinkName>().is_ok(), "{good}");
        }
        for bad in ["", "sixteen-bytes-xx", "a b", "a/b", "a:1", ".", "..", "ä"] {
            assert!(bad.parse::<LinkName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn alias_has_the_owner_first() {
        let mut link = LinkSpec::new(LinkName::default());
        assert_eq!(link.full_alias(), "nodens node-local DNS");
        link.alias.clear();
        assert_eq!(link.full_alias(), "nodens");
    }
}
