//! The difference between the desired and the observed state, as operations in the order in which
//! they are to be done.
//!
//! # Whose link is it?
//!
//! | alias | kind | addresses | the link is |
//! | --- | --- | --- | --- |
//! | begins with `nodens` | as desired | any | Nodens': adopted, repaired |
//! | begins with `nodens` | another | any | Nodens': deleted and made anew (the configuration changed) |
//! | none | as desired | only desired ones | adopted: a crash between making and marking it |
//! | none | as desired, name `nodelocaldns` | only /32 and /128 | adopted: NodeLocal DNSCache left it |
//! | any other combination | | | foreign: refused |
//!
//! The kernel's own `fe80::/64` address is ignored. On a link that Nodens owns, /32 and /128 addresses
//! that are not desired are left over from an earlier configuration and go; addresses with shorter
//! prefixes are foreign and stay.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use thiserror::Error;

use crate::nft::Table;
use crate::observed::{
    Conntrack, IPVS_LINK, Observed, ObservedAddress, ObservedLink, ObservedTable,
};
use crate::spec::{DEFAULT_LINK_NAME, Desired, LinkKind, LinkName, LinkSpec, Mode};

/// One change to the kernel. Each may be repeated: what is already so counts as done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Operation {
    /// Makes the link, marked as Nodens', up and without ARP.
    CreateLink {
        /// What it is to be.
        spec: LinkSpec,
    },
    /// Marks an existing link as Nodens'.
    MarkLink {
        /// Its name.
        link: String,
        /// The alias to give it.
        alias: String,
    },
    /// Sets the MTU.
    SetMtu {
        /// The link's name.
        link: String,
        /// Bytes.
        mtu: u32,
    },
    /// Sets the link up and its ARP off.
    RaiseLink {
        /// Its name.
        link: String,
    },
    /// Adds an address, usable at once.
    AddAddress {
        /// The link's name.
        link: String,
        /// The address; its prefix is 32 or 128.
        address: IpAddr,
    },
    /// Removes an address.
    RemoveAddress {
        /// The link's name.
        link: String,
        /// The address.
        address: IpAddr,
        /// The length of its prefix, in bits.
        prefix: u8,
    },
    /// Deletes the link and all its addresses.
    DeleteLink {
        /// Its name.
        link: String,
    },
    /// Writes the nftables table anew, in one transaction.
    ReplaceTable {
        /// All of it.
        #[serde(skip)]
        table: Table,
        /// The number of its rules.
        rules: usize,
    },
    /// Deletes the nftables table.
    RemoveTable,
}

impl Operation {
    /// The kind of thing that it changes.
    pub fn what(&self) -> What {
        match self {
            Self::CreateLink { .. } | Self::MarkLink { .. } | Self::SetMtu { .. } => What::Link,
            Self::RaiseLink { .. } | Self::DeleteLink { .. } => What::Link,
            Self::AddAddress { .. } | Self::RemoveAddress { .. } => What::Address,
            Self::ReplaceTable { .. } | Self::RemoveTable => What::Notrack,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateLink { spec } => write!(f, "create {} link {}", spec.kind, spec.name),
            Self::MarkLink { link, alias } => write!(f, "adopt link {link} (alias {alias:?})"),
            Self::SetMtu { link, mtu } => write!(f, "set the MTU of link {link} to {mtu}"),
            Self::RaiseLink { link } => write!(f, "set link {link} up, without ARP"),
            Self::AddAddress { link, address } => write!(f, "add address {address} to link {link}"),
            Self::RemoveAddress { link, address, prefix } => {
                write!(f, "remove address {address}/{prefix} from link {link}")
            }
            Self::DeleteLink { link } => write!(f, "delete link {link}"),
            Self::ReplaceTable { rules, .. } => {
                write!(f, "write nftables table inet nodens ({rules} notrack rules)")
            }
            Self::RemoveTable => write!(f, "delete nftables table inet nodens"),
        }
    }
}

/// The kinds of thing that are set up; the label of `nodens_netsetup_repairs_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The link: missing, down, not marked.
    Link,
    /// An address on it.
    Address,
    /// The notrack rules.
    Notrack,
}

