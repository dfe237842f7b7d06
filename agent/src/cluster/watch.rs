//! Keeps one kind of object up to date from the API server, for ever.
//!
//! ```text
//! list ----------------> watch from its version ----------------> watch from the last version seen -> ...
//! (streaming list, or pages, from the server's watch cache)        ^ the server ends each after its time
//! ```
//!
//! Any failure leaves what is known as it is. The next attempt goes on from the last version that was seen, and only if the
//! server has forgotten it (410) everything is listed again, beside what is known.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::BodyExt;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::backoff::{Backoff, jittered};
use super::client::{Connector, Reply, RequestError, plain};
use super::decode::{BadObject, Decoded, Fate, Line, decode, decode_line, decode_list_metadata};
use super::interner::Interner;
use super::object::{Event, Kind, Object, ObjectId};
use super::request::{Freshness, Requests};
use super::spec::{Timing, Wanted};
use super::split::{Lines, ListItems, Piece};
use super::status::{EventType, Status};
use super::{Sink, thread};

/// The watch of one kind.
pub(super) struct Watcher {
    kind: Kind,
    requests: Requests,
    connector: Arc<Connector>,
    timing: Timing,
    feed: Feed,
    backoff: Backoff,
    /// The version to go on from; `None` when everything has to be listed.
    version: Option<String>,
    freshness: Freshness,
    /// False once the server has turned out not to know streaming lists.
    streaming: bool,
    /// How many times longer a streaming list may take: doubled when the server's time limit cut one off.
    stretch: u32,
    /// Watches in a row that ended badly before a single event came.
    fruitless: u32,
    /// When the watch was established, while it is.
    live_since: Option<Instant>,
}

/// How a request or a stream ended where it should not have.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the API server sent nothing for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("the connection was cut: {0}")]
    Cut(String),
    #[error("the API server sent what is no {what}: {reason}")]
    Garbage { what: &'static str, reason: String },
    #[error("the API server has forgotten version {0}; listing everything again")]
    Expired(String),
    #[error("the API server does not know streaming lists ({0}); using paged lists")]
    NoStreaming(String),
    #[error("the API server ended the watch: {code} {message}")]
    Ended { code: u16, message: String },
}

/// What to do after a session.
enum Next {
    AtOnce,
    After(Duration),
}

