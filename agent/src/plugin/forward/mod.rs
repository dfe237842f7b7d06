//! `forward FROM TO... { ... }`: asks upstreams what is not known here. `docs/forward.md` is its manual.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | the directive and its options |
//! | `choose` | policies |
//! | `marks` | which question is asked too often, and who has failed at which |
//! | `query` | one question through the upstreams: tries, hedging, deadline |
//! | [`trip`] | the short way, without a task: one datagram there, its answer back |
//! | `background` | files that are followed, probes of upstreams in doubt, probes for loops |
//! | `targets` | who is to be asked: what is written and what files say |
//! | `metrics` | what is counted |
//! | `detail` | what `nodens status` tells |

mod background;
mod choose;
pub mod config;
mod detail;
mod directive;
mod marks;
mod metrics;
mod options;
mod query;
mod targets;
#[cfg(test)]
mod tests;
pub mod trip;

use std::net::IpAddr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

pub use config::{Config, Policy};
pub use directive::start;
pub use targets::check;

use crate::chain::{Handler, Local, Next, Resolving};
use crate::metrics::Counter;
use crate::plugin::loop_::LoopGuard;
use crate::request::{Answer, Outcome, OwnedRequest, Plugin, Request, Step, ede};
use crate::upstream::alarms::Alarms;
use crate::upstream::follow::Reading;
use crate::upstream::health::Throttle;
use crate::upstream::registry::{HealthRegistry, UpstreamKey};
use crate::upstream::{OwnAddresses, Question, Target, Upstream, UpstreamError};
use crate::wire::{Message, Name, NameRef, Rcode, Reply, Section};
use marks::{Failures, Identify, Rates};
use query::{Asking, Ended, Failure};

/// Of a hundred queries, so many may be asked of a second upstream because the first is late...
const HEDGES_PER_100: i32 = 3;
/// ... and so many hundreds may gather for when they are needed all at once.
const HEDGES_SAVED: i32 = 5;

/// With `max_fails 0`, failures in a row after which an upstream is looked at for a loop.
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

/// What a forward stands in: what all of a process share, and its server block.
#[derive(Clone, Default)]
pub struct ForwardContext {
    /// Threads that answer.
    pub workers: usize,
    /// What is nobody's upstream.
    pub own: OwnAddresses,
    /// Recognises queries of our own that come back; `None` without `loop` in the server block.
    pub loops: Option<Arc<LoopGuard>>,
    /// What is known of upstreams from the configuration before.
    pub health_registry: Arc<HealthRegistry>,
    /// The zones of the server block: only names within them reach the forward. Empty: all names.
    pub zones: Vec<Name>,
}

/// A `forward` that runs.
pub struct Forward {
    config: Config,
    context: ForwardContext,
    tls: Option<Arc<rustls::ClientConfig>>,
    set: ArcSwap<Set>,
    lanes: Box<[Lane]>,
    turn: AtomicUsize,
    in_flight: AtomicUsize,
    in_doubt: Arc<Notify>,
    suspected: Throttle,
    fallen: Throttle,
    suspicious: std::sync::atomic::AtomicBool,
    identify: Identify,
    rates: Rates,
    failures: Failures,
    broken: Counter,
    rejected: Counter,
    // What was read at the start, until the background work takes it up.
    first: Mutex<(Vec<Target>, Reading)>,
}

/// The upstreams of the moment.
struct Set {
    upstreams: Vec<Arc<Upstream>>,
    // Why there are none, for whoever asks.
    trouble: Arc<str>,
}

struct Lane {
    alarms: Arc<Alarms>,
    hedges: AtomicI32,
}

