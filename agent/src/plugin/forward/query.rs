//! One question on its way through the upstreams, until one has answered or the time is over.
//!
//! ```text
//! ask the first of the order
//!   answer             done (TC: the same upstream over a stream; FORMERR: once more without EDNS; `failover`: the next)
//!   error              the next upstream at once
//!   later than usual   the next upstream besides (hedging), where the budget allows
//!   try timed out      the next upstream besides; who answers first is taken
//! ```

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use smallvec::SmallVec;

use super::choose::{Fitness, Order, order};
use super::trip::Trip;
use super::{Forward, Policy, Set};
use crate::clock::CoarseInstant;
use crate::upstream::alarms::Alarm;
use crate::upstream::question::Unexpected;
use crate::upstream::rtt::MAX_TRY;
use crate::upstream::{Flight, Over, Question, Received, Upstream, UpstreamError};
use crate::wire::{HEADER_LEN, Message, Rcode, read_u16, write_u16};

/// One query is given up after so long, as in CoreDNS.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// A query that is late looks so often whether its upstream has gone down, and whether a hedge can be had by now.
const LOOK_AGAIN_MS: u64 = 50;
/// Tries for one query, where `max_connect_attempts` says nothing: twice the upstreams, as in CoreDNS, and no fewer than this.
const MIN_TRIES: usize = 3;

/// How often a query whose connection has ended is sent over another one: an upstream may answer one query a connection,
/// and many may be under way.
const MAX_RECONNECTS: u16 = 256;

/// What a question came to.
#[allow(
    clippy::large_enum_variant,
    reason = "answers are the rule; a box would be an allocation for each"
)]
pub(super) enum Ended {
    /// An answer.
    Answered(Message),
    /// None.
    Failed(Failure),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// No upstream at all.
    #[error("there is no upstream to forward to: {0}")]
    NoUpstream(Arc<str>),
    /// All of them lead back here.
    #[error("queries to every upstream come back here: see the log for the loop and its cure")]
    AllLoop,
    /// All of them are down, and `failfast_all_unhealthy_upstreams` is set.
    #[error("every upstream is down")]
    AllDown,
    /// The last of several errors.
    #[error("{upstream}: {error}")]
    Upstream {
        /// Whose.
        upstream: Arc<str>,
        /// Which.
        error: UpstreamError,
    },
}

/// One try.
struct Attempt {
    upstream: Arc<Upstream>,
    flight: Flight,
    over: Over,
    begun: CoarseInstant,
    timeout: Duration,
    timed_out: bool,
    // Late answers of the upstream when the try began: one more means that it lives.
    late_before: u64,
}

/// One question with its tries.
pub(super) struct Asking<'a> {
    forward: &'a Forward,
    set: &'a Set,
    worker: usize,
    question: Question,
    // By which `Forward::failures` knows it.
    identity: u64,
    order: Order,
    next: usize,
    tries: usize,
    max_tries: usize,
    attempts: SmallVec<[Attempt; 2]>,
    begun: CoarseInstant,
    // When it is later than usual; only where there is another upstream to ask.
    look_at: Option<CoarseInstant>,
    // An answer that is better than none: cut off, or with a code of `failover`.
    second_best: Option<Message>,
    error: Option<Failure>,
    retried: bool,
    reconnects: u16,
}

/// What a query on its short way has left to the task that goes on with it.
pub(super) enum First {
    /// It is still on its way to this upstream, or has failed.
    Flight(Arc<Upstream>, Flight),
    /// An answer that has to be looked at.
    Received(Arc<Upstream>, Received),
    /// Nothing could be sent.
    Nothing,
}

enum Event {
    Done(usize, Result<Received, UpstreamError>),
    Due,
}

impl<'a> Asking<'a> {
    pub(super) fn new(
        forward: &'a Forward,
        set: &'a Set,
        worker: usize,
        question: Question,
        identity: u64,
    ) -> Self {
        Self {
            forward,
            set,
            worker,
            question,
            identity,
            order: Order::new(),
            next: 0,
            tries: 0,
            max_tries: 0,
            attempts: SmallVec::new(),
            begun: CoarseInstant::now(),
            look_at: None,
            second_best: None,
            error: None,
            retried: false,
            reconnects: 0,
        }
    }

