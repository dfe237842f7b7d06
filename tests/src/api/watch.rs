//! `watch`: events since a revision, bookmarks, streaming lists, and 410 when the history is too short.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::fault::Fault;
use super::list::{PIECE, Pieces, write_typed};
use super::options::{GoneStyle, StreamingLists};
use super::protobuf;
use super::request::ApiRequest;
use super::resource::Resource;
use super::select::Selector;
use super::server::Shared;
use super::status::Status;
use super::store::{Event, Object, Since};

/// How long a watch lasts without `timeoutSeconds`; a real server picks 30 to 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45 * 60);

/// Answers a watch.
pub(crate) fn respond(
    shared: &Arc<Shared>,
    resource: &'static Resource,
    request: &ApiRequest,
    in_protobuf: bool,
) -> Result<Pieces, Status> {
    let selector = request.selector()?;
    let asked = request.revision("resourceVersion")?;
    let behaviour = shared.behaviour();
    let initial_events = initial_events(request, behaviour.streaming_lists)?;
    let snapshot = shared.store.cached(resource, &selector);
    // A watch from a version that only the cache has not come to yet waits for it; a streaming list is refused in time.
    let newest = match initial_events {
        Some(_) => snapshot.revision,
        None => shared.store.revision(),
    };
    if let Some(asked) = asked.filter(|asked| *asked > newest) {
        return Err(Status::too_large(asked, newest));
    }
    let from_start = match initial_events {
        Some(wanted) => wanted,
        None => asked.unwrap_or(0) == 0,
    };
    let revision = match asked {
        Some(asked) if !from_start && asked > 0 => asked,
        _ => snapshot.revision,
    };
    if behaviour.gone == GoneStyle::Http {
        if shared.faults.holds("watch", resource.plural, Fault::Gone) {
            return Err(Status::too_old(revision, snapshot.revision));
        }
        if let Since::Gone { oldest } = shared.store.since(resource, revision) {
            return Err(Status::too_old(revision, oldest));
        }
    }
    let timeout = match request.parameter("timeoutSeconds") {
        "" | "0" => DEFAULT_TIMEOUT,
        text => Duration::from_secs(
            text.parse()
                .map_err(|_| Status::new(400, format!("invalid timeoutSeconds: {text}")))?,
        ),
    };
    let now = Instant::now();
    let bookmarks = request.flag("allowWatchBookmarks");
    let state = Watch {
        shared: shared.clone(),
        resource,
        selector,
        metadata_only: request.metadata_only,
        in_protobuf,
        revision,
        initial: from_start.then_some((snapshot.objects, 0)),
        closing_bookmark: bookmarks && initial_events == Some(true),
        bookmarks,
        deadline: now + timeout,
        last_bookmark: now,
        changes: shared.store.changes(),
        faults: shared.faults.changes(),
        retired: shared.retirements.subscribe(),
        ended: false,
    };
    let stream = stream::unfold(state, |mut state| async move {
        let piece = state.next().await?;
        Some((Ok(piece), state))
    });
    Ok(stream.boxed())
}

/// The meaning of `sendInitialEvents`: `None` is a watch of the old kind.
fn initial_events(request: &ApiRequest, streaming: StreamingLists) -> Result<Option<bool>, Status> {
    let given = request.parameter("sendInitialEvents");
    let matching = request.parameter("resourceVersionMatch");
    if streaming == StreamingLists::Ignored {
        return Ok(None);
    }
    if given.is_empty() {
        if !matching.is_empty() {
            let message = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(Status::invalid_option("resourceVersionMatch", message));
        }
        return Ok(None);
    }
    if streaming == StreamingLists::Refused {
        let message = "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return Err(Status::invalid_option("sendInitialEvents", message));
    }
    if matching != "NotOlderThan" {
        let message =
            "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(Status::invalid_option("resourceVersionMatch", message));
    }
    Ok(Some(request.flag("sendInitialEvents")))
}

struct Watch {
    shared: Arc<Shared>,
    resource: &'static Resource,
    selector: Selector,
    metadata_only: bool,
    in_protobuf: bool,
    /// All events up to here have been sent.
    revision: u64,
    /// Objects that are still to be sent as ADDED, from this place on.
    initial: Option<(Arc<Vec<Arc<Object>>>, usize)>,
    closing_bookmark: bool,
    bookmarks: bool,
    deadline: Instant,
    last_bookmark: Instant,
    changes: watch::Receiver<u64>,
    faults: watch::Receiver<u64>,
    retired: watch::Receiver<u64>,
    ended: bool,
}

