//! What follows a failure: after which pause a kind is tried again, and by a watch or by a list. No I/O and no tasks: the
//! watcher reports what happened and does what is decided here.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::backoff::{Backoff, jittered, spread};
use super::body::ReadError;
use super::client::RequestError;
use super::object::Kind;
use super::spec::Timing;

/// How a request or a stream ended where it should not have.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the API server sent what is no {what}: {reason}")]
    Garbage { what: &'static str, reason: String },
    #[error("the API server has forgotten version {0}; listing everything again")]
    Expired(u64),
    #[error(
        "the API server listed version {listed}, which is older than {known}; the list is not used"
    )]
    Older { listed: u64, known: u64 },
    #[error("the API server ended the watch: {code} {message}")]
    Ended { code: u16, message: String },
    #[error("the API server ended the watch soon after it had begun")]
    EndedSoon,
}

impl Failure {
    /// True for a refusal by the server's rules.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Request(RequestError::Status { code: 403, .. }))
    }

    /// True for a refusal of the credentials or by the server's rules.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Self::Request(RequestError::Status { code: 401 | 403, .. }))
    }
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Try again after so long.
    After(Duration),
    /// The same, but at once if the server answers another kind before.
    OnceAnswered(Duration),
    /// The server, or the way to it, has failed, which concerns every kind; else as [`Next::OnceAnswered`].
    ServerFailed(Duration),
    /// Ask for a plainer encoding, at once if there is one, or else after so long.
    Plainer(Duration),
    /// The server does not know the kind, and need not; ask again after so long.
    Absent(Duration),
}

impl Next {
    /// How long it takes at most.
    pub(super) fn pause(self) -> Duration {
        match self {
            Self::After(pause)
            | Self::OnceAnswered(pause)
            | Self::ServerFailed(pause)
            | Self::Plainer(pause)
            | Self::Absent(pause) => pause,
        }
    }
}

/// What the watcher knows when it fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    /// The watch was established for more than a moment.
    pub(super) was_live: bool,
    /// A list or a snapshot is known already.
    pub(super) is_known: bool,
    /// The last response was in protobuf or compressed.
    pub(super) encoded: bool,
    /// How many Services are known.
    pub(super) services: usize,
}

/// The memory of one kind's failures.
pub(super) struct Recovery {
    kind: Kind,
    timing: Timing,
    backoff: Backoff,
    /// False if everything has to be listed before the next watch.
    resumable: bool,
    /// True if the next list is to come from etcd, and is taken whatever its version is.
    most_recent: bool,
    /// Answers in a row that were older than what is known.
    behind: u32,
    /// Watches in a row that ended badly before a single event came.
    fruitless: u32,
    /// The last watch was ended properly, but soon: pauses grow until one lasts.
    ended_soon: bool,
    /// Times in a row that the version was forgotten.
    expired: u32,
    /// Since when the kind has been refused with 403, while it is.
    forbidden_since: Option<Instant>,
}

impl Recovery {
    /// `resumable`: a watch can continue from the version of a snapshot.
    pub(super) fn new(kind: Kind, timing: Timing, resumable: bool) -> Self {
        Self {
            kind,
            timing,
            backoff: Backoff::new(timing.backoff_first),
            resumable,
            most_recent: false,
            behind: 0,
            fruitless: 0,
            ended_soon: false,
            expired: 0,
            forbidden_since: None,
        }
    }

    /// True if a watch continues what is known; else it has to be listed.
    pub(super) fn is_resumable(&self) -> bool {
        self.resumable
    }

    /// True if the next list is to come from etcd, and is taken whatever its version is.
    pub(super) fn wants_most_recent(&self) -> bool {
        self.most_recent
    }

    /// A response with status 200 has begun. It ends the back-off, unless such responses were of no use.
    pub(super) fn answered(&mut self) {
        self.forbidden_since = None;
        if (self.fruitless, self.expired, self.ended_soon) == (0, 0, false) {
            self.backoff.reset();
        }
    }

    /// A list is complete.
    pub(super) fn listed(&mut self) {
        (self.resumable, self.most_recent, self.behind) = (true, false, 0);
    }

    /// An event has come, or the watch has lasted: earlier failures count no more.
    pub(super) fn progress(&mut self) {
        self.backoff.reset();
        (self.fruitless, self.expired, self.behind, self.ended_soon) = (0, 0, 0, false);
    }

