//! The node around the server: its interface, addresses and notrack rules, the privileges that they take, and
//! NodeLocal DNSCache's Corefile template.
//!
//! ```text
//! one thread   flags -> NodeConfig; capabilities dropped; link and addresses set up; other user
//! threads      the server listens -> rules written, everything kept so
//! the end      rules away -> the server drains -> link away
//! ```
//!
//! So an address exists before it is listened on, and packets are led here only while it is.

pub mod cli;
mod config;
mod counts;
pub mod kube_dns;
mod origin;
pub mod template;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use netsetup::privileges::{become_user, drop_capabilities};
use netsetup::{Kernel, Reconciler, Report};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use config::{FlagError, NodeConfig};
pub use counts::Counts;
pub use origin::Origin;

use crate::admin::Pages;
use crate::args::{NodeFlags, Serve};
use crate::config::ListenAddress;
use crate::corefile::process_environment;
use crate::plan::Machine;

/// The most that a tear-down may take; the kernel needs milliseconds, unless its locks are held.
const TEARDOWN: Duration = Duration::from_secs(10);

/// The node's network, from the start of the process to its end.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    interval: Duration,
    counts: Arc<Counts>,
    keeper: Option<Keeper>,
    /// What is there is this instance's: it has made the link, or serves. Until then it may be another one's.
    is_ours: bool,
}

/// The task that repairs, and the channel for what it is to keep.
#[derive(Debug)]
struct Keeper {
    desired: watch::Sender<netsetup::Desired>,
    task: JoinHandle<()>,
}

/// The network that the server needs could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the node's network could not be set up:{}", listed(.0))]
pub struct SetUpError(Vec<String>);

impl Node {
    /// Reads the flags.
    ///
    /// # Errors
    /// They make no sense together.
    pub fn from_flags(flags: &NodeFlags, dns_port: u16) -> Result<Self, FlagError> {
        let config = NodeConfig::read(flags, dns_port, process_environment)?;
        let interval = flags.syncinterval;
        Ok(Self { config, interval, counts: Arc::default(), keeper: None, is_ours: false })
    }

    /// The metrics.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Drops every capability that is not needed. To be called while there is one thread: a running thread keeps its
    /// privileges.
    ///
    /// # Errors
    /// The kernel refuses, which it never does to a process that has little to give away.
    pub fn drop_privileges(&self) -> anyhow::Result<()> {
        drop_capabilities(&self.config.capabilities_before(), &self.config.capabilities_after())?;
        Ok(())
    }

    /// Makes the link with its addresses, then becomes the user that was asked for. To be called while no thread runs
    /// that needs privileges, and before anything listens.
    ///
    /// # Errors
    /// The addresses are not there, so that the server could not listen; or the change of user failed.
    ///
    /// `is_shared`: another instance serves at the addresses, or queries wait in sockets that were inherited; its rules stay.
    pub fn set_up(&mut self, is_shared: bool) -> anyhow::Result<()> {
        if self.config.is_any() {
            // A runtime of its own, which has ended before the user changes: threads keep the privileges that they have.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            self.is_ours = runtime.block_on(self.first_set_up(is_shared))?;
        }
        let after = self.config.capabilities_after();
        if let Some(user) = self.config.user {
            become_user(user.uid, user.gid, &after)
                .with_context(|| format!("cannot become user {user}"))?;
            tracing::info!(%user, "changed the user");
        } else if !self.config.reconcile {
            drop_capabilities(&after, &after)?;
        }
        Ok(())
    }

