//! The objects and their history: what etcd and the watch cache are to a real server.
//!
//! One revision counter runs over all resources, as in etcd. An object is serialised when it is stored; lists, pages
//! and watches hand out the same buffer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::protobuf;
use super::resource::{RESOURCES, Resource};
use super::select::Selector;

/// How many consistent snapshots are kept for clients that read lists in pages.
const SNAPSHOTS: usize = 16;

/// One stored object.
#[derive(Debug)]
pub struct Object {
    key: Key,
    revision: u64,
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(&'static str, Box<str>)]>,
    json: Bytes,
    metadata_only: OnceLock<Bytes>,
    protobuf: OnceLock<Bytes>,
}

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    namespace: Box<str>,
    name: Box<str>,
}

/// What happened to an object.
#[derive(Debug, Clone)]
pub struct Event {
    /// The revision that the change made.
    pub revision: u64,
    /// The object after the change; for a deletion, as it was, with the revision of the deletion.
    pub object: Arc<Object>,
    /// The object before the change.
    pub previous: Option<Arc<Object>>,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// A consistent view of one resource.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The revision at which the view was taken.
    pub revision: u64,
    /// All objects in the order of namespace and name.
    pub objects: Arc<Vec<Arc<Object>>>,
}

/// Events since a revision, or the news that they are gone.
#[derive(Debug)]
pub enum Since {
    /// Events in order, and the store's revision when they were read.
    Events(Vec<Event>, u64),
    /// The history does not reach back that far: 410 Gone.
    Gone {
        /// The oldest revision that can still be watched from.
        oldest: u64,
    },
}

/// All objects of the server.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    revision: u64,
    kinds: Vec<Kind>,
    /// Kept for pages, by number.
    snapshots: VecDeque<(u64, Snapshot)>,
    next_snapshot: u64,
    history: usize,
    /// The state that was marked.
    marked: Option<State>,
    /// The state at which the watch cache stands still, if it does.
    lagging: Option<State>,
}

/// A past state: its revision, and the objects of each resource.
type State = (u64, Vec<Snapshot>);

#[derive(Debug, Default)]
struct Kind {
    objects: BTreeMap<Key, Arc<Object>>,
    events: VecDeque<Event>,
    /// Watches from before this revision get 410.
    floor: u64,
}

impl Object {
    /// Serialises `value` at `revision`, completing `metadata` as a server does.
    #[must_use]
    pub fn new(resource: &Resource, mut value: Value, revision: u64) -> Self {
        if let Some(map) = value.as_object_mut() {
            // Built-in types carry these two in watches and gets only; there they are written in front.
            map.remove("kind");
            map.remove("apiVersion");
            let metadata = map.entry("metadata").or_insert_with(|| json!({}));
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.insert("resourceVersion".into(), json!(revision.to_string()));
                metadata
                    .entry("uid")
                    .or_insert_with(|| json!(format!("00000000-0000-4000-8000-{revision:012x}")));
                metadata.entry("creationTimestamp").or_insert(json!("2026-01-01T00:00:00Z"));
            }
        }
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object).map_or_else(
            Box::default,
            |labels| {
                labels
                    .iter()
                    .filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into())))
                    .collect()
            },
        );
        let fields = resource
            .fields
            .iter()
            .filter_map(|(field, pointer)| Some((*field, text(pointer)?.into())))
            .collect();
        Self {
            key: Key {
                namespace: text("/metadata/namespace").unwrap_or("").into(),
                name: text("/metadata/name").unwrap_or("").into(),
            },
            revision,
            labels,
            fields,
            json: Bytes::from(value.to_string()),
            metadata_only: OnceLock::new(),
            protobuf: OnceLock::new(),
        }
    }

    /// An object whose text is used as it is, whatever it says.
    #[must_use]
    pub fn raw(
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
        json: Bytes,
        revision: u64,
    ) -> Self {
        Self {
            key: Key { namespace: namespace.into(), name: name.into() },
            revision,
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            fields: Box::default(),
            json,
            metadata_only: OnceLock::new(),
            protobuf: OnceLock::new(),
        }
    }

    /// Its namespace; empty for cluster-scoped objects.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// The revision of its last change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| **k == *key).map(|(_, v)| &**v)
    }

    /// The value of a field that selectors may name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => self.fields.iter().find(|(k, _)| *k == name).map(|(_, v)| &**v),
        }
    }

    /// The object as stored, without `kind` and `apiVersion`.
    #[must_use]
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// Only `metadata`, as a client of the metadata API asks for it.
    #[must_use]
    pub fn metadata_only(&self) -> &Bytes {
        self.metadata_only.get_or_init(|| {
            let value: Value = serde_json::from_slice(&self.json).unwrap_or_default();
            Bytes::from(json!({"metadata": value.get("metadata")}).to_string())
        })
    }

    /// The object in protobuf, without an envelope.
    #[must_use]
    pub fn protobuf(&self, resource: &Resource) -> &Bytes {
        self.protobuf.get_or_init(|| Bytes::from(protobuf::object(resource, &self.json)))
    }

    /// The object parsed again; `Null` if its text is not JSON.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }
}

