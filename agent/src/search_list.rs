//! The search lists of resolvers (resolv.conf(5)): that of a file, and that which the kubelet gives a Pod.

use std::path::Path;

use crate::cluster::object::{DnsPolicy, PodDns};
use crate::file_watch;
use crate::upstream::resolv_conf::{self, MAX_FILE};
use crate::wire::name::NameError;
use crate::wire::{Name, NameBuf, NameRef};

pub use crate::upstream::resolv_conf::MAX_DOMAINS;

/// What the kubelet writes into the resolv.conf of a Pod whose policy is the cluster's.
pub const CLUSTER_NDOTS: u8 = 5;
/// What holds without `options ndots`.
pub const DEFAULT_NDOTS: u8 = 1;
/// The node's resolv.conf, or the kubelet's copy of it.
const OF_NODE: &str = "/etc/resolv.conf";

/// The list of a resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchList {
    /// The domains in their order, at most [`MAX_DOMAINS`].
    pub domains: Box<[Name]>,
    /// A name with so many dots is tried as it is before the list. `None`: the file does not say.
    pub ndots: Option<u8>,
}

impl SearchList {
    /// Reads a resolv.conf.
    pub fn of_file(path: &Path) -> std::io::Result<Self> {
        let text = file_watch::read(path, MAX_FILE as u64)?;
        let text = String::from_utf8_lossy(&text);
        let domains = resolv_conf::search_domains(&text).into_iter();
        let domains = domains.filter_map(|domain| Name::from_text(&domain).ok()).collect();
        Ok(Self { domains, ndots: resolv_conf::ndots(&text) })
    }

    /// The node's; empty if it cannot be read.
    pub fn of_node() -> Self {
        Self::of_file(OF_NODE.as_ref()).unwrap_or_default()
    }
}

/// The kubelet's `ndots` for a Pod.
pub fn ndots_of_pod(dns: &PodDns, of_node: &SearchList) -> u8 {
    dns.ndots.unwrap_or(match dns.policy {
        DnsPolicy::Cluster => CLUSTER_NDOTS,
        DnsPolicy::Node => of_node.ndots.unwrap_or(DEFAULT_NDOTS),
        DnsPolicy::Own => DEFAULT_NDOTS,
    })
}

/// Calls `visit` with the domains of a Pod in the kubelet's order: the cluster's, the node's, its own; some may be there twice, and
/// there may be more than [`MAX_DOMAINS`]. Allocates nothing.
///
/// # Errors
/// A domain of the cluster is too long for a name.
pub fn each_domain_of_pod(
    namespace: &str,
    dns: &PodDns,
    cluster: NameRef<'_>,
    of_node: &SearchList,
    mut visit: impl FnMut(NameRef<'_>),
) -> Result<(), NameError> {
    if dns.policy == DnsPolicy::Cluster {
        let mut services = NameBuf::new();
        services.push_label(b"svc")?;
        services.push_name(cluster)?;
        let mut own = NameBuf::new();
        own.push_label(namespace.as_bytes())?;
        own.push_name(services.as_name())?;
        visit(own.as_name());
        visit(services.as_name());
        visit(cluster);
    }
    let inherited: &[Name] = if dns.policy == DnsPolicy::Own { &[] } else { &of_node.domains };
    inherited.iter().chain(&*dns.searches).for_each(|domain| visit(domain.as_ref()));
    Ok(())
}
