//! The endpoints of a headless Service by where they are.
//!
//! Each zone's endpoints, and this node's, are a group of their own, made of the parts of the slices that lie there, and
//! prepared for answers in the same way. There are none while the index does not keep places, nor for Services with an
//! address of their own, whose traffic is kube-proxy's to lead.

use std::sync::Arc;

use super::slice::{MAX_ZONES, Slice};
use super::targets::Hasher;
use crate::cluster::object::Text;

/// The parts of a Service. Each has endpoints.
#[derive(Debug)]
pub struct Nearby<G> {
    // By name, at most MAX_ZONES.
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
    pub fn zone(&self, name: &str) -> Option<&Arc<G>> {
        let at = self.zones.binary_search_by(|(zone, _)| (**zone).cmp(name)).ok()?;
        self.zones.get(at).map(|(_, group)| group)
    }

    /// The names of the zones, in order.
    pub fn zones(&self) -> impl Iterator<Item = &str> {
        self.zones.iter().map(|(zone, _)| &**zone)
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
        let part_of = |zone: &Text| {
            let slice = step.new.filter(|_| come.contains(zone))?;
            slice.part(|place| place.zone == Some(zone))
        };
        let mut zones: Vec<_> = known
            .iter()
            .filter_map(|(zone, group)| Some((zone.clone(), change(Some(group), part_of(zone))?)))
            .collect();
        // What is in a zone already keeps its place.
        for zone in come {
            if zones.len() < MAX_ZONES
                && !known.iter().any(|(other, _)| other == zone)
                && let Some(group) = change(None, part_of(zone))
            {
                zones.push((zone.clone(), group));
            }
        }
        zones.sort_unstable_by(|before, after| before.0.cmp(&after.0));
        let here = step.new.and_then(|slice| slice.part(|place| place.here));
        let here = change(before.and_then(Self::here), here);
        let is_any = !zones.is_empty() || here.is_some();
        is_any.then(|| Box::new(Self { zones, here }))
    }
}
