//! The endpoints of a headless Service by where they are.
//!
//! Each zone's endpoints, and this node's, are a group of their own, made of the parts of the slices that lie there, and
//! prepared for answers in the same way. There are none while the index does not keep places, nor for Services with an
//! address of their own, whose traffic is kube-proxy's to lead.

use std::sync::Arc;

use super::slice::Slice;
use super::targets::Hasher;
use crate::cluster::object::Text;

/// The parts of a Service. Each has endpoints.
#[derive(Debug)]
pub struct Nearby<G> {
    zones: Vec<(Text, Arc<G>)>,
    here: Option<Arc<G>>,
}

/// A slice of this name takes the place of the one before, or that one goes.
#[derive(Clone, Copy)]
pub(super) struct Step<'s> {
    pub(super) hasher: &'s Hasher,
    pub(super) name: &'s str,
    pub(super) new: Option<&'s Slice>,
}

impl<G> Nearby<G> {
    /// The endpoints in a zone, whose name is lower-case; `None` if there are none.
    pub fn zone(&self, is: impl Fn(&str) -> bool) -> Option<&Arc<G>> {
        self.zones.iter().find(|(zone, _)| is(zone)).map(|(_, group)| group)
    }

    /// The endpoints on this node; `None` if there are none.
    pub fn here(&self) -> Option<&Arc<G>> {
        self.here.as_ref()
    }

    /// The parts once a slice has changed. `change` puts the part of the slice into a part of the Service. `None`: there are no
    /// parts.
    pub(super) fn after(
        before: Option<&Self>,
        step: Step<'_>,
        change: impl Fn(Option<&Arc<G>>, Option<Slice>) -> Option<Arc<G>>,
    ) -> Option<Box<Self>> {
        let known = before.map_or(&[][..], |nearby| &nearby.zones);
        let come = step.new.map_or(&[][..], |slice| slice.places.zones());
        let is_new = |zone: &&Text| !known.iter().any(|(other, _)| other == *zone);
        let all = known.iter().map(|(zone, group)| (zone, Some(group)));
        let all = all.chain(come.iter().filter(is_new).map(|zone| (zone, None)));
        let zones = all.filter_map(|(zone, group)| {
            let part = step.new.and_then(|slice| slice.part(|place| place.zone == Some(zone)));
            Some((zone.clone(), change(group, part)?))
        });
        let zones: Vec<_> = zones.collect();
        let here = step.new.and_then(|slice| slice.part(|place| place.here));
        let here = change(before.and_then(Self::here), here);
        let is_any = !zones.is_empty() || here.is_some();
        is_any.then(|| Box::new(Self { zones, here }))
    }
}
