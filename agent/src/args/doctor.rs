//! `nodens doctor`: what to examine.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Output, Serve};

/// What to examine.
#[derive(Args, Debug, Clone)]
pub struct Doctor {
    /// Only checks of these categories; without one: all.
    #[arg(value_enum)]
    pub categories: Vec<Category>,
    /// Examine the cluster through its API server, from any machine, instead of this node.
    #[arg(long)]
    pub cluster: bool,
    /// The kubeconfig for --cluster; without it: the file that KUBECONFIG names, ~/.kube/config, or the pod's account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; without it: the current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Where the node's file system is: `/host` in `kubectl debug node/NAME`.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// A name outside the cluster that upstreams and Nodens are asked for (type A); without it: the servers of the root.
    #[arg(long, value_name = "NAME")]
    pub outside_name: Option<String>,
    /// How to print the findings.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The server's flags, for a node on which no server runs.
    #[command(flatten)]
    pub serve: Serve,
}

/// What a check is about.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// The running server.
    Server,
    /// The Corefile and what it names.
    Config,
    /// The API server.
    Api,
    /// The node's network: link, rules, firewall, ports.
    Network,
    /// Look-ups as pods make them.
    Lookups,
    /// Each upstream, asked directly.
    Upstreams,
    /// The kubelet's settings and the pods' resolv.conf.
    Pods,
    /// The machine: clock, memory, descriptors, folders.
    Node,
    /// Services and their endpoints (--cluster).
    Services,
    /// The nodes of the cluster (--cluster).
    Nodes,
    /// What the cluster's network lets through (--cluster).
    Policies,
}

impl Category {
    /// Its name on the command line and in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Config => "config",
            Self::Api => "api",
            Self::Network => "network",
            Self::Lookups => "lookups",
            Self::Upstreams => "upstreams",
            Self::Pods => "pods",
            Self::Node => "node",
            Self::Services => "services",
            Self::Nodes => "nodes",
            Self::Policies => "policies",
        }
    }
}