    /// Asks until there is an answer, or none to be had.
    pub(super) async fn run(mut self) -> Ended {
        if let Some(failure) = self.set_out() {
            return Ended::Failed(failure);
        }
        self.wait().await
    }

    /// The same, from where a query on its short way has come to.
    pub(super) async fn run_from(mut self, trip: &Trip, first: First) -> Ended {
        let upstream = match &first {
            First::Nothing => return self.run().await,
            First::Flight(upstream, _) | First::Received(upstream, _) => Arc::clone(upstream),
        };
        self.begun = trip.begun;
        // It has had its turn.
        let policy = self.forward.config.policy;
        self.put_in_order(if policy == Policy::RoundRobin { Policy::Random } else { policy });
        let mut all = self.set.upstreams.iter().zip(0u16..);
        if let Some((_, at)) = all.find(|(up, _)| Arc::ptr_eq(up, &upstream)) {
            // Also where it has gone down since: the others are then asked soon.
            self.order.retain(|other| *other != at);
            self.order.insert(0, at);
            self.next = 1;
        }
        self.tries = 1;
        match first {
            First::Received(_, received) => {
                if let Some(message) = self.received(&upstream, Over::Udp, received) {
                    return Ended::Answered(message);
                }
            }
            First::Flight(_, flight) => {
                let timeout = upstream.round_trips.try_timeout();
                self.attempts.push(Attempt {
                    upstream,
                    flight,
                    over: Over::Udp,
                    begun: trip.begun,
                    timeout,
                    timed_out: false,
                    late_before: trip.late_before,
                });
                self.look_out();
            }
            First::Nothing => {}
        }
        self.wait().await
    }

    async fn wait(mut self) -> Ended {
        let mut alarm = Alarm::new(self.forward.alarms(self.worker));
        loop {
            if self.attempts.is_empty() {
                return self.give_up();
            }
            let wake_at = self.wake_at();
            let event = poll_fn(|context| {
                for (n, attempt) in self.attempts.iter().enumerate() {
                    if let Poll::Ready(result) = attempt.flight.poll_answer(context) {
                        return Poll::Ready(Event::Done(n, result));
                    }
                }
                if CoarseInstant::now() >= wake_at {
                    return Poll::Ready(Event::Due);
                }
                alarm.set(wake_at, context.waker());
                Poll::Pending
            });
            match event.await {
                Event::Done(n, result) => {
                    let attempt = self.attempts.remove(n);
                    match result {
                        Ok(received) => {
                            let Attempt { upstream, over, .. } = &attempt;
                            if let Some(message) = self.received(upstream, *over, received) {
                                return Ended::Answered(message);
                            }
                        }
                        Err(error) => self.failed(&attempt, error),
                    }
                }
                Event::Due => {
                    if CoarseInstant::now().millis_since(self.begun) >= DEADLINE.as_millis() as u64
                    {
                        self.attempts.clear();
                    } else {
                        self.due();
                    }
                }
            }
        }
    }

    fn set_out(&mut self) -> Option<Failure> {
        let config = &self.forward.config;
        match self.put_in_order(config.policy) {
            Fitness::Good => {}
            Fitness::None => return Some(Failure::NoUpstream(Arc::clone(&self.set.trouble))),
            Fitness::AllLoop => return Some(Failure::AllLoop),
            Fitness::AllDown => {
                self.forward.broken.add(1);
                self.forward.doubt();
                if config.failfast {
                    return Some(Failure::AllDown);
                }
            }
        }
        self.launch_next();
        self.look_out();
        None
    }

    fn put_in_order(&mut self, policy: Policy) -> Fitness {
        let config = &self.forward.config;
        let (order, fitness) = order(&self.set.upstreams, policy, &self.forward.turn);
        self.order = order;
        self.forward.failures.put_last(self.identity, &mut self.order, |at| {
            self.set.upstreams.get(usize::from(at)).map(|upstream| &**upstream)
        });
        self.max_tries = match config.max_connect_attempts {
            0 => (self.order.len() * 2).max(MIN_TRIES),
            limit => limit,
        };
        fitness
    }

    /// Sets the time when the first upstream is later than usual.
    fn look_out(&mut self) {
        if self.order.len() > 1
            && let Some(first) = self.attempts.first()
        {
            let after = first.upstream.round_trips.hedge_after();
            self.look_at = Some(self.begun.plus_millis(after.as_millis() as u64 + 1));
        }
    }

