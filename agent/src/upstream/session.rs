//! The state of one connection to an upstream, shared by the pool that hands it queries and the task that carries them; and
//! what the connections of one upstream have taught, shared by all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::clock::CoarseInstant;
use crate::upstream::counters::Counters;
use crate::upstream::rtt::MAX_TRY;
use crate::upstream::table::Table;

/// A connection that ends so soon after an answer, with queries unanswered, was ended because of their number.
const LIMIT_CLOSE: Duration = Duration::from_millis(200);
/// Two ends within this time are needed to learn a limit.
const LIMIT_CONFIRMS: Duration = Duration::from_secs(5);
/// The same for two connections that have fallen silent after as many answers, which says more: the numbers are the same.
const SILENCE_CONFIRMS: Duration = Duration::from_secs(60);
/// A learnt limit is tested by the first connection that is opened then, and after so long again; after each test that has
/// confirmed it, after twice as long.
const TEST_MS: u64 = 1_000;
/// The time doubles so often: a limit that has gone is noticed within some two minutes of traffic.
const MAX_DOUBLINGS: u32 = 6;

/// What the connections of one upstream have taught.
///
/// A limit may be learnt in error, from a server that ended connections for another reason. So now and then a connection takes
/// one query more than the limit: if it is answered, there is no such limit, and it is forgotten. If it is not, that query is
/// sent again over another connection, like all that a connection leaves unanswered.
#[derive(Default)]
pub struct Peer {
    /// Queries that the upstream last answered over a connection before it closed it; 0: it is not known to have a limit.
    limit: AtomicU32,
    /// When a connection may take one query more than `limit`, in milliseconds of [`CoarseInstant`].
    test_at: AtomicU64,
    /// Tests that have confirmed the limit.
    confirmed: AtomicU32,
    /// Wakes the writers that wait because of the limit: it has changed.
    changed: Notify,
    /// The last connection that ended as by a limit.
    closed: Ending,
    /// The last connection that fell silent while the upstream answered over another one.
    silent: Ending,
    /// When an answer last came over any connection, in milliseconds of [`CoarseInstant`]; 0: never.
    answered_at: AtomicU64,
}

/// How many answers a connection had when it ended, and when that was, in milliseconds of [`CoarseInstant`].
#[derive(Default)]
struct Ending {
    answers: AtomicU32,
    at: AtomicU64,
}

impl Ending {
    /// Replaces the last one by this; returns that one's answers if it is at most `age` old.
    fn replace(&self, answers: u32, now: CoarseInstant, age: Duration) -> Option<u32> {
        let before = self.answers.swap(answers, Relaxed);
        let at = CoarseInstant::from_millis(self.at.swap(now.as_millis(), Relaxed));
        let is_recent = u128::from(now.millis_since(at)) <= age.as_millis();
        (before > 0 && is_recent).then_some(before)
    }
}

/// One connection: its queries, and how it is doing.
pub struct Session {
    /// The queries in flight, those that are not yet sent included.
    pub table: Table,
    counters: Arc<Counters>,
    peer: Arc<Peer>,
    /// It may take one query more than the upstream's limit.
    tests: bool,
    /// Its silence was noted.
    noted: AtomicBool,
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
    pub fn query_limit(&self) -> usize {
        match self.limit.load(Relaxed) {
            0 => usize::MAX,
            limit => limit as usize,
        }
    }

    /// The upstream closed a connection right behind its answer number `answers`, with queries unanswered. One such end may
    /// be a restart; a second one soon, at about the same number, is a limit.
    fn closed_after(&self, answers: u32, now: CoarseInstant) {
        if let Some(before) = self.closed.replace(answers, now, LIMIT_CONFIRMS)
            && before.max(answers) <= before.min(answers).saturating_mul(2)
        {
            self.learn(before.max(answers), now);
        }
    }

    /// The upstream answers over other connections, and over this one no more after answer number `answers`. Twice after
    /// the same number is a limit.
    fn silent_after(&self, answers: u32, now: CoarseInstant) {
        if self.silent.replace(answers, now, SILENCE_CONFIRMS) == Some(answers) {
            self.learn(answers, now);
        }
    }

