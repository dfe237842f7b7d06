//! Flags of the node: its network, and what NodeLocal DNSCache brings with it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use netsetup::{LinkKind, LinkName, Mode};

use super::UserId;
use crate::config::{ListenAddress, value};

/// NodeLocal DNSCache's flags of the node's network.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Node network (NodeLocal DNSCache's flags)")]
pub struct NodeFlags {
    /// Addresses to listen on, comma-separated; made on an interface of our own.
    #[arg(long, value_name = "IP,IP", value_delimiter = ',', action = ArgAction::Set, value_parser = address)]
    pub localip: Vec<IpAddr>,
    /// Make the interface and its addresses.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", value_parser = go_bool)]
    pub setupinterface: bool,
    /// The interface's name.
    #[arg(long, value_name = "NAME", default_value = "nodelocaldns")]
    pub interfacename: LinkName,
    /// Write notrack rules for the addresses (nftables; nothing is executed). `--notrack` says more.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", value_parser = go_bool)]
    pub setupiptables: bool,
    /// Leave interface and rules behind on exit.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", value_parser = go_bool)]
    pub skipteardown: bool,
    /// How often interface and rules are checked: a number of seconds, or a duration such as 60s.
    #[arg(long, value_name = "DURATION", default_value = "60", value_parser = sync_interval)]
    pub syncinterval: Duration,
    /// The port of /health, for which notrack rules are written too.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub health_port: u16,
    /// What NodeLocal DNSCache does not have.
    #[command(flatten)]
    pub ours: OwnNodeFlags,
}

/// Flags of the node's network that NodeLocal DNSCache does not have.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Node network (further flags)")]
pub struct OwnNodeFlags {
    /// The kind of interface: dummy, ifb or bridge.
    #[arg(long, value_name = "KIND", default_value_t = LinkKind::Dummy, env = "NODENS_LINK_KIND")]
    pub link_kind: LinkKind,
    /// The kind of interface to make where the kernel has no driver for `--link-kind`.
    #[arg(long, value_name = "KIND")]
    pub link_fallback: Option<LinkKind>,
    /// The MTU of the interface, in bytes; without it the kernel's.
    #[arg(long, value_name = "BYTES")]
    pub link_mtu: Option<u32>,
    /// Notrack rules: on, off, or auto (where connections are tracked). Without it: what `-setupiptables` says, which is
    /// auto, and on for a Service's address.
    #[arg(long, value_name = "MODE")]
    pub notrack: Option<Mode>,
    /// Those of `-localip` that are a Service's ClusterIP; without it: the one in KUBE_DNS_SERVICE_HOST.
    #[arg(long, value_name = "IP,IP", value_delimiter = ',', action = ArgAction::Set, value_parser = address)]
    pub clusterip: Vec<IpAddr>,
    /// Mend interface and rules while serving. Without that CAP_NET_ADMIN is given away after the set-up.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", value_parser = go_bool)]
    pub reconcile: bool,
    /// Become this user after the set-up.
    #[arg(long, value_name = "UID[:GID]")]
    pub user: Option<UserId>,
}

/// NodeLocal DNSCache's flags that have nothing to do with the network: its metrics, its Corefile template.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Metrics and template (NodeLocal DNSCache's flags)")]
pub struct AddonFlags {
    /// Where the metrics are served beside what `prometheus` says, only with `-localip`; 0 or empty: nowhere.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9353", value_parser = metrics_address)]
    pub metrics_listen_address: MetricsAddress,
    /// The address that stands for __PROMETHEUS__ENDPOINT__ in the template.
    #[arg(long, value_name = "ADDRESS", default_value = ":9253")]
    pub prometheus_listen_address: String,
    /// A Corefile template with NodeLocal DNSCache's __PILLAR__ placeholders; rendered to `--conf`. Without it:
    /// /etc/coredns/Corefile.base, if there is `-localip` and that file.
    #[arg(long, value_name = "FILE")]
    pub basecorefile: Option<PathBuf>,
    /// The Service whose address, from its environment variable, stands for __PILLAR__CLUSTER__DNS__; or the address.
    #[arg(long, value_name = "NAME", default_value = "kube-dns")]
    pub upstreamsvc: String,
    /// The folder of the mounted kube-dns ConfigMap (stubDomains, upstreamNameservers); without it: /etc/kube-dns.
    #[arg(long, value_name = "DIR")]
    pub kubednscm: Option<PathBuf>,
    /// Reload by signal; accepted, and always so.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", value_parser = go_bool)]
    pub reloadwithsignal: bool,
    /// Accepted for its false: rules for bridges are not written here.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", value_parser = go_bool)]
    pub setupebtables: bool,
    /// Accepted without effect: rules are written as soon as the server listens.
    #[arg(long, value_name = "DURATION", hide = true)]
    pub initialdelay: Option<String>,
    /// What stands for __PILLAR__DNS__DOMAIN__ in the template.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
}

/// An address. The kubelet leaves `$(NAME)` as it is where a pod has no such variable.
fn address(text: &str) -> Result<IpAddr, String> {
    if text.starts_with("$(") {
        return Err(format!(
            "{text} was not replaced, since the pod has no such variable. Kubernetes sets a Service's in pods of its namespace \
             that start after it: run Nodens in that namespace, or write the address"
        ));
    }
    text.parse().map_err(|_| "expected an IP address, such as 169.254.20.10".to_owned())
}

/// Seconds, or a duration with a unit. NodeLocal DNSCache takes a bare number as seconds, and overflows on anything else.
fn sync_interval(text: &str) -> Result<Duration, String> {
    let duration = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => value::duration(text)
            .map_err(|_| "expected seconds, or a duration such as 60s".to_owned())?,
    };
    if duration.is_zero() { Err("expected more than 0".to_owned()) } else { Ok(duration) }
}

/// Where NodeLocal DNSCache's own metrics are served; `None`: nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsAddress(pub Option<ListenAddress>);

fn metrics_address(text: &str) -> Result<MetricsAddress, String> {
    match text {
        "" | "0" => Ok(MetricsAddress(None)),
        _ => value::listen_address(text)
            .map(|address| MetricsAddress(Some(address)))
            .map_err(|error| error.to_string()),
    }
}

/// A boolean as Go's flags take it.
pub(super) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}
