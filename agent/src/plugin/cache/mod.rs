//! `cache`: caches the answers of upstreams, and resolves each question only once at a time. What a look-up passes through:
//!
//! ```text
//! serve      worker_cache   4,096 answers that this worker has served recently: no lock, no write that others see
//!            membership     a membership filter: a miss ends here, without a look-up in moka
//!            store          moka, shared by all workers, with one budget in bytes
//! join_miss  single_flight  queries for a question that is being resolved wait for its answer
//! complete   rules          what may be cached, and for how long (RFC 2308, 8767, 9520)
//!            last_good      what was good for long is not given up for a denial at once
//!            fill           times to live are bounded here, once, for all that use the answer
//!            doorkeeper     a full cache admits an answer when it is queried for the second time
//! ```
//!
//! What each part is for: moka records a hit in a channel that all threads share, hence `worker_cache`, whose hits moka is
//! told of once a second (`Store::maintain`). It records a miss as well, and evicts to admit: hence `membership` and
//! `doorkeeper`, which spare a flood of names that are queried once both costs. `benches/cache.rs` measures a hit in
//! `worker_cache`, a hit in `store` and a flight.
//!
//! Its place is after what is known locally (`hosts`, `kubernetes`, `file`), so that cluster names are never answered
//! from an old copy, stale answers included. `docs/cache.md` has the rules and where they differ from CoreDNS.

pub mod config;
mod cut;
mod directive;
mod doorkeeper;
pub mod entry;
mod explain;
pub mod export;
mod fill;
mod in_place;
pub mod inspect;
pub mod last_good;
mod membership;
mod metrics;
pub mod rules;
pub mod single_flight;
pub mod store;
#[cfg(test)]
mod tests;
mod worker_cache;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::admission::Permit;
use crate::chain::{Detached, Handler, JoinMiss, Local, Miss, Next, Resolving};
use crate::clock::CoarseInstant;
use crate::config::{Effect, ServerBlock, table};
use crate::corefile;
use crate::request::{Answer, CacheUse, Outcome, OwnedRequest, Plugin, Request, Step, ede};
use crate::trace::Notes;
use crate::wire::reply::Ttl;
use crate::wire::{Class, Query, Rcode, RecordType, Reply, flags};

pub use config::Config;
pub use metrics::CacheMetrics;
pub use store::Store;
pub use worker_cache::WorkerCache;

use config::{Refresh, Stale};
use entry::{BlockStats, Entry, Key, bits};
use single_flight::Join;

/// How long one refresh has the right to be the only one, seconds: longer than an upstream's last time-out, so that it
/// ends only with a refresh that has died.
const CLAIM: u32 = 10;
/// How soon after a failed refresh ahead of time the next one may begin, seconds.
const PREFETCH_RECHECK: u32 = 5;

/// The identity of a server block for [`Cache::new`]: a hash of its zones and of every directive that has to do with its
/// answers, the same in every process. Blocks that say the same share their entries. What is kept does not depend on
/// `stale_on_denial`, which is written while upstreams deny what is kept.
pub fn block_id(block: &ServerBlock) -> u64 {
    let shows = |name| table::find(name).is_none_or(|entry| entry.effect != Effect::Operations);
    let shows = |name| name != "stale_on_denial" && shows(name);
    let answering = block.directives.iter().filter(|directive| shows(directive.name.as_str()));
    let (directives, at) = (answering.cloned().collect(), block.at.clone());
    let mut text = corefile::ServerBlock { keys: Vec::new(), directives, at }.to_string();
    for zone in block.zone_names() {
        text.push_str(&format!("{zone} "));
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).fold(0, |id, octet| id << 8 | u64::from(*octet))
}

/// One server block's cache. A handle: clones share everything.
#[derive(Clone, Debug)]
pub struct Cache {
    config: Arc<Config>,
    store: Arc<Store>,
    stats: Arc<BlockStats>,
    rotates: bool,
    now: fn() -> CoarseInstant,
}

impl Cache {
    /// The cache of the block with the identity `block` (a hash of the block's text, so that its entries are found again
    /// after a reload that did not change it). `rotates`: addresses take turns (`loadbalance`).
    pub fn new(config: Config, store: Arc<Store>, block: u64, rotates: bool) -> Self {
        let stats = store.stats(block);
        Self { config: Arc::new(config), store, stats, rotates, now: CoarseInstant::now }
    }

    /// The same by another clock, which is read when an answer comes in; hits go by the query's own time.
    pub fn with_clock(self, now: fn() -> CoarseInstant) -> Self {
        Self { now, ..self }
    }

    /// What the directive says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the block holds and has done.
    pub fn stats(&self) -> &Arc<BlockStats> {
        &self.stats
    }