    /// Another kind has been answered after a failure.
    pub(super) fn woken(&mut self) -> Duration {
        self.backoff.reset();
        // Should two kinds wake each other in turn, they do so at a bounded rate.
        spread(self.timing.backoff_first / 4)
    }

    /// True while 403 is taken for an API server that has not read its rules yet.
    pub(super) fn is_passing(&self, is_known: bool) -> bool {
        is_known && self.forbidden_since.is_none_or(|since| since.elapsed() < FORBIDDEN_GRACE)
    }

    /// Decides how to continue.
    pub(super) fn next(&mut self, failure: &Failure, now: Situation) -> Next {
        let (most, unreachable) = (self.timing.backoff_most, self.unreachable_most(now));
        match failure {
            Failure::Expired(_) => self.expired(now),
            Failure::Older { .. } => self.behind(Duration::ZERO, now),
            Failure::Request(RequestError::Status { code, message, retry_after, .. }) => {
                let retry_after = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
                self.refused(*code, message, retry_after, now)
            }
            Failure::Request(_) | Failure::Read(ReadError::Stalled(_)) => {
                Next::ServerFailed(self.backoff.pause(unreachable))
            }
            Failure::Read(ReadError::Cut(_)) => {
                self.fruitless();
                Next::ServerFailed(self.backoff.pause(most))
            }
            Failure::Garbage { .. } | Failure::Read(ReadError::Compression(_)) => {
                self.fruitless();
                let pause = self.backoff.pause(most);
                // Perhaps something on the way does not understand what was asked for.
                let suspicious = now.encoded && self.fruitless > 1;
                if suspicious { Next::Plainer(pause) } else { Next::After(pause) }
            }
            // A server that shuts down, or something between that lets no connection live. A list would not help.
            Failure::EndedSoon => {
                self.ended_soon = true;
                Next::OnceAnswered(self.backoff.pause(unreachable))
            }
            Failure::Ended { .. } => Next::After(self.backoff.pause(most)),
        }
    }

    /// The server has forgotten the version. As long as a list cures that, it is made at once; but if the watch was running,
    /// all nodes' watches may have been ended together, and they do not return together.
    fn expired(&mut self, now: Situation) -> Next {
        self.resumable = false;
        self.expired += 1;
        if self.expired > 1 {
            // A cache that lists a version which it then cannot be watched from is behind: etcd is not.
            self.most_recent = true;
            return Next::After(self.backoff.pause(self.timing.backoff_most));
        }
        Next::After(if now.was_live { spread_of(now.services) } else { Duration::ZERO })
    }

    /// The server is behind what is known. It is given some time to catch up, and then etcd is asked, whose answer counts
    /// even if it is older: it may have been restored from a backup.
    fn behind(&mut self, least: Duration, now: Situation) -> Next {
        self.behind += 1;
        if self.behind >= MAX_BEHIND {
            // A watch from a version that the server has never had is refused for ever; only a list can tell.
            (self.most_recent, self.resumable) = (true, false);
        }
        Next::After(self.backoff.pause(self.unreachable_most(now)).max(least))
    }

    fn refused(&mut self, code: u16, message: &str, least: Duration, now: Situation) -> Next {
        let (most, unreachable) = (self.timing.backoff_most, self.unreachable_most(now));
        if code == 403 {
            self.forbidden_since.get_or_insert_with(Instant::now);
        }
        match code {
            504 if message.contains("Too large resource version") => self.behind(least, now),
            _ if !least.is_zero() => Next::After(self.backoff.pause(most).max(least)),
            // The client is built anew for the next attempt.
            401 => Next::ServerFailed(self.backoff.pause(unreachable * 2)),
            403 if self.is_passing(now.is_known) => {
                Next::ServerFailed(self.backoff.pause(unreachable))
            }
            403 => Next::OnceAnswered(self.backoff.pause(most)),
            404 if self.kind == Kind::ServiceImport => Next::Absent(jittered(self.timing.refused)),
            404 => Next::After(jittered(self.timing.refused)),
            406 | 415 => Next::Plainer(self.backoff.pause(most)),
            429 => Next::After(self.backoff.pause(most)),
            // From a load balancer without a server behind it, or from a server that starts.
            502..=504 => Next::ServerFailed(self.backoff.pause(unreachable)),
            500..=599 => Next::ServerFailed(self.backoff.pause(unreachable * 2)),
            // Whatever it was about the version or the parameters, a list has neither.
            _ => {
                self.resumable = false;
                Next::After(self.backoff.pause(most))
            }
        }
    }

