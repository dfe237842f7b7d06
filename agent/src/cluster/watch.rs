//! Keeps one kind of object up to date from the API server, without end.
//!
//! ```text
//! list ----------------> watch from its version ----------------> watch from the last version seen -> ...
//! (from the server's watch cache, compressed)                      ^ the server ends each after its time
//! ```
//!
//! Any failure leaves what is known as it is. The next attempt continues from the last version that was seen. Only if the
//! server has forgotten it (410), or cannot be watched from it, everything is listed again, beside what is known; and such a
//! list shows that version or a later one, or is refused before an object of it is applied. So time never runs backwards,
//! whichever of several API servers answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::applier::Applier;
use super::backoff::jittered;
use super::body::{Body, ReadError};
use super::client::{Connector, Reply, RequestError};
use super::decode::{Encoding, ListMetadata, WatchEvent};
use super::limiter::Place;
use super::object::Kind;
use super::pace::Pace;
use super::recovery::{Failure, Next, Recovery, Situation};
use super::request::{Ask, Requests, ResourceVersionMatch};
use super::server_view::ServerView;
use super::spec::{Timing, Wanted};
use super::split::{EventSplitter, ListSplitter, Piece};
use super::thread;

/// The watch of one kind.
pub(super) struct Watcher {
    kind: Kind,
    requests: Requests,
    connector: Arc<Connector>,
    timing: Timing,
    applier: Applier,
    pace: Pace,
    /// The version that what is known shows; 0 before the first list. A list that is older is refused.
    known: u64,
    /// True if the last response was in protobuf or compressed.
    encoded: bool,
    /// When the watch was established, while it is.
    live_since: Option<Instant>,
}

impl Watcher {
    /// `version` is that of a snapshot in the sink, from which the watch continues.
    pub(super) fn new(
        kind: Kind,
        wanted: &Wanted,
        timing: Timing,
        (connector, view): (Arc<Connector>, Arc<ServerView>),
        applier: Applier,
        version: Option<u64>,
    ) -> Self {
        Self {
            kind,
            requests: Requests::new(kind, wanted),
            connector,
            timing,
            applier,
            pace: Pace::new(view, Recovery::new(kind, timing, version.is_some())),
            known: version.unwrap_or_default(),
            encoded: false,
            live_since: None,
        }
    }

    /// Runs until it is dropped; begins after `pause`.
    pub(super) async fn run(mut self, pause: Duration) {
        sleep(pause).await;
        loop {
            self.pace.begin();
            let end = self.session().await;
            let lived = self.live_since.take().map(|since| since.elapsed());
            self.applier.kind_status().note_live(false);
            let next = self.after(end, lived.unwrap_or_default());
            if matches!(next, Next::Plainer(_)) && self.requests.fall_back() {
                info!(kind = self.kind.name(), "asking for a plainer encoding from now on");
                continue;
            }
            self.pace.wait(next).await;
        }
    }

    /// Lists if need be, then watches until the watch ends.
    async fn session(&mut self) -> Result<(), Failure> {
        if !self.pace.recovery.is_resumable() {
            self.list().await?;
        }
        self.follow().await
    }

    /// Decides how to continue, and reports what went wrong.
    fn after(&mut self, end: Result<(), Failure>, lived: Duration) -> Next {
        let was_live = lived >= SHORT_WATCH.min(self.timing.watch / 2);
        if was_live {
            self.pace.recovery.progress();
        }
        let failure = match end {
            // The usual case: the time that was asked for is over.
            Ok(()) if was_live => return Next::After(Duration::ZERO),
            Ok(()) => Failure::EndedSoon,
            Err(failure) => failure,
        };
        let services = self.applier.sink.count(Kind::Service);
        let is_known = self.known > 0;
        let now = Situation { was_live, is_known, encoded: self.encoded, services };
        let next = self.pace.decide(&failure, now);
        if matches!(next, Next::Absent(_)) {
            self.absent();
            return next;
        }
        self.report(&failure, next.pause());
        next
    }

