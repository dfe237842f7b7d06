//! A reload: the configuration is read again, built aside, and put in the place of the running one if nothing is wrong.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Server, load, serve_pages, show, wait_until_known};
use crate::assemble::{Assembled, assemble};
use crate::corefile::{Diagnostics, Severity};
use crate::logging;
use crate::plan::Plan;
use crate::request::Plugin;

/// The longest wait of a reload for a cluster that was not watched before: signals wait as long.
const MAX_RELOAD_WAIT: Duration = Duration::from_secs(10);

/// Why a configuration does not take the place of the running one.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("it has {0}")]
    Errors(String),
    #[error("{0}; it is tried again with the next look at the file, or by a signal")]
    NotKnown(String),
    #[error(
        "held back, since the node would be silent: {0}; a signal (SIGHUP) applies it all the same"
    )]
    Silent(String),
}

/// What was read last, so that it is logged once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    hash: String,
    diagnostics: Diagnostics,
    /// It was held back: nothing is built again before it changes or a signal comes.
    held_back: bool,
}

impl Seen {
    /// What the start has read.
    pub(super) fn of(plan: &Plan) -> Self {
        Self { hash: plan.hash(), diagnostics: plan.diagnostics.clone(), held_back: false }
    }

    fn is(&self, plan: &Plan) -> bool {
        self.hash == plan.hash() && self.diagnostics == plan.diagnostics
    }
}

/// What clients have used since the start, over all reloads.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// Addresses at which queries have arrived, of those that are listened on.
    addresses: BTreeSet<SocketAddr>,
    /// Cluster names have been answered by a configuration that has `kubernetes`.
    cluster: bool,
}

impl Used {
    /// Adds what has been used of `running`, and forgets what it no longer has.
    fn update(&mut self, running: &Assembled) {
        self.addresses.retain(|address| running.listeners.contains_key(address));
        let queried = running
            .listeners
            .iter()
            .filter(|(_, dispatch)| dispatch.chains().iter().any(|chain| chain.has_answered(None)));
        self.addresses.extend(queried.map(|(address, _)| *address));
        let mut chains = running.chains.iter();
        let answers = chains.any(|chain| chain.has_answered(Some(Plugin::Kubernetes)));
        self.cluster = !running.stores.is_empty() && (self.cluster || answers);
    }
}

impl Server {
    /// Reads the configuration again and puts it in the place of the running one, unless there is anything wrong with it.
    /// `by_signal`: also if the file has not changed, and even if the node would be silent.
    pub(super) async fn reload(&mut self, why: &str, by_signal: bool) {
        let plan = load(&self.args, &self.origin);
        let is_known = self.seen.is(&plan);
        let held_back = is_known && self.seen.held_back && !by_signal;
        if !is_known || by_signal {
            log(&plan.diagnostics);
        }
        if !held_back {
            self.seen = Seen::of(&plan);
        }
        if plan.diagnostics.has_errors() {
            let errors = plan.diagnostics.summary();
            return self.refuse(&Refusal::Errors(errors).into(), by_signal);
        }
        if plan.hash() == self.hash && !by_signal {
            self.status.set_refused(None);
            return;
        }
        if held_back {
            return;
        }
        match self.replace(plan, by_signal).await {
            Ok(()) => {
                self.status.set_refused(None);
                tracing::info!(why, "reloaded the configuration");
            }
            Err(error) => self.refuse(&error, by_signal),
        }
    }

    async fn replace(&mut self, plan: Plan, by_signal: bool) -> anyhow::Result<()> {
        let hash = plan.hash();
        let assembled = assemble(plan.blocks, &self.shared)?;
        // A server of names that are known does not change over to ones that are not.
        if self.running.is_known() && !wait_until_known(&assembled, MAX_RELOAD_WAIT).await {
            return Err(Refusal::NotKnown(assembled.waiting_for().join("; ")).into());
        }
        self.used.update(&self.running);
        let losses = losses(&self.used, &self.running, &assembled).await;
        if !losses.is_empty() && !by_signal {
            self.seen.held_back = true;
            return Err(Refusal::Silent(losses.join("; ")).into());
        }
        self.pool.apply(assembled.listeners.clone())?;
        self.liveness.set_addresses(assembled.listeners.keys().copied());
        assembled.show(&self.shared, &hash);
        serve_pages(&self.admin, &assembled, &self.args);
        show(&self.admin, &self.status, &assembled, &hash);
        self.running = assembled;
        self.hash = hash;
        Ok(())
    }

    fn refuse(&self, error: &anyhow::Error, by_signal: bool) {
        self.shared.metrics.common().reload_failed.add(1);
        let reason = logging::causes(error.as_ref());
        if self.status.set_refused(Some(reason.clone())) || by_signal {
            tracing::error!("the configuration was not reloaded; the running one stays: {reason}");
        }
    }
}

/// Writes a line for each diagnostic.
pub(super) fn log(diagnostics: &Diagnostics) {
    for diagnostic in diagnostics.iter() {
        match diagnostic.severity {
            Severity::Error => tracing::error!("{diagnostic}"),
            Severity::Warning => tracing::warn!("{diagnostic}"),
        }
    }
}

/// What pods would lose by the new configuration that they have now.
async fn losses(used: &Used, running: &Assembled, new: &Assembled) -> Vec<String> {
    let mut losses = Vec::new();
    let lost = |address: &SocketAddr| !new.listeners.contains_key(address);
    if !used.addresses.is_empty() && used.addresses.iter().all(lost) {
        let addresses: Vec<_> = used.addresses.iter().map(ToString::to_string).collect();
        losses.push(format!(
            "queries arrive at {}, which it does not listen on",
            addresses.join(", ")
        ));
    }
    if used.cluster && new.stores.is_empty() {
        losses.push("cluster names are answered, and it has no `kubernetes`".to_owned());
    }
    for forward in &new.forwards {
        let served = running.forwards.iter().any(|old| old.shares_zone(forward) && old.is_up());
        if served && !forward.answers().await {
            let zones: Vec<_> = forward.config().from.iter().map(ToString::to_string).collect();
            losses.push(format!("no upstream of `forward {}` answers", zones.join(" ")));
        }
    }
    losses
}