    /// The store that it shares.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The key of a query, where it is one to keep: class IN, no meta type (RFC 6895 section 3.1), a covered name.
    fn key<'q>(&self, query: &'q Query<'_>) -> Option<Key<'q>> {
        let qtype = query.qtype();
        let is_data = !matches!(qtype, RecordType::OPT | RecordType(0 | 128..=255));
        if query.qclass() != Class::IN || !is_data || !self.config.covers(query.name()) {
            return None;
        }
        let bits = if query.dnssec_ok() { bits::DNSSEC_OK } else { 0 }
            | if query.checking_disabled() { bits::CHECKING_DISABLED } else { 0 };
        Some(Key { name: query.name(), qtype, bits })
    }

    fn find(&self, hash: u64, key: &Key<'_>) -> Option<Arc<Entry>> {
        self.store.get(hash).filter(|entry| entry.answers(&self.stats, key))
    }

    /// A kept failure that is still to be believed.
    fn find_failure(&self, key: &Key<'_>, now: CoarseInstant) -> Option<Arc<Entry>> {
        if !self.stats.has_failures() {
            return None;
        }
        let key = Key { bits: key.bits | bits::FAILURE, ..*key };
        self.find(self.store.hash(&self.stats, &key), &key).filter(|entry| entry.is_fresh(now))
    }

    /// The stale rules, where this entry falls under them now.
    fn stale_for(&self, entry: &Entry, now: CoarseInstant) -> Option<Stale> {
        let stale = self.config.stale.filter(|stale| entry.is_stale_within(now, stale.seconds));
        stale.or_else(|| self.denied(entry, now))
    }

    /// Whether an entry that is there may matter to a question that has to wait.
    fn may_have_old(&self) -> bool {
        let Config { stale, prefetch, last_good, .. } = &*self.config;
        stale.is_some() || prefetch.is_some() || last_good.is_some()
    }

    /// True where a popular entry is near its end; counts the query.
    fn is_due(&self, entry: &Entry, now: CoarseInstant) -> bool {
        let Some(prefetch) = &self.config.prefetch else { return false };
        let asked = entry.count(now, prefetch.gap, prefetch.amount);
        asked >= prefetch.amount && self.is_near_end(entry, now)
    }

    fn is_near_end(&self, entry: &Entry, now: CoarseInstant) -> bool {
        let percent = self.config.prefetch.map_or(0, |prefetch| u64::from(prefetch.percent));
        let threshold = (u64::from(entry.lifetime()) * percent).div_ceil(100).max(1);
        u64::from(entry.remaining(now)) <= threshold && !entry.is_deferred(now)
    }

    fn write_fresh(
        &self,
        entry: &Entry,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
        first: usize,
    ) -> Outcome {
        let now = request.origin.received;
        let ttl = match self.config.keepttl {
            true => Ttl::Keep,
            false => Ttl::Minus(now.seconds_since(entry.stored()), 1),
        };
        let cache = if entry.kind().is_denial() { CacheUse::Denial } else { CacheUse::Success };
        self.write(entry, reply, ttl, first).with_cache(cache)
    }

    fn write_stale(
        &self,
        entry: &Entry,
        stale: &Stale,
        now: CoarseInstant,
        reply: &mut Reply<'_>,
    ) -> Outcome {
        if self.denied(entry, now).is_some() {
            reply.extended_error(ede::STALE_ANSWER, last_good::TOLD);
        } else {
            reply.push_options(match entry.rcode() {
                Rcode::NXDOMAIN => &STALE_NXDOMAIN,
                _ => &STALE_ANSWER,
            });
        }
        self.write(entry, reply, Ttl::Set(stale.ttl), 0).with_cache(CacheUse::Stale)
    }

    fn write(&self, entry: &Entry, reply: &mut Reply<'_>, ttl: Ttl, first: usize) -> Outcome {
        entry.write(reply, ttl, first);
        Outcome::new(Plugin::Cache, entry.rcode())
    }

    fn fresh_answer(&self, entry: &Entry, view: &Request<'_>) -> Answer {
        Answer::stored(view, |reply| self.write_fresh(entry, view, reply, 0))
    }

    fn stale_answer(&self, entry: &Entry, stale: &Stale, view: &Request<'_>) -> Answer {
        Answer::stored(view, |reply| self.write_stale(entry, stale, view.origin.received, reply))
    }

