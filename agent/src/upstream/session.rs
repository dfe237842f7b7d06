//! The state of one connection to an upstream, shared by the pool that hands it queries and the task that carries them; and
//! what the connections of one upstream have taught, shared by all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::sleep;

use crate::clock::CoarseInstant;
use crate::upstream::counters::Counters;
use crate::upstream::rtt::MAX_TRY;
use crate::upstream::table::Table;

/// A connection that ends so soon after an answer, with queries unanswered, was ended because of their number.
const LIMIT_CLOSE: Duration = Duration::from_millis(200);
/// A learnt limit of queries is doubled after so long, so that one that has gone is forgotten.
const LIMIT_DOUBLES: Duration = Duration::from_secs(60);
/// Two ends within this time are needed to learn a limit.
const LIMIT_CONFIRMS: Duration = Duration::from_secs(5);
/// Above it a limit makes no difference.
const MAX_LIMIT: usize = 4_096;

/// What the connections of one upstream have taught.
#[derive(Default)]
pub struct Peer {
    /// Queries that the upstream last answered over a connection before it closed it; 0: it is not known to have a limit.
    limit: AtomicU32,
    /// When `limit` was set, in milliseconds of [`CoarseInstant`].
    learnt_at: AtomicU64,
    /// Answers of the last connection that ended as by a limit, and when it did, in milliseconds of [`CoarseInstant`].
    closed_after: AtomicU32,
    closed_at: AtomicU64,
    /// When an answer last came over any connection, in milliseconds of [`CoarseInstant`]; 0: never.
    answered_at: AtomicU64,
}

/// One connection: its queries, and how it is doing.
pub struct Session {
    /// The queries in flight, those that are not yet sent included.
    pub table: Table,
    counters: Arc<Counters>,
    peer: Arc<Peer>,
    connected: AtomicBool,
    /// Once true, it stays so, and no query is left in `table`.
    closed: AtomicBool,
    opened_at: CoarseInstant,
    /// Queries that were written.
    sent: AtomicU32,
    /// Messages that have come.
    received: AtomicU32,
    /// When the last message came, in milliseconds of [`CoarseInstant`]; 0: none has.
    heard_at: AtomicU64,
    /// Since when queries have been out without anything read, in milliseconds of [`CoarseInstant`]; 0: none is.
    silent_since: AtomicU64,
}

impl Peer {
    /// Queries that may be sent over one connection.
    pub fn query_limit(&self, now: CoarseInstant) -> usize {
        let limit = self.limit.load(Relaxed) as usize;
        if limit == 0 {
            return usize::MAX;
        }
        let learnt = CoarseInstant::from_millis(self.learnt_at.load(Relaxed));
        let doublings = now.millis_since(learnt) / LIMIT_DOUBLES.as_millis() as u64;
        match limit.checked_shl(doublings.min(12) as u32) {
            Some(limit) if limit < MAX_LIMIT => limit,
            _ => usize::MAX,
        }
    }

    /// The upstream closed a connection right behind its answer number `answered`, with queries unanswered. One such end may
    /// be a restart; a second one soon, at about the same number, is a limit.
    fn learn(&self, answered: u32, now: CoarseInstant) {
        let before = self.closed_after.swap(answered, Relaxed);
        let at = CoarseInstant::from_millis(self.closed_at.swap(now.as_millis(), Relaxed));
        let is_soon = u128::from(now.millis_since(at)) <= LIMIT_CONFIRMS.as_millis();
        if before == 0 || !is_soon || before.max(answered) > before.min(answered).saturating_mul(2)
        {
            return;
        }
        self.learnt_at.store(now.as_millis(), Relaxed);
        self.limit.store(before.max(answered), Relaxed);
    }
}

