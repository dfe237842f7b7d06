//! Applies the objects of one kind to the sink, and keeps its status.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{debug, info, warn};

use super::Sink;
use super::decode::{Decoded, InvalidObject, Item};
use super::interner::Interner;
use super::object::{Event, Kind, Object, ObjectId};
use super::spec::Wanted;
use super::status::{EventType, KindStatus, Status};

/// Where the objects of one kind go. Called by the task that watches the kind, and by no other.
pub(super) struct Applier {
    kind: Kind,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) status: Arc<Status>,
    pub(super) interner: Arc<Interner>,
    wanted: Wanted,
    /// Invalid objects that the log has named.
    named: HashSet<ObjectId>,
}

/// Invalid objects that are remembered as named in the log; further ones are only counted.
const MAX_NAMED: usize = 1_000;

impl Applier {
    pub(super) fn new(
        kind: Kind,
        wanted: &Wanted,
        sink: Arc<dyn Sink>,
        status: Arc<Status>,
        interner: Arc<Interner>,
    ) -> Self {
        Self { kind, sink, status, interner, wanted: wanted.clone(), named: HashSet::new() }
    }

    /// The status of the kind.
    pub(super) fn kind_status(&self) -> &KindStatus {
        self.status.kind(self.kind)
    }

    /// A list begins. What is known stays until [`Applier::list_complete`].
    pub(super) fn list_begins(&mut self) {
        self.sink.apply(Event::Init(self.kind));
    }

    /// The list is complete: what it did not hold is gone.
    pub(super) fn list_complete(&mut self, version: u64) {
        self.sink.apply(Event::InitDone(self.kind));
        let status = self.kind_status();
        status.note_change();
        status.note_relist();
        status.note_version(version);
        debug!(kind = self.kind.name(), objects = self.sink.count(self.kind), "listed");
        self.synced();
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.sink.apply(Event::Init(self.kind));
        self.sink.apply(Event::InitDone(self.kind));
    }

    /// What the sink knows is complete: by a list, or by a snapshot that the server continues.
    pub(super) fn synced(&mut self) {
        let (before, from_snapshot) = (self.status.is_synced(), self.status.is_snapshot_in_use());
        self.status.note_synced(self.kind);
        if before || !self.status.is_synced() {
            return;
        }
        let source = self.status.source();
        let services = self.sink.count(Kind::Service);
        if from_snapshot {
            info!(
                source,
                services,
                "everything is known from the API server; the snapshot of the last run is no longer in use"
            );
        } else {
            info!(source, services, "everything is known from the API server");
        }
    }

    /// Takes an object of a list.
    pub(super) fn listed(&mut self, item: Item) {
        match item.decoded {
            Decoded::Object(object) if self.exposes(&object) => {
                self.sink.apply(Event::Apply(object));
            }
            Decoded::Object(_) | Decoded::Ignored => {}
            Decoded::Invalid(invalid) => self.skip(item.id, &invalid),
        }
    }

    /// Takes an event of a watch.
    pub(super) fn changed(&mut self, event: EventType, item: Item) {
        if event == EventType::Bookmark {
            return;
        }
        self.kind_status().note_change();
        match (event, item.decoded) {
            (EventType::Deleted, _) => self.delete(item.id),
            (_, Decoded::Object(object)) if self.exposes(&object) => {
                let triggered_at = match &object {
                    Object::EndpointSlice(slice) if item.headless => slice.triggered_at,
                    _ => None,
                };
                self.sink.apply(Event::Apply(object));
                if let Some(at) = triggered_at {
                    self.observe(at);
                }
            }
            (_, Decoded::Object(_)) => {}
            // It may have been in order before: as it is now it has no name, and a fresh list would not have it either.
            (_, Decoded::Ignored) => self.delete(item.id),
            (_, Decoded::Invalid(invalid)) => {
                self.delete(item.id.clone());
                self.skip(item.id, &invalid);
            }
        }
    }

    /// An object was too long to be looked at.
    pub(super) fn too_long(&mut self) {
        self.kind_status().note_skipped();
        warn!(
            kind = self.kind.name(),
            "skipped an object of more than {} MiB",
            super::split::MAX_OBJECT >> 20
        );
    }

    fn exposes(&self, object: &Object) -> bool {
        match object {
            Object::Namespace(namespace) => self.wanted.exposes(&namespace.name),
            Object::Service(service) | Object::ServiceImport(service) => {
                self.wanted.exposes(&service.id.namespace)
            }
            Object::EndpointSlice(slice) => self.wanted.exposes(&slice.id.namespace),
            Object::Pod(pod) => self.wanted.exposes(&pod.id.namespace),
            // Clients, of whatever namespace, and this node.
            Object::NodePod(_) | Object::Node(_) => true,
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
        // The trigger's clock is another machine's: it may be ahead of this one.
        self.status.programming.observe(now.saturating_sub(Duration::from_millis(triggered_at)));
    }

    fn skip(&mut self, id: Option<ObjectId>, invalid: &InvalidObject) {
        self.kind_status().note_skipped();
        let id = id.unwrap_or_else(|| ObjectId { namespace: "".into(), name: "".into() });
        if self.named.len() < MAX_NAMED && self.named.insert(id.clone()) {
            let (namespace, name) = (&*id.namespace, &*id.name);
            warn!(
                kind = self.kind.name(),
                namespace, name, "skipped an object: {invalid}; the others are served"
            );
        }
    }
}