impl Watch {
    /// The next piece of the stream; `None` ends it.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            self.faults.borrow_and_update();
            if self.holds(Fault::HangWatches) || self.holds(Fault::Stall) {
                self.faults.changed().await.ok()?;
                continue;
            }
            if self.holds(Fault::Gone) {
                return Some(self.end_with(&Status::too_old(self.revision, self.revision + 1)));
            }
            if let Some(piece) = self.initial_piece() {
                return Some(piece);
            }
            self.changes.borrow_and_update();
            match self.shared.store.since(self.resource, self.revision) {
                Since::Gone { oldest } => {
                    return Some(self.end_with(&Status::too_old(self.revision, oldest)));
                }
                // The client has not read for so long that the server gives it up: no error, as real servers do it.
                Since::Events(events, _) if events.len() > self.shared.behaviour().watch_buffer => {
                    return None;
                }
                Since::Events(events, revision) => {
                    self.revision = revision;
                    let piece = self.write_events(&events);
                    if !piece.is_empty() {
                        return Some(piece);
                    }
                }
            }
            let now = Instant::now();
            self.ended = now >= self.deadline;
            let due = self.last_bookmark + self.shared.behaviour().bookmark_interval;
            if self.bookmarks && (self.ended || now >= due) {
                self.last_bookmark = now;
                return Some(self.bookmark(""));
            }
            if self.ended {
                return None;
            }
            let wake = if self.bookmarks { due.min(self.deadline) } else { self.deadline };
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                changed = self.faults.changed() => changed.ok()?,
                _ = self.retired.changed() => return None,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn initial_piece(&mut self) -> Option<Bytes> {
        let (objects, mut next) = self.initial.take()?;
        let mut out = BytesMut::new();
        while let Some(object) = objects.get(next).filter(|_| out.len() < PIECE) {
            self.write_event(&mut out, "ADDED", object);
            next += 1;
        }
        if next < objects.len() {
            self.initial = Some((objects, next));
        } else if self.closing_bookmark {
            let annotations = r#","annotations":{"k8s.io/initial-events-end":"true"}"#;
            out.extend_from_slice(&self.bookmark(annotations));
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    fn write_events(&self, events: &[Event]) -> Bytes {
        let mut out = BytesMut::new();
        for event in events {
            let before = event.previous.as_ref().is_some_and(|p| self.selector.matches(p));
            let after = !event.deleted && self.selector.matches(&event.object);
            // An object that ceases to match is deleted as far as this client knows.
            match (before, after) {
                (false, true) => self.write_event(&mut out, "ADDED", &event.object),
                (true, true) => self.write_event(&mut out, "MODIFIED", &event.object),
                (true, false) => self.write_event(&mut out, "DELETED", &event.object),
                (false, false) => {}
            }
        }
        out.freeze()
    }

    fn write_event(&self, out: &mut BytesMut, kind: &str, object: &Object) {
        if self.in_protobuf {
            let typed = protobuf::typed(self.resource, object.protobuf(self.resource));
            return out.extend_from_slice(&protobuf::event(kind, &typed));
        }
        out.extend_from_slice(format!(r#"{{"type":"{kind}","object":"#).as_bytes());
        write_typed(out, self.resource, object, self.metadata_only);
        out.extend_from_slice(b"}\n");
    }

    fn bookmark(&self, annotations: &str) -> Bytes {
        let (kind, api_version, empty) = if self.metadata_only {
            ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned(), "")
        } else {
            (self.resource.kind, self.resource.api_version(), self.resource.empty)
        };
        let revision = self.revision;
        if self.in_protobuf {
            let annotations =
                (!annotations.is_empty()).then(|| json!({"k8s.io/initial-events-end": "true"}));
            let value = json!({"metadata": {
                "resourceVersion": revision.to_string(), "annotations": annotations}});
            let object = protobuf::object_of(self.resource, &value);
            let typed = protobuf::typed(self.resource, &object);
            return Bytes::from(protobuf::event("BOOKMARK", &typed));
        }
        Bytes::from(format!(
            concat!(
                r#"{{"type":"BOOKMARK","object":{{"kind":"{}","apiVersion":"{}","metadata":"#,
                r#"{{"resourceVersion":"{}","creationTimestamp":null{}}}{}}}}}"#,
                "\n"
            ),
            kind, api_version, revision, annotations, empty
        ))
    }

    fn end_with(&mut self, status: &Status) -> Bytes {
        self.ended = true;
        status.to_event(self.in_protobuf)
    }

    fn holds(&self, fault: Fault) -> bool {
        self.shared.faults.holds("watch", self.resource.plural, fault)
    }
}