impl Store {
    pub(crate) fn new(history: usize) -> Self {
        let inner = Inner {
            // Like a server that has lived: a client that takes 0 for a revision fails here as it would there.
            revision: 1000,
            kinds: RESOURCES.iter().map(|_| Kind { floor: 1000, ..Kind::default() }).collect(),
            snapshots: VecDeque::new(),
            next_snapshot: 0,
            history,
            marked: None,
            lagging: None,
        };
        Self { inner: Mutex::new(inner), changed: watch::Sender::new(1000) }
    }

    /// Creates or replaces an object, by its `apiVersion`, `kind`, namespace and name; returns the new revision.
    ///
    /// # Panics
    /// When the kind is none that the server knows.
    pub fn put(&self, value: Value) -> u64 {
        let Some(resource) = Resource::of(&value) else {
            panic!("not a kind of this server: {} {}", value["apiVersion"], value["kind"]);
        };
        self.write(resource, |revision| Object::new(resource, value, revision))
    }

    /// Stores any text as an object, also what is no valid object, or not JSON at all.
    pub fn put_raw(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        json: impl Into<Bytes>,
    ) -> u64 {
        let json = json.into();
        self.write(resource, |revision| Object::raw(namespace, name, &[], json, revision))
    }

    /// Deletes an object; false if there was none.
    pub fn delete(&self, resource: &'static Resource, namespace: &str, name: &str) -> bool {
        let mut inner = self.lock();
        let key = Key { namespace: namespace.into(), name: name.into() };
        let Some(previous) = inner.kinds[resource.index()].objects.remove(&key) else {
            return false;
        };
        inner.revision += 1;
        let revision = inner.revision;
        let value = previous.value();
        let object = Arc::new(if value.is_object() {
            Object::new(resource, value, revision)
        } else {
            Object::raw(namespace, name, &[], previous.json.clone(), revision)
        });
        inner.record(resource, Event { revision, object, previous: Some(previous), deleted: true });
        drop(inner);
        self.changed.send_replace(revision);
        true
    }

    /// Stores every object of a `v1/List`, of a typed list, of an array, or a single object. Events are made.
    ///
    /// # Panics
    /// When an object's kind is none that the server knows.
    pub fn load(&self, list: Value) {
        match list {
            Value::Array(items) => items.into_iter().for_each(|item| self.load(item)),
            Value::Object(ref map) if map.contains_key("items") => {
                let api_version = list["apiVersion"].clone();
                let kind = list["kind"].as_str().unwrap_or("").trim_end_matches("List").to_owned();
                for mut item in list["items"].as_array().cloned().unwrap_or_default() {
                    if let Some(item) = item.as_object_mut().filter(|_| !kind.is_empty()) {
                        item.entry("apiVersion").or_insert_with(|| api_version.clone());
                        item.entry("kind").or_insert_with(|| json!(kind));
                    }
                    self.put(item);
                }
            }
            Value::Null => {}
            object => {
                self.put(object);
            }
        }
    }

    /// Stores many objects without history: watches from before get 410, as after a restart of the server.
    pub fn bulk(
        &self,
        resource: &'static Resource,
        make: impl IntoIterator<Item = impl FnOnce(u64) -> Object>,
    ) {
        let mut inner = self.lock();
        for make in make {
            inner.revision += 1;
            let object = make(inner.revision);
            inner.kinds[resource.index()].objects.insert(object.key.clone(), Arc::new(object));
        }
        let revision = inner.revision;
        let kind = &mut inner.kinds[resource.index()];
        kind.events.clear();
        kind.floor = revision;
        drop(inner);
        self.changed.send_replace(revision);
    }

    /// Forgets history and pages: whoever watches from an old revision or reads an old page gets 410.
    pub fn compact(&self) {
        let mut inner = self.lock();
        inner.snapshots.clear();
        let revision = inner.revision;
        for kind in &mut inner.kinds {
            kind.events.clear();
            kind.floor = revision;
        }
    }

    /// Takes the revision back by so much and forgets the history, as a restore of etcd from a backup does.
    pub fn rewind(&self, by: u64) {
        self.compact();
        let mut inner = self.lock();
        inner.revision = inner.revision.saturating_sub(by);
        let revision = inner.revision;
        for kind in &mut inner.kinds {
            kind.floor = revision;
        }
    }

