//! One query to the upstreams of a `forward`, as a state machine: events in, actions out. It owns no socket, reads no
//! clock and never waits.
//!
//! ```text
//! start                     the first upstream of the order is asked
//!   Response                finish (TC: the same upstream over a stream; FORMERR: once more without EDNS;
//!                           `failover`, malformed: the next upstream)
//!   Failed                  the next upstream at once (a connection that had worked and ended: the same one again)
//!   Timeout: hedge          a second upstream beside the first, if the budget allows
//!   Timeout: try            the next upstream beside the first; the answer that comes first is taken
//!   Timeout: deadline       finish without an answer
//! ```
//!
//! What a query does to the state of its upstreams (health, round trips, counters), to the hedge budget and to the memory
//! of failures is done in here and nowhere else. A driver ([`super::drive`], `server::pending`) calls
//! [`ForwardQuery::poll_send`] until it is `None` after each event, then [`ForwardQuery::finish`], and delivers `Timeout`
//! at [`ForwardQuery::poll_timeout`].

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::Forward;
use super::attempt::{Attempt, complete, late_answers};
use super::candidates::Candidates;
use super::failure::Failure;
use super::limits::Permits;
use super::outcome::Finished;
use super::select::Availability;
use crate::clock::CoarseInstant;
use crate::upstream::Send;
use crate::upstream::event::{AttemptId, Event};
use crate::upstream::rtt::MAX_TRY;
use crate::upstream::{Question, Transport, Upstream, UpstreamError};
use crate::wire::{Message, Rcode, flags};

/// A query is given up after so long. CoreDNS takes 5 s, which is when glibc has given up itself: the SERVFAIL that
/// explains what happened would come too late.
pub(super) const DEADLINE: Duration = Duration::from_secs(4);
/// What a query is given at least, however long its client has waited for another one.
const LEAST_MS: u64 = 500;
/// A late query checks so often if its upstream has gone down, and if the budget has a hedge by now.
const RECHECK_MS: u64 = 50;
/// Tries of one query if `max_connect_attempts` is not set: twice the upstreams, as in CoreDNS, and no fewer than this.
const MIN_TRIES: usize = 3;
/// So often one query is sent again because its connection ended while others were answered. A server that closes after each
/// answer gets through 100 queries at once over four connections in 25 rounds.
const MAX_RECONNECTS: u16 = 128;

/// What a query needs from outside: the moment, the worker, chance, and the shared state of its `forward`.
pub(super) struct Cx<'a> {
    /// The moment of the event.
    pub now: CoarseInstant,
    /// The worker that the query belongs to.
    pub worker: usize,
    /// A number below the argument, drawn at random.
    pub random: fn(usize) -> usize,
    /// The `forward`.
    pub forward: &'a Forward,
}

/// One query with its tries.
pub(super) struct ForwardQuery {
    candidates: Candidates,
    client: IpAddr,
    /// Loses its EDNS after a FORMERR.
    question: Question,
    /// The hash by which the memory of failures knows the question.
    identity: u64,
    /// Tries begun; those that `reconnects` counts are not among them.
    tries: usize,
    max_tries: usize,
    /// Tries that were sent again because their connection had ended.
    reconnects: u16,
    /// One retry without EDNS.
    without_edns: bool,
    next_attempt: u16,
    /// Unanswered tries. Those that have timed out stay: their answers are still good.
    attempts: SmallVec<[Attempt; 2]>,
    started: CoarseInstant,
    /// When the query is given up.
    deadline: CoarseInstant,
    /// When a second upstream is worth asking; only with several upstreams.
    hedge_at: Option<CoarseInstant>,
    /// An answer that is better than none: truncated, or with a code of `failover`.
    fallback: Option<Message>,
    error: Option<Failure>,
    sends: SmallVec<[Send; 2]>,
    /// An upstream that is down and is to get the question too, to find out if it answers queries again.
    trial: Option<Arc<Upstream>>,
    /// Set once, and then nothing changes any more.
    finished: Option<Finished>,
    _permits: Permits,
}