impl Forward {
    /// Sets up what `config` says. Files are read at once; that they name nobody is no error: it is logged, and forwarded
    /// names are SERVFAIL until they do.
    pub fn new(config: Config, context: ForwardContext) -> Result<Arc<Self>, ForwardError> {
        let tls = if config.needs_tls() { Some(config.tls.load()?) } else { None };
        let lane = || Lane { alarms: Arc::default(), hedges: AtomicI32::new(HEDGES_SAVED * 100) };
        let forward = Self {
            lanes: (0..context.workers.max(1)).map(|_| lane()).collect(),
            set: ArcSwap::from_pointee(Set { upstreams: Vec::new(), trouble: "".into() }),
            turn: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            in_doubt: Arc::default(),
            suspected: Throttle::default(),
            fallen: Throttle::default(),
            suspicious: std::sync::atomic::AtomicBool::new(true),
            identify: Identify::default(),
            rates: Rates::new(),
            failures: Failures::new(),
            broken: Counter::new(),
            rejected: Counter::new(),
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
        if set.upstreams.is_empty() {
            tracing::error!("forward: there is no upstream: {}", set.trouble);
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
        targets::of(&self.config, &self.context.own)
    }

    /// A set of these upstreams. Those that are in the present set go on with all that is known of them.
    fn build(&self, targets: &[Target], reading: &Reading) -> Result<Set, UpstreamError> {
        let present = self.set.load();
        let upstreams = targets.iter().map(|target| -> Result<_, UpstreamError> {
            if let Some(known) = present.upstreams.iter().find(|known| known.target() == target) {
                return Ok(Arc::clone(known));
            }
            let transport = self.config.transport.clone();
            let made =
                Upstream::new(target.clone(), transport, self.tls.as_ref(), self.lanes.len())?;
            let made = Arc::new(made);
            let may_be_down = self.config.max_fails != 0;
            self.context.health_registry.take_over(&made, self.key(target), may_be_down);
            Ok(made)
        });
        let trouble = if targets.is_empty() { targets::trouble(reading).into() } else { "".into() };
        Ok(Set { upstreams: upstreams.collect::<Result<_, _>>()?, trouble })
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

    #[expect(clippy::indexing_slicing, reason = "there is at least one lane, by construction")]
    fn lane(&self, worker: usize) -> &Lane {
        &self.lanes[worker % self.lanes.len()]
    }

    fn alarms(&self, worker: usize) -> &Arc<Alarms> {
        &self.lane(worker).alarms
    }

    /// Takes one hedge out of the worker's budget.
    fn may_hedge(&self, worker: usize) -> bool {
        let hedges = &self.lane(worker).hedges;
        let saved = hedges.load(Relaxed);
        if saved >= 100 {
            hedges.store(saved - 100, Relaxed);
        }
        saved >= 100
    }

    fn earn_hedge(&self, worker: usize) {
        let hedges = &self.lane(worker).hedges;
        let saved = hedges.load(Relaxed);
        if saved < HEDGES_SAVED * 100 {
            hedges.store(saved + HEDGES_PER_100, Relaxed);
        }
    }

    /// A try of an upstream has failed.
    fn failed(&self, upstream: &Upstream, error: &UpstreamError) {
        if upstream.health.failed(self.config.max_fails) {
            tracing::warn!(upstream = %upstream.label(), %error, "the upstream does not answer");
            self.has_fallen();
        }
        if self.config.max_fails == 0 && upstream.health.failures() >= SUSPECT_AFTER {
            self.suspect();
        }
        self.doubt();
    }

    /// Something is odd: upstreams are probed soon.
    fn doubt(&self) {
        self.in_doubt.notify_one();
    }

    /// A client looks like an upstream: queries may be going round. All upstreams are probed for that, seldom: a server of
    /// the node that asks us for cluster names looks the same all day.
    fn suspect(&self) {
        const AGAIN_MS: u64 = 10_000;
        self.look_for_loops(&self.suspected, AGAIN_MS);
    }

    /// An upstream has gone down, as one does that is busy with queries that go round.
    fn has_fallen(&self) {
        const AGAIN_MS: u64 = 1_000;
        self.look_for_loops(&self.fallen, AGAIN_MS);
    }

    fn look_for_loops(&self, seldom: &Throttle, millis: u64) {
        if self.context.loops.is_some() && seldom.now(millis) {
            self.suspicious.store(true, Relaxed);
            self.doubt();
        }
    }

    /// Looks for loops where a question looks like one that goes round: the client is an upstream, so that it may be what we
    /// have asked it, or it is asked too often.
    fn look_out(&self, client: IpAddr, identity: u64) {
        let has_loops = self.context.loops.is_some();
        if has_loops && (self.rates.is_suspicious(identity) || self.is_upstream(client)) {
            self.suspect();
        }
    }

    /// True where a client's address is an upstream's.
    fn is_upstream(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.set.load().upstreams.iter().any(|upstream| upstream.target().address.ip() == client)
    }

    async fn answer<'a>(self: &'a Arc<Self>, request: &'a OwnedRequest, next: Next<'a>) -> Answer {
        let Ok(view) = request.view() else { return Answer::unreadable() };
        let _slot = match self.config.max_concurrent {
            None => None,
            Some(limit) => match Slot::take(&self.in_flight, limit) {
                Some(slot) => Some(slot),
                None => {
                    self.rejected.add(1);
                    let error = "max_concurrent: too many queries are being forwarded";
                    return Answer::failure(
                        &view,
                        Plugin::Forward,
                        Rcode::REFUSED,
                        ede::OTHER,
                        error,
                    );
                }
            },
        };
        let worker = request.origin.worker;
        self.earn_hedge(worker);
        let set = self.set.load_full();
        let identity = self.identify.question(&view.query);
        self.look_out(request.origin.client.ip(), identity);
        let mut question = Question::of_query(&view.query);
        if let Some(options) = &request.options {
            question = question.with_options(options);
        }
        let ended = Asking::new(self, &set, worker, question, identity).run().await;
        if let Ended::Answered(message) = &ended
            && self.goes_on(message)
        {
            let theirs = next.resolve(request).await;
            // Only another `forward` is asked; what the end of the chain says is no answer.
            if theirs.outcome.plugin == Plugin::Forward {
                return theirs;
            }
        }
        self.conclude(&view, &set, identity, ended)
    }

    fn conclude(&self, view: &Request<'_>, set: &Set, identity: u64, ended: Ended) -> Answer {
        // Who asks again may be told by another upstream: only when all have failed, the failure is worth keeping.
        let is_open = || {
            let mut others = set.upstreams.iter();
            others.any(|up| up.health.is_fit() && !self.failures.has_failed(identity, up))
        };
        match ended {
            Ended::Answered(message) => {
                let outcome = Outcome::new(Plugin::Forward, message.rcode());
                let is_passing = outcome.rcode == Rcode::SERVFAIL && is_open();
                Answer { is_passing, ..Answer::new(Arc::new(message), outcome) }
            }
            Ended::Failed(failure) => {
                let code = match &failure {
                    Failure::Upstream { .. } | Failure::AllDown => ede::NO_REACHABLE_AUTHORITY,
                    Failure::NoUpstream(_) | Failure::AllLoop => ede::NETWORK_ERROR,
                };
                let error = failure.to_string();
                let answer = Answer::failure(view, Plugin::Forward, Rcode::SERVFAIL, code, &error);
                Answer { is_passing: is_open(), ..answer }
            }
        }
    }

    /// `next` and `next_on_nodata`.
    fn goes_on(&self, message: &Message) -> bool {
        let nodata = || {
            message.rcode() == Rcode::NOERROR
                && message.layout().section(Section::Answer).next().is_none()
        };
        self.config.next.contains(&message.rcode()) || self.config.next_on_nodata && nodata()
    }
}

/// The handler of a [`Forward`] in a chain.
pub struct Forwarding(pub Arc<Forward>);

impl Handler for Forwarding {
    fn plugin(&self) -> Plugin {
        Plugin::Forward
    }

    fn serve(&self, request: &Request<'_>, _reply: &mut Reply<'_>, _local: &mut Local) -> Step {
        if self.0.takes(request.query.name()) { Step::Wait } else { Step::Next }
    }

    fn resolve<'a>(&'a self, request: &'a OwnedRequest, next: Next<'a>) -> Resolving<'a> {
        Box::pin(self.0.answer(request, next))
    }

    fn as_forward(&self, request: &Request<'_>) -> Option<&Arc<Forward>> {
        self.0.takes(request.query.name()).then_some(&self.0)
    }

    fn passes(&self, request: &Request<'_>) -> bool {
        !self.0.takes(request.query.name())
    }

    fn not_ready(&self) -> Option<String> {
        let set = self.0.set.load();
        let looping: Vec<_> = set
            .upstreams
            .iter()
            .filter(|up| up.health.is_looping())
            .map(|up| &**up.label())
            .collect();
        match (looping.is_empty(), looping.len() < set.upstreams.len()) {
            (true, _) => None,
            // Some still answer; that is worth a word, but no reason to be taken out of service.
            (false, true) => None,
            (false, false) => Some(format!("forwarding loops: {}", looping.join(", "))),
        }
    }
}

/// One of the queries that may be in flight.
struct Slot<'a>(&'a AtomicUsize);

impl<'a> Slot<'a> {
    fn take(count: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let slot = Self(count);
        if count.fetch_add(1, Relaxed) < limit { Some(slot) } else { None }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