    fn report(&mut self, failure: &Failure, pause: Duration) {
        let (kind, source) = (self.kind.name(), self.applier.status.source());
        let pause_ms = pause.as_millis() as u64;
        let status = self.applier.kind_status();
        let text = failure.to_string();
        // The same again is no news; another reason is: a connection that was cut is one thing, and a token that has expired
        // the next.
        if status.last_error().as_ref() == Some(&text) {
            debug!(kind, source, pause_ms, "watch failed: {text}");
        } else if failure.is_forbidden() && !self.pace.recovery.is_passing(self.known > 0) {
            let needed = self.requests.rule();
            warn!(
                kind,
                source,
                needed,
                "watch failed: {text}; the account needs an RBAC rule for this kind"
            );
        } else {
            warn!(
                kind,
                source, pause_ms, "watch failed: {text}; names are answered from what is known"
            );
        }
        status.note_error(text, failure.is_refused());
        let is_refused = failure.is_forbidden() && !self.pace.recovery.is_passing(self.known > 0);
        if self.kind == Kind::NodePod && is_refused {
            // The ends of Pods are not heard of any more, while their addresses are given to others.
            self.applier.forget();
            self.known = 0;
        }
    }

    /// The server does not know the kind. A ServiceImport is a custom resource: if it was never installed there are none,
    /// and nothing waits for them, nor reports an error or old knowledge. What is known of them stays: a server that starts
    /// may not know its custom resources yet.
    fn absent(&mut self) {
        if !self.applier.kind_status().is_synced() {
            info!(
                kind = self.kind.name(),
                "the API server does not know this kind, so that there are none; asking again now and then"
            );
            self.applier.list_begins();
            self.applier.list_complete(0);
        }
        let status = self.applier.kind_status();
        status.note_heard();
        status.note_live(true);
    }

    /// Sends a request. A good answer is news for all kinds, and ends the back-off unless answers were of no use.
    async fn get(&mut self, ask: Ask) -> Result<Reply, RequestError> {
        let reply = self.connector.get(&ask, &self.applier.status).await?;
        self.encoded = reply.gzip || reply.encoding == Encoding::Protobuf;
        self.pace.answered();
        Ok(reply)
    }

    /// Lists in pages. The server may answer in a single one.
    async fn list(&mut self) -> Result<(), Failure> {
        let from = match self.known {
            _ if self.pace.recovery.wants_most_recent() => ResourceVersionMatch::MostRecent,
            0 => ResourceVersionMatch::Any,
            known => ResourceVersionMatch::NotOlderThan(known),
        };
        let mut next: Option<String> = None;
        // Of the first page, which all others are consistent with.
        let mut listed = None;
        self.applier.list_begins();
        loop {
            let ask = self.requests.list(from, next.as_deref());
            let reply = match self.get(ask).await {
                // The page's token is too old; the list begins anew.
                Err(RequestError::Status { code: 410, .. }) => {
                    return Err(Failure::Expired(listed.unwrap_or(self.known)));
                }
                other => other?,
            };
            let metadata = self.page(reply).await?;
            listed = listed.or(metadata.resource_version);
            next = metadata.next;
            if next.is_none() {
                break;
            }
        }
        let Some(version) = listed else {
            let reason = "it has no resourceVersion".into();
            return Err(Failure::Garbage { what: "list", reason });
        };
        self.applier.list_complete(version);
        self.known = version;
        self.pace.recovery.listed();
        Ok(())
    }

    async fn page(&mut self, reply: Reply) -> Result<ListMetadata, Failure> {
        let mut body = Body::new(reply);
        let encoding = body.encoding();
        let mut items = ListSplitter::new(encoding);
        let mut metadata = ListMetadata::default();
        let status = self.applier.status.clone();
        let (kind, applier) = (self.kind, &mut self.applier);
        let oldest = if self.pace.recovery.wants_most_recent() { 0 } else { self.known };
        let mut failure = None;
        let mut more = true;
        while more && failure.is_none() {
            let take = |chunk: &[u8]| {
                let pushed = items.push(chunk, |piece| match piece {
                    // Once the list turns out to be of no use, the rest of the chunk is not looked at.
                    _ if failure.is_some() => {}
                    Piece::Object(object) => {
                        applier.listed(encoding.object(kind, object, &applier.interner));
                    }
                    Piece::Metadata(object) => {
                        metadata = encoding.list_metadata(object);
                        // Servers write it before the items, so that nothing of an older list is applied.
                        failure = metadata
                            .resource_version
                            .filter(|&listed| listed < oldest)
                            .map(|listed| Failure::Older { listed, known: oldest });
                    }
                    Piece::TooLong => applier.too_long(),
                });
                if let (Err(reason), None) = (pushed, &failure) {
                    failure = Some(Failure::Garbage { what: "list", reason: reason.into() });
                }
            };
            more = body.read(self.timing.read, &status, take).await?;
        }
        match failure {
            Some(failure) => Err(failure),
            None if !items.is_list() => {
                Err(Failure::Garbage { what: "list", reason: "it has no items".into() })
            }
            None if !items.is_complete() => {
                Err(ReadError::Cut("the list is not complete".into()).into())
            }
            None => Ok(metadata),
        }
    }