impl Session {
    /// A connection that is being set up.
    pub fn new(peer: &Arc<Peer>, counters: &Arc<Counters>, now: CoarseInstant) -> Self {
        Self {
            table: Table::new(),
            counters: Arc::clone(counters),
            peer: Arc::clone(peer),
            connected: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            opened_at: now,
            sent: AtomicU32::new(0),
            received: AtomicU32::new(0),
            heard_at: AtomicU64::new(0),
            silent_since: AtomicU64::new(0),
        }
    }

    /// It is set up.
    pub fn connected(&self, now: CoarseInstant) {
        self.connected.store(true, Relaxed);
        self.queued(now);
    }

    /// A query was put into its queue. While the connection is set up that starts no time: another one would take as long.
    pub fn queued(&self, now: CoarseInstant) {
        if self.connected.load(Relaxed) && self.silent_since.load(Relaxed) == 0 {
            self.silent_since.store(now.as_millis().max(1), Relaxed);
        }
    }

    /// A query is written.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    /// Hands one message to the query that it answers.
    pub fn deliver(&self, message: &[u8]) {
        self.received.fetch_add(1, Relaxed);
        self.table.deliver(std::iter::once((message, false)), |why| self.counters.unexpected(why));
    }

    /// Messages have come, and were delivered.
    pub fn heard(&self, now: CoarseInstant) {
        let now = now.as_millis().max(1);
        self.heard_at.store(now, Relaxed);
        self.peer.answered_at.store(now, Relaxed);
        self.silent_since.store(if self.table.is_empty() { 0 } else { now }, Relaxed);
    }

    /// True if one more query may be written: the limit of the upstream is not reached.
    pub fn may_send(&self, now: CoarseInstant) -> bool {
        (self.sent.load(Relaxed) as usize) < self.peer.query_limit(now)
    }

    /// True if the upstream has answered all that it answers over one connection, and nothing else is under way.
    pub fn is_used_up(&self, now: CoarseInstant) -> bool {
        let received = self.received.load(Relaxed);
        received >= self.sent.load(Relaxed) && received as usize >= self.peer.query_limit(now)
    }

    /// Since when queries have been out with nothing read, if for `time` at least.
    pub fn silent_for(&self, time: Duration, now: CoarseInstant) -> Option<CoarseInstant> {
        let since = self.silent_since.load(Relaxed);
        let at = CoarseInstant::from_millis(since);
        (since != 0 && u128::from(now.millis_since(at)) >= time.as_millis()).then_some(at)
    }

    /// True if it is not known to have worked since `at`, and carries no query.
    pub fn is_doubtful(&self, at: CoarseInstant) -> bool {
        let heard = CoarseInstant::from_millis(self.heard_at.load(Relaxed));
        heard < at && self.opened_at < at && self.table.is_empty()
    }

    /// Returns once the connection has been silent for [`MAX_TRY`]. Queries that were given up count as well: with other
    /// upstreams to ask, none may be left waiting here.
    pub async fn stalled(&self) {
        while self.silent_for(MAX_TRY, CoarseInstant::now()).is_none() {
            let silent = match self.silent_since.load(Relaxed) {
                0 => 0,
                since => CoarseInstant::now().millis_since(CoarseInstant::from_millis(since)),
            };
            let left = MAX_TRY.saturating_sub(Duration::from_millis(silent));
            // Unless it is silent already, it cannot be so sooner than in that time.
            sleep(left + Duration::from_millis(1)).await;
        }
    }

    /// The upstream has closed or reset the connection.
    pub fn ended_by_peer(&self, now: CoarseInstant) {
        let heard = CoarseInstant::from_millis(self.heard_at.load(Relaxed));
        let received = self.received.load(Relaxed);
        let soon = u128::from(now.millis_since(heard)) <= LIMIT_CLOSE.as_millis();
        if received > 0 && soon && !self.table.is_empty() {
            self.peer.learn(received, now);
        }
    }

    /// True if the end of this connection is no failure of the upstream: it has answered over it, or over another one since
    /// this one was opened.
    pub fn has_worked(&self) -> bool {
        let answered = CoarseInstant::from_millis(self.peer.answered_at.load(Relaxed));
        self.received.load(Relaxed) > 0 || answered > self.opened_at
    }