impl ForwardQuery {
    /// Begins a query for `client`. If the query cannot be forwarded it is finished at once.
    pub(super) fn start(
        cx: &mut Cx<'_>,
        client: IpAddr,
        question: Question,
        identity: u64,
    ) -> Self {
        let mut query = Self {
            candidates: Candidates::new(cx.forward.set.load_full()),
            client,
            question,
            identity,
            tries: 0,
            max_tries: 0,
            reconnects: 0,
            without_edns: false,
            next_attempt: 0,
            attempts: SmallVec::new(),
            started: cx.now,
            deadline: cx.now.plus_millis(DEADLINE.as_millis() as u64),
            hedge_at: None,
            fallback: None,
            error: None,
            sends: SmallVec::new(),
            trial: None,
            finished: None,
            _permits: Permits::default(),
        };
        if let Err(failure) = query.begin(cx, client) {
            query.finished = Some(Finished::failed(failure));
        }
        query
    }

    /// The same for a client that has waited since `received`, for other questions: its time counts, but for [`LEAST_MS`].
    pub(super) fn received_at(mut self, received: CoarseInstant) -> Self {
        let deadline = received.plus_millis(DEADLINE.as_millis() as u64);
        self.deadline = self.deadline.min(deadline.max(self.started.plus_millis(LEAST_MS)));
        self
    }

    fn begin(&mut self, cx: &mut Cx<'_>, client: IpAddr) -> Result<(), Failure> {
        let forward = cx.forward;
        self._permits = forward.limits.admit(client)?;
        forward.limits.earn_hedge(cx.worker);
        forward.watch_for_loops(client, self.identity, cx.now);
        match self.put_in_order(cx) {
            Availability::Some => {}
            Availability::None => return Err(Failure::NoUpstream(self.candidates.problem())),
            Availability::AllLoop => return Err(Failure::AllLoop),
            Availability::AllDown => {
                forward.broken.add(1);
                forward.probe_soon();
                // Failing fast, too: one query a second finds out, and gets the answer if there is one.
                if forward.config.failfast && self.candidates.begin_trial(cx.now).is_none() {
                    return Err(Failure::AllDown);
                }
            }
        }
        self.launch_next(cx);
        if self.candidates.len() > 1
            && let Some(first) = self.attempts.first()
        {
            let after = first.upstream.round_trips.hedge_after().as_millis() as u64 + 1;
            self.hedge_at = Some(self.started.plus_millis(after));
        }
        self.trial = self.candidates.begin_trial(cx.now);
        Ok(())
    }

    /// Takes an event. Events of unknown attempts are ignored, and all that come after the end.
    pub(super) fn handle(&mut self, cx: &mut Cx<'_>, event: Event<'_>) {
        if self.finished.is_some() {
            return;
        }
        match event {
            Event::Response { attempt, message, oversize, round_trip } => {
                if let Some(attempt) = self.take(attempt) {
                    let asked = (self.client, &self.question);
                    cx.forward.tap(&attempt, asked, Some(&message), cx.now);
                    self.response(cx, &attempt, message, oversize, round_trip);
                }
            }
            Event::Failed { attempt, error } => {
                if let Some(attempt) = self.take(attempt) {
                    cx.forward.tap(&attempt, (self.client, &self.question), None, cx.now);
                    self.failed(cx, attempt, error);
                }
            }
            Event::Timeout => self.timeout(cx),
        }
        // Nothing is out that could still be answered in its time, and nothing was sent in its place. An upstream that answers
        // other questions may still answer this one: the name is slow, and not the upstream dead.
        let is_over =
            |attempt: &Attempt| attempt.timed_out && !attempt.upstream_has_answered(cx.worker);
        if self.finished.is_none() && self.attempts.iter().all(is_over) {
            self.conclude(cx);
        }
    }

