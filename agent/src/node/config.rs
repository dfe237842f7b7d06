//! What the flags mean: the network that is wanted, and the privileges that it takes.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use netsetup::privileges::Capability;
use netsetup::{Desired, LinkSpec, Mode, NotrackSpec};

use crate::args::{NodeFlags, UserId};

/// The variable in which Kubernetes tells pods of kube-dns's namespace the Service's address.
const KUBE_DNS_HOST: &str = "KUBE_DNS_SERVICE_HOST";

/// Flags that make no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlagError {
    /// fe80::/10.
    #[error(
        "-localip {0}: an address in fe80::/10 means nothing without an interface, so pods cannot \
         ask it; choose a unique local one, such as fd00::10"
    )]
    LinkLocal(Ipv6Addr),
    /// A ClusterIP that is not to be listened on.
    #[error("--clusterip {0}: the address is not in -localip, so it is not taken over")]
    NotLocal(IpAddr),
    /// Tear-down needs what was given away.
    #[error(
        "--reconcile=false gives CAP_NET_ADMIN away after the set-up, so that nothing can be taken \
         away on exit: add -skipteardown, or leave --reconcile out"
    )]
    NoTeardown,
    /// The template would be overwritten.
    #[error(
        "-basecorefile and -conf are both {}: the template is rendered to -conf, which must be \
         another file", .0.display()
    )]
    SameFile(PathBuf),
    /// A command without addresses.
    #[error("there is nothing to set up: name the addresses with -localip")]
    NoAddress,
}

/// The network that the flags ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Link, addresses and rules. Without addresses nothing is to be set up; it then only says whose traces to look for.
    pub desired: Desired,
    /// Whether it is kept so while serving.
    pub reconcile: bool,
    /// Whether it is taken away on exit.
    pub teardown: bool,
    /// The user to become after the set-up.
    pub user: Option<UserId>,
}

