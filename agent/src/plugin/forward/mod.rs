//! `forward FROM TO... { ... }`: asks upstreams what is not known here. `docs/forward.md` is its manual.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | the directive and its options |
//! | `handler` | its place in a chain: in place, or awaited by a task |
//! | `query` | one query through the upstreams, a state machine: tries, hedging, deadline |
//! | `attempt` | one try |
//! | `drive` | awaits that machine |
//! | `candidates`, `select` | the upstreams of one query, and the policies that order them |
//! | `limits` | places that clients and groups of upstreams share; the hedge budget |
//! | `recent` | which question is asked too often, and which upstreams have failed at it |
//! | `outcome`, `failure` | what a query ends in |
//! | `background` | files that are followed, probes of upstreams in doubt, probes for loops |
//! | `targets` | which upstreams there are: what is written, what files name, and what names resolve to |
//! | `named` | looks up the names of upstreams |
//! | `metrics` | what is counted |
//! | `detail` | what `nodens status` prints |

mod attempt;
mod background;
mod candidates;
pub mod config;
mod detail;
pub mod directive;
mod drive;
mod explain;
mod failure;
mod handler;
mod limits;
mod metrics;
mod named;
mod options;
mod outcome;
mod query;
mod recent;
mod select;
mod tap;
mod targets;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

pub use config::{Config, Policy};
pub use explain::NOT_ASKED;
pub use handler::Forwarding;
pub use limits::UpstreamPlaces;
pub use targets::{check, of as targets_of};

use crate::clock::CoarseInstant;
use crate::metrics::Counter;
use crate::plugin::dnstap::Dnstap;
use crate::plugin::loop_::guard::LoopGuard;
use crate::upstream::follow::Reading;
use crate::upstream::health::Throttle;
use crate::upstream::names::Names;
use crate::upstream::registry::{HealthRegistry, UpstreamKey};
use crate::upstream::{OwnAddresses, Target, Upstream, UpstreamError};
use crate::wire::{Name, NameRef};
use limits::Limits;
use recent::{QuestionHasher, RateTable, RecentFailures};

/// Clients and questions that look like a loop make upstreams be probed once in so long: a server of the node that asks us
/// for cluster names looks the same all day.
const SUSPECTED_AGAIN_MS: u64 = 10_000;
/// An upstream that goes down does, once in so long: so does one that is busy with queries that go round.
const FALLEN_AGAIN_MS: u64 = 1_000;
/// With `max_fails 0`, failures in a row after which an upstream is probed for a loop.
const SUSPECT_AFTER: u32 = 2;