impl Watcher {
    pub(super) fn new(
        kind: Kind,
        wanted: &Wanted,
        timing: Timing,
        connector: Arc<Connector>,
        feed: Feed,
    ) -> Self {
        Self {
            kind,
            requests: Requests::new(kind, wanted),
            connector,
            timing,
            feed,
            backoff: Backoff::new(timing.backoff_first, timing.backoff_most),
            version: None,
            freshness: Freshness::Any,
            streaming: true,
            stretch: 1,
            fruitless: 0,
            live_since: None,
        }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let end = self.session().await;
            let lived = self.live_since.take().map(|since| since.elapsed());
            self.feed.status.kind(self.kind).note_live(false);
            match self.after(end, lived.unwrap_or_default()) {
                Next::AtOnce => {}
                Next::After(pause) => sleep(pause).await,
            }
        }
    }

    /// Lists if need be, then watches until the watch ends.
    async fn session(&mut self) -> Result<(), Failure> {
        if self.version.is_none() && !self.streaming {
            self.list().await?;
        }
        self.follow().await
    }

    /// Decides how to go on, and says what went wrong.
    fn after(&mut self, end: Result<(), Failure>, lived: Duration) -> Next {
        let decent = SHORT_WATCH.min(self.timing.watch / 2);
        if lived >= self.timing.backoff_most || (end.is_ok() && lived >= decent) {
            self.backoff.reset();
        }
        let failure = match end {
            // The usual case: the time that was asked for is over.
            Ok(()) if lived >= decent => return Next::AtOnce,
            Ok(()) => Failure::Cut("the server ended the watch at once".into()),
            Err(failure) => failure,
        };
        let status = self.feed.status.kind(self.kind);
        let before = status.last_error();
        let mut pause = None;
        match &failure {
            Failure::Expired(_) | Failure::Ended { code: 410, .. } => {
                // A cache that lists a version which it then cannot watch from is behind: ask etcd the next time.
                let fresh = lived < self.timing.watch;
                self.freshness = if fresh { Freshness::Latest } else { Freshness::Any };
                self.version = None;
            }
            Failure::NoStreaming(_) => {
                self.streaming = false;
                info!(kind = self.kind.name(), "{failure}");
                return Next::AtOnce;
            }
            Failure::Request(RequestError::Status { code, retry_after, .. }) => {
                pause = *retry_after;
                match code {
                    // Credentials: the client is built anew for the next attempt. Loads and outages: only time helps.
                    401 | 429 | 500..=599 => {}
                    403 => {
                        pause = Some(jittered(self.timing.refused));
                        warn!(
                            kind = self.kind.name(),
                            needed = self.requests.rule(),
                            "{failure}; the account needs an RBAC rule for this kind"
                        );
                    }
                    404 if self.kind == Kind::ServiceImport => return self.absent(),
                    404 => pause = Some(jittered(self.timing.refused)),
                    // Whatever it was about our version or parameters, a fresh list has neither.
                    _ => self.version = None,
                }
            }
            Failure::Garbage { .. } | Failure::Cut(_) => {
                // Whatever it is that cannot be received from this version on, perhaps a list can.
                self.fruitless += 1;
                if self.fruitless >= MAX_FRUITLESS {
                    self.fruitless = 0;
                    self.version = None;
                }
            }
            Failure::Request(_) | Failure::Stalled(_) | Failure::Ended { .. } => {}
        }
        let text = failure.to_string();
        let pause = self
            .backoff
            .pause()
            .max(pause.map_or(Duration::ZERO, |asked| asked.min(MAX_RETRY_AFTER)));
        // The same again is no news; another reason is: a connection that was cut is one thing, and a token that has expired
        // the next.
        if before.as_ref() != Some(&text) {
            warn!(
                kind = self.kind.name(),
                pause_ms = pause.as_millis() as u64,
                "watch failed: {text}; names are answered from what is known"
            );
        } else {
            debug!(
                kind = self.kind.name(),
                pause_ms = pause.as_millis() as u64,
                "watch failed: {text}"
            );
        }
        self.feed.status.kind(self.kind).note_error(text);
        Next::After(pause)
    }

    /// The server does not know the kind. A ServiceImport is a custom resource: where it was never installed there are none,
    /// and nobody should wait for them, nor be told of an error or of old knowledge. What is known of them stays: a
    /// server that starts may not know its custom resources yet.
    fn absent(&mut self) -> Next {
        let status = self.feed.status.kind(self.kind);
        if !status.is_synced() {
            info!(
                kind = self.kind.name(),
                "the API server does not know this kind, so that there are none; asking again now and then"
            );
            self.feed.begin();
            self.feed.done();
        }
        let status = self.feed.status.kind(self.kind);
        status.note_heard();
        status.note_live(true);
        Next::After(jittered(self.timing.refused))
    }

    /// Lists in pages. The server may answer in a single one.
    async fn list(&mut self) -> Result<(), Failure> {
        let mut next: Option<String> = None;
        self.feed.begin();
        loop {
            let url = self.requests.list(self.freshness, next.as_deref());
            let reply = match self.connector.get(&url, &self.feed.status).await {
                // The token is too old; the list begins anew.
                Err(RequestError::Status { code: 410, .. }) => {
                    return Err(Failure::Expired("of the list".into()));
                }
                other => other?,
            };
            let metadata = self.page(reply).await?;
            next = metadata.next;
            if next.is_none() {
                self.version = metadata.resource_version;
                break;
            }
        }
        if self.version.is_none() {
            return Err(Failure::Garbage {
                what: "list",
                reason: "it has no resourceVersion".into(),
            });
        }
        self.feed.done();
        Ok(())
    }

    async fn page(&mut self, reply: Reply) -> Result<super::decode::ListMetadata, Failure> {
        let mut body = reply.into_body();
        let mut items = ListItems::default();
        let mut metadata = Default::default();
        let (kind, feed) = (self.kind, &mut self.feed);
        while let Some(chunk) = chunk(&mut body, self.timing.read).await? {
            feed.status.note_received(chunk.len());
            items.push(&chunk, |piece| match piece {
                Piece::Object(json) => feed.listed(decode(kind, json, &feed.interner)),
                Piece::Metadata(json) => metadata = decode_list_metadata(json),
                Piece::TooLong => feed.too_long(),
            });
        }
        match (items.is_complete(), items.is_list()) {
            (true, true) => Ok(metadata),
            (false, true) => Err(Failure::Cut("the list is not complete".into())),
            (_, false) => Err(Failure::Garbage { what: "list", reason: "it has no items".into() }),
        }
    }

    /// Watches from the version that is known, or else from a streaming list on.
    async fn follow(&mut self) -> Result<(), Failure> {
        let lasting = jittered(self.timing.watch);
        let (url, mut listing, lasting) = match &self.version {
            Some(version) => (self.requests.watch(version, lasting), false, lasting),
            None => {
                let lasting = lasting * self.stretch;
                (self.requests.streaming_list(self.freshness, lasting), true, lasting)
            }
        };
        let reply = match self.connector.get(&url, &self.feed.status).await {
            Err(RequestError::Status { code: code @ (400 | 422), message, .. }) if listing => {
                return Err(Failure::NoStreaming(format!("{code} {message}")));
            }
            Err(RequestError::Status { code: 410, .. }) => {
                return Err(Failure::Expired(self.version.take().unwrap_or_default()));
            }
            other => other?,
        };
        let mut body = reply.into_body();
        let mut lines = Lines::default();
        let end = Instant::now() + lasting + self.timing.grace;
        if listing {
            self.feed.begin();
        } else {
            self.established();
        }
        loop {
            let patience = if listing {
                self.timing.read
            } else {
                end.saturating_duration_since(Instant::now())
            };
            let chunk = match chunk(&mut body, patience).await {
                Ok(Some(chunk)) => chunk,
                // The version that was seen last is where the next one goes on.
                Ok(None) if !listing && lines.is_open() => {
                    return Err(Failure::Cut("it ended within an event".into()));
                }
                Ok(None) if !listing => return Ok(()),
                Ok(None) => return Err(self.cut_list("the watch ended")),
                Err(Failure::Cut(reason)) if listing => return Err(self.cut_list(&reason)),
                Err(Failure::Stalled(_)) if !listing => {
                    return Err(Failure::Stalled(lasting + self.timing.grace));
                }
                Err(failure) => return Err(failure),
            };
            self.feed.status.note_received(chunk.len());
            let mut failure = None;
            let mut reached_end = false;
            let (kind, feed, version, fruitless) =
                (self.kind, &mut self.feed, &mut self.version, &mut self.fruitless);
            lines.push(&chunk, |piece| {
                if failure.is_some() {
                    return;
                }
                let json = match piece {
                    Piece::Object(json) | Piece::Metadata(json) => json,
                    Piece::TooLong => return feed.too_long(),
                };
                match decode_line(kind, json, &feed.interner) {
                    Line::Event(event, decoded) => {
                        feed.status.kind(kind).note_event(event);
                        // While the list is not complete there is nothing to go on from.
                        if listing && !decoded.initial_events_end {
                            if event == EventType::Bookmark {
                                failure = Some(Failure::NoStreaming(
                                    "no end of the list was marked".into(),
                                ));
                            } else {
                                feed.changed(event, decoded, false);
                            }
                            return;
                        }
                        *fruitless = 0;
                        if let Some(newer) = &decoded.resource_version {
                            version.replace(newer.clone());
                        }
                        if listing && event == EventType::Bookmark {
                            listing = false;
                            reached_end = true;
                            feed.done();
                        } else {
                            feed.changed(event, decoded, true);
                            thread::note_event();
                        }
                    }
                    Line::Error { code: 410, .. } => {
                        failure = Some(Failure::Expired(version.take().unwrap_or_default()))
                    }
                    Line::Error { code, message } => {
                        failure = Some(Failure::Ended { code, message })
                    }
                    Line::Garbage(reason) => {
                        failure = Some(Failure::Garbage { what: "event", reason })
                    }
                }
            });
            if reached_end {
                self.stretch = 1;
                self.established();
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
    }

    fn established(&mut self) {
        let status = self.feed.status.kind(self.kind);
        let recovered = status.last_error().is_some();
        status.note_live(true);
        status.note_heard();
        self.live_since = Some(Instant::now());
        self.freshness = Freshness::Any;
        if recovered {
            info!(kind = self.kind.name(), "watching again");
        }
    }

    /// A streaming list that ended before its end: perhaps the time that was asked for was too short for it.
    fn cut_list(&mut self, reason: &str) -> Failure {
        self.stretch = (self.stretch * 2).min(MAX_STRETCH);
        Failure::Cut(format!("{reason} before the list was complete"))
    }
}

/// A watch that the server ends earlier than this is no reason to come back at once.
const SHORT_WATCH: Duration = Duration::from_secs(5);
/// After so many watches in a row that brought nothing but a bad end, everything is listed again.
const MAX_FRUITLESS: u32 = 5;
/// The longest `Retry-After` that is obeyed: a server in trouble may say anything.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
/// The most that a streaming list's time is stretched: 8 x (60 to 120 s).
const MAX_STRETCH: u32 = 8;

/// The next octets of a response; `None` at its end.
async fn chunk(
    body: &mut kube::client::Body,
    patience: Duration,
) -> Result<Option<bytes::Bytes>, Failure> {
    loop {
        match timeout(patience, body.frame()).await {
            Err(_) => return Err(Failure::Stalled(patience)),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(Failure::Cut(plain(&error))),
            Ok(Some(Ok(frame))) => {
                // Trailers say nothing that we need.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Where the objects of one kind go.
pub(super) struct Feed {
    kind: Kind,
    sink: Arc<dyn Sink>,
    status: Arc<Status>,
    interner: Arc<Interner>,
    wanted: Wanted,
    /// Bad objects that the log has named.
    named: HashSet<ObjectId>,
}

impl Feed {
    pub(super) fn new(
        kind: Kind,
        wanted: &Wanted,
        sink: Arc<dyn Sink>,
        status: Arc<Status>,
        interner: Arc<Interner>,
    ) -> Self {
        Self { kind, sink, status, interner, wanted: wanted.clone(), named: HashSet::new() }
    }

    fn begin(&mut self) {
        self.sink.apply(Event::ResetBegin(self.kind));
    }

    fn done(&mut self) {
        self.sink.apply(Event::ResetDone(self.kind));
        let status = self.status.kind(self.kind);
        status.note_change();
        status.note_relist();
        let from_snapshot = self.status.is_snapshot_in_use();
        self.status.note_synced(self.kind);
        if from_snapshot && !self.status.is_snapshot_in_use() {
            info!("everything has been listed; the snapshot of the last run is no longer in use");
        }
        debug!(kind = self.kind.name(), objects = self.sink.count(self.kind), "listed");
    }

    /// Takes an object of a list.
    fn listed(&mut self, decoded: Decoded) {
        match decoded.fate {
            Fate::Serve(object) if self.exposes(&object) => self.sink.apply(Event::Apply(object)),
            Fate::Serve(_) | Fate::Pass => {}
            Fate::Skip(bad) => self.skip(decoded.id, &bad),
        }
    }

    /// Takes an event. `live` is false for those that make up a list.
    fn changed(&mut self, event: EventType, decoded: Decoded, live: bool) {
        if event == EventType::Bookmark {
            return;
        }
        if !live && event != EventType::Deleted {
            return self.listed(decoded);
        }
        self.status.kind(self.kind).note_change();
        match (event, decoded.fate) {
            (EventType::Deleted, _) => self.delete(decoded.id),
            (_, Fate::Serve(object)) if self.exposes(&object) => {
                let triggered_at = match &object {
                    Object::EndpointSlice(slice) if decoded.headless => slice.triggered_at,
                    _ => None,
                };
                self.sink.apply(Event::Apply(object));
                if let Some(at) = triggered_at {
                    self.observe(at);
                }
            }
            (_, Fate::Serve(_)) => {}
            // It may have been in order before: as it is now it has no name, and a fresh list would not have it either.
            (_, Fate::Pass) => self.delete(decoded.id),
            (_, Fate::Skip(bad)) => {
                self.delete(decoded.id.clone());
                self.skip(decoded.id, &bad);
            }
        }
    }

    fn exposes(&self, object: &Object) -> bool {
        match object {
            Object::Namespace(namespace) => self.wanted.exposes(&namespace.name),
            Object::Service(service) | Object::ServiceImport(service) => {
                self.wanted.exposes(&service.id.namespace)
            }
            Object::EndpointSlice(slice) => self.wanted.exposes(&slice.id.namespace),
            Object::Pod(pod) => self.wanted.exposes(&pod.id.namespace),
        }
    }

    fn delete(&mut self, id: Option<ObjectId>) {
        if let Some(id) = id {
            self.named.remove(&id);
            self.sink.apply(Event::Delete(self.kind, id));
        }
    }

    fn observe(&self, triggered_at: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The trigger's clock is another machine's: it may be ahead of ours.
        self.status.programming.observe(now.saturating_sub(Duration::from_millis(triggered_at)));
    }

    fn too_long(&mut self) {
        self.status.kind(self.kind).note_skipped();
        warn!(
            kind = self.kind.name(),
            "skipped an object of more than {} MiB",
            super::split::MAX_OBJECT >> 20
        );
    }

    fn skip(&mut self, id: Option<ObjectId>, bad: &BadObject) {
        self.status.kind(self.kind).note_skipped();
        let id = id.unwrap_or_else(|| ObjectId { namespace: "".into(), name: "".into() });
        if self.named.len() < MAX_NAMED && self.named.insert(id.clone()) {
            let (namespace, name) = (&*id.namespace, &*id.name);
            warn!(
                kind = self.kind.name(),
                namespace, name, "skipped an object: {bad}; the others are served"
            );
        }
    }
}

/// Bad objects that are remembered as named in the log; further ones are only counted.
const MAX_NAMED: usize = 1_000;