    /// Asks the next upstream that can be asked; gives up on those that cannot even be sent to.
    fn launch_next(&mut self) {
        while self.tries < self.max_tries {
            let Some(upstream) = self.next_upstream() else { return };
            let over = upstream.first_over();
            if self.launch(upstream, over) {
                return;
            }
        }
    }

    fn next_upstream(&mut self) -> Option<Arc<Upstream>> {
        let up = |at: &u16| self.set.upstreams.get(usize::from(*at));
        let len = self.order.len();
        // One that has gone down since is passed over, where there is another.
        let healthy = (0..len).find(|step| {
            let at = self.order.get((self.next + step) % len);
            at.and_then(up).is_some_and(|upstream| !upstream.health.is_down())
        });
        let place = self.next + healthy.unwrap_or(0);
        let upstream = self.order.get(place.checked_rem(len)?).and_then(up).cloned();
        self.next = place + 1;
        upstream
    }

    fn launch(&mut self, upstream: Arc<Upstream>, over: Over) -> bool {
        self.tries += 1;
        match upstream.ask(self.worker, &self.question, over) {
            Ok(flight) => {
                let usual = upstream.round_trips.try_timeout();
                // Each further try of a question is given twice as long: the name itself may be slow to resolve.
                let timeout = (usual * (1 << (self.tries - 1).min(4) as u32)).min(MAX_TRY);
                let late_before = upstream.counters(self.worker).unexpected_count(Unexpected::Late);
                let begun = CoarseInstant::now();
                self.attempts.push(Attempt {
                    upstream,
                    flight,
                    over,
                    begun,
                    timeout,
                    timed_out: false,
                    late_before,
                });
                true
            }
            Err(error) => {
                self.count_failure(&upstream, &error);
                self.error =
                    Some(Failure::Upstream { upstream: Arc::clone(upstream.label()), error });
                false
            }
        }
    }

    fn wake_at(&self) -> CoarseInstant {
        let deadline = self.begun.plus_millis(DEADLINE.as_millis() as u64);
        let tries = self.attempts.iter().filter(|attempt| !attempt.timed_out);
        let tries =
            tries.map(|attempt| attempt.begun.plus_millis(attempt.timeout.as_millis() as u64));
        tries.chain(self.look_at).min().unwrap_or(deadline).min(deadline)
    }

    /// An answer has come. `None`: it is not the last word.
    fn received(
        &mut self,
        upstream: &Arc<Upstream>,
        over: Over,
        received: Received,
    ) -> Option<Message> {
        let counters = upstream.counters(self.worker);
        upstream.round_trips.record(received.round_trip);
        if upstream.health.succeeded() {
            tracing::info!(upstream = %upstream.label(), "the upstream answers again");
        }
        let cut_off = received.cut_off;
        let message = match Message::from_received(complete(received.bytes, &self.question)) {
            Ok(message) => message,
            // Cut off in the middle of a record: only a stream can bring the rest.
            Err(_) if cut_off && over == Over::Udp => {
                counters.truncated.add(1);
                self.again(upstream, Over::Stream);
                return None;
            }
            Err(error) => {
                counters.errors.add(1);
                self.error = Some(Failure::Upstream {
                    upstream: Arc::clone(upstream.label()),
                    error: error.into(),
                });
                self.launch_if_idle();
                return None;
            }
        };
        counters.answered(message.rcode(), received.round_trip);
        if over == Over::Udp && (message.truncated() || cut_off) {
            counters.truncated.add(1);
            self.second_best = Some(message);
            self.again(upstream, Over::Stream);
            return None;
        }
        let rcode = message.rcode();
        if rcode == Rcode::SERVFAIL {
            self.forward.failures.note(self.identity, upstream);
        }
        let no_edns = matches!(rcode, Rcode::FORMERR | Rcode::NOTIMP | Rcode::BADVERS)
            && self.question.has_edns()
            && !self.retried;
        if no_edns && message.layout().records.is_empty() {
            self.retried = true;
            self.question = self.question.without_edns();
            self.second_best = Some(message);
            self.again(upstream, over);
            return None;
        }
        if self.forward.config.failover.contains(&rcode)
            && self.tries < self.max_tries.min(self.order.len())
        {
            self.second_best = Some(message);
            self.launch_if_idle();
            return None;
        }
        Some(message)
    }