    /// Changes how many events per resource are remembered.
    pub fn set_history(&self, events: usize) {
        self.lock().history = events;
    }

    /// The current revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// One object.
    #[must_use]
    pub fn object(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let key = Key { namespace: namespace.into(), name: name.into() };
        self.lock().kinds[resource.index()].objects.get(&key).cloned()
    }

    /// How many objects of this resource there are.
    #[must_use]
    pub fn count(&self, resource: &Resource) -> usize {
        self.lock().kinds[resource.index()].objects.len()
    }

    /// All objects of a resource as values, for tests that compare.
    #[must_use]
    pub fn values(&self, resource: &Resource) -> Vec<Value> {
        let all = Selector::default();
        self.snapshot(resource, &all).objects.iter().map(|o| o.value()).collect()
    }

    pub(crate) fn snapshot(&self, resource: &Resource, selector: &Selector) -> Snapshot {
        let inner = self.lock();
        let objects = inner.kinds[resource.index()].objects.values();
        let objects = Arc::new(objects.filter(|o| selector.matches(o)).cloned().collect());
        Snapshot { revision: inner.revision, objects }
    }

    /// What the watch cache holds: the latest, or an older state while it lags.
    pub(crate) fn cached(&self, resource: &Resource, selector: &Selector) -> Snapshot {
        let lagging = {
            let inner = self.lock();
            inner.lagging.as_ref().and_then(|(_, all)| all.get(resource.index()).cloned())
        };
        let Some(old) = lagging else { return self.snapshot(resource, selector) };
        let objects = old.objects.iter().filter(|o| selector.matches(o)).cloned().collect();
        Snapshot { revision: old.revision, objects: Arc::new(objects) }
    }

    /// Marks the present state, for [`Store::lag`].
    pub fn mark(&self) {
        let all = Selector::default();
        let snapshots = RESOURCES.iter().map(|r| self.snapshot(r, &all)).collect();
        let state = (self.revision(), snapshots);
        self.lock().marked = Some(state);
    }

    /// Lets the watch cache stand still at the marked state, as that of an API server that lags behind its peers; or lets it
    /// catch up.
    pub fn lag(&self, lag: bool) {
        let mut inner = self.lock();
        inner.lagging = inner.marked.clone().filter(|_| lag);
        let revision = inner.revision;
        drop(inner);
        self.changed.send_replace(revision);
    }

    /// Keeps a snapshot for the pages that will be read from it; returns its number.
    pub(crate) fn keep(&self, snapshot: &Snapshot) -> u64 {
        let mut inner = self.lock();
        if inner.snapshots.len() == SNAPSHOTS {
            inner.snapshots.pop_front();
        }
        inner.next_snapshot += 1;
        let number = inner.next_snapshot;
        inner.snapshots.push_back((number, snapshot.clone()));
        number
    }

    /// The snapshot that a page token was made from, unless it has been dropped.
    pub(crate) fn kept(&self, number: u64) -> Option<Snapshot> {
        let inner = self.lock();
        inner.snapshots.iter().find(|(n, _)| *n == number).map(|(_, snapshot)| snapshot.clone())
    }

    /// The changes after `revision`.
    pub(crate) fn since(&self, resource: &Resource, revision: u64) -> Since {
        let inner = self.lock();
        let kind = &inner.kinds[resource.index()];
        if revision < kind.floor {
            return Since::Gone { oldest: kind.floor };
        }
        let first = kind.events.partition_point(|e| e.revision <= revision);
        let now = inner.lagging.as_ref().map_or(inner.revision, |(at, _)| *at);
        let last = kind.events.partition_point(|e| e.revision <= now).max(first);
        Since::Events(kind.events.range(first..last).cloned().collect(), now.max(revision))
    }

    /// Tells of every new revision.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Creates or replaces an object that the caller makes for the new revision.
    pub fn replace(&self, resource: &'static Resource, make: impl FnOnce(u64) -> Object) -> u64 {
        self.write(resource, make)
    }

    fn write(&self, resource: &'static Resource, make: impl FnOnce(u64) -> Object) -> u64 {
        let mut inner = self.lock();
        inner.revision += 1;
        let revision = inner.revision;
        let object = Arc::new(make(revision));
        let previous =
            inner.kinds[resource.index()].objects.insert(object.key.clone(), object.clone());
        inner.record(resource, Event { revision, object, previous, deleted: false });
        drop(inner);
        self.changed.send_replace(revision);
        revision
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn record(&mut self, resource: &Resource, event: Event) {
        let history = self.history;
        let kind = &mut self.kinds[resource.index()];
        kind.events.push_back(event);
        while kind.events.len() > history {
            if let Some(dropped) = kind.events.pop_front() {
                kind.floor = dropped.revision;
            }
        }
    }
}
