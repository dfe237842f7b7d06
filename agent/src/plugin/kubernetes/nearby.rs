//! Endpoints that are near: `zonal`, names in which a client says which zone it wants, and `topology`, which leads the clients
//! of this node to its own zone without being asked. Headless Services only: kube-proxy leads the traffic of the others.

use super::ask::Ask;
use super::{Config, Kubernetes, Verdict};
use crate::chain::Local;
use crate::cluster::Endpoints;
use crate::cluster::index::group::{Group, Kind, Service};
use crate::cluster::object::Distribution;
use crate::config::{Args, ValueError};
use crate::trace::Notes;
use crate::wire::Reply;
use crate::wire::name::Labels;

/// `topology`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// `require`: the near endpoints are the answer; else (`prefer`) they come first.
    pub only: bool,
    /// `all`: Services without a `trafficDistribution` too, as if it were PreferSameZone.
    pub all: bool,
}

/// The endpoints that answer.
#[derive(Clone, Copy)]
pub(super) struct Chosen<'g> {
    /// All that are in the answer.
    pub(super) group: &'g Group,
    /// Those of them that come first, if any do.
    pub(super) first: Option<&'g Group>,
}

/// What stands before `_zone` in a zonal name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Directive {
    /// Endpoints of the zone, or none.
    Pin,
    /// Endpoints of the zone, or all.
    Prefer,
}

const ZONE_LABEL: &[u8] = b"_zone";

impl Directive {
    fn read(label: &[u8]) -> Option<Self> {
        match label {
            b"pin" => Some(Self::Pin),
            b"prefer" => Some(Self::Prefer),
            _ => None,
        }
    }
}

impl Config {
    /// Reads `topology prefer|require [all]`.
    pub(super) fn topology(&mut self, args: &mut Args<'_, '_>) {
        let only = args.value("prefer or require", |text| match text {
            "prefer" => Ok(false),
            "require" => Ok(true),
            _ => Err(ValueError::new(format!("{text:?} is no mode"), "prefer or require")),
        });
        let all = args.optional(|text| match text {
            "all" => Ok(()),
            _ => Err(ValueError::new(format!("{text:?} is not known here"), "all, or nothing")),
        });
        self.view.topology = only.map(|only| Topology { only, all: all.is_some() });
    }

    /// What `zonal` and `topology` need.
    pub(super) fn check_nearby(&mut self, args: &mut Args<'_, '_>) {
        self.spec.wanted.zones = self.view.zonal;
        if self.view.topology.is_some() {
            self.spec.wanted.topology = self.own_node();
            if self.spec.wanted.topology.is_none() {
                args.error(
                    "topology: the name of this node is not known",
                    "NODE_NAME in the environment, or pods node NAME",
                );
            }
        }
        if self.spec.wanted.endpoints == Endpoints::None
            && (self.view.zonal || self.view.topology.is_some())
        {
            args.error(
                "zonal and topology choose among endpoints, and none are watched",
                "endpoints headless, or all",
            );
        }
    }
}

impl Kubernetes {
    /// The endpoints of a headless Service for the clients of this node.
    pub(super) fn chosen<'g>(&self, group: &'g Group, service: &Service) -> Chosen<'g> {
        let everything = Chosen { group, first: None };
        let Some(topology) = self.view.topology else { return everything };
        let of = match service.distribution {
            Distribution::All if topology.all => Distribution::SameZone,
            of => of,
        };
        match self.index.nearest(group, of) {
            Some(near) if topology.only => Chosen { group: near, first: None },
            near => Chosen { group, first: near },
        }
    }

    /// Whether names like this one are zonal: `ZONE.pin._zone.SERVICE.NAMESPACE.svc`. A zone may have several labels.
    pub(super) fn is_zonal(&self, ask: &Ask<'_>, imported: bool) -> bool {
        self.view.zonal
            && !imported
            && ask.count() >= 6
            && ask.above_zone(3) == ZONE_LABEL
            && Directive::read(ask.above_zone(4)).is_some()
    }

    /// A zonal name. Any zone has one, whether endpoints are in it or not.
    pub(super) fn zonal(
        &self,
        ask: &Ask<'_>,
        group: &Group,
        service: &Service,
        reply: &mut Reply<'_>,
        local: &mut Local,
    ) -> Verdict {
        if service.kind != Kind::Headless {
            return Verdict::NoName;
        }
        if !self.endpoints_are_listed(false) {
            return Verdict::NotYet;
        }
        let zone = ask.before(5);
        let part = group.nearby().and_then(|nearby| nearby.zone(|other| is_zone(other, zone)));
        let chosen = match part {
            Some(part) => part,
            None if Directive::read(ask.above_zone(4)) == Some(Directive::Prefer) => group,
            None => return Verdict::NoData,
        };
        self.headless(ask, Chosen { group: chosen, first: None }, reply, local)
    }

    /// Notes which endpoints of a headless Service answer, and why.
    pub(super) fn on_nearby(
        &self,
        ask: &Ask<'_>,
        group: &Group,
        service: &Service,
        notes: &mut Notes,
    ) {
        if service.kind != Kind::Headless {
            return;
        }
        let all = group.ready();
        if self.is_zonal(ask, group.key.imported) {
            let labels = Labels::of_prefix(ask.before(5)).map(String::from_utf8_lossy);
            let zone = labels.collect::<Vec<_>>().join(".");
            let part = group.nearby().and_then(|nearby| nearby.zone(|other| other == zone));
            let part = part.map_or(0, |part| part.ready());
            notes.describe(format!("{part} of its {all} ready endpoints are in zone `{zone}`"));
        } else if let Some(topology) = self.view.topology
            && matches!(ask.count(), 3 | 5)
        {
            let Chosen { group: chosen, first } = self.chosen(group, service);
            let near = first.unwrap_or(chosen).ready();
            let zone = self.index.zone();
            let zone = zone
                .as_deref()
                .map_or("of an unknown zone".to_owned(), |zone| format!("in zone `{zone}`"));
            notes.describe(match (service.distribution, topology) {
                (Distribution::All, Topology { all: false, .. }) => "`topology` leaves it alone: it has no trafficDistribution".to_owned(),
                _ if first.is_none() && std::ptr::eq(chosen, group) => {
                    format!("all of its endpoints answer: none is near this node, which is {zone}")
                }
                (_, Topology { only: true, .. }) => format!("{near} of its {all} ready endpoints answer, which are near this node, {zone}"),
                _ => format!("{near} of its {all} ready endpoints come first, which are near this node, {zone}"),
            });
        }
    }

    /// Whether a name stands between a Service and its zonal names: it has no record, and yet it exists (RFC 8020).
    pub(super) fn is_above_zonal(&self, ask: &Ask<'_>, imported: bool) -> bool {
        self.view.zonal
            && !imported
            && match ask.count() {
                4 => ask.label(0) == ZONE_LABEL,
                5 => ask.label(1) == ZONE_LABEL && Directive::read(ask.label(0)).is_some(),
                _ => false,
            }
    }
}

/// Whether the labels, in wire form, are the zone's name, whose dots part them.
fn is_zone(zone: &str, labels: &[u8]) -> bool {
    zone.split('.').map(str::as_bytes).eq(Labels::of_prefix(labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_may_have_several_labels() {
        assert!(is_zone("eu-1a", b"\x05eu-1a") && is_zone("a.b", b"\x01a\x01b"));
        for labels in [&b"\x03a.b"[..], b"\x01a", b"\x01a\x01b\x01c", b""] {
            assert!(!is_zone("a.b", labels));
        }
    }
}