impl NodeConfig {
    /// Reads the flags; `environment` looks a variable up.
    pub fn read(
        flags: &NodeFlags,
        dns_port: u16,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, FlagError> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for &ip in &flags.localip {
            if let IpAddr::V6(v6) = ip
                && v6.is_unicast_link_local()
            {
                return Err(FlagError::LinkLocal(v6));
            }
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        let cluster_ips = cluster_ips(flags, &addresses, environment)?;
        let ours = &flags.ours;
        let link = flags.setupinterface.then(|| LinkSpec {
            kind: ours.link_kind,
            fallback: ours.link_fallback,
            mtu: ours.link_mtu,
            ..LinkSpec::new(flags.interfacename.clone())
        });
        let mode = ours.notrack.unwrap_or(match (flags.setupiptables, &link) {
            // Without an interface of ours there is nothing on this node whose packets could be let past.
            (false, _) | (_, None) => Mode::Off,
            // Without the rules kube-proxy's translation takes the ClusterIP first.
            _ if !cluster_ips.is_empty() => Mode::On,
            _ => Mode::Auto,
        });
        let notrack = NotrackSpec {
            mode,
            addresses: addresses.clone(),
            ports: vec![dns_port],
            health_port: Some(flags.health_port),
        };
        if !ours.reconcile && !flags.skipteardown && !addresses.is_empty() {
            return Err(FlagError::NoTeardown);
        }
        Ok(Self {
            desired: Desired { link, addresses, cluster_ips, notrack },
            reconcile: ours.reconcile,
            teardown: !flags.skipteardown,
            user: ours.user,
        })
    }

    /// Whether anything is to be set up.
    pub fn is_any(&self) -> bool {
        let notrack = self.desired.notrack.mode != Mode::Off;
        !self.desired.addresses.is_empty() && (self.desired.link.is_some() || notrack)
    }

    /// The same without the rules: what has to be there before the server can listen.
    ///
    /// The rules come once it listens. Until then, and again from the moment it leaves, queries to a ClusterIP are
    /// translated by kube-proxy as if there were no Nodens, and are answered.
    pub fn without_rules(&self) -> Desired {
        Desired { notrack: NotrackSpec::off(), ..self.desired.clone() }
    }

    /// The same, with whatever rules are there: another instance may be at them.
    pub fn with_rules_as_they_are(&self) -> Desired {
        let notrack = NotrackSpec { mode: Mode::Keep, ..NotrackSpec::off() };
        Desired { notrack, ..self.desired.clone() }
    }

    /// What the process needs before it becomes another user.
    pub(super) fn capabilities_before(&self) -> Vec<Capability> {
        let mut keep = vec![Capability::NetBindService];
        if self.is_any() {
            keep.push(Capability::NetAdmin);
        }
        if self.user.is_some() {
            keep.extend([Capability::SetUid, Capability::SetGid]);
        }
        keep
    }

    /// What it needs while it serves.
    pub(super) fn capabilities_after(&self) -> Vec<Capability> {
        let mut keep = vec![Capability::NetBindService];
        if self.is_any() && self.reconcile {
            keep.push(Capability::NetAdmin);
        }
        keep
    }
}

/// Those of the addresses that a Service has.
fn cluster_ips(
    flags: &NodeFlags,
    addresses: &[IpAddr],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Vec<IpAddr>, FlagError> {
    if let Some(stranger) = flags.ours.clusterip.iter().find(|ip| !addresses.contains(ip)) {
        return Err(FlagError::NotLocal(*stranger));
    }
    if !flags.ours.clusterip.is_empty() {
        return Ok(flags.ours.clusterip.clone());
    }
    let told = environment(KUBE_DNS_HOST).and_then(|text| text.parse().ok());
    Ok(told.into_iter().filter(|ip| addresses.contains(ip)).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn wanted(arguments: &str) -> Result<NodeConfig, FlagError> {
        let words = std::iter::once("nodens").chain(arguments.split_whitespace());
        let flags = Cli::try_parse_from(words).unwrap().serve.node;
        NodeConfig::read(&flags, 53, |name| {
            (name == "KUBE_DNS_SERVICE_HOST").then(|| "10.96.0.10".to_owned())
        })
    }

    #[test]
    fn modes_are_told_by_the_addresses() {
        let local = wanted("--localip 169.254.20.10,169.254.20.10,fd00::10").unwrap();
        assert_eq!(local.desired.addresses.len(), 2);
        assert_eq!((local.desired.notrack.mode, local.is_any()), (Mode::Auto, true));
        assert!(local.desired.cluster_ips.is_empty());

        let takeover = wanted("--localip 169.254.20.10,10.96.0.10").unwrap();
        assert_eq!(takeover.desired.cluster_ips, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(takeover.desired.notrack.mode, Mode::On);
        assert_eq!(takeover.without_rules().notrack.mode, Mode::Off);
        let both = wanted("--localip 10.96.0.10,fd01::a --clusterip 10.96.0.10,fd01::a").unwrap();
        assert_eq!(both.desired.cluster_ips.len(), 2);

        let pod = wanted("--localip 10.244.1.7 --setupinterface=false").unwrap();
        assert!(!pod.is_any() && pod.capabilities_before() == [Capability::NetBindService]);
        assert!(!wanted("").unwrap().is_any());
    }

    #[test]
    fn rules_are_as_told() {
        let mode = |arguments: &str| {
            let line = format!("--localip 10.96.0.10 {arguments}");
            wanted(&line).unwrap().desired.notrack.mode
        };
        assert_eq!(mode("--setupiptables=false"), Mode::Off);
        assert_eq!(mode("--setupiptables=false --notrack auto"), Mode::Auto);
        assert_eq!(mode("--notrack off"), Mode::Off);
        assert_eq!(mode("--setupinterface=false --notrack on"), Mode::On);
    }

    #[test]
    fn privileges_follow_what_is_to_be_done() {
        let stays = wanted("--localip 169.254.20.10 --user 65532").unwrap();
        assert_eq!(stays.user, Some(UserId { uid: 65532, gid: 65532 }));
        assert_eq!(stays.capabilities_before().len(), 4);
        assert_eq!(stays.capabilities_after(), [Capability::NetBindService, Capability::NetAdmin]);
        let gives = wanted("--localip 169.254.20.10 --reconcile=false --skipteardown").unwrap();
        assert_eq!(gives.capabilities_after(), [Capability::NetBindService]);
    }

    #[test]
    fn flags_that_make_no_sense() {
        for (arguments, error) in [
            ("--localip fe80::1", "unique local"),
            ("--localip 169.254.20.10 --reconcile=false", "-skipteardown"),
            ("--localip 169.254.20.10 --clusterip 10.96.0.10", "not in -localip"),
        ] {
            let shown = wanted(arguments).unwrap_err().to_string();
            assert!(shown.contains(error), "{arguments}: {shown}");
        }
        for bad in ["", "root", "1:", "4294967295", "1:2:3"] {
            assert!(bad.parse::<UserId>().is_err(), "{bad}");
        }
        assert_eq!("1:2".parse(), Ok(UserId { uid: 1, gid: 2 }));
    }
}