    fn fruitless(&mut self) {
        self.fruitless += 1;
        if self.fruitless.is_multiple_of(MAX_FRUITLESS) {
            // Whatever it is that cannot be received from this version on, perhaps a list can.
            self.resumable = false;
        }
    }

    /// The longest pause, on average, before a server is tried again that does not answer. Trying costs such a server
    /// nothing, and every node is to be back within seconds; but in a large cluster they return over a longer time.
    fn unreachable_most(&self, now: Situation) -> Duration {
        let most = self.timing.backoff_first * 2;
        most.mul_f64((1.0 + now.services as f64 / LARGE_CLUSTER / 2.0).min(2.0))
    }
}

/// How long a start waits before it asks the API server, which all nodes may do at once after an outage of power: not at
/// all, unless names are answered from a snapshot meanwhile that is not of this moment.
pub(super) fn start_pause(snapshot: Option<SystemTime>, services: usize) -> Duration {
    let age = snapshot.map(|written| SystemTime::now().duration_since(written).unwrap_or_default());
    if age.is_some_and(|age| age > FRESH) { spread_of(services) } else { Duration::ZERO }
}

/// A random pause, so that all nodes of a cluster with so many Services do not list or start at once.
fn spread_of(services: usize) -> Duration {
    let share = services as f64 / LARGE_CLUSTER;
    spread(SPREAD_OF_LARGE.mul_f64(share).min(MAX_SPREAD))
}

