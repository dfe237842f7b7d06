//! The plugins of one server block in their fixed order, and the one way of a query through them.
//!
//! The order is CoreDNS's but in one thing: what we know ourselves (`hosts`, `kubernetes`, `file`) is asked before
//! `cache`, so that it is never answered from an old copy. It is decided when the configuration is read.
//!
//! A query is first served in the receive loop, by [`Chain::serve`]: each handler answers, passes it on, or says that it
//! has to wait. Only then does it become a task, which goes on at the same handler by [`Chain::resolve`].

mod identity;

use std::cell::RefCell;
use std::sync::{Arc, OnceLock, Weak};

use crate::clients::ClientShares;
use crate::clock::CoarseInstant;
use crate::metrics::Scrape;
use crate::metrics::cells::{Cells, Tally};
use crate::observe::ring::Taps;
use crate::plugin::autopath::Autopath;
use crate::plugin::cache::WorkerCache;
use crate::plugin::view::View;
use crate::request::{Answer, Outcome, OwnedRequest, Plugin, Request, Step};
use crate::suspects::Refused;
use crate::trace::{self, Did, Notes, Trace};

pub use self::identity::Identity;
pub use crate::request::Resolving;
use crate::upstream::event::Event;
use crate::upstream::{Question, Send as SendQuery};
use crate::wire::{Name, Rcode, Reply, flags};

/// One directive that answers queries.
pub trait Handler: Send + Sync {
    /// Which one it is.
    fn plugin(&self) -> Plugin;

    /// Serves a query in the receive loop. Must not block, log or, where it answers, allocate. On [`Step::Next`] and
    /// [`Step::Wait`] the reply must be as it was.
    fn serve(&self, request: &Request<'_>, reply: &mut Reply<'_>, local: &mut Local) -> Step;

    /// Serves a query that may wait. Called only after [`Handler::serve`] has said [`Step::Wait`].
    fn resolve<'a>(&'a self, request: &'a OwnedRequest, next: Next<'a>) -> Resolving<'a> {
        next.resolve(request)
    }

    /// Notes what it knows of a query, after it has said `step` to it. Runs where it may take its time, and changes nothing.
    fn explain(&self, request: &Request<'_>, step: Step, notes: &mut Notes) {
        let _ = (request, step, notes);
    }

    /// Whether [`Handler::amend`] does anything.
    fn amends(&self) -> bool {
        false
    }

    /// Changes the reply to a query that it has passed on and that a later handler has answered. Must not allocate.
    fn amend(&self, request: &Request<'_>, reply: &mut Reply<'_>) {
        let _ = (request, reply);
    }

    /// Hands in what it counts itself; `server` and `view` are the labels of its server block.
    fn collect(&self, server: &str, view: &str, out: &mut Scrape) {
        let _ = (server, view, out);
    }

    /// True only if [`Handler::serve`] returns [`Step::Next`] for this query and leaves the reply as it was.
    fn bypasses(&self, _request: &Request<'_>) -> bool {
        false
    }

    /// True if it judges clients by the queries that they send: what is looked up on behalf of such a query passes it.
    fn is_for_clients_only(&self) -> bool {
        false
    }

    /// Contributes its part to a miss that is resolved in place. Called for the handler that has returned [`Step::Wait`]
    /// and those behind it, in order, until one does not return [`JoinMiss::Bypass`] or [`JoinMiss::Joined`].
    fn join_miss(&self, request: &Request<'_>, miss: &mut Miss) -> JoinMiss {
        let _ = miss;
        if self.bypasses(request) { JoinMiss::Bypass } else { JoinMiss::Task }
    }

    /// The zones for names of which it has answered as their own server.
    fn answered_zones(&self) -> Vec<&Name> {
        Vec::new()
    }

    /// What the handler still waits for before it can do its work; `/ready` prints it.
    fn not_ready(&self) -> Option<String> {
        None
    }
}

/// What a handler has to do with a miss that is resolved in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinMiss {
    /// Nothing: the next handler is asked.
    Bypass,
    /// It has contributed its part, and the next handler is asked.
    Joined,
    /// It has contributed the query, and with it the miss is complete.
    Complete,
    /// It has to await another handler's answer: the miss needs a task.
    Task,
}

/// A miss that is resolved in place, as far as it does not depend on how the reply leaves.
#[derive(Default)]
pub struct Miss {
    /// What takes the answer on its way to the client.
    pub flight: Option<Box<dyn MissFlight>>,
    /// What brings the answer.
    pub query: Option<Box<dyn MissQuery>>,
}