    fn learn(&self, limit: u32, now: CoarseInstant) {
        match self.limit.swap(limit, Relaxed) {
            0 => {
                self.confirmed.store(0, Relaxed);
                self.test_at.store(now.as_millis(), Relaxed);
            }
            before if before < limit => self.changed.notify_waiters(),
            _ => {}
        }
    }

    /// True if a connection that is opened now is to take one query more than the limit; once a second at most.
    fn begin_test(&self, now: CoarseInstant) -> bool {
        let due = self.test_at.load(Relaxed);
        let next = now.as_millis() + TEST_MS;
        self.limit.load(Relaxed) != 0
            && now.as_millis() >= due
            && self.test_at.compare_exchange(due, next, Relaxed, Relaxed).is_ok()
    }

    /// A connection that was to take one query more has ended or fallen silent after so many answers.
    fn end_test(&self, answers: u32, now: CoarseInstant) {
        if answers == self.limit.load(Relaxed) {
            let doublings = self.confirmed.fetch_add(1, Relaxed).saturating_add(1);
            let wait = TEST_MS << doublings.min(MAX_DOUBLINGS);
            self.test_at.fetch_max(now.as_millis() + wait, Relaxed);
        }
    }

    /// A connection has had so many answers: if that is more than the limit, there is none.
    fn answered(&self, answers: u32, now: CoarseInstant) {
        self.answered_at.store(now.as_millis().max(1), Relaxed);
        let limit = self.limit.load(Relaxed);
        if limit != 0 && answers > limit {
            self.limit.store(0, Relaxed);
            self.closed.answers.store(0, Relaxed);
            self.silent.answers.store(0, Relaxed);
            self.changed.notify_waiters();
        }
    }
}