    /// No query is taken any more.
    pub fn close(&self) {
        self.closed.store(true, std::sync::atomic::Ordering::Release);
    }

    /// True if it takes no more queries.
    pub fn is_closed(&self) -> bool {
        self.closed.load(std::sync::atomic::Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_learnt_and_slowly_forgotten() {
        let peer = Peer::default();
        let at = |seconds: u64| CoarseInstant::from_millis(seconds * 1_000);
        assert_eq!(peer.query_limit(at(0)), usize::MAX);
        peer.learn(20, at(90));
        assert_eq!(peer.query_limit(at(90)), usize::MAX, "one end may be a restart");
        peer.learn(7, at(91));
        assert_eq!(peer.query_limit(at(91)), usize::MAX, "another number");
        peer.learn(20, at(97));
        assert_eq!(peer.query_limit(at(97)), usize::MAX, "much later");
        peer.learn(18, at(100));
        assert_eq!((peer.query_limit(at(100)), peer.query_limit(at(159))), (20, 20));
        assert_eq!((peer.query_limit(at(160)), peer.query_limit(at(220))), (40, 80));
        assert_eq!(peer.query_limit(at(100 + 60 * 8)), usize::MAX);
        assert_eq!(peer.query_limit(at(1_000_000)), usize::MAX);
        peer.learn(1, at(1_000_000));
        peer.learn(1, at(1_000_000));
        assert_eq!(peer.query_limit(at(1_000_000)), 1);
    }

    #[test]
    fn only_an_end_behind_an_answer_teaches() {
        use crate::upstream::question::Question;
        use crate::wire::{Name, RecordType};
        let peer = Arc::<Peer>::default();
        let now = CoarseInstant::from_millis(10_000);
        let later = now.plus_millis(1_000);
        let name = Name::from_text("one.example").unwrap();
        let question = Question::new(name.as_ref(), RecordType::A, true);
        let session = || {
            let session = Session::new(&peer, &Arc::default(), now);
            session.connected(now);
            session.table.start(&question, false, |_| Ok::<_, ()>(())).unwrap().unwrap();
            session
        };
        let unanswered = session();
        unanswered.ended_by_peer(now);
        assert!(!unanswered.has_worked());
        let idle_for_long = session();
        idle_for_long.deliver(&[0; 12]);
        idle_for_long.heard(now);
        idle_for_long.ended_by_peer(later);
        assert_eq!(peer.query_limit(later), usize::MAX);
        assert!(idle_for_long.has_worked() && !idle_for_long.is_used_up(later));
        idle_for_long.ended_by_peer(now);
        idle_for_long.ended_by_peer(now);
        assert_eq!(peer.query_limit(now), 1);
        assert!(idle_for_long.is_used_up(now) && session().may_send(now));
        // It answers over other connections: the end of one without an answer is no failure.
        let meanwhile = session();
        assert!(!meanwhile.has_worked());
        idle_for_long.heard(later);
        assert!(meanwhile.has_worked());
    }

    #[test]
    fn silence_begins_with_a_query_and_ends_with_an_answer() {
        let now = CoarseInstant::from_millis(10_000);
        let session = Session::new(&Arc::default(), &Arc::default(), now);
        let try_time = Duration::from_millis(250);
        session.queued(now);
        assert!(
            session.silent_for(try_time, now.plus_millis(9_000)).is_none(),
            "while it connects"
        );
        session.connected(now);
        session.queued(now.plus_millis(200));
        assert!(session.silent_for(try_time, now.plus_millis(249)).is_none());
        assert!(session.silent_for(try_time, now.plus_millis(250)).is_some());
        session.heard(now.plus_millis(300));
        assert!(session.silent_for(try_time, now.plus_millis(9_000)).is_none(), "no query is out");
        assert!(!session.is_doubtful(now.plus_millis(300)));
        assert!(session.is_doubtful(now.plus_millis(301)));
    }
}