/// After so many watches in a row that brought nothing but a bad end, everything is listed again.
const MAX_FRUITLESS: u32 = 5;
/// After so many answers in a row that are behind what is known, etcd is asked.
const MAX_BEHIND: u32 = 5;
/// The longest `Retry-After` that is obeyed: a server in trouble may say anything.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
/// For so long after a watch that worked, 403 is taken for a server that has not read its rules yet.
const FORBIDDEN_GRACE: Duration = Duration::from_secs(60);
/// Services of a cluster of some 500 nodes. An agent does not know the number of nodes: to watch them would cost more than
/// all else that it watches. Services are known whatever else is watched, and what all nodes together take of the API server
/// grows with both.
const LARGE_CLUSTER: f64 = 10_000.0;
/// A snapshot that is older was not written by a process that this one replaces: the node was away, and others may have
/// been with it.
const FRESH: Duration = Duration::from_secs(30);
/// Over which time the nodes of such a cluster list after watches that ended together.
const SPREAD_OF_LARGE: Duration = Duration::from_secs(2);
/// The same for the largest clusters.
const MAX_SPREAD: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Situation =
        Situation { was_live: false, is_known: true, encoded: true, services: 0 };

    fn recovery() -> Recovery {
        Recovery::new(Kind::Service, Timing::default(), true)
    }

    fn status(code: u16, message: &str, retry_after: Option<u64>) -> Failure {
        let retry_after = retry_after.map(Duration::from_secs);
        let (reason, message) = (String::new(), message.to_owned());
        Failure::Request(RequestError::Status { code, reason, message, retry_after })
    }

    fn unreachable() -> Failure {
        let (server, reason) = (String::new(), String::new());
        Failure::Request(RequestError::Unreachable { server, reason })
    }

    /// The longest pause that is reached after many failures.
    fn longest(failure: &Failure, now: Situation) -> Duration {
        let mut recovery = recovery();
        (0..60).map(|_| recovery.next(failure, now).pause()).max().unwrap()
    }

    #[test]
    fn a_server_that_is_away_is_tried_every_few_seconds() {
        let seconds = Duration::from_secs_f64;
        for failure in [unreachable(), status(503, "", None)] {
            assert!(longest(&failure, SMALL) < seconds(2.4));
            let large = Situation { services: 1_000_000, ..SMALL };
            let most = longest(&failure, large);
            assert!(most > seconds(2.4) && most < seconds(4.8), "{most:?}");
        }
        assert!(longest(&status(401, "", None), SMALL) < seconds(4.8));
        assert!(longest(&status(429, "", None), SMALL) > seconds(15.0));
        assert!(longest(&status(429, "", Some(100)), SMALL) == seconds(100.0));
        assert!(longest(&status(503, "", Some(9_000)), SMALL) == seconds(120.0));
    }

    #[test]
    fn a_forgotten_version_is_listed_at_once_and_once() {
        let mut recovery = recovery();
        // However long the pauses have grown.
        for _ in 0..10 {
            recovery.next(&status(429, "", None), SMALL);
        }
        assert_eq!(recovery.next(&Failure::Expired(7), SMALL), Next::After(Duration::ZERO));
        assert!(!recovery.is_resumable() && !recovery.wants_most_recent());
        recovery.answered();
        recovery.listed();
        assert!(recovery.is_resumable());
        // The list did not help.
        assert!(recovery.next(&Failure::Expired(7), SMALL).pause() > Duration::from_millis(300));
        assert!(recovery.wants_most_recent());
        recovery.listed();
        recovery.progress();
        let live = Situation { was_live: true, services: 10_000, ..SMALL };
        let pause = recovery.next(&Failure::Expired(7), live).pause();
        assert!(pause < Duration::from_secs(2) && !recovery.wants_most_recent());
    }

    #[test]
    fn a_list_follows_what_a_watch_cannot_cure() {
        let cut = Failure::Read(ReadError::Cut(String::new()));
        let mut broken = recovery();
        for expected in [true, true, true, true, false] {
            broken.next(&cut, SMALL);
            assert_eq!(broken.is_resumable(), expected);
        }
        let mut proper = recovery();
        for _ in 0..100 {
            proper.answered();
            assert!(proper.next(&Failure::EndedSoon, SMALL).pause() < Duration::from_millis(2_410));
            assert!(proper.is_resumable());
        }
        assert!(proper.next(&Failure::EndedSoon, SMALL).pause() > Duration::from_millis(700));
        let mut odd = recovery();
        odd.next(&status(418, "", None), SMALL);
        assert!(!odd.is_resumable() && !odd.wants_most_recent());
    }

    #[test]
    fn a_server_that_stays_behind_is_passed_by() {
        let too_large = status(504, "Too large resource version: 9, current: 7", Some(1));
        let mut recovery = recovery();
        for expected in [false, false, false, false, true] {
            assert!(recovery.next(&too_large, SMALL).pause() >= Duration::from_secs(1));
            assert_eq!(recovery.wants_most_recent(), expected);
        }
        recovery.listed();
        assert!(!recovery.wants_most_recent());
    }

    #[tokio::test(start_paused = true)]
    async fn a_403_passes_for_a_minute_behind_a_watch_that_worked() {
        let forbidden = status(403, "", None);
        let mut known = recovery();
        assert!(matches!(known.next(&forbidden, SMALL), Next::ServerFailed(_)));
        assert!(known.is_passing(true));
        tokio::time::advance(FORBIDDEN_GRACE).await;
        assert!(matches!(known.next(&forbidden, SMALL), Next::OnceAnswered(_)));
        assert!(!known.is_passing(true));
        let unknown = Situation { is_known: false, ..SMALL };
        assert!(matches!(recovery().next(&forbidden, unknown), Next::OnceAnswered(_)));
    }

    #[test]
    fn what_does_not_read_is_asked_for_in_a_plainer_form() {
        let garbage = Failure::Garbage { what: "list", reason: String::new() };
        let mut encoded = recovery();
        assert!(matches!(encoded.next(&garbage, SMALL), Next::After(_)));
        assert!(matches!(encoded.next(&garbage, SMALL), Next::Plainer(_)));
        assert!(matches!(encoded.next(&status(406, "", None), SMALL), Next::Plainer(_)));
        let mut plain = recovery();
        let now = Situation { encoded: false, ..SMALL };
        (0..9).for_each(|_| assert!(matches!(plain.next(&garbage, now), Next::After(_))));
        let mut import = Recovery::new(Kind::ServiceImport, Timing::default(), false);
        assert!(matches!(import.next(&status(404, "", None), SMALL), Next::Absent(_)));
    }
}