    fn failed(&mut self, attempt: &Attempt, error: UpstreamError) {
        let upstream = &attempt.upstream;
        match error {
            // It had worked, and was closed while we asked: not a failure, but one more try.
            UpstreamError::Lost if self.reconnects < MAX_RECONNECTS && !attempt.timed_out => {
                self.reconnects += 1;
                self.tries -= 1;
                self.again(upstream, attempt.over);
            }
            // It lives, but cannot be asked this way.
            UpstreamError::Case => self.again(upstream, Over::Stream),
            error => {
                self.forward.failures.note(self.identity, upstream);
                if !attempt.timed_out {
                    self.count_failure(upstream, &error);
                }
                self.error =
                    Some(Failure::Upstream { upstream: Arc::clone(upstream.label()), error });
                self.launch_if_idle();
            }
        }
    }

    fn again(&mut self, upstream: &Arc<Upstream>, over: Over) {
        // Not a try of another upstream: it counts, but is not refused.
        if !self.launch(Arc::clone(upstream), over) {
            self.launch_if_idle();
        }
    }

    /// The next one, unless somebody is still within their time.
    fn launch_if_idle(&mut self) {
        if self.attempts.iter().all(|attempt| attempt.timed_out) {
            self.launch_next();
        }
    }

    /// A try or the hedge is due.
    fn due(&mut self) {
        let now = CoarseInstant::now();
        let mut ended = false;
        // Where all are down there is nobody better to turn to: each try then has its time.
        let others = self.order.iter().any(|&at| {
            let upstream = self.set.upstreams.get(usize::from(at));
            upstream.is_some_and(|upstream| !upstream.health.is_down())
        });
        for attempt in self.attempts.iter_mut().filter(|attempt| !attempt.timed_out) {
            // Others have found out meanwhile that it is dead: there is nothing to wait for.
            let dead = others && attempt.upstream.health.is_down();
            if !dead && now.millis_since(attempt.begun) < attempt.timeout.as_millis() as u64 {
                continue;
            }
            attempt.timed_out = true;
            ended = true;
            self.forward.failures.note(self.identity, &attempt.upstream);
            let counters = attempt.upstream.counters(self.worker);
            counters.timeouts.add(1);
            let waited = Duration::from_millis(now.millis_since(attempt.begun));
            let error = UpstreamError::Timeout(waited);
            if counters.unexpected_count(Unexpected::Late) == attempt.late_before {
                self.forward.failed(&attempt.upstream, &error);
            }
            let upstream = Arc::clone(attempt.upstream.label());
            self.error = Some(Failure::Upstream { upstream, error });
        }
        if ended {
            self.launch_if_idle();
            // Nobody is left to be asked, and who has been asked has had its time.
            if self.tries >= self.max_tries && self.attempts.iter().all(|attempt| attempt.timed_out)
            {
                self.attempts.clear();
            }
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = Some(now.plus_millis(LOOK_AGAIN_MS));
            if !ended
                && self.tries == 1
                && self.forward.config.hedge
                && self.forward.may_hedge(self.worker)
            {
                if let Some(late) = self.attempts.first() {
                    late.upstream.counters(self.worker).hedges.add(1);
                    // The other one's answer ends the query: what this one did not say would never be noticed.
                    late.upstream.health.doubt();
                }
                self.forward.doubt();
                self.launch_next();
            }
        }
    }

    fn count_failure(&self, upstream: &Arc<Upstream>, error: &UpstreamError) {
        upstream.counters(self.worker).errors.add(1);
        // Our own limits are not the upstream's fault.
        if *error != UpstreamError::TooMany {
            self.forward.failed(upstream, error);
        }
    }

    fn give_up(self) -> Ended {
        match (self.second_best, self.error) {
            (Some(message), _) => Ended::Answered(message),
            (None, Some(failure)) => Ended::Failed(failure),
            (None, None) => Ended::Failed(Failure::AllDown),
        }
    }
}

/// A bare header, as servers answer to what they cannot read, with the question that it is about.
fn complete(mut answer: Vec<u8>, question: &Question) -> Vec<u8> {
    if read_u16(&answer, 4) == Some(0) {
        answer.truncate(HEADER_LEN);
        answer.get_mut(4..HEADER_LEN).into_iter().for_each(|counts| counts.fill(0));
        write_u16(&mut answer, 4, 1);
        answer.extend_from_slice(question.octets());
    }
    answer
}