impl What {
    /// All of them, for metrics that begin at zero.
    pub const ALL: [Self; 3] = [Self::Link, Self::Address, Self::Notrack];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Address => "address",
            Self::Notrack => "notrack",
        }
    }

    /// The `errortype` under which NodeLocal DNSCache counts a failure of the kind.
    pub fn errortype(self) -> &'static str {
        match self {
            Self::Link | Self::Address => "interface_add",
            Self::Notrack => "iptables",
        }
    }
}

/// Why the network is left as it is: a change would harm other software.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Refusal {
    /// The name is taken.
    #[error(
        "link {link} does not belong to Nodens ({why}): choose another interface name, or delete it \
         (ip link delete {link}) if nothing uses it"
    )]
    ForeignLink {
        /// Its name.
        link: LinkName,
        /// How that is known.
        why: String,
    },
    /// The ClusterIP is kube-proxy's.
    #[error(
        "{address} cannot be taken over: kube-proxy runs in IPVS mode (there is a link \
         {IPVS_LINK}) and owns every ClusterIP; listen on a link-local address only and point \
         kubelet's clusterDNS at it, or run kube-proxy in nftables or iptables mode (and delete \
         {IPVS_LINK} if it is a left-over)"
    )]
    Ipvs {
        /// The first such address.
        address: IpAddr,
    },
    /// An address that no link can carry.
    #[error("{address} cannot be put on a link: it is a {kind} address")]
    Address {
        /// The address.
        address: IpAddr,
        /// What it is instead.
        kind: &'static str,
    },
}

/// What is to be done so that the kernel has what is `desired`. Empty if it has.
///
/// # Errors
///
/// A [`Refusal`]: nothing should be done at all.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Vec<Operation>, Refusal> {
    let mut operations = Vec::new();
    if let Some(spec) = &desired.link {
        check_addresses(desired, observed)?;
        plan_link(spec, &desired.addresses, observed, &mut operations)?;
    }
    plan_table(desired, observed, &mut operations);
    Ok(operations)
}

/// The operations after which nothing of Nodens remains. The rules go first: while they exist without
/// a listener they do no harm, but so a tear-down that is cut short leaves the less surprising
/// half.
pub fn plan_teardown(desired: &Desired, observed: &Observed) -> Vec<Operation> {
    let mut operations = Vec::new();
    let table = match &observed.table {
        ObservedTable::Present(_) => true,
        ObservedTable::Absent => false,
        // Trying it gives the operator the reason, where it matters.
        ObservedTable::Unknown(_) => desired.notrack.mode != Mode::Off,
    };
    if table {
        operations.push(Operation::RemoveTable);
    }
    if let Some(spec) = &desired.link {
        let alias = spec.full_alias();
        let mine = |link: &&ObservedLink| {
            (link.is_ours() && link.name == spec.name.as_str())
                || link.alias.as_deref() == Some(alias.as_str())
        };
        operations.extend(
            observed
                .links
                .iter()
                .filter(mine)
                .map(|link| Operation::DeleteLink { link: link.name.clone() }),
        );
    }
    operations
}

fn check_addresses(desired: &Desired, observed: &Observed) -> Result<(), Refusal> {
    for &address in &desired.addresses {
        let kind = match address {
            ip if ip.is_unspecified() => Some("wildcard"),
            ip if ip.is_multicast() => Some("multicast"),
            IpAddr::V4(ip) if ip.is_broadcast() => Some("broadcast"),
            _ => None,
        };
        if let Some(kind) = kind {
            return Err(Refusal::Address { address, kind });
        }
    }
    let Some(ipvs) = observed.ipvs() else {
        return Ok(());
    };
    let taken = |ip: &&IpAddr| {
        desired.cluster_ips.contains(ip) || ipvs.addresses.iter().any(|a| a.ip == **ip)
    };
    match desired.addresses.iter().find(taken) {
        Some(&address) => Err(Refusal::Ipvs { address }),
        None => Ok(()),
    }
}