/// Why a `forward` cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The `tls` option.
    #[error("forward: {0}")]
    Tls(#[from] crate::upstream::tls::TlsError),
    /// An upstream whose server name is none.
    #[error("forward: {0}")]
    Upstream(#[from] UpstreamError),
}

/// What a forward is built in: what all of a process share, and its server block.
#[derive(Clone, Default)]
pub struct ForwardContext {
    /// Threads that answer.
    pub workers: usize,
    /// Addresses that cannot be an upstream.
    pub own: OwnAddresses,
    /// Recognises probes that come back; `None` without `loop` in the server block.
    pub loops: Option<Arc<LoopGuard>>,
    /// What is known of upstreams from the configuration before.
    pub health_registry: Arc<HealthRegistry>,
    /// Places that the forwards of the process share among them, by group of upstreams. `None`: no bound.
    pub places: Option<Arc<UpstreamPlaces>>,
    /// Where its queries are sent as well (`dnstap`).
    pub taps: Arc<[Arc<Dnstap>]>,
    /// What the names of upstreams resolve to.
    pub names: Names,
    /// The zones of the server block: only names within them reach the forward. Empty: all names.
    pub zones: Vec<Name>,
}

/// A `forward` that runs.
pub struct Forward {
    config: Config,
    context: ForwardContext,
    tls: Option<Arc<rustls::ClientConfig>>,
    /// Replaced when a file names other upstreams.
    set: ArcSwap<Set>,
    workers: usize,
    limits: Limits,
    /// Counts the queries of `policy round_robin`.
    turn: AtomicUsize,
    /// Wakes the background work: an upstream is to be probed soon.
    in_doubt: Arc<Notify>,
    /// Bounds how often clients make all upstreams be probed for loops...
    suspected: Throttle,
    /// ... and how often upstreams that go down do.
    fallen: Throttle,
    /// The background work is to look for loops.
    suspicious: AtomicBool,
    /// ... and to find out anew who the upstreams are.
    renamed: AtomicBool,
    hasher: QuestionHasher,
    rates: RateTable,
    failures: RecentFailures,
    /// `coredns_forward_healthcheck_broken_total`.
    broken: Counter,
    /// What was read at the start; the background work takes it once.
    first: Mutex<(Vec<Target>, Reading)>,
}

/// The upstreams of the moment.
struct Set {
    upstreams: Vec<Arc<Upstream>>,
    /// Why there are none; clients and `nodens status` read it.
    problem: Arc<str>,
}

impl Forward {
    /// Sets up what `config` says. Files are read at once; that they name nobody is no error: it is logged, and forwarded
    /// names are SERVFAIL until they do.
    pub fn new(config: Config, context: ForwardContext) -> Result<Arc<Self>, ForwardError> {
        let tls = if config.needs_tls() { Some(config.tls.load()?) } else { None };
        let workers = context.workers.max(1);
        let forward = Self {
            set: ArcSwap::from_pointee(Set { upstreams: Vec::new(), problem: "".into() }),
            workers,
            limits: Limits::new(&config, context.places.clone(), workers),
            turn: AtomicUsize::new(0),
            in_doubt: Arc::default(),
            suspected: Throttle::default(),
            fallen: Throttle::default(),
            suspicious: AtomicBool::new(true),
            renamed: AtomicBool::new(false),
            hasher: QuestionHasher::default(),
            rates: RateTable::new(),
            failures: RecentFailures::new(),
            broken: Counter::new(),
            first: Mutex::default(),
            config,
            context,
            tls,
        };
        let (targets, reading) = forward.targets();
        for note in &reading.notes {
            tracing::warn!("forward: {note}");
        }
        let set = forward.build(&targets, &reading)?;
        if set.upstreams.is_empty() && !reading.waiting {
            tracing::error!("forward: there is no upstream: {}", set.problem);
        }
        forward.set.store(Arc::new(set));
        *forward.first.lock().unwrap_or_else(PoisonError::into_inner) = (targets, reading);
        Ok(Arc::new(forward))
    }

    /// The upstreams of the moment.
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        self.set.load().upstreams.clone()
    }

    /// What it was set up from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether this one forwards `name`, which must be lower-case.
    pub fn takes(&self, name: NameRef<'_>) -> bool {
        self.config.from.iter().any(|zone| name.is_within(zone.as_ref()))
            && !self.config.except.iter().any(|zone| name.is_within(zone.as_ref()))
    }

    /// Where probes for loops have their names: in a zone that is both the server block's and forwarded, since other names
    /// that come back do not reach this block.
    fn probed_zone(&self) -> Option<&Name> {
        let zones = &self.context.zones;
        let both = self.config.from.iter().find_map(|from| {
            zones.iter().find_map(|zone| {
                let narrower = if zone.as_ref().is_within(from.as_ref()) { zone } else { from };
                let reached = narrower.as_ref().is_within(zone.as_ref());
                (reached && self.takes(narrower.as_ref())).then_some(narrower)
            })
        });
        both.or_else(|| self.config.from.first())
    }

    /// Who is to be asked by what is written and what the files say now.
    fn targets(&self) -> (Vec<Target>, Reading) {
        targets::of(&self.config, &self.context.own, Some(&self.context.names))
    }

    /// A set of these upstreams. Those that are in the present set go on with all that is known of them.
    fn build(&self, targets: &[Target], reading: &Reading) -> Result<Set, UpstreamError> {
        let present = self.set.load();
        let upstreams = targets.iter().map(|target| -> Result<_, UpstreamError> {
            if let Some(known) = present.upstreams.iter().find(|known| known.target() == target) {
                return Ok(Arc::clone(known));
            }
            let transport = self.config.transport.clone();
            let made = Upstream::new(target.clone(), transport, self.tls.as_ref(), self.workers)?;
            let made = Arc::new(made);
            let may_be_down = self.config.max_fails != 0;
            self.context.health_registry.take_over(&made, self.key(target), may_be_down);
            Ok(made)
        });
        let problem = if targets.is_empty() { targets::problem(reading).into() } else { "".into() };
        Ok(Set { upstreams: upstreams.collect::<Result<_, _>>()?, problem })
    }

    /// What has to be the same for what is known of an upstream to hold for another.
    fn key(&self, target: &Target) -> UpstreamKey {
        let guarded = self.context.loops.is_some();
        UpstreamKey {
            target: target.clone(),
            force_tcp: self.config.transport.force_tcp,
            tls: self.config.tls.clone(),
            zone: self.probed_zone().filter(|_| guarded).cloned(),
        }
    }

    /// An upstream has answered.
    fn answered(&self, upstream: &Upstream, now: CoarseInstant) {
        if upstream.health.succeeded(now) {
            tracing::info!(upstream = %upstream.label(), "the upstream answers again");
        }
    }

    /// A try of an upstream has failed.
    fn failed(&self, upstream: &Upstream, error: &UpstreamError, now: CoarseInstant) {
        let max_fails = self.config.max_fails;
        if upstream.health.failed(max_fails) {
            self.watch_for_loops_after(&self.fallen, FALLEN_AGAIN_MS, now);
        }
        if upstream.health.is_down_to_be_logged(now) {
            tracing::warn!(upstream = %upstream.label(), %error, "the upstream does not answer");
        }
        if max_fails == 0 && upstream.health.failures() >= SUSPECT_AFTER {
            self.watch_for_loops_after(&self.suspected, SUSPECTED_AGAIN_MS, now);
        }
        self.probe_soon();
    }

    /// Upstreams in doubt are probed soon.
    fn probe_soon(&self) {
        self.in_doubt.notify_one();
    }

    /// Has all upstreams probed for loops if a question looks like one that goes round: the client is an upstream, so that
    /// it may be what we have asked it, or the question comes too often.
    fn watch_for_loops(&self, client: IpAddr, identity: u64, now: CoarseInstant) {
        let has_loops = self.context.loops.is_some();
        if has_loops && (self.rates.is_suspicious(identity, now) || self.is_upstream(client)) {
            self.watch_for_loops_after(&self.suspected, SUSPECTED_AGAIN_MS, now);
        }
    }

    fn watch_for_loops_after(&self, throttle: &Throttle, millis: u64, now: CoarseInstant) {
        if self.context.loops.is_some() && throttle.allows(now, millis) {
            self.suspicious.store(true, Relaxed);
            self.probe_soon();
        }
    }

    /// True if a client's address is an upstream's.
    fn is_upstream(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.set.load().upstreams.iter().any(|upstream| upstream.target().address.ip() == client)
    }
}
