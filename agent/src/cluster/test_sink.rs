//! A sink for tests: a plain map.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::Sink;
use super::object::{Event, Kind, Object, ObjectId};

/// Keeps what it is told.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<State>);

#[derive(Default)]
struct State {
    objects: BTreeMap<(Kind, ObjectId), Object>,
    listing: BTreeMap<Kind, Vec<ObjectId>>,
}

impl Recorder {
    /// `Kind namespace/name` of everything, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let mut names: Vec<_> = state
            .objects
            .keys()
            .map(|(kind, id)| format!("{} {}/{}", kind.name(), id.namespace, id.name))
            .collect();
        names.sort();
        names
    }

    /// Everything.
    pub(crate) fn objects(&self) -> Vec<Object> {
        self.0.lock().unwrap().objects.values().cloned().collect()
    }
}

impl Sink for Recorder {
    fn apply(&self, event: Event) {
        let mut state = self.0.lock().unwrap();
        match event {
            Event::Apply(object) => {
                let (kind, id) = (object.kind(), object.id());
                if let Some(listing) = state.listing.get_mut(&kind) {
                    listing.push(id.clone());
                }
                state.objects.insert((kind, id), object);
            }
            Event::Delete(kind, id) => drop(state.objects.remove(&(kind, id))),
            Event::Init(kind) => drop(state.listing.insert(kind, Vec::new())),
            Event::InitDone(kind) => {
                let listed = state.listing.remove(&kind).expect("a list that ends has begun");
                state.objects.retain(|(of, id), _| *of != kind || listed.contains(id));
            }
        }
    }

    fn count(&self, kind: Kind) -> usize {
        self.0.lock().unwrap().objects.keys().filter(|(of, _)| *of == kind).count()
    }

    fn walk(&self, visit: &mut dyn FnMut(Object)) {
        self.objects().into_iter().for_each(visit);
    }
}