    /// Answers from an entry after its end, with or after an attempt to refresh it (RFC 8767 section 5).
    async fn resolve_stale(
        &self,
        request: &OwnedRequest,
        question: Question<'_>,
        entry: &Arc<Entry>,
        stale: &Stale,
        next: Next<'_>,
    ) -> Answer {
        let now = (self.now)();
        if !entry.is_deferred(now)
            && let Some(permit) = refresh_permit(request)
        {
            match stale.refresh {
                Refresh::Immediate => {
                    if entry.claim(now, CLAIM) {
                        self.stats.prefetches.fetch_add(1, Relaxed);
                        self.refresh(request, entry, next, permit);
                    }
                }
                // A refresh that is out already is joined there, so that all waiting clients are in one flight.
                Refresh::Verify(wait) => match self.refresh(request, entry, next, permit) {
                    Some(refresh) => {
                        if let Ok(Ok(answer)) = tokio::time::timeout(wait, refresh).await
                            && is_good(&answer)
                        {
                            return answer;
                        }
                    }
                    None => return self.resolve_once(request, question, Some(entry), next).await,
                },
            }
        }
        self.stale_answer(entry, stale, question.view)
    }

    /// Resolves the question in a task of its own, with recursion whatever the client wants: the question is our own. `None`
    /// if no task can be begun.
    fn refresh(
        &self,
        request: &OwnedRequest,
        old: &Arc<Entry>,
        next: Next<'_>,
        permit: Option<Permit>,
    ) -> Option<tokio::task::JoinHandle<Answer>> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let detached = next.detach()?;
        let (cache, request, old) = (self.clone(), request.recursive(), Arc::clone(old));
        Some(runtime.spawn(async move {
            let _permit = permit;
            cache.refreshed(&request, &old, &detached).await
        }))
    }

    async fn refreshed(
        &self,
        request: &OwnedRequest,
        old: &Arc<Entry>,
        detached: &Detached,
    ) -> Answer {
        let Ok(view) = request.view() else { return Answer::unreadable() };
        let Some(key) = self.key(&view.query) else {
            return detached.next().resolve(request).await;
        };
        let question =
            Question { view: &view, key: &key, hash: self.store.hash(&self.stats, &key) };
        let answer = self.resolve_once(request, question, Some(old), detached.next()).await;
        let now = (self.now)();
        if !is_good(&answer) {
            let fresh = old.is_fresh(now);
            let recheck = self
                .config
                .stale
                .filter(|_| !fresh)
                .map_or(PREFETCH_RECHECK, |stale| stale.recheck);
            old.defer(now, recheck);
        }
        answer
    }

    /// Resolves a question by the next handlers, once for all queries that come meanwhile, and fills the answer in.
    async fn resolve_once(
        &self,
        request: &OwnedRequest,
        question: Question<'_>,
        old: Option<&Arc<Entry>>,
        next: Next<'_>,
    ) -> Answer {
        let Question { view, key, hash } = question;
        let recursion = view.query.recursion_desired();
        loop {
            match self.store.flights().join(hash, self.stats.block, key, recursion) {
                Join::Leader { guard, is_recent } => {
                    let filled = is_recent.then(|| self.filled_meanwhile(&question, old)).flatten();
                    let answer = match filled {
                        Some(answer) => answer,
                        None => self.keep(&question, old, next.resolve(request).await),
                    };
                    guard.complete(&answer);
                    return answer;
                }
                Join::Follower(answer) => {
                    if let Ok(answer) = answer.await {
                        return answer;
                    }
                }
                Join::Overloaded => {
                    self.stats.turned_away.fetch_add(1, Relaxed);
                    let error = "too many queries wait for the answer to this question";
                    let code = (Rcode::REFUSED, ede::OTHER);
                    let answer = Answer::failure(view, Plugin::Cache, code.0, code.1, error);
                    // One line in the log for each would be a flood of its own.
                    return Answer { error: None, ..answer };
                }
                Join::Collision => return self.keep(&question, old, next.resolve(request).await),
            }
        }
    }

    /// What a flight brought that was completed between this query's look at the store, where it saw `old`, and its joining.
    fn filled_meanwhile(
        &self,
        question: &Question<'_>,
        old: Option<&Arc<Entry>>,
    ) -> Option<Answer> {
        let entry = self.find(question.hash, question.key)?;
        let is_news =
            entry.is_fresh((self.now)()) && !old.is_some_and(|old| Arc::ptr_eq(old, &entry));
        is_news.then(|| self.fresh_answer(&entry, question.view))
    }

    fn serve_kept(&self, request: &Request<'_>, reply: &mut Reply<'_>, local: &mut Local) -> Step {
        let Some(key) = self.key(&request.query) else { return Step::Next };
        let hash = self.store.hash(&self.stats, &key);
        let now = request.origin.received;
        let first = if self.rotates { local.rotate() } else { 0 };
        if let Some(entry) = local.cache.find(&self.store, hash)
            && entry.answers(&self.stats, &key)
            && entry.is_fresh(now)
        {
            if self.is_due(entry, now) {
                return Step::Wait;
            }
            return Step::Done(self.write_fresh(entry, request, reply, first));
        }
        if let Some(entry) = self.find(hash, &key) {
            if entry.is_fresh(now) {
                if self.is_due(&entry, now) {
                    return Step::Wait;
                }
                local.cache.offer(&self.store, hash, &entry);
                return Step::Done(self.write_fresh(&entry, request, reply, first));
            }
            if let Some(stale) = self.stale_for(&entry, now) {
                return match entry.is_deferred(now) {
                    true => Step::Done(self.write_stale(&entry, &stale, now, reply)),
                    false => Step::Wait,
                };
            }
            self.store.expects(hash);
        }
        match self.find_failure(&key, now) {
            Some(failure) => Step::Done(self.write_fresh(&failure, request, reply, 0)),
            None => Step::Wait,
        }
    }
}