impl Session {
    /// A connection that is being set up.
    pub fn new(peer: &Arc<Peer>, counters: &Arc<Counters>, now: CoarseInstant) -> Self {
        Self {
            table: Table::new(),
            counters: Arc::clone(counters),
            peer: Arc::clone(peer),
            tests: peer.begin_test(now),
            noted: AtomicBool::new(false),
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
        self.peer.answered(self.received.load(Relaxed), now);
        let now = now.as_millis().max(1);
        self.heard_at.store(now, Relaxed);
        self.silent_since.store(if self.table.is_empty() { 0 } else { now }, Relaxed);
    }

    /// Queries that may be sent over this connection.
    pub fn query_limit(&self) -> usize {
        self.peer.query_limit().saturating_add(self.tests.into())
    }

    /// True if one more query may be written: the limit of the upstream is not reached.
    pub fn may_send(&self) -> bool {
        (self.sent.load(Relaxed) as usize) < self.query_limit()
    }

    /// Returns once one more query may be written.
    pub async fn room(&self) {
        loop {
            // Made before the look at the limit, so that no change between the two is missed.
            let changed = self.peer.changed.notified();
            if self.may_send() {
                return;
            }
            changed.await;
        }
    }

    /// True if the upstream has answered all that it answers over one connection, and nothing else is under way.
    pub fn is_used_up(&self) -> bool {
        let received = self.received.load(Relaxed);
        received >= self.sent.load(Relaxed) && received as usize >= self.query_limit()
    }

    /// It has been silent for a try's time, since `since`, and may have reached a limit. That is taken for granted while
    /// several queries wait: a limit that is none is soon forgotten, and so many queries would be lost on the next connection
    /// else. A single one that waits may be slow; its connection counts if the upstream has answered over another one since.
    pub fn note_silence(&self, since: CoarseInstant, now: CoarseInstant) {
        let received = self.received.load(Relaxed);
        let elsewhere = CoarseInstant::from_millis(self.peer.answered_at.load(Relaxed));
        let waiting = self.table.len();
        if received == 0 || waiting < 2 && elsewhere <= since || self.noted.swap(true, Relaxed) {
            return;
        }
        if waiting < 2 {
            self.peer.silent_after(received, now);
        } else {
            self.peer.learn(received, now);
        }
        if self.tests {
            self.peer.end_test(received, now);
        }
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
            self.peer.closed_after(received, now);
            if self.tests {
                self.peer.end_test(received, now);
            }
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
    use crate::upstream::question::Question;
    use crate::wire::{Name, RecordType};

    fn question() -> Question {
        Question::new(Name::from_text("one.example").unwrap().as_ref(), RecordType::A, true)
    }

    const NONE: usize = usize::MAX;

    fn at(seconds: u64) -> CoarseInstant {
        CoarseInstant::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_limit_is_learnt_from_two_ends() {
        let peer = Peer::default();
        assert_eq!(peer.query_limit(), NONE);
        peer.closed_after(20, at(90));
        assert_eq!(peer.query_limit(), NONE, "one end may be a restart");
        peer.closed_after(7, at(91));
        assert_eq!(peer.query_limit(), NONE, "another number");
        peer.closed_after(20, at(97));
        assert_eq!(peer.query_limit(), NONE, "much later");
        peer.closed_after(18, at(100));
        assert_eq!(peer.query_limit(), 20);
    }

    #[test]
    fn silence_teaches_a_limit_if_others_are_answered() {
        let peer = Arc::<Peer>::default();
        let session = |answers: u32| {
            let session = Session::new(&peer, &Arc::default(), at(1));
            session.received.store(answers, Relaxed);
            session
        };
        session(3).note_silence(at(2), at(3));
        session(3).note_silence(at(2), at(3));
        assert_eq!(peer.query_limit(), NONE, "nothing was answered elsewhere");
        peer.answered(1, at(4));
        let one = session(3);
        one.note_silence(at(3), at(5));
        one.note_silence(at(3), at(5));
        session(0).note_silence(at(3), at(5));
        assert_eq!(peer.query_limit(), NONE, "one connection may be dead");
        session(4).note_silence(at(3), at(5));
        session(1).note_silence(at(3), at(6));
        assert_eq!(peer.query_limit(), NONE, "other numbers");
        session(1).note_silence(at(3), at(30));
        assert_eq!(peer.query_limit(), 1);
        // Several queries wait: the next connection is not to lose as many.
        let peer = Arc::<Peer>::default();
        let several = Session::new(&peer, &Arc::default(), at(1));
        several.received.store(5, Relaxed);
        let question = question();
        for _ in 0..2 {
            several.table.start(&question, false, |_| Ok::<_, ()>(())).unwrap().unwrap();
        }
        several.note_silence(at(2), at(3));
        assert_eq!(peer.query_limit(), 5);
    }

    #[test]
    fn a_limit_is_tested_and_forgotten_if_it_is_none() {
        let peer = Arc::<Peer>::default();
        let session = |now| Session::new(&peer, &Arc::default(), now);
        assert!(!session(at(9)).tests, "there is no limit");
        peer.closed_after(3, at(10));
        peer.closed_after(3, at(10));
        assert!(session(at(10)).tests, "the first connection");
        let usual = session(at(10));
        assert!(!usual.tests && !session(CoarseInstant::from_millis(10_999)).tests);
        // Now and then a connection takes one query more; seldom, once that has confirmed the limit some times.
        let mut tests = Vec::new();
        for second in 11..200 {
            let test = session(at(second));
            if test.tests {
                tests.push(second);
                peer.end_test(if second < 14 { 2 } else { 3 }, at(second));
            }
        }
        assert_eq!(tests, [11, 12, 13, 14, 16, 20, 28, 44, 76, 140]);
        let test = session(at(210));
        assert_eq!((usual.query_limit(), test.query_limit()), (3, 4));
        for answer in 1..=4 {
            assert_eq!(peer.query_limit(), 3, "{answer}");
            test.sent();
            test.deliver(&[0; 12]);
            test.heard(at(211));
        }
        assert_eq!((peer.query_limit(), usual.query_limit()), (NONE, NONE));
        // It takes two more ends to learn it again.
        peer.closed_after(3, at(211));
        assert_eq!(peer.query_limit(), NONE);
        peer.closed_after(3, at(212));
        assert_eq!(peer.query_limit(), 3);
        assert!(session(at(212)).tests && !session(at(212)).tests, "from the start");
    }

    #[test]
    fn only_an_end_behind_an_answer_teaches() {
        let peer = Arc::<Peer>::default();
        let now = CoarseInstant::from_millis(10_000);
        let later = now.plus_millis(1_000);
        let question = question();
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
        assert_eq!(peer.query_limit(), NONE);
        assert!(idle_for_long.has_worked() && !idle_for_long.is_used_up());
        idle_for_long.ended_by_peer(now);
        idle_for_long.ended_by_peer(now);
        assert_eq!(peer.query_limit(), 1);
        assert!(idle_for_long.is_used_up() && session().may_send());
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