    /// Watches from the version that is known.
    async fn follow(&mut self) -> Result<(), Failure> {
        let lasting = jittered(self.timing.watch);
        let mut reply = match self.get(self.requests.watch(self.known, lasting)).await {
            Err(RequestError::Status { code: 410, .. }) => {
                return Err(Failure::Expired(self.known));
            }
            other => other?,
        };
        // A watch that is accepted is no longer under way.
        reply.place = Place::default();
        let mut body = Body::new(reply);
        let mut events = EventSplitter::new(body.encoding());
        let end = Instant::now() + lasting + self.timing.grace;
        let status = self.applier.status.clone();
        let kind_status = self.applier.kind_status();
        if kind_status.is_synced() && kind_status.last_error().is_none() {
            self.established();
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // After a failure a good head is not enough: servers report that a version is too old within a response that
            // began well, but at once.
            let probation = self.timing.backoff_first / 4;
            let patience = if self.live_since.is_none() { left.min(probation) } else { left };
            let encoding = body.encoding();
            let mut failure = None;
            let take = |chunk: &[u8]| {
                let pushed = events.push(chunk, |piece| {
                    let event = match piece {
                        // The watch ends with the first failure.
                        _ if failure.is_some() => return,
                        Piece::Object(event) | Piece::Metadata(event) => event,
                        Piece::TooLong => return self.applier.too_long(),
                    };
                    let event = encoding.event(self.kind, event, &self.applier.interner);
                    failure = self.take(event).err();
                });
                if let (Err(reason), None) = (pushed, &failure) {
                    failure = Some(Failure::Garbage { what: "event", reason: reason.into() });
                }
            };
            let more = match body.read(patience, &status, take).await {
                Err(ReadError::Stalled(_)) if self.live_since.is_none() && patience < left => {
                    self.established();
                    continue;
                }
                Err(ReadError::Stalled(_)) => {
                    return Err(ReadError::Stalled(lasting + self.timing.grace).into());
                }
                other => other?,
            };
            if let Some(failure) = failure {
                return Err(failure);
            }
            if self.live_since.is_none() {
                self.established();
            }
            if !more {
                // The version that was seen last is where the next one continues.
                return match events.is_open() {
                    true => Err(ReadError::Cut("it ended within an event".into()).into()),
                    false => Ok(()),
                };
            }
        }
    }

    /// Takes a message of the watch.
    fn take(&mut self, event: WatchEvent) -> Result<(), Failure> {
        let (event, item) = match event {
            WatchEvent::Change(event, item) => (event, item),
            WatchEvent::Error { code: 410, .. } => return Err(Failure::Expired(self.known)),
            WatchEvent::Error { code, message } => return Err(Failure::Ended { code, message }),
            WatchEvent::Garbage(reason) => {
                return Err(Failure::Garbage { what: "event", reason });
            }
        };
        self.pace.recovery.progress();
        let version = item.resource_version;
        self.applier.changed(event, item);
        // A server that is behind may bring a bookmark that is older than what is known.
        self.known = self.known.max(version.unwrap_or_default());
        let status = self.applier.kind_status();
        status.note_event(event);
        status.note_version(self.known);
        thread::note_event(self.kind);
        Ok(())
    }

    fn established(&mut self) {
        let status = self.applier.kind_status();
        let recovered = status.last_error().is_some();
        status.note_live(true);
        status.note_heard();
        status.note_version(self.known);
        self.live_since = Some(Instant::now());
        if !status.is_synced() {
            let kind = self.kind.name();
            info!(kind, version = self.known, "continuing from the version of the snapshot");
            self.applier.synced();
        }
        if recovered {
            let source = self.applier.status.source();
            info!(kind = self.kind.name(), source, "watching again");
        }
    }
}

/// A watch that the server ends earlier than this is no reason to come back at once.
const SHORT_WATCH: Duration = Duration::from_secs(5);
