//! Endpoints that are near: `zonal`, names in which a client says which zone it wants, and `topology`, which leads the clients
//! of this node to its own zone without being asked. Headless Services only: kube-proxy leads the traffic of the others.

use smallvec::SmallVec;

use super::ask::Ask;
use super::ports::{Ports, asked_port};
use super::{Config, Kubernetes, Verdict};
use crate::chain::Local;
use crate::cluster::Endpoints;
use crate::cluster::index::group::{Group, Kind, Service};
use crate::cluster::object::Distribution;
use crate::config::{Args, ValueError};
use crate::trace::Notes;
use crate::wire::name::Labels;
use crate::wire::{RecordType, Reply};

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

impl Topology {
    /// Where traffic to a Service is led that asks for `distribution`.
    fn of(self, distribution: Distribution) -> Distribution {
        match distribution {
            Distribution::All if self.all => Distribution::SameZone,
            of => of,
        }
    }
}

/// Whether some endpoint has one of `ports`, and an address of the family that is asked for.
fn has(group: &Group, ports: Ports<'_>, qtype: RecordType) -> bool {
    let families = [(RecordType::A, false), (RecordType::AAAA, true)];
    let family = families.into_iter().find(|(of, _)| *of == qtype).map(|(_, is_v6)| is_v6);
    let has_family = match family {
        Some(false) => !group.a.is_empty(),
        Some(true) => !group.aaaa.is_empty(),
        None => true,
    };
    let Some(targets) = group.targets() else {
        return has_family && group.plain_ports().is_some_and(|list| ports.are_in(list));
    };
    if targets.lists().is_empty() {
        return has_family && targets.ports().iter().any(|(list, _)| ports.are_in(list));
    }
    targets.lists().iter().any(|list| {
        let has_family = family.is_none_or(|is_v6| list.has_family(is_v6));
        has_family && ports.are_in(&list.ports)
    })
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
    /// The endpoints of a headless Service for the clients of this node. Near are only those that have what is asked for: one
    /// of `ports`, and an address of the family if addresses are asked for. So a client is led to none where others have it.
    pub(super) fn chosen<'g>(
        &self,
        group: &'g Group,
        service: &Service,
        ports: Ports<'_>,
        qtype: RecordType,
    ) -> Chosen<'g> {
        let everything = Chosen { group, first: None };
        let Some(topology) = self.view.topology else { return everything };
        let of = topology.of(service.distribution);
        let near = self.index.nearest(group, of).find(|near| has(near, ports, qtype));
        match near {
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
        let zone = zone_name(ask.before(5));
        let zone = zone.as_deref().and_then(|name| str::from_utf8(name).ok());
        let part = group.nearby().zip(zone).and_then(|(nearby, zone)| nearby.zone(zone));
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
            let part =
                group.nearby().and_then(|nearby| nearby.zone(&zone)).map(|part| part.ready());
            let prefers = Directive::read(ask.above_zone(4)) == Some(Directive::Prefer);
            notes.describe(match part {
                Some(part) => format!("{part} of its {all} ready endpoints are in zone `{zone}`"),
                None => {
                    let zones = group.nearby().into_iter().flat_map(|nearby| nearby.zones());
                    let zones = zones.map(|zone| format!("`{zone}`")).collect::<Vec<_>>();
                    let some = if zones.is_empty() { "none".to_owned() } else { zones.join(", ") };
                    let so = if prefers { "; so all of them answer" } else { "" };
                    format!("none of its {all} ready endpoints is in zone `{zone}`{so}; they are in {some}")
                }
            });
        } else if let Some(topology) = self.view.topology
            && matches!(ask.count(), 3 | 5)
        {
            let ports = if ask.count() == 3 { Some(Ports::All) } else { asked_port(ask) };
            let Some(ports) = ports else { return };
            notes.describe(self.led(topology, group, service, ports, ask.qtype));
        }
    }

    /// Which endpoints `topology` chooses, and why.
    fn led(
        &self,
        topology: Topology,
        group: &Group,
        service: &Service,
        ports: Ports<'_>,
        qtype: RecordType,
    ) -> String {
        let all = group.ready();
        let mode = if topology.only { "`topology require`" } else { "`topology prefer`" };
        let asks = match (service.distribution, topology.of(service.distribution)) {
            (_, Distribution::All) => {
                return format!("{mode} leaves it alone: it has no trafficDistribution");
            }
            (Distribution::All, _) => "`all` in topology, for it has no trafficDistribution",
            (Distribution::SameNode, _) => "its trafficDistribution, PreferSameNode",
            (Distribution::SameZone, _) => "its trafficDistribution, PreferSameZone",
        };
        let zone = self.index.zone();
        let zone = zone.as_deref().map_or_else(
            || "whose zone is not known".to_owned(),
            |zone| format!("which is in zone `{zone}`"),
        );
        let chosen = self.chosen(group, service, ports, qtype);
        let near = if topology.only { chosen.group } else { chosen.first.unwrap_or(group) };
        if std::ptr::eq(near, group) {
            let one =
                if self.index.nearest(group, topology.of(service.distribution)).next().is_some() {
                    "none that has this is near the node"
                } else {
                    "none is near the node"
                };
            return format!(
                "all of its {all} ready endpoints answer, by {mode} and {asks}: {one}, {zone}"
            );
        }
        let is_here = group.nearby().and_then(|nearby| nearby.here());
        let is_here = is_here.is_some_and(|here| std::ptr::eq(&raw const **here, near));
        let place = if is_here { "on this node" } else { "in the zone of this node" };
        let what = if topology.only { "answer" } else { "come first" };
        let near = near.ready();
        format!(
            "{near} of its {all} ready endpoints {what}, those {place}, {zone}; by {mode} and {asks}"
        )
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

/// The zone that labels, in wire form, name, whose dots part them; `None` if that cannot be one.
fn zone_name(labels: &[u8]) -> Option<SmallVec<[u8; MAX_ZONE]>> {
    let mut name = SmallVec::new();
    for label in Labels::of_prefix(labels) {
        if name.len() + 1 + label.len() > MAX_ZONE || label.contains(&b'.') {
            return None;
        }
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend_from_slice(label);
    }
    Some(name)
}

/// Octets of the name of a zone, which is the value of a label.
const MAX_ZONE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_may_have_several_labels() {
        let name = |labels: &[u8]| {
            zone_name(labels).map(|name| String::from_utf8_lossy(&name).into_owned())
        };
        assert_eq!(name(b"\x05eu-1a").as_deref(), Some("eu-1a"));
        assert_eq!(name(b"\x01a\x01b").as_deref(), Some("a.b"));
        assert_eq!(name(b"\x03a.b"), None);
        let long = [&[63][..], &[b'a'; 63], &[1, b'b']].concat();
        assert_eq!(name(&long), None);
        assert_eq!(name(&long[..64]).map(|name| name.len()), Some(63));
    }
}