    /// The next query to send. The driver reports with [`Event::Failed`] what cannot be sent.
    pub(super) fn poll_send(&mut self) -> Option<Send> {
        if self.finished.is_some() || self.sends.is_empty() {
            return None;
        }
        Some(self.sends.remove(0))
    }

    /// When the next `Timeout` is due.
    pub(super) fn poll_timeout(&self) -> CoarseInstant {
        let tries = self.attempts.iter().filter(|attempt| !attempt.timed_out).map(Attempt::due);
        tries.chain(self.hedge_at).fold(self.deadline, CoarseInstant::min)
    }

    /// What is asked now.
    pub(super) fn question(&self) -> &Question {
        &self.question
    }

    /// The upstream to send the question to apart from the query's own tries. To be asked right after the start.
    pub(super) fn take_trial(&mut self) -> Option<Arc<Upstream>> {
        self.trial.take()
    }

    /// True once there is a result.
    pub(super) fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    /// The result, once, when there is one. All attempts are to be given up then.
    pub(super) fn finish(&mut self) -> Option<Finished> {
        self.finished.take()
    }

    fn take(&mut self, id: AttemptId) -> Option<Attempt> {
        let at = self.attempts.iter().position(|attempt| attempt.id == id)?;
        Some(self.attempts.remove(at))
    }

    fn put_in_order(&mut self, cx: &Cx<'_>) -> Availability {
        let Cx { now, random, forward, .. } = *cx;
        let availability = self.candidates.put_in_order(forward, self.identity, now, random);
        self.max_tries = match forward.config.max_connect_attempts {
            0 => (self.candidates.len() * 2).max(MIN_TRIES),
            limit => limit,
        };
        availability
    }

    /// Asks the next upstream that can be asked, if there is one and the query has a try left.
    fn launch_next(&mut self, cx: &Cx<'_>) {
        if self.tries < self.max_tries
            && let Some((place, upstream)) = self.candidates.next()
        {
            let transport = upstream.first_transport();
            self.launch(cx, place, upstream, transport);
        }
    }

    fn launch(&mut self, cx: &Cx<'_>, place: u16, upstream: Arc<Upstream>, transport: Transport) {
        self.tries += 1;
        // Each further try of a question is given twice as long: the name itself may be slow to resolve.
        let factor = 1 << (self.tries - 1).min(4) as u32;
        let timeout = (upstream.round_trips.try_timeout() * factor).min(MAX_TRY);
        self.send(cx, place, upstream, transport, timeout);
    }

    fn send(
        &mut self,
        cx: &Cx<'_>,
        place: u16,
        upstream: Arc<Upstream>,
        transport: Transport,
        timeout: Duration,
    ) {
        let id = AttemptId(self.next_attempt);
        self.next_attempt = self.next_attempt.wrapping_add(1);
        self.sends.push(Send { attempt: id, upstream: Arc::clone(&upstream), transport });
        let late_before = late_answers(&upstream, cx.worker);
        self.attempts.push(Attempt {
            id,
            upstream,
            place,
            transport,
            sent: cx.now,
            timeout,
            timed_out: false,
            late_before,
        });
    }