/// The cache's part in a miss. Dropping it gives the flight up: the queries that follow it begin anew.
pub trait MissFlight {
    /// Takes the answer in and gives it to the queries that follow. Returns the answer for the client.
    fn complete(self: Box<Self>, request: &Request<'_>, answer: Answer) -> Answer;
}

/// A query that is out for a miss: events in, queries to send out. Its driver calls `poll_send` until it is `None`, at the
/// start and after each event, and delivers [`Event::Timeout`] at `poll_timeout`, until it is finished.
pub trait MissQuery {
    /// Takes an event.
    fn handle(&mut self, now: CoarseInstant, event: Event<'_>);
    /// The next query to send.
    fn poll_send(&mut self) -> Option<SendQuery>;
    /// What is to be sent.
    fn question(&self) -> &Question;
    /// When the next time-out is due.
    fn poll_timeout(&self) -> CoarseInstant;
    /// True once there is an answer; then nothing changes any more.
    fn is_finished(&self) -> bool;
    /// The answer to `request`, once, when there is one. All that is out is to be given up then.
    fn finish(&mut self, request: &Request<'_>) -> Option<Answer>;
}

/// What one worker has for itself. Only its thread uses it.
pub struct Local {
    /// Which worker: 0 up to the number of workers.
    pub worker: usize,
    /// Moves on with every answer that rotates (`loadbalance`).
    pub rotation: usize,
    /// Answers of the cache that this worker has served recently.
    pub cache: WorkerCache,
    /// The places of all queries that wait, of all workers together. `None` outside of a server.
    pub pending: Option<ClientShares>,
    /// What it has received.
    pub tally: Arc<Tally>,
    /// Questions that are refused since the server has crashed over them.
    pub refused: Option<Arc<Refused>>,
    /// Nothing is to be changed: no counter, no token, no entry.
    pub is_dry: bool,
    /// For names of search lists.
    pub search: SearchBuffers,
}

/// Buffers for a query that is asked on behalf of another one, and for its reply; used again and again.
#[derive(Default)]
pub struct SearchBuffers {
    /// The query.
    pub packet: Vec<u8>,
    /// The reply.
    pub reply: Vec<u8>,
    /// The data of one record.
    pub rdata: Vec<u8>,
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::new(Local::new(0));
}

impl Local {
    /// A new worker's.
    pub fn new(worker: usize) -> Self {
        Self {
            worker,
            rotation: worker,
            cache: WorkerCache::new(),
            pending: None,
            tally: Arc::default(),
            refused: None,
            is_dry: false,
            search: SearchBuffers::default(),
        }
    }

    /// One for a query in a task: nobody's, and nothing is changed if the query is a dry run.
    pub fn of_task(request: &OwnedRequest) -> Self {
        Self { is_dry: request.trace.is_some(), ..Self::new(request.origin.worker) }
    }

    /// Makes this thread worker number `worker`'s, of a server with these places that refuses these questions.
    pub fn enter(
        worker: usize,
        pending: ClientShares,
        tally: Arc<Tally>,
        refused: Option<Arc<Refused>>,
    ) {
        let local = Self { pending: Some(pending), tally, refused, ..Self::new(worker) };
        LOCAL.replace(local);
    }

    /// Lends what this thread's worker has. Within a loan another one gets an empty one of its own.
    pub fn with<R>(work: impl FnOnce(&mut Self) -> R) -> R {
        LOCAL.with(|local| match local.try_borrow_mut() {
            Ok(mut local) => work(&mut local),
            Err(_) => work(&mut Self::new(0)),
        })
    }

    /// The next place to begin at.
    pub fn rotate(&mut self) -> usize {
        self.rotation = self.rotation.wrapping_add(1);
        self.rotation
    }
}

/// The handlers behind the one that is asked.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    chain: &'a Chain,
    from: usize,
}

impl<'a> Next<'a> {
    /// Serves the query by whoever comes next.
    pub fn resolve(self, request: &'a OwnedRequest) -> Resolving<'a> {
        self.chain.resolve_from(request, self.from)
    }

    /// The same, for a task that outlives the query. `None` if the chain is not served.
    pub fn detach(self) -> Option<Detached> {
        let chain = self.chain.this.get()?.upgrade()?;
        Some(Detached { chain, from: self.from })
    }
}

/// The handlers behind one, kept alive by whoever holds this.
#[derive(Clone)]
pub struct Detached {
    chain: Arc<Chain>,
    from: usize,
}

impl Detached {
    /// The handlers.
    pub fn next(&self) -> Next<'_> {
        Next { chain: &self.chain, from: self.from }
    }
}

/// One server block, compiled.
pub struct Chain {
    /// The zone that it serves; a block with several zones has a chain for each.
    pub zone: Name,
    /// The queries that it is for, where `view` is set; `None` for all.
    pub view: Option<Arc<View>>,
    /// The `zone` label of metrics: the zone's text.
    pub zone_label: Arc<str>,
    /// The `server` label of metrics: `dns://ADDRESS:PORT`.
    pub server_label: Arc<str>,
    /// Counters, one set for each worker.
    pub cells: Box<[Cells]>,
    /// What `nsid` says, where it is set.
    pub nsid: Option<Box<[u8]>>,
    /// What class CHAOS is told: the defaults, or what `chaos` says.
    pub identity: Identity,
    /// What `bufsize` says, where it is set: octets of a UDP reply.
    pub max_udp: Option<usize>,
    /// Where finished queries are written down for those who look; `None` outside of a server.
    pub taps: Option<Arc<Taps>>,
    /// Goes through search lists, where `autopath` is set.
    pub autopath: Option<Arc<Autopath>>,
    /// Writes finished queries to the log, where `log` is set.
    pub log: Option<Arc<dyn QueryLog>>,
    /// Sends finished queries to collectors, where `dnstap` is set.
    pub dnstap: Box<[Arc<dyn QueryLog>]>,
    /// Writes failures to the log, where `errors` is set.
    pub errors: Option<Arc<dyn ErrorLog>>,
    /// The chain itself, once it is served.
    this: OnceLock<Weak<Chain>>,
    handlers: Vec<Arc<dyn Handler>>,
    /// The numbers of those that amend.
    amending: Box<[usize]>,
    recursive: bool,
    flags_are_set: bool,
}

/// What `log` does with a finished query.
pub trait QueryLog: Send + Sync {
    /// True where an outcome of this kind is wanted; asked first, so that nothing is prepared in vain.
    fn wants(&self, request: &Request<'_>, outcome: &Outcome) -> bool;
    /// Writes it; `reply` is the finished message, `micros` the time since it was received.
    fn write(&self, request: &Request<'_>, outcome: &Outcome, reply: &[u8], micros: u64);
}

/// What `errors` does with a failure.
pub trait ErrorLog: Send + Sync {
    /// Writes it.
    fn write(&self, request: &Request<'_>, outcome: &Outcome, error: &str);
}

impl Chain {
    /// A chain of `handlers`, which must be in order, with counters for `workers`.
    pub fn new(
        zone: Name,
        server_label: Arc<str>,
        handlers: Vec<Arc<dyn Handler>>,
        workers: usize,
    ) -> Self {
        let flags_are_set = handlers.iter().any(|handler| handler.plugin() == Plugin::Header);
        let recursive = handlers.iter().any(|handler| handler.plugin() == Plugin::Forward);
        Self {
            zone_label: zone.to_string().into(),
            zone,
            view: None,
            server_label,
            cells: (0..workers).map(|_| Cells::default()).collect(),
            nsid: None,
            identity: Identity::default(),
            max_udp: None,
            taps: None,
            autopath: None,
            log: None,
            dnstap: Box::default(),
            errors: None,
            this: OnceLock::new(),
            amending: handlers
                .iter()
                .enumerate()
                .filter_map(|(number, handler)| handler.amends().then_some(number))
                .collect(),
            handlers,
            recursive,
            flags_are_set,
        }
    }

    /// The RA flag of replies that waited: whether others are asked for what is not known here; `None` where `header`
    /// decides.
    pub fn recursion_available(&self) -> Option<bool> {
        (!self.flags_are_set).then_some(self.recursive)
    }

    /// Begins to be served: from now on tasks can keep it.
    pub fn enter(chain: &Arc<Self>) {
        let _ = chain.this.set(Arc::downgrade(chain));
    }

    /// The handlers in order.
    pub fn handlers(&self) -> &[Arc<dyn Handler>] {
        &self.handlers
    }

    /// Serves a query in the receive loop: either the reply is written, or the query has to wait for the handler of the
    /// number that is returned.
    pub fn serve(
        &self,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
        local: &mut Local,
    ) -> Result<Outcome, usize> {
        self.serve_as(request, reply, local, false)
    }

    /// The same. `is_inner`: the query is asked on behalf of another one, and passes handlers that are for clients only.
    #[inline]
    pub fn serve_as(
        &self,
        request: &Request<'_>,
        reply: &mut Reply<'_>,
        local: &mut Local,
        is_inner: bool,
    ) -> Result<Outcome, usize> {
        reply.set_flags(flags::RA, self.recursive);
        for (number, handler) in self.handlers.iter().enumerate() {
            if is_inner && handler.is_for_clients_only() {
                continue;
            }
            let step = handler.serve(request, reply, local);
            debug_assert!(matches!(step, Step::Next) || !handler.bypasses(request));
            match step {
                Step::Done(outcome) => {
                    self.amend(0, number, request, reply);
                    return Ok(outcome);
                }
                Step::Next => {}
                Step::Wait => return Err(number),
            }
        }
        reply.set_rcode(Rcode::REFUSED);
        Ok(Outcome::new(Plugin::Server, Rcode::REFUSED))
    }

    /// Lets the handlers with numbers from `from` on, and below `to`, change a reply that one behind them has written.
    pub fn amend(&self, from: usize, to: usize, request: &Request<'_>, reply: &mut Reply<'_>) {
        // Backwards, as the answer passes them.
        for &number in self.amending.iter().rev().filter(|number| (from..to).contains(number)) {
            if let Some(handler) = self.handlers.get(number) {
                handler.amend(request, reply);
            }
        }
    }

    /// The parts of a miss that handler `number` has begun, if it can be resolved in place.
    pub fn join_miss(&self, number: usize, request: &Request<'_>) -> Option<Miss> {
        let mut miss = Miss::default();
        for handler in self.handlers.get(number..)? {
            match handler.join_miss(request, &mut miss) {
                JoinMiss::Bypass | JoinMiss::Joined => {}
                JoinMiss::Complete => return Some(miss),
                JoinMiss::Task => return None,
            }
        }
        None
    }

    /// Serves a query that may wait, from the first handler on.
    pub fn resolve<'a>(&'a self, request: &'a OwnedRequest) -> Resolving<'a> {
        self.resolve_from(request, 0)
    }

    /// Serves a query that may wait, from handler `from` on.
    pub fn resolve_from<'a>(&'a self, request: &'a OwnedRequest, from: usize) -> Resolving<'a> {
        Box::pin(async move {
            let Ok(view) = request.view() else {
                return Answer::unreadable();
            };
            let mut buf = Vec::new();
            for (number, handler) in self.handlers.iter().enumerate().skip(from) {
                if request.depth > 0 && handler.is_for_clients_only() {
                    continue;
                }
                buf.clear();
                let mut reply = Reply::begin(&mut buf, &view.query, true);
                reply.set_flags(flags::RA, self.recursive);
                let step = match &request.trace {
                    None => Local::with(|local| handler.serve(&view, &mut reply, local)),
                    Some(trace) => traced(handler.as_ref(), request, &view, &mut reply, trace),
                };
                match step {
                    Step::Done(outcome) => {
                        self.amend(from, number, &view, &mut reply);
                        return Answer::finished(reply, outcome).into_answer(buf);
                    }
                    Step::Next => {}
                    Step::Wait => {
                        let next = Next { chain: self, from: number + 1 };
                        let answer = handler.resolve(request, next).await;
                        return self.amended(from, number, &view, answer);
                    }
                }
            }
            Answer::written(&view, |reply| {
                reply.set_rcode(Rcode::REFUSED);
                Outcome::new(Plugin::Server, Rcode::REFUSED)
            })
        })
    }

    fn amended(&self, from: usize, to: usize, view: &Request<'_>, answer: Answer) -> Answer {
        if !self.amending.iter().any(|number| (from..to).contains(number)) {
            return answer;
        }
        answer.edited(view, |reply| self.amend(from, to, view, reply))
    }

    /// Goes on with a query at the handler that said [`Step::Wait`].
    pub fn resume<'a>(&'a self, request: &'a OwnedRequest, number: usize) -> Resolving<'a> {
        match self.handlers.get(number) {
            Some(handler) => handler.resolve(request, Next { chain: self, from: number + 1 }),
            None => self.resolve_from(request, number),
        }
    }
}

/// Has a handler serve a query as a dry run, and notes what it did.
fn traced(
    handler: &dyn Handler,
    request: &OwnedRequest,
    view: &Request<'_>,
    reply: &mut Reply<'_>,
    trace: &Trace,
) -> Step {
    let step = handler.serve(view, reply, &mut Local::of_task(request));
    let did = match step {
        Step::Done(_) => Did::Answered,
        Step::Next => Did::Passed,
        Step::Wait => Did::Needs,
    };
    let mut notes = Notes::default();
    handler.explain(view, step, &mut notes);
    let question = (view.query.name().to_string(), view.query.qtype().to_string());
    trace.push(trace::Step::new(question, handler.plugin().name(), did, notes));
    step
}