    /// True if it has made the link.
    async fn first_set_up(&self, is_shared: bool) -> anyhow::Result<bool> {
        // Rules for addresses of the link alone lead nobody astray, and may be those of an instance that is not known here.
        let stay = is_shared || self.config.desired.cluster_ips.is_empty();
        let first = match (self.config.reconcile, stay) {
            // There is no task to write them later, so the rules come now.
            (false, _) => self.config.desired.clone(),
            (true, true) => self.config.with_rules_as_they_are(),
            (true, false) => self.config.without_rules(),
        };
        let kernel = Kernel::connect()?;
        let report = kernel.apply(&first).await;
        let problems = report.problems();
        // Without rules everything can be listened on, and the reconciler tries them again.
        let (rules, fatal): (Vec<_>, Vec<_>) =
            problems.into_iter().partition(|problem| problem.errortype == "iptables");
        self.counts.problems(&rules);
        if !fatal.is_empty() {
            // What this start has made goes again. A link that was there before may serve another instance.
            if report.created_link() {
                kernel.teardown(&self.config.desired).await;
            }
            return Err(SetUpError(fatal.into_iter().map(|p| p.message).collect()).into());
        }
        Ok(report.created_link())
    }

    /// Keeps the network as it is wanted from now on, rules included. To be called within the control runtime, once the
    /// server listens.
    pub fn keep(&mut self) {
        self.is_ours = true;
        if !self.config.is_any() || !self.config.reconcile || self.keeper.is_some() {
            return;
        }
        let (desired, receiver) = watch::channel(self.config.desired.clone());
        let reconciler = Reconciler::new(receiver, self.interval);
        let counts = Arc::clone(&self.counts);
        let task = tokio::spawn(async move {
            let told = Arc::clone(&counts);
            if let Err(error) = reconciler.run(move |event| told.note(&event)).await {
                counts.error("interface_check");
                counts.unwatched();
                tracing::error!(%error, "the node's network is not monitored");
            }
        });
        self.keeper = Some(Keeper { desired, task });
    }

    /// Leaves everything as it is, to the instance that has taken over.
    pub fn give_away(&mut self) {
        self.config.teardown = false;
        // Without a sender it ends.
        self.keeper = None;
    }

    /// Takes the rules away before the server stops, so that queries to a ClusterIP go where kube-proxy sends them.
    pub fn leave(&self) {
        if let Some(keeper) = self.keeper.as_ref().filter(|_| self.config.teardown) {
            keeper.desired.send_replace(self.config.without_rules());
        }
    }

    /// Ends the keeping, and takes away everything of ours if that is wanted. Whatever cannot be taken away is logged,
    /// and does not keep the rest from going.
    pub async fn tear_down(&mut self) {
        if let Some(Keeper { desired, mut task }) = self.keeper.take() {
            // It finishes what it is doing, so that nothing is written once it was taken away.
            drop(desired);
            if tokio::time::timeout(TEARDOWN, &mut task).await.is_err() {
                task.abort();
            }
        }
        if !self.config.is_any() || !self.config.teardown || !self.is_ours {
            return;
        }
        match tokio::time::timeout(TEARDOWN, self.take_away()).await {
            Ok(Ok(report)) => {
                self.counts.problems(&report.problems());
                if report.is_ok() {
                    tracing::info!("removed the node's network set-up");
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "cannot remove the node's network set-up"),
            Err(_) => tracing::error!(
                seconds = TEARDOWN.as_secs(),
                "the kernel does not answer; parts of the node's network may stay, and the next start adopts them"
            ),
        }
    }

    async fn take_away(&self) -> Result<Report, netsetup::Error> {
        Ok(Kernel::connect()?.teardown(&self.config.desired).await)
    }
}

/// Where NodeLocal DNSCache serves the errors of the set-up, and we all metrics. Only where its flags are used: nobody
/// expects the port otherwise.
pub fn pages(args: &Serve) -> Option<(ListenAddress, Pages)> {
    let has_addresses = !args.node.localip.is_empty();
    let address = args.addon.metrics_listen_address.0.filter(|_| has_addresses);
    address.map(|address| (address, Pages::METRICS))
}

/// The machine as the start leaves it, by the flags: with an interface, if they say so.
pub fn machine(flags: &NodeFlags, is_here: bool) -> Machine<'_> {
    if flags.setupinterface && !flags.localip.is_empty() {
        Machine {
            link: Some(&flags.interfacename),
            addresses: &flags.localip,
            has_run: false,
            is_here,
        }
    } else {
        Machine { is_here, ..Machine::default() }
    }
}

fn listed(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}