    fn response(
        &mut self,
        cx: &Cx<'_>,
        attempt: &Attempt,
        message: Cow<'_, [u8]>,
        oversize: bool,
        round_trip: Duration,
    ) {
        let Attempt { upstream, place, transport, .. } = attempt;
        let (place, transport) = (*place, *transport);
        let counters = upstream.counters(cx.worker);
        upstream.round_trips.record(round_trip);
        cx.forward.answered(upstream, cx.now);
        let is_marked = message.get(2).is_some_and(|octet| octet & (flags::TC >> 8) as u8 != 0);
        let message = match Message::from_received(complete(message, &self.question)) {
            Ok(message) => message,
            // Cut in the middle of a record: only a stream can bring the whole.
            Err(_) if transport == Transport::Udp && (oversize || is_marked) => {
                return self.over_stream(cx, attempt);
            }
            Err(error) => {
                counters.errors.add(1);
                cx.forward.failures.note(self.identity, upstream, cx.now);
                return self.next_after(cx, upstream, error.into());
            }
        };
        counters.answered(message.rcode(), round_trip);
        let rcode = message.rcode();
        if rcode == Rcode::SERVFAIL {
            cx.forward.failures.note(self.identity, upstream, cx.now);
        }
        if message.truncated() || oversize {
            self.fallback = Some(message);
            // There is something to tell: streams that are silent do not keep the client from it for longer than one try.
            self.deadline = self.deadline.min(cx.now.plus_millis(MAX_TRY.as_millis() as u64));
            if transport == Transport::Udp {
                return self.over_stream(cx, attempt);
            }
            // A stream has no reason to truncate; what is truncated is no answer (RFC 2181 section 9).
            self.candidates.mark_truncated(place);
            return self.next_after(cx, upstream, UpstreamError::Truncated);
        }
        let refuses_edns = matches!(rcode, Rcode::FORMERR | Rcode::NOTIMP | Rcode::BADVERS)
            && self.question.has_edns()
            && !self.without_edns
            && message.layout().records.is_empty();
        if refuses_edns {
            self.without_edns = true;
            self.question = self.question.without_edns();
            return self.launch(cx, place, Arc::clone(upstream), transport);
        }
        let may_fail_over = self.tries < self.max_tries.min(self.candidates.len());
        if cx.forward.config.failover.contains(&rcode) && may_fail_over {
            self.fallback = Some(message);
            return self.launch_if_idle(cx);
        }
        let is_transient = rcode == Rcode::SERVFAIL && self.is_open(cx);
        self.finished = Some(Finished { is_transient, ..Finished::answered(message) });
    }

    /// Asks for the whole of a truncated answer. The upstream is not asked over UDP again.
    fn over_stream(&mut self, cx: &Cx<'_>, attempt: &Attempt) {
        let Attempt { upstream, place, .. } = attempt;
        upstream.counters(cx.worker).truncated.add(1);
        self.candidates.mark_truncated(*place);
        self.launch(cx, *place, Arc::clone(upstream), Transport::Stream);
        // Without another upstream to ask, there is nothing to hurry for; else each of them is to have its turn.
        if let Some(launched) = self.attempts.last_mut() {
            launched.timeout = match self.candidates.are_all_truncated() {
                true => MAX_TRY,
                false => (upstream.round_trips.try_timeout() * 2).min(MAX_TRY),
            };
        }
    }

    fn failed(&mut self, cx: &Cx<'_>, attempt: Attempt, error: UpstreamError) {
        let is_busy = attempt.upstream_is_busy();
        let Attempt { upstream, place, transport, timeout, timed_out, .. } = attempt;
        match error {
            // It ended while the query was out: no failure, and no try. If nothing else was answered, believed once.
            UpstreamError::Lost
                if !timed_out
                    && (self.reconnects == 0 || is_busy && self.reconnects < MAX_RECONNECTS) =>
            {
                self.reconnects += 1;
                self.send(cx, place, upstream, transport, timeout);
            }
            // It lives, but cannot be asked this way.
            UpstreamError::Case => self.launch(cx, place, upstream, Transport::Stream),
            // A limit of our own.
            UpstreamError::TooMany => {
                upstream.counters(cx.worker).errors.add(1);
                self.next_after(cx, &upstream, error);
            }
            error => {
                cx.forward.failures.note(self.identity, &upstream, cx.now);
                if !timed_out {
                    upstream.counters(cx.worker).errors.add(1);
                    // It has just answered by datagram: that its TCP does not work is no sign of death.
                    if transport == upstream.first_transport() {
                        cx.forward.failed(&upstream, &error, cx.now);
                    }
                }
                self.next_after(cx, &upstream, error);
            }
        }
    }

