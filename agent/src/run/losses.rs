//! What clients would lose by a new configuration that they have by the running one: why a reload is held back.

mod upstreams;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::assemble::Assembled;
use crate::request::Plugin;
use crate::server::Dispatch;
use crate::wire::Name;

/// More of a kind are counted and not listed.
const MAX_LISTED: usize = 8;
/// An address that has been asked within this time is missed when it goes.
const RECENT: Duration = Duration::from_secs(300);

/// What clients have used of the running configuration and of those before it.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// Addresses that are listened on.
    addresses: BTreeMap<SocketAddr, Asked>,
    /// Zones for which `kubernetes` has answered, and where.
    cluster: Vec<(SocketAddr, Name)>,
    /// Addresses at which names of no zone of their own have been resolved.
    forwarded: Vec<SocketAddr>,
}

/// Queries of an address.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// As many as the running configuration had answered at the last look.
    count: u64,
    last: Option<Instant>,
}

impl Used {
    /// As if clients had just used everything that `running` has.
    pub(super) fn all_of(running: &Assembled, now: Instant) -> Self {
        let outline = &running.outline;
        let asked = Asked { count: 0, last: Some(now) };
        Self {
            addresses: running.dispatches().map(|(address, _)| (address, asked)).collect(),
            cluster: outline.cluster_zones(),
            forwarded: running
                .dispatches()
                .map(|(address, _)| address)
                .filter(|address| outline.answers_all(*address))
                .collect(),
        }
    }

    /// Adds what has been used of `running`, and forgets what it no longer has. To be called several times within
    /// [`RECENT`].
    pub(super) fn update(&mut self, running: &Assembled, now: Instant) {
        self.addresses.retain(|address, _| running.dispatches().any(|(at, _)| at == *address));
        self.cluster.retain(|(address, zone)| running.outline.has_cluster_zone(*address, zone));
        self.forwarded.retain(|address| running.outline.answers_all(*address));
        for (address, dispatch) in running.dispatches() {
            self.addresses.entry(address).or_default().look(answered(dispatch), now);
            for chain in dispatch.chains() {
                for zone in chain.handlers().iter().flat_map(|handler| handler.answered_zones()) {
                    let used = (address, zone.clone());
                    if !self.cluster.contains(&used) {
                        self.cluster.push(used);
                    }
                }
                let forwards = [Plugin::Forward, Plugin::Cache];
                let forwarded = forwards.iter().any(|plugin| chain.has_answered(Some(*plugin)));
                if chain.zone.as_ref().is_root()
                    && forwarded
                    && running.outline.answers_all(address)
                    && !self.forwarded.contains(&address)
                {
                    self.forwarded.push(address);
                }
            }
        }
    }

    /// What would be lost, a sentence for each.
    pub(super) async fn losses(
        &self,
        running: &Assembled,
        new: &Assembled,
        now: Instant,
    ) -> Vec<String> {
        let mut losses = Vec::new();
        let listens = |address: &SocketAddr| new.outline.heard_at(*address).is_some();
        let is_recent = |asked: &Asked| {
            asked.last.is_some_and(|last| now.saturating_duration_since(last) < RECENT)
        };
        let gone: Vec<String> = self
            .addresses
            .iter()
            .filter(|(address, asked)| is_recent(asked) && !listens(address))
            .map(|(address, _)| address.to_string())
            .collect();
        if !gone.is_empty() {
            let gone = listed(gone, ", ");
            losses.push(format!("queries arrive at {gone}, which it does not listen on"));
        }
        let mut lost: Vec<String> = self
            .cluster
            .iter()
            .filter(|(address, zone)| {
                listens(address) && !new.outline.has_cluster_zone(*address, zone)
            })
            .map(|(_, zone)| zone.to_string())
            .collect();
        lost.sort_unstable();
        lost.dedup();
        if !lost.is_empty() {
            let zones = listed(lost, " ");
            losses.push(format!(
                "names of {zones} are answered by `kubernetes`, to which they would no longer belong"
            ));
        }
        let mute: Vec<String> = new.outline.mute(&running.outline).map(str::to_owned).collect();
        if !mute.is_empty() {
            losses.push(format!("no directive of the block {} answers", listed(mute, ", ")));
        }
        let asked = self.addresses.iter().filter(|(_, asked)| is_recent(asked));
        let narrowed = new.outline.narrowed(&running.outline, asked.map(|(address, _)| *address));
        if !narrowed.is_empty() {
            let zones = listed(narrowed.iter().map(ToString::to_string).collect(), " ");
            losses.push(format!(
                "queries for {zones} that fit none of its views would be refused, and are answered now; write a block without a view"
            ));
        }
        let muted = |address: &&SocketAddr| listens(address) && !new.outline.answers_all(**address);
        if let Some(address) = self.forwarded.iter().find(muted) {
            losses.push(format!(
                "names outside of the cluster are resolved at {address}, and nothing is left that forwards them"
            ));
        }
        losses.extend(upstreams::losses(&running.forwards, &new.forwards).await);
        losses
    }
}

impl Asked {
    fn look(&mut self, count: u64, now: Instant) {
        if count > self.count {
            self.last = Some(now);
        }
        // Less than before: a reload has begun to count anew.
        self.count = count;
    }
}

fn answered(dispatch: &Dispatch) -> u64 {
    dispatch.chains().iter().map(|chain| chain.answered()).sum()
}

/// Some of these words, and how many more there are.
fn listed(mut words: Vec<String>, between: &str) -> String {
    let more = words.len().saturating_sub(MAX_LISTED);
    words.truncate(MAX_LISTED);
    let text = words.join(between);
    if more > 0 { format!("{text} and {more} more") } else { text }
}