impl Handler for Cache {
    fn plugin(&self) -> Plugin {
        Plugin::Cache
    }

    fn join_miss(&self, request: &Request<'_>, miss: &mut Miss) -> JoinMiss {
        let Some(flight) = self.try_lead(request) else { return JoinMiss::Task };
        miss.flight = Some(Box::new(flight));
        JoinMiss::Joined
    }

    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, local: &mut Local) -> Step {
        let step = match local.is_dry {
            false => self.serve_kept(request, reply, local),
            true => self.serve_dry(request, reply),
        };
        // What is kept has AD for whoever wants it; answers that waited lose it when they are sent.
        if step != Step::Wait && !request.query.understands_ad() {
            reply.set_flags(flags::AD, false);
        }
        step
    }

    fn explain(&self, request: &Request<'_>, step: Step, notes: &mut Notes) {
        self.notes_on(request, step, notes);
    }

    fn resolve<'a>(&'a self, request: &'a OwnedRequest, next: Next<'a>) -> Resolving<'a> {
        Box::pin(async move {
            let Ok(view) = request.view() else { return Answer::unreadable() };
            let Some(key) = self.key(&view.query) else { return next.resolve(request).await };
            let hash = self.store.hash(&self.stats, &key);
            let question = Question { view: &view, key: &key, hash };
            if request.trace.is_some() {
                let answer = next.resolve(request).await;
                return Answer { outcome: answer.outcome.with_cache(CacheUse::Miss), ..answer };
            }
            let old = self.may_have_old().then(|| self.find(question.hash, &key)).flatten();
            if let Some(entry) = old {
                let now = (self.now)();
                if entry.is_fresh(now) {
                    if self.is_near_end(&entry, now)
                        && let Some(permit) = refresh_permit(request)
                        && entry.claim(now, CLAIM)
                    {
                        self.stats.prefetches.fetch_add(1, Relaxed);
                        self.refresh(request, &entry, next, permit);
                    }
                    return self.fresh_answer(&entry, &view);
                }
                if let Some(stale) = self.stale_for(&entry, now) {
                    return self.resolve_stale(request, question, &entry, &stale, next).await;
                }
                if self.may_be_last_good(&entry) {
                    return self.resolve_once(request, question, Some(&entry), next).await;
                }
            }
            if self.config.nxdomain_cut
                && let Some(answer) = self.answer_from_cut(&question, (self.now)())
            {
                return answer;
            }
            self.resolve_once(request, question, None, next).await
        })
    }
}

/// A query with its key.
#[derive(Clone, Copy)]
struct Question<'q> {
    view: &'q Request<'q>,
    key: &'q Key<'q>,
    hash: u64,
}

/// A place for a refresh among the queries that wait. `None`: there is none to be had, so the old answer has to do. Without
/// a server, as in tests, there is no bound.
#[allow(clippy::option_option, reason = "the outer is refused, the inner unbounded")]
fn refresh_permit(request: &OwnedRequest) -> Option<Option<Permit>> {
    let client = request.origin.client.ip();
    Local::with(|local| match &local.pending {
        Some(pending) => pending.try_acquire(client, 1).map(Some),
        None => Some(None),
    })
}

/// An answer that refreshes: NOERROR or NXDOMAIN (RFC 8767 section 4).
fn is_good(answer: &Answer) -> bool {
    matches!(answer.message.rcode(), Rcode::NOERROR | Rcode::NXDOMAIN)
        && !answer.message.truncated()
}

/// Extended errors 3 and 19 (RFC 8914) as options without text.
const STALE_ANSWER: [u8; 6] = [0, 15, 0, 2, 0, ede::STALE_ANSWER as u8];
const STALE_NXDOMAIN: [u8; 6] = [0, 15, 0, 2, 0, ede::STALE_NXDOMAIN as u8];