    fn next_after(&mut self, cx: &Cx<'_>, upstream: &Upstream, error: UpstreamError) {
        self.error = Some(Failure::upstream(upstream, error));
        self.launch_if_idle(cx);
    }

    /// Asks the next upstream, unless a try is still within its time.
    fn launch_if_idle(&mut self, cx: &Cx<'_>) {
        if self.attempts.iter().all(|attempt| attempt.timed_out) {
            self.launch_next(cx);
        }
    }

    fn timeout(&mut self, cx: &mut Cx<'_>) {
        if cx.now >= self.deadline {
            self.end_tries(cx, true);
            return self.conclude(cx);
        }
        let ended = self.end_tries(cx, false);
        if ended {
            self.take_up_new_set(cx);
            self.launch_if_idle(cx);
        }
        if self.hedge_at.is_some_and(|at| at <= cx.now) {
            self.hedge_at = Some(cx.now.plus_millis(RECHECK_MS));
            if !ended && self.tries == 1 {
                self.hedge(cx);
            }
        }
    }

    /// Ends the tries whose time is over, or `all`. True if there was one.
    fn end_tries(&mut self, cx: &Cx<'_>, all: bool) -> bool {
        // While all are down there is no better one to turn to: each try then has its time.
        let others = self.candidates.is_any_up();
        let mut ended = false;
        for attempt in self.attempts.iter_mut().filter(|attempt| !attempt.timed_out) {
            let upstream = &attempt.upstream;
            // Other queries have found out meanwhile that it does not answer.
            let is_dead = others && upstream.health.is_down();
            let is_over = is_dead || cx.now >= attempt.due();
            if !is_over && !all {
                continue;
            }
            let waited = Duration::from_millis(cx.now.millis_since(attempt.sent));
            let error = UpstreamError::Timeout(waited);
            if is_over {
                upstream.counters(cx.worker).timeouts.add(1);
                cx.forward.failures.note(self.identity, upstream, cx.now);
                if attempt.transport == upstream.first_transport()
                    && !attempt.upstream_has_answered(cx.worker)
                    && upstream.health.timeout_counts(attempt.sent, cx.now)
                {
                    cx.forward.failed(upstream, &error, cx.now);
                }
            }
            self.error = Some(Failure::upstream(upstream, error));
            attempt.timed_out = true;
            ended = true;
        }
        ended
    }

    /// Turns to the upstreams that have replaced those of the query. Tries that are out stay.
    fn take_up_new_set(&mut self, cx: &mut Cx<'_>) {
        if !self.candidates.take_up(&cx.forward.set.load()) {
            return;
        }
        self.tries = 0;
        self.put_in_order(cx);
    }

    fn hedge(&mut self, cx: &Cx<'_>) {
        let forward = cx.forward;
        if !forward.config.hedge || !forward.limits.spend_hedge(cx.worker) {
            return;
        }
        if let Some(late) = self.attempts.first() {
            late.upstream.counters(cx.worker).hedges.add(1);
            // The other one's answer ends the query: what this one did not answer would never be noticed.
            late.upstream.health.suspect();
        }
        forward.probe_soon();
        self.launch_next(cx);
    }

    /// Ends the query with the best that there is.
    fn conclude(&mut self, cx: &Cx<'_>) {
        let (fallback, error) = (self.fallback.take(), self.error.take());
        self.finished = Some(Finished::best(fallback, error, self.is_open(cx)));
    }

    /// True while an upstream is up that has not failed at this question: the client may ask again and get its answer, so
    /// that the failure is not worth caching.
    fn is_open(&self, cx: &Cx<'_>) -> bool {
        self.candidates
            .is_any_open(|upstream| cx.forward.failures.has_failed(self.identity, upstream, cx.now))
    }
}
