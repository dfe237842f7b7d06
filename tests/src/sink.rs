//! A sink for the cluster's sources: a plain map of objects, which remembers if anything was ever missing from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nodens::cluster::decode::{Decoded, Encoding};
use nodens::cluster::object::{Event, Kind, Object, ObjectId};
use nodens::cluster::{Interner, Sink};

use crate::api::{ApiServer, Resource};

/// Who an object is.
pub type Id = (Kind, ObjectId);

/// Keeps the objects that it receives.
#[derive(Debug, Default)]
pub struct MapSink(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Id, Object>,
    listing: BTreeMap<Kind, BTreeSet<ObjectId>>,
    guarded: BTreeSet<Id>,
    lost: BTreeSet<Id>,
}

impl MapSink {
    /// Everything that is known.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<Id, Object> {
        self.lock().objects.clone()
    }

    /// True if an object of that name is known.
    #[must_use]
    pub fn has(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        let id = ObjectId { namespace: namespace.into(), name: name.into() };
        self.lock().objects.contains_key(&(kind, id))
    }

    /// From now on, [`MapSink::lost`] names every object of today that was missing for a moment.
    pub fn guard(&self) {
        let mut state = self.lock();
        state.guarded = state.objects.keys().cloned().collect();
        state.lost.clear();
    }

    /// Guarded objects that were taken away since.
    #[must_use]
    pub fn lost(&self) -> Vec<Id> {
        self.lock().lost.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for MapSink {
    fn apply(&self, event: Event) {
        let mut state = self.lock();
        let state = &mut *state;
        let mut gone = Vec::new();
        match event {
            Event::Apply(object) => {
                let object = lasting(object);
                if let Some(listing) = state.listing.get_mut(&object.kind()) {
                    listing.insert(object.id());
                }
                state.objects.insert((object.kind(), object.id()), object);
            }
            Event::Delete(kind, id) => gone.push((kind, id)),
            Event::Init(kind) => drop(state.listing.insert(kind, BTreeSet::new())),
            Event::InitDone(kind) => {
                let listed = state.listing.remove(&kind).unwrap_or_default();
                let old =
                    state.objects.keys().filter(|(of, id)| *of == kind && !listed.contains(id));
                gone.extend(old.cloned());
            }
        }
        for id in gone {
            if state.objects.remove(&id).is_some() && state.guarded.contains(&id) {
                state.lost.insert(id);
            }
        }
    }

    fn count(&self, kind: Kind) -> usize {
        self.lock().objects.keys().filter(|(of, _)| *of == kind).count()
    }

    fn walk(&self, visit: &mut dyn FnMut(Object)) {
        self.objects().into_values().for_each(visit);
    }
}

/// An object without what is of its event only: what a snapshot does not keep.
fn lasting(object: Object) -> Object {
    let mut object = object.of_version(0);
    if let Object::EndpointSlice(slice) = &mut object {
        slice.triggered_at = None;
    }
    object
}

/// What a sink should know of `kinds` when it is level with the server.
#[must_use]
pub fn objects_of(server: &ApiServer, kinds: &[Kind]) -> BTreeMap<Id, Object> {
    // The stores of tests keep the names of Pods, and not where endpoints are.
    let interner = Interner::new(true, false);
    let mut objects = BTreeMap::new();
    for &kind in kinds {
        let plural = match kind {
            Kind::Service => "services",
            Kind::EndpointSlice | Kind::ImportedSlice => "endpointslices",
            Kind::Namespace => "namespaces",
            Kind::Pod | Kind::NodePod => "pods",
            Kind::ServiceImport => "serviceimports",
            Kind::Node => "nodes",
        };
        for value in server.store().values(Resource::named(plural)) {
            let json = value.to_string();
            let item = Encoding::Json.object(kind, json.as_bytes(), &interner);
            if let Decoded::Object(object) = item.decoded {
                let object = lasting(object);
                objects.insert((object.kind(), object.id()), object);
            }
        }
    }
    objects
}