fn plan_link(
    spec: &LinkSpec,
    addresses: &[IpAddr],
    observed: &Observed,
    operations: &mut Vec<Operation>,
) -> Result<(), Refusal> {
    let name = spec.name.as_str();
    let alias = spec.full_alias();
    let strays = observed
        .links
        .iter()
        .filter(|link| link.name != name && link.alias.as_deref() == Some(&alias));
    operations.extend(strays.map(|link| Operation::DeleteLink { link: link.name.clone() }));

    let existing = match observed.link(name) {
        Some(link) if is_wanted_kind(spec, link) => {
            check_owner(spec, addresses, link)?;
            Some(link)
        }
        Some(link) if link.is_ours() => {
            operations.push(Operation::DeleteLink { link: name.into() });
            None
        }
        Some(link) => {
            let why = format!(
                "its kind is {}, not {}",
                link.kind.as_deref().unwrap_or("hardware or loopback"),
                spec.kind
            );
            return Err(Refusal::ForeignLink { link: spec.name.clone(), why });
        }
        None => None,
    };
    let link = || name.to_owned();
    let Some(existing) = existing else {
        operations.push(Operation::CreateLink { spec: spec.clone() });
        operations.extend(
            addresses.iter().map(|&address| Operation::AddAddress { link: link(), address }),
        );
        return Ok(());
    };

    if existing.alias.as_deref() != Some(&alias) {
        operations.push(Operation::MarkLink { link: link(), alias });
    }
    if let Some(mtu) = spec.mtu.filter(|&mtu| mtu != existing.mtu) {
        operations.push(Operation::SetMtu { link: link(), mtu });
    }
    if !existing.up || !existing.noarp {
        operations.push(Operation::RaiseLink { link: link() });
    }
    for &address in addresses {
        let there = existing.addresses.iter().find(|a| a.ip == address && a.is_host());
        match there {
            Some(ObservedAddress { unusable: false, .. }) => continue,
            // Duplicate-address detection cannot be called off; the address has to come back
            // without it.
            Some(stuck) => operations.push(remove(name, stuck)),
            None => {}
        }
        operations.push(Operation::AddAddress { link: link(), address });
    }
    let strays = existing.addresses.iter().filter(|a| a.is_host() && !addresses.contains(&a.ip));
    operations.extend(strays.map(|stray| remove(name, stray)));
    Ok(())
}

fn plan_table(desired: &Desired, observed: &Observed, operations: &mut Vec<Operation>) {
    let spec = &desired.notrack;
    if spec.mode == Mode::Keep {
        return;
    }
    let present = match &observed.table {
        ObservedTable::Present(table) => Some(table),
        ObservedTable::Absent | ObservedTable::Unknown(_) => None,
    };
    let desired = match spec.mode {
        Mode::On => true,
        Mode::Off | Mode::Keep => false,
        Mode::Auto => present.is_some() || observed.conntrack == Conntrack::InUse,
    };
    if !desired || spec.addresses.is_empty() {
        operations.extend(present.map(|_| Operation::RemoveTable));
        return;
    }
    let table = Table::notrack(spec);
    if present != Some(&table) {
        operations.push(Operation::ReplaceTable { rules: table.rules(), table });
    }
}

fn is_wanted_kind(spec: &LinkSpec, link: &ObservedLink) -> bool {
    let is = |kind: LinkKind| link.kind.as_deref() == Some(kind.as_str());
    is(spec.kind) || spec.fallback.is_some_and(is)
}

fn check_owner(spec: &LinkSpec, addresses: &[IpAddr], link: &ObservedLink) -> Result<(), Refusal> {
    if link.is_ours() {
        return Ok(());
    }
    let refuse = |why: String| Err(Refusal::ForeignLink { link: spec.name.clone(), why });
    if let Some(alias) = link.alias.as_deref().filter(|alias| !alias.is_empty()) {
        return refuse(format!("its alias is {alias:?}"));
    }
    let left_by_node_cache = link.name == DEFAULT_LINK_NAME;
    let accepted = |a: &ObservedAddress| {
        a.is_kernels() || (a.is_host() && (left_by_node_cache || addresses.contains(&a.ip)))
    };
    match link.addresses.iter().find(|a| !accepted(a)) {
        Some(foreign) => refuse(format!("it has the address {}/{}", foreign.ip, foreign.prefix)),
        None => Ok(()),
    }
}

fn remove(link: &str, address: &ObservedAddress) -> Operation {
    Operation::RemoveAddress { link: link.into(), address: address.ip, prefix: address.prefix }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
